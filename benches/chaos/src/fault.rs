//! What goes wrong, on purpose: the kinds of faults, which of them a seed draws, and how each is done and healed.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::ChaCha8Rng, seq::SliceRandom as _};
use tokio::time::{Instant, sleep};

use super::{
    check::ClickHouse,
    network::End,
    node::{Node, Stack},
    recipe::{SESSION_TIMEOUT_MS, SMALL_SPOOL_BYTES},
};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// `kill -9`, and a new start a moment later.
    Kill(Node),
    /// An orderly stop, and a start a while later.
    Stop(Node),
    /// Frozen; the consumer for longer than its session in its group lasts, while another takes over.
    Freeze(Node),
    /// The network between a service and another process.
    Cut(Node, End),
    /// Kafka away for longer than a small spool can take.
    FillSpool,
    /// A broker that starts while nobody is there, and services that start while it is away.
    EmptyBroker,
    /// ClickHouse refuses inserts for the number of parts.
    TooManyParts,
    /// ClickHouse refuses certain rows for good: they belong to the dead letters.
    RowsRefused,
    /// Two consumers, one after the other stopped and started.
    RollingConsumers,
    /// Two aggregators at once, and the first killed.
    TwoAggregators,
}

/// The cables that something goes through.
const CABLES: [(Node, End); 7] = [
    (Node::Collector, End::Client),
    (Node::Collector, End::Kafka),
    (Node::Collector, End::Postgres),
    (Node::Consumer, End::Kafka),
    (Node::Consumer, End::ClickHouse),
    (Node::Aggregator, End::ClickHouse),
    (Node::Aggregator, End::Postgres),
];
/// An orderly stop is this long once per process in a long run.
const LONG_STOP: Duration = Duration::from_secs(30);
/// One round in so many has a second fault beside the first.
const OVERLAP: u32 = 5;
/// How long ClickHouse may take to carry out a change, itself perhaps just killed.
const CHANGE_PATIENCE: Duration = Duration::from_secs(60);

impl Fault {
    /// Every kind. Cables only where they can be pulled.
    pub(super) fn all(has_cables: bool) -> Vec<Self> {
        let mut all = Vec::new();
        for node in Node::SIX {
            all.extend([Self::Kill(node), Self::Stop(node), Self::Freeze(node)]);
        }
        if has_cables {
            all.extend(CABLES.map(|(service, end)| Self::Cut(service, end)));
        }
        all.extend([
            Self::FillSpool,
            Self::EmptyBroker,
            Self::TooManyParts,
            Self::RowsRefused,
            Self::RollingConsumers,
            Self::TwoAggregators,
        ]);
        all
    }

    /// As it stands in tables and on the command line.
    pub(super) fn name(self) -> String {
        match self {
            Self::Kill(node) => format!("kill {}", node.name()),
            Self::Stop(node) => format!("stop {}", node.name()),
            Self::Freeze(node) => format!("freeze {}", node.name()),
            Self::Cut(service, end) => format!("cut {}-{}", service.name(), end.name()),
            Self::FillSpool => "fill spool".into(),
            Self::EmptyBroker => "broker restarts alone".into(),
            Self::TooManyParts => "inserts refused".into(),
            Self::RowsRefused => "rows refused".into(),
            Self::RollingConsumers => "rolling consumers".into(),
            Self::TwoAggregators => "two aggregators".into(),
        }
    }

    /// The processes that it takes for itself: two faults at once must not start what the other has stopped.
    fn takes(self) -> Vec<Node> {
        match self {
            Self::Freeze(Node::Consumer) | Self::RollingConsumers => {
                vec![Node::Consumer, Node::SecondConsumer]
            }
            Self::Kill(node) | Self::Stop(node) | Self::Freeze(node) => vec![node],
            Self::Cut(..) => Vec::new(),
            Self::FillSpool => vec![Node::Kafka, Node::Collector],
            Self::EmptyBroker => vec![Node::Kafka, Node::Collector, Node::Consumer],
            Self::TooManyParts | Self::RowsRefused => vec![Node::ClickHouse],
            Self::TwoAggregators => vec![Node::Aggregator, Node::SecondAggregator],
        }
    }

    fn goes_with(self, other: Self) -> bool {
        let other_takes = other.takes();
        self != other && !self.takes().iter().any(|node| other_takes.contains(node))
    }
}

/// What happens in a round.
#[derive(Clone, Debug)]
pub(super) struct Round {
    /// One fault, or two at once; a stop may be a long one.
    pub(super) faults: Vec<(Fault, bool)>,
    /// Draws the moments.
    seed: u64,
}

impl Round {
    pub(super) fn name(&self) -> String {
        let names: Vec<_> = self.faults.iter().map(|(fault, _)| fault.name()).collect();
        names.join(" + ")
    }
}

/// All rounds of a run: every kind comes once before any comes twice. The same arguments give the same rounds.
pub(super) fn plan(seed: u64, rounds: usize, kinds: &[Fault], is_short: bool) -> Vec<Round> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bag: Vec<Fault> = Vec::new();
    let mut stopped: Vec<Fault> = Vec::new();
    (0..rounds)
        .map(|number| {
            if bag.is_empty() {
                bag.extend(kinds);
                bag.shuffle(&mut rng);
            }
            let mut faults: Vec<Fault> = bag.pop().into_iter().collect();
            // A short run has not enough rounds to give every kind one for itself.
            let left = rounds - number;
            let is_crowded = is_short && bag.len() >= left;
            if (is_crowded || rng.random_ratio(1, OVERLAP))
                && let Some(first) = faults.first().copied()
                && let Some(at) = bag.iter().rposition(|fault| fault.goes_with(first))
            {
                faults.push(bag.remove(at));
            }
            let faults = faults.into_iter().map(|fault| {
                let is_long = !is_short && matches!(fault, Fault::Stop(_)) && !stopped.contains(&fault);
                if is_long {
                    stopped.push(fault);
                }
                (fault, is_long)
            });
            Round { faults: faults.collect(), seed: rng.next_u64() }
        })
        .collect()
}

/// Does what a round says and undoes it; when this returns everything runs again, or is on its way.
pub(super) async fn inject(stack: &Arc<Stack>, clickhouse: &ClickHouse, round: &Round) -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(round.seed);
    let mut moment = |from_ms: u64, to_ms: u64| Duration::from_millis(rng.random_range(from_ms..=to_ms));
    let faults: Vec<_> = round
        .faults
        .iter()
        .map(|(fault, is_long)| {
            let draws = Draws {
                begin: moment(200, 1_500),
                instant: moment(0, 1_000),
                brief: moment(500, 3_000),
                away: if *is_long { LONG_STOP } else { moment(2_000, 5_000) },
                is_first: moment(0, 1).is_zero(),
            };
            let fault = *fault;
            async move {
                sleep(draws.begin).await;
                happen(stack, clickhouse, fault, draws).await.with_context(|| fault.name())
            }
        })
        .collect();
    futures::future::try_join_all(faults).await.map(drop)
}

/// Moments, all drawn beforehand, so that a seed repeats them whatever the processes do.
#[derive(Clone, Copy)]
struct Draws {
    begin: Duration,
    instant: Duration,
    brief: Duration,
    away: Duration,
    is_first: bool,
}

async fn happen(
    stack: &Arc<Stack>,
    clickhouse: &ClickHouse,
    fault: Fault,
    draws: Draws,
) -> anyhow::Result<()> {
    match fault {
        Fault::Kill(node) => {
            stack.kill9(node).await?;
            sleep(draws.instant).await;
            stack.start_node(node).await
        }
        Fault::Stop(node) => {
            stack.stop(node).await?;
            sleep(draws.away).await;
            stack.start_node(node).await
        }
        Fault::Freeze(Node::Consumer) => freeze_consumer(stack, draws).await,
        Fault::Freeze(node) => {
            stack.freeze(node).await?;
            sleep(draws.away).await;
            stack.thaw(node).await
        }
        Fault::Cut(service, end) => {
            stack.network.cut(service, end)?;
            sleep(draws.away).await;
            stack.network.mend(service, end)
        }
        Fault::FillSpool => fill_spool(stack, draws).await,
        Fault::EmptyBroker => empty_broker(stack, draws).await,
        Fault::TooManyParts => refuse_inserts(clickhouse, draws.away).await,
        Fault::RowsRefused => refuse_rows(clickhouse, draws.away).await,
        Fault::RollingConsumers => roll_consumers(stack, draws).await,
        Fault::TwoAggregators => {
            stack.start_node(Node::SecondAggregator).await?;
            sleep(draws.away).await;
            stack.kill9(Node::Aggregator).await?;
            sleep(draws.brief).await;
            stack.start_node(Node::Aggregator).await?;
            sleep(draws.brief).await;
            stack.stop(Node::SecondAggregator).await
        }
    }
}

/// The frozen consumer wakes up with batches in its hands that another one has long stored.
async fn freeze_consumer(stack: &Stack, draws: Draws) -> anyhow::Result<()> {
    if draws.is_first {
        stack.start_node(Node::SecondConsumer).await?;
        sleep(draws.brief).await;
    }
    stack.freeze(Node::Consumer).await?;
    if !draws.is_first {
        stack.start_node(Node::SecondConsumer).await?;
    }
    sleep(Duration::from_millis(u64::from(SESSION_TIMEOUT_MS)) + draws.brief).await;
    stack.thaw(Node::Consumer).await?;
    sleep(draws.brief).await;
    stack.stop(Node::SecondConsumer).await
}

/// The collector may answer "later" for as long as the spool is full; what it has accepted, it keeps.
async fn fill_spool(stack: &Stack, draws: Draws) -> anyhow::Result<()> {
    stack.stop(Node::Collector).await?;
    stack.start_with(Node::Collector, &format!("--spool-bytes-max={SMALL_SPOOL_BYTES}")).await?;
    sleep(draws.brief).await;
    stack.stop(Node::Kafka).await?;
    sleep(draws.away * 2).await;
    stack.start_node(Node::Kafka).await?;
    sleep(draws.away).await;
    // With its usual room again.
    stack.kill9(Node::Collector).await?;
    stack.start_node(Node::Collector).await
}

/// A broker that starts knows of no connection, no group member and no idempotent producer.
async fn empty_broker(stack: &Stack, draws: Draws) -> anyhow::Result<()> {
    tokio::try_join!(stack.stop(Node::Collector), stack.stop(Node::Consumer))?;
    if draws.is_first {
        stack.kill9(Node::Kafka).await?;
        stack.start_node(Node::Kafka).await?;
        sleep(draws.away).await;
    }
    stack.stop(Node::Kafka).await?;
    tokio::try_join!(stack.start_node(Node::Collector), stack.start_node(Node::Consumer))?;
    sleep(draws.away).await;
    stack.start_node(Node::Kafka).await
}

async fn roll_consumers(stack: &Stack, draws: Draws) -> anyhow::Result<()> {
    stack.start_node(Node::SecondConsumer).await?;
    sleep(draws.brief).await;
    stack.stop(Node::Consumer).await?;
    sleep(draws.instant).await;
    stack.start_node(Node::Consumer).await?;
    sleep(draws.brief).await;
    stack.stop(Node::SecondConsumer).await
}

async fn refuse_inserts(clickhouse: &ClickHouse, time: Duration) -> anyhow::Result<()> {
    for table in ["events", "clicks"] {
        let few = "MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 1";
        change(clickhouse, &format!("ALTER TABLE millrace.{table} {few}")).await?;
    }
    sleep(time).await;
    for table in ["events", "clicks"] {
        let usual = "RESET SETTING parts_to_delay_insert, parts_to_throw_insert";
        change(clickhouse, &format!("ALTER TABLE millrace.{table} {usual}")).await?;
    }
    Ok(())
}

async fn refuse_rows(clickhouse: &ClickHouse, time: Duration) -> anyhow::Result<()> {
    let refuse = "ADD CONSTRAINT chaos CHECK cityHash64(event_id) % 40 != 0";
    change(clickhouse, &format!("ALTER TABLE millrace.events {refuse}")).await?;
    sleep(time).await;
    change(clickhouse, "ALTER TABLE millrace.events DROP CONSTRAINT chaos").await
}

/// Says it until ClickHouse has done it.
async fn change(clickhouse: &ClickHouse, statement: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + CHANGE_PATIENCE;
    loop {
        match clickhouse.query(statement).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_rounds_and_every_kind_has_its_turn() {
        let kinds = Fault::all(true);
        assert_eq!(kinds.len(), 31);
        let names =
            |rounds: &[Round]| rounds.iter().map(|round| (round.name(), round.seed)).collect::<Vec<_>>();
        let rounds = plan(5, 200, &kinds, false);
        assert_eq!(names(&rounds), names(&plan(5, 200, &kinds, false)));
        assert_ne!(names(&rounds), names(&plan(6, 200, &kinds, false)));
        for kind in &kinds {
            let times =
                rounds.iter().flat_map(|round| &round.faults).filter(|(fault, _)| fault == kind).count();
            assert!(times >= 5, "{} comes {times} times", kind.name());
        }
        let long = rounds.iter().flat_map(|round| &round.faults).filter(|(_, is_long)| *is_long).count();
        assert_eq!(long, 6);
        assert!(rounds.iter().any(|round| round.faults.len() == 2));
        for round in &rounds {
            if let [(first, _), (second, _)] = round.faults[..] {
                assert!(first.goes_with(second), "{}", round.name());
            }
        }
        let all: BTreeSet<_> = kinds.iter().map(|kind| kind.name()).collect();
        assert_eq!(all.len(), kinds.len());
    }
}
