//! One engine and one Postgres for each test, and the rows to put into them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use millrace_aggregator::{
    Config, arrival::Discovery, backfill, clickhouse::Warehouse, ensure_demo_store, postgres, worker,
};
use millrace_schemas::{
    clickhouse::{Layout, statements},
    row::{ClickRow, EventRow, Row},
    time::{date_of, parse_instant},
};
use millrace_testbed::{Engine, Postgres};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use uuid::Uuid;

/// The operator's token.
pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-a-test-0123456789abcdef";

/// A place in which rollups are tested.
pub(crate) struct Bed {
    pub(crate) engine: Engine,
    pub(crate) postgres: Postgres,
    pub(crate) config: Config,
    pub(crate) pool: PgPool,
    pub(crate) warehouse: Warehouse,
    /// For logs of processes.
    pub(crate) dir: tempfile::TempDir,
    offset: AtomicU64,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        // Whatever went wrong behind a failing test is printed with it.
        drop(
            tracing_subscriber::fmt()
                .with_env_filter("millrace_aggregator=warn")
                .with_writer(tracing_subscriber::fmt::TestWriter::new)
                .try_init(),
        );
        let (engine, postgres) = tokio::join!(Engine::start(), Postgres::start());
        let (engine, database) = (engine.unwrap(), postgres.unwrap());
        let config = Config {
            postgres_url: database.url().to_owned(),
            clickhouse_url: engine.url(),
            admin_token: Some(ADMIN_TOKEN.into()),
            interval_ms: 50,
            // However slow the machine is: who exceeds it waits.
            store_budget_ms: 120_000,
            ..Config::default()
        };
        let pool = postgres::pool(&config).unwrap();
        postgres::migrate(&pool).await.unwrap();
        let bed = Self {
            warehouse: Warehouse::new(&config),
            engine,
            postgres: database,
            config,
            pool,
            dir: tempfile::tempdir().unwrap(),
            offset: AtomicU64::new(0),
        };
        for statement in statements(&Layout::default()) {
            bed.clickhouse("", &statement).await;
        }
        bed
    }

    pub(crate) async fn with_store(store: &str, timezone: &str, currency: &str) -> Self {
        let bed = Self::start().await;
        bed.add_store(store, timezone, currency).await;
        bed
    }

    pub(crate) async fn add_store(&self, store: &str, timezone: &str, currency: &str) {
        sqlx::query("INSERT INTO stores (id, name, timezone, currency) VALUES ($1, $1, $2, $3)")
            .bind(store)
            .bind(timezone)
            .bind(currency)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    pub(crate) async fn demo(&self) {
        ensure_demo_store(&self.pool, &[]).await.unwrap();
        ensure_demo_store(&self.pool, &[]).await.unwrap();
    }

    pub(crate) async fn clickhouse(&self, query: &str, body: &str) -> String {
        let mut url = format!("{}/", self.engine.url());
        if !query.is_empty() {
            let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
            url.push_str(&format!("?query={encoded}"));
        }
        let answer = reqwest::Client::new().post(url).body(body.to_owned()).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{text}");
        text
    }

    /// Inserts rows as the consumer does: one message each, in one lane, as one batch.
    pub(crate) async fn insert<R: Row>(&self, rows: &[R]) {
        let first = self.offset.fetch_add(rows.len() as u64, Ordering::Relaxed);
        let placed: Vec<(u64, &R)> = (first..).zip(rows).collect();
        self.insert_part(0, first, &placed).await;
    }

    /// Inserts rows of a batch of a lane, with their offsets.
    pub(crate) async fn insert_part<R: Row>(&self, partition: u32, batch: u64, rows: &[(u64, &R)]) {
        let topic = if R::TABLE == "clicks" { "millrace.clicks" } else { "millrace.events" };
        let mut body = Vec::new();
        for (offset, row) in rows {
            row.write_json(&mut body);
            body.pop();
            let source = format!(
                ",\"_topic\":\"{topic}\",\"_partition\":{partition},\"_offset\":{offset},\"_row\":0,\"_batch\":{batch}}}\n"
            );
            body.extend_from_slice(source.as_bytes());
        }
        let insert = format!("INSERT INTO millrace.{} FORMAT JSONEachRow", R::TABLE);
        self.clickhouse(&insert, std::str::from_utf8(&body).unwrap()).await;
    }

    /// Looks once, and rolls up what waits, once.
    pub(crate) async fn cycle(&self) -> millrace_aggregator::Result<usize> {
        let limits = self.config.limits();
        worker::cycle(&self.warehouse, &self.pool, &limits, &mut Discovery::default()).await
    }

    /// Rolls up until nothing waits.
    pub(crate) async fn roll(&self) {
        for _ in 0..20 {
            let days = self.cycle().await.unwrap();
            let waiting: i64 =
                sqlx::query_scalar("SELECT count(*) FROM touched_days").fetch_one(&self.pool).await.unwrap();
            if days == 0 && waiting == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("days keep waiting");
    }

    /// The result of a query, each row a JSON object.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Value> {
        sqlx::query(AssertSqlSafe(format!("SELECT to_jsonb(answer) FROM ({sql}) AS answer")))
            .fetch_all(&self.pool)
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    /// Every rollup, without the times at which rows were written.
    pub(crate) async fn everything(&self) -> Vec<(String, Vec<Value>)> {
        let mut all = Vec::new();
        for table in [
            "analytics_summary",
            "product_analytics",
            "revenue_analytics",
            "funnel_analytics",
            "cohort_analytics",
            "heatmap_data",
            "heatmap_elements",
            "summary_days",
        ] {
            let rows = self
                .rows(&format!(
                    "SELECT rest FROM (SELECT to_jsonb(t) - 'created_at' - 'updated_at' AS rest FROM {table} AS t) AS x
                     ORDER BY rest::text"
                ))
                .await;
            all.push((table.to_owned(), rows));
        }
        all
    }

    /// Forgets every rollup and every watermark.
    pub(crate) async fn forget(&self) {
        backfill::forget(&self.pool).await.unwrap();
    }
}

/// Waits for a condition, longer than any machine should need.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(240);
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An instant from `2026-11-01 05:30:00` in UTC.
pub(crate) fn at(text: &str) -> i64 {
    parse_instant(&format!("{text}.000")).unwrap_or_else(|| panic!("{text}"))
}

/// An id that says which event it is.
pub(crate) fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A named event.
pub(crate) fn event<'a>(
    number: u128,
    name: &'a str,
    time: &str,
    visitor: &'a str,
    session: &'a str,
) -> EventRow<'a> {
    let ms = at(time);
    EventRow {
        store_id: "s",
        event_id: id(number),
        r#type: if name == "page_view" { "page_view" } else { "event" },
        name,
        event_time: ms,
        client_time: Some(ms),
        received_at: ms + 1000,
        time_source: "client",
        key_date: date_of(ms),
        visitor_id: visitor,
        visitor_hash: visitor.bytes().map(u64::from).sum(),
        session_id: session,
        ..EventRow::default()
    }
}

/// A click.
pub(crate) fn click<'a>(number: u128, ms: i64, visitor: &'a str, x: u32, y: u32) -> ClickRow<'a> {
    ClickRow {
        store_id: "s",
        event_id: id(number),
        event_time: ms,
        received_at: ms + 1000,
        key_date: date_of(ms),
        visitor_id: visitor,
        url: "https://shop.example/a?b=1#c",
        x,
        y,
        page_width: 1000,
        page_height: 5000,
        viewport_width: 1280,
        ..ClickRow::default()
    }
}
