//! How far each lane has been looked at, and what has come since.
//!
//! Every partition of the log is one ordered lane in the consumer: it inserts one batch after the other, and none before
//! the one below is stored whole. Within a batch there is no order: its rows fall into parts (by month of receipt, by
//! shard) that are seen one by one, the last perhaps first, and the rest only when a failed insert is tried again, any
//! time later. So each row carries the offset at which its batch begins (`_batch`), and of a lane is kept
//!
//! * where its newest batch begins: a row of it was seen, so *everything below is there*, for every query that is sent
//!   from then on (a query over several shards does not see them at one moment; the next one sees what proved it);
//! * how far was looked, and from the one to the other the number of rows and the sum of their hashes.
//!
//! What lies beyond is new. What lies between is looked at again every time, which costs one batch, and is new as a
//! whole when it is not what it was: a part has come late, or a merge has dropped copies, which touches days in vain
//! once. Number and sum are taken before the days are looked for and the days before they are rolled up, so that what
//! comes in between is found again, never missed. A lane at rest touches nothing. What this asks of ClickHouse is that
//! a query sees what was acknowledged before it: of several replicas of a shard the aggregator must not be given one
//! that lags behind the one that the consumer writes to.
//!
//! Rows without the column (of an earlier build, or inserted by others one by one) stand for themselves: each is its own
//! batch. A topic that is made anew counts its offsets from the beginning, below all that was seen: nothing of it arrives
//! until everything is rebuilt (`millrace-aggregator rebuild`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use clickhouse::{Row, query::Query};
use serde::Deserialize;
use sqlx::{PgConnection, Row as _};

use super::slice::{Waiting, cut, shares};
use crate::{
    clickhouse::{Warehouse, text},
    error::Result,
    postgres::Answer as _,
};

/// The queries of one table of arrivals.
pub(super) struct Source {
    /// The table.
    pub(super) table: &'static str,
    /// Of the days on which something has arrived.
    pub(super) days: &'static str,
    /// Of the days on which other copies of it lie.
    pub(super) copies: &'static str,
    /// The table's sorting key: what copies have in common.
    pub(super) key: &'static str,
    /// Whether its rows belong to sessions.
    pub(super) has_sessions: bool,
    /// Whether its rows report orders.
    pub(super) has_orders: bool,
}

/// Rows below which no slice is halved.
pub(super) const SLICE_ROWS_MIN: u64 = 10_000;
/// How long a store is not asked about beside others: at first, and at most.
const APART: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));
/// A lane that has grown within this time is looked at every time.
const ACTIVE_FOR: Duration = Duration::from_secs(60);

/// How one looks. Lanes that have grown lately are looked at every time; those at rest, and those never seen before, when
/// `due`: that reads all that is stored, so it may take a twentieth of the time and no more. In a small store that is
/// every time.
#[derive(Debug)]
pub struct Discovery {
    due: Option<Instant>,
    /// When lanes grew, by table: offsets of one table say nothing about those of the other.
    grown: HashMap<(&'static str, LaneKey), Instant>,
    /// Rows that one look takes, now and at most.
    slice_rows: u64,
    slice_rows_max: u64,
    /// Stores whose arrivals touch all of their days, until when, and for how long that was last time.
    apart: HashMap<String, (Instant, Duration)>,
    is_exact: bool,
}

impl Default for Discovery {
    fn default() -> Self {
        Self::new(crate::Config::default().arrival_slice_rows)
    }
}

impl Discovery {
    /// One that takes so many rows at a time.
    pub fn new(slice_rows: u64) -> Self {
        Self {
            due: None,
            grown: HashMap::new(),
            slice_rows,
            slice_rows_max: slice_rows,
            apart: HashMap::new(),
            is_exact: false,
        }
    }

    /// One that would rather fail than touch all days of a store.
    pub(super) fn exact() -> Self {
        Self { is_exact: true, ..Self::new(0) }
    }

    pub(super) fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// Rows that the next look takes.
    pub fn slice_rows(&self) -> u64 {
        self.slice_rows
    }

    pub(super) fn can_halve(&self) -> bool {
        self.slice_rows > self.slice_rows_min()
    }

    /// An eighth of what is set, but for small settings: each try that fails is time in which nothing arrives.
    fn slice_rows_min(&self) -> u64 {
        (self.slice_rows_max / 8).max(SLICE_ROWS_MIN)
    }

    pub(super) fn halve(&mut self) {
        self.slice_rows = (self.slice_rows / 2).max(self.slice_rows_min()).min(self.slice_rows_max);
    }

    /// After a look that did not fail: more again, by and by.
    pub(super) fn grow(&mut self) {
        self.slice_rows = (self.slice_rows + self.slice_rows / 8).min(self.slice_rows_max);
    }

    pub(super) fn is_apart(&self, store: &str) -> bool {
        self.apart.get(store).is_some_and(|(until, _)| *until > Instant::now())
    }

    /// Stores that are not asked about beside others.
    pub fn apart(&self) -> Vec<&str> {
        self.apart.keys().map(String::as_str).filter(|store| self.is_apart(store)).collect()
    }

    pub(super) fn set_apart(&mut self, store: &str) {
        // Those that are long over are forgotten.
        self.apart.retain(|_, (until, time)| until.elapsed() < *time);
        let last = self.apart.get(store).map_or(APART.0 / 2, |(_, time)| *time);
        let time = (last * 2).min(APART.1);
        self.apart.insert(store.to_owned(), (Instant::now() + time, time));
        // It is not for the others that slices became small.
        self.slice_rows = self.slice_rows_max;
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    pub(super) fn took(&mut self, time: Duration) {
        self.due = Some(Instant::now() + time * 20);
    }

    pub(super) fn grew(&mut self, source: &Source, lane: &LaneKey) {
        self.grown.insert((source.table, lane.clone()), Instant::now());
    }

    pub(super) fn active(&mut self, source: &Source) -> BTreeSet<LaneKey> {
        self.grown.retain(|_, at| at.elapsed() < ACTIVE_FOR);
        let lanes = self.grown.keys().filter(|(table, _)| *table == source.table);
        lanes.map(|(_, lane)| lane.clone()).collect()
    }
}

/// A lane with something in or beyond its newest batch.
#[derive(Clone, Debug, Row, Deserialize)]
struct Lane {
    topic: String,
    partition: u32,
    /// Where the newest batch begins, and the last offset.
    batch: u64,
    last: u64,
    /// Rows that were asked for.
    all_rows: u64,
    /// What there is of what was seen.
    seen_rows: u64,
    seen_hash: u64,
    /// What there is of the newest batch.
    rows: u64,
    hash: u64,
}

impl Lane {
    fn key(&self) -> LaneKey {
        (self.topic.clone(), self.partition)
    }
}

pub(super) type LaneKey = (String, u32);

/// How far a lane has been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Watermark {
    /// Where its newest batch begins.
    batch: u64,
    /// Where what has not been seen begins.
    next: u64,
    /// Rows between the two, and the sum of their hashes.
    rows: u64,
    hash: u64,
}

impl Watermark {
    fn is_unchanged(&self, lane: &Lane) -> bool {
        (lane.seen_rows, lane.seen_hash) == (self.rows, self.hash)
    }
}

pub(super) type Watermarks = BTreeMap<LaneKey, Watermark>;

/// Offsets of the lanes between which the arrivals lie, and where that leaves them.
#[derive(Clone, Debug, Default)]
pub(super) struct Range {
    /// Rows that wait, and whether more than the range holds.
    pub(super) waiting_rows: u64,
    pub(super) has_more: bool,
    names: Vec<String>,
    froms: Vec<u64>,
    tos: Vec<u64>,
    pub(super) moved: Vec<(LaneKey, Watermark)>,
}

impl Range {
    pub(super) fn param(&self, query: Query) -> Query {
        query
            .param("lanes", &self.names)
            .param("froms", &self.froms)
            .param("tos", &self.tos)
            .param("lanes_from", self.froms.iter().min().copied().unwrap_or(0))
    }
}

pub(super) async fn watermarks(postgres: &mut PgConnection) -> Result<Watermarks> {
    let rows = sqlx::query(
        "SELECT topic, partition, batch_offset, next_offset, batch_rows, batch_hash FROM arrival_watermarks",
    )
    .fetch_all(postgres)
    .within()
    .await?;
    rows.iter()
        .map(|row| {
            let number = |column| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(column)?.cast_unsigned());
            let watermark = Watermark {
                batch: number("batch_offset")?,
                next: number("next_offset")?,
                rows: number("batch_rows")?,
                hash: number("batch_hash")?,
            };
            let partition = row.try_get::<i32, _>("partition")?.cast_unsigned();
            Ok(((row.try_get("topic")?, partition), watermark))
        })
        .collect()
}

pub(super) async fn write_watermark(
    postgres: &mut PgConnection,
    (topic, partition): &LaneKey,
    watermark: &Watermark,
) -> Result<()> {
    // All 64 bits of each, as they are: Postgres has no unsigned numbers, and reads them for nobody else.
    sqlx::query(
        "INSERT INTO arrival_watermarks (topic, partition, batch_offset, next_offset, batch_rows, batch_hash)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (topic, partition) DO UPDATE
         SET batch_offset = EXCLUDED.batch_offset, next_offset = EXCLUDED.next_offset,
             batch_rows = EXCLUDED.batch_rows, batch_hash = EXCLUDED.batch_hash",
    )
    .bind(topic)
    .bind(partition.cast_signed())
    .bind(watermark.batch.cast_signed())
    .bind(watermark.next.cast_signed())
    .bind(watermark.rows.cast_signed())
    .bind(watermark.hash.cast_signed())
    .execute(postgres)
    .within()
    .await?;
    Ok(())
}

/// What is asked of lanes: of the active ones, or of all others.
struct Look<'a> {
    watermarks: &'a Watermarks,
    /// Where their newest batches begin.
    batches: &'a Watermarks,
    active: &'a BTreeSet<LaneKey>,
    is_active: bool,
}

impl Look<'_> {
    async fn lanes(&self, warehouse: &Warehouse, source: &Source) -> Result<Vec<Lane>> {
        // A list without elements has no type.
        let (mut names, mut active) = (vec![String::new()], vec![String::new()]);
        let (mut froms, mut nexts, mut batches) = (vec![u64::MAX], vec![u64::MAX], vec![u64::MAX]);
        for (lane, watermark) in self.watermarks {
            names.push(name(lane));
            froms.push(watermark.batch);
            nexts.push(watermark.next);
            batches.push(self.batches.get(lane).map_or(watermark.batch, |newest| newest.batch));
        }
        active.extend(self.active.iter().map(name));
        let from = |lane| self.watermarks.get(lane).map_or(0, |watermark: &Watermark| watermark.batch);
        let lanes_from = if self.is_active { self.active.iter().map(from).min().unwrap_or(0) } else { 0 };
        let query = warehouse
            .query(&text::assemble(text::arrivals_lanes))
            .param("table", source.table)
            .param("lanes", names)
            .param("froms", froms)
            .param("nexts", nexts)
            .param("batches", batches)
            .param("active", active)
            .param("is_active", u8::from(self.is_active))
            .param("lanes_from", lanes_from);
        warehouse.rows(query).await
    }
}

fn name((topic, partition): &LaneKey) -> String {
    format!("{topic}/{partition}")
}

/// The lanes that are not what they were, with the newest batch of each. `resting` takes the time spent on those that
/// are not active; `None`: not this time.
pub(super) async fn changed_lanes(
    warehouse: &Warehouse,
    source: &Source,
    watermarks: &Watermarks,
    active: &BTreeSet<LaneKey>,
    resting: Option<&mut Duration>,
) -> Result<Watermarks> {
    let look = |is_active| Look { watermarks, batches: watermarks, active, is_active };
    let mut lanes = Vec::new();
    if !active.is_empty() {
        lanes = look(true).lanes(warehouse, source).await?;
    }
    if let Some(time) = resting {
        let start = Instant::now();
        lanes.extend(look(false).lanes(warehouse, source).await?);
        *time += start.elapsed();
    }
    let mut changed = Watermarks::new();
    for lane in lanes {
        let watermark = watermarks.get(&lane.key()).copied().unwrap_or_default();
        if lane.last >= watermark.next || !watermark.is_unchanged(&lane) {
            // Never back: a batch of which parts were stored may have been sent again as a whole.
            let batch = lane.batch.max(watermark.batch);
            changed.insert(lane.key(), Watermark { batch, ..watermark });
        }
    }
    Ok(changed)
}

/// A changed lane, with what of it has arrived.
struct Arrived {
    key: LaneKey,
    before: Watermark,
    /// Where its newest batch begins: all below is there.
    batch: u64,
    from: u64,
    waiting: Waiting,
    lane: Lane,
}

impl Arrived {
    fn new(lane: Lane, before: Watermark, batch: u64) -> Self {
        let is_unchanged = before.is_unchanged(&lane);
        let from = if is_unchanged { before.next } else { before.batch };
        let rows = lane.all_rows - if is_unchanged { lane.seen_rows } else { 0 };
        let newest_rows = if from < batch { lane.rows } else { rows };
        let waiting = Waiting { whole_rows: rows.saturating_sub(newest_rows), newest_rows };
        Self { key: lane.key(), before, batch, from, waiting, lane }
    }

    fn newest(&self) -> Watermark {
        let next = self.before.next.max(self.lane.last.saturating_add(1));
        Watermark { batch: self.batch, next, rows: self.lane.rows, hash: self.lane.hash }
    }
}

/// From where to where the changed lanes' arrivals lie, about `rows_max` of them. Asked when their newest batches are
/// known: from now on all that lies below those is there.
pub(super) async fn arrived_range(
    warehouse: &Warehouse,
    source: &Source,
    watermarks: &Watermarks,
    changed: &Watermarks,
    rows_max: u64,
) -> Result<Range> {
    let mut range = Range::default();
    if changed.is_empty() {
        return Ok(range);
    }
    // A lane never seen before is asked for from its beginning.
    let known = changed.keys().map(|lane| (lane.clone(), watermarks.get(lane).copied().unwrap_or_default()));
    let (known, active): (Watermarks, _) = (known.collect(), changed.keys().cloned().collect());
    let look = Look { watermarks: &known, batches: changed, active: &active, is_active: true };
    let lanes = look.lanes(warehouse, source).await?.into_iter().filter_map(|lane| {
        let (before, Watermark { batch, .. }) = (*known.get(&lane.key())?, *changed.get(&lane.key())?);
        Some(Arrived::new(lane, before, batch))
    });
    let lanes: Vec<Arrived> = lanes.collect();
    let waiting: Vec<Waiting> = lanes.iter().map(|lane| lane.waiting).collect();
    range.waiting_rows = waiting.iter().map(|waiting| waiting.rows()).sum();
    for (lane, share) in lanes.into_iter().zip(shares(&waiting, rows_max)) {
        range.names.push(name(&lane.key));
        range.froms.push(lane.from);
        let Some(rows) = share else {
            range.tos.push(lane.lane.last);
            range.moved.push((lane.key.clone(), lane.newest()));
            continue;
        };
        // All below is seen, and nothing of what is above.
        let end = cut(warehouse, source, &lane.key, lane.from, lane.batch, rows).await?;
        range.tos.push(end.saturating_sub(1));
        range.moved.push((lane.key, Watermark { batch: end, next: end, rows: 0, hash: 0 }));
        range.has_more = true;
    }
    Ok(range)
}
