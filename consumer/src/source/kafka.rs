//! Kafka as a source: one consumer of the group, polled by one thread.
//!
//! * A partition's position is the group's committed offset; the range that may be half stored stands in the commit's
//!   metadata as JSON ([`Position`]). Commits name their partitions: a commit of "everything" would drop the metadata.
//! * Positions are read before a partition is taken, and a revocation waits for a commit that has begun (a client whose
//!   commit does not end is replaced): a consumer that has lost a partition cannot move its successor's position.
//! * Above the memory bound, or when a partition has too much waiting, the thread first stops taking messages for a moment:
//!   librdkafka keeps what it has fetched. What lasts longer is paused, which throws the partition's fetched messages
//!   away, and the thread goes on polling, so the group does not miss us.
//! * A client that knows no broker any more is replaced. librdkafka drops the brokers that a metadata answer does not
//!   list, those of `bootstrap.servers` too, and a lone broker that was away for longer than its session answers for a
//!   moment with none at all: now and then such a client never connects again. Each client has partitions of its own; they
//!   are lost with it, as in a revocation.
//! * What Kafka deletes before it is read is gone, and is told before the position passes it (`deleted`).

mod deleted;
mod group;
mod settings;

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

use millrace_schemas::{spool::Position, topic::DEAD_LETTERS};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord, Producer as _},
};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use self::{
    deleted::Deletions,
    group::{Context, Group, PIECE_AGE, PIECE_BYTES, REQUEST_TIMEOUT, Shared},
};
use super::{Assignment, Messages, Source, SourceError, TOPICS, lock, run_detached};
use crate::{
    config::Config, dead_letter::DeadLetter, health::Health, memory::Memory, partition::TopicPartition,
};

/// How long one poll waits; also how soon pauses, rereads and the end are noticed.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);
/// A partition that is full for so long is paused; until then nobody is polled.
const PAUSE_AFTER: Duration = Duration::from_millis(500);
/// How soon a partition that is full is looked at again.
const FULL_POLL: Duration = Duration::from_millis(2);
/// A record for people is cut here, well below the broker's largest message.
const SHOWN_RAW_BYTES_MAX: usize = 256 << 10;
/// So many records are on their way to people at once.
const SHOWN_TOGETHER: usize = 64;
/// How long to wait where no new client can be made.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

/// Kafka's clients, shared by the reading thread and those that record positions.
pub struct KafkaSource {
    settings: ClientConfig,
    producer_settings: ClientConfig,
    /// Replaced by the reading thread alone.
    client: RwLock<Arc<Client>>,
    producer: Mutex<FutureProducer>,
    shared: Shared,
    reader: Mutex<Option<thread::JoinHandle<()>>>,
}

type Client = BaseConsumer<Context>;

impl KafkaSource {
    /// Joins the group and starts reading.
    pub fn start(
        config: &Config,
        memory: &Arc<Memory>,
        health: &Health,
    ) -> Result<(Arc<Self>, UnboundedReceiver<Assignment>), SourceError> {
        let (assignments, assigned) = mpsc::unbounded_channel();
        let shared = Shared {
            generation: Arc::new(AtomicU64::new(1)),
            stopping: Arc::default(),
            assignments,
            memory: memory.clone(),
            health: health.clone(),
            deletions: Arc::new(Deletions::new(health)),
        };
        let (settings, producer_settings) = (settings::consumer(config)?, settings::producer(config)?);
        let client = RwLock::new(join(&settings, &shared)?);
        let producer = Mutex::new(producer_settings.create().map_err(|error| refused(&error))?);
        let reader = Mutex::default();
        let source = Arc::new(Self { settings, producer_settings, client, producer, shared, reader });
        let reader = source.clone();
        let thread = thread::Builder::new()
            .name("kafka-reader".into())
            .spawn(move || reader.read())
            .map_err(|error| SourceError(format!("cannot start Kafka's reader: {error}")))?;
        *lock(&source.reader) = Some(thread);
        Ok((source, assigned))
    }

    fn client(&self) -> Arc<Client> {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read(&self) {
        let mut client = self.client();
        let mut busy = false;
        while !self.shared.is_stopping() {
            let timeout = if busy { Duration::ZERO } else { POLL_TIMEOUT };
            let polled = client.poll(timeout);
            let group = &client.context().group;
            busy = polled.is_some();
            let hand_over = match polled {
                Some(Ok(message)) => group.gather(&client, &message),
                Some(Err(error)) => {
                    // librdkafka goes on by itself; only its own broken state ends it, and that needs a person too.
                    self.shared.health.report("kafka", error.to_string());
                    false
                }
                None => true,
            };
            if hand_over {
                let mut full = hand_over_pieces(&client, !busy);
                while full && !self.shared.is_stopping() {
                    thread::sleep(FULL_POLL);
                    full = hand_over_pieces(&client, false);
                }
            }
            if group.is_given_up.load(SeqCst) {
                client = self.replace(client);
            }
        }
        // Leaving the group at once gives the partitions to others without a session timeout.
        client.unsubscribe();
        let until = Instant::now() + Duration::from_secs(3);
        while !lock(&client.context().group.partitions).is_empty() && Instant::now() < until {
            client.poll(POLL_TIMEOUT);
        }
    }

    /// Gives up the client's partitions and joins the group with a new client.
    fn replace(&self, old: Arc<Client>) -> Arc<Client> {
        old.context().group.give_up();
        let new = match join(&self.settings, &self.shared) {
            Ok(new) => new,
            Err(error) => {
                self.shared.health.report("kafka", format!("no new Kafka client can be made: {error}"));
                thread::sleep(RENEW_PAUSE);
                return old;
            }
        };
        tracing::warn!("the Kafka client is replaced; its partitions are read on by a new one");
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
        // What befell the one is likely to have befallen the other.
        self.replace_producer();
        dispose(move || end(old));
        new
    }

    /// Records that are on their way stay with the old one until they are settled.
    fn replace_producer(&self) {
        match self.producer_settings.create() {
            Ok(new) => {
                let old = std::mem::replace(&mut *lock(&self.producer), new);
                dispose(move || drop(old));
            }
            Err(error) => tracing::warn!(error = %refused(&error), "no new Kafka producer can be made"),
        }
    }

    fn commit(
        &self,
        partition: TopicPartition,
        generation: u64,
        position: Position,
    ) -> Result<(), SourceError> {
        let client = self.client();
        let group = &client.context().group;
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(partition.topic, partition.number as i32);
        element.set_offset(Offset::Offset(position.next as i64)).map_err(|error| refused(&error))?;
        let metadata = serde_json::to_string(&position).map_err(|error| SourceError(error.to_string()))?;
        element.set_metadata(metadata);
        {
            let mut owned = lock(&group.owned);
            if owned.generations.get(&partition) != Some(&generation) || group.is_given_up.load(SeqCst) {
                return Err(SourceError("the partition is no longer ours".into()));
            }
            owned.committing.insert(generation);
        }
        let result = client.commit(&list, CommitMode::Sync);
        lock(&group.owned).committing.remove(&generation);
        group.committed.notify_all();
        result.map_err(|error| refused(&error))
    }
}

/// Hands over what is gathered, pauses and resumes, goes back where that was asked for, and asks for what may have been
/// deleted. Says whether a partition is full that is not paused yet.
fn hand_over_pieces(client: &Client, idle: bool) -> bool {
    let group = &client.context().group;
    let memory = &group.shared.memory;
    let mut partitions = lock(&group.partitions);
    let mut full = false;
    let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
    for (partition, held) in partitions.iter_mut() {
        if idle || held.gathered.values.len() >= PIECE_BYTES || held.gathered_since.elapsed() >= PIECE_AGE {
            held.hand_over(memory);
        }
        let rereads = held.reread.is_some();
        if held.paused && (rereads || held.flow.may_resume(memory)) {
            held.paused = false;
            resume.add_partition(partition.topic, partition.number as i32);
        } else if held.paused || rereads || !held.flow.must_pause(memory) {
            held.full_since = None;
        } else if held.full_since.get_or_insert_with(Instant::now).elapsed() < PAUSE_AFTER {
            full = true;
        } else {
            (held.paused, held.full_since) = (true, None);
            pause.add_partition(partition.topic, partition.number as i32);
        }
    }
    group.paused.store(partitions.values().filter(|held| held.paused).count(), Relaxed);
    for (list, result) in [(&pause, client.pause(&pause)), (&resume, client.resume(&resume))] {
        if let (1.., Err(error)) = (list.count(), result) {
            tracing::warn!(%error, "cannot pause or resume partitions");
        }
    }
    let rereads: Vec<_> = partitions
        .iter()
        .filter_map(|(partition, held)| Some((*partition, held.generation, held.reread?)))
        .collect();
    let now = Instant::now();
    let to_ask: Vec<_> =
        partitions.iter().filter(|(_, held)| held.is_to_ask(now)).map(|(partition, _)| *partition).collect();
    drop(partitions);
    for (partition, generation, reread) in rereads {
        seek(client, partition, generation, reread);
    }
    for partition in to_ask {
        group.look_for_deletions(client, partition);
    }
    full
}

fn seek(client: &Client, partition: TopicPartition, generation: u64, reread: (u64, u64)) {
    let (offset, epoch) = reread;
    let target = Offset::Offset(offset as i64);
    if let Err(error) = client.seek(partition.topic, partition.number as i32, target, REQUEST_TIMEOUT) {
        // A partition that has just been taken cannot go back yet.
        tracing::warn!(%partition, %error, "cannot go back yet");
        thread::sleep(POLL_TIMEOUT);
    } else if let Some(held) = lock(&client.context().group.partitions).get_mut(&partition)
        && held.generation == generation
        && held.reread == Some(reread)
    {
        // Whatever is polled from now on comes from there.
        held.reread = None;
        held.gathered = Messages::new(epoch);
        held.reading.go_to(offset);
    }
}

impl KafkaSource {
    async fn show_one(&self, record: &DeadLetter) -> KafkaResult<()> {
        let key = format!("{}/{}/{}", record.partition, record.offset, record.row);
        let value = record.json(SHOWN_RAW_BYTES_MAX);
        let record = FutureRecord::to(DEAD_LETTERS).key(&key).payload(&value);
        let producer = lock(&self.producer).clone();
        producer.send(record, REQUEST_TIMEOUT).await.map(|_| ()).map_err(|(error, _)| error)
    }
}

impl Source for KafkaSource {
    async fn record(
        self: Arc<Self>,
        partition: TopicPartition,
        generation: u64,
        position: Position,
    ) -> Result<(), SourceError> {
        run_detached(move || self.commit(partition, generation, position)).await?
    }

    fn reread(&self, partition: TopicPartition, generation: u64, offset: u64, epoch: u64) {
        if let Some(held) = lock(&self.client().context().group.partitions).get_mut(&partition)
            && held.generation == generation
        {
            held.reread = Some((offset, epoch));
        }
    }

    async fn show(self: Arc<Self>, records: Vec<DeadLetter>) {
        for records in records.chunks(SHOWN_TOGETHER) {
            let sent = records.iter().map(|record| self.show_one(record));
            let failed = futures::future::join_all(sent).await.into_iter().find_map(Result::err);
            if let Some(error) = failed {
                // ClickHouse holds the records; a missing topic must not hold up everything behind them.
                tracing::warn!(%error, topic = DEAD_LETTERS, "cannot show dead-letter records");
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut) {
                    self.replace_producer();
                }
                return;
            }
        }
    }

    fn paused(&self) -> usize {
        self.client().context().group.paused.load(Relaxed)
    }

    async fn close(&self) {
        self.shared.stopping.store(true, SeqCst);
        let thread = lock(&self.reader).take();
        if let Some(thread) = thread {
            let _ = run_detached(move || thread.join()).await;
        }
        let producer = lock(&self.producer).clone();
        let _ = run_detached(move || producer.flush(Duration::from_secs(3))).await;
    }
}

/// A client that has joined the group, with partitions of its own.
fn join(settings: &ClientConfig, shared: &Shared) -> Result<Arc<Client>, SourceError> {
    let group = Arc::new(Group {
        partitions: Mutex::default(),
        owned: Mutex::default(),
        committed: Condvar::new(),
        paused: AtomicUsize::new(0),
        brokerless: AtomicU32::new(0),
        is_given_up: AtomicBool::new(false),
        shared: shared.clone(),
    });
    let client: Client = settings.create_with_context(Context { group }).map_err(|error| refused(&error))?;
    client.subscribe(&TOPICS).map_err(|error| refused(&error))?;
    Ok(Arc::new(client))
}

/// Ends a client, and with it the commits that wait in it.
fn end(mut client: Arc<Client>) {
    let began = Instant::now();
    let mut is_closing = false;
    loop {
        client = match Arc::try_unwrap(client) {
            Ok(client) => {
                drop(client);
                break;
            }
            Err(shared) => shared,
        };
        // A commit holds it; closing is what ends one that no broker answers.
        if !is_closing {
            is_closing = client.close_queue().is_ok();
        }
        client.poll(POLL_TIMEOUT);
    }
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "the old Kafka client has ended");
}

/// Ends a client on a thread of its own: that may take long.
fn dispose(ending: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name("kafka-ending".into()).spawn(ending) {
        tracing::warn!(%error, "no thread ends the old Kafka client");
    }
}

fn refused(error: &KafkaError) -> SourceError {
    match error {
        // Its text repeats the value, which may be a password.
        KafkaError::ClientConfig(_, _, name, _) => {
            let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'.');
            let name = if is_name { name } else { "one of them" };
            SourceError(format!("kafka-settings: librdkafka does not accept {name}"))
        }
        _ => SourceError(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_refused_is_named_and_not_repeated() {
        for name in ["sasl.passwrd", "acks"] {
            let error = ClientConfig::new().set(name, "canary").create::<FutureProducer>().err().unwrap();
            let said = refused(&error).to_string();
            assert!(said.contains(name) && !said.contains("canary"), "{said}");
        }
    }
}
