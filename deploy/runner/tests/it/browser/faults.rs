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
    check_halves(&ledger["narrow"]);
    let rows = stored.rows("events", "narrow").await;
    assert!(rows.iter().all(|row| row["name"] != "giant"), "what never passes is given up: {rows:#?}");
    let posts = ledger["narrow_tabs"]["posts"].as_array().unwrap();
    let refused: Vec<_> = posts.iter().filter(|post| is_refused(post)).collect();
    assert!(!refused.is_empty(), "{posts:#?}");
    assert!(refused.iter().all(|post| list(&post["names"]).len() > 1), "alone each passes: {refused:#?}");
}

/// One tab before a proxy that takes less: what was refused came again in halves and in order, each event until it passed once.
fn check_halves(done: &Value) {
    let posts = done["posts"].as_array().unwrap();
    let length = |post: &Value| post["events_length"].as_u64().unwrap();
    for pair in posts.windows(2) {
        let (post, next) = (&pair[0], &pair[1]);
        if is_refused(post) && list(&post["names"]).len() > 1 {
            // Both are within brackets.
            let is_half = 2 * length(next) <= length(post) + 2;
            assert!(is_half || list(&next["names"]).len() == 1, "no more than half of it: {post}, {next}");
        }
    }
    let alone: Vec<_> = posts
        .iter()
        .filter(|post| is_refused(post))
        .map(|post| list(&post["names"]))
        .filter(|names| names.len() == 1)
        .collect();
    assert_eq!(alone, [["giant"]], "what is too much alone is not sent again");
    let passed: Vec<_> =
        posts.iter().filter(|post| !is_refused(post)).flat_map(|post| list(&post["labels"])).collect();
    assert_eq!(passed, list(&done["labels"]), "in order, each once");
}

fn is_refused(post: &Value) -> bool {
    post["status"] == 413
}
