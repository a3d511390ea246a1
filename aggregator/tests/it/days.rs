//! Rollups counted by hand.

use millrace_aggregator::rollup::{
    self, funnels,
    write::{Rows, table},
};
use millrace_schemas::row::EventRow;
use serde_json::json;

use crate::harness::{Bed, at, click, event};

#[tokio::test(flavor = "multi_thread")]
async fn a_day_in_new_york_on_which_clocks_go_back() {
    let bed = Bed::with_store("s", "America/New_York", "USD").await;
    // 1 November begins at 04:00 UTC and ends at 05:00 UTC of the 2nd: 25 hours.
    bed.insert(&[
        // The last second of October: its session goes on into November, and stays October's.
        EventRow { page_view_id: "p1", ..event(1, "page_view", "2026-11-01 03:59:59", "v1", "s1") },
        EventRow {
            page_view_id: "p1",
            duration_ms: 61_000,
            ..event(2, "page_view", "2026-11-01 04:01:00", "v1", "s1")
        },
        // A bounce, an hour that comes twice apart.
        EventRow { page_view_id: "p2", ..event(3, "page_view", "2026-11-01 05:30:00", "v2", "s2") },
        EventRow { page_view_id: "p3", ..event(4, "page_view", "2026-11-01 06:30:00", "v2", "s3") },
        event(5, "search", "2026-11-01 06:30:04", "v2", "s3"),
        // The last second of the long day, and the first of the next.
        EventRow { page_view_id: "p4", ..event(6, "page_view", "2026-11-02 04:59:59", "v3", "s4") },
        EventRow { page_view_id: "p5", ..event(7, "page_view", "2026-11-02 05:00:00", "v4", "s5") },
        // A bot counts as excluded, no more.
        EventRow { is_bot: 1, ..event(8, "page_view", "2026-11-01 12:00:00", "robot", "s6") },
    ])
    .await;
    bed.roll().await;
    let days = bed
        .rows(
            "SELECT date, total_sessions AS s, unique_visitors AS v, page_views AS p, bounce_rate::text AS b,
                    engagement_rate::text AS e, avg_session_duration AS d, bot_events AS bots
             FROM analytics_summary WHERE period_type = 'day' ORDER BY date",
        )
        .await;
    assert_eq!(
        days,
        [
            json!({"date": "2026-10-31", "s": 1, "v": 1, "p": 1, "b": "1.0000", "e": "1.0000", "d": 61, "bots": 0}),
            // s2 and s4 bounce; s3 has a search of 4 s: no bounce, not engaged.
            json!({"date": "2026-11-01", "s": 3, "v": 3, "p": 4, "b": "0.6667", "e": "0.0000", "d": 1, "bots": 1}),
            json!({"date": "2026-11-02", "s": 1, "v": 1, "p": 1, "b": "1.0000", "e": "0.0000", "d": 0, "bots": 0}),
        ]
    );
    let others = bed
        .rows(
            "SELECT period_type AS t, date, total_sessions AS s, unique_visitors AS v, page_views AS p
             FROM analytics_summary WHERE period_type <> 'day' ORDER BY 1, 2",
        )
        .await;
    assert_eq!(
        others,
        [
            json!({"t": "month", "date": "2026-10-01", "s": 1, "v": 1, "p": 1}),
            json!({"t": "month", "date": "2026-11-01", "s": 4, "v": 4, "p": 5}),
            json!({"t": "week", "date": "2026-10-26", "s": 4, "v": 3, "p": 4}),
            json!({"t": "week", "date": "2026-11-02", "s": 1, "v": 1, "p": 1}),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_without_an_id_are_cut_at_pauses_and_after_a_day() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    // v1: every 20 minutes from the 1st 12:00 for 30 hours: cut after 24 h, at the first event beyond 12:00 of the 2nd.
    let times: Vec<i64> = (0..91).map(|n| at("2026-10-01 12:00:00") + n * 20 * 60_000).collect();
    let mut rows: Vec<EventRow<'_>> = Vec::new();
    for (number, ms) in (1_u128..).zip(&times) {
        rows.push(EventRow { event_time: *ms, ..event(number, "ping", "2026-10-01 12:00:00", "v1", "") });
    }
    // v2: pauses of 29:59 and of 30:00.
    rows.push(event(201, "ping", "2026-10-02 00:00:00", "v2", ""));
    rows.push(event(202, "ping", "2026-10-02 00:29:59", "v2", ""));
    rows.push(event(203, "ping", "2026-10-02 00:59:59", "v2", ""));
    bed.insert(&rows).await;
    bed.roll().await;
    let days = bed
        .rows(
            "SELECT date, total_sessions AS s, avg_session_duration AS d FROM analytics_summary
             WHERE period_type = 'day' ORDER BY date",
        )
        .await;
    // v1's second session: 12:20 to 18:00 = 20,400 s; v2's: 1,799 s and 0 s. (20400 + 1799) / 3 = 7399.67.
    assert_eq!(
        days,
        [
            json!({"date": "2026-10-01", "s": 1, "d": 86_400}),
            json!({"date": "2026-10-02", "s": 3, "d": 7400})
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_a_day_after_the_days_end_is_not_of_its_sessions() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.insert(&[
        event(1, "page_view", "2026-10-01 10:00:00", "v1", ""),
        event(2, "page_view", "2026-10-02 23:59:59", "v2", ""),
        event(3, "page_view", "2026-10-03 00:00:00", "v1", ""),
        event(4, "page_view", "2026-10-03 00:00:00", "v2", ""),
    ])
    .await;
    // Alone: a chunk ends with the day.
    sqlx::query("SELECT calculate_daily_revenue('2026-10-01')").execute(&bed.pool).await.unwrap();
    rollup::roll_up(&bed.warehouse, &bed.pool, "s", 62, &mut Vec::new()).await.unwrap();
    let day =
        "SELECT total_sessions AS s, avg_session_duration AS d, bounce_rate::text AS b FROM analytics_summary
               WHERE period_type = 'day' AND date = '2026-10-01'";
    let expected = [json!({"s": 1, "d": 0, "b": "1.0000"})];
    assert_eq!(bed.rows(day).await, expected);
    bed.roll().await;
    assert_eq!(bed.rows(day).await, expected);
}

fn order<'a>(number: u128, name: &'a str, time: &str, order_id: &'a str, total: Option<i64>) -> EventRow<'a> {
    EventRow { order_id, currency: "USD", total_minor: total, ..event(number, name, time, "v1", "s1") }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_refunds_count_once_and_exactly() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    sqlx::query("INSERT INTO exchange_rates VALUES ('2026-10-02', 'EUR', 'USD', 1.08505)")
        .execute(&bed.pool)
        .await
        .unwrap();
    let items = EventRow {
        item_product_id: vec!["a", "b"],
        item_price: vec![10_000_000, 3_330_000],
        item_quantity: vec![2000, 3000],
        item_discount: vec![1_000_000, 0],
        discount_minor: Some(99),
        tax_minor: Some(50),
        shipping_minor: Some(500),
        ..order(5, "purchase", "2026-10-01 13:00:00", "o2", None)
    };
    bed.insert(&[
        // The browser on the 1st, then again, and the server on the 2nd: the server's wins, also its day.
        order(1, "purchase", "2026-10-01 12:00:00", "o1", Some(9_999)),
        order(1, "purchase", "2026-10-01 12:00:00", "o1", Some(9_999)),
        order(2, "purchase", "2026-10-01 11:00:00", "o1", Some(9_998)),
        EventRow {
            trusted: 1,
            visitor_id: "",
            session_id: "",
            ..order(3, "purchase", "2026-10-02 08:00:00", "o1", Some(10_001))
        },
        EventRow { trusted: 1, ..order(4, "purchase", "2026-10-02 09:00:00", "o1", Some(1)) },
        items,
        EventRow { currency: "EUR", ..order(6, "purchase", "2026-10-02 10:00:00", "o3", Some(10_000)) },
        EventRow { currency: "GBP", ..order(7, "purchase", "2026-10-02 10:00:00", "o4", Some(500)) },
        // o1 of 100.01: 60 back, then 60 more, cut to 40.01; the second names an item.
        EventRow {
            trusted: 1,
            refund_id: "r1",
            ..order(8, "refund", "2026-10-02 12:00:00", "o1", Some(6_000))
        },
        EventRow {
            trusted: 1,
            refund_id: "r2",
            item_product_id: vec!["a"],
            item_price: vec![20_000_000],
            item_quantity: vec![3000],
            item_discount: vec![0],
            ..order(9, "refund", "2026-10-03 12:00:00", "o1", None)
        },
        EventRow { trusted: 1, refund_id: "r2", ..order(10, "refund", "2026-10-04 12:00:00", "o1", Some(1)) },
    ])
    .await;
    bed.roll().await;
    let revenue = bed
        .rows(
            "SELECT date, currency AS c, gross_revenue_cents AS gross, net_revenue_cents AS net, orders_count AS n,
                    average_order_value_cents AS aov, returns_count AS rn, returns_amount_cents AS ra,
                    discounts_amount_cents AS d, shipping_amount_cents AS sh, tax_amount_cents AS t,
                    refunds_amount_cents AS r
             FROM revenue_analytics ORDER BY date, currency",
        )
        .await;
    let row = |date: &str, c: &str, numbers: [i64; 10]| {
        let [gross, net, n, aov, rn, ra, d, sh, t, r] = numbers;
        json!({"date": date, "c": c, "gross": gross, "net": net, "n": n, "aov": aov, "rn": rn, "ra": ra, "d": d,
               "sh": sh, "t": t, "r": r})
    };
    assert_eq!(
        revenue,
        [
            // 2 × 10.00 + 3 × 3.33 − 0.99 + 0.50 + 5.00: the item's discount has gone from its price.
            row("2026-10-01", "USD", [3_450, 3_450, 1, 3_450, 0, 0, 99, 500, 50, 0]),
            row("2026-10-02", "EUR", [10_000, 10_000, 1, 10_000, 0, 0, 0, 0, 0, 0]),
            row("2026-10-02", "GBP", [500, 500, 1, 500, 0, 0, 0, 0, 0, 0]),
            row("2026-10-02", "USD", [10_001, 4_001, 1, 10_001, 0, 0, 0, 0, 0, 6_000]),
            row("2026-10-03", "USD", [0, -4_001, 0, 0, 1, 4_001, 0, 0, 0, 4_001]),
        ]
    );
    let summary = bed
        .rows(
            "SELECT date, total_orders AS n, total_revenue::text AS r, avg_order_value::text AS a, unconverted AS u,
                    conversion_rate::text AS c
             FROM analytics_summary WHERE period_type = 'day' AND date < '2026-10-03' ORDER BY date",
        )
        .await;
    assert_eq!(
        summary,
        [
            // The one session has the winners of o2, o3 and o4.
            json!({"date": "2026-10-01", "n": 1, "r": "34.50", "a": "34.50", "u": {}, "c": "1.0000"}),
            // 100.01 + 100.00 × 1.08505 = 108.51 (half up); two orders are in it.
            json!({"date": "2026-10-02", "n": 3, "r": "208.52", "a": "104.26", "u": {"GBP": 500}, "c": "0.0000"}),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn products_have_views_carts_orders_stock_and_ratings() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let of = |number, name, time, visitor, session| EventRow {
        item_product_id: vec!["a", "a"],
        item_price: vec![10_000_000, 10_000_000],
        item_quantity: vec![1000, 2000],
        item_discount: vec![0, 5_000_000],
        ..event(number, name, time, visitor, session)
    };
    bed.insert(&[
        EventRow { page_view_id: "p1", ..event(1, "page_view", "2026-10-05 23:50:00", "v1", "s1") },
        EventRow {
            page_view_id: "p1",
            non_interactive: 1,
            ..of(2, "view_item", "2026-10-05 23:50:01", "v1", "s1")
        },
        // The page is left on the next day.
        EventRow {
            page_view_id: "p1",
            duration_ms: 900_500,
            ..event(3, "page_view", "2026-10-06 00:05:00", "v1", "s1")
        },
        EventRow { page_view_id: "p2", ..event(4, "page_view", "2026-10-05 10:00:00", "v2", "s2") },
        EventRow { page_view_id: "p2", ..of(5, "view_item", "2026-10-05 10:00:01", "v2", "s2") },
        of(6, "view_item", "2026-10-05 10:00:02", "v2", "s2"),
        of(7, "add_to_cart", "2026-10-05 10:00:03", "v2", "s2"),
        of(8, "remove_from_cart", "2026-10-05 10:00:04", "v2", "s2"),
        of(9, "begin_checkout", "2026-10-05 10:00:05", "v2", "s2"),
        of(10, "begin_checkout", "2026-10-05 10:00:06", "v2", "s2"),
        of(11, "begin_checkout", "2026-10-05 10:00:06", "v3", ""),
        EventRow { order_id: "o1", currency: "USD", ..of(12, "purchase", "2026-10-05 10:00:07", "v2", "s2") },
        EventRow { value: Some(4.5), ..of(13, "review", "2026-10-05 10:00:08", "v2", "s2") },
        EventRow { value: Some(4.35), ..of(14, "review", "2026-10-05 10:00:08", "v2", "s2") },
        EventRow {
            item_quantity: vec![3000, 5000],
            trusted: 1,
            ..of(15, "inventory_level", "2026-10-05 08:00:00", "", "")
        },
        EventRow {
            item_quantity: vec![4000, 6000],
            trusted: 1,
            ..of(16, "inventory_level", "2026-10-05 09:00:00", "", "")
        },
        EventRow {
            item_quantity: vec![4000, 1000],
            trusted: 1,
            ..of(17, "inventory_level", "2026-10-10 09:00:00", "", "")
        },
    ])
    .await;
    bed.roll().await;
    let rows = bed
        .rows(
            "SELECT date, views, unique_views_count AS uv, cart_additions AS ca, cart_removal_count AS cr,
                    checkout_count AS co, purchase_count AS pc, units_sold AS u, revenue_amount AS rev,
                    average_time_on_page AS t, bounce_rate::text AS b, conversion_rate::text AS cv, stock_level AS sl,
                    stock_turns::text AS st, average_rating::text AS ar, review_count AS rc
             FROM product_analytics WHERE product_id = 'a' ORDER BY date",
        )
        .await;
    assert_eq!(
        rows,
        [
            // Of the two sessions that entered on the page one bounced (its view_item is not interactive).
            json!({"date": "2026-10-05", "views": 3, "uv": 2, "ca": 1, "cr": 1, "co": 2, "pc": 1, "u": 3, "rev": 3000,
                   "t": 901, "b": "0.5000", "cv": "0.5000", "sl": 10, "st": "0.3000", "ar": "4.43", "rc": 2}),
            json!({"date": "2026-10-10", "views": 0, "uv": 0, "ca": 0, "cr": 0, "co": 0, "pc": 0, "u": 0, "rev": 0,
                   "t": 0, "b": "0.0000", "cv": "0.0000", "sl": 5, "st": "0.4000", "ar": null, "rc": 0}),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_stops_rollups_by_what_they_send() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    // Incompressible, so that no index entry holds it.
    let long: String =
        (0_u32..8_000).map(|n| char::from(b'!' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 90)).collect();
    let of = |number, product| EventRow {
        item_product_id: vec![product],
        // As much as decimals of 18 digits hold.
        item_price: vec![999_999_999_999_999_999],
        item_quantity: vec![-999_999_999_999_999_999],
        item_discount: vec![-999_999_999_999_999_999],
        order_id: "o",
        currency: "USD",
        value: Some(1e300),
        total_minor: (number == 1).then_some(i64::MAX),
        ..event(number, if number < 3 { "purchase" } else { "review" }, "2026-10-01 10:00:00", "v'\\\"", "")
    };
    let hash = hex::encode(&millrace_aggregator::stores::hash("a\0")[..12]);
    let made = format!("a\u{fffd}…{hash}");
    let mut rows = vec![of(1, "a\0"), of(3, "a\u{fffd}"), of(4, "a\0"), of(5, &long), of(6, &made)];
    rows.push(EventRow { order_id: "o2", ..of(2, "b") });
    bed.insert(&rows).await;
    let mut clicked = click(1, at("2026-10-01 10:00:00"), "v", u32::MAX, u32::MAX);
    clicked.url = &long;
    clicked.selector = &long;
    clicked.text = "a\0b";
    clicked.page_width = 1;
    bed.insert(&[clicked]).await;
    bed.roll().await;
    assert_eq!(bed.rows("SELECT product_id FROM product_analytics").await.len(), 5);
    assert_eq!(
        bed.rows("SELECT element_text AS t FROM heatmap_elements").await,
        [json!({"t": "a\u{fffd}b"})]
    );
    let revenue = bed.rows("SELECT gross_revenue_cents AS g FROM revenue_analytics").await;
    assert_eq!(revenue, [json!({"g": i64::MAX})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_sends_never_takes_the_place_of_a_servers_word() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.clickhouse("", "SYSTEM STOP MERGES").await;
    let told = |row: EventRow<'static>| EventRow { trusted: 1, ..row };
    let bought =
        |number, order_id, total| order(number, "purchase", "2026-10-01 10:00:00", order_id, Some(total));
    let of = |number, name, value| EventRow {
        item_product_id: vec!["a"],
        item_price: vec![0],
        item_quantity: vec![7000],
        item_discount: vec![0],
        value,
        ..event(number, name, "2026-10-01 10:00:00", "v1", "")
    };
    let shop = [
        told(bought(1, "o1", 9_900)),
        told(bought(2, "o2", 5_000)),
        told(bought(3, "o3", 2_000)),
        told(EventRow { refund_id: "r", ..order(4, "refund", "2026-10-01 12:00:00", "o3", Some(500)) }),
        told(of(5, "inventory_level", None)),
        told(of(6, "review", Some(4.0))),
    ];
    let early = |row: EventRow<'static>| {
        let (event_time, received_at) = (row.event_time - 3_600_000, row.received_at - 3_600_000);
        EventRow { event_time, received_at, ..row }
    };
    let others = [
        // Copies of what the server told: earlier in every respect, of other amounts, a bot's, of another order.
        early(bought(1, "o1", 1)),
        EventRow { is_bot: 1, bot_reason: "rate", ..early(bought(2, "o2", 5_000)) },
        early(bought(3, "elsewhere", 77)),
        EventRow { refund_id: "r", ..order(4, "refund", "2026-10-01 12:00:00", "o3", Some(2_000)) },
        // Words of their own about the server's orders.
        EventRow { visitor_hash: 9, ..early(bought(1, "o1", 3)) },
        order(10, "refund", "2026-10-01 12:00:00", "o1", None),
        order(11, "refund", "2026-10-01 12:00:00", "nobodys", Some(4_000)),
        EventRow { item_quantity: vec![0], ..of(12, "inventory_level", None) },
        of(13, "review", Some(1.0)),
        of(14, "review", Some(1.0)),
        // An order that no server reported: refunds take it back, and no more.
        bought(20, "theirs", 300),
        order(21, "refund", "2026-10-01 12:00:00", "theirs", Some(900)),
        // In another currency nothing of the order would bound it.
        EventRow {
            currency: "EUR",
            ..order(25, "refund", "2026-10-01 12:00:00", "theirs", Some(99_999_900))
        },
        // Discounts above the price: on what somebody else sells, and on a part of an order without a total.
        EventRow {
            order_id: "free",
            total_minor: Some(0),
            item_discount: vec![10_000_000_000],
            ..of(26, "purchase", None)
        },
        EventRow {
            order_id: "odd",
            item_product_id: vec!["a", "b"],
            item_price: vec![1_000_000, 0],
            item_quantity: vec![1000, 1000],
            item_discount: vec![0, 10_000_000],
            ..of(27, "purchase", None)
        },
        // Ratings where nobody has told any: only what is one.
        EventRow { item_product_id: vec!["b"], ..of(22, "review", Some(-1e8)) },
        EventRow { item_product_id: vec!["b"], ..of(23, "review", Some(3.0)) },
        EventRow { item_product_id: vec!["only-theirs"], ..of(24, "inventory_level", None) },
    ];
    // Whichever comes first, and once all copies are merged.
    for (store, parts) in [("s", [&shop[..], &others[..]]), ("t", [&others[..], &shop[..]])] {
        if store == "t" {
            bed.add_store("t", "UTC", "USD").await;
        }
        for part in parts {
            let part: Vec<_> = part.iter().map(|row| EventRow { store_id: store, ..row.clone() }).collect();
            bed.insert(&part).await;
            bed.roll().await;
        }
    }
    for is_merged in [false, true] {
        if is_merged {
            bed.clickhouse("", "SYSTEM START MERGES").await;
            bed.clickhouse("", "OPTIMIZE TABLE millrace.events FINAL").await;
            bed.forget().await;
            bed.roll().await;
        }
        for store in ["s", "t"] {
            let revenue = bed
                .rows(&format!(
                    "SELECT orders_count AS n, gross_revenue_cents AS g, refunds_amount_cents AS r
                     FROM revenue_analytics WHERE store_id = '{store}'"
                ))
                .await;
            let total = 9_900 + 5_000 + 2_000 + 300 + 100;
            assert_eq!(revenue, [json!({"n": 6, "g": total, "r": 800})], "{store}, merged: {is_merged}");
            let cohorts = bed
                .rows(&format!(
                    "SELECT sum(revenue_cents)::bigint AS g
                     FROM cohort_analytics WHERE store_id = '{store}' AND period_type = 'day'"
                ))
                .await;
            assert_eq!(cohorts, [json!({"g": total})], "{store}, merged: {is_merged}");
            let products = bed
                .rows(&format!(
                    "SELECT product_id AS p, stock_level AS s, average_rating::text AS a, review_count AS n,
                            revenue_cents AS rev
                     FROM product_analytics WHERE store_id = '{store}' ORDER BY product_id"
                ))
                .await;
            let expected = [
                json!({"p": "a", "s": 7, "a": "4.00", "n": 1, "rev": 100}),
                json!({"p": "b", "s": null, "a": "3.00", "n": 2, "rev": 0}),
            ];
            assert_eq!(products, expected, "{store}, merged: {is_merged}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogues_stock_is_told_in_one_night() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let ids: Vec<String> = (0..20_000).map(|n| format!("{n:0>60}")).collect();
    let rows: Vec<EventRow<'_>> = (1..)
        .zip(ids.chunks(200))
        .map(|(number, ids)| EventRow {
            item_product_id: ids.iter().map(String::as_str).collect(),
            item_price: vec![0; 200],
            item_quantity: (1..=200).map(|number| number * 1000).collect(),
            item_discount: vec![0; 200],
            trusted: 1,
            ..event(number, "inventory_level", "2026-10-01 03:00:00", "", "")
        })
        .collect();
    bed.insert(&rows).await;
    bed.roll().await;
    let levels = bed.rows("SELECT count(*) AS n, sum(stock_level) AS q FROM product_analytics").await;
    assert_eq!(levels, [json!({"n": 20_000, "q": 100 * 200 * 201 / 2})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_ids_of_visitors_without_a_pause_are_read_back() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    // 1,100 visitors with ids of 1,000 bytes, an event every 29 minutes for 27 hours.
    bed.clickhouse(
        "",
        "INSERT INTO millrace.events (store_id, event_id, type, name, event_time, received_at, key_date, visitor_id,
                                      visitor_hash, _topic, _partition, _offset, _row, _batch)
         SELECT 's', reinterpretAsUUID(reverse(reinterpretAsFixedString(toUInt128(number)))), 'event', 'ping',
                toDateTime64('2026-10-01 00:00:00', 3, 'UTC') + toIntervalMinute(29 * (number % 56)),
                toDateTime64('2026-10-03 00:00:00', 3, 'UTC'), toDate('2026-10-01'),
                leftPad(toString(intDiv(number, 56)), 1000, 'v'), intDiv(number, 56),
                'millrace.events', 0, number, 0, 0
         FROM numbers(1100 * 56)",
    )
    .await;
    bed.roll().await;
    // The second day alone: where it is rolled up with the first, nobody need look back.
    sqlx::query("SELECT calculate_daily_revenue('2026-10-02')").execute(&bed.pool).await.unwrap();
    bed.roll().await;
    let days = bed
        .rows(
            "SELECT date, total_sessions AS s FROM analytics_summary WHERE period_type = 'day' ORDER BY date",
        )
        .await;
    assert_eq!(days, [json!({"date": "2026-10-01", "s": 1100}), json!({"date": "2026-10-02", "s": 1100})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_a_funnel_change_places() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    sqlx::query("INSERT INTO funnels (store_id, funnel_name) VALUES ('s', 'f')")
        .execute(&bed.pool)
        .await
        .unwrap();
    bed.insert(&[
        event(1, "a", "2026-10-01 10:00:00", "v", ""),
        event(2, "b", "2026-10-01 10:00:01", "v", ""),
    ])
    .await;
    // What is there may be of another definition: of a rollup that had read it when it was replaced.
    for (names, completed) in [(["a", "b"], 1), (["b", "a"], 0)] {
        sqlx::query("DELETE FROM funnel_steps").execute(&bed.pool).await.unwrap();
        for (order, name) in (1..).zip(names) {
            sqlx::query("INSERT INTO funnel_steps (store_id, funnel_name, step_name, step_order, definition) VALUES ('s', 'f', $1, $2, $3)")
                .bind(name)
                .bind(order)
                .bind(json!({"event": name}))
                .execute(&bed.pool)
                .await
                .unwrap();
        }
        sqlx::query("SELECT calculate_daily_revenue('2026-10-01')").execute(&bed.pool).await.unwrap();
        bed.roll().await;
        let steps = bed
            .rows("SELECT step_name AS s, users_completed AS c FROM funnel_analytics ORDER BY step_order")
            .await;
        let [first, second] = names;
        assert_eq!(steps, [json!({"s": first, "c": completed}), json!({"s": second, "c": completed})]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_rows_may_be_more_than_one_value_holds() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let day = "2026-10-01".parse().unwrap();
    let text = "x".repeat(30_000);
    let mut rows = Rows::default();
    for number in 0..9_000 {
        rows.push(
            day,
            json!({"url": "u", "viewport_class": "desktop", "element_selector": number.to_string(),
                   "element_text": text, "clicks": 1, "rage_clicks": 0, "dead_clicks": 0}),
        );
    }
    let mut transaction = bed.pool.begin().await.unwrap();
    table::ELEMENTS.replace(&mut transaction, "s", &[], &[day], rows).await.unwrap();
    table::ELEMENTS.replace(&mut transaction, "s", &[], &[day], Rows::default()).await.unwrap();
    transaction.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_all_days_is_rolled_up() {
    let bed = Bed::with_store("s", "America/New_York", "USD").await;
    bed.insert(&[event(1, "page_view", "2026-10-01 10:00:00", "v1", "")]).await;
    sqlx::query("SELECT calculate_daily_revenue('9999-12-31')").execute(&bed.pool).await.unwrap();
    bed.roll().await;
    assert_eq!(bed.rows("SELECT DISTINCT date FROM summary_days").await, [json!({"date": "2026-10-01"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn funnels_count_visitors_by_day_of_entry() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.insert(&[
        event(1, "view_item", "2026-10-01 10:00:00", "v1", "s1"),
        EventRow {
            properties: vec![("plan", "pro".into())],
            ..event(2, "add_to_cart", "2026-10-01 10:00:10", "v1", "s1")
        },
        event(3, "view_item", "2026-10-01 11:00:00", "v2", "s2"),
        EventRow {
            properties: vec![("plan", "free".into())],
            ..event(4, "add_to_cart", "2026-10-01 11:00:10", "v2", "s2")
        },
        event(5, "view_item", "2026-10-02 10:00:00", "v1", "s3"),
    ])
    .await;
    for (name, order, definition) in [
        ("see", 1, json!({"event": "product_view"})),
        (
            "want",
            2,
            json!({"event": "add_to_cart", "filters": [{"field": "properties.plan", "operator": "equals", "value": "pro"}]}),
        ),
        ("buy", 3, json!({"event": "purchase"})),
    ] {
        sqlx::query("INSERT INTO funnels (store_id, funnel_name) VALUES ('s', 'f') ON CONFLICT DO NOTHING")
            .execute(&bed.pool)
            .await
            .unwrap();
        sqlx::query("INSERT INTO funnel_steps (store_id, funnel_name, step_name, step_order, definition) VALUES ('s', 'f', $1, $2, $3)")
            .bind(name)
            .bind(order)
            .bind(definition)
            .execute(&bed.pool)
            .await
            .unwrap();
    }
    bed.roll().await;
    let sql =
        "SELECT date, step_name AS s, users_entered AS e, users_completed AS c, completion_rate::text AS r,
                      average_time_to_complete AS t FROM funnel_analytics ORDER BY date, step_order";
    let row = |date: &str, s: &str, e: i64, c: i64, r: &str, t: i64| json!({"date": date, "s": s, "e": e, "c": c, "r": r, "t": t});
    let first = [
        row("2026-10-01", "see", 2, 1, "50.00", 10),
        row("2026-10-01", "want", 1, 0, "0.00", 0),
        row("2026-10-01", "buy", 0, 0, "0.00", 0),
    ];
    let second = |n, r, t| row("2026-10-02", "see", 1, n, r, t);
    assert_eq!(bed.rows(sql).await[..4], [&first[..], &[second(0, "0.00", 0)]].concat());
    // Ten days later the first visitor buys: the day of entry changes, and so does the one on which nothing arrived.
    bed.insert(&[event(6, "purchase", "2026-10-12 10:00:10", "v1", "s4")]).await;
    bed.roll().await;
    assert_eq!(
        bed.rows(sql).await[..3],
        [
            first[0].clone(),
            row("2026-10-01", "want", 1, 1, "100.00", 950_400),
            row("2026-10-01", "buy", 1, 1, "100.00", 0)
        ]
    );
    // A day closes when its window has passed, though nothing arrives that says so.
    let open = "SELECT count(*) AS n FROM funnel_analytics WHERE is_open";
    sqlx::query("UPDATE funnel_analytics SET is_open = date = '2026-10-01'")
        .execute(&bed.pool)
        .await
        .unwrap();
    assert_eq!(bed.rows(open).await, [json!({"n": 3})]);
    funnels::close_passed(&bed.pool).await.unwrap();
    assert_eq!(bed.rows(open).await, [json!({"n": 0})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cohorts_follow_persons() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.insert(&[
        event(1, "ping", "2026-10-01 10:00:00", "v1", "a"),
        event(2, "ping", "2026-10-01 10:00:00", "v2", "b"),
        // v3 turns out to be v1's user: one person.
        EventRow { user_id: "u1", ..event(3, "ping", "2026-10-02 10:00:00", "v1", "c") },
        EventRow { user_id: "u1", ..event(4, "ping", "2026-10-03 10:00:00", "v3", "d") },
        EventRow {
            order_id: "o1",
            currency: "USD",
            total_minor: Some(1001),
            visitor_id: "v3",
            ..event(5, "purchase", "2026-10-03 10:00:00", "v3", "d")
        },
        event(6, "ping", "2026-10-03 10:00:00", "v4", "e"),
    ])
    .await;
    bed.roll().await;
    let rows = bed
        .rows(
            "SELECT cohort_date AS d, period_number AS n, user_count AS c, active_user_count AS a,
                    retention_rate::text AS r, unbounded_user_count AS u, revenue_cents AS rev,
                    average_revenue_per_user::text AS per
             FROM cohort_analytics WHERE period_type = 'day' ORDER BY 1, 2",
        )
        .await;
    let row = |d: &str, n: i64, c: i64, a: i64, r: &str, u: i64, rev: i64, per: &str| json!({"d": d, "n": n, "c": c, "a": a, "r": r, "u": u, "rev": rev, "per": per});
    assert_eq!(
        rows,
        [
            row("2026-10-01", 0, 2, 2, "100.00", 2, 0, "0.00"),
            row("2026-10-01", 1, 2, 1, "50.00", 1, 0, "0.00"),
            row("2026-10-01", 2, 2, 1, "50.00", 1, 1001, "5.01"),
            row("2026-10-03", 0, 1, 1, "100.00", 1, 0, "0.00"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn heatmaps_bin_clicks_and_find_rage() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let midnight = at("2026-10-02 00:00:00");
    let mut clicks = vec![
        // Three within a second are rage; what follows on the next day stands alone.
        click(1, midnight - 900, "v1", 995, 39),
        click(2, midnight - 500, "v1", 999, 41),
        click(7, midnight - 100, "v1", 999, 41),
        click(3, midnight + 50, "v1", 1000, 42),
        // Too far from the first of the three.
        click(4, midnight + 3_600_000, "v2", 0, 0),
        click(5, midnight + 3_600_100, "v2", 20, 20),
        click(6, midnight + 3_600_200, "v2", 31, 0),
    ];
    clicks[0].selector = "#buy";
    clicks[0].text = "Buy";
    clicks[1].selector = "#buy";
    clicks[1].text = "Buy now";
    clicks[5].page_width = 0;
    clicks[5].viewport_width = 767;
    clicks[6].properties = vec![("dead", "true".into())];
    bed.insert(&clicks).await;
    bed.roll().await;
    let rows = bed
        .rows(
            "SELECT date, url, viewport_class AS v, click_x_percent AS x, click_y AS y, clicks AS n, rage_clicks AS r,
                    dead_clicks AS d FROM heatmap_data ORDER BY date, v, x, y",
        )
        .await;
    let row = |date: &str, v: &str, x: Option<i64>, y: i64, n: i64, r: i64, d: i64| json!({"date": date, "url": "https://shop.example/a", "v": v, "x": x, "y": y, "n": n, "r": r, "d": d});
    assert_eq!(
        rows,
        [
            row("2026-10-01", "desktop", Some(99), 20, 1, 1, 0),
            row("2026-10-01", "desktop", Some(99), 40, 2, 2, 0),
            row("2026-10-02", "desktop", Some(0), 0, 1, 0, 0),
            row("2026-10-02", "desktop", Some(3), 0, 1, 0, 1),
            row("2026-10-02", "desktop", Some(99), 40, 1, 0, 0),
            row("2026-10-02", "mobile", None, 20, 1, 0, 0),
        ]
    );
    let elements = bed
        .rows("SELECT element_selector AS s, element_text AS t, clicks AS n, rage_clicks AS r FROM heatmap_elements")
        .await;
    assert_eq!(elements, [json!({"s": "#buy", "t": "Buy", "n": 2, "r": 2})]);
}
