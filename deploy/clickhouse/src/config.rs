//! Every setting of `millrace-clickhouse`.
//!
//! The defaults are for one small machine that also runs everything else of Millrace: small caches, few
//! merge threads, and a memory limit that makes a statement fail rather than the machine. Each is a flag, so
//! that a larger machine gets more by configuration.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use millrace_service::host::HostConfig;

/// ClickHouse's HTTP interface over the engine library, for one machine.
#[derive(Clone, Parser)]
#[command(name = "millrace-clickhouse", version, about, long_about = None)]
pub struct Config {
    /// Address of the HTTP interface. Port 0 takes a free one; the first line on standard output names it.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_LISTEN", default_value = "127.0.0.1:8123")]
    pub listen: SocketAddr,

    /// Directory of the tables. One process at a time; made when missing.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_DATA_DIR", default_value = ".millrace/clickhouse")]
    pub data_dir: PathBuf,

    /// The engine library.
    #[arg(long, env = "MILLRACE_CHDB_LIBRARY", default_value = ".tools/chdb/libchdb.so")]
    pub library: PathBuf,

    /// File with the password of the user `millrace`, who makes tables, inserts and removes. 16 bytes at least; readable by its
    /// owner alone. (There is no setting for the password itself: command lines and environments are shown by `ps`.)
    #[arg(long, env = "MILLRACE_CLICKHOUSE_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,

    /// File with the password of the user `reader`, who only reads. Without it there is no such user.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_READER_PASSWORD_FILE", requires = "password_file")]
    pub reader_password_file: Option<PathBuf>,

    /// Ask nobody for a password: whoever reaches the port, every program of this machine at least, may read and change
    /// every event.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_NO_PASSWORD", conflicts_with = "password_file")]
    pub no_password: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub hosts: HostConfig,

    /// Database that statements may use; made at the start. May be given several times; `*` for all there are.
    #[arg(long = "database", env = "MILLRACE_CLICKHOUSE_DATABASES", value_delimiter = ',', default_value = "millrace",
          value_parser = database_name)]
    pub databases: Vec<String>,

    /// Kind of source that statements may read and write beyond the tables, as `GRANT` names it (KAFKA, URL, S3, POSTGRES …); may
    /// be given several times. Whoever may send a statement reaches this machine's other ports through it.
    #[arg(long = "source", env = "MILLRACE_CLICKHOUSE_SOURCES", value_delimiter = ',', value_parser = source_name)]
    pub sources: Vec<String>,

    /// Statements that run at the same time.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_STATEMENTS_MAX", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub statements_max: u32,

    /// Further requests that may wait for a place or send their body; more are answered 503 with TOO_MANY_SIMULTANEOUS_QUERIES.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_QUEUE_MAX", default_value_t = 128,
          value_parser = clap::value_parser!(u16))]
    pub queue_max: u16,

    /// How long a statement waits for a place before it gets the same answer.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_QUEUE_TIMEOUT_MS", default_value_t = 30_000)]
    pub queue_timeout_ms: u64,

    /// How long a client may pause while it sends a body. A pause beyond it cancels the insert.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_RECEIVE_TIMEOUT_MS", default_value_t = 30_000)]
    pub receive_timeout_ms: u64,

    /// Longest statement text, without an insert's data.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_QUERY_BYTES_MAX", default_value_t = 1 << 20)]
    pub query_bytes_max: usize,

    /// Largest result in a format that can only be made whole (JSON, Parquet, Pretty…), uncompressed.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_WHOLE_RESULT_BYTES_MAX", default_value_t = 64 << 20)]
    pub whole_result_bytes_max: u64,

    /// How long running statements may go on after SIGTERM or SIGINT before they are killed.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_SHUTDOWN_GRACE_MS", default_value_t = 10_000)]
    pub shutdown_grace_ms: u64,

    /// Shut down when standard input ends, that is when the process holding its other end dies.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_EXIT_WITH_PARENT")]
    pub exit_with_parent: bool,

    /// Memory of statements, merges and caches together, as the engine counts it, above which statements fail
    /// (max_server_memory_usage). The process takes more: what the engine does not count or has not given back yet, and up to 220
    /// MiB of its library's pages, which the kernel drops when it needs them. Measured with 512 MiB, four writers of 64 kB events
    /// and a reader: 680 MiB of its own, 880 MiB in all, at most.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_MEMORY_BYTES_MAX", default_value_t = 768 << 20)]
    pub memory_bytes_max: u64,

    /// Memory of one statement above which it fails (max_memory_usage); 0 for no limit of its own.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_STATEMENT_MEMORY_BYTES_MAX", default_value_t = 0)]
    pub statement_memory_bytes_max: u64,

    /// Temporary files of statements that only read, all together: one of them fails beyond its part, this divided by
    /// --statements-max.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_READER_SPILL_BYTES_MAX", default_value_t = 4 << 30)]
    pub reader_spill_bytes_max: u64,

    /// Cache of marks, primary keys and secondary index marks, each (mark_cache_size and its kin).
    #[arg(long, env = "MILLRACE_CLICKHOUSE_MARK_CACHE_BYTES", default_value_t = 16 << 20)]
    pub mark_cache_bytes: u64,

    /// Cache of uncompressed blocks (uncompressed_cache_size).
    #[arg(long, env = "MILLRACE_CLICKHOUSE_UNCOMPRESSED_CACHE_BYTES", default_value_t = 0)]
    pub uncompressed_cache_bytes: u64,

    /// Threads of one statement (max_threads); 0 for one per core.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_THREADS", default_value_t = 0)]
    pub threads: u32,

    /// Threads of background merges and mutations (background_pool_size).
    #[arg(long, env = "MILLRACE_CLICKHOUSE_MERGE_THREADS", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub merge_threads: u32,

    /// Rows up to which one insert is one block, and so one part per partition and one deduplication unit.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_INSERT_BLOCK_ROWS", default_value_t = 1_048_449,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub insert_block_rows: u64,

    /// A further default of every statement, `name=value`; may be given several times.
    #[arg(long = "setting", env = "MILLRACE_CLICKHOUSE_SETTINGS", value_delimiter = ',', value_parser = name_value,
          hide_env_values = true)]
    pub settings: Vec<(String, String)>,

    /// A further server setting of the engine, `name=value`; may be given several times.
    #[arg(long = "server-setting", env = "MILLRACE_CLICKHOUSE_SERVER_SETTINGS", value_delimiter = ',',
          value_parser = name_value, hide_env_values = true)]
    pub server_settings: Vec<(String, String)>,
}

/// Settings may hold passwords; nothing of them is shown.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

impl Config {
    /// See [`Config::queue_timeout_ms`].
    pub fn queue_timeout(&self) -> Duration {
        Duration::from_millis(self.queue_timeout_ms)
    }

    /// See [`Config::receive_timeout_ms`].
    pub fn receive_timeout(&self) -> Duration {
        Duration::from_millis(self.receive_timeout_ms)
    }

    /// See [`Config::shutdown_grace_ms`].
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_millis(self.shutdown_grace_ms)
    }

    /// What one statement that only reads may put into temporary files. Never 0, which would be no limit.
    pub(super) fn spill_bytes_max(&self) -> u64 {
        (self.reader_spill_bytes_max / u64::from(self.statements_max.max(1))).max(1)
    }

    /// Options the engine reads once, when its first connection starts it.
    pub(super) fn server_options(&self) -> Vec<(String, String)> {
        let cache = self.mark_cache_bytes;
        let mut options: Vec<(&str, u64)> = vec![
            ("max_server_memory_usage", self.memory_bytes_max),
            ("mark_cache_size", cache),
            ("primary_index_cache_size", cache),
            ("index_mark_cache_size", cache),
            ("uncompressed_cache_size", self.uncompressed_cache_bytes),
            ("query_condition_cache_size", cache / 4),
            ("compiled_expression_cache_size", cache),
            ("background_pool_size", self.merge_threads.into()),
            // The rest are pools that only hold threads on a machine with tables by the thousand.
            ("background_schedule_pool_size", 2),
            ("background_move_pool_size", 1),
            ("background_fetches_pool_size", 1),
            ("background_common_pool_size", 1),
            ("max_thread_pool_free_size", 16),
            ("max_io_thread_pool_size", 8),
            ("max_active_parts_loading_thread_pool_size", 2),
            ("max_outdated_parts_loading_thread_pool_size", 2),
            ("max_parts_cleaning_thread_pool_size", 2),
        ];
        if self.merge_threads == 1 {
            // The pool must hold as many tasks as merges may leave free for mutations.
            options.push(("background_merges_mutations_concurrency_ratio", 2));
        }
        let mut options: Vec<(String, String)> =
            options.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
        options.extend(self.server_settings.iter().cloned());
        options
    }

    /// Settings every statement starts with.
    pub(super) fn statement_settings(&self) -> Vec<(String, String)> {
        let mut settings: Vec<(&str, u64)> = vec![
            // An insert is answered when it is stored, under its own deduplication token.
            ("async_insert", 0),
            // One insert, one block: only rows count, or wide rows would be cut by their bytes.
            ("max_insert_block_size", self.insert_block_rows),
            ("min_insert_block_size_rows", self.insert_block_rows),
            ("min_insert_block_size_bytes", 0),
            ("max_memory_usage", self.statement_memory_bytes_max),
        ];
        if self.threads > 0 {
            settings.push(("max_threads", self.threads.into()));
        }
        let mut settings: Vec<(String, String)> =
            settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
        settings.extend(self.settings.iter().cloned());
        settings
    }
}

fn database_name(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if text == "*" || is_plain {
        Ok(text.to_owned())
    } else {
        Err("letters, digits and _ only, or *".to_owned())
    }
}

fn source_name(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ');
    if is_plain { Ok(text.to_owned()) } else { Err("letters, digits and blanks only".to_owned()) }
}

fn name_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if is_setting_name(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not name=value".to_owned()),
    }
}

/// Whether a text can be a setting's name, so that it may stand unquoted in a statement.
pub(super) fn is_setting_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Config::command().debug_assert();
        assert_eq!(millrace_service::setting::secrets_in_help(&Config::command()), Vec::<String>::new());
    }

    #[test]
    fn settings_are_name_and_value() {
        let config = Config::try_parse_from(["x", "--setting", "max_threads=3", "--setting", "a=b=c"]);
        let settings = config.expect("parses").settings;
        assert_eq!(settings, [("max_threads", "3"), ("a", "b=c")].map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert!(Config::try_parse_from(["x", "--setting", "x y=1"]).is_err());
    }
}
