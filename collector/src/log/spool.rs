//! The log on one machine's disk; [`millrace_schemas::spool`] says what it looks like there.
//!
//! One thread per topic commits in groups: it takes every append that waits, writes them, calls fdatasync once, writes
//! the durable offset, and only then answers all of them. While it waits for the disk the next group gathers, so the
//! cost of an fsync is shared by as many requests as arrive during one.
//!
//! Two readers exist, and never both at once: the consumer on the same machine, and the drain to Kafka of
//! [`super::relay`]. Either records its position in the topic's directory; what lies wholly below it is deleted.
//!
//! The spool is bounded by bytes and by the age of the oldest frame that its reader has not consumed. Beyond either
//! bound appends are refused; nothing that was acknowledged is ever dropped. [`mod@share`] bounds what one store takes of it. What a broken disk does is said in
//! `segment.rs`: the appends concerned are refused, what was acknowledged stays, and the writer tries once a second
//! whether the disk takes writes again.

mod age;
pub(crate) mod reader;
pub(crate) mod segment;
mod share;

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millrace_schemas::{
    metric,
    spool::{CONSUMER_FILE, Record, read_frame, write_frame},
};
use millrace_service::private;

use self::{
    age::Marks,
    reader::Reader,
    segment::Segments,
    share::{Room, Shares, Store, store_of},
};
use super::{Log, NotLogged, Pending, Receipt};
use crate::encode::{Message, Topic};

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Another collector writes here.
    #[error("{0} is in use by another collector")]
    InUse(PathBuf),
    /// Acknowledged frames are damaged or missing.
    #[error("{path} is damaged: {what}; the spool must be looked at before it is written again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Appends that may wait for one topic's writer; bytes are bounded separately.
const QUEUE_APPENDS_MAX: usize = 16 * 1024;
/// A group is committed once it is this large, however many more wait.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// With less room than this the spool counts as full: larger requests are refused, and soon all are.
const ROOM_BYTES_MIN: u64 = 1 << 20;
/// Bytes that are read at a time to count whose they are.
const RECOUNT_BYTES: usize = 1 << 20;
/// How often consumed segments are looked for.
const CLEAN_EVERY: Duration = Duration::from_secs(1);

/// The spool of a collector.
pub struct SpoolLog {
    writers: [Writer; 2],
    usage: Arc<Usage>,
    age_max: Option<Duration>,
    largest_gauge: metrics::Gauge,
    dir: PathBuf,
    /// Held while this collector writes here.
    _lock: Lock,
}

/// The lock of a spool's directory. It is taken back by its name, and not left to the file's end: a child that another
/// thread has just forked, and that has not become its program yet, has the file open too.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// What is in use, over both topics.
#[derive(Debug)]
struct Usage {
    /// Bytes on disk and on their way to it.
    bytes: AtomicU64,
    bytes_max: u64,
    /// Bytes that the disk had free when it was last asked, and how many of ours there were then.
    disk: Mutex<(u64, u64)>,
    shares: Shares,
    /// Frames on their way to the disk.
    queued: AtomicUsize,
    /// Age at which the last segment is followed by another, milliseconds.
    segment_age_ms_max: AtomicU64,
}

impl Usage {
    /// Bytes that the spool may still take.
    fn room(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }

    /// What stores share. The disk may have less room than the spool may take.
    fn shared(&self) -> Room {
        let (disk_free, bytes_then) = *self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.bytes.load(Ordering::Relaxed);
        let disk_free = disk_free.saturating_sub(bytes.saturating_sub(bytes_then));
        let size = self.bytes_max.min(bytes.saturating_add(disk_free));
        Room { size, free: size.saturating_sub(bytes) }
    }

    /// Asks the disk. Where it does not say, it is found out by writing.
    fn look_at_disk(&self, dir: &Path) {
        if let Ok(disk) = rustix::fs::statvfs(dir) {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let bytes = self.bytes.load(Ordering::Relaxed);
            *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = (free, bytes);
        }
    }
}

struct Writer {
    queue: Mutex<Option<SyncSender<Append>>>,
    shown: Arc<Shown>,
    /// Of the reader, when the spool was opened.
    position: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a writer's thread shows of its topic.
#[derive(Debug)]
struct Shown {
    /// The last commit failed.
    is_failing: AtomicBool,
    /// Offset after the last durable frame.
    durable_next: AtomicU64,
    /// Age of the oldest frame that was not consumed; below zero: all were.
    oldest_ms: AtomicI64,
}

/// The frames of one request, and so of one store, by topic.
pub(crate) struct Frames {
    topics: [(Vec<u8>, usize); Topic::ALL.len()],
    store: Vec<u8>,
}

impl Frames {
    pub(crate) fn new(messages: &[Message]) -> Self {
        let mut frames = Self::empty();
        for message in messages {
            frames.push(message.topic, &message.key, &message.value);
        }
        frames
    }

    pub(crate) const fn empty() -> Self {
        Self { topics: [(Vec::new(), 0), (Vec::new(), 0)], store: Vec::new() }
    }

    pub(crate) fn push(&mut self, topic: Topic, key: &[u8], value: &[u8]) {
        if self.store.is_empty() {
            self.store.extend_from_slice(store_of(key));
        }
        let (frames, count) = &mut self.topics[topic as usize];
        write_frame(frames, Record { key, value });
        *count += 1;
    }
}

/// The frames of one request for one topic.
struct Append {
    frames: Vec<u8>,
    count: usize,
    store: Store,
    pending: Arc<Pending>,
}

impl SpoolLog {
    /// Opens the spool, cuts torn tails, and starts the writers. `segment_bytes` is for tests.
    pub fn open(dir: &Path, bytes_max: u64, segment_bytes: u64) -> Result<Self, Error> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        private::create_dir_all(dir).map_err(at(dir))?;
        let lock_path = dir.join("collector.lock");
        let lock = Lock(private::create(&lock_path).map_err(at(&lock_path))?);
        if lock.0.try_lock().is_err() {
            return Err(Error::InUse(dir.to_owned()));
        }
        let usage = Usage {
            bytes: AtomicU64::new(0),
            bytes_max,
            disk: Mutex::new((u64::MAX, 0)),
            shares: Shares::new(bytes_max),
            queued: AtomicUsize::new(0),
            segment_age_ms_max: AtomicU64::new(u64::MAX),
        };
        let usage = Arc::new(usage);
        let open = |topic: Topic| {
            let segments = Segments::open(&dir.join(topic.name()), segment_bytes)?;
            usage.bytes.fetch_add(segments.bytes(), Ordering::Relaxed);
            Writer::start(topic, segments, Arc::clone(&usage))
        };
        let writers = [open(Topic::Events)?, open(Topic::Clicks)?];
        usage.look_at_disk(dir);
        let largest_gauge = metrics::gauge!(metric::COLLECTOR_SPOOL_STORE_BYTES);
        Ok(Self { writers, usage, age_max: None, largest_gauge, dir: dir.to_owned(), _lock: lock })
    }

    /// Refuses appends while the oldest frame that was not consumed is older than this.
    #[must_use]
    pub fn limit_age(self, age_max: Duration) -> Self {
        Self { age_max: Some(age_max), ..self }
    }

    /// Begins a new segment behind one that is this old, so that what was consumed leaves the disk in a quiet store, too.
    #[must_use]
    pub fn roll_after(self, age: Duration) -> Self {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.usage.segment_age_ms_max.store(age_ms, Ordering::Relaxed);
        self
    }

    /// Lets the events of one store take this percent of the spool, and less where room is scarce: [`mod@share`].
    #[must_use]
    pub fn limit_stores(self, percent: u32) -> Self {
        self.usage.shares.limit(percent);
        self
    }

    /// Appends frames that share `pending`; it is settled for each of them unless this fails. Never blocks.
    pub(crate) fn enqueue(&self, frames: Frames, pending: &Arc<Pending>) -> Result<(), NotLogged> {
        let bytes: usize = frames.topics.iter().map(|(frames, _)| frames.len()).sum();
        if self.is_too_old() {
            return Err(NotLogged::Unavailable);
        }
        let store = self.usage.shares.reserve(&frames.store, bytes as u64, self.usage.shared());
        let store = store.ok_or(NotLogged::StoreOverShare)?;
        if !self.reserve(bytes as u64) {
            self.usage.shares.give_back(&store, bytes as u64);
            return Err(NotLogged::Unavailable);
        }
        let mut result = Ok(());
        for (writer, (frames, count)) in self.writers.iter().zip(frames.topics) {
            if count == 0 {
                continue;
            }
            let bytes = frames.len() as u64;
            self.usage.queued.fetch_add(count, Ordering::AcqRel);
            let append = Append { frames, count, store: Arc::clone(&store), pending: Arc::clone(pending) };
            if !writer.enqueue(append) {
                self.usage.queued.fetch_sub(count, Ordering::AcqRel);
                self.usage.bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.usage.shares.give_back(&store, bytes);
                result = Err(NotLogged::Unavailable);
            }
        }
        result
    }

    /// Whether the disk is behind by half of what may wait for it.
    pub(crate) fn is_busy(&self) -> bool {
        self.queued() >= QUEUE_APPENDS_MAX / 2
    }

    /// Where all its files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a topic's files are.
    pub(crate) fn topic_dir(&self, topic: Topic) -> PathBuf {
        self.dir.join(topic.name())
    }

    /// Offset after the last durable frame of a topic.
    pub(crate) fn durable_next(&self, topic: Topic) -> u64 {
        self.writers[topic as usize].shown.durable_next.load(Ordering::Acquire)
    }

    /// Where the reader of a topic stood when the spool was opened.
    pub(crate) fn position_at_start(&self, topic: Topic) -> u64 {
        self.writers[topic as usize].position
    }

    /// Age of the oldest frame that was not consumed.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let oldest_ms =
            self.writers.iter().map(|writer| writer.shown.oldest_ms.load(Ordering::Relaxed)).max()?;
        u64::try_from(oldest_ms).ok().map(Duration::from_millis)
    }

    fn is_too_old(&self) -> bool {
        self.age_max.is_some_and(|age_max| self.oldest().is_some_and(|age| age > age_max))
    }

    fn reserve(&self, bytes: u64) -> bool {
        let taken = self.usage.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if taken > self.usage.bytes_max {
            self.usage.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }
}

impl Log for SpoolLog {
    fn append(&self, messages: Vec<Message>) -> Receipt {
        let (pending, receipt) = Pending::new(messages.len());
        match self.enqueue(Frames::new(&messages), &pending) {
            Ok(()) => receipt,
            Err(why) => Receipt::refused(why),
        }
    }

    fn admits(&self, store_id: &str, trusted: bool) -> bool {
        self.usage.shares.admits(store_of(store_id.as_bytes()), trusted, self.usage.shared())
    }

    fn ready(&self) -> Result<(), String> {
        if self.writers.iter().any(|writer| writer.shown.is_failing.load(Ordering::Relaxed)) {
            return Err("the spool's disk refuses writes".into());
        }
        if self.usage.room() < ROOM_BYTES_MIN.min(self.usage.bytes_max / 8) {
            return Err("the spool is full".into());
        }
        if let (true, Some(age)) = (self.is_too_old(), self.oldest()) {
            let seconds = age.as_secs();
            return Err(format!(
                "the oldest event in the spool has waited {seconds} s, longer than --spool-age-max-seconds"
            ));
        }
        Ok(())
    }

    fn queued(&self) -> usize {
        self.usage.queued.load(Ordering::Relaxed)
    }

    fn tick(&self) {
        self.largest_gauge.set(self.usage.shares.largest() as f64);
    }

    fn close(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        for writer in &self.writers {
            // The writer commits what is queued, sees the closed queue and ends.
            writer.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        for writer in &self.writers {
            let thread = writer.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(thread) = thread else { continue };
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if !thread.is_finished() {
                tracing::warn!(
                    "the spool's disk did not finish in time; senders of the rest were not answered"
                );
            }
        }
    }
}

impl Writer {
    fn start(topic: Topic, segments: Segments, usage: Arc<Usage>) -> Result<Self, Error> {
        let (queue, appends) = sync_channel(QUEUE_APPENDS_MAX);
        let path = segments.dir().to_owned();
        let at = |source| Error::Io { path: path.join(CONSUMER_FILE), source };
        let position = segments.position().map_err(at)?;
        let position = position.or_else(|| segments.firsts().next()).unwrap_or(0);
        let shown = Arc::new(Shown {
            is_failing: AtomicBool::new(false),
            durable_next: AtomicU64::new(segments.next()),
            oldest_ms: AtomicI64::new(-1),
        });
        recount(topic, &segments, position, &usage)?;
        let mut committer = Committer {
            topic,
            marks: Marks::read(&path, &segments, position),
            last_since: (segments.firsts().last(), Instant::now()),
            position,
            segments,
            usage,
            shown: Arc::clone(&shown),
            bytes_gauge: metrics::gauge!(metric::COLLECTOR_SPOOL_BYTES, "topic" => topic.name()),
            oldest_gauge: metrics::gauge!(metric::COLLECTOR_SPOOL_OLDEST_SECONDS, "topic" => topic.name()),
        };
        committer.show();
        let thread = std::thread::Builder::new()
            .name(format!("spool {}", topic.name()))
            .spawn(move || committer.run(&appends))
            .map_err(|source| Error::Io { path, source })?;
        Ok(Self { queue: Mutex::new(Some(queue)), shown, position, thread: Mutex::new(Some(thread)) })
    }

    fn enqueue(&self, append: Append) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.as_ref().map(|queue| queue.try_send(append)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => false,
        }
    }
}

/// Counts whose the frames are that a start finds and nobody has consumed, on a thread of its own: gigabytes may wait.
fn recount(topic: Topic, segments: &Segments, position: u64, usage: &Arc<Usage>) -> Result<(), Error> {
    let next = segments.next();
    if position >= next {
        return Ok(());
    }
    let path = segments.dir().to_owned();
    let mut reader = Reader::new(&path, Some(position));
    // The spool may be closed meanwhile.
    let usage = Arc::downgrade(usage);
    let count = move || {
        let mut at = position;
        while at < next
            && let Some(usage) = usage.upgrade()
        {
            let piece = match reader.read(next, RECOUNT_BYTES) {
                Ok(piece) if piece.count > 0 => piece,
                Ok(_) => return,
                // Consumed and deleted since, or damaged, which its reader will say.
                Err(error) => return tracing::debug!(%error, "the spool was not counted to its end"),
            };
            at += piece.count as u64;
            let mut stores: HashMap<Store, u64> = HashMap::new();
            let mut rest = piece.bytes.as_slice();
            while let Ok((record, length)) = read_frame(rest) {
                let store = store_of(record.key);
                match stores.get_mut(store) {
                    Some(bytes) => *bytes += length as u64,
                    None => drop(stores.insert(store.into(), length as u64)),
                }
                rest = &rest[length..];
            }
            usage.shares.found(topic, at, &stores);
        }
    };
    let thread = std::thread::Builder::new().name(format!("count {}", topic.name())).spawn(count);
    thread.map(drop).map_err(|source| Error::Io { path, source })
}

/// What a writer's thread works with.
struct Committer {
    topic: Topic,
    segments: Segments,
    marks: Marks,
    /// The reader's, as it was last seen.
    position: u64,
    /// The last segment's first offset, and since when it has been the last.
    last_since: (Option<u64>, Instant),
    usage: Arc<Usage>,
    shown: Arc<Shown>,
    bytes_gauge: metrics::Gauge,
    oldest_gauge: metrics::Gauge,
}

impl Committer {
    fn run(&mut self, appends: &Receiver<Append>) {
        let mut group = Vec::new();
        let mut cleaned = Instant::now();
        loop {
            match appends.recv_timeout(CLEAN_EVERY) {
                Ok(append) => {
                    self.gather(append, appends, &mut group);
                    self.commit(&mut group);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if cleaned.elapsed() >= CLEAN_EVERY {
                cleaned = Instant::now();
                self.clean();
            }
        }
    }

    fn gather(&self, first: Append, appends: &Receiver<Append>, group: &mut Vec<Append>) {
        let mut bytes = first.frames.len();
        group.push(first);
        while bytes < GROUP_BYTES_MAX {
            let Ok(append) = appends.try_recv() else { break };
            bytes += append.frames.len();
            group.push(append);
        }
    }

    fn commit(&mut self, group: &mut Vec<Append>) {
        let frames: Vec<&[u8]> = group.iter().map(|append| append.frames.as_slice()).collect();
        let count: usize = group.iter().map(|append| append.count).sum();
        let bytes: usize = frames.iter().map(|frames| frames.len()).sum();
        let (before, first) = (self.segments.bytes(), self.segments.next());
        let result = self.segments.append(&frames, count as u64);
        drop(frames);
        // The frames were reserved already; a new segment's first bytes were not.
        let written = self.segments.bytes().saturating_sub(before);
        self.usage.bytes.fetch_add(written, Ordering::Relaxed);
        self.usage.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        let stores = || group.iter().map(|append| (&append.store, append.frames.len() as u64));
        if result.is_ok() {
            self.usage.shares.appended(self.topic, self.segments.next(), stores());
            self.marks.appended(first);
            self.shown.durable_next.store(self.segments.next(), Ordering::Release);
        }
        if result.is_err() {
            stores().for_each(|(store, bytes)| self.usage.shares.give_back(store, bytes));
        }
        // In this order: whoever sees nothing queued sees the durable offset behind all that was.
        self.usage.queued.fetch_sub(count, Ordering::AcqRel);
        self.works(&result);
        for append in group.drain(..) {
            append.pending.settle(append.count, result.is_ok());
        }
        self.show();
    }

    /// Keeps and tells whether the disk takes writes.
    fn works(&self, result: &io::Result<()>) {
        let was_failing = self.shown.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_failing => {
                let dir = self.segments.dir().display();
                tracing::error!(%error, %dir, "the spool's disk refuses writes; their senders are told");
            }
            Ok(()) if was_failing => tracing::info!("the spool's disk takes writes again"),
            _ => {}
        }
    }

    fn clean(&mut self) {
        let before = self.segments.bytes();
        if let Err(error) = self.delete_consumed() {
            tracing::warn!(%error, dir = %self.segments.dir().display(), "consumed segments could not be deleted");
        }
        if self.shown.is_failing.load(Ordering::Relaxed) {
            let result = self.segments.try_disk();
            if result.is_ok() {
                self.shown.durable_next.store(self.segments.next(), Ordering::Release);
            }
            self.works(&result);
        }
        self.usage.look_at_disk(self.segments.dir());
        let after = self.segments.bytes();
        self.usage.bytes.fetch_add(after.saturating_sub(before), Ordering::Relaxed);
        self.usage.bytes.fetch_sub(before.saturating_sub(after), Ordering::Relaxed);
        self.show();
    }

    fn delete_consumed(&mut self) -> io::Result<()> {
        // One behind the end is of another spool. Its reader stops at it and says so; of this one nothing was consumed.
        let position = self.segments.position()?.filter(|position| *position <= self.segments.next());
        let is_large = self.usage.bytes.load(Ordering::Relaxed) > self.usage.bytes_max / 2;
        // The last segment is never deleted: where it is old, or takes much of the spool, it is made one of the others. A
        // full disk has no room for that before something is deleted.
        let rolled = match position {
            _ if self.is_last_old() => self.segments.roll_consumed(u64::MAX),
            Some(position) if is_large => self.segments.roll_consumed(position),
            _ => Ok(()),
        };
        if let Some(position) = position {
            self.position = position;
            self.usage.shares.consumed(self.topic, position, self.segments.next());
            self.segments.delete_below(position)?;
        }
        rolled
    }

    fn is_last_old(&mut self) -> bool {
        let last = self.segments.firsts().last();
        if self.last_since.0 != last {
            self.last_since = (last, Instant::now());
        }
        let age_max = self.usage.segment_age_ms_max.load(Ordering::Relaxed);
        self.last_since.1.elapsed().as_millis() > u128::from(age_max)
    }

    fn show(&mut self) {
        let age = self.marks.age(self.position, self.segments.next());
        let oldest_ms = age.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        self.shown.oldest_ms.store(oldest_ms, Ordering::Relaxed);
        self.oldest_gauge.set(age.unwrap_or_default().as_secs_f64());
        self.bytes_gauge.set(self.segments.bytes() as f64);
    }
}
