//! Kafka as a source: one consumer of the group, polled by one thread.
//!
//! * A lane's position is the group's committed offset; the range that may be half stored stands in the commit's
//!   metadata as JSON ([`Position`]). Commits name their partitions: a commit of "everything" would drop the metadata.
//! * Positions are read before a partition is taken, and a commit holds a lock that a revocation waits for: a lane
//!   that has lost its partition cannot move its successor's position.
//! * Above the memory bound partitions are paused; the thread goes on polling, so the group does not miss us.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

use millrace_schemas::{
    spool::Position,
    topic::{DEAD_LETTERS, SCHEMA_HEADER, SCHEMA_VERSION},
};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Headers as _},
    producer::{FutureProducer, FutureRecord, Producer as _},
    types::RDKafkaRespErr,
};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::{Assignment, Feed, Flow, LaneId, Messages, Source, SourceError, TOPICS};
use crate::{config::Config, dead_letter::DeadLetter, health::Health, memory::Memory};

/// Messages are handed over in pieces of this size, or when nothing more is there.
const PIECE_BYTES: usize = 256 << 10;
/// … or when the first of them has waited this long.
const PIECE_AGE: Duration = Duration::from_millis(20);
/// How long one poll waits; also how soon pauses, rereads and the end are noticed.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A letter for people is cut here, well below the broker's largest message.
const SHOWN_RAW_BYTES_MAX: usize = 256 << 10;
/// So many letters are on their way to people at once.
const SHOWN_TOGETHER: usize = 64;

/// The consumer, shared by its thread and those that record positions.
pub struct KafkaSource {
    consumer: BaseConsumer<Context>,
    producer: FutureProducer,
    group: Arc<Group>,
    reader: Mutex<Option<thread::JoinHandle<()>>>,
}

/// What the rebalance callback, the polling thread and recording share.
struct Group {
    lanes: Mutex<HashMap<LaneId, Held>>,
    /// Assignments that may record. Read while committing, written to when one is lost.
    owned: RwLock<HashMap<LaneId, u64>>,
    generation: AtomicU64,
    paused: AtomicUsize,
    stopping: AtomicBool,
    assignments: UnboundedSender<Assignment>,
    memory: Arc<Memory>,
    health: Health,
}

/// A partition that is ours.
struct Held {
    generation: u64,
    feed: UnboundedSender<Feed>,
    flow: Arc<Flow>,
    lost: CancellationToken,
    gathered: Messages,
    gathered_since: Instant,
    paused: bool,
    /// Where to read again, and the epoch of what comes then.
    reread: Option<(u64, u64)>,
}

struct Context {
    group: Arc<Group>,
}

impl KafkaSource {
    /// Joins the group and starts reading.
    pub fn start(
        config: &Config,
        memory: &Arc<Memory>,
        health: &Health,
    ) -> Result<(Arc<Self>, UnboundedReceiver<Assignment>), SourceError> {
        let (assignments, assigned) = mpsc::unbounded_channel();
        let group = Arc::new(Group {
            lanes: Mutex::default(),
            owned: RwLock::default(),
            generation: AtomicU64::new(1),
            paused: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            assignments,
            memory: memory.clone(),
            health: health.clone(),
        });
        let fail = |error: KafkaError| SourceError(error.to_string());
        let context = Context { group: group.clone() };
        let consumer: BaseConsumer<Context> =
            consumer_settings(config)?.create_with_context(context).map_err(fail)?;
        let producer = producer_settings(config)?.create().map_err(fail)?;
        consumer.subscribe(&TOPICS).map_err(fail)?;
        let source = Arc::new(Self { consumer, producer, group, reader: Mutex::default() });
        let reader = source.clone();
        let thread = thread::Builder::new()
            .name("kafka-reader".into())
            .spawn(move || reader.read())
            .map_err(|error| SourceError(format!("cannot start Kafka's reader: {error}")))?;
        *lock(&source.reader) = Some(thread);
        Ok((source, assigned))
    }

    fn read(&self) {
        let mut busy = false;
        while !self.group.stopping.load(SeqCst) {
            let timeout = if busy { Duration::ZERO } else { POLL_TIMEOUT };
            let polled = self.consumer.poll(timeout);
            busy = polled.is_some();
            let hand_over = match polled {
                Some(Ok(message)) => self.group.gather(&message),
                Some(Err(error)) => {
                    // librdkafka goes on by itself; only its own broken state ends it, and that needs a person too.
                    self.group.health.report("kafka", error.to_string());
                    false
                }
                None => true,
            };
            if hand_over {
                self.hand_over(!busy);
            }
        }
        // Leaving the group at once gives the partitions to others without a session timeout.
        self.consumer.unsubscribe();
        let until = Instant::now() + Duration::from_secs(3);
        while !lock(&self.group.lanes).is_empty() && Instant::now() < until {
            self.consumer.poll(POLL_TIMEOUT);
        }
    }

    /// Hands over what is gathered, pauses and resumes, and goes back where that was asked for.
    fn hand_over(&self, idle: bool) {
        let mut lanes = lock(&self.group.lanes);
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (lane, held) in lanes.iter_mut() {
            if idle || held.gathered.values.len() >= PIECE_BYTES || held.gathered_since.elapsed() >= PIECE_AGE
            {
                held.hand_over(&self.group.memory);
            }
            let rereads = held.reread.is_some();
            if held.paused && (rereads || held.flow.may_resume(&self.group.memory)) {
                held.paused = false;
                resume.add_partition(lane.topic, lane.partition as i32);
            } else if !held.paused && !rereads && held.flow.must_pause(&self.group.memory) {
                held.paused = true;
                pause.add_partition(lane.topic, lane.partition as i32);
            }
        }
        self.group.paused.store(lanes.values().filter(|held| held.paused).count(), Relaxed);
        for (list, result) in
            [(&pause, self.consumer.pause(&pause)), (&resume, self.consumer.resume(&resume))]
        {
            if let (1.., Err(error)) = (list.count(), result) {
                tracing::warn!(%error, "cannot pause or resume partitions");
            }
        }
        let rereads: Vec<_> =
            lanes.iter().filter_map(|(lane, held)| Some((*lane, held.generation, held.reread?))).collect();
        drop(lanes);
        for (lane, generation, reread) in rereads {
            self.seek(lane, generation, reread);
        }
    }

    fn seek(&self, lane: LaneId, generation: u64, reread: (u64, u64)) {
        let (offset, epoch) = reread;
        let target = Offset::Offset(offset as i64);
        if let Err(error) = self.consumer.seek(lane.topic, lane.partition as i32, target, REQUEST_TIMEOUT) {
            // A partition that has just been taken cannot go back yet.
            tracing::warn!(%lane, %error, "cannot go back yet");
            thread::sleep(POLL_TIMEOUT);
        } else if let Some(held) = lock(&self.group.lanes).get_mut(&lane)
            && held.generation == generation
            && held.reread == Some(reread)
        {
            // Whatever is polled from now on comes from there.
            held.reread = None;
            held.gathered = Messages::new(epoch);
        }
    }

    fn commit(&self, lane: LaneId, generation: u64, position: Position) -> Result<(), SourceError> {
        let fail = |error: KafkaError| SourceError(error.to_string());
        let owned = self.group.owned.read().unwrap_or_else(PoisonError::into_inner);
        if owned.get(&lane) != Some(&generation) {
            return Err(SourceError("the partition is no longer ours".into()));
        }
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(lane.topic, lane.partition as i32);
        element.set_offset(Offset::Offset(position.next as i64)).map_err(fail)?;
        let metadata = serde_json::to_string(&position).map_err(|error| SourceError(error.to_string()))?;
        element.set_metadata(metadata);
        self.consumer.commit(&list, CommitMode::Sync).map_err(fail)
    }
}

impl KafkaSource {
    async fn show_one(&self, letter: &DeadLetter) -> KafkaResult<()> {
        let key = format!("{}/{}/{}", letter.lane, letter.offset, letter.row);
        let value = letter.json(SHOWN_RAW_BYTES_MAX);
        let record = FutureRecord::to(DEAD_LETTERS).key(&key).payload(&value);
        self.producer.send(record, REQUEST_TIMEOUT).await.map(|_| ()).map_err(|(error, _)| error)
    }
}

impl Source for KafkaSource {
    async fn record(
        self: Arc<Self>,
        lane: LaneId,
        generation: u64,
        position: Position,
    ) -> Result<(), SourceError> {
        tokio::task::spawn_blocking(move || self.commit(lane, generation, position))
            .await
            .map_err(|error| SourceError(error.to_string()))?
    }

    fn reread(&self, lane: LaneId, generation: u64, offset: u64, epoch: u64) {
        if let Some(held) = lock(&self.group.lanes).get_mut(&lane)
            && held.generation == generation
        {
            held.reread = Some((offset, epoch));
        }
    }

    async fn show(self: Arc<Self>, letters: Vec<DeadLetter>) {
        for letters in letters.chunks(SHOWN_TOGETHER) {
            let sent = letters.iter().map(|letter| self.show_one(letter));
            let failed = futures::future::join_all(sent).await.into_iter().find_map(Result::err);
            if let Some(error) = failed {
                // ClickHouse holds the letters; a missing topic must not hold up everything behind them.
                tracing::warn!(%error, topic = DEAD_LETTERS, "cannot show dead letters");
                return;
            }
        }
    }

    fn paused(&self) -> usize {
        self.group.paused.load(Relaxed)
    }

    async fn close(&self) {
        self.group.stopping.store(true, SeqCst);
        let thread = lock(&self.reader).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        let producer = self.producer.clone();
        let _ = tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(3))).await;
    }
}

impl Group {
    /// Adds the message to its lane's piece; says whether it is time to hand pieces over.
    fn gather(&self, message: &BorrowedMessage<'_>) -> bool {
        let Some(lane) = lane_of(message.topic(), message.partition()) else { return false };
        let mut lanes = lock(&self.lanes);
        // A message that was on its way when its partition was taken from us is its new owner's.
        let Some(held) = lanes.get_mut(&lane) else { return false };
        if held.reread.is_some() {
            return true;
        }
        if held.gathered.entries.is_empty() {
            held.gathered_since = Instant::now();
        }
        let value = message.payload().unwrap_or_default();
        held.gathered.push(message.offset() as u64, value, is_foreign(message));
        // Looking at the clock for every message would cost more than the message.
        held.gathered.values.len() >= PIECE_BYTES
            || (held.gathered.entries.len().is_multiple_of(64) && held.gathered_since.elapsed() >= PIECE_AGE)
    }

    /// Reads the positions of partitions that are ours now, as often as it takes: without them nothing can be rebuilt.
    fn positions(
        &self,
        consumer: &BaseConsumer<Context>,
        list: &TopicPartitionList,
    ) -> Option<TopicPartitionList> {
        while !self.stopping.load(SeqCst) {
            let committed = consumer.committed_offsets(list.clone(), REQUEST_TIMEOUT);
            let problem = match committed {
                Ok(committed) => {
                    match committed.elements().iter().find_map(|element| element.error().err()) {
                        None => {
                            self.health.clear("positions");
                            return Some(committed);
                        }
                        Some(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.health.report("positions", format!("cannot read the group's positions: {problem}"));
            thread::sleep(Duration::from_millis(500));
        }
        None
    }

    fn assigned(&self, consumer: &BaseConsumer<Context>, list: &mut TopicPartitionList) {
        let Some(committed) = self.positions(consumer, list) else { return };
        let mut assignments = Vec::new();
        for element in committed.elements() {
            let Some(lane) = lane_of(element.topic(), element.partition()) else { continue };
            let position = match element.offset() {
                Offset::Offset(next) => Some(position(next as u64, element.metadata())),
                _ => None,
            };
            let from = position.map_or(Offset::Beginning, |position| Offset::Offset(position.next as i64));
            if let Err(error) = list.set_partition_offset(lane.topic, element.partition(), from) {
                tracing::error!(%lane, %error, "cannot set where to read from");
                continue;
            }
            assignments.push(self.hold(lane, position));
        }
        if let Err(error) = consumer.incremental_assign(list) {
            tracing::error!(%error, "cannot take partitions");
            self.lost(list);
            return;
        }
        tracing::info!(partitions = list.count(), "partitions assigned");
        for assignment in assignments {
            let _ = self.assignments.send(assignment);
        }
    }

    fn hold(&self, lane: LaneId, position: Option<Position>) -> Assignment {
        let generation = self.generation.fetch_add(1, Relaxed);
        let (feed, messages) = mpsc::unbounded_channel();
        let (flow, lost) = (Arc::new(Flow::default()), CancellationToken::new());
        let held = Held {
            generation,
            feed,
            flow: flow.clone(),
            lost: lost.clone(),
            gathered: Messages::new(0),
            gathered_since: Instant::now(),
            paused: false,
            reread: None,
        };
        lock(&self.lanes).insert(lane, held);
        self.owned.write().unwrap_or_else(PoisonError::into_inner).insert(lane, generation);
        Assignment { lane, generation, position, feed: messages, lost, flow }
    }

    fn lost(&self, list: &TopicPartitionList) {
        for element in list.elements() {
            let Some(lane) = lane_of(element.topic(), element.partition()) else { continue };
            if let Some(held) = lock(&self.lanes).remove(&lane) {
                held.lost.cancel();
            }
            // Waits for a commit that has begun; none begins after this.
            self.owned.write().unwrap_or_else(PoisonError::into_inner).remove(&lane);
        }
    }
}

impl Held {
    fn hand_over(&mut self, memory: &Arc<Memory>) {
        if !self.gathered.entries.is_empty() && self.reread.is_none() {
            let empty = Messages::new(self.gathered.epoch);
            let mut messages = std::mem::replace(&mut self.gathered, empty);
            self.flow.entered(&mut messages, memory);
            let _ = self.feed.send(Feed::Messages(messages));
        }
    }
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.group.health.clear("kafka");
        }
        let lanes = lock(&self.group.lanes);
        for (lane, held) in lanes.iter() {
            let end = statistics
                .topics
                .get(lane.topic)
                .and_then(|topic| topic.partitions.get(&(lane.partition as i32)))
                .map(
                    |partition| {
                        if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset }
                    },
                );
            if let Some(end) = end.and_then(|end| u64::try_from(end).ok()) {
                held.flow.set_end(end);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.group.health.report("kafka", format!("{error}: {reason}"));
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, "{message}"),
            _ => tracing::debug!(facility, "{message}"),
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.group.assigned(consumer, list);
            return;
        }
        self.group.lost(list);
        if let Err(error) = consumer.incremental_unassign(list) {
            tracing::warn!(%error, "cannot give partitions back");
        }
        tracing::info!(partitions = list.count(), "partitions revoked");
    }

    fn commit_callback(&self, _: KafkaResult<()>, _: &TopicPartitionList) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lane_of(topic: &str, partition: i32) -> Option<LaneId> {
    let topic = TOPICS.into_iter().find(|known| *known == topic)?;
    Some(LaneId { topic, partition: u32::try_from(partition).ok()? })
}

fn is_foreign(message: &BorrowedMessage<'_>) -> bool {
    message.headers().is_some_and(|headers| {
        headers.iter().any(|header| {
            header.key == SCHEMA_HEADER
                && header.value.is_some_and(|value| value != SCHEMA_VERSION.as_bytes())
        })
    })
}

/// The committed offset with what its metadata says. Metadata of another offset is from before somebody moved the group.
fn position(next: u64, metadata: &str) -> Position {
    serde_json::from_str::<Position>(metadata)
        .ok()
        .filter(|position| position.next == next)
        .unwrap_or(Position { next, pending_next: None })
}

fn settings(config: &Config) -> Result<ClientConfig, SourceError> {
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", &config.kafka_brokers)
        .set("client.id", "millrace-consumer")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "2000");
    for (name, value) in config.kafka_setting_pairs().map_err(|error| SourceError(error.to_string()))? {
        settings.set(name, value);
    }
    Ok(settings)
}

fn consumer_settings(config: &Config) -> Result<ClientConfig, SourceError> {
    let mut settings = settings(config)?;
    // librdkafka's own queue counts against the memory of the process, not against our bound: an eighth beside it.
    let queue_kbytes = (config.memory_bytes / 8 / 1024).max(1024);
    settings
        .set("group.id", &config.kafka_group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("isolation.level", "read_committed")
        .set("session.timeout.ms", config.kafka_session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", (config.kafka_session_timeout_ms / 10).max(100).to_string())
        .set("queued.max.messages.kbytes", queue_kbytes.to_string())
        // Few large fetches: a batch is a second old anyway.
        .set("fetch.min.bytes", "262144")
        .set("fetch.wait.max.ms", "200")
        // A topic or a partition that is made later is found this soon.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("allow.auto.create.topics", "false")
        .set("statistics.interval.ms", "5000");
    Ok(settings)
}

fn producer_settings(config: &Config) -> Result<ClientConfig, SourceError> {
    let mut settings = settings(config)?;
    settings
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "zstd")
        .set("message.timeout.ms", "10000")
        .set("queue.buffering.max.kbytes", "8192");
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_counts_only_for_its_own_offset() {
        let intent = Position { next: 5, pending_next: Some(9) };
        let metadata = serde_json::to_string(&intent).unwrap();
        assert_eq!(position(5, &metadata), intent);
        assert_eq!(position(7, &metadata), Position { next: 7, pending_next: None });
        assert_eq!(position(5, ""), Position { next: 5, pending_next: None });
        assert_eq!(position(5, "someone else's"), Position { next: 5, pending_next: None });
    }
}
