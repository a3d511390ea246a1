//! Signals to a real process: what was acknowledged is in the log, and the end comes in time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millrace_local::process::Signal;
use millrace_schemas::topic;
use millrace_testbed::Kafka;
use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, Consumer as _},
};
use uuid::Uuid;

use crate::{
    process::{Collector, client},
    service::{WRITE_KEY, eventually, records},
};

/// For what takes a moment on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(120);

fn body(event_id: Uuid) -> String {
    format!(r#"{{"type":"event","name":"test","visitor_id":"v","event_id":"{event_id}"}}"#)
}

/// Clients that send one event after the other until nobody answers any more.
pub(crate) struct Load {
    senders: Vec<tokio::task::JoinHandle<Vec<Uuid>>>,
    accepted: Arc<std::sync::atomic::AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Load {
    pub(crate) fn start(collector: &Collector, senders: usize) -> Self {
        let (accepted, stop) = (Arc::default(), Arc::<AtomicBool>::default());
        let send = |_| {
            let (accepted, stop) =
                (Arc::<std::sync::atomic::AtomicUsize>::clone(&accepted), Arc::clone(&stop));
            let (client, url) = (client(), format!("{}/v1/collect", collector.url()));
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = Uuid::now_v7();
                    let request = client.post(&url).header("x-write-key", WRITE_KEY).body(body(id));
                    match request.send().await {
                        Ok(answer) if answer.status() == 202 => {
                            ids.push(id);
                            accepted.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(_) => {}
                        // It listens no more.
                        Err(error) if error.is_connect() => break,
                        Err(_) => {}
                    }
                }
                ids
            })
        };
        Self { senders: (0..senders).map(send).collect(), accepted, stop }
    }

    pub(crate) async fn has_accepted(&self, events: usize) {
        let accepted = &self.accepted;
        eventually("events are accepted", async || accepted.load(Ordering::Relaxed) >= events).await;
    }

    pub(crate) async fn has_more(&self, events: usize) {
        self.has_accepted(self.accepted.load(Ordering::Relaxed) + events).await;
    }

    pub(crate) async fn accepted(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut ids = BTreeSet::new();
        for sender in self.senders {
            ids.extend(sender.await.unwrap().iter().map(Uuid::to_string));
        }
        ids
    }
}

pub(crate) fn ids_of<'a>(values: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let id = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["event_id"].as_str().unwrap().to_owned()
    };
    values.into_iter().flat_map(str::lines).map(id).collect()
}

#[tokio::test]
async fn every_answer_under_load_is_in_the_spool() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut collector = Collector::start(&[]).await;
        let load = Load::start(&collector, 16);
        load.has_accepted(200).await;
        collector.signal(signal);
        let (status, took) = collector.ended(PATIENCE).await;
        assert!(status.success(), "{status} {}", collector.said());
        assert!(took < Duration::from_secs(25), "{took:?}");
        let accepted = load.accepted().await;
        let records = records(&collector.spool(topic::EVENTS));
        let stored = ids_of(records.iter().map(|(_, value)| value.as_str()));
        assert!(accepted.is_subset(&stored), "{} accepted, {} stored", accepted.len(), stored.len());
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_loses_nothing() {
    let mut collector = Collector::start(&["--drain-delay-ms=60000".into()]).await;
    let load = Load::start(&collector, 16);
    load.has_accepted(200).await;
    collector.signal(Signal::TERM);
    eventually("it is no longer ready", async || !collector.is_ready().await).await;
    collector.signal(Signal::INT);
    let (status, took) = collector.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(130), "{}", collector.said());
    assert!(took < Duration::from_secs(30), "{took:?}");
    let accepted = load.accepted().await;
    let records = records(&collector.spool(topic::EVENTS));
    let stored = ids_of(records.iter().map(|(_, value)| value.as_str()));
    assert!(accepted.is_subset(&stored), "{} accepted, {} stored", accepted.len(), stored.len());
}

#[tokio::test]
async fn load_balancers_are_given_time() {
    let mut collector = Collector::start(&["--drain-delay-ms=10000".into()]).await;
    let (client, url) = (client(), format!("{}/v1/collect", collector.url()));
    let post =
        async || client.post(&url).header("x-write-key", WRITE_KEY).body(body(Uuid::now_v7())).send().await;
    assert!(!post().await.unwrap().headers().contains_key("connection"));
    collector.signal(Signal::TERM);
    eventually("it is no longer ready", async || !collector.is_ready().await).await;
    let answer = post().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["connection"]), (202, &"close".parse().unwrap()));
    eventually("it listens no more", async || post().await.is_err()).await;
    let (status, _) = collector.ended(PATIENCE).await;
    assert!(status.success(), "{status}");
}

/// Everything in the topic.
pub(crate) fn topic_values(kafka: &Kafka) -> Vec<String> {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic::EVENTS), PATIENCE).unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic::EVENTS, partition.id(), rdkafka::Offset::Beginning).unwrap();
        left += 1;
    }
    consumer.assign(&list).unwrap();
    let mut values = Vec::new();
    while left > 0 {
        match consumer.poll(PATIENCE).expect("the topic is read to its end") {
            Ok(message) => values.push(String::from_utf8(message.payload().unwrap().to_vec()).unwrap()),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => left -= 1,
            Err(error) => panic!("{error}"),
        }
    }
    values
}

/// What is in Kafka, or in the collector's spool on its way there.
fn stored(kafka: &Kafka, collector: &Collector) -> BTreeSet<String> {
    let values = topic_values(kafka);
    let mut stored = ids_of(values.iter().map(String::as_str));
    let spooled = records(&collector.spool(topic::EVENTS));
    stored.extend(ids_of(spooled.iter().map(|(_, value)| value.as_str())));
    stored
}

#[tokio::test]
async fn every_answer_under_load_is_in_kafka_and_a_broker_that_hangs_keeps_no_process_alive() {
    let mut kafka = Kafka::start().await.unwrap();
    let bootstrap = kafka.bootstrap();
    let settings = |drain_timeout_ms: u32| {
        [
            "--log=kafka".to_owned(),
            format!("--kafka-brokers={bootstrap}"),
            "--kafka-ack-timeout-ms=60000".to_owned(),
            format!("--drain-timeout-ms={drain_timeout_ms}"),
        ]
    };
    let mut collector = Collector::start(&settings(15_000)).await;
    let load = Load::start(&collector, 16);
    load.has_accepted(200).await;
    collector.signal(Signal::TERM);
    let (status, _) = collector.ended(PATIENCE).await;
    assert!(status.success(), "{status} {}", collector.said());
    let accepted = load.accepted().await;
    let before = stored(&kafka, &collector);
    assert!(accepted.is_subset(&before), "{} accepted, {} stored", accepted.len(), before.len());

    // A broker that hangs: one signal ends within the stated time and says what happened, two end at once. Kafka would be
    // waited for for a minute.
    for (signals, drain_timeout_ms) in [(1, 4_000), (2, 60_000)] {
        let mut collector = Collector::start(&settings(drain_timeout_ms)).await;
        let spooling = "millrace_collector_spooling";
        eventually("it is direct", async || collector.metric(spooling).await == 0.0).await;
        let load = Load::start(&collector, 16);
        load.has_accepted(50).await;
        kafka.pause().unwrap();
        // Whatever was under way then may have been answered. What arrives from now on cannot be.
        let bodies = "millrace_collector_body_bytes_total";
        let before = collector.metric(bodies).await;
        let late = Load::start(&collector, 1);
        eventually("a body arrives", async || collector.metric(bodies).await > before).await;
        for _ in 0..signals {
            collector.signal(Signal::TERM);
            eventually("it heard", async || collector.said().contains("draining")).await;
        }
        let (status, took) = collector.ended(PATIENCE).await;
        kafka.resume().unwrap();
        if signals == 2 {
            assert_eq!(status.code(), Some(130), "{}", collector.said());
            assert!(took < Duration::from_secs(20), "{took:?}");
        } else {
            assert!(status.success(), "{status} {}", collector.said());
            assert!(took < Duration::from_secs(20), "{took:?} {}", collector.said());
            assert!(collector.said().contains("in time"), "{}", collector.said());
        }
        let mut accepted = load.accepted().await;
        accepted.extend(late.accepted().await);
        let stored = stored(&kafka, &collector);
        assert!(accepted.is_subset(&stored), "{} accepted, {} stored", accepted.len(), stored.len());
    }
}
