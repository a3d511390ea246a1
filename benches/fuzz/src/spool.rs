//! A spool that a crash or a disk has left behind: the collector opens it again, the consumer reads it in place.
//!
//! The bytes are a story: what was appended and acknowledged, what of the durable offset survived, what was being
//! written, and what happened to the files. Whatever the story,
//!
//! * the consumer, before and after the collector has been at it, delivers offsets without a gap, and at the offset of
//!   what was acknowledged that and nothing else, until it has reached the durable offset or reports damage;
//! * what was written behind the durable end and never acknowledged (torn, zeroed, anything) does not keep the collector
//!   from opening, and everything acknowledged is there;
//! * damage below the durable offset is reported by one of the two;
//! * a spool that opens takes a new message, which is read behind all others, also after it was opened once more.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use millrace_collector::{
    encode::{Message, Topic},
    log::{Log as _, spool::SpoolLog},
};
use millrace_consumer::{
    Config,
    memory::Memory,
    source::{Assignment, Feed, Source as _, spool::SpoolSource},
};
use millrace_schemas::{
    spool::{CONSUMER_FILE, DURABLE_FILE, segment_offset},
    topic::EVENTS,
};
use tokio::runtime::Runtime;

/// How long a reader may take that neither delivers nor reports.
const PATIENCE: Duration = Duration::from_secs(60);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap_or_else(|error| panic!("no runtime: {error}"))
});

/// Takes the story's bytes one by one; behind its end there are only zeros.
struct Story<'a>(&'a [u8]);

impl<'a> Story<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// What a reader found.
struct Found {
    values: Vec<Vec<u8>>,
    problem: Option<String>,
}

/// See the module.
pub fn check(input: &[u8]) {
    let mut story = Story(input);
    let dir = tempfile::Builder::new().prefix("millrace-fuzz-").tempdir_in(memory_dir());
    let dir = dir.unwrap_or_else(|error| panic!("no directory: {error}"));
    let segment_bytes = [1, 64, 300, 1 << 20][usize::from(story.byte() & 3)];
    let topic = dir.path().join(EVENTS);

    let (acknowledged, durable_after) = write(&mut story, dir.path(), segment_bytes);
    // The consumer has been here, and stored nothing: a first segment that is gone is missed.
    put(&topic.join(CONSUMER_FILE), br#"{"next":0}"#);
    // The durable offset itself is not synced: an older one may be what a power cut leaves.
    let stale = usize::from(story.byte()) % durable_after.len();
    let durable = durable_after[durable_after.len() - 1 - stale];
    put(&topic.join(DURABLE_FILE), &durable.to_le_bytes());
    let is_harmless = happen(&mut story, &topic);
    let is_offset_intact =
        fs::read(topic.join(DURABLE_FILE)).is_ok_and(|bytes| bytes == durable.to_le_bytes());

    let before = read(dir.path());
    check_values(&before, &acknowledged);
    if is_harmless {
        assert_eq!(before.problem, None, "nothing below the durable offset has changed");
    }
    let log = match SpoolLog::open(dir.path(), 1 << 30, segment_bytes) {
        Ok(log) => log,
        Err(error) => return assert!(!is_harmless, "a torn tail must be cut: {error}"),
    };
    let after = read(dir.path());
    check_values(&after, &acknowledged);
    let is_prefix = before.values.iter().zip(&after.values).all(|(before, after)| before == after);
    assert!(is_prefix, "what was read has changed");
    if is_harmless {
        assert_eq!(after.problem, None, "nothing acknowledged has changed");
        assert!(after.values.len() >= acknowledged.len(), "acknowledged, and gone");
    } else if after.problem.is_none() && is_offset_intact {
        assert!(after.values.len() as u64 >= durable, "durable, and gone without a word");
    }
    append(&log, &[b"new"]);
    drop(log);
    let reopened = SpoolLog::open(dir.path(), 1 << 30, segment_bytes);
    drop(reopened.unwrap_or_else(|error| panic!("opened once, and not again: {error}")));
    let last = read(dir.path());
    assert_eq!(last.problem, after.problem);
    if last.problem.is_none() {
        assert_eq!(last.values.split_last(), Some((&b"new".to_vec(), &after.values[..])));
    }
}

/// Appends groups; returns their values and the durable offset before the first and after each.
fn write(story: &mut Story<'_>, dir: &Path, segment_bytes: u64) -> (Vec<Vec<u8>>, Vec<u64>) {
    let log = SpoolLog::open(dir, 1 << 30, segment_bytes);
    let log = log.unwrap_or_else(|error| panic!("a new spool opens: {error}"));
    let (mut values, mut durable_after) = (Vec::new(), vec![0]);
    for _ in 0..story.byte() % 6 {
        let group: Vec<&[u8]> = (0..=story.byte() % 3)
            .map(|_| {
                let length = usize::from(story.byte());
                story.bytes(length)
            })
            .collect();
        append(&log, &group);
        values.extend(group.into_iter().map(<[u8]>::to_vec));
        durable_after.push(values.len() as u64);
    }
    // Every append was answered; its threads have nothing left to write, and end by themselves.
    drop(log);
    (values, durable_after)
}

fn append(log: &SpoolLog, values: &[&[u8]]) {
    let message =
        |value: &&[u8]| Message { topic: Topic::Events, key: b"demo:v".to_vec(), value: value.to_vec() };
    let receipt = log.append(values.iter().map(message).collect());
    assert!(RUNTIME.block_on(receipt).is_ok(), "a spool with room takes messages");
}

/// What happens to the files. Says whether it is behind everything that was acknowledged.
fn happen(story: &mut Story<'_>, topic: &Path) -> bool {
    let mut is_harmless = true;
    for _ in 0..story.byte() % 3 {
        let segments = segments(topic);
        let Some(last) = segments.last() else { return false };
        let path = &segments[story.number() % segments.len()];
        let mut bytes = fs::read(path).unwrap_or_default();
        let at = story.number() % (bytes.len() + 1);
        match story.byte() % 8 {
            // A write that was torn, as the file system may leave it.
            0 | 1 => {
                let length = story.number();
                append_file(last, story.bytes(length));
            }
            2 => append_file(last, &vec![0; story.number()]),
            // A disk's or a person's doing.
            3 => {
                bytes.truncate(at);
                put(path, &bytes);
                is_harmless = false;
            }
            4 => {
                let flip = story.byte();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= flip;
                }
                put(path, &bytes);
                is_harmless = false;
            }
            5 => {
                bytes[at..].fill(0);
                put(path, &bytes);
                is_harmless = false;
            }
            6 => {
                let _ = fs::remove_file(path);
                is_harmless = false;
            }
            _ => {
                let length = usize::from(story.byte() % 9);
                put(&topic.join(DURABLE_FILE), story.bytes(length));
                is_harmless = false;
            }
        }
    }
    is_harmless
}

/// Reads in place, as the consumer does, up to the durable offset or to a problem.
fn read(dir: &Path) -> Found {
    let config = Config { spool_dir: dir.to_owned(), spool_poll_ms: 1, ..Config::default() };
    let durable = fs::read(dir.join(EVENTS).join(DURABLE_FILE)).unwrap_or_default();
    let durable = durable.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let started = SpoolSource::start(&config, &Memory::new(64 << 20));
    let (source, mut assigned) = started.unwrap_or_else(|error| panic!("the reader starts: {error}"));
    let mut found = Found { values: Vec::new(), problem: None };
    while let Ok(assignment) = assigned.try_recv() {
        if assignment.partition.topic == EVENTS {
            found = RUNTIME.block_on(read_partition(assignment, durable));
        }
    }
    RUNTIME.block_on(source.close());
    found
}

async fn read_partition(mut assignment: Assignment, durable: u64) -> Found {
    let mut found = Found { values: Vec::new(), problem: None };
    while (found.values.len() as u64) < durable && found.problem.is_none() {
        match tokio::time::timeout(PATIENCE, assignment.feed.recv()).await {
            Ok(Some(Feed::Messages(messages))) => {
                assignment.flow.left(&messages);
                for entry in &messages.entries {
                    assert_eq!(entry.offset, found.values.len() as u64, "a gap");
                    found.values.push(messages.values[entry.start..entry.end].to_vec());
                }
            }
            Ok(Some(Feed::Broken(problem))) => found.problem = Some(problem),
            Ok(Some(Feed::Well)) => {}
            Ok(None) | Err(_) => panic!("{} of {durable}, and no word of why", found.values.len()),
        }
    }
    assert!(found.values.len() as u64 <= durable, "read beyond the durable offset");
    found
}

fn check_values(found: &Found, acknowledged: &[Vec<u8>]) {
    for (offset, (value, expected)) in found.values.iter().zip(acknowledged).enumerate() {
        assert_eq!(value, expected, "misread at offset {offset}");
    }
}

fn segments(topic: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<PathBuf> = fs::read_dir(topic)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| segment_offset(name).is_some()))
        .map(|entry| entry.path())
        .collect();
    segments.sort();
    segments
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn append_file(path: &Path, more: &[u8]) {
    let mut bytes = fs::read(path).unwrap_or_default();
    bytes.extend_from_slice(more);
    put(path, &bytes);
}

/// A file system in memory, where there is one: its fsync costs nothing.
fn memory_dir() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }
}
