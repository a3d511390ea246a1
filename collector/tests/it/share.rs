//! A hostile key beside an honest one, on a log with little room: what the one sends costs the other nothing.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use millrace_collector::{
    LogKind,
    encode::{Message, Topic},
    log::{Log as _, NotLogged, spool::SpoolLog},
};
use millrace_schemas::{
    spool::{CONSUMER_FILE, DURABLE_FILE, Position},
    topic,
};
use millrace_testbed::Kafka;

use crate::{
    kafka,
    service::{Answer, SECRET_KEY, Service, WRITE_KEY, eventually},
    shutdown::{ids_of, topic_values},
};

const MIB: u64 = 1 << 20;
const HONEST: &str = "strict-write-key";
const PATIENCE: Duration = Duration::from_secs(120);

/// An event of about so many bytes, and its id.
fn event(bytes: usize) -> (String, String) {
    let id = uuid::Uuid::now_v7().to_string();
    let label = "x".repeat(bytes.min(8_000));
    let filler: String = (0..bytes / 8_000).map(|number| format!(r#","p{number}":"{label}""#)).collect();
    let body = format!(
        r#"{{"type":"event","name":"test","visitor_id":"v","event_id":"{id}","properties":{{"a":1{filler}}},"label":"{label}"}}"#
    );
    (body, id)
}

async fn send(service: &Service, key: &str, bytes: usize, accepted: &mut BTreeSet<String>) -> Answer {
    let (body, id) = event(bytes);
    let answer = service.send(service.request(key).body(body)).await;
    if answer.status == 202 {
        accepted.insert(id);
    }
    answer
}

/// Sends until the store is refused for what waits of it.
async fn fill(service: &Service, key: &str, accepted: &mut BTreeSet<String>) {
    for _ in 0..10_000 {
        let answer = send(service, key, 40_000, accepted).await;
        if answer.status != 202 {
            assert_eq!(answer.error(), (429, "store_over_share"), "{key}");
            assert!(answer.headers.contains_key("retry-after"));
            return;
        }
    }
    panic!("{key} is never refused");
}

/// Every protocol tells a sender that may come later so: an order behind any other word is lost.
async fn answered_with_a_retry(service: &Service, key: &str) {
    let purchase = r#""event":"purchase","name":"purchase","properties":{"order_id":"1"}"#;
    for (path, body) in [
        ("/v1/track", format!(r#"{{{purchase},"anonymousId":"a"}}"#)),
        ("/mp/collect", r#"{"client_id":"1.2","events":[{"name":"purchase","params":{"transaction_id":"1"}}]}"#.into()),
        ("/g/collect?v=2&en=page_view&cid=1.2&dl=https%3A%2F%2Fshop.example%2F", String::new()),
        ("/api/event", r#"{"name":"pageview","url":"https://shop.example/","domain":"shop.example"}"#.into()),
        ("/api/send", r#"{"type":"event","payload":{"website":"w","url":"/","hostname":"shop.example"}}"#.into()),
        ("/e/", format!(r#"{{"api_key":"k","distinct_id":"a",{purchase}}}"#)),
        (
            "/com.snowplowanalytics.snowplow/tp2",
            r#"{"schema":"iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4","data":[{"e":"pv","url":"https://shop.example/","p":"web","tv":"js"}]}"#.into(),
        ),
    ] {
        let request = service.client.post(format!("{}/k/{key}{path}", service.url)).body(body);
        let answer = service.send(request.header("content-type", "application/json")).await;
        assert!(matches!(answer.status, 429 | 503), "{path}: {answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{path}");
    }
}

fn consumed(service: &Service, next: u64) {
    let json = serde_json::to_vec(&Position { next, pending_next: None }).unwrap();
    std::fs::write(service.topic_dir(topic::EVENTS).join(CONSUMER_FILE), json).unwrap();
}

#[tokio::test]
async fn a_hostile_key_fills_its_share_and_nobody_elses() {
    let service = Service::with(|config| config.log.spool_bytes_max = 8 * MIB).await;
    let mut accepted = BTreeSet::new();
    fill(&service, WRITE_KEY, &mut accepted).await;
    let taken = accepted.len();
    // Three eighths of the spool, and no more; of the half that is the store's the last quarter is its own server's.
    assert!((60..85).contains(&taken), "{taken}");
    assert_eq!(send(&service, SECRET_KEY, 40_000, &mut accepted).await.status, 202);
    answered_with_a_retry(&service, WRITE_KEY).await;
    let taken = accepted.len();
    // Nobody takes anything out, the other one goes on trying, and what comes of an honest one is taken.
    for round in 0..100 {
        let refused = send(&service, WRITE_KEY, 40_000, &mut accepted).await;
        assert_eq!(refused.error(), (429, "store_over_share"), "{round}");
        let answer = send(&service, HONEST, 1_000, &mut accepted).await;
        assert_eq!(answer.status, 202, "{round}: {:?}", answer.body);
    }
    assert_eq!(service.get("/readyz").await.status, 200);
    assert_eq!(accepted.len(), taken + 100);
    let held = "millrace_collector_spool_store_bytes_max";
    eventually("it is shown", async || service.metric(held) > 2.5 * MIB as f64).await;

    // The bound survives a restart.
    let dir = service.stop().await;
    let service = Service::in_dir(dir, |config| config.log.spool_bytes_max = 8 * MIB).await;
    eventually("it is counted again", async || service.metric(held) > 2.5 * MIB as f64).await;
    let refused = send(&service, WRITE_KEY, 40_000, &mut accepted).await;
    assert_eq!(refused.error(), (429, "store_over_share"));
    assert_eq!(send(&service, HONEST, 1_000, &mut accepted).await.status, 202);
    let stored = ids_of(
        service.events().iter().map(|row| row.to_string()).collect::<Vec<_>>().iter().map(String::as_str),
    );
    assert_eq!(stored, accepted, "nothing is lost");

    // What is consumed is given back, in part and whole.
    consumed(&service, taken as u64 / 2);
    let again = async || send(&service, WRITE_KEY, 40_000, &mut BTreeSet::new()).await.status == 202;
    eventually("half of it is given back", again).await;
    let durable = std::fs::read(service.topic_dir(topic::EVENTS).join(DURABLE_FILE)).unwrap();
    consumed(&service, u64::from_le_bytes(durable.try_into().unwrap()));
    eventually("all of it is", async || service.metric(held) == 0.0).await;
}

#[tokio::test]
async fn stores_that_conspire_leave_room() {
    let service = Service::with(|config| config.log.spool_bytes_max = 8 * MIB).await;
    let mut accepted = BTreeSet::new();
    // Again and again: what one leaves the others would take.
    for _ in 0..3 {
        for key in [WRITE_KEY, "wide-write-key", "slow-write-key"] {
            fill(&service, key, &mut accepted).await;
        }
    }
    // As much as is little.
    for round in 0..30 {
        let answer = send(&service, HONEST, 1_000, &mut accepted).await;
        assert_eq!(answer.status, 202, "{round}: {:?}", answer.body);
    }
    assert_eq!(service.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_store_over_its_bytes_per_second_waits_alone() {
    let service = Service::with(|config| config.rates.store_bytes_per_second = 20_000).await;
    let mut accepted = BTreeSet::new();
    // However large one request is, it fits; then the store waits.
    assert_eq!(send(&service, WRITE_KEY, 60_000, &mut accepted).await.status, 202);
    let refused = send(&service, WRITE_KEY, 10, &mut accepted).await;
    assert_eq!(refused.error(), (429, "rate_limited"));
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.body["detail"].as_str().unwrap().contains("bytes per second"), "{:?}", refused.body);
    for _ in 0..10 {
        assert_eq!(send(&service, HONEST, 10, &mut accepted).await.status, 202);
    }
    // What anybody sends with the write key takes nothing from the store's own server.
    assert_eq!(send(&service, SECRET_KEY, 10, &mut accepted).await.status, 202);
    answered_with_a_retry(&service, WRITE_KEY).await;
    let again = async || send(&service, WRITE_KEY, 10, &mut BTreeSet::new()).await.status == 202;
    eventually("it is let in again", again).await;
}

#[tokio::test]
async fn a_hostile_key_does_not_fill_the_spool_behind_kafka() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.stop().await.unwrap();
    let service = Service::with(|config| {
        config.log.kind = LogKind::Kafka;
        config.log.kafka_brokers = kafka.bootstrap();
        config.log.spool_bytes_max = 8 * MIB;
    })
    .await;
    let mut accepted = BTreeSet::new();
    fill(&service, WRITE_KEY, &mut accepted).await;
    for round in 0..50 {
        assert_eq!(send(&service, WRITE_KEY, 40_000, &mut accepted).await.status, 429, "{round}");
        assert_eq!(send(&service, HONEST, 1_000, &mut accepted).await.status, 202, "{round}");
    }
    kafka.restart().await.unwrap();
    let start = Instant::now();
    // It is let in again as the drain goes on, and the honest one is never refused meanwhile.
    while send(&service, WRITE_KEY, 40_000, &mut accepted).await.status != 202 {
        assert!(start.elapsed() < PATIENCE, "it is refused for ever");
        assert_eq!(send(&service, HONEST, 1_000, &mut accepted).await.status, 202);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kafka::is_direct(&service).await;
    service.stop().await;
    let values = topic_values(&kafka);
    let stored = ids_of(values.iter().map(String::as_str));
    assert!(accepted.is_subset(&stored), "{} accepted, {} stored", accepted.len(), stored.len());
}

/// What a reader that keeps up has consumed counts for nobody, however long its last segment is.
#[tokio::test]
async fn whoever_is_read_at_once_is_never_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = SpoolLog::open(dir.path(), 8 * MIB, 256 << 10).unwrap().limit_stores(50);
    let message = |store: &str| Message {
        topic: Topic::Events,
        key: format!("{store}:v").into_bytes(),
        value: vec![b'x'; 40_000],
    };
    let mut next = 0;
    let read = |next: u64| {
        let json = serde_json::to_vec(&Position { next, pending_next: None }).unwrap();
        write_whole(&dir.path().join(topic::EVENTS), &json);
    };
    // Five times what the spool holds.
    while next < 1_000 {
        match log.append(vec![message("busy")]).await {
            Ok(()) => next += 1,
            Err(NotLogged::StoreOverShare) => {
                assert_eq!(log.append(vec![message("other")]).await, Ok(()));
                next += 1;
                // The position is looked at once a second.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(why) => panic!("{why} after {next}"),
        }
        read(next);
    }
    log.close(PATIENCE);
}

fn write_whole(dir: &Path, json: &[u8]) {
    let beside = dir.join("beside");
    std::fs::write(&beside, json).unwrap();
    std::fs::rename(beside, dir.join(CONSUMER_FILE)).unwrap();
}
