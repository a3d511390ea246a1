//! The rows of a partition between the log and the store: open while messages are added, closed on its way.

use std::{ops::Range, sync::Arc, time::Instant};

use millrace_schemas::reject::Reason;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    clock::now_ms,
    dead_letter::{DeadLetter, UNKNOWN_VERSION},
    decode::{Decoder, Table, lines},
    memory::{Charge, Memory},
    native::{Block, BlockBuilder, Source},
    partition::TopicPartition,
    read_back::{RowKeys, Sought},
    source::{Entry, Messages},
};

/// Rows as they were read, kept to build parts of a batch that was refused as a whole.
#[derive(Default)]
struct RawRows {
    bytes: Vec<u8>,
    rows: Vec<RawRow>,
}

#[derive(Clone)]
struct RawRow {
    offset: u64,
    row: u32,
    at: Range<usize>,
}

/// A batch that takes messages.
pub(crate) struct OpenBatch {
    table: Table,
    partition: TopicPartition,
    builder: BlockBuilder,
    raw: Option<RawRows>,
    dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    value_bytes: usize,
    /// Memory when it was last measured, and the value bytes then: measuring walks all columns.
    measured: (usize, usize),
    /// When its first message was taken.
    opened: Option<Instant>,
    charge: Charge,
}

/// Memory is measured again after so many more bytes of values.
const MEASURE_EVERY_BYTES: usize = 64 << 10;

/// A batch whose range is fixed.
pub(crate) struct ClosedBatch {
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) dead_letters: Vec<DeadLetter>,
    pub(crate) value_bytes: usize,
    /// When its first message was taken; nothing where the log has none of the range any more.
    pub(crate) opened: Option<Instant>,
    /// Receipt of its newest event, epoch milliseconds.
    pub(crate) newest_received_ms: Option<i64>,
    table: Table,
    partition: TopicPartition,
    block: Block,
    keys: RowKeys,
    raw: Option<RawRows>,
    _charge: Charge,
}

impl OpenBatch {
    /// An empty batch; with `keep_raw` its rows can be sent in parts.
    pub(crate) fn new(table: Table, partition: TopicPartition, memory: &Arc<Memory>, keep_raw: bool) -> Self {
        Self {
            table,
            partition,
            builder: BlockBuilder::new(table.columns()),
            raw: keep_raw.then(RawRows::default),
            dead_letters: Vec::new(),
            dead_letter_bytes: 0,
            value_bytes: 0,
            measured: (0, 0),
            opened: None,
            charge: memory.charge(0),
        }
    }

    /// Adds a message's rows; lines that are none become dead-letter records. Returns the number of lines.
    pub(crate) fn take(&mut self, decoder: &mut Decoder, messages: &Messages, entry: Entry) -> u32 {
        self.opened.get_or_insert_with(Instant::now);
        let partition = self.partition;
        let Entry { offset, start, end, foreign_version } = entry;
        let value = &messages.values[start..end];
        self.value_bytes += value.len();
        if foreign_version {
            let detail = UNKNOWN_VERSION.to_owned();
            self.dead_letter(offset, 0, detail, value);
            return 1;
        }
        let mut count = 0;
        for (row, line) in lines(value) {
            count += 1;
            let source = Source { topic: partition.topic, partition: partition.number, offset, row };
            match decoder.push(self.table, line, source, &mut self.builder) {
                Ok(()) => {
                    if let Some(raw) = &mut self.raw {
                        raw.push(offset, row, line);
                    }
                }
                Err(error) => self.dead_letter(offset, row, error.to_string(), line),
            }
        }
        count
    }

    fn dead_letter(&mut self, offset: u64, row: u32, detail: String, raw: &[u8]) {
        let record = DeadLetter {
            partition: self.partition,
            offset,
            row,
            reason: Reason::Undecodable,
            detail,
            died_at_ms: now_ms(),
            raw: raw.to_vec(),
        };
        self.dead_letter_bytes += record.bytes();
        self.dead_letters.push(record);
    }

    pub(crate) fn rows(&self) -> u32 {
        self.builder.rows()
    }

    /// Memory it takes, which is what the limit of a batch is about, as of the last time it was measured.
    pub(crate) fn bytes(&mut self) -> usize {
        if self.value_bytes >= self.measured.1 + MEASURE_EVERY_BYTES {
            self.measured = (self.memory_bytes(), self.value_bytes);
        }
        self.measured.0
    }

    fn memory_bytes(&self) -> usize {
        self.builder.bytes()
            + self.dead_letter_bytes
            + self
                .raw
                .as_ref()
                .map_or(0, |raw| raw.bytes.capacity() + raw.rows.capacity() * size_of::<RawRow>())
    }

    /// Brings the memory account up to date: once per piece, not per message.
    pub(crate) fn charge(&mut self) {
        self.charge.set(self.memory_bytes());
    }

    pub(crate) fn close(mut self, first: u64, next: u64) -> ClosedBatch {
        let newest_received_ms = self.builder.newest("received_at");
        let keys = RowKeys::of(&self.builder);
        let block = self.builder.finish();
        let raw_bytes = self.raw.as_ref().map_or(0, |raw| raw.bytes.len());
        self.charge.set(block.bytes() + keys.bytes() + self.dead_letter_bytes + raw_bytes);
        ClosedBatch {
            first,
            next,
            dead_letters: self.dead_letters,
            value_bytes: self.value_bytes,
            opened: self.opened,
            newest_received_ms,
            table: self.table,
            partition: self.partition,
            block,
            keys,
            raw: self.raw,
            _charge: self.charge,
        }
    }
}

impl ClosedBatch {
    pub(crate) fn rows(&self) -> u32 {
        self.block.rows
    }

    /// The rows of this range as one block.
    pub(crate) fn block(&self, rows: &Range<u32>, whole: bool, decoder: &mut Decoder) -> Block {
        if whole {
            // Cheap: the pieces are shared.
            return self.block.clone();
        }
        let (partition, raw) = (self.partition, self.raw());
        let mut builder = BlockBuilder::new(self.table.columns());
        for row in &raw.rows[rows.start as usize..rows.end as usize] {
            let source = Source {
                topic: partition.topic,
                partition: partition.number,
                offset: row.offset,
                row: row.row,
            };
            // It decoded before, and the decoder has no memory.
            let decoded = decoder.push(self.table, &raw.bytes[row.at.clone()], source, &mut builder);
            assert!(decoded.is_ok(), "a row that was decoded before is none now: {decoded:?}");
        }
        builder.finish()
    }

    /// What these rows are found by in the store; they are not none.
    pub(crate) fn sought(&self, rows: &Range<u32>) -> Sought {
        self.keys.sought(rows.start as usize..rows.end as usize)
    }

    /// Dead-letters a row that ClickHouse refuses alone.
    pub(crate) fn refuse(&mut self, row: u32, detail: &str) {
        let raw = self.raw();
        let RawRow { offset, row, at } = raw.rows[row as usize].clone();
        let raw = raw.bytes[at].to_vec();
        self.dead_letters.push(DeadLetter {
            partition: self.partition,
            offset,
            row,
            reason: Reason::RefusedByStore,
            detail: detail.to_owned(),
            died_at_ms: now_ms(),
            raw,
        });
    }

    /// Only what is searched is kept so, and only that is sent in parts.
    fn raw(&self) -> &RawRows {
        match &self.raw {
            Some(raw) => raw,
            None => panic!("rows of {}-{} were not kept as they were read", self.first, self.next),
        }
    }
}

/// What a block holds, in short. It stands in the token, so that no token can ever mean other rows: a log that was made
/// anew counts its offsets from the beginning again.
pub(crate) fn digest(block: &Block) -> u128 {
    let mut hasher = Xxh3::new();
    for piece in &block.pieces {
        hasher.update(piece);
    }
    hasher.digest128()
}

impl RawRows {
    fn push(&mut self, offset: u64, row: u32, line: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(line);
        self.rows.push(RawRow { offset, row, at: start..self.bytes.len() });
    }
}
