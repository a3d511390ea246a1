//! Copies, rounding, and what Postgres writes.

use super::*;

#[test]
fn an_event_sent_twice_is_one() {
    let one = with(view("a"), json!({ "event_id": "AA" }));
    let again = with(view("a"), json!({ "event_id": "aa" }));
    let tables = count(&[(0.0, one), (0.0, again)]);
    assert_eq!(
        cells(&tables, "analytics_summary", &["day", DAY], &["page_views", "total_sessions"]),
        ["1", "1"]
    );
}

#[test]
fn halves_are_rounded_up_once() {
    assert_eq!(money::ratio(1, 3, 4).to_string(), "0.3333");
    assert_eq!(money::ratio(1, 8, 2).to_string(), "0.13");
    assert_eq!(money::ratio(1, 0, 2), Decimal::ZERO);
    // 1.4995 s: rounding to milliseconds first would make it 2.
    assert_eq!(money::mean_seconds(2_999, 2), 1);
    assert_eq!(money::mean_seconds(3_000, 2), 2);
    assert_eq!(money::minor("0.005".parse().unwrap(), "USD"), 1);
}

#[test]
fn values_match_what_postgres_writes() {
    let half: Decimal = "0.5".parse().unwrap();
    assert!(Value::Number(half).matches(Some("0.5000")));
    assert!(!Value::Number(half).matches(Some("0.5001")) && !Value::Number(half).matches(None));
    let amounts = Value::Amounts(BTreeMap::from([("EUR".into(), 5)]));
    assert!(amounts.matches(Some(r#"{"EUR": 5}"#)) && !amounts.matches(Some("{}")));
    assert!(Value::Null.matches(None) && !Value::Null.matches(Some("")));
    assert!(Value::Flag(None).matches(Some("true")) && !Value::Flag(Some(true)).matches(Some("false")));
}
