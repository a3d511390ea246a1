//! The log of one machine, as bytes: how a spool directory is laid out and how a frame is written and read.
//!
//! This module is pure; the collector appends, and one reader follows: the consumer in place, or, where the spool stands
//! in for Kafka while that is away, the collector's own drain. The layout of `<spool>/<topic>/`:
//!
//! * `00000000000000000042.seg`: a segment, named after the offset of its first frame. It opens with
//!   [`SEGMENT_MAGIC`] and is followed by frames; offsets count frames, so a frame's offset is the segment's name
//!   plus its place.
//! * `durable`: 8 bytes, little endian: every offset below it has been fsynced. The collector writes it after each
//!   group commit, before it acknowledges. **A reader never goes past it**: after a power cut, offsets that were
//!   never durable are given to other frames, and a reader that had used them would skip acknowledged ones.
//! * `consumer.json`: the reader's position, replaced atomically; on a full disk overwritten in place (blanks may stand
//!   behind it). Segments that lie wholly below `next` can be deleted by the collector.
//!
//! A frame is `length: u32 LE | crc32c: u32 LE | payload`, the checksum over length and payload, the payload
//! `key length: u16 LE | key | value`. A frame that is short or whose checksum is wrong at the end of the last
//! segment is a torn write that nobody was told of: the collector cuts it off when it starts. Anywhere else it is
//! damage, and an error.

use serde::{Deserialize, Serialize};

/// First bytes of every segment.
pub const SEGMENT_MAGIC: &[u8; 8] = b"MRSPOOL1";
/// Ending of a segment's file name.
pub const SEGMENT_SUFFIX: &str = ".seg";
/// Name of the file that holds the durable offset.
pub const DURABLE_FILE: &str = "durable";
/// Name of the file that holds the consumer's position.
pub const CONSUMER_FILE: &str = "consumer.json";
/// A segment is closed once it is this large.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// No frame is larger: a larger length is damage.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

const HEADER_BYTES: usize = 8;

/// File name of the segment that starts at `offset`.
pub fn segment_name(offset: u64) -> String {
    format!("{offset:020}{SEGMENT_SUFFIX}")
}

/// Offset of the first frame of the segment with this file name; `None` for other files.
pub fn segment_offset(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(SEGMENT_SUFFIX)?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// Where the reader stands in a topic: what [`CONSUMER_FILE`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Everything below is stored.
    pub next: u64,
    /// Offset after the last frame of the batch that starts at `next` and may or may not be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_next: Option<u64>,
}

/// One record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Store and visitor.
    pub key: &'a [u8],
    /// JSON rows.
    pub value: &'a [u8],
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end before the frame does: more may follow, or the write was torn.
    #[error("the frame is not complete")]
    Incomplete,
    /// The frame is not what was written.
    #[error("the frame is damaged")]
    Damaged,
}

/// Appends a frame. Keys are cut at 64 KiB, far above what validation lets through.
pub fn write_frame(out: &mut Vec<u8>, record: Record<'_>) {
    let key = &record.key[..record.key.len().min(usize::from(u16::MAX))];
    let start = out.len();
    out.extend_from_slice(&((2 + key.len() + record.value.len()) as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(record.value);
    let sum = checksum(&out[start..]);
    out[start + 4..start + HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// Reads the frame at the start of `bytes`; returns it with the number of bytes it takes.
pub fn read_frame(bytes: &[u8]) -> Result<(Record<'_>, usize), FrameError> {
    let header = bytes.get(..HEADER_BYTES).ok_or(FrameError::Incomplete)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = word(0) as usize;
    if !(2..=FRAME_BYTES_MAX).contains(&length) {
        return Err(FrameError::Damaged);
    }
    let frame = bytes.get(..HEADER_BYTES + length).ok_or(FrameError::Incomplete)?;
    if checksum(frame) != word(4) {
        return Err(FrameError::Damaged);
    }
    let payload = &frame[HEADER_BYTES..];
    let key_length = usize::from(u16::from_le_bytes([payload[0], payload[1]]));
    let (key, value) = payload[2..].split_at_checked(key_length).ok_or(FrameError::Damaged)?;
    Ok((Record { key, value }, frame.len()))
}

fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[HEADER_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_offsets() {
        assert_eq!(segment_name(42), "00000000000000000042.seg");
        assert_eq!(segment_offset("00000000000000000042.seg"), Some(42));
        assert_eq!(segment_offset("durable"), None);
        assert_eq!(segment_offset("42.seg"), None);
    }

    proptest! {
        #[test]
        fn frames_come_back_and_damage_is_seen(
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::collection::vec(any::<u8>(), 0..200),
            flip in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let record = Record { key: &key, value: &value };
            let mut bytes = Vec::new();
            write_frame(&mut bytes, record);
            prop_assert_eq!(read_frame(&bytes), Ok((record, bytes.len())));
            prop_assert_eq!(read_frame(&bytes[..cut.index(bytes.len())]), Err(FrameError::Incomplete));
            let at = flip.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert!(read_frame(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_frame(&bytes);
        }
    }
}
