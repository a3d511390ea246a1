//! Dead-letter records, tried again after a person has fixed the cause.
//!
//! A record's rows go straight into their table, in a **partition of this run's own**: the topic they came from, a number
//! drawn from [`topic::REPLAY_PARTITIONS`], offsets that begin at the clock's milliseconds. Not under the place they had:
//! the aggregator finds arrivals by the offsets of each (topic, partition) above a watermark, and would never look below it
//! again. Not through the log: only the collector may write the spool, what is refused again would be dead-lettered a
//! second time under a new place, and the answer would come from somewhere else, later. A partition of a run's own keeps
//! the rule of all partitions without a lock: a block is sent only when the one before it is answered, so rows become
//! visible in the order of their offsets, also where an insert lands after the run that sent it has died. Should two
//! runs draw the same number, the later clock keeps offsets rising.
//!
//! What makes it safe to stop, to kill and to repeat, also twice at the same time:
//!
//! * **rows before records**: a record is removed only after its rows are acknowledged, and they carry no token, for
//!   which ClickHouse might acknowledge what it has not. In between, an event counts as stored and as dead; never as
//!   neither;
//! * a repetition inserts rows whose sorting keys are there: a reader of deduplicated rows sees each once;
//! * a removal names place and content, so it never takes a record whose bytes were not the ones stored;
//! * a record that is refused again, or cannot be read again, stays as it was. One with several lines is all or nothing.

mod options;
mod report;

use std::{collections::BTreeMap, ops::Range, time::Duration};

use clickhouse::{Row, query::Query};
use indicatif::{ProgressBar, ProgressStyle};
use millrace_schemas::topic;
use serde::Deserialize;

use self::report::Why;
pub use self::{options::Options, report::Report};
use crate::{
    backoff::Backoff,
    clock::now_ms,
    config::{Config, ConfigError},
    dead_letter::UNKNOWN_VERSION,
    decode::{DecodeError, Decoder, Table, lines},
    native::{Block, BlockBuilder, Source},
    partition::Failure,
    source::TOPICS,
    store::{Store, StoreError},
};

/// Records that are read, stored and removed together; a removal is a statement that names each.
const PAGE_RECORDS_MAX: usize = 2_000;
/// Their bytes, give or take one record.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Their lines, give or take one record's: one insert stays one block of the server's.
const PAGE_LINES_MAX: usize = 100_000;
/// Attempts of a statement that ClickHouse does not answer before the run gives up, half a minute to a minute in all.
const ATTEMPTS_MAX: u32 = 10;
/// How long the next part of an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a run ended before its records did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// ClickHouse.
    #[error("ClickHouse: {0}; what was stored until now stays stored, run the command again for the rest")]
    Store(#[from] StoreError),
}

/// A dead-letter record as it stands in the store.
struct Record {
    topic: String,
    partition: u32,
    offset: u64,
    row: u32,
    /// Of the raw bytes, by ClickHouse.
    hash: u64,
    is_unknown_version: bool,
    raw: Vec<u8>,
}

#[derive(Row, Deserialize)]
struct RecordRow<'a> {
    record_topic: &'a str,
    record_partition: u32,
    record_offset: u64,
    record_row: u32,
    hash: u64,
    is_unknown_version: bool,
    raw: &'a [u8],
}

impl Record {
    fn place(&self) -> String {
        let Self { topic, partition, offset, row, .. } = self;
        format!("{topic}/{partition} offset {offset} row {row}")
    }
}

/// Tries the records again. `bar` counts records.
pub async fn run(config: &Config, options: &Options, bar: &ProgressBar) -> Result<Report, ReplayError> {
    config.check()?;
    let mut replay = Replay {
        store: Store::new(config),
        backoff: Backoff {
            first: Duration::from_millis(config.retry_first_ms),
            max: Duration::from_millis(config.retry_max_ms),
        },
        options,
        // Records that die while this runs are not chased.
        until_ms: options.until.unwrap_or_else(now_ms),
        partition: RunPartition::new(),
        decoder: Decoder::default(),
        report: Report::new(options.dry_run),
        bar,
    };
    let total = replay.count().await?;
    let limit = options.limit.unwrap_or(u64::MAX).min(total);
    bar.set_length(limit);
    let mut after = None;
    while replay.report.records < limit {
        let records_max =
            PAGE_RECORDS_MAX.min(usize::try_from(limit - replay.report.records).unwrap_or(usize::MAX));
        let records = replay.page(after.as_ref(), records_max).await?;
        replay.report.records += records.len() as u64;
        replay.try_again(&records).await?;
        match records.into_iter().next_back() {
            Some(last) => after = Some(last),
            // Somebody else was quicker.
            None => break,
        }
    }
    bar.finish();
    Ok(replay.report)
}

/// A bar with records, speed and the time that is left.
pub fn progress_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} records, {elapsed} passed, {eta} left {msg}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The partition and the offsets of this run's rows.
struct RunPartition {
    number: u32,
    next: u64,
}

impl RunPartition {
    fn new() -> Self {
        Self { number: rand::random_range(topic::REPLAY_PARTITIONS), next: now_ms().max(0) as u64 }
    }

    /// As many offsets as there are records.
    fn take(&mut self, records: usize) -> u64 {
        let first = self.next;
        self.next += records as u64;
        first
    }
}

struct Replay<'a> {
    store: Store,
    backoff: Backoff,
    options: &'a Options,
    until_ms: i64,
    partition: RunPartition,
    decoder: Decoder,
    report: Report,
    bar: &'a ProgressBar,
}

impl Replay<'_> {
    /// The condition on records; [`Replay::param`] gives its parameters.
    fn filter(&self) -> String {
        let mut filter = "died_at < fromUnixTimestamp64Milli({until:Int64}, 'UTC')".to_owned();
        let Options { reason, since, topic, .. } = self.options;
        for (given, condition) in [
            (since.is_some(), "died_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')"),
            (reason.is_some(), "reason = {reason:String}"),
            (topic.is_some(), "_topic = {topic:String}"),
        ] {
            if given {
                filter = format!("{filter} AND {condition}");
            }
        }
        filter
    }

    fn param(&self, query: Query) -> Query {
        let Options { reason, since, topic, .. } = self.options;
        query
            .param("until", self.until_ms)
            // What is not given stands in no condition, and its parameter is not looked at.
            .param("since", since.unwrap_or_default())
            .param("reason", reason.as_deref().unwrap_or_default())
            .param("topic", topic.as_deref().unwrap_or_default())
    }

    fn dead_letters_table(&self) -> String {
        format!("{}.{}", self.store.layout().database, Table::DeadLetters.name())
    }

    async fn count(&self) -> Result<u64, StoreError> {
        let sql = format!("SELECT count() FROM {} FINAL WHERE {}", self.dead_letters_table(), self.filter());
        let mut attempt = 0;
        loop {
            let query = self.param(self.store.client().query(&sql));
            match answered(query.fetch_one::<u64>()).await {
                Err(error) => self.pause(error, attempt).await?,
                Ok(count) => return Ok(count),
            }
            attempt += 1;
        }
    }

    /// The records after this one, in the order of their places.
    async fn page(&self, after: Option<&Record>, records_max: usize) -> Result<Vec<Record>, StoreError> {
        let mut attempt = 0;
        loop {
            match self.read_page(after, records_max).await {
                Err(error) => self.pause(error, attempt).await?,
                Ok(records) => return Ok(records),
            }
            attempt += 1;
        }
    }

    async fn read_page(&self, after: Option<&Record>, records_max: usize) -> Result<Vec<Record>, StoreError> {
        let (table, filter) = (self.dead_letters_table(), self.filter());
        // The places first, by small columns alone; then the content of these and of no others.
        let sql = format!(
            "SELECT toString(_topic) AS record_topic, _partition AS record_partition, _offset AS record_offset,
                    _row AS record_row, sipHash64(raw) AS hash, detail = {{unknown_version:String}} AS is_unknown_version,
                    raw
             FROM {table} FINAL
             WHERE {filter} AND (_topic, _partition, _offset, _row) GLOBAL IN (
                 SELECT _topic, _partition, _offset, _row FROM {table} FINAL
                 WHERE {filter} AND (_topic, _partition, _offset, _row)
                       > ({{after_topic:String}}, {{after_partition:UInt32}}, {{after_offset:UInt64}}, {{after_row:UInt32}})
                 ORDER BY _topic, _partition, _offset, _row LIMIT {{records_max:UInt64}})
             ORDER BY _topic, _partition, _offset, _row"
        );
        let query = self
            .param(self.store.client().query(&sql))
            .param("unknown_version", UNKNOWN_VERSION)
            .param("after_topic", after.map_or("", |record| &record.topic))
            .param("after_partition", after.map_or(0, |record| record.partition))
            .param("after_offset", after.map_or(0, |record| record.offset))
            .param("after_row", after.map_or(0, |record| record.row))
            .param("records_max", records_max as u64);
        let mut cursor = query.fetch::<RecordRow<'_>>().map_err(StoreError::from)?;
        let (mut records, mut bytes, mut line_count) = (Vec::new(), 0, 0);
        // Leaving early ends the query; the next page begins there.
        while bytes < PAGE_BYTES_MAX && line_count < PAGE_LINES_MAX {
            let Some(row) = answered(cursor.next()).await? else { break };
            bytes += row.raw.len();
            line_count += lines(row.raw).count();
            records.push(Record {
                topic: row.record_topic.to_owned(),
                partition: row.record_partition,
                offset: row.record_offset,
                row: row.record_row,
                hash: row.hash,
                is_unknown_version: row.is_unknown_version,
                raw: row.raw.to_owned(),
            });
        }
        Ok(records)
    }

    /// Stores what can be stored of these records, and then removes them.
    async fn try_again(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let mut readable: BTreeMap<&'static str, (Table, Vec<&Record>)> = BTreeMap::new();
        for record in records {
            match self.judge(record) {
                Ok((topic, table)) => readable.entry(topic).or_insert((table, Vec::new())).1.push(record),
                Err((why, detail)) => {
                    self.report.leave(&record.place(), why, &detail);
                    self.bar.inc(1);
                }
            }
        }
        if self.options.dry_run {
            self.bar.inc(readable.values().map(|(_, records)| records.len() as u64).sum());
            return Ok(());
        }
        for (topic, (table, records)) in readable {
            let stored = self.store_all(topic, table, &records).await?;
            self.remove(topic, &stored).await?;
            self.report.stored += stored.len() as u64;
            self.bar.set_message(format!("({} stored, {} left)", self.report.stored, self.report.left()));
        }
        Ok(())
    }

    /// Whether every line of the record is a row.
    fn judge(&mut self, record: &Record) -> Result<(&'static str, Table), (Why, String)> {
        let known = TOPICS.into_iter().find(|topic| *topic == record.topic);
        let Some((topic, table)) = known.and_then(|topic| Some((topic, Table::of_topic(topic)?))) else {
            return Err((Why::NoTable, "nothing reads it".into()));
        };
        if record.is_unknown_version && !self.options.unknown_version {
            return Err((Why::UnknownVersion, UNKNOWN_VERSION.into()));
        }
        let source = Source { topic, partition: 0, offset: 0, row: 0 };
        let mut scratch = BlockBuilder::new(table.columns());
        for (_, line) in lines(&record.raw) {
            if let Err(error) = self.decoder.push(table, line, source, &mut scratch) {
                return Err((Why::Undecodable, error.to_string()));
            }
        }
        if scratch.rows() == 0 {
            return Err((Why::Undecodable, DecodeError::NotAnObject.to_string()));
        }
        Ok((topic, table))
    }

    /// Inserts the records' rows, together if ClickHouse takes them so, else in ever smaller parts. Returns those that
    /// are stored.
    async fn store_all<'l>(
        &mut self,
        topic: &'static str,
        table: Table,
        records: &[&'l Record],
    ) -> Result<Vec<&'l Record>, StoreError> {
        let first = self.partition.take(records.len());
        let mut stored = Vec::with_capacity(records.len());
        let mut parts: Vec<Range<usize>> = std::iter::once(0..records.len()).collect();
        while let Some(part) = parts.pop() {
            let block = self.block(topic, table, records, &part, first);
            match self.insert(table, &block).await? {
                Ok(()) => {
                    self.report.rows += u64::from(block.rows);
                    self.bar.inc(part.len() as u64);
                    stored.extend_from_slice(&records[part]);
                }
                Err(error) if part.len() == 1 => {
                    self.report.leave(
                        &records[part.start].place(),
                        Why::Refused(error.code),
                        &error.to_string(),
                    );
                    self.bar.inc(1);
                }
                Err(_) => {
                    // The first half leaves first: offsets become visible in their order.
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
            }
        }
        Ok(stored)
    }

    fn block(
        &mut self,
        topic: &'static str,
        table: Table,
        records: &[&Record],
        part: &Range<usize>,
        first: u64,
    ) -> Block {
        let mut builder = BlockBuilder::new(table.columns());
        for index in part.clone() {
            let offset = first + index as u64;
            for (row, line) in lines(&records[index].raw) {
                let source = Source { topic, partition: self.partition.number, offset, row };
                // It decoded a moment ago, and the decoder has no memory. A row that was left out here would be lost: its
                // record is removed once the block is stored.
                let decoded = self.decoder.push(table, line, source, &mut builder);
                assert!(decoded.is_ok(), "a row that was decoded before is none now: {decoded:?}");
            }
        }
        builder.finish()
    }

    /// Inserts a block, or says why ClickHouse will not have it. An error that nobody knows is a refusal here: the
    /// records stay, and nothing is lost.
    async fn insert(&self, table: Table, block: &Block) -> Result<Result<(), StoreError>, StoreError> {
        for attempt in 0.. {
            match self.store.insert(table, None, block).await {
                Ok(_) => break,
                Err(error) if passes(&error) => self.pause(error, attempt).await?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Removes records whose rows are stored, every copy of them.
    async fn remove(&self, topic: &str, records: &[&Record]) -> Result<(), StoreError> {
        let mut places: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for Record { partition, offset, row, hash, .. } in records {
            places.entry(*partition).or_default().push(format!("({offset},{row},{hash})"));
        }
        if places.is_empty() {
            return Ok(());
        }
        let conditions: Vec<String> = places
            .into_iter()
            .map(|(partition, places)| {
                let places = places.join(",");
                format!("(_partition = {partition} AND (_offset, _row, sipHash64(raw)) IN ({places}))")
            })
            .collect();
        // A Distributed table deletes nothing: each server's own table does.
        let (local, on_cluster) = match &self.store.layout().cluster {
            Some(cluster) => ("_local", format!(" ON CLUSTER '{cluster}'")),
            None => ("", String::new()),
        };
        let sql = format!(
            "DELETE FROM {}{local}{on_cluster} WHERE _topic = '{topic}' AND ({})",
            self.dead_letters_table(),
            conditions.join(" OR ")
        );
        for attempt in 0.. {
            let query = self.store.client().query_raw(&sql).with_setting("max_query_size", "16777216");
            match answered(query.execute()).await {
                Err(error) => self.pause(error, attempt).await?,
                Ok(()) => break,
            }
        }
        Ok(())
    }

    /// Waits before the next attempt, if there is to be one.
    async fn pause(&self, error: StoreError, attempt: u32) -> Result<(), StoreError> {
        if !passes(&error) || attempt + 1 >= ATTEMPTS_MAX {
            return Err(error);
        }
        self.bar.set_message(format!("(trying again: {error})"));
        tokio::time::sleep(self.backoff.pause(attempt, rand::random())).await;
        Ok(())
    }
}

fn passes(error: &StoreError) -> bool {
    matches!(error.failure(), Failure::Passing | Failure::Overloaded)
}

/// What ClickHouse answers, unless it takes too long.
async fn answered<T>(answer: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T, StoreError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(StoreError::from),
        Err(_) => Err(StoreError::from(clickhouse::error::Error::TimedOut)),
    }
}
