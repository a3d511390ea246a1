//! Starting and stopping, between a log and a store that hang on demand.

use tokio::sync::mpsc;

use super::*;
use crate::fakes::{FakeLog, FakeSink, Feeder, Journal, PATIENCE, ROW};

fn config() -> Config {
    Config { batch_rows: 2, drain_timeout_ms: 50, ..Config::default() }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_store_that_hangs() {
    let (journal, memory) = (Journal::new(), Memory::new(8 << 20));
    let (log, sink) = (Arc::new(FakeLog::new(&journal)), Arc::new(FakeSink::new(&journal)));
    let (assignments, assigned) = mpsc::unbounded_channel();
    let (health, shutdown) = (Health::default(), CancellationToken::new());
    let (feeder, assignment) = Feeder::new(&memory);
    sink.gate.close();
    assert!(assignments.send(assignment).is_ok());
    feeder.send(0, 0, &[ROW, ROW]);

    let (config, token) = (config(), shutdown.clone());
    let running =
        tokio::spawn(async move { drive(&config, log, assigned, sink, memory, health, token).await });
    let insert = "insert events/millrace.events/0/0-2";
    journal.wait_for(insert, 1).await;
    shutdown.cancel();
    let ended = tokio::time::timeout(PATIENCE, running).await.expect("it ends although the store hangs");
    ended.expect("no panic").expect("a drain that takes too long is no failure");
    // The intent stays on record, and the next start goes on there.
    assert_eq!(journal.entries(), ["record 0 pending 2", insert, "close"]);
}

#[tokio::test]
async fn a_defect_ends_the_consumer() {
    let (journal, memory) = (Journal::new(), Memory::new(8 << 20));
    let log = Arc::new(FakeLog { panics: true, ..FakeLog::new(&journal) });
    let sink = Arc::new(FakeSink::new(&journal));
    let (assignments, assigned) = mpsc::unbounded_channel();
    let (feeder, assignment) = Feeder::new(&memory);
    assert!(assignments.send(assignment).is_ok());
    feeder.send(0, 0, &[ROW, ROW]);
    let (health, never) = (Health::default(), CancellationToken::new());
    let ended = drive(&config(), log, assigned, sink, memory, health, never).await;
    assert!(matches!(ended, Err(RunError::Partition(_))), "{ended:?}");
}
