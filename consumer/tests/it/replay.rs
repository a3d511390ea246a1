//! Dead-letter records that come back, on both logs, against a real engine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::ProgressBar;
use millrace_consumer::{
    Config,
    replay::{Options, Report, run},
};
use millrace_schemas::{
    spool::Position,
    topic::{CLICKS, EVENTS},
};
use millrace_testbed::Engine;

use crate::kafka::Pair;
use crate::parts::{Bench, Running, SpoolTopic, ask, ask_text, await_answer, await_so, click, event, tell};

const DISTINCT: &str = "SELECT uniqExact(event_id) FROM millrace.events FINAL";
const ROWS: &str = "SELECT count() FROM millrace.events FINAL";
const DEAD: &str = "SELECT count() FROM millrace.dead_letters FINAL";
const RULE: &str = "ALTER TABLE millrace.events ADD CONSTRAINT no_seven CHECK visitor_hash % 50 != 7";
const NO_RULE: &str = "ALTER TABLE millrace.events DROP CONSTRAINT no_seven";
/// A line that is no row.
const UNREADABLE: &str = r#"{"store_id":7}"#;

async fn replay(config: &Config, options: Options) -> Report {
    run(config, &options, &ProgressBar::hidden()).await.unwrap()
}

/// Visitors are numbers modulo 97, so the rule refuses 7 and 57.
fn is_refused(number: u64) -> bool {
    number % 97 % 50 == 7
}

/// Every event is stored or dead, a reader sees none twice, and whoever follows partitions by their offsets has seen all.
async fn check(engine: &Engine, accepted: u64, dead: u64) {
    assert_eq!(ask(engine, DISTINCT).await, accepted - dead);
    assert_eq!(ask(engine, ROWS).await, accepted - dead);
    assert_eq!(ask(engine, DEAD).await, dead);
}

/// A store with `accepted` events whose records are those that the rule refused, and some that nobody can read. The rule
/// still holds.
async fn dead_lettered(bench: &Bench, accepted: u64, unreadable: u64) -> u64 {
    let running = Running::start(bench.config.clone());
    await_so("tables are made", || running.health.readiness().ready).await;
    tell(&bench.engine, RULE).await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let lines: Vec<String> = (0..accepted).map(event).collect();
    // Some messages have several lines.
    events.write(lines.chunks(3).map(|lines| lines.join("\n")));
    events.write((0..unreadable).map(|_| UNREADABLE));
    let refused = (0..accepted).filter(|number| is_refused(*number)).count() as u64;
    await_answer(&bench.engine, ROWS, accepted - refused).await;
    await_answer(&bench.engine, DEAD, refused + unreadable).await;
    running.stop().await;
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_stored_once_its_cause_is_gone() {
    let bench = Bench::start().await;
    let engine = &bench.engine;
    let refused = dead_lettered(&bench, 500, 3).await;
    let records = "SELECT toString(groupArray((died_at, detail, _offset, _row))) \
                   FROM (SELECT * FROM millrace.dead_letters ORDER BY _offset, _row)";
    let before = ask_text(engine, records).await;

    // The cause is still there: everything stays as it was, and is not dead-lettered a second time.
    let report = replay(&bench.config, Options::default()).await;
    assert_eq!((report.records, report.stored, report.left()), (refused + 3, 0, refused + 3));
    let text = report.to_string();
    assert!(text.contains(&format!("{refused} refused by ClickHouse (code 469)")), "{text}");
    assert!(text.contains("3 not readable") && text.contains("no_seven"), "{text}");
    assert_eq!(ask_text(engine, records).await, before);

    tell(engine, NO_RULE).await;
    let report = replay(&bench.config, Options { dry_run: true, ..Options::default() }).await;
    assert_eq!((report.records, report.stored, report.left()), (refused + 3, 0, 3));
    check(engine, 500 + 3, refused + 3).await;

    let report = replay(&bench.config, Options::default()).await;
    assert_eq!(
        (report.records, report.stored, report.rows, report.left()),
        (refused + 3, refused, refused, 3)
    );
    check(engine, 500 + 3, 3).await;

    // A second time there is nothing to do, and the consumer goes on where it was.
    let report = replay(&bench.config, Options::default()).await;
    assert_eq!((report.records, report.stored, report.left()), (3, 0, 3));
    let running = Running::start(bench.config.clone());
    await_so("it runs", || running.health.readiness().ready).await;
    running.stop().await;
    check(engine, 500 + 3, 3).await;
}

/// What the aggregator asks: rows whose offsets are at or beyond what it has seen of their (topic, partition).
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_back_lie_beyond_every_watermark() {
    let bench = Bench::start().await;
    let engine = &bench.engine;
    let refused = dead_lettered(&bench, 300, 0).await;
    tell(engine, NO_RULE).await;
    let watermarks = "CREATE TABLE millrace.seen ENGINE = Memory AS SELECT _topic AS topic, _partition AS partition, \
                      max(_offset) AS last FROM millrace.events GROUP BY topic, partition";
    let arrived = "SELECT uniqExact(event_id) FROM millrace.events LEFT JOIN millrace.seen AS seen \
                   ON seen.topic = _topic AND seen.partition = _partition \
                   WHERE (_topic, _partition) NOT IN (SELECT topic, partition FROM millrace.seen) OR _offset > last";
    // One half, a look, the other half.
    for stored in [refused / 2, refused - refused / 2] {
        tell(engine, watermarks).await;
        assert_eq!(ask(engine, arrived).await, 0);
        replay(&bench.config, Options { limit: Some(stored), ..Options::default() }).await;
        assert_eq!(ask(engine, arrived).await, stored);
        tell(engine, "DROP TABLE millrace.seen").await;
    }
    check(engine, 300, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_repeated_or_twice_at_once_it_changes_nothing() {
    let bench = Bench::start().await;
    let engine = &bench.engine;
    let refused = dead_lettered(&bench, 800, 2).await;
    tell(engine, NO_RULE).await;
    // Ended at ever later moments, until one comes to its end: whatever is not stored is still dead-lettered.
    let either = "SELECT uniqExact(id) FROM (SELECT toString(event_id) AS id FROM millrace.events FINAL \
                  WHERE visitor_hash % 50 = 7 UNION ALL SELECT JSONExtractString(raw, 'event_id') \
                  FROM millrace.dead_letters FINAL WHERE reason = 'refused_by_store')";
    let mut moment = Duration::ZERO;
    loop {
        let options = Options { limit: Some(3), ..Options::default() };
        let ended = tokio::time::timeout(moment, replay(&bench.config, options)).await;
        assert_eq!(ask(engine, either).await, refused, "{moment:?}");
        if ended.is_ok() {
            break;
        }
        moment += moment / 5 + Duration::from_millis(5);
    }
    let (first, second) =
        tokio::join!(replay(&bench.config, Options::default()), replay(&bench.config, Options::default()));
    assert!(first.stored + second.stored >= 1 && first.stored <= refused, "{first} {second}");
    check(engine, 802, 2).await;

    // As if a consumer that was slow to die had dead-lettered its batch again.
    let again = format!(
        "INSERT INTO millrace.dead_letters (reason, detail, died_at, raw, _topic, _partition, _offset, _row) \
         SELECT 'refused_by_store', '', now64(3), '{}', '{EVENTS}', 0, 2, 1",
        event(7).replace('\\', "\\\\")
    );
    tell(engine, &again).await;
    let report = replay(&bench.config, Options::default()).await;
    assert_eq!((report.stored, report.left()), (1, 2));
    check(engine, 802, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_chosen() {
    let bench = Bench::start().await;
    let engine = &bench.engine;
    let refused = dead_lettered(&bench, 200, 0).await;
    tell(engine, NO_RULE).await;
    let mut clicks = SpoolTopic::new(bench.spool.path(), CLICKS);
    clicks.write(["not a click".to_owned(), click(1)]);
    let running = Running::start(bench.config.clone());
    await_answer(engine, DEAD, refused + 1).await;
    await_so("the position moves", || clicks.position() == Some(Position { next: 2, pending_next: None }))
        .await;
    running.stop().await;

    let found =
        async |options: Options| replay(&bench.config, Options { dry_run: true, ..options }).await.records;
    assert_eq!(found(Options::default()).await, refused + 1);
    assert_eq!(found(Options { reason: Some("undecodable".into()), ..Options::default() }).await, 1);
    assert_eq!(found(Options { topic: Some(EVENTS.into()), ..Options::default() }).await, refused);
    assert_eq!(found(Options { limit: Some(2), ..Options::default() }).await, 2);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let hour_ms = 3_600_000;
    assert_eq!(found(Options { since: Some(now_ms - hour_ms), ..Options::default() }).await, refused + 1);
    assert_eq!(found(Options { until: Some(now_ms - hour_ms), ..Options::default() }).await, 0);
    assert_eq!(found(Options { since: Some(now_ms + hour_ms), ..Options::default() }).await, 0);

    let report = replay(&bench.config, Options { limit: Some(2), ..Options::default() }).await;
    assert_eq!((report.records, report.left() + report.stored), (2, 2));
}

/// More records than are stored at a time, of several partitions, among them ones as large as a page.
#[tokio::test(flavor = "multi_thread")]
async fn many_and_large_records_are_taken_in_pages() {
    let bench = Bench::start().await;
    let engine = &bench.engine;
    let running = Running::start(bench.config.clone());
    await_so("tables are made", || running.health.readiness().ready).await;
    running.stop().await;
    let records = format!(
        "INSERT INTO millrace.dead_letters (reason, detail, died_at, raw, _topic, _partition, _offset, _row) \
         SELECT 'undecodable', '', now64(3), \
         concat('{{\"store_id\":\"demo\",\"event_id\":\"', toString(toUUID(concat('00000000-0000-0000-0000-', leftPad(toString(number), 12, '0')))), \
         '\",\"received_at\":\"2026-11-01 00:00:00.000\",\"event_time\":\"2026-11-01 00:00:00.000\",\"title\":\"', \
         repeat('x', if(number % 200 = 0, 900000, 10)), '\"}}'), \
         '{EVENTS}', number % 3, number, 0 FROM numbers(5000)"
    );
    tell(engine, &records).await;
    let report = replay(&bench.config, Options::default()).await;
    assert_eq!((report.records, report.stored, report.left()), (5_000, 5_000, 0), "{report}");
    check(engine, 5_000, 0).await;
    // Blocks went out one after the other, in one partition.
    let partitions = "SELECT uniqExact(_partition) FROM millrace.events";
    assert_eq!(ask(engine, partitions).await, 1);
    let offsets = "SELECT uniqExact(_offset) FROM millrace.events";
    assert_eq!(ask(engine, offsets).await, 5_000);
}

/// From Kafka, and with rows of a version that the consumer did not know when it met them.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_unknown_is_taken_when_somebody_says_so() {
    let pair = Pair::start(1).await;
    let engine = &pair.engine;
    pair.produce(EVENTS, 0, [event(0)]);
    pair.produce_version("99", &format!("{}\n{}", event(1), event(2)));
    let running = Running::start(pair.config.clone());
    await_answer(engine, DISTINCT, 1).await;
    await_answer(engine, DEAD, 1).await;
    let report = replay(&pair.config, Options::default()).await;
    assert_eq!((report.stored, report.left()), (0, 1));
    assert!(report.to_string().contains("--unknown-version"), "{report}");
    let report = replay(&pair.config, Options { unknown_version: true, ..Options::default() }).await;
    assert_eq!((report.stored, report.rows, report.left()), (1, 2, 0));
    check(engine, 3, 0).await;
    pair.produce(EVENTS, 0, [event(3)]);
    await_answer(engine, DISTINCT, 4).await;
    running.stop().await;
}
