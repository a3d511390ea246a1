//! The segments of one topic, as files.

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

use super::Error;

/// A topic's directory, open for appending.
#[derive(Debug)]
pub(crate) struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    /// First offset and length of every segment but the last.
    closed: VecDeque<(u64, u64)>,
    last: Open,
    durable: File,
    /// The last write failed: what stands behind the durable end must be cut before the next one.
    has_rest: bool,
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
        fs::create_dir_all(dir).map_err(at)?;
        let durable = OpenOptions::new()
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
        let last = match closed.pop() {
            Some((first, _)) => recover(dir, first, durable_next)?,
            None if durable_next > 0 => {
                let what = format!("offsets below {durable_next} were durable, and no segment is left");
                return Err(Error::Damaged { path: dir.to_owned(), what });
            }
            None => create(dir, 0).map_err(at)?,
        };
        let segments = Self {
            dir: dir.to_owned(),
            segment_bytes,
            closed: closed.into(),
            last,
            durable,
            has_rest: false,
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

    /// Writes frames and makes them durable. After an error none of them counts: the next append cuts what is left.
    pub(crate) fn append(&mut self, frames: &[&[u8]], count: u64) -> io::Result<()> {
        if self.has_rest {
            self.last.file.set_len(self.last.length)?;
            self.last.file.seek(SeekFrom::Start(self.last.length))?;
            self.has_rest = false;
        }
        if self.last.length >= self.segment_bytes {
            let next = create(&self.dir, self.last.next)?;
            let full = std::mem::replace(&mut self.last, next);
            self.closed.push_back((full.first, full.length));
        }
        self.has_rest = true;
        for frames in frames {
            self.last.file.write_all(frames)?;
        }
        self.last.file.sync_data()?;
        self.last.length += frames.iter().map(|frames| frames.len() as u64).sum::<u64>();
        self.last.next += count;
        self.has_rest = false;
        self.write_durable()
    }

    /// Deletes the segments whose every frame the consumer has stored; returns the bytes freed. The last stays: its
    /// name is where the next offset is known from.
    pub(crate) fn delete_consumed(&mut self) -> io::Result<u64> {
        let position = match fs::read(self.dir.join(CONSUMER_FILE)) {
            Ok(json) => serde_json::from_slice::<Position>(&json).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut freed = 0;
        while let Some((first, length)) = self.closed.front().copied() {
            let end = self.closed.get(1).map_or(self.last.first, |(first, _)| *first);
            if end > position.next {
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
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(SEGMENT_MAGIC)?;
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(Open { file, first, next: first, length: SEGMENT_MAGIC.len() as u64 })
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
