//! One-machine Millrace.

pub mod chaos;
pub mod demo;
pub mod engine;
pub mod postgres;
pub mod process;
pub mod recount;
#[cfg(feature = "runner")]
pub mod runner;
pub mod testbed;
