//! The rows of a lane between the log and the store: open while messages are added, closed on its way.

use std::{ops::Range, sync::Arc, time::Instant};

use millrace_schemas::reject::Reason;

use crate::{
    dead_letter::DeadLetter,
    decode::{Decoder, Table, lines},
    driver::now_ms,
    memory::{Charge, Memory},
    native::{Block, BlockBuilder, Source},
    source::{Entry, LaneId, Messages},
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
    lane: Option<LaneId>,
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
    lane: Option<LaneId>,
    block: Block,
    raw: Option<RawRows>,
    _charge: Charge,
}

impl OpenBatch {
    /// An empty batch; with `keep_raw` its rows can be sent in parts.
    pub(crate) fn new(table: Table, memory: &Arc<Memory>, keep_raw: bool) -> Self {
        Self {
            table,
            lane: None,
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

    /// Adds a message's rows; lines that are none become dead letters. Returns the number of lines.
    pub(crate) fn take(
        &mut self,
        decoder: &mut Decoder,
        lane: LaneId,
        messages: &Messages,
        entry: Entry,
    ) -> u32 {
        if self.lane.is_none() {
            self.lane = Some(lane);
            self.opened = Instant::now();
        }
        let Entry { offset, start, end, foreign_version } = entry;
        let value = &messages.values[start..end];
        self.value_bytes += value.len();
        if foreign_version {
            let detail = "rows of a version that this build does not know".to_owned();
            self.bury(lane, offset, 0, detail, value);
            return 1;
        }
        let mut count = 0;
        for (row, line) in lines(value) {
            count += 1;
            let source = Source { topic: lane.topic, partition: lane.partition, offset, row };
            match decoder.push(self.table, line, source, &mut self.builder) {
                Ok(()) => {
                    if let Some(raw) = &mut self.raw {
                        raw.push(offset, row, line);
                    }
                }
                Err(error) => self.bury(lane, offset, row, error.to_string(), line),
            }
        }
        count
    }

    fn bury(&mut self, lane: LaneId, offset: u64, row: u32, detail: String, raw: &[u8]) {
        let letter = DeadLetter {
            lane,
            offset,
            row,
            reason: Reason::Undecodable,
            detail,
            died_at_ms: now_ms(),
            raw: raw.to_vec(),
        };
        self.dead_letter_bytes += letter.bytes();
        self.dead_letters.push(letter);
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
        let block = self.builder.finish();
        let raw_bytes = self.raw.as_ref().map_or(0, |raw| raw.bytes.len());
        self.charge.set(block.bytes() + self.dead_letter_bytes + raw_bytes);
        ClosedBatch {
            first,
            next,
            dead_letters: self.dead_letters,
            value_bytes: self.value_bytes,
            opened: self.opened,
            newest_received_ms,
            table: self.table,
            lane: self.lane,
            block,
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
        let (Some(raw), Some(lane), false) = (&self.raw, self.lane, whole) else {
            // Cheap: the pieces are shared.
            return self.block.clone();
        };
        let mut builder = BlockBuilder::new(self.table.columns());
        for row in &raw.rows[rows.start as usize..rows.end as usize] {
            let source =
                Source { topic: lane.topic, partition: lane.partition, offset: row.offset, row: row.row };
            // It decoded before, and the decoder has no memory.
            let _ = decoder.push(self.table, &raw.bytes[row.at.clone()], source, &mut builder);
        }
        builder.finish()
    }

    /// Puts a row that ClickHouse refuses alone to the dead letters.
    pub(crate) fn refuse(&mut self, row: u32, detail: &str) {
        if let (Some(raw), Some(lane)) = (&self.raw, self.lane)
            && let Some(RawRow { offset, row, at }) = raw.rows.get(row as usize).cloned()
        {
            self.dead_letters.push(DeadLetter {
                lane,
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

impl RawRows {
    fn push(&mut self, offset: u64, row: u32, line: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(line);
        self.rows.push(RawRow { offset, row, at: start..self.bytes.len() });
    }
}
