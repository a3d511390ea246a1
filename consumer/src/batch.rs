//! The rows of a partition between the log and the store: open while messages are added, closed on its way.

use std::{
    collections::HashSet,
    ops::{Range, RangeInclusive},
    sync::Arc,
    time::Instant,
};

use millrace_schemas::reject::Reason;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    dead_letter::{DeadLetter, UNKNOWN_VERSION},
    decode::{Decoder, Table, lines},
    driver::now_ms,
    memory::{Charge, Memory},
    native::{Block, BlockBuilder, Source},
    partition::TopicPartition,
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

/// A row as it is found in the store: its event's id (its two halves, high first, each little endian), its offset and
/// its line, as they stand in the block and in `RowBinary`.
pub(crate) const KEY_BYTES: usize = 16 + 8 + 4;
pub(crate) type Key = [u8; KEY_BYTES];

/// What of a batch's rows is asked for in the store.
pub(crate) struct Sought {
    pub(crate) keys: HashSet<Key>,
    /// Offsets of the first and the last of them.
    pub(crate) offsets: RangeInclusive<u64>,
    /// Receipt of the first and the last of them, epoch milliseconds.
    pub(crate) received_ms: RangeInclusive<i64>,
}

/// What a row is found by, by column.
struct Keys {
    event_ids: Vec<u8>,
    offsets: Vec<u8>,
    rows: Vec<u8>,
    received_at: Vec<u8>,
}

/// A batch that takes messages.
pub(crate) struct OpenBatch {
    table: Table,
    partition: Option<TopicPartition>,
    builder: BlockBuilder,
    raw: Option<RawRows>,
    dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    value_bytes: usize,
    /// Memory when it was last measured, and the value bytes then: measuring walks all columns.
    measured: (usize, usize),
    opened: Instant,
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
    pub(crate) opened: Instant,
    /// Receipt of its newest event, epoch milliseconds.
    pub(crate) newest_received_ms: Option<i64>,
    table: Table,
    partition: Option<TopicPartition>,
    block: Block,
    keys: Keys,
    raw: Option<RawRows>,
    _charge: Charge,
}

impl OpenBatch {
    /// An empty batch; with `keep_raw` its rows can be sent in parts.
    pub(crate) fn new(table: Table, memory: &Arc<Memory>, keep_raw: bool) -> Self {
        Self {
            table,
            partition: None,
            builder: BlockBuilder::new(table.columns()),
            raw: keep_raw.then(RawRows::default),
            dead_letters: Vec::new(),
            dead_letter_bytes: 0,
            value_bytes: 0,
            measured: (0, 0),
            opened: Instant::now(),
            charge: memory.charge(0),
        }
    }

    /// Adds a message's rows; lines that are none become dead-letter records. Returns the number of lines.
    pub(crate) fn take(
        &mut self,
        decoder: &mut Decoder,
        partition: TopicPartition,
        messages: &Messages,
        entry: Entry,
    ) -> u32 {
        if self.partition.is_none() {
            self.partition = Some(partition);
            self.opened = Instant::now();
        }
        let Entry { offset, start, end, foreign_version } = entry;
        let value = &messages.values[start..end];
        self.value_bytes += value.len();
        if foreign_version {
            let detail = UNKNOWN_VERSION.to_owned();
            self.dead_letter(partition, offset, 0, detail, value);
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
                Err(error) => self.dead_letter(partition, offset, row, error.to_string(), line),
            }
        }
        count
    }

    fn dead_letter(&mut self, partition: TopicPartition, offset: u64, row: u32, detail: String, raw: &[u8]) {
        let record = DeadLetter {
            partition,
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
        let keys = Keys::of(&self.builder);
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
        let (Some(raw), Some(partition), false) = (&self.raw, self.partition, whole) else {
            // Cheap: the pieces are shared.
            return self.block.clone();
        };
        let mut builder = BlockBuilder::new(self.table.columns());
        for row in &raw.rows[rows.start as usize..rows.end as usize] {
            let source = Source {
                topic: partition.topic,
                partition: partition.number,
                offset: row.offset,
                row: row.row,
            };
            // It decoded before, and the decoder has no memory.
            let _ = decoder.push(self.table, &raw.bytes[row.at.clone()], source, &mut builder);
        }
        builder.finish()
    }

    /// What these rows are found by in the store; they are not none.
    pub(crate) fn sought(&self, rows: &Range<u32>) -> Option<Sought> {
        self.keys.sought(rows.start as usize..rows.end as usize)
    }

    /// Dead-letters a row that ClickHouse refuses alone.
    pub(crate) fn refuse(&mut self, row: u32, detail: &str) {
        if let (Some(raw), Some(partition)) = (&self.raw, self.partition)
            && let Some(RawRow { offset, row, at }) = raw.rows.get(row as usize).cloned()
        {
            self.dead_letters.push(DeadLetter {
                partition,
                offset,
                row,
                reason: Reason::RefusedByStore,
                detail: detail.to_owned(),
                died_at_ms: now_ms(),
                raw: raw.bytes[at].to_vec(),
            });
        }
    }
}

impl Keys {
    fn of(builder: &BlockBuilder) -> Self {
        let column = |name| builder.fixed(name).to_vec();
        Self {
            event_ids: column("event_id"),
            offsets: column("_offset"),
            rows: column("_row"),
            received_at: column("received_at"),
        }
    }

    fn bytes(&self) -> usize {
        self.event_ids.len() + self.offsets.len() + self.rows.len() + self.received_at.len()
    }

    fn sought(&self, rows: Range<usize>) -> Option<Sought> {
        let event_ids = self.event_ids.as_chunks::<16>().0.get(rows.clone())?;
        let offsets = self.offsets.as_chunks::<8>().0.get(rows.clone())?;
        let lines = self.rows.as_chunks::<4>().0.get(rows.clone())?;
        let received = self.received_at.as_chunks::<8>().0.get(rows)?;
        let mut keys = HashSet::with_capacity(offsets.len());
        for ((event_id, offset), line) in event_ids.iter().zip(offsets).zip(lines) {
            let mut key: Key = [0; KEY_BYTES];
            key[..16].copy_from_slice(event_id);
            key[16..24].copy_from_slice(offset);
            key[24..].copy_from_slice(line);
            keys.insert(key);
        }
        let received = received.iter().map(|bytes| i64::from_le_bytes(*bytes));
        Some(Sought {
            keys,
            offsets: u64::from_le_bytes(*offsets.first()?)..=u64::from_le_bytes(*offsets.last()?),
            received_ms: received.clone().min()?..=received.max()?,
        })
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

/// The same for dead-letter records, whose blocks differ from one attempt to the next by the time in them.
pub(crate) fn digest_of_records(records: &[DeadLetter]) -> u128 {
    let mut hasher = Xxh3::new();
    for record in records {
        hasher.update(&record.offset.to_le_bytes());
        hasher.update(&record.row.to_le_bytes());
        hasher.update(&record.raw);
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
