//! `electron-google-analytics4`, which speaks the Measurement Protocol, and `@minimal-analytics/ga4`, which sends as Google's
//! own tag does.

use serde_json::json;

use super::{SECRET_KEY, Stores, WRITE_KEY, assert_has, named, node};

/// A shop's server, with the secret key.
pub(super) async fn from_servers(host: &str, stores: &Stores) {
    let said = node("ga4", "node.mjs", &[&format!("http://{host}"), SECRET_KEY, "quickstart"]).await;
    assert_eq!(said, json!({ "answers": vec![json!([204, ""]); 6] }));
    let rows = stores.events(5, "visitor_id = 'ga4-electron'").await;
    for row in &rows {
        assert_has(
            row,
            &json!({ "store_id": "demo", "trusted": 1, "is_bot": 0, "session_id": "session-electron" }),
        );
        assert_has(&row["properties"], &json!({ "user.tier": "gold" }));
    }
    assert_has(
        named(&rows, "page_view"),
        &json!({
            "type": "page_view", "url": "https://shop.example/mug", "title": "Mug", "referrer": "https://search.example/",
        }),
    );
    assert_has(
        named(&rows, "add_to_cart"),
        &json!({ "value": 25.0, "currency": "USD", "item_product_id": ["mug"], "item_quantity": [2] }),
    );
    assert_has(
        named(&rows, "purchase"),
        &json!({
            "order_id": "ga4-1", "total_minor": 4600, "tax_minor": 225, "shipping_minor": 800, "coupon": "SUMMER",
            "currency": "USD", "item_product_id": ["mug", "tea"], "item_variant_id": ["", "green"],
            "item_name": ["Mug", "Tea"], "item_brand": ["Kiln", ""], "item_category": ["Cups", ""],
            "item_price": [12.5, 15], "item_quantity": [2, 1],
        }),
    );
    assert_has(
        named(&rows, "refund"),
        &json!({ "order_id": "ga4-1", "total_minor": 1500, "item_product_id": ["tea"] }),
    );
    assert_has(&named(&rows, "closed")["properties"], &json!({ "reason": "night" }));
}

/// Pages of a shop, with the write key.
pub(super) async fn from_browsers(host: &str, stores: &Stores) {
    let said = node("ga4", "browser.mjs", &[host, WRITE_KEY]).await;
    assert!(said["statuses"].as_array().unwrap().iter().all(|status| *status == 204), "{said}");
    let visitor = said["clientId"].as_str().unwrap();
    let rows = stores.events(6, &format!("visitor_id = '{visitor}'")).await;
    for row in &rows {
        assert_has(
            row,
            &json!({
                "store_id": "demo", "trusted": 0, "is_bot": 0, "session_id": rows[0]["session_id"], "language": "de-ch",
                "screen_width": 1600, "screen_height": 1000, "title": "Mug", "time_source": "received",
            }),
        );
        let url = row["url"].as_str().unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    }
    assert_eq!(rows.iter().filter(|row| row["type"] == "page_view").count(), 2);
    let added = named(&rows, "add_to_cart");
    assert_has(added, &json!({ "value": 12.5, "currency": "USD", "non_interactive": 0 }));
    assert_has(&added["properties"], &json!({ "item": "mug" }));
    assert_has(&named(&rows, "click")["properties"], &json!({ "button_id": "buy", "button_text": "Buy" }));
    assert_has(named(&rows, "scroll"), &json!({ "scroll_depth": 90, "non_interactive": 1 }));
    let engagement = named(&rows, "user_engagement");
    assert!(engagement["duration_ms"].as_u64().unwrap() > 0, "{engagement:#}");
}

/// 503 is told to whoever asks, which Google's never does.
pub(super) async fn unavailable(host: &str) {
    let said = node("ga4", "node.mjs", &[&format!("http://{host}"), WRITE_KEY, "unavailable"]).await;
    assert_eq!(said, json!({ "answers": [[503, "refused"]] }));
}
