//! Dead letters, tried again after a person has fixed the cause.
//!
//! A letter's rows go straight into their table, in a **lane of this run's own**: the topic they came from, a
//! partition drawn from [`topic::REPLAY_PARTITIONS`], offsets that begin at the clock's milliseconds. Not under the place
//! they had: the aggregator finds arrivals by the offsets of each (topic, partition) above a watermark, and would never
//! look below it again. Not through the log: only the collector may write the spool, what is refused again would be
//! buried a second time under a new place, and the answer would come from somewhere else, later. A lane of a run's own
//! keeps the rule of all lanes without a lock: a block is sent only when the one before it is answered, so rows become
//! visible in the order of their offsets, also where an insert lands after the run that sent it has died. Should two
//! runs draw the same partition, the later clock keeps offsets rising.
//!
//! What makes it safe to stop, to kill and to repeat, also twice at the same time:
//!
//! * **rows before letters**: a letter is removed only after its rows are acknowledged. In between, an event counts as
//!   stored and as dead; never as neither;
//! * a repetition inserts rows whose sorting keys are there: a reader of deduplicated rows sees each once;
//! * a removal names place and content, so it never takes a letter whose bytes were not the ones stored;
//! * a letter that is refused again, or cannot be read again, stays as it was. One with several lines is all or nothing.

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
    config::{Config, ConfigError},
    dead_letter::UNKNOWN_VERSION,
    decode::{DecodeError, Decoder, Table, lines},
    driver::now_ms,
    lane::Failure,
    native::{Block, BlockBuilder, Source},
    source::TOPICS,
    store::{Store, StoreError},
};

/// Letters that are read, stored and removed together; a removal is a statement that names each.
const PAGE_LETTERS_MAX: usize = 2_000;
/// Their bytes, give or take one letter.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Their lines, give or take one letter's: one insert stays one block of the server's.
const PAGE_LINES_MAX: usize = 100_000;
/// Attempts of a statement that ClickHouse does not answer before the run gives up, half a minute to a minute in all.
const ATTEMPTS_MAX: u32 = 10;
/// How long the next part of an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a run ended before its letters did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// ClickHouse.
    #[error("ClickHouse: {0}; what was stored until now stays stored, run the command again for the rest")]
    Store(#[from] StoreError),
}

/// A dead letter as it stands in the store.
struct Letter {
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
struct LetterRow<'a> {
    letter_topic: &'a str,
    letter_partition: u32,
    letter_offset: u64,
    letter_row: u32,
    hash: u64,
    is_unknown_version: bool,
    raw: &'a [u8],
}

impl Letter {
    fn place(&self) -> String {
        let Self { topic, partition, offset, row, .. } = self;
        format!("{topic}/{partition} offset {offset} row {row}")
    }
}

/// Tries the letters again. `bar` counts letters.
pub async fn run(config: &Config, options: &Options, bar: &ProgressBar) -> Result<Report, ReplayError> {
    config.check()?;
    let mut replay = Replay {
        store: Store::new(config),
        backoff: Backoff {
            first: Duration::from_millis(config.retry_first_ms),
            max: Duration::from_millis(config.retry_max_ms),
        },
        options,
        // Letters that die while this runs are not chased.
        until_ms: options.until.unwrap_or_else(now_ms),
        lane: RunLane::new(),
        decoder: Decoder::default(),
        report: Report::new(options.dry_run),
        bar,
    };
    let total = replay.count().await?;
    let limit = options.limit.unwrap_or(u64::MAX).min(total);
    bar.set_length(limit);
    let mut after = None;
    while replay.report.letters < limit {
        let letters_max =
            PAGE_LETTERS_MAX.min(usize::try_from(limit - replay.report.letters).unwrap_or(usize::MAX));
        let letters = replay.page(after.as_ref(), letters_max).await?;
        replay.report.letters += letters.len() as u64;
        replay.try_again(&letters).await?;
        match letters.into_iter().next_back() {
            Some(last) => after = Some(last),
            // Somebody else was quicker.
            None => break,
        }
    }
    bar.finish();
    Ok(replay.report)
}

/// A bar with letters, speed and the time that is left.
pub fn progress_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} letters, {elapsed} passed, {eta} left {msg}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The partition and the offsets of this run's rows.
struct RunLane {
    partition: u32,
    next: u64,
}

impl RunLane {
    fn new() -> Self {
        Self { partition: rand::random_range(topic::REPLAY_PARTITIONS), next: now_ms().max(0) as u64 }
    }

    /// As many offsets as there are letters.
    fn take(&mut self, letters: usize) -> u64 {
        let first = self.next;
        self.next += letters as u64;
        first
    }
}

struct Replay<'a> {
    store: Store,
    backoff: Backoff,
    options: &'a Options,
    until_ms: i64,
    lane: RunLane,
    decoder: Decoder,
    report: Report,
    bar: &'a ProgressBar,
}

impl Replay<'_> {
    /// The condition on letters; [`Replay::param`] gives its parameters.
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
            .param("since", since.unwrap_or_default())
            .param("reason", reason.as_deref().unwrap_or_default())
            .param("topic", topic.as_deref().unwrap_or_default())
    }

    fn letters_table(&self) -> String {
        format!("{}.{}", self.store.layout().database, Table::DeadLetters.name())
    }

    async fn count(&self) -> Result<u64, StoreError> {
        let sql = format!("SELECT count() FROM {} FINAL WHERE {}", self.letters_table(), self.filter());
        for attempt in 0.. {
            let query = self.param(self.store.client().query(&sql));
            match answered(query.fetch_one::<u64>()).await {
                Err(error) => self.pause(error, attempt).await?,
                Ok(count) => return Ok(count),
            }
        }
        Ok(0)
    }

    /// The letters after this one, in the order of their places.
    async fn page(&self, after: Option<&Letter>, letters_max: usize) -> Result<Vec<Letter>, StoreError> {
        for attempt in 0.. {
            match self.read_page(after, letters_max).await {
                Err(error) => self.pause(error, attempt).await?,
                Ok(letters) => return Ok(letters),
            }
        }
        Ok(Vec::new())
    }

    async fn read_page(&self, after: Option<&Letter>, letters_max: usize) -> Result<Vec<Letter>, StoreError> {
        let (table, filter) = (self.letters_table(), self.filter());
        // The places first, by small columns alone; then the content of these and of no others.
        let sql = format!(
            "SELECT toString(_topic) AS letter_topic, _partition AS letter_partition, _offset AS letter_offset,
                    _row AS letter_row, sipHash64(raw) AS hash, detail = {{unknown_version:String}} AS is_unknown_version,
                    raw
             FROM {table} FINAL
             WHERE {filter} AND (_topic, _partition, _offset, _row) GLOBAL IN (
                 SELECT _topic, _partition, _offset, _row FROM {table} FINAL
                 WHERE {filter} AND (_topic, _partition, _offset, _row)
                       > ({{after_topic:String}}, {{after_partition:UInt32}}, {{after_offset:UInt64}}, {{after_row:UInt32}})
                 ORDER BY _topic, _partition, _offset, _row LIMIT {{letters_max:UInt64}})
             ORDER BY _topic, _partition, _offset, _row"
        );
        let query = self
            .param(self.store.client().query(&sql))
            .param("unknown_version", UNKNOWN_VERSION)
            .param("after_topic", after.map_or("", |letter| &letter.topic))
            .param("after_partition", after.map_or(0, |letter| letter.partition))
            .param("after_offset", after.map_or(0, |letter| letter.offset))
            .param("after_row", after.map_or(0, |letter| letter.row))
            .param("letters_max", letters_max as u64);
        let mut cursor = query.fetch::<LetterRow<'_>>().map_err(StoreError::from)?;
        let (mut letters, mut bytes, mut line_count) = (Vec::new(), 0, 0);
        // Leaving early ends the query; the next page begins there.
        while bytes < PAGE_BYTES_MAX && line_count < PAGE_LINES_MAX {
            let Some(row) = answered(cursor.next()).await? else { break };
            bytes += row.raw.len();
            line_count += lines(row.raw).count();
            letters.push(Letter {
                topic: row.letter_topic.to_owned(),
                partition: row.letter_partition,
                offset: row.letter_offset,
                row: row.letter_row,
                hash: row.hash,
                is_unknown_version: row.is_unknown_version,
                raw: row.raw.to_owned(),
            });
        }
        Ok(letters)
    }

    /// Stores what can be stored of these letters, and then removes them.
    async fn try_again(&mut self, letters: &[Letter]) -> Result<(), StoreError> {
        let mut readable: BTreeMap<&'static str, (Table, Vec<&Letter>)> = BTreeMap::new();
        for letter in letters {
            match self.judge(letter) {
                Ok((topic, table)) => readable.entry(topic).or_insert((table, Vec::new())).1.push(letter),
                Err((why, detail)) => {
                    self.report.leave(&letter.place(), why, &detail);
                    self.bar.inc(1);
                }
            }
        }
        if self.options.dry_run {
            self.bar.inc(readable.values().map(|(_, letters)| letters.len() as u64).sum());
            return Ok(());
        }
        for (topic, (table, letters)) in readable {
            let stored = self.store_all(topic, table, &letters).await?;
            self.remove(topic, &stored).await?;
            self.report.stored += stored.len() as u64;
            self.bar.set_message(format!("({} stored, {} left)", self.report.stored, self.report.left()));
        }
        Ok(())
    }

    /// Whether every line of the letter is a row.
    fn judge(&mut self, letter: &Letter) -> Result<(&'static str, Table), (Why, String)> {
        let known = TOPICS.into_iter().find(|topic| *topic == letter.topic);
        let Some((topic, table)) = known.and_then(|topic| Some((topic, Table::of_topic(topic)?))) else {
            return Err((Why::NoTable, "nothing reads it".into()));
        };
        if letter.is_unknown_version && !self.options.unknown_version {
            return Err((Why::UnknownVersion, UNKNOWN_VERSION.into()));
        }
        let source = Source { topic, partition: 0, offset: 0, row: 0 };
        let mut scratch = BlockBuilder::new(table.columns());
        for (_, line) in lines(&letter.raw) {
            if let Err(error) = self.decoder.push(table, line, source, &mut scratch) {
                return Err((Why::Undecodable, error.to_string()));
            }
        }
        if scratch.rows() == 0 {
            return Err((Why::Undecodable, DecodeError::NotAnObject.to_string()));
        }
        Ok((topic, table))
    }

    /// Inserts the letters' rows, together if ClickHouse takes them so, else in ever smaller parts. Returns those that
    /// are stored.
    async fn store_all<'l>(
        &mut self,
        topic: &'static str,
        table: Table,
        letters: &[&'l Letter],
    ) -> Result<Vec<&'l Letter>, StoreError> {
        let first = self.lane.take(letters.len());
        let mut stored = Vec::with_capacity(letters.len());
        let mut parts: Vec<Range<usize>> = std::iter::once(0..letters.len()).collect();
        while let Some(part) = parts.pop() {
            let block = self.block(topic, table, letters, &part, first);
            let token = format!(
                "{}/{topic}/{}/{}-{}",
                table.name(),
                self.lane.partition,
                first + part.start as u64,
                first + part.end as u64
            );
            match self.insert(table, &token, &block).await? {
                Ok(()) => {
                    self.report.rows += u64::from(block.rows);
                    self.bar.inc(part.len() as u64);
                    stored.extend_from_slice(&letters[part]);
                }
                Err(error) if part.len() == 1 => {
                    self.report.leave(
                        &letters[part.start].place(),
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
        letters: &[&Letter],
        part: &Range<usize>,
        first: u64,
    ) -> Block {
        let mut builder = BlockBuilder::new(table.columns());
        for index in part.clone() {
            let offset = first + index as u64;
            for (row, line) in lines(&letters[index].raw) {
                let source = Source { topic, partition: self.lane.partition, offset, row };
                // It decoded a moment ago, and the decoder has no memory.
                let _ = self.decoder.push(table, line, source, &mut builder);
            }
        }
        builder.finish()
    }

    /// Inserts a block, or says why ClickHouse will not have it. An error that nobody knows is a refusal here: the
    /// letters stay, and nothing is lost.
    async fn insert(
        &self,
        table: Table,
        token: &str,
        block: &Block,
    ) -> Result<Result<(), StoreError>, StoreError> {
        for attempt in 0.. {
            match self.store.insert(table, token, block).await {
                Ok(_) => break,
                Err(error) if passes(&error) => self.pause(error, attempt).await?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Removes letters whose rows are stored, every copy of them.
    async fn remove(&self, topic: &str, letters: &[&Letter]) -> Result<(), StoreError> {
        let mut places: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for Letter { partition, offset, row, hash, .. } in letters {
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
            self.letters_table(),
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
