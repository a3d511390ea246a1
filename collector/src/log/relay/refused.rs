//! Rows that were acknowledged and that Kafka refuses for good, each alone: they are larger than the topic's
//! `max.message.bytes`, which somebody has lowered since, or the broker takes them for invalid.
//!
//! They may not be lost, nobody may wait behind them, and no topic takes them. So they are kept as the spool keeps its
//! frames, synced before the drain goes past them, in `<spool>/refused/<topic>/`, and are tried again when the collector
//! starts and when the topic's limit is another. Until then `/readyz` and a metric say how many there are.

use std::{
    io,
    path::{Path, PathBuf},
};

use millrace_schemas::{
    metric,
    spool::{Record, SEGMENT_BYTES, read_frame, write_frame},
};

use crate::{
    encode::Topic,
    log::spool::{
        self,
        reader::Reader,
        segment::{Segments, write_position},
    },
};

/// Directory beside the topics'.
pub(super) const DIR: &str = "refused";
/// Bytes that are kept of one topic. Beyond, the drain waits for somebody to raise the limit, and the spool's bounds hold.
const BYTES_MAX: u64 = 1 << 30;
/// Bytes that are looked at again at a time.
const READ_BYTES: usize = 4 << 20;

/// Of one topic.
pub(super) struct Refused {
    dir: PathBuf,
    /// Made when there is something to keep.
    segments: Option<Segments>,
    /// Everything below was delivered since.
    position: u64,
    kept: metrics::Counter,
    waiting: metrics::Gauge,
}

/// What became of one that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    Delivered,
    /// It is refused as before.
    Refused,
    /// Nobody knows: it is tried another time, with all behind it.
    Failed,
}

impl Refused {
    pub(super) fn open(spool_dir: &Path, topic: Topic) -> Result<Self, spool::Error> {
        let dir = spool_dir.join(DIR).join(topic.name());
        let mut refused = Self {
            segments: None,
            position: 0,
            kept: metrics::counter!(metric::COLLECTOR_REFUSED_BY_KAFKA, "topic" => topic.name()),
            waiting: metrics::gauge!(metric::COLLECTOR_REFUSED_WAITING, "topic" => topic.name()),
            dir,
        };
        if refused.dir.exists() {
            refused.segments()?;
        }
        refused.show();
        Ok(refused)
    }

    fn segments(&mut self) -> Result<&mut Segments, spool::Error> {
        if self.segments.is_none() {
            let segments = Segments::open(&self.dir, SEGMENT_BYTES)?;
            let at = |source| spool::Error::Io { path: self.dir.clone(), source };
            let recorded = segments.position().map_err(at)?;
            self.position = recorded.or_else(|| segments.firsts().next()).unwrap_or(0);
            self.segments = Some(segments);
        }
        // It was made above.
        self.segments.as_mut().ok_or_else(|| spool::Error::InUse(self.dir.clone()))
    }

    /// How many are kept.
    pub(super) fn waiting(&self) -> u64 {
        self.segments.as_ref().map_or(0, |segments| segments.next().saturating_sub(self.position))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps rows, durably.
    pub(super) fn keep(&mut self, key: &[u8], rows: &[&[u8]]) -> Result<(), String> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut frames = Vec::new();
        rows.iter().for_each(|value| write_frame(&mut frames, Record { key, value }));
        self.append(&frames, rows.len())?;
        self.kept.increment(rows.len() as u64);
        self.show();
        Ok(())
    }

    fn append(&mut self, frames: &[u8], count: usize) -> Result<(), String> {
        let dir = self.dir.display().to_string();
        let segments = self.segments().map_err(|error| error.to_string())?;
        if segments.bytes() + frames.len() as u64 > BYTES_MAX {
            return Err(format!(
                "{dir} is full of rows that Kafka refuses; raise the topic's max.message.bytes"
            ));
        }
        segments.append(&[frames], count as u64).map_err(|error| format!("{dir}: {error}"))
    }

    /// Tries all of them again, if one of them at least may fare better now; what is refused again is kept again.
    pub(super) fn try_again(
        &mut self,
        may_fit: impl Fn(&Record<'_>) -> bool,
        mut send: impl FnMut(&Record<'_>) -> Trial,
    ) -> Result<(), String> {
        let Some(end) = self.segments.as_ref().map(Segments::next) else { return Ok(()) };
        let mut is_worth_it = false;
        self.for_each(end, |_, record| {
            is_worth_it |= may_fit(record);
            Ok(!is_worth_it)
        })?;
        if !is_worth_it {
            return Ok(());
        }
        let mut tried = self.position;
        let mut again = Vec::new();
        let mut count = 0;
        self.for_each(end, |offset, record| {
            let trial = if may_fit(record) { send(record) } else { Trial::Refused };
            if trial == Trial::Refused {
                write_frame(&mut again, *record);
                count += 1;
            }
            if trial != Trial::Failed {
                tried = offset + 1;
            }
            Ok(trial != Trial::Failed && again.len() < READ_BYTES)
        })?;
        // What is refused again is durable behind the others before the position passes it.
        if count > 0 {
            self.append(&again, count)?;
        }
        let record = |error: io::Error| format!("{}: {error}", self.dir.display());
        write_position(&self.dir, tried).map_err(record)?;
        self.position = tried;
        if let Some(segments) = &mut self.segments {
            segments.roll_consumed(tried).and_then(|()| segments.delete_below(tried)).map_err(record)?;
        }
        self.show();
        Ok(())
    }

    /// Shows the kept ones below `end`, until one says that this is enough.
    fn for_each(
        &self,
        end: u64,
        mut see: impl FnMut(u64, &Record<'_>) -> Result<bool, String>,
    ) -> Result<(), String> {
        let mut reader = Reader::new(&self.dir, Some(self.position));
        let mut offset = self.position;
        while offset < end {
            let piece = reader.read(end, READ_BYTES).map_err(|error| error.to_string())?;
            let mut rest = piece.bytes.as_slice();
            while let Ok((record, length)) = read_frame(rest) {
                if !see(offset, &record)? {
                    return Ok(());
                }
                rest = &rest[length..];
                offset += 1;
            }
            if piece.count == 0 {
                break;
            }
        }
        Ok(())
    }

    fn show(&self) {
        self.waiting.set(self.waiting() as f64);
    }
}
