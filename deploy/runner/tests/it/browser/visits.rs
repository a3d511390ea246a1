//! What is seen when, and for how long.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{is_report, text};

/// A sender's clock is corrected by when its request came, each request by its own.
const CORRECTION_MS: i64 = 10_000;

/// Pages rendered ahead, sessions that end, and what a beacon carries.
pub(super) fn check_visits(ledger: &Value, rows: impl Fn(&str) -> Vec<Value>) {
    let ahead = rows("ahead");
    assert_eq!(ledger["ahead"]["waiting"], 0, "what nobody has seen is not even queued");
    let shown = ahead.iter().find(|row| text(row, "url").ends_with("/home") && !is_report(row)).unwrap();
    let since_ms = time_ms(shown, "client_time") - ledger["ahead"]["shown_at"].as_i64().unwrap();
    assert!(since_ms >= 0, "it counts from when it is shown: {since_ms} ms after that");

    let mut all = rows("sessions");
    all.retain(|row| matches!(text(row, "name"), "first" | "second" | "third"));
    all.sort_by_key(event_time_ms);
    let wanted = ledger["sessions"]["sessions"].as_array().unwrap();
    assert_eq!(all.len(), wanted.len());
    let mut pauses = all.windows(2).map(|pair| event_time_ms(&pair[1]) - event_time_ms(&pair[0]));
    let mut ids: Vec<(&str, &str)> = Vec::new();
    for (row, wanted) in all.iter().zip(wanted) {
        assert_eq!(row["name"], wanted["name"], "in the order of their times");
        let id = (text(row, "name"), text(row, "session_id"));
        if ids.last() != Some(&id) {
            ids.push(id);
        }
    }
    let names: Vec<_> = ids.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["first", "second", "third"], "a session each: {ids:?}");
    assert_eq!(ids.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), 3);
    for (name, first) in [("second", 1), ("third", 1)] {
        assert_eq!(
            all.iter().find(|row| row["name"] == name).unwrap()["sequence"],
            first,
            "numbers begin anew"
        );
    }
    for wanted in &wanted[1..] {
        let (pause, wanted) = (pauses.next().unwrap(), wanted["after_ms"].as_i64().unwrap());
        assert!((wanted - CORRECTION_MS..wanted + 60_000).contains(&pause), "{pause} ms instead of {wanted}");
    }

    assert!(ledger["beacon"]["beacon"].as_u64().unwrap() > 0);
    assert_eq!(ledger["beacon"]["again"], 0, "the beacon alone has carried them");
    assert_eq!(
        ledger["beacon_twice"]["again"], ledger["beacon_twice"]["beacon"],
        "the next page sends them again"
    );
}

fn event_time_ms(row: &Value) -> i64 {
    time_ms(row, "event_time")
}

fn time_ms(row: &Value, field: &str) -> i64 {
    let time = text(row, field).replace(' ', "T") + "Z";
    time.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}
