//! The driver between a log and a store that fail and hang on demand.

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    fakes::{FakeLog, FakeSink, Feeder, Journal, PATIENCE, ROW, limits},
    gauges::Gauges,
};

/// A driver at work.
struct Bench {
    journal: Journal,
    log: Arc<FakeLog>,
    sink: Arc<FakeSink>,
    memory: Arc<Memory>,
    health: Health,
    drain: CancellationToken,
    feeder: Feeder,
    gauges: Gauges,
    task: JoinHandle<()>,
}

impl Bench {
    fn start(rows_max: u32) -> Self {
        let journal = Journal::new();
        let (log, sink) = (Arc::new(FakeLog::new(&journal)), Arc::new(FakeSink::new(&journal)));
        let memory = Memory::new(8 << 20);
        let (health, drain) = (Health::default(), CancellationToken::new());
        let (feeder, assignment) = Feeder::new(&memory);
        let mut gauges = Gauges::default();
        gauges.watch(&assignment);
        let shared = Arc::new(Shared {
            source: log.clone(),
            sink: sink.clone(),
            memory: memory.clone(),
            health: health.clone(),
            limits: limits(rows_max),
            drain: drain.clone(),
        });
        let task = tokio::spawn(Driver::new(shared, assignment, Table::Events).run());
        Self { journal, log, sink, memory, health, drain, feeder, gauges, task }
    }

    /// Waits for the driver's end and returns everything that was asked for.
    async fn ended(self) -> Vec<String> {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("the driver ends");
        ended.expect("it ends well");
        self.journal.entries()
    }

    /// The stall gauge, as it is shown.
    fn stalled_seconds(&self) -> f64 {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || self.gauges.update(&self.memory, 0));
        let shown = recorder.handle().render();
        let value = shown.lines().find_map(|line| line.strip_prefix("millrace_consumer_stalled_seconds "));
        value.expect("the gauge is shown").parse().unwrap()
    }
}

/// Lets everything happen that can: on a runtime of one thread, whoever has something to do has had many turns.
async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

const WHOLE: &str = "insert events/millrace.events/0/0-2";
const WITHOUT_TOKEN: &str = "insert events without a token";
const DEAD: &str = "insert dead_letters without a token";

#[tokio::test]
async fn effects_are_performed_in_their_order() {
    let bench = Bench::start(2);
    bench.feeder.send(0, 0, &[ROW, "not a row"]);
    bench.journal.wait_for("record 2", 1).await;
    bench.drain.cancel();
    assert_eq!(bench.ended().await, ["record 0 pending 2", WHOLE, DEAD, "show 1", "record 2"]);
}

#[tokio::test]
async fn what_failed_is_looked_for_and_sent_again() {
    let bench = Bench::start(2);
    bench.log.fails.lock().unwrap().push_back(true);
    bench.sink.fails.lock().unwrap().extend([Some(Kind::Passing), Some(Kind::Setup)]);
    bench.feeder.send(0, 0, &[ROW, ROW]);
    bench.journal.wait_for("record 2", 1).await;
    settle().await;
    assert!(bench.health.readiness().ready, "what went wrong has passed");
    bench.drain.cancel();
    let intent = "record 0 pending 2";
    let again = "look for 0-1";
    // It is not seen where it was acknowledged either: this store shows nothing.
    let expected = [intent, intent, WHOLE, again, WHOLE, again, WHOLE, again, WITHOUT_TOKEN, "record 2"];
    assert_eq!(bench.ended().await, expected);
}

#[tokio::test]
async fn a_refused_batch_is_read_again_and_searched() {
    let bench = Bench::start(2);
    let refused = Some(Kind::Refused);
    // The whole, the whole as it was rebuilt, its first row; the second row is taken.
    bench.sink.fails.lock().unwrap().extend([refused, refused, refused, None]);
    bench.feeder.send(0, 0, &[ROW, ROW]);
    bench.journal.wait_for("read again from 0 as 1", 1).await;
    // What was on its way when it went back is not taken twice.
    bench.feeder.send(0, 2, &[ROW, ROW]);
    bench.feeder.send(1, 0, &[ROW, ROW]);
    bench.journal.wait_for("record 2", 1).await;
    bench.drain.cancel();
    let (first, second) = (format!("{WHOLE}/0-1"), format!("{WHOLE}/1-2"));
    let expected = [
        "record 0 pending 2",
        WHOLE,
        "read again from 0 as 1",
        "look for 0-1",
        WHOLE,
        "look for 0-0",
        &first,
        "look for 0-0",
        "look for 1-1",
        &second,
        "look for 1-1",
        WITHOUT_TOKEN,
        DEAD,
        "show 1",
        "record 2",
    ];
    assert_eq!(bench.ended().await, expected);
}

#[tokio::test]
async fn a_store_that_hangs_holds_the_source_back() {
    let bench = Bench::start(2);
    bench.sink.gate.close();
    let large = format!(r#"{{"url":"{}"}}"#, "x".repeat(100 << 10));
    for offset in 0..20 {
        bench.feeder.send(0, offset, &[&large]);
    }
    bench.journal.wait_for(WHOLE, 1).await;
    settle().await;
    assert_eq!(bench.journal.entries(), ["record 0 pending 2", WHOLE], "one batch is on its way");
    // One more is full, a message waits, and all others are left where they are.
    assert!(bench.feeder.flow.must_pause(&bench.memory));

    bench.sink.gate.open();
    bench.journal.wait_for("record 20", 1).await;
    settle().await;
    assert!(bench.feeder.flow.may_resume(&bench.memory));
    assert_eq!(bench.memory.used(), 0);
    bench.drain.cancel();
    let inserts: Vec<String> =
        bench.ended().await.into_iter().filter(|entry| entry.contains("insert")).collect();
    let expected: Vec<String> = (0..20)
        .step_by(2)
        .map(|first| format!("insert events/millrace.events/0/{first}-{}", first + 2))
        .collect();
    assert_eq!(inserts, expected);
}

#[tokio::test]
async fn what_is_open_leaves_when_memory_is_full() {
    let bench = Bench::start(1_000);
    bench.feeder.send(0, 0, &[ROW, ROW]);
    settle().await;
    assert_eq!(bench.journal.entries(), [""; 0]);
    let held = bench.memory.charge(8 << 20);
    bench.journal.wait_for("record 2", 1).await;
    drop(held);
}

#[tokio::test]
async fn the_stall_gauge_rises_while_the_store_hangs_and_falls_back() {
    let bench = Bench::start(2);
    bench.feeder.send(0, 0, &[ROW]);
    settle().await;
    assert_eq!(bench.stalled_seconds(), 0.0, "gathering is no stall");
    bench.sink.gate.close();
    bench.feeder.send(0, 1, &[ROW]);
    bench.journal.wait_for(WHOLE, 1).await;
    let (mut before, mut rises) = (0.0, 0);
    let until = Instant::now() + PATIENCE;
    while rises < 3 {
        let now = bench.stalled_seconds();
        assert!(now >= before, "it fell from {before} to {now}");
        rises += u32::from(now > before);
        before = now;
        assert!(Instant::now() < until, "it does not rise");
        tokio::task::yield_now().await;
    }
    bench.sink.gate.open();
    bench.journal.wait_for("record 2", 1).await;
    settle().await;
    assert_eq!(bench.stalled_seconds(), 0.0);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_a_stall() {
    let bench = Bench::start(2);
    bench.feeder.say(Feed::Broken("a segment is damaged".into()));
    settle().await;
    assert!(bench.stalled_seconds() > 0.0 && !bench.health.readiness().ready);
    bench.feeder.say(Feed::Well);
    settle().await;
    assert!(bench.stalled_seconds() == 0.0 && bench.health.readiness().ready);
}

#[tokio::test]
async fn a_drain_stores_what_was_read() {
    let bench = Bench::start(1_000);
    bench.feeder.send(0, 0, &[ROW, ROW]);
    settle().await;
    bench.drain.cancel();
    assert_eq!(bench.ended().await, ["record 0 pending 2", WHOLE, "record 2"]);
}

#[tokio::test]
async fn a_partition_that_is_lost_ends_wherever_it_is() {
    let bench = Bench::start(2);
    bench.sink.gate.close();
    bench.feeder.send(0, 0, &[ROW, ROW]);
    bench.journal.wait_for(WHOLE, 1).await;
    let flow = bench.feeder.flow.clone();
    assert!(flow.stalled_since().is_some());
    bench.feeder.lost.cancel();
    assert_eq!(bench.ended().await, ["record 0 pending 2", WHOLE], "and records nothing more");
    assert_eq!(flow.stalled_since(), None, "what it was waiting for is its successor's");
}
