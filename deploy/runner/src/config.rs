//! The settings of `millrace run`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// Runs the whole pipeline on this machine, in the foreground, until Ctrl-C.
///
/// The settings of the services themselves (see `millrace-collector --help`, `millrace-consumer --help`,
/// `millrace-aggregator --help` and `millrace-clickhouse --help`) are taken from their environment variables; the ones
/// below are set for one machine.
///
/// Ctrl-C (SIGINT) or SIGTERM drains: nothing new is taken in, what was taken in is stored, then the engines stop; within
/// 70 seconds at most, whatever hangs. A second signal ends everything at once, with exit code 130; what was acknowledged
/// is on disk, and the next start goes on with it.
#[derive(Args, Clone)]
pub struct Config {
    /// Where everything is kept. Made when missing.
    #[arg(long, env = "MILLRACE_DATA_DIR", default_value = ".millrace")]
    pub data_dir: PathBuf,

    /// Where events are posted.
    #[arg(long, env = "MILLRACE_COLLECTOR_ADDRESS", default_value = "127.0.0.1:8080")]
    pub collector_address: SocketAddr,

    /// Read and admin API.
    #[arg(long, env = "MILLRACE_API_ADDRESS", default_value = "127.0.0.1:8090")]
    pub api_address: SocketAddr,

    /// Metrics of all services, `/healthz` and `/readyz`.
    #[arg(long, env = "MILLRACE_METRICS_ADDRESS", default_value = "127.0.0.1:9100")]
    pub metrics_address: SocketAddr,

    /// Port of ClickHouse's HTTP protocol on 127.0.0.1.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_PORT", default_value_t = 8123)]
    pub clickhouse_port: u16,

    /// Port of Postgres on 127.0.0.1. The address with user and password is in the data directory, in `postgres.url`.
    #[arg(long, env = "MILLRACE_POSTGRES_PORT", default_value_t = 5433)]
    pub postgres_port: u16,

    /// The engine library; `make run` puts it where it is looked for.
    #[arg(long, env = "MILLRACE_CHDB_LIBRARY", default_value = ".tools/chdb/libchdb.so")]
    pub library: PathBuf,

    /// Token of the admin API, of 32 characters or more (`openssl rand -hex 32`). Without one, a random token is made at the
    /// first start and kept in the data directory, in `admin_token`; the one that is set wins while it is.
    #[arg(long, env = "MILLRACE_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,

    /// Bytes of events the consumer holds in memory before it stops reading.
    #[arg(long, env = "MILLRACE_MEMORY_BYTES", default_value_t = 48 << 20)]
    pub memory_bytes: usize,
}
