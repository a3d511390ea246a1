//! Starts everything and stops it in order: tables, source, a task per partition; then drain, then the source.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use millrace_schemas::metric;
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    config::{Config, ConfigError, Log},
    decode::Table,
    driver::{Driver, Shared},
    gauges::Gauges,
    health::Health,
    memory::Memory,
    partition::Limits,
    sink::Sink,
    source::{Assignment, Source, SourceError, kafka::KafkaSource, run_detached, spool::SpoolSource},
    store::Store,
};

/// Why the consumer ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot be read.
    #[error("cannot read the log: {0}")]
    Source(#[from] SourceError),
    /// A partition's task ended with a panic: a defect. The log and the intents hold what was on its way.
    #[error("a partition ended unexpectedly: {0}")]
    Partition(String),
}

/// How often gauges are brought up to date.
const GAUGES_EVERY: Duration = Duration::from_secs(1);
/// How often ClickHouse is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(5);

/// How long the log's client may take to close, after the drain.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until `shutdown` is cancelled; then is no longer ready, stores what was read within `drain_timeout_ms` (what it
/// cannot store is left to its intent on record), closes the log's client within 5 s, and returns.
///
/// Installs nothing global: metrics go to whatever recorder the process has, problems to `health`.
pub async fn run(config: Config, health: Health, shutdown: CancellationToken) -> Result<(), RunError> {
    config.check()?;
    let store = Arc::new(Store::new(&config));
    // Ready means that the log is being read, so what is said of the start stands until then.
    health.starting("tables are being made");
    if !make_tables(&store, &config, &health, &shutdown).await {
        return Ok(());
    }
    let memory = Memory::new(config.memory_bytes);
    health.started();
    match config.log {
        Log::Kafka => {
            let (source, assigned) = KafkaSource::start(&config, &memory, &health)?;
            drive(&config, source, assigned, store, memory, health, shutdown).await
        }
        Log::Spool => {
            let (source, assigned) = SpoolSource::start(&config, &memory)?;
            drive(&config, source, assigned, store, memory, health, shutdown).await
        }
    }
}

/// Makes the tables, however long ClickHouse is away. Says whether it was not asked to stop before.
async fn make_tables(store: &Store, config: &Config, health: &Health, shutdown: &CancellationToken) -> bool {
    let backoff = backoff(config);
    for attempt in 0_u32.. {
        let result = tokio::select! {
            result = store.make_tables() => result,
            () = shutdown.cancelled() => return false,
        };
        let Err(error) = result else { break };
        health.report("tables", format!("tables cannot be made in ClickHouse yet: {error}"));
        tokio::select! {
            () = tokio::time::sleep(backoff.pause(attempt, rand::random())) => {}
            () = shutdown.cancelled() => return false,
        }
    }
    health.clear("tables");
    true
}

fn backoff(config: &Config) -> Backoff {
    Backoff {
        first: Duration::from_millis(config.retry_first_ms),
        max: Duration::from_millis(config.retry_max_ms),
    }
}

async fn drive<S: Source, K: Sink>(
    config: &Config,
    source: Arc<S>,
    mut assigned: UnboundedReceiver<Assignment>,
    sink: Arc<K>,
    memory: Arc<Memory>,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let shared = Arc::new(Shared {
        source: source.clone(),
        sink,
        memory,
        health,
        limits: Limits {
            rows_max: config.batch_rows,
            bytes_max: config.batch_bytes_max(),
            age_max: Duration::from_millis(config.batch_age_ms),
            backoff: backoff(config),
            unknown_attempts_max: config.unknown_error_attempts,
        },
        drain: shutdown.child_token(),
    });
    let mut gauges = Gauges::default();
    let mut partitions = JoinSet::new();
    let mut every_second = tokio::time::interval(GAUGES_EVERY);
    let pings = tokio::spawn(ping(shared.clone()));
    let mut result = Ok(());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(assignment) = assigned.recv() => {
                gauges.watch(&assignment);
                let topic = assignment.partition.topic;
                let Some(table) = Table::of_topic(topic) else { panic!("{topic} is read, and has no table") };
                partitions.spawn(Driver::new(shared.clone(), assignment, table).run());
            }
            Some(ended) = partitions.join_next() => {
                if let Err(error) = ended {
                    result = Err(RunError::Partition(error.to_string()));
                    break;
                }
            }
            _ = every_second.tick() => gauges.update(&shared.memory, shared.source.paused()),
        }
    }
    shared.health.stopping();
    shared.drain.cancel();
    let drained = tokio::time::timeout(config.drain_timeout(), async {
        while let Some(ended) = partitions.join_next().await {
            if let Err(error) = ended {
                result = Err(RunError::Partition(error.to_string()));
            }
        }
    });
    if drained.await.is_err() {
        tracing::warn!("not everything that was read could be stored in time; the next start goes on there");
        partitions.shutdown().await;
    }
    pings.abort();
    let closing = async {
        source.close().await;
        gauges.update(&shared.memory, shared.source.paused());
        drop(shared);
        // The last owner of a Kafka client waits for it to end.
        let _ = run_detached(move || drop(source)).await;
    };
    if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
        tracing::warn!(
            "the log's client did not close in time; Kafka takes it for gone when its session ends"
        );
    }
    result
}

/// Gives the consumer's metrics their `# HELP` in the recorder that is installed now.
pub fn describe_metrics() {
    for (name, help) in metric::ALL.iter().filter(|(name, _)| name.starts_with("millrace_consumer_")) {
        if name.ends_with("_total") {
            metrics::describe_counter!(*name, *help);
        } else if HISTOGRAMS.contains(name) {
            metrics::describe_histogram!(*name, *help);
        } else {
            metrics::describe_gauge!(*name, *help);
        }
    }
}

const HISTOGRAMS: [&str; 4] = [
    metric::CONSUMER_BATCH_ROWS,
    metric::CONSUMER_BATCH_BYTES,
    metric::CONSUMER_BATCH_SECONDS,
    metric::CONSUMER_INSERT_SECONDS,
];

/// Without events nobody would notice that ClickHouse is away.
async fn ping<S: Source, K: Sink>(shared: Arc<Shared<S, K>>) {
    loop {
        match shared.sink.ping().await {
            Ok(()) => shared.health.clear("clickhouse"),
            Err(error) => shared.health.report("clickhouse", format!("ClickHouse does not answer: {error}")),
        }
        tokio::time::sleep(PING_EVERY).await;
    }
}
