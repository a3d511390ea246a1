//! What is said of an order later: updates, cancellations, and who may say it. Refunds stand in their own file.

use super::*;

fn cancel(order: &str) -> Json {
    json!({ "name": "order_cancelled", "order_id": order, "trusted": true })
}

#[test]
fn an_update_replaces_what_it_names() {
    let first = json!({ "value": 100, "tax": 8, "shipping": 5,
        "items": [{ "product_id": "a", "price": 60 }, { "product_id": "b", "price": 40 }] });
    let updated = |updates: &[(f64, Json)]| {
        let mut events = vec![(0.0, purchase("1", first.clone()))];
        events.extend_from_slice(updates);
        let tables = count(&events);
        let columns = ["gross_revenue_cents", "tax_amount_cents", "unexplained_amount_cents"];
        let money = cells(&tables, "revenue_analytics", &[DAY, "USD"], &columns);
        let products: Vec<_> = tables["product_analytics"].rows.keys().map(|key| key[1].clone()).collect();
        [money.join(" "), products.join("")].join(" ")
    };
    // 60 + 40 + 5 + 8 = 113 are explained.
    assert_eq!(updated(&[]), "10000 800 -1300 ab");
    // Tax alone: the total was said, and stays.
    let taxed = (1.0, update("1", json!({ "tax": 9 })));
    assert_eq!(updated(std::slice::from_ref(&taxed)), "10000 900 -1400 ab");
    // Items as a whole, and the total is theirs: 60 + 5 + 9.
    let fewer = json!({ "items": [{ "product_id": "a", "price": 60 }] });
    assert_eq!(updated(&[taxed.clone(), (2.0, update("1", fewer.clone()))]), "7400 900 0 a");
    // Unless a value is named, too.
    let valued = with(fewer.clone(), json!({ "value": 70 }));
    assert_eq!(updated(&[taxed, (2.0, update("1", valued))]), "7000 900 -400 a");
    // In order of time, whatever came first; the items stay.
    let later = (3.0, update("1", json!({ "value": 55 })));
    assert_eq!(updated(&[later, (2.0, update("1", fewer.clone()))]), "5500 800 -1800 a");
    // A total that follows from the rest still does: 60 + 7 + 8.
    let shipped = (3.0, update("1", json!({ "shipping": 7 })));
    assert_eq!(updated(&[(2.0, update("1", fewer)), shipped]), "7500 800 0 a");
    // Another currency names nothing.
    assert_eq!(
        updated(&[(1.0, update("1", json!({ "value": 7, "currency": "EUR" })))]),
        "10000 800 -1300 ab"
    );
    // Of one time the greater value stands, whatever the identity.
    for (one, two) in [("id-1", "id-2"), ("id-2", "id-1")] {
        let updates = [
            (1.0, update("1", json!({ "value": 80, "event_id": one }))),
            (1.0, update("1", json!({ "value": 90, "event_id": two }))),
        ];
        assert_eq!(updated(&updates), "9000 800 -2300 ab");
    }
}

#[test]
fn an_updated_order_keeps_its_day() {
    let tables = count(&[order(), (ONE_DAY, update("1", json!({ "value": 90 })))]);
    assert_eq!(days_of_money(&tables), ["2026-10-31 USD"]);
    assert_eq!(money_of(&tables, DAY, "USD"), "1 9000 0 9000 0 0");
    let columns = ["total_orders", "total_revenue"];
    assert_eq!(cells(&tables, "analytics_summary", &["day", DAY], &columns), ["1", "90.00"]);
}

#[test]
fn what_an_update_has_taken_off_is_not_taken_off_twice() {
    let back =
        |at: f64, value: i64| (at, refund("1", json!({ "refund_id": at.to_string(), "value": value })));
    let included = json!({ "value": 70, "properties": { "refunds_included": true } });
    let without = json!({ "value": 70 });
    assert_eq!(after(&[back(1.0, 30), (2.0, update("1", included.clone()))]), "1 10000 3000 7000 0 0");
    assert_eq!(after(&[back(1.0, 30), (2.0, update("1", without.clone()))]), "1 7000 3000 4000 0 0");
    // What is refunded later, or at the same time, is taken off.
    assert_eq!(after(&[back(3.0, 30), (2.0, update("1", included.clone()))]), "1 7000 3000 4000 0 0");
    assert_eq!(after(&[back(2.0, 30), (2.0, update("1", included.clone()))]), "1 7000 3000 4000 0 0");
    // Items that are left: 45 + 30.
    let items = json!({ "items": [{ "product_id": "a", "price": 45 }],
        "properties": { "refunds_included": true } });
    assert_eq!(after(&[back(1.0, 30), (2.0, update("1", items))]), "1 7500 3000 4500 0 0");
    // The latest total counts, with or without what was refunded.
    let twice = [back(1.0, 30), (2.0, update("1", included)), (3.0, update("1", without))];
    assert_eq!(after(&twice), "1 7000 3000 4000 0 0");
    // More went back than the order costs in the end: 30 of 20, first the earlier.
    let lowered = [back(1.0, 15), back(2.0, 15), (3.0, update("1", json!({ "value": 20 })))];
    assert_eq!(after(&lowered), "1 2000 2000 0 0 0");
}

#[test]
fn a_cancellation_takes_what_is_left_on_its_day() {
    let cancelled = |tables: &Tables, day: &str| {
        let count = cells(tables, "revenue_analytics", &[day, "USD"], &["cancelled_orders"]);
        [money_of(tables, day, "USD"), count.concat()].join(" ")
    };
    // Input 25.
    let tables = count(&[(0.0, purchase("1", json!({ "value": 50 }))), (1.0, cancel("1"))]);
    assert_eq!(cancelled(&tables, DAY), "1 5000 5000 0 0 0 1");

    let ten = |at: f64| (at, refund("1", json!({ "refund_id": at.to_string(), "value": 10 })));
    let tables = count(&[order(), ten(1.0), (ONE_DAY, cancel("1")), ten(ONE_DAY + 1.0)]);
    assert_eq!(cancelled(&tables, DAY), "1 10000 1000 9000 0 0 0");
    assert_eq!(cancelled(&tables, NEXT), "0 0 9000 -9000 0 0 1");
    // It is an order and revenue all the same.
    let columns = ["total_orders", "total_revenue"];
    assert_eq!(cells(&tables, "analytics_summary", &["day", DAY], &columns), ["1", "100.00"]);

    // Said twice it is cancelled once; with nothing left it is, too.
    let all = (1.0, refund("1", json!({})));
    let tables = count(&[order(), all, (ONE_DAY, cancel("1")), (3.0 * ONE_DAY, cancel("1"))]);
    assert_eq!(cancelled(&tables, NEXT), "0 0 0 0 0 0 1");
    assert_eq!(days_of_money(&tables), ["2026-10-31 USD", "2026-11-01 USD"]);
}

#[test]
fn without_a_secret_key_nobody_speaks_of_a_servers_order() {
    let forged = |name: &str, fields: Json| with(json!({ "name": name, "order_id": "1" }), fields);
    let words = [
        (1.0, forged("refund", json!({ "value": 30 }))),
        (2.0, forged("order_updated", json!({ "value": 60 }))),
        (3.0, forged("order_cancelled", json!({}))),
    ];
    for (is_servers, money) in [(true, "1 10000 0 10000 0 0"), (false, "1 6000 6000 0 0 0")] {
        let (at, mut order) = order();
        if is_servers {
            order["trusted"] = true.into();
        }
        // A copy of a server's event with a browser's key is no second word.
        let mut events = vec![(at, with(order.clone(), json!({ "event_id": "copied" })))];
        if is_servers {
            order.as_object_mut().unwrap().remove("trusted");
            events.push((-9.0, with(order, json!({ "event_id": "copied", "value": 1 }))));
        }
        events.extend_from_slice(&words);
        assert_eq!(money_of(&count(&events), DAY, "USD"), money);
    }
}

#[test]
fn words_wait_for_their_order() {
    let words = [
        (-2.0 * ONE_DAY, refund("1", json!({ "value": 30 }))),
        (-ONE_DAY, update("1", json!({ "value": 90 }))),
        (1.0, update("2", json!({ "value": 90 }))),
        (1.0, refund("2", json!({ "value": 1.5 }))),
        (1.0, refund("2", json!({}))),
        (1.0, cancel("2")),
    ];
    assert_eq!(days_of_money(&count(&words)), [""; 0]);
    let mut events = vec![order()];
    events.extend_from_slice(&words);
    let tables = count(&events);
    assert_eq!(days_of_money(&tables), ["2026-10-29 USD", "2026-10-31 USD"]);
    assert_eq!(money_of(&tables, DAY, "USD"), "1 9000 0 9000 0 0");
    assert_eq!(money_of(&tables, "2026-10-29", "USD"), "0 0 3000 -3000 0 0");
}

#[test]
fn neither_arrival_nor_identities_decide_anything() {
    let some = |fields: Json| with(json!({ "name": "refund", "order_id": "1", "trusted": true }), fields);
    let events = [
        (0.0, purchase("1", json!({ "value": 100, "visitor_id": "v", "tax": 1 }))),
        (0.0, purchase("1", json!({ "value": 100, "visitor_id": "w", "tax": 2 }))),
        (9.0, purchase("1", json!({ "value": 100, "trusted": true }))),
        (9.0, purchase("1", json!({ "value": 100, "trusted": true, "discount": 3 }))),
        (9.0, update("1", json!({ "value": 90 }))),
        (9.0, update("1", json!({ "value": 95, "properties": { "refunds_included": true } }))),
        (9.0, some(json!({ "value": 30, "items": [{ "product_id": "a" }] }))),
        (9.0, some(json!({ "value": 30, "items": [{ "product_id": "b" }] }))),
        (9.0, some(json!({ "refund_id": "r", "value": 40 }))),
        (9.0, some(json!({ "refund_id": "r", "value": 45 }))),
        (9.0, cancel("1")),
    ];
    let forwards = count(&events);
    let mut events = events;
    events.reverse();
    let backwards = count(&events);
    for (name, table) in &forwards {
        assert_eq!(table.rows, backwards[name].rows, "{name}");
    }
    // 95 stands; 45, 30 and what is left of 30 go back.
    assert_eq!(money_of(&forwards, DAY, "USD"), "1 9500 9500 0 2 5000");
}
