//! `@segment/analytics-node` and `@segment/analytics-next`.

use serde_json::json;

use super::{SECRET_KEY, Stores, WRITE_KEY, assert_has, named, node};

/// A shop's server, with the secret key.
pub(super) async fn from_servers(host: &str, stores: &Stores) {
    let said = node("segment", "node.mjs", &[&format!("http://{host}"), SECRET_KEY, "quickstart"]).await;
    assert_eq!(said, json!({ "statuses": [200], "errors": [] }));
    let rows = stores.events(10, "user_id = 'user-19'").await;
    for row in &rows {
        assert_has(
            row,
            &json!({ "store_id": "demo", "trusted": 1, "time_source": "client", "user_id": "user-19" }),
        );
    }
    assert_has(
        named(&rows, "identify"),
        &json!({
            "type": "event", "visitor_id": "anonymous-19", "non_interactive": 1,
            "properties": { "plan": "gold", "address.city": "Bern" },
        }),
    );
    assert_has(
        named(&rows, "Item Purchased"),
        &json!({
            "visitor_id": "", "value": 3.0, "properties": { "product": "soap", "nested.deep": "[1]" },
        }),
    );
    let page = named(&rows, "page_view");
    assert_has(
        page,
        &json!({
            "type": "page_view", "visitor_id": "anonymous-19", "title": "Sale", "referrer": "https://search.example/",
            "utm_source": "newsletter", "utm_medium": "email", "utm_campaign": "Summer sale",
            "language": "de-CH", "timezone": "Europe/Zurich", "properties": { "name": "Sale", "category": "Shop" },
            "user_agent": "Mozilla/5.0 (a visitor)",
        }),
    );
    let url = page["url"].as_str().unwrap();
    let campaign =
        "https://shop.example/sale?utm_source=newsletter&utm_medium=email&utm_campaign=Summer+sale";
    assert!(url.starts_with(campaign), "{url}");
    // Of a page whose address is not said, and of a screen.
    let screens: Vec<_> = rows.iter().filter(|row| row["name"] == "screen_view").collect();
    assert_eq!(screens.len(), 2);
    assert!(
        screens.iter().any(|row| row["properties"] == json!({ "category": "Shop", "screen_name": "Sale" }))
    );
    assert!(screens.iter().any(|row| row["properties"] == json!({ "screen_name": "Home" })));
    assert_has(named(&rows, "group"), &json!({ "properties": { "group_id": "group-5", "seats": "7" } }));
    assert_has(
        named(&rows, "alias"),
        &json!({ "properties": { "previous_id": "old-19" }, "non_interactive": 1 }),
    );
    assert_has(
        named(&rows, "purchase"),
        &json!({
            "visitor_id": "anonymous-19", "order_id": "segment-1", "total_minor": 5250, "tax_minor": 325,
            "shipping_minor": 400, "discount_minor": 200, "coupon": "SUMMER", "currency": "USD",
            "item_product_id": ["mug", "tea"], "item_variant_id": ["blue", ""], "item_name": ["Mug", "Tea"],
            "item_brand": ["Kiln", ""], "item_category": ["Cups", ""], "item_price": [12.5, 15],
            "item_quantity": [2, 1], "properties": { "affiliation": "shop", "revenue": "40" },
        }),
    );
    let refunds: Vec<_> = rows.iter().filter(|row| row["name"] == "refund").collect();
    assert_eq!(refunds.len(), 2, "the first was sent twice");
    for (refund_id, total, item) in [("refund-1", 1250, "mug"), ("refund-2", 1500, "tea")] {
        let refund = refunds.iter().find(|row| row["refund_id"] == refund_id).unwrap();
        assert_has(
            refund,
            &json!({ "order_id": "segment-1", "total_minor": total, "item_product_id": [item], "currency": "USD" }),
        );
    }
}

/// Pages of a shop, with the write key.
pub(super) async fn from_browsers(host: &str, stores: &Stores) {
    let said = node("segment", "browser.mjs", &[host, WRITE_KEY]).await;
    let visitor = said["anonymousId"].as_str().unwrap();
    assert_has(
        &said,
        &json!({
            "failed": 0, "batched": 200, "refused": "NonRetryableError: Non-retryable error: 401", "foreign": [],
            "complaints": [],
        }),
    );
    let rows = stores.events(20, &format!("visitor_id = '{visitor}'")).await;
    for row in &rows {
        assert_has(
            row,
            &json!({
                "store_id": "demo", "trusted": 0, "is_bot": 0, "time_source": "client", "language": "de-CH",
                "timezone": "Europe/Zurich", "title": "Mug",
            }),
        );
        let url = row["url"].as_str().unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    }
    let pages: Vec<_> = rows.iter().filter(|row| row["type"] == "page_view").collect();
    assert_eq!(pages.len(), 2);
    assert_has(pages[0], &json!({ "properties": { "name": "Product", "wood": "oak" }, "user_id": "" }));
    let url = pages[0]["url"].as_str().unwrap();
    assert!(url.ends_with("/products/mug?utm_source=newsletter&utm_medium=email"), "{url}");
    assert_has(named(&rows, "identify"), &json!({ "user_id": "user-7", "properties": { "plan": "gold" } }));
    assert_has(named(&rows, "search"), &json!({ "properties": { "search_term": "Mug" } }));
    let mug = json!({
        "item_product_id": ["mug"], "item_name": ["Mug"], "item_brand": ["Kiln"], "item_category": ["Cups"],
        "item_variant_id": ["blue"], "item_price": [12.5], "currency": "USD", "user_id": "user-7",
    });
    for name in ["select_item", "view_item", "add_to_cart", "remove_from_cart"] {
        assert_has(named(&rows, name), &mug);
    }
    assert_has(
        named(&rows, "add_to_cart"),
        &json!({ "item_quantity": [2], "properties": { "cart_id": "cart-1" } }),
    );
    let list = json!({ "item_list_id": "cups", "category": "Cups" });
    assert_has(named(&rows, "view_item_list"), &json!({ "item_product_id": ["mug"], "properties": list }));
    assert_has(named(&rows, "view_cart"), &json!({ "item_quantity": [2] }));
    assert_has(named(&rows, "coupon_applied"), &json!({ "coupon": "SUMMER" }));
    assert_has(named(&rows, "begin_checkout"), &json!({ "value": 25.0, "item_product_id": ["mug"] }));
    let payment = json!({ "order_id": "segment-2", "properties": { "payment_method": "card" } });
    assert_has(named(&rows, "add_payment_info"), &payment);
    let order =
        json!({ "order_id": "segment-2", "total_minor": 2500, "item_quantity": [2], "currency": "USD" });
    assert_has(named(&rows, "purchase"), &order);
    assert_has(named(&rows, "review"), &json!({ "value": 4.0, "item_product_id": ["mug"] }));
    assert_eq!(rows.iter().filter(|row| row["name"] == "Batched").count(), 2);
    for (name, property, value) in
        [("Landed", "wood", "oak"), ("More Followed", "place", "footer"), ("Form Sent", "term", "tea")]
    {
        assert_has(named(&rows, name), &json!({ "user_id": "user-7", "properties": { property: value } }));
    }
}

/// 503 is sent again as often as the client was told to; 401 is not.
pub(super) async fn unavailable(host: &str) {
    let said = node("segment", "node.mjs", &[&format!("http://{host}"), WRITE_KEY, "one"]).await;
    assert_eq!(said["statuses"], json!([503, 503]));
    assert_eq!(said["errors"].as_array().unwrap().len(), 1, "{said}");
}
