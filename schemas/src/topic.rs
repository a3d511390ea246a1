//! The log's topics, and what a message in them looks like.
//!
//! A message is what one visitor sent in one request for one topic: one or more JSON rows (see [`crate::row`])
//! separated by newlines. Its key is `store_id:visitor_id`, so a visitor's messages stay in order; its header
//! [`SCHEMA_HEADER`] says the version of the rows.

/// Page views and named events.
pub const EVENTS: &str = "millrace.events";
/// Heatmap clicks.
pub const CLICKS: &str = "millrace.clicks";
/// What could not be stored.
pub const DEAD_LETTERS: &str = "millrace.dead_letters";
/// Every topic.
pub const ALL: [&str; 3] = [EVENTS, CLICKS, DEAD_LETTERS];

/// Partitions of no log: each run of `millrace-consumer replay` draws one for the rows that it stores, and counts its
/// offsets there from the clock's milliseconds.
pub const REPLAY_PARTITIONS: std::ops::RangeInclusive<u32> = 1 << 30..=i32::MAX as u32;

/// Name of the header that holds the row version.
pub const SCHEMA_HEADER: &str = "schema";
/// The row version that this build writes.
pub const SCHEMA_VERSION: &str = "1";
