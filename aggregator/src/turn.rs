//! A store's turn: its rollup within a budget, so that no store keeps another waiting.
//!
//! All stores have the same budget of time, and a few are rolled up at once ([`due`], those that have waited longest
//! first). Who exceeds it, or fails, **steps aside** (`rollup_backoff`): it is tried again after a pause that doubles, in
//! a place of its own where only such stores wait for each other ([`next_aside`]), with a larger budget and fewer days at
//! once. A day that fails by itself, with all the budget there is, steps aside in turn (`touched_days.retry_at`), and the
//! store's other days go on. What was learned of a store is in Postgres: other instances, and the next start, know it.
//!
//! ClickHouse or Postgres being away is nobody's fault, and ends the cycle instead.

pub mod failing;

use std::time::{Duration, Instant, SystemTime};

use jiff::civil::Date;
use millrace_schemas::metric;
use sqlx::{PgPool, Row as _, postgres::PgRow};

use crate::{
    clickhouse::Warehouse,
    error::{Error, Result, Setback},
    postgres::Answer as _,
    rollup,
};

/// How much more a store may take, and how many fewer days at once, after each failure.
const STEP: u32 = 4;
/// Shortest and longest pause after failures.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(900));
/// Longest wait for a sign that ClickHouse and Postgres are there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What rolling up one store may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for any store.
    pub budget: Duration,
    /// Time for one that has exceeded that, at most.
    pub budget_max: Duration,
    /// Stores that are rolled up at once, those aside not counted.
    pub stores_at_once: usize,
    /// Rows of one table that are held in memory at once.
    pub rows_max: u64,
}

/// What a store's next turn may take, as its last ones went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    failures: u32,
    budget: Duration,
    days_max: i64,
}

impl Standing {
    fn usual(limits: &Limits) -> Self {
        Self { failures: 0, budget: limits.budget, days_max: rollup::DAYS_MAX }
    }

    /// After a failure in which so many days were tried.
    fn failed(self, limits: &Limits, days: usize) -> Self {
        let tried = i64::try_from(days).unwrap_or(i64::MAX).clamp(1, self.days_max);
        Self {
            failures: self.failures.saturating_add(1),
            budget: (self.budget * STEP).min(limits.budget_max),
            days_max: if days == 0 { self.days_max } else { (tried / i64::from(STEP)).max(1) },
        }
    }

    /// After a success with so many days. `None`: it is a store like any other.
    fn succeeded(self, limits: &Limits, days: usize, took: Duration) -> Option<Self> {
        let has_room = took < limits.budget / 2;
        // All that it may, or all that there was.
        if has_room && (self.days_max >= rollup::DAYS_MAX || (days as i64) < self.days_max) {
            return None;
        }
        let more = if has_room { i64::from(STEP) } else { 1 };
        Some(Self { failures: 0, days_max: (self.days_max * more).min(rollup::DAYS_MAX), ..self })
    }

    /// The pause after the last failure: a store that costs much for nothing does so ever more rarely.
    fn pause(&self, took: Duration) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        took.max(PAUSE.0).saturating_mul(1 << doublings).min(PAUSE.1)
    }

    fn read(row: &PgRow) -> Result<Self> {
        let number = |column: &str| row.try_get::<i64, _>(column);
        Ok(Self {
            failures: row.try_get::<i32, _>("failures")?.unsigned_abs(),
            budget: Duration::from_millis(number("budget_ms")?.unsigned_abs()),
            days_max: number("days_max")?.clamp(1, rollup::DAYS_MAX),
        })
    }
}

/// Stores with touched days that may be rolled up beside each other, those that have waited longest first.
pub async fn due(pool: &PgPool, stores_max: i64) -> Result<Vec<String>> {
    let ids = sqlx::query_scalar(
        "SELECT store_id FROM touched_days
         WHERE (retry_at IS NULL OR retry_at <= clock_timestamp())
           AND NOT EXISTS (SELECT 1 FROM rollup_backoff AS aside WHERE aside.store_id = touched_days.store_id)
           AND NOT EXISTS (SELECT 1 FROM stale_orders AS stale WHERE stale.store_id = touched_days.store_id)
         GROUP BY store_id ORDER BY min(waiting_since) LIMIT $1",
    )
    .bind(stores_max)
    .fetch_all(pool)
    .within()
    .await?;
    Ok(ids)
}

/// The store aside that is due, if any: the one whose pause has passed first.
pub async fn next_aside(pool: &PgPool) -> Result<Option<(String, Standing)>> {
    let row = sqlx::query(
        "SELECT store_id, failures, budget_ms, days_max FROM rollup_backoff AS aside
         WHERE retry_at <= clock_timestamp()
           AND NOT EXISTS (SELECT 1 FROM stale_orders AS stale WHERE stale.store_id = aside.store_id)
           AND EXISTS (SELECT 1 FROM touched_days
                       WHERE touched_days.store_id = aside.store_id
                         AND (touched_days.retry_at IS NULL OR touched_days.retry_at <= clock_timestamp()))
         ORDER BY retry_at LIMIT 1",
    )
    .fetch_optional(pool)
    .within()
    .await?;
    row.map(|row| Ok((row.try_get("store_id")?, Standing::read(&row)?))).transpose()
}

/// Rolls up a store within its budget, and notes how it went. Says how many days were rolled up; an error is one of
/// all stores.
pub async fn take(
    warehouse: &Warehouse,
    pool: &PgPool,
    limits: &Limits,
    store_id: &str,
    aside: Option<Standing>,
) -> Result<usize> {
    let standing = aside.unwrap_or_else(|| Standing::usual(limits));
    let start = Instant::now();
    let bounded = warehouse.bounded(standing.budget, limits.rows_max);
    let mut days = Vec::new();
    let work = rollup::roll_up(&bounded, pool, store_id, standing.days_max, &mut days);
    let error = match tokio::time::timeout(standing.budget, work).await {
        Ok(Ok(None)) => return Ok(0),
        Ok(Ok(Some(done))) => {
            if aside.is_some() {
                let next = standing.succeeded(limits, done.days, start.elapsed());
                note_success(pool, store_id, next).await?;
            }
            record(&done);
            return Ok(done.days);
        }
        Ok(Err(error)) => error,
        Err(_) => Error::BudgetExceeded(standing.budget),
    };
    let took = start.elapsed();
    metrics::counter!(metric::AGGREGATOR_FAILURES).increment(1);
    tracing::warn!(store = store_id, %error, ?took, days = days.len(), "rolling up a store failed");
    let Some(setback) = error.setback() else { return Err(error) };
    // Who is frozen says nothing either.
    if setback == Setback::Time && !is_there(warehouse, pool).await {
        return Err(error);
    }
    let next = standing.failed(limits, days.len());
    note_failure(pool, store_id, setback, &next, next.pause(took)).await?;
    let is_at_its_end = setback != Setback::Time || standing.budget >= limits.budget_max;
    if let ([day], true) = (&days[..], is_at_its_end) {
        step_day_aside(pool, store_id, *day, took).await?;
    }
    Ok(0)
}

async fn is_there(warehouse: &Warehouse, pool: &PgPool) -> bool {
    let postgres = tokio::time::timeout(ANSWER_TIMEOUT, sqlx::query("SELECT 1").execute(pool));
    warehouse.ping().await.is_ok() && matches!(postgres.await, Ok(Ok(_)))
}

async fn note_failure(
    pool: &PgPool,
    store_id: &str,
    setback: Setback,
    next: &Standing,
    pause: Duration,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO rollup_backoff (store_id, failures, budget_ms, days_max, retry_at, failing_since, reason)
         VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5), clock_timestamp(), $6)
         ON CONFLICT (store_id) DO UPDATE
         SET failures = EXCLUDED.failures, budget_ms = EXCLUDED.budget_ms, days_max = EXCLUDED.days_max,
             retry_at = EXCLUDED.retry_at, reason = EXCLUDED.reason,
             failing_since = coalesce(rollup_backoff.failing_since, EXCLUDED.failing_since)",
    )
    .bind(store_id)
    .bind(i32::try_from(next.failures).unwrap_or(i32::MAX))
    .bind(milliseconds(next.budget))
    .bind(next.days_max)
    .bind(pause.as_secs_f64())
    .bind(setback.as_str())
    .execute(pool)
    .within()
    .await?;
    Ok(())
}

/// Nothing of a store is forgotten while one of its days is aside: it fails still.
async fn note_success(pool: &PgPool, store_id: &str, next: Option<Standing>) -> Result<()> {
    let (budget_ms, days_max) = next.map(|next| (milliseconds(next.budget), next.days_max)).unzip();
    sqlx::query(
        "WITH aside AS (SELECT count(*) AS days FROM touched_days WHERE store_id = $1 AND failures > 0),
              gone AS (DELETE FROM rollup_backoff USING aside WHERE store_id = $1 AND $2 IS NULL AND aside.days = 0)
         UPDATE rollup_backoff
         SET failures = 0, budget_ms = coalesce($2, budget_ms), days_max = coalesce($3, days_max),
             retry_at = clock_timestamp(),
             failing_since = CASE WHEN aside.days > 0 THEN failing_since END
         FROM aside WHERE store_id = $1 AND ($2 IS NOT NULL OR aside.days > 0)",
    )
    .bind(store_id)
    .bind(budget_ms)
    .bind(days_max)
    .execute(pool)
    .within()
    .await?;
    Ok(())
}

async fn step_day_aside(pool: &PgPool, store_id: &str, day: Date, took: Duration) -> Result<()> {
    sqlx::query(
        "UPDATE touched_days
         SET failures = failures + 1,
             retry_at = clock_timestamp() + make_interval(secs => least($3 * 2 ^ least(failures, 16), $4))
         WHERE store_id = $1 AND date = $2::date",
    )
    .bind(store_id)
    .bind(day.to_string())
    .bind(took.max(PAUSE.0).as_secs_f64())
    .bind(PAUSE.1.as_secs_f64())
    .execute(pool)
    .within()
    .await?;
    Ok(())
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        budget: Duration::from_secs(10),
        budget_max: Duration::from_secs(300),
        stores_at_once: 2,
        rows_max: 1_000,
    };

    fn of(failures: u32, budget_seconds: u64, days_max: i64) -> Standing {
        Standing { failures, budget: Duration::from_secs(budget_seconds), days_max }
    }

    #[test]
    fn a_failing_store_has_more_time_fewer_days_and_longer_pauses() {
        let mut standing = Standing::usual(&LIMITS);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let took = standing.budget;
            standing = standing.failed(&LIMITS, 62);
            seen.push((standing.budget.as_secs(), standing.days_max, standing.pause(took).as_secs()));
        }
        assert_eq!(
            seen,
            [(40, 15, 10), (160, 3, 80), (300, 1, 640), (300, 1, 900), (300, 1, 900), (300, 1, 900)]
        );
        // What was tried counts, not what might have been.
        assert_eq!(Standing::usual(&LIMITS).failed(&LIMITS, 1).days_max, 1);
        assert_eq!(Standing::usual(&LIMITS).failed(&LIMITS, 0).days_max, rollup::DAYS_MAX);
        assert_eq!(of(1, 40, 15).pause(Duration::from_millis(3)), PAUSE.0);
    }

    #[test]
    fn a_store_that_recovers_is_like_any_other() {
        let quick = Duration::from_secs(2);
        let mut standing = of(3, 300, 1);
        let mut days = Vec::new();
        while let Some(next) = standing.succeeded(&LIMITS, 62, quick) {
            days.push(next.days_max);
            standing = next;
        }
        assert_eq!(days, [4, 16, 62]);
        assert_eq!(of(1, 40, 15).succeeded(&LIMITS, 3, quick), None);
        // One that needs its time keeps its place and its budget.
        assert_eq!(of(2, 160, 3).succeeded(&LIMITS, 1, Duration::from_secs(70)), Some(of(0, 160, 3)));
    }
}
