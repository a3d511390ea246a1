//! Kafka away, with a real broker: the spool takes over, and everything acknowledged is in the topic afterwards.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use millrace_collector::{
    LogKind,
    encode::{Message, Topic},
    log::{Log as _, spool::SpoolLog},
};
use millrace_local::process::Signal;
use millrace_schemas::{
    spool::{CONSUMER_FILE, DURABLE_FILE, Position},
    topic,
};
use millrace_testbed::Kafka;

use crate::{
    kafka,
    process::{Collector, client},
    service::{Service, WRITE_KEY},
    shutdown::{Load, ids_of, topic_values},
};

const SPOOLING: &str = "millrace_collector_spooling";
/// A broker that was killed takes some seconds to come back, and more on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

async fn within(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All of the load comes from one address, and on a quiet machine as fast as its rate allows: it has none.
fn arguments(kafka: &Kafka) -> Vec<String> {
    vec![
        "--log=kafka".to_owned(),
        format!("--kafka-brokers={}", kafka.bootstrap()),
        "--client-requests-per-second=0".to_owned(),
        "--events-per-second=1000000".to_owned(),
    ]
}

async fn is_direct(collector: &Collector) {
    let deadline = Instant::now() + PATIENCE;
    while collector.metric(SPOOLING).await == 1.0 {
        assert!(Instant::now() < deadline, "it is not drained: {}", collector.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is_spooling(collector: &Collector) {
    within(PATIENCE, "it spools", async || collector.metric(SPOOLING).await == 1.0).await;
}

async fn refused(collector: &Collector) -> f64 {
    collector.metric("millrace_collector_rejected_total").await
}

#[tokio::test]
async fn a_broker_that_dies_and_one_that_hangs_under_load_lose_nothing_and_refuse_nobody() {
    let mut kafka = Kafka::start().await.unwrap();
    let mut collector = Collector::start(&arguments(&kafka)).await;
    is_direct(&collector).await;
    let load = Load::start(&collector, 16);
    load.has_accepted(200).await;

    kafka.kill9().unwrap();
    is_spooling(&collector).await;
    load.has_more(300).await;
    kafka.restart().await.unwrap();
    // The load goes on: the drain is faster than what comes in, and there is a moment for the handing over.
    is_direct(&collector).await;
    load.has_more(200).await;

    kafka.pause().unwrap();
    is_spooling(&collector).await;
    load.has_more(300).await;
    kafka.resume().unwrap();
    is_direct(&collector).await;
    load.has_more(200).await;

    assert_eq!(refused(&collector).await, 0.0, "{}", collector.said());
    assert!(collector.metric("millrace_collector_spool_drained_messages_total").await >= 600.0);
    let oldest = "millrace_collector_spool_oldest_age_seconds";
    within(PATIENCE, "nothing waits", async || collector.metric(oldest).await == 0.0).await;
    collector.signal(Signal::TERM);
    assert!(collector.ended(PATIENCE).await.0.success(), "{}", collector.said());
    let accepted = load.accepted().await;
    let values = topic_values(&kafka);
    let stored = ids_of(values.iter().map(String::as_str));
    assert!(accepted.is_subset(&stored), "{} accepted, {} stored", accepted.len(), stored.len());
}

#[tokio::test]
async fn the_last_copies_of_a_visitors_events_are_in_order() {
    let mut kafka = Kafka::start().await.unwrap();
    let mut arguments = arguments(&kafka);
    arguments.push("--kafka-ack-timeout-ms=1000".to_owned());
    let mut collector = Collector::start(&arguments).await;
    is_direct(&collector).await;
    let (client, url) = (client(), format!("{}/v1/collect", collector.url()));
    let mut sent = 0;
    let mut send = async |count: usize| {
        for _ in 0..count {
            let body = format!(r#"{{"type":"event","name":"n{sent}","visitor_id":"v"}}"#);
            let answer = client.post(&url).header("x-write-key", WRITE_KEY).body(body).send().await.unwrap();
            assert_eq!(answer.status(), 202);
            sent += 1;
        }
    };
    for round in 0..3 {
        send(20).await;
        if round == 1 {
            kafka.pause().unwrap();
        } else {
            kafka.kill9().unwrap();
        }
        send(20).await;
        if round == 1 {
            kafka.resume().unwrap();
        } else {
            kafka.restart().await.unwrap();
        }
        // Through the drain and the handing over.
        let deadline = Instant::now() + PATIENCE;
        while collector.metric(SPOOLING).await == 1.0 {
            assert!(Instant::now() < deadline, "it is drained");
            send(1).await;
        }
    }
    send(20).await;
    collector.signal(Signal::TERM);
    collector.ended(PATIENCE).await;
    let values = topic_values(&kafka);
    let mut last = HashMap::new();
    for (place, line) in values.iter().flat_map(|value| value.lines()).enumerate() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        last.insert(row["name"].as_str().unwrap().to_owned(), place);
    }
    let places: Vec<_> = (0..sent).map(|number| last[&format!("n{number}")]).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[tokio::test]
async fn a_collector_killed_with_a_full_hand_drains_it_when_it_starts_again() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.stop().await.unwrap();
    // It starts while the broker is away.
    let mut collector = Collector::start(&arguments(&kafka)).await;
    let load = Load::start(&collector, 8);
    load.has_accepted(200).await;
    collector.signal(Signal::KILL);
    collector.ended(PATIENCE).await;
    let mut accepted = load.accepted().await;

    collector.restart(&arguments(&kafka)).await;
    let load = Load::start(&collector, 8);
    load.has_accepted(200).await;
    kafka.restart().await.unwrap();
    within(PATIENCE, "it drains", async || {
        collector.metric("millrace_collector_spool_drained_messages_total").await > 0.0
    })
    .await;
    // Killed in the middle of the drain, or at its end: repeated is what was not recorded.
    collector.signal(Signal::KILL);
    collector.ended(PATIENCE).await;
    accepted.extend(load.accepted().await);

    collector.restart(&arguments(&kafka)).await;
    is_direct(&collector).await;
    let values = topic_values(&kafka);
    let stored = ids_of(values.iter().map(String::as_str));
    assert!(accepted.is_subset(&stored), "{} accepted, {} stored", accepted.len(), stored.len());
}

#[tokio::test]
async fn an_orderly_stop_while_kafka_answers_leaves_nothing_in_the_spool() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.stop().await.unwrap();
    let mut arguments = arguments(&kafka);
    arguments.push("--drain-timeout-ms=240000".to_owned());
    let mut collector = Collector::start(&arguments).await;
    let load = Load::start(&collector, 16);
    load.has_accepted(1_000).await;
    kafka.restart().await.unwrap();
    collector.has_metric("millrace_collector_spool_drained_messages_total", 1.0).await;
    collector.signal(Signal::TERM);
    assert!(collector.ended(2 * PATIENCE).await.0.success(), "{}", collector.said());
    let accepted = load.accepted().await;
    let values = topic_values(&kafka);
    let stored = ids_of(values.iter().map(String::as_str));
    assert!(accepted.is_subset(&stored), "{} accepted, {} stored", accepted.len(), stored.len());
    for topic in [topic::EVENTS, topic::CLICKS] {
        let dir = collector.spool(topic);
        let position: Position = serde_json::from_slice(&fs::read(dir.join(CONSUMER_FILE)).unwrap()).unwrap();
        let durable = u64::from_le_bytes(fs::read(dir.join(DURABLE_FILE)).unwrap().try_into().unwrap());
        assert_eq!(position.next, durable, "{topic}: {}", collector.said());
    }
    assert!(!collector.said().contains("left in the spool"), "{}", collector.said());
}

#[tokio::test]
async fn a_spool_that_is_full_or_too_old_refuses_until_it_is_drained() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.stop().await.unwrap();
    let event = |name: &str| format!(r#"{{"type":"event","name":"{name}","visitor_id":"v"}}"#);
    for (bytes_max, age_max, reason) in [(5_000, 3600, "full"), (1 << 30, 1, "spool-age-max-seconds")] {
        let service = Service::with(|config| {
            config.log.kind = LogKind::Kafka;
            config.log.kafka_brokers = kafka.bootstrap();
            config.log.spool_bytes_max = bytes_max;
            config.log.spool_store_percent_max = 100;
            config.log.spool_age_max_seconds = age_max;
        })
        .await;
        let mut last = service.post(event(reason)).await;
        assert_eq!(last.status, 202);
        within(PATIENCE, "it refuses", async || {
            last = service.post(event(reason)).await;
            last.status != 202
        })
        .await;
        assert_eq!(last.error(), (503, "unavailable"));
        assert!(last.headers.contains_key("retry-after"));
        if age_max == 1 {
            let ready = service.get("/readyz").await;
            assert_eq!(ready.status, 503);
            let said = ready.body["reasons"].to_string();
            assert!(said.contains("not been reached") && said.contains(reason), "{said}");
            let age = "millrace_collector_spool_oldest_age_seconds{topic=\"millrace.events\"}";
            within(PATIENCE, "it says how long", async || service.metric(age) > 1.0).await;
        }
        kafka.restart().await.unwrap();
        within(PATIENCE, "it accepts again", async || service.post(event("again")).await.status == 202).await;
        kafka::is_direct(&service).await;
        service.stop().await;
        let values = topic_values(&kafka).join("\n");
        assert!(values.contains(&format!(r#""name":"{reason}""#)) && values.contains(r#""name":"again""#));
        kafka.stop().await.unwrap();
    }
}

#[tokio::test]
async fn damage_stops_the_drain_and_is_said_and_ends_with_a_repair() {
    let kafka = Kafka::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let log = SpoolLog::open(&spool, 1 << 30, 200).unwrap();
    for number in 0..10 {
        let value = format!(r#"{{"event_id":"{number:0100}"}}"#);
        let message = Message { topic: Topic::Events, key: b"demo:v".to_vec(), value: value.into_bytes() };
        log.append(vec![message]).await.unwrap();
    }
    log.close(PATIENCE);
    drop(log);
    let segment = spool.join(topic::EVENTS).join("00000000000000000004.seg");
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[60] ^= 1;
    fs::write(&segment, damaged).unwrap();

    let service = Service::in_dir(dir, |config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers = kafka.bootstrap();
    })
    .await;
    let drained = "millrace_collector_spool_drained_messages_total{topic=\"millrace.events\"}";
    let says_so = async || service.get("/readyz").await.body["reasons"].to_string().contains("is damaged");
    within(PATIENCE, "what stands before it is drained", async || service.metric(drained) == 4.0).await;
    within(PATIENCE, "it says so", says_so).await;
    // It keeps its promise, and says what is wrong.
    assert_eq!(service.get("/readyz").await.status, 200);
    assert_eq!(service.post(r#"{"type":"event","name":"new","visitor_id":"v"}"#).await.status, 202);
    assert_eq!(service.metric(SPOOLING), 1.0);
    assert_eq!(service.metric(drained), 4.0, "nothing is skipped");

    fs::write(&segment, whole).unwrap();
    kafka::is_direct(&service).await;
    assert_eq!(service.metric(SPOOLING), 0.0);
    assert_eq!(service.metric(drained), 11.0);
    service.stop().await;
    let values = topic_values(&kafka);
    assert_eq!(values.len(), 11);
    assert!(values[10].contains("\"new\""), "in order");
}
