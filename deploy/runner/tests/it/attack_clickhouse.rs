//! ClickHouse's process as the machine's other users see it. Attacks on its port are in `deploy/clickhouse`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use millrace_local::process::Signal;
use reqwest::Client;

use crate::{pipeline::OneMachine, shutdown::eventually};

const SECRET: &str = "whoever-reads-this-has-broken-in";
const STOP_PATIENCE: Duration = Duration::from_secs(180);

/// What `millrace run` makes of it: files that their owner alone reads, and nothing of them where `ps` looks.
#[tokio::test]
async fn one_machine_keeps_its_passwords_to_itself() {
    let machine = OneMachine::new();
    // An engine that took this would not start.
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("config.xml"), "<not-xml").unwrap();
    let variables =
        [("MILLRACE_CLICKHOUSE_PASSWORD", "somebody-elses".to_owned()), ("SECRET", SECRET.to_owned())];
    let mut running = machine.start_with(&variables).await;
    let data_dir = machine.data_dir();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data_dir), 0o700);
    let read = |name: &str| {
        assert_eq!(mode(&data_dir.join(name)), 0o600, "{name}");
        fs::read_to_string(data_dir.join(name)).unwrap()
    };
    let passwords = ["clickhouse.password", "clickhouse_reader.password"].map(read);
    let url = read("clickhouse.url");
    assert_eq!(mode(&data_dir.join("clickhouse")), 0o700);
    assert!(url.contains(&passwords[1]) && !url.contains(&passwords[0]), "{url}");

    let engine = engine_of(running.id());
    for file in ["cmdline", "environ"] {
        let shown =
            String::from_utf8_lossy(&fs::read(format!("/proc/{engine}/{file}")).unwrap()).into_owned();
        for secret in passwords.iter().map(String::as_str).chain([SECRET, "somebody-elses", "admin-token"]) {
            assert!(!shown.contains(secret), "{file}: {shown}");
        }
    }
    assert_eq!(fs::read_link(format!("/proc/{engine}/cwd")).unwrap(), data_dir.join("clickhouse"));
    let said = || fs::read_to_string(machine.dir.path().join("millrace.log")).unwrap();
    eventually("it says where the address is", async || said().contains("clickhouse.url")).await;
    assert!(passwords.iter().all(|password| !said().contains(password)), "{}", said());

    let client = Client::builder().no_proxy().build().unwrap();
    let ask = async |statement: &'static str| {
        client.post(&url).body(statement).send().await.unwrap().text().await.unwrap()
    };
    assert_eq!(ask("SELECT count() FROM events").await, "0\n");
    assert!(ask("TRUNCATE TABLE events").await.contains("(READONLY)"));

    // The next start keeps them.
    assert!(running.stop(Signal::INT, STOP_PATIENCE).await.unwrap().success());
    let mut running = machine.start().await;
    assert_eq!((read("clickhouse.password"), read("clickhouse.url")), (passwords[0].clone(), url.clone()));
    assert!(running.stop(Signal::INT, STOP_PATIENCE).await.unwrap().success());
}

/// The process id of the engine that a runner has started.
fn engine_of(runner: u32) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{runner}/task")).unwrap();
    let children = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|ids| ids.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    let is_engine = |id: &&u32| {
        fs::read_to_string(format!("/proc/{id}/cmdline"))
            .is_ok_and(|line| line.contains("millrace-clickhouse"))
    };
    *children.iter().find(is_engine).unwrap()
}
