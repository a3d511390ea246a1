//! Settings of the aggregator, each with its flag and its environment variable.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use millrace_service::host::HostConfig;

use crate::{turn::Limits, worker::Settings};

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

    /// Connections to Postgres, at most, those of the API not counted. Rolling up holds one for each store at once and five
    /// more (one look for arrivals, one store that takes longer, erasure and retention, bookkeeping).
    #[arg(long, env = "MILLRACE_POSTGRES_CONNECTIONS", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(8..=400))]
    pub postgres_connections: u32,

    /// Connections to Postgres that the API has besides, at most: reads never take those of the rollups. Together with
    /// --postgres-connections 12 by default; all services have 25 that logins leave to them.
    #[arg(long, env = "MILLRACE_API_POSTGRES_CONNECTIONS", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(3..=400))]
    pub api_postgres_connections: u32,

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

    /// Seconds after which a query is given up, and the longest that the rollup of one store may take at a time.
    #[arg(long, env = "MILLRACE_ROLLUP_TIMEOUT_SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub query_timeout_seconds: u64,

    /// Milliseconds that the rollup of one store may take beside the others. What takes longer is given up and tried again
    /// later, in a place of its own, with four times as much each time, up to --query-timeout-seconds.
    #[arg(long, env = "MILLRACE_STORE_BUDGET_MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub store_budget_ms: u64,

    /// Stores that are rolled up at once; one more where some exceed --store-budget-ms. Each runs one query in ClickHouse
    /// and holds one connection to Postgres.
    #[arg(long, env = "MILLRACE_ROLLUP_STORES_AT_ONCE", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub stores_at_once: u32,

    /// Rows that one query of a rollup may answer with: the store's new rows of one table, about a week at a time, which
    /// are held in memory (about 1 KiB each). A store with more is rolled up a day at a time; a day with more is not.
    #[arg(long, env = "MILLRACE_ROLLUP_ROWS_MAX", default_value_t = 200_000,
          value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub rollup_rows_max: u64,

    /// Rows that one look for arrivals takes: of a backlog, one slice after the other, with rollups in between. A slice
    /// that needs more memory than --query-memory-bytes is halved.
    #[arg(long, env = "MILLRACE_ARRIVAL_SLICE_ROWS", default_value_t = 500_000,
          value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    pub arrival_slice_rows: u64,

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

    /// What rolling up one store may take, so that the others have their turn.
    pub fn limits(&self) -> Limits {
        let budget_max = Duration::from_secs(self.query_timeout_seconds);
        // Whatever is set, the rest has connections.
        let stores_at_once = self.stores_at_once.min(self.postgres_connections.saturating_sub(5)).max(1);
        Limits {
            budget: Duration::from_millis(self.store_budget_ms).min(budget_max),
            budget_max,
            stores_at_once: stores_at_once as usize,
            rows_max: self.rollup_rows_max,
        }
    }

    /// What the worker is told.
    pub fn worker(&self) -> Settings {
        Settings {
            interval: Duration::from_millis(self.interval_ms),
            slice_rows: self.arrival_slice_rows,
            limits: self.limits(),
        }
    }
}

impl Default for Config {
    /// What the command line gives when nothing is set, whatever the environment says.
    fn default() -> Self {
        Self {
            postgres_url: "postgres://millrace@127.0.0.1:5433/millrace".into(),
            postgres_connections: 8,
            api_postgres_connections: 4,
            postgres_timeout_seconds: 120,
            clickhouse_url: "http://127.0.0.1:8123".into(),
            clickhouse_database: "millrace".into(),
            clickhouse_user: "default".into(),
            clickhouse_password: String::new(),
            query_memory_bytes: 256 << 20,
            query_threads: 2,
            query_timeout_seconds: 300,
            store_budget_ms: 10_000,
            stores_at_once: 2,
            rollup_rows_max: 200_000,
            arrival_slice_rows: 500_000,
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
