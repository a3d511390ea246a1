//! Orders: which reports count, what an order costs, currencies.

use super::*;

fn conversion_rate(tables: &Tables, day: &str) -> String {
    cells(tables, "analytics_summary", &["day", day], &["conversion_rate"]).concat()
}

/// Gross revenue of an order of these fields on its own, in minor units.
fn total(fields: Json) -> String {
    let tables = count(&[(0.0, purchase("1", fields))]);
    tables["revenue_analytics"].rows.values().next().unwrap()["gross_revenue_cents"].to_string()
}

#[test]
fn a_servers_report_beats_browsers() {
    let tables = count(&[
        (0.0, purchase("1", json!({ "value": 10.5, "visitor_id": "a" }))),
        (9.0, purchase("1", json!({ "value": 12, "trusted": true, "tax": 1.99 }))),
        (12.0 * HOUR, purchase("1", json!({ "value": 13, "trusted": true }))),
        // Of browsers the first, also under an old name; of equal times the greater value, whatever the identity.
        (
            5.0,
            json!({ "name": "Order Completed", "order_id": "2", "currency": "USD", "value": 3, "event_id": "a" }),
        ),
        (5.0, json!({ "name": "purchase", "order_id": "2", "value": 4, "event_id": "b" })),
        (6.0, json!({ "name": "purchase", "order_id": "2", "value": 5 })),
        (0.0, purchase("3", json!({ "value": 999, "bot": true }))),
        // Without a total: 20 × 2 − 1 + 0.35 + 5 = 44.35. The price is after the item's discount.
        (
            1.0,
            purchase(
                "4",
                json!({
                    "discount": 1, "tax": 0.35, "shipping": 5,
                    "items": [{ "product_id": "p", "price": 20, "discount": 2.5, "quantity": 2 }],
                }),
            ),
        ),
    ]);
    // 12 + 4 + 44.35
    assert_eq!(money_of(&tables, DAY, "USD"), "3 6035 0 6035 0 0");
    assert_eq!(
        cells(
            &tables,
            "revenue_analytics",
            &[DAY, "USD"],
            &["tax_amount_cents", "average_order_value_cents"]
        ),
        ["234", "2012"]
    );
    assert_eq!(tables["revenue_analytics"].rows.len(), 1);
    // Order 1 did not cost what a's browser said, so a's session did not convert.
    assert_eq!(conversion_rate(&tables, DAY), "0.0000");
}

#[test]
fn of_equal_reports_the_text_decides_and_no_identity() {
    for (one, two) in [("id-1", "id-2"), ("id-2", "id-1")] {
        let tables = count(&[
            (0.0, purchase("1", json!({ "value": 5, "tax": 2, "event_id": one }))),
            (0.0, purchase("1", json!({ "value": 5, "tax": 1, "event_id": two }))),
        ]);
        assert_eq!(cells(&tables, "revenue_analytics", &[DAY, "USD"], &["tax_amount_cents"]), ["100"]);
    }
}

#[test]
fn an_order_takes_place_when_the_earliest_report_that_agrees_does() {
    // A server confirms two days later what a browser ordered.
    let server = |fields: Json| with(purchase("1", json!({ "value": 50, "trusted": true })), fields);
    let browser = |fields: Json| with(purchase("1", json!({ "value": 50, "visitor_id": "v" })), fields);
    let confirmed = |at: f64, fields: Json| {
        days_of_money(&count(&[(0.0, browser(fields)), (at, server(json!({})))])).concat()
    };
    assert_eq!(confirmed(2.0 * ONE_DAY, json!({})), "2026-10-31 USD");
    // Seven days are inside, a millisecond more is not.
    assert_eq!(confirmed(7.0 * ONE_DAY, json!({})), "2026-10-31 USD");
    assert_eq!(confirmed(7.0 * ONE_DAY + 0.001, json!({})), "2026-11-07 USD");
    // Another value or currency does not agree; who tells no value does.
    assert_eq!(confirmed(2.0 * ONE_DAY, json!({ "value": 49.99 })), "2026-11-02 USD");
    assert_eq!(confirmed(2.0 * ONE_DAY, json!({ "currency": "EUR" })), "2026-11-02 USD");
    assert_eq!(confirmed(2.0 * ONE_DAY, json!({ "value": null })), "2026-10-31 USD");
    // The value is the winner's total, also where that follows from its items.
    let computed = json!({ "value": null, "items": [{ "product_id": "p", "price": 50 }] });
    let tables = count(&[(0.0, browser(json!({}))), (2.0 * ONE_DAY, server(computed))]);
    assert_eq!(days_of_money(&tables), ["2026-10-31 USD"]);
    // Of two servers the first wins, and a browser has to agree with that one.
    let tables = count(&[
        (ONE_DAY, server(json!({ "currency": "EUR" }))),
        (2.0 * ONE_DAY, server(json!({}))),
        (0.0, browser(json!({}))),
    ]);
    assert_eq!(days_of_money(&tables), ["2026-11-01 EUR"]);
}

#[test]
fn the_order_belongs_to_the_visitor_and_user_of_a_report_that_agrees() {
    // Input 3: a page view, the browser's report, then the server's without a visitor.
    let of_visit = json!({ "visitor_id": "v", "session_id": "s" });
    let tables = count(&[
        (0.0, with(view("v"), json!({ "session_id": "s" }))),
        (1.0, purchase("1", with(of_visit.clone(), json!({ "value": 50 })))),
        (2.0, purchase("1", json!({ "value": 50, "trusted": true }))),
    ]);
    assert_eq!(conversion_rate(&tables, DAY), "1.0000");
    assert_eq!(cells(&tables, "cohort_analytics", &["day", DAY, "0"], &["revenue_cents"]), ["5000"]);

    // A browser's may come up to 24 hours after the server's, and not later.
    for (later, rate) in [(ONE_DAY, "1.0000"), (ONE_DAY + 0.001, "0.0000")] {
        let tables = count(&[
            (0.0, purchase("1", json!({ "value": 50, "trusted": true }))),
            (later, purchase("1", with(of_visit.clone(), json!({ "value": 50 })))),
        ]);
        assert_eq!(conversion_rate(&tables, NEXT), rate);
    }

    // The first that agrees and has a visitor: w invents a value, x came later. The user is of another report.
    let tables = count(&[
        (1.0, purchase("1", json!({ "value": 51, "visitor_id": "w", "user_id": "forger" }))),
        (2.0, purchase("1", json!({ "value": 50 }))),
        (3.0, purchase("1", json!({ "value": 50, "visitor_id": "v" }))),
        (4.0, purchase("1", json!({ "value": 50, "visitor_id": "x", "user_id": "u" }))),
        (5.0, purchase("1", json!({ "value": 50, "trusted": true }))),
    ]);
    // Sessions of v, w and x.
    assert_eq!(conversion_rate(&tables, DAY), "0.3333");
    let cohorts = |tables: &Tables| {
        cells(tables, "cohort_analytics", &["day", DAY, "0"], &["user_count", "revenue_cents"]).join(" ")
    };
    assert!(cohorts(&tables).ends_with(" 5000"));

    // A server's other report lends nothing.
    let tables = count(&[
        (0.0, view("x")),
        (1.0, purchase("1", json!({ "value": 50, "trusted": true }))),
        (2.0, purchase("1", json!({ "value": 50, "trusted": true, "visitor_id": "x" }))),
    ]);
    assert_eq!(conversion_rate(&tables, DAY), "0.0000");
    assert_eq!(cohorts(&tables), "1 0");
}

#[test]
fn orders_count_of_servers_whatever_their_agent_and_of_browsers_that_were_too_quick() {
    let tables = count(&[
        // Input 4.
        (0.0, purchase("1", json!({ "value": 70, "trusted": true, "bot": true }))),
        (
            0.0,
            purchase(
                "2",
                json!({ "value": 5, "visitor_id": "v", "bot": "rate",
            "items": [{ "product_id": "p", "price": 5 }] }),
            ),
        ),
        (1.0, json!({ "name": "refund", "order_id": "2", "value": 2, "bot": "rate" })),
        (0.0, purchase("3", json!({ "value": 9, "bot": true }))),
    ]);
    assert_eq!(money_of(&tables, DAY, "USD"), "2 7500 200 7300 0 0");
    let columns = ["total_orders", "total_revenue", "total_sessions", "bot_events"];
    assert_eq!(cells(&tables, "analytics_summary", &["day", DAY], &columns), ["2", "75.00", "0", "3"]);
    let columns = ["purchase_count", "units_sold", "revenue_cents"];
    assert_eq!(cells(&tables, "product_analytics", &[DAY, "p"], &columns), ["1", "1", "500"]);
}

#[test]
fn a_line_is_rounded_once() {
    let line = |price: f64, quantity: f64| json!({ "items": [{ "price": price, "quantity": quantity }] });
    // Input 26.
    assert_eq!(total(line(0.0035, 1000.0)), "350");
    assert_eq!(total(line(0.029, 5000.0)), "14500");
    assert_eq!(total(line(8.403361, 10.0)), "8403");
    assert_eq!(total(with(line(12.5, 4.0), json!({ "currency": "JPY" }))), "50");
    // Input 13, goods by weight: the total is said, the line comes to the same.
    let weighed = json!({ "value": 18.5, "items": [{ "product_id": "p", "price": 10, "quantity": 1.85 }] });
    let tables = count(&[(0.0, purchase("1", weighed))]);
    assert_eq!(
        cells(&tables, "product_analytics", &[DAY, "p"], &["revenue_cents", "units_sold"]),
        ["1850", "2"]
    );
    // Two lines of half a cent are two cents.
    assert_eq!(total(json!({ "items": [{ "price": 0.005 }, { "price": 0.005 }] })), "2");
    // Input 8: the price is after the item's discount.
    assert_eq!(total(json!({ "items": [{ "price": 7.79, "discount": 2.22, "quantity": 1 }] })), "779");
    // Input 22: a voucher. Input 23: many lines.
    assert_eq!(total(json!({ "items": [{ "price": 60 }, { "price": -10 }] })), "5000");
    assert_eq!(total(json!({ "items": vec![json!({ "price": 1 }); 201] })), "20100");
    // What comes back with an order.
    assert_eq!(total(json!({ "items": [{ "price": 60 }, { "price": 25, "quantity": -1 }] })), "3500");
}

#[test]
fn a_total_is_the_value_or_follows_from_the_rest() {
    let rest = json!({ "tax": 2, "shipping": 5, "discount": 3, "items": [{ "price": 20 }] });
    let counted = |is_included: bool, fields: Json| {
        let store = Store { prices_include_tax: is_included, ..store(Vec::new()) };
        let tables = count_in(&store, &[(0.0, purchase("1", with(rest.clone(), fields)))]);
        let columns = ["gross_revenue_cents", "unexplained_amount_cents"];
        cells(&tables, "revenue_analytics", &[DAY, "USD"], &columns).join(" ")
    };
    // 20 − 3 + 5 + 2, without the tax 22.
    assert_eq!(counted(false, json!({})), "2400 0");
    assert_eq!(counted(true, json!({})), "2200 0");
    // What is said counts, and the difference stands beside it.
    assert_eq!(counted(false, json!({ "value": 25.5 })), "2550 150");
    assert_eq!(counted(true, json!({ "value": 20 })), "2000 -200");
    assert_eq!(counted(false, json!({ "value": 0 })), "0 -2400");
    // Below zero a value says nothing.
    assert_eq!(counted(false, json!({ "value": -7 })), "2400 0");
    // Not below zero: 20 − 100 + 5 + 2 = −73.
    assert_eq!(counted(false, json!({ "discount": 100 })), "0 7300");
}

#[test]
fn each_order_is_converted_by_itself() {
    let euros = |value: f64| json!({ "value": value, "currency": "EUR", "visitor_id": "a" });
    let tables = count(&[
        (0.0, purchase("1", euros(0.01))),
        (1.0, purchase("2", euros(0.04))),
        (2.0, purchase("3", json!({ "value": 1, "visitor_id": "b" }))),
        // A day without a rate takes the latest of the seven days before, and no older one.
        (7.0 * 86_400.0, purchase("4", euros(0.05))),
        (8.0 * 86_400.0, purchase("6", euros(5.0))),
        (2.0, purchase("5", json!({ "value": 500, "currency": "JPY", "visitor_id": "b" }))),
    ]);
    let columns = ["total_orders", "total_revenue", "avg_order_value", "unconverted"];
    // 1 cent × 1.105 is 1, 4 cents are 4.42, so 4 (together 5.525); with the dollar 1.05 over 3 orders, and 500 yen beside it.
    assert_eq!(
        cells(&tables, "analytics_summary", &["day", DAY], &columns),
        ["4", "1.05", "0.35", r#"{"JPY": 500}"#]
    );
    // 5 cents × 1.105 = 5.525.
    assert_eq!(
        cells(&tables, "analytics_summary", &["month", "2026-11-01"], &columns),
        ["2", "0.06", "0.06", r#"{"EUR": 500}"#]
    );
    let cohort = cells(
        &tables,
        "cohort_analytics",
        &["day", DAY, "0"],
        &["user_count", "revenue_cents", "average_revenue_per_user"],
    );
    assert_eq!(cohort, ["2", "105", "0.53"]);
}
