//! Real servers for tests: each value is a server of its own on free ports in a temporary directory, gone when
//! the value is dropped, and also when the test process is killed.

mod engine;
mod fence;
mod kafka;
mod openapi;
mod port;
mod postgres;
mod proxy;

use std::io;
use std::process::ExitStatus;

pub use engine::{Engine, library};
pub use fence::Fence;
pub use kafka::{Kafka, SCRIPT as KAFKA_SCRIPT, fetch as fetch_kafka};
pub use openapi::Conformance;
pub use port::Port;
pub use postgres::Postgres;
pub use proxy::Proxy;

/// Why a test server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server, or the script that fetches it, ended.
    #[error("{server} ended ({status}): {output}")]
    Ended {
        /// Which server.
        server: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last it said.
        output: String,
    },
    /// The server does not answer in time.
    #[error("{server} does not answer: {output}")]
    Slow {
        /// Which server.
        server: &'static str,
        /// The last it said.
        output: String,
    },
    /// A topic was refused.
    #[error("topic {topic}: {code}")]
    Topic {
        /// Its name.
        topic: String,
        /// Kafka's reason.
        code: rdkafka::types::RDKafkaErrorCode,
    },
    /// The Kafka client failed.
    #[error(transparent)]
    Client(#[from] rdkafka::error::KafkaError),
    /// The engine's passwords cannot be made.
    #[error(transparent)]
    Password(#[from] millrace_local::engine::PasswordError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] millrace_local::engine::Error),
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] millrace_local::postgres::Error),
    /// A file or process operation failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
