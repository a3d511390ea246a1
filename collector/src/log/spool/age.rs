//! How old the oldest frame is that its reader has not consumed.
//!
//! Frames carry no time of their own. A mark is an offset and when the frame there was appended; one is set a second,
//! and the last mark at or below the reader's position tells the age, at most [`MARK_EVERY`] too old. Marks live in
//! memory; after a start they are read back from the rows themselves (`received_at`): of the first frame that was not
//! consumed, and of the first one of each later segment. Time is counted on the monotonic clock from the start on, so
//! that a clock that is set forward by a year refuses nothing.

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use millrace_schemas::{
    spool::{read_frame, segment_name},
    time::parse_instant,
};
use serde::Deserialize;

use super::{reader::Reader, segment::Segments};

/// How far apart marks are set.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Beyond this many, every second one is dropped, and the age gets coarser: a week is a mark every two and a half
/// minutes.
const MARKS_MAX: usize = 8192;

/// Marks of one topic, oldest first.
#[derive(Debug)]
pub(crate) struct Marks {
    start: Instant,
    /// Offset, and milliseconds since `start`: negative for what was there before it.
    marks: VecDeque<(u64, i64)>,
}

impl Marks {
    /// The marks of what a start finds below `position`'s unconsumed frames.
    pub(crate) fn read(dir: &Path, segments: &Segments, position: u64) -> Self {
        let wall_ms = epoch_ms(SystemTime::now());
        let firsts: Vec<u64> = segments.firsts().collect();
        let mut marks = VecDeque::new();
        for (index, first) in firsts.iter().copied().enumerate() {
            let end = firsts.get(index + 1).copied().unwrap_or_else(|| segments.next());
            if end <= position || end == first {
                continue;
            }
            let offset = first.max(position);
            let at_ms = received_ms(dir, offset).or_else(|| modified_ms(dir, first)).unwrap_or(wall_ms);
            marks.push_back((offset, (at_ms - wall_ms).min(0)));
        }
        Self { start: Instant::now(), marks }
    }

    /// A frame was appended at `offset` now.
    pub(crate) fn appended(&mut self, offset: u64) {
        let now_ms = self.now_ms();
        if self.marks.back().is_some_and(|(_, at_ms)| now_ms - at_ms < MARK_EVERY.as_millis() as i64) {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.marks.push_back((offset, now_ms));
    }

    /// How old the oldest frame of `[position, end)` is; `None`: there is none.
    pub(crate) fn age(&mut self, position: u64, end: u64) -> Option<Duration> {
        while self.marks.get(1).is_some_and(|(offset, _)| *offset <= position) {
            self.marks.pop_front();
        }
        if position >= end {
            self.marks.clear();
            return None;
        }
        let at_ms = self.marks.front().map_or_else(|| self.now_ms(), |(_, at_ms)| *at_ms);
        Some(Duration::from_millis(u64::try_from(self.now_ms() - at_ms).unwrap_or(0)))
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// When the first row of the frame at `offset` was received.
fn received_ms(dir: &Path, offset: u64) -> Option<i64> {
    #[derive(Deserialize)]
    struct Received<'a> {
        received_at: &'a str,
    }
    let frames = Reader::new(dir, Some(offset)).read(offset + 1, 64 << 10).ok()?;
    let (record, _) = read_frame(&frames.bytes).ok()?;
    let line = record.value.split(|byte| *byte == b'\n').next()?;
    parse_instant(serde_json::from_slice::<Received<'_>>(line).ok()?.received_at)
}

fn modified_ms(dir: &Path, first: u64) -> Option<i64> {
    let modified = std::fs::metadata(dir.join(segment_name(first))).ok()?.modified().ok()?;
    Some(epoch_ms(modified))
}

fn epoch_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
