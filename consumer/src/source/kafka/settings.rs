//! librdkafka's settings.

use rdkafka::ClientConfig;

use super::super::SourceError;
use crate::config::Config;

/// How often librdkafka tells its state.
const STATISTICS_INTERVAL_MS: u32 = 2_000;

fn both(config: &Config) -> Result<ClientConfig, SourceError> {
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", &config.kafka_brokers)
        .set("client.id", "millrace-consumer")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "2000");
    for (name, value) in config.kafka_setting_pairs().map_err(|error| SourceError(error.to_string()))? {
        settings.set(name, value);
    }
    Ok(settings)
}

/// Of the consumer.
pub(super) fn consumer(config: &Config) -> Result<ClientConfig, SourceError> {
    let mut settings = both(config)?;
    // librdkafka's own queue counts against the memory of the process, not against our bound: an eighth beside it.
    let queue_kbytes = (config.memory_bytes / 8 / 1024).max(1024);
    settings
        .set("group.id", &config.kafka_group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("isolation.level", "read_committed")
        .set("session.timeout.ms", config.kafka_session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", (config.kafka_session_timeout_ms / 10).max(100).to_string())
        .set("queued.max.messages.kbytes", queue_kbytes.to_string())
        // Few large fetches: a batch is a second old anyway.
        .set("fetch.min.bytes", "262144")
        .set("fetch.wait.max.ms", "200")
        // When its queue is full librdkafka looks at it again after this; the default, a second, is two queues' time.
        .set("fetch.queue.backoff.ms", "20")
        // A topic or a partition that is made later is found this soon.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("allow.auto.create.topics", "false")
        .set("statistics.interval.ms", STATISTICS_INTERVAL_MS.to_string());
    Ok(settings)
}

/// Of the producer of dead-letter records.
pub(super) fn producer(config: &Config) -> Result<ClientConfig, SourceError> {
    let mut settings = both(config)?;
    settings
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "zstd")
        .set("message.timeout.ms", "10000")
        .set("queue.buffering.max.kbytes", "8192");
    Ok(settings)
}
