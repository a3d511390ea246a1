//! `posthog-node` and `posthog-js`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ROLLUP_PATIENCE, SECRET_KEY, Stores, WRITE_KEY, assert_has, named, node};

/// A shop's server, with the secret key.
pub(super) async fn from_servers(host: &str, stores: &Stores) {
    let said = node("posthog", "node.mjs", &[&format!("http://{host}"), SECRET_KEY, "quickstart"]).await;
    assert_eq!(said, json!({ "statuses": [["/flags/", 200], ["/batch/", 200]], "errors": [], "flag": null }));
    // All but the group's are about one person.
    let rows = stores.events(7, "properties['$lib'] = 'posthog-node'").await;
    for row in &rows {
        assert_has(row, &json!({ "store_id": "demo", "trusted": 1, "is_bot": 0, "time_source": "client" }));
        if row["name"] != "group" {
            assert_has(row, &json!({ "visitor_id": "posthog-19", "user_id": "posthog-19" }));
        }
    }
    let signed_up = named(&rows, "sign up");
    assert_has(signed_up, &json!({ "session_id": "session-19", "non_interactive": 0 }));
    assert_has(&signed_up["properties"], &json!({ "plan": "gold", "seats": "3", "$is_server": "true" }));
    let identify = named(&rows, "identify");
    assert_has(identify, &json!({ "non_interactive": 1 }));
    assert_has(&identify["properties"], &json!({ "tier": "gold" }));
    assert_has(&named(&rows, "alias")["properties"], &json!({ "alias": "old-19" }));
    let group = named(&rows, "group");
    assert_has(group, &json!({ "visitor_id": "", "user_id": "" }));
    assert_has(&group["properties"], &json!({ "$group_type": "firm", "$group_key": "kiln", "seats": "7" }));
    let purchase = named(&rows, "purchase");
    assert_has(
        purchase,
        &json!({
            "order_id": "posthog-1", "total_minor": 4600, "tax_minor": 225, "shipping_minor": 800, "discount_minor": 200,
            "coupon": "SUMMER", "currency": "USD", "item_product_id": ["mug", "tea"], "item_variant_id": ["blue", ""],
            "item_name": ["Mug", "Tea"], "item_brand": ["Kiln", ""], "item_category": ["Cups", ""],
            "item_price": [12.5, 15], "item_quantity": [2, 1],
        }),
    );
    assert_has(&purchase["properties"], &json!({ "$groups.firm": "kiln" }));
    assert_has(named(&rows, "refund"), &json!({ "order_id": "posthog-1", "total_minor": 1500 }));
    let error = named(&rows, "exception");
    assert_has(error, &json!({ "non_interactive": 1 }));
    assert_has(&error["properties"], &json!({ "type": "TypeError", "message": "no tea", "fatal": "false" }));
    let stack = error["properties"]["stack"].as_str().unwrap();
    assert!(stack.contains("node.mjs:"), "{stack}");
}

/// Pages of a shop, with the write key.
pub(super) async fn from_browsers(host: &str, stores: &Stores) {
    let said = node("posthog", "browser.mjs", &[host, WRITE_KEY, "quickstart"]).await;
    let quiet = json!({ "refused": { "status": 401, "waits": false }, "foreign": [], "complaints": [] });
    assert_has(&said, &quiet);
    let statuses = said["statuses"].as_array().unwrap();
    let is_ok = |status: &Value| status == "/e/ 401" || status.as_str().unwrap().ends_with(" 200");
    assert!(statuses.iter().all(is_ok), "{said:#}");
    let is_script = |status: &&Value| status.as_str().unwrap().starts_with("/static/");
    assert_eq!(statuses.iter().filter(is_script).count(), 1, "what finds dead clicks: {said:#}");
    let device = said["device"].as_str().unwrap();

    let rows = stores
        .events(5, &format!("visitor_id = '{device}' AND type = 'event' AND name != 'web_vitals'"))
        .await;
    for row in &rows {
        assert_has(
            row,
            &json!({
                "store_id": "demo", "trusted": 0, "is_bot": 0, "time_source": "client", "language": "de-CH",
                "timezone": "Europe/Zurich", "screen_width": 1600, "screen_height": 1000, "viewport_width": 1200,
                "viewport_height": 800, "session_id": rows[0]["session_id"],
            }),
        );
        assert_ne!(row["session_id"], "");
        assert_ne!(row["page_view_id"], "");
    }
    let mug = json!({
        "item_product_id": ["mug"], "item_name": ["Mug"], "item_brand": ["Kiln"], "item_category": ["Cups"],
        "item_variant_id": ["blue"], "item_price": [12.5], "currency": "USD", "user_id": "",
    });
    assert_has(named(&rows, "view_item"), &mug);
    let identify = named(&rows, "identify");
    assert_has(identify, &json!({ "user_id": "posthog-7", "non_interactive": 1 }));
    assert_has(&identify["properties"], &json!({ "tier": "gold", "previous_id": device, "$lib": "web" }));
    assert_has(
        &named(&rows, "group")["properties"],
        &json!({ "$group_type": "firm", "$group_key": "kiln", "seats": "7" }),
    );
    assert_has(
        named(&rows, "purchase"),
        &json!({
            "user_id": "posthog-7", "order_id": "posthog-2", "total_minor": 2500, "currency": "USD", "item_product_id": ["mug"],
            "item_quantity": [2], "item_price": [12.5],
        }),
    );
    assert_has(
        &named(&rows, "exception")["properties"],
        &json!({ "type": "TypeError", "message": "no tea" }),
    );
    pages(stores, device).await;
    clicks(stores, device).await;
}

/// Three showings of pages, each with its end.
async fn pages(stores: &Stores, device: &str) {
    let reports = stores.events(6, &format!("visitor_id = '{device}' AND type = 'page_view'")).await;
    for path in ["/mug", "/tea", "/whole"] {
        let of: Vec<_> = reports.iter().filter(|row| row["url"].as_str().unwrap().contains(path)).collect();
        assert_eq!(of.len(), 2, "{path}: {reports:#?}");
        assert_eq!(of[0]["page_view_id"], of[1]["page_view_id"]);
        assert_ne!(of[0]["event_id"], of[1]["event_id"]);
        let (shown, left): (Vec<&Value>, Vec<_>) = of.iter().partition(|row| row["duration_ms"] == 0);
        assert_eq!((shown.len(), left.len()), (1, 1), "{of:#?}");
        if path == "/mug" {
            assert_has(shown[0], &json!({ "title": "Mug", "referrer": "" }));
            // 1200 and 800 of 4000 pixels.
            assert_eq!(left[0]["scroll_depth"], 50, "{:#}", left[0]);
        }
    }
}

/// Three clicks on one page and one on another; where the pointer moved is dropped.
async fn clicks(stores: &Stores, device: &str) {
    let sql = format!(
        "SELECT path(url) AS path, x, y, page_width, viewport_width, viewport_height, user_id, is_bot, toString(event_id) AS id \
         FROM millrace.clicks FINAL WHERE visitor_id = '{device}' AND properties['dead'] = '' ORDER BY event_time FORMAT JSONEachRow"
    );
    let begin = Instant::now();
    let rows: Vec<Value> = loop {
        let answer = reqwest::Client::new().post(&stores.clickhouse).body(sql.clone()).send().await.unwrap();
        let said = answer.text().await.unwrap();
        let rows: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{said}")))
            .collect();
        if rows.len() >= 4 {
            break rows;
        }
        assert!(begin.elapsed() < ROLLUP_PATIENCE, "{rows:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(rows.len(), 4, "{rows:#?}");
    for (row, (path, x, y)) in
        rows.iter().zip([("/mug", 140, 220), ("/mug", 140, 220), ("/mug", 140, 220), ("/whole", 700, 600)])
    {
        assert_has(
            row,
            &json!({
                "path": path, "x": x, "y": y, "page_width": 1200, "viewport_width": 1200, "viewport_height": 800,
                "user_id": "posthog-7", "is_bot": 0,
            }),
        );
    }
    let begin = Instant::now();
    let sql = "SELECT coalesce(sum(clicks), 0)::bigint FROM heatmap_data WHERE store_id = 'demo' AND url LIKE '%/mug'";
    loop {
        let binned: i64 = sqlx::query_scalar(sql).fetch_one(&stores.postgres).await.unwrap();
        if binned >= 3 {
            break;
        }
        assert!(begin.elapsed() < ROLLUP_PATIENCE, "{binned} clicks in the heatmap");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// 503 is sent again.
pub(super) async fn unavailable(host: &str) {
    let said = node("posthog", "node.mjs", &[&format!("http://{host}"), WRITE_KEY, "unavailable"]).await;
    assert_eq!(said, json!({ "statuses": [["/batch/", 503], ["/batch/", 503]], "errors": [503, 503] }));
    let said = node("posthog", "browser.mjs", &[host, WRITE_KEY, "unavailable"]).await;
    assert_eq!(said, json!({ "refused": { "status": 503, "waits": true } }));
}
