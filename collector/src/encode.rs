//! Rows to log messages: one message per visitor and topic, so that a visitor's events stay in order and a request of
//! fifty events costs the log one message, not fifty.

use millrace_schemas::{row::Row, topic};
use xxhash_rust::xxh3::xxh3_64;

use crate::validate::Valid;

/// A topic that the collector writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Page views and named events.
    Events,
    /// Heatmap clicks.
    Clicks,
}

impl Topic {
    /// Both.
    pub const ALL: [Topic; 2] = [Topic::Events, Topic::Clicks];

    /// The topic's name.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::Events => topic::EVENTS,
            Topic::Clicks => topic::CLICKS,
        }
    }
}

/// What one visitor sent for one topic in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it belongs.
    pub topic: Topic,
    /// `store_id:visitor_id`.
    pub key: Vec<u8>,
    /// JSON rows, separated by newlines.
    pub value: Vec<u8>,
}

/// Bytes of a message, with its key, that the log takes at most, by topic.
pub type MessageBytesMax = [usize; Topic::ALL.len()];

/// A row that the log would not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowTooLarge {
    pub(crate) bytes: usize,
    pub(crate) bytes_max: usize,
}

/// Gathers the rows of one request.
pub(crate) struct Encoder {
    bytes_max: MessageBytesMax,
    messages: Vec<Message>,
    /// Of each message, the hash of its visitor, so that finding a visitor's message compares numbers.
    visitors: Vec<u64>,
}

/// A message that has grown this large is followed by another one: Kafka's brokers refuse messages beyond 1 MiB, and a
/// row behind this much still fits.
const MESSAGE_BYTES: usize = 256 << 10;

/// Room for a usual row; more is made when it is needed.
const ROW_BYTES: usize = 1024;

impl Encoder {
    pub(crate) fn new(bytes_max: MessageBytesMax) -> Self {
        Self { bytes_max, messages: Vec::new(), visitors: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: &Valid<'_>) -> Result<(), RowTooLarge> {
        match row {
            Valid::Event(row) => self.write(Topic::Events, row.store_id, row.visitor_id, row),
            Valid::Click(row) => self.write(Topic::Clicks, row.store_id, row.visitor_id, row),
        }
    }

    pub(crate) fn finish(self) -> Vec<Message> {
        self.messages
    }

    fn write(
        &mut self,
        topic: Topic,
        store_id: &str,
        visitor_id: &str,
        row: &impl Row,
    ) -> Result<(), RowTooLarge> {
        let hash = xxh3_64(visitor_id.as_bytes());
        let visitor_of = |message: &Message| message.key[store_id.len() + 1..] == *visitor_id.as_bytes();
        let known = (0..self.messages.len()).rev().find(|index| {
            let message = &self.messages[*index];
            self.visitors[*index] == hash
                && message.topic == topic
                && message.value.len() < MESSAGE_BYTES
                && visitor_of(message)
        });
        let index = known.unwrap_or_else(|| {
            let key = [store_id.as_bytes(), b":", visitor_id.as_bytes()].concat();
            self.visitors.push(hash);
            self.messages.push(Message { topic, key, value: Vec::with_capacity(ROW_BYTES) });
            self.messages.len() - 1
        });
        let Message { key, value, .. } = &mut self.messages[index];
        let before = value.len();
        if known.is_some() {
            value.push(b'\n');
        }
        let start = value.len();
        row.write_json(value);
        let bytes_max = self.bytes_max[topic as usize].saturating_sub(key.len());
        if value.len() <= bytes_max {
            return Ok(());
        }
        let row = value.split_off(start);
        value.truncate(before);
        let message = Message { topic, key: key.clone(), value: row };
        if known.is_none() {
            self.messages.pop();
            self.visitors.pop();
        }
        if message.value.len() > bytes_max {
            return Err(RowTooLarge { bytes: message.value.len(), bytes_max });
        }
        self.visitors.push(hash);
        self.messages.push(message);
        Ok(())
    }
}
