//! The short form of `make chaos`, and proofs that its check can fail and that it leaves nothing behind.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use millrace_local::process::{Process, Signal};
use tempfile::TempDir;

/// Two faults at a time, so that most kinds have their turn.
const ROUNDS: &str = "12";
const SEED: &str = "3";
/// For processes to be gone after their parent.
const END_PATIENCE: Duration = Duration::from_secs(90);

fn chaos(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-chaos"));
    command.args(arguments).arg("--evidence").arg(dir.join("evidence")).env("TMPDIR", dir);
    for name in ["CHAOS_SEED", "CHAOS_ROUNDS", "CHAOS_NETWORK"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn run(dir: &Path, arguments: &[&str]) -> (Output, String) {
    let output = chaos(dir, arguments).output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    println!("{said}");
    (output, said)
}

/// Processes whose command line names the directory: all of the run's do.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(dir))
        .collect()
}

fn directories_of_runs(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("millrace-") && !name.starts_with("millrace-ports")).collect()
}

fn nothing_is_left(dir: &Path) {
    let deadline = Instant::now() + END_PATIENCE;
    while !processes_of(dir).is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:?}", processes_of(dir));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_dozen_rounds_lose_nothing_and_count_nothing_twice() {
    let dir = TempDir::new().unwrap();
    let (output, said) = run(dir.path(), &["--short", "--rounds", ROUNDS, "--seed", SEED]);
    if !output.status.success() {
        // The evidence outlives the test.
        panic!("{said}\nkept in {}", dir.keep().display());
    }
    nothing_is_left(dir.path());
    assert_eq!(directories_of_runs(dir.path()), [] as [&str; 0]);
}

#[test]
fn an_event_that_disappears_is_reported_and_the_logs_are_kept() {
    let dir = TempDir::new().unwrap();
    let arguments = ["--rounds", "1", "--seed", "1", "--fault", "kill consumer", "--sabotage", "lose"];
    let (output, said) = run(dir.path(), &arguments);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("seed 1 (1 rounds --fault 'kill consumer')"), "{said}");
    assert!(said.contains("round 1 of 1 (kill consumer)"), "{said}");
    assert!(said.contains("\n1 lost: "), "{said}");
    nothing_is_left(dir.path());
    assert_eq!(directories_of_runs(dir.path()), [] as [&str; 0]);
    let evidence = fs::read_dir(dir.path().join("evidence")).unwrap().next().unwrap().unwrap().path();
    for name in ["differences.txt", "collector.log", "consumer.log", "kafka-broker.log", "postgres.log"] {
        let length =
            fs::metadata(evidence.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")).len();
        assert!(length > 0, "{name} is empty");
    }
}

/// Ctrl-C removes everything, while a database is being made (the broker starts before it) and with everything running; a
/// kill leaves no process, and nothing but files.
#[tokio::test]
async fn nothing_is_left_when_it_is_interrupted_or_killed() {
    let moments = [
        ("java", Signal::INT, Some(130)),
        ("collector", Signal::INT, Some(130)),
        ("java", Signal::KILL, None),
    ];
    for (program, signal, code) in moments {
        let dir = TempDir::new().unwrap();
        let mut command = chaos(dir.path(), &["--rounds", "1"]);
        command.stdout(Stdio::null());
        let mut running = Process::spawn(command).unwrap();
        let runs = |line: &String| line.split(' ').next().is_some_and(|path| path.ends_with(program));
        let deadline = Instant::now() + Duration::from_secs(180);
        while !processes_of(dir.path()).iter().any(runs) {
            assert!(Instant::now() < deadline, "no {program} starts");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let status = running.stop(signal, END_PATIENCE).await.unwrap();
        assert_eq!(status.code(), code, "{status}");
        nothing_is_left(dir.path());
        let left = directories_of_runs(dir.path());
        assert_eq!(left.is_empty(), code.is_some(), "{signal:?} when {program} ran: {left:?}");
    }
}
