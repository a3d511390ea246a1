use proptest::{prelude::*, sample::Index};

use super::*;

const HOUR_MS: i64 = 3_600_000;

fn report(kind: Kind, at_hours: i64) -> Report {
    Report {
        kind,
        trusted: true,
        at_ms: at_hours * HOUR_MS,
        currency: if kind == Kind::Placed { "USD".into() } else { String::new() },
        value_minor: None,
        value: None,
        tax_minor: None,
        shipping_minor: None,
        discount_minor: None,
        lines: Vec::new(),
        refund_id: String::new(),
        refunds_included: false,
        visitor_id: String::new(),
        session_id: String::new(),
        user_id: String::new(),
    }
}

/// Units of the currency.
fn worth(kind: Kind, at_hours: i64, value: i64) -> Report {
    Report { value_minor: Some(value * 100), value: Some(value as f64), ..report(kind, at_hours) }
}

fn browsers(report: Report) -> Report {
    Report { trusted: false, ..report }
}

/// Price in units, quantity in pieces.
fn line(product_id: &str, price: i64, quantity: i64) -> Line {
    Line {
        product_id: product_id.into(),
        price: price * 1_000_000,
        quantity: quantity * 1_000,
        ..Line::default()
    }
}

fn with_lines(report: Report, lines: &[Line]) -> Report {
    Report { lines: lines.to_vec(), ..report }
}

fn order_of(reports: &[Report]) -> Order {
    order_at(reports, |_, _, _, _| None).unwrap()
}

fn order_at(reports: &[Report], convert: impl Fn(i64, &str, &str, i128) -> Option<i128>) -> Option<Order> {
    Order::of(reports, &Terms { currency: "USD", prices_include_tax: false, convert: &convert })
}

fn amounts(order: &Order) -> Vec<i128> {
    order.taken.iter().map(|taken| taken.amount).collect()
}

#[test]
fn a_servers_report_wins_and_a_browsers_tells_when_and_who() {
    let browser =
        Report { visitor_id: "v".into(), session_id: "s".into(), ..browsers(worth(Kind::Placed, 0, 50)) };
    let server = Report { user_id: "u".into(), ..worth(Kind::Placed, 48, 50) };
    let order = order_of(&[server.clone(), browser.clone()]);
    assert_eq!((order.at_ms, order.total, order.trusted), (0, 5_000, true));
    assert_eq!((&*order.visitor_id, &*order.session_id, &*order.user_id), ("v", "s", "u"));

    // Other amounts, another currency, too early, too late: none of these is the same purchase.
    for other in [
        Report { value_minor: Some(1), ..browser.clone() },
        Report { currency: "EUR".into(), ..browser.clone() },
        Report { at_ms: server.at_ms - 7 * DAY_MS - 1, ..browser.clone() },
        Report { at_ms: server.at_ms + DAY_MS + 1, ..browser.clone() },
    ] {
        let order = order_of(&[other, server.clone()]);
        assert_eq!((order.at_ms, order.total, &*order.visitor_id), (server.at_ms, 5_000, ""));
    }
    // Who tells no value says nothing against it; a visitor and a session come together.
    let silent = Report { value_minor: None, at_ms: server.at_ms - 7 * DAY_MS, ..browser };
    let named = Report { visitor_id: "w".into(), ..server };
    let order = order_of(&[silent.clone(), named]);
    assert_eq!((order.at_ms, &*order.visitor_id, &*order.session_id), (silent.at_ms, "w", ""));
}

#[test]
fn a_total_is_what_was_told_or_what_the_parts_come_to() {
    let parts = Report {
        tax_minor: Some(80),
        shipping_minor: Some(500),
        discount_minor: Some(100),
        ..with_lines(report(Kind::Placed, 0), &[line("a", 9, 2), line("voucher", -2, 1)])
    };
    let order = order_of(std::slice::from_ref(&parts));
    assert_eq!((order.total, order.unexplained), (1_600 + 80 + 500 - 100, 0));
    let terms = Terms { currency: "USD", prices_include_tax: true, convert: &|_, _, _, _| None };
    assert_eq!(Order::of(std::slice::from_ref(&parts), &terms).unwrap().total, 1_600 + 500 - 100);
    let told = Report { value_minor: Some(2_100), ..parts.clone() };
    let order = order_of(&[told]);
    assert_eq!((order.total, order.unexplained), (2_100, 20));
    let less_than_nothing = Report { discount_minor: Some(5_000), ..parts };
    let order = order_of(&[less_than_nothing]);
    assert_eq!((order.total, order.unexplained), (0, 5_000 - 2_180));
}

#[test]
fn a_refund_without_a_currency_has_its_orders() {
    let order = Report { currency: "EUR".into(), ..worth(Kind::Placed, 0, 100) };
    let settled = order_of(&[order.clone(), worth(Kind::Refunded, 1, 100)]);
    assert_eq!((&*settled.taken[0].currency, settled.taken[0].amount), ("EUR", 10_000));
    // The store's dollars have two decimals, yen none.
    let yen = Report { currency: "JPY".into(), value_minor: Some(5_000), ..order };
    let refund = Report { value_minor: Some(123_450), value: Some(1_234.5), ..report(Kind::Refunded, 1) };
    assert_eq!(amounts(&order_of(&[yen, refund])), [1_235]);
}

#[test]
fn refunded_items_cost_what_the_order_charged() {
    let order = with_lines(report(Kind::Placed, 0), &[line("a", 60, 1), line("b", 20, 2)]);
    let refund = |lines: &[Line]| with_lines(report(Kind::Refunded, 1), lines);
    for (lines, amount) in [
        (vec![line("b", 0, 0)], 4_000),
        (vec![line("b", 0, 1)], 2_000),
        (vec![line("b", 15, 0)], 3_000),
        (vec![line("a", 0, 0), line("b", 0, 0)], 10_000),
        (vec![line("unknown", 7, 0)], 700),
        (vec![line("unknown", 0, 1)], 0),
        (vec![line("b", -20, 1)], 2_000),
    ] {
        let settled = order_of(&[order.clone(), refund(&lines)]);
        assert_eq!((settled.taken[0].amount, settled.taken[0].names_items), (amount, true), "{lines:?}");
    }
    // As updated, else as first sold.
    let update = with_lines(report(Kind::Updated, 1), &[line("b", 25, 2)]);
    let back = with_lines(report(Kind::Refunded, 2), &[line("b", 0, 1), line("a", 0, 0)]);
    assert_eq!(amounts(&order_of(&[order, update, back])), [5_000], "25 + 60, of a total of 50");
}

#[test]
fn refunds_are_taken_in_order_and_never_more_than_there_is() {
    let order = worth(Kind::Placed, 0, 100);
    let part = |at, value: i64, product: &str| {
        with_lines(worth(Kind::Refunded, at, value), &[line(product, value, 1)])
    };
    assert_eq!(amounts(&order_of(&[part(2, 60, "a"), order.clone(), part(1, 40, "b")])), [4_000, 6_000]);
    assert_eq!(amounts(&order_of(&[part(1, 70, "a"), part(2, 70, "b"), order.clone()])), [7_000, 3_000]);
    // Told twice in the same words, or under the same number, it is one.
    assert_eq!(amounts(&order_of(&[part(1, 40, "a"), part(9, 40, "a"), order.clone()])), [4_000]);
    let numbered = |report: Report| Report { refund_id: "r".into(), ..report };
    let twice = [numbered(part(1, 40, "a")), numbered(part(2, 50, "b")), order.clone()];
    assert_eq!(amounts(&order_of(&twice)), [4_000]);
    // Without value and items it is all that is left.
    let rest = [part(1, 40, "a"), report(Kind::Refunded, 2), order.clone()];
    assert_eq!(amounts(&order_of(&rest)), [4_000, 6_000]);
    // No sign matters.
    let negative = Report { value_minor: Some(-2_500), ..report(Kind::Refunded, 1) };
    assert_eq!(amounts(&order_of(&[negative, order])), [2_500]);
}

#[test]
fn a_refund_in_another_currency_is_converted_at_its_days_rate() {
    let order = worth(Kind::Placed, 0, 100);
    let refund = |trusted| Report { currency: "EUR".into(), trusted, ..worth(Kind::Refunded, 30, 50) };
    let doubled = |at: i64, from: &str, to: &str, minor: i128| {
        assert_eq!((at, from, to), (30 * HOUR_MS, "EUR", "USD"));
        Some(minor * 2)
    };
    let settled = order_at(&[order.clone(), refund(true)], doubled).unwrap();
    assert_eq!((&*settled.taken[0].currency, settled.taken[0].amount), ("USD", 10_000));
    let settled = order_of(&[order.clone(), refund(true)]);
    assert_eq!((&*settled.taken[0].currency, settled.taken[0].amount), ("EUR", 5_000));
    assert_eq!(amounts(&order_of(&[browsers(order), refund(false)])), [0_i128; 0], "nothing would bound it");
}

#[test]
fn an_update_replaces_what_it_names() {
    let order =
        Report { tax_minor: Some(100), ..with_lines(worth(Kind::Placed, 0, 100), &[line("a", 90, 1)]) };
    let tax = Report { tax_minor: Some(0), ..report(Kind::Updated, 1) };
    let updated = order_of(&[order.clone(), tax]);
    assert_eq!((updated.total, updated.tax, updated.lines.len()), (10_000, 0, 1));
    let items = with_lines(report(Kind::Updated, 2), &[line("a", 20, 2)]);
    let updated = order_of(&[items.clone(), order.clone()]);
    assert_eq!((updated.total, updated.unexplained), (4_000 + 100, 0), "its total is theirs");
    let later = worth(Kind::Updated, 3, 70);
    assert_eq!(order_of(&[later.clone(), items, order.clone()]).total, 7_000);
    // 30 were given back before somebody said that 70 are left of it.
    let included = Report { refunds_included: true, ..later };
    let refund = worth(Kind::Refunded, 1, 30);
    let settled = order_of(&[included, refund, order]);
    assert_eq!((settled.total, amounts(&settled)), (10_000, vec![3_000]));
}

#[test]
fn a_cancellation_takes_what_is_left() {
    let order = worth(Kind::Placed, 0, 50);
    let cancel = |at| report(Kind::Cancelled, at);
    let settled = order_of(&[cancel(2), cancel(5), order, worth(Kind::Refunded, 1, 20)]);
    assert_eq!(amounts(&settled), [2_000, 3_000]);
    assert_eq!(settled.taken.iter().filter(|taken| taken.is_cancellation).count(), 1);
    assert!(order_at(&[cancel(2)], |_, _, _, _| None).is_none(), "it waits for its order");
}

#[test]
fn what_anybody_may_send_counts_against_what_anybody_may_have_sent() {
    let server = worth(Kind::Placed, 0, 50);
    let words = [worth(Kind::Updated, 1, 1), report(Kind::Refunded, 2), report(Kind::Cancelled, 3)];
    let words = words.map(browsers);
    let reports: Vec<Report> = words.iter().cloned().chain([server.clone()]).collect();
    let order = order_of(&reports);
    assert_eq!((order.total, amounts(&order)), (5_000, vec![]));
    let reports: Vec<Report> = words.into_iter().chain([browsers(server)]).collect();
    let order = order_of(&reports);
    assert_eq!((order.total, amounts(&order)), (100, vec![100, 0]));
}

fn any_report() -> impl Strategy<Value = Report> {
    let kinds = [Kind::Placed, Kind::Updated, Kind::Refunded, Kind::Cancelled];
    let lines = proptest::collection::vec(
        ("[ab]", -2_i64..5, 0_i64..3).prop_map(|(product, price, quantity)| line(&product, price, quantity)),
        0..3,
    );
    let amounts = (proptest::option::of(-5_i64..40), proptest::option::of(0_i64..9), "(USD|EUR|)");
    let who = ("[vw]?", "[u]?", "[r]?");
    (proptest::sample::select(kinds.to_vec()), any::<bool>(), 0_i64..400, amounts, lines, who, any::<bool>())
        .prop_map(|(kind, trusted, hours, (value, tax, currency), lines, who, refunds_included)| Report {
            trusted,
            currency: if kind == Kind::Placed && currency.is_empty() { "USD".into() } else { currency },
            value_minor: value.map(|value| value * 100),
            value: value.map(|value| value as f64),
            tax_minor: tax,
            lines,
            visitor_id: who.0,
            user_id: who.1,
            refund_id: who.2,
            refunds_included,
            ..report(kind, hours)
        })
}

proptest! {
    #[test]
    fn no_order_of_arrival_and_no_copy_changes_it(
        reports in proptest::collection::vec(any_report(), 1..9),
        swaps in proptest::collection::vec((any::<Index>(), any::<Index>()), 8),
        copies in proptest::collection::vec(any::<Index>(), 0..3),
    ) {
        let order = order_at(&reports, |_, _, _, minor| Some(minor));
        let mut others = reports.clone();
        others.extend(copies.iter().map(|copy| copy.get(&reports).clone()));
        for (one, other) in swaps {
            let (one, other) = (one.index(others.len()), other.index(others.len()));
            others.swap(one, other);
        }
        prop_assert_eq!(&order, &order_at(&others, |_, _, _, minor| Some(minor)));
    }

    #[test]
    fn no_more_is_taken_than_there_is(reports in proptest::collection::vec(any_report(), 1..9)) {
        let Some(order) = order_at(&reports, |_, _, _, minor| Some(minor)) else { return Ok(()) };
        let taken: i128 = order.taken.iter().map(|taken| taken.amount).sum();
        prop_assert!(order.taken.iter().all(|taken| taken.amount >= 0 && taken.currency == order.currency));
        prop_assert!(taken <= order.total.max(0));
        let lines: i128 = order.lines.iter().map(|line| line_minor(line.price, line.quantity, 2)).sum();
        prop_assert_eq!(order.total, lines - order.discount + order.shipping + order.tax + order.unexplained);
    }
}
