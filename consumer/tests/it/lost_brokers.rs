//! A lone broker that was away for too long lists no broker for a moment, and a client may be left with none for good.

use std::time::{Duration, Instant};

use millrace_consumer::Config;
use millrace_schemas::topic::EVENTS;
use millrace_testbed::Fence;

use crate::{
    kafka::Pair,
    parts::{Running, ask, await_answer, await_so, event},
};

/// Some of its clients come back by themselves, when their connection ends at the right moment.
const ATTEMPTS: u64 = 8;
/// Longer than the statistics that tell of it are apart.
const TOLD_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lost_every_broker_is_replaced_and_reads_on() {
    let pair = Pair::start(1).await;
    let fence = Fence::start(&pair.config.kafka_brokers).await.unwrap();
    let running = Running::start(Config { kafka_brokers: fence.bootstrap(), ..pair.config.clone() });
    pair.produce(EVENTS, 0, (0..50).map(event));
    let count = "SELECT count() FROM millrace.events";
    await_answer(&pair.engine, count, 50).await;

    let lost = || running.problems().contains("knows no broker");
    for attempt in 1..=ATTEMPTS {
        let emptied = fence.emptied();
        fence.raise();
        await_so("an answer lists no broker", || fence.emptied() > emptied).await;
        let until = Instant::now() + TOLD_WITHIN;
        while !lost() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if lost() {
            break;
        }
        fence.lower();
        assert!(attempt < ATTEMPTS, "the client keeps its brokers");
    }
    fence.lower();
    pair.produce(EVENTS, 0, (50..100).map(event));
    await_answer(&pair.engine, count, 100).await;
    let places = "SELECT uniqExact(_offset) FROM millrace.events";
    assert_eq!(ask(&pair.engine, places).await, 100, "each message is read as it was written, and once");
    await_so("it is ready", || running.health.readiness().ready).await;
    running.stop().await;
}
