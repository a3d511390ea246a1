//! The log on Apache Kafka.
//!
//! librdkafka batches, compresses, retries and keeps order; what is added here is one shared counter per request as the
//! delivery opaque (not a future per event), a full queue that is a refusal and not a wait, and a probe that tells when
//! brokers that went away are back.
//!
//! Kafka is *away* from the first failure on (no broker answers, or a message was not acknowledged in time) until
//! something succeeds again. What was not delivered is offered to a [`Fallback`], out of the delivery report, which
//! holds key and value: no copy of a message is kept for that.
//!
//! What goes wrong is of one of three kinds. **Of a message**: the broker refuses it for what it is, larger than the topic's
//! `max.message.bytes`, or invalid. It says nothing of the others, but they may have shared its batch, which is refused
//! whole. They are offered to the fallback, whose drain tells them apart. **Of a topic or of everything**: no rights, a policy,
//! a compression that the broker does not know, a missing topic: Kafka is away, until it is not. **Of nobody**: purged.
//!
//! The limits of the topics are asked for, at the start, every half a minute, and when a message was refused. No batch is
//! made larger than they allow, and the collector refuses a row that would be. Where the brokers do not tell (it needs the
//! right to describe the topics' configuration), what was refused alone is the limit until the next start.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use millrace_schemas::topic;
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Statistics,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
    statistics::Broker,
};

use super::{Log, NotLogged, Pending, Receipt};
use crate::encode::{Message, MessageBytesMax, Topic};

/// How the producer is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// `compression.codec`.
    pub compression: String,
    /// Milliseconds a message waits for others to share its batch with.
    pub linger_ms: u32,
    /// Milliseconds until a message that no broker acknowledged is given up; librdkafka looks once a second.
    pub ack_timeout_ms: u32,
    /// Messages that may wait in memory.
    pub queue_messages_max: u32,
    /// Bytes of messages that may wait in memory.
    pub queue_bytes_max: u32,
    /// Partitions of topics that are created.
    pub partitions: i32,
    /// Replicas of topics that are created.
    pub replication_factor: i32,
}

/// What takes messages that Kafka does not. Called on the threads that bring delivery reports.
pub(crate) trait Fallback: Send + Sync {
    /// Kafka has just gone away.
    fn kafka_is_away(&self);

    /// Takes a message with its share of `pending`; false: it cannot.
    fn take(&self, topic: &str, key: &[u8], value: &[u8], pending: &Arc<Pending>) -> bool;
}

/// A producer for the collector's topics.
pub struct KafkaLog {
    settings: Settings,
    producer: ArcSwap<ThreadedProducer<Deliveries>>,
    state: Arc<State>,
    /// What the producer was made for.
    batch_bytes: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// The topics are known to exist: a topic that the brokers make by themselves would have other partitions.
    has_topics: AtomicBool,
    is_away: AtomicBool,
    /// Why it is away.
    problem: Mutex<String>,
    limits: Limits,
    fallback: Option<Arc<dyn Fallback>>,
}

/// What the topics' `max.message.bytes` allow.
#[derive(Default)]
struct Limits {
    /// By topic; 0: not known.
    bytes_max: [AtomicUsize; Topic::ALL.len()],
    /// The brokers say what they are.
    are_told: AtomicBool,
    /// Something was refused: ask soon.
    is_doubtful: AtomicBool,
    /// Grows when one is another.
    version: AtomicU64,
    asked: Mutex<Option<Instant>>,
}

impl Limits {
    fn set(&self, topic: Topic, bytes_max: usize) {
        let known = &self.bytes_max[topic as usize];
        if known.swap(bytes_max, Ordering::Relaxed) != bytes_max {
            self.version.fetch_add(1, Ordering::Release);
            tracing::info!(topic = topic.name(), bytes_max, "the topic's max.message.bytes");
        }
    }

    /// Bytes of a message with its key.
    fn of(&self, topic: Topic) -> usize {
        match self.bytes_max[topic as usize].load(Ordering::Relaxed) {
            0 => usize::MAX,
            bytes_max => bytes_max.saturating_sub(BATCH_OVERHEAD_BYTES),
        }
    }

    /// Bytes of a batch. Messages of all topics share the setting.
    fn batch_bytes(&self) -> usize {
        let least = Topic::ALL.map(|topic| self.of(topic)).into_iter().min().unwrap_or(usize::MAX);
        least.clamp(1, BATCH_BYTES)
    }

    /// Whether it is time to ask.
    fn is_due(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_doubtful.load(Ordering::Relaxed) || asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY)
    }
}

impl State {
    fn away(&self, problem: String) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        if self.is_away.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(problem = self.problem(), "Kafka is away");
        if let Some(fallback) = &self.fallback {
            fallback.kafka_is_away();
        }
    }

    fn back(&self) {
        if self.is_away.swap(false, Ordering::AcqRel) {
            tracing::info!("Kafka answers again");
        }
    }

    fn problem(&self) -> String {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Deliveries {
    state: Arc<State>,
    /// Statistics in a row that named no broker.
    brokerless: AtomicU32,
}

impl Deliveries {
    fn has_lost_brokers(&self) -> bool {
        self.brokerless.load(Ordering::Relaxed) >= BROKERLESS_MAX
    }
}

impl ClientContext for Deliveries {
    fn stats(&self, statistics: Statistics) {
        // The others stand for roles and queues within the client.
        let is_real = |broker: &Broker| matches!(broker.source.as_str(), "configured" | "learned");
        if statistics.brokers.values().any(is_real) {
            self.brokerless.store(0, Ordering::Relaxed);
        } else if self.brokerless.fetch_add(1, Ordering::Relaxed) + 1 >= BROKERLESS_MAX {
            self.state.away("the Kafka client knows no broker any more; a new one is made".to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.state.away("no Kafka broker answers".to_owned());
        }
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Self::DeliveryOpaque) {
        let Err((error, message)) = result else { return pending.settle(1, true) };
        tracing::debug!(%error, "a message was not delivered");
        let code = error.rdkafka_error_code();
        let is_refused = code.is_some_and(is_refusal);
        if is_refused {
            pending.refuse();
            self.state.limits.is_doubtful.store(true, Ordering::Relaxed);
        }
        // What was purged says nothing new of Kafka, nor does what is refused for what it is.
        let is_purged = matches!(code, Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight));
        if !is_purged && !is_refused {
            self.state.away(match code {
                Some(RDKafkaErrorCode::MessageTimedOut) => "Kafka does not acknowledge in time".to_owned(),
                _ => format!("Kafka takes no messages for {}: {error}{}", message.topic(), advice(code)),
            });
        }
        if code.is_some_and(is_missing) {
            // Somebody has deleted them: they are made again.
            self.state.has_topics.store(false, Ordering::Relaxed);
        }
        let is_taken = !pending.is_drain()
            && self.state.fallback.as_ref().is_some_and(|fallback| {
                let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
                fallback.take(message.topic(), key, value, &pending)
            });
        if !is_taken {
            pending.settle(1, false);
        }
    }
}

/// What to do about what a topic, or all of Kafka, refuses.
fn advice(code: Option<RDKafkaErrorCode>) -> &'static str {
    use RDKafkaErrorCode::{
        ClusterAuthorizationFailed, PolicyViolation, TopicAuthorizationFailed, UnsupportedCompressionType,
        UnsupportedForMessageFormat,
    };
    match code {
        Some(TopicAuthorizationFailed | ClusterAuthorizationFailed) => {
            "; allow the collector to write to it (Write, Describe, IdempotentWrite)"
        }
        Some(PolicyViolation) => "; a policy of the brokers forbids it",
        Some(UnsupportedCompressionType) => "; set MILLRACE_KAFKA_COMPRESSION to one that the brokers know",
        Some(UnsupportedForMessageFormat) => "; the brokers are too old",
        _ => "",
    }
}

/// Whether the broker refuses this very message, now and later.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{InvalidMessageSize, InvalidRecord, MessageSizeTooLarge};
    matches!(code, MessageSizeTooLarge | InvalidMessageSize | InvalidRecord)
}

/// Whether a topic is not there, or not with as many partitions.
fn is_missing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    matches!(code, UnknownTopic | UnknownPartition | UnknownTopicOrPartition)
}

impl KafkaLog {
    /// Sets the producer up. Brokers need not be there yet: until they are, and have the topics, appends are refused.
    pub fn new(settings: Settings) -> Result<Self, KafkaError> {
        Self::with(settings, None)
    }

    /// The same; what is not delivered goes to the fallback, and it is for the caller to probe.
    pub(crate) fn with_fallback(settings: Settings, fallback: Arc<dyn Fallback>) -> Result<Self, KafkaError> {
        Self::with(settings, Some(fallback))
    }

    fn with(settings: Settings, fallback: Option<Arc<dyn Fallback>>) -> Result<Self, KafkaError> {
        let state = Arc::new(State { fallback, ..State::default() });
        let batch_bytes = AtomicUsize::new(state.limits.batch_bytes());
        let producer = ArcSwap::from_pointee(producer(&settings, &state)?);
        Ok(Self { settings, producer, state, batch_bytes })
    }

    /// Queues a message; `pending` is settled for it unless this fails. Never blocks.
    pub(crate) fn send(
        &self,
        topic: &str,
        key: &[u8],
        value: &[u8],
        pending: &Arc<Pending>,
    ) -> Result<(), KafkaError> {
        let header = Header { key: topic::SCHEMA_HEADER, value: Some(topic::SCHEMA_VERSION) };
        let record = BaseRecord::with_opaque_to(topic, Arc::clone(pending))
            .key(key)
            .payload(value)
            .headers(OwnedHeaders::new_with_capacity(1).insert(header));
        self.producer.load().send(record).map_err(|(error, _)| error)
    }

    /// Fails, soon, whatever is not acknowledged yet. It may be in Kafka all the same.
    pub(crate) fn purge(&self) {
        self.producer.load().purge(PurgeConfig::default().queue().inflight().non_blocking());
    }

    /// A message that the spool holds was delivered.
    pub(crate) fn is_back(&self) {
        self.state.back();
    }

    /// Waits until everything is settled.
    pub(crate) fn flush(&self, patience: Duration) -> Result<(), KafkaError> {
        self.producer.load().flush(patience)
    }

    /// The topics are known to be there.
    pub(crate) fn has_topics(&self) -> bool {
        self.state.has_topics.load(Ordering::Relaxed)
    }

    /// How long a message may go unacknowledged, with the second in which librdkafka notices.
    pub(crate) fn ack_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.settings.ack_timeout_ms) + 1_000)
    }

    /// Makes sure that the topics are there.
    fn create_topics(&self) -> Result<(), KafkaError> {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.settings).create()?;
        let Settings { partitions, replication_factor, .. } = self.settings;
        let topics = topic::ALL
            .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(replication_factor)))
            // The broker's clock, not ours: it refuses messages that are an hour ahead of it, and nobody reads the time.
            .map(|topic| topic.set("message.timestamp.type", "LogAppendTime"));
        let options = AdminOptions::new()
            .request_timeout(Some(Duration::from_secs(5)))
            .operation_timeout(Some(Duration::from_secs(5)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return Err(KafkaError::Canceled) };
        for result in runtime.block_on(admin.create_topics(&topics, &options))? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(KafkaError::AdminOp(code)),
            }
        }
        Ok(())
    }

    /// Bytes of a message with its key, by topic.
    pub(crate) fn message_bytes_max(&self) -> MessageBytesMax {
        Topic::ALL.map(|topic| self.state.limits.of(topic))
    }

    /// Another one when the limits are others.
    pub(crate) fn limits_version(&self) -> u64 {
        self.state.limits.version.load(Ordering::Acquire)
    }

    /// A message of so many bytes was refused although it was alone in its batch.
    pub(crate) fn refused_alone(&self, topic: Topic, bytes: usize) {
        let limits = &self.state.limits;
        if !limits.are_told.load(Ordering::Relaxed) && bytes < limits.of(topic) {
            limits.set(topic, bytes + BATCH_OVERHEAD_BYTES - 1);
        }
    }

    /// Asks what the topics' limits are; a producer whose batches would be too large is replaced.
    pub(crate) fn look_at_limits(&self) {
        let limits = &self.state.limits;
        *limits.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        limits.is_doubtful.store(false, Ordering::Relaxed);
        match self.describe_topics() {
            Ok(()) => limits.are_told.store(true, Ordering::Relaxed),
            Err(error) => {
                limits.are_told.store(false, Ordering::Relaxed);
                tracing::debug!(%error, "the topics' max.message.bytes is not known");
            }
        }
        let batch_bytes = limits.batch_bytes();
        if self.batch_bytes.swap(batch_bytes, Ordering::Relaxed) != batch_bytes {
            tracing::warn!(batch_bytes, "the Kafka producer is replaced: the topics' limits are others");
            self.replace();
        }
    }

    fn describe_topics(&self) -> Result<(), KafkaError> {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.settings).create()?;
        let topics = Topic::ALL.map(|topic| ResourceSpecifier::Topic(topic.name()));
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return Err(KafkaError::Canceled) };
        let described = runtime.block_on(admin.describe_configs(&topics, &options))?;
        for (topic, resource) in Topic::ALL.into_iter().zip(described) {
            let resource = resource.map_err(KafkaError::AdminOp)?;
            let value = resource.get("max.message.bytes").and_then(|entry| entry.value.as_deref());
            if let Some(bytes_max) = value.and_then(|value| value.parse().ok()) {
                self.state.limits.set(topic, bytes_max);
            }
        }
        Ok(())
    }

    /// Asks for the topic's partitions; an answer means that Kafka is back. Blocks for at most two seconds.
    pub(crate) fn probe(&self) {
        let producer = self.producer.load_full();
        match producer.client().fetch_metadata(Some(topic::EVENTS), Duration::from_secs(2)) {
            Ok(metadata) if !metadata.brokers().is_empty() => self.state.back(),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "Kafka does not answer yet"),
        }
    }

    /// A new producer takes the place of one that delivers nothing more: an idempotent one that has met a fatal error,
    /// or one that knows no broker. librdkafka drops the brokers that a metadata answer does not list, those of
    /// `bootstrap.servers` too, and a lone broker that was away for longer than its session answers for a moment with
    /// none at all: now and then a client never connects again after that.
    fn replace_if_broken(&self) {
        let producer = self.producer.load_full();
        if let Some((code, reason)) = producer.client().fatal_error() {
            tracing::error!(%code, reason, "the Kafka producer is replaced");
        } else if producer.client().context().has_lost_brokers() {
            tracing::warn!("the Kafka producer has lost every broker and is replaced");
        } else {
            return;
        }
        drop(producer);
        self.replace();
    }

    /// Begins anew, with new connections and a new producer id; what the old producer holds is not delivered. The topics
    /// are made sure of again.
    pub(crate) fn replace(&self) {
        match producer(&self.settings, &self.state) {
            Ok(producer) => {
                // A topic that is missing looks like a broker that is slow: a message for it waits until its time is up.
                self.state.has_topics.store(false, Ordering::Relaxed);
                let old = self.producer.swap(Arc::new(producer));
                // On a thread that nobody waits for: the fallback takes its time, and the end of a client may take for ever.
                let end =
                    std::thread::Builder::new().name("old producer".to_owned()).spawn(move || end(&old));
                if let Err(error) = end {
                    tracing::error!(%error, "the old Kafka producer was cut off");
                }
            }
            Err(error) => tracing::error!(%error, "no new Kafka producer"),
        }
    }
}

/// Waits until the fallback has been offered all that a producer holds: dropped, it would forget after half a second what
/// is left, and whoever waits for that would never be answered.
fn end(producer: &ThreadedProducer<Deliveries>) {
    producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    while producer.flush(Duration::from_secs(1)).is_err() {}
}

impl Log for KafkaLog {
    fn append(&self, messages: Vec<Message>) -> Receipt {
        if self.ready().is_err() {
            return Receipt::refused(NotLogged::Unavailable);
        }
        let (pending, receipt) = Pending::new(messages.len());
        for message in &messages {
            if let Err(error) = self.send(message.topic.name(), &message.key, &message.value, &pending) {
                tracing::debug!(%error, "a message was not queued");
                return Receipt::refused(NotLogged::Unavailable);
            }
        }
        receipt
    }

    fn message_bytes_max(&self) -> MessageBytesMax {
        Self::message_bytes_max(self)
    }

    fn ready(&self) -> Result<(), String> {
        if !self.has_topics() {
            return Err("Kafka has not been reached yet".into());
        }
        if self.state.is_away.load(Ordering::Acquire) {
            return Err(self.state.problem());
        }
        Ok(())
    }

    fn queued(&self) -> usize {
        usize::try_from(self.producer.load().in_flight_count()).unwrap_or(0)
    }

    fn tick(&self) {
        if !self.has_topics() {
            match self.create_topics() {
                Ok(()) => {
                    // Before anything is sent: batches are made for the limits.
                    self.look_at_limits();
                    self.state.has_topics.store(true, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "the Kafka topics could not be made sure of yet"),
            }
        }
        if self.ready().is_ok() && self.state.limits.is_due() {
            self.look_at_limits();
        }
        if self.state.fallback.is_none() && self.state.is_away.load(Ordering::Acquire) {
            self.probe();
        }
        self.replace_if_broken();
    }

    fn close(&self, patience: Duration) {
        if let Err(error) = self.flush(patience) {
            tracing::warn!(%error, "messages were left in the Kafka producer; their senders were told");
        }
    }
}

/// A request that a broker leaves unanswered for longer than this ends its connection, so that one lost answer (to a
/// handshake, to the request for a producer id) does not hold messages up for librdkafka's usual minute.
const SOCKET_TIMEOUT_MS_MIN: u32 = 3_000;

/// How often librdkafka tells its state.
const STATISTICS_INTERVAL_MS: u32 = 2_000;
/// A producer that knew no broker so many times in a row, four to six seconds, is replaced. One that begins anew by itself
/// knows none for some milliseconds; in an outage they are known and down.
const BROKERLESS_MAX: u32 = 3;

/// How often the topics' limits are asked for.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// What a batch of one message takes beside its key and value: the batch's head, the record's, its header.
const BATCH_OVERHEAD_BYTES: usize = 256;
/// Bytes of a batch, where the topics' limits allow them: librdkafka's own number.
const BATCH_BYTES: usize = 1_000_000;

fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    let socket_timeout_ms = settings.ack_timeout_ms.clamp(SOCKET_TIMEOUT_MS_MIN, 60_000).to_string();
    config
        .set("socket.timeout.ms", &socket_timeout_ms)
        .set("socket.connection.setup.timeout.ms", &socket_timeout_ms)
        .set("api.version.request.timeout.ms", &socket_timeout_ms)
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "millrace-collector")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "2000");
    config
}

fn producer(settings: &Settings, state: &Arc<State>) -> Result<ThreadedProducer<Deliveries>, KafkaError> {
    let mut config = client_config(settings);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.codec", &settings.compression)
        .set("linger.ms", settings.linger_ms.to_string())
        .set("message.timeout.ms", settings.ack_timeout_ms.to_string())
        .set("request.timeout.ms", settings.ack_timeout_ms.min(30_000).to_string())
        .set("queue.buffering.max.messages", settings.queue_messages_max.to_string())
        .set("queue.buffering.max.kbytes", (settings.queue_bytes_max / 1024).max(1).to_string())
        .set("statistics.interval.ms", STATISTICS_INTERVAL_MS.to_string())
        .set("batch.size", state.limits.batch_bytes().to_string())
        .set("message.max.bytes", "33554432");
    config.create_with_context(Deliveries { state: Arc::clone(state), brokerless: AtomicU32::new(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is slow.
    struct Slow;

    impl Fallback for Slow {
        fn kafka_is_away(&self) {}

        fn take(&self, _: &str, _: &[u8], _: &[u8], pending: &Arc<Pending>) -> bool {
            std::thread::sleep(Duration::from_millis(2));
            pending.settle(1, true);
            true
        }
    }

    #[tokio::test]
    async fn a_producer_that_is_replaced_gives_back_all_it_holds_however_slow_the_disk() {
        const COUNT: usize = 600;
        let settings = Settings {
            // Nobody listens on port 1.
            brokers: "127.0.0.1:1".into(),
            compression: "none".into(),
            linger_ms: 5,
            ack_timeout_ms: 300_000,
            queue_messages_max: 100_000,
            queue_bytes_max: 1 << 20,
            partitions: 1,
            replication_factor: 1,
        };
        let log = KafkaLog::with_fallback(settings, Arc::new(Slow)).unwrap();
        let receipts = topic::ALL.map(|topic| {
            let (pending, receipt) = Pending::new(COUNT);
            for _ in 0..COUNT {
                log.send(topic, b"key", b"value", &pending).unwrap();
            }
            receipt
        });
        log.replace();
        for receipt in receipts {
            let word = tokio::time::timeout(Duration::from_secs(120), receipt).await;
            assert_eq!(word.expect("somebody waits for ever"), Ok(()));
        }
    }
}
