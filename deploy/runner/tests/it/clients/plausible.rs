//! `@plausible-analytics/tracker` and `plausible-tracker`.

use serde_json::json;

use super::{Stores, WRITE_KEY, assert_has, named, node};

/// Pages of a shop, with the write key as the site's domain.
pub(super) async fn from_browsers(host: &str, stores: &Stores) {
    let said = node("plausible", "browser.mjs", &[host, WRITE_KEY]).await;
    assert_has(&said, &json!({ "statuses": [202, 202], "refused": 400, "requests": 1 }));
    let origin = said["origin"].as_str().unwrap();
    let of = |path: &str| format!("startsWith(url, '{origin}/{path}') AND name != 'engagement'");

    let rows = stores.events(7, &of("official")).await;
    let visitor = rows[0]["visitor_id"].as_str().unwrap();
    assert!(!visitor.is_empty(), "the visitor of the day");
    for row in &rows {
        assert_has(row, &json!({ "store_id": "demo", "trusted": 0, "is_bot": 0, "visitor_id": visitor }));
    }
    let pages: Vec<_> = rows.iter().filter(|row| row["type"] == "page_view").collect();
    assert_eq!(pages.len(), 2, "{rows:#?}");
    let landed = format!("{origin}/official?utm_source=newsletter&utm_medium=email");
    assert!(pages.iter().any(|row| row["url"] == landed.as_str()), "{pages:#?}");
    assert!(pages.iter().any(|row| row["url"] == format!("{origin}/official/mug").as_str()), "{pages:#?}");
    assert_has(
        named(&rows, "purchase"),
        &json!({
            "order_id": "plausible-1", "total_minor": 1029, "currency": "USD", "properties": { "method": "card" },
        }),
    );
    assert_has(named(&rows, "Signup"), &json!({ "non_interactive": 1, "properties": { "plan": "gold" } }));
    let link = json!({ "link_url": "https://elsewhere.example/x", "outbound": "true" });
    assert_has(named(&rows, "click"), &json!({ "properties": link }));
    let file = json!({ "link_url": format!("{origin}/manual.pdf") });
    assert_has(named(&rows, "file_download"), &json!({ "properties": file }));
    assert_has(named(&rows, "form_submit"), &json!({ "non_interactive": 0 }));

    // Of the first page, sent when it was left for the next; those of later ones are the browser's to send.
    let rows = stores.events(1, &format!("url = '{landed}' AND name = 'engagement'")).await;
    assert_has(&rows[0], &json!({ "type": "event", "non_interactive": 1, "visitor_id": visitor }));
    assert!((1..=100).contains(&rows[0]["scroll_depth"].as_u64().unwrap()), "{rows:#?}");

    // Chromium calls a change of the hash a step in the history, too, and this client counts both.
    let rows = stores.events(5, &of("old")).await;
    assert_eq!(rows.iter().filter(|row| row["type"] == "page_view").count(), 3, "{rows:#?}");
    for row in &rows {
        assert_has(row, &json!({ "viewport_width": 1200, "visitor_id": visitor }));
    }
    assert_has(named(&rows, "Old signup"), &json!({ "properties": { "plan": "silver" } }));
    let link = json!({ "link_url": "https://elsewhere.example/away", "outbound": "true" });
    assert_has(named(&rows, "click"), &json!({ "properties": link }));
}
