//! The log on disk: what was acknowledged is in it, whatever happens.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    time::Duration,
};

use millrace_collector::{
    encode::{Message, Topic},
    log::{
        Log as _, NotLogged,
        spool::{Error, SpoolLog},
    },
};
use millrace_schemas::{
    spool::{CONSUMER_FILE, DURABLE_FILE, Position, SEGMENT_BYTES},
    topic,
};
use proptest::prelude::*;

use crate::service::{Service, eventually, records};

const PATIENCE: Duration = Duration::from_secs(120);

fn message(topic: Topic, value: &str) -> Message {
    Message { topic, key: b"demo:v".to_vec(), value: value.as_bytes().to_vec() }
}

fn open(dir: &Path) -> SpoolLog {
    SpoolLog::open(dir, 1 << 30, SEGMENT_BYTES).unwrap()
}

fn values(dir: &Path) -> Vec<String> {
    records(&dir.join(topic::EVENTS)).into_iter().map(|(_, value)| value).collect()
}

#[tokio::test]
async fn a_visitors_events_of_a_request_are_one_message() {
    let service = Service::start().await;
    let event =
        |visitor: &str, name: &str| format!(r#"{{"type":"event","name":"{name}","visitor_id":"{visitor}"}}"#);
    let click = r#"{"type":"click","url":"https://a.example/","x":1.4,"y":2.6,"visitor_id":"a"}"#;
    let body = format!("[{},{},{click},{}]", event("a", "1"), event("b", "2"), event("a", "3"));
    assert_eq!(service.post(body).await.body["accepted"], 4);
    let records = records(&service.topic_dir(topic::EVENTS));
    let keys: Vec<_> = records.iter().map(|(key, value)| (key.as_str(), value.lines().count())).collect();
    assert_eq!(keys, [("demo:a", 2), ("demo:b", 1)]);
    let click = &service.clicks()[0];
    assert_eq!((&click["x"], &click["y"]), (&1.into(), &3.into()));
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_nothing_acknowledged_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(vec![message(Topic::Events, "1"), message(Topic::Events, "2")]).await.unwrap();
    log.close(PATIENCE);
    drop(log);
    let segment = dir.path().join(topic::EVENTS).join("00000000000000000000.seg");
    let whole = fs::read(&segment).unwrap();
    // Half a frame, and then bytes that are no frame at all.
    for tail in [&whole[8..20], &[0xff; 100]] {
        OpenOptions::new().append(true).open(&segment).unwrap().write_all(tail).unwrap();
        let log = open(dir.path());
        log.append(vec![message(Topic::Events, "3")]).await.unwrap();
        log.close(PATIENCE);
        drop(log);
        let mut left = values(dir.path());
        assert_eq!(left.pop().unwrap(), "3");
        assert_eq!(left[..2], ["1", "2"]);
    }
    // Damage among the acknowledged is not cut away in silence.
    fs::write(&segment, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(SpoolLog::open(dir.path(), 1 << 30, SEGMENT_BYTES), Err(Error::Damaged { .. })));
    fs::remove_file(&segment).unwrap();
    assert!(matches!(SpoolLog::open(dir.path(), 1 << 30, SEGMENT_BYTES), Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn frames_beyond_the_durable_offset_may_have_been_acknowledged() {
    // The offset itself is not synced: after a power cut it may be older than the frames.
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(vec![message(Topic::Events, "1")]).await.unwrap();
    log.close(PATIENCE);
    drop(log);
    fs::write(dir.path().join(topic::EVENTS).join(DURABLE_FILE), 0_u64.to_le_bytes()).unwrap();
    drop(open(dir.path()));
    assert_eq!(values(dir.path()), ["1"]);
}

#[tokio::test]
async fn segments_roll_and_consumed_ones_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let log = SpoolLog::open(dir.path(), 2_600, 300).unwrap();
    let mut sent = Vec::new();
    let refused = loop {
        let value = format!("{:0100}", sent.len());
        match log.append(vec![message(Topic::Events, &value)]).await {
            Ok(()) => sent.push(value),
            Err(_) => break sent.len(),
        }
        assert!(sent.len() < 100, "the spool is bounded");
    };
    assert!(refused > 10 && log.ready().unwrap_err().contains("full"));
    assert_eq!(values(dir.path()), sent);
    let topic_dir = dir.path().join(topic::EVENTS);
    let segments = || {
        fs::read_dir(&topic_dir)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "seg"))
            .count()
    };
    let before = segments();
    assert!(before > 3);
    // The consumer has stored nearly everything: room is made, and the segment it stands in is kept.
    let position = Position { next: sent.len() as u64 - 1, pending_next: None };
    fs::write(topic_dir.join(CONSUMER_FILE), serde_json::to_vec(&position).unwrap()).unwrap();
    eventually("consumed segments are deleted", async || segments() < before).await;
    // Files go first, and then what they took is given free.
    let append = async || log.append(vec![message(Topic::Events, "again")]).await.is_ok();
    eventually("there is room again", append).await;
    log.close(PATIENCE);
    drop(log);
    let left = values(dir.path());
    assert_eq!(left.last().unwrap(), "again");
    assert!(left.contains(&sent[sent.len() - 1]));
}

#[tokio::test]
async fn room_is_counted_right_however_often_a_segment_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    // Every frame fills a segment.
    let log = SpoolLog::open(dir.path(), 1 << 30, 16).unwrap();
    let topic_dir = dir.path().join(topic::EVENTS);
    let mut next = 0;
    for _ in 0..4 {
        log.append(vec![message(Topic::Events, "fills a segment")]).await.unwrap();
        next += 1;
        let in_the_way = topic_dir.join(format!("{next:020}.seg"));
        fs::create_dir(&in_the_way).unwrap();
        log.append(vec![message(Topic::Events, "refused")]).await.unwrap_err();
        assert!(log.ready().unwrap_err().contains("disk"));
        fs::remove_dir(&in_the_way).unwrap();
        eventually("the disk takes writes again", async || log.ready().is_ok()).await;
    }
    let position = Position { next, pending_next: None };
    fs::write(topic_dir.join(CONSUMER_FILE), serde_json::to_vec(&position).unwrap()).unwrap();
    let last = topic_dir.join(format!("{:020}.seg", next - 1));
    eventually("all is consumed", async || !last.exists()).await;
    // The last of it may be given free a moment after the file has gone.
    let append = async || log.append(vec![message(Topic::Events, "again")]).await;
    append().await.unwrap();
    assert_eq!(log.ready(), Ok(()));
    append().await.unwrap();
    log.close(PATIENCE);
}

#[tokio::test]
async fn what_was_consumed_leaves_the_disk_in_a_quiet_store_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).roll_after(Duration::from_millis(10));
    log.append(vec![message(Topic::Events, "of somebody who may want to be forgotten")]).await.unwrap();
    let topic_dir = dir.path().join(topic::EVENTS);
    let holds = || {
        fs::read_dir(&topic_dir).unwrap().any(|entry| {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            bytes.windows(9).any(|window| window == b"forgotten")
        })
    };
    let second = topic_dir.join("00000000000000000001.seg");
    eventually("the segment is followed by another", async || second.exists()).await;
    assert!(holds(), "nobody has consumed it");
    let position = Position { next: 1, pending_next: None };
    fs::write(topic_dir.join(CONSUMER_FILE), serde_json::to_vec(&position).unwrap()).unwrap();
    eventually("what was consumed is gone", async || !holds()).await;
    log.append(vec![message(Topic::Events, "next")]).await.unwrap();
    log.close(PATIENCE);
    drop(log);
    assert_eq!(values(dir.path()), ["next"]);
}

#[tokio::test]
async fn a_position_of_another_spool_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let topic_dir = dir.path().join(topic::EVENTS);
    fs::create_dir(&topic_dir).unwrap();
    let position = Position { next: 1_000, pending_next: None };
    fs::write(topic_dir.join(CONSUMER_FILE), serde_json::to_vec(&position).unwrap()).unwrap();
    let log = open(dir.path()).roll_after(Duration::from_millis(10));
    for value in ["1", "2", "3"] {
        log.append(vec![message(Topic::Events, value)]).await.unwrap();
        // Whatever it takes for consumed comes after this, and before the next one.
        let next = topic_dir.join(format!("0000000000000000000{value}.seg"));
        eventually("the segment is followed by another", async || next.exists()).await;
    }
    log.close(PATIENCE);
    drop(log);
    assert_eq!(values(dir.path()), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_full_spool_is_said_and_a_second_writer_is_kept_out() {
    let service = Service::with(|config| {
        config.log.spool_bytes_max = 400;
        config.log.spool_store_percent_max = 100;
    })
    .await;
    let body = r#"{"type":"event","name":"test","visitor_id":"v"}"#;
    let mut last = service.post(body).await;
    for _ in 0..5 {
        last = service.post(body).await;
    }
    assert_eq!(last.error(), (503, "unavailable"));
    assert!(last.headers.contains_key("retry-after"));
    assert!(service.rejected("unavailable") >= 1.0);
    let spool = service.dir.path().join("spool");
    assert!(matches!(SpoolLog::open(&spool, 1 << 30, SEGMENT_BYTES), Err(Error::InUse(_))));
    let dir = service.stop().await;
    drop(open(&dir.path().join("spool")));
}

#[tokio::test]
async fn appends_of_many_requests_share_commits_and_all_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let receipts: Vec<_> = (0..2_000)
        .map(|number| {
            log.append(vec![message(Topic::Events, &number.to_string()), message(Topic::Clicks, "c")])
        })
        .collect();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(log.queued(), 0);
    let expected: Vec<_> = (0..2_000).map(|number| number.to_string()).collect();
    assert_eq!(values(dir.path()), expected);
    assert_eq!(records(&dir.path().join(topic::CLICKS)).len(), 2_000);
}

#[tokio::test]
async fn what_waits_too_long_stops_new_events_also_after_a_restart() {
    let event = r#"{"type":"event","name":"test","visitor_id":"v"}"#;
    let service = Service::with(|config| config.log.spool_age_max_seconds = 1).await;
    assert_eq!(service.post(event).await.status, 202);
    eventually("it refuses", async || service.post(event).await.status == 503).await;
    let ready = service.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body["reasons"].to_string().contains("--spool-age-max-seconds"), "{}", ready.body);
    let age = "millrace_collector_spool_oldest_age_seconds{topic=\"millrace.events\"}";
    eventually("it says how long", async || service.metric(age) > 1.0).await;
    // The consumer comes back.
    let file = service.topic_dir(topic::EVENTS).join(CONSUMER_FILE);
    let consume = || {
        let position = Position { next: service.events().len() as u64, pending_next: None };
        fs::write(&file, serde_json::to_vec(&position).unwrap()).unwrap();
    };
    consume();
    eventually("it accepts again", async || service.post(event).await.status == 202).await;
    consume();
    eventually("nothing waits", async || service.metric(age) == 0.0).await;
    fs::remove_file(&file).unwrap();
    let dir = service.stop().await;

    // Older than the process: the rows say how old they are.
    let spool = dir.path().join("spool");
    let log = open(&spool).limit_age(Duration::from_secs(3600));
    assert_eq!(log.ready(), Ok(()));
    let old = r#"{"event_id":"1","received_at":"2026-11-01 05:30:00.123"}"#;
    log.append(vec![message(Topic::Clicks, old)]).await.unwrap();
    assert_eq!(log.ready(), Ok(()), "it came now");
    log.close(PATIENCE);
    drop(log);
    let log = open(&spool).limit_age(Duration::from_secs(3600));
    assert!(log.ready().unwrap_err().contains("--spool-age-max-seconds"));
    assert_eq!(log.append(vec![message(Topic::Events, old)]).await, Err(NotLogged::Unavailable));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Wherever the last segment is cut behind the durable offset, the log opens with a prefix of what was appended,
    /// and goes on from there.
    #[test]
    fn any_cut_leaves_a_prefix(lengths in proptest::collection::vec(0_usize..200, 1..12), cut in any::<prop::sample::Index>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let log = open(dir.path());
            let all: Vec<_> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            for value in &all {
                log.append(vec![message(Topic::Events, value)]).await.unwrap();
            }
            log.close(PATIENCE);
            drop(log);
            let topic_dir = dir.path().join(topic::EVENTS);
            let segment = topic_dir.join("00000000000000000000.seg");
            let bytes = fs::read(&segment).unwrap();
            fs::write(&segment, &bytes[..8 + cut.index(bytes.len() - 8)]).unwrap();
            fs::write(topic_dir.join(DURABLE_FILE), 0_u64.to_le_bytes()).unwrap();
            let log = open(dir.path());
            log.append(vec![message(Topic::Events, "new")]).await.unwrap();
            log.close(PATIENCE);
            drop(log);
            let mut left = values(dir.path());
            assert_eq!(left.pop().unwrap(), "new");
            assert!(all.starts_with(&left));
        });
    }
}
