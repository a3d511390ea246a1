//! Where accepted events go: a log that says when it holds them durably.

pub mod kafka;
pub mod spool;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::encode::Message;

/// The log has not taken the messages, or cannot say that it has. Some of them may be in it all the same: what the
/// client sends again has the same `event_id`s and counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot promise durability now")]
pub struct Unavailable;

/// A log of messages.
pub trait Log: Send + Sync {
    /// Appends all messages of one request. The receipt resolves when all of them are durable, or one cannot be.
    /// Never blocks: a log whose queue is full refuses at once.
    fn append(&self, messages: Vec<Message>) -> Receipt;

    /// Whether an append would now be likely to succeed; if not, why.
    fn ready(&self) -> Result<(), String>;

    /// Messages that were handed over and are not yet settled.
    fn queued(&self) -> usize;

    /// Work that has to be done about once a second; may block.
    fn tick(&self);

    /// Waits until everything appended is settled, at most for `patience`; blocks.
    fn close(&self, patience: Duration);
}

/// The log's word on one request.
#[derive(Debug)]
pub struct Receipt(Option<oneshot::Receiver<bool>>);

impl Receipt {
    /// A refusal.
    pub const fn refused() -> Self {
        Self(None)
    }
}

impl Future for Receipt {
    type Output = Result<(), Unavailable>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            None => Poll::Ready(Err(Unavailable)),
            Some(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|answer| if answer == Ok(true) { Ok(()) } else { Err(Unavailable) }),
        }
    }
}

/// What all messages of one request share: how many are not settled yet, and who waits for that.
#[derive(Debug)]
pub(crate) struct Pending {
    left: AtomicUsize,
    failed: AtomicBool,
    done: Mutex<Option<oneshot::Sender<bool>>>,
}

impl Pending {
    pub(crate) fn new(count: usize) -> (Arc<Self>, Receipt) {
        let (sender, receiver) = oneshot::channel();
        let pending = Self {
            left: AtomicUsize::new(count),
            failed: AtomicBool::new(false),
            done: Mutex::new(Some(sender)),
        };
        (Arc::new(pending), Receipt(Some(receiver)))
    }

    /// One message is durable, or will never be known to be. The first failure and the last success are told.
    pub(crate) fn settle(&self, is_durable: bool) {
        if !is_durable {
            self.failed.store(true, Ordering::Relaxed);
        }
        let is_last = self.left.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last || !is_durable {
            let sender = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(sender) = sender {
                // Nobody may be waiting any more: the client is gone.
                let _ = sender.send(!self.failed.load(Ordering::Relaxed));
            }
        }
    }
}
