//! Rolling a store up: its touched days are computed anew from ClickHouse and written, in one transaction with the
//! watermark and the removal of the days from the list.
//!
//! One instance at a time rolls a store up, by a lock ([`crate::locks`]) that belongs to the transaction: taken before anything is read, and
//! gone in the moment the transaction is committed, or can no longer be. An instance that was frozen or cut off and comes
//! back has lost both or neither, so it never commits an older computation over a newer one; and the list of days is read
//! under the lock, so the next owner computes from what the last one left. Statements see what is committed when they
//! begin (Postgres's default), or the transaction fails and is repeated.
//!
//! A chunk is a few consecutive days. What a day's rows depend on lies mostly in the day; where it does not, the module
//! of the rollup says how far around it reads. What one touched day changes on *other* days is found when it is touched
//! ([`crate::arrival`]), except for what follows from the calendar alone: weeks and months, stock turns, days of entry
//! into a funnel.

pub mod cohorts;
pub mod funnels;
pub mod heatmaps;
pub mod orders;
pub mod products;
pub mod revenue;
pub mod scope;
pub mod sessions;
pub mod summary;
pub mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::civil::Date;
use millrace_schemas::metric;
use sqlx::{PgConnection, PgPool, Row as _};

use crate::{
    calendar::Period,
    clickhouse::Warehouse,
    entity::orders as orders_table,
    error::Result,
    locks,
    postgres::{Answer as _, begin, beside, parse_date},
    privacy::retention::Frozen,
};
use scope::{Chunk, Store};
use write::table;

/// Days that are computed together: bounds what one query groups and what one answer holds.
const CHUNK_DAYS: usize = 7;
/// Touched days of a store that one transaction takes.
pub const DAYS_MAX: i64 = 62;

/// What rolling up a store has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Touched days that were rolled up.
    pub days: usize,
    /// Newest receipt among them, epoch milliseconds.
    pub received_ms: i64,
}

/// Rolls up some of the touched days of a store, `days_max` at most: by turns the one that has waited longest and the
/// newest one. `tried` becomes those days, whatever becomes of them. `None`: another instance is at it, nothing is
/// touched, or the store's settings have changed meanwhile.
pub async fn roll_up(
    warehouse: &Warehouse,
    pool: &PgPool,
    store_id: &str,
    days_max: i64,
    tried: &mut Vec<Date>,
) -> Result<Option<Done>> {
    let mut transaction = begin(pool).within().await?;
    if !locks::try_take_store(&mut transaction, store_id).await?
        || orders_table::is_stale(&mut transaction, store_id).await?
    {
        return Ok(None);
    }
    limit_statements(&mut transaction, warehouse.timeout()).await?;
    let touched = touched(&mut transaction, store_id, days_max).await?;
    tried.extend(touched.keys());
    let (false, Some(store)) = (touched.is_empty(), Store::read(&mut transaction, store_id).await?) else {
        return Ok(None);
    };
    let frozen = Frozen::read(&mut transaction, store_id).await?;
    let days: BTreeSet<Date> = touched.keys().copied().filter(|day| !frozen.has(*day)).collect();
    let store = Arc::new(store);
    if !days.is_empty() {
        compute(warehouse, &mut transaction, &store, &days, &frozen).await?;
    }
    if !store.is_current(&mut transaction).await? {
        return Ok(None);
    }
    let received_ms = touched.values().map(|touch| touch.received_ms).max().unwrap_or(0);
    finish(&mut transaction, store_id, &touched, received_ms).await?;
    transaction.commit().within().await?;
    Ok(Some(Done { days: touched.len(), received_ms }))
}

/// What we give up after so long, Postgres gives up too.
async fn limit_statements(postgres: &mut PgConnection, timeout: Duration) -> Result<()> {
    sqlx::query(
        "SELECT set_config('statement_timeout', least($1, nullif(setting::bigint, 0))::text, true)
         FROM pg_settings WHERE name = 'statement_timeout'",
    )
    .bind(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX))
    .execute(postgres)
    .within()
    .await?;
    Ok(())
}

struct Touch {
    received_ms: i64,
    /// As text, so that it comes back to the microsecond.
    touched_at: String,
}

async fn touched(
    postgres: &mut PgConnection,
    store_id: &str,
    days_max: i64,
) -> Result<BTreeMap<Date, Touch>> {
    // Newest first alone, old days would wait for ever where new ones are touched all the time.
    let rows = sqlx::query(
        "SELECT date::text AS date, touched_at::text AS touched_at,
                (extract(epoch FROM received_at) * 1000)::bigint AS received_ms
         FROM touched_days
         WHERE store_id = $1 AND (retry_at IS NULL OR retry_at <= clock_timestamp())
         ORDER BY least(2 * row_number() OVER (ORDER BY waiting_since, date DESC) - 1,
                        2 * row_number() OVER (ORDER BY date DESC))
         LIMIT $2",
    )
    .bind(store_id)
    .bind(days_max)
    .fetch_all(postgres)
    .within()
    .await?;
    rows.iter()
        .map(|row| {
            let date: String = row.try_get("date")?;
            let touch =
                Touch { received_ms: row.try_get("received_ms")?, touched_at: row.try_get("touched_at")? };
            Ok((parse_date(&date)?, touch))
        })
        .collect()
}

/// Takes the days off the list, unless they were touched again meanwhile and begin to wait anew; moves the watermark.
async fn finish(
    postgres: &mut PgConnection,
    store_id: &str,
    touched: &BTreeMap<Date, Touch>,
    received_ms: i64,
) -> Result<()> {
    let dates: Vec<String> = touched.keys().map(Date::to_string).collect();
    let times: Vec<String> = touched.values().map(|touch| touch.touched_at.clone()).collect();
    // In the order in which arrivals write them, so that neither waits for the other in a circle.
    sqlx::query(
        "SELECT 1 FROM touched_days WHERE store_id = $1 AND date = ANY ($2::date[]) ORDER BY date FOR UPDATE",
    )
    .bind(store_id)
    .bind(&dates)
    .execute(&mut *postgres)
    .within()
    .await?;
    sqlx::query(
        "DELETE FROM touched_days USING unnest($2::date[], $3::timestamptz[]) AS done (date, touched_at)
         WHERE store_id = $1 AND touched_days.date = done.date AND touched_days.touched_at = done.touched_at",
    )
    .bind(store_id)
    .bind(&dates)
    .bind(times)
    .execute(&mut *postgres)
    .within()
    .await?;
    sqlx::query(
        "UPDATE touched_days SET waiting_since = touched_at, failures = 0, retry_at = NULL
         WHERE store_id = $1 AND date = ANY ($2::date[])",
    )
    .bind(store_id)
    .bind(dates)
    .execute(&mut *postgres)
    .within()
    .await?;
    sqlx::query(
        "INSERT INTO rollup_watermarks (store_id, received_at, rolled_at)
         VALUES ($1, least(to_timestamp($2::bigint / 1000.0),
                           (SELECT min(received_at) FROM touched_days WHERE store_id = $1)), clock_timestamp())
         ON CONFLICT (store_id) DO UPDATE
         SET received_at = greatest(rollup_watermarks.received_at, EXCLUDED.received_at),
             rolled_at = EXCLUDED.rolled_at",
    )
    .bind(store_id)
    .bind(received_ms)
    .execute(postgres)
    .within()
    .await?;
    Ok(())
}

/// Computes and writes everything that the days' events decide.
async fn compute(
    warehouse: &Warehouse,
    postgres: &mut PgConnection,
    store: &Arc<Store>,
    days: &BTreeSet<Date>,
    frozen: &Frozen,
) -> Result<()> {
    for grid in scope::grids(&store.calendar, Period::Day, days, CHUNK_DAYS) {
        let chunk = Chunk { store: Arc::clone(store), grid };
        compute_chunk(warehouse, postgres, &chunk).await?;
    }
    timed("summary", summary::write(warehouse, postgres, store, days, frozen)).await?;
    timed("products", products::write_stock_turns(postgres, store, days)).await?;
    timed("funnels", funnels::write(warehouse, postgres, store, days, frozen)).await?;
    timed("cohorts", cohorts::write(warehouse, postgres, store, frozen)).await
}

async fn compute_chunk(warehouse: &Warehouse, postgres: &mut PgConnection, chunk: &Chunk) -> Result<()> {
    let dates = &chunk.grid.dates;
    let (Some(first), Some(last)) = (dates.first(), dates.last()) else { return Ok(()) };
    let id = &chunk.store.id;
    let rates = chunk.store.rates(postgres, *first, *last).await?;
    let sales = timed("orders", beside(postgres, orders::Sales::read(warehouse, chunk))).await?;
    table::REVENUE.replace(postgres, id, &[], dates, revenue::rows(chunk, &sales)).await?;

    let lookback = beside(postgres, sessions::Lookback::find(warehouse, chunk)).await?;
    let sessions = timed("sessions", beside(postgres, sessions::read(warehouse, chunk, &lookback))).await?;
    let parts = summary::parts(chunk, &sessions, &sales, &rates);
    table::SUMMARY_DAYS.replace(postgres, id, &[], dates, parts).await?;

    let products = products::rows(warehouse, chunk, &lookback, &sessions, &sales, &rates);
    let products = timed("products", beside(postgres, products)).await?;
    table::PRODUCTS.replace(postgres, id, &[], dates, products).await?;

    let bins = timed("heatmaps", beside(postgres, heatmaps::bins(warehouse, chunk))).await?;
    table::HEATMAP.replace(postgres, id, &[], dates, bins).await?;
    let elements = timed("heatmaps", beside(postgres, heatmaps::elements(warehouse, chunk))).await?;
    table::ELEMENTS.replace(postgres, id, &[], dates, elements).await
}

async fn timed<T>(rollup: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    let done = work.await;
    let seconds = start.elapsed().as_secs_f64();
    metrics::histogram!(metric::AGGREGATOR_ROLLUP_SECONDS, "rollup" => rollup).record(seconds);
    tracing::debug!(rollup, seconds, ok = done.is_ok(), "rolled up");
    done
}
