//! The collector's spool as a source: segments are read in place, never past the durable offset.
//!
//! One thread reads all topics; each has one partition, 0. New events are found by polling the 8-byte `durable`
//! file. The position is `consumer.json` in the topic's directory: written beside, fsynced, renamed, directory fsynced;
//! on a full disk overwritten in place.
//!
//! Damage below the durable offset stops its partition: what follows a damaged frame cannot be trusted to be where it
//! should, and skipping is a decision for a person. So it is where segments are missing: no age or size deletes what was
//! not consumed, so somebody did. The other partitions go on.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::Duration,
};

use millrace_schemas::spool::{
    CONSUMER_FILE, DURABLE_FILE, FrameError, Position, SEGMENT_MAGIC, read_frame, segment_name,
    segment_offset,
};
use millrace_service::private;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::{Assignment, Feed, Flow, Messages, Source, SourceError, TOPICS, lock};
use crate::{config::Config, dead_letter::DeadLetter, memory::Memory, partition::TopicPartition};

/// Bytes read from a segment at a time; a larger frame is read whole.
const READ_BYTES: usize = 256 << 10;

/// The spool of this machine.
pub struct SpoolSource {
    directory: PathBuf,
    rereads: Mutex<HashMap<TopicPartition, (u64, u64)>>,
    paused: AtomicUsize,
    stopping: AtomicBool,
    reader: Mutex<Option<thread::JoinHandle<()>>>,
}

impl SpoolSource {
    /// Starts reading. Fails when a recorded position cannot be read: to begin anew would store everything again.
    pub fn start(
        config: &Config,
        memory: &Arc<Memory>,
    ) -> Result<(Arc<Self>, UnboundedReceiver<Assignment>), SourceError> {
        let source = Arc::new(Self {
            directory: config.spool_dir.clone(),
            rereads: Mutex::default(),
            paused: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            reader: Mutex::default(),
        });
        let (assignments, assigned) = mpsc::unbounded_channel();
        let mut topics = Vec::new();
        for topic in TOPICS {
            let partition = TopicPartition { topic, number: 0 };
            let directory = source.directory.join(topic);
            let position = read_position(&directory).map_err(|error| {
                SourceError(format!("{}: {error}", directory.join(CONSUMER_FILE).display()))
            })?;
            let (feed, messages) = mpsc::unbounded_channel();
            let flow = Arc::new(Flow::default());
            topics.push(TopicReader {
                partition,
                directory,
                next: position.map(|position| position.next),
                epoch: 0,
                segment: None,
                feed,
                flow: flow.clone(),
                paused: false,
                below: None,
                broken: false,
                reported: None,
            });
            let lost = CancellationToken::new();
            let _ = assignments.send(Assignment {
                partition,
                generation: 0,
                position,
                feed: messages,
                lost,
                flow,
            });
        }
        let poll = Duration::from_millis(config.spool_poll_ms);
        let (reader, memory) = (source.clone(), memory.clone());
        let thread = thread::Builder::new()
            .name("spool-reader".into())
            .spawn(move || reader.read(topics, &memory, poll))
            .map_err(|error| SourceError(format!("cannot start the spool's reader: {error}")))?;
        *lock(&source.reader) = Some(thread);
        Ok((source, assigned))
    }

    fn read(&self, mut topics: Vec<TopicReader>, memory: &Arc<Memory>, poll: Duration) {
        while !self.stopping.load(SeqCst) {
            let mut progress = false;
            for topic in &mut topics {
                let reread = lock(&self.rereads).remove(&topic.partition);
                if let Some((offset, epoch)) = reread {
                    topic.reread(offset, epoch);
                }
                progress |= topic.advance(memory);
            }
            self.paused.store(topics.iter().filter(|topic| topic.paused).count(), Relaxed);
            if !progress {
                thread::sleep(poll);
            }
        }
    }
}

impl Source for SpoolSource {
    async fn record(
        self: Arc<Self>,
        partition: TopicPartition,
        _: u64,
        position: Position,
    ) -> Result<(), SourceError> {
        let directory = self.directory.join(partition.topic);
        tokio::task::spawn_blocking(move || write_position(&directory, position))
            .await
            .map_err(|error| SourceError(error.to_string()))?
            .map_err(|error| {
                SourceError(format!("cannot write {CONSUMER_FILE} of {}: {error}", partition.topic))
            })
    }

    fn reread(&self, partition: TopicPartition, _: u64, offset: u64, epoch: u64) {
        lock(&self.rereads).insert(partition, (offset, epoch));
    }

    async fn show(self: Arc<Self>, _: Vec<DeadLetter>) {}

    fn paused(&self) -> usize {
        self.paused.load(Relaxed)
    }

    async fn close(&self) {
        self.stopping.store(true, SeqCst);
        let thread = lock(&self.reader).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// Where the reading of one topic stands.
struct TopicReader {
    partition: TopicPartition,
    directory: PathBuf,
    /// The next offset to read; nothing recorded: the first that is there.
    next: Option<u64>,
    epoch: u64,
    segment: Option<OpenSegment>,
    feed: UnboundedSender<Feed>,
    flow: Arc<Flow>,
    paused: bool,
    /// The durable offset when it was last seen below `next`.
    below: Option<u64>,
    /// Reading has stopped for good.
    broken: bool,
    reported: Option<String>,
}

struct OpenSegment {
    file: File,
    path: PathBuf,
    /// Offset of the frame at `at`.
    offset: u64,
    at: u64,
}

/// Why reading stops for good.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error(
        "{path} is damaged at byte {at} (offset {offset}), below what was acknowledged; restore the file, or stop \
         the consumer, decide what to give up, and set `next` in consumer.json beyond it"
    )]
    Damaged { path: PathBuf, at: u64, offset: u64 },
    #[error(
        "offset {next} is recorded as the next in {directory}, but the first that is there is {first}: {} acknowledged \
         messages are missing; restore their segments, or set `next` in consumer.json to {first} to give them up",
        .first - .next
    )]
    Missing { directory: PathBuf, next: u64, first: u64 },
    #[error(
        "offset {next} is recorded as the next in {directory}, but the spool ends at {durable}: it is not the spool \
         that was read before; remove consumer.json to read it from its beginning"
    )]
    Below { directory: PathBuf, next: u64, durable: u64 },
    #[error("no segment in {directory} holds offset {next}, which is below the durable offset")]
    NoSegment { directory: PathBuf, next: u64 },
}

impl TopicReader {
    fn reread(&mut self, offset: u64, epoch: u64) {
        self.next = Some(offset);
        self.epoch = epoch;
        self.segment = None;
        // What stops the reading may lie behind what is wanted again; it is met again there.
        self.broken = false;
    }

    /// Reads one piece, if there is one and memory allows. Says whether there may be more at once.
    fn advance(&mut self, memory: &Arc<Memory>) -> bool {
        if self.broken {
            return false;
        }
        self.paused = if self.paused { !self.flow.may_resume(memory) } else { self.flow.must_pause(memory) };
        if self.paused {
            return false;
        }
        let durable = match read_durable(&self.directory) {
            Ok(Some(durable)) => durable,
            Ok(None) => return false,
            Err(error) => {
                self.report(&ReadError::Io(self.directory.join(DURABLE_FILE), error));
                return false;
            }
        };
        self.flow.set_end(durable);
        // Where nothing is on record, whatever is durable is to be read.
        let next = self.next.unwrap_or(0);
        if durable < next {
            // After a crash the file may be behind until the collector starts. What is appended down there is another
            // spool's, and would be passed over as soon as that has grown beyond.
            self.broken = self.below.replace(durable).is_some_and(|below| below < durable);
            self.report(&ReadError::Below { directory: self.directory.clone(), next, durable });
        } else if durable == next && self.reported.take().is_some() {
            let _ = self.feed.send(Feed::Well);
        }
        if durable <= next {
            return false;
        }
        match self.read_piece(durable) {
            Ok(None) => false,
            Ok(Some(mut messages)) => {
                self.reported = None;
                self.flow.entered(&mut messages, memory);
                self.feed.send(Feed::Messages(messages)).is_ok()
            }
            Err(error) => {
                self.broken = matches!(error, ReadError::Damaged { .. } | ReadError::Missing { .. });
                self.report(&error);
                false
            }
        }
    }

    /// Tells the partition once; what passes is tried again.
    fn report(&mut self, error: &ReadError) {
        let problem = error.to_string();
        if self.reported.as_ref() != Some(&problem) {
            let _ = self.feed.send(Feed::Broken(problem.clone()));
            self.reported = Some(problem);
        }
    }

    fn read_piece(&mut self, durable: u64) -> Result<Option<Messages>, ReadError> {
        let mut messages = Messages::new(self.epoch);
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None => self.open_segment()?,
        };
        let mut bytes_wanted = READ_BYTES;
        loop {
            let wanted_from = self.next.unwrap_or(segment.offset);
            let bytes = segment.read(bytes_wanted)?;
            let mut used = 0;
            while segment.offset < durable {
                match read_frame(&bytes[used..]) {
                    Ok((record, length)) => {
                        if segment.offset >= wanted_from {
                            messages.push(segment.offset, record.value, false);
                        }
                        used += length;
                        segment.offset += 1;
                    }
                    Err(FrameError::Damaged) if used == 0 => return Err(segment.damaged()),
                    // What stands before the damage is delivered first.
                    Err(FrameError::Incomplete | FrameError::Damaged) => break,
                }
            }
            segment.at += used as u64;
            self.next = Some(wanted_from.max(segment.offset));
            if segment.offset < durable && used == 0 {
                if bytes.is_empty() {
                    // The end of this segment: the next one is named after the offset that comes now.
                    segment = self.next_segment(&segment)?;
                } else if bytes.len() < bytes_wanted {
                    // Cut off, and yet below the durable offset.
                    return Err(segment.damaged());
                } else {
                    bytes_wanted = frame_bytes(&bytes);
                }
            }
            if !messages.entries.is_empty() {
                self.segment = Some(segment);
                return Ok(Some(messages));
            }
            if segment.offset >= durable {
                self.segment = Some(segment);
                return Ok(None);
            }
        }
    }

    /// Opens the segment that holds the next offset, at its beginning.
    fn open_segment(&self) -> Result<OpenSegment, ReadError> {
        let fail = |error| ReadError::Io(self.directory.clone(), error);
        let mut starts = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            starts.extend(name.to_str().and_then(segment_offset));
        }
        starts.sort_unstable();
        let directory = self.directory.clone();
        let Some(next) = self.next else {
            let Some(first) = starts.first() else { return Err(ReadError::NoSegment { directory, next: 0 }) };
            return OpenSegment::open(&self.directory, *first);
        };
        match starts.iter().rfind(|start| **start <= next) {
            Some(start) => OpenSegment::open(&self.directory, *start),
            None => Err(match starts.first() {
                Some(first) => ReadError::Missing { directory, next, first: *first },
                None => ReadError::NoSegment { directory, next },
            }),
        }
    }

    fn next_segment(&self, segment: &OpenSegment) -> Result<OpenSegment, ReadError> {
        if self.directory.join(segment_name(segment.offset)) == segment.path {
            // An empty segment whose frames are said to be durable.
            return Err(segment.damaged());
        }
        match OpenSegment::open(&self.directory, segment.offset) {
            Err(ReadError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(ReadError::NoSegment { directory: self.directory.clone(), next: segment.offset })
            }
            result => result,
        }
    }
}

impl OpenSegment {
    fn open(directory: &Path, start: u64) -> Result<Self, ReadError> {
        let path = directory.join(segment_name(start));
        let fail = |error| ReadError::Io(path.clone(), error);
        let mut file = File::open(&path).map_err(fail)?;
        let mut magic = [0; SEGMENT_MAGIC.len()];
        file.read_exact(&mut magic).map_err(fail)?;
        if magic != *SEGMENT_MAGIC {
            return Err(ReadError::Damaged { path, at: 0, offset: start });
        }
        Ok(Self { file, path, offset: start, at: SEGMENT_MAGIC.len() as u64 })
    }

    fn damaged(&self) -> ReadError {
        ReadError::Damaged { path: self.path.clone(), at: self.at, offset: self.offset }
    }

    fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let fail = |error| ReadError::Io(self.path.clone(), error);
        self.file.seek(SeekFrom::Start(self.at)).map_err(fail)?;
        let mut bytes = Vec::with_capacity(bytes_max);
        (&mut self.file).take(bytes_max as u64).read_to_end(&mut bytes).map_err(fail)?;
        Ok(bytes)
    }
}

/// Bytes of the frame that begins here, as its header says.
fn frame_bytes(bytes: &[u8]) -> usize {
    const HEADER_BYTES: usize = 8;
    match bytes.first_chunk::<4>() {
        Some(length) => HEADER_BYTES + u32::from_le_bytes(*length) as usize,
        None => HEADER_BYTES,
    }
}

/// Nothing when there is no such file yet, or nothing in it yet: nothing has been acknowledged.
fn read_durable(directory: &Path) -> io::Result<Option<u64>> {
    match fs::read(directory.join(DURABLE_FILE)) {
        Ok(bytes) => Ok(bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_position(directory: &Path) -> io::Result<Option<Position>> {
    match fs::read(directory.join(CONSUMER_FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// On a full disk no file can be made, and none is deleted before the position moves: there it is overwritten in place, a
/// few bytes of one disk sector, which needs no room and is not torn.
fn write_position(directory: &Path, position: Position) -> io::Result<()> {
    let mut json = serde_json::to_vec(&position)?;
    match replace_position(directory, &json) {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            let file = File::options().write(true).open(directory.join(CONSUMER_FILE))?;
            // Blanks behind JSON are JSON: a shorter text leaves nothing of a longer one.
            json.resize(json.len().max(file.metadata()?.len() as usize), b' ');
            file.write_all_at(&json, 0)?;
            file.sync_data()
        }
        result => result,
    }
}

fn replace_position(directory: &Path, json: &[u8]) -> io::Result<()> {
    let beside = directory.join(format!("{CONSUMER_FILE}.new"));
    let mut file = private::create(&beside)?;
    file.write_all(json)?;
    file.sync_data()?;
    fs::rename(&beside, directory.join(CONSUMER_FILE))?;
    File::open(directory)?.sync_all()
}
