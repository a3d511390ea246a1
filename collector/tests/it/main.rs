//! The collector through its real listener, with its real logs.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod attack;
mod bodies;
mod chain;
mod clock;
mod disk;
mod http;
mod kafka;
mod limits;
mod postgres;
mod process;
mod relay;
mod requests;
mod service;
mod shutdown;
mod spool;
