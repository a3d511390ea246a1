//! The aggregator against a real engine and a real Postgres: rows in, rollups out.

// A test that cannot go on says so by failing.
#![allow(clippy::unwrap_used)]

mod api;
mod arrival;
mod attack_postgres;
mod away;
mod days;
mod equal;
mod fair;
mod harness;
mod instances;
mod keys;
mod logins;
mod openapi;
mod orders;
mod privacy;
mod readers;
mod routes;
mod slices;
