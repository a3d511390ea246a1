//! The collector: takes events over HTTP, checks them, and answers once the log holds them durably.
//!
//! A request goes through one chain, and the files are named after its links:
//! `http/collect` → [`mod@body`] → [`key`] → [`mod@decode`] → [`limit`] → [`mod@validate`] → [`mod@enrich`] →
//! [`mod@encode`] → [`mod@log`] → `http/answer`.
//!
//! [`run`] is the whole service. It installs nothing that belongs to the process (no metrics recorder, no logger, no
//! signal handler), so that it can run beside other services in one.

mod body;
pub mod chain;
mod client;
mod clock;
mod commerce;
pub mod compat;
mod config;
pub mod decode;
pub mod encode;
pub mod enrich;
mod field;
mod http;
mod items;
mod key;
mod limit;
pub mod log;
mod mend;
mod metric;
mod origin;
mod properties;
mod read;
mod refusals;
pub mod salts;
mod split;
mod stores;
mod tape;
mod time;
pub mod validate;

use std::{
    io,
    num::{NonZeroU32, NonZeroU64},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millrace_schemas::{demo, spool::SEGMENT_BYTES};
use millrace_service::{host::Hosts, setting};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    body::Memory,
    clock::Clock,
    enrich::Enricher,
    http::App,
    key::{Rates, Rules},
    limit::{Aside, ClientRate, Unlogged},
    log::{
        Log, kafka,
        relay::{self, RelayLog},
        spool::{self, SpoolLog},
    },
    metric::Metrics,
    refusals::Refusals,
    stores::{ReadAt, Refresher, Source},
};
pub use crate::{
    config::{Config, ConnectionConfig, EnrichConfig, LimitConfig, LogConfig, LogKind, RateConfig, Step},
    http::{Route, routes},
    metric::describe as describe_metrics,
};

/// Segments that a full spool has at least, of each topic, so that what was consumed takes little of it.
const SEGMENTS_MIN: u64 = 16;
/// A segment costs three fsyncs.
const SEGMENT_BYTES_MIN: u64 = 256 << 10;
/// The file beside the spool that keeps the time of the newest receipt.
const NEWEST_RECEIPT: &str = "newest_receipt";
/// A log that closes in time needs this to come back and say so.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Why the collector cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("{address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] setting::Error),
    /// The address of Postgres is none.
    #[error("MILLRACE_POSTGRES_URL: {0}")]
    DatabaseUrl(#[source] sqlx::Error),
    /// The Kafka producer's settings are not acceptable, or the spool behind it cannot be used.
    #[error(transparent)]
    Relay(#[from] relay::Error),
    /// A file of the enrichment cannot be used.
    #[error("enrichment: {0}")]
    Enrich(#[from] enrich::FileError),
    /// The spool cannot be used.
    #[error("the spool: {0}")]
    Spool(#[from] spool::Error),
}

/// The sockets that the collector listens on.
#[derive(Debug)]
pub struct Listeners {
    /// Where events are posted to.
    pub http: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the configuration.
    pub async fn bind(config: &Config) -> Result<Self, Error> {
        let http = TcpListener::bind(config.address)
            .await
            .map_err(|source| Error::Listen { address: config.address, source })?;
        Ok(Self { http })
    }
}

/// Runs the collector until `shutdown`; then, in this order, it is no longer ready, listens no more, lets open requests
/// finish and closes the log, within `drain_delay_ms` and `drain_timeout_ms`.
///
/// Metrics go to the recorder that is installed when this is called.
pub async fn run(config: Config, listeners: Listeners, shutdown: CancellationToken) -> Result<(), Error> {
    let metrics = Arc::new(Metrics::new());
    let enricher = Arc::new(Enricher::new(&config.enrich)?);
    let log = open_log(&config.log)?;
    let behind_max = Duration::from_secs(config.clock_behind_max_seconds);
    let clock = Arc::new(Clock::new(config.log.spool_dir.join(NEWEST_RECEIPT), behind_max));
    let limits = config.limits.limits();
    let rates = Rates {
        events_per_second: NonZeroU32::new(config.rates.events_per_second).unwrap_or(NonZeroU32::MAX),
        events_max: u32::try_from(limits.events_max).unwrap_or(u32::MAX),
        bytes_per_second: NonZeroU64::new(config.rates.store_bytes_per_second).unwrap_or(NonZeroU64::MAX),
    };
    setting::check_postgres_url(&config.postgres_url)?;
    let age_max = Duration::from_secs(config.keys_snapshot_age_max_seconds);
    let address = listeners.http.local_addr().unwrap_or(config.address);
    let takes_known_keys = demo::reachable(&[address, config.metrics_address]).is_none();
    let (refresher, directory) = Refresher::new(Source {
        postgres_url: config.postgres_url.clone(),
        snapshot: config.keys_snapshot.clone().map(|path| (path, age_max)),
        rules: Rules { rates, takes_known_keys },
    })
    .map_err(Error::DatabaseUrl)?;
    let refusals = Arc::new(Refusals::new());
    let app = Arc::new(App {
        directory,
        asking: refresher.asking(),
        log: Arc::clone(&log),
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        refusals: Arc::clone(&refusals),
        clients: ClientRate::new(config.rates.client_requests_per_second),
        memory: Memory::new(config.connections.bodies_bytes_max, limits.body_bytes_max),
        aside: Aside::new(),
        unlogged: Unlogged::new(config.connections.unlogged_bytes_max),
        limits,
        enricher: Arc::clone(&enricher),
        trusted_proxies: config.trusted_proxies.clone(),
        hosts: Hosts::new(&config.hosts),
        body_timeout: Duration::from_millis(config.connections.body_timeout_ms),
        is_draining: AtomicBool::new(false),
    });

    // The log and the keys are kept alive until the last request is answered, not only until the shutdown begins.
    let end = CancellationToken::new();
    let refresh = Duration::from_millis(config.keys_refresh_ms);
    let ticking = tick(Arc::clone(&log), clock, refresher.read_at(), Arc::clone(&metrics), end.clone());
    let noting = tokio::spawn(refusals.run(refresher.options(), end.clone()));
    let refreshing = tokio::spawn(refresher.run(refresh, end.clone()));
    let files = Duration::from_secs(config.enrich.refresh_seconds);
    tokio::spawn(look_after(enricher, files, end.clone()));

    let stop = CancellationToken::new();
    let drain_timeout = Duration::from_millis(config.connections.drain_timeout_ms);
    let serving = http::serve::serve(
        listeners.http,
        Arc::clone(&app),
        &config.connections,
        stop.clone(),
        drain_timeout / 4 * 3,
    );
    let stopping = async {
        shutdown.cancelled().await;
        app.is_draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(config.connections.drain_delay_ms)).await;
        stop.cancel();
        Instant::now() + drain_timeout
    };
    let ((), deadline) = tokio::join!(serving, stopping);

    end.cancel();
    // A look at a server that hangs may still be under way; it changes nothing any more.
    let left = deadline.saturating_duration_since(Instant::now());
    let _ = tokio::time::timeout(left / 2, async { tokio::join!(refreshing, ticking, noting) }).await;
    let left = deadline.saturating_duration_since(Instant::now());
    let closing = tokio::task::spawn_blocking(move || log.close(left));
    if !matches!(tokio::time::timeout_at(deadline + CLOSE_GRACE, closing).await, Ok(Ok(()))) {
        tracing::error!("the log did not close in time; what was not answered must be sent again");
    }
    Ok(())
}

fn open_log(config: &LogConfig) -> Result<Arc<dyn Log>, Error> {
    // What is consumed leaves the disk by segments: those of a small spool are small.
    let segment_bytes = SEGMENT_BYTES.min(config.spool_bytes_max / SEGMENTS_MIN).max(SEGMENT_BYTES_MIN);
    let spool = SpoolLog::open(&config.spool_dir, config.spool_bytes_max, segment_bytes)?
        .limit_stores(config.spool_store_percent_max)
        .limit_age(Duration::from_secs(config.spool_age_max_seconds))
        .roll_after(Duration::from_secs(config.spool_segment_age_max_seconds));
    if config.kind == LogKind::Spool {
        return Ok(Arc::new(spool));
    }
    let settings = kafka::Settings {
        brokers: config.kafka_brokers.clone(),
        compression: config.kafka_compression.clone(),
        linger_ms: config.kafka_linger_ms,
        ack_timeout_ms: config.kafka_ack_timeout_ms,
        queue_messages_max: config.kafka_queue_messages_max,
        queue_bytes_max: config.kafka_queue_bytes_max,
        partitions: config.partitions,
        replication_factor: config.replication_factor,
    };
    Ok(Arc::new(RelayLog::open(settings, spool)?))
}

/// Makes the enrichment ready, and reads its files again when they have changed.
async fn look_after(enricher: Arc<Enricher>, every: Duration, end: CancellationToken) {
    let warmed = Arc::clone(&enricher);
    // Not one of the runtime's threads: nobody waits for it when the process ends.
    std::thread::spawn(move || warmed.warm());
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let refreshed = Arc::clone(&enricher);
        let _ = tokio::task::spawn_blocking(move || refreshed.refresh()).await;
    }
}

/// Looks after the log, the clock and the gauges, once a second.
fn tick(
    log: Arc<dyn Log>,
    clock: Arc<Clock>,
    read_at: ReadAt,
    metrics: Arc<Metrics>,
    end: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            metrics.log_queue.set(log.queued() as f64);
            metrics.keys_age.set(read_at.load().elapsed().as_secs_f64());
            let (log, clock) = (Arc::clone(&log), Arc::clone(&clock));
            let ticked = move || {
                clock.tick();
                log.tick();
            };
            let _ = tokio::task::spawn_blocking(ticked).await;
            tokio::select! {
                () = end.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    })
}
