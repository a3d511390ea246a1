//! What was queued while something was wrong.

use serde_json::Value;

use super::{Stored, list, sorted, text};

/// What was queued while something was wrong: all of it, each once.
pub(super) async fn check_faults(stored: &Stored<'_>, ledger: &Value) {
    for (run, done) in ledger.as_object().unwrap() {
        if !done["labels"].is_array() {
            continue;
        }
        let wanted = sorted(list(&done["labels"]));
        let is_numbered = |row: &&Value| row["name"] == "numbered";
        let rows =
            stored.until("events", run, |rows| rows.iter().filter(is_numbered).count() >= wanted.len()).await;
        let labels = rows.iter().filter(is_numbered).map(|row| text(row, "label")).collect();
        assert_eq!(sorted(labels), wanted, "{run}");
    }
    assert_eq!(ledger["offline"]["waiting"], 5);
    assert!(ledger["away"]["waiting"].as_u64().unwrap() >= 100, "{}", ledger["away"]);
    for run in ["blocked", "filled"] {
        for row in stored.rows("events", run).await {
            assert_eq!(row["session_id"], "", "what cannot be kept is not made up: {row:#}");
        }
    }
    assert!(
        ledger["refused"]["waiting"].as_u64().unwrap() >= 2,
        "its key may become known: {}",
        ledger["refused"]
    );
    assert!(ledger["refused"]["statuses"].as_array().unwrap().iter().all(|status| *status == 401));
    assert_eq!(stored.rows("events", "no").await, Vec::<Value>::new());
    for (run, refusal) in [("busy", 429), ("unavailable", 503)] {
        let answers = ledger[run]["answers"].as_array().unwrap();
        assert!(answers.iter().any(|answer| answer["status"] == refusal), "{run}: {answers:?}");
        for answer in answers.iter().filter(|answer| answer["status"] == refusal) {
            let wait_ms = 1000.0 * answer["retry_after_s"].as_f64().unwrap();
            assert!(wait_ms > 0.0, "{run} says when: {answer}");
            assert!(answer["pause_ms"].as_f64().unwrap() >= wait_ms, "not before that: {answer}");
        }
    }
}
