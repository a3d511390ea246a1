//! The whole pipeline, from HTTP to Postgres, against the independent recount: on one machine, and as separate services
//! through a real Kafka.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use clickhouse::Client;
use jiff::{Timestamp, tz::TimeZone};
use millrace_demo::{Outcome, Pace, Scenario, Target, example_rates, rehearse};
use millrace_local::process::{Process, Signal, bound, program};
use millrace_recount::{Patience, verify};
use millrace_testbed::{Engine, Kafka, Port, Postgres};
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-a-test-0123456789abcdef";
/// A debug build on a busy machine starts in seconds; a minute means that it does not start.
const START_PATIENCE: Duration = Duration::from_secs(180);
const STOP_PATIENCE: Duration = Duration::from_secs(180);

/// 20,000 events of a shop in New York around the latest change of its clocks, in three currencies.
fn scenario() -> Scenario {
    let zone = TimeZone::get("America/New_York").unwrap();
    Scenario::over_clock_change(Timestamp::now(), 6, zone).unwrap()
}

async fn rehearsed(target: &Target) -> Outcome {
    let scenario = scenario();
    let rates = example_rates(&scenario);
    let outcome =
        rehearse(target, &scenario, Some(&rates), Pace::default(), Patience::default()).await.unwrap();
    outcome.check().unwrap();
    assert!(outcome.sent.accepted >= 20_000 + 900, "events and their repetitions: {}", outcome.sent.accepted);
    let rejected: usize = outcome.sent.rejected.values().sum();
    assert!(rejected >= 200, "malformed ones: {rejected}");
    outcome
}

async fn still_equal(target: &Target, outcome: &Outcome) {
    let Outcome { traffic, store, sent_from, .. } = outcome;
    let verdict =
        verify(&target.postgres, &traffic.ledger, store, *sent_from, Patience::default()).await.unwrap();
    assert!(verdict.is_equal(), "{verdict}");
}

async fn target(collector: &Port, api: &Port, postgres_url: &str) -> Target {
    let address = |port: &Port| format!("http://127.0.0.1:{}", port.number());
    let postgres = PgPoolOptions::new().max_connections(2).connect_lazy(postgres_url).unwrap();
    Target { collector: address(collector), api: address(api), admin_token: ADMIN_TOKEN.into(), postgres }
}

/// Starts one of Millrace's programs with these arguments; what it says goes to a file beside its data.
pub(crate) fn start(name: &str, arguments: &[String], dir: &Path) -> Process {
    start_with(name, arguments, dir, &[])
}

pub(crate) fn start_with(
    name: &str,
    arguments: &[String],
    dir: &Path,
    variables: &[(&str, String)],
) -> Process {
    let mut command = bound(Signal::KILL, program(name).unwrap());
    let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
    command.envs(variables.iter().map(|(name, value)| (*name, value)));
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process::spawn(command).unwrap()
}

/// Waits until `GET /readyz` says yes.
pub(crate) async fn ready(process: &mut Process, base: &str, dir: &Path) {
    let logs = || {
        let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>()
    };
    let begin = Instant::now();
    loop {
        let answer = reqwest::get(format!("{base}/readyz")).await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        assert!(process.exited().unwrap().is_none(), "{base} ended while starting: {}", logs());
        assert!(begin.elapsed() < START_PATIENCE, "{base} is not ready: {}", logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `millrace run` on ports and in a directory of its own.
pub(crate) struct OneMachine {
    pub(crate) ports: [Port; 5],
    pub(crate) dir: TempDir,
}

impl OneMachine {
    pub(crate) fn new() -> Self {
        Self { ports: std::array::from_fn(|_| Port::reserve().unwrap()), dir: TempDir::new().unwrap() }
    }

    pub(crate) async fn start(&self) -> Process {
        self.start_with(&[]).await
    }

    /// The same, with further environment variables.
    pub(crate) async fn start_with(&self, variables: &[(&str, String)]) -> Process {
        let mut process = start_with("millrace", &self.arguments(), self.dir.path(), variables);
        self.ready(&mut process).await;
        process
    }

    /// What `millrace` is started with.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let [collector, api, metrics, clickhouse, postgres] = self.ports.each_ref().map(Port::number);
        let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/chdb/libchdb.so");
        vec![
            "run".into(),
            format!("--data-dir={}", self.data_dir().display()),
            format!("--collector-address=127.0.0.1:{collector}"),
            format!("--api-address=127.0.0.1:{api}"),
            format!("--metrics-address=127.0.0.1:{metrics}"),
            format!("--clickhouse-port={clickhouse}"),
            format!("--postgres-port={postgres}"),
            format!("--library={library}"),
            format!("--admin-token={ADMIN_TOKEN}"),
        ]
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// ClickHouse, as the services use it; the instance must have started once.
    pub(crate) fn clickhouse(&self) -> Client {
        let url = format!("http://127.0.0.1:{}", self.ports[3].number());
        let password = clickhouse_password(&self.data_dir());
        Client::default().with_url(url).with_user("millrace").with_password(password)
    }

    /// The address of that, with user and password in it.
    pub(crate) fn clickhouse_url(&self) -> String {
        self.clickhouse_url_by(&self.data_dir())
    }

    /// The same, where the data directory is seen in another place.
    pub(crate) fn clickhouse_url_by(&self, data_dir: &Path) -> String {
        let (password, port) = (clickhouse_password(data_dir), self.ports[3].number());
        format!("http://millrace:{password}@127.0.0.1:{port}/")
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self, process: &mut Process) {
        let metrics = self.ports[2].number();
        ready(process, &format!("http://127.0.0.1:{metrics}"), self.dir.path()).await;
    }

    pub(crate) async fn target(&self) -> Target {
        self.target_by(&self.data_dir()).await
    }

    /// The same by a data directory that is seen elsewhere.
    pub(crate) async fn target_by(&self, data_dir: &Path) -> Target {
        let [collector, api, ..] = &self.ports;
        let url = std::fs::read_to_string(data_dir.join("postgres.url")).unwrap();
        target(collector, api, &url).await
    }
}

fn clickhouse_password(data_dir: &Path) -> String {
    std::fs::read_to_string(data_dir.join("clickhouse.password")).unwrap()
}

#[tokio::test]
async fn one_machine_shows_what_was_sent_and_finds_it_again() {
    let machine = OneMachine::new();
    let mut running = machine.start().await;
    let first = rehearsed(&machine.target().await).await;

    // What Ctrl-C does. Nothing is missing, nothing is doubled, and what comes later counts too.
    let status = running.stop(Signal::INT, STOP_PATIENCE).await.unwrap();
    assert!(status.success(), "the drain ended with {status}");
    let mut running = machine.start().await;
    let target = machine.target().await;
    still_equal(&target, &first).await;
    let second = rehearsed(&target).await;
    still_equal(&target, &first).await;

    // The same without any chance to drain: what was acknowledged is on disk.
    running.kill().unwrap();
    let mut running = machine.start().await;
    let target = machine.target().await;
    still_equal(&target, &first).await;
    still_equal(&target, &second).await;
    assert!(running.stop(Signal::INT, STOP_PATIENCE).await.unwrap().success());
}

#[tokio::test]
async fn a_second_runner_on_the_same_data_is_told_so() {
    let machine = OneMachine::new();
    let _running = machine.start().await;
    let other = OneMachine::new();
    let data = machine.data_dir();
    let [collector, api, metrics, clickhouse, postgres] = other.ports.each_ref().map(Port::number);
    let arguments = [
        "run".into(),
        format!("--data-dir={}", data.display()),
        format!("--collector-address=127.0.0.1:{collector}"),
        format!("--api-address=127.0.0.1:{api}"),
        format!("--metrics-address=127.0.0.1:{metrics}"),
        format!("--clickhouse-port={clickhouse}"),
        format!("--postgres-port={postgres}"),
    ];
    let mut second = start("millrace", &arguments, other.dir.path());
    let status = tokio::time::timeout(START_PATIENCE, second.wait()).await.unwrap().unwrap();
    assert!(!status.success());
    let said = std::fs::read_to_string(other.dir.path().join("millrace.log")).unwrap();
    assert!(said.contains("another millrace runs on"), "{said}");
}

/// No child outlives a killed runner for long, and a start copes with what is still dying.
#[tokio::test]
async fn a_killed_runner_starts_again_at_once() {
    let machine = OneMachine::new();
    for _ in 0..5 {
        let mut running = machine.start().await;
        running.kill().unwrap();
    }
    let mut running = machine.start().await;
    assert!(running.stop(Signal::INT, STOP_PATIENCE).await.unwrap().success());
}

/// The three services as processes of their own, with a real Kafka between them.
#[tokio::test]
async fn separate_services_through_kafka_show_what_was_sent() {
    let (kafka, engine, postgres) = tokio::join!(Kafka::start(), Engine::start(), Postgres::start());
    let (kafka, engine, postgres) = (kafka.unwrap(), engine.unwrap(), postgres.unwrap());
    let dir = TempDir::new().unwrap();
    let ports: [Port; 5] = std::array::from_fn(|_| Port::reserve().unwrap());
    let [collector, collector_metrics, consumer_metrics, api, aggregator_metrics] =
        ports.each_ref().map(|port| format!("127.0.0.1:{}", port.number()));
    let clickhouse_url = engine.url();
    let postgres_url = postgres.url();

    let mut aggregator = start(
        "millrace-aggregator",
        &[
            format!("--postgres-url={postgres_url}"),
            format!("--clickhouse-url={clickhouse_url}"),
            format!("--api-address={api}"),
            format!("--metrics-address={aggregator_metrics}"),
            format!("--admin-token={ADMIN_TOKEN}"),
        ],
        dir.path(),
    );
    let mut consumer = start(
        "millrace-consumer",
        &[
            format!("--kafka-brokers={}", kafka.bootstrap()),
            format!("--clickhouse-url={clickhouse_url}"),
            format!("--metrics-address={consumer_metrics}"),
        ],
        dir.path(),
    );
    let mut collecting = start(
        "millrace-collector",
        &[
            format!("--kafka-brokers={}", kafka.bootstrap()),
            format!("--postgres-url={postgres_url}"),
            format!("--address={collector}"),
            format!("--metrics-address={collector_metrics}"),
        ],
        dir.path(),
    );
    ready(&mut aggregator, &format!("http://{api}"), dir.path()).await;
    ready(&mut consumer, &format!("http://{consumer_metrics}"), dir.path()).await;
    ready(&mut collecting, &format!("http://{collector}"), dir.path()).await;

    let target = target(&ports[0], &ports[3], postgres_url).await;
    let outcome = rehearsed(&target).await;

    // A consumer that is killed and comes back stores nothing twice.
    consumer.kill().unwrap();
    for mut service in [collecting, aggregator] {
        assert!(service.stop(Signal::TERM, STOP_PATIENCE).await.unwrap().success());
    }
    still_equal(&target, &outcome).await;
}
