//! What Kafka deletes before it is read, told by consumers as processes: on their `/metrics` and in their `/readyz`.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
    time::Duration,
};

use millrace_local::process::{Process, Signal, bound};
use millrace_schemas::{spool::Position, topic::EVENTS};
use millrace_testbed::Port;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use crate::{
    kafka::Pair,
    parts::{ask, await_answer, await_so, event},
};

const PATIENCE: Duration = Duration::from_secs(180);
const PLACES: &str = "SELECT uniqExact(_partition, _offset) FROM millrace.events";

/// A consumer's process.
struct Consumer {
    process: Process,
    port: Port,
}

impl Consumer {
    fn start(pair: &Pair, settings: &[&str]) -> Self {
        let port = Port::reserve().unwrap();
        let mut command = bound(Signal::KILL, env!("CARGO_BIN_EXE_millrace-consumer"));
        command
            .args(["--kafka-brokers", &pair.config.kafka_brokers])
            .args(["--kafka-session-timeout-ms", &pair.config.kafka_session_timeout_ms.to_string()])
            .args(["--clickhouse-url", &pair.config.clickhouse_url])
            .args(["--batch-age-ms", "50", "--retry-first-ms", "20", "--retry-max-ms", "200"])
            .args(["--metrics-address", &format!("127.0.0.1:{}", port.number())])
            .args(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { process: Process::spawn(command).unwrap(), port }
    }

    async fn stop(mut self) {
        let status = self.process.stop(Signal::TERM, PATIENCE).await.unwrap();
        assert!(status.success(), "{status}");
    }

    /// The code and the body of an answer; nothing before it listens.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let address = format!("127.0.0.1:{}", self.port.number());
        let mut stream = TcpStream::connect(&address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// The value of a metric, named as it stands there.
    fn metric(&self, name: &str) -> Option<u64> {
        let (_, metrics) = self.get("/metrics")?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.parse::<f64>().ok().map(|value| value as u64)
    }

    fn lost_events(&self) -> Option<u64> {
        self.metric(r#"millrace_consumer_lost_messages_total{topic="millrace.events"}"#)
    }

    /// What is noted, once it is ready.
    async fn notes(&self) -> serde_json::Map<String, serde_json::Value> {
        await_so("it is ready", || self.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
        let (_, body) = self.get("/readyz").unwrap();
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        answer["notes"].as_object().cloned().unwrap_or_default()
    }
}

/// Deletes what lies below these offsets, by partition of events.
async fn delete_below(pair: &Pair, offsets: &[(i32, i64)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", pair.kafka.bootstrap()).create().unwrap();
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(EVENTS, *partition, Offset::Offset(*offset)).unwrap();
    }
    let deleted = admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
    for element in deleted.elements() {
        element.error().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_nobody_read_is_counted_and_named_and_the_rest_is_stored() {
    let pair = Pair::start(5).await;
    for partition in 0..5 {
        let first = partition as u64 * 100;
        pair.produce(EVENTS, partition, (first..first + 40).map(event));
    }
    // Of each partition 40 were accepted. Stored are the first ten; a batch of 20 is on record, stored or not; stored are
    // five, and all was deleted; nothing was ever read; and the position is one of a log before this one.
    pair.set_committed(0, Position { next: 10, pending_next: None });
    pair.set_committed(1, Position { next: 0, pending_next: Some(20) });
    pair.set_committed(2, Position { next: 5, pending_next: None });
    pair.set_committed(4, Position { next: 100, pending_next: None });
    delete_below(&pair, &[(0, 30), (1, 10), (2, 40), (3, 30)]).await;

    let consumer = Consumer::start(&pair, &[]);
    await_answer(&pair.engine, PLACES, 10 + 30 + 10 + 40).await;
    await_so("all of it is counted", || consumer.lost_events() == Some(20 + 10 + 35 + 30)).await;
    let clicks = consumer.metric(r#"millrace_consumer_lost_messages_total{topic="millrace.clicks"}"#);
    assert_eq!(clicks, Some(0), "of the other topic nothing was deleted");
    let notes = consumer.notes().await;
    for (part, said) in [
        ("millrace.events/0", "read: 20, the last of them offsets 10 to 29;"),
        ("millrace.events/1", "read: 10, the last of them offsets 0 to 9;"),
        ("millrace.events/2", "read: 35, the last of them offsets 5 to 39;"),
        ("millrace.events/3", "read: 30, the last of them offsets 0 to 29;"),
        ("millrace.events/4 log", "offset 100 should have come, and 0 did"),
    ] {
        assert!(notes[part].as_str().unwrap().contains(said), "{part}: {notes:?}");
    }
    assert_eq!(notes.len(), 5, "{notes:?}");
    let stored = |partition| pair.committed(partition).is_some_and(|(offset, _)| offset == 40);
    await_so("every position is at the end", || (0..5).all(stored)).await;
    consumer.stop().await;

    // What the position has passed is not told again.
    let consumer = Consumer::start(&pair, &[]);
    pair.produce(EVENTS, 2, [event(999)]);
    await_answer(&pair.engine, PLACES, 91).await;
    assert_eq!((consumer.lost_events(), consumer.notes().await.len()), (Some(0), 0));
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_before_a_reader_that_waits_is_counted_and_the_rest_is_stored() {
    const LINES: u64 = 50;
    let mut pair = Pair::start(1).await;
    let consumer = Consumer::start(&pair, &["--memory-bytes", "8388608"]);
    pair.produce(EVENTS, 0, [event(0)]);
    await_answer(&pair.engine, PLACES, 1).await;
    // Nothing can leave, and far more comes than fits into memory.
    pair.engine.kill9().unwrap();
    let messages = (1..=1200).map(|number| {
        let lines = (number * LINES..(number + 1) * LINES).map(event);
        lines.collect::<Vec<_>>().join("\n")
    });
    pair.produce(EVENTS, 0, messages);
    await_so("its partition is paused", || consumer.metric("millrace_consumer_paused_partitions") == Some(1))
        .await;
    delete_below(&pair, &[(0, 1100)]).await;
    pair.engine.restart().await.unwrap();

    await_so("what was deleted is counted", || consumer.lost_events().is_some_and(|lost| lost > 0)).await;
    let lost = consumer.lost_events().unwrap();
    await_answer(&pair.engine, PLACES, 1201 - lost).await;
    let rows = "SELECT uniqExact(event_id) FROM millrace.events";
    await_answer(&pair.engine, rows, 1 + (1200 - lost) * LINES).await;
    let above = "SELECT uniqExact(_offset) FROM millrace.events WHERE _offset >= 1100";
    assert_eq!(ask(&pair.engine, above).await, 101);
    assert_eq!(consumer.lost_events(), Some(lost));
    let notes = consumer.notes().await;
    let said = format!("read: {lost}, the last of them offsets {} to 1099;", 1100 - lost);
    assert!(notes["millrace.events/0"].as_str().unwrap().contains(&said), "{notes:?}");
    consumer.stop().await;
}
