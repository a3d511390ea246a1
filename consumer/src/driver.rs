//! Performs what a partition's state machine asks for, and tells it what came of it. Decides nothing.
//!
//! One task per partition. It decodes messages into the open batch, and has at most one thing on its way (a position, an
//! insert, dead-letter records), so that a partition's batches follow each other; partitions run beside each other.

#[cfg(test)]
mod tests;

use std::{future::Future, ops::Range, pin::Pin, sync::Arc, time::Instant};

use millrace_schemas::{metric, reject::Reason, spool::Position};
use tokio_util::sync::CancellationToken;

use crate::{
    batch::{ClosedBatch, OpenBatch, digest},
    dead_letter,
    decode::{Decoder, Table},
    health::Health,
    memory::Memory,
    native::Block,
    partition::{Effect, Failure, Input, Limits, Partition, TopicPartition},
    sink::Sink,
    source::{Assignment, Feed, Messages, Source, SourceError},
    store::{Kind, StoreError},
};

/// What all partitions share.
pub(crate) struct Shared<S, K> {
    pub(crate) source: Arc<S>,
    pub(crate) sink: Arc<K>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) health: Health,
    pub(crate) limits: Limits,
    /// Store what was read and stop.
    pub(crate) drain: CancellationToken,
}

/// A partition with its hands.
pub(crate) struct Driver<S, K> {
    shared: Arc<Shared<S, K>>,
    assignment: Assignment,
    table: Table,
    partition: Partition,
    decoder: Decoder,
    /// Messages that are not decoded yet, and how many of them are.
    waiting: Option<(Messages, usize)>,
    epoch: u64,
    open: OpenBatch,
    closed: Option<ClosedBatch>,
    work: Option<Work>,
    refusal: String,
    /// Since when the log cannot be read.
    broken_since: Option<Instant>,
    /// As it was published last.
    stalled_since: Option<Instant>,
    stopped: bool,
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What came of the work.
enum Done {
    Recorded(Position, Result<(), SourceError>),
    ReadBack(Result<bool, StoreError>),
    Inserted(Result<std::time::Duration, StoreError>),
    DeadLettersWritten(Result<(), StoreError>),
}

impl<S: Source, K: Sink> Driver<S, K> {
    pub(crate) fn new(shared: Arc<Shared<S, K>>, assignment: Assignment, table: Table) -> Self {
        let partition = Partition::new(shared.limits, assignment.position, Instant::now());
        assignment.flow.set_stored(assignment.position.map_or(0, |position| position.next), None);
        if let Some(Position { next, pending_next: Some(pending) }) = assignment.position {
            let partition = assignment.partition;
            tracing::info!(%partition, first = next, next = pending, "rebuilding an unfinished batch");
        }
        let open = OpenBatch::new(table, assignment.partition, &shared.memory, false);
        let mut driver = Self {
            shared,
            assignment,
            table,
            partition,
            decoder: Decoder::default(),
            waiting: None,
            epoch: 0,
            open,
            closed: None,
            work: None,
            refusal: String::new(),
            broken_since: None,
            stalled_since: None,
            stopped: false,
        };
        driver.publish();
        driver
    }

    /// Runs until the partition is lost or everything read is stored and the service is to stop.
    pub(crate) async fn run(mut self) {
        let mut draining = false;
        let drain = self.shared.drain.clone();
        let lost = self.assignment.lost.clone();
        while !self.stopped {
            let taken = self.take_waiting();
            if self.shared.memory.is_full() {
                self.step(Input::MemoryFull);
            }
            let deadline = self.partition.deadline().map(tokio::time::Instant::from_std);
            let memory = self.shared.memory.clone();
            tokio::select! {
                biased;
                () = lost.cancelled() => break,
                () = drain.cancelled(), if !draining => {
                    draining = true;
                    self.step(Input::Drain);
                }
                done = async { self.work.as_mut()?.await.into() }, if self.work.is_some() => {
                    self.work = None;
                    if let Some(done) = done {
                        self.done(done);
                    }
                }
                () = sleep_until(deadline) => self.step(Input::Timer),
                feed = self.assignment.feed.recv(), if self.waiting.is_none() => match feed {
                    Some(feed) => self.feed(feed),
                    None => break,
                },
                // More of the same piece may be waiting: other tasks get their turn first.
                () = tokio::task::yield_now(), if taken && self.waiting.is_some() => {}
                () = memory.filled() => {}
            }
        }
        self.assignment.flow.set_must_read(false);
        tracing::debug!(partition = %self.assignment.partition, "partition ended");
    }

    fn feed(&mut self, feed: Feed) {
        match feed {
            Feed::Messages(messages) => {
                self.assignment.flow.left(&messages);
                // Messages that were on their way when it went back come again.
                if messages.epoch == self.epoch {
                    self.broken_since = None;
                    self.shared.health.clear(&self.part());
                    metrics::counter!(metric::CONSUMER_MESSAGES, "topic" => self.id().topic)
                        .increment(messages.entries.len() as u64);
                    self.waiting = Some((messages, 0));
                }
            }
            Feed::Broken(problem) => {
                self.broken_since.get_or_insert_with(Instant::now);
                self.shared.health.report(&self.part(), problem);
            }
            Feed::Well => {
                self.broken_since = None;
                self.shared.health.clear(&self.part());
            }
        }
        self.publish();
    }

    /// Offers waiting messages until the partition takes no more. Says whether it took any.
    fn take_waiting(&mut self) -> bool {
        let mut taken = false;
        while let Some((messages, at)) = self.waiting.take() {
            let Some(entry) = messages.entries.get(at) else { break };
            let epoch = self.epoch;
            let mut effects = Vec::new();
            self.partition.step(Instant::now(), Input::Offered { offset: entry.offset }, &mut effects);
            let take = effects.last() == Some(&Effect::Take);
            effects.retain(|effect| *effect != Effect::Take);
            self.perform(effects);
            if take {
                taken = true;
                let lines = self.open.take(&mut self.decoder, &messages, *entry);
                let (open_rows, open_bytes) = (self.open.rows(), self.open.bytes());
                self.step(Input::Taken { offset: entry.offset, lines, open_rows, open_bytes });
            }
            if epoch == self.epoch {
                self.waiting = Some((messages, at + usize::from(take)));
            }
            if !take {
                break;
            }
        }
        self.open.charge();
        taken
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.partition.step(Instant::now(), input, &mut effects);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Take => {}
                Effect::Close { first, next } => self.close(first, next),
                Effect::Record(position) => self.record(position),
                Effect::ReadBack { rows } => self.read_back(&rows),
                Effect::Insert { rows, whole, with_token } => self.insert(rows, whole, with_token),
                Effect::Refuse { row } => self.refuse(row),
                Effect::WriteDeadLetters => self.write_dead_letters(),
                Effect::Release => self.release(),
                Effect::Reread { first, next } => self.reread(first, next),
                Effect::Stop => self.stopped = true,
            }
        }
        self.publish();
    }

    /// Tells the source and the gauges how the partition stands.
    fn publish(&mut self) {
        let flow = &self.assignment.flow;
        flow.set_must_read(self.partition.must_read_to().is_some());
        let stalled_since = self.partition.stalled_since().into_iter().chain(self.broken_since).min();
        if stalled_since != self.stalled_since {
            self.stalled_since = stalled_since;
            flow.set_stalled_since(stalled_since);
        }
    }

    fn close(&mut self, first: u64, next: u64) {
        let fresh = OpenBatch::new(self.table, self.id(), &self.shared.memory, false);
        let closed = std::mem::replace(&mut self.open, fresh).close(first, next);
        let table = self.table.name();
        metrics::histogram!(metric::CONSUMER_BATCH_ROWS, "table" => table).record(f64::from(closed.rows()));
        metrics::histogram!(metric::CONSUMER_BATCH_BYTES, "table" => table).record(closed.value_bytes as f64);
        metrics::histogram!(metric::CONSUMER_BATCH_SECONDS, "table" => table)
            .record(closed.opened.map_or(0.0, |opened| opened.elapsed().as_secs_f64()));
        let before = self.closed.replace(closed);
        assert!(before.is_none(), "two batches of {} are on their way", self.id());
    }

    fn record(&mut self, position: Position) {
        let Assignment { partition, generation, .. } = self.assignment;
        let source = self.shared.source.clone();
        self.begin(async move {
            let result = source.record(partition, generation, position).await;
            Done::Recorded(position, result)
        });
    }

    fn read_back(&mut self, rows: &Range<u32>) {
        let sought = closed(&self.closed).sought(rows);
        let (sink, table, partition) = (self.shared.sink.clone(), self.table, self.id());
        self.begin(async move { Done::ReadBack(sink.holds(table, partition, sought).await) });
    }

    fn insert(&mut self, rows: Range<u32>, whole: bool, with_token: bool) {
        let closed = closed(&self.closed);
        let block = closed.block(&rows, whole, &mut self.decoder);
        let token = with_token.then(|| self.token(closed, (!whole).then_some(rows), &block));
        let (sink, table) = (self.shared.sink.clone(), self.table);
        self.begin(async move { Done::Inserted(sink.insert(table, token.as_deref(), &block).await) });
    }

    fn refuse(&mut self, row: u32) {
        match &mut self.closed {
            Some(closed) => closed.refuse(row, &self.refusal),
            None => panic!("row {row} of no batch is refused"),
        }
    }

    fn write_dead_letters(&mut self) {
        let closed = closed(&self.closed);
        if closed.dead_letters.is_empty() {
            self.step(Input::DeadLettersWritten);
            return;
        }
        let block = dead_letter::block(&closed.dead_letters);
        let records = closed.dead_letters.clone();
        let (sink, source) = (self.shared.sink.clone(), self.shared.source.clone());
        self.begin(async move {
            // Written again, they meet their first copy; nobody would notice what a token drops.
            let result = sink.insert(Table::DeadLetters, None, &block).await;
            if result.is_ok() {
                source.show(records).await;
            }
            Done::DeadLettersWritten(result.map(|_| ()))
        });
    }

    /// One thing at a time is on its way, and what comes of it answers the effect that asked for it.
    fn begin(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        assert!(self.work.is_none(), "two things of {} are on their way", self.id());
        self.work = Some(Box::pin(work));
    }

    /// The same rows of the same range have the same token, whoever sends them and however often.
    fn token(&self, closed: &ClosedBatch, part: Option<Range<u32>>, block: &Block) -> String {
        let ClosedBatch { first, next, .. } = closed;
        let part = part.map_or_else(String::new, |rows| format!("/{}-{}", rows.start, rows.end));
        format!("{}/{}/{first}-{next}{part}/{:032x}", self.table.name(), self.id(), digest(block))
    }

    fn release(&mut self) {
        let Some(closed) = self.closed.take() else { panic!("no batch of {} is stored", self.id()) };
        let refused =
            closed.dead_letters.iter().filter(|record| record.reason == Reason::RefusedByStore).count()
                as u64;
        metrics::counter!(metric::CONSUMER_ROWS, "table" => self.table.name())
            .increment(u64::from(closed.rows()) - refused);
        let undecodable = closed.dead_letters.len() as u64 - refused;
        for (reason, count) in [(Reason::RefusedByStore, refused), (Reason::Undecodable, undecodable)] {
            if count > 0 {
                metrics::counter!(metric::CONSUMER_DEAD_LETTERS, "reason" => reason.as_str())
                    .increment(count);
                let partition = self.id();
                let (first, next) = (closed.first, closed.next);
                tracing::warn!(%partition, count, %reason, first, next, "dead-letter records");
            }
        }
        self.assignment.flow.set_stored(closed.next, closed.newest_received_ms);
    }

    fn reread(&mut self, first: u64, next: u64) {
        tracing::warn!(partition = %self.id(), first, next, refusal = self.refusal, "searching a refused batch");
        self.closed = None;
        self.open = OpenBatch::new(self.table, self.id(), &self.shared.memory, true);
        self.waiting = None;
        self.epoch += 1;
        self.assignment.flow.set_must_read(true);
        let Assignment { partition, generation, .. } = self.assignment;
        self.shared.source.reread(partition, generation, first, self.epoch);
    }

    fn done(&mut self, done: Done) {
        let jitter = rand::random::<f64>();
        let input = match done {
            Done::Recorded(position, Ok(())) => {
                self.shared.health.clear(&format!("{} position", self.part()));
                self.assignment.flow.set_stored(position.next, None);
                Input::Recorded
            }
            Done::Recorded(_, Err(problem)) => {
                let part = format!("{} position", self.part());
                self.shared.health.report(&part, format!("the position cannot be recorded: {problem}"));
                Input::RecordFailed { jitter }
            }
            Done::ReadBack(Ok(all)) => {
                self.shared.health.clear(&self.read_back_part());
                if all {
                    self.shared.health.clear(&self.store_part());
                    metrics::counter!(metric::CONSUMER_READ_BACK, "table" => self.table.name()).increment(1);
                }
                Input::ReadBack { all }
            }
            Done::ReadBack(Err(error)) => {
                let problem = format!("cannot ask what {} holds: {error}", self.table.name());
                self.shared.health.report(&self.read_back_part(), problem);
                Input::Unanswered { jitter }
            }
            Done::Inserted(Ok(took)) => {
                self.shared.health.clear(&self.store_part());
                self.shared.health.clear(&self.read_back_part());
                metrics::histogram!(metric::CONSUMER_INSERT_SECONDS, "table" => self.table.name())
                    .record(took.as_secs_f64());
                Input::Inserted
            }
            Done::DeadLettersWritten(Ok(())) => {
                self.shared.health.clear(&self.store_part());
                Input::DeadLettersWritten
            }
            Done::Inserted(Err(error)) => {
                let failure = error.failure();
                self.failed(self.table, &error);
                Input::InsertFailed { failure, jitter }
            }
            Done::DeadLettersWritten(Err(error)) => {
                self.failed(Table::DeadLetters, &error);
                Input::DeadLettersFailed { jitter }
            }
        };
        self.step(input);
    }

    fn failed(&mut self, table: Table, error: &StoreError) {
        let code = error.code_label();
        metrics::counter!(metric::CONSUMER_RETRIES, "table" => table.name(), "code" => code).increment(1);
        self.refusal = error.to_string();
        let hint = match error.kind {
            Kind::Passing | Kind::Overloaded => "will be tried again",
            Kind::Setup => "tables, rights or settings need a person; will be tried again",
            Kind::Refused if error.failure() == Failure::Refused => "refused",
            Kind::Refused | Kind::Unknown => "unknown error",
        };
        if error.kind == Kind::Refused {
            tracing::warn!(partition = %self.id(), table = table.name(), %error, "insert refused");
        } else {
            self.shared
                .health
                .report(&self.store_part(), format!("insert into {}: {hint}: {error}", table.name()));
        }
    }

    fn id(&self) -> TopicPartition {
        self.assignment.partition
    }

    fn part(&self) -> String {
        self.id().to_string()
    }

    fn store_part(&self) -> String {
        format!("{} store", self.id())
    }

    fn read_back_part(&self) -> String {
        format!("{} read-back", self.id())
    }
}

impl<S, K> Drop for Driver<S, K> {
    fn drop(&mut self) {
        self.assignment.flow.set_stalled_since(None);
        // What a partition complained of is its successor's to complain of.
        let part = self.assignment.partition.to_string();
        for part in [format!("{part} store"), format!("{part} read-back"), format!("{part} position"), part] {
            self.shared.health.clear(&part);
        }
    }
}

/// What is asked for is always of a batch that is on its way.
fn closed(batch: &Option<ClosedBatch>) -> &ClosedBatch {
    match batch {
        Some(batch) => batch,
        None => panic!("no batch is on its way"),
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
