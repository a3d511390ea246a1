//! The log on a real broker.

use std::time::{Duration, Instant};

use millrace_collector::LogKind;
use millrace_schemas::topic;
use millrace_testbed::{Fence, Kafka};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
};

use crate::service::{Service, eventually};

const PATIENCE: Duration = Duration::from_secs(120);

struct Record {
    key: String,
    value: String,
    schema: String,
}

/// Waits until Kafka gets everything at once.
pub(crate) async fn is_direct(service: &Service) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let answer = service.get("/readyz").await;
        if answer.status == 200 && answer.body["reasons"].is_null() {
            return;
        }
        assert!(Instant::now() < deadline, "{}", answer.body);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
    is_direct(&service).await;

    let mut acknowledged = Vec::new();
    for number in 0..20 {
        assert_eq!(service.post(events(number)).await.status, 202);
        acknowledged.push(number);
    }
    let click = r#"{"type":"click","url":"https://a.example/","x":1,"y":2,"visitor_id":"v"}"#;
    assert_eq!(service.post(click).await.status, 202);
    let records = read(&bootstrap, topic::CLICKS);
    assert_eq!((records[0].key.as_str(), records[0].schema.as_str()), ("demo:v", topic::SCHEMA_VERSION));

    // A broker that hangs, and one that is killed: the spool acknowledges what it does not.
    kafka.pause().unwrap();
    assert_eq!(service.post(events(100)).await.status, 202);
    let ready = service.get("/readyz").await;
    assert_eq!((ready.status, ready.body["status"].as_str()), (200, Some("ready")));
    let reason = ready.body["reasons"][0].as_str().unwrap();
    assert!(reason.contains("Kafka") && reason.contains("in the spool"), "{reason}");
    // Only the first has to wait for Kafka; all of them would for longer than this.
    let started = Instant::now();
    for number in 101..121 {
        assert_eq!(service.post(events(number)).await.status, 202);
        acknowledged.push(number);
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(service.metric("millrace_collector_spooling"), 1.0);
    kafka.resume().unwrap();
    is_direct(&service).await;
    assert_eq!(service.get("/readyz").await.body["reasons"], serde_json::Value::Null);

    kafka.kill9().unwrap();
    assert_eq!(service.post(events(300)).await.status, 202);
    let says_so = async || service.get("/readyz").await.body["reasons"][0].is_string();
    eventually("it says so", says_so).await;
    assert_eq!(service.post(events(301)).await.status, 202);
    kafka.restart().await.unwrap();
    is_direct(&service).await;
    assert!(
        service.metric("millrace_collector_spool_drained_messages_total{topic=\"millrace.events\"}") >= 23.0
    );
    assert_eq!(service.post(events(400)).await.status, 202);
    acknowledged.extend([100, 300, 301, 400]);
    let queue = "millrace_collector_log_queue_messages";
    eventually("nothing is queued", async || service.metric(queue) == 0.0).await;
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
async fn a_full_queue_is_a_detour_and_not_a_wait() {
    let mut kafka = Kafka::start().await.unwrap();
    let bootstrap = kafka.bootstrap();
    let service = Service::with(|config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers.clone_from(&bootstrap);
        config.log.kafka_queue_messages_max = 10;
        config.log.kafka_ack_timeout_ms = 60_000;
    })
    .await;
    is_direct(&service).await;
    kafka.pause().unwrap();
    let visitor = |number| format!(r#"{{"type":"event","name":"a","visitor_id":"{number}"}}"#);
    let many: Vec<_> = (0..20).map(visitor).collect();
    let (client, url) = (service.client.clone(), format!("{}/v1/collect", service.url));
    let waiting = tokio::spawn(async move {
        let request = client.post(url).bearer_auth("demo-write-key").body(format!("[{}]", many.join(",")));
        request.send().await.unwrap().status().as_u16()
    });
    // What the queue took waits for Kafka; what comes after it does not.
    eventually("it spools", async || service.metric("millrace_collector_spooling") == 1.0).await;
    let started = Instant::now();
    assert_eq!(service.post(visitor(20)).await.status, 202);
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    kafka.resume().unwrap();
    assert_eq!(waiting.await.unwrap(), 202);
    is_direct(&service).await;
    service.stop().await;
    let mut keys: Vec<_> = read(&bootstrap, topic::EVENTS).into_iter().map(|record| record.key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 21);
}

#[tokio::test]
async fn it_starts_before_kafka_does() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.stop().await.unwrap();
    let bootstrap = kafka.bootstrap();
    let service = Service::with(|config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers.clone_from(&bootstrap);
    })
    .await;
    eventually("it is ready", async || service.get("/readyz").await.status == 200).await;
    assert_eq!(service.post(events(0)).await.status, 202);
    kafka.restart().await.unwrap();
    is_direct(&service).await;
    service.stop().await;
    assert_eq!(read(&bootstrap, topic::EVENTS).len(), 1);
}

#[tokio::test]
async fn a_producer_that_lost_every_broker_is_replaced() {
    let kafka = Kafka::start().await.unwrap();
    let fence = Fence::start(&kafka.bootstrap()).await.unwrap();
    let service = Service::with(|config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers = fence.bootstrap();
    })
    .await;
    is_direct(&service).await;

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    let mut is_lost = false;
    // Some come back by themselves, when their connections end at the right moment.
    for attempt in 0..6 {
        let emptied = fence.emptied();
        fence.raise();
        // A message that finds no topic makes the producer ask for metadata.
        admin.delete_topics(&[topic::EVENTS], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        assert_eq!(service.post(events(attempt)).await.status, 202);
        eventually("an answer lists no broker", async || fence.emptied() > emptied).await;
        // The statistics that tell of it are two seconds apart.
        let until = Instant::now() + Duration::from_secs(20);
        while !is_lost && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
            is_lost = service.get("/readyz").await.body["reasons"].to_string().contains("knows no broker");
        }
        eprintln!(
            "emptied {} lost {is_lost} {}",
            fence.emptied() - emptied,
            service.get("/readyz").await.body
        );
        fence.lower();
        if is_lost {
            break;
        }
        is_direct(&service).await;
    }
    assert!(is_lost, "the producer keeps its brokers");
    // The topic is made again as well.
    is_direct(&service).await;
    assert_eq!(service.post(events(100)).await.status, 202);
    service.stop().await;
    let records = read(&kafka.bootstrap(), topic::EVENTS);
    assert!(records.iter().any(|record| record.key == "demo:v-100"));
}
