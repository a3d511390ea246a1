//! Products.

use super::*;

#[test]
fn products() {
    let item = |more: Json| json!([with(json!({ "product_id": "p" }), more)]);
    let on_page = |visitor: &str, page: &str| {
        json!({ "name": "view_item", "visitor_id": visitor, "page_view_id": page,
                "interactive": false, "items": item(json!({})) })
    };
    let page = |visitor: &str, page: &str, duration_ms: i64| {
        with(view(visitor), json!({ "page_view_id": page, "duration_ms": duration_ms }))
    };
    let stock = |quantity: i64| json!({ "name": "inventory_level", "trusted": true, "items": item(json!({ "quantity": quantity })) });
    let at =
        |name: &str, visitor: &str| json!({ "name": name, "visitor_id": visitor, "items": item(json!({})) });
    let day = 86_400.0;
    let tables = count(&[
        (-2.0 * day, stock(20)),
        (0.0, stock(4)),
        (9.0, stock(10)),
        // a enters on the product's page and is gone; the page was seen for 3 s, then for 4 s more.
        (0.0, page("a", "1", 3_000)),
        (0.1, on_page("a", "1")),
        (4.0, page("a", "1", 7_000)),
        // b enters elsewhere, sees the page twice, once without a time; buys 3 in 2 lines of one order.
        (0.0, view("b")),
        (1.0, page("b", "2", 0)),
        (1.0, on_page("b", "2")),
        (2.0, page("b", "3", 2_000)),
        (2.0, on_page("b", "3")),
        (3.0, at("Product Added", "b")),
        (4.0, at("begin_checkout", "b")),
        (5.0, at("begin_checkout", "b")),
        (
            6.0,
            purchase(
                "1",
                json!({ "visitor_id": "b", "items": [
            { "product_id": "p", "price": 9.99, "quantity": 2 }, { "product_id": "p", "price": 9.99, "discount": 0.99 },
        ] }),
            ),
        ),
        (7.0, with(at("review", "b"), json!({ "value": 4 }))),
        (8.0, with(at("review", "a"), json!({ "value": 4.5 }))),
        (9.0, with(at("review", "a"), json!({ "value": 5 }))),
        // Not what rates, nor who knows a level.
        (9.0, json!({ "name": "inventory_level", "items": item(json!({ "quantity": 999 })) })),
        (9.0, at("select_item", "b")),
    ]);
    let columns = [
        "views_count",
        "unique_views_count",
        "add_to_cart_count",
        "checkout_count",
        "purchase_count",
        "units_sold",
        "revenue_cents",
        "average_time_on_page",
        "bounce_rate",
        "conversion_rate",
        "stock_level",
        "stock_turns",
        "average_rating",
        "review_count",
    ];
    // Time: (7 + 2) / 2 = 4.5, so 5. Bounces: only a entered here, and a's reviews are interactive. Stock turns: 3 sold over
    // a mean of (20 + 10) / 2. Rating: 13.5 / 3.
    assert_eq!(
        cells(&tables, "product_analytics", &[DAY, "p"], &columns),
        ["3", "2", "1", "1", "1", "3", "2997", "5", "0.0000", "0.5000", "10", "0.2000", "4.5", "3"]
    );
    assert_eq!(
        cells(&tables, "product_analytics", &["2026-10-29", "p"], &columns)[10..],
        ["20", "0.0000", "null", "0"]
    );
    assert_eq!(tables["product_analytics"].rows.len(), 2);
}

#[test]
fn lines_without_a_product_are_one_row_and_units_are_rounded_once() {
    let bought = |order: &str, quantity: f64| {
        let items = json!([{ "product_id": "cheese", "price": 10, "quantity": quantity }, { "price": -1.5 }]);
        purchase(order, json!({ "items": items }))
    };
    let seen = json!({ "name": "view_item", "visitor_id": "v", "items": [{ "name": "Cheese" }] });
    let tables = count(&[(0.0, bought("1", 0.4)), (1.0, bought("2", 0.4)), (2.0, seen)]);
    let columns = ["views_count", "purchase_count", "units_sold", "revenue_cents"];
    let row = |product: &str| cells(&tables, "product_analytics", &[DAY, product], &columns).join(" ");
    // 0.4 + 0.4 is 1.
    assert_eq!(row("cheese"), "0 2 1 800");
    assert_eq!(row("(none)"), "1 2 2 -300");
    assert_eq!(tables["product_analytics"].rows.len(), 2);
}

#[test]
fn products_sold_are_those_of_the_order_as_it_stands() {
    let items = |quantity: i64| json!([{ "product_id": "p", "price": 10, "quantity": quantity }]);
    let tables = count(&[
        (0.0, purchase("1", json!({ "currency": "EUR", "items": [{ "product_id": "q", "price": 5 }] }))),
        (86_400.0, json!({ "name": "order_updated", "order_id": "1", "trusted": true, "items": items(3) })),
        // A report that loses tells nothing.
        (1.0, purchase("1", json!({ "currency": "EUR", "items": [{ "product_id": "r", "price": 5 }] }))),
    ]);
    let columns = ["purchase_count", "units_sold", "revenue_cents"];
    // By the day of the order and its rate: 30 × 1.105.
    assert_eq!(cells(&tables, "product_analytics", &[DAY, "p"], &columns), ["1", "3", "3315"]);
    assert_eq!(tables["product_analytics"].rows.len(), 1);
}

#[test]
fn a_servers_reviews_are_the_reviews() {
    let review = |value: f64| json!({ "name": "review", "value": value, "items": [{ "product_id": "p" }] });
    let told = |value: f64| with(review(value), json!({ "trusted": true }));
    let day = 86_400.0;
    let tables = count(&[
        (0.0, told(4.0)),
        (1.0, review(1.0)),
        (2.0, review(-999.0)),
        (day, review(2.0)),
        (day, review(99.0)),
    ]);
    let columns = ["average_rating", "review_count"];
    assert_eq!(cells(&tables, "product_analytics", &[DAY, "p"], &columns), ["4.0", "1"]);
    assert_eq!(cells(&tables, "product_analytics", &[NEXT, "p"], &columns), ["2.0", "2"]);
}
