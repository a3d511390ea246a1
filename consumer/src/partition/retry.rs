//! Retries: pauses between attempts, and larger batches for a store that is overloaded.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// Attempts at one thing, of which the last is on its way or has failed and is followed by a pause.
#[derive(Clone, Debug, Default)]
pub(super) struct Retry {
    /// Failures in a row.
    attempts: u32,
    at: Option<Instant>,
}

/// How much older batches become before they close, because the store is overloaded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slowdown {
    doublings: u32,
}

/// An overloaded store gets batches up to so many doublings of their age older.
const DOUBLINGS_MAX: u32 = 5;

impl Retry {
    /// When the next attempt is due; nothing while one is on its way.
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }

    pub(super) fn pauses(&self) -> bool {
        self.at.is_some()
    }

    /// The attempt that was on its way has failed.
    pub(super) fn pause(&mut self, now: Instant, backoff: &Backoff, jitter: f64) {
        self.pause_until(now + backoff.pause(self.attempts, jitter));
    }

    /// The attempt that was on its way was too much for the store.
    pub(super) fn pause_for_long(&mut self, now: Instant, backoff: &Backoff, jitter: f64) {
        self.pause_until(now + backoff.long_pause(self.attempts, jitter));
    }

    /// Whether the pause is over; if it is, the next attempt is on its way.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }

    fn pause_until(&mut self, at: Instant) {
        assert!(!self.pauses(), "an attempt fails that is not on its way");
        self.at = Some(at);
        self.attempts = self.attempts.saturating_add(1);
    }
}

impl Slowdown {
    pub(super) fn age_max(self, age_max: Duration) -> Duration {
        age_max.saturating_mul(1 << self.doublings)
    }

    /// The store was overloaded by one more batch.
    pub(super) fn grow(&mut self) {
        self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
    }

    /// The store has taken rows without complaint.
    pub(super) fn ease(&mut self) {
        self.doublings = self.doublings.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(80) };

    #[test]
    fn pauses_grow_with_failures_in_a_row() {
        let now = Instant::now();
        let mut retry = Retry::default();
        for pause_ms in [10, 20, 40, 80, 80] {
            assert!(!retry.is_due(now + Duration::from_secs(1)), "it is on its way");
            retry.pause(now, &BACKOFF, 1.0);
            assert_eq!(retry.at(), Some(now + Duration::from_millis(pause_ms)));
            assert!(!retry.is_due(now) && retry.is_due(now + Duration::from_millis(pause_ms)));
        }
        retry.pause_for_long(now, &BACKOFF, 0.0);
        assert_eq!(retry.at(), Some(now + Duration::from_millis(40)), "never short");
    }

    #[test]
    #[should_panic(expected = "not on its way")]
    fn an_attempt_fails_once() {
        let mut retry = Retry::default();
        retry.pause(Instant::now(), &BACKOFF, 1.0);
        retry.pause(Instant::now(), &BACKOFF, 1.0);
    }

    #[test]
    fn a_slowdown_is_bounded_and_passes() {
        let mut slowdown = Slowdown::default();
        for _ in 0..100 {
            slowdown.grow();
        }
        assert_eq!(slowdown.age_max(Duration::from_secs(1)), Duration::from_secs(32));
        for _ in 0..100 {
            slowdown.ease();
        }
        assert_eq!(slowdown.age_max(Duration::from_secs(1)), Duration::from_secs(1));
    }
}
