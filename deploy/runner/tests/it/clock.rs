//! The time of day of the three services is set while they run: an hour back, over midnight, and two hours forward.
//! Nothing is lost, doubled or held up, copies are still copies, and every number is what was sent.
//!
//! libfaketime stands between the processes and the kernel's clock; the monotonic clock stays as it is, as it does when
//! a machine's clock is set. The engines keep the real clock: their own timed waits do not work under libfaketime, and
//! no number comes from their clocks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use millrace_local::process::Signal;
use millrace_testbed::{Engine, Port, Postgres};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    pipeline::{ready, start_with},
    shutdown::{ask, eventually},
};

const STOP_PATIENCE: Duration = Duration::from_secs(80);

/// The clock of the processes that are started with its variables.
struct Clock {
    file: PathBuf,
    ahead_s: i64,
}

impl Clock {
    fn new(dir: &Path, ahead_s: i64) -> Self {
        let clock = Self { file: dir.join("clock"), ahead_s: 0 };
        clock.set(ahead_s)
    }

    /// Sets it to so many seconds ahead of the real one.
    fn set(self, ahead_s: i64) -> Self {
        // Replaced at once: a file half written would be no time at all.
        let temporary = self.file.with_extension("new");
        std::fs::write(&temporary, format!("{ahead_s:+}\n")).unwrap();
        std::fs::rename(&temporary, &self.file).unwrap();
        Self { ahead_s, ..self }
    }

    fn now_ms(&self) -> i64 {
        real_ms() + self.ahead_s * 1000
    }

    fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

fn real_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Debian's package `faketime`.
fn library() -> PathBuf {
    let multiarch = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = multiarch.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("Debian's package faketime; `make test` installs it")
}

/// What was sent, and what must be there.
struct Shop {
    collector: String,
    clickhouse: String,
    postgres: PgPool,
    /// Each event's time, as it stands in its JSON.
    sent: BTreeMap<Uuid, String>,
}

impl Shop {
    /// Sends page views, every second one without a time of its own; all are accepted. What was sent before is sent as it
    /// was.
    async fn send(&mut self, ids: &[Uuid], clock: &Clock) {
        for ids in ids.chunks(100) {
            let mut events = Vec::new();
            for (index, id) in ids.iter().enumerate() {
                let time = || match index % 2 {
                    0 => String::new(),
                    _ => format!(r#","timestamp":{}"#, clock.now_ms()),
                };
                let time = self.sent.entry(*id).or_insert_with(time);
                let page = r#""type":"page_view","url":"https://a.example/""#;
                events.push(format!(r#"{{{page},"visitor_id":"v{}","event_id":"{id}"{time}}}"#, index % 7));
            }
            let request = reqwest::Client::new().post(format!("{}/v1/collect", self.collector));
            let request = request.header("x-write-key", "demo-write-key");
            let answer = request.body(format!("[{}]", events.join(","))).send().await.unwrap();
            assert_eq!(answer.status(), 202);
        }
    }

    /// Waits until the collector's clock is the one that was set.
    async fn sees(&mut self, clock: &Clock) {
        loop {
            let id = Uuid::new_v4();
            self.send(&[id], clock).await;
            let query = format!(
                "SELECT toUnixTimestamp64Milli(received_at) FROM millrace.events WHERE event_id = '{id}'"
            );
            let mut received = String::new();
            let mut is_stored = async || {
                received = ask(&self.clickhouse, &query).await;
                !received.is_empty()
            };
            eventually("the event is stored", &mut is_stored).await;
            if received.parse::<i64>().unwrap_or(0).abs_diff(clock.now_ms()) < 600_000 {
                return;
            }
        }
    }

    /// Waits until everything sent is stored and rolled up, each event once.
    async fn is_whole(&self, when: &str) {
        let count = self.sent.len().to_string();
        let stored = "SELECT count(), uniqExact(event_id) FROM millrace.events FINAL FORMAT TSV";
        let expected = format!("{count}\t{count}");
        let what = format!("{when}: everything is stored once");
        eventually(&what, async || ask(&self.clickhouse, stored).await == expected).await;
        let rolled_up = "SELECT coalesce(sum(page_views), 0)::bigint FROM analytics_summary
                         WHERE store_id = 'demo' AND period_type = 'day'";
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let sum = sqlx::query_scalar::<_, i64>(rolled_up).fetch_one(&self.postgres).await;
            if sum.as_ref().is_ok_and(|sum| *sum == self.sent.len() as i64) {
                return;
            }
            assert!(Instant::now() < deadline, "{when}: {sum:?} of {count} are rolled up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn ids(count: usize) -> Vec<Uuid> {
    (0..count).map(|_| Uuid::new_v4()).collect()
}

#[tokio::test]
async fn the_clock_is_set_back_over_midnight_and_forward() {
    let (engine, postgres) = tokio::join!(Engine::start(), Postgres::start());
    let (engine, postgres) = (engine.unwrap(), postgres.unwrap());
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    // Half past midnight, so that an hour back is another day: the day of what has no time of its own, too.
    let day_ms = 86_400_000;
    let half_past_ms = (real_ms() / day_ms + 1) * day_ms + day_ms / 48;
    let ahead_s = (half_past_ms - real_ms()) / 1000;
    let mut clock = Clock::new(dir, ahead_s);

    let ports: [Port; 5] = std::array::from_fn(|_| Port::reserve().unwrap());
    let [collector, collector_metrics, consumer_metrics, api, aggregator_metrics] =
        ports.each_ref().map(|port| format!("127.0.0.1:{}", port.number()));
    let spool = format!("--spool-dir={}", dir.join("spool").display());
    let postgres_url = format!("--postgres-url={}", postgres.url());
    let clickhouse_url = format!("--clickhouse-url={}", engine.url());
    let service = async |name: &str, address: &str, metrics: &str, settings: &[String]| {
        let arguments = [&[format!("--metrics-address={metrics}")], settings].concat();
        let mut process = start_with(name, &arguments, dir, &clock.variables());
        ready(&mut process, &format!("http://{address}"), dir).await;
        process
    };
    let log = "--log=spool".to_owned();
    let settings = [log.clone(), spool.clone(), clickhouse_url.clone(), "--batch-age-ms=100".into()];
    let consumer = service("millrace-consumer", &consumer_metrics, &consumer_metrics, &settings).await;
    let settings =
        [postgres_url.clone(), clickhouse_url, format!("--api-address={api}"), "--interval-ms=200".into()];
    let aggregator = service("millrace-aggregator", &api, &aggregator_metrics, &settings).await;
    let pool = PgPool::connect(postgres.url()).await.unwrap();
    millrace_aggregator::ensure_demo_store(&pool, &[]).await.unwrap();
    let settings = [log, spool, postgres_url, format!("--address={collector}")];
    let collecting = service("millrace-collector", &collector, &collector_metrics, &settings).await;
    let mut shop = Shop {
        collector: format!("http://{collector}"),
        clickhouse: engine.url(),
        postgres: pool,
        sent: BTreeMap::new(),
    };

    let first = ids(200);
    shop.send(&first, &clock).await;
    shop.is_whole("at first").await;

    clock = clock.set(ahead_s - 3600);
    shop.sees(&clock).await;
    let second = ids(200);
    shop.send(&second, &clock).await;
    // Copies, received "earlier" than what they are copies of.
    shop.send(&first, &clock).await;
    shop.is_whole("an hour back").await;

    clock = clock.set(ahead_s + 3600);
    shop.sees(&clock).await;
    let third = ids(200);
    shop.send(&third, &clock).await;
    shop.send(&first, &clock).await;
    shop.send(&second, &clock).await;
    shop.is_whole("two hours forward").await;

    // Nobody is confused: ready, keys read a moment ago, nothing behind, nothing said of a panic.
    for (address, path) in [(&collector, "readyz"), (&consumer_metrics, "readyz"), (&api, "readyz")] {
        let answer = reqwest::get(format!("http://{address}/{path}")).await.unwrap();
        assert!(answer.status().is_success(), "{:?}", answer.text().await);
    }
    for (address, name) in [
        (&collector_metrics, "millrace_collector_keys_age_seconds"),
        (&aggregator_metrics, "millrace_aggregator_watermark_age_seconds"),
    ] {
        let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|seconds| (0.0..120.0).contains(&seconds)), "{name} {value:?}");
    }
    for (mut process, name) in [
        (collecting, "millrace-collector"),
        (consumer, "millrace-consumer"),
        (aggregator, "millrace-aggregator"),
    ] {
        let status = process.stop(Signal::TERM, STOP_PATIENCE).await.unwrap();
        let said = std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap();
        assert!(status.success() && !said.contains("panicked"), "{name}: {status} {said}");
    }
}
