//! `@snowplow/node-tracker`, and `@snowplow/browser-tracker` with its plugins.

use serde_json::{Value, json};

use super::{SECRET_KEY, Stores, WRITE_KEY, assert_has, named, node};

/// A shop's server, with the secret key: five events in a body, one in an address.
pub(super) async fn from_servers(host: &str, stores: &Stores) {
    let said = node("snowplow", "node.mjs", &[&format!("http://{host}"), SECRET_KEY]).await;
    assert_eq!(said, json!({ "answers": [[5, 200], [1, 200]] }));
    let rows = stores.events(4, "user_id = 'user-31'").await;
    for row in &rows {
        assert_has(
            row,
            &json!({
                "store_id": "demo", "trusted": 1, "visitor_id": "device-31", "timezone": "Europe/Zurich", "language": "de-CH",
                "screen_width": 1600, "screen_height": 1000, "user_agent": "Mozilla/5.0 (a visitor)", "time_source": "client",
            }),
        );
    }
    assert_has(
        named(&rows, "page_view"),
        &json!({
            "type": "page_view", "url": "https://shop.example/sale", "title": "Sale", "referrer": "https://search.example/",
        }),
    );
    assert_has(
        named(&rows, "opened"),
        &json!({
            "type": "event", "category": "cart", "action": "opened", "label": "top", "value": 2.5,
            "properties": { "property": "colour" },
        }),
    );
    assert_has(
        named(&rows, "newsletter_ordered"),
        &json!({
            "properties": {
                "weekly": "true", "topics": "[\"tea\",\"mugs\"]", "experiment.name": "footer", "experiment.variant": "b",
            },
        }),
    );
    assert_has(
        named(&rows, "purchase"),
        &json!({
            "order_id": "snowplow-old", "total_minor": 2000, "tax_minor": 150, "shipping_minor": 350, "currency": "USD",
            "item_product_id": ["mug"], "item_name": ["Mug"], "item_category": ["Cups"], "item_price": [7.5],
            "item_quantity": [2], "properties": { "affiliation": "shop", "city": "Bern" },
        }),
    );
    let rows = stores.events(1, "user_id = 'user-32'").await;
    assert_has(&rows[0], &json!({ "name": "closed", "category": "cart" }));
}

/// Pages of a shop, with the write key.
pub(super) async fn from_browsers(host: &str, stores: &Stores) {
    let said = node("snowplow", "browser.mjs", &[host, WRITE_KEY]).await;
    assert_eq!(said["anonymous"], "*");
    assert_eq!(said["refused"], json!({ "status": 401, "willRetry": false }));
    let is_ok = |status: &Value| *status == 200 || *status == 401;
    assert!(said["statuses"].as_array().unwrap().iter().all(is_ok), "{said}");
    let rows = stores.events(19, "user_id = 'user-33' AND type = 'event'").await;
    let visitor = rows[0]["visitor_id"].as_str().unwrap();
    let showing = rows[0]["page_view_id"].as_str().unwrap();
    assert!(!visitor.is_empty() && !showing.is_empty());
    for row in &rows {
        assert_has(
            row,
            &json!({
                "store_id": "demo", "trusted": 0, "is_bot": 0, "visitor_id": visitor, "page_view_id": showing,
                "session_id": rows[0]["session_id"], "language": "de-CH", "timezone": "Europe/Zurich",
                "screen_width": 1600, "screen_height": 1000, "viewport_width": 1200, "viewport_height": 800,
                "time_source": "client", "utm_source": "newsletter",
            }),
        );
        assert!(row["sequence"].is_u64(), "{row:#}");
        assert!(!row.to_string().contains("somebody"), "what was typed is not kept: {row:#}");
    }
    assert_has(
        named(&rows, "turned"),
        &json!({ "category": "gallery", "label": "Mug", "value": 3.0, "properties": { "property": "left" } }),
    );
    let error = named(&rows, "exception");
    assert_has(error, &json!({ "non_interactive": 1 }));
    let said = &error["properties"];
    assert_has(said, &json!({ "message": "no tea", "source": "shop.js", "line": "7" }));
    assert_has(
        named(&rows, "click"),
        &json!({
            "properties": {
                "link_url": "https://elsewhere.example/x", "link_id": "out", "link_classes": "big red", "link_target": "_blank",
                "outbound": "true",
            },
        }),
    );
    for name in ["form_focus", "form_change", "form_submit"] {
        assert_has(&named(&rows, name)["properties"], &json!({ "form_id": "newsletter" }));
    }
    commerce(&rows);

    // The page was looked at, and scrolled to its middle: 1600 and 800 of at least 4000 pixels.
    let pages = stores.page_views("user-33").await;
    assert!(pages.len() >= 2, "{pages:#?}");
    assert!(pages.iter().all(|row| row["page_view_id"] == showing), "{pages:#?}");
    let deepest = pages.iter().filter_map(|row| row["scroll_depth"].as_u64()).max().unwrap();
    assert!((50..=60).contains(&deepest), "{deepest}");

    // Who wants no trace has none of their own: the collector's visitor of the day stands for them.
    let quiet = stores.events(1, "title = 'Quiet'").await;
    assert_has(&quiet[0], &json!({ "user_id": "", "session_id": "", "type": "page_view" }));
    let derived = quiet[0]["visitor_id"].as_str().unwrap();
    assert!(derived != visitor && !derived.is_empty(), "{derived}");
}

fn commerce(rows: &[Value]) {
    let mug = json!({
        "item_product_id": ["mug"], "item_name": ["Mug"], "item_brand": ["Kiln"], "item_category": ["Cups"],
        "item_variant_id": ["blue"], "item_price": [12.5], "currency": "USD",
    });
    for name in ["select_item", "view_item", "add_to_cart", "remove_from_cart"] {
        assert_has(named(rows, name), &mug);
    }
    assert_has(
        named(rows, "view_item_list"),
        &json!({ "item_product_id": ["mug", "tea"], "properties": { "item_list_name": "Cups" } }),
    );
    let promotion = json!({
        "promotion_id": "sale", "promotion_name": "Sale", "creative_slot": "top", "promotion_product_ids": "[\"mug\"]",
    });
    assert_has(&named(rows, "view_promotion")["properties"], &promotion);
    assert_has(&named(rows, "select_promotion")["properties"], &json!({ "promotion_id": "sale" }));
    assert_has(
        named(rows, "add_to_cart"),
        &json!({ "item_quantity": [2], "properties": { "cart_id": "cart-1", "cart_value": "25" } }),
    );
    let begun = json!({ "checkout_step": "1", "account_type": "guest" });
    assert_eq!(named(rows, "begin_checkout")["properties"], begun);
    assert_has(&named(rows, "add_shipping_info")["properties"], &json!({ "shipping_tier": "express" }));
    assert_has(named(rows, "add_payment_info"), &json!({ "coupon": "SUMMER" }));
    assert_has(
        named(rows, "purchase"),
        &json!({
            "order_id": "snowplow-1", "total_minor": 4600, "tax_minor": 225, "shipping_minor": 800, "discount_minor": 200,
            "coupon": "SUMMER", "currency": "USD", "item_product_id": ["mug", "tea"], "item_quantity": [2, 1],
            "item_price": [12.5, 15],
        }),
    );
    let refund = named(rows, "refund");
    assert_has(
        refund,
        &json!({
            "order_id": "snowplow-1", "total_minor": 1500, "item_product_id": ["tea"], "refund_id": refund["event_id"],
            "properties": { "refund_reason": "cold" },
        }),
    );
    let failed = named(rows, "transaction_error");
    assert_has(failed, &json!({ "order_id": "snowplow-9" }));
    assert_has(&failed["properties"], &json!({ "error_code": "E7" }));
}

/// 503 is sent again.
pub(super) async fn unavailable(host: &str) {
    let said = node("snowplow", "node.mjs", &[&format!("http://{host}"), WRITE_KEY]).await;
    assert_eq!(said, json!({ "answers": [[5, 503, true], [1, 503, true]] }));
}
