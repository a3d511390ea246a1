//! The consumer: moves contiguous ranges of the log into ClickHouse, once.
//!
//! In the order data flows: [`source`] (Kafka or the spool) → [`partition`] (what to do, pure) and `driver` (does it) →
//! [`decode`] (JSON lines to rows) → [`native`] (rows to a block) → [`store`] (blocks to ClickHouse), with what has no
//! place in a table going to [`dead_letter`], from where [`replay`] takes it back. [`memory`] bounds all of it.

pub mod backoff;
mod batch;
mod clock;
pub mod config;
pub mod consumer;
pub mod dead_letter;
pub mod decode;
mod driver;
#[cfg(test)]
mod fakes;
mod gauges;
pub mod health;
pub mod http;
pub mod memory;
pub mod native;
pub mod partition;
mod read_back;
pub mod replay;
mod sink;
pub mod source;
pub mod store;

pub use config::{Config, Log, NetworkCompression};
pub use consumer::{RunError, describe_metrics, run};
pub use health::Health;
