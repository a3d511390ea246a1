//! Queries to ClickHouse: texts from `sql/`, parameters by name, memory and time bounded.

use std::time::{Duration, Instant};

use ::clickhouse::{Client, RowOwned, RowRead, RowWrite, query::Query};

use crate::{
    config::Config,
    error::{Error, Result},
};

/// ClickHouse's codes for a table and a database that do not exist.
const UNKNOWN: [&str; 2] = ["Code: 60.", "Code: 81."];

/// How much later than ClickHouse we give up a query: it is the one to say so, while it can.
const GRACE: Duration = Duration::from_secs(5);

/// Shortest and longest pause before a query for which others left no memory is sent again.
const MEMORY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Longest text of a query, as `millrace-clickhouse` takes it.
const QUERY_BYTES_MAX: usize = 1 << 20;

/// The store of events. Only [`crate::privacy`] changes anything in it.
#[derive(Clone)]
pub struct Warehouse {
    client: Client,
    timeout: Duration,
}

impl std::fmt::Debug for Warehouse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warehouse").finish_non_exhaustive()
    }
}

impl Warehouse {
    /// A client; connects when first asked.
    pub fn new(config: &Config) -> Self {
        let memory = config.query_memory_bytes;
        let client = Client::default()
            .with_url(&config.clickhouse_url)
            .with_database(&config.clickhouse_database)
            .with_user(&config.clickhouse_user)
            .with_password(&config.clickhouse_password)
            .with_setting("max_memory_usage", memory.to_string())
            .with_setting("max_bytes_before_external_group_by", (memory / 2).to_string())
            .with_setting("max_bytes_before_external_sort", (memory / 2).to_string())
            .with_setting("max_threads", config.query_threads.to_string())
            .with_setting("max_execution_time", config.query_timeout_seconds.to_string())
            // With FINAL an index may only leave out what no other copy of the row contradicts.
            .with_setting("use_skip_indexes_if_final", "1")
            .with_setting("use_skip_indexes_if_final_exact_mode", "1")
            .with_setting("optimize_move_to_prewhere_if_final", "0")
            .with_setting("join_use_nulls", "0");
        Self { client, timeout: Duration::from_secs(config.query_timeout_seconds) + GRACE }
    }

    /// The same for work that may take so long, and whose answers may have so many rows: what we give up, ClickHouse
    /// gives up too, whether or not it sees that nobody listens any more.
    pub fn bounded(&self, time: Duration, rows_max: u64) -> Self {
        let timeout = time.min(self.timeout);
        let client = self
            .client
            .clone()
            .with_setting("max_execution_time", timeout.as_secs_f64().ceil().to_string())
            .with_setting("cancel_http_readonly_queries_on_client_close", "1")
            .with_setting("max_result_rows", rows_max.to_string())
            .with_setting("result_overflow_mode", "throw");
        Self { client, timeout: timeout + GRACE }
    }

    /// Longest that an answer is waited for.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A query of a text with `{name:Type}` parameters.
    pub fn query(&self, sql: &str) -> Query {
        self.client.query_raw(sql)
    }

    /// Runs a statement that changes rows, and waits until every replica has done it.
    pub async fn change(&self, sql: &str) -> Result<()> {
        let query = self
            .client
            .query_raw(sql)
            .with_setting("max_query_size", QUERY_BYTES_MAX.to_string())
            .with_setting("mutations_sync", "2")
            .with_setting("lightweight_deletes_sync", "2");
        self.within(async { Ok(query.execute().await?) }).await
    }

    /// A query whose text may be long.
    pub fn long_query(&self, sql: &str) -> Query {
        self.client.query_raw(sql).with_setting("max_query_size", QUERY_BYTES_MAX.to_string())
    }

    /// All rows of a query. Where ClickHouse's memory is taken by others it is asked again while there is time: that is no
    /// setback of whoever's query it was.
    pub async fn rows<T: RowOwned + RowRead>(&self, query: Query) -> Result<Vec<T>> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = MEMORY_PAUSE.0;
        loop {
            let answer = self.within(async { Ok(query.clone().fetch_all::<T>().await?) }).await;
            match answer {
                Err(error) if error.is_memory_of_all() && Instant::now() + pause < deadline => {
                    tracing::debug!(%error, ?pause, "ClickHouse's memory is taken; asking again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MEMORY_PAUSE.1);
                }
                answer => return answer,
            }
        }
    }

    /// Inserts rows, and waits until they are stored.
    pub async fn insert<T: RowOwned + RowWrite>(&self, table: &str, rows: &[T]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.within(async {
            let mut insert = self
                .client
                .insert::<T>(table)
                .await?
                .with_setting("async_insert", "0")
                .with_setting("optimize_on_insert", "0")
                .with_setting("distributed_foreground_insert", "1");
            for row in rows {
                insert.write(row).await?;
            }
            Ok(insert.end().await?)
        })
        .await
    }

    /// Waits for a query's answer, not for ever.
    pub async fn within<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.timeout, answer)
            .await
            .unwrap_or(Err(Error::ClickHouse(::clickhouse::error::Error::TimedOut)))
    }

    /// Whether ClickHouse answers.
    pub async fn ping(&self) -> Result<()> {
        let one = self.client.query_raw("SELECT toUInt8(1)").fetch_one::<u8>();
        match tokio::time::timeout(Duration::from_secs(5), one).await {
            Ok(answer) => Ok(answer.map(|_| ())?),
            Err(_) => Err(Error::ClickHouse(::clickhouse::error::Error::TimedOut)),
        }
    }
}

/// Whether the tables do not exist yet: the consumer makes them, and until then nothing has arrived.
pub fn is_unknown_table(error: &Error) -> bool {
    match error {
        Error::ClickHouse(::clickhouse::error::Error::BadResponse(text)) => {
            UNKNOWN.iter().any(|code| text.contains(code))
        }
        _ => false,
    }
}

/// The query texts. A text may hold another as `{{name}}`; `{{decimals}}` is the number of those of a row's currency.
pub mod text {
    macro_rules! texts {
        ($($name:ident),+ $(,)?) => {
            $(#[allow(missing_docs)] pub const $name: &str = stringify!($name);)+
            const ALL: &[(&str, &str)] = &[$((stringify!($name), include_str!(concat!("sql/", stringify!($name), ".sql")))),+];
        };
    }

    #[allow(non_upper_case_globals)]
    mod names {
        texts! {
            arrivals_lanes, arrivals_days, arrivals_orders, arrivals_showings, arrivals_sessions, arrivals_chains,
            arrivals_clicks, arrivals_copies, arrivals_counts, arrivals_click_copies, touched_rows, lane_rows,
            cohort_orders, cohorts, derived_starts, heatmap_bins, heatmap_clicks, heatmap_elements, known_users, orders,
            people, product_checkouts, product_times, products, reaching, refunds, session_reach, sessions,
            started_before, traffic, winners, funnel, event_span, store_quarters, touched_orders, order_reports,
            order_keys, refund_keys, order_count, order_names,
            foreign_refunds,
        }

        /// A text by its name.
        pub(super) fn find(name: &str) -> Option<&'static str> {
            if name == "decimals" {
                return Some(millrace_schemas::clickhouse::DECIMALS);
            }
            ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
        }
    }
    pub use names::*;

    /// A text with the texts it holds put in, and its comments left out.
    pub fn assemble(name: &str) -> String {
        assemble_of(name, names::find(lane_rows).unwrap_or_default())
    }

    /// The same, about other rows than those of lanes.
    pub fn assemble_of(name: &str, rows: &str) -> String {
        assemble_with(name, &[(lane_rows, rows)])
    }

    /// The same, with these texts under these names.
    pub fn assemble_with(name: &str, given: &[(&str, &str)]) -> String {
        if let Some((_, text)) = given.iter().find(|(known, _)| *known == name) {
            return (*text).to_owned();
        }
        let mut text = String::new();
        for line in names::find(name).unwrap_or_default().lines() {
            if !line.trim_start().starts_with("--") {
                text.push_str(line);
                text.push('\n');
            }
        }
        while let Some((before, rest)) = text.split_once("{{") {
            let Some((inner, after)) = rest.split_once("}}") else { break };
            text = format!("{before}\n{}{after}", assemble_with(inner, given));
        }
        text
    }
}
