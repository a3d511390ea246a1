//! The loop: look for arrivals, roll up the stores they touched, rest at least as long as that took.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use millrace_schemas::metric;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    arrival::{self, Discovery},
    clickhouse::Warehouse,
    error::Result,
    rollup,
};

/// Stores that one cycle takes from the list.
const STORES_MAX: i64 = 1_000;
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often days whose funnel window has passed are looked for.
const CLOSE_EVERY: Duration = Duration::from_secs(60);

/// Whether the parts that the worker needs have answered lately.
#[derive(Debug, Default)]
pub struct Health {
    migrated: AtomicBool,
}

impl Health {
    /// Whether the schema is there.
    pub fn is_migrated(&self) -> bool {
        self.migrated.load(Ordering::Acquire)
    }
}

/// Brings Postgres's schema up to date, trying again while it is away. `false`: shut down before it came.
pub async fn prepare(pool: &PgPool, health: &Health, shutdown: &CancellationToken) -> bool {
    let mut pause = Duration::from_millis(200);
    loop {
        match crate::postgres::migrate(pool).await {
            Ok(()) => {
                health.migrated.store(true, Ordering::Release);
                return true;
            }
            Err(error) => tracing::warn!(%error, ?pause, "cannot prepare Postgres; trying again"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Rolls up until shut down. A cycle that is cut off leaves no trace: its transaction is never committed.
pub async fn work(warehouse: &Warehouse, pool: &PgPool, interval: Duration, shutdown: &CancellationToken) {
    let mut pause = interval;
    let mut closed_at: Option<Instant> = None;
    let mut discovery = Discovery::default();
    // Everything that had arrived by then is rolled up.
    let mut complete_at = Instant::now();
    loop {
        let start = Instant::now();
        let cycle = async {
            cycle(warehouse, pool, &mut discovery).await?;
            if closed_at.is_none_or(|at| at.elapsed() > CLOSE_EVERY) {
                rollup::funnels::close_passed(&mut *pool.acquire().await?).await?;
                closed_at = Some(Instant::now());
            }
            waiting_days(pool).await
        };
        let waiting: Result<i64> = tokio::select! {
            () = shutdown.cancelled() => return,
            waiting = cycle => waiting,
        };
        if let Ok(0) = waiting {
            complete_at = start;
        }
        metrics::gauge!(metric::AGGREGATOR_WATERMARK_AGE_SECONDS).set(complete_at.elapsed().as_secs_f64());
        pause = match waiting {
            Ok(_) => interval.max(start.elapsed()),
            Err(error) => {
                metrics::counter!(metric::AGGREGATOR_FAILURES).increment(1);
                tracing::warn!(%error, ?pause, "rolling up failed; trying again");
                (pause * 2).clamp(interval, PAUSE_MAX.max(interval))
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks once for arrivals and rolls up every store that waits, unless another instance is at it. Says how many days
/// were rolled up. A store that fails is tried again in the next cycle, and does not keep the others waiting.
pub async fn cycle(warehouse: &Warehouse, pool: &PgPool, discovery: &mut Discovery) -> Result<usize> {
    arrival::look(warehouse, pool, discovery).await?;
    let mut days = 0;
    let mut failed = None;
    for store_id in waiting(pool).await? {
        // More than one transaction where many days wait.
        loop {
            match rollup::roll_up(warehouse, pool, &store_id).await {
                Ok(Some(done)) => {
                    days += done.days;
                    record(&done);
                    if (done.days as i64) < rollup::DAYS_MAX {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    metrics::counter!(metric::AGGREGATOR_FAILURES).increment(1);
                    tracing::warn!(store = store_id, %error, "rolling up a store failed");
                    failed = Some(error);
                    break;
                }
            }
        }
    }
    match failed {
        Some(error) if days == 0 => Err(error),
        _ => Ok(days),
    }
}

/// Stores with touched days, those that have waited longest first.
async fn waiting(pool: &PgPool) -> Result<Vec<String>> {
    let ids = sqlx::query_scalar(
        "SELECT store_id FROM touched_days GROUP BY store_id ORDER BY min(touched_at) LIMIT $1",
    )
    .bind(STORES_MAX)
    .fetch_all(pool)
    .await?;
    Ok(ids)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn record(done: &rollup::Done) {
    metrics::counter!(metric::AGGREGATOR_STORE_DAYS).increment(done.days as u64);
    // Days that somebody asked for have no receipt.
    if done.received_ms == 0 {
        return;
    }
    let seconds = (now_ms() - done.received_ms) as f64 / 1000.0;
    metrics::histogram!(metric::AGGREGATOR_FRESHNESS_SECONDS).record(seconds.max(0.0));
}

/// Store-days that still wait: of a store that failed, or that another instance is at.
async fn waiting_days(pool: &PgPool) -> Result<i64> {
    let days: i64 = sqlx::query_scalar("SELECT count(*) FROM touched_days").fetch_one(pool).await?;
    metrics::gauge!(metric::AGGREGATOR_STORE_DAYS_WAITING).set(days as f64);
    Ok(days)
}
