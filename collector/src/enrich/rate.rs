//! How much one visitor does in a minute, in memory that does not grow with the number of visitors.
//!
//! A table of counters, each for whom it belongs to now. Who meets another's counter takes one off it, and takes it over
//! when nothing is left: whoever does very much stays, whoever does little makes room. A count is at times too low and
//! never too high, so nobody is taken for a bot for what others did.
//!
//! Minutes are those of the event's own time: what a phone sends after hours offline was not done at once.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters: half a MiB.
const COUNTERS: usize = 1 << 16;

/// A counter is whose it is, when it was last used and how much was counted, from high bits to low.
const COUNT_BITS: u32 = 16;
const SEEN_BITS: u32 = 8;

/// Most that can be counted.
pub(crate) const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;

/// Minutes after which a counter that nobody used is anybody's.
const IDLE_MINUTES: u64 = 3;

/// Events per visitor and minute.
pub(crate) struct Rates(Box<[AtomicU64]>);

impl Rates {
    pub(crate) fn new() -> Self {
        Self((0..COUNTERS).map(|_| AtomicU64::new(0)).collect())
    }

    /// Counts an event that was received and happened in these minutes, and says how many that makes.
    pub(crate) fn count(&self, visitor: u64, happened: i64, received: i64) -> u32 {
        let mixed = xxhash_rust::xxh3::xxh3_64_with_seed(&happened.to_le_bytes(), visitor);
        let counter = &self.0[mixed as usize % COUNTERS];
        let owner = mixed >> (SEEN_BITS + COUNT_BITS);
        let seen = received as u64 & ((1 << SEEN_BITS) - 1);
        let mut counted = 0;
        // It never fails: the closure always has an answer.
        let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            let count = state & u64::from(COUNT_MAX);
            let idle = seen.wrapping_sub(state >> COUNT_BITS) & ((1 << SEEN_BITS) - 1);
            let (next_owner, next_seen, next) = if state >> (SEEN_BITS + COUNT_BITS) == owner {
                (owner, seen, (count + 1).min(COUNT_MAX.into()))
            } else if count <= 1 || idle > IDLE_MINUTES {
                (owner, seen, 1)
            } else {
                (state >> (SEEN_BITS + COUNT_BITS), (state >> COUNT_BITS) & ((1 << SEEN_BITS) - 1), count - 1)
            };
            counted = if next_owner == owner { next as u32 } else { 0 };
            Some(next_owner << (SEEN_BITS + COUNT_BITS) | next_seen << COUNT_BITS | next)
        });
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_visitor_is_counted_by_the_minute() {
        let rates = Rates::new();
        assert_eq!((1..=5).map(|_| rates.count(7, 100, 100)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(rates.count(7, 101, 101), 1);
        assert_eq!(rates.count(7, 100, 101), 6, "late, and of that minute all the same");
        for _ in 0..2 * COUNT_MAX {
            rates.count(8, 100, 100);
        }
        assert_eq!(rates.count(8, 100, 100), COUNT_MAX, "it stays where it cannot grow");
    }

    #[test]
    fn the_busiest_stays_among_many() {
        let rates = Rates::new();
        let mut most = 0;
        for number in 0..500_000_u64 {
            rates.count(xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes()), 100, 100);
            if number % 100 == 0 {
                most = rates.count(1, 100, 100);
            }
        }
        assert!(most > 4000, "{most} of 5000");
    }

    proptest! {
        #[test]
        fn never_more_than_there_were(events in proptest::collection::vec((0_u64..6, 0_i64..3, 0_i64..400), 0..300)) {
            let rates = Rates::new();
            let mut model = std::collections::BTreeMap::new();
            for (visitor, happened, received) in events {
                let counted = rates.count(visitor, happened, received);
                let known: &mut u32 = model.entry((visitor, happened)).or_default();
                *known += 1;
                prop_assert!(counted <= *known);
            }
        }
    }
}
