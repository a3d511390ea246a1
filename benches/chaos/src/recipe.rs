//! With which arguments each program is started.

use std::{net::SocketAddr, path::PathBuf};

use millrace_local::{postgres, process::program};
use millrace_testbed::{KAFKA_SCRIPT, library};

/// The token of the admin API.
pub(super) const ADMIN_TOKEN: &str = "chaos-admin-token-0123456789abcdef";
/// The shortest that a broker allows: a process is frozen for longer than this within a round.
pub(super) const SESSION_TIMEOUT_MS: u32 = 6_000;
/// A spool that fills within seconds.
pub(super) const SMALL_SPOOL_BYTES: u64 = 1 << 20;

/// How a node is started.
#[derive(Clone, Debug)]
pub(super) enum Recipe {
    Program { program: PathBuf, arguments: Vec<String> },
    Postgres(Box<postgres::Config>),
}

/// Where everybody finds everybody.
pub(super) struct Urls {
    pub(super) kafka: SocketAddr,
    pub(super) clickhouse: String,
    pub(super) postgres: String,
    pub(super) dir: PathBuf,
}

// Timeouts are shorter than the defaults where a round would otherwise mostly wait for them to pass.
impl Urls {
    pub(super) fn kafka(&self, controller_port: u16) -> Recipe {
        let arguments = [
            "start".to_owned(),
            format!("--data={}", self.dir.join("kafka").display()),
            format!("--host={}", self.kafka.ip()),
            format!("--port={}", self.kafka.port()),
            format!("--controller-port={controller_port}"),
        ];
        // The script takes a value as the next argument.
        let arguments = arguments
            .iter()
            .flat_map(|argument| argument.splitn(2, '=').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        Recipe::Program { program: KAFKA_SCRIPT.into(), arguments }
    }

    pub(super) fn engine(&self, listens: SocketAddr) -> anyhow::Result<Recipe> {
        let arguments = vec![
            format!("--listen={listens}"),
            format!("--data-dir={}", self.dir.join("clickhouse").display()),
            format!("--library={}", library().display()),
            // Only the namespaces of this run reach it.
            "--no-password".to_owned(),
            "--shutdown-grace-ms=5000".to_owned(),
        ];
        Ok(Recipe::Program { program: program("millrace-clickhouse")?, arguments })
    }

    pub(super) fn collector(&self, listens: SocketAddr, metrics: SocketAddr) -> anyhow::Result<Recipe> {
        let arguments = vec![
            format!("--address={listens}"),
            format!("--metrics-address={metrics}"),
            format!("--kafka-brokers={}", self.kafka),
            format!("--postgres-url={}", self.postgres),
            format!("--spool-dir={}", self.dir.join("spool").display()),
            "--kafka-ack-timeout-ms=3000".to_owned(),
            "--partitions=4".to_owned(),
        ];
        Ok(Recipe::Program { program: program("millrace-collector")?, arguments })
    }

    pub(super) fn consumer(&self, metrics: SocketAddr) -> anyhow::Result<Recipe> {
        let arguments = vec![
            format!("--metrics-address={metrics}"),
            format!("--kafka-brokers={}", self.kafka),
            format!("--kafka-session-timeout-ms={SESSION_TIMEOUT_MS}"),
            format!("--clickhouse-url={}", self.clickhouse),
            // Small batches: a fault then finds some in every state.
            "--batch-rows=200".to_owned(),
            "--batch-age-ms=200".to_owned(),
            "--send-timeout-ms=3000".to_owned(),
            "--insert-timeout-ms=6000".to_owned(),
            "--retry-max-ms=1000".to_owned(),
            "--kafka-settings=reconnect.backoff.max.ms=1000".to_owned(),
        ];
        Ok(Recipe::Program { program: program("millrace-consumer")?, arguments })
    }

    pub(super) fn aggregator(&self, api: SocketAddr, metrics: SocketAddr) -> anyhow::Result<Recipe> {
        let arguments = vec![
            format!("--api-address={api}"),
            format!("--metrics-address={metrics}"),
            format!("--postgres-url={}", self.postgres),
            format!("--clickhouse-url={}", self.clickhouse),
            format!("--admin-token={ADMIN_TOKEN}"),
            "--interval-ms=500".to_owned(),
            "--query-timeout-seconds=20".to_owned(),
        ];
        Ok(Recipe::Program { program: program("millrace-aggregator")?, arguments })
    }
}
