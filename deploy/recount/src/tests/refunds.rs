//! Refunds.

use super::*;

/// What [`order`] is refunded.
fn refunded(words: &[(f64, Json)]) -> String {
    after(words).split(' ').nth(2).unwrap().to_string()
}

#[test]
fn a_refund_counts_once_and_never_more_than_is_left() {
    let item = json!([{ "product_id": "p", "price": 30, "quantity": 2 }]);
    let tables = count(&[
        order(),
        (10.0, refund("1", json!({ "refund_id": "b", "items": item }))),
        (20.0, refund("1", json!({ "refund_id": "c", "value": 70 }))),
        // The same refund again is one refund.
        (30.0, refund("1", json!({ "refund_id": "b", "items": item }))),
        // Nothing is left, but it names an item: a return of nothing.
        (40.0, refund("1", json!({ "refund_id": "d", "items": item }))),
        // The whole order.
        (0.0, purchase("2", json!({ "value": 7 }))),
        (50.0, refund("2", json!({}))),
    ]);
    // 60 + 40 + 0 + 7
    assert_eq!(money_of(&tables, DAY, "USD"), "2 10700 10700 0 2 6000");

    // In order of time: what comes first is taken whole. All that is left is what is left then.
    let part =
        |at: f64, value: i64| (at, refund("1", json!({ "refund_id": value.to_string(), "value": value })));
    let tables = count(&[order(), part(ONE_DAY, 60), part(1.0, 70)]);
    assert_eq!(money_of(&tables, DAY, "USD"), "1 10000 7000 3000 0 0");
    assert_eq!(money_of(&tables, NEXT, "USD"), "0 0 3000 -3000 0 0");
    let tables = count(&[order(), part(1.0, 70), (ONE_DAY, refund("1", json!({ "refund_id": "all" })))]);
    assert_eq!(money_of(&tables, NEXT, "USD"), "0 0 3000 -3000 0 0");
    // A return on the day on which the money goes back.
    let tables = count(&[order(), (ONE_DAY, refund("1", json!({ "items": [{ "product_id": "b" }] })))]);
    assert_eq!(money_of(&tables, DAY, "USD"), "1 10000 0 10000 0 0");
    assert_eq!(money_of(&tables, NEXT, "USD"), "0 0 4000 -4000 1 4000");
}

#[test]
fn of_the_reports_of_a_refund_a_servers_counts_then_the_earliest() {
    let report = |value: i64| json!({ "name": "refund", "order_id": "1", "refund_id": "r", "value": value });
    let trusted = |value: i64| with(report(value), json!({ "trusted": true }));
    assert_eq!(refunded(&[(1.0, report(10)), (3.0, trusted(30)), (2.0, trusted(20))]), "2000");
    assert_eq!(refunded(&[(2.0, report(10)), (1.0, report(5))]), "500");
    // Of one time the greater value, whatever the identity.
    assert_eq!(refunded(&[(1.0, report(10)), (1.0, report(15))]), "1500");
    assert_eq!(refunded(&[(1.0, report(15)), (1.0, report(10))]), "1500");
}

#[test]
fn without_an_id_value_and_items_tell_refunds_apart() {
    let some = |fields: Json| refund("1", fields);
    let of = |product: &str| json!([{ "product_id": product }]);
    // Input 17.
    assert_eq!(
        after(&[(1.0, some(json!({ "items": of("b") }))), (2.0, some(json!({ "items": of("a") })))]),
        "1 10000 10000 0 2 10000"
    );
    assert_eq!(refunded(&[(1.0, some(json!({ "value": 10 }))), (2.0, some(json!({ "value": 20 })))]), "3000");
    // The same again is the same, with the order's currency or none.
    let again = json!({ "value": 10, "currency": "USD" });
    assert_eq!(refunded(&[(1.0, some(json!({ "value": 10 }))), (2.0, some(again))]), "1000");
    let both = |first: &str, second: &str| json!([{ "product_id": first }, { "product_id": second }]);
    assert_eq!(
        refunded(&[
            (1.0, some(json!({ "value": 10, "items": both("a", "b") }))),
            (2.0, some(json!({ "value": 10, "items": both("b", "a") }))),
        ]),
        "1000"
    );
    // The same value of other items, or with an id, is another.
    assert_eq!(
        refunded(&[
            (1.0, some(json!({ "value": 10, "items": of("a") }))),
            (2.0, some(json!({ "value": 10, "items": of("b") }))),
            (3.0, some(json!({ "value": 10 }))),
            (4.0, some(json!({ "value": 10, "refund_id": "r" }))),
        ]),
        "4000"
    );
}

#[test]
fn signs_do_not_matter_in_a_refund() {
    // Input 33.
    assert_eq!(
        after(&[(
            1.0,
            refund("1", json!({ "value": -25, "items": [{ "product_id": "a", "quantity": -1 }] }))
        )]),
        "1 10000 2500 7500 1 2500"
    );
    let item = |price: i64, quantity: i64| json!({ "items": [{ "product_id": "a", "price": price, "quantity": quantity }] });
    assert_eq!(refunded(&[(1.0, refund("1", item(-5, 2)))]), "1000");
    assert_eq!(refunded(&[(1.0, refund("1", item(5, -2)))]), "1000");
}

#[test]
fn refunded_items_cost_what_the_order_charged() {
    let bought = json!({ "value": 200, "items": [
        { "product_id": "a", "price": 20, "discount": 5, "quantity": 2 },
        { "product_id": "b", "variant_id": "red", "price": 30 },
        { "product_id": "b", "variant_id": "blue", "price": 35 },
        { "product_id": "cheese", "price": 9.99, "quantity": 1.25 },
        { "product_id": "voucher", "price": -10 },
    ] });
    let back = |items: Json, before: &[(f64, Json)]| {
        let mut events =
            vec![(0.0, purchase("1", bought.clone())), (9.0, refund("1", json!({ "items": items })))];
        events.extend_from_slice(before);
        cells(&count(&events), "revenue_analytics", &[DAY, "USD"], &["refunds_amount_cents"]).concat()
    };
    let is = |items: Json| back(items, &[]);
    // Input 7: its price is after its discount.
    assert_eq!(is(json!([{ "product_id": "a", "quantity": 1 }])), "2000");
    // Input 6: without quantity the whole line. 9.99 × 1.25 = 12.4875.
    assert_eq!(is(json!([{ "product_id": "a" }])), "4000");
    assert_eq!(is(json!([{ "product_id": "cheese" }])), "1249");
    assert_eq!(is(json!([{ "product_id": "cheese", "quantity": 0.5 }])), "500");
    // A price that is said counts, for the whole line or so many of it; also of what was not in the order.
    assert_eq!(is(json!([{ "product_id": "a", "price": 3 }])), "600");
    assert_eq!(is(json!([{ "product_id": "a", "price": 3, "quantity": 3 }])), "900");
    assert_eq!(is(json!([{ "product_id": "x", "price": 3 }, { "product_id": "y" }])), "300");
    // The variant where one is named, else the first line that is not yet taken.
    assert_eq!(is(json!([{ "product_id": "b", "variant_id": "blue" }])), "3500");
    assert_eq!(is(json!([{ "product_id": "b" }])), "3000");
    assert_eq!(is(json!([{ "product_id": "b" }, { "product_id": "b" }])), "6500");
    // The voucher goes back with what it was given for.
    assert_eq!(is(json!([{ "product_id": "a" }, { "product_id": "voucher" }])), "3000");
    assert_eq!(is(json!([{ "product_id": "voucher" }])), "0");

    // As updated, else as first sold; an update that comes later changes nothing.
    let updated =
        |at: f64| (at, update("1", json!({ "value": 200, "items": [{ "product_id": "a", "price": 15 }] })));
    assert_eq!(back(json!([{ "product_id": "a" }]), &[updated(1.0)]), "1500");
    assert_eq!(back(json!([{ "product_id": "cheese" }]), &[updated(1.0)]), "1249");
    assert_eq!(back(json!([{ "product_id": "a" }]), &[updated(10.0)]), "4000");
}

#[test]
fn a_refund_has_its_orders_currency() {
    // Input 5.
    let tables = count(&[
        (0.0, purchase("1", json!({ "value": 100, "currency": "EUR" }))),
        (1.0, refund("1", json!({}))),
        // An order in yen, which has no minor unit.
        (0.0, purchase("2", json!({ "value": 500, "currency": "JPY" }))),
        (1.0, refund("2", json!({ "value": 200 }))),
        (2.0, update("2", json!({ "shipping": 30 }))),
    ]);
    assert_eq!(money_of(&tables, DAY, "EUR"), "1 10000 10000 0 0 0");
    assert_eq!(money_of(&tables, DAY, "JPY"), "1 500 200 300 0 0");
    assert_eq!(cells(&tables, "revenue_analytics", &[DAY, "JPY"], &["shipping_amount_cents"]), ["30"]);
    assert_eq!(tables["revenue_analytics"].rows.len(), 2);
}

#[test]
fn another_currency_is_converted_by_the_rate_of_the_refunds_day() {
    let mut store = store(Vec::new());
    for (day, currency, rate) in
        [(31, "GBP", "1.3"), (30, "CHF", "1.2"), (24, "SEK", "0.1"), (23, "NOK", "0.1")]
    {
        store.rates.by_day.insert((date(2026, 10, day), currency.into()), rate.parse().unwrap());
    }
    store.rates.by_day.insert((date(2026, 11, 1), "EUR".into()), "1.2".parse().unwrap());
    let back = |of: &str, currency: &str, at: f64, fields: Json| {
        let refund = with(refund("1", json!({ "currency": currency })), fields);
        let order = json!({ "value": 100, "currency": of, "items": [{ "product_id": "a", "price": 40 }] });
        let tables = count_in(&store, &[(0.0, purchase("1", order)), (at, refund)]);
        let rows = tables["revenue_analytics"].rows.iter();
        let rows = rows.filter(|(_, row)| row["refunds_amount_cents"] != 0_i64.into());
        let rows = rows.map(|(key, row)| format!("{} {}", key.join(" "), row["refunds_amount_cents"]));
        rows.collect::<Vec<_>>().join(", ")
    };
    let ten = || json!({ "value": 10 });
    assert_eq!(back("USD", "EUR", 1.0, ten()), "2026-10-31 USD 1105");
    // The next day has another rate.
    assert_eq!(back("USD", "EUR", ONE_DAY, ten()), "2026-11-01 USD 1200");
    // 11.05 / 1.105 and 11.05 / 1.3.
    assert_eq!(back("EUR", "USD", 1.0, json!({ "value": 11.05 })), "2026-10-31 EUR 1000");
    assert_eq!(back("GBP", "EUR", 1.0, ten()), "2026-10-31 GBP 850");
    // The rate of the day before, of seven days before, and of none.
    assert_eq!(back("USD", "CHF", 1.0, ten()), "2026-10-31 USD 1200");
    assert_eq!(back("USD", "SEK", 1.0, ten()), "2026-10-31 USD 100");
    assert_eq!(back("USD", "NOK", 1.0, ten()), "2026-10-31 NOK 1000");
    // Never more than is left.
    assert_eq!(back("USD", "EUR", 1.0, json!({ "value": 1_000 })), "2026-10-31 USD 10000");
    // Where the refund names no amount, the order's count, in the order's currency.
    assert_eq!(back("USD", "NOK", 1.0, json!({})), "2026-10-31 USD 10000");
    assert_eq!(back("USD", "NOK", 1.0, json!({ "items": [{ "product_id": "a" }] })), "2026-10-31 USD 4000");
    // 5 × 1.105 = 5.525 of one item, and 40 of another.
    let items = json!({ "items": [{ "product_id": "x", "price": 5, "quantity": 1 }, { "product_id": "a" }] });
    assert_eq!(back("USD", "EUR", 1.0, items), "2026-10-31 USD 4553");
}

#[test]
fn what_cannot_be_converted_stands_in_its_own_currency() {
    let foreign = json!({ "refund_id": "f", "value": 90, "currency": "GBP" });
    let tables = count(&[order(), (1.0, refund("1", foreign.clone())), (2.0, refund("1", json!({})))]);
    // It takes nothing from the order.
    assert_eq!(money_of(&tables, DAY, "USD"), "1 10000 10000 0 0 0");
    assert_eq!(money_of(&tables, DAY, "GBP"), "0 0 9000 -9000 0 0");
    // Without a server's word it does not count: nothing bounds it.
    let forged = with(json!({ "name": "refund", "order_id": "1" }), foreign);
    assert_eq!(days_of_money(&count(&[order(), (1.0, forged)])), ["2026-10-31 USD"]);
    // One that can be converted does.
    let forged = json!({ "name": "refund", "order_id": "1", "value": 10, "currency": "EUR" });
    assert_eq!(refunded(&[(1.0, forged)]), "1105");
}

#[test]
fn a_full_refund_at_the_orders_rate_leaves_nothing() {
    let mut store = store(Vec::new());
    store.rates.by_day.insert((date(2026, 11, 1), "EUR".into()), "2".parse().unwrap());
    let part =
        |at: f64, value: f64| (at, refund("1", json!({ "refund_id": at.to_string(), "value": value })));
    let sent = sent(&[
        (0.0, purchase("1", json!({ "value": 0.1, "currency": "EUR" }))),
        part(1.0, 0.03),
        part(2.0, 0.03),
        // The rate of its own day is another.
        part(ONE_DAY, 0.04),
        (0.0, purchase("2", json!({ "value": 500, "currency": "JPY" }))),
        (1.0, refund("2", json!({}))),
    ]);
    let events = distinct(&sent, &Calendar::new(store.time_zone.clone()), "USD").unwrap();
    let book = Book::of(events.iter(), &store);
    let converted: Vec<_> = book.refunds.iter().map(|refund| refund.converted).collect();
    // 11.05 is 11; what is left 7.735, so 8; 4.42, so 4; nothing. Of yen nobody knows.
    assert_eq!(converted, [Some(3), Some(4), Some(4), None]);
    assert_eq!(book.orders[0].convert(10, &store), Some(11));
}
