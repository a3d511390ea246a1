//! The log on Apache Kafka.
//!
//! librdkafka batches, compresses, retries and keeps order; what is added here is one shared counter per request as the
//! delivery opaque (not a future per event), a full queue that is a refusal and not a wait, and a probe that tells when
//! brokers that went away are back.
//!
//! Kafka is *away* from the first failure on (no broker answers, or a message was not acknowledged in time) until
//! something succeeds again. What was not delivered is offered to a [`Fallback`], out of the delivery report, which
//! holds key and value: no copy of a message is kept for that. Only a message that Kafka refuses for what it is (too
//! large) is not offered: it would be refused again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use millrace_schemas::topic;
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Statistics,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
    statistics::Broker,
};

use super::{Log, NotLogged, Pending, Receipt};
use crate::encode::Message;

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
}

#[derive(Default)]
struct State {
    /// The topics are known to exist: a topic that the brokers make by themselves would have other partitions.
    has_topics: AtomicBool,
    is_away: AtomicBool,
    /// Why it is away.
    problem: Mutex<String>,
    fallback: Option<Arc<dyn Fallback>>,
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
        // What was purged says nothing new of Kafka. A message too large says nothing of the others, but a drain
        // cannot go past it.
        let is_purged = matches!(code, Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight));
        if !is_purged && (!is_refused || pending.is_drain()) {
            self.state.away(match code {
                Some(RDKafkaErrorCode::MessageTimedOut) => "Kafka does not acknowledge in time".to_owned(),
                Some(code) if is_refused => {
                    format!(
                        "Kafka refuses a message of the spool ({code}); raise the topic's max.message.bytes"
                    )
                }
                _ => format!("Kafka takes no messages: {error}"),
            });
        }
        if code.is_some_and(is_missing) {
            // Somebody has deleted them: they are made again.
            self.state.has_topics.store(false, Ordering::Relaxed);
        }
        let is_taken = !pending.is_drain()
            && !is_refused
            && self.state.fallback.as_ref().is_some_and(|fallback| {
                let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
                fallback.take(message.topic(), key, value, &pending)
            });
        if !is_taken {
            pending.settle(1, false);
        }
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
        let producer = ArcSwap::from_pointee(producer(&settings, &state)?);
        Ok(Self { settings, producer, state })
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
                Ok(()) => self.state.has_topics.store(true, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, "the Kafka topics could not be made sure of yet"),
            }
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
