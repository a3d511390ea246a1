//! Child processes of real parents.

// A test that cannot go on should stop where it is; clippy sees that only in functions marked as tests.
#![allow(clippy::unwrap_used)]

mod process;
