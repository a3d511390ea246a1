//! The loop: look for arrivals, roll up the stores they touched, rest at least as long as that took.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use millrace_schemas::metric;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    arrival::{self, Discovery},
    clickhouse::Warehouse,
    error::Result,
    postgres::Answer as _,
    rollup,
};

/// Stores that one cycle takes from the list.
const STORES_MAX: i64 = 1_000;
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often days whose funnel window has passed are looked for.
const CLOSE_EVERY: Duration = Duration::from_secs(60);

/// How often the watermark's age is told, whatever else is going on.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How far the worker has come.
#[derive(Debug)]
pub struct Health {
    migrated: AtomicBool,
    /// Everything that had arrived by then is rolled up.
    complete_at: Mutex<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self { migrated: AtomicBool::new(false), complete_at: Mutex::new(Instant::now()) }
    }
}

impl Health {
    /// Whether the schema is there.
    pub fn is_migrated(&self) -> bool {
        self.migrated.load(Ordering::Acquire)
    }

    /// Age of the watermark: how long ago the last moment was whose arrivals are all rolled up.
    pub fn watermark_age(&self) -> Duration {
        self.complete_at.lock().map_or_else(|error| error.into_inner().elapsed(), |at| at.elapsed())
    }

    fn set_complete(&self, at: Instant) {
        *self.complete_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = at;
    }

    /// Tells the watermark's age for as long as it is asked to.
    async fn tell(&self) -> std::convert::Infallible {
        loop {
            metrics::gauge!(metric::AGGREGATOR_WATERMARK_AGE_SECONDS).set(self.watermark_age().as_secs_f64());
            tokio::time::sleep(TELL_EVERY).await;
        }
    }
}

/// Brings Postgres's schema up to date, trying again while it is away. `false`: shut down before it came.
pub async fn prepare(pool: &PgPool, health: &Health, shutdown: &CancellationToken) -> bool {
    let mut pause = Duration::from_millis(200);
    loop {
        let migrated = tokio::select! {
            () = shutdown.cancelled() => return false,
            migrated = crate::postgres::migrate(pool) => migrated,
            never = health.tell() => match never {},
        };
        match migrated {
            Ok(()) => {
                health.migrated.store(true, Ordering::Release);
                return true;
            }
            Err(error) => tracing::warn!(%error, ?pause, "cannot prepare Postgres; trying again"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(pause) => {}
            never = health.tell() => match never {},
        }
        pause = longer(pause, Duration::ZERO);
    }
}

/// The pause after one more failure.
fn longer(pause: Duration, interval: Duration) -> Duration {
    (pause * 2).clamp(interval, PAUSE_MAX.max(interval))
}

/// Rolls up until shut down. A cycle that is cut off leaves no trace: its transaction is never committed. While Postgres
/// or ClickHouse is away nothing is kept: what has arrived meanwhile is found when both are back.
pub async fn work(
    warehouse: &Warehouse,
    pool: &PgPool,
    health: &Health,
    interval: Duration,
    shutdown: &CancellationToken,
) {
    let mut pause = interval;
    let mut closed_at: Option<Instant> = None;
    let mut discovery = Discovery::default();
    loop {
        let start = Instant::now();
        let cycle = async {
            let looked = arrival::look(warehouse, pool, &mut discovery).await?;
            roll_up_waiting(warehouse, pool).await?;
            if closed_at.is_none_or(|at| at.elapsed() > CLOSE_EVERY) {
                rollup::funnels::close_passed(pool).await?;
                closed_at = Some(Instant::now());
            }
            Ok((looked, waiting_days(pool).await?))
        };
        let done: Result<(Option<usize>, i64)> = tokio::select! {
            () = shutdown.cancelled() => return,
            done = cycle => done,
            never = health.tell() => match never {},
        };
        // Where another instance is looking, nobody here knows what has arrived: it may be frozen.
        if let Ok((Some(_), 0)) = done {
            health.set_complete(start);
        }
        pause = match done {
            Ok(_) => interval.max(start.elapsed()),
            Err(error) => {
                metrics::counter!(metric::AGGREGATOR_FAILURES).increment(1);
                tracing::warn!(%error, ?pause, "rolling up failed; trying again");
                longer(pause, interval)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            never = health.tell() => match never {},
        }
    }
}

/// Looks once for arrivals and rolls up every store that waits, unless another instance is at it. Says how many days
/// were rolled up.
pub async fn cycle(warehouse: &Warehouse, pool: &PgPool, discovery: &mut Discovery) -> Result<usize> {
    arrival::look(warehouse, pool, discovery).await?;
    roll_up_waiting(warehouse, pool).await
}

/// A store that fails is tried again in the next cycle, and does not keep the others waiting.
async fn roll_up_waiting(warehouse: &Warehouse, pool: &PgPool) -> Result<usize> {
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
    .within()
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
    let days: i64 = sqlx::query_scalar("SELECT count(*) FROM touched_days").fetch_one(pool).within().await?;
    metrics::gauge!(metric::AGGREGATOR_STORE_DAYS_WAITING).set(days as f64);
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let interval = Duration::from_secs(2);
        let mut pause = interval;
        let pauses: Vec<u64> = (0..20)
            .map(|_| {
                pause = longer(pause, interval);
                pause.as_secs()
            })
            .collect();
        assert_eq!(pauses[..5], [4, 8, 16, 30, 30]);
        assert!(pauses[5..].iter().all(|pause| *pause == 30));
        // Of whoever wants to look every hour a failure does not make a busybody.
        assert_eq!(longer(Duration::from_secs(3600), Duration::from_secs(3600)), Duration::from_secs(3600));
    }
}
