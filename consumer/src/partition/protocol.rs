//! What goes into a partition's state machine and what comes out.

use std::{ops::Range, time::Duration};

use millrace_schemas::spool::Position;

use crate::backoff::Backoff;

/// What closes a batch, and how failures are met.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows that close a batch.
    pub rows_max: u32,
    /// Bytes that close a batch.
    pub bytes_max: usize,
    /// Age that closes a batch.
    pub age_max: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Attempts of an insert that fails for an unknown reason before its rows are searched.
    pub unknown_attempts_max: u32,
}

/// Why an insert failed, as far as the partition must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may pass: tried again without end.
    Passing,
    /// The store has too much to do: tried again without end, later, and with larger batches for a while.
    Overloaded,
    /// These rows will never be taken.
    Refused,
    /// Nobody knows: tried a few times, then taken for a refusal.
    Unknown,
}

/// What happened. `jitter` is a random number in `0..1`: drawing it would not be pure.
///
/// From `Recorded` to `DeadLettersFailed` they are answers: each to the one effect that was asked for last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// A message waits; the partition answers with [`Effect::Take`] or leaves it waiting.
    Offered {
        /// Its offset.
        offset: u64,
    },
    /// The message that was to be taken has been added to the open batch.
    Taken {
        /// Its offset.
        offset: u64,
        /// Lines it held, rows or not.
        lines: u32,
        /// Rows of the open batch as it now stands.
        open_rows: u32,
        /// Bytes of the open batch as it now stands.
        open_bytes: usize,
    },
    /// [`super::Partition::deadline`] has come (or has not: asking too early is harmless).
    Timer,
    /// The position has been recorded.
    Recorded,
    /// The position could not be recorded.
    RecordFailed {
        /// Random, `0..1`.
        jitter: f64,
    },
    /// What the store holds of the rows that were asked for.
    ReadBack {
        /// Every one of them was seen there.
        all: bool,
    },
    /// The store did not say what it holds of them.
    Unanswered {
        /// Random, `0..1`.
        jitter: f64,
    },
    /// The insert is acknowledged.
    Inserted,
    /// The insert failed, or nobody knows.
    InsertFailed {
        /// Why.
        failure: Failure,
        /// Random, `0..1`.
        jitter: f64,
    },
    /// The batch's dead-letter records are stored.
    DeadLettersWritten,
    /// They could not be stored.
    DeadLettersFailed {
        /// Random, `0..1`.
        jitter: f64,
    },
    /// Memory is full: what is open should leave.
    MemoryFull,
    /// Store what was read and stop.
    Drain,
}

/// What to do. Effects of one input are performed in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Decode the message that was offered into the open batch and answer with [`Input::Taken`].
    Take,
    /// The open batch becomes the closed one; a new one is open.
    Close {
        /// Its first offset.
        first: u64,
        /// The offset after its last.
        next: u64,
    },
    /// Record the position durably.
    Record(Position),
    /// Look whether all of these rows of the closed batch are in the store.
    ReadBack {
        /// Rows of the batch.
        rows: Range<u32>,
    },
    /// Insert these rows of the closed batch, all of them or a part.
    Insert {
        /// Rows of the batch.
        rows: Range<u32>,
        /// Whether they are all rows of the batch.
        whole: bool,
        /// Whether the store is to drop them if it knows their token; else they are stored whatever is there.
        with_token: bool,
    },
    /// Add this row of the closed batch to its dead-letter records.
    Refuse {
        /// Row of the batch.
        row: u32,
    },
    /// Store the closed batch's dead-letter records.
    WriteDeadLetters,
    /// The closed batch is stored: forget it.
    Release,
    /// Forget the open and the closed batch; read again from `first`, keeping raw rows below `next`.
    Reread {
        /// Where to read from.
        first: u64,
        /// Where the range ends.
        next: u64,
    },
    /// The partition is done.
    Stop,
}
