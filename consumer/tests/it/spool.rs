//! From a spool into a real engine.

use std::{fs, path::Path, process::Stdio, time::Duration};

use millrace_consumer::Config;
use millrace_local::process::{Process, Signal, bound};
use millrace_schemas::{
    spool::{CONSUMER_FILE, DURABLE_FILE, Position, segment_name},
    topic::{CLICKS, EVENTS},
};
use millrace_testbed::Port;

use crate::parts::{Bench, Running, SpoolTopic, ask, ask_text, await_answer, await_so, click, event, tell};

#[tokio::test(flavor = "multi_thread")]
async fn two_topics_go_into_their_tables() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let mut clicks = SpoolTopic::new(bench.spool.path(), CLICKS);
    events.write((0..1000).map(event));
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 1000).await;
    events.roll();
    events.write([format!("{}\n{}\n", event(1000), event(1001))]);
    clicks.write((0..10).map(click));
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 1002).await;
    await_answer(&bench.engine, "SELECT count() FROM millrace.clicks", 10).await;
    let query = "SELECT uniqExact(event_id) FROM millrace.events WHERE _offset < 1000 AND _row = 0";
    assert_eq!(ask(&bench.engine, query).await, 1000);
    let query = "SELECT concat(_topic, ' ', toString(_offset), ' ', toString(_row), ' ', url) FROM millrace.events \
                 ORDER BY _offset DESC, _row DESC LIMIT 1";
    let last = "millrace.events 1000 1 https://shop.example/products/1001?q=\"ü\"";
    assert_eq!(ask_text(&bench.engine, query).await, last);
    running.stop().await;
    assert_eq!(events.position(), Some(Position { next: 1001, pending_next: None }));
    assert_eq!(clicks.position(), Some(Position { next: 10, pending_next: None }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_durable_is_not_read() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..5).map(event));
    events.append((5..9).map(event));
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 5).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.count("events").await, 5);
    events.sync();
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 9).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_batch_is_rebuilt_under_its_token() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..100).map(event));
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 100).await;
    running.stop().await;
    // As if it had died after the insert and before the position moved; meanwhile its limits changed.
    events.set_position(Position { next: 0, pending_next: Some(100) });
    events.write((100..130).map(event));
    let config = Config { batch_rows: 7, ..bench.config.clone() };
    let running = Running::start(config);
    await_answer(&bench.engine, "SELECT count() FROM millrace.events WHERE _offset >= 100", 30).await;
    assert_eq!(bench.count("events").await, 130);
    running.stop().await;
    assert_eq!(events.position(), Some(Position { next: 130, pending_next: None }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_costs_nobody_else() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let raw = [&b"\xff\x00 not even text"[..], b"{\"store_id\":", b"[]", b"{\"tax_minor\":1e400}"];
    let mut values: Vec<Vec<u8>> = raw.iter().map(|raw| raw.to_vec()).collect();
    values.insert(0, format!("{}\nnull\n{}", event(0), event(1)).into_bytes());
    values.push(Vec::new());
    values.push(event(2).into_bytes());
    events.write(values);
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 3).await;
    await_answer(&bench.engine, "SELECT count() FROM millrace.dead_letters", 5).await;
    let query = "SELECT toUInt64(countIf(reason = 'undecodable' AND _topic = 'millrace.events' AND detail != '' \
                 AND died_at > now() - 600)) FROM millrace.dead_letters";
    assert_eq!(ask(&bench.engine, query).await, 5);
    let query = "SELECT concat(hex(raw), ' ', toString(_row)) FROM millrace.dead_letters WHERE _offset = 1";
    assert_eq!(ask_text(&bench.engine, query).await, "FF00206E6F74206576656E2074657874 0");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_store_refuses_are_found_and_dead_lettered() {
    let bench = Bench::start().await;
    let running = Running::start(bench.config.clone());
    await_so("tables are made", || running.health.readiness().ready).await;
    running.stop().await;
    let rule = "ALTER TABLE millrace.events ADD CONSTRAINT no_seven CHECK visitor_hash % 50 != 7";
    tell(&bench.engine, rule).await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..500).map(|number| format!("{}\n", event(number))));
    let running = Running::start(bench.config.clone());
    // Visitors are numbers modulo 97: 7 and 57 are refused.
    let refused = (0..500).filter(|number| number % 97 % 50 == 7).count() as u64;
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 500 - refused).await;
    await_answer(&bench.engine, "SELECT count() FROM millrace.dead_letters", refused).await;
    let query = "SELECT concat(reason, ' ', toString(_offset), ' ', toString(detail LIKE '%no_seven%')) \
                 FROM millrace.dead_letters ORDER BY _offset LIMIT 1";
    assert_eq!(ask_text(&bench.engine, query).await, "refused_by_store 7 1");
    let query = "SELECT raw FROM millrace.dead_letters ORDER BY _offset LIMIT 1";
    assert_eq!(ask_text(&bench.engine, query).await, event(7));
    events.write([event(500)]);
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 501 - refused).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_comes_back_is_written_on() {
    let mut bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..100).map(event));
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 100).await;
    bench.engine.kill9().unwrap();
    for round in 1..5 {
        events.write((round * 100..round * 100 + 100).map(event));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    await_so("the engine is missed", || !running.health.readiness().ready).await;
    assert!(running.problems().contains("store"), "{}", running.problems());
    bench.engine.restart().await.unwrap();
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 500).await;
    assert_eq!(ask(&bench.engine, "SELECT uniqExact(event_id) FROM millrace.events").await, 500);
    await_so("well again", || running.health.readiness().ready).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_too_many_parts_is_waited_for() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write([event(0)]);
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 1).await;
    tell(&bench.engine, "SYSTEM STOP MERGES millrace.events").await;
    let limit =
        "ALTER TABLE millrace.events MODIFY SETTING parts_to_delay_insert = 0, parts_to_throw_insert = 3";
    tell(&bench.engine, limit).await;
    let mut next = 1;
    // One part each, until the table takes no more.
    while !running.problems().contains("Too many parts") {
        assert!(next < 1000, "{}", running.problems());
        events.write([event(next)]);
        next += 1;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    tell(&bench.engine, "ALTER TABLE millrace.events MODIFY SETTING parts_to_throw_insert = 3000").await;
    tell(&bench.engine, "SYSTEM START MERGES millrace.events").await;
    await_answer(&bench.engine, "SELECT uniqExact(event_id) FROM millrace.events", next).await;
    await_so("well again", || running.health.readiness().ready).await;
    assert_eq!(bench.count("events").await, next);
    assert_eq!(bench.count("dead_letters").await, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_waits_for_its_engine_and_for_its_spool() {
    let mut bench = Bench::start().await;
    bench.engine.kill9().unwrap();
    let running = Running::start(bench.config.clone());
    await_so("the engine is missed", || running.problems().contains("tables")).await;
    bench.engine.restart().await.unwrap();
    await_so("ready", || running.health.readiness().ready).await;
    SpoolTopic::new(bench.spool.path(), EVENTS).write((0..3).map(event));
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 3).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_stores_what_was_read() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..200).map(event));
    // They are read in one piece; nothing but the stop closes the second batch.
    let config = Config { batch_rows: 150, batch_age_ms: 3_600_000, ..bench.config.clone() };
    let running = Running::start(config);
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 150).await;
    assert!(running.stop_timed().await < Duration::from_secs(60));
    assert_eq!(bench.count("events").await, 200);
    assert_eq!(events.position(), Some(Position { next: 200, pending_next: None }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_without_an_engine_ends_in_time_and_leaves_the_intent() {
    let mut bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let running = Running::start(Config { drain_timeout_ms: 500, ..bench.config.clone() });
    await_so("ready", || running.health.readiness().ready).await;
    bench.engine.kill9().unwrap();
    events.write((0..10).map(event));
    await_so("the intent is on record", || events.position().is_some()).await;
    assert!(running.stop_timed().await < Duration::from_secs(60));
    assert_eq!(events.position(), Some(Position { next: 0, pending_next: Some(10) }));
    bench.engine.restart().await.unwrap();
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 10).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_below_its_bound() {
    let mut bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let mut clicks = SpoolTopic::new(bench.spool.path(), CLICKS);
    let memory_bytes = 8 << 20;
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().unwrap();
    let config = Config { memory_bytes, ..bench.config.clone() };
    let running = Running::start(config);
    await_so("ready", || running.health.readiness().ready).await;
    bench.engine.kill9().unwrap();
    // Far more than fits, while nothing can leave.
    for part in 0..10 {
        events.write((part * 5_000..part * 5_000 + 5_000).map(event));
        clicks.write((part * 2_000..part * 2_000 + 2_000).map(click));
    }
    let gauge = |name: &str| {
        let text = recorder.render();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
    };
    await_so("both partitions are paused", || gauge("millrace_consumer_paused_partitions") == 2.0).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let held = gauge("millrace_consumer_buffered_bytes");
    assert!(held <= 1.5 * memory_bytes as f64, "{held}");
    bench.engine.restart().await.unwrap();
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 50_000).await;
    await_answer(&bench.engine, "SELECT count() FROM millrace.clicks", 20_000).await;
    assert_eq!(ask(&bench.engine, "SELECT uniqExact(event_id) FROM millrace.events").await, 50_000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_stops_its_partition_and_no_other() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let mut clicks = SpoolTopic::new(bench.spool.path(), CLICKS);
    events.append((0..3).map(event));
    let frame = 8 + 2 + "demo:visitor".len();
    let second = 8 + frame + event(0).len();
    events.damage(second + 40);
    events.sync();
    clicks.write((0..3).map(click));
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.clicks", 3).await;
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 1).await;
    await_so("damage is reported", || running.problems().contains("offset 1")).await;
    assert!(running.problems().contains("millrace.events/0"), "{}", running.problems());
    running.stop().await;
    assert_eq!(events.position(), Some(Position { next: 1, pending_next: None }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_offset_that_cannot_be_read_is_said() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let file = bench.spool.path().join(EVENTS).join(DURABLE_FILE);
    fs::create_dir(&file).unwrap();
    let running = Running::start(bench.config.clone());
    await_so("it is said", || running.problems().contains(DURABLE_FILE)).await;
    fs::remove_dir(&file).unwrap();
    events.write((0..3).map(event));
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 3).await;
    await_so("all is well", || running.health.readiness().ready).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_before_damage_is_searched() {
    let bench = Bench::start().await;
    let running = Running::start(bench.config.clone());
    await_so("tables are made", || running.health.readiness().ready).await;
    running.stop().await;
    tell(&bench.engine, "ALTER TABLE millrace.events ADD CONSTRAINT no_seven CHECK visitor_hash != 7").await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.append((0..12).map(event));
    let frames: usize = (0..11).map(|number| 8 + 2 + "demo:visitor".len() + event(number).len()).sum();
    events.damage(8 + frames + 40);
    events.sync();
    // The damage is met before the batch leaves.
    let running = Running::start(Config { batch_age_ms: 1_000, ..bench.config.clone() });
    await_answer(&bench.engine, "SELECT count() FROM millrace.dead_letters", 1).await;
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 10).await;
    await_so("damage is reported again", || running.problems().contains("offset 11")).await;
    running.stop().await;
    assert_eq!(events.position(), Some(Position { next: 11, pending_next: None }));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_spool_is_not_passed_over_once_it_has_grown() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let mut clicks = SpoolTopic::new(bench.spool.path(), CLICKS);
    let other = Position { next: 10, pending_next: None };
    events.set_position(other);
    events.write((0..5).map(event));
    let running = Running::start(bench.config.clone());
    for end in [5, 8] {
        events.write((events.next()..end).map(event));
        await_so("it is complained of", || running.problems().contains(&format!("the spool ends at {end}")))
            .await;
    }
    events.write((8..20).map(event));
    // Topics are looked at in their order.
    clicks.write([click(0)]);
    await_answer(&bench.engine, "SELECT count() FROM millrace.clicks", 1).await;
    assert!(running.problems().contains("not the spool that was read before"), "{}", running.problems());
    running.stop().await;
    assert_eq!((events.position(), bench.count("events").await), (Some(other), 0));
    // What it asks for helps.
    events.forget_position();
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 20).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_are_missing_are_counted_and_not_passed_over() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..30).map(event));
    events.roll();
    events.write((30..40).map(event));
    let before = Position { next: 10, pending_next: Some(35) };
    events.set_position(before);
    fs::remove_file(bench.spool.path().join(EVENTS).join(segment_name(0))).unwrap();
    let running = Running::start(bench.config.clone());
    await_so("they are missed", || {
        running.problems().contains("is 30: 20 acknowledged messages are missing")
    })
    .await;
    running.stop().await;
    assert_eq!((events.position(), bench.count("events").await), (Some(before), 0));
    // Given up as it says: the rest of the recorded range is stored, and what follows.
    events.set_position(Position { next: 30, ..before });
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 10).await;
    running.stop().await;
    assert_eq!(events.position(), Some(Position { next: 40, pending_next: None }));
}

/// Copies `$0` to a file system of its own at `$1`, fills that to the last byte, and becomes the consumer.
const ON_A_FULL_DISK: &str = r#"mount -t tmpfs -o size=1m tmpfs "$1" && cp -r "$0/." "$1" &&
    { cat /dev/zero >"$1/ballast"; } 2>"$0/said"; shift && exec setpriv --pdeathsig KILL -- "$@""#;

#[tokio::test(flavor = "multi_thread")]
async fn the_position_moves_on_a_full_disk() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write((0..100).map(event));
    events.set_position(Position { next: 10, pending_next: None });
    let (disk, port) = (tempfile::tempdir().unwrap(), Port::reserve().unwrap());
    let mut command = bound(Signal::KILL, "unshare");
    command
        .args(["--mount", "--map-root-user", "sh", "-c", ON_A_FULL_DISK])
        .args([bench.spool.path(), disk.path(), Path::new(env!("CARGO_BIN_EXE_millrace-consumer"))])
        .args(["--log", "spool", "--clickhouse-url", &bench.engine.url()])
        .args(["--metrics-address", &format!("127.0.0.1:{}", port.number()), "--spool-dir"])
        .arg(disk.path())
        .stdin(Stdio::null());
    let process = Process::spawn(command).unwrap();
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 90).await;
    let seen = Path::new("/proc").join(process.id().to_string()).join("root");
    let seen = seen.join(disk.path().strip_prefix("/").unwrap());
    assert!(fs::write(seen.join("more"), "one byte").is_err(), "the disk is full");
    let end = Position { next: 100, pending_next: None };
    await_so("the position moves", || {
        let bytes = fs::read(seen.join(EVENTS).join(CONSUMER_FILE)).unwrap();
        serde_json::from_slice::<Position>(&bytes).is_ok_and(|position| position == end)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_larger_than_a_read_is_read() {
    let bench = Bench::start().await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let large: Vec<String> = (1..5000).map(event).collect();
    events.write([event(0), large.join("\n"), event(5000)]);
    let running = Running::start(bench.config.clone());
    await_answer(&bench.engine, "SELECT count() FROM millrace.events", 5001).await;
    running.stop().await;
}
