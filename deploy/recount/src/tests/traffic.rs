//! Sessions, bounces, days.

use super::*;

const TRAFFIC: [&str; 6] = [
    "total_sessions",
    "unique_visitors",
    "page_views",
    "bounce_rate",
    "engagement_rate",
    "avg_session_duration",
];

#[test]
fn a_gap_of_thirty_minutes_ends_a_session() {
    let gap = 30.0 * 60.0;
    let tables = count(&[(0.0, view("a")), (gap - 0.001, view("a")), (0.0, view("b")), (gap, view("b"))]);
    // a: one session of 1799.999 s; b: two bounces. (1799.999 + 0 + 0) / 3 = 599.9997.
    assert_eq!(
        cells(&tables, "analytics_summary", &["day", DAY], &TRAFFIC),
        ["3", "2", "4", "0.6667", "0.3333", "600"]
    );
}

#[test]
fn a_derived_session_ends_after_24_hours_and_a_clients_does_not() {
    let step = 29.0 * 60.0;
    // 24 h are 49.66 steps: 50 events lie within (0 to 49), 10 begin the next session.
    let kept: Vec<_> = (0..60).map(|number| (f64::from(number) * step, view("a"))).collect();
    let tables = count(&kept);
    assert_eq!(cells(&tables, "analytics_summary", &["month", "2026-10-01"], &TRAFFIC)[0], "1");
    assert_eq!(cells(&tables, "analytics_summary", &["month", "2026-11-01"], &TRAFFIC)[0], "1");

    let by_client: Vec<_> =
        [0.0, 2.0 * 86_400.0].map(|seconds| (seconds, with(view("a"), json!({ "session_id": "s" })))).into();
    let tables = count(&by_client);
    assert_eq!(
        cells(&tables, "analytics_summary", &["day", DAY], &TRAFFIC),
        ["1", "1", "1", "0.0000", "1.0000", "172800"]
    );
    // On the second day somebody was there, but no session began.
    assert_eq!(
        cells(&tables, "analytics_summary", &["day", "2026-11-02"], &TRAFFIC),
        ["0", "1", "1", "0", "0", "0"]
    );
}

#[test]
fn bounces_and_engagement() {
    let hint = json!({ "name": "hint", "visitor_id": "b", "interactive": false });
    let tables = count(&[
        // a: seen for 9.999 s. A bounce, and not engaged.
        (0.0, with(view("a"), json!({ "page_view_id": "p" }))),
        (1.0, with(view("a"), json!({ "page_view_id": "p", "duration_ms": 9_999 }))),
        // b: seen for 10 s; what happened by itself does not count. A bounce, but engaged.
        (0.0, with(view("b"), json!({ "page_view_id": "p", "duration_ms": 4 }))),
        (0.5, hint),
        (1.0, with(view("b"), json!({ "page_view_id": "p", "duration_ms": 10_000 }))),
        // c: did something. No bounce, not engaged.
        (0.0, view("c")),
        (0.0, json!({ "name": "like", "visitor_id": "c" })),
        // A bot, a server, and a click: neither sessions nor visitors.
        (0.0, with(view("d"), json!({ "bot": true }))),
        (0.0, json!({ "name": "order_shipped", "trusted": true })),
        (0.0, with(view("e"), json!({ "type": "click", "x": 1, "y": 1 }))),
    ]);
    // Page views: p of a, p of b (the same name, so one distinct), and c's. Durations 9.999 + 10 + 0.
    assert_eq!(
        cells(&tables, "analytics_summary", &["day", DAY], &TRAFFIC),
        ["3", "3", "2", "0.6667", "0.3333", "7"]
    );
    assert_eq!(cells(&tables, "analytics_summary", &["day", DAY], &["bot_events"]), ["1"]);
}

#[test]
fn a_session_belongs_to_the_day_it_begins_and_events_to_their_own() {
    let midnight = 12.0 * 3600.0;
    let tables =
        count(&[(midnight - 0.001, view("a")), (midnight, view("a")), (midnight + 25.0 * 3600.0, view("a"))]);
    assert_eq!(
        cells(&tables, "analytics_summary", &["day", DAY], &TRAFFIC),
        ["1", "1", "1", "0.0000", "1.0000", "0"]
    );
    assert_eq!(cells(&tables, "analytics_summary", &["day", NEXT], &TRAFFIC)[..3], ["0", "1", "1"]);
    // The day of the change has 25 hours.
    assert_eq!(cells(&tables, "analytics_summary", &["day", "2026-11-02"], &TRAFFIC)[..3], ["1", "1", "1"]);
    // Monday begins the week: the 26th of October and the 2nd of November.
    assert_eq!(cells(&tables, "analytics_summary", &["week", "2026-10-26"], &TRAFFIC)[..3], ["1", "1", "2"]);
}
