//! The bench makes every measurement once, with the real servers and services.

use std::process::Command;

#[test]
fn a_quick_run_measures_everything() {
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--quick", "--out"])
        .arg(out.path())
        .output()
        .expect("the bench runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");

    let reports: Vec<_> = out.path().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    let [report] = &reports[..] else { panic!("one report, not {reports:?}") };
    let text = std::fs::read_to_string(report).unwrap();
    for line in [
        "limit: axum reads the body",
        "parse alone",
        "produce alone",
        "collector → Kafka",
        "collector → spool",
        "with user_agent, never seen",
        "with all steps",
        "limit: the same rows from memory",
        "consumer ← Kafka",
        "consumer ← spool",
        "ClickHouse's Kafka engine",
        "limit: one scan",
        "start, arrivals, all rollups",
        "of it: sessions",
        "| idle connections of one address |",
        "| answers that are never read |",
        "Machine: ",
        "Built from commit ",
        "Versions: ClickHouse engine ",
    ] {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
    for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
        let columns = table.lines().next().unwrap().split('|').count();
        assert!(table.lines().all(|line| line.split('|').count() == columns), "{text}");
    }
    let is_no_number = |word: &str| matches!(word, "NaN" | "inf" | "-inf");
    assert!(!text.split_whitespace().any(is_no_number), "{text}");
}
