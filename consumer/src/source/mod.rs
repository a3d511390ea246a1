//! Where messages come from: a small trait with two implementations, Kafka and the spool.
//!
//! A source hands out [`Assignment`]s: a partition that is ours now, where it stands, and a queue of its messages. It
//! decides nothing but when to pause (memory), and records positions when it is told to.

pub mod kafka;
pub mod spool;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use millrace_schemas::{spool::Position, topic};
use tokio::sync::{mpsc::UnboundedReceiver, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    dead_letter::DeadLetter,
    memory::{Charge, Memory},
    partition::TopicPartition,
};

/// Topics that are read.
pub const TOPICS: [&str; 2] = [topic::EVENTS, topic::CLICKS];

/// A partition that this process reads until `lost`.
#[derive(Debug)]
pub struct Assignment {
    /// Which.
    pub partition: TopicPartition,
    /// Tells this assignment from an earlier one of the same partition.
    pub generation: u64,
    /// What is on record; nothing for a partition that nobody has read.
    pub position: Option<Position>,
    /// Its messages. Unbounded, because [`Flow`] bounds it in bytes.
    pub feed: UnboundedReceiver<Feed>,
    /// It belongs to someone else now, or soon.
    pub lost: CancellationToken,
    /// Shared with the source.
    pub flow: Arc<Flow>,
}

/// What comes through an assignment's queue.
#[derive(Debug)]
pub enum Feed {
    /// Messages in the order of their offsets.
    Messages(Messages),
    /// Reading has stopped, and why; a person has to look.
    Broken(String),
    /// What was wrong has passed.
    Well,
}

/// Some messages of a partition, their values in one buffer.
#[derive(Debug)]
pub struct Messages {
    /// Counts rereads: messages of an older epoch were on their way when it was asked for.
    pub epoch: u64,
    /// The values.
    pub values: Vec<u8>,
    /// Where each message's value stands.
    pub entries: Vec<Entry>,
    charge: Option<Charge>,
}

/// A message in [`Messages::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its offset.
    pub offset: u64,
    /// Where its value begins.
    pub start: usize,
    /// Where its value ends.
    pub end: usize,
    /// It says that its rows are of a version that this build does not know.
    pub foreign_version: bool,
}

impl Messages {
    /// None yet.
    pub fn new(epoch: u64) -> Self {
        Self { epoch, values: Vec::new(), entries: Vec::new(), charge: None }
    }

    /// Adds a message.
    pub fn push(&mut self, offset: u64, value: &[u8], foreign_version: bool) {
        let start = self.values.len();
        self.values.extend_from_slice(value);
        self.entries.push(Entry { offset, start, end: self.values.len(), foreign_version });
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.values.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

/// What a partition and its source tell each other without a queue.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes of messages that wait in the queue.
    waiting_bytes: AtomicUsize,
    /// The partition rebuilds a recorded range: it must be read however full memory is.
    must_read: AtomicBool,
    /// Offset after the last message of the log, as far as is known.
    end: AtomicU64,
    /// Everything below is stored.
    stored: AtomicU64,
    /// Receipt of the newest stored event, epoch milliseconds.
    newest_received_ms: AtomicI64,
    /// Since when the position waits for something that is on its way, or cannot be read.
    stalled_since: Mutex<Option<Instant>>,
}

impl Flow {
    /// Whether the source must not read on for this partition.
    pub fn must_pause(&self, memory: &Memory) -> bool {
        let waiting_bytes = self.waiting_bytes.load(Relaxed);
        waiting_bytes >= memory.waiting_bytes_max() || (memory.is_full() && !self.must_read.load(Relaxed))
    }

    /// Whether the source may go on after a pause.
    pub fn may_resume(&self, memory: &Memory) -> bool {
        let waiting_bytes = self.waiting_bytes.load(Relaxed);
        waiting_bytes < memory.waiting_bytes_max() / 2 && (memory.has_room() || self.must_read.load(Relaxed))
    }

    /// Accounts for messages that enter the queue.
    pub fn entered(&self, messages: &mut Messages, memory: &Arc<Memory>) {
        let bytes = messages.bytes();
        self.waiting_bytes.fetch_add(bytes, Relaxed);
        messages.charge = Some(memory.charge(bytes));
        if let Some(last) = messages.entries.last() {
            self.end.fetch_max(last.offset + 1, Relaxed);
        }
    }

    /// Accounts for messages that have left the queue; they stay charged until dropped.
    pub fn left(&self, messages: &Messages) {
        self.waiting_bytes.fetch_sub(messages.bytes(), Relaxed);
    }

    /// Says whether a recorded range is being rebuilt.
    pub fn set_must_read(&self, must: bool) {
        self.must_read.store(must, Relaxed);
    }

    /// Says where the log ends.
    pub fn set_end(&self, end: u64) {
        self.end.store(end, Relaxed);
    }

    /// Says what is stored.
    pub fn set_stored(&self, next: u64, newest_received_ms: Option<i64>) {
        self.stored.store(next, Relaxed);
        if let Some(ms) = newest_received_ms {
            self.newest_received_ms.fetch_max(ms, Relaxed);
        }
    }

    /// Says since when the position cannot move.
    pub fn set_stalled_since(&self, since: Option<Instant>) {
        *lock(&self.stalled_since) = since;
    }

    /// Since when the position cannot move.
    pub fn stalled_since(&self) -> Option<Instant> {
        *lock(&self.stalled_since)
    }

    /// Messages that are not stored yet, and the receipt of the newest stored event.
    pub fn lag(&self) -> (u64, Option<i64>) {
        let messages = self.end.load(Relaxed).saturating_sub(self.stored.load(Relaxed));
        (messages, Some(self.newest_received_ms.load(Relaxed)).filter(|ms| *ms > 0))
    }
}

/// A source refused or could not do something; it may be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// Does what a log's client may hold up for ever, on a thread of its own: a runtime that ends waits for its blocking tasks.
pub(crate) async fn run_detached<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SourceError> {
    let (done, result) = oneshot::channel();
    thread::Builder::new()
        .name("log-client".into())
        .spawn(move || {
            let _ = done.send(work());
        })
        .map_err(|error| SourceError(format!("no thread can be started: {error}")))?;
    result.await.map_err(|_| SourceError("the log's client panicked".into()))
}

/// What a thread that panicked has locked is taken as it left it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log that is read, and that remembers how far.
pub trait Source: Send + Sync + 'static {
    /// Records durably where a partition stands. An assignment that is lost records nothing.
    fn record(
        self: Arc<Self>,
        partition: TopicPartition,
        generation: u64,
        position: Position,
    ) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Reads again from `offset`; what comes of it carries `epoch`.
    fn reread(&self, partition: TopicPartition, generation: u64, offset: u64, epoch: u64);

    /// Shows dead-letter records where people look for them. The store's copy is the one that counts.
    fn show(self: Arc<Self>, records: Vec<DeadLetter>) -> impl Future<Output = ()> + Send;

    /// Partitions that are paused because memory is full.
    fn paused(&self) -> usize;

    /// Stops reading and gives everything back; all partitions have ended.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
