//! What is sent again, and what is not, when ClickHouse no longer remembers its tokens, or remembers them too well.

use std::{fs, time::Instant};

use millrace_consumer::Config;
use millrace_schemas::{spool::Position, topic::EVENTS};

use crate::parts::{Bench, Running, SpoolTopic, ask, await_answer, await_so, event, tell};

const PHYSICAL: &str = "SELECT count() FROM millrace.events";
const DISTINCT: &str = "SELECT uniqExact(event_id) FROM millrace.events FINAL";

/// A hundred events in one batch, as if their consumer had died before it could say that they are stored; then so many
/// inserts that the batch's token is forgotten. Merges stand still: what is stored twice stays twice.
async fn a_batch_beyond_the_window() -> (Bench, SpoolTopic) {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..100).map(event));
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, PHYSICAL, 100).await;
    running.stop().await;
    assert_eq!(events.position(), Some(Position { next: 100, pending_next: None }));
    tell(&bench.engine, "SYSTEM STOP MERGES millrace.events").await;
    tell(&bench.engine, "ALTER TABLE millrace.events MODIFY SETTING non_replicated_deduplication_window = 1")
        .await;
    let running = Running::start(bench.config.clone());
    for number in 100..103 {
        events.write([event(number)]);
        await_answer(&bench.engine, PHYSICAL, number + 1).await;
    }
    running.stop().await;
    events.set_position(Position { next: 0, pending_next: Some(100) });
    (bench, events)
}

/// Starts once more and waits until the log is read to its end.
async fn start_again(bench: &Bench, events: &mut SpoolTopic) {
    let end = events.position().and_then(|position| position.pending_next).unwrap_or_default();
    let running = Running::start(bench.config.clone());
    let until = Instant::now() + std::time::Duration::from_secs(180);
    while events.position().is_none_or(|position| position.next < end) {
        assert!(Instant::now() < until, "{:?}", events.position());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_all_there_is_not_sent_again() {
    let (bench, mut events) = a_batch_beyond_the_window().await;
    start_again(&bench, &mut events).await;
    // The three behind it were read again too, in batches of other ranges: these are what a set position costs.
    let query = "SELECT count() FROM millrace.events WHERE _offset < 100";
    assert_eq!(ask(&bench.engine, query).await, 100);
    assert_eq!(ask(&bench.engine, DISTINCT).await, 103);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_there_in_part_is_sent_again() {
    let (bench, mut events) = a_batch_beyond_the_window().await;
    tell(&bench.engine, "SYSTEM START MERGES millrace.events").await;
    lose_a_tenth(&bench).await;
    tell(&bench.engine, "SYSTEM STOP MERGES millrace.events").await;
    start_again(&bench, &mut events).await;
    assert_eq!(ask(&bench.engine, DISTINCT).await, 103);
}

/// As a kill leaves it between an insert's token and its last part.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_known_without_its_rows_costs_none_of_them() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..100).map(event));
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, PHYSICAL, 100).await;
    running.stop().await;
    lose_a_tenth(&bench).await;
    events.set_position(Position { next: 0, pending_next: Some(100) });
    start_again(&bench, &mut events).await;
    assert_eq!(ask(&bench.engine, DISTINCT).await, 100);
}

async fn lose(bench: &Bench, rows: &str) {
    let loss = format!("ALTER TABLE millrace.events DELETE WHERE {rows} SETTINGS mutations_sync = 2");
    tell(&bench.engine, &loss).await;
}

async fn lose_a_tenth(bench: &Bench) {
    lose(bench, "_offset % 10 = 3").await;
    assert_eq!(ask(&bench.engine, "SELECT count() FROM millrace.events WHERE _offset < 100").await, 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_with_the_same_offsets_is_stored() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..100).map(event));
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, PHYSICAL, 100).await;
    running.stop().await;
    // Somebody removes the spool and keeps ClickHouse: the same range of offsets, other events, tokens remembered.
    fs::remove_dir_all(bench.spool.path().join(EVENTS)).unwrap();
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((1000..1100).map(event));
    events.set_position(Position { next: 0, pending_next: Some(100) });
    start_again(&bench, &mut events).await;
    assert_eq!(ask(&bench.engine, DISTINCT).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_insert_whose_rows_are_there_is_complained_of_no_more() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write([event(0)]);
    let running =
        Running::start(Config { retry_first_ms: 4_000, retry_max_ms: 4_000, ..bench.config.clone() });
    await_answer(&bench.engine, PHYSICAL, 1).await;
    let limit = |parts| {
        format!(
            "ALTER TABLE millrace.events MODIFY SETTING parts_to_delay_insert = 0, parts_to_throw_insert = {parts}"
        )
    };
    tell(&bench.engine, &limit(1)).await;
    events.write([event(1)]);
    await_so("the insert fails", || running.problems().contains("Too many parts")).await;
    // As if its acknowledgement alone had been lost.
    tell(&bench.engine, &limit(3_000)).await;
    let row = event(1).replacen('{', r#"{"_topic":"millrace.events","_offset":1,"#, 1);
    tell(&bench.engine, &format!("INSERT INTO millrace.events FORMAT JSONEachRow {row}")).await;
    await_so("the position moves", || events.position() == Some(Position { next: 2, pending_next: None }))
        .await;
    await_so("well again", || running.health.readiness().ready).await;
    running.stop().await;
    assert_eq!(ask(&bench.engine, DISTINCT).await, 2);
}

/// Lines of one message are many parts of a search; each is found among all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_found_among_many_of_its_message() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let message: Vec<String> = (0..60).map(event).collect();
    events.write([message.join("\n")]);
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, PHYSICAL, 60).await;
    running.stop().await;
    // The last line comes to be refused, by a rule that no other line breaks: the batch is searched part by part, and all
    // but that line are there already.
    lose(&bench, "_row = 59").await;
    let last = event(59).split("\"event_id\":\"").nth(1).unwrap()[..36].to_owned();
    tell(
        &bench.engine,
        &format!("ALTER TABLE millrace.events ADD CONSTRAINT no_last CHECK event_id != toUUID('{last}')"),
    )
    .await;
    tell(&bench.engine, "SYSTEM STOP MERGES millrace.events").await;
    events.set_position(Position { next: 0, pending_next: Some(1) });
    start_again(&bench, &mut events).await;
    assert_eq!(ask(&bench.engine, PHYSICAL).await, 59, "nothing that was seen is sent again");
    assert_eq!(ask(&bench.engine, "SELECT count() FROM millrace.dead_letters FINAL").await, 1);
}
