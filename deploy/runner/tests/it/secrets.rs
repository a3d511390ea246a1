//! No program shows a secret: not in `--help`, not when it cannot start, not while it runs.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use millrace_local::process::{Signal, program};
use millrace_service::setting::is_secret;
use millrace_testbed::Port;
use tempfile::TempDir;

use crate::{
    pipeline::{OneMachine, start_with},
    shutdown::eventually,
};

/// Stands in every secret.
const CANARY: &str = "c4n4ry";
const PROGRAMS: [&[&str]; 9] = [
    &["millrace"],
    &["millrace", "run"],
    &["millrace", "demo"],
    &["millrace", "replay"],
    &["millrace-clickhouse"],
    &["millrace-collector"],
    &["millrace-consumer"],
    &["millrace-consumer", "replay"],
    &["millrace-aggregator"],
];

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn help(words: &[&str], flag: &str, variables: &[String]) -> String {
    let mut command = Command::new(program(words[0]).unwrap());
    command.args(&words[1..]).arg(flag);
    command.envs(variables.iter().map(|name| (name, format!("postgres://u:{CANARY}@h/d"))));
    said(&command.output().unwrap())
}

#[test]
fn help_shows_no_secret() {
    for words in PROGRAMS {
        let text = help(words, "--help", &[]);
        let variables: Vec<String> = text
            .split("[env: ")
            .skip(1)
            .filter_map(|rest| rest.split(['=', ']']).next())
            .map(str::to_owned)
            .filter(|name| is_secret(name))
            .collect();
        for flag in ["--help", "-h"] {
            let text = help(words, flag, &variables);
            let shown = text.lines().find(|line| line.contains(CANARY));
            assert_eq!(shown, None, "{words:?} {flag}");
        }
    }
}

#[test]
fn what_cannot_start_repeats_no_secret() {
    let url = format!("postgres://millrace:{CANARY}@127.0.0.1:1/millrace");
    let misspelt = format!("postgres://millrace@127.0.0.1:1/millrace?pasword={CANARY}");
    let no_port = format!("postgres://millrace:{CANARY}/x@127.0.0.1:99999/millrace");
    for (name, setting, value, named) in [
        ("millrace-collector", "MILLRACE_POSTGRES_URL", misspelt.clone(), "MILLRACE_POSTGRES_URL"),
        ("millrace-collector", "MILLRACE_POSTGRES_URL", no_port.clone(), "MILLRACE_POSTGRES_URL"),
        ("millrace-aggregator", "MILLRACE_POSTGRES_URL", misspelt, "MILLRACE_POSTGRES_URL"),
        ("millrace-aggregator", "MILLRACE_POSTGRES_URL", no_port, ""),
        ("millrace-aggregator", "MILLRACE_ADMIN_TOKEN", CANARY.to_owned(), "openssl rand -hex 32"),
        ("millrace-consumer", "MILLRACE_KAFKA_SETTINGS", format!("sasl.password:{CANARY}"), "kafka-settings"),
    ] {
        let dir = TempDir::new().unwrap();
        let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let address = |at: usize| format!("127.0.0.1:{}", ports[at].number());
        let output = Command::new(program(name).unwrap())
            .env("MILLRACE_POSTGRES_URL", &url)
            .env("MILLRACE_COLLECTOR_ADDRESS", address(0))
            .env("MILLRACE_API_ADDRESS", address(0))
            .env("MILLRACE_METRICS_ADDRESS", address(1))
            .env("MILLRACE_SPOOL_DIR", dir.path().join("spool"))
            .env("MILLRACE_CLICKHOUSE_URL", format!("http://u:{CANARY}@127.0.0.1:1"))
            .env(setting, &value)
            .output()
            .unwrap();
        let said = said(&output);
        assert!(!output.status.success(), "{name} {setting}: {said}");
        assert!(!said.contains(CANARY), "{name} {setting}: {said}");
        assert!(said.contains(named), "{name} {setting}: {said}");
    }
}

/// Everything that a service needs is away, so that it has something to say about each.
#[tokio::test]
async fn what_runs_tells_no_secret() {
    let dir = TempDir::new().unwrap();
    let ports: [Port; 5] = std::array::from_fn(|_| Port::reserve().unwrap());
    let [collector, collector_metrics, consumer_metrics, api, aggregator_metrics] =
        ports.each_ref().map(|port| format!("127.0.0.1:{}", port.number()));
    let variables = [
        ("MILLRACE_POSTGRES_URL", format!("postgres://millrace:{CANARY}@127.0.0.1:1/millrace")),
        ("MILLRACE_CLICKHOUSE_URL", format!("http://millrace:{CANARY}@127.0.0.1:1")),
        ("MILLRACE_CLICKHOUSE_PASSWORD", format!("{CANARY}-password")),
        ("MILLRACE_ADMIN_TOKEN", format!("{CANARY}-0123456789abcdef0123456789abcdef")),
        ("MILLRACE_LOG", "spool".to_owned()),
        ("MILLRACE_SPOOL_DIR", dir.path().join("spool").display().to_string()),
        ("RUST_LOG", "debug".to_owned()),
    ];
    let services = [
        ("millrace-collector", vec![format!("--address={collector}")], collector_metrics.clone()),
        ("millrace-consumer", vec![], consumer_metrics.clone()),
        ("millrace-aggregator", vec![format!("--api-address={api}")], aggregator_metrics.clone()),
    ];
    let mut running = Vec::new();
    for (name, mut arguments, metrics) in services {
        arguments.push(format!("--metrics-address={metrics}"));
        running.push((name, start_with(name, &arguments, dir.path(), &variables)));
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for url in [
        format!("http://{collector}/readyz"),
        format!("http://{collector}/openapi.json"),
        format!("http://{collector_metrics}/metrics"),
        format!("http://{consumer_metrics}/readyz"),
        format!("http://{consumer_metrics}/metrics"),
        format!("http://{api}/readyz"),
        format!("http://{api}/openapi.json"),
        format!("http://{aggregator_metrics}/metrics"),
    ] {
        let mut text = None;
        eventually(&url, async || {
            let Ok(answer) = client.get(&url).send().await else { return false };
            text = Some(answer.text().await.unwrap());
            true
        })
        .await;
        assert!(!text.unwrap().contains(CANARY), "{url}");
    }
    // Each has said by then that somebody is away.
    for (name, process) in &mut running {
        let log = dir.path().join(format!("{name}.log"));
        eventually(name, async || fs::read_to_string(&log).unwrap().contains("WARN")).await;
        process.stop(Signal::TERM, Duration::from_secs(60)).await.unwrap();
        let said = fs::read_to_string(&log).unwrap();
        let shown = said.lines().find(|line| line.contains(CANARY));
        assert_eq!(shown, None, "{name}");
    }
}

/// The operator's token is shown by the start that makes it, and by no other.
#[tokio::test]
async fn the_admin_token_is_shown_once() {
    let machine = OneMachine::new();
    let arguments: Vec<String> =
        machine.arguments().into_iter().filter(|argument| !argument.starts_with("--admin-token")).collect();
    let log = machine.dir.path().join("millrace.log");
    let mut token = String::new();
    for is_first in [true, false] {
        let mut process = start_with("millrace", &arguments, machine.dir.path(), &[]);
        machine.ready(&mut process).await;
        eventually("it is up", async || fs::read_to_string(&log).unwrap().contains("admin token")).await;
        let said = fs::read_to_string(&log).unwrap();
        let line = said.lines().find_map(|line| line.trim().strip_prefix("admin token")).unwrap().trim();
        let path = machine.data_dir().join("admin_token");
        let kept = fs::read_to_string(&path).unwrap();
        if is_first {
            token = line.to_owned();
        } else {
            assert!(line.starts_with("in ") && line.ends_with("admin_token"), "{line}");
            assert!(!said.contains(&token), "{said}");
        }
        assert_eq!(kept, token);
        process.stop(Signal::INT, Duration::from_secs(180)).await.unwrap();
    }
}
