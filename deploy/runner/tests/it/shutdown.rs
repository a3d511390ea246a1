//! Signals while something hangs: one ends in the stated time, two end at once, and nothing acknowledged is lost.

use std::{
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use millrace_local::process::{Process, Signal};
use millrace_testbed::{Engine, Port, Postgres};
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::pipeline::{OneMachine, ready, start};

const KEY: &str = "demo-write-key";
const PATIENCE: Duration = Duration::from_secs(180);
/// What "at once" means, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(8);

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Posts events; all are accepted.
async fn post(collector: &str, events: usize) {
    let body = format!("[{}]", vec![r#"{"type":"event","name":"test","visitor_id":"v"}"#; events].join(","));
    let request = reqwest::Client::new().post(format!("{collector}/v1/collect")).header("x-write-key", KEY);
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let said: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(said["accepted"], events);
}

/// Asks ClickHouse for one value.
pub(crate) async fn ask(clickhouse: &str, query: &str) -> String {
    let answer = reqwest::Client::new().post(clickhouse).body(query.to_owned()).send().await;
    match answer {
        Ok(answer) => answer.text().await.unwrap_or_default().trim().to_owned(),
        Err(_) => String::new(),
    }
}

async fn has_stored(clickhouse: &str, events: usize) {
    let query = "SELECT count() FROM millrace.events FINAL";
    eventually("everything accepted is stored", async || ask(clickhouse, query).await == events.to_string())
        .await;
    assert_eq!(ask(clickhouse, "SELECT count() FROM millrace.events").await, events.to_string());
}

fn said(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap()
}

fn freeze(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Sends two signals, the second when the first was heard; it ends at once. It may have nothing to wait for.
async fn twice(mut process: Process, dir: &Path, name: &str) {
    process.signal(Signal::TERM).unwrap();
    eventually("it heard the first", async || said(dir, name).to_lowercase().contains("draining")).await;
    process.signal(Signal::TERM).unwrap();
    let start = Instant::now();
    let status = tokio::time::timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
    assert!(matches!(status.code(), Some(0 | 130)), "{name}: {status} {}", said(dir, name));
    assert!(start.elapsed() < AT_ONCE, "{name}: {:?}", start.elapsed());
}

/// Sends one signal; it ends by itself.
async fn once(mut process: Process, dir: &Path, name: &str, within: Duration) {
    let start = Instant::now();
    process.signal(Signal::TERM).unwrap();
    let status = tokio::time::timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{name}: {status} {}", said(dir, name));
    assert!(start.elapsed() < within, "{name}: {:?} {}", start.elapsed(), said(dir, name));
}

#[tokio::test]
async fn services_end_in_time_when_a_store_hangs_and_at_once_when_told_twice() {
    let (engine, postgres) = tokio::join!(Engine::start(), Postgres::start());
    let (engine, postgres) = (engine.unwrap(), postgres.unwrap());
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let ports: [Port; 5] = std::array::from_fn(|_| Port::reserve().unwrap());
    let [collector, collector_metrics, consumer_metrics, api, aggregator_metrics] =
        ports.each_ref().map(|port| format!("127.0.0.1:{}", port.number()));
    let spool = format!("--spool-dir={}", dir.join("spool").display());
    let clickhouse = format!("--clickhouse-url={}", engine.url());
    let aggregator = async |postgres_url: &str| {
        let arguments = [
            format!("--postgres-url={postgres_url}"),
            clickhouse.clone(),
            format!("--api-address={api}"),
            format!("--metrics-address={aggregator_metrics}"),
            "--interval-ms=100".to_owned(),
        ];
        start("millrace-aggregator", &arguments, dir)
    };
    let consumer = async |drain_timeout_ms: u32| {
        let arguments = [
            "--log=spool".to_owned(),
            spool.clone(),
            clickhouse.clone(),
            format!("--metrics-address={consumer_metrics}"),
            "--batch-age-ms=50".to_owned(),
            format!("--drain-timeout-ms={drain_timeout_ms}"),
        ];
        let mut process = start("millrace-consumer", &arguments, dir);
        ready(&mut process, &format!("http://{consumer_metrics}"), dir).await;
        process
    };
    let mut consuming = consumer(2_000).await;
    let mut aggregating = aggregator(postgres.url()).await;
    ready(&mut aggregating, &format!("http://{api}"), dir).await;
    let pool = sqlx::PgPool::connect(postgres.url()).await.unwrap();
    millrace_aggregator::ensure_demo_store(&pool, &[]).await.unwrap();
    let arguments = [
        "--log=spool".to_owned(),
        spool.clone(),
        format!("--postgres-url={}", postgres.url()),
        format!("--address={collector}"),
        format!("--metrics-address={collector_metrics}"),
    ];
    let mut collecting = start("millrace-collector", &arguments, dir);
    let url = format!("http://{collector}");
    ready(&mut collecting, &url, dir).await;

    post(&url, 100).await;
    has_stored(&engine.url(), 100).await;

    // ClickHouse hangs with a batch on its way: the drain gives up in time, and leaves the batch to its intent.
    let hang = engine.id().unwrap();
    freeze(hang, Signal::STOP);
    post(&url, 50).await;
    let state = dir.join("spool/millrace.events/consumer.json");
    let has_intent = || std::fs::read_to_string(&state).is_ok_and(|text| text.contains("pending_next\":2"));
    eventually("a batch is on its way", async || has_intent()).await;
    // A second signal does not wait for that.
    twice(aggregating, dir, "millrace-aggregator").await;
    once(consuming, dir, "millrace-consumer", Duration::from_secs(30)).await;
    assert!(said(dir, "millrace-consumer").contains("in time"), "{}", said(dir, "millrace-consumer"));
    freeze(hang, Signal::CONT);

    consuming = consumer(60_000).await;
    has_stored(&engine.url(), 150).await;
    freeze(hang, Signal::STOP);
    post(&url, 50).await;
    twice(consuming, dir, "millrace-consumer").await;
    freeze(hang, Signal::CONT);
    consuming = consumer(60_000).await;
    has_stored(&engine.url(), 200).await;
    once(consuming, dir, "millrace-consumer", PATIENCE).await;
    once(collecting, dir, "millrace-collector", PATIENCE).await;

    // A Postgres that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("postgres://millrace@{}/millrace", silent.local_addr().unwrap());
    for signals in [1, 2] {
        let aggregating = aggregator(&silent_url).await;
        eventually("it is up", async || said(dir, "millrace-aggregator").contains("is up")).await;
        let _taken = silent.accept().unwrap();
        if signals == 1 {
            once(aggregating, dir, "millrace-aggregator", Duration::from_secs(40)).await;
        } else {
            twice(aggregating, dir, "millrace-aggregator").await;
        }
    }
}

/// The process ids of a process's children that run `program` (the kernel keeps 15 bytes of its name).
fn children(of: u32, program: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.split_once(&format!("({program}) ")) else { continue };
        if rest.split(' ').nth(1).and_then(|parent| parent.parse().ok()) == Some(of) {
            found.push(pid);
        }
    }
    found
}

#[tokio::test]
async fn a_runner_whose_engine_hangs_ends_at_once_when_told_twice() {
    let machine = OneMachine::new();
    let collector = format!("http://127.0.0.1:{}", machine.ports[0].number());
    let running = machine.start().await;
    let clickhouse = machine.clickhouse_url();
    post(&collector, 20).await;
    has_stored(&clickhouse, 20).await;
    for pid in children(running.id(), "millrace-clickh") {
        freeze(pid, Signal::STOP);
    }
    post(&collector, 30).await;
    twice(running, machine.dir.path(), "millrace").await;
    let mut running = machine.start().await;
    has_stored(&clickhouse, 50).await;
    assert!(running.stop(Signal::INT, PATIENCE).await.unwrap().success());
}
