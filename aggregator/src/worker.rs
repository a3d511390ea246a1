//! The loop: look for arrivals, roll up the stores they touched, rest at least as long as that took. Beside it a second
//! one, for stores that take longer than their turn or fail.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use millrace_schemas::metric;
use sqlx::{PgPool, Row as _};
use tokio_util::sync::CancellationToken;

use crate::{
    arrival::{self, Discovery, Looked},
    clickhouse::Warehouse,
    entity::orders,
    error::Result,
    postgres::Answer as _,
    rollup,
    turn::{self, Limits, failing::Failing},
};

/// Stores that one cycle takes from the list.
const STORES_MAX: i64 = 1_000;
/// Time after which no store's turn begins before the next look.
const CYCLE_MAX: Duration = Duration::from_secs(10);
/// Time after which no further part of stale orders is begun before the next look.
const STALE_MAX: Duration = Duration::from_secs(2);
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
    settings: &Settings,
    shutdown: &CancellationToken,
) {
    let working = async {
        tokio::join!(
            work_in_cycles(warehouse, pool, health, settings),
            work_aside(warehouse, pool, settings)
        );
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = working => {}
        never = health.tell() => match never {},
    }
}

/// What the worker is told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time between two looks for arrivals, at least.
    pub interval: Duration,
    /// Rows that one look takes.
    pub slice_rows: u64,
    /// What rolling up one store may take.
    pub limits: Limits,
}

/// Looks and rolls up, and rests as long as that took; at once again where more waits than a cycle takes.
async fn work_in_cycles(warehouse: &Warehouse, pool: &PgPool, health: &Health, settings: &Settings) {
    let mut pause = settings.interval;
    let mut closed_at: Option<Instant> = None;
    let mut discovery = Discovery::new(settings.slice_rows);
    let mut failing = Failing::default();
    loop {
        let start = Instant::now();
        let cycle = async {
            let looked = arrival::look(warehouse, pool, &mut discovery).await?;
            refresh_stale(warehouse, pool).await?;
            let rolled = roll_up_due(warehouse, pool, &settings.limits).await?;
            if closed_at.is_none_or(|at| at.elapsed() > CLOSE_EVERY) {
                rollup::funnels::close_passed(pool).await?;
                closed_at = Some(Instant::now());
            }
            failing.tell(pool).await?;
            Ok((looked, rolled, waiting_days(pool).await?))
        };
        let done: Result<(Option<Looked>, Rolled, i64)> = cycle.await;
        // Where another instance is looking, nobody here knows what has arrived: it may be frozen.
        if let Ok((Some(Looked { has_more: false, .. }), _, 0)) = done {
            health.set_complete(start);
        }
        pause = match done {
            Ok((Some(Looked { has_more: true, .. }), ..) | (_, Rolled { has_more: true, .. }, _)) => {
                Duration::ZERO
            }
            Ok(_) => settings.interval.max(start.elapsed()),
            Err(error) => {
                metrics::counter!(metric::AGGREGATOR_FAILURES).increment(1);
                let pause = longer(pause, settings.interval);
                tracing::warn!(%error, ?pause, "rolling up failed; trying again");
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Makes orders of stale stores anew, for a while.
async fn refresh_stale(warehouse: &Warehouse, pool: &PgPool) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < STALE_MAX && orders::refresh_stale(warehouse, pool).await? {}
    Ok(())
}

/// Rolls up the stores that have stepped aside, one after the other, and rests as long as each took.
async fn work_aside(warehouse: &Warehouse, pool: &PgPool, settings: &Settings) {
    let mut pause = settings.interval;
    loop {
        let start = Instant::now();
        pause = match roll_up_aside(warehouse, pool, &settings.limits).await {
            Ok(_) => settings.interval.max(start.elapsed()),
            Err(error) => {
                let pause = longer(pause, settings.interval);
                tracing::warn!(%error, ?pause, "rolling up a store that stepped aside failed; trying again");
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Looks once for arrivals, then rolls up every store that is due, once, those aside too, unless another instance is at
/// it. Says how many days were rolled up.
pub async fn cycle(
    warehouse: &Warehouse,
    pool: &PgPool,
    limits: &Limits,
    discovery: &mut Discovery,
) -> Result<usize> {
    arrival::look(warehouse, pool, discovery).await?;
    while orders::refresh_stale(warehouse, pool).await? {}
    let rolled = roll_up_due(warehouse, pool, limits).await?;
    Ok(rolled.days + roll_up_aside(warehouse, pool, limits).await?.unwrap_or(0))
}

struct Rolled {
    days: usize,
    /// More waits than this time was for.
    has_more: bool,
}

/// Every store that is due has one turn; some at once, so that none waits for a slow one. One that fails steps aside.
async fn roll_up_due(warehouse: &Warehouse, pool: &PgPool, limits: &Limits) -> Result<Rolled> {
    let start = Instant::now();
    let stores = turn::due(pool, STORES_MAX).await?;
    let count = stores.len();
    let mut turns = futures::stream::iter(stores)
        // So that the next look does not wait for all of them.
        .take_while(|_| std::future::ready(start.elapsed() < CYCLE_MAX))
        .map(|store_id| async move { turn::take(warehouse, pool, limits, &store_id, None).await })
        .buffer_unordered(limits.stores_at_once);
    let (mut taken, mut days, mut longest) = (0, 0, 0);
    while let Some(turn) = turns.next().await {
        let done = turn?;
        (taken, days, longest) = (taken + 1, days + done, longest.max(done));
    }
    let has_more = taken < count || count as i64 == STORES_MAX || longest as i64 == rollup::DAYS_MAX;
    Ok(Rolled { days, has_more })
}

/// The store aside that is due has its turn. `None`: none is.
async fn roll_up_aside(warehouse: &Warehouse, pool: &PgPool, limits: &Limits) -> Result<Option<usize>> {
    let Some((store_id, standing)) = turn::next_aside(pool).await? else { return Ok(None) };
    turn::take(warehouse, pool, limits, &store_id, Some(standing)).await.map(Some)
}

/// Store-days that still wait. Says how many of them are not those of a store that fails: of one that another instance is
/// at, or that has come since.
async fn waiting_days(pool: &PgPool) -> Result<i64> {
    let row = sqlx::query(
        "SELECT count(*) AS days, count(*) FILTER (WHERE failing_since IS NULL) AS due
         FROM touched_days LEFT JOIN rollup_backoff USING (store_id)",
    )
    .fetch_one(pool)
    .within()
    .await?;
    metrics::gauge!(metric::AGGREGATOR_STORE_DAYS_WAITING).set(row.try_get::<i64, _>("days")? as f64);
    Ok(row.try_get("due")?)
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
