//! Orders, refunds, currencies.

use super::*;

fn refund(order: &str, fields: Json) -> Json {
    with(json!({ "name": "refund", "order_id": order, "currency": "USD", "trusted": true }), fields)
}

const MONEY: [&str; 6] = [
    "orders_count",
    "gross_revenue_cents",
    "refunds_amount_cents",
    "net_revenue_cents",
    "returns_count",
    "returns_amount_cents",
];

#[test]
fn a_servers_report_beats_browsers() {
    let tables = count(&[
        (0.0, purchase("1", json!({ "value": 10.5, "visitor_id": "a" }))),
        (9.0, purchase("1", json!({ "value": 12, "trusted": true, "tax": 1.99 }))),
        (12.0 * 3600.0, purchase("1", json!({ "value": 13, "trusted": true }))),
        // Of browsers the first, also under an old name; of equal times the smaller identity.
        (
            5.0,
            json!({ "name": "Order Completed", "order_id": "2", "currency": "USD", "value": 3, "event_id": "b" }),
        ),
        (5.0, json!({ "name": "purchase", "order_id": "2", "value": 4, "event_id": "a" })),
        (0.0, purchase("3", json!({ "value": 999, "bot": true }))),
        // Without a total: (20 − 2.5) × 2 − 1 + 0.35 + 5 = 39.35.
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
    let row = cells(&tables, "revenue_analytics", &[DAY, "USD"], &MONEY);
    assert_eq!(row[..2], ["3", "6035"]);
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
    // The winner of order 1 has no visitor, so a's session did not convert.
    assert_eq!(cells(&tables, "analytics_summary", &["day", DAY], &["conversion_rate"]), ["0.0000"]);
}

#[test]
fn what_anybody_sent_takes_nothing_off_a_servers_order() {
    let forged = |order: &str, value: i64| json!({ "name": "refund", "order_id": order, "value": value });
    let tables = count(&[
        (0.0, purchase("1", json!({ "value": 100, "trusted": true, "event_id": "copied" }))),
        (-9.0, purchase("1", json!({ "value": 1, "event_id": "copied" }))),
        (0.0, purchase("2", json!({ "value": 50 }))),
        (1.0, forged("1", 30)),
        (1.0, forged("2", 60)),
        (1.0, forged("nobody's", 70)),
        (1.0, with(forged("2", 999_999), json!({ "refund_id": "foreign", "currency": "EUR" }))),
        // More off than it costs.
        (
            2.0,
            purchase(
                "3",
                json!({ "items": [
            { "product_id": "p", "price": 20 }, { "product_id": "q", "price": 0, "discount": 1_000_000, "quantity": 3 },
        ] }),
            ),
        ),
    ]);
    assert_eq!(
        cells(&tables, "revenue_analytics", &[DAY, "USD"], &MONEY),
        ["3", "17000", "5000", "12000", "0", "0"]
    );
    assert_eq!(tables["revenue_analytics"].rows.len(), 1);
    assert_eq!(cells(&tables, "product_analytics", &[DAY, "q"], &["revenue_cents"]), ["0"]);
}

#[test]
fn refunds_are_cut_at_the_orders_total() {
    let item = json!([{ "product_id": "p", "price": 30, "quantity": 2 }]);
    let tables = count(&[
        (0.0, purchase("1", json!({ "value": 100 }))),
        (10.0, refund("1", json!({ "refund_id": "b", "items": item }))),
        (20.0, refund("1", json!({ "refund_id": "c", "value": 70 }))),
        // The same refund again is one refund.
        (30.0, refund("1", json!({ "refund_id": "b", "items": item }))),
        // Nothing is left, but it names an item: a return of nothing.
        (40.0, refund("1", json!({ "refund_id": "d", "items": item }))),
        // The whole order.
        (0.0, purchase("2", json!({ "value": 7 }))),
        (50.0, refund("2", json!({}))),
        // Nobody knows this order.
        (50.0, refund("9", json!({ "value": 1.5 }))),
        (50.0, refund("8", json!({}))),
        // Another currency: kept, and not counted against the order.
        (5.0, refund("1", json!({ "refund_id": "e", "value": 90, "currency": "EUR" }))),
    ]);
    // 60 + 40 + 0 + 7 + 1.5
    assert_eq!(
        cells(&tables, "revenue_analytics", &[DAY, "USD"], &MONEY),
        ["2", "10700", "10850", "-150", "2", "6000"]
    );
    assert_eq!(
        cells(&tables, "revenue_analytics", &[DAY, "EUR"], &MONEY),
        ["0", "0", "9000", "-9000", "0", "0"]
    );
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
