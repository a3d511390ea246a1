//! `@rudderstack/analytics-js`.

use serde_json::json;

use super::{Stores, WRITE_KEY, assert_has, named, node};

/// Pages of a shop, with the write key.
pub(super) async fn from_browsers(host: &str, stores: &Stores) {
    let said = node("segment", "rudderstack.mjs", &[host, WRITE_KEY]).await;
    let answers = ["/sourceConfig/ 200", "/v1/identify 200", "/v1/page 200", "/v1/track 200"];
    assert_has(
        &said,
        &json!({ "answers": answers, "beacons": 1, "refused": 401, "foreign": [], "complaints": [] }),
    );
    let visitor = said["anonymousId"].as_str().unwrap();
    let session = said["sessionId"].as_u64().unwrap().to_string();
    let rows = stores.events(6, &format!("visitor_id = '{visitor}'")).await;
    for row in &rows {
        assert_has(
            row,
            &json!({
                "store_id": "demo", "trusted": 0, "is_bot": 0, "time_source": "client", "language": "de-CH", "title": "Mug",
                "session_id": session, "screen_width": 1600, "screen_height": 1000, "viewport_width": 1200,
                "viewport_height": 800, "referrer": "",
            }),
        );
    }
    let (pages, events): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row["type"] == "page_view");
    assert_eq!(pages.len(), 2, "{pages:#?}");
    assert_has(
        &pages[0],
        &json!({ "user_id": "", "utm_source": "newsletter", "utm_medium": "email", "channel": "Email" }),
    );
    assert_has(&pages[0]["properties"], &json!({ "name": "Product", "category": "Shop", "wood": "oak" }));
    let url = pages[0]["url"].as_str().unwrap();
    assert!(url.ends_with("/products/mug?utm_source=newsletter&utm_medium=email"), "{url}");
    // The second page and what was done on it came in one batch, when it ended.
    assert!(pages[1]["url"].as_str().unwrap().ends_with("/tea"), "{:#}", pages[1]);
    for row in events.iter().chain(&pages[1..]) {
        assert_eq!(row["user_id"], "rudder-7", "{row:#}");
    }
    let identify = named(&events, "identify");
    assert_has(
        identify,
        &json!({ "non_interactive": 1, "properties": { "plan": "gold", "address.city": "Bern" } }),
    );
    assert_has(named(&events, "add_to_cart"), &json!({ "item_product_id": ["mug"], "item_quantity": [1] }));
    let orders: Vec<_> = events.iter().filter(|row| row["name"] == "purchase").collect();
    assert_eq!(orders.len(), 2, "{orders:#?}");
    let mug = json!({
        "currency": "USD", "item_product_id": ["mug"], "item_brand": ["Kiln"], "item_category": ["Cups"],
        "item_variant_id": ["blue"], "item_price": [12.5],
    });
    for order in &orders {
        assert_has(order, &mug);
    }
    assert_has(
        orders[0],
        &json!({
            "order_id": "rudder-1", "total_minor": 2500, "item_name": ["Mug"], "item_quantity": [2], "repairs": [],
        }),
    );
    // Half of an emoji is replaced, and the comma understood; the event says that it was mended.
    assert_has(
        orders[1],
        &json!({
            "order_id": "rudder-2", "total_minor": 4000, "item_name": ["x\u{fffd}"], "item_quantity": [1.5],
            "repairs": ["items.quantity:converted", "items.name:characters"],
        }),
    );
}
