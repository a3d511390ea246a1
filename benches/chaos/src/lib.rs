//! Real faults on real parts, with a reconciliation: `make chaos`.
//!
//! A real Kafka, the ClickHouse engine, a real Postgres and the three services run as processes of their own, each
//! service in a network namespace of its own. A client with a ledger posts a made-up shop's traffic throughout. Each
//! round draws a fault (sometimes two), does it under load and heals it; then the client stops posting, everything that
//! it posted gets its answer, and within a deadline must hold, by identity and not only by number:
//!
//! * accepted = stored + dead-lettered: every event that was answered 202 is in the tables or among the dead letters;
//! * a reader of deduplicated rows sees no event twice, and none that nobody was promised;
//! * every message that no consumer can decode is among the dead letters, once;
//! * every answer was the one that the traffic's maker knows, or "later".
//!
//! Every few rounds, and again at the end for all that was ever sent, every rollup must equal the recount of the ledger
//! ([`millrace_recount`]). The seed draws the faults and their moments; what the machine does in between it cannot repeat.

mod campaign;
mod check;
mod fault;
mod load;
mod network;
mod node;
mod recipe;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use jiff::Timestamp;

use campaign::Campaign;
use fault::Fault;
use network::Network;
use node::Stack;

/// Logs of a server that are larger lose their beginning when they are kept.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Breaks a running pipeline in every way that it must survive, and reconciles.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace-chaos", version)]
pub struct Config {
    /// Draws faults and moments; a new one each time when not given.
    #[arg(long, env = "CHAOS_SEED")]
    pub seed: Option<u64>,

    /// Rounds, each with a fault or two.
    #[arg(long, env = "CHAOS_ROUNDS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rounds: u32,

    /// Brief faults, two at once where there are not rounds enough for every kind.
    #[arg(long)]
    pub short: bool,

    /// Only kinds of faults whose names begin with this; may be given several times.
    #[arg(long = "fault", value_name = "NAME")]
    pub faults: Vec<String>,

    /// Events per second that the client posts.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,

    /// Directory that gets the table, as a file named by date and commit.
    #[arg(long)]
    pub results: Option<PathBuf>,

    /// Directory that gets the logs of all processes when something differs.
    #[arg(long, default_value = "target/chaos")]
    pub evidence: PathBuf,

    /// Break the result itself after the last round: the run must then fail.
    #[arg(long, value_enum)]
    pub sabotage: Option<Sabotage>,
}

/// What no fault may do, done on purpose: a check that cannot fail shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// A stored event is deleted.
    Lose,
    /// A stored event is inserted again under another sorting key.
    Double,
    /// The ledger forgets an accepted event.
    Forget,
    /// A rollup gets another number.
    Rollup,
}

/// Prepares what needs the outside world, from which the run itself is cut off.
pub async fn prepare() -> anyhow::Result<()> {
    Ok(millrace_testbed::fetch_kafka().await?)
}

/// Runs it all. An error says what differs, with the seed and the round, and where the logs are.
///
/// `has_network` says that this process has a network namespace to itself.
pub async fn run(config: Config, has_network: bool) -> anyhow::Result<()> {
    let seed = config.seed.unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    let kinds = kinds(&config.faults, has_network)?;
    let rounds = fault::plan(seed, config.rounds as usize, &kinds, config.short);
    println!("Chaos: {} rounds, seed {seed}.", rounds.len());
    if !has_network {
        println!("Without the right to make network namespaces (run as root) no network is cut.");
    }
    let dir = tempfile::Builder::new().prefix("millrace-chaos-").tempdir()?;
    let stack = Stack::start(Network::lay(has_network)?, dir).await?;
    let mut campaign = Campaign::new(&config, seed, Arc::clone(&stack)).await?;
    let outcome = campaign.run(&rounds).await;
    let report = campaign.report().await;
    // Killed here and not by whoever lets go of them last.
    stack.end().await;
    print!("\n{}", report.table());
    let failure = match outcome {
        Ok(()) => {
            if let Some(results) = &config.results {
                println!("Written to {}.", report.write(results)?.display());
            }
            return Ok(());
        }
        Err(failure) => failure,
    };
    let evidence =
        config.evidence.join(format!("{}-seed-{seed}", Timestamp::now().strftime("%Y%m%dT%H%M%S")));
    keep(stack.dir(), &evidence, &format!("{}\n{failure:#}\n", report.table()))?;
    let kinds: String = config.faults.iter().map(|name| format!(" --fault '{name}'")).collect();
    let short = if config.short { " --short" } else { "" };
    Err(failure.context(format!(
        "seed {seed} ({} rounds{short}{kinds}); the logs of all processes are in {}",
        rounds.len(),
        evidence.display()
    )))
}

fn kinds(names: &[String], has_network: bool) -> anyhow::Result<Vec<Fault>> {
    let mut all = Fault::all(has_network);
    if !names.is_empty() {
        all.retain(|fault| names.iter().any(|name| fault.name().starts_with(name)));
    }
    let known = || Fault::all(true).into_iter().map(Fault::name).collect::<Vec<_>>().join(", ");
    anyhow::ensure!(!all.is_empty(), "--fault: no such kind; there are: {}", known());
    Ok(all)
}

/// Copies what the processes said, and writes down what differs.
fn keep(dir: &Path, evidence: &Path, differences: &str) -> anyhow::Result<()> {
    fs::create_dir_all(evidence).with_context(|| format!("cannot make {}", evidence.display()))?;
    fs::write(evidence.join("differences.txt"), differences)?;
    let places = [("", dir.to_owned()), ("kafka-", dir.join("kafka"))];
    for (prefix, place) in places {
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|ending| ending != "log") || !path.is_file() {
                continue;
            }
            let text = fs::read(&path)?;
            let kept = &text[text.len().saturating_sub(KEPT_BYTES_MAX)..];
            fs::write(evidence.join(format!("{prefix}{}", entry.file_name().display())), kept)?;
        }
    }
    Ok(())
}
