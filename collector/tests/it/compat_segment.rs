//! Segment's protocol, as a client writes it and as nobody should.

use serde_json::{Value, json};

use crate::service::{Answer, KEPT, SECRET_KEY, Service, WRITE_KEY, assert_row};

/// A batch of these calls, with the write key as basic authentication has it.
async fn batch(service: &Service, calls: &str) -> Answer {
    post(service, "/v1/batch", format!(r#"{{"batch":[{calls}]}}"#)).await
}

async fn post(service: &Service, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = service.client.post(format!("{}{path}", service.url));
    service.send(request.basic_auth(WRITE_KEY, Some("")).body(body)).await
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    let said = (answer.status, answer.body["success"].as_bool(), answer.body["code"].as_str());
    assert_eq!(said, (status, Some(false), Some(code)), "{answer:?}");
    assert!(!answer.body["message"].as_str().unwrap().is_empty(), "{answer:?}");
}

#[tokio::test]
async fn every_call_has_its_address() {
    let service = Service::start().await;
    let call =
        r#"{"event":"x","name":"n","anonymousId":"a","context":{"page":{"url":"https://shop.example/"}}}"#;
    for (paths, name) in [
        (["/v1/t", "/v1/track"], "x"),
        (["/v1/p", "/v1/page"], "page_view"),
        (["/v1/i", "/v1/identify"], "identify"),
        (["/v1/s", "/v1/screen"], "screen_view"),
        (["/v1/g", "/v1/group"], "group"),
        (["/v1/a", "/v1/alias"], "alias"),
    ] {
        for path in paths {
            for path in [path.to_owned(), format!("/k/{WRITE_KEY}{path}")] {
                let answer = post(&service, &path, call).await;
                assert_eq!((answer.status, answer.body), (200, json!({ "success": true })), "{path}");
                let rows = service.events();
                let row = rows.last().unwrap();
                assert_eq!((&row["name"], &row["visitor_id"]), (&json!(name), &json!("a")), "{path}");
            }
        }
    }
    for path in ["/v1/b", "/v1/batch", "/v1/import", "/beacon/v1/batch"] {
        let before = service.events().len();
        let body = format!(r#"{{"batch":[{0},{0}]}}"#, call.replacen('{', r#"{"type":"page","#, 1));
        assert_eq!(post(&service, path, body).await.status, 200, "{path}");
        assert_eq!(service.events().len(), before + 2, "{path}");
    }
    assert_eq!(service.requests("segment", 200), 28.0);
}

#[tokio::test]
async fn keys_stand_in_four_places() {
    let service = Service::start().await;
    let url = format!("{}/v1/track", service.url);
    let plain = || service.client.post(&url);
    let track = |more: &str| format!(r#"{{"event":"x"{more}}}"#);
    let key = |key: &str| format!(r#","writeKey":"{key}""#);
    for request in [
        plain().basic_auth(WRITE_KEY, Some("")).body(track("")),
        plain().basic_auth(WRITE_KEY, None::<&str>).body(track("")),
        plain().body(track(&key(WRITE_KEY))),
        plain().header("content-type", "text/plain").body(track(&key(WRITE_KEY))),
        // In each call of a batch, as one that was put together by hand.
        service
            .client
            .post(format!("{}/v1/batch", service.url))
            .body(format!(r#"{{"batch":[{{"type":"track","event":"x"{}}}]}}"#, key(WRITE_KEY))),
        // As RudderStack's pages send when they end.
        service
            .client
            .post(format!("{}/beacon/v1/batch?writeKey={WRITE_KEY}", service.url))
            .header("content-type", "text/plain")
            .body(r#"{"batch":[{"type":"track","event":"x"}]}"#),
    ] {
        let answer = service.send(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(service.events().iter().all(|row| row["trusted"] != 1));
    let answer = service.send(plain().basic_auth(SECRET_KEY, Some("")).body(track(""))).await;
    assert_eq!((answer.status, &service.events().last().unwrap()["trusted"]), (200, &json!(1)));
    for request in [
        plain().body(track("")),
        plain().body(track(&key("nobody"))),
        plain().basic_auth("nobody", Some("")).body(track("")),
        plain().header("authorization", "Basic !!!").body(track("")),
        plain().header("authorization", "Basic /w==").body(track("")),
        plain().header("authorization", "Basic").body(track("")),
        plain().body(r#"{"event":"x","writeKey":{}}"#),
    ] {
        assert_refused(&service.send(request).await, 401, "unknown_key");
    }
    let request = plain().header("origin", "https://elsewhere.example").body(track(&key("strict-write-key")));
    assert_refused(&service.send(request).await, 403, "origin_not_allowed");
}

#[tokio::test]
async fn what_is_no_request_is_refused_whole() {
    let service = Service::start().await;
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let many = vec!["{}"; 2_501].join(",");
    for (path, body) in [
        ("/v1/batch", Vec::new()),
        ("/v1/batch", b"event=x".to_vec()),
        ("/v1/batch", b"[]".to_vec()),
        ("/v1/batch", b"7".to_vec()),
        ("/v1/batch", b"{}".to_vec()),
        ("/v1/batch", br#"{"batch":{}}"#.to_vec()),
        ("/v1/batch", br#"{"batch":null}"#.to_vec()),
        ("/v1/batch", b"{\"batch\":[{\"type\":\"\xff\"}]}".to_vec()),
        ("/v1/batch", format!(r#"{{"batch":{deep}}}"#).into_bytes()),
        ("/v1/batch", format!(r#"{{"batch":[{many}]}}"#).into_bytes()),
        ("/v1/track", deep.clone().into_bytes()),
        ("/v1/track", b"null".to_vec()),
        ("/v1/track", b"{}".to_vec()),
        ("/v1/track", vec![b' '; 2 << 20]),
    ] {
        let said = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = post(&service, path, body).await;
        assert_eq!(
            (answer.status, answer.body["code"].as_str()),
            (400, Some("invalid_request")),
            "{path} {said}"
        );
        assert_eq!(answer.body["success"], false);
    }
    let request = service.client.post(format!("{}/v1/batch", service.url)).header("content-encoding", "gzip");
    assert_refused(&service.send(request.body("no gzip")).await, 400, "invalid_request");
    assert_eq!(service.events(), Vec::<Value>::new());
    // An empty batch is nothing, and nothing is wrong with it.
    assert_eq!(batch(&service, "").await.status, 200);
}

#[tokio::test]
async fn a_bad_call_costs_its_neighbours_nothing() {
    let service = Service::start().await;
    let good = r#"{"type":"track","event":"good"}"#;
    assert_eq!(batch(&service, good).await.status, 200);
    let track = |event: &str, properties: &str| {
        format!(r#"{{"type":"track","event":"{event}","properties":{properties}}}"#)
    };
    let order = |properties: &str| track("Order Completed", properties);
    let long = "x".repeat(9_000);
    for (call, reason) in [
        ("null".into(), "missing_field"),
        ("7".into(), "missing_field"),
        ("[]".into(), "missing_field"),
        ("{}".into(), "missing_field"),
        (r#"{"type":"audit"}"#.into(), "unknown_type"),
        (r#"{"type":7}"#.into(), "missing_field"),
        (r#"{"type":"track"}"#.into(), "missing_field"),
        (r#"{"type":"track","event":""}"#.into(), "missing_field"),
        (r#"{"type":"track","event":7}"#.into(), KEPT),
        (r#"{"type":"track","event":{}}"#.into(), "wrong_type"),
        (r#"{"type":"track","event":"x","timestamp":"yesterday"}"#.into(), KEPT),
        (r#"{"type":"track","event":"x","timestamp":[]}"#.into(), KEPT),
        (track("x", "[]"), KEPT),
        (track("x", "7"), KEPT),
        (track("x", &format!(r#"{{"a":"{long}"}}"#)), KEPT),
        (format!(r#"{{"type":"track","event":"x","anonymousId":"{long}"}}"#), KEPT),
        (order("{}"), "empty_order_id"),
        (order(r#"{"order_id":""}"#), "empty_order_id"),
        (order(r#"{"order_id":"1","total":-1}"#), KEPT),
        (order(r#"{"order_id":"1","total":"much"}"#), KEPT),
        (order(r#"{"order_id":"1","tax":{}}"#), KEPT),
        (order(r#"{"order_id":"1","currency":"points"}"#), KEPT),
        (order(r#"{"order_id":"1","currency":7}"#), KEPT),
        (order(r#"{"order_id":"1","products":[7]}"#), KEPT),
        (order(r#"{"order_id":"1","products":[{"price":-1}]}"#), KEPT),
        (order(r#"{"order_id":"1","products":[{"price":1,"quantity":-1}]}"#), KEPT),
        (order(r#"{"order_id":"1","products":[{"price":1,"quantity":1.5}]}"#), KEPT),
        (order(&format!(r#"{{"order_id":"1","products":[{}]}}"#, vec!["{}"; 201].join(","))), KEPT),
    ] {
        let (before, stored) = (service.rejected(reason), service.events().len());
        if reason == KEPT {
            assert_eq!(batch(&service, &format!("{good},{call},{good}")).await.status, 200, "{call}");
            assert_eq!(service.events().len() - stored, 3, "{call}");
            continue;
        }
        let answer = batch(&service, &format!("{good},{call},{good}")).await;
        assert_eq!((answer.status, answer.body), (200, json!({ "success": true })), "{call}");
        assert_eq!(service.rejected(reason) - before, 1.0, "{reason}: {call}");
        assert_eq!(service.events().len() - stored, 2, "{call}");
        // Alone it is told so, in a way that its client does not send again.
        assert_refused(&batch(&service, &call).await, 400, "invalid_request");
    }
}

#[tokio::test]
async fn what_only_describes_an_event_never_costs_it() {
    let service = Service::start().await;
    let context = r#"{"page":{"url":"/relative","title":7,"referrer":{}},"locale":[],"timezone":7,"screen":{"width":-1,
        "height":1e9},"campaign":7,"ip":"here","userAgent":{}}"#;
    for context in [context, "[]", "null", "7", r#"{"page":[],"screen":"x","campaign":[1]}"#] {
        let call =
            format!(r#"{{"type":"track","event":"x","userId":7,"messageId":{{}},"context":{context}}}"#);
        assert_eq!(batch(&service, &call).await.body, json!({ "success": true }), "{context}");
        let rows = service.events();
        assert_eq!(rows.last().unwrap()["user_id"], "7");
    }
    // A clock that makes no sense corrects nothing.
    let body =
        r#"{"batch":[{"type":"track","event":"x","timestamp":"2026-01-01T00:00:00Z"}],"sentAt":{"a":1}}"#;
    assert_eq!(post(&service, "/v1/batch", body).await.status, 200);
}

#[tokio::test]
async fn a_batch_says_for_all_its_calls() {
    let service = Service::start().await;
    let body = json!({
        "context": { "locale": "fr", "timezone": "Europe/Paris", "page": { "url": "https://shop.example/a" } },
        "batch": [
            { "type": "track", "event": "x" },
            { "type": "track", "event": "y", "context": { "locale": "de" } },
        ],
    });
    assert_eq!(post(&service, "/v1/batch", body.to_string()).await.status, 200);
    let said: Vec<_> = service.events().iter().map(|row| row["language"].clone()).collect();
    assert_eq!(said, ["fr", "de"]);
    assert!(service.events().iter().all(|row| row["url"] == "https://shop.example/a"));
}

#[tokio::test]
async fn a_collector_that_cannot_store_says_when_to_come_back() {
    let service = Service::with(|config| config.keys_snapshot = None).await;
    let answer = batch(&service, r#"{"type":"track","event":"x"}"#).await;
    assert_refused(&answer, 503, "unavailable");
    assert_eq!(answer.headers["retry-after"], "2");
}

#[tokio::test]
async fn settings_lead_back_to_the_collector() {
    let service = Service::start().await;
    let host = service.url.strip_prefix("http://").unwrap();
    let settings = service.get("/v1/projects/a-key/settings").await;
    assert_eq!(settings.status, 200);
    let segment_io = &settings.body["integrations"]["Segment.io"];
    assert_eq!(segment_io["apiKey"], "a-key");
    assert_eq!(segment_io["apiHost"], format!("{host}/v1"));
    assert_eq!(segment_io["protocol"], "http");
    assert_eq!(settings.body["metrics"]["sampleRate"], 0);
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("origin", "https://shop.example"),
        ("referer", "https://shop.example/a"),
    ] {
        let request =
            service.client.get(format!("{}/v1/projects/a-key/settings", service.url)).header(name, value);
        let settings = service.send(request.header("x-forwarded-host", "shop.example")).await;
        let segment_io = &settings.body["integrations"]["Segment.io"];
        let said = (segment_io["protocol"].as_str(), segment_io["apiHost"].as_str());
        assert_eq!(said, (Some("https"), Some("shop.example/v1")), "{name}");
    }
}

#[tokio::test]
async fn a_time_that_is_null_hides_no_other() {
    let service = Service::start().await;
    let call = r#"{"type":"track","event":"x","originalTimestamp":null,"timestamp":"1970-01-01T00:00:01Z"}"#;
    assert_eq!(batch(&service, call).await.status, 200);
    assert_eq!(service.events()[0]["client_time"], "1970-01-01 00:00:01.000");
}

#[tokio::test]
async fn of_several_proxies_the_first_was_asked() {
    let service = Service::start().await;
    let request = service.client.get(format!("{}/v1/projects/a-key/settings", service.url));
    let request = request.header("x-forwarded-proto", "https,http");
    let settings = service.send(request.header("x-forwarded-host", "shop.example, inner")).await;
    let segment_io = &settings.body["integrations"]["Segment.io"];
    let said = (segment_io["protocol"].as_str(), segment_io["apiHost"].as_str());
    assert_eq!(said, (Some("https"), Some("shop.example/v1")));
}

/// Parts of analytics-next that it loads when a page needs them.
#[tokio::test]
async fn parts_of_the_browsers_client_are_served() {
    let service = Service::start().await;
    for (part, what) in [
        ("auto-track.bundle.f131ce01a05e3a33a8c1.js", "link, form"),
        ("queryString.bundle.34b193ada8fe288d1bd1.js", "ajs_event"),
    ] {
        let url = format!("{}/analytics-next/bundles/{part}", service.url);
        let answer = service.client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{part}");
        assert_eq!(answer.headers()["content-type"], "text/javascript; charset=utf-8", "{part}");
        assert_eq!(answer.headers()["cache-control"], "public, max-age=3600", "{part}");
        assert!(answer.text().await.unwrap().contains(what), "{part}");
    }
    assert_eq!(service.get("/analytics-next/bundles/schemaFilter.bundle.a6a7.js").await.status, 404);
}

/// What RudderStack's SDKs cannot do without, and what they send then.
#[tokio::test]
async fn rudderstacks_clients_are_told_to_send() {
    let service = Service::start().await;
    for path in ["/sourceConfig/?p=npm&v=3.34.1&writeKey=a", "/sourceConfig?p=a", "/k/a/sourceConfig/"] {
        let request = service.client.get(format!("{}{path}", service.url)).basic_auth("a", Some(""));
        let answer = service.send(request.header("origin", "https://shop.example")).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["access-control-allow-origin"], "https://shop.example");
        let source = &answer.body["source"];
        assert!(source["id"].is_string() && source["config"].is_object(), "{path}: {source}");
        assert_eq!((&source["enabled"], &source["destinations"]), (&json!(true), &json!([])), "{path}");
    }
    let page = json!({ "url": "https://shop.example/", "path": "/", "title": "Shop", "referrer": "$direct" });
    let call = json!({
        "type": "page", "channel": "web", "anonymousId": "a", "userId": "", "messageId": "m",
        "originalTimestamp": "2026-10-31T12:00:00.000Z", "properties": page, "context": { "page": page, "sessionId": 1_795_855_613_379_u64 },
    });
    assert_eq!(post(&service, "/v1/page", call.to_string()).await.status, 200);
    let wanted = json!({
        "type": "page_view", "visitor_id": "a", "user_id": "", "referrer": "",
        "session_id": "1795855613379", "repairs": null,
    });
    assert_row(&service.events()[0], &wanted);
}

/// RudderStack's source for Shopify tells of one order twice, once in Shopify's words; or of none.
#[tokio::test]
async fn an_order_of_shopifys_has_one_id() {
    let service = Service::start().await;
    let products = json!([{ "product_id": "p", "price": 9, "quantity": 1 }]);
    let calls: Vec<_> = [
        ("Order Created", json!({ "order_id": "7", "checkout_id": "3", "value": 9, "products": products })),
        ("Order Paid", json!({ "id": 7, "checkout_id": 3, "total_price": "9.00", "products": products })),
        ("Order Completed", json!({ "checkout_id": "4", "total": 9, "products": products })),
        ("Order Paid", json!({ "products": products })),
        ("Checkout Started", json!({ "checkout_id": "4", "products": products })),
        ("Search Submitted", json!({ "query": "tea" })),
    ]
    .into_iter()
    .map(|(name, properties)| json!({ "type": "track", "event": name, "properties": properties }).to_string())
    .collect();
    assert_eq!(batch(&service, &calls.join(",")).await.status, 200);
    let rows = service.events();
    let names: Vec<_> = rows.iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["purchase", "purchase", "purchase", "Order Paid", "begin_checkout", "search"]);
    for (row, id) in rows.iter().zip(["7", "7", "4"]) {
        assert_row(row, &json!({ "order_id": id, "total_minor": 900, "item_product_id": ["p"] }));
    }
    assert_row(&rows[4], &json!({ "order_id": "", "properties": { "checkout_id": "4" } }));
    assert_eq!(rows[5]["properties"], json!({ "search_term": "tea" }));
}

/// Of an order, whatever stands beside what is good of it.
#[tokio::test]
async fn what_cannot_be_read_hides_nothing_that_can() {
    let service = Service::start().await;
    let order = |more: &str| {
        let paid = r#""currency":"USD","products":[{"product_id":"a","price":50.5}]"#;
        format!(r#"{{"type":"track","event":"Order Completed","properties":{{{paid},{more}}}}}"#)
    };
    for more in [
        r#""order_id":{},"transaction_id":"T","total":50.5"#,
        r#""order_id":" ","transaction_id":"T","total":50.5"#,
        r#""order_id":true,"orderId":"T","total":50.5"#,
        r#""order_id":[],"transaction_id":NaN,"checkout_id":"T","total":50.5"#,
        r#""order_id":"T","value":{"a":1},"total":50.5"#,
        r#""order_id":"T","value":true,"total":"free","revenue":"50.5""#,
        r#""order_id":"T","value":"much","total":{},"total_price":50.5"#,
    ] {
        assert_eq!(batch(&service, &order(more)).await.status, 200, "{more}");
        let wanted =
            json!({ "name": "purchase", "order_id": "T", "total_minor": 5_050, "item_product_id": ["a"] });
        assert_row(&service.events().pop().unwrap(), &wanted);
    }
    // What is the only one is told.
    assert_eq!(batch(&service, &order(r#""order_id":"T","total":{"a":1}"#)).await.status, 200);
    assert_row(
        &service.events().pop().unwrap(),
        &json!({ "order_id": "T", "repairs": ["value:unreadable"] }),
    );
    let refund = r#"{"type":"track","event":"Order Refunded","messageId":"m","properties":{"order_id":"T","refund_id":{},"products":[{"product_id":"a"}]}}"#;
    assert_eq!(batch(&service, refund).await.status, 200);
    assert_row(&service.events().pop().unwrap(), &json!({ "name": "refund", "refund_id": "m" }));
}

#[tokio::test]
async fn lines_of_an_order_are_found_or_told_of() {
    let service = Service::start().await;
    let a = r#"{"product_id":"a","price":10}"#;
    let b = r#"{"product_id":"b","price":5}"#;
    let both = json!(["a", "b"]);
    let long = r#""products":"[{\"product_id\":12345678901234567890123}]""#;
    // Lines, the ids that they have, and whether something of them could not be read.
    let mut cases = vec![
        (format!(r#""products":{{"0":{a},"1":null,"2":{b}}}"#), both.clone(), false),
        (format!(r#""products":{{"0":{a},"1":{b},"count":2}}"#), both.clone(), true),
        (format!(r#""items":[],"products":[{a},{b}]"#), both.clone(), false),
        (format!(r#""items":"[]","products":[{a},{b}]"#), both, false),
        (long.to_owned(), json!(["12345678901234567890123"]), false),
    ];
    for unreadable in [r#""garbage""#, "true", "5", r#""[{""#, r#""\"[{}]\"""#] {
        cases.push((format!(r#""products":{unreadable}"#), Value::Null, true));
    }
    for (lines, ids, is_told) in cases {
        let order = format!(r#"{{"order_id":"T","currency":"USD",{lines}}}"#);
        let call = format!(r#"{{"type":"track","event":"Order Completed","properties":{order}}}"#);
        assert_eq!(batch(&service, &call).await.status, 200, "{lines}");
        let row = service.events().pop().unwrap();
        assert_row(&row, &json!({ "name": "purchase", "order_id": "T", "item_product_id": ids }));
        let repairs = row.get("repairs").map(Value::to_string).unwrap_or_default();
        assert_eq!(repairs.contains("items:unreadable"), is_told, "{lines}: {repairs}");
    }
}

#[tokio::test]
async fn an_order_is_found_however_it_is_wrapped() {
    let service = Service::start().await;
    let properties =
        r#"{"order_id":"T","total":50.5,"currency":"USD","products":[{"product_id":"a"}],"n":"\ud83d"}"#;
    let track = |name: &str, properties: &str| {
        format!(r#"{{"type":" track","event":{},"properties":{properties}}}"#, json!(name))
    };
    let text = json!(properties).to_string();
    for (name, properties) in [
        (" purchase ", properties),
        ("Order Completed\n", properties),
        ("\u{feff}purchase", text.as_str()),
        ("purchase", text.as_str()),
    ] {
        assert_eq!(batch(&service, &track(name, properties)).await.status, 200, "{name}");
        let row = service.events().pop().unwrap();
        let wanted =
            json!({ "name": "purchase", "order_id": "T", "total_minor": 5_050, "item_product_id": ["a"] });
        assert_row(&row, &wanted);
        assert_eq!(row["properties"], json!({ "n": "\u{fffd}" }));
    }
}

#[tokio::test]
async fn of_two_lists_both_are_taken() {
    let service = Service::start().await;
    let track = |name: &str| format!(r#"{{"type":"track","event":"{name}"}}"#);
    let broken = r#"{"type":"track","event":"c","properties":{"n":NaN}}"#;
    for path in ["/v1/batch", "/beacon/v1/batch"] {
        for (body, wanted) in [
            (format!(r#"{{"batch":[{}],"batch":[{}]}}"#, track("a"), track("b")), vec!["a", "b"]),
            (
                format!(r#"{{"batch":[{}],"batch":[{}, {broken}]}}"#, track("a"), track("b")),
                vec!["a", "b", "c"],
            ),
            (format!(r#"{{"batch":[{}],"batch":null}}"#, track("a")), vec!["a"]),
        ] {
            let before = service.events().len();
            assert_eq!(post(&service, path, body.clone()).await.status, 200, "{body}");
            let names: Vec<_> = service.events()[before..].iter().map(|row| row["name"].clone()).collect();
            assert_eq!(names, wanted, "{body}");
        }
    }
    // Of several values one would be taken and the others lost.
    let lines = format!("{{\"batch\":[{}]}}\n{{\"batch\":[]}}", track("a"));
    assert_refused(&post(&service, "/v1/batch", lines).await, 400, "invalid_request");
}
