//! The log on Apache Kafka.
//!
//! librdkafka batches, compresses, retries and keeps order; what is added here is one shared counter per request as the
//! delivery opaque (not a future per event), a full queue that is a refusal and not a wait, and a probe that tells when
//! brokers that went away are back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use millrace_schemas::topic;
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};

use super::{Log, Pending, Receipt};
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
    /// Milliseconds until a message that no broker acknowledged is given up, and its request answered 503.
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

/// A producer for the collector's topics.
pub struct KafkaLog {
    settings: Settings,
    producer: ArcSwap<ThreadedProducer<Deliveries>>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The topics are known to exist: a topic that the brokers make by themselves would have other partitions.
    has_topics: AtomicBool,
    brokers_are_down: AtomicBool,
}

struct Deliveries {
    state: Arc<State>,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown)
            && !self.state.brokers_are_down.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(reason, "no Kafka broker answers");
        }
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Self::DeliveryOpaque) {
        if let Err((error, _)) = result {
            tracing::debug!(%error, "a message was not delivered");
            // A broker can hang with its connections open. What timed out for one request will for the next: refuse
            // at once until the probe is answered.
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut) {
                self.state.brokers_are_down.store(true, Ordering::Relaxed);
            }
        }
        pending.settle(result.is_ok());
    }
}

impl KafkaLog {
    /// Sets the producer up. Brokers need not be there yet: until they are, and have the topics, appends are refused.
    pub fn new(settings: Settings) -> Result<Self, KafkaError> {
        let state = Arc::<State>::default();
        let producer = ArcSwap::from_pointee(producer(&settings, &state)?);
        Ok(Self { settings, producer, state })
    }

    /// Makes sure that the topics are there.
    fn create_topics(&self) -> Result<(), KafkaError> {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.settings).create()?;
        let Settings { partitions, replication_factor, .. } = self.settings;
        let topics = topic::ALL
            .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(replication_factor)));
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

    fn probe(&self) {
        let producer = self.producer.load_full();
        match producer.client().fetch_metadata(Some(topic::EVENTS), Duration::from_secs(2)) {
            Ok(metadata) if !metadata.brokers().is_empty() => {
                self.state.brokers_are_down.store(false, Ordering::Relaxed);
                tracing::info!("Kafka answers again");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "Kafka does not answer yet"),
        }
    }

    /// An idempotent producer that has met a fatal error delivers nothing more; a new one takes its place.
    fn replace_if_fatal(&self) {
        let Some((code, reason)) = self.producer.load().client().fatal_error() else { return };
        tracing::error!(%code, reason, "the Kafka producer is replaced");
        match producer(&self.settings, &self.state) {
            Ok(producer) => self.producer.store(Arc::new(producer)),
            Err(error) => tracing::error!(%error, "no new Kafka producer"),
        }
    }
}

impl Log for KafkaLog {
    fn append(&self, messages: Vec<Message>) -> Receipt {
        if self.ready().is_err() {
            return Receipt::refused();
        }
        let producer = self.producer.load();
        let (pending, receipt) = Pending::new(messages.len());
        for message in &messages {
            let header = Header { key: topic::SCHEMA_HEADER, value: Some(topic::SCHEMA_VERSION) };
            let record = BaseRecord::with_opaque_to(message.topic.name(), Arc::clone(&pending))
                .key(&message.key)
                .payload(&message.value)
                .headers(OwnedHeaders::new_with_capacity(1).insert(header));
            if let Err((error, _)) = producer.send(record) {
                tracing::debug!(%error, "a message was not queued");
                return Receipt::refused();
            }
        }
        receipt
    }

    fn ready(&self) -> Result<(), String> {
        if !self.state.has_topics.load(Ordering::Relaxed) {
            return Err("Kafka has not been reached yet".into());
        }
        if self.state.brokers_are_down.load(Ordering::Relaxed) {
            return Err("no Kafka broker answers".into());
        }
        Ok(())
    }

    fn queued(&self) -> usize {
        usize::try_from(self.producer.load().in_flight_count()).unwrap_or(0)
    }

    fn tick(&self) {
        if !self.state.has_topics.load(Ordering::Relaxed) {
            match self.create_topics() {
                Ok(()) => self.state.has_topics.store(true, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, "the Kafka topics could not be made sure of yet"),
            }
        }
        if self.state.brokers_are_down.load(Ordering::Relaxed) {
            self.probe();
        }
        self.replace_if_fatal();
    }

    fn close(&self, patience: Duration) {
        if let Err(error) = self.producer.load().flush(patience) {
            tracing::warn!(%error, "messages were left in the Kafka producer; their senders were told");
        }
    }
}

fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
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
        .set("message.max.bytes", "33554432");
    config.create_with_context(Deliveries { state: Arc::clone(state) })
}
