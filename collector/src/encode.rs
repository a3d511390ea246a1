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

/// Gathers the rows of one request.
#[derive(Default)]
pub(crate) struct Encoder {
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
    pub(crate) fn push(&mut self, row: &Valid<'_>) {
        match row {
            Valid::Event(row) => self.write(Topic::Events, row.store_id, row.visitor_id, row),
            Valid::Click(row) => self.write(Topic::Clicks, row.store_id, row.visitor_id, row),
        }
    }

    pub(crate) fn finish(self) -> Vec<Message> {
        self.messages
    }

    fn write(&mut self, topic: Topic, store_id: &str, visitor_id: &str, row: &impl Row) {
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
        let value = &mut self.messages[index].value;
        if known.is_some() {
            value.push(b'\n');
        }
        row.write_json(value);
    }
}
