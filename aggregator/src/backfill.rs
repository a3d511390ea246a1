//! Rolling up days because somebody asks: a range of a store's days, all of them after a change of its settings, or
//! everything from nothing.

use std::collections::BTreeSet;

use clickhouse::Row;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::civil::Date;
use serde::Deserialize;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::{
    arrival::touch,
    calendar,
    clickhouse::{Warehouse, is_unknown_table, text},
    entity::orders,
    error::{Error, Result},
    locks::Work,
    postgres::{Answer as _, begin, parse_date},
    rollup::{
        self,
        scope::Store,
        write::{Table, table},
    },
};

/// Days that are touched and rolled up at a time: the bar moves, and an interruption loses little.
const STEP_DAYS: usize = 7;
/// How long another instance may hold the store before it is asked again.
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
/// Days that one call takes.
const DAYS_MAX: i64 = 3_660;

/// Rolls up a store's days from one to another, both included, whatever stands there.
pub async fn run(
    warehouse: &Warehouse,
    pool: &PgPool,
    store_id: &str,
    from: Date,
    to: Date,
    bar: &ProgressBar,
) -> Result<usize> {
    let refuse = |message: String| Error::Store { store_id: store_id.to_owned(), message };
    if from > to || calendar::shift(from, DAYS_MAX) < to {
        return Err(refuse(format!("{from} to {to} is no range of 1 to {DAYS_MAX} days")));
    }
    if Store::read(&mut *pool.acquire().within().await?, store_id).await?.is_none() {
        return Err(refuse("there is no such store".into()));
    }
    let days: Vec<Date> = calendar::dates(from, to).collect();
    bar.set_length(days.len() as u64);
    // Newest first: what people look at is right soonest.
    for step in days.rchunks(STEP_DAYS) {
        touch(&mut *pool.acquire().within().await?, store_id, step.iter(), 0).await?;
        let touched_at: String =
            sqlx::query_scalar("SELECT clock_timestamp()::text").fetch_one(pool).within().await?;
        while waits(pool, store_id, step, &touched_at).await? {
            let rolled =
                rollup::roll_up(warehouse, pool, store_id, rollup::DAYS_MAX, &mut Vec::new()).await?;
            if rolled.is_none() && !orders::refresh_stale(warehouse, pool).await? {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
        }
        bar.inc(step.len() as u64);
    }
    bar.finish();
    Ok(days.len())
}

/// Whether any of the days still waits since then. One that was touched later is a new arrival's, and not ours.
async fn waits(pool: &PgPool, store_id: &str, days: &[Date], touched_at: &str) -> Result<bool> {
    let days: Vec<String> = days.iter().map(Date::to_string).collect();
    let waits = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM touched_days
                        WHERE store_id = $1 AND date = ANY ($2::date[]) AND touched_at <= $3::timestamptz)",
    )
    .bind(store_id)
    .bind(days)
    .bind(touched_at)
    .fetch_one(pool)
    .within()
    .await?;
    Ok(waits)
}

/// A bar with days, speed and the time that is left.
pub fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} days, {elapsed} passed, {eta} left {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Forgets every rollup and how far arrivals were looked at; whichever instance looks next rolls up all that is stored.
/// A rollup that another instance has under its hands is either forgotten too, or written afterwards from the same
/// events. The rollups of days whose events are gone because they were old ([`crate::privacy::retention`]) stay.
pub async fn forget(pool: &PgPool) -> Result<()> {
    let mut transaction = begin(pool).within().await?;
    // Nobody may write a watermark afterwards that was read before.
    Work::Arrivals.take(&mut transaction).await?;
    for table in table::ALL {
        let forget = AssertSqlSafe(forget_sql(&table));
        sqlx::query(forget).execute(&mut *transaction).within().await?;
    }
    let forget = format!("TRUNCATE {}", BOOKS.join(", "));
    sqlx::query(AssertSqlSafe(forget)).execute(&mut *transaction).within().await?;
    let stores: Vec<String> =
        sqlx::query_scalar("SELECT id FROM stores ORDER BY id").fetch_all(&mut *transaction).within().await?;
    let stores: Vec<&str> = stores.iter().map(String::as_str).collect();
    orders::make_stale(&mut transaction, &stores).await?;
    transaction.commit().within().await
}

/// Removes a table's rows, but for those whose events are gone because they were old: nothing would bring them back.
fn forget_sql(table: &Table) -> String {
    let Table { name, date, .. } = table;
    let kept = if *name == table::COHORTS.name {
        // Those that can be computed are, over what stands there.
        "true".to_owned()
    } else if table.fixed.contains(&"period_type") {
        format!(
            "thinned.date BETWEEN {name}.{date} AND {name}.{date}
             + CASE {name}.period_type WHEN 'day' THEN 0 WHEN 'week' THEN 6 ELSE 30 END
             AND date_trunc({name}.period_type, thinned.date)::date = {name}.{date}"
        )
    } else {
        format!("thinned.date = {name}.{date}")
    };
    format!(
        "DELETE FROM {name} WHERE NOT EXISTS
             (SELECT 1 FROM thinned_days AS thinned WHERE thinned.store_id = {name}.store_id AND {kept})"
    )
}

/// What says how far rollups have come.
const BOOKS: [&str; 4] = ["arrival_watermarks", "touched_days", "rollup_watermarks", "rollup_backoff"];

#[derive(Row, Deserialize)]
struct Quarter {
    quarter: i64,
}

/// Quarters of an hour in which a store has events or clicks.
pub async fn quarters(warehouse: &Warehouse, store_id: &str) -> Result<Vec<i64>> {
    let query = warehouse.query(&text::assemble(text::store_quarters)).param("store", store_id);
    match warehouse.rows::<Quarter>(query).await {
        Err(error) if is_unknown_table(&error) => Ok(Vec::new()),
        rows => Ok(rows?.into_iter().map(|row| row.quarter).collect()),
    }
}

/// Puts every day of a store on the list: those of its events in its time zone as it is now, and those that have rows
/// from before.
pub async fn touch_everything(
    warehouse: &Warehouse,
    postgres: &mut PgConnection,
    store: &Store,
) -> Result<usize> {
    let quarters = quarters(warehouse, &store.id).await?;
    let mut dates: BTreeSet<Date> = quarters.iter().map(|quarter| store.calendar.date(*quarter)).collect();
    let written: Vec<String> = sqlx::query_scalar(
        "SELECT date::text FROM analytics_summary WHERE store_id = $1 AND period_type = 'day'
         UNION SELECT date::text FROM summary_days WHERE store_id = $1
         UNION SELECT DISTINCT date::text FROM heatmap_data WHERE store_id = $1",
    )
    .bind(&store.id)
    .fetch_all(&mut *postgres)
    .within()
    .await?;
    for date in &written {
        dates.insert(parse_date(date)?);
    }
    touch(postgres, &store.id, dates.iter(), 0).await?;
    Ok(dates.len())
}
