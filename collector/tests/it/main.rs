//! The collector through its real listener, with its real logs.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod attack;
mod bodies;
mod chain;
mod clock;
mod compat_ga4;
mod compat_plausible;
mod compat_posthog;
mod compat_segment;
mod compat_snowplow;
mod compat_umami;
mod disk;
mod enrich;
mod http;
mod inputs;
mod kafka;
mod keys;
mod limits;
mod openapi;
mod orders;
mod oversize;
mod postgres;
mod process;
mod relay;
mod requests;
mod service;
mod share;
mod shutdown;
mod spool;
