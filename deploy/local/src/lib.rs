//! Servers on this machine, as child processes that cannot outlive us.

pub mod engine;
pub mod postgres;
pub mod process;
