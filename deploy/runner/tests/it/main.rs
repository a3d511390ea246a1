//! The whole pipeline, and what else needs all of it, against real servers.

// A test that cannot go on should stop where it is; clippy sees that only in functions marked as tests.
#![allow(clippy::unwrap_used)]

// The longest come first: tests run in the order of their names.
mod attack_clickhouse;
mod attack_files;
mod attack_rebinding;
mod browser;
mod clients;
mod clock;
mod listeners;
mod orders;
mod pipeline;
mod power;
mod privacy;
mod proxies;
mod replay;
mod secrets;
mod shutdown;
