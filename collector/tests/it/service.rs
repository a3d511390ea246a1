//! A collector of one test's own.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use millrace_collector::{Config, Listeners, LogKind, run};
use millrace_schemas::{
    row::{ClickRow, EventRow},
    spool::{DURABLE_FILE, SEGMENT_MAGIC, read_frame, segment_offset},
    topic,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(crate) const WRITE_KEY: &str = "demo-write-key";
/// Instead of a reason to refuse an event: it is kept.
pub(crate) const KEPT: &str = "kept";
pub(crate) const SECRET_KEY: &str = "demo-secret-key";

/// Runs on the test's own thread, with metrics of its own; so tests must use tokio's single-threaded runtime.
pub(crate) struct Service {
    pub(crate) url: String,
    pub(crate) dir: TempDir,
    pub(crate) client: reqwest::Client,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
    _recorder: metrics::LocalRecorderGuard<'static>,
}

/// What the collector answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The reasons of the events that were rejected, in order.
    pub(crate) fn reasons(&self) -> Vec<(u64, &str)> {
        let rejected = self.body["rejected"].as_array().map(Vec::as_slice).unwrap_or_default();
        rejected
            .iter()
            .map(|entry| (entry["index"].as_u64().unwrap(), entry["reason"].as_str().unwrap()))
            .collect()
    }

    pub(crate) fn error(&self) -> (u16, &str) {
        (self.status, self.body["error"].as_str().unwrap_or_default())
    }
}

impl Service {
    /// A collector on a spool, with Postgres away: what it knows of stores comes from a snapshot.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), change).await
    }

    pub(crate) async fn in_dir(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let snapshot = write_snapshot(dir.path());
        let mut config = Config::default();
        config.log.kind = LogKind::Spool;
        config.log.spool_dir = dir.path().join("spool");
        config.keys_snapshot = Some(snapshot);
        // Nothing listens there.
        config.postgres_url = "postgres://millrace@127.0.0.1:1/millrace".into();
        change(&mut config);

        let recorder: &'static PrometheusRecorder =
            Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let guard = metrics::set_default_local_recorder(recorder);
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", http.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let running = run(config, Listeners { http }, shutdown.clone());
        let running = tokio::spawn(async move { running.await.unwrap() });
        Self {
            url,
            dir,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            metrics: recorder.handle(),
            shutdown,
            running,
            _recorder: guard,
        }
    }

    /// Posts a body with the demo store's write key.
    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(WRITE_KEY).body(body)).await
    }

    pub(crate) fn request(&self, key: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/v1/collect", self.url)).bearer_auth(key)
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.client.get(format!("{}{path}", self.url))).await
    }

    /// The value of a metric with exactly these labels; 0 when it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub(crate) fn rejected(&self, reason: &str) -> f64 {
        self.metric(&format!("millrace_collector_rejected_total{{reason=\"{reason}\"}}"))
    }

    pub(crate) fn requests(&self, endpoint: &str, status: u16) -> f64 {
        let labels = format!("{{endpoint=\"{endpoint}\",status=\"{status}\"}}");
        self.metric(&format!("millrace_collector_requests_total{labels}"))
    }

    /// Stops the collector; its directory stays.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.running.await.unwrap();
        self.dir
    }

    pub(crate) fn topic_dir(&self, topic: &str) -> PathBuf {
        self.dir.path().join("spool").join(topic)
    }

    /// The event rows in the log so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        rows(&records(&self.topic_dir(topic::EVENTS)))
    }

    /// Rows of both kinds in the log so far.
    pub(crate) fn rows(&self) -> usize {
        self.events().len() + self.clicks().len()
    }

    /// The click rows in the log so far.
    pub(crate) fn clicks(&self) -> Vec<Value> {
        rows(&records(&self.topic_dir(topic::CLICKS)))
    }
}

/// What a collector knows of stores while Postgres is away.
pub(crate) fn write_snapshot(dir: &Path) -> PathBuf {
    let snapshot = dir.join("stores.json");
    let key = |key: &str, store: &str, is_secret| json!({ "sha256": hex::encode(Sha256::digest(key)), "store_id": store, "is_secret": is_secret });
    let store = |id: &str, origins: Value, per_second: Value| {
        json!({
            "id": id, "currency": "USD", "max_event_age_days": 30,
            "allowed_origins": origins, "events_per_second": per_second,
        })
    };
    let settings = json!({
        "version": 1,
        "stores": [
            store("demo", json!([]), json!(null)),
            store("strict", json!(["https://shop.example"]), json!(null)),
            store("slow", json!([]), json!(1)),
            store("wide", json!(["*.good.example"]), json!(null)),
        ],
        "keys": [
            key(WRITE_KEY, "demo", false), key(SECRET_KEY, "demo", true),
            key("strict-write-key", "strict", false), key("strict-secret-key", "strict", true),
            key("slow-write-key", "slow", false), key("wide-write-key", "wide", false),
        ],
    });
    std::fs::write(&snapshot, settings.to_string()).unwrap();
    snapshot
}

/// The durable records of a topic: key and value.
pub(crate) fn records(dir: &Path) -> Vec<(String, String)> {
    // Nothing was written yet.
    let Ok(durable) = std::fs::read(dir.join(DURABLE_FILE)) else { return Vec::new() };
    let durable = u64::from_le_bytes(durable.try_into().unwrap());
    let mut segments: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some((segment_offset(&name)?, dir.join(name)))
        })
        .collect();
    segments.sort();
    let mut records = Vec::new();
    let first = segments.first().map_or(0, |(first, _)| *first);
    for (offset, path) in segments {
        assert_eq!(offset, first + records.len() as u64, "segments follow each other");
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.strip_prefix(SEGMENT_MAGIC).unwrap();
        while first + (records.len() as u64) < durable && !rest.is_empty() {
            let (record, length) = read_frame(rest).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            records.push((text(record.key), text(record.value)));
            rest = &rest[length..];
        }
    }
    assert_eq!(first + records.len() as u64, durable, "everything durable is there");
    records
}

/// The rows of records, each also readable as what the consumer will read it as.
fn rows(records: &[(String, String)]) -> Vec<Value> {
    let lines = records.iter().flat_map(|(_, value)| value.split('\n'));
    lines
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let mut bytes = line.as_bytes().to_vec();
            if row.get("type").is_some() {
                simd_json::from_slice::<EventRow<'_>>(&mut bytes).unwrap();
            } else {
                simd_json::from_slice::<ClickRow<'_>>(&mut bytes).unwrap();
            }
            row
        })
        .collect()
}

/// Whether a row of the log has at least these fields; nothing, 0 and the empty text do not stand in the log.
#[track_caller]
pub(crate) fn assert_row(row: &Value, wanted: &Value) {
    for (field, value) in wanted.as_object().unwrap() {
        let is_same = match (&row[field], value.as_f64()) {
            (Value::Null, number) => number == Some(0.0) || *value == json!("") || value.is_null(),
            (found, Some(number)) => found.as_f64() == Some(number),
            (found, None) => found == value,
        };
        assert!(is_same, "{field} is {}, not {value}: {row:#}", row[field]);
    }
}

/// Waits until something holds, on a busy machine for long.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
