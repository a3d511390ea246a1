//! Google Analytics 4's protocols, well-formed and not.

use serde_json::{Value, json};

use crate::service::{Answer, KEPT, Service, WRITE_KEY, assert_row};

const MP: &str = "/mp/collect?measurement_id=G-1&api_secret=demo-secret-key";

async fn post(service: &Service, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    service.send(service.client.post(format!("{}{path}", service.url)).body(body)).await
}

fn messages(answer: &Answer) -> Vec<(&str, &str)> {
    let list = answer.body["validationMessages"].as_array().unwrap();
    let text = |message: &'_ Value, name: &str| message[name].as_str().map(str::to_owned);
    assert!(list.iter().all(|message| text(message, "fieldPath").is_some()));
    list.iter()
        .map(|message| {
            (message["validationCode"].as_str().unwrap(), message["description"].as_str().unwrap())
        })
        .collect()
}

/// 204 whatever is sent, unless in parts it would be taken; and what was wrong with it from the other address, which keeps
/// nothing.
#[tokio::test]
async fn malformed_requests_are_answered_as_google_does() {
    let service = Service::with(|config| config.limits.body_bytes_max = 300_000).await;
    let events = |events: &[Value]| json!({ "client_id": "1.2", "events": events }).to_string();
    let good = json!({ "name": "good" });
    let refused: Vec<(Vec<u8>, &str, &str)> = vec![
        ("".into(), "VALUE_INVALID", "not_json"),
        ("[]".into(), "VALUE_INVALID", "not_json"),
        ("null".into(), "VALUE_INVALID", "not_json"),
        ("{\"events\":[".into(), "VALUE_REQUIRED", "no_events"),
        (b"{\"events\":\"\xff\"}".to_vec(), "VALUE_INVALID", "wrong_type"),
        ("[".repeat(100_000).into(), "VALUE_INVALID", "not_json"),
        ("{\"a\":".repeat(50_000).into(), "VALUE_REQUIRED", "no_events"),
        ("{}".into(), "VALUE_REQUIRED", "no_events"),
        (events(&[]).into(), "VALUE_REQUIRED", "no_events"),
        ("{\"events\":7}".into(), "VALUE_INVALID", "wrong_type"),
        (events(&vec![good.clone(); 501]).into(), "EXCEEDED_MAX_ENTITIES", "too_many_events"),
        (events(&vec![json!(0); 1_001]).into(), "EXCEEDED_MAX_ENTITIES", "too_many_events"),
        (
            json!({ "events": vec![good.clone(); 400], "user_properties": { "a": { "value": "b".repeat(20_000) } } })
                .to_string()
                .into(),
            "VALUE_OUT_OF_BOUNDS",
            "body_too_large",
        ),
    ];
    for (body, code, reason) in refused {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = post(&service, MP, body.clone()).await;
        let is_large = matches!(reason, "body_too_large" | "too_many_events");
        assert_eq!(
            (answer.status, answer.body == Value::Null),
            if is_large { (413, false) } else { (204, true) },
            "{shown}"
        );
        assert!(service.rejected(reason) > 0.0, "{shown}: counted");
        let answer = post(&service, &format!("/debug{MP}"), body).await;
        assert_eq!(answer.status, 200, "{shown}");
        let said = messages(&answer);
        assert_eq!((said.len(), said[0].0), (1, code), "{shown}");
        assert!(said[0].1.starts_with(reason), "{shown}: {said:?}");
    }
    for path in ["/mp/collect", "/mp/collect?api_secret=nobody"] {
        assert_eq!(post(&service, path, events(std::slice::from_ref(&good))).await.status, 204);
        let answer = post(&service, &format!("/debug{path}"), events(std::slice::from_ref(&good))).await;
        assert!(messages(&answer)[0].1.starts_with("unknown_key"));
    }
    assert_eq!(service.rejected("unknown_key"), 2.0);
    assert_eq!(post(&service, MP, vec![b'['; 300_001]).await.status, 413);

    let purchase = |params: Value| json!({ "name": "purchase", "params": params });
    let rejected: Vec<(Value, &str, &str)> = vec![
        (json!(null), "VALUE_REQUIRED", "missing_field"),
        (json!({}), "VALUE_REQUIRED", "missing_field"),
        (json!({ "name": [] }), "VALUE_INVALID", "wrong_type"),
        (json!({ "name": 7 }), "", KEPT),
        (json!({ "name": "" }), "VALUE_REQUIRED", "missing_field"),
        (json!({ "name": "page_view" }), "VALUE_REQUIRED", "missing_field"),
        (json!({ "name": "page_view", "params": { "page_location": "/a" } }), "", KEPT),
        (json!({ "name": "page_view", "params": { "page_location": 7 } }), "VALUE_INVALID", "wrong_type"),
        (json!({ "name": "a", "timestamp_micros": "soon" }), "", KEPT),
        (json!({ "name": "a", "params": { "b": "c".repeat(9_000) } }), "", KEPT),
        (purchase(json!({ "value": 3 })), "VALUE_REQUIRED", "empty_order_id"),
        (purchase(json!({ "transaction_id": "t", "value": -3 })), "", KEPT),
        (purchase(json!({ "transaction_id": "t", "value": {} })), "", KEPT),
        (purchase(json!({ "transaction_id": "t", "currency": "gold" })), "", KEPT),
        (purchase(json!({ "transaction_id": "t", "items": [[]] })), "", KEPT),
        (purchase(json!({ "transaction_id": "t", "items": [{ "price": -1 }] })), "", KEPT),
        (purchase(json!({ "transaction_id": "t", "items": vec![json!({}); 201] })), "", KEPT),
    ];
    let mut count = 0;
    for (event, code, reason) in rejected {
        if reason == KEPT {
            let answer = post(&service, &format!("/debug{MP}"), events(std::slice::from_ref(&event))).await;
            assert_eq!(answer.body, json!({ "validationMessages": [] }), "{event}");
            continue;
        }
        count += 1;
        let before = service.rejected(reason);
        let body = events(&[event.clone(), good.clone()]);
        let answer = post(&service, &format!("/debug{MP}"), body.clone()).await;
        let said = messages(&answer);
        let wanted = format!("Event at index: [0] {reason}: ");
        assert_eq!((said.len(), said[0].0), (1, code), "{event}");
        assert!(said[0].1.starts_with(&wanted), "{said:?}");
        assert_eq!(post(&service, MP, body).await.status, 204, "{event}");
        assert_eq!(service.rejected(reason) - before, 1.0, "{reason}: {event}");
        assert_eq!(post(&service, MP, events(std::slice::from_ref(&event))).await.status, 204, "{event}");
        let answer = post(&service, &format!("/debug{MP}"), events(std::slice::from_ref(&event))).await;
        assert_eq!(messages(&answer)[0].0, code, "{event}");
    }
    let rows = service.events();
    assert_eq!(rows.len(), count, "checks keep nothing");
    assert!(rows.iter().all(|row| row["name"] == "good"), "{rows:#?}");
    let answer = post(&service, &format!("/debug{MP}"), events(&[good])).await;
    assert_eq!((answer.status, answer.body), (200, json!({ "validationMessages": [] })));
}

#[tokio::test]
async fn what_should_come_back_is_told_so() {
    let service = Service::start().await;
    let send = |events: usize| {
        let body = json!({ "client_id": "1.2", "events": vec![json!({ "name": "a" }); events] });
        post(&service, "/mp/collect?api_secret=slow-write-key", body.to_string())
    };
    assert_eq!(send(500).await.status, 204);
    let answer = send(60).await;
    assert_eq!(answer.error(), (429, "rate_limited"));
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn events_of_servers_become_rows() {
    let service = Service::start().await;
    let body = json!({
        "client_id": "123.456", "user_id": "user", "timestamp_micros": "1793448000123456",
        "user_properties": { "tier": { "value": "gold" }, "age": 7 }, "user_location": { "city": "Bern", "country_id": "CH" },
        "consent": { "ad_user_data": "DENIED" }, "ip_override": "203.0.113.7", "user_agent": "Mozilla/5.0 (a visitor)",
        "device": { "language": "de-CH", "screen_resolution": "1600x1000", "category": "mobile" },
        "events": [
            { "name": "page_view", "params": {
                "page_location": "https://shop.example/", "page_title": "Shop", "page_referrer": "https://search.example/",
                "session_id": 99, "engagement_time_msec": 100, "debug_mode": true, "colour": "red",
            } },
            { "name": "user_engagement", "params": { "session_id": "99", "engagement_time_msec": "2500", "percent_scrolled": 90 } },
            { "name": "purchase", "timestamp_micros": 1_793_448_001_000_000_u64, "params": {
                "transaction_id": "T", "value": 42.5, "currency": "USD", "tax": 2.5, "shipping": "4", "coupon": "SUMMER",
                "items": [{ "item_id": 7, "item_name": "Mug", "item_variant": "blue", "item_brand": "Kiln",
                            "item_category": "Cups", "price": 12.5, "quantity": 2, "discount": 1, "index": 3 }],
            } },
            { "name": "refund", "params": { "transaction_id": "T", "value": 12.5, "currency": "USD" } },
            { "name": "exception", "params": { "description": "no tea", "fatal": true } },
        ],
    });
    assert_eq!(post(&service, MP, body.to_string()).await.status, 204);
    let rows = service.events();
    assert_eq!(rows.len(), 5);
    let has = |row: &Value, wanted: Value| assert_row(row, &wanted);
    for row in &rows {
        has(
            row,
            json!({
                "visitor_id": "123.456", "user_id": "user", "trusted": 1, "language": "de-CH", "screen_width": 1600,
                "user_agent": "Mozilla/5.0 (a visitor)", "time_source": "client",
            }),
        );
        has(
            &row["properties"],
            json!({ "user.tier": "gold", "user.age": "7", "location.city": "Bern", "location.country_id": "CH" }),
        );
    }
    has(
        &rows[0],
        json!({
            "type": "page_view", "url": "https://shop.example/", "title": "Shop", "referrer": "https://search.example/",
            "session_id": "99", "duration_ms": 0,
        }),
    );
    has(
        &rows[0]["properties"],
        json!({ "engagement_time_msec": "100", "colour": "red", "debug_mode": null }),
    );
    has(
        &rows[1],
        json!({ "name": "user_engagement", "duration_ms": 2500, "scroll_depth": 90, "non_interactive": 1 }),
    );
    has(
        &rows[2],
        json!({
            "name": "purchase", "order_id": "T", "total_minor": 4250, "tax_minor": 250, "shipping_minor": 400, "coupon": "SUMMER",
            "currency": "USD", "item_product_id": ["7"], "item_name": ["Mug"], "item_variant_id": ["blue"],
            "item_brand": ["Kiln"], "item_category": ["Cups"], "item_price": ["12.5"], "item_quantity": ["2"],
            "item_discount": ["1"], "non_interactive": 0,
        }),
    );
    assert_ne!(rows[2]["event_time"], rows[1]["event_time"]);
    has(&rows[3], json!({ "name": "refund", "order_id": "T", "total_minor": 1250 }));
    has(&rows[4]["properties"], json!({ "message": "no tea", "fatal": "true" }));
}

/// What tags send from pages.
#[tokio::test]
async fn queries_become_rows() {
    let service = Service::start().await;
    let page = "v=2&tid=demo-write-key&cid=1.2&sid=99&uid=u&ul=de-ch&sr=1600x1000&dl=https%3A%2F%2Fshop.example%2Fa&dt=A%20b&dr=https%3A%2F%2Fsearch.example%2F&_p=7&_s=1&_et=5";
    assert_eq!(
        post(
            &service,
            &format!("/g/collect?{page}&en=page_view&ep.colour=red&epn.size=4.5&up.tier=gold"),
            ""
        )
        .await
        .status,
        204
    );
    assert_eq!(
        service.get(&format!("/g/collect?{page}&en=scroll&epn.percent_scrolled=90")).await.status,
        204
    );
    let lines = "en=add_to_cart&cu=USD&epn.value=25&pr1=idmug~nmMug%20~~%201~pr12.5~qt2~k0a~v0b\r\nen=purchase&ep.transaction_id=T&cu=USD&epn.value=25&pr1=idmug~pr12.5~qt2&pr2=idtea~pr0\n_et=3\nen=page_view&dl=https%3A%2F%2Fshop.example%2Fb";
    assert_eq!(post(&service, &format!("/g/collect?{page}"), lines).await.status, 204);
    // Neither an event, nor a key that is known, nor anything at all.
    let tid = "tid=G-1&en=page_view&dl=https%3A%2F%2Fshop.example%2F";
    for query in [page, tid, "", "%ff=%00&&&==", "en=page_view&tid=demo-write-key"] {
        assert_eq!(post(&service, &format!("/g/collect?{query}"), "").await.status, 204, "{query}");
    }
    assert_eq!(
        (service.rejected("no_events"), service.rejected("unknown_key"), service.rejected("missing_field")),
        (3.0, 1.0, 1.0)
    );
    assert_eq!(post(&service, &format!("/k/{WRITE_KEY}/g/collect?{tid}"), "").await.status, 204);
    let rows = service.events();
    assert_eq!(rows.len(), 6, "{rows:#?}");
    let has = |row: &Value, wanted: Value| assert_row(row, &wanted);
    for row in &rows[..5] {
        has(
            row,
            json!({
                "visitor_id": "1.2", "session_id": "99", "user_id": "u", "title": "A b", "language": "de-ch", "screen_width": 1600,
                "referrer": "https://search.example/",
            }),
        );
    }
    has(&rows[0], json!({ "type": "page_view", "url": "https://shop.example/a" }));
    has(&rows[0]["properties"], json!({ "colour": "red", "size": "4.5", "user.tier": "gold" }));
    has(&rows[1], json!({ "name": "scroll", "scroll_depth": 90, "non_interactive": 1, "duration_ms": 5 }));
    has(
        &rows[2],
        json!({ "name": "add_to_cart", "value": 25.0, "currency": "USD", "item_name": ["Mug ~ 1"], "item_price": ["12.5"], "item_quantity": ["2"] }),
    );
    has(
        &rows[3],
        json!({ "name": "purchase", "order_id": "T", "total_minor": 2500, "item_product_id": ["mug", "tea"] }),
    );
    has(&rows[4], json!({ "type": "page_view", "url": "https://shop.example/b" }));
    has(&rows[5], json!({ "type": "page_view", "url": "https://shop.example/" }));
}

/// However the request around it is written.
#[tokio::test]
async fn an_order_is_found_however_it_is_wrapped() {
    let service = Service::start().await;
    let params = |id: &str| json!({ "transaction_id": id, "value": 50.5, "currency": "USD", "items": [{ "item_id": "a", "price": 50.5 }] });
    let order = |id: &str| json!({ "name": "purchase", "params": params(id) });
    let named = |name: &str| json!({ "name": name, "params": params("T") });
    let dirty = r#"{"transaction_id":"T","value":50.5,"currency":"USD","items":[{"item_id":"a","price":50.5}],"note":"\ud83d",}"#;
    let bodies = [
        json!({ "events": order("T") }).to_string(),
        json!({ "events": [{ "name": "purchase", "params": params("T").to_string() }] }).to_string(),
        json!({ "events": [{ "name": "purchase", "params": dirty }] }).to_string(),
        json!({ "events": [named(" purchase")] }).to_string(),
        json!({ "events": [named("purchase\n")] }).to_string(),
        json!({ "events": [named("\u{200b}purchase")] }).to_string(),
        format!(r#"{{"events":[{}],"events":[{}]}}"#, order("T"), order("U")),
        format!(r#"{{"events":[{}],"events":[{{"name":"x","params":{{"n":NaN}}}}]}}"#, order("T")),
    ];
    for body in bodies {
        let before = service.events().len();
        assert_eq!(post(&service, MP, body.clone()).await.status, 204, "{body}");
        let rows = service.events().split_off(before);
        assert_eq!(rows.len(), 1 + usize::from(body.contains("],\"events\"")), "{body}");
        let wanted =
            json!({ "name": "purchase", "order_id": "T", "total_minor": 5_050, "item_product_id": ["a"] });
        assert_row(&rows[0], &wanted);
    }
    assert_eq!(service.events().iter().filter(|row| row["order_id"] == "U").count(), 1);
}

#[tokio::test]
async fn a_line_without_a_name_adds_to_the_event_in_the_address() {
    let service = Service::start().await;
    let order = "v=2&tid=demo-write-key&cid=1.2&en=purchase&ep.transaction_id=T&epn.value=5&cu=USD";
    for (body, items) in [
        ("pr1=idA~pr5", json!(["A"])),
        ("pr1=idA~pr5\npr2=idB~pr0", json!(["A", "B"])),
        ("x=1", json!(null)),
        ("en=&x=1", json!(null)),
    ] {
        let before = service.events().len();
        assert_eq!(post(&service, &format!("/g/collect?{order}"), body).await.status, 204, "{body}");
        let rows = service.events().split_off(before);
        assert_eq!(rows.len(), 1, "{body}");
        let wanted =
            json!({ "name": "purchase", "order_id": "T", "total_minor": 500, "item_product_id": items });
        assert_row(&rows[0], &wanted);
    }
    let before = service.events().len();
    let lines = "en=scroll\n_et=3";
    assert_eq!(post(&service, &format!("/g/collect?{order}"), lines).await.status, 204);
    let names: Vec<_> = service.events()[before..].iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["purchase", "scroll"]);
}
