//! The settings of the service: one documented struct, every field a flag and an environment variable.
//!
//! A bad combination stops the start with the name of the field ([`Config::check`]).

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use millrace_service::host::HostConfig;

/// Which log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Log {
    /// Apache Kafka.
    Kafka,
    /// The collector's spool on this machine, read in place.
    Spool,
}

/// Whether blocks are compressed on their way to ClickHouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkCompression {
    /// LZ4, unless ClickHouse is on this machine, where it costs more than it saves.
    Auto,
    /// LZ4.
    Lz4,
    /// None.
    None,
}

/// Moves events from the log into ClickHouse.
#[derive(Clone, Parser, PartialEq)]
#[command(name = "millrace-consumer", version, about)]
pub struct Config {
    /// The log that is read.
    #[arg(long, env = "MILLRACE_LOG", value_enum, default_value_t = Log::Kafka)]
    pub log: Log,

    /// Kafka brokers, `host:port` separated by commas.
    #[arg(long, env = "MILLRACE_KAFKA_BROKERS", default_value = "127.0.0.1:9092")]
    pub kafka_brokers: String,

    /// Kafka consumer group; all consumers of one pipeline share it.
    #[arg(long, env = "MILLRACE_KAFKA_GROUP", default_value = "millrace-consumer")]
    pub kafka_group: String,

    /// Further librdkafka settings, `name=value` separated by commas (for example TLS and SASL).
    #[arg(long, env = "MILLRACE_KAFKA_SETTINGS", value_delimiter = ',', hide_env_values = true)]
    pub kafka_settings: Vec<String>,

    /// How long Kafka waits for a silent consumer before its partitions go to others, in milliseconds.
    #[arg(long, env = "MILLRACE_KAFKA_SESSION_TIMEOUT_MS", default_value_t = 30_000)]
    pub kafka_session_timeout_ms: u32,

    /// Directory of the collector's spool.
    #[arg(long, env = "MILLRACE_SPOOL_DIR", default_value = ".millrace/spool")]
    pub spool_dir: PathBuf,

    /// How often the spool is looked at for new events, in milliseconds.
    #[arg(long, env = "MILLRACE_SPOOL_POLL_MS", default_value_t = 20)]
    pub spool_poll_ms: u64,

    /// ClickHouse's HTTP address.
    #[arg(
        long,
        global = true,
        env = "MILLRACE_CLICKHOUSE_URL",
        default_value = "http://127.0.0.1:8123",
        hide_env_values = true
    )]
    pub clickhouse_url: String,

    /// ClickHouse database; it is made when it does not exist.
    #[arg(long, global = true, env = "MILLRACE_CLICKHOUSE_DATABASE", default_value = "millrace")]
    pub clickhouse_database: String,

    /// ClickHouse user.
    #[arg(long, global = true, env = "MILLRACE_CLICKHOUSE_USER")]
    pub clickhouse_user: Option<String>,

    /// ClickHouse password.
    #[arg(long, global = true, env = "MILLRACE_CLICKHOUSE_PASSWORD", hide_env_values = true)]
    pub clickhouse_password: Option<String>,

    /// ClickHouse cluster for replicated and distributed tables; without it, tables of one server.
    #[arg(long, global = true, env = "MILLRACE_CLICKHOUSE_CLUSTER")]
    pub clickhouse_cluster: Option<String>,

    /// Compression of blocks on the network.
    #[arg(long, global = true, env = "MILLRACE_CLICKHOUSE_COMPRESSION", value_enum, default_value_t = NetworkCompression::Auto)]
    pub clickhouse_compression: NetworkCompression,

    /// Days a row is kept after its receipt (used when the tables are made).
    #[arg(long, env = "MILLRACE_RETENTION_DAYS", default_value_t = 730)]
    pub retention_days: u32,

    /// Rows that close a batch; at most 500,000, so that it stays one block of the server's.
    #[arg(long, env = "MILLRACE_BATCH_ROWS", default_value_t = 100_000)]
    pub batch_rows: u32,

    /// Bytes of memory that close a batch; never more than a quarter of the memory bound.
    #[arg(long, env = "MILLRACE_BATCH_BYTES", default_value_t = 64 << 20)]
    pub batch_bytes: usize,

    /// Age that closes a batch, in milliseconds.
    #[arg(long, env = "MILLRACE_BATCH_AGE_MS", default_value_t = 1_000)]
    pub batch_age_ms: u64,

    /// Bytes of events held in memory over all partitions; reading pauses above it.
    #[arg(long, env = "MILLRACE_MEMORY_BYTES", default_value_t = 256 << 20)]
    pub memory_bytes: usize,

    /// Inserts that run at the same time.
    #[arg(long, env = "MILLRACE_INSERTS_MAX", default_value_t = 2)]
    pub inserts_max: usize,

    /// How long a connection to ClickHouse may take, in milliseconds.
    #[arg(long, global = true, env = "MILLRACE_CONNECT_TIMEOUT_MS", default_value_t = 3_000)]
    pub connect_timeout_ms: u64,

    /// How long ClickHouse may take none of an insert's bytes, in milliseconds; below its own receive timeout (30 s).
    #[arg(long, global = true, env = "MILLRACE_SEND_TIMEOUT_MS", default_value_t = 20_000)]
    pub send_timeout_ms: u64,

    /// How long one insert may take in all, in milliseconds.
    #[arg(long, global = true, env = "MILLRACE_INSERT_TIMEOUT_MS", default_value_t = 120_000)]
    pub insert_timeout_ms: u64,

    /// First pause after a failed insert, in milliseconds; it doubles each time, with full jitter.
    #[arg(long, env = "MILLRACE_RETRY_FIRST_MS", default_value_t = 200)]
    pub retry_first_ms: u64,

    /// Longest pause between two attempts of an insert, in milliseconds.
    #[arg(long, env = "MILLRACE_RETRY_MAX_MS", default_value_t = 15_000)]
    pub retry_max_ms: u64,

    /// Attempts of an insert that fails with an error nobody here knows, before the batch is searched for the row
    /// at fault. Errors known to pass (network, memory, too many parts, …) are retried without end.
    #[arg(long, env = "MILLRACE_UNKNOWN_ERROR_ATTEMPTS", default_value_t = 5)]
    pub unknown_error_attempts: u32,

    /// How long a stop (SIGTERM, SIGINT) may take to store what was read, in milliseconds, before up to 5 s to close the
    /// log's client; the rest is left to the next start. A second signal ends the process at once, with exit code 130.
    #[arg(long, env = "MILLRACE_DRAIN_TIMEOUT_MS", default_value_t = 10_000)]
    pub drain_timeout_ms: u64,

    /// Address of `/metrics`, `/healthz` and `/readyz` (used by the binary; an embedding process has its own).
    #[arg(long, env = "MILLRACE_METRICS_ADDRESS", default_value = "127.0.0.1:9102")]
    pub metrics_address: SocketAddr,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub hosts: HostConfig,
}

/// Settings may hold passwords; nothing of them is shown.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    field: &'static str,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// Above this a batch might be split by the server (`max_insert_block_size`), and one token would cover two blocks.
const BATCH_ROWS_MAX: u32 = 500_000;
/// Below this, one message of the largest size would not fit beside a batch.
const MEMORY_BYTES_MIN: usize = 8 << 20;

impl Default for Config {
    /// The documented defaults, whatever the environment says: for processes that run the service inside them.
    fn default() -> Self {
        Self {
            log: Log::Kafka,
            kafka_brokers: "127.0.0.1:9092".into(),
            kafka_group: "millrace-consumer".into(),
            kafka_settings: Vec::new(),
            kafka_session_timeout_ms: 30_000,
            spool_dir: ".millrace/spool".into(),
            spool_poll_ms: 20,
            clickhouse_url: "http://127.0.0.1:8123".into(),
            clickhouse_database: "millrace".into(),
            clickhouse_user: None,
            clickhouse_password: None,
            clickhouse_cluster: None,
            clickhouse_compression: NetworkCompression::Auto,
            retention_days: 730,
            batch_rows: 100_000,
            batch_bytes: 64 << 20,
            batch_age_ms: 1_000,
            memory_bytes: 256 << 20,
            inserts_max: 2,
            connect_timeout_ms: 3_000,
            send_timeout_ms: 20_000,
            insert_timeout_ms: 120_000,
            retry_first_ms: 200,
            retry_max_ms: 15_000,
            unknown_error_attempts: 5,
            drain_timeout_ms: 10_000,
            metrics_address: SocketAddr::from(([127, 0, 0, 1], 9102)),
            hosts: HostConfig::default(),
        }
    }
}

impl Config {
    /// Refuses values that cannot work, by the field's name.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("batch-rows", u64::from(self.batch_rows)),
            ("batch-bytes", self.batch_bytes as u64),
            ("batch-age-ms", self.batch_age_ms),
            ("inserts-max", self.inserts_max as u64),
            ("connect-timeout-ms", self.connect_timeout_ms),
            ("send-timeout-ms", self.send_timeout_ms),
            ("insert-timeout-ms", self.insert_timeout_ms),
            ("retry-first-ms", self.retry_first_ms),
            ("retry-max-ms", self.retry_max_ms),
            ("unknown-error-attempts", u64::from(self.unknown_error_attempts)),
            ("spool-poll-ms", self.spool_poll_ms),
            ("retention-days", u64::from(self.retention_days)),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::new(field, "must not be 0"));
        }
        if self.batch_rows > BATCH_ROWS_MAX {
            return Err(ConfigError::new("batch-rows", format!("at most {BATCH_ROWS_MAX}")));
        }
        if self.memory_bytes < MEMORY_BYTES_MIN {
            return Err(ConfigError::new("memory-bytes", format!("at least {MEMORY_BYTES_MIN}")));
        }
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !plain(&self.clickhouse_database) {
            return Err(ConfigError::new("clickhouse-database", "letters, digits and _ only"));
        }
        if self.clickhouse_cluster.as_deref().is_some_and(|cluster| cluster.contains(['\'', '\\'])) {
            return Err(ConfigError::new("clickhouse-cluster", "must not contain quotes"));
        }
        self.kafka_setting_pairs().map(|_| ())
    }

    /// Bytes that close a batch: four batches (two open, two on their way) fit into memory.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.batch_bytes.min(self.memory_bytes / 4)
    }

    pub(crate) fn kafka_setting_pairs(&self) -> Result<Vec<(&str, &str)>, ConfigError> {
        self.kafka_settings
            .iter()
            .filter(|setting| !setting.is_empty())
            .map(|setting| {
                // Not repeated: it may be a password that is written in another form.
                setting
                    .split_once('=')
                    .ok_or_else(|| ConfigError::new("kafka-settings", "one of them is not name=value"))
            })
            .collect()
    }

    pub(crate) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use millrace_service::setting::secrets_in_help;

    use super::*;

    #[test]
    fn flags_and_default_agree() {
        Config::command().debug_assert();
        // The process' environment may hold settings; only a clean one can be compared.
        if std::env::vars().all(|(name, _)| !name.starts_with("MILLRACE_")) {
            let parsed = Config::parse_from(["millrace-consumer"]);
            assert!(parsed == Config::default());
        }
        Config::default().check().unwrap();
    }

    #[test]
    fn no_secret_is_shown() {
        assert_eq!(secrets_in_help(&Config::command()), Vec::<String>::new());
        let canary = "sasl.password:canary".to_owned();
        let bad = Config { kafka_settings: vec![canary], ..Config::default() };
        let said = format!("{bad:?} {}", bad.check().unwrap_err());
        assert!(said.contains("kafka-settings") && !said.contains("canary"), "{said}");
    }

    #[test]
    fn bad_values_are_named() {
        let bad = Config { batch_rows: 2_000_000, ..Config::default() };
        assert_eq!(bad.check().unwrap_err().to_string(), "batch-rows: at most 500000");
        let bad = Config { kafka_settings: vec!["nonsense".into()], ..Config::default() };
        assert!(bad.check().unwrap_err().to_string().starts_with("kafka-settings"));
    }
}
