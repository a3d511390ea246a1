//! The collector through its real listener, with its real logs.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod bodies;
mod chain;
mod http;
mod kafka;
mod limits;
mod postgres;
mod requests;
mod service;
mod spool;
