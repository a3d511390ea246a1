//! The services as processes of their own, from the directory that this program was built into.

use std::{fs::File, io, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use millrace_local::process::{Process, Signal, bound};
use millrace_testbed::Port;
use tempfile::TempDir;

use crate::process;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A running service. Dropping it kills it.
pub struct Service {
    name: &'static str,
    process: Process,
    // Held until the process has ended, which is declared before them.
    ports: Vec<Port>,
    dir: TempDir,
}

/// Settings of a service that all depend on the measurement: flags without their dashes, and values.
pub type Settings<'a> = &'a [(&'a str, String)];

impl Service {
    /// Starts a service; each of `listens` is the flag of an address, and gets one.
    pub fn start(name: &'static str, listens: &[&str], settings: Settings<'_>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("millrace-bench-").tempdir()?;
        let ports = listens.iter().map(|_| Port::reserve()).collect::<io::Result<Vec<_>>>()?;
        let mut command = bound(Signal::KILL, program(name)?);
        for (flag, port) in listens.iter().zip(&ports) {
            command.arg(format!("--{flag}=127.0.0.1:{}", port.number()));
        }
        for (flag, value) in settings {
            command.arg(format!("--{flag}={value}"));
        }
        // A setting of the caller's own instance must not reach what is measured.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("MILLRACE_") {
                command.env_remove(variable);
            }
        }
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(dir.path().join("log"))?);
        let process = Process::spawn(command).with_context(|| format!("starting {name}"))?;
        Ok(Self { name, process, ports, dir })
    }

    /// The address that the listening flag of this place got.
    pub fn url(&self, listen: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[listen].number())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// CPU time so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        process::cpu(self.process.id()).with_context(|| format!("{} has ended: {}", self.name, self.log()))
    }

    /// Waits until a GET of this path at the listening flag of this place is answered with 200.
    pub async fn await_answer(&mut self, listen: usize, path: &str) -> anyhow::Result<()> {
        let url = format!("{}{path}", self.url(listen));
        let client = reqwest::Client::new();
        let deadline = tokio::time::Instant::now() + START_TIMEOUT;
        loop {
            let answer = client.get(&url).timeout(Duration::from_secs(5)).send().await;
            let said = match answer {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            if let Some(status) = self.process.exited()? {
                bail!("{} ended ({status}): {}", self.name, self.log());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} is not ready: {said} {}", self.name, self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its metrics, at the listening flag of this place.
    pub async fn metrics(&self, listen: usize) -> anyhow::Result<String> {
        Ok(reqwest::get(format!("{}/metrics", self.url(listen))).await?.error_for_status()?.text().await?)
    }

    /// Stops it in good order.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let status = self.process.stop(Signal::TERM, STOP_TIMEOUT).await?;
        anyhow::ensure!(status.success(), "{} ended with {status}: {}", self.name, self.log());
        Ok(())
    }

    /// The last lines that it has logged.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }
}

/// A program beside this one, or beside the directory of test programs.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    found.with_context(|| format!("{name} is not built; `make bench` builds what it measures"))
}

/// The value of a metric, summed over its labels; those that hold `label` only.
pub fn metric_sum(metrics: &str, name: &str, label: &str) -> f64 {
    metrics
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            // Not a longer name that begins alike.
            let is_whole = rest.starts_with(['{', ' ']);
            let (labels, value) = rest.rsplit_once(' ')?;
            (is_whole && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        })
        .sum()
}

/// The values of a label of a metric, in order.
pub fn metric_labels(metrics: &str, name: &str, label: &str) -> Vec<String> {
    let mark = format!("{label}=\"");
    let of_line = |line: &str| -> Option<String> {
        let (labels, _) = line.strip_prefix(name)?.strip_prefix('{')?.split_once('}')?;
        let (_, rest) = labels.split_once(&mark)?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let mut values: Vec<String> = metrics.lines().filter_map(of_line).collect();
    values.sort();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str =
        "# TYPE a_sum counter\na_sum{rollup=\"x\"} 1.5\na_sum{rollup=\"y\",z=\"1\"} 2\na_sums 9\n";

    #[test]
    fn metrics_are_added_up_by_label() {
        assert_eq!(metric_sum(METRICS, "a_sum", ""), 3.5);
        assert_eq!(metric_sum(METRICS, "a_sum", "rollup=\"y\""), 2.0);
        assert_eq!(metric_labels(METRICS, "a_sum", "rollup"), ["x", "y"]);
    }
}
