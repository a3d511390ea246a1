//! A recorded range that is read again, so that it holds exactly the rows it had: on start, where a record names a range
//! that may be half stored, and to search a batch that was refused. Nothing is read beyond it meanwhile.

use std::time::Instant;

use millrace_schemas::spool::Position;

use super::batch::{Batch, Origin};

#[derive(Clone, Debug)]
pub(super) struct Rebuilding {
    first: u64,
    next: u64,
    rows: u32,
    /// Offset after the last message that was taken.
    taken: u64,
    since: Instant,
    origin: Origin,
}

impl Rebuilding {
    /// The range that the record names, if it names one. A record may say anything: it comes from a broker or a file.
    pub(super) fn of_record(position: Position, now: Instant) -> Option<Self> {
        let first = position.next;
        let next = position.pending_next.filter(|next| *next > first)?;
        Some(Self { first, next, rows: 0, taken: first, since: now, origin: Origin::MaybeSent })
    }

    /// The range of a batch that was refused as a whole.
    pub(super) fn to_search(batch: &Batch) -> Self {
        let Batch { first, next, since, .. } = *batch;
        Self { first, next, rows: 0, taken: first, since, origin: Origin::Refused }
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn covers(&self, offset: u64) -> bool {
        (self.first..self.next).contains(&offset)
    }

    /// The message at `offset` has been added. A log that was made anew may bring an offset twice.
    pub(super) fn add(&mut self, offset: u64, rows: u32) {
        assert!(self.covers(offset), "offset {offset} is added to {self:?}");
        (self.taken, self.rows) = (offset + 1, rows);
    }

    pub(super) fn is_whole(&self) -> bool {
        self.taken >= self.next
    }

    /// Closes it as it is: whole, or with what the log still has of it.
    pub(super) fn close(self) -> (Batch, Origin) {
        (Batch::new(self.first, self.next, self.rows, self.since), self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_rebuilt_only_if_it_names_a_range() {
        let now = Instant::now();
        for pending_next in [None, Some(4), Some(5)] {
            assert!(Rebuilding::of_record(Position { next: 5, pending_next }, now).is_none());
        }
        let position = Position { next: 5, pending_next: Some(u64::MAX) };
        let rebuilding = Rebuilding::of_record(position, now).unwrap();
        assert!(rebuilding.covers(5) && !rebuilding.covers(4) && !rebuilding.is_whole());
    }

    #[test]
    fn it_is_whole_with_its_last_offset() {
        let now = Instant::now();
        let mut rebuilding = Rebuilding::of_record(Position { next: 5, pending_next: Some(8) }, now).unwrap();
        rebuilding.add(6, 2);
        rebuilding.add(6, 3);
        assert!(!rebuilding.is_whole());
        rebuilding.add(7, 4);
        assert!(rebuilding.is_whole());
        assert_eq!(rebuilding.close(), (Batch::new(5, 8, 4, now), Origin::MaybeSent));
    }
}
