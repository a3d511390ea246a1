//! What has arrived since the last look, as days that must be rolled up again.
//!
//! Which rows have come is told by their lanes (`lanes`). An arrival touches its own day, and the days whose numbers it
//! changes from there:
//!
//! * the days of other copies of it: one that counts before them (a server's, an earlier one) may arrive later, and wins.
//!   Then it is the copies, too, whose order, showing and session lose an event: all of what follows is asked of them;
//! * the days of all other reports of its order, and of its showing of a page;
//! * the day on which its session begins, and the day on which it began before;
//! * the days of its chain of events without session id, whose cuts it may move.
//!
//! A copy that a merge has dropped before anybody looked is not found: then the day that it was counted on stays as it is
//! until something else touches it. That takes two copies of an event with times on different days, or of different
//! sessions, the one that counts stored last, and a merge of both within one look.
//!
//! Days touched in vain cost time and nothing else. The watermarks move in the transaction that writes the days.

mod lanes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use clickhouse::{Row, query::Query};
use jiff::civil::Date;
use serde::Deserialize;
use sqlx::{PgConnection, PgPool, Row as _};

use crate::{
    calendar::Calendar,
    clickhouse::{Warehouse, is_unknown_table, text},
    error::Result,
    locks::Work,
    postgres::{Answer as _, beside},
};

pub use lanes::Discovery;
use lanes::{Range, Source, Watermarks, arrived_range, changed_lanes, watermarks, write_watermark};

const QUARTER_MS: i64 = 900_000;
const DAY_MS: i64 = 86_400_000;

const SOURCES: [Source; 2] = [
    Source {
        table: "events",
        days: text::arrivals_days,
        copies: text::arrivals_copies,
        key: "store_id, key_date, name, visitor_hash, event_id",
        has_sessions: true,
    },
    Source {
        table: "clicks",
        days: text::arrivals_clicks,
        copies: text::arrivals_click_copies,
        key: "store_id, key_date, visitor_hash, event_id",
        has_sessions: false,
    },
];

#[derive(Row, Deserialize)]
struct Arrived {
    store: String,
    quarter: i64,
    received_ms: i64,
    order_reports: u64,
    showings: u64,
}

#[derive(Row, Deserialize)]
struct Copies {
    store: String,
    quarter: i64,
    /// Those that have not arrived now.
    others: u64,
}

#[derive(Row, Deserialize)]
struct Related {
    store: String,
    quarter: i64,
}

/// Quarters of an hour by store.
#[derive(Default)]
struct Touched {
    quarters: BTreeMap<String, BTreeSet<i64>>,
    received_ms: HashMap<String, i64>,
}

/// Looks once for arrivals; says how many store-days they touch. `None`: another instance is looking.
pub async fn look(warehouse: &Warehouse, pool: &PgPool, discovery: &mut Discovery) -> Result<Option<usize>> {
    let mut transaction = pool.begin().within().await?;
    if !Work::Arrivals.try_take(&mut transaction).await? {
        return Ok(None);
    }
    let watermarks = watermarks(&mut transaction).await?;
    let mut touched = Touched::default();
    let mut ranges = Vec::new();
    let discovers = discovery.is_due();
    let mut discovering = Duration::ZERO;
    for source in SOURCES {
        let resting = discovers.then_some(&mut discovering);
        let looking = look_at(warehouse, &source, &watermarks, &mut touched, discovery, resting);
        match beside(&mut transaction, looking).await {
            Ok(range) => ranges.push(range),
            // The consumer makes the tables; before that nothing has arrived.
            Err(error) if is_unknown_table(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if discovers {
        discovery.took(discovering);
    }
    let days = write_days(&mut transaction, &touched).await?;
    for (lane, watermark) in ranges.iter().flat_map(|range| &range.moved) {
        write_watermark(&mut transaction, lane, watermark).await?;
    }
    if ranges.iter().any(|range| !range.moved.is_empty()) {
        transaction.commit().within().await?;
    } else {
        transaction.rollback().within().await?;
    }
    Ok(Some(days))
}

async fn look_at(
    warehouse: &Warehouse,
    source: &Source,
    watermarks: &Watermarks,
    touched: &mut Touched,
    discovery: &mut Discovery,
    resting: Option<&mut Duration>,
) -> Result<Range> {
    let active = discovery.active(source);
    let changed = changed_lanes(warehouse, source, watermarks, &active, resting).await?;
    let range = arrived_range(warehouse, source, watermarks, &changed).await?;
    for (lane, _) in &range.moved {
        discovery.grew(source, lane);
    }
    if range.moved.is_empty() {
        return Ok(range);
    }
    let ask = |name: &str, rows: &str| range.param(warehouse.query(&text::assemble_of(name, rows)));
    touch_related(warehouse, source, &text::assemble(text::lane_rows), ask, touched).await?;
    Ok(range)
}

/// The quarters that rows decide, whether they come or go: it is the difference that counts.
async fn touch_related(
    warehouse: &Warehouse,
    source: &Source,
    rows: &str,
    ask: impl Fn(&str, &str) -> Query,
    touched: &mut Touched,
) -> Result<()> {
    let arrived: Vec<Arrived> = warehouse.rows(ask(source.days, rows)).await?;
    let (mut orders, mut showings) = (0, 0);
    for row in &arrived {
        touched.add(&row.store, row.quarter);
        let received = touched.received_ms.entry(row.store.clone()).or_default();
        *received = row.received_ms.max(*received);
        orders += row.order_reports;
        showings += row.showings;
    }
    if arrived.is_empty() {
        return Ok(());
    }
    let stores: BTreeSet<&str> = arrived.iter().map(|row| row.store.as_str()).collect();
    let stores: Vec<&str> = stores.into_iter().collect();
    let mut first = arrived.iter().map(|row| row.quarter).min().unwrap_or(0);
    let mut last = arrived.iter().map(|row| row.quarter + QUARTER_MS).max().unwrap_or(0);
    let mut others = 0;
    for row in warehouse.rows::<Copies>(ask(source.copies, rows).param("stores", &stores)).await? {
        touched.add(&row.store, row.quarter);
        first = first.min(row.quarter);
        last = last.max(row.quarter + QUARTER_MS);
        others += row.others;
    }
    let with_copies;
    let rows = if others > 0 {
        let key = source.key;
        with_copies = format!("({key}) IN (SELECT {key} FROM {} WHERE {rows})", source.table);
        &with_copies
    } else {
        rows
    };
    let mut wanted = Vec::new();
    if orders > 0 {
        wanted.push(text::arrivals_orders);
    }
    if showings > 0 || others > 0 {
        wanted.push(text::arrivals_showings);
    }
    let (arrived_first, arrived_last) = (first, last);
    for name in wanted {
        let query = ask(name, rows)
            .param("stores", &stores)
            .param("first", arrived_first)
            .param("last", arrived_last);
        for row in warehouse.rows::<Related>(query).await? {
            touched.add(&row.store, row.quarter);
            first = first.min(row.quarter);
            last = last.max(row.quarter + QUARTER_MS);
        }
    }
    if !source.has_sessions {
        return Ok(());
    }
    for name in [text::arrivals_sessions, text::arrivals_chains] {
        let query = ask(name, rows)
            .param("stores", &stores)
            .param("first", first)
            .param("last", last)
            .param("since", first - DAY_MS);
        for row in warehouse.rows::<Related>(query).await? {
            touched.add(&row.store, row.quarter);
        }
    }
    Ok(())
}

/// Quarters of an hour whose days the store's rows decide that meet these conditions, on `events` and on `clicks`, while
/// they are still there.
pub async fn decided_by(warehouse: &Warehouse, store_id: &str, rows: [&str; 2]) -> Result<BTreeSet<i64>> {
    let mut touched = Touched::default();
    for (source, rows) in SOURCES.into_iter().zip(rows) {
        let ask = |name: &str, rows: &str| warehouse.long_query(&text::assemble_of(name, rows));
        touch_related(warehouse, &source, rows, ask, &mut touched).await?;
    }
    Ok(touched.quarters.remove(store_id).unwrap_or_default())
}

impl Touched {
    fn add(&mut self, store: &str, quarter: i64) {
        match self.quarters.get_mut(store) {
            Some(quarters) => {
                quarters.insert(quarter);
            }
            None => {
                self.quarters.insert(store.to_owned(), BTreeSet::from([quarter]));
            }
        }
    }
}

/// Writes the store-days. Stores that are gone, or whose zone is none, have no days.
async fn write_days(postgres: &mut PgConnection, touched: &Touched) -> Result<usize> {
    if touched.quarters.is_empty() {
        return Ok(0);
    }
    let ids: Vec<&str> = touched.quarters.keys().map(String::as_str).collect();
    let rows = sqlx::query("SELECT id, timezone FROM stores WHERE id = ANY ($1)")
        .bind(ids)
        .fetch_all(&mut *postgres)
        .within()
        .await?;
    let mut written = 0;
    for row in rows {
        let (id, zone): (String, String) = (row.try_get("id")?, row.try_get("timezone")?);
        let Some(calendar) = Calendar::new(&zone) else {
            tracing::error!(
                store = id,
                zone,
                "the store's time zone is unknown; its arrivals are not rolled up"
            );
            continue;
        };
        let quarters = touched.quarters.get(&id).into_iter().flatten();
        let dates: BTreeSet<Date> = quarters.map(|quarter| calendar.date(*quarter)).collect();
        let received_ms = touched.received_ms.get(&id).copied().unwrap_or(0);
        touch(postgres, &id, dates.iter(), received_ms).await?;
        written += dates.len();
    }
    Ok(written)
}

/// Puts days of a store on the list of what must be rolled up.
pub async fn touch(
    postgres: &mut PgConnection,
    store_id: &str,
    dates: impl Iterator<Item = &Date>,
    received_ms: i64,
) -> Result<()> {
    let dates: Vec<String> = dates.map(Date::to_string).collect();
    sqlx::query(
        "INSERT INTO touched_days (store_id, date, received_at, touched_at)
         SELECT $1, date, to_timestamp($3::bigint / 1000.0), clock_timestamp() FROM unnest($2::date[]) AS date
         ON CONFLICT (store_id, date) DO UPDATE
         SET received_at = greatest(touched_days.received_at, EXCLUDED.received_at), touched_at = EXCLUDED.touched_at",
    )
    .bind(store_id)
    .bind(dates)
    .bind(received_ms)
    .execute(postgres)
    .within()
    .await?;
    Ok(())
}
