//! What the machine's other users see of a running instance: nothing in its directory, and no secret in a log, a metric or a
//! process list. With the umask that leaves everything to whoever makes a file.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use millrace_local::process::{Process, Signal, bound, program};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::{
    browser::PATIENCE,
    pipeline::OneMachine,
    shutdown::{ask, eventually},
};

const SET_TOKEN: &str = "an-admin-token-that-is-set-by-a-variable";
/// Not a secret of ours, but of whoever started us.
const FOREIGN: &str = "a-secret-of-the-shell-that-starts-it";

/// Starts it with umask 0000; what it prints goes to `log`.
async fn start(machine: &OneMachine, log: &str, variables: &[(&str, &str)]) -> Process {
    let log = File::create(machine.dir.path().join(log)).unwrap();
    let mut command = bound(Signal::KILL, "sh");
    command.args(["-c", r#"umask 0000; exec "$0" "$@""#]).arg(program("millrace").unwrap());
    command.args(machine.arguments().into_iter().filter(|argument| !argument.starts_with("--admin-token")));
    command.envs(variables.iter().copied()).env("FOREIGN_PASSWORD", FOREIGN);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut running = Process::spawn(command).unwrap();
    machine.ready(&mut running).await;
    running
}

/// A store of its own, events with both its keys and one that is refused: what comes in and what is rolled up.
async fn use_it(machine: &OneMachine, admin_token: &str) -> Vec<String> {
    let client = Client::builder().no_proxy().build().unwrap();
    let [collector, api] = [0, 1].map(|i: usize| format!("http://127.0.0.1:{}", machine.ports[i].number()));
    let store = json!({"name": "Own", "timezone": "UTC", "currency": "USD"});
    let post = client
        .post(format!("{api}/api/v1/stores"))
        .bearer_auth(admin_token)
        .json(&store)
        .send()
        .await
        .unwrap();
    let store: Value = post.error_for_status().unwrap().json().await.unwrap();
    let text = |field: &str| store[field].as_str().unwrap().to_owned();
    let (id, secret_key, api_token) = (text("store_id"), text("secret_key"), text("api_token"));
    let event = json!({"type": "event", "name": "purchase", "order_id": "1", "value": 1, "currency": "USD", "visitor_id": "v"});
    let send = async |key: &str| {
        let post = client.post(format!("{collector}/v1/collect")).header("x-write-key", key);
        post.json(&event).send().await.unwrap().status()
    };
    eventually("its keys are known", async || send(&secret_key).await == StatusCode::ACCEPTED).await;
    assert_eq!(send(&format!("{secret_key}x")).await, StatusCode::UNAUTHORIZED);
    let orders = async || {
        let url = format!("{api}/api/v1/stores/{id}/analytics_summary");
        let answer = client.get(url).bearer_auth(&api_token).send().await.unwrap().text().await.unwrap();
        answer.contains("total_orders")
    };
    eventually("it is rolled up", orders).await;
    vec![secret_key, api_token]
}

/// Every file and directory below, and itself.
fn walk(path: &Path, found: &mut Vec<PathBuf>) {
    found.push(path.to_owned());
    // Engines remove files of theirs at any time.
    let Ok(kind) = fs::symlink_metadata(path) else { return };
    if kind.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return };
        entries.filter_map(Result::ok).for_each(|entry| walk(&entry.path(), found));
    }
}

fn is_private(data_dir: &Path, when: &str) {
    let mut found = Vec::new();
    walk(data_dir, &mut found);
    assert!(found.len() > 500, "{when}: {} files", found.len());
    let open: Vec<_> = found
        .iter()
        .filter_map(|path| {
            let file = fs::symlink_metadata(path).ok()?;
            let mode = file.permissions().mode() & 0o7777;
            let wanted = if file.is_dir() { 0o700 } else { 0o600 };
            // A link has no mode of its own; what it leads to is looked at in its place.
            (!file.is_symlink() && mode & !wanted != 0).then(|| format!("{mode:o} {}", path.display()))
        })
        .collect();
    assert!(open.is_empty(), "{when}, {} of {}: {open:#?}", open.len(), found.len());
}

/// The passwords and tokens that lie in the data directory.
fn secrets_in(data_dir: &Path) -> BTreeSet<String> {
    let mut secrets = BTreeSet::new();
    for file in fs::read_dir(data_dir).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !file.is_file() || !["password", "token", ".url"].iter().any(|part| name.contains(part)) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap().trim().to_owned();
        let password = text.split_once("://").and_then(|(_, rest)| rest.split_once('@')?.0.split_once(':'));
        let secret = password.map_or(text.as_str(), |(_, password)| password).to_owned();
        assert!(secret.len() >= 16, "{name} is short");
        secrets.insert(secret);
    }
    assert!(
        secrets.len() >= 3,
        "passwords of ClickHouse and Postgres, and the admin token: {}",
        secrets.len()
    );
    secrets
}

/// What anybody may read of the processes below this one.
fn shown_of_children(runner: u32) -> Vec<(String, String)> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            Some((id, stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect();
    let mut below = vec![runner];
    let mut at = 0;
    while at < below.len() {
        let parent = below[at];
        below.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        at += 1;
    }
    let read = |id: &u32, file: &str| {
        String::from_utf8_lossy(&fs::read(format!("/proc/{id}/{file}")).unwrap_or_default()).into_owned()
    };
    let children = below[1..].iter();
    children
        .flat_map(|id| {
            ["cmdline", "environ"]
                .map(|file| (format!("{file} of {}", read(id, "comm").trim()), read(id, file)))
        })
        .collect()
}

/// Logs, metrics and process lists say none of them.
async fn says_none(
    machine: &OneMachine,
    running: &Process,
    secrets: &BTreeSet<String>,
    log: &str,
    printed: Option<&str>,
) {
    let mut said = shown_of_children(running.id());
    assert!(said.len() >= 6, "engines and their processes: {}", said.len());
    let metrics = format!("http://127.0.0.1:{}/metrics", machine.ports[2].number());
    said.push(("metrics".to_owned(), reqwest::get(metrics).await.unwrap().text().await.unwrap()));
    let mut files = Vec::new();
    walk(&machine.data_dir(), &mut files);
    files.retain(|file| {
        file.is_file()
            && file.to_string_lossy().contains("log")
            && file.extension().is_some_and(|ending| ending == "log")
    });
    for file in files {
        said.push((
            file.display().to_string(),
            String::from_utf8_lossy(&fs::read(&file).unwrap_or_default()).into_owned(),
        ));
    }
    let mut own = fs::read_to_string(machine.dir.path().join(log)).unwrap();
    if let Some(printed) = printed {
        assert_eq!(own.matches(printed).count(), 1, "printed once, when it was made: {own}");
        own = own.replace(printed, "");
    }
    said.push((log.to_owned(), own));
    for (place, text) in said {
        for secret in secrets {
            assert!(!text.contains(secret), "{place} has {secret}");
        }
    }
}

#[tokio::test]
async fn nobody_else_reads_its_files_or_sees_a_secret() {
    let machine = OneMachine::new();
    let data_dir = machine.data_dir();
    let mut running = start(&machine, "first.log", &[]).await;
    let token = fs::read_to_string(data_dir.join("admin_token")).unwrap().trim().to_owned();
    let mut secrets = secrets_in(&data_dir);
    secrets.extend(use_it(&machine, &token).await);
    secrets.insert(FOREIGN.to_owned());
    is_private(&data_dir, "running");
    says_none(&machine, &running, &secrets, "first.log", Some(&token)).await;
    let events = ask(&machine.clickhouse_url(), "SELECT count() FROM millrace.events").await;
    assert_ne!(events.trim(), "0");
    assert!(running.stop(Signal::INT, PATIENCE).await.unwrap().success());
    is_private(&data_dir, "stopped");

    // A token from the environment stays with the process that it was given to.
    let mut running = start(&machine, "second.log", &[("MILLRACE_ADMIN_TOKEN", SET_TOKEN)]).await;
    secrets.insert(SET_TOKEN.to_owned());
    secrets.extend(use_it(&machine, SET_TOKEN).await);
    is_private(&data_dir, "running again");
    says_none(&machine, &running, &secrets, "second.log", None).await;
    assert!(running.stop(Signal::INT, PATIENCE).await.unwrap().success());
    is_private(&data_dir, "stopped again");
}
