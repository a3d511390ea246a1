//! What rows are found by in the store, when it is asked whether they are there.

use std::{
    collections::HashSet,
    ops::{Range, RangeInclusive},
};

use crate::native::BlockBuilder;

/// A row as it is found in the store: its event's id (its two halves, high first, each little endian), its offset and
/// its line, as they stand in the block and in `RowBinary`.
pub(crate) const KEY_BYTES: usize = 16 + 8 + 4;
pub(crate) type Key = [u8; KEY_BYTES];

/// What of a batch's rows is asked for in the store.
pub(crate) struct Sought {
    pub(crate) keys: HashSet<Key>,
    /// Offset and line of the first and the last of them: a message's lines may be in several parts.
    pub(crate) first: (u64, u32),
    pub(crate) last: (u64, u32),
    /// Receipt of the first and the last of them, epoch milliseconds.
    pub(crate) received_ms: RangeInclusive<i64>,
}

/// What the rows of a batch are found by, by column.
pub(crate) struct RowKeys {
    event_ids: Vec<u8>,
    offsets: Vec<u8>,
    rows: Vec<u8>,
    received_at: Vec<u8>,
}

impl RowKeys {
    /// Of the rows in a block of events or clicks.
    pub(crate) fn of(builder: &BlockBuilder) -> Self {
        let column = |name| builder.fixed(name).to_vec();
        Self {
            event_ids: column("event_id"),
            offsets: column("_offset"),
            rows: column("_row"),
            received_at: column("received_at"),
        }
    }

    /// Memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.event_ids.len() + self.offsets.len() + self.rows.len() + self.received_at.len()
    }

    /// What these rows are found by; they are not none.
    pub(crate) fn sought(&self, rows: Range<usize>) -> Sought {
        let event_ids = &self.event_ids.as_chunks::<16>().0[rows.clone()];
        let offsets = &self.offsets.as_chunks::<8>().0[rows.clone()];
        let lines = &self.rows.as_chunks::<4>().0[rows.clone()];
        let received = &self.received_at.as_chunks::<8>().0[rows];
        let place = |at: usize| {
            let (Some(offset), Some(line)) = (offsets.get(at), lines.get(at)) else {
                panic!("no rows are looked for");
            };
            (u64::from_le_bytes(*offset), u32::from_le_bytes(*line))
        };
        let (first, last) = (place(0), place(offsets.len().saturating_sub(1)));
        let mut keys = HashSet::with_capacity(offsets.len());
        for ((event_id, offset), line) in event_ids.iter().zip(offsets).zip(lines) {
            let mut key: Key = [0; KEY_BYTES];
            key[..16].copy_from_slice(event_id);
            key[16..24].copy_from_slice(offset);
            key[24..].copy_from_slice(line);
            keys.insert(key);
        }
        let (mut oldest, mut newest) = (i64::MAX, i64::MIN);
        for received in received.iter().map(|bytes| i64::from_le_bytes(*bytes)) {
            (oldest, newest) = (oldest.min(received), newest.max(received));
        }
        Sought { keys, first, last, received_ms: oldest..=newest }
    }
}
