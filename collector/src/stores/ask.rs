//! Has Postgres asked at once when a key is not known: it may have been made a moment ago.
//!
//! Nobody asks about one key. A look asks whether anything has changed, and looks follow each other at a distance: a
//! million keys that somebody made up cost Postgres a few small queries a second, remember nothing, and keep nobody waiting
//! whose key is known.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, watch};

/// Between the beginnings of two looks that requests ask for, at least.
pub(super) const LOOKS_APART: Duration = Duration::from_millis(200);
/// Longest that a request waits for a look.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Requests that wait for a look at a time; others with a key that is not known are to come again.
const WAITING_MAX: usize = 256;

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Postgres has answered; what it said is known by now.
    Answered,
    /// It is away: what was known before it went goes on.
    Away,
    /// Too many ask, or it takes too long: nothing can be said now.
    Busy,
}

/// What requests and the task that looks share.
#[derive(Debug)]
pub(crate) struct Asking {
    wanted: Notify,
    begun: AtomicU64,
    /// Looks that have ended, each with an answer.
    answered: watch::Sender<u64>,
    /// Nothing can be learned now.
    is_away: AtomicBool,
    waiting: Semaphore,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            wanted: Notify::new(),
            begun: AtomicU64::new(0),
            answered: watch::Sender::new(0),
            is_away: AtomicBool::new(false),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }
}

impl Asking {
    /// Waits until a look that begins after this call has been answered.
    pub(crate) async fn look(&self) -> Asked {
        let is_away = || self.is_away.load(Ordering::Relaxed);
        if is_away() {
            return Asked::Away;
        }
        let Ok(_permit) = self.waiting.try_acquire() else { return Asked::Busy };
        let mut answered = self.answered.subscribe();
        // One that is under way may have read before the key was there.
        let next = self.begun.load(Ordering::SeqCst) + 1;
        self.wanted.notify_one();
        let answer = answered.wait_for(|last| *last >= next || is_away());
        match tokio::time::timeout(WAIT_MAX, answer).await {
            _ if is_away() => Asked::Away,
            Ok(Ok(_)) => Asked::Answered,
            _ => Asked::Busy,
        }
    }

    /// Ends as soon as somebody wants a look.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A look begins; its number is for [`Asking::answered`].
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A look was answered.
    pub(super) fn answered(&self, look: u64) {
        self.is_away.store(false, Ordering::Relaxed);
        self.answered.send_replace(look);
    }

    /// A look had no answer.
    pub(super) fn away(&self) {
        self.is_away.store(true, Ordering::Relaxed);
        // Whoever waits need not go on.
        self.answered.send_modify(|_| {});
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_look_that_was_under_way_does_not_count() {
        let asking = Arc::new(Asking::default());
        let first = asking.begin();
        let waiting = tokio::spawn({
            let asking = Arc::clone(&asking);
            async move { asking.look().await }
        });
        asking.wanted().await;
        asking.answered(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let second = asking.begin();
        asking.answered(second);
        assert_eq!(waiting.await.unwrap(), Asked::Answered);
    }

    #[tokio::test]
    async fn few_wait_and_not_for_long() {
        let asking = Arc::new(Asking::default());
        let requests: Vec<_> = (0..WAITING_MAX + 1000)
            .map(|_| {
                let asking = Arc::clone(&asking);
                tokio::spawn(async move { asking.look().await })
            })
            .collect();
        // They run on this thread, one after the other: those that may not wait have ended before any other.
        while requests.iter().filter(|request| request.is_finished()).count() < 1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(asking.waiting.available_permits(), 0);
        assert_eq!(requests.iter().filter(|request| !request.is_finished()).count(), WAITING_MAX);
        // Nobody answers: all of them end by themselves.
        for request in requests {
            assert_eq!(request.await.unwrap(), Asked::Busy);
        }
        asking.away();
        assert_eq!(asking.look().await, Asked::Away);
    }
}
