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
mod related;
mod slice;

use std::{collections::BTreeSet, time::Duration};

use jiff::civil::Date;
use millrace_schemas::metric;
use sqlx::{PgConnection, PgPool, Row as _};

use crate::{
    backfill::touch_everything,
    calendar::Calendar,
    clickhouse::{Warehouse, is_unknown_table, text},
    entity::orders,
    error::{Error, Result},
    locks::Work,
    postgres::{Answer as _, begin, beside},
    rollup::scope::Store,
};

pub use lanes::Discovery;
use lanes::{Range, Source, Watermarks, arrived_range, changed_lanes, watermarks, write_watermark};
use related::Touched;

/// Longest that one query for what arrivals decide may take, and rows that it may answer with: one for each quarter of an hour.
const QUERY_TIME_MAX: Duration = Duration::from_secs(60);
const QUERY_ROWS_MAX: u64 = 2_000_000;
/// Store-days that one statement writes.
const BATCH_DAYS: usize = 10_000;

const SOURCES: [Source; 2] = [
    Source {
        table: "events",
        days: text::arrivals_days,
        copies: text::arrivals_copies,
        key: "store_id, key_date, name, visitor_hash, event_id",
        has_sessions: true,
        has_orders: true,
    },
    Source {
        table: "clicks",
        days: text::arrivals_clicks,
        copies: text::arrivals_click_copies,
        key: "store_id, key_date, visitor_hash, event_id",
        has_sessions: false,
        has_orders: false,
    },
];

/// What a look has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Store-days that were touched.
    pub days: usize,
    /// More has arrived than one look takes.
    pub has_more: bool,
}

/// Looks once for arrivals, a slice of them where many wait. `None`: another instance is looking.
pub async fn look(warehouse: &Warehouse, pool: &PgPool, discovery: &mut Discovery) -> Result<Option<Looked>> {
    let mut transaction = begin(pool).within().await?;
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
        let looked = async {
            let looking = look_at(warehouse, &source, &watermarks, &mut touched, discovery, resting);
            let range = beside(&mut transaction, looking).await?;
            if source.has_orders && !touched.order_reports.is_empty() {
                refresh_orders(warehouse, pool, &mut transaction, &range, &touched).await?;
            }
            Ok(range)
        };
        match looked.await {
            Ok(range) => ranges.push(range),
            // The consumer makes the tables; before that nothing has arrived.
            Err(error) if is_unknown_table(&error) => {}
            // Nothing has moved, so it is the same slice again, and less of it.
            Err(error) if error.is_of_size() && discovery.can_halve() => {
                discovery.halve();
                let slice_rows = discovery.slice_rows();
                tracing::warn!(%error, slice_rows, "arrivals needed too much at once; taking fewer");
                transaction.rollback().within().await?;
                return Ok(Some(Looked { days: 0, has_more: true }));
            }
            Err(error) => return Err(error),
        }
    }
    if discovers {
        discovery.took(discovering);
    }
    let days = write_days(warehouse, &mut transaction, &touched).await?;
    for (lane, watermark) in ranges.iter().flat_map(|range| &range.moved) {
        write_watermark(&mut transaction, lane, watermark).await?;
    }
    if ranges.iter().any(|range| !range.moved.is_empty()) {
        transaction.commit().within().await?;
    } else {
        transaction.rollback().within().await?;
    }
    let has_more = ranges.iter().any(|range| range.has_more);
    if has_more {
        discovery.grow();
    }
    let waiting_rows: u64 = ranges.iter().map(|range| range.waiting_rows).sum();
    metrics::gauge!(metric::AGGREGATOR_ARRIVALS_WAITING).set(waiting_rows as f64);
    Ok(Some(Looked { days, has_more }))
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
    let range = arrived_range(warehouse, source, watermarks, &changed, discovery.slice_rows()).await?;
    for (lane, _) in &range.moved {
        discovery.grew(source, lane);
    }
    if range.moved.is_empty() {
        return Ok(range);
    }
    // What senders decide the cost of.
    let bounded = warehouse.bounded(QUERY_TIME_MAX, QUERY_ROWS_MAX);
    let ask = |name: &str, rows: &str| range.param(bounded.query(&text::assemble_of(name, rows)));
    let rows = text::assemble(text::lane_rows);
    related::touch(&bounded, source, &rows, ask, touched, discovery).await?;
    Ok(range)
}

/// Makes the orders anew that the range tells of.
async fn refresh_orders(
    warehouse: &Warehouse,
    pool: &PgPool,
    postgres: &mut PgConnection,
    range: &Range,
    touched: &Touched,
) -> Result<()> {
    let rows = text::assemble(text::lane_rows);
    let mut groups: Vec<Vec<(&str, u64)>> =
        vec![touched.order_reports.iter().map(|(store, reports)| (store.as_str(), *reports)).collect()];
    // Whose orders need too much at once keeps nobody else's waiting.
    while let Some(group) = groups.pop() {
        let scope = orders::Scope {
            stores: group.iter().map(|(store, _)| *store).collect(),
            rows: &rows,
            bind: &|query| range.param(query),
            are_all: false,
            going: None,
        };
        let parts = orders::Part::of(group.iter().map(|(_, reports)| reports).sum());
        match (orders::refresh(warehouse, pool, postgres, &scope, parts).await, &group[..]) {
            (Ok(()), _) | (_, []) => {}
            (Err(error), [(store, _)]) if error.is_of_size() => {
                tracing::warn!(store, %error, "orders needed too much at once; all of the store's are made anew aside");
                orders::make_stale(postgres, &[store]).await?;
            }
            (Err(error), _) if error.is_of_size() => {
                let (one, other) = group.split_at(group.len() / 2);
                groups.extend([one.to_vec(), other.to_vec()]);
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(())
}

/// Days that the store's rows decide that meet these conditions, on `events` and on `clicks`, while they are still there:
/// as quarters of an hour. Where that needs more than there is, all days are, or it fails when `is_exact`.
pub async fn decided_by(
    warehouse: &Warehouse,
    store_id: &str,
    rows: [&str; 2],
    is_exact: bool,
) -> Result<BTreeSet<i64>> {
    let mut touched = Touched::default();
    let mut discovery = if is_exact { Discovery::exact() } else { Discovery::new(0) };
    for (source, rows) in SOURCES.into_iter().zip(rows) {
        let ask = |name: &str, rows: &str| warehouse.long_query(&text::assemble_of(name, rows));
        related::touch(warehouse, &source, rows, ask, &mut touched, &mut discovery).await?;
    }
    let mut quarters = touched.quarters.remove(store_id).unwrap_or_default();
    if touched.whole_stores.contains(store_id) {
        quarters.extend(crate::backfill::quarters(warehouse, store_id).await?);
    }
    Ok(quarters)
}

/// Writes the store-days. Stores that are gone, or whose zone is none, have no days.
async fn write_days(warehouse: &Warehouse, postgres: &mut PgConnection, touched: &Touched) -> Result<usize> {
    if touched.quarters.is_empty() {
        return Ok(0);
    }
    let ids: Vec<&str> = touched.quarters.keys().map(String::as_str).collect();
    let rows = sqlx::query("SELECT id, timezone FROM stores WHERE id = ANY ($1) ORDER BY id")
        .bind(ids)
        .fetch_all(&mut *postgres)
        .within()
        .await?;
    let mut written = 0;
    let mut batch = Vec::new();
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
        let received_ms = touched.received_ms.get(&id).copied().unwrap_or(0);
        let quarters = touched.quarters.get(&id).into_iter().flatten();
        let dates: BTreeSet<Date> = quarters.map(|quarter| calendar.date(*quarter)).collect();
        written += dates.len();
        batch.extend(dates.iter().map(|date| (id.clone(), date.to_string(), received_ms)));
        if batch.len() >= BATCH_DAYS {
            write_batch(postgres, std::mem::take(&mut batch)).await?;
        }
    }
    write_batch(postgres, batch).await?;
    for id in &touched.whole_stores {
        match Store::read(postgres, id).await {
            Ok(Some(store)) => written += touch_everything(warehouse, postgres, &store).await?,
            // As above.
            Ok(None) | Err(Error::Store { .. }) => {}
            Err(error) => return Err(error),
        }
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
    write_batch(postgres, dates.map(|date| (store_id.to_owned(), date.to_string(), received_ms)).collect())
        .await
}

/// Store, date and receipt of each, in the order in which rollups lock them.
async fn write_batch(postgres: &mut PgConnection, days: Vec<(String, String, i64)>) -> Result<()> {
    let (mut stores, mut dates, mut received) = (Vec::new(), Vec::new(), Vec::new());
    for (store, date, received_ms) in days {
        stores.push(store);
        dates.push(date);
        received.push(received_ms);
    }
    sqlx::query(
        "INSERT INTO touched_days (store_id, date, received_at, touched_at, waiting_since)
         SELECT store_id, date, to_timestamp(received_ms / 1000.0), clock_timestamp(), now()
         FROM unnest($1::text[], $2::date[], $3::bigint[]) AS touched (store_id, date, received_ms)
         ON CONFLICT (store_id, date) DO UPDATE
         SET received_at = greatest(touched_days.received_at, EXCLUDED.received_at), touched_at = EXCLUDED.touched_at",
    )
    .bind(stores)
    .bind(dates)
    .bind(received)
    .execute(postgres)
    .within()
    .await?;
    Ok(())
}
