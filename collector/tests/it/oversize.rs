//! Messages that a real broker refuses for their size: nothing that was acknowledged is lost, and nobody waits behind them.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use millrace_collector::{Config, LogKind};
use millrace_schemas::topic;
use millrace_testbed::Kafka;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
};

use crate::{
    kafka,
    service::{Answer, Service, eventually, records},
    shutdown::{ids_of, topic_values},
};

const LOW: &str = "65536";
const WAITING: &str = "millrace_collector_refused_by_kafka_waiting_rows{topic=\"millrace.events\"}";

fn admin(kafka: &Kafka) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap()
}

async fn create_topics(kafka: &Kafka, bytes_max: &str) {
    let topics = topic::ALL
        .map(|name| NewTopic::new(name, 2, TopicReplication::Fixed(1)).set("max.message.bytes", bytes_max));
    for created in admin(kafka).create_topics(&topics, &AdminOptions::new()).await.unwrap() {
        created.unwrap();
    }
}

async fn alter_topics(kafka: &Kafka, bytes_max: &str) {
    let configs = topic::ALL
        .map(|name| AlterConfig::new(ResourceSpecifier::Topic(name)).set("max.message.bytes", bytes_max));
    for altered in admin(kafka).alter_configs(&configs, &AdminOptions::new()).await.unwrap() {
        altered.unwrap();
    }
}

/// A collector whose events may be larger than the topics take, as they are: nothing is compressed.
async fn service(kafka: &Kafka) -> Service {
    let bootstrap = kafka.bootstrap();
    Service::with(|config: &mut Config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers = bootstrap;
        config.log.kafka_compression = "none".into();
        config.limits.event_bytes_max = 256 << 10;
        config.limits.string_bytes_max = 32 << 10;
    })
    .await
}

/// Events of one visitor, of about so many bytes each.
async fn send(service: &Service, visitor: &str, rows: &[usize], accepted: &mut BTreeSet<String>) -> Answer {
    let mut ids = Vec::new();
    let event = |bytes: &usize| {
        let id = uuid::Uuid::now_v7().to_string();
        ids.push(id.clone());
        let fillers = (0..bytes.div_ceil(20_000))
            .map(|number| format!(r#","p{number}":"{}""#, "x".repeat(20_000.min(*bytes))))
            .collect::<String>();
        format!(
            r#"{{"type":"event","name":"test","visitor_id":"{visitor}","event_id":"{id}","properties":{{"a":1{fillers}}}}}"#
        )
    };
    let events: Vec<_> = rows.iter().map(event).collect();
    let answer = service.post(format!("[{}]", events.join(","))).await;
    if answer.status == 202 {
        let refused: Vec<_> = answer.reasons().into_iter().map(|(index, _)| index as usize).collect();
        let kept = ids.into_iter().enumerate().filter(|(index, _)| !refused.contains(index));
        accepted.extend(kept.map(|(_, id)| id));
    }
    answer
}

fn refused_dir(service: &Service) -> PathBuf {
    service.dir.path().join("spool/refused").join(topic::EVENTS)
}

fn kept(service: &Service) -> BTreeSet<String> {
    let dir = refused_dir(service);
    match dir.exists() {
        true => ids_of(records(&dir).iter().map(|(_, value)| value.as_str())),
        false => BTreeSet::new(),
    }
}

fn in_kafka(kafka: &Kafka) -> BTreeSet<String> {
    ids_of(topic_values(kafka).iter().map(String::as_str))
}

/// Waits until Kafka gets everything at once, whatever is kept aside.
async fn is_direct(service: &Service) {
    let spooling = "millrace_collector_spooling";
    let is_ready = async || service.get("/readyz").await.status == 200;
    eventually("it is drained", async || is_ready().await && service.metric(spooling) == 0.0).await;
}

#[tokio::test]
async fn what_waits_in_the_spool_and_is_too_large_holds_nobody_up() {
    let mut kafka = Kafka::start().await.unwrap();
    create_topics(&kafka, LOW).await;
    kafka.stop().await.unwrap();
    let service = service(&kafka).await;
    let mut accepted = BTreeSet::new();
    // One message of many rows, one row that no message can hold, one of either kind; and small ones around them.
    for (visitor, rows) in [
        ("a", &[100; 5][..]),
        ("b", &[18_000; 12]),
        ("c", &[100]),
        ("d", &[100_000]),
        ("e", &[100, 100_000, 100, 30_000, 30_000, 30_000]),
        ("f", &[100; 5]),
    ] {
        assert_eq!(send(&service, visitor, rows, &mut accepted).await.status, 202, "{visitor}");
    }
    assert_eq!(accepted.len(), 30);
    kafka.restart().await.unwrap();
    is_direct(&service).await;
    // What is accepted is stored, or kept where it can be delivered from; and it is said.
    let (stored, aside) = (in_kafka(&kafka), kept(&service));
    assert_eq!((stored.len(), aside.len()), (28, 2));
    assert_eq!(&stored | &aside, accepted);
    assert_eq!(service.metric(WAITING), 2.0);
    let ready = service.get("/readyz").await;
    let said = ready.body["reasons"].to_string();
    assert!(
        ready.status == 200 && said.contains("2 acknowledged rows") && said.contains("max.message.bytes"),
        "{said}"
    );

    // By now the limit is known: nothing is acknowledged any more that Kafka would refuse.
    let answer = send(&service, "d", &[100_000], &mut accepted).await;
    assert_eq!(answer.error(), (413, "row_too_large"), "{:?}", answer.body);
    let answer = send(&service, "e", &[100, 100_000, 30_000, 30_000, 30_000], &mut accepted).await;
    assert_eq!((answer.status, answer.reasons()), (202, vec![(1, "row_too_large")]));
    assert_eq!(service.metric("millrace_collector_spooling"), 0.0, "it went to Kafka, in parts that fit");
    assert_eq!(&in_kafka(&kafka) | &aside, accepted);

    // A restart keeps them, and a larger limit delivers them.
    let dir = service.stop().await;
    let bootstrap = kafka.bootstrap();
    let service = Service::in_dir(dir, |config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers = bootstrap;
        config.log.kafka_compression = "none".into();
        config.limits.event_bytes_max = 256 << 10;
        config.limits.string_bytes_max = 32 << 10;
    })
    .await;
    is_direct(&service).await;
    assert_eq!(service.metric(WAITING), 2.0);
    alter_topics(&kafka, "1048576").await;
    kafka::is_direct(&service).await;
    eventually("they are delivered", async || service.metric(WAITING) == 0.0).await;
    assert_eq!(in_kafka(&kafka), accepted);
    assert_eq!(send(&service, "d", &[100_000], &mut accepted).await.status, 202);
    service.stop().await;
    assert_eq!(in_kafka(&kafka), accepted);
}

#[tokio::test]
async fn a_limit_that_is_lowered_under_load_loses_nothing() {
    let kafka = Kafka::start().await.unwrap();
    create_topics(&kafka, "1048576").await;
    let service = service(&kafka).await;
    is_direct(&service).await;
    let mut accepted = BTreeSet::new();
    assert_eq!(send(&service, "a", &[100_000, 18_000, 18_000], &mut accepted).await.status, 202);
    alter_topics(&kafka, LOW).await;
    // Nobody is refused but for what is too large, and that only once it is known to be.
    let mut is_known = false;
    for round in 0..400 {
        assert_eq!(send(&service, "small", &[100, 100], &mut accepted).await.status, 202, "{round}");
        let answer = send(&service, "many", &[18_000; 12], &mut accepted).await;
        assert_eq!(answer.status, 202, "{round}: {:?}", answer.body);
        let answer = send(&service, "large", &[100_000], &mut accepted).await;
        is_known = answer.error() == (413, "row_too_large");
        assert!(is_known || answer.status == 202, "{round}: {:?}", answer.body);
        if is_known {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_known, "the limit is never noticed");
    is_direct(&service).await;
    assert_eq!(send(&service, "many", &[18_000; 12], &mut accepted).await.status, 202);
    assert_eq!(send(&service, "small", &[100, 100], &mut accepted).await.status, 202);
    is_direct(&service).await;
    let (stored, aside) = (in_kafka(&kafka), kept(&service));
    assert_eq!(&stored | &aside, accepted, "{} stored, {} kept", stored.len(), aside.len());
    assert!(!aside.is_empty() && stored.is_disjoint(&aside));
    assert_eq!(service.metric(WAITING), aside.len() as f64);
}
