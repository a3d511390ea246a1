//! From a real Kafka into a real engine.

use std::time::{Duration, Instant};

use millrace_consumer::{Config, Log};
use millrace_schemas::{
    spool::Position,
    topic::{CLICKS, DEAD_LETTERS, EVENTS, SCHEMA_HEADER, SCHEMA_VERSION},
};
use millrace_testbed::{Engine, Kafka};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::parts::{Running, ask, ask_text, await_answer, await_so, click, config, event, tell};

const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Pair {
    pub(crate) engine: Engine,
    pub(crate) kafka: Kafka,
    pub(crate) config: Config,
}

impl Pair {
    pub(crate) async fn start(partitions: i32) -> Self {
        let (engine, kafka) = tokio::join!(Engine::start(), Kafka::start());
        let (engine, kafka) = (engine.unwrap(), kafka.unwrap());
        kafka.create_topics(&[(EVENTS, partitions), (CLICKS, partitions), (DEAD_LETTERS, 1)]).await.unwrap();
        let config = Config {
            log: Log::Kafka,
            kafka_brokers: kafka.bootstrap(),
            kafka_session_timeout_ms: 6_000,
            ..config(&engine, std::path::Path::new("unused"))
        };
        Self { engine, kafka, config }
    }

    pub(crate) fn client(&self, group: &str) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap())
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create()
            .unwrap()
    }

    /// What the group has on record for a partition of events.
    pub(crate) fn committed(&self, partition: i32) -> Option<(i64, String)> {
        let mut list = TopicPartitionList::new();
        list.add_partition(EVENTS, partition);
        let committed = self.client(&self.config.kafka_group).committed_offsets(list, PATIENCE).unwrap();
        let element = &committed.elements()[0];
        Some((element.offset().to_raw().filter(|offset| *offset >= 0)?, element.metadata().to_owned()))
    }

    pub(crate) fn set_committed(&self, partition: i32, position: Position) {
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(EVENTS, partition);
        element.set_offset(Offset::Offset(position.next as i64)).unwrap();
        element.set_metadata(serde_json::to_string(&position).unwrap());
        // A broker that has just started may still be making the topic in which it keeps positions.
        let client = self.client(&self.config.kafka_group);
        let until = Instant::now() + PATIENCE;
        while let Err(error) = client.commit(&list, CommitMode::Sync) {
            assert!(Instant::now() < until, "{error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn producer(&self, transactional: bool) -> BaseProducer {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", self.kafka.bootstrap());
        if transactional {
            settings.set("transactional.id", "test");
        }
        settings.create().unwrap()
    }

    pub(crate) fn produce(&self, topic: &str, partition: i32, values: impl IntoIterator<Item = String>) {
        send(&self.producer(false), topic, partition, values);
    }

    /// One message of events whose header names this version of rows.
    pub(crate) fn produce_version(&self, version: &str, value: &str) {
        let producer = self.producer(false);
        let header = Header { key: SCHEMA_HEADER, value: Some(version) };
        let record =
            BaseRecord::<str, str>::to(EVENTS).payload(value).headers(OwnedHeaders::new().insert(header));
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(PATIENCE).unwrap();
    }
}

pub(crate) fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    values: impl IntoIterator<Item = String>,
) {
    for value in values {
        let header = Header { key: SCHEMA_HEADER, value: Some(SCHEMA_VERSION) };
        let record = BaseRecord::to(topic)
            .partition(partition)
            .key("demo:visitor")
            .payload(&value)
            .headers(OwnedHeaders::new().insert(header));
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_two_topics_go_into_their_tables_and_a_restart_goes_on() {
    let pair = Pair::start(3).await;
    for partition in 0..3 {
        let first = partition as u64 * 1000;
        pair.produce(EVENTS, partition, (first..first + 500).map(event));
    }
    pair.produce(CLICKS, 1, (0..20).map(click));
    let running = Running::start(pair.config.clone());
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 1500).await;
    await_answer(&pair.engine, "SELECT count() FROM millrace.clicks", 20).await;
    running.stop().await;
    let (offset, metadata) = pair.committed(0).unwrap();
    assert_eq!((offset, metadata.as_str()), (500, r#"{"next":500}"#));

    pair.produce(EVENTS, 0, (500..600).map(event));
    let running = Running::start(pair.config.clone());
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 1600).await;
    let query = "SELECT uniqExact(event_id, _partition, _offset) FROM millrace.events";
    assert_eq!(ask(&pair.engine, query).await, 1600);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_batch_is_rebuilt_under_its_token() {
    let pair = Pair::start(1).await;
    pair.produce(EVENTS, 0, (0..100).map(event));
    let running = Running::start(pair.config.clone());
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 100).await;
    running.stop().await;
    // As if it had died after the insert and before the position moved; meanwhile its limits changed.
    pair.produce(EVENTS, 0, (100..150).map(event));
    pair.set_committed(0, Position { next: 0, pending_next: Some(100) });
    let running = Running::start(Config { batch_rows: 7, ..pair.config.clone() });
    await_answer(&pair.engine, "SELECT count() FROM millrace.events WHERE _offset >= 100", 50).await;
    assert_eq!(ask(&pair.engine, "SELECT count() FROM millrace.events").await, 150);
    running.stop().await;
    assert_eq!(pair.committed(0).unwrap().0, 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_of_aborted_transactions_are_part_of_ranges() {
    let pair = Pair::start(1).await;
    let producer = pair.producer(true);
    producer.init_transactions(PATIENCE).unwrap();
    for (first, commit) in [(0, true), (10, false), (20, true), (30, false)] {
        producer.begin_transaction().unwrap();
        send(&producer, EVENTS, 0, (first..first + 10).map(event));
        if commit {
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            producer.abort_transaction(PATIENCE).unwrap();
        }
    }
    // The range ends inside a gap: its last offset will never be seen.
    pair.set_committed(0, Position { next: 0, pending_next: Some(15) });
    let running = Running::start(pair.config.clone());
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 20).await;
    pair.produce(EVENTS, 0, [event(50)]);
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 21).await;
    let notes = running.health.readiness().notes;
    assert!(notes.is_empty(), "nothing was deleted: {notes:?}");
    running.stop().await;
    assert_eq!(pair.committed(0).unwrap().0, 45);
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_dead_lettered_where_people_see_it() {
    let pair = Pair::start(1).await;
    pair.produce(
        EVENTS,
        0,
        [event(0), format!("{}\nnot json\n{}", event(1), event(2)), "{\"store_id\":7}".into()],
    );
    pair.produce_version("99", &event(9));
    pair.produce(EVENTS, 0, [event(3)]);
    let running = Running::start(pair.config.clone());
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 4).await;
    await_answer(&pair.engine, "SELECT count() FROM millrace.dead_letters", 3).await;
    let query = "SELECT concat(reason, ' ', raw, ' ', toString(_offset), '.', toString(_row)) \
                 FROM millrace.dead_letters ORDER BY _offset LIMIT 1";
    assert_eq!(ask_text(&pair.engine, query).await, "undecodable not json 1.1");
    running.stop().await;

    let reader = pair.client("people");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(DEAD_LETTERS, 0, Offset::Beginning).unwrap();
    reader.assign(&list).unwrap();
    let mut shown = Vec::new();
    while shown.len() < 3 {
        let message = reader.poll(PATIENCE).expect("three records").unwrap();
        let record: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        shown.push(record["raw"].as_str().unwrap().to_owned());
    }
    assert_eq!(shown, ["not json".to_owned(), "{\"store_id\":7}".into(), event(9)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_consumers_share_and_take_over() {
    let pair = Pair::start(4).await;
    for partition in 0..4 {
        pair.produce(EVENTS, partition, (0..200).map(|number| event(partition as u64 * 10_000 + number)));
    }
    let first = Running::start(pair.config.clone());
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 800).await;
    let second = Running::start(pair.config.clone());
    for round in 1..10 {
        for partition in 0..4 {
            let base = partition as u64 * 10_000 + round * 200;
            pair.produce(EVENTS, partition, (base..base + 200).map(event));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    first.stop().await;
    await_answer(&pair.engine, "SELECT count() FROM millrace.events FINAL", 8000).await;
    assert_eq!(ask(&pair.engine, "SELECT count() FROM millrace.events").await, 8000);
    let health = second.health.clone();
    await_so("the second is well", || health.readiness().ready).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_is_read_on() {
    let mut pair = Pair::start(1).await;
    pair.produce(EVENTS, 0, (0..50).map(event));
    let running = Running::start(pair.config.clone());
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 50).await;
    pair.kafka.kill9().unwrap();
    let health = running.health.clone();
    await_so("the broker is missed", || !health.readiness().ready).await;
    pair.kafka.restart().await.unwrap();
    pair.produce(EVENTS, 0, (50..100).map(event));
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 100).await;
    await_so("well again", || health.readiness().ready).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_fits_into_memory_waits_in_kafka() {
    let mut pair = Pair::start(2).await;
    let running = Running::start(Config { memory_bytes: 8 << 20, ..pair.config.clone() });
    let health = running.health.clone();
    await_so("tables are made", || health.readiness().ready).await;
    pair.engine.kill9().unwrap();
    pair.produce(EVENTS, 0, [event(0)]);
    await_so("the engine is missed", || running.problems().contains("insert into")).await;
    // Both partitions are read until memory is full, paused, and read on from where they stood.
    for partition in 0..2 {
        let numbers = (1 + partition as u64 * 15_000..).step_by(50).take(300);
        let messages = numbers.map(|first| (first..first + 50).map(event).collect::<Vec<_>>().join("\n"));
        pair.produce(EVENTS, partition, messages);
    }
    pair.engine.restart().await.unwrap();
    await_answer(&pair.engine, "SELECT uniqExact(event_id) FROM millrace.events", 30_001).await;
    assert_eq!(ask(&pair.engine, "SELECT count() FROM millrace.events").await, 30_001);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_searched_from_kafka() {
    let pair = Pair::start(1).await;
    let running = Running::start(pair.config.clone());
    let health = running.health.clone();
    await_so("tables are made", || health.readiness().ready).await;
    let rule = "ALTER TABLE millrace.events ADD CONSTRAINT no_seven CHECK visitor_hash != 7";
    tell(&pair.engine, rule).await;
    pair.produce(EVENTS, 0, (0..300).map(event));
    let refused = (0..300).filter(|number| number % 97 == 7).count() as u64;
    await_answer(&pair.engine, "SELECT count() FROM millrace.events", 300 - refused).await;
    await_answer(&pair.engine, "SELECT count() FROM millrace.dead_letters", refused).await;
    pair.produce(EVENTS, 0, (300..400).filter(|number| number % 97 != 7).map(event));
    await_answer(&pair.engine, "SELECT count() FROM millrace.events WHERE _offset >= 300", 99).await;
    running.stop().await;
}
