//! The segments of one topic, as files.
//!
//! Nothing stands behind the last durable frame for longer than one commit takes:
//!
//! * A write that failed (disk full) is cut off at once, which also gives its room back; until that succeeds nothing is
//!   appended.
//! * After an fsync that failed, the kernel may have dropped pages and call them clean: asking again would be answered
//!   with a success that means nothing. So the file is cut to what earlier fsyncs covered, and finished; the next group
//!   goes to a new segment. A segment without any frame is written anew instead, out of memory.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use millrace_schemas::spool::{
    CONSUMER_FILE, DURABLE_FILE, FrameError, Position, SEGMENT_MAGIC, read_frame, segment_name,
    segment_offset,
};

use millrace_service::private;

use super::Error;

/// Bytes for which a disk that refused writes must have room again.
const TRIED_BYTES: usize = 64 << 10;

/// A topic's directory, open for appending.
#[derive(Debug)]
pub(crate) struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    /// First offset and length of every segment but the last.
    closed: VecDeque<(u64, u64)>,
    last: Open,
    durable: File,
    rest: Rest,
}

/// What a commit that failed has left behind the durable end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    /// Bytes that must be cut off.
    Written,
    /// Bytes that must be cut off, if any, in a file to which nothing may be appended.
    Unsynced,
}

#[derive(Debug)]
struct Open {
    file: File,
    first: u64,
    next: u64,
    length: u64,
}

impl Segments {
    /// Opens a topic's directory, or makes it. A torn tail is cut; damage below the durable offset is an error.
    pub(crate) fn open(dir: &Path, segment_bytes: u64) -> Result<Self, Error> {
        let at = |source| Error::Io { path: dir.to_owned(), source };
        private::create_dir_all(dir).map_err(at)?;
        private::narrow_files(dir).map_err(at)?;
        let durable = private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(DURABLE_FILE))
            .map_err(at)?;
        let durable_next = read_durable(&durable).map_err(at)?;
        let mut closed = Vec::new();
        for entry in fs::read_dir(dir).map_err(at)? {
            let entry = entry.map_err(at)?;
            if let Some(first) = entry.file_name().to_str().and_then(segment_offset) {
                closed.push((first, entry.metadata().map_err(at)?.len()));
            }
        }
        closed.sort_unstable();
        let last = loop {
            match closed.pop() {
                // A crash fell between the segment's creation and its first bytes. The one before it is the last, and
                // going on with that needs no room on a disk that may be full.
                Some((first, length))
                    if !closed.is_empty() && first >= durable_next && length < SEGMENT_MAGIC.len() as u64 =>
                {
                    fs::remove_file(dir.join(segment_name(first))).map_err(at)?;
                }
                Some((first, _)) => break recover(dir, first, durable_next)?,
                None if durable_next > 0 => {
                    let what = format!("offsets below {durable_next} were durable, and no segment is left");
                    return Err(Error::Damaged { path: dir.to_owned(), what });
                }
                None => break create(dir, 0).map_err(at)?,
            }
        };
        let segments = Self {
            dir: dir.to_owned(),
            segment_bytes,
            closed: closed.into(),
            last,
            durable,
            rest: Rest::Nothing,
        };
        segments.write_durable().map_err(at)?;
        segments.durable.sync_all().map_err(at)?;
        sync_dir(dir).map_err(at)?;
        Ok(segments)
    }

    /// The topic's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.last.length + self.closed.iter().map(|(_, length)| length).sum::<u64>()
    }

    /// Offset after the last durable frame.
    pub(crate) fn next(&self) -> u64 {
        self.last.next
    }

    /// First offset of every segment, in order.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = u64> {
        self.closed.iter().map(|(first, _)| *first).chain([self.last.first])
    }

    /// Writes frames and makes them durable. After an error none of them counts, and what is left of them is cut off.
    pub(crate) fn append(&mut self, frames: &[&[u8]], count: u64) -> io::Result<()> {
        self.cut_rest()?;
        if self.last.length >= self.segment_bytes {
            self.roll()?;
        }
        let result = self.write(frames, count);
        if result.is_err() {
            // If this fails too, the next append begins with it.
            let _ = self.cut_rest();
        }
        result
    }

    /// Finds out whether the disk takes writes: an empty commit, and then bytes that are cut off again, as a full disk
    /// lets the first pass.
    pub(crate) fn try_disk(&mut self) -> io::Result<()> {
        self.append(&[], 0)?;
        self.rest = Rest::Written;
        let result = self.last.file.write_all(&[0; TRIED_BYTES]);
        self.cut_rest()?;
        result
    }

    fn write(&mut self, frames: &[&[u8]], count: u64) -> io::Result<()> {
        self.rest = Rest::Written;
        for frames in frames {
            self.last.file.write_all(frames)?;
        }
        self.rest = Rest::Unsynced;
        self.last.file.sync_data()?;
        self.rest = Rest::Nothing;
        self.last.length += frames.iter().map(|frames| frames.len() as u64).sum::<u64>();
        self.last.next += count;
        self.write_durable()
    }

    fn cut_rest(&mut self) -> io::Result<()> {
        if self.rest == Rest::Nothing {
            return Ok(());
        }
        self.last.file.set_len(self.last.length)?;
        self.last.file.seek(SeekFrom::Start(self.last.length))?;
        if self.rest == Rest::Unsynced {
            // A closed segment must end where its last frame does, after a crash too.
            self.last.file.sync_all()?;
            if self.last.next > self.last.first {
                self.roll()?;
            } else {
                self.last.file.write_all_at(SEGMENT_MAGIC, 0)?;
                self.last.file.sync_all()?;
            }
        }
        self.rest = Rest::Nothing;
        Ok(())
    }

    fn roll(&mut self) -> io::Result<()> {
        match create(&self.dir, self.last.next) {
            Ok(next) => {
                let full = std::mem::replace(&mut self.last, next);
                self.closed.push_back((full.first, full.length));
                Ok(())
            }
            Err(error) => {
                // Beside a file of that name, frames that the last segment takes from now on would not be found.
                if remove(&self.dir, self.last.next).is_err() {
                    self.rest = Rest::Unsynced;
                }
                Err(error)
            }
        }
    }

    /// Everything below was stored or delivered; `None`: nothing was recorded yet.
    pub(crate) fn position(&self) -> io::Result<Option<u64>> {
        read_position(&self.dir)
    }

    /// Begins a new segment where the last one is wholly below `next`, so that it can be deleted.
    pub(crate) fn roll_consumed(&mut self, next: u64) -> io::Result<()> {
        if self.rest == Rest::Nothing && self.last.next > self.last.first && next >= self.last.next {
            self.roll()?;
        }
        Ok(())
    }

    /// Deletes the segments that lie wholly below `next`; returns the bytes freed. The last stays: its name is where
    /// the next offset is known from.
    pub(crate) fn delete_below(&mut self, next: u64) -> io::Result<u64> {
        let mut freed = 0;
        while let Some((first, length)) = self.closed.front().copied() {
            let end = self.closed.get(1).map_or(self.last.first, |(first, _)| *first);
            if end > next {
                break;
            }
            fs::remove_file(self.dir.join(segment_name(first)))?;
            self.closed.pop_front();
            freed += length;
        }
        Ok(freed)
    }

    fn write_durable(&self) -> io::Result<()> {
        self.durable.write_all_at(&self.last.next.to_le_bytes(), 0)
    }
}

/// The offset below which the reader needs nothing any more. What is deleted hangs on it, so it must not be half of one
/// and half of the next, as it may be while a full disk's file is overwritten: it counts once it was read twice alike.
pub(crate) fn read_position(dir: &Path) -> io::Result<Option<u64>> {
    let read = || match fs::read(dir.join(CONSUMER_FILE)) {
        Ok(json) => Ok(Some(json)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let mut json = read()?;
    loop {
        let again = read()?;
        if again == json {
            break;
        }
        json = again;
    }
    Ok(json.map(|json| serde_json::from_slice::<Position>(&json)).transpose()?.map(|position| position.next))
}

/// Records the position: beside, fsynced, renamed. On a full disk, where that is impossible and where the room that
/// consumed segments take is needed most, the file is overwritten in place instead: a few bytes of one disk sector,
/// which needs no room and is not torn.
pub(crate) fn write_position(dir: &Path, next: u64) -> io::Result<()> {
    let json = serde_json::to_vec(&Position { next, pending_next: None })?;
    match replace(dir, &json) {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            let file = OpenOptions::new().write(true).open(dir.join(CONSUMER_FILE))?;
            // Blanks behind JSON are JSON: a shorter text leaves nothing of a longer one.
            let length = file.metadata()?.len().max(json.len() as u64) as usize;
            let mut padded = json;
            padded.resize(length, b' ');
            file.write_all_at(&padded, 0)?;
            file.sync_data()
        }
        result => result,
    }
}

fn replace(dir: &Path, json: &[u8]) -> io::Result<()> {
    let beside = dir.join(format!("{CONSUMER_FILE}.new"));
    let mut file = private::create(&beside)?;
    file.write_all(json)?;
    file.sync_data()?;
    fs::rename(&beside, dir.join(CONSUMER_FILE))?;
    sync_dir(dir)
}

fn read_durable(file: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(u64::from_le_bytes(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error),
    }
}

fn create(dir: &Path, first: u64) -> io::Result<Open> {
    let path = dir.join(segment_name(first));
    // It may be there: a crash can fall between its creation and its first frame.
    let mut file = private::create(&path)?;
    file.write_all(SEGMENT_MAGIC)?;
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(Open { file, first, next: first, length: SEGMENT_MAGIC.len() as u64 })
}

/// Removes what is left of a segment that could not be created.
fn remove(dir: &Path, first: u64) -> io::Result<()> {
    match fs::remove_file(dir.join(segment_name(first))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_dir(dir),
    }
}

/// Opens the last segment and cuts what a crash left at its end.
fn recover(dir: &Path, first: u64, durable_next: u64) -> Result<Open, Error> {
    let path = dir.join(segment_name(first));
    let at = |source| Error::Io { path: path.clone(), source };
    let mut bytes = Vec::new();
    File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(at)?;
    let damaged = |what: String| Err(Error::Damaged { path: path.clone(), what });
    if !bytes.starts_with(SEGMENT_MAGIC) {
        // A segment's first bytes are synced before any frame is written behind them.
        if durable_next > first || bytes.len() > SEGMENT_MAGIC.len() {
            return damaged("it does not start as a segment does".into());
        }
        return create(dir, first).map_err(at);
    }
    let mut length = SEGMENT_MAGIC.len();
    let mut next = first;
    let error = loop {
        match read_frame(&bytes[length..]) {
            Ok((_, frame)) => {
                length += frame;
                next += 1;
            }
            Err(error) => break error,
        }
    };
    if next < durable_next {
        return damaged(format!(
            "offset {next} is unreadable, and everything below {durable_next} was durable"
        ));
    }
    if length < bytes.len() {
        let cut = bytes.len() - length;
        tracing::warn!(path = %path.display(), cut, is_damaged = error == FrameError::Damaged, "torn tail cut");
    }
    let mut file = OpenOptions::new().write(true).open(&path).map_err(at)?;
    file.set_len(length as u64).map_err(at)?;
    file.seek(SeekFrom::Start(length as u64)).map_err(at)?;
    file.sync_all().map_err(at)?;
    Ok(Open { file, first, next, length: length as u64 })
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
