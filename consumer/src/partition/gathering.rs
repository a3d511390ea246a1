//! Packing: the batch that takes messages, until rows, bytes or age close it.

use std::time::{Duration, Instant};

use super::{batch::Batch, protocol::Limits};

/// Empty only until its first message is taken.
#[derive(Clone, Debug)]
pub(super) struct Gathering {
    first: u64,
    next: u64,
    rows: u32,
    /// Rows, and lines that are none.
    lines: u32,
    since: Instant,
    /// It takes nothing more and leaves as soon as the batch before it is gone.
    full: bool,
}

impl Gathering {
    pub(super) fn begin(now: Instant, first: u64) -> Self {
        Self { first, next: first, rows: 0, lines: 0, since: now, full: false }
    }

    /// The message at `offset` has been added, and this is how the batch stands now.
    pub(super) fn add(&mut self, offset: u64, lines: u32, rows: u32, bytes: usize, limits: &Limits) {
        // What comes at or below what was taken fills the batch (`Partition::offered`), and a full batch takes nothing.
        assert!(!self.full && offset >= self.next, "offset {offset} is added to {self:?}");
        self.next = offset + 1;
        self.rows = rows;
        self.lines = self.lines.saturating_add(lines);
        self.full = self.lines >= limits.rows_max || bytes >= limits.bytes_max;
    }

    /// It takes nothing more.
    pub(super) fn fill(&mut self) {
        self.full = true;
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next == self.first
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn due_at(&self, age_max: Duration) -> Instant {
        self.since + age_max
    }

    pub(super) fn is_due(&self, now: Instant, age_max: Duration, draining: bool) -> bool {
        !self.is_empty() && (self.full || draining || now >= self.due_at(age_max))
    }

    pub(super) fn close(self, now: Instant) -> Batch {
        Batch::new(self.first, self.next, self.rows, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;

    const AGE: Duration = Duration::from_secs(1);

    fn limits(rows_max: u32, bytes_max: usize) -> Limits {
        let backoff = Backoff { first: AGE, max: AGE };
        Limits { rows_max, bytes_max, age_max: AGE, backoff, unknown_attempts_max: 1 }
    }

    #[test]
    fn lines_and_bytes_fill_it_and_rows_alone_do_not() {
        let now = Instant::now();
        let mut batch = Gathering::begin(now, 5);
        batch.add(7, 3, 0, 10, &limits(4, 100));
        assert!(!batch.is_full(), "three lines that are no rows");
        batch.add(8, 1, 1, 10, &limits(4, 100));
        assert!(batch.is_full() && batch.is_due(now, AGE, false));
        assert_eq!(batch.close(now), Batch::new(5, 9, 1, now), "the gap before its first message is its own");

        let mut batch = Gathering::begin(now, 0);
        batch.add(0, 1, 1, 100, &limits(4, 100));
        assert!(batch.is_full());
    }

    #[test]
    fn an_empty_batch_never_leaves() {
        let now = Instant::now();
        let mut batch = Gathering::begin(now, 0);
        batch.fill();
        assert!(!batch.is_due(now + 2 * AGE, AGE, true));
    }

    #[test]
    fn age_and_a_drain_make_it_due() {
        let now = Instant::now();
        let mut batch = Gathering::begin(now, 0);
        batch.add(0, 1, 1, 1, &limits(4, 100));
        assert!(!batch.is_due(now, AGE, false) && batch.is_due(now, AGE, true));
        assert!(batch.is_due(batch.due_at(AGE), AGE, false));
        assert!(!batch.is_due(now + AGE, 2 * AGE, false));
    }

    #[test]
    #[should_panic(expected = "is added to")]
    fn what_is_full_takes_nothing() {
        let mut batch = Gathering::begin(Instant::now(), 0);
        batch.fill();
        batch.add(0, 1, 1, 1, &limits(4, 100));
    }
}
