//! The embedded package against real servers.

// A test that cannot go on should stop where it is; clippy sees that only in functions marked as tests.
#![allow(clippy::unwrap_used)]

// The longest come first: tests run in the order of their names.
mod attack_clickhouse;
mod attack_files;
mod attack_rebinding;
mod browser;
mod chaos;
mod clients;
mod clock;
mod demo;
mod engine;
mod engine_memory;
mod kafka;
mod listeners;
mod pipeline;
mod postgres;
mod power;
mod privacy;
mod process;
mod proxies;
mod recount;
mod replay;
mod secrets;
mod shutdown;
