//! Consumers as processes that share a topic: restarted one after the other, frozen past their session, killed; under
//! load all the time, and reconciled at the end.

use std::{
    fs::File,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use millrace_local::process::{Process, Signal, bound};
use millrace_schemas::topic::EVENTS;
use millrace_testbed::Port;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tempfile::TempDir;

use crate::{
    kafka::{Pair, send},
    parts::{ask, await_answer, event},
};

const PARTITIONS: u64 = 6;
const DISTINCT: &str = "SELECT uniqExact(event_id) FROM millrace.events";
const PATIENCE: Duration = Duration::from_secs(180);

/// Where consumers are started, and what they say.
struct Stage {
    pair: Pair,
    said: TempDir,
    watcher: BaseConsumer,
}

impl Stage {
    /// A consumer process, and the port of its metrics.
    fn consumer(&self, name: &str) -> (Process, Port) {
        let port = Port::reserve().unwrap();
        let config = &self.pair.config;
        let mut command = bound(Signal::KILL, env!("CARGO_BIN_EXE_millrace-consumer"));
        command
            .args(["--kafka-brokers", &config.kafka_brokers])
            .args(["--kafka-session-timeout-ms", &config.kafka_session_timeout_ms.to_string()])
            .args(["--clickhouse-url", &config.clickhouse_url])
            .args(["--batch-age-ms", "50"])
            .args(["--metrics-address", &format!("127.0.0.1:{}", port.number())]);
        let said = File::create(self.path(name)).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        (Process::spawn(command).unwrap(), port)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.said.path().join(name)
    }

    /// The group's state, its protocol, and how many are in it.
    fn group(&self) -> (String, String, usize) {
        let Ok(list) = self.watcher.fetch_group_list(Some(&self.pair.config.kafka_group), PATIENCE) else {
            return Default::default();
        };
        let group = list.groups().first();
        group.map_or_else(Default::default, |group| {
            (group.state().to_owned(), group.protocol().to_owned(), group.members().len())
        })
    }

    /// Waits until so many share the topic, cooperatively.
    async fn await_members(&self, wanted: usize) {
        let wanted = ("Stable".to_owned(), "cooperative-sticky".to_owned(), wanted);
        let until = Instant::now() + PATIENCE;
        while self.group() != wanted {
            assert!(Instant::now() < until, "{:?} instead of {wanted:?}", self.group());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until everything that is in the log now is stored.
    async fn await_progress(&self, produced: &AtomicU64) {
        let wanted = produced.load(SeqCst);
        let until = Instant::now() + PATIENCE;
        while ask(&self.pair.engine, DISTINCT).await < wanted {
            assert!(Instant::now() < until, "no progress to {wanted}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_are_restarted_frozen_and_killed_one_after_the_other() {
    let pair = Pair::start(PARTITIONS as i32).await;
    let watcher = pair.client("nobody");
    let stage = Stage { pair, said: tempfile::tempdir().unwrap(), watcher };
    let (produced, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let load = std::thread::spawn({
        let (producer, produced, enough) = (stage.pair.producer(false), produced.clone(), enough.clone());
        move || {
            while !enough.load(SeqCst) {
                let from = produced.load(SeqCst);
                for partition in 0..PARTITIONS {
                    let numbers = (from..from + 600).filter(|number| number % PARTITIONS == partition);
                    send(&producer, EVENTS, partition as i32, numbers.map(event));
                }
                produced.store(from + 600, SeqCst);
                std::thread::sleep(Duration::from_millis(30));
            }
        }
    });

    let (mut first, _port) = stage.consumer("first");
    let (mut second, _second_port) = stage.consumer("second");
    stage.await_members(2).await;
    stage.await_progress(&produced).await;

    // A rolling restart: each leaves in good order, the other takes over, and it comes back.
    for (name, process) in [("first again", &mut first), ("second again", &mut second)] {
        let status = process.stop(Signal::TERM, PATIENCE).await.unwrap();
        assert!(status.success(), "{name}: {status}");
        stage.await_members(1).await;
        let (next, _port) = stage.consumer(name);
        *process = next;
        stage.await_members(2).await;
        stage.await_progress(&produced).await;
    }

    // Frozen until the group has given its partitions away, then awake in the middle of whatever it did.
    second.freeze().unwrap();
    stage.await_members(1).await;
    stage.await_progress(&produced).await;
    second.signal(Signal::CONT).unwrap();
    stage.await_members(2).await;
    stage.await_progress(&produced).await;

    // Killed; whoever comes next finds its intents.
    first.kill().unwrap();
    let (_third, _third_port) = stage.consumer("third");
    stage.await_progress(&produced).await;

    enough.store(true, SeqCst);
    load.join().unwrap();
    let produced = produced.load(SeqCst);
    await_answer(&stage.pair.engine, DISTINCT, produced).await;
    let places = "SELECT uniqExact(_partition, _offset, _row) FROM millrace.events";
    assert_eq!(ask(&stage.pair.engine, places).await, produced, "each message is read as it was written");
    let physical = ask(&stage.pair.engine, "SELECT count() FROM millrace.events").await;
    println!("{produced} produced, {produced} stored, {} of them twice", physical - produced);
    assert_eq!(physical, produced, "within the window, tokens leave no copies");
}
