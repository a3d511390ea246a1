//! The consumer with the real parts: a real ClickHouse engine, a real Kafka, a spool as the collector writes it.

// Clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used)]

mod deleted;
mod kafka;
mod lost_brokers;
mod native;
mod partition;
mod parts;
mod read_back;
mod replay;
mod rolling;
mod simulation;
mod spool;
mod upgrade;
