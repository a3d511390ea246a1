//! The sender against a collector that counts, and now and then asks for patience.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use jiff::{Timestamp, tz::TimeZone};
use millrace_demo::{Keys, Pace, Scenario, send};
use serde_json::{Value, json};

#[derive(Default)]
struct Counter {
    requests: usize,
    ids: BTreeSet<String>,
    /// Says one accepted event too many, once.
    lies: bool,
}

type Shared = Arc<Mutex<Counter>>;

async fn collect(State(counter): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut counter = counter.lock().unwrap();
    counter.requests += 1;
    if counter.requests % 5 == 1 {
        return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")]).into_response();
    }
    let mut text = String::new();
    if headers.contains_key("content-encoding") {
        flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(body.to_vec()).unwrap();
    }
    let events: Vec<Value> = if headers["content-type"] == "application/x-ndjson" {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    } else {
        match serde_json::from_str(&text).unwrap() {
            Value::Array(events) => events,
            Value::Object(fields) if fields.contains_key("events") => {
                fields["events"].as_array().unwrap().clone()
            }
            single => vec![single],
        }
    };
    counter.ids.extend(events.iter().map(|event| event["event_id"].to_string()));
    let accepted = events.len() + usize::from(std::mem::take(&mut counter.lies));
    (StatusCode::ACCEPTED, Json(json!({ "accepted": accepted, "rejected": [] }))).into_response()
}

async fn listen(counter: Shared) -> String {
    let app = Router::new().route("/v1/collect", post(collect)).with_state(counter);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test]
async fn every_event_arrives_and_every_answer_is_checked() {
    let now: Timestamp = "2026-11-20T13:00:00Z".parse().unwrap();
    let scenario = Scenario {
        events: 1_500,
        malformed: 0.0,
        dirty: 0.0,
        has_copies: false,
        ..Scenario::until(now, 5, TimeZone::UTC)
    };
    let traffic = scenario.generate().unwrap();
    let keys = Keys { write: "w".into(), secret: "s".into() };
    let client = reqwest::Client::new();
    for lies in [false, true] {
        let counter = Shared::new(Mutex::new(Counter { lies, ..Counter::default() }));
        let url = listen(counter.clone()).await;
        let report = send(&client, &url, &keys, &traffic.requests, Pace::default()).await.unwrap();
        assert_eq!(report.requests, traffic.requests.len());
        assert!(report.retries > 20, "{}", report.retries);
        assert_eq!(counter.lock().unwrap().ids.len(), 1_500);
        assert_eq!(report.wrong_answers, usize::from(lies), "{:?}", report.listed);
    }
}
