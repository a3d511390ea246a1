//! Plausible's protocol, as its server would answer it.

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::{Value, json};

use crate::service::{SECRET_KEY, Service, WRITE_KEY};

struct Said {
    status: u16,
    headers: HeaderMap,
    text: String,
}

async fn post_to(
    service: &Service,
    path: &str,
    body: impl Into<reqwest::Body>,
    headers: &[(&str, &str)],
) -> Said {
    let mut request = service.client.post(format!("{}{path}", service.url)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Said { status, headers, text: response.text().await.unwrap() }
}

async fn post(service: &Service, body: impl Into<reqwest::Body>) -> Said {
    post_to(service, "/api/event", body, &[("content-type", "text/plain")]).await
}

/// What is said of a part that was wrong.
async fn check(service: &Service, body: impl Into<reqwest::Body>, part: &str) {
    let said = post(service, body).await;
    assert_eq!(said.status, 400, "{}", said.text);
    let errors: Value = serde_json::from_str(&said.text).unwrap();
    let errors = errors["errors"].as_object().unwrap();
    assert_eq!(errors.keys().collect::<Vec<_>>(), [part], "{}", said.text);
    assert!(!errors[part][0].as_str().unwrap().is_empty());
}

/// An event of the demo store.
fn with(mut fields: Value) -> String {
    let mut event = json!({ "n": "pageview", "u": "https://shop.example/", "d": WRITE_KEY });
    event.as_object_mut().unwrap().extend(std::mem::take(fields.as_object_mut().unwrap()));
    event.to_string()
}

#[tokio::test]
async fn events_are_taken_and_what_is_none_is_named() {
    let service = Service::start().await;
    let service = &service;
    let said =
        post(service, with(json!({ "r": "https://search.example/", "w": 390, "p": { "a": "b" } }))).await;
    assert_eq!((said.status, &*said.text), (202, "ok"));
    assert_eq!(said.headers["content-type"], "text/plain; charset=utf-8");
    let row = &service.events()[0];
    assert_eq!(row["type"], "page_view");
    assert_eq!(
        (&row["url"], &row["referrer"]),
        (&json!("https://shop.example/"), &json!("https://search.example/"))
    );
    assert_eq!((&row["viewport_width"], &row["properties"]), (&json!(390), &json!({ "a": "b" })));

    check(service, "", "request").await;
    check(service, "{", "domain").await;
    check(service, "[]", "request").await;
    check(service, "null", "request").await;
    check(service, "[".repeat(100_000) + &"]".repeat(100_000), "request").await;
    check(service, format!(r#"{{"p":{}{}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000)), "domain")
        .await;
    check(service, b"\xff\xfe".to_vec(), "request").await;
    check(service, "{}", "domain").await;
    check(service, with(json!({ "d": "" })), "domain").await;
    check(service, with(json!({ "d": 7 })), "domain").await;
    check(service, with(json!({ "d": "unknown.example" })), "domain").await;
    check(service, with(json!({ "n": null })), "event").await;
    check(service, with(json!({ "n": "" })), "event").await;
    check(service, with(json!({ "n": ["pageview"] })), "event").await;
    check(service, with(json!({ "u": null })), "event").await;
    check(service, with(json!({ "u": { "a": 1 } })), "event").await;
    assert_eq!(service.events().len(), 1);
    assert_eq!(service.requests("plausible", 400), 16.0);
    assert_eq!(service.requests("plausible", 202), 1.0);

    // What describes an event badly costs it nothing but that.
    for odd in [
        json!({ "r": 7 }),
        json!({ "u": "/relative" }),
        json!({ "u": format!("https://shop.example/{}", "x".repeat(5_000)) }),
        json!({ "n": "x".repeat(9_000) }),
        json!({ "n": "Goal", "$": { "amount": 1, "currency": "POINTS" } }),
        json!({ "n": "Purchase", "$": { "amount": -1, "currency": "EUR" } }),
        json!({ "n": "Purchase", "$": { "amount": "\u{20ac}1", "currency": "EUR" } }),
        json!({ "n": "Goal", "p": { "long": "x".repeat(9_000) } }),
        json!({ "w": "wide", "h": "1", "i": "no" }),
        json!({ "p": "[1]" }),
        json!({ "m": 3 }),
        json!({ "$": "free" }),
        json!({ "n": "Goal", "u": "app://localhost/start" }),
        json!({ "n": "engagement", "sd": 255, "e": -1 }),
        json!({ "n": "engagement", "sd": "deep", "e": 1e300 }),
    ] {
        assert_eq!(post(service, with(odd.clone())).await.status, 202, "{odd}");
    }
    let large = post(service, " ".repeat(3 << 20)).await;
    assert_eq!(large.status, 413, "{}", large.text);
}

#[tokio::test]
async fn goals_become_what_rollups_know() {
    let service = Service::start().await;
    let service = &service;
    let purchase = with(json!({
        "n": "Purchase", "$": { "amount": "10.29", "currency": "usd" }, "p": { "order_id": "A-1", "plan": "gold" },
    }));
    for body in [
        purchase.clone(),
        with(json!({ "n": "Woo Complete Purchase", "revenue": r#"{"amount":5,"currency":"EUR"}"# })),
        with(json!({ "n": "Donation", "$": { "amount": 7.5, "currency": "EUR" }, "i": false })),
        with(json!({ "n": "Purchase intent" })),
        with(json!({ "n": "Outbound Link: Click", "p": { "url": "https://other.example/" } })),
        with(json!({ "n": "File Download", "m": r#"{"url":"https://shop.example/a.pdf"}"# })),
        with(json!({ "name": "Form: Submission", "n": null, "props": { "path": "/contact" } })),
        with(json!({ "n": "404", "meta": { "path": "/gone" } })),
        with(json!({ "n": "engagement", "sd": 76, "e": 12_345 })),
    ] {
        assert_eq!(post(service, body).await.status, 202);
    }
    let rows = service.events();
    let is = |index: usize, wanted: Value| {
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&rows[index][field], value, "{field} of {:#}", rows[index]);
        }
    };
    is(
        0,
        json!({ "name": "purchase", "order_id": "A-1", "total_minor": 1029, "currency": "USD", "properties": { "plan": "gold" } }),
    );
    is(1, json!({ "name": "purchase", "total_minor": 500, "currency": "EUR" }));
    assert_eq!(rows[1]["order_id"].as_str().unwrap().len(), 36, "an order of its own");
    is(2, json!({ "name": "Donation", "value": 7.5, "currency": "EUR", "non_interactive": 1 }));
    is(3, json!({ "name": "Purchase intent" }));
    is(
        4,
        json!({ "name": "click", "properties": { "link_url": "https://other.example/", "outbound": "true" } }),
    );
    is(5, json!({ "name": "file_download", "properties": { "link_url": "https://shop.example/a.pdf" } }));
    is(6, json!({ "name": "form_submit", "properties": { "path": "/contact" } }));
    is(7, json!({ "name": "404", "properties": { "path": "/gone" } }));
    is(8, json!({ "name": "engagement", "duration_ms": 12_345, "scroll_depth": 76, "non_interactive": 1 }));
}

#[tokio::test]
async fn servers_speak_for_visitors_with_a_secret_key_alone() {
    let service = Service::start().await;
    let headers = [("user-agent", "Mozilla/5.0 (a visitor)"), ("x-forwarded-for", "203.0.113.9, 10.0.0.1")];
    for (key, trusted) in [(WRITE_KEY, None), (SECRET_KEY, Some(&json!(1)))] {
        let said = post_to(&service, "/api/event", with(json!({ "d": key })), &headers).await;
        assert_eq!(said.status, 202, "{}", said.text);
        let row = service.events().pop().unwrap();
        assert_eq!(row.get("trusted"), trusted);
        assert_eq!(row["user_agent"], "Mozilla/5.0 (a visitor)");
        assert!(!row.to_string().contains("203.0.113.9"), "{row}");
    }
}

#[tokio::test]
async fn over_a_rate_it_says_when_to_come_again() {
    let service = Service::start().await;
    // All that the store may have at once, and from then on one in a second.
    let all = format!("[{}]", vec![r#"{"type":"event","name":"test"}"#; 500].join(","));
    assert_eq!(service.send(service.request("slow-write-key").body(all)).await.status, 202);
    let slow = with(json!({ "d": "slow-write-key" }));
    let mut refused = None;
    for _ in 0..200 {
        let said = post(&service, slow.clone()).await;
        if said.status == 429 {
            refused = Some(said);
            break;
        }
        assert_eq!(said.status, 202);
    }
    let said = refused.expect("one event in a second is the store's rate");
    assert_eq!(said.headers[RETRY_AFTER], "1");
    // A page of another site is told that it is the site that may not.
    let origin = [("origin", "https://evil.example")];
    let strict = with(json!({ "d": "strict-write-key" }));
    let said = post_to(&service, "/api/event", strict, &origin).await;
    assert_eq!(said.status, 400);
    assert!(said.text.contains("\"domain\""), "{}", said.text);
    // The key may stand in the address, as a proxy may put it there.
    let keyed =
        post_to(&service, &format!("/k/{WRITE_KEY}/api/event"), with(json!({ "d": "shop.example" })), &[])
            .await;
    assert_eq!(keyed.status, 202);
}

#[tokio::test]
async fn a_goal_is_not_lost_for_what_it_does_not_say() {
    let service = Service::start().await;
    let many: serde_json::Map<_, _> =
        (0..120).map(|number| (format!("p{number:03}"), json!(number))).collect();
    for (body, name) in [
        (json!({ "n": "Order Completed" }), "purchase"),
        (json!({ "n": "order_completed" }), "purchase"),
        (json!({ "n": "purchase" }), "purchase"),
        (json!({ "n": "Purchase" }), "Purchase"),
        (json!({ "n": "Order Refunded" }), "Refund"),
        (json!({ "n": "refund", "$": { "amount": 5, "currency": "EUR" } }), "Refund"),
        (json!({ "n": "Money back", "p": { "order_id": "7" } }), "Money back"),
        (json!({ "n": "Refund", "p": { "order_id": "7" } }), "refund"),
        (json!({ "n": "Outbound Link: Click", "p": many }), "click"),
    ] {
        let said = post(&service, with(body.clone())).await;
        assert_eq!(said.status, 202, "{body}: {}", said.text);
        let row = service.events().pop().unwrap();
        assert_eq!(row["name"], name, "{body}");
        assert_eq!(row["order_id"].as_str().is_some(), name == "purchase" || name == "refund", "{body}");
    }
}

#[tokio::test]
async fn json_in_a_text_is_looked_into_and_mended() {
    let service = Service::start().await;
    let order =
        |more: &str| format!(r#"{{"n":"purchase","u":"https://shop.example/","d":"{WRITE_KEY}",{more}}}"#);
    for (more, id, total, currency) in [
        (
            r#""p":"{\"order_id\":\"X\",\"note\":\"\\ud83d\",\"value\":50.5,\"currency\":\"EUR\"}""#,
            Some("X"),
            5_050,
            "EUR",
        ),
        (
            r#""p":"{\"order_id\":7980012345678901234567890123,\"value\":5}""#,
            Some("7980012345678901234567890123"),
            500,
            "USD",
        ),
        (r#""m":3,"p":{"order_id":"X","value":5}"#, Some("X"), 500, "USD"),
        (r#""$":"{\"amount\":50.5,\"currency\":\"EUR\",}""#, None, 5_050, "EUR"),
        (r#""$":50.5"#, None, 5_050, "USD"),
        (r#""$":"50.50""#, None, 5_050, "USD"),
        (r#""$":{"amount":"free"},"p":{"order_id":"X","total":50.5}"#, Some("X"), 5_050, "USD"),
        // An id that cannot be read is as good as none.
        (r#""$":50.5,"p":{"order_id":{}}"#, None, 5_050, "USD"),
        (r#""$":50.5,"p":{"order_id":" "}"#, None, 5_050, "USD"),
        (r#""$":50.5,"p":{"order_id":{},"transaction_id":"X"}"#, Some("X"), 5_050, "USD"),
    ] {
        let said = post(&service, order(more)).await;
        assert_eq!(said.status, 202, "{more}: {}", said.text);
        let row = service.events().pop().unwrap();
        assert_eq!(row["name"], "purchase", "{more}");
        assert_eq!((&row["total_minor"], &row["currency"]), (&json!(total), &json!(currency)), "{more}");
        match id {
            Some(id) => assert_eq!(row["order_id"], id, "{more}"),
            None => assert_eq!(row["order_id"].as_str().unwrap().len(), 36, "{more}: one of its own"),
        }
    }
    for (name, known) in [(" pageview", "page_view"), ("purchase\n", "purchase"), (" Purchase ", "purchase")]
    {
        let body = with(json!({ "n": name, "$": 1 }));
        assert_eq!(post(&service, body).await.status, 202, "{name}");
        assert_eq!(service.events().pop().unwrap()["name"], known, "{name}");
    }
}
