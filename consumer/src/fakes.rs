//! A log and a store for tests. They keep a journal of what is asked of them, and fail or hang when they are told to.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_schemas::{spool::Position, topic::EVENTS};
use tokio::sync::{
    mpsc::{self, UnboundedSender},
    watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    dead_letter::DeadLetter,
    decode::Table,
    memory::Memory,
    native::Block,
    partition::{Limits, TopicPartition},
    read_back::Sought,
    sink::Sink,
    source::{Assignment, Feed, Flow, Messages, Source, SourceError},
    store::{Kind, StoreError},
};

/// A row of events, as short as it can be.
pub(crate) const ROW: &str = "{}";

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What was asked for, in its order.
#[derive(Clone)]
pub(crate) struct Journal(Arc<watch::Sender<Vec<String>>>);

impl Journal {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// Waits until this has been asked for so many times.
    pub(crate) async fn wait_for(&self, entry: &str, times: usize) {
        let mut entries = self.0.subscribe();
        let there = entries.wait_for(|entries| entries.iter().filter(|here| *here == entry).count() >= times);
        let came = tokio::time::timeout(PATIENCE, there).await.is_ok();
        assert!(came, "{entry:?} does not come: {:?}", self.entries());
    }

    fn push(&self, entry: String) {
        self.0.send_modify(|entries| entries.push(entry));
    }
}

/// Keeps callers waiting while it is closed.
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    fn new() -> Self {
        Self(watch::Sender::new(true))
    }

    pub(crate) fn close(&self) {
        self.0.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        self.0.subscribe().wait_for(|open| *open).await.expect("a gate is never taken away");
    }
}

/// A log that hands out what the test feeds, and records nothing but its journal.
pub(crate) struct FakeLog {
    pub(crate) journal: Journal,
    /// Whether a record ends in a panic, as no log's does.
    pub(crate) panics: bool,
    /// Results of the next records; after these, all go well.
    pub(crate) fails: Mutex<VecDeque<bool>>,
}

impl FakeLog {
    pub(crate) fn new(journal: &Journal) -> Self {
        Self { journal: journal.clone(), panics: false, fails: Mutex::default() }
    }
}

impl Source for FakeLog {
    async fn record(
        self: Arc<Self>,
        _: TopicPartition,
        _: u64,
        position: Position,
    ) -> Result<(), SourceError> {
        assert!(!self.panics, "a record that panics");
        self.journal.push(match position.pending_next {
            Some(pending) => format!("record {} pending {pending}", position.next),
            None => format!("record {}", position.next),
        });
        match self.fails.lock().unwrap().pop_front() {
            Some(true) => Err(SourceError("it is away".into())),
            Some(false) | None => Ok(()),
        }
    }

    fn reread(&self, _: TopicPartition, _: u64, offset: u64, epoch: u64) {
        self.journal.push(format!("read again from {offset} as {epoch}"));
    }

    async fn show(self: Arc<Self>, records: Vec<DeadLetter>) {
        self.journal.push(format!("show {}", records.len()));
    }

    fn paused(&self) -> usize {
        0
    }

    async fn close(&self) {
        self.journal.push("close".into());
    }
}

/// A store that takes everything, unless it is told otherwise.
pub(crate) struct FakeSink {
    pub(crate) journal: Journal,
    /// Closed: inserts hang.
    pub(crate) gate: Gate,
    /// Results of the next inserts; after these, all go well.
    pub(crate) fails: Mutex<VecDeque<Option<Kind>>>,
}

impl FakeSink {
    pub(crate) fn new(journal: &Journal) -> Self {
        Self { journal: journal.clone(), gate: Gate::new(), fails: Mutex::default() }
    }
}

impl Sink for FakeSink {
    async fn insert(&self, table: Table, token: Option<&str>, _: &Block) -> Result<Duration, StoreError> {
        self.journal.push(match token {
            Some(token) => {
                let (place, _digest) = token.rsplit_once('/').expect("a token ends in a digest");
                format!("insert {place}")
            }
            None => format!("insert {} without a token", table.name()),
        });
        self.gate.pass().await;
        match self.fails.lock().unwrap().pop_front().flatten() {
            Some(kind) => Err(StoreError::new(kind, "told to fail")),
            None => Ok(Duration::ZERO),
        }
    }

    async fn holds(&self, _: Table, _: TopicPartition, sought: Sought) -> Result<bool, StoreError> {
        self.journal.push(format!("look for {}-{}", sought.first.0, sought.last.0));
        Ok(false)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The source's end of an assignment.
pub(crate) struct Feeder {
    pub(crate) flow: Arc<Flow>,
    pub(crate) lost: CancellationToken,
    feed: UnboundedSender<Feed>,
    memory: Arc<Memory>,
}

impl Feeder {
    /// A partition whose position is 0, and its source.
    pub(crate) fn new(memory: &Arc<Memory>) -> (Self, Assignment) {
        let (feed, messages) = mpsc::unbounded_channel();
        let (flow, lost) = (Arc::new(Flow::default()), CancellationToken::new());
        let assignment = Assignment {
            partition: TopicPartition { topic: EVENTS, number: 0 },
            generation: 0,
            position: Some(Position { next: 0, pending_next: None }),
            feed: messages,
            lost: lost.clone(),
            flow: flow.clone(),
        };
        (Self { flow, lost, feed, memory: memory.clone() }, assignment)
    }

    /// Messages with these values, the first of them at this offset.
    pub(crate) fn send(&self, epoch: u64, first: u64, values: &[&str]) {
        let mut messages = Messages::new(epoch);
        for (offset, value) in (first..).zip(values) {
            messages.push(offset, value.as_bytes(), false);
        }
        self.flow.entered(&mut messages, &self.memory);
        self.say(Feed::Messages(messages));
    }

    pub(crate) fn say(&self, feed: Feed) {
        assert!(self.feed.send(feed).is_ok(), "nobody takes what is fed");
    }
}

/// Batches of so many rows; nothing is closed for its age, and failures are tried again at once.
pub(crate) fn limits(rows_max: u32) -> Limits {
    Limits {
        rows_max,
        bytes_max: usize::MAX,
        age_max: Duration::from_secs(3600),
        backoff: Backoff { first: Duration::from_millis(1), max: Duration::from_millis(1) },
        unknown_attempts_max: 5,
    }
}
