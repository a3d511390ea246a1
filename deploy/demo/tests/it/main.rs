//! The sender against a collector of ours, and the recount against a real Postgres.

// A test that cannot go on should stop where it is; clippy sees that only in functions marked as tests.
#![allow(clippy::unwrap_used)]

mod demo;
mod recount;
