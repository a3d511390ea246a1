//! The processes: started, killed, stopped, frozen, and started again when they end by themselves, as an operator's
//! supervisor would do.
//!
//! Each program's output goes to `<work directory>/<name>.log`, over all its starts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use millrace_local::{
    postgres::{self, LocalPostgres},
    process::{Process, Signal},
};
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{
    network::{End, Network},
    recipe::{Recipe, Urls},
};

/// A process of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Node {
    Collector,
    Consumer,
    Aggregator,
    SecondConsumer,
    SecondAggregator,
    Kafka,
    ClickHouse,
    Postgres,
}

impl Node {
    /// Those that have a namespace of their own. They come first in the list: their numbers are part of addresses.
    pub(super) const SERVICES: [Self; 5] =
        [Self::Collector, Self::Consumer, Self::Aggregator, Self::SecondConsumer, Self::SecondAggregator];
    /// Those that run unless a fault says otherwise.
    pub(super) const SIX: [Self; 6] =
        [Self::Kafka, Self::ClickHouse, Self::Postgres, Self::Collector, Self::Consumer, Self::Aggregator];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Consumer => "consumer",
            Self::Aggregator => "aggregator",
            Self::SecondConsumer => "consumer-2",
            Self::SecondAggregator => "aggregator-2",
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Postgres => "postgres",
        }
    }
}

/// More than any service says it needs to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(45);
/// How often the supervisor looks.
const SUPERVISION: Duration = Duration::from_millis(200);
/// Between two starts of a program that ends by itself.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
enum Running {
    Program(Process),
    Postgres(LocalPostgres),
}

impl Running {
    fn id(&self) -> u32 {
        match self {
            Self::Program(process) => process.id(),
            Self::Postgres(server) => server.id(),
        }
    }
}

struct Place {
    recipe: Recipe,
    running: Option<Running>,
    /// Whether the supervisor starts it when it is not there.
    is_wanted: bool,
}

/// Addresses, as the client reaches them.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    pub(super) collector: String,
    pub(super) api: String,
    pub(super) clickhouse: String,
    pub(super) kafka: String,
    pub(super) postgres: String,
}

/// All processes.
pub(super) struct Stack {
    pub(super) addresses: Addresses,
    pub(super) network: Network,
    places: BTreeMap<Node, Mutex<Place>>,
    /// What happened that nobody asked for.
    remarks: std::sync::Mutex<Vec<String>>,
    // Declared after the processes that work in it: whoever lets go of them last, it goes after them.
    dir: TempDir,
}

impl Stack {
    /// Starts everything in `dir`; the services find out by themselves when the servers are ready.
    pub(super) async fn start(mut network: Network, dir: TempDir) -> anyhow::Result<Arc<Self>> {
        let kafka = network.server(End::Kafka, 9092)?;
        let clickhouse = network.server(End::ClickHouse, 8123)?;
        let postgres = network.server(End::Postgres, 5432)?;
        let postgres_config = postgres::Config {
            address: ipv4(postgres)?,
            durable: false,
            connections_max: 60,
            ..postgres::Config::new(dir.path().join("postgres"), postgres.port())
        };
        // Its address holds the password that is made with it.
        let postgres_url = LocalPostgres::initialise(&postgres_config).await?;
        let urls = Urls {
            kafka,
            clickhouse: format!("http://{clickhouse}"),
            postgres: postgres_url,
            dir: dir.path().to_owned(),
        };
        let mut recipes = vec![
            (Node::Postgres, Recipe::Postgres(Box::new(postgres_config))),
            (Node::Kafka, urls.kafka(network.server(End::Kafka, 9093)?.port())),
            (Node::ClickHouse, urls.engine(clickhouse)?),
        ];
        let (listens, collector) = network.service(Node::Collector, 8080)?;
        recipes.push((Node::Collector, urls.collector(listens, network.service(Node::Collector, 9101)?.0)?));
        for node in [Node::Consumer, Node::SecondConsumer] {
            recipes.push((node, urls.consumer(network.service(node, 9102)?.0)?));
        }
        for node in [Node::Aggregator, Node::SecondAggregator] {
            let (listens, _) = network.service(node, 8090)?;
            recipes.push((node, urls.aggregator(listens, network.service(node, 9103)?.0)?));
        }
        let (_, api) = network.service(Node::Aggregator, 8090)?;
        let place = |(node, recipe)| (node, Mutex::new(Place { recipe, running: None, is_wanted: false }));
        let stack = Arc::new(Self {
            addresses: Addresses {
                collector: format!("http://{collector}"),
                api: format!("http://{api}"),
                clickhouse: urls.clickhouse,
                kafka: kafka.to_string(),
                postgres: urls.postgres,
            },
            network,
            places: recipes.into_iter().map(place).collect(),
            remarks: std::sync::Mutex::default(),
            dir,
        });
        for node in Node::SIX {
            stack.start_node(node).await?;
        }
        let supervised = Arc::downgrade(&stack);
        tokio::spawn(async move {
            while let Some(stack) = supervised.upgrade() {
                stack.supervise().await;
                drop(stack);
                tokio::time::sleep(SUPERVISION).await;
            }
        });
        Ok(stack)
    }

    /// Starts a node if it does not run.
    pub(super) async fn start_node(&self, node: Node) -> anyhow::Result<()> {
        let mut place = self.place(node)?.lock().await;
        place.is_wanted = true;
        self.spawn(node, &mut place).await
    }

    /// Starts a node with one more argument, until it is stopped.
    pub(super) async fn start_with(&self, node: Node, argument: &str) -> anyhow::Result<()> {
        let mut place = self.place(node)?.lock().await;
        let before = place.recipe.clone();
        if let Recipe::Program { arguments, .. } = &mut place.recipe {
            let name = argument.split('=').next().unwrap_or(argument).to_owned();
            arguments.retain(|argument| argument.split('=').next() != Some(name.as_str()));
            arguments.push(argument.to_owned());
        }
        let spawned = self.spawn(node, &mut place).await;
        // Should it end by itself, it comes back as it was before.
        place.recipe = before;
        place.is_wanted = true;
        spawned
    }

    async fn spawn(&self, node: Node, place: &mut Place) -> anyhow::Result<()> {
        if place.running.is_some() {
            return Ok(());
        }
        let running = match &place.recipe {
            Recipe::Postgres(config) => Running::Postgres(LocalPostgres::start(config).await?),
            Recipe::Program { program, arguments } => {
                let log = self.dir().join(format!("{}.log", node.name()));
                let mut log = File::options().create(true).append(true).open(log)?;
                writeln!(log, "--- started {}", Timestamp::now())?;
                let mut command = self.network.command(node, program);
                command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
                // What this machine sets for itself is no part of the run.
                clear_settings(&mut command);
                Running::Program(
                    Process::spawn(command).with_context(|| format!("cannot start {}", node.name()))?,
                )
            }
        };
        place.running = Some(running);
        Ok(())
    }

    /// `kill -9`.
    pub(super) async fn kill9(&self, node: Node) -> anyhow::Result<()> {
        let mut place = self.place(node)?.lock().await;
        place.is_wanted = false;
        match place.running.take() {
            None => {}
            Some(Running::Program(mut process)) => process.kill().map(|_| ())?,
            Some(Running::Postgres(server)) => server.kill9().map(|_| ())?,
        }
        Ok(())
    }

    /// Asks a node to end, as an operator does.
    pub(super) async fn stop(&self, node: Node) -> anyhow::Result<()> {
        let mut place = self.place(node)?.lock().await;
        place.is_wanted = false;
        let begin = std::time::Instant::now();
        let status = match place.running.take() {
            None => return Ok(()),
            Some(Running::Program(mut process)) => process.stop(Signal::TERM, STOP_PATIENCE).await?,
            Some(Running::Postgres(server)) => server.stop().await?,
        };
        if status.signal() == Some(9) {
            self.remark(format!(
                "{} had not stopped after {} s and was killed",
                node.name(),
                begin.elapsed().as_secs()
            ));
        // Java says 143 when it was asked to end.
        } else if !status.success() && status.code() != Some(143) {
            self.remark(format!("{}, asked to stop, ended with {status}", node.name()));
        }
        Ok(())
    }

    /// Freezes a node with everything that it has started: its connections stay and nothing answers.
    pub(super) async fn freeze(&self, node: Node) -> anyhow::Result<()> {
        self.signal(node, Signal::STOP).await
    }

    /// Ends [`Stack::freeze`].
    pub(super) async fn thaw(&self, node: Node) -> anyhow::Result<()> {
        self.signal(node, Signal::CONT).await
    }

    async fn signal(&self, node: Node, signal: Signal) -> anyhow::Result<()> {
        let place = self.place(node)?.lock().await;
        // A frozen parent starts no more children; so the parent comes first, and they are complete.
        let Some(parent) = place.running.as_ref().map(Running::id) else { return Ok(()) };
        kill(parent, signal)?;
        children(parent).into_iter().try_for_each(|child| kill(child, signal))
    }

    /// Starts again what has ended by itself.
    async fn supervise(&self) {
        for (node, place) in &self.places {
            // A fault is busy with it.
            let Ok(mut place) = place.try_lock() else { continue };
            if !place.is_wanted {
                continue;
            }
            let ended = match &mut place.running {
                Some(Running::Program(process)) => process.exited().ok().flatten(),
                Some(Running::Postgres(_)) | None => None,
            };
            if let Some(status) = ended {
                self.remark(format!("{} ended by itself ({status}) and was started again", node.name()));
                place.running = None;
                tokio::time::sleep(RESTART_PAUSE).await;
            }
            if let Err(error) = self.spawn(*node, &mut place).await {
                self.remark(format!("{} does not start: {error:#}", node.name()));
            }
        }
    }

    /// Kills everything, for good.
    pub(super) async fn end(&self) {
        for place in self.places.values() {
            let mut place = place.lock().await;
            place.is_wanted = false;
            // What runs is killed when it is dropped.
            place.running = None;
        }
    }

    pub(super) fn remark(&self, text: String) {
        self.remarks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(text);
    }

    /// What happened since the last call that nobody asked for.
    pub(super) fn take_remarks(&self) -> Vec<String> {
        std::mem::take(&mut *self.remarks.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Lines in which a program of ours says that it panicked.
    pub(super) fn panics(&self) -> Vec<String> {
        let mut all = Vec::new();
        for node in Node::SERVICES.into_iter().chain([Node::ClickHouse]) {
            let text = fs::read(self.dir().join(format!("{}.log", node.name()))).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines = text.lines().filter(|line| line.contains("panicked at"));
            all.extend(lines.map(|line| format!("{}: {line}", node.name())));
        }
        all
    }

    /// Where the processes write, and their logs are.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn place(&self, node: Node) -> anyhow::Result<&Mutex<Place>> {
        self.places.get(&node).with_context(|| format!("there is no {}", node.name()))
    }
}

fn clear_settings(command: &mut Command) {
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("MILLRACE_")) {
        command.env_remove(name);
    }
}

fn ipv4(address: SocketAddr) -> anyhow::Result<std::net::Ipv4Addr> {
    match address {
        SocketAddr::V4(address) => Ok(*address.ip()),
        SocketAddr::V6(_) => anyhow::bail!("{address} is no IPv4 address"),
    }
}

fn kill(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    match kill_process(pid, signal) {
        // A worker of Postgres may end at any time.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // `pid (name) state parent …`, and a name may hold anything.
            let parent_text = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
            parent_text.and_then(|text| text.parse().ok()) == Some(parent)
        })
        .collect()
}
