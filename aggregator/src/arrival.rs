//! What has arrived since the last look, as days that must be rolled up again.
//!
//! Every partition of the log is one ordered lane in the consumer, so within (topic, partition) rows become visible in
//! the order of their offsets: what lies at or beyond the watermark is new, and all of it up to the greatest offset seen
//! is there. An arrival touches its own day, and the days whose numbers it changes from there:
//!
//! * the days of all other reports of its order, and of its showing of a page;
//! * the day on which its session begins, and the day on which it began before;
//! * the days of its chain of events without session id, whose cuts it may move.
//!
//! Days touched in vain cost time and nothing else. The watermarks move in the transaction that writes the days.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use clickhouse::{Row, query::Query};
use jiff::civil::Date;
use serde::Deserialize;
use sqlx::{PgConnection, PgPool, Row as _};

use crate::{
    calendar::Calendar,
    clickhouse::{Warehouse, is_unknown_table, text},
    error::Result,
};

const QUARTER_MS: i64 = 900_000;
const DAY_MS: i64 = 86_400_000;

/// The queries of one table of arrivals.
struct Source {
    lanes: &'static str,
    days: &'static str,
    has_sessions: bool,
}

const SOURCES: [Source; 2] = [
    Source { lanes: text::arrivals_lanes, days: text::arrivals_days, has_sessions: true },
    Source { lanes: text::arrivals_click_lanes, days: text::arrivals_clicks, has_sessions: false },
];

#[derive(Clone, Debug, Row, Deserialize)]
struct Lane {
    topic: String,
    partition: u32,
    last: u64,
}

/// Offsets of the lanes between which the arrivals lie.
#[derive(Clone, Debug, Default)]
struct Range {
    lanes: Vec<Lane>,
    names: Vec<String>,
    froms: Vec<u64>,
}

impl Range {
    fn param(&self, query: Query) -> Query {
        let tos: Vec<u64> = self.lanes.iter().map(|lane| lane.last).collect();
        query
            .param("lanes", &self.names)
            .param("froms", &self.froms)
            .param("tos", tos)
            .param("lanes_from", self.froms.iter().min().copied().unwrap_or(0))
    }
}

#[derive(Row, Deserialize)]
struct Arrived {
    store: String,
    quarter: i64,
    received_ms: i64,
    order_reports: u64,
    showings: u64,
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

/// When partitions never seen before are looked for: that reads all that is stored, so it may take a twentieth of the
/// time and no more. In a small store that is every time.
#[derive(Debug, Default)]
pub struct Discovery {
    due: Option<Instant>,
}

impl Discovery {
    fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    fn took(&mut self, time: Duration) {
        self.due = Some(Instant::now() + time * 20);
    }
}

/// Looks once for arrivals; says how many store-days they touch: none also where another instance is looking.
pub async fn look(warehouse: &Warehouse, pool: &PgPool, discovery: &mut Discovery) -> Result<usize> {
    let mut transaction = pool.begin().await?;
    let locked: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended('millrace arrivals', 0))")
            .fetch_one(&mut *transaction)
            .await?;
    if !locked {
        return Ok(0);
    }
    let watermarks = watermarks(&mut transaction).await?;
    let mut touched = Touched::default();
    let mut ranges = Vec::new();
    let discovers = discovery.is_due();
    let mut discovering = Duration::ZERO;
    for source in SOURCES {
        let discovering = discovers.then_some(&mut discovering);
        match look_at(warehouse, &source, &watermarks, &mut touched, discovering).await {
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
    for lane in ranges.iter().flat_map(|range| &range.lanes) {
        sqlx::query(
            "INSERT INTO arrival_watermarks (topic, partition, next_offset) VALUES ($1, $2, $3)
             ON CONFLICT (topic, partition) DO UPDATE
             SET next_offset = greatest(arrival_watermarks.next_offset, EXCLUDED.next_offset)",
        )
        .bind(&lane.topic)
        .bind(i32::try_from(lane.partition).unwrap_or(i32::MAX))
        .bind(i64::try_from(lane.last.saturating_add(1)).unwrap_or(i64::MAX))
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok(days)
}

type Watermarks = BTreeMap<(String, u32), u64>;

async fn watermarks(postgres: &mut PgConnection) -> Result<Watermarks> {
    let rows = sqlx::query("SELECT topic, partition, next_offset FROM arrival_watermarks")
        .fetch_all(postgres)
        .await?;
    rows.iter()
        .map(|row| {
            let partition = u32::try_from(row.try_get::<i32, _>("partition")?).unwrap_or(0);
            let next = u64::try_from(row.try_get::<i64, _>("next_offset")?).unwrap_or(0);
            Ok(((row.try_get("topic")?, partition), next))
        })
        .collect()
}

async fn look_at(
    warehouse: &Warehouse,
    source: &Source,
    watermarks: &Watermarks,
    touched: &mut Touched,
    discovering: Option<&mut Duration>,
) -> Result<Range> {
    let range = arrived_range(warehouse, source, watermarks, discovering).await?;
    if range.lanes.is_empty() {
        return Ok(range);
    }
    let ask = |name: &str| range.param(warehouse.query(&text::assemble(name)));
    let arrived: Vec<Arrived> = warehouse.rows(ask(source.days)).await?;
    let (mut orders, mut showings) = (0, 0);
    for row in &arrived {
        touched.add(&row.store, row.quarter);
        let received = touched.received_ms.entry(row.store.clone()).or_default();
        *received = row.received_ms.max(*received);
        orders += row.order_reports;
        showings += row.showings;
    }
    if !source.has_sessions || arrived.is_empty() {
        return Ok(range);
    }
    let stores: BTreeSet<&str> = arrived.iter().map(|row| row.store.as_str()).collect();
    let stores: Vec<&str> = stores.into_iter().collect();
    let mut first = arrived.iter().map(|row| row.quarter).min().unwrap_or(0);
    let mut last = arrived.iter().map(|row| row.quarter + QUARTER_MS).max().unwrap_or(0);
    let mut wanted = Vec::new();
    if orders > 0 {
        wanted.push(text::arrivals_orders);
    }
    if showings > 0 {
        wanted.push(text::arrivals_showings);
    }
    let (arrived_first, arrived_last) = (first, last);
    for name in wanted {
        let query =
            ask(name).param("stores", &stores).param("first", arrived_first).param("last", arrived_last);
        for row in warehouse.rows::<Related>(query).await? {
            touched.add(&row.store, row.quarter);
            first = first.min(row.quarter);
            last = last.max(row.quarter + QUARTER_MS);
        }
    }
    for name in [text::arrivals_sessions, text::arrivals_chains] {
        let query = ask(name)
            .param("stores", &stores)
            .param("first", first)
            .param("last", last)
            .param("since", first - DAY_MS);
        for row in warehouse.rows::<Related>(query).await? {
            touched.add(&row.store, row.quarter);
        }
    }
    Ok(range)
}

/// The lanes that have grown. `discovering` takes the time spent on lanes never seen before; `None`: not this time.
async fn arrived_range(
    warehouse: &Warehouse,
    source: &Source,
    watermarks: &Watermarks,
    mut discovering: Option<&mut Duration>,
) -> Result<Range> {
    // A list without elements has no type.
    let mut known = Range { lanes: Vec::new(), names: vec![String::new()], froms: vec![u64::MAX] };
    for ((topic, partition), next) in watermarks {
        known.names.push(format!("{topic}/{partition}"));
        known.froms.push(*next);
    }
    let mut range = Range::default();
    for (is_known, from) in [(1_u8, known.froms.iter().min().copied().unwrap_or(0)), (0, 0)] {
        let start = Instant::now();
        if is_known == 0 && discovering.is_none() {
            continue;
        }
        let query = warehouse
            .query(&text::assemble(source.lanes))
            .param("lanes", &known.names)
            .param("froms", &known.froms)
            .param("known", is_known)
            .param("lanes_from", from);
        for lane in warehouse.rows::<Lane>(query).await? {
            range.names.push(format!("{}/{}", lane.topic, lane.partition));
            range.froms.push(watermarks.get(&(lane.topic.clone(), lane.partition)).copied().unwrap_or(0));
            range.lanes.push(lane);
        }
        if let (0, Some(time)) = (is_known, &mut discovering) {
            **time += start.elapsed();
        }
    }
    Ok(range)
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
    .await?;
    Ok(())
}
