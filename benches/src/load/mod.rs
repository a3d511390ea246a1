//! Sends requests over kept connections, as fast as the server takes them or at a rate.
//!
//! HTTP is written by hand here, because the sender shares the machine with the server that it measures: a request
//! costs one copy of a rendered body, one write and one read. At a rate, latency counts from the moment at which a
//! request was due, not from when it could be sent: a server that stalls does not hide its stall by keeping the
//! sender from sending.

mod answer;
mod connection;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::http::Uri;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::event::{Mix, templates};
pub use answer::{Answer, read_answer};

/// What is sent, where to, and how fast.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the collector takes events, with its path.
    pub url: String,
    /// Key of the store.
    pub key: String,
    /// Events a second over all connections; `None`: as many as the server takes.
    pub rate: Option<f64>,
    /// What requests hold.
    pub mix: Mix,
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// Threads that share the connections.
    pub threads: usize,
    /// How long to send.
    pub duration: Duration,
    /// Determines all but times.
    pub seed: u64,
}

/// Different visitors of a load.
const VISITORS: u64 = 100_000;
/// Milliseconds between the events of one request.
const APART_MS: i64 = 250;
/// Refused and failed requests of which the text is kept.
const PROBLEMS_MAX: usize = 5;

/// What has been sent so far, while it goes on.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests answered.
    pub requests: AtomicU64,
    /// Events accepted.
    pub accepted: AtomicU64,
    /// Events rejected, alone or with their request.
    pub rejected: AtomicU64,
}

/// What a load has come to.
#[derive(Debug)]
pub struct Summary {
    /// Requests answered.
    pub requests: u64,
    /// Events accepted.
    pub accepted: u64,
    /// Events rejected, alone or with their request.
    pub rejected: u64,
    /// Requests by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections that broke, and requests that got no answer.
    pub broken: u64,
    /// The first few answers and errors that were not as wanted.
    pub problems: Vec<String>,
    /// Microseconds until the answer.
    pub latency_us: Histogram<u64>,
    /// From the first request to the last answer.
    pub wall: Duration,
    /// CPU time of the sender.
    pub cpu: Duration,
}

impl Summary {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            requests: 0,
            accepted: 0,
            rejected: 0,
            statuses: BTreeMap::new(),
            broken: 0,
            problems: Vec::new(),
            latency_us: Histogram::new_with_bounds(1, 600_000_000, 2)?,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
        })
    }

    fn add(&mut self, other: Self) -> anyhow::Result<()> {
        self.requests += other.requests;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.broken += other.broken;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        other.problems.into_iter().for_each(|problem| self.note(problem));
        self.latency_us.add(other.latency_us)?;
        self.wall = self.wall.max(other.wall);
        self.cpu += other.cpu;
        Ok(())
    }

    fn note(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// A load that is being sent.
pub struct Load {
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<Summary>>>,
}

impl Load {
    /// Begins to send.
    pub fn start(plan: &Plan) -> anyhow::Result<Self> {
        let target = Arc::new(Target::new(plan)?);
        let (counters, stop) = (Arc::<Counters>::default(), Arc::<AtomicBool>::default());
        let threads = plan.threads.clamp(1, plan.connections.max(1));
        let spawn = |thread: usize| {
            let share = Share {
                target: Arc::clone(&target),
                counters: Arc::clone(&counters),
                stop: Arc::clone(&stop),
                started: Instant::now(),
                plan: plan.clone(),
            };
            let connections: Vec<usize> = (thread..plan.connections.max(1)).step_by(threads).collect();
            std::thread::Builder::new().name("load".into()).spawn(move || send(&share, &connections))
        };
        let threads = (0..threads).map(spawn).collect::<Result<_, _>>().context("starting a thread")?;
        Ok(Self { counters, stop, threads })
    }

    /// What has been sent so far.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Whether everything is sent and answered.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Sends nothing more; requests that are on their way are waited for.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the end; blocks.
    pub fn join(self) -> anyhow::Result<Summary> {
        let mut summary = Summary::new()?;
        for thread in self.threads {
            summary.add(thread.join().map_err(|_| anyhow::anyhow!("a sending thread panicked"))??)?;
        }
        Ok(summary)
    }
}

/// What all connections of a load share.
struct Share {
    target: Arc<Target>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    started: Instant,
    plan: Plan,
}

/// Where requests go, and the requests.
struct Target {
    address: SocketAddr,
    requests: Vec<Request>,
}

/// A request as it goes over the wire.
struct Request {
    head: Vec<u8>,
    template: crate::event::Template,
}

impl Target {
    fn new(plan: &Plan) -> anyhow::Result<Self> {
        let uri: Uri = plan.url.parse().with_context(|| format!("--url {}", plan.url))?;
        anyhow::ensure!(uri.scheme_str() == Some("http"), "--url {}: only http is spoken here", plan.url);
        let host = uri.host().context("--url has no host")?;
        let port = uri.port_u16().unwrap_or(80);
        let mut addresses = (host, port).to_socket_addrs().with_context(|| format!("--url {}", plan.url))?;
        let address = addresses.next().with_context(|| format!("--url {}: no such host", plan.url))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let requests = templates(plan.mix, crate::rows::TEMPLATES, plan.seed)
            .into_iter()
            .map(|template| Request {
                head: format!(
                    "POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: {}\r\nAccept: */*\r\n\
                     Accept-Language: en-US,en;q=0.9\r\nContent-Type: application/json\r\nX-Write-Key: {}\r\n\
                     Content-Length: {}\r\n\r\n",
                    crate::rows::USER_AGENT,
                    plan.key,
                    template.len(),
                )
                .into_bytes(),
                template,
            })
            .collect();
        Ok(Self { address, requests })
    }
}

/// One thread's part: all its connections on one runtime that does not migrate them.
fn send(share: &Share, connections: &[usize]) -> anyhow::Result<Summary> {
    let cpu = thread_cpu();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut summary = Summary::new()?;
    let tallies = runtime.block_on(futures::future::try_join_all(
        connections.iter().map(|connection| connection::run(share, *connection)),
    ))?;
    for tally in tallies {
        summary.add(tally)?;
    }
    summary.wall = share.started.elapsed();
    summary.cpu = thread_cpu().saturating_sub(cpu);
    Ok(summary)
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
