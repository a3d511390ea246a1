//! Reads a topic's durable frames in place, for the drain to Kafka.
//!
//! Damage below the durable offset is an error and stays one: what follows a damaged frame cannot be trusted to be
//! where it should, and to give frames up that were acknowledged is a decision for a person.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use millrace_schemas::spool::{
    CONSUMER_FILE, FrameError, SEGMENT_MAGIC, read_frame, segment_name, segment_offset,
};

/// Why frames that were acknowledged cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error(
        "{path} is damaged at byte {at} (offset {offset}), below what was acknowledged; restore the file, or stop the \
         collector, decide what to give up, and set `next` in {CONSUMER_FILE} beside it to the name of the following \
         segment"
    )]
    Damaged { path: PathBuf, at: u64, offset: u64 },
    #[error(
        "{dir} has no segment that holds offset {next}, which was acknowledged; restore it, or stop the collector and \
         set `next` in {CONSUMER_FILE} there to an offset that is left"
    )]
    Missing { dir: PathBuf, next: u64 },
}

/// Whole frames that follow each other.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: usize,
}

/// Where the reading of one topic stands.
#[derive(Debug)]
pub(crate) struct Reader {
    dir: PathBuf,
    /// The next offset to read; nothing recorded: the first that is there.
    next: Option<u64>,
    segment: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    /// Offset of the frame at byte `at`.
    offset: u64,
    at: u64,
}

impl Reader {
    pub(crate) fn new(dir: &Path, next: Option<u64>) -> Self {
        Self { dir: dir.to_owned(), next, segment: None }
    }

    /// Reads frames below `end`: about so many bytes, and one frame at least. There are none only when all below `end`
    /// were read.
    pub(crate) fn read(&mut self, end: u64, bytes_max: usize) -> Result<Piece, ReadError> {
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None if self.next.is_some_and(|next| next >= end) => return Ok(Piece::default()),
            None => self.open()?,
        };
        let mut bytes_wanted = bytes_max;
        loop {
            let from = self.next.unwrap_or(segment.offset);
            let mut bytes = segment.bytes(bytes_wanted)?;
            let (mut skipped, mut used, mut count) = (0, 0, 0);
            let mut damage = None;
            while segment.offset < end && damage.is_none() {
                match read_frame(&bytes[used..]) {
                    Ok((_, length)) => {
                        used += length;
                        if segment.offset < from {
                            skipped = used;
                        } else {
                            count += 1;
                        }
                        segment.offset += 1;
                    }
                    Err(error) => damage = Some(error),
                }
            }
            if used == 0 && damage.is_some() {
                if bytes.is_empty() {
                    // The end of this segment: the next one is named after the offset that comes now.
                    segment = self.following(&segment)?;
                } else if damage == Some(FrameError::Damaged) || bytes.len() < bytes_wanted {
                    // Not a frame, or one that is cut off, and yet below the durable offset.
                    return Err(segment.damaged());
                } else {
                    bytes_wanted = frame_bytes(&bytes).max(bytes_wanted + 1);
                }
                continue;
            }
            // What stands before a damage is delivered first.
            segment.at += used as u64;
            self.next = Some(from.max(segment.offset));
            if count > 0 || segment.offset >= end {
                bytes.truncate(used);
                bytes.drain(..skipped);
                self.segment = Some(segment);
                return Ok(Piece { bytes, count });
            }
        }
    }

    /// The segment that holds the next offset, at its beginning.
    fn open(&self) -> Result<Open, ReadError> {
        let fail = |error| ReadError::Io(self.dir.clone(), error);
        let mut firsts = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            firsts.extend(entry.map_err(fail)?.file_name().to_str().and_then(segment_offset));
        }
        firsts.sort_unstable();
        let first = match self.next {
            Some(next) => firsts.iter().rfind(|first| **first <= next),
            None => firsts.first(),
        };
        let missing = || ReadError::Missing { dir: self.dir.clone(), next: self.next.unwrap_or(0) };
        Open::at(&self.dir, *first.ok_or_else(missing)?)
    }

    fn following(&self, segment: &Open) -> Result<Open, ReadError> {
        if self.dir.join(segment_name(segment.offset)) == segment.path {
            // An empty segment whose frames are said to be durable.
            return Err(segment.damaged());
        }
        match Open::at(&self.dir, segment.offset) {
            Err(ReadError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(ReadError::Missing { dir: self.dir.clone(), next: segment.offset })
            }
            result => result,
        }
    }
}

impl Open {
    fn at(dir: &Path, first: u64) -> Result<Self, ReadError> {
        let path = dir.join(segment_name(first));
        let fail = |error| ReadError::Io(path.clone(), error);
        let file = File::open(&path).map_err(fail)?;
        let mut magic = [0; SEGMENT_MAGIC.len()];
        match file.read_exact_at(&mut magic, 0) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(fail(error)),
            _ if magic != *SEGMENT_MAGIC => return Err(ReadError::Damaged { path, at: 0, offset: first }),
            _ => {}
        }
        Ok(Self { file, path, offset: first, at: SEGMENT_MAGIC.len() as u64 })
    }

    fn damaged(&self) -> ReadError {
        ReadError::Damaged { path: self.path.clone(), at: self.at, offset: self.offset }
    }

    fn bytes(&self, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; bytes_max];
        let mut length = 0;
        while length < bytes.len() {
            match self.file.read_at(&mut bytes[length..], self.at + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(self.path.clone(), error)),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }
}

/// Bytes of the frame that begins here, as its header says.
fn frame_bytes(bytes: &[u8]) -> usize {
    const HEADER_BYTES: usize = 8;
    match bytes.first_chunk::<4>() {
        Some(length) => HEADER_BYTES.saturating_add(u32::from_le_bytes(*length) as usize),
        None => HEADER_BYTES,
    }
}
