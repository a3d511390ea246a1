//! What Kafka deletes before it is read: for its age or size, or by somebody's hand (`DeleteRecords`), while the consumer
//! is down or behind.
//!
//! Where the next offset is gone, librdkafka goes on at the oldest message that is left (`auto.offset.reset`). So the
//! offsets that come are compared with those that should. A gap alone proves nothing, transactions leave them, too: what of
//! it lies below the partition's low watermark was deleted. The leader is asked for it before the message behind the gap is
//! handed on, so that no position passes what nobody was told of. Where nothing is left no message shows a gap; there the
//! statistics, to which every fetch brings the watermark, give the reason to ask.
//!
//! * Offsets are counted: the control records of transactions, too, which no collector writes.
//! * A group without a position should have begun at offset 0.
//! * A process that dies before its position has passed the gap leaves the telling to its successor, once more.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Mutex,
    time::{Duration, Instant},
};

use millrace_schemas::metric;

use super::super::{TOPICS, lock};
use crate::{health::Health, partition::TopicPartition};

/// A leader is not asked again for so long: in a topic of transactions every one ends in a gap.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// … nor for so long where nobody answered, as the reading of all partitions waits for the answer.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Gaps that wait for an answer; beyond these the last one is widened, so that too much is counted rather than too little.
const GAPS_MAX: usize = 1_000;

/// Where the reading of a partition stands.
pub(super) struct Reading {
    /// The offset that comes next, unless the log has a gap there.
    expected: u64,
    /// Gaps of which it is not known whether they were deleted.
    gaps: Vec<Range<u64>>,
    ask_after: Option<Instant>,
    /// What was expected when the statistics last saw the log begin beyond it, and whether they had seen the same before:
    /// what was fetched until then has been read by now.
    behind: Option<(u64, bool)>,
}

/// How the log goes on elsewhere than expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Jump {
    /// Behind a gap.
    Ahead,
    /// At or below what was read before.
    Back {
        /// What should have come.
        expected: u64,
    },
}

impl Reading {
    /// Reading begins at `next`.
    pub(super) fn new(next: u64) -> Self {
        Self { expected: next, gaps: Vec::new(), ask_after: None, behind: None }
    }

    /// The message at `offset` is read.
    pub(super) fn pass(&mut self, offset: u64) -> Option<Jump> {
        let expected = std::mem::replace(&mut self.expected, offset + 1);
        if offset == expected {
            return None;
        }
        if offset < expected {
            // Gaps of a log that is there no longer.
            self.gaps.clear();
            return Some(Jump::Back { expected });
        }
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(expected..offset);
        } else if let Some(last) = self.gaps.last_mut() {
            last.end = offset;
        }
        Some(Jump::Ahead)
    }

    /// Reading goes on at `next`, because we want it to.
    pub(super) fn go_to(&mut self, next: u64) {
        (self.expected, self.behind) = (next, None);
    }

    /// The statistics say that the log begins at `low`.
    pub(super) fn hint(&mut self, low: u64) {
        let again = self.behind.is_some_and(|(expected, _)| expected == self.expected);
        self.behind = (low > self.expected).then_some((self.expected, again));
    }

    /// Whether there is a reason to ask where the log begins, and nobody has been asked just now.
    pub(super) fn is_to_ask(&self, now: Instant) -> bool {
        let has_reason = !self.gaps.is_empty() || self.is_outrun();
        has_reason && self.ask_after.is_none_or(|at| now >= at)
    }

    /// Nothing comes, and the log begins beyond what should.
    fn is_outrun(&self) -> bool {
        self.behind == Some((self.expected, true))
    }

    /// Nobody has answered.
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.ask_after = Some(now + ASK_AGAIN);
    }

    /// The log begins at `low`: what of the gaps was deleted.
    pub(super) fn settle(&mut self, now: Instant, low: u64) -> Vec<Range<u64>> {
        self.ask_after = Some(now + ASK_EVERY);
        let deleted = self.gaps.drain(..).filter(|gap| gap.start < low);
        deleted.map(|gap| gap.start..gap.end.min(low)).collect()
    }

    /// The log begins at `low`: what was deleted so that nothing comes. Reading goes on behind it.
    pub(super) fn pass_over(&mut self, low: u64) -> Option<Range<u64>> {
        if !self.is_outrun() || low <= self.expected {
            return None;
        }
        let deleted = self.expected..low;
        self.go_to(low);
        Some(deleted)
    }
}

/// Counts, logs and notes what was deleted unread; outlives a client.
pub(super) struct Deletions {
    health: Health,
    told: Mutex<HashMap<TopicPartition, Told>>,
}

/// What was told of a partition since this process began.
#[derive(Default)]
struct Told {
    last: Range<u64>,
    count: u64,
}

impl Deletions {
    /// Nothing yet; the counters stand at 0, so that the first increase is seen as one.
    pub(super) fn new(health: &Health) -> Self {
        for topic in TOPICS {
            metrics::counter!(metric::CONSUMER_LOST_MESSAGES, "topic" => topic).increment(0);
        }
        Self { health: health.clone(), told: Mutex::default() }
    }

    /// These offsets were deleted before they were read.
    pub(super) fn tell(&self, partition: TopicPartition, deleted: &Range<u64>) {
        let Range { start: first, end: next } = *deleted;
        let mut all = lock(&self.told);
        let told = all.entry(partition).or_default();
        let count = told.add(deleted);
        if count == 0 {
            return;
        }
        metrics::counter!(metric::CONSUMER_LOST_MESSAGES, "topic" => partition.topic).increment(count);
        tracing::error!(
            %partition, first, next, count,
            "Kafka deleted messages before they were read: its retention is shorter than the consumer was away or behind; \
             raise retention.ms and retention.bytes of the topic"
        );
        let new_group = if first == 0 {
            "; a group that is new, or whose positions had expired, counts from offset 0 what another may have stored"
        } else {
            ""
        };
        let note = format!(
            "messages that Kafka deleted before they were read: {}, the last of them offsets {first} to {}; nothing brings \
             them back from there; raise retention.ms and retention.bytes of {}{new_group}",
            told.count,
            next - 1,
            partition.topic
        );
        self.health.note(&partition.to_string(), &note);
    }

    /// The log goes on at `offset`, although what lies below `expected` was read. It is read from there, and what the log had
    /// held beyond is not known to anybody.
    pub(super) fn tell_of_another_log(&self, partition: TopicPartition, expected: u64, offset: u64) {
        // Its offsets begin anew, and so do those of its deletions.
        lock(&self.told).entry(partition).or_default().last = Range::default();
        tracing::error!(
            %partition, expected, offset,
            "the log was made anew or cut; it is read from here, and what it had held from the expected offset on cannot be \
             counted"
        );
        let note = format!(
            "the log was made anew or cut: offset {expected} should have come, and {offset} did; it is read from there, and \
             what the former log held from {expected} on was not read and cannot be counted"
        );
        self.health.note(&format!("{partition} log"), &note);
    }
}

impl Told {
    /// How many of these were not told before: what is read again is met again.
    fn add(&mut self, deleted: &Range<u64>) -> u64 {
        let Range { start, end } = self.last;
        let known = end.min(deleted.end).saturating_sub(start.max(deleted.start));
        let touch = start <= deleted.end && deleted.start <= end;
        self.last = if touch { start.min(deleted.start)..end.max(deleted.end) } else { deleted.clone() };
        let count = deleted.end.saturating_sub(deleted.start) - known;
        self.count += count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_gap_what_lies_below_the_watermark_was_deleted() {
        let now = Instant::now();
        let mut reading = Reading::new(10);
        assert_eq!(reading.pass(10), None);
        assert!(!reading.is_to_ask(now));
        assert_eq!(reading.pass(30), Some(Jump::Ahead));
        assert!(reading.is_to_ask(now));
        let (all, half) = (11..30, 31..35);
        assert_eq!(reading.settle(now, 30), [all]);
        assert_eq!(reading.pass(40), Some(Jump::Ahead));
        assert!(!reading.is_to_ask(now), "it was answered just now");
        assert!(reading.is_to_ask(now + ASK_EVERY));
        assert_eq!(reading.pass(42), Some(Jump::Ahead));
        assert_eq!(reading.settle(now, 35), [half], "the rest is a gap of the log's own");
        assert!(!reading.is_to_ask(now + ASK_AGAIN), "and settled");
    }

    #[test]
    fn gaps_that_nobody_explains_are_bounded() {
        let now = Instant::now();
        let mut reading = Reading::new(0);
        reading.pass(1);
        reading.ask_again(now);
        assert!(!reading.is_to_ask(now + ASK_EVERY) && reading.is_to_ask(now + ASK_AGAIN));
        for number in 1..2 * GAPS_MAX as u64 {
            reading.pass(2 * number + 1);
        }
        assert_eq!(reading.gaps.len(), GAPS_MAX);
        let end = 4 * GAPS_MAX as u64;
        let deleted = reading.settle(now, end);
        assert_eq!(deleted.last().map(|last| last.end), Some(end - 1));
    }

    #[test]
    fn where_nothing_is_left_the_statistics_tell() {
        let now = Instant::now();
        let mut reading = Reading::new(5);
        reading.hint(40);
        assert!(!reading.is_to_ask(now), "something may be on its way");
        assert_eq!(reading.pass(5), None);
        reading.hint(40);
        assert!(!reading.is_to_ask(now), "it was");
        reading.hint(40);
        assert!(reading.is_to_ask(now));
        assert_eq!(reading.pass_over(6), None, "the statistics were wrong");
        assert_eq!(reading.pass_over(40), Some(6..40));
        assert_eq!((reading.pass_over(40), reading.pass(40)), (None, None));
    }

    #[test]
    fn going_back_is_a_jump_unless_it_is_ours() {
        let mut reading = Reading::new(0);
        reading.pass(7);
        reading.go_to(3);
        assert_eq!(reading.pass(3), None);
        assert_eq!(reading.pass(1), Some(Jump::Back { expected: 4 }));
        assert_eq!((reading.pass(2), reading.gaps.len()), (None, 0));
    }

    #[test]
    fn what_is_met_again_is_told_once_and_named() {
        let health = Health::default();
        let deletions = Deletions::new(&health);
        let partition = TopicPartition { topic: TOPICS[0], number: 3 };
        for deleted in [10..30, 10..30, 20..35, 5..10, 0..40] {
            deletions.tell(partition, &deleted);
        }
        let readiness = health.readiness();
        let note = &readiness.notes["millrace.events/3"];
        // 20, none, 5, 5, and 10 around them.
        assert!(note.contains(": 40, the last of them offsets 0 to 39;"), "{note}");
        assert!(readiness.ready, "nobody could make it ready again");
        deletions.tell_of_another_log(partition, 100, 0);
        deletions.tell(partition, &(0..5));
        let notes = health.readiness().notes;
        assert!(notes["millrace.events/3 log"].contains("offset 100 should have come"), "{notes:?}");
        assert!(notes["millrace.events/3"].contains(": 45, "), "{notes:?}");
    }
}
