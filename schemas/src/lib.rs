//! The contract between Millrace's services: what an event is, how it travels, where it lands.
//!
//! Everything here is pure: no I/O, no clock, no async runtime. A service that wants to know a name, a limit, a
//! format or a table definition finds it in this crate and nowhere else.
//!
//! * [`event`]: kinds of events and the canonical names (GA4's) with their synonyms;
//! * [`row`]: the typed rows, from which the Kafka JSON, the ClickHouse columns and the DDL are all derived;
//! * [`reject`]: the closed list of reasons for which something is refused;
//! * [`refused`]: what is kept of events that were refused;
//! * [`repair`]: the closed list of what is done to a field that cannot be kept as it was sent;
//! * [`demo`]: the store that one machine starts with;
//! * [`limits`]: how large anything may be;
//! * [`money`]: ISO 4217 minor units;
//! * [`topic`]: Kafka topics, keys, headers;
//! * [`spool`]: the on-disk log of one machine, as bytes;
//! * [`clickhouse`]: tables and views;
//! * [`postgres`]: roles and their rights; the migrations stand in `schemas/postgres/`;
//! * [`metric`]: names of all metrics.

pub mod clickhouse;
pub mod demo;
pub mod entity;
pub mod event;
pub mod limits;
pub mod metric;
pub mod money;
pub mod postgres;
pub mod refused;
pub mod reject;
pub mod repair;
pub mod row;
pub mod spool;
pub mod time;
pub mod topic;
pub mod zone;
