//! The collector as a process of its own, with its memory, its signals and what it says.

use std::{
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use millrace_local::process::{Process, Signal, bound};
use millrace_testbed::Port;
use reqwest::StatusCode;
use tempfile::TempDir;

use crate::service::{WRITE_KEY, eventually, write_snapshot};

const PROGRAM: &str = env!("CARGO_BIN_EXE_millrace-collector");

/// A running collector on a spool, if its arguments do not say otherwise. Dropping it kills it.
pub(crate) struct Collector {
    process: Process,
    port: Port,
    metrics_port: Port,
    pub(crate) dir: TempDir,
}

impl Collector {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(arguments: &[String]) -> Self {
        Self::start_with(arguments, &[]).await
    }

    /// The same, with further environment variables.
    pub(crate) async fn start_with(arguments: &[String], variables: &[(&str, String)]) -> Self {
        Self::start_under(&[], arguments, variables).await
    }

    /// The same, run by another program: the collector and its arguments follow the wrapper's.
    pub(crate) async fn start_under(
        wrapper: &[&str],
        arguments: &[String],
        variables: &[(&str, String)],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, metrics_port) = (Port::reserve().unwrap(), Port::reserve().unwrap());
        let process = spawn(wrapper, dir.path(), [&port, &metrics_port], arguments, variables);
        let mut collector = Self { process, port, metrics_port, dir };
        collector.ready().await;
        collector
    }

    /// Kills it, if it runs, and starts it again on its directory and ports.
    pub(crate) async fn restart(&mut self, arguments: &[String]) {
        self.process.kill().unwrap();
        self.process = spawn(&[], self.dir.path(), [&self.port, &self.metrics_port], arguments, &[]);
        self.ready().await;
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.is_ready().await {
            assert!(self.process.exited().unwrap().is_none(), "it ended: {}", self.said());
            assert!(Instant::now() < deadline, "it is not ready: {}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let answer = client().get(format!("{}/readyz", self.url())).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// Waits for its end; says how it ended, and how long that took.
    pub(crate) async fn ended(&mut self, patience: Duration) -> (ExitStatus, Duration) {
        let start = Instant::now();
        let status = tokio::time::timeout(patience, self.process.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end: {}", self.said()));
        (status.unwrap(), start.elapsed())
    }

    /// The file system as it sees it.
    pub(crate) fn root(&self) -> std::path::PathBuf {
        format!("/proc/{}/root", self.process.id()).into()
    }

    /// What it has logged.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// The most memory that it ever had resident, in bytes.
    pub(crate) fn rss_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics_port.number());
        let text = client().get(url).send().await.unwrap().text().await.unwrap();
        let of_line = |line: &str| {
            let rest = line.strip_prefix(name)?.strip_prefix(['{', ' '])?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        text.lines().filter_map(of_line).sum()
    }

    pub(crate) async fn has_metric(&self, name: &str, at_least: f64) {
        eventually(name, async || self.metric(name).await >= at_least).await;
    }

    pub(crate) fn spool(&self, topic: &str) -> std::path::PathBuf {
        Path::join(self.dir.path(), "spool").join(topic)
    }
}

fn spawn(
    wrapper: &[&str],
    dir: &Path,
    [port, metrics_port]: [&Port; 2],
    arguments: &[String],
    variables: &[(&str, String)],
) -> Process {
    let wrapped: Vec<_> = wrapper.iter().copied().chain([PROGRAM]).collect();
    let mut command = bound(Signal::KILL, wrapped[0]);
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    command
        .args(&wrapped[1..])
        .arg(format!("--address=127.0.0.1:{}", port.number()))
        .arg(format!("--metrics-address=127.0.0.1:{}", metrics_port.number()))
        .arg(format!("--keys-snapshot={}", write_snapshot(dir).display()))
        .arg(format!("--spool-dir={}", dir.join("spool").display()))
        .arg("--postgres-url=postgres://millrace@127.0.0.1:1/millrace")
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    if !arguments.iter().any(|argument| argument.starts_with("--log=")) {
        command.arg("--log=spool");
    }
    Process::spawn(command).unwrap()
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// The head of a request with the demo store's key and a body of so many bytes.
pub(crate) fn head(body_bytes: usize) -> String {
    format!("POST /v1/collect?key={WRITE_KEY} HTTP/1.1\r\nhost: a\r\ncontent-length: {body_bytes}\r\n\r\n")
}
