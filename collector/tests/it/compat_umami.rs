//! Umami's protocol, as its server would answer it.

use serde_json::{Value, json};

use crate::service::{Answer, SECRET_KEY, Service, WRITE_KEY};

async fn post(service: &Service, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = service.client.post(format!("{}{path}", service.url));
    let request = request.header("content-type", "application/json").header("x-umami-cache", "anything");
    service.send(request.header("origin", "http://shop.example:8080").body(body)).await
}

/// What a refusal says.
async fn check(service: &Service, path: &str, body: impl Into<reqwest::Body>, status: u16) {
    let answer = post(service, path, body).await;
    assert_eq!(answer.status, status, "{answer:?}");
    let error = &answer.body["error"];
    assert_eq!(error["status"], status, "{answer:?}");
    assert!(!error["message"].as_str().unwrap().is_empty() && !error["code"].as_str().unwrap().is_empty());
}

fn payload(mut fields: Value) -> Value {
    let mut payload = json!({ "website": WRITE_KEY, "hostname": "shop.example", "url": "/p?utm_source=a" });
    payload.as_object_mut().unwrap().extend(std::mem::take(fields.as_object_mut().unwrap()));
    payload
}

fn event(fields: Value) -> String {
    json!({ "type": "event", "payload": payload(fields) }).to_string()
}

#[tokio::test]
async fn events_are_taken_and_what_is_none_is_refused() {
    let service = Service::start().await;
    let service = &service;
    let said = post(
        service,
        "/api/send",
        event(json!({
            "title": "Caf%C3%A9", "language": "en-GB", "screen": "1920x1080", "referrer": "/before", "tag": "b",
            "id": "user-7", "vid": "visitor-7", "timestamp": 1.5,
        })),
    )
    .await;
    assert_eq!(said.status, 200);
    let nobody = "00000000-0000-0000-0000-000000000000";
    assert_eq!(said.body, json!({ "cache": "", "sessionId": nobody, "visitId": nobody, "processed": 1 }));
    let row = &service.events()[0];
    for (field, value) in [
        ("type", json!("page_view")),
        ("url", json!("http://shop.example:8080/p?utm_source=a")),
        ("referrer", json!("http://shop.example:8080/before")),
        ("title", json!("Café")),
        ("language", json!("en-GB")),
        ("screen_width", json!(1920)),
        ("screen_height", json!(1080)),
        ("user_id", json!("user-7")),
        ("visitor_id", json!("visitor-7")),
        ("client_time", json!("1970-01-01 00:00:01.500")),
        ("properties", json!({ "tag": "b" })),
    ] {
        assert_eq!(row[field], value, "{field} of {row:#}");
    }

    let send = "/api/send";
    check(service, send, "", 400).await;
    check(service, send, "{", 400).await;
    check(service, send, "[]", 400).await;
    check(service, send, "null", 400).await;
    check(service, send, "{}", 400).await;
    check(service, send, "[".repeat(100_000) + &"]".repeat(100_000), 400).await;
    check(service, send, b"\xff\xfe".to_vec(), 400).await;
    check(service, send, r#"{"type":"event","payload":[]}"#, 400).await;
    check(service, send, r#"{"type":"event","payload":{"url":"/"}}"#, 400).await;
    check(service, send, event(json!({ "website": "unknown" })), 400).await;
    check(service, send, event(json!({ "website": {} })), 400).await;
    check(service, send, event(json!({ "url": null })), 400).await;
    check(service, send, event(json!({ "url": 7 })), 400).await;
    check(service, send, json!({ "type": "other", "payload": payload(json!({})) }).to_string(), 400).await;
    check(service, send, json!({ "type": 7, "payload": payload(json!({})) }).to_string(), 400).await;
    check(service, send, " ".repeat(3 << 20), 413).await;
    check(service, send, event(json!({ "website": "strict-write-key" })), 403).await;
    check(service, "/api/batch", "{}", 400).await;
    check(service, "/api/batch", "[]", 400).await;
    check(service, "/api/batch", "[1,null,{}]", 400).await;
    assert_eq!(service.events().len(), 1);

    // What describes an event badly costs it nothing but that.
    for odd in [
        json!({ "screen": "wide", "language": [], "referrer": 7, "data": "text" }),
        json!({ "screen": "1x99999", "ip": "nowhere", "userAgent": {} }),
        json!({ "hostname": "a b/c" }),
        json!({ "timestamp": "yesterday" }),
        json!({ "timestamp": 1e300 }),
        json!({ "title": "x".repeat(9_000) }),
        json!({ "name": "purchase", "data": { "revenue": -1, "currency": "EUR" } }),
        json!({ "name": "points", "data": { "revenue": "free", "currency": "points" } }),
    ] {
        assert_eq!(post(service, send, event(odd.clone())).await.status, 200, "{odd}");
    }
    assert_eq!(service.get("/script.js").await.status, 404);
}

#[tokio::test]
async fn a_batch_keeps_what_is_good() {
    let service = Service::start().await;
    let many: Vec<_> = (0..2_000).map(|_| json!(1)).collect();
    check(&service, "/api/batch", Value::Array(many).to_string(), 413).await;
    let batch = json!([
        { "type": "event", "payload": payload(json!({ "name": "first" })) },
        7,
        { "type": "event", "payload": payload(json!({ "name": "", "url": null })) },
        { "type": "event", "payload": payload(json!({ "name": "third", "website": "strict-write-key" })) },
        { "type": "event", "payload": payload(json!({ "name": "fourth" })) },
    ]);
    let answer = post(&service, "/api/batch", batch.to_string()).await;
    assert_eq!((answer.status, &answer.body["processed"]), (200, &json!(2)), "{answer:?}");
    let names: Vec<_> = service.events().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["first", "fourth"]);
}

#[tokio::test]
async fn names_and_money_become_what_rollups_know() {
    let service = Service::start().await;
    for (kind, fields) in [
        (
            "event",
            json!({ "name": "purchase", "data": { "revenue": "12.30", "currency": "eur", "order_id": 7, "gift": true } }),
        ),
        ("event", json!({ "name": "Checkout", "data": { "revenue": 5.5, "currency": "USD" } })),
        (
            "event",
            json!({ "name": "add-to-cart", "data": { "product_id": "mug", "price": 2.5, "quantity": 2 } }),
        ),
        ("identify", json!({ "id": "user-7", "data": { "plan": { "name": "gold" } } })),
        ("performance", json!({ "lcp": 1200.5, "cls": 0.1 })),
        ("error", json!({ "message": "no tea" })),
    ] {
        let body = json!({ "type": kind, "payload": payload(fields) }).to_string();
        let answer = post(&service, "/api/send", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let rows = service.events();
    let is = |index: usize, wanted: Value| {
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&rows[index][field], value, "{field} of {:#}", rows[index]);
        }
    };
    is(
        0,
        json!({ "name": "purchase", "order_id": "7", "total_minor": 1230, "currency": "EUR", "properties": { "gift": "true" } }),
    );
    is(1, json!({ "name": "Checkout", "value": 5.5, "currency": "USD" }));
    is(
        2,
        json!({ "name": "add_to_cart", "item_product_id": ["mug"], "item_price": ["2.5"], "item_quantity": ["2"] }),
    );
    is(
        3,
        json!({ "name": "identify", "user_id": "user-7", "non_interactive": 1, "properties": { "plan.name": "gold" } }),
    );
    is(
        4,
        json!({ "name": "web_vitals", "non_interactive": 1, "properties": { "lcp": "1200.5", "cls": "0.1" } }),
    );
    is(5, json!({ "name": "exception", "non_interactive": 1, "properties": { "message": "no tea" } }));
}

#[tokio::test]
async fn servers_speak_for_visitors_with_a_secret_key_alone() {
    let service = Service::start().await;
    for (key, agent) in [(WRITE_KEY, "a server"), (SECRET_KEY, "Mozilla/5.0 (a visitor)")] {
        let fields = json!({ "website": key, "userAgent": "Mozilla/5.0 (a visitor)", "ip": "203.0.113.9" });
        let request = service.client.post(format!("{}/api/send", service.url));
        let answer = service.send(request.header("user-agent", "a server").body(event(fields))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let row = service.events().pop().unwrap();
        assert_eq!(row["user_agent"], agent);
        assert!(!row.to_string().contains("203.0.113.9"), "{row}");
        assert_eq!(row["url"], "https://shop.example/p?utm_source=a", "without a word of a browser");
    }
}

#[tokio::test]
async fn an_event_is_not_lost_for_what_is_beside_the_point() {
    let service = Service::start().await;
    let many: serde_json::Map<_, _> =
        (0..120).map(|number| (format!("p{number:03}"), json!(number))).collect();
    let answer = post(&service, "/api/send", event(json!({ "name": "a", "tag": "b", "data": many }))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(service.events()[0]["properties"]["tag"], "b", "what a decoder says itself has room");
    // Umami reads a number in a string, too.
    let answer = post(&service, "/api/send", event(json!({ "timestamp": "1.5" }))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(service.events()[1]["client_time"], "1970-01-01 00:00:01.500");
}

#[tokio::test]
async fn an_orders_data_is_read_however_it_is_written() {
    let service = Service::start().await;
    let order = |name: &str, data: &str| {
        let payload = payload(json!({ "name": name }));
        let text = json!({ "type": "event", "payload": payload }).to_string();
        text.replacen(r#""payload":{"#, &format!(r#""payload":{{"data":{data},"#), 1)
    };
    let object = r#"{"order_id":"X","revenue":50.5,"currency":"EUR","note":"\ud83d"}"#;
    let text = json!(object).to_string();
    for (name, data, id) in [
        ("purchase", object, Some("X")),
        ("purchase", text.as_str(), Some("X")),
        (" purchase", object, Some("X")),
        ("purchase\n", object, Some("X")),
        ("purchase", r#"{"order_id":{},"transaction_id":"X","revenue":50.5,"currency":"EUR"}"#, Some("X")),
        ("purchase", r#"{"order_id":{},"revenue":50.5,"currency":"EUR"}"#, None),
        ("purchase", r#"{"order_id":" ","value":{},"revenue":50.5,"currency":"EUR"}"#, None),
    ] {
        let answer = post(&service, "/api/send", order(name, data)).await;
        assert_eq!(answer.status, 200, "{data}: {answer:?}");
        let row = service.events().pop().unwrap();
        let said = (&row["name"], &row["total_minor"], &row["currency"]);
        assert_eq!(said, (&json!("purchase"), &json!(5_050), &json!("EUR")), "{data}");
        match id {
            Some(id) => assert_eq!(row["order_id"], id, "{data}"),
            None => assert_eq!(row["order_id"].as_str().unwrap().len(), 36, "{data}: one of its own"),
        }
    }
}
