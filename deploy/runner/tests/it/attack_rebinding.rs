//! A web page whose name leads to this machine (DNS rebinding), in a real browser, against every port of one machine. It may
//! know every key and password: what is to hold it is the name it came by.

use std::collections::BTreeMap;

use millrace_local::process::Signal;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::{
    browser::{PATIENCE, ledger_of},
    pipeline::{ADMIN_TOKEN, OneMachine},
};

/// A word in everything that a page must not get.
const SECRET: &str = "for-nobody-else";
const STATEMENTS: [&str; 2] = [
    "SELECT 'for-nobody-else', title FROM millrace.events FORMAT TSV",
    "CREATE TABLE millrace.stolen (a UInt8) ENGINE = Memory",
];

/// What is asked of a port, and whether a page may.
struct Target {
    name: &'static str,
    port: u16,
    paths: Vec<String>,
    bodies: Vec<String>,
    headers: Value,
}

fn targets(machine: &OneMachine) -> Vec<Target> {
    let [collector, api, metrics, clickhouse, postgres] = machine.ports.each_ref().map(|port| port.number());
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let url = machine.clickhouse_url();
    let password = url.split_once("millrace:").unwrap().1.split_once('@').unwrap().0.to_owned();
    let statement = |statement: &str| {
        let statement: String = form_urlencoded::byte_serialize(statement.as_bytes()).collect();
        format!("/?user=millrace&password={password}&query={statement}")
    };
    let bearer = |token: &str| json!({"authorization": format!("Bearer {token}")});
    let nothing = || json!({});
    vec![
        Target {
            name: "clickhouse",
            port: clickhouse,
            paths: [paths(&["/", "/ping", "/elsewhere"]), STATEMENTS.map(statement).to_vec()].concat(),
            bodies: STATEMENTS.map(str::to_owned).to_vec(),
            headers: json!({"x-clickhouse-user": "millrace", "x-clickhouse-key": password}),
        },
        Target {
            name: "api",
            port: api,
            paths: paths(&[
                "/",
                "/healthz",
                "/readyz",
                "/openapi.json",
                "/api/v1/stores/demo/analytics_summary",
                "/elsewhere",
            ]),
            bodies: vec![r#"{"name": "Stolen", "timezone": "UTC", "currency": "USD"}"#.to_owned()],
            headers: bearer("demo-api-token"),
        },
        Target {
            name: "admin",
            port: api,
            paths: paths(&["/api/v1/stores"]),
            bodies: vec![r#"{"name": "Stolen", "timezone": "UTC", "currency": "USD"}"#.to_owned()],
            headers: bearer(ADMIN_TOKEN),
        },
        Target {
            name: "metrics",
            port: metrics,
            paths: paths(&["/metrics", "/healthz", "/readyz", "/elsewhere"]),
            bodies: vec![SECRET.to_owned()],
            headers: nothing(),
        },
        Target {
            name: "postgres",
            port: postgres,
            paths: paths(&["/", "/?user=millrace"]),
            bodies: vec![SECRET.to_owned()],
            headers: nothing(),
        },
        Target {
            name: "collector, for operators",
            port: collector,
            paths: paths(&["/healthz", "/readyz"]),
            bodies: vec![SECRET.to_owned()],
            headers: nothing(),
        },
    ]
}

/// What a page got: nothing, or the refusal of its name.
fn check(name: &str, answer: &Value) {
    let status = answer["status"].as_u64();
    let text = answer["text"].as_str().unwrap_or_default();
    let way = answer["way"].as_str().unwrap();
    assert!(!text.contains(SECRET), "{name}: {answer}");
    assert_ne!(answer["how"], "open", "{name}: {answer}");
    if way == "sendBeacon" {
        return; // It says only that it was sent; what came of it is looked for in the stores.
    }
    if matches!(way, "img" | "script" | "embed" | "link") {
        assert!(!(way != "embed" && answer["how"] == "loaded"), "{name}: {answer}");
        return;
    }
    let is_refusal = text.is_empty()
        || text.contains("this name is not answered here")
        || text.contains("method_not_allowed");
    let is_nothing = status.is_none_or(|status| matches!(status, 0 | 403 | 421));
    // The collector says to pages, too, which methods there are.
    if name.starts_with("collector") && status == Some(405) && text.contains("method_not_allowed") {
        return;
    }
    assert!(is_nothing && is_refusal, "{name}: {answer}");
}

#[tokio::test]
async fn a_page_that_is_rebound_here_gets_nothing() {
    let machine = OneMachine::new();
    let mut running = machine.start().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let [collector, api, _, _, _] =
        machine.ports.each_ref().map(|port| format!("http://127.0.0.1:{}", port.number()));
    let page_view =
        json!({"type": "page_view", "visitor_id": "v", "title": SECRET, "url": "https://shop.example/"});
    let post = client
        .post(format!("{collector}/v1/collect"))
        .header("x-write-key", "demo-write-key")
        .json(&page_view);
    assert_eq!(post.send().await.unwrap().status(), StatusCode::ACCEPTED);

    let targets = targets(&machine);
    let arguments: Vec<Value> = targets
        .iter()
        .map(|target| json!({"name": target.name, "port": target.port, "paths": target.paths, "bodies": target.bodies, "headers": target.headers}))
        .collect();
    let ledger: BTreeMap<String, Vec<Value>> =
        serde_json::from_value(ledger_of(&["rebinding.mjs", &Value::from(arguments).to_string()]).await)
            .unwrap();
    for target in &targets {
        let answers = &ledger[target.name];
        assert!(answers.len() >= target.paths.len() * 20, "{}: {} answers", target.name, answers.len());
        answers.iter().for_each(|answer| check(target.name, answer));
        // Where HTTP is spoken the page did get there.
        let is_refused = |answer: &Value| answer["status"] == 421;
        assert_eq!(answers.iter().any(is_refused), target.name != "postgres", "{}", target.name);
    }

    // Nothing of what was asked for was done.
    let clickhouse = client.post(machine.clickhouse_url()).body("EXISTS TABLE millrace.stolen");
    assert_eq!(clickhouse.send().await.unwrap().text().await.unwrap(), "0\n");
    let stolen = "SELECT count(*) FROM stores WHERE name = 'Stolen'";
    let stores: i64 = sqlx::query_scalar(stolen).fetch_one(&machine.target().await.postgres).await.unwrap();
    assert_eq!(stores, 0);

    // A page of any name may send events, and have the snippet; an operator may ask by an address.
    let host = format!("evil.example:{}", machine.ports[0].number());
    for (path, status) in [
        ("/t.js", StatusCode::OK),
        ("/openapi.json", StatusCode::OK),
        ("/readyz", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let answer = client.get(format!("{collector}{path}")).header("host", &host).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    let post = client
        .post(format!("{collector}/v1/collect"))
        .header("x-write-key", "demo-write-key")
        .header("host", &host);
    assert_eq!(post.json(&page_view).send().await.unwrap().status(), StatusCode::ACCEPTED);
    for base in [&collector, &api] {
        assert_eq!(client.get(format!("{base}/readyz")).send().await.unwrap().status(), StatusCode::OK);
    }
    assert!(running.stop(Signal::INT, PATIENCE).await.unwrap().success());
}
