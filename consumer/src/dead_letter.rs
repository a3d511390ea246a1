//! What could not be stored, with everything that is needed to look at it and to send it again.
//!
//! Dead-letter records are rows of `dead_letters`, whose sorting key is their place in the log: written again after a
//! crash, they meet their first copy. The copy for people (Kafka's `millrace.dead_letters`) is JSON; raw bytes that are not
//! UTF-8 stand there in base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use millrace_schemas::{reject::Reason, row::Cell, time};

use crate::{
    decode::Table,
    native::{Block, BlockBuilder, Source},
    partition::TopicPartition,
};

/// The detail of a message whose rows are of a version that the consumer does not know.
pub const UNKNOWN_VERSION: &str = "rows of a version that this build does not know";

/// A line, or a whole message, that has no place in its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The partition it comes from.
    pub partition: TopicPartition,
    /// Its message.
    pub offset: u64,
    /// Its line in the message.
    pub row: u32,
    /// Why.
    pub reason: Reason,
    /// What exactly was wrong.
    pub detail: String,
    /// When it was given up, epoch milliseconds.
    pub died_at_ms: i64,
    /// The bytes, as they stood in the log.
    pub raw: Vec<u8>,
}

impl DeadLetter {
    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.raw.capacity() + self.detail.capacity()
    }

    /// The record as JSON, with at most so many bytes of its raw content.
    pub fn json(&self, raw_bytes_max: usize) -> String {
        let raw = &self.raw[..self.raw.len().min(raw_bytes_max)];
        let mut died_at = Vec::new();
        time::write_instant(&mut died_at, self.died_at_ms);
        let mut record = serde_json::json!({
            "reason": self.reason.as_str(),
            "detail": self.detail,
            "died_at": String::from_utf8_lossy(&died_at),
            "topic": self.partition.topic,
            "partition": self.partition.number,
            "offset": self.offset,
            "row": self.row,
        });
        match std::str::from_utf8(raw) {
            Ok(text) => record["raw"] = text.into(),
            Err(_) => record["raw_base64"] = STANDARD.encode(raw).into(),
        }
        if raw.len() < self.raw.len() {
            record["raw_bytes"] = self.raw.len().into();
        }
        record.to_string()
    }
}

/// The records as a block of `dead_letters`.
pub fn block(records: &[DeadLetter]) -> Block {
    let mut builder = BlockBuilder::new(Table::DeadLetters.columns());
    for record in records {
        let DeadLetter { partition, offset, row, .. } = *record;
        let cells = [
            Cell::Symbol(record.reason.as_str()),
            Cell::Text(&record.detail),
            Cell::Instant(record.died_at_ms),
        ];
        builder.push_cells(
            &cells,
            &[&record.raw],
            Source { topic: partition.topic, partition: partition.number, offset, row },
        );
    }
    builder.finish()
}
