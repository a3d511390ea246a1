//! `bench`: measures the services against the limits of this machine, and keeps the table.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use millrace_benches::{
    floor,
    machine::{Machine, Versions},
    measure::{Progress, Sizes, aggregator, attack, collector, consumer, enrich},
    table::render,
};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Collector,
    Enrich,
    Consumer,
    Aggregator,
    Attack,
}

/// Measures the services against the limits of this machine, all in one run, with CPU time beside wall time. Starts a
/// Kafka, ClickHouse engines and a Postgres of its own; the services are the programs beside this one.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Only so much that every measurement is made once: it shows that the bench works, its figures mean nothing.
    #[arg(long)]
    quick: bool,

    /// Measure only these.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "collector,enrich,consumer,aggregator,attack"
    )]
    only: Vec<Part>,

    /// Events in a request, and rows in a message; each is measured.
    #[arg(long, value_delimiter = ',', default_value = "1,50", value_parser = clap::value_parser!(u16).range(1..=500))]
    events_per_request: Vec<u16>,

    /// Seconds that each load on a server is measured, after a quarter of it to warm up.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,

    /// Connections of each load, with one request at a time.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=8000))]
    connections: u16,

    /// Requests a second of those who behave while the collector is attacked.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    attack_rate: u32,

    /// Rows that go into ClickHouse in each way.
    #[arg(long, default_value_t = 800_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,

    /// Rows in an insert, at most.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    batch_rows: u32,

    /// Events of the store-day that is rolled up.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    day_events: u64,

    /// Partitions of each topic.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..=100))]
    partitions: i32,

    /// Where spools are written while they are measured; a disk, because the spool waits for it.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data_dir: PathBuf,

    /// Directory of the reports.
    #[arg(long, default_value_os_t = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("results"))]
    out: PathBuf,

    /// Only be the server that does nothing, at this address.
    #[arg(long)]
    floor: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(address) = arguments.floor {
        return Ok(floor::serve(tokio::net::TcpListener::bind(address).await?).await?);
    }
    let sizes = sizes(&arguments)?;
    let is_on = |part| arguments.only.contains(&part);
    let kinds = sizes.events_per_request.len() as u64;
    let measurements = [
        (Part::Collector, collector::MEASUREMENTS * kinds),
        (Part::Enrich, enrich::MEASUREMENTS * kinds),
        (Part::Consumer, consumer::MEASUREMENTS * kinds),
        (Part::Aggregator, aggregator::MEASUREMENTS),
        (Part::Attack, attack::MEASUREMENTS),
    ];
    let progress =
        Progress::new(measurements.iter().filter(|(part, _)| is_on(*part)).map(|(_, count)| count).sum());
    let machine = Machine::describe(&sizes.data_dir);
    let versions = Versions::ask().await?;
    let mut sections = Vec::new();
    if is_on(Part::Collector) {
        sections.extend(collector::measure(&sizes, &progress).await.context("measuring the collector")?);
    }
    if is_on(Part::Enrich) {
        sections.extend(enrich::measure(&sizes, &progress).context("measuring the enrichment")?);
    }
    if is_on(Part::Consumer) {
        sections.extend(consumer::measure(&sizes, &progress).await.context("measuring the consumer")?);
    }
    if is_on(Part::Aggregator) {
        sections.extend(aggregator::measure(&sizes, &progress).await.context("measuring the aggregator")?);
    }
    let mut table = if sections.is_empty() { String::new() } else { render(&sections) };
    if is_on(Part::Attack) {
        let rate = f64::from(if arguments.quick { 50 } else { arguments.attack_rate });
        let attacks = attack::measure(&sizes, rate, &progress).await.context("attacking the collector")?;
        table = format!("{table}\n{attacks}");
    }
    progress.finish();
    write!(std::io::stdout(), "{table}")?;
    let path = keep(&arguments, &sizes, &machine, &versions, &table)?;
    writeln!(std::io::stdout(), "\nkept in {}", path.display())?;
    Ok(())
}

fn sizes(arguments: &Arguments) -> anyhow::Result<Sizes> {
    let load = Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?;
    let sizes = Sizes {
        events_per_request: arguments.events_per_request.iter().map(|events| usize::from(*events)).collect(),
        warm_up: load / 4,
        load,
        connections: arguments.connections.into(),
        rows: arguments.rows,
        batch_rows: arguments.batch_rows,
        day_events: arguments.day_events,
        partitions: arguments.partitions,
        data_dir: arguments.data_dir.clone(),
    };
    if !arguments.quick {
        return Ok(sizes);
    }
    Ok(Sizes {
        events_per_request: vec![10],
        warm_up: Duration::from_millis(100),
        load: Duration::from_millis(300),
        connections: 8,
        rows: 2_000,
        batch_rows: 500,
        day_events: 2_000,
        ..sizes
    })
}

const READING: &str = "\
How to read it: in each part the first line is the limit on this machine, and the last two columns are multiples of it. \
CPU is user and system time of the process that is measured, and \"behind it\" is that of the servers it talks to: \
Kafka's broker for the collector, the ClickHouse engine for the consumer, the engine and Postgres for the aggregator. \
The collector's multiple compares its own CPU time for an event; that of a step of enrichment what an event costs with \
it and without any; the consumer's and the aggregator's add what is behind \
them, because a row that is cheap to send may be dear to store. For the consumer the engine's time goes on until the \
merges are done, and wall time is the pace in the middle of the run, without the start and without the last batch's \
wait for its age. Everything, the sender of the load included, shares the processors of one machine, so rates are lower \
than those of servers that have a machine each; CPU time for an event is what carries over.";

fn keep(
    arguments: &Arguments,
    sizes: &Sizes,
    machine: &Machine,
    versions: &Versions,
    table: &str,
) -> anyhow::Result<PathBuf> {
    let date = jiff::Zoned::now().date();
    let Sizes { connections, load, rows, batch_rows, day_events, partitions, .. } = sizes;
    let quick = if arguments.quick { " A quick run: its figures mean nothing." } else { "" };
    let text = format!(
        "# Measured on {date}\n\n\
         {machine}\n{versions}\n\
         Sizes: {connections} connections and {:.1} s for each load, {rows} rows in inserts of {batch_rows}, \
         {day_events} events in the store-day, {partitions} partitions.{quick}\n\n\
         {table}\n{READING}\n",
        load.as_secs_f64(),
    );
    fs::create_dir_all(&arguments.out)?;
    let path = free_path(&arguments.out, &format!("{date}-{}", machine.commit_name()));
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// A second run on one day and commit does not replace the first.
fn free_path(dir: &Path, name: &str) -> PathBuf {
    let numbered = |number: u32| match number {
        1 => dir.join(format!("{name}.md")),
        number => dir.join(format!("{name}-{number}.md")),
    };
    (1..1000).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(1000))
}
