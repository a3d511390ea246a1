//! The snippet in a real browser, on the pages of a shop with a strict Content-Security-Policy: what was done there against
//! the rows and rollups that came of it. `tests/browser` drives the pages and keeps the ledger.

mod attacks;
mod faults;
mod features;
mod rollups;
mod visits;

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use millrace_demo::Target;
use millrace_local::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use self::{faults::check_faults, features::check_features, rollups::check_rollups};
use crate::{clients::starting_collector, pipeline::OneMachine};

pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
const BROWSER_PATIENCE: Duration = Duration::from_secs(900);

/// Runs a script with node; what it printed.
async fn node(folder: &str, arguments: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    assert!(
        folder.join("node_modules").exists(),
        "run deploy/install/deps.sh test: {folder:?} lacks its packages"
    );
    let mut command = Command::new("node");
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(BROWSER_PATIENCE, command.output()).await.expect("the script ends").unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The last line of what a script prints, which is JSON.
pub(crate) async fn ledger_of(arguments: &[&str]) -> Value {
    let said = node("tests/browser", arguments).await;
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap()
}

/// What the script says was done; nothing went wrong in any page.
async fn ledger(arguments: &[&str]) -> Value {
    let ledger = ledger_of(arguments).await;
    assert_eq!(ledger["wrong"], json!([]), "errors in pages");
    ledger
}

/// What is in ClickHouse of one run of the script.
struct Stored<'m> {
    machine: &'m OneMachine,
}

impl Stored<'_> {
    async fn rows(&self, table: &str, run: &str) -> Vec<Value> {
        let sql = format!(
            "SELECT * FROM millrace.{table} FINAL WHERE url LIKE 'http://127.0.0.1:%/{run}/%' \
             ORDER BY sequence, event_time, event_id FORMAT JSONEachRow \
             SETTINGS output_format_json_quote_64bit_integers = 0"
        );
        let clickhouse = self.machine.clickhouse_url();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let said = client.post(clickhouse).body(sql).send().await.unwrap().text().await.unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{said}"))).collect()
    }

    /// Rows, as soon as there are as many as `enough` says.
    async fn until(&self, table: &str, run: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let begin = Instant::now();
        loop {
            let rows = self.rows(table, run).await;
            if enough(&rows) || begin.elapsed() > PATIENCE {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn text<'v>(row: &'v Value, field: &str) -> &'v str {
    row[field].as_str().unwrap_or_default()
}

fn list(of: &Value) -> Vec<&str> {
    of.as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect()
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

fn is_report(row: &Value) -> bool {
    row["duration_ms"] != 0 || row["scroll_depth"] != 0
}

/// What happened: neither reports of left pages nor what the page measured itself.
fn happened(rows: &[Value]) -> Vec<&Value> {
    rows.iter().filter(|row| !is_report(row) && text(row, "name") != "web_vitals").collect()
}

fn named<'r>(rows: &'r [Value], name: &str) -> &'r Value {
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {rows:#?}"))
}

#[track_caller]
fn assert_has(row: &Value, wanted: &Value) {
    for (field, value) in wanted.as_object().unwrap() {
        if value.is_object() {
            assert_has(&row[field], value);
        } else {
            assert_eq!(&row[field], value, "{field} of {row:#}");
        }
    }
}

/// A store that takes an event a second: its write key.
async fn narrow_store(target: &Target) -> String {
    let store = json!({"name": "Narrow", "timezone": "UTC", "currency": "USD", "events_per_second": 1});
    let created = reqwest::Client::new()
        .post(format!("{}/api/v1/stores", target.api))
        .bearer_auth(&target.admin_token)
        .json(&store)
        .send()
        .await
        .unwrap();
    let created: Value = created.error_for_status().unwrap().json().await.unwrap();
    created["write_key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_done_in_a_browser_is_what_is_counted() {
    let machine = OneMachine::new();
    let mut running = machine.start().await;
    let collector = format!("127.0.0.1:{}", machine.ports[0].number());
    let stored = Stored { machine: &machine };
    let features = ["features.mjs", &collector, "demo-write-key"];
    let visits = ["visits.mjs", &collector, "demo-write-key"];
    let (mut done, mut visits) = tokio::join!(ledger(&features), ledger(&visits));
    done.as_object_mut().unwrap().append(visits.as_object_mut().unwrap());
    let sessions = check_features(&stored, &done).await;
    let target = machine.target().await;
    check_rollups(&target.postgres, &done, sessions).await;

    let dir = TempDir::new().unwrap();
    let (_starting, port) = starting_collector(dir.path()).await;
    let (narrow, starting) = (narrow_store(&target).await, format!("127.0.0.1:{}", port.number()));
    let done = ledger(&["faults.mjs", &collector, "demo-write-key", &narrow, &starting]).await;
    check_faults(&stored, &done).await;
    assert!(running.stop(Signal::INT, PATIENCE).await.unwrap().success());
}

/// Types, budgets, and that what is committed is what the sources build.
#[tokio::test]
async fn the_snippet_is_what_its_sources_build() {
    let said = node("../../collector/tracker", &["build.mjs", "--check"]).await;
    assert_eq!(said.lines().count(), 3, "{said}");
}
