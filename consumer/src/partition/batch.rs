//! A batch whose range is fixed.

use std::time::Instant;

use millrace_schemas::spool::Position;

/// Offsets `[first, next)` and how many rows they held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) rows: u32,
    /// Since when the position has been waiting for it.
    pub(super) since: Instant,
}

/// What may have become of a batch's rows before they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nobody has sent them.
    Fresh,
    /// Somebody may have.
    MaybeSent,
    /// They were refused as a whole, and are kept as they were read, so that they can be sent in parts.
    Refused,
}

impl Batch {
    pub(super) fn new(first: u64, next: u64, rows: u32, since: Instant) -> Self {
        assert!(first < next, "a batch of no offsets: {first}-{next}");
        Self { first, next, rows, since }
    }

    /// The position that names its range.
    pub(super) fn intent(&self) -> Position {
        Position { next: self.first, pending_next: Some(self.next) }
    }

    /// The position beyond it.
    pub(super) fn end(&self) -> Position {
        Position { next: self.next, pending_next: None }
    }
}
