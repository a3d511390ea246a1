//! Cohorts.

use super::*;

#[test]
fn cohorts() {
    let day = 86_400.0;
    let as_user = |visitor: &str, user: &str| json!({ "name": "x", "visitor_id": visitor, "user_id": user });
    let tables = count(&[
        // One person with two devices, known as u on both by the end; the first event was without a name.
        (0.0, named("a", "x")),
        (2.0 * day, as_user("a", "u")),
        (1.0 * day, as_user("b", "u")),
        // Later, under another name, the device is somebody else's.
        (3.0 * day, as_user("a", "w")),
        // A visitor who never says a name, and buys.
        (10.0, purchase("1", json!({ "visitor_id": "c", "value": 20 }))),
        (3.0 * day, purchase("2", json!({ "user_id": "u", "value": 5, "trusted": true }))),
        // Nobody.
        (0.0, purchase("3", json!({ "value": 5, "trusted": true }))),
    ]);
    let columns = [
        "user_count",
        "active_user_count",
        "retention_rate",
        "unbounded_user_count",
        "unbounded_retention_rate",
        "revenue_cents",
        "average_revenue_per_user",
    ];
    let row = |cohort: &str, number: &str| {
        cells(&tables, "cohort_analytics", &["day", cohort, number], &columns).join(" ")
    };
    assert_eq!(row(DAY, "0"), "2 2 100.00 2 100.00 2000 10.00");
    assert_eq!(row(DAY, "1"), "2 1 50.00 1 50.00 0 0");
    assert_eq!(row(DAY, "2"), "2 1 50.00 1 50.00 0 0");
    assert_eq!(row(DAY, "3"), "2 1 50.00 1 50.00 500 2.50");
    assert_eq!(row("2026-11-03", "0"), "1 1 100.00 1 100.00 0 0");
    let weeks = cells(&tables, "cohort_analytics", &["week", "2026-10-26", "1"], &columns).join(" ");
    assert_eq!(weeks, "2 1 50.00 1 50.00 500 2.50");
    let rows = tables["cohort_analytics"].rows.keys();
    assert_eq!(rows.filter(|key| key[0] == "day").count(), 5);
}

#[test]
fn an_order_links_the_visitor_and_the_user_of_its_reports() {
    let linked = |browser: Json| {
        let tables = count(&[
            (-86_400.0, view("v")),
            (0.0, purchase("1", with(json!({ "visitor_id": "v", "value": 20 }), browser))),
            (9.0, purchase("1", json!({ "user_id": "u", "value": 20, "trusted": true }))),
            (9.0, json!({ "name": "x", "user_id": "u" })),
        ]);
        let columns = ["user_count", "revenue_cents"];
        let rows = tables["cohort_analytics"].rows.keys().filter(|key| key[0] == "day");
        let keys: Vec<_> = rows.map(|key| [key[0].as_str(), &key[1], &key[2]]).collect();
        let rows = keys.iter().map(|key| cells(&tables, "cohort_analytics", key, &columns).join(" "));
        rows.collect::<Vec<_>>().join(", ")
    };
    // One person, known since the day before.
    assert_eq!(linked(json!({})), "1 0, 1 2000");
    // Not by a report that does not agree: v and u are two.
    assert_eq!(linked(json!({ "value": 21 })), "1 0, 1 0, 1 2000");
    // Who was somebody else before stays that one; the order is u's.
    assert_eq!(linked(json!({ "user_id": "w" })), "1 0, 1 0, 1 2000");
}
