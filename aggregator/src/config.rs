//! Settings of the aggregator, each with its flag and its environment variable.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use millrace_service::host::HostConfig;

/// Everything that can be set.
#[derive(Args, Clone)]
pub struct Config {
    /// Postgres that holds stores, settings and rollups.
    #[arg(
        long,
        env = "MILLRACE_POSTGRES_URL",
        default_value = "postgres://millrace@127.0.0.1:5433/millrace",
        hide_env_values = true
    )]
    pub postgres_url: String,

    /// Connections to Postgres, at most; two are kept for rolling up, the others serve the API.
    #[arg(long, env = "MILLRACE_POSTGRES_CONNECTIONS", default_value_t = 6,
          value_parser = clap::value_parser!(u32).range(3..=200))]
    pub postgres_connections: u32,

    /// Seconds that one statement may take in Postgres; an answer that takes longer is given up, and asked for again.
    #[arg(long, env = "MILLRACE_POSTGRES_TIMEOUT_SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub postgres_timeout_seconds: u64,

    /// Address of ClickHouse's HTTP interface.
    #[arg(
        long,
        env = "MILLRACE_CLICKHOUSE_URL",
        default_value = "http://127.0.0.1:8123",
        hide_env_values = true
    )]
    pub clickhouse_url: String,

    /// Database that holds the events.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_DATABASE", default_value = "millrace")]
    pub clickhouse_database: String,

    /// User of ClickHouse.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_USER", default_value = "default")]
    pub clickhouse_user: String,

    /// Password of that user.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_PASSWORD", default_value = "", hide_env_values = true)]
    pub clickhouse_password: String,

    /// Bytes that one query may use in ClickHouse; beyond half of it, grouping continues on disk.
    #[arg(long, env = "MILLRACE_ROLLUP_MEMORY_BYTES", default_value_t = 256 << 20,
          value_parser = clap::value_parser!(u64).range(16 << 20..))]
    pub query_memory_bytes: u64,

    /// Threads that one query may use in ClickHouse.
    #[arg(long, env = "MILLRACE_ROLLUP_THREADS", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub query_threads: u32,

    /// Seconds after which a query is given up.
    #[arg(long, env = "MILLRACE_ROLLUP_TIMEOUT_SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub query_timeout_seconds: u64,

    /// Address of the read and admin API.
    #[arg(long, env = "MILLRACE_API_ADDRESS", default_value = "127.0.0.1:8090")]
    pub api_address: SocketAddr,

    /// Connections to the API at a time, and never more than an eighth of the open files that the process may have. When
    /// all are taken, idle ones make room.
    #[arg(long, env = "MILLRACE_API_CONNECTIONS_MAX", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub api_connections_max: u32,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub hosts: HostConfig,

    /// Address of the Prometheus metrics.
    #[arg(long, env = "MILLRACE_METRICS_ADDRESS", default_value = "127.0.0.1:9103")]
    pub metrics_address: SocketAddr,

    /// Token that the admin API asks for, of 32 characters or more (`openssl rand -hex 32`); without one the admin API is
    /// closed.
    #[arg(long, env = "MILLRACE_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,

    /// Milliseconds between two looks for new arrivals, at least.
    #[arg(long, env = "MILLRACE_ROLLUP_INTERVAL_MS", default_value_t = 2000,
          value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub interval_ms: u64,

    /// Directory of the spool where the collector's spool is the log itself (one machine): erasures are final as soon as
    /// the consumer has passed what had been accepted before them. Without it, after --erasure-horizon-seconds.
    #[arg(long, env = "MILLRACE_ERASURE_SPOOL_DIR")]
    pub erasure_spool_dir: Option<PathBuf>,

    /// Seconds after a request for erasure from which all events that were received before it are in the log: longer than
    /// any request to a collector takes.
    #[arg(long, env = "MILLRACE_ERASURE_SETTLE_SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub erasure_settle_seconds: u64,

    /// Seconds after a request for erasure from which no event received before it is on its way any more, where that
    /// cannot be seen: as long as events may wait in a collector's spool (--spool-age-max-seconds), and a day for Kafka
    /// and the consumer. Until then what turns up late is looked for and removed again.
    #[arg(long, env = "MILLRACE_ERASURE_HORIZON_SECONDS", default_value_t = 8 * 86_400,
          value_parser = clap::value_parser!(u64).range(1..=366 * 86_400))]
    pub erasure_horizon_seconds: u64,
}

/// Settings may hold passwords; nothing of them is shown.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

impl Config {
    /// Longest that one statement may take in Postgres.
    pub fn postgres_timeout(&self) -> Duration {
        Duration::from_secs(self.postgres_timeout_seconds)
    }

    /// Time between two looks for new arrivals.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

impl Default for Config {
    /// What the command line gives when nothing is set, whatever the environment says.
    fn default() -> Self {
        Self {
            postgres_url: "postgres://millrace@127.0.0.1:5433/millrace".into(),
            postgres_connections: 6,
            postgres_timeout_seconds: 120,
            clickhouse_url: "http://127.0.0.1:8123".into(),
            clickhouse_database: "millrace".into(),
            clickhouse_user: "default".into(),
            clickhouse_password: String::new(),
            query_memory_bytes: 256 << 20,
            query_threads: 2,
            query_timeout_seconds: 300,
            api_address: SocketAddr::from(([127, 0, 0, 1], 8090)),
            api_connections_max: 256,
            hosts: HostConfig::default(),
            metrics_address: SocketAddr::from(([127, 0, 0, 1], 9103)),
            admin_token: None,
            interval_ms: 2000,
            erasure_spool_dir: None,
            erasure_settle_seconds: 600,
            erasure_horizon_seconds: 8 * 86_400,
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_service::setting::secrets_in_help;

    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let command = Config::augment_args(clap::Command::new("aggregator"));
        assert_eq!(secrets_in_help(&command), Vec::<String>::new());
        let config = Config { clickhouse_password: "canary".into(), ..Config::default() };
        assert!(!format!("{config:?}").contains("canary"));
    }
}
