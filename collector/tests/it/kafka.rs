//! The log on a real broker.

use std::time::{Duration, Instant};

use millrace_collector::LogKind;
use millrace_embedded::testbed::Kafka;
use millrace_schemas::topic;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
};

use crate::service::{Service, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

struct Record {
    key: String,
    value: String,
    schema: String,
}

/// Everything in the topic's partitions.
fn read(bootstrap: &str, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE).unwrap();
        left += high - low;
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut records = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while left > 0 {
        assert!(Instant::now() < deadline, "{left} messages are missing");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.unwrap();
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let header = message.headers().unwrap().get(0);
        assert_eq!(header.key, topic::SCHEMA_HEADER);
        records.push(Record {
            key: text(message.key()),
            value: text(message.payload()),
            schema: text(header.value),
        });
        left -= 1;
    }
    records
}

fn events(number: usize) -> String {
    let event = |index| format!(r#"{{"type":"event","name":"{number}-{index}","visitor_id":"v-{number}"}}"#);
    format!("[{},{}]", event(0), event(1))
}

#[tokio::test]
async fn acknowledged_events_are_in_kafka_whatever_happens_to_it() {
    let mut kafka = Kafka::start().await.unwrap();
    let bootstrap = kafka.bootstrap();
    let service = Service::with(|config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers.clone_from(&bootstrap);
        config.log.kafka_ack_timeout_ms = 1_500;
        config.log.partitions = 3;
    })
    .await;
    eventually("it gets ready", async || service.get("/readyz").await.status == 200).await;

    let mut acknowledged = Vec::new();
    for number in 0..20 {
        assert_eq!(service.post(events(number)).await.status, 202);
        acknowledged.push(number);
    }
    let click = r#"{"type":"click","url":"https://a.example/","x":1,"y":2,"visitor_id":"v"}"#;
    assert_eq!(service.post(click).await.status, 202);
    let records = read(&bootstrap, topic::CLICKS);
    assert_eq!((records[0].key.as_str(), records[0].schema.as_str()), ("demo:v", topic::SCHEMA_VERSION));

    // A broker that hangs, and one that is killed: nothing is acknowledged that it did not take.
    kafka.pause().unwrap();
    let answer = service.post(events(100)).await;
    assert_eq!(answer.error(), (503, "unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
    kafka.resume().unwrap();
    eventually("it goes on", async || service.post(events(200)).await.status == 202).await;
    acknowledged.push(200);

    kafka.kill9().unwrap();
    assert_eq!(service.post(events(300)).await.error(), (503, "unavailable"));
    eventually("it says so", async || service.get("/readyz").await.status == 503).await;
    assert_eq!(service.post(events(301)).await.error(), (503, "unavailable"));
    kafka.restart().await.unwrap();
    eventually("it is ready again", async || service.get("/readyz").await.status == 200).await;
    eventually("it goes on", async || service.post(events(400)).await.status == 202).await;
    acknowledged.push(400);
    assert_eq!(service.metric("millrace_collector_log_queue_messages"), 0.0);
    service.stop().await;

    let records = read(&bootstrap, topic::EVENTS);
    for number in acknowledged {
        let own: Vec<_> = records.iter().filter(|record| record.key == format!("demo:v-{number}")).collect();
        assert!(!own.is_empty(), "{number} was acknowledged and is lost");
        let lines: Vec<_> = own[0].value.lines().collect();
        assert_eq!(lines.len(), 2, "one message per visitor and request");
        assert!(lines[0].contains(&format!("{number}-0")) && lines[1].contains(&format!("{number}-1")));
    }
}

#[tokio::test]
async fn a_full_queue_is_a_refusal_and_not_a_wait() {
    let mut kafka = Kafka::start().await.unwrap();
    let bootstrap = kafka.bootstrap();
    let service = Service::with(|config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers = bootstrap;
        config.log.kafka_queue_messages_max = 10;
        config.log.kafka_ack_timeout_ms = 60_000;
    })
    .await;
    eventually("it gets ready", async || service.get("/readyz").await.status == 200).await;
    kafka.pause().unwrap();
    let visitor = |number| format!(r#"{{"type":"event","name":"a","visitor_id":"{number}"}}"#);
    let many: Vec<_> = (0..20).map(visitor).collect();
    let started = Instant::now();
    let answer = service.post(format!("[{}]", many.join(","))).await;
    assert_eq!(answer.error(), (503, "unavailable"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    kafka.resume().unwrap();
    eventually("it goes on", async || service.post(visitor(1)).await.status == 202).await;
    service.stop().await;
}

#[tokio::test]
async fn it_starts_before_kafka_does() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.stop().await.unwrap();
    let bootstrap = kafka.bootstrap();
    let service = Service::with(|config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers = bootstrap;
    })
    .await;
    assert_eq!(service.get("/readyz").await.status, 503);
    assert_eq!(service.post(events(0)).await.error(), (503, "unavailable"));
    kafka.restart().await.unwrap();
    eventually("the topics are made", async || service.post(events(0)).await.status == 202).await;
    service.stop().await;
}
