//! Where accepted events go: a log that says when it holds them durably.
//!
//! [`spool`] is this machine's disk, [`kafka`] is Kafka, and [`relay`] is Kafka with the disk behind it: what
//! `--log kafka` uses.

pub mod kafka;
pub mod relay;
pub mod spool;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::encode::{Message, MessageBytesMax, Topic};

/// The log has not taken the messages, or cannot say that it has. Some of them may be in it all the same: what the
/// client sends again has the same `event_id`s and counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLogged {
    /// Nobody's messages are taken now, or nothing is known of these.
    #[error("the log cannot promise durability now")]
    Unavailable,
    /// The store has more waiting in it than one store may have; those of others are taken.
    #[error("too much of the store waits in the log")]
    StoreOverShare,
}

/// A log of messages.
pub trait Log: Send + Sync {
    /// Appends all messages of one request. The receipt resolves when all of them are durable, or one cannot be.
    /// Never blocks: a log whose queue is full refuses at once.
    fn append(&self, messages: Vec<Message>) -> Receipt;

    /// Whether the messages of this store would now be taken, where those of others are.
    fn admits(&self, _store_id: &str, _trusted: bool) -> bool {
        true
    }

    /// Bytes of a message that are taken at most.
    fn message_bytes_max(&self) -> MessageBytesMax {
        [usize::MAX; Topic::ALL.len()]
    }

    /// Whether an append would now be likely to succeed; if not, why.
    fn ready(&self) -> Result<(), String>;

    /// What is not as it should be although appends succeed.
    fn note(&self) -> Option<String> {
        None
    }

    /// Messages that were handed over and are not yet settled.
    fn queued(&self) -> usize;

    /// Work that has to be done about once a second; may block.
    fn tick(&self);

    /// Waits until everything appended is settled, at most for `patience`; blocks.
    fn close(&self, patience: Duration);
}

/// The log's word on one request.
#[derive(Debug)]
pub struct Receipt(Result<oneshot::Receiver<bool>, NotLogged>);

impl Receipt {
    /// A refusal.
    pub const fn refused(why: NotLogged) -> Self {
        Self(Err(why))
    }
}

impl Future for Receipt {
    type Output = Result<(), NotLogged>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Err(why) => Poll::Ready(Err(*why)),
            Ok(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|answer| if answer == Ok(true) { Ok(()) } else { Err(NotLogged::Unavailable) }),
        }
    }
}

/// What all messages of one request, or of one batch of a drain, share: how many are not settled yet, and who waits.
#[derive(Debug)]
pub(crate) struct Pending {
    left: AtomicUsize,
    failed: AtomicBool,
    /// Kafka refused one for what it is.
    refused: AtomicBool,
    waiter: Mutex<Option<Waiter>>,
    /// The messages stand in the spool already: one that is not delivered is not spooled again.
    is_drain: bool,
}

#[derive(Debug)]
enum Waiter {
    /// A request: told of the first failure at once, as there is nothing left to wait for.
    Request(oneshot::Sender<bool>),
    /// A drain: told when all are settled, as it sends all of them again.
    Drain(SyncSender<bool>),
}

impl Pending {
    pub(crate) fn new(count: usize) -> (Arc<Self>, Receipt) {
        let (sender, receiver) = oneshot::channel();
        (Self::with(count, Waiter::Request(sender), false), Receipt(Ok(receiver)))
    }

    /// For messages that stand in the spool. What comes out tells once whether all of them were delivered.
    pub(crate) fn drain(count: usize) -> (Arc<Self>, Receiver<bool>) {
        let (sender, receiver) = sync_channel(1);
        (Self::with(count, Waiter::Drain(sender), true), receiver)
    }

    fn with(count: usize, waiter: Waiter, is_drain: bool) -> Arc<Self> {
        let waiter = Mutex::new(Some(waiter));
        Arc::new(Self {
            left: AtomicUsize::new(count),
            failed: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            waiter,
            is_drain,
        })
    }

    pub(crate) fn is_drain(&self) -> bool {
        self.is_drain
    }

    /// Kafka refuses a message for what it is, now and later. It is to be settled all the same.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Release);
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// So many messages are durable, or will never be known to be.
    pub(crate) fn settle(&self, count: usize, is_durable: bool) {
        if !is_durable {
            self.failed.store(true, Ordering::Relaxed);
        }
        let is_last = self.left.fetch_sub(count, Ordering::AcqRel) == count;
        if is_last || (!is_durable && !self.is_drain) {
            let waiter = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).take();
            let is_durable = !self.failed.load(Ordering::Relaxed);
            // Nobody may be waiting any more: the client is gone, or the drain has given up.
            match waiter {
                Some(Waiter::Request(sender)) => drop(sender.send(is_durable)),
                Some(Waiter::Drain(sender)) => drop(sender.try_send(is_durable)),
                None => {}
            }
        }
    }
}
