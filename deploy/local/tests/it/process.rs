use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millrace_local::process::{Process, Signal, bound};

const PARENT: &str = "MILLRACE_TEST_BE_THE_PARENT";

/// Ended, or ended and not yet reaped by whoever inherited it.
fn ended(pid: &str) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => true,
    }
}

/// This test starts itself again as the parent, to be killed.
#[test]
fn children_end_when_their_parent_is_killed() {
    if std::env::var_os(PARENT).is_some() {
        // The thread that asks for a child may end; the child must not.
        let child = std::thread::spawn(|| {
            let mut command = bound(Signal::KILL, "sleep");
            command.arg("600");
            Process::spawn(command).unwrap()
        });
        let child = child.join().unwrap();
        eprintln!("\nchild {}", child.id());
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::children_end_when_their_parent_is_killed", "--nocapture"])
        .env(PARENT, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stderr.take().unwrap()).lines();
    let child = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("child ")?.to_owned()));
    let child = child.unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!ended(&child));

    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ended(&child) {
        assert!(Instant::now() < deadline, "process {child} outlived its parent");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_child_that_ignores_the_request_to_stop_is_killed() {
    let mut command = bound(Signal::KILL, "sh");
    command.args(["-c", "trap '' TERM; while true; do sleep 1; done"]);
    let mut child = Process::spawn(command).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!child.stop(Signal::TERM, Duration::from_millis(300)).await.unwrap().success());
    assert!(ended(&child.id().to_string()));
}
