use std::time::Duration;

use millrace_embedded::testbed::Kafka;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};

/// What was acknowledged before `kill -9` is there after a restart on the same directory.
#[tokio::test]
async fn a_killed_broker_comes_back_with_its_records() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.create_topics(&[("millrace.events", 6), ("millrace.clicks", 3)]).await.unwrap();
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    let record = FutureRecord::to("millrace.events").partition(2).key("visitor").payload("row");
    producer.send(record, Duration::from_secs(60)).await.unwrap();

    kafka.kill9().unwrap();
    kafka.restart().await.unwrap();

    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    let timeout = Duration::from_secs(60);
    let topic = consumer.fetch_metadata(Some("millrace.events"), timeout).unwrap();
    assert_eq!(topic.topics()[0].partitions().len(), 6);
    assert_eq!(consumer.fetch_watermarks("millrace.events", 2, timeout).unwrap(), (0, 1));
}

/// Tests run beside each other, each with a broker of its own.
#[tokio::test]
async fn brokers_do_not_share() {
    let (one, other) = tokio::join!(Kafka::start(), Kafka::start());
    let (one, other) = (one.unwrap(), other.unwrap());
    one.create_topics(&[("only.here", 1)]).await.unwrap();
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", other.bootstrap()).create().unwrap();
    assert!(consumer.fetch_metadata(None, Duration::from_secs(60)).unwrap().topics().is_empty());
}
