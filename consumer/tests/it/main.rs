//! The consumer with the real parts: a real ClickHouse engine, a real Kafka, a spool as the collector writes it.

// Clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used)]

mod kafka;
mod lane;
mod native;
mod parts;
mod spool;
