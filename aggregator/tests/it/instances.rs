//! Several aggregators as processes of their own: killed, frozen, and in each other's way.

use std::{
    fs::File,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use millrace_local::process::{Process, Signal, bound};
use millrace_schemas::row::EventRow;
use millrace_testbed::Port;
use serde_json::json;

use crate::{
    equal::{Dice, HAND_MADE, assert_same, define, random_clicks, random_events},
    harness::{Bed, at, event, eventually},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_millrace-aggregator");

/// An aggregator of its own. Dropping it kills it.
struct Instance {
    process: Process,
    log: PathBuf,
    _ports: [Port; 2],
}

impl Instance {
    fn start(bed: &Bed, name: &str) -> Self {
        let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let log = bed.dir.path().join(name);
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = bound(Signal::KILL, PROGRAM);
        command
            .args([
                "--postgres-url",
                &bed.config.postgres_url,
                "--clickhouse-url",
                &bed.config.clickhouse_url,
            ])
            .args(["--api-address", &format!("127.0.0.1:{}", ports[0].number())])
            .args(["--metrics-address", &format!("127.0.0.1:{}", ports[1].number())])
            .args(["--interval-ms", "20"])
            .env("RUST_LOG", "millrace_aggregator=debug")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        Self { process: Process::spawn(command).unwrap(), log, _ports: ports }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

/// Everything that a store gets, piece by piece.
async fn arrive(bed: &Bed, dice: &mut Dice, pieces: usize, mut between: impl AsyncFnMut(&mut Dice, usize)) {
    bed.add_store("s", "America/New_York", "USD").await;
    define(bed, "s").await;
    let (events, clicks) = (random_events(dice, "s"), random_clicks(dice, "s"));
    let size = |all: usize| all.div_ceil(pieces);
    let (mut events, mut clicks) = (events.chunks(size(events.len())), clicks.chunks(size(clicks.len())));
    for piece in 0..pieces {
        if let Some(events) = events.next() {
            bed.insert(events).await;
        }
        if let Some(clicks) = clicks.next() {
            bed.insert(clicks).await;
        }
        between(dice, piece).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_changes_no_number() {
    let bed = Bed::start().await;
    let mut dice = Dice(41);
    let mut kills = 0;
    arrive(&bed, &mut dice, 24, async |dice, piece| {
        let mut instance = Instance::start(&bed, "crashing");
        // From its start until somewhere in its work; sometimes twice for the same arrivals.
        tokio::time::sleep(Duration::from_millis(50 + dice.below(450))).await;
        instance.process.kill().unwrap();
        kills += 1;
        if piece % 3 == 0 {
            let mut instance = Instance::start(&bed, "crashing");
            tokio::time::sleep(Duration::from_millis(100 + dice.below(300))).await;
            instance.process.kill().unwrap();
            kills += 1;
        }
    })
    .await;
    let rows = bed.rows("SELECT count(*) AS n FROM analytics_summary").await;
    println!("{kills} kills; {} rows of the summary were written in between", rows[0]["n"]);
    let _last = Instance::start(&bed, "last");
    eventually("all is rolled up", async || bed.is_whole().await).await;
    drop(_last);
    bed.check_rebuild(41).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_instances_under_kills_and_freezes_do_the_work_once() {
    let bed = Bed::start().await;
    let mut dice = Dice(42);
    let mut instances: Vec<Instance> =
        (0..3).map(|number| Instance::start(&bed, &format!("i{number}"))).collect();
    arrive(&bed, &mut dice, 16, async |dice, _| {
        let (killed, frozen) = (dice.below(3) as usize, dice.below(3) as usize);
        instances[frozen].process.signal(Signal::STOP).unwrap();
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        if dice.one_in(2) {
            instances[killed] = Instance::start(&bed, &format!("i{killed}"));
        }
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        instances[frozen].process.signal(Signal::CONT).unwrap();
    })
    .await;
    eventually("all is rolled up", async || bed.is_whole().await).await;
    drop(instances);
    bed.check_rebuild(42).await;
}

/// How many sessions of aggregators are in this state, as a condition of `pg_stat_activity`.
async fn sessions(bed: &Bed, condition: &str) -> Vec<i64> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity
         WHERE application_name = 'millrace-aggregator' AND pid <> pg_backend_pid() AND {condition}"
    );
    bed.rows(&sql).await.iter().map(|row| row["pid"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_frozen_in_a_rollup_cannot_commit_it_later() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.add_store("t", "UTC", "USD").await;
    let view = |number: u128| event(number, "page_view", "2026-10-05 10:00:00", "v", "");
    bed.insert(&[view(1)]).await;
    bed.roll().await;
    // The first instance computes what two events come to, and is held at its first write: it has locked no row yet.
    let mut held = bed.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE revenue_analytics IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let mut first = Instance::start(&bed, "first");
    bed.insert(&[view(2)]).await;
    let waits = "wait_event_type = 'Lock' AND query LIKE '%revenue_analytics%'";
    eventually("the first instance writes", async || !sessions(&bed, waits).await.is_empty()).await;
    let owner = sessions(&bed, waits).await;
    assert_eq!(owner.len(), 1, "one owner");
    first.process.freeze().unwrap();
    held.commit().await.unwrap();
    // Its statement goes through, and then it is silent, in its transaction, with the lock.
    let silent = format!("pid = {} AND state = 'idle in transaction'", owner[0]);
    eventually("the first instance is silent", async || !sessions(&bed, &silent).await.is_empty()).await;

    // The second sees a third event and must not touch the store's numbers while the lock is held.
    let second = Instance::start(&bed, "second");
    bed.insert(&[view(3)]).await;
    let marked = "SELECT next_offset AS n FROM arrival_watermarks";
    eventually("the second instance looks", async || bed.rows(marked).await == [json!({"n": 3})]).await;
    let views = "SELECT page_views AS n FROM analytics_summary WHERE store_id = 's' AND period_type = 'day'";
    // It comes to another store, which was touched later: it has been at this one.
    bed.insert(&[EventRow { store_id: "t", ..view(9) }]).await;
    let other = "SELECT DISTINCT store_id AS t FROM analytics_summary WHERE store_id = 't'";
    eventually("the second instance works", async || !bed.rows(other).await.is_empty()).await;
    assert_eq!(bed.rows(views).await, [json!({"n": 1})]);
    // Postgres ends the silent session, here at once; the lock goes with it.
    sqlx::query("SELECT pg_terminate_backend($1)").bind(owner[0] as i32).execute(&bed.pool).await.unwrap();
    eventually("the second instance rolls up", async || bed.rows(views).await == [json!({"n": 3})]).await;
    eventually("nothing waits", async || bed.is_whole().await).await;

    // The first wakes up with two events in its hands.
    first.process.signal(Signal::CONT).unwrap();
    eventually("it is told", async || first.log().contains("rolling up a store failed")).await;
    assert_eq!(bed.rows(views).await, [json!({"n": 3})]);
    // It goes on as if nothing had been: with the second gone, it does the work.
    drop(second);
    bed.insert(&[view(4)]).await;
    eventually("the first instance goes on", async || bed.rows(views).await == [json!({"n": 4})]).await;
    drop(first);
    bed.check_rebuild(HAND_MADE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_owner_loses_its_store_after_two_minutes() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let setting = "SELECT current_setting('idle_in_transaction_session_timeout') AS silent,
                          current_setting('statement_timeout') AS statement, current_setting('lock_timeout') AS lock";
    assert_eq!(bed.rows(setting).await, [json!({"silent": "2min", "statement": "2min", "lock": "30s"})]);
    // And Postgres takes the lock away, as it says.
    let mut silent = bed.pool.begin().await.unwrap();
    sqlx::query("SET LOCAL idle_in_transaction_session_timeout = '200ms'")
        .execute(&mut *silent)
        .await
        .unwrap();
    assert!(millrace_aggregator::locks::try_take_store(&mut silent, "s").await.unwrap());
    let mut next = bed.pool.acquire().await.unwrap();
    eventually("the lock is free", async || {
        millrace_aggregator::locks::try_take_store(&mut next, "s").await.unwrap()
    })
    .await;
    assert!(silent.commit().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_settings_is_not_overtaken_by_a_rollup() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    // The 5th in UTC, the 6th in Tokyo: no row of the 5th may stay.
    bed.insert(&[event(1, "page_view", "2026-10-05 20:00:00", "v", "")]).await;
    millrace_aggregator::arrival::look(&bed.warehouse, &bed.pool, &mut Default::default()).await.unwrap();
    // A rollup has read the old settings when the change comes: it is held at its first write.
    let mut held = bed.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE heatmap_elements IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let (warehouse, pool) = (bed.warehouse.clone(), bed.pool.clone());
    let rolling = tokio::spawn(async move {
        millrace_aggregator::rollup::roll_up(&warehouse, &pool, "s", 62, &mut Vec::new()).await.unwrap()
    });
    let waits = "wait_event_type = 'Lock' AND query LIKE '%heatmap_elements%'";
    eventually("the rollup is held", async || !sessions(&bed, waits).await.is_empty()).await;
    // As the admin API does it, but for its lock of the row, which an insert would wait for.
    sqlx::query("UPDATE stores SET timezone = 'Asia/Tokyo'").execute(&bed.pool).await.unwrap();
    sqlx::query("INSERT INTO touched_days VALUES ('s', '2026-10-06', 'epoch')")
        .execute(&bed.pool)
        .await
        .unwrap();
    held.commit().await.unwrap();
    assert_eq!(rolling.await.unwrap(), None);
    bed.roll().await;
    let days = "SELECT date FROM analytics_summary WHERE period_type = 'day'";
    assert_eq!(bed.rows(days).await, [json!({"date": "2026-10-06"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_rebuilt_by_a_command() {
    let bed = Bed::start().await;
    let mut dice = Dice(43);
    arrive(&bed, &mut dice, 4, async |_, _| bed.roll().await).await;
    let before = bed.everything().await;
    let _serving = Instance::start(&bed, "serving");
    // Beside it, while it works.
    let log = bed.dir.path().join("rebuild");
    let mut command = bound(Signal::KILL, PROGRAM);
    let file = File::create(&log).unwrap();
    command.arg("rebuild").env("MILLRACE_POSTGRES_URL", &bed.config.postgres_url);
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let started = Instant::now();
    let status = Process::spawn(command).unwrap().wait().await.unwrap();
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(status.success() && said.contains("all rollups are forgotten"), "{said}");
    eventually("all is rolled up", async || bed.is_whole().await).await;
    println!("rebuilt within {:?}", started.elapsed());
    assert_same(43, &before, &bed.everything().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_events_roll_up_their_day_again() {
    let bed = Bed::with_store("s", "America/New_York", "USD").await;
    define(&bed, "s").await;
    // 1 November has 25 hours in New York: 04:00 UTC to 05:00 UTC of the 2nd.
    let on_time = [
        event(1, "page_view", "2026-11-01 05:30:00", "v1", "a"),
        event(2, "page_view", "2026-11-02 05:00:00", "v2", "b"),
    ];
    bed.insert(&on_time).await;
    bed.roll().await;
    let days = "SELECT date, page_views AS p, total_sessions AS s FROM analytics_summary
                WHERE period_type = 'day' ORDER BY date";
    let day = |date: &str, p: i64, s: i64| json!({"date": date, "p": p, "s": s});
    assert_eq!(bed.rows(days).await, [day("2026-11-01", 1, 1), day("2026-11-02", 1, 1)]);
    // Received in December: the hour that comes twice, the last second of the long day, and the beginning of a session
    // of the 1st, which was the 31st.
    let december = at("2026-12-01 00:00:10");
    let mut late = [
        event(3, "page_view", "2026-11-01 06:30:00", "v3", "c"),
        event(4, "page_view", "2026-11-02 04:59:59", "v4", "d"),
        event(5, "page_view", "2026-11-01 03:59:59", "v1", "a"),
    ];
    for row in &mut late {
        row.received_at = december;
    }
    bed.insert(&late).await;
    bed.roll().await;
    let expected = [day("2026-10-31", 1, 1), day("2026-11-01", 3, 2), day("2026-11-02", 1, 1)];
    assert_eq!(bed.rows(days).await, expected);
    let months = "SELECT date, page_views AS p, total_sessions AS s FROM analytics_summary
                  WHERE period_type = 'month' ORDER BY date";
    assert_eq!(bed.rows(months).await, [day("2026-10-01", 1, 1), day("2026-11-01", 4, 3)]);
    bed.check_rebuild(HAND_MADE).await;
}
