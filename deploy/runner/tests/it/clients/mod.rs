//! Other products' published clients, against a running Millrace: their documented quick starts with nothing changed but
//! addresses, and what became of them in ClickHouse and Postgres.

mod ga4;
mod plausible;
mod posthog;
mod rates;
mod rudderstack;
mod segment;
mod snowplow;
mod umami;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use millrace_testbed::Port;
use serde_json::Value;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::process::Command;

use crate::pipeline::{OneMachine, start};

/// A browser starts in a second, on a busy machine in ten.
const CLIENT_PATIENCE: Duration = Duration::from_secs(180);
const ROLLUP_PATIENCE: Duration = Duration::from_secs(120);

/// Keys of the store that `millrace run` makes.
const WRITE_KEY: &str = "demo-write-key";
const SECRET_KEY: &str = "demo-secret-key";

/// Runs a script of a product's folder with these arguments. It prints what its client said, as JSON on its last line.
async fn node(product: &str, script: &str, arguments: &[&str]) -> Value {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "clients", product].iter().collect();
    assert!(
        folder.join("node_modules").exists(),
        "run deploy/install/deps.sh test: {product}'s clients are missing"
    );
    let mut command = Command::new("node");
    command.arg(script).args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(CLIENT_PATIENCE, command.output()).await.expect("the client ends").unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{product}/{script}: {said}{complained}");
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}{complained}"))
}

/// What was stored and rolled up.
struct Stores {
    clickhouse: String,
    postgres: PgPool,
}

impl Stores {
    async fn of(machine: &OneMachine) -> Self {
        let clickhouse = machine.clickhouse_url();
        Self { clickhouse, postgres: machine.target().await.postgres }
    }

    /// Rows of the events of these visitors and users, in the order of their times, as they stand in the table; waits for
    /// so many.
    async fn events(&self, count: usize, whose: &str) -> Vec<Value> {
        let begin = Instant::now();
        loop {
            let rows = self.select(whose).await;
            if rows.len() >= count {
                assert_eq!(rows.len(), count, "{rows:#?}");
                return rows;
            }
            assert!(begin.elapsed() < ROLLUP_PATIENCE, "{count} events of {whose}, so far {rows:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reports of the pages that a user was shown; waits until one says how far it was scrolled.
    async fn page_views(&self, user: &str) -> Vec<Value> {
        let whose = format!("user_id = '{user}' AND type = 'page_view'");
        let begin = Instant::now();
        loop {
            let rows = self.select(&whose).await;
            if rows.iter().any(|row| row["scroll_depth"] != 0) {
                return rows;
            }
            assert!(begin.elapsed() < ROLLUP_PATIENCE, "{rows:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn select(&self, whose: &str) -> Vec<Value> {
        let sql = format!(
            "SELECT * FROM millrace.events FINAL WHERE {whose} ORDER BY event_time, name FORMAT JSONEachRow \
             SETTINGS output_format_json_quote_64bit_integers = 0"
        );
        let answer = reqwest::Client::new().post(&self.clickhouse).body(sql).send().await.unwrap();
        let said = answer.text().await.unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{said}"))).collect()
    }

    /// Waits until the revenue of all days says this: orders, gross, refunds, in cents.
    async fn revenue(&self, wanted: (i64, i64, i64)) {
        let sql = "SELECT coalesce(sum(orders_count), 0)::bigint, coalesce(sum(gross_revenue_cents), 0)::bigint, \
                   coalesce(sum(refunds_amount_cents), 0)::bigint FROM revenue_analytics WHERE store_id = 'demo'";
        let begin = Instant::now();
        loop {
            let found: (i64, i64, i64) = sqlx::query_as(sql).fetch_one(&self.postgres).await.unwrap();
            if found == wanted {
                return;
            }
            assert!(begin.elapsed() < ROLLUP_PATIENCE, "revenue is {found:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The one row of this name.
fn named<'r>(rows: &'r [Value], name: &str) -> &'r Value {
    let found: Vec<_> = rows.iter().filter(|row| row["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name}: {rows:#?}");
    found[0]
}

/// Whether a row has at least these fields.
#[track_caller]
fn assert_has(row: &Value, wanted: &Value) {
    for (field, value) in wanted.as_object().unwrap() {
        let is_same = match (row[field].as_f64(), value.as_f64()) {
            (Some(found), Some(wanted)) => found == wanted,
            _ => &row[field] == value,
        };
        assert!(is_same, "{field} is {}, not {value}: {row:#}", row[field]);
    }
}

/// A collector that knows no store, because Postgres is away: it answers 503 until it does.
pub(crate) async fn starting_collector(dir: &Path) -> (millrace_local::process::Process, Port) {
    let (port, metrics) = (Port::reserve().unwrap(), Port::reserve().unwrap());
    let arguments = [
        "--log=spool".into(),
        format!("--spool-dir={}", dir.join("spool").display()),
        // Nothing listens there.
        "--postgres-url=postgres://millrace@127.0.0.1:1/millrace".into(),
        format!("--address=127.0.0.1:{}", port.number()),
        format!("--metrics-address=127.0.0.1:{}", metrics.number()),
    ];
    let process = start("millrace-collector", &arguments, dir);
    let (url, begin) = (format!("http://127.0.0.1:{}/healthz", port.number()), Instant::now());
    while !reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
        assert!(begin.elapsed() < CLIENT_PATIENCE, "the collector does not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (process, port)
}

#[tokio::test]
async fn segment_rudderstack_and_snowplow_clients_are_understood() {
    let machine = OneMachine::new();
    let _running = machine.start().await;
    let stores = Stores::of(&machine).await;
    let host = format!("127.0.0.1:{}", machine.ports[0].number());
    segment::from_servers(&host, &stores).await;
    segment::from_browsers(&host, &stores).await;
    rudderstack::from_browsers(&host, &stores).await;
    snowplow::from_servers(&host, &stores).await;
    snowplow::from_browsers(&host, &stores).await;
    // Segment's order of 52.50 and its refunds of 12.50 and 15.00, its order of 25.00, RudderStack's of 25.00 and of 40.00,
    // Snowplow's of 20.00 and of 46.00 with a refund of 15.00.
    stores.revenue((6, 20_850, 4_250)).await;
}

#[tokio::test]
async fn segment_and_snowplow_clients_send_again_what_is_not_stored() {
    let dir = TempDir::new().unwrap();
    let (_running, port) = starting_collector(dir.path()).await;
    let host = format!("127.0.0.1:{}", port.number());
    segment::unavailable(&host).await;
    snowplow::unavailable(&host).await;
}

#[tokio::test]
async fn posthog_and_ga4_clients_are_understood() {
    let machine = OneMachine::new();
    let _running = machine.start().await;
    let stores = Stores::of(&machine).await;
    let host = format!("127.0.0.1:{}", machine.ports[0].number());
    posthog::from_servers(&host, &stores).await;
    posthog::from_browsers(&host, &stores).await;
    ga4::from_servers(&host, &stores).await;
    ga4::from_browsers(&host, &stores).await;
    // An order of 46.00 and a refund of 15.00 from each product's servers, and PostHog's order of 25.00 from a page.
    stores.revenue((3, 11_700, 3_000)).await;
}

#[tokio::test]
async fn posthog_and_ga4_clients_send_again_what_is_not_stored() {
    let dir = TempDir::new().unwrap();
    let (_running, port) = starting_collector(dir.path()).await;
    let host = format!("127.0.0.1:{}", port.number());
    posthog::unavailable(&host).await;
    ga4::unavailable(&host).await;
}
