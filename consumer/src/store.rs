//! ClickHouse: makes the tables, inserts blocks, and says which failures pass.
//!
//! Before rows are sent again, [`Store::holds`] looks for them: by partition and offsets, which an index of the tables
//! narrows down, and by receipt, which narrows down parts; then each row by its event's id, its offset and its line.
//!
//! An insert is one block, under one token (`insert_deduplication_token`) where sending it again must store nothing
//! twice, and it is acknowledged only when it is stored (`async_insert=0`). Every wait has an end: connecting, sending a
//! piece, the whole. Whether a failure passes is decided here, by ClickHouse's code.

use std::time::Duration;

use clickhouse::{Client, Compression};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use millrace_schemas::clickhouse::{Layout, SOURCE_COLUMNS, statements, upgrades};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    config::{Config, NetworkCompression},
    decode::Table,
    native::Block,
    partition::{Failure, TopicPartition},
    read_back::{KEY_BYTES, Sought},
};

/// The client, and how it is used.
pub struct Store {
    client: Client,
    layout: Layout,
    permits: Semaphore,
    send_timeout: Duration,
    insert_timeout: Duration,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network, disks, maintenance: it passes.
    Passing,
    /// Too many parts, queries, bytes under way: it passes the sooner, the less is asked.
    Overloaded,
    /// Tables, rights or settings are wrong: a person has to act, and no row is at fault.
    Setup,
    /// These rows will never be taken.
    Refused,
    /// Nobody here knows the code.
    Unknown,
}

/// A failed statement.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct StoreError {
    /// What it means.
    pub kind: Kind,
    /// ClickHouse's code, if it answered at all.
    pub code: Option<u32>,
    text: String,
}

/// Larger pieces are sent in parts, so that the send timeout measures progress and compression works on bounded buffers.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// An answer to `SELECT 1`, or to DDL on one server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// What is stored of a range; without an answer it is sent again, which is harmless, and must not wait for long.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are closed before ClickHouse does it (10 s; 3 s before 23.11).
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// ClickHouse's error texts can hold a whole row; a log line should not.
const ERROR_BYTES_MAX: usize = 600;

impl Store {
    /// A client for the configured address; nothing is connected yet.
    pub fn new(config: &Config) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_millis(config.connect_timeout_ms)));
        connector.set_keepalive(Some(Duration::from_secs(60)));
        connector.set_nodelay(true);
        let http =
            HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(POOL_IDLE_TIMEOUT).build(connector);
        let compression = match config.clickhouse_compression {
            NetworkCompression::Lz4 => Compression::Lz4,
            NetworkCompression::None => Compression::None,
            NetworkCompression::Auto if is_loopback(&config.clickhouse_url) => Compression::None,
            NetworkCompression::Auto => Compression::Lz4,
        };
        let mut client = Client::with_http_client(http)
            .with_url(&config.clickhouse_url)
            .with_compression(compression)
            .with_product_info("millrace-consumer", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &config.clickhouse_user {
            client = client.with_user(user);
        }
        if let Some(password) = &config.clickhouse_password {
            client = client.with_password(password);
        }
        Self {
            client,
            layout: Layout {
                database: config.clickhouse_database.clone(),
                cluster: config.clickhouse_cluster.clone(),
                retention_days: config.retention_days,
            },
            permits: Semaphore::new(config.inserts_max),
            send_timeout: Duration::from_millis(config.send_timeout_ms),
            insert_timeout: Duration::from_millis(config.insert_timeout_ms),
        }
    }

    /// The client, for statements of the replay's own.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Where the tables are.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes the database, tables and views that do not exist.
    pub async fn make_tables(&self) -> Result<(), StoreError> {
        for statement in statements(&self.layout) {
            self.query(&statement).await?;
        }
        for upgrade in upgrades(&self.layout) {
            if self.number(&upgrade.waiting).await? > 0 {
                tracing::info!("changing tables of an earlier release; their parts are rewritten meanwhile");
                for statement in upgrade.statements {
                    self.query(&statement).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether ClickHouse answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.query("SELECT 1 FORMAT Null").await
    }

    /// Inserts the block, unless the token is known; without one, under a token that nobody knows. Returns how long it took,
    /// without the wait for its turn.
    ///
    /// That a token is known proves nothing of its rows: on a single server it is written down before them.
    pub async fn insert(
        &self,
        table: Table,
        token: Option<&str>,
        block: &Block,
    ) -> Result<Duration, StoreError> {
        // The semaphore is never closed; were it, the insert would merely not wait.
        let _permit = self.permits.acquire().await;
        let started = std::time::Instant::now();
        let whole = tokio::time::timeout(self.insert_timeout, self.send(table, token, block)).await;
        match whole {
            Ok(Ok(())) => Ok(started.elapsed()),
            Ok(Err(error)) => {
                let error = StoreError::from(error);
                if error.kind == Kind::Setup {
                    // A table that somebody dropped comes back here; everything else waits for a person.
                    let _ = self.make_tables().await;
                }
                Err(error)
            }
            Err(_) => Err(StoreError::new(Kind::Passing, "the insert took longer than insert-timeout-ms")),
        }
    }

    /// Whether every one of these rows is stored. Rows that `ReplacingMergeTree` has merged into older copies of them are
    /// not.
    pub(crate) async fn holds(
        &self,
        table: Table,
        partition: TopicPartition,
        sought: Sought,
    ) -> Result<bool, StoreError> {
        let _permit = self.permits.acquire().await;
        match tokio::time::timeout(READ_BACK_TIMEOUT, self.seek(table, partition, sought)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(StoreError::new(Kind::Passing, "no answer within 10 s")),
        }
    }

    async fn seek(
        &self,
        table: Table,
        partition: TopicPartition,
        sought: Sought,
    ) -> clickhouse::error::Result<bool> {
        let sql = read_back_statement(&self.layout.database, table, partition, &sought);
        let mut found = self.client.query_raw(&sql).fetch_bytes("RowBinary")?;
        let Sought { mut keys, .. } = sought;
        let mut rest = Vec::new();
        while let Some(bytes) = found.next().await? {
            rest.extend_from_slice(&bytes);
            let (whole, cut) = rest.as_chunks::<KEY_BYTES>();
            for key in whole {
                keys.remove(key);
            }
            rest = cut.to_vec();
        }
        Ok(keys.is_empty())
    }

    async fn send(&self, table: Table, token: Option<&str>, block: &Block) -> clickhouse::error::Result<()> {
        let sql = insert_statement(&self.layout.database, table);
        // Not `insert_deduplicate=0`: since 26.2 that alone leaves blocks to be dropped by their content.
        let token = token.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        let mut insert = self
            .client
            .insert_formatted_with(sql)
            .with_timeouts(Some(self.send_timeout), Some(self.insert_timeout))
            .with_setting("async_insert", "0")
            .with_setting("optimize_on_insert", "0")
            .with_setting("insert_deduplicate", "1")
            .with_setting("insert_deduplication_token", token)
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1");
        if self.layout.cluster.is_some() {
            // Otherwise the acknowledgement would mean "queued on this server's disk".
            insert = insert.with_setting("distributed_foreground_insert", "1");
        }
        for piece in &block.pieces {
            let mut rest = piece.clone();
            while !rest.is_empty() {
                insert.send(rest.split_to(rest.len().min(PIECE_BYTES_MAX))).await?;
            }
        }
        insert.end().await
    }

    async fn number(&self, query: &str) -> Result<u64, StoreError> {
        let answer = self.client.query_raw(query).fetch_one::<u64>();
        match tokio::time::timeout(QUERY_TIMEOUT, answer).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(StoreError::new(Kind::Passing, "no answer within 30 s")),
        }
    }

    async fn query(&self, statement: &str) -> Result<(), StoreError> {
        match tokio::time::timeout(QUERY_TIMEOUT, self.client.query_raw(statement).execute()).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(StoreError::new(Kind::Passing, "no answer within 30 s")),
        }
    }
}

impl StoreError {
    /// Without an answer of ClickHouse's.
    pub(crate) fn new(kind: Kind, text: &str) -> Self {
        Self { kind, code: None, text: text.into() }
    }

    /// The code as a metric's label: whatever answers in ClickHouse's place makes no labels of its own.
    pub fn code_label(&self) -> String {
        match (self.code, self.kind) {
            (None, _) => "none".to_owned(),
            (Some(_), Kind::Unknown) => "other".to_owned(),
            (Some(code), _) => code.to_string(),
        }
    }

    /// What the partition has to know of it.
    pub fn failure(&self) -> Failure {
        match self.kind {
            Kind::Passing | Kind::Setup => Failure::Passing,
            Kind::Overloaded => Failure::Overloaded,
            Kind::Refused => Failure::Refused,
            Kind::Unknown => Failure::Unknown,
        }
    }
}

impl From<clickhouse::error::Error> for StoreError {
    fn from(error: clickhouse::error::Error) -> Self {
        use clickhouse::error::Error;
        let (kind, code) = match &error {
            Error::BadResponse(text) => {
                let code = code(text);
                // An answer without a code is not ClickHouse's verdict but a proxy's.
                (code.map_or(Kind::Passing, |code| kind(code, text)), code)
            }
            Error::InvalidParams(_) | Error::Unsupported(_) => (Kind::Setup, None),
            _ => (Kind::Passing, None),
        };
        Self { kind, code, text: shorten(&chain(&error)) }
    }
}

/// The error with its causes: "network error: client error (Connect): tcp connect error: …".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn shorten(text: &str) -> String {
    let text = text.trim();
    if text.len() <= ERROR_BYTES_MAX {
        return text.into();
    }
    let end = (0..=ERROR_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// The number in `Code: 60. DB::Exception: …`, or a number alone (an answer whose text could not be read).
fn code(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = match text.strip_prefix("Code:") {
        Some(rest) => rest.trim_start().split(|character: char| !character.is_ascii_digit()).next()?,
        None => text,
    };
    digits.parse().ok()
}

/// What ClickHouse's codes mean for an insert whose columns and settings are ours. A code that is in no list is tried a
/// few times and then taken for a row's fault, so the lists of what is no row's fault are long.
fn kind(code: u32, text: &str) -> Kind {
    match code {
        // TOO_MANY_PARTS is load, except that one block with rows of too many months has the same code.
        252 if text.contains("Too many partitions") => Kind::Refused,
        // Parts, queries, connections, quotas, bytes on their way to shards.
        159 | 160 | 201..=203 | 252 | 364 | 574 | 692 | 700 | 718 | 745 | 749 | 762 | 776 => Kind::Overloaded,
        // Files, disks, memory.
        23 | 24 | 74..=77 | 83 | 84 | 87 | 88 | 107 | 172 | 173 | 204 | 214 | 226 | 228 | 241 | 243 | 272..=275 | 384
        | 400 | 424 | 425 | 439 | 458 | 499 | 504 | 521 | 531 | 566 | 573 | 586 | 635 | 662 | 693 | 707
        | 737 | 771 | 777 | 778
        // Bytes that were spoilt on their way: they are sent whole and with checksums.
        | 40 | 95 | 96 | 99..=102 | 198 | 209 | 210 | 216 | 271 | 1000
        // Parts that another merge, fetch or mutation has under its hands; queries that somebody ended.
        | 230 | 232..=236 | 255 | 394 | 473 | 659 | 677 | 734 | 735 | 738 | 740
        // Keeper, replicas, shards, restarts.
        | 225 | 242 | 244 | 251 | 254 | 265 | 279 | 285 | 286 | 289 | 290 | 297 | 308 | 319 | 341 | 369 | 415
        | 416 | 519 | 529 | 568 | 571 | 593 | 695 | 696 | 710 | 722 | 733 | 763 | 900 | 901 | 903 | 904 | 999 | 1004 => {
            Kind::Passing
        }
        // Columns and their types, tables, databases, settings, clusters; users and rights; limits of a user.
        7 | 8 | 10 | 15 | 16 | 20 | 43 | 44 | 46..=48 | 50 | 53 | 60 | 62 | 73 | 81 | 115 | 158 | 164 | 170 | 180
        | 192..=195 | 199 | 218 | 231 | 291 | 307 | 344 | 396 | 452 | 471 | 472 | 478 | 479 | 481 | 495
        | 497 | 511 | 512 | 516 | 577 | 592 | 620 | 673 | 701 | 720 | 724 | 725 | 759 | 764 | 767 | 772 | 774 => {
            Kind::Setup
        }
        // Values that do not fit their columns, constraints.
        6 | 25..=27 | 38 | 41 | 69 | 70 | 72 | 117 | 128 | 131 | 190 | 248 | 321 | 349 | 366 | 376 | 407 | 467 | 469
        | 675 | 676 | 691 => Kind::Refused,
        _ => Kind::Unknown,
    }
}

fn insert_statement(database: &str, table: Table) -> String {
    let names: Vec<String> =
        table.columns().iter().chain(&SOURCE_COLUMNS).map(|column| format!("`{}`", column.name)).collect();
    format!("INSERT INTO {database}.{} ({}) FORMAT Native", table.name(), names.join(", "))
}

fn read_back_statement(database: &str, table: Table, partition: TopicPartition, sought: &Sought) -> String {
    let TopicPartition { topic, number } = partition;
    let ((first, first_row), (last, last_row)) = (sought.first, sought.last);
    let (from_ms, to_ms) = (sought.received_ms.start(), sought.received_ms.end());
    // Rows of another log may stand at these offsets as well; beyond that many there is nothing to be proved.
    let limit = sought.keys.len() * 2;
    format!(
        "SELECT DISTINCT event_id, _offset, _row FROM {database}.{} \
         WHERE _topic = '{topic}' AND _partition = {number} AND _offset BETWEEN {first} AND {last} \
         AND (_offset, _row) >= ({first}, {first_row}) AND (_offset, _row) <= ({last}, {last_row}) \
         AND received_at BETWEEN fromUnixTimestamp64Milli({from_ms}) AND fromUnixTimestamp64Milli({to_ms}) \
         LIMIT {limit}",
        table.name()
    )
}

fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["127.", "localhost", "[::1]"].iter().any(|prefix| host.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_and_judged() {
        assert_eq!(code("Code: 252. DB::Exception: Too many parts (300)"), Some(252));
        assert_eq!(code("241"), Some(241));
        assert_eq!(code("502 Bad Gateway"), None);
        assert_eq!(code("<html>"), None);
        assert_eq!(kind(252, "Too many parts (300). Merges are processing…"), Kind::Overloaded);
        assert_eq!(kind(252, "Too many partitions for single INSERT block (more than 100)"), Kind::Refused);
        assert_eq!(kind(469, ""), Kind::Refused);
        assert_eq!(kind(516, ""), Kind::Setup);
        assert_eq!(kind(202, ""), Kind::Overloaded);
        // A disk, a column that somebody altered: the rows are not at fault, and must not be dead-lettered for it.
        assert_eq!(kind(76, ""), Kind::Passing);
        assert_eq!(kind(53, ""), Kind::Setup);
        assert_eq!(kind(4242, ""), Kind::Unknown);
    }

    #[test]
    fn codes_that_nobody_knows_are_one_label() {
        let label = |text: &str| {
            StoreError::from(clickhouse::error::Error::BadResponse(text.to_owned())).code_label()
        };
        assert_eq!(label("Code: 252. DB::Exception: Too many parts (300)"), "252");
        assert_eq!(label("502 Bad Gateway"), "none");
        for code in 4_000..4_100 {
            assert_eq!(label(&format!("Code: {code}. DB::Exception: made up")), "other");
        }
    }

    #[test]
    fn loopback_addresses() {
        assert!(is_loopback("http://127.0.0.1:8123"));
        assert!(is_loopback("http://localhost:8123"));
        assert!(!is_loopback("http://clickhouse:8123"));
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        assert!(shorten(&"é".repeat(1000)).len() <= ERROR_BYTES_MAX + '…'.len_utf8());
    }
}
