//! The servers that other tests stand on.

// A test that cannot go on should stop where it is; clippy sees that only in functions marked as tests.
#![allow(clippy::unwrap_used)]

mod kafka;
mod postgres;
