//! The collector's clock is wrong, or is set while it runs: what is accepted is in the log all the same.
//!
//! libfaketime stands between the process and the kernel's clock; the monotonic clock stays as it is.

use std::{path::PathBuf, time::Duration};

use millrace_local::process::Signal;
use millrace_schemas::topic;
use millrace_testbed::Kafka;

use crate::{
    process::{Collector, client},
    service::{WRITE_KEY, eventually},
    shutdown::topic_values,
};

/// Debian's package `faketime`.
fn library() -> PathBuf {
    let multiarch = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = multiarch.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("Debian's package faketime; `make test` installs it")
}

/// The clock of a process that is started with its variables.
struct Clock {
    dir: tempfile::TempDir,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { dir: tempfile::tempdir().unwrap() };
        clock.set(0);
        clock
    }

    /// Sets it to so many hours ahead of the real one.
    fn set(&self, hours: i64) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, format!("{:+}\n", hours * 3600)).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

/// Kafka refuses what is an hour ahead of its own clock, if it is told the sender's time.
#[tokio::test]
async fn a_clock_far_from_the_brokers_holds_nothing_up() {
    let kafka = Kafka::start().await.unwrap();
    let clock = Clock::new();
    let arguments = [
        "--log=kafka".to_owned(),
        format!("--kafka-brokers={}", kafka.bootstrap()),
        "--client-requests-per-second=1".to_owned(),
    ];
    let mut collector = Collector::start_with(&arguments, &clock.variables()).await;
    let (client, url) = (client(), format!("{}/v1/collect", collector.url()));
    let body = r#"{"type":"event","name":"test","visitor_id":"v"}"#;
    let post = async || {
        let answer = client.post(&url).header("x-write-key", WRITE_KEY).body(body).send().await.unwrap();
        answer.status().as_u16()
    };
    let mut accepted = 0;
    for hours in [0, 30, -30] {
        clock.set(hours);
        // Longer than the clock's file is remembered; the rate is counted on the other clock, and lets this pass.
        let (start, before, mut limited) = (std::time::Instant::now(), accepted, 0);
        let is_over = |passed: usize, limited: usize| {
            let elapsed = start.elapsed();
            elapsed > Duration::from_secs(60)
                || elapsed > Duration::from_millis(2_500) && passed > 0 && limited > 0
        };
        while !is_over(accepted - before, limited) {
            match post().await {
                202 => accepted += 1,
                429 => limited += 1,
                status => panic!("{status} at {hours} hours: {}", collector.said()),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let passed = accepted - before;
        // Two seconds' worth at once, and then one a second.
        assert!(
            limited > 0 && (1..=3 + start.elapsed().as_secs() as usize).contains(&passed),
            "{passed} accepted, {limited} not, at {hours} hours"
        );
        let age = collector.metric("millrace_collector_keys_age_seconds").await;
        assert!((0.0..600.0).contains(&age), "{age} at {hours} hours");
    }
    let in_kafka = || topic_values(&kafka).iter().flat_map(|value| value.lines()).count();
    eventually("all of it is in Kafka", async || in_kafka() == accepted).await;
    let hours: std::collections::BTreeSet<_> = topic_values(&kafka)
        .iter()
        .map(|value| value.split("received_at\":\"").nth(1).unwrap()[..13].to_owned())
        .collect();
    assert!(hours.len() >= 3, "the clock was set: {hours:?} in {}", topic::EVENTS);
    collector.signal(Signal::TERM);
    let (status, _) = collector.ended(Duration::from_secs(120)).await;
    assert!(status.success() && !collector.said().contains("panicked"), "{}", collector.said());
}

/// What a clock far back receives would fall to its term of retention at once, behind a 202.
#[tokio::test]
async fn a_clock_far_back_receives_nothing() {
    let clock = Clock::new();
    let collector = Collector::start_with(&[], &clock.variables()).await;
    let (client, url) = (client(), collector.url());
    let post = async || {
        let body = r#"{"type":"event","name":"test","visitor_id":"v"}"#;
        let request = client.post(format!("{url}/v1/collect")).header("x-write-key", WRITE_KEY).body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let ready = async || {
        let answer = client.get(format!("{url}/readyz")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let days = 24;
    for (hours, status, reason) in [
        (0, 202, ""),
        (-400 * days, 503, "the newest receipt is of"),
        (-2 * days, 202, ""),
        (20 * days, 202, ""),
        (0, 503, "the newest receipt is of"),
        (18 * days, 202, ""),
    ] {
        clock.set(hours);
        // Longer than the clock's file is remembered.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        eventually(&format!("the clock is seen at {hours} hours"), async || post().await.0 == status).await;
        let ((_, answer), (ready, problems)) = (post().await, ready().await);
        assert_eq!(ready == 503, status == 503, "{hours} hours: {problems}");
        assert!(problems.contains(reason), "{hours} hours: {problems}");
        assert!(status == 202 || answer.contains("clock") && !answer.contains("newest_receipt"), "{answer}");
    }
    let kept = collector.dir.path().join("spool/newest_receipt");
    eventually("the newest receipt is kept", async || kept.exists()).await;
}
