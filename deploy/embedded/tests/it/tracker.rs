//! The snippet in a real browser, on the pages of a shop with a strict Content-Security-Policy: what was done there against
//! the rows and rollups that came of it. `tests/browser` drives the pages and keeps the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use millrace_embedded::{demo::Target, process::Signal};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{clients::starting_collector, pipeline::OneMachine};

const PATIENCE: Duration = Duration::from_secs(180);
/// A sender's clock is corrected by when its request came, each request by its own.
const CORRECTION_MS: i64 = 10_000;
const BROWSER_PATIENCE: Duration = Duration::from_secs(400);

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

/// What the script says was done; nothing went wrong in any page.
async fn ledger(arguments: &[&str]) -> Value {
    let said = node("tests/browser", arguments).await;
    let ledger: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap();
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
        let clickhouse = format!("http://127.0.0.1:{}/", self.machine.ports[3].number());
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

/// Every run: names, persons, ids, reports of left pages.
async fn check_run(stored: &Stored<'_>, run: &str, done: &Value) -> Vec<Value> {
    let wanted = sorted(list(&done["names"]));
    let left = done["left"].as_array().unwrap();
    // A page that was hidden twice has been reported twice: the last report is the longest.
    let is_last = |row: &Value, page: &Value| {
        is_report(row) && is_of(row, run, page) && row["duration_ms"].as_u64() >= page["ms_min"].as_u64()
    };
    let rows = stored
        .until("events", run, |rows| {
            happened(rows).len() >= wanted.len()
                && left.iter().all(|page| rows.iter().any(|row| is_last(row, page)))
        })
        .await;
    let names = happened(&rows).iter().map(|row| text(row, "name")).collect();
    assert_eq!(sorted(names), wanted, "{run}: {rows:#?}");
    for row in &rows {
        assert_eq!(&text(row, "event_id")[14..15], "7", "{row:#}");
        assert_has(row, &json!({"is_bot": 0, "language": "de-CH", "timezone": "Europe/Zurich"}));
        let window = json!({"screen_width": 1600, "screen_height": 1000, "viewport_width": 1200, "viewport_height": 800});
        assert_has(row, if done["device"].is_null() { &window } else { &done["device"] });
        assert!(!text(row, "page_view_id").is_empty());
        assert!(
            !row.to_string().contains("someone@shop.example"),
            "what was typed is nobody's business: {row:#}"
        );
        if !done["visitor"].is_null() {
            assert_has(row, &json!({"visitor_id": done["visitor"], "session_id": done["session"]}));
            assert!(row["sequence"].is_u64(), "{row:#}");
        }
    }
    for page in left {
        let reports: Vec<_> = rows.iter().filter(|row| is_report(row) && is_of(row, run, page)).collect();
        let number = |row: &Value, field: &str| row[field].as_u64().unwrap();
        let longest = reports.iter().map(|row| number(row, "duration_ms")).max().unwrap();
        assert!(longest >= number(page, "ms_min"), "{page}: {longest} ms");
        assert!(page["ms_max"].as_u64().is_none_or(|most| longest <= most), "{page}: {longest} ms");
        let deepest = reports.iter().map(|row| number(row, "scroll_depth")).max().unwrap();
        assert!(
            (number(page, "depth_min")..=number(page, "depth_max")).contains(&deepest),
            "{page}: {deepest} %"
        );
        for report in reports {
            let is_first = |row: &&Value| row["page_view_id"] == report["page_view_id"] && !is_report(row);
            let first = rows.iter().filter(|row| row["name"] == "page_view").find(is_first).unwrap();
            assert_eq!(
                (&first["event_time"], &first["sequence"]),
                (&report["event_time"], &report["sequence"])
            );
        }
    }
    rows
}

fn is_of(row: &Value, run: &str, page: &Value) -> bool {
    row["name"] == "page_view"
        && text(row, "url").ends_with(&format!("/{run}/{}", page["page"].as_str().unwrap()))
}

/// The fields of events that pages and markup sent.
fn check_shop(rows: &[Value]) {
    let order: Vec<_> = happened(rows)
        .iter()
        .map(|row| text(row, "name"))
        .filter(|name| !matches!(*name, "before_the_script" | "page_view" | "view_item"))
        .collect();
    let wanted = [
        "click",
        "file_download",
        "add_to_wishlist",
        "form_submit",
        "exception",
        "exception",
        "search",
        "add_to_cart",
        "begin_checkout",
        "purchase",
    ];
    assert_eq!(order, wanted, "by sequence");
    assert_has(
        named(rows, "purchase"),
        &json!({"order_id": "/full/mug", "total_minor": 3000, "tax_minor": 200, "shipping_minor": 300,
                "currency": "USD", "user_id": "user-7", "item_product_id": ["mug"], "item_name": ["Mug"],
                "item_category": ["Cups"], "item_price_minor": [1250], "item_quantity": [2],
                "properties": {"gift": "true"}}),
    );
    assert_has(named(rows, "view_item"), &json!({"item_product_id": ["mug"], "item_quantity": [1]}));
    assert_has(
        named(rows, "add_to_wishlist"),
        &json!({"item_product_id": ["tea"], "item_price_minor": [450], "currency": "USD",
                "properties": {"colour": "green"}}),
    );
    assert_has(
        named(rows, "search"),
        &json!({"label": "mug", "user_id": "user-7", "properties": {"results": "3", "exact": "true"}}),
    );
    assert_has(
        named(rows, "click"),
        &json!({"properties": {"outbound": "true", "link_domain": "elsewhere.example", "link_text": "Elsewhere",
                               "link_url": "https://elsewhere.example/x/y-1"}}),
    );
    assert_has(
        named(rows, "file_download"),
        &json!({"properties": {"file_extension": "pdf", "file_name": "/files/prices.pdf", "link_text": "Prices"}}),
    );
    assert_has(
        named(rows, "form_submit"),
        &json!({"properties": {"form_id": "newsletter", "form_name": "news"}}),
    );
    let errors: Vec<_> = rows.iter().filter(|row| row["name"] == "exception").collect();
    for (row, (kind, message)) in errors.iter().zip([("RangeError", "no tea"), ("TypeError", "no cup")]) {
        assert_has(row, &json!({"non_interactive": 1, "properties": {"type": kind, "message": message}}));
        assert!(
            !text(&row["properties"], "line").is_empty() && !text(&row["properties"], "source").is_empty()
        );
    }
    let vitals: Vec<_> = rows
        .iter()
        .filter(|row| row["name"] == "web_vitals" && text(row, "url").ends_with("/home"))
        .collect();
    let labels = sorted(vitals.iter().map(|row| text(row, "label")).collect());
    assert_eq!(labels, ["CLS", "FCP", "INP", "LCP", "TTFB"]);
    for vital in vitals {
        assert!(vital["value"].as_f64().is_some_and(|value| (0.0..60_000.0).contains(&value)), "{vital:#}");
        assert_eq!(vital["non_interactive"], 1);
    }
}

async fn check_clicks(stored: &Stored<'_>, run: &str, done: &Value) {
    let wanted = done["clicks"].as_array().unwrap();
    let mut clicks = stored.until("clicks", run, |rows| rows.len() >= wanted.len()).await;
    clicks.sort_by_key(|row| text(row, "event_time").to_owned());
    assert_eq!(clicks.len(), wanted.len(), "{clicks:#?}");
    for (click, wanted) in clicks.iter().zip(wanted) {
        for field in ["x", "y", "selector", "text"] {
            assert!(wanted[field].is_null() || click[field] == wanted[field], "{field}: {wanted}, {click:#}");
        }
        let dead = if wanted["dead"] == true { "true" } else { "" };
        assert_eq!(text(&click["properties"], "dead"), dead, "{click:#}");
        assert_has(
            click,
            &json!({"page_width": 1200, "viewport_width": 1200, "visitor_id": done["visitor"]}),
        );
        assert!(click["page_height"].as_u64().unwrap() > 3000);
    }
}

/// Consent, objection, other people at the device, builds that do less.
async fn check_persons(stored: &Stored<'_>, ledger: &Value, rows: impl Fn(&str) -> Vec<Value>) {
    for run in ["objecting", "tracked_not"] {
        assert_has(&ledger[run], &json!({"requests": 0, "stored": 0}));
    }
    assert_has(&ledger["asked"], &json!({"requests_before": 0, "stored_before": 0, "stored": 0}));
    assert_eq!(ledger["cookieless"]["stored"], 0);
    let derived: BTreeSet<_> =
        rows("cookieless").iter().map(|row| text(row, "visitor_id").to_owned()).collect();
    assert_eq!(derived.len(), 1, "one visitor, whom the collector derives");
    assert!(!derived.contains(""));
    for row in rows("cookieless") {
        assert_has(&row, &json!({"session_id": "", "sequence": null}));
    }
    let reset = rows("reset");
    let person = |person: &Value, user: &str| json!({"visitor_id": person["visitor"], "session_id": person["session"], "user_id": user});
    assert_has(named(&reset, "hers"), &person(&ledger["reset"]["first"], "user-1"));
    assert_has(named(&reset, "his"), &person(&ledger["reset"]["second"], ""));
    assert_ne!(ledger["reset"]["first"]["visitor"], ledger["reset"]["second"]["visitor"]);
    for run in ["quiet", "core"] {
        assert!(rows(run).iter().all(|row| row["name"] != "web_vitals"));
        assert_eq!(stored.rows("clicks", run).await, Vec::<Value>::new());
    }
    let single = rows("single");
    let titles: Vec<_> = happened(&single)
        .into_iter()
        .filter(|row| row["name"] == "page_view")
        .map(|row| text(row, "title"))
        .collect();
    assert_eq!(titles, list(&ledger["single"]["titles"]));
}

/// Pages rendered ahead, sessions that end, and what a beacon carries.
fn check_visits(ledger: &Value, rows: impl Fn(&str) -> Vec<Value>) {
    let ahead = rows("ahead");
    assert_eq!(ledger["ahead"]["waiting"], 0, "what nobody has seen is not even queued");
    let shown = ahead.iter().find(|row| text(row, "url").ends_with("/home") && !is_report(row)).unwrap();
    let since_ms = event_time_ms(shown) - ledger["ahead"]["shown_at"].as_i64().unwrap();
    assert!(since_ms >= -CORRECTION_MS, "it counts from when it is shown: {since_ms} ms after that");

    let mut all = rows("sessions");
    all.retain(|row| matches!(text(row, "name"), "first" | "second" | "third"));
    all.sort_by_key(event_time_ms);
    let wanted = ledger["sessions"]["sessions"].as_array().unwrap();
    assert_eq!(all.len(), wanted.len());
    let mut pauses = all.windows(2).map(|pair| event_time_ms(&pair[1]) - event_time_ms(&pair[0]));
    let mut ids: Vec<(&str, &str)> = Vec::new();
    for (row, wanted) in all.iter().zip(wanted) {
        assert_eq!(row["name"], wanted["name"], "in the order of their times");
        let id = (text(row, "name"), text(row, "session_id"));
        if ids.last() != Some(&id) {
            ids.push(id);
        }
    }
    let names: Vec<_> = ids.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["first", "second", "third"], "a session each: {ids:?}");
    assert_eq!(ids.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), 3);
    for (name, first) in [("second", 1), ("third", 1)] {
        assert_eq!(
            all.iter().find(|row| row["name"] == name).unwrap()["sequence"],
            first,
            "numbers begin anew"
        );
    }
    for wanted in &wanted[1..] {
        let (pause, wanted) = (pauses.next().unwrap(), wanted["after_ms"].as_i64().unwrap());
        assert!((wanted - CORRECTION_MS..wanted + 60_000).contains(&pause), "{pause} ms instead of {wanted}");
    }

    assert!(ledger["beacon"]["beacon"].as_u64().unwrap() > 0);
    assert_eq!(ledger["beacon"]["again"], 0, "the beacon alone has carried them");
    assert_eq!(
        ledger["beacon_twice"]["again"], ledger["beacon_twice"]["beacon"],
        "the next page sends them again"
    );
}

fn event_time_ms(row: &Value) -> i64 {
    let time = text(row, "event_time").replace(' ', "T") + "Z";
    time.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

async fn check_rollups(postgres: &PgPool, ledger: &Value, sessions: i64) {
    let runs = ledger.as_object().unwrap().values().filter(|run| run["names"].is_array());
    let count = |name: &str| {
        let names = runs.clone().flat_map(|run| list(&run["names"]));
        i64::try_from(names.filter(|found| *found == name).count()).unwrap()
    };
    let clicks: Vec<_> = runs.clone().flat_map(|run| run["clicks"].as_array().unwrap()).collect();
    let of = |what: &str| i64::try_from(clicks.iter().filter(|click| click[what] == true).count()).unwrap();
    let all = i64::try_from(clicks.len()).unwrap();
    let sums = [
        (
            "sessions",
            "SELECT coalesce(sum(total_sessions), 0)::bigint FROM analytics_summary WHERE period_type = 'day'",
            sessions,
        ),
        (
            "page_views",
            "SELECT coalesce(sum(page_views), 0)::bigint FROM analytics_summary WHERE period_type = 'day'",
            count("page_view"),
        ),
        (
            "orders",
            "SELECT coalesce(sum(total_orders), 0)::bigint FROM analytics_summary WHERE period_type = 'day'",
            1,
        ),
        ("revenue", "SELECT coalesce(sum(gross_revenue_cents), 0)::bigint FROM revenue_analytics", 3000),
        (
            "views",
            "SELECT coalesce(sum(views_count), 0)::bigint FROM product_analytics WHERE product_id = 'mug'",
            count("view_item"),
        ),
        (
            "carts",
            "SELECT coalesce(sum(add_to_cart_count), 0)::bigint FROM product_analytics WHERE product_id = 'mug'",
            1,
        ),
        (
            "units",
            "SELECT coalesce(sum(units_sold), 0)::bigint FROM product_analytics WHERE product_id = 'mug'",
            2,
        ),
        ("clicks", "SELECT coalesce(sum(clicks), 0)::bigint FROM heatmap_data", all),
        (
            "rage",
            "SELECT coalesce(sum(rage_clicks), 0)::bigint FROM heatmap_elements WHERE element_selector = '#rage'",
            of("rage"),
        ),
        ("dead", "SELECT coalesce(sum(dead_clicks), 0)::bigint FROM heatmap_data", of("dead")),
    ];
    let begin = Instant::now();
    for (what, sql, wanted) in sums {
        loop {
            let found: i64 = sqlx::query_scalar(sql).fetch_one(postgres).await.unwrap();
            if found == wanted {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{what}: {found}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Checks every run; says how many sessions they were.
async fn check_features(stored: &Stored<'_>, ledger: &Value) -> i64 {
    let mut runs = BTreeMap::new();
    for (run, done) in ledger.as_object().unwrap() {
        if done["names"].is_array() {
            runs.insert(run.as_str(), check_run(stored, run, done).await);
        }
    }
    check_shop(&runs["full"]);
    for run in ["full", "module"] {
        check_clicks(stored, run, &ledger[run]).await;
    }
    check_persons(stored, ledger, |run| runs[run].clone()).await;
    check_visits(ledger, |run| runs[run].clone());
    // Where no session was sent, the visitor's events are one.
    let all = runs.values().flatten().map(|row| (text(row, "visitor_id"), text(row, "session_id")));
    i64::try_from(all.collect::<BTreeSet<_>>().len()).unwrap()
}

/// What was queued while something was wrong: all of it, each once.
async fn check_faults(stored: &Stored<'_>, ledger: &Value) {
    for (run, done) in ledger.as_object().unwrap() {
        if !done["labels"].is_array() {
            continue;
        }
        let wanted = sorted(list(&done["labels"]));
        let is_numbered = |row: &&Value| row["name"] == "numbered";
        let rows =
            stored.until("events", run, |rows| rows.iter().filter(is_numbered).count() >= wanted.len()).await;
        let labels = rows.iter().filter(is_numbered).map(|row| text(row, "label")).collect();
        assert_eq!(sorted(labels), wanted, "{run}");
    }
    assert_eq!(ledger["offline"]["waiting"], 5);
    assert!(ledger["away"]["waiting"].as_u64().unwrap() >= 100, "{}", ledger["away"]);
    for run in ["blocked", "filled"] {
        for row in stored.rows("events", run).await {
            assert_eq!(row["session_id"], "", "what cannot be kept is not made up: {row:#}");
        }
    }
    assert_eq!(ledger["refused"]["more"], 0, "a refusal is final");
    assert!(ledger["refused"]["statuses"].as_array().unwrap().iter().all(|status| *status == 401));
    assert_eq!(stored.rows("events", "no").await, Vec::<Value>::new());
    for (run, refusal) in [("busy", 429), ("unavailable", 503)] {
        let answers = ledger[run]["answers"].as_array().unwrap();
        assert!(answers.iter().any(|answer| answer["status"] == refusal), "{run}: {answers:?}");
        for answer in answers.iter().filter(|answer| answer["status"] == refusal) {
            let wait_ms = 1000.0 * answer["retry_after_s"].as_f64().unwrap();
            assert!(wait_ms > 0.0, "{run} says when: {answer}");
            assert!(answer["pause_ms"].as_f64().unwrap() >= wait_ms, "not before that: {answer}");
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
