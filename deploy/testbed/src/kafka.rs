//! A real Kafka broker for one test, through `deploy/kafka/kafka.sh`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millrace_local::process::{Process, Signal, bound};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

use super::{Error, Port};

/// What fetches, checks and starts it.
pub const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kafka/kafka.sh");
/// About 1.5 s alone; a busy machine that starts several at once needs far more.
const START_PATIENCE: Duration = Duration::from_secs(180);

/// A broker of its own, with no topics. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Process>,
    port: Port,
    controller_port: Port,
    dir: TempDir,
}

impl Kafka {
    /// Starts a broker and waits until it answers. Downloads Kafka first if this checkout has none.
    pub async fn start() -> Result<Self, Error> {
        fetch().await?;
        let mut kafka = Self {
            process: None,
            port: Port::reserve()?,
            controller_port: Port::reserve()?,
            dir: tempfile::Builder::new().prefix("millrace-kafka-").tempdir()?,
        };
        kafka.restart().await?;
        Ok(kafka)
    }

    /// The value of `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Creates topics, given with their numbers of partitions.
    pub async fn create_topics(&self, topics: &[(&str, i32)]) -> Result<(), Error> {
        let admin: AdminClient<DefaultClientContext> = self.client_config().create()?;
        let topics: Vec<_> = topics
            .iter()
            .map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)))
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        for result in admin.create_topics(&topics, &options).await? {
            result.map_err(|(topic, code)| Error::Topic { topic, code })?;
        }
        Ok(())
    }

    /// Kills the broker with no chance to write anything; its data stays for [`Kafka::restart`].
    pub fn kill9(&mut self) -> Result<(), Error> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Stops the broker in good order; its data stays for [`Kafka::restart`].
    pub async fn stop(&mut self) -> Result<(), Error> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::TERM, Duration::from_secs(20)).await?;
        }
        Ok(())
    }

    /// Freezes the broker: connections stay open and nothing answers, as behind a broken network.
    pub fn pause(&mut self) -> Result<(), Error> {
        if let Some(process) = &mut self.process {
            process.freeze()?;
        }
        Ok(())
    }

    /// Ends [`Kafka::pause`].
    pub fn resume(&mut self) -> Result<(), Error> {
        if let Some(process) = &mut self.process {
            process.signal(Signal::CONT)?;
        }
        Ok(())
    }

    /// Starts the broker again on the same ports and data (killing it first if it runs) and waits until it
    /// answers. After [`Kafka::kill9`] this takes two seconds more: the old session has to end.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.kill9()?;
        let out = File::options().create(true).append(true).open(self.output())?;
        let mut command = bound(Signal::KILL, SCRIPT);
        command.arg("start").arg("--data").arg(self.dir.path());
        command.args(["--port", &self.port.number().to_string()]);
        command.args(["--controller-port", &self.controller_port.number().to_string()]);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let process = self.process.insert(Process::spawn(command)?);

        let deadline = Instant::now() + START_PATIENCE;
        let probe: BaseConsumer = client_config(self.port.number()).create()?;
        let mut probe = Some(probe);
        while Instant::now() < deadline {
            if let Some(status) = process.exited()? {
                return Err(Error::Ended { server: "Kafka", status, output: self.said() });
            }
            let Some(client) = probe.take() else { break };
            let (client, answered) = tokio::task::spawn_blocking(move || {
                let metadata = client.fetch_metadata(None, Duration::from_millis(500));
                let answered = metadata.is_ok_and(|metadata| !metadata.brokers().is_empty());
                (client, answered)
            })
            .await
            .map_err(io::Error::other)?;
            if answered {
                return Ok(());
            }
            probe = Some(client);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Error::Slow { server: "Kafka", output: self.said() })
    }

    fn client_config(&self) -> ClientConfig {
        client_config(self.port.number())
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("output.log")
    }

    /// The last of what the broker printed and logged, for an error message.
    fn said(&self) -> String {
        let last = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(5)..].join("; ")
        };
        format!("{} {}", last(&self.output()), last(&self.dir.path().join("broker.log")))
    }
}

fn client_config(port: u16) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{port}"));
    // While the broker starts, ask often; and do not print what is expected to fail.
    config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "100").set("log_level", "0");
    config
}

/// Idempotent and quick when the broker is there; beside each other, tests wait for one download.
pub async fn fetch() -> Result<(), Error> {
    let output = tokio::task::spawn_blocking(|| Command::new(SCRIPT).arg("fetch").output())
        .await
        .map_err(io::Error::other)??;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Ended { server: "kafka.sh fetch", status: output.status, output: said })
}
