//! Retention: a store's events, clicks and dead letters go when they are as old as the store says; what ClickHouse's
//! tables themselves keep for no longer (their TTL) goes with them. Rollups stay.
//!
//! A rollup is a function of events, so one that is computed again after they are gone would be smaller, or nothing. So
//! **before** old rows go, the days on which they happened, and the day after each (a session may reach into it), become
//! *thinned days* in Postgres; such days are [`Frozen`]:
//!
//! * no rollup of a frozen day is computed again, nor of a week or month that holds one, whoever asks: a late event, a
//!   backfill, a rebuild, another time zone, currency or funnel;
//! * a cohort says who was new, and whose first event is gone looks new when they come back. Of the time since the last
//!   thinned day, the older half serves to tell who was there before; cohorts that begin in it, or earlier, stay as they
//!   stand.
//!
//! What the tables' TTL removes is not seen by anybody, so days that it will reach within two days are frozen ahead.
//! The store's lock is held meanwhile: no rollup computes from rows of which some are gone, not knowing it.

use std::collections::BTreeSet;

use clickhouse::Row;
use jiff::{ToSpan as _, civil::Date};
use millrace_schemas::{
    metric,
    refused::{COUNT_DAYS_MAX, SAMPLE_DAYS_MAX},
};
use serde::Deserialize;
use sqlx::{PgConnection, PgPool, Row as _};

use super::{
    subject::letters_certainly_of,
    tables::{SENT, Tables},
};
use crate::{
    calendar::{Period, shift},
    clickhouse::Warehouse,
    error::Result,
    locks,
    postgres::{Answer as _, begin, beside, parse_date},
    rollup::scope::Store,
};

/// Stores that one step takes.
const STORES_MAX: i64 = 100;
/// How long before ClickHouse may remove rows by itself their days are frozen: it is asked once a day.
const AHEAD_DAYS: i64 = 2;
const DAY_MS: i64 = 86_400_000;

/// Days of a store whose events are gone, at least in part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    days: BTreeSet<Date>,
}

impl Frozen {
    /// Reads them; whoever computes rollups holds the store's lock.
    pub async fn read(postgres: &mut PgConnection, store_id: &str) -> Result<Self> {
        let days: Vec<String> = sqlx::query_scalar("SELECT date::text FROM thinned_days WHERE store_id = $1")
            .bind(store_id)
            .fetch_all(postgres)
            .within()
            .await?;
        Ok(Self { days: days.iter().map(|day| parse_date(day)).collect::<Result<_>>()? })
    }

    /// Whether the rollups of a day stay as they are.
    pub fn has(&self, day: Date) -> bool {
        self.days.contains(&day)
    }

    /// Whether a day of the period is among them.
    pub fn overlaps(&self, period: Period, start: Date) -> bool {
        self.days.range(start..period.after(start, 1)).next().is_some()
    }

    /// Cohorts before this stay as they are, given the day of the store's last event.
    pub fn cohorts_until(&self, last: Date) -> Date {
        let Some(thinned) = self.days.last() else { return Date::MIN };
        let first = shift(*thinned, 1);
        let days = first.until(last).map_or(0, |span| i64::from(span.get_days()));
        if last == Date::MAX { last } else { shift(first, days.max(0) / 2) }
    }
}

/// Destroys the salts of days that began 48 h ago, as collectors do, for when none runs. Rewriting the table takes them off
/// the disk: a deleted row stays in its page otherwise.
pub async fn destroy_salts(pool: &PgPool) -> Result<()> {
    let gone = sqlx::query("DELETE FROM visitor_salts WHERE hour <= clock_timestamp() - interval '48 hours'")
        .execute(pool)
        .within()
        .await?;
    let stale: bool = sqlx::query_scalar(
        "SELECT coalesce((SELECT n_dead_tup > 0 FROM pg_stat_user_tables WHERE relid = 'visitor_salts'::regclass), false)",
    )
    .fetch_one(pool)
    .within()
    .await?;
    if gone.rows_affected() > 0 || stale {
        // The second tells the statistics that there is nothing left to do.
        for vacuum in ["VACUUM (FULL) visitor_salts", "VACUUM visitor_salts"] {
            sqlx::query(vacuum).execute(pool).within().await?;
        }
    }
    Ok(())
}

/// Removes what is kept of refused events for no longer than so.
pub async fn forget_refused(pool: &PgPool) -> Result<()> {
    for (statement, days) in [
        (
            "DELETE FROM refused_events WHERE refused_at < clock_timestamp() - make_interval(days => $1)",
            SAMPLE_DAYS_MAX,
        ),
        (
            "DELETE FROM refused_counts WHERE date < (clock_timestamp() AT TIME ZONE 'UTC')::date - $1",
            COUNT_DAYS_MAX,
        ),
    ] {
        sqlx::query(statement).bind(days).execute(pool).within().await?;
    }
    Ok(())
}

/// Removes what is old enough in every store that is due. `false`: none was, or another instance is at it.
pub async fn step(warehouse: &Warehouse, pool: &PgPool) -> Result<bool> {
    let due = sqlx::query(
        "SELECT id, retention_days FROM stores
         LEFT JOIN retention_runs ON retention_runs.store_id = stores.id
         WHERE ran_at IS NULL OR ran_at < clock_timestamp() - interval '1 day'
         ORDER BY ran_at NULLS FIRST LIMIT $1",
    )
    .bind(STORES_MAX)
    .fetch_all(pool)
    .within()
    .await?;
    if due.is_empty() {
        return Ok(false);
    }
    // In tables that are still being made there is nothing old.
    let tables = Tables::find(warehouse).await?.filter(|tables| tables.are_complete);
    let Some(tables) = tables else { return Ok(false) };
    let (mut has_run, mut has_hidden) = (false, false);
    for row in due {
        let (store_id, days): (String, Option<i32>) = (row.try_get("id")?, row.try_get("retention_days")?);
        match thin(warehouse, pool, &tables, &store_id, days.map(i64::from)).await {
            Ok(None) => {}
            Ok(Some(hid)) => {
                has_run = true;
                has_hidden |= hid;
            }
            // The other stores do not wait for it.
            Err(error) if error.setback().is_some() => {
                metrics::counter!(metric::AGGREGATOR_FAILURES).increment(1);
                tracing::warn!(store = store_id, %error, "a store's old rows cannot be removed; trying again in an hour");
                postpone(pool, &store_id).await?;
            }
            Err(error) => return Err(error),
        }
    }
    if has_hidden {
        // Once for all stores: it rewrites parts that they share.
        tables.rewrite(warehouse).await?;
    }
    Ok(has_run)
}

/// Has a store wait for an hour.
async fn postpone(pool: &PgPool, store_id: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO retention_runs (store_id, ran_at) VALUES ($1, clock_timestamp() - interval '23 hours')
         ON CONFLICT (store_id) DO UPDATE SET ran_at = EXCLUDED.ran_at",
    )
    .bind(store_id)
    .execute(pool)
    .within()
    .await?;
    Ok(())
}

/// Removes a store's old rows. Says whether there were any; `None`: another instance is at the store.
async fn thin(
    warehouse: &Warehouse,
    pool: &PgPool,
    tables: &Tables,
    store_id: &str,
    retention_days: Option<i64>,
) -> Result<Option<bool>> {
    let mut transaction = begin(pool).within().await?;
    if !locks::try_take_store(&mut transaction, store_id).await? {
        return Ok(None);
    }
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let before = |days: i64| (now_ms - days * DAY_MS).div_euclid(DAY_MS) * DAY_MS;
    let own = retention_days.filter(|days| tables.ttl_days.is_none_or(|ttl| *days < ttl)).map(before);
    let passing = tables.ttl_days.map(|ttl| before(ttl - AHEAD_DAYS));
    // A store whose zone is unknown has no days and no rollups; its rows go all the same.
    if let (Ok(Some(store)), Some(cut)) = (Store::read(&mut transaction, store_id).await, own.max(passing)) {
        let days = beside(&mut transaction, days_before(warehouse, &store, cut)).await?;
        let days: Vec<String> = days.iter().map(Date::to_string).collect();
        // Durable before anything is removed.
        sqlx::query(
            "INSERT INTO thinned_days (store_id, date) SELECT $1, unnest($2::date[]) ON CONFLICT DO NOTHING",
        )
        .bind(store_id)
        .bind(days)
        .execute(pool)
        .within()
        .await?;
    }
    let mut has_hidden = false;
    if let Some(cut) = own {
        for table in SENT {
            has_hidden |= beside(&mut transaction, hide(warehouse, tables, store_id, table, cut)).await?;
        }
    }
    sqlx::query(
        "INSERT INTO retention_runs (store_id, ran_at, received_before)
         VALUES ($1, clock_timestamp(), to_timestamp($2::bigint / 1000.0))
         ON CONFLICT (store_id) DO UPDATE
         SET ran_at = EXCLUDED.ran_at,
             received_before = greatest(retention_runs.received_before, EXCLUDED.received_before)",
    )
    .bind(store_id)
    .bind(own)
    .execute(&mut *transaction)
    .within()
    .await?;
    transaction.commit().within().await?;
    Ok(Some(has_hidden))
}

async fn hide(warehouse: &Warehouse, tables: &Tables, store_id: &str, table: &str, cut: i64) -> Result<bool> {
    let rows = if table == "dead_letters" {
        format!(
            "died_at < fromUnixTimestamp64Milli(toInt64({cut}), 'UTC') AND {}",
            letters_certainly_of(store_id)
        )
    } else {
        format!(
            "store_id = unhex('{}') AND received_at < fromUnixTimestamp64Milli(toInt64({cut}), 'UTC')",
            hex::encode(store_id)
        )
    };
    let count = warehouse.query(&format!("SELECT count() FROM {table} WHERE {rows}"));
    if warehouse.rows::<u64>(count).await?.first().is_none_or(|count| *count == 0) {
        return Ok(false);
    }
    tables.hide(warehouse, table, &rows).await?;
    Ok(true)
}

#[derive(Row, Deserialize)]
struct Quarter {
    quarter: i64,
}

/// The days of what was received before a moment, and the day after each.
async fn days_before(warehouse: &Warehouse, store: &Store, cut: i64) -> Result<BTreeSet<Date>> {
    let mut days = BTreeSet::new();
    for table in ["events", "clicks"] {
        let query = warehouse
            .query(&format!(
                "SELECT DISTINCT toInt64(intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000) AS quarter
                 FROM {table}
                 WHERE store_id = {{store:String}} AND received_at < fromUnixTimestamp64Milli({{cut:Int64}}, 'UTC')"
            ))
            .param("store", &store.id)
            .param("cut", cut);
        for Quarter { quarter } in warehouse.rows(query).await? {
            let day = store.calendar.date(quarter);
            days.extend([day, day.saturating_add(1.day())]);
        }
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn weeks_and_months_are_frozen_with_their_days() {
        let frozen = Frozen { days: BTreeSet::from([date(2026, 3, 1), date(2026, 3, 2)]) };
        assert!(frozen.has(date(2026, 3, 2)) && !frozen.has(date(2026, 3, 3)));
        // 2 March 2026 is a Monday.
        for (period, start, is) in [
            (Period::Week, date(2026, 2, 23), true),
            (Period::Week, date(2026, 3, 2), true),
            (Period::Week, date(2026, 3, 9), false),
            (Period::Month, date(2026, 2, 1), false),
            (Period::Month, date(2026, 3, 1), true),
            (Period::Day, date(2026, 3, 1), true),
            (Period::Day, date(2026, 2, 28), false),
        ] {
            assert_eq!(frozen.overlaps(period, start), is, "{period:?} {start}");
        }
    }

    #[test]
    fn half_of_what_is_left_tells_who_is_new() {
        let frozen = Frozen { days: BTreeSet::from([date(2026, 3, 1)]) };
        assert_eq!(frozen.cohorts_until(date(2026, 3, 22)), date(2026, 3, 12));
        assert_eq!(frozen.cohorts_until(date(2026, 2, 1)), date(2026, 3, 2));
        assert_eq!(frozen.cohorts_until(Date::MAX), Date::MAX);
        assert_eq!(Frozen::default().cohorts_until(date(2026, 3, 22)), Date::MIN);
    }
}
