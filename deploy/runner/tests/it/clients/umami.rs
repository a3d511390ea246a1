//! `@umami/node`, and Umami's tracker as its server's package has it; and with them Plausible's, against one machine.

use serde_json::{Value, json};

use super::{OneMachine, SECRET_KEY, Stores, WRITE_KEY, assert_has, named, node, plausible};

/// A shop's server, with the secret key as the website.
async fn from_servers(host: &str, stores: &Stores) {
    let said = node("umami", "node.mjs", &[&format!("http://{host}"), SECRET_KEY]).await;
    let answer = json!({ "status": 200, "keys": ["cache", "processed", "sessionId", "visitId"] });
    assert_eq!(said, Value::Array(vec![answer; 4]));
    let whose = "trusted = 1 AND (startsWith(url, 'https://localhost/umami') OR user_id = 'umami-node' \
                 OR name = 'umami-signup' OR properties['plan'] = 'umami-gold')";
    let rows = stores.events(4, whose).await;
    assert_has(named(&rows, "page_view"), &json!({ "url": "https://localhost/umami-home" }));
    assert_has(
        named(&rows, "purchase"),
        &json!({
            "url": "https://shop.example/umami-cart", "title": "Cart", "language": "de-CH",
            "referrer": "https://search.example/", "screen_width": 1600, "screen_height": 1000, "order_id": "umami-1",
            "total_minor": 500, "currency": "USD", "properties": { "tag": "b" },
        }),
    );
    assert_has(named(&rows, "umami-signup"), &json!({ "properties": { "plan.name": "gold" } }));
    assert_has(named(&rows, "identify"), &json!({ "non_interactive": 1 }));
}

/// Pages of a shop, with the write key as the website.
async fn from_browsers(host: &str, stores: &Stores) {
    let said = node("umami", "browser.mjs", &[host, WRITE_KEY]).await;
    assert_eq!(said["statuses"], json!([200, 200, 200, 200, 200, 200, 200]));
    let origin = said["origin"].as_str().unwrap();
    let rows = stores.events(7, &format!("startsWith(url, '{origin}/umami')")).await;
    let visitor = rows[0]["visitor_id"].as_str().unwrap();
    assert!(!visitor.is_empty(), "the visitor of the day");
    for row in &rows {
        assert_has(
            row,
            &json!({
                "store_id": "demo", "trusted": 0, "is_bot": 0, "visitor_id": visitor, "language": "de-CH",
                "screen_width": 1600, "screen_height": 1000,
            }),
        );
    }
    let pages: Vec<_> = rows.iter().filter(|row| row["type"] == "page_view").collect();
    let has = |path: &str, title: &str| {
        let url = format!("{origin}{path}");
        assert!(
            pages.iter().any(|row| row["url"] == url.as_str() && row["title"] == title),
            "{path}: {pages:#?}"
        );
    };
    assert_eq!(pages.len(), 3, "{rows:#?}");
    has("/umami?utm_source=newsletter", "Café Mug");
    has("/umami/mug", "Café Mug");
    has("/umami/virtual", "Virtual");
    assert_has(
        named(&rows, "purchase"),
        &json!({
            "order_id": "umami-2", "total_minor": 1999, "currency": "USD", "properties": { "gift": "true" },
        }),
    );
    assert_has(named(&rows, "newsletter"), &json!({ "properties": { "place": "footer" } }));
    assert_has(named(&rows, "signup"), &json!({ "type": "event", "non_interactive": 0 }));
    assert_has(named(&rows, "identify"), &json!({ "non_interactive": 1, "properties": { "plan": "gold" } }));
}

#[tokio::test]
async fn plausible_and_umami_clients_are_understood() {
    let machine = OneMachine::new();
    let _running = machine.start().await;
    let stores = Stores::of(&machine).await;
    let host = format!("127.0.0.1:{}", machine.ports[0].number());
    plausible::from_browsers(&host, &stores).await;
    from_servers(&host, &stores).await;
    from_browsers(&host, &stores).await;
    // 10.29 by Plausible's, 5.00 and 19.99 by Umami's.
    stores.revenue((3, 3_528, 0)).await;
}
