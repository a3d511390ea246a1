//! The collector's clock is wrong, or is set while it runs: what is accepted is in the log all the same.
//!
//! libfaketime stands between the process and the kernel's clock; the monotonic clock stays as it is.

use std::{path::PathBuf, time::Duration};

use millrace_embedded::{process::Signal, testbed::Kafka};
use millrace_schemas::topic;

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

/// Kafka refuses what is an hour ahead of its own clock, if it is told the sender's time.
#[tokio::test]
async fn a_clock_far_from_the_brokers_holds_nothing_up() {
    let kafka = Kafka::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    let set = |hours: i64| {
        std::fs::write(dir.path().join("new"), format!("{:+}\n", hours * 3600)).unwrap();
        std::fs::rename(dir.path().join("new"), &clock).unwrap();
    };
    set(0);
    let variables = [
        ("LD_PRELOAD", library().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
    ];
    let arguments = [
        "--log=kafka".to_owned(),
        format!("--kafka-brokers={}", kafka.bootstrap()),
        "--client-requests-per-second=1".to_owned(),
    ];
    let mut collector = Collector::start_with(&arguments, &variables).await;
    let (client, url) = (client(), format!("{}/v1/collect", collector.url()));
    let body = r#"{"type":"event","name":"test","visitor_id":"v"}"#;
    let post = async || {
        let answer = client.post(&url).header("x-write-key", WRITE_KEY).body(body).send().await.unwrap();
        answer.status().as_u16()
    };
    let mut accepted = 0;
    for hours in [0, 30, -30] {
        set(hours);
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
