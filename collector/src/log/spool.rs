//! The log on one machine's disk; [`millrace_schemas::spool`] says what it looks like there.
//!
//! One thread per topic commits in groups: it takes every append that waits, writes them, calls fdatasync once, writes
//! the durable offset, and only then answers all of them. While it waits for the disk the next group gathers, so the
//! cost of an fsync is shared by as many requests as arrive during one.

mod segment;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millrace_schemas::spool::{Record, write_frame};

use self::segment::Segments;
use super::{Log, Pending, Receipt};
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
/// How often consumed segments are looked for.
const CLEAN_EVERY: Duration = Duration::from_secs(1);

/// The spool of a collector.
pub struct SpoolLog {
    writers: [Writer; 2],
    usage: Arc<Usage>,
    bytes_max: u64,
    /// Held while this collector writes here.
    _lock: File,
}

/// What is in use, over both topics.
#[derive(Debug, Default)]
struct Usage {
    /// Bytes on disk and on their way to it.
    bytes: AtomicU64,
    queued: AtomicUsize,
}

struct Writer {
    queue: Mutex<Option<SyncSender<Append>>>,
    /// The last commit failed.
    is_failing: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The frames of one request for one topic.
struct Append {
    frames: Vec<u8>,
    count: usize,
    pending: Arc<Pending>,
}

impl SpoolLog {
    /// Opens the spool, cuts torn tails, and starts the writers. `segment_bytes` is for tests.
    pub fn open(dir: &Path, bytes_max: u64, segment_bytes: u64) -> Result<Self, Error> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        let lock_path = dir.join("collector.lock");
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        if lock.try_lock().is_err() {
            return Err(Error::InUse(dir.to_owned()));
        }
        let usage = Arc::<Usage>::default();
        let open = |topic: Topic| {
            let segments = Segments::open(&dir.join(topic.name()), segment_bytes)?;
            usage.bytes.fetch_add(segments.bytes(), Ordering::Relaxed);
            Writer::start(topic, segments, Arc::clone(&usage))
        };
        let writers = [open(Topic::Events)?, open(Topic::Clicks)?];
        Ok(Self { writers, usage, bytes_max, _lock: lock })
    }

    fn reserve(&self, bytes: u64) -> bool {
        let taken = self.usage.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if taken > self.bytes_max {
            self.usage.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }
}

impl Log for SpoolLog {
    fn append(&self, messages: Vec<Message>) -> Receipt {
        let mut parts = [(Vec::new(), 0_usize), (Vec::new(), 0)];
        for message in &messages {
            let (frames, count) = &mut parts[message.topic as usize];
            write_frame(frames, Record { key: &message.key, value: &message.value });
            *count += 1;
        }
        let bytes: usize = parts.iter().map(|(frames, _)| frames.len()).sum();
        if !self.reserve(bytes as u64) {
            return Receipt::refused();
        }
        let (pending, receipt) = Pending::new(parts.iter().filter(|(_, count)| *count > 0).count());
        let mut is_refused = false;
        for (writer, (frames, count)) in self.writers.iter().zip(parts) {
            if count == 0 {
                continue;
            }
            let bytes = frames.len() as u64;
            self.usage.queued.fetch_add(count, Ordering::Relaxed);
            if !writer.enqueue(Append { frames, count, pending: Arc::clone(&pending) }) {
                self.usage.queued.fetch_sub(count, Ordering::Relaxed);
                self.usage.bytes.fetch_sub(bytes, Ordering::Relaxed);
                is_refused = true;
            }
        }
        if is_refused { Receipt::refused() } else { receipt }
    }

    fn ready(&self) -> Result<(), String> {
        if self.writers.iter().any(|writer| writer.is_failing.load(Ordering::Relaxed)) {
            return Err("the spool's disk refuses writes".into());
        }
        if self.usage.bytes.load(Ordering::Relaxed) >= self.bytes_max {
            return Err("the spool is full".into());
        }
        Ok(())
    }

    fn queued(&self) -> usize {
        self.usage.queued.load(Ordering::Relaxed)
    }

    fn tick(&self) {}

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
        let is_failing = Arc::<AtomicBool>::default();
        let path = segments.dir().to_owned();
        let mut committer = Committer {
            segments,
            usage,
            is_failing: Arc::clone(&is_failing),
            bytes_gauge: metrics::gauge!(
                millrace_schemas::metric::COLLECTOR_SPOOL_BYTES,
                "topic" => topic.name()
            ),
        };
        let thread = std::thread::Builder::new()
            .name(format!("spool {}", topic.name()))
            .spawn(move || committer.run(&appends))
            .map_err(|source| Error::Io { path, source })?;
        Ok(Self { queue: Mutex::new(Some(queue)), is_failing, thread: Mutex::new(Some(thread)) })
    }

    fn enqueue(&self, append: Append) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.as_ref().map(|queue| queue.try_send(append)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => false,
        }
    }
}

/// What a writer's thread works with.
struct Committer {
    segments: Segments,
    usage: Arc<Usage>,
    is_failing: Arc<AtomicBool>,
    bytes_gauge: metrics::Gauge,
}

impl Committer {
    fn run(&mut self, appends: &Receiver<Append>) {
        let mut group = Vec::new();
        let mut cleaned = Instant::now();
        self.bytes_gauge.set(self.segments.bytes() as f64);
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
        let before = self.segments.bytes();
        let result = self.segments.append(&frames, count as u64);
        drop(frames);
        // The frames were reserved already; a new segment's first bytes were not.
        let written = self.segments.bytes().saturating_sub(before);
        self.usage.bytes.fetch_add(written, Ordering::Relaxed);
        self.usage.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        self.usage.queued.fetch_sub(count, Ordering::Relaxed);
        self.is_failing.store(result.is_err(), Ordering::Relaxed);
        if let Err(error) = &result {
            tracing::error!(%error, "a group was not committed to the spool; its senders are told");
        }
        for append in group.drain(..) {
            append.pending.settle(result.is_ok());
        }
        self.bytes_gauge.set(self.segments.bytes() as f64);
    }

    fn clean(&mut self) {
        match self.segments.delete_consumed() {
            Ok(freed) => {
                self.usage.bytes.fetch_sub(freed, Ordering::Relaxed);
                self.bytes_gauge.set(self.segments.bytes() as f64);
            }
            Err(error) => tracing::warn!(%error, "consumed segments could not be deleted"),
        }
        if self.is_failing.load(Ordering::Relaxed) {
            // An empty commit finds out whether the disk takes writes again.
            let result = self.segments.append(&[], 0);
            self.is_failing.store(result.is_err(), Ordering::Relaxed);
        }
    }
}
