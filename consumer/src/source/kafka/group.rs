//! What a client knows of its partitions, and what Kafka tells it: partitions that come and go, jumps, statistics, errors.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

use millrace_schemas::{
    spool::Position,
    topic::{SCHEMA_HEADER, SCHEMA_VERSION},
};
use rdkafka::{
    ClientContext, Message as _, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Headers as _},
    statistics::Broker,
    types::RDKafkaRespErr,
};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::{
    super::{Assignment, Feed, Flow, Messages, TOPICS, lock},
    deleted::{Deletions, Jump, Reading},
};
use crate::{health::Health, memory::Memory, partition::TopicPartition};

/// Messages are handed over in pieces of this size, or when nothing more is there.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// … or when the first of them has waited this long.
pub(super) const PIECE_AGE: Duration = Duration::from_millis(20);
/// How long Kafka may take to answer a request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Positions that cannot be read for so long are read by a new client: while they are asked for, the statistics wait.
const POSITIONS_TIMEOUT: Duration = Duration::from_secs(30);
/// A revocation waits for a commit for so long; a client whose commit takes longer is replaced.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that knew no broker so many times in a row, four to six seconds, is replaced. One that begins anew by itself
/// knows none for some milliseconds; in an outage they are known and down.
const BROKERLESS_MAX: u32 = 3;
/// Where a log begins is waited for so long; meanwhile nothing is read.
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(2);

/// What outlives a client.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) generation: Arc<AtomicU64>,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) assignments: UnboundedSender<Assignment>,
    pub(super) memory: Arc<Memory>,
    pub(super) health: Health,
    pub(super) deletions: Arc<Deletions>,
}

/// What a client's callbacks, the polling thread and recording share.
pub(super) struct Group {
    pub(super) partitions: Mutex<HashMap<TopicPartition, Held>>,
    pub(super) owned: Mutex<Owned>,
    /// Told when a commit has ended.
    pub(super) committed: Condvar,
    pub(super) paused: AtomicUsize,
    /// Statistics in a row that named no broker.
    pub(super) brokerless: AtomicU32,
    /// Its client is of no use any more.
    pub(super) is_given_up: AtomicBool,
    pub(super) shared: Shared,
}

/// Who may record, and who does.
#[derive(Default)]
pub(super) struct Owned {
    pub(super) generations: HashMap<TopicPartition, u64>,
    /// Generations whose commit is on its way.
    pub(super) committing: HashSet<u64>,
}

/// A partition that is ours.
pub(super) struct Held {
    pub(super) generation: u64,
    pub(super) feed: UnboundedSender<Feed>,
    pub(super) flow: Arc<Flow>,
    pub(super) lost: CancellationToken,
    pub(super) gathered: Messages,
    pub(super) gathered_since: Instant,
    pub(super) reading: Reading,
    pub(super) paused: bool,
    /// It is to be paused if this lasts.
    pub(super) full_since: Option<Instant>,
    /// Where to read again, and the epoch of what comes then.
    pub(super) reread: Option<(u64, u64)>,
}

pub(super) struct Context {
    pub(super) group: Arc<Group>,
}

impl Group {
    /// Adds the message to its partition's piece; says whether it is time to hand pieces over.
    pub(super) fn gather(&self, client: &BaseConsumer<Context>, message: &BorrowedMessage<'_>) -> bool {
        let Some(partition) = partition_of(message.topic(), message.partition()) else { return false };
        let mut partitions = lock(&self.partitions);
        // A message that was on its way when its partition was taken from us is its new owner's.
        let Some(held) = partitions.get_mut(&partition) else { return false };
        if held.reread.is_some() {
            return true;
        }
        if held.gathered.entries.is_empty() {
            held.gathered_since = Instant::now();
        }
        // A message without a value holds no rows, as one with an empty value does.
        let (offset, value) = (message.offset() as u64, message.payload().unwrap_or_default());
        held.gathered.push(offset, value, is_foreign(message));
        let jump = held.reading.pass(offset);
        // Looking at the clock for every message would cost more than the message.
        let is_time = held.gathered.values.len() >= PIECE_BYTES
            || (held.gathered.entries.len().is_multiple_of(64) && held.gathered_since.elapsed() >= PIECE_AGE);
        drop(partitions);
        match jump {
            None => {}
            Some(Jump::Ahead) => self.look_for_deletions(client, partition),
            Some(Jump::Back { expected }) => {
                self.shared.deletions.tell_of_another_log(partition, expected, offset);
            }
        }
        is_time
    }

    /// Asks where the partition's log begins, if there is a reason to, and tells what was deleted unread.
    pub(super) fn look_for_deletions(&self, client: &BaseConsumer<Context>, partition: TopicPartition) {
        let is_to_ask =
            lock(&self.partitions).get(&partition).is_some_and(|held| held.is_to_ask(Instant::now()));
        if !is_to_ask {
            return;
        }
        let answer = client.fetch_watermarks(partition.topic, partition.number as i32, WATERMARKS_TIMEOUT);
        let mut partitions = lock(&self.partitions);
        let Some(held) = partitions.get_mut(&partition) else { return };
        let low = match answer {
            Ok((low @ 0.., _)) => low as u64,
            answer => {
                tracing::debug!(%partition, ?answer, "cannot ask where the log begins");
                held.reading.ask_again(Instant::now());
                return;
            }
        };
        for deleted in &held.reading.settle(Instant::now(), low) {
            self.shared.deletions.tell(partition, deleted);
        }
        if let Some(deleted) = held.reading.pass_over(low) {
            self.shared.deletions.tell(partition, &deleted);
            held.gather_nothing_below(deleted.end);
        }
    }

    /// Reads the positions of partitions that are ours now, as often as it takes: without them nothing can be rebuilt.
    fn positions(
        &self,
        consumer: &BaseConsumer<Context>,
        list: &TopicPartitionList,
    ) -> Option<TopicPartitionList> {
        let until = Instant::now() + POSITIONS_TIMEOUT;
        while !self.shared.is_stopping() {
            let committed = consumer.committed_offsets(list.clone(), REQUEST_TIMEOUT);
            let problem = match committed {
                Ok(committed) => {
                    match committed.elements().iter().find_map(|element| element.error().err()) {
                        None => {
                            self.shared.health.clear("positions");
                            return Some(committed);
                        }
                        Some(error) => error,
                    }
                }
                Err(error) => error,
            };
            let problem = format!("cannot read the group's positions: {problem}");
            self.shared.health.report("positions", problem);
            if Instant::now() >= until {
                self.is_given_up.store(true, SeqCst);
                return None;
            }
            thread::sleep(Duration::from_millis(500));
        }
        None
    }

    fn assigned(&self, consumer: &BaseConsumer<Context>, list: &mut TopicPartitionList) {
        let Some(committed) = self.positions(consumer, list) else {
            // A client that waits for its partitions to be taken would not end.
            let _ = consumer.incremental_assign(&TopicPartitionList::new());
            return;
        };
        let mut assignments = Vec::new();
        for element in committed.elements() {
            let Some(partition) = partition_of(element.topic(), element.partition()) else { continue };
            let position = match element.offset() {
                Offset::Offset(next) => Some(position(next as u64, element.metadata())),
                _ => None,
            };
            let from = position.map_or(Offset::Beginning, |position| Offset::Offset(position.next as i64));
            if let Err(error) = list.set_partition_offset(partition.topic, element.partition(), from) {
                tracing::error!(%partition, %error, "cannot set where to read from");
                continue;
            }
            assignments.push(self.hold(partition, position));
        }
        if let Err(error) = consumer.incremental_assign(list) {
            tracing::error!(%error, "cannot take partitions");
            self.lost(list);
            return;
        }
        tracing::info!(partitions = list.count(), "partitions assigned");
        for assignment in assignments {
            let _ = self.shared.assignments.send(assignment);
        }
    }

    fn hold(&self, partition: TopicPartition, position: Option<Position>) -> Assignment {
        let generation = self.shared.generation.fetch_add(1, Relaxed);
        let (feed, messages) = mpsc::unbounded_channel();
        let (flow, lost) = (Arc::new(Flow::default()), CancellationToken::new());
        let held = Held {
            generation,
            feed,
            flow: flow.clone(),
            lost: lost.clone(),
            gathered: Messages::new(0),
            gathered_since: Instant::now(),
            reading: Reading::new(position.map_or(0, |position| position.next)),
            paused: false,
            full_since: None,
            reread: None,
        };
        lock(&self.partitions).insert(partition, held);
        lock(&self.owned).generations.insert(partition, generation);
        Assignment { partition, generation, position, feed: messages, lost, flow }
    }

    /// All partitions are lost. Does not wait for a commit that has begun: without a broker it may not end before its client
    /// does, and it carries a membership that has no say once the successor is in the group.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, SeqCst);
        for (_, held) in lock(&self.partitions).drain() {
            held.lost.cancel();
        }
    }

    /// Takes note of whether its client knows a broker.
    fn watch(&self, statistics: &Statistics) {
        let mut brokers = statistics.brokers.values().filter(|broker| is_real(broker)).peekable();
        if brokers.peek().is_some() {
            self.brokerless.store(0, Relaxed);
            if brokers.any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
                self.shared.health.clear("kafka");
            }
            return;
        }
        let problem = "the Kafka client knows no broker any more; a new one is made within seconds";
        self.shared.health.report("kafka", problem);
        if self.brokerless.fetch_add(1, Relaxed) + 1 >= BROKERLESS_MAX {
            self.is_given_up.store(true, SeqCst);
        }
    }

    fn lost(&self, list: &TopicPartitionList) {
        for element in list.elements() {
            let Some(partition) = partition_of(element.topic(), element.partition()) else { continue };
            if let Some(held) = lock(&self.partitions).remove(&partition) {
                held.lost.cancel();
            }
            // Waits for a commit that has begun; none begins after this.
            let mut owned = lock(&self.owned);
            let Some(generation) = owned.generations.remove(&partition) else { continue };
            let patience = if self.is_given_up.load(SeqCst) { Duration::ZERO } else { COMMIT_TIMEOUT };
            let is_committing = |owned: &mut Owned| owned.committing.contains(&generation);
            let waited = self.committed.wait_timeout_while(owned, patience, is_committing);
            if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
                // Nobody answers it, and only the end of its client ends it.
                self.is_given_up.store(true, SeqCst);
            }
        }
    }
}

impl Held {
    /// Whether it is to be asked where the log begins. While it goes back it does not stand where it stood.
    pub(super) fn is_to_ask(&self, now: Instant) -> bool {
        self.reread.is_none() && self.reading.is_to_ask(now)
    }

    /// An empty message in the place of the last that was deleted: with it the position passes them, as with any other.
    fn gather_nothing_below(&mut self, next: u64) {
        if self.gathered.entries.is_empty() {
            self.gathered_since = Instant::now();
        }
        self.gathered.push(next - 1, b"", false);
    }

    pub(super) fn hand_over(&mut self, memory: &Arc<Memory>) {
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
        self.group.watch(&statistics);
        let mut partitions = lock(&self.group.partitions);
        for (partition, held) in partitions.iter_mut() {
            let topic = statistics.topics.get(partition.topic);
            let Some(state) = topic.and_then(|topic| topic.partitions.get(&(partition.number as i32))) else {
                continue;
            };
            let end = if state.ls_offset >= 0 { state.ls_offset } else { state.hi_offset };
            if let Ok(end) = u64::try_from(end) {
                held.flow.set_end(end);
            }
            // What is paused is not fetched, so nothing comes of it.
            if let Ok(low) = u64::try_from(state.lo_offset)
                && !held.paused
            {
                held.reading.hint(low);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.group.shared.health.report("kafka", format!("{error}: {reason}"));
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

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }
}

/// Whether it stands for a server, and not for a role or a queue within the client.
fn is_real(broker: &Broker) -> bool {
    matches!(broker.source.as_str(), "configured" | "learned")
}

fn partition_of(topic: &str, partition: i32) -> Option<TopicPartition> {
    let topic = TOPICS.into_iter().find(|known| *known == topic)?;
    Some(TopicPartition { topic, number: u32::try_from(partition).ok()? })
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
/// Either way no range is rebuilt, so what of it is stored may be stored again, under another token.
fn position(next: u64, metadata: &str) -> Position {
    let bare = Position { next, pending_next: None };
    if metadata.is_empty() {
        return bare;
    }
    match serde_json::from_str::<Position>(metadata) {
        Ok(position) if position.next == next => position,
        Ok(position) => {
            tracing::warn!(
                next,
                recorded = position.next,
                "somebody has moved the group; its record is of before"
            );
            bare
        }
        Err(error) => {
            tracing::warn!(next, %error, "the group's position carries a record that is not the consumer's");
            bare
        }
    }
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
