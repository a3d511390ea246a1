//! The embedded package against real servers.

mod demo;
mod engine;
mod kafka;
mod postgres;
mod process;
mod recount;
