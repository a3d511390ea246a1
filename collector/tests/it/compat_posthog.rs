//! PostHog's protocol, well-formed and not.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::service::{Answer, KEPT, SECRET_KEY, Service, WRITE_KEY, assert_row};

const TIME: &str = "2026-10-31T12:00:00.000Z";

async fn post(service: &Service, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    service.send(service.client.post(format!("{}{path}", service.url)).body(body)).await
}

fn batch(events: &[Value]) -> String {
    json!({ "api_key": WRITE_KEY, "batch": events }).to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn uuid(number: usize) -> String {
    format!("0190a0b0-0000-7000-8000-{number:012}")
}

/// Every way in which a body has been wrapped, to every address.
#[tokio::test]
async fn bodies_are_unwrapped() {
    let service = Service::start().await;
    let event =
        json!({ "event": "seen", "distinct_id": "d", "uuid": uuid(1), "properties": { "token": WRITE_KEY } });
    let text = event.to_string();
    let base64 = STANDARD.encode(&text);
    let form: String = form_urlencoded::Serializer::new(String::new()).append_pair("data", &text).finish();
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("/e/", text.clone().into()),
        ("/e/?compression=gzip-js&ver=1.2", gzip(text.as_bytes())),
        ("/e", gzip(batch(std::slice::from_ref(&event)).as_bytes())),
        ("/e/?compression=base64", format!("data={}", base64.replace('+', "%2B").replace('=', "%3D")).into()),
        ("/i/v0/e/", form.clone().into()),
        ("/i/v0/e", format!("compression=gzip&data={}", base64.replace('+', "%2B")).into()),
        ("/capture/", base64.clone().into()),
        ("/capture", json!([event]).to_string().into()),
        ("/track/", format!("data={}", STANDARD.encode(gzip(text.as_bytes())).replace('+', " ")).into()),
        ("/engage/", format!("  {text}\n").into()),
        ("/batch/", batch(std::slice::from_ref(&event)).into()),
        ("/batch", json!({ "token": WRITE_KEY, "batch": [event] }).to_string().into()),
    ];
    let count = bodies.len();
    for (path, body) in bodies {
        let answer = post(&service, path, body).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({ "status": 1 })), "{path}");
    }
    // Of one image in a page, and with the key before the path.
    let answer = service.get(&format!("/e/?data={}", base64.replace('+', "%2B").replace('=', "%3D"))).await;
    assert_eq!(answer.status, 200);
    let keyless = json!({ "event": "seen", "uuid": uuid(1) }).to_string();
    assert_eq!(post(&service, &format!("/k/{WRITE_KEY}/e/"), keyless.clone()).await.status, 200);
    let bearer = service.client.post(format!("{}/batch/", service.url)).bearer_auth(WRITE_KEY).body(keyless);
    assert_eq!(service.send(bearer).await.status, 200);
    let rows = service.events();
    assert_eq!(rows.len(), count + 3);
    assert!(rows.iter().all(|row| row["name"] == "seen" && row["event_id"] == uuid(1)), "{rows:#?}");
}

/// Status and `code` of what is refused; only 5xx is sent again.
#[tokio::test]
async fn malformed_requests_are_told_so_once() {
    let service = Service::with(|config| config.limits.body_bytes_max = 300_000).await;
    let event = json!({ "event": "seen", "distinct_id": "d" });
    let bomb = gzip(&vec![b' '; 20 << 20]);
    let refused: Vec<(Vec<u8>, u16, &str)> = vec![
        ("".into(), 400, "not_json"),
        ("null".into(), 400, "not_json"),
        ("7".into(), 400, "not_json"),
        ("\"text\"".into(), 400, "not_json"),
        ("{\"batch\":[".into(), 400, "no_events"),
        (b"{\"event\":\"\xff\xfe\"}".to_vec(), 401, "invalid_api_key"),
        (vec![0, 1, 2, 3], 400, "not_json"),
        ("[".repeat(100_000).into(), 401, "invalid_api_key"),
        (format!("{}{}", "{\"a\":".repeat(40_000), "}".repeat(40_000)).into(), 401, "invalid_api_key"),
        ("data=%%%".into(), 400, "not_json"),
        (vec![0x1f, 0x8b, 0, 0], 400, "unsupported_encoding"),
        (gzip(b"{}")[..12].to_vec(), 400, "unsupported_encoding"),
        (bomb, 413, "body_too_large"),
        (vec![b'['; 300_001], 413, "body_too_large"),
        ("{\"api_key\":\"demo-write-key\",\"batch\":{}}".into(), 400, "wrong_type"),
        (batch(&[]).into(), 400, "no_events"),
        ("[]".into(), 400, "no_events"),
        (batch(&vec![event.clone(); 501]).into(), 413, "too_many_events"),
        (batch(&vec![json!(0); 1_001]).into(), 413, "too_many_events"),
        (event.to_string().into(), 401, "invalid_api_key"),
        (json!({ "api_key": "nobody", "batch": [event] }).to_string().into(), 401, "invalid_api_key"),
        (json!({ "api_key": 7, "batch": [event] }).to_string().into(), 401, "invalid_api_key"),
        // Of events that come to nothing the key is looked at as well.
        (
            json!({ "api_key": "nobody", "batch": [{ "event": "$snapshot" }] }).to_string().into(),
            401,
            "invalid_api_key",
        ),
    ];
    for (body, status, code) in refused {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = post(&service, "/e/", body).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{shown}");
        assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{shown}");
    }
    // Events of a wrong shape, each beside a good one.
    let page = |url: Value| json!({ "event": "$pageview", "properties": { "$current_url": url } });
    let heat = |data: Value| json!({ "event": "$$heatmap", "properties": { "$heatmap_data": data } });
    let click = |x: Value| heat(json!({ "https://a.example/": [{ "type": "click", "x": x, "y": 1 }] }));
    let rejected: Vec<(Value, &str)> = vec![
        (json!(null), "missing_field"),
        (json!("text"), "missing_field"),
        (json!({}), "missing_field"),
        (json!({ "event": 7 }), KEPT),
        (json!({ "event": "" }), "missing_field"),
        (json!({ "event": "a", "timestamp": "yesterday" }), KEPT),
        (json!({ "event": "a", "timestamp": [[[]]] }), KEPT),
        (json!({ "event": "a", "distinct_id": "d".repeat(9_000) }), KEPT),
        (json!({ "event": "a", "properties": { "b": "c".repeat(9_000) } }), KEPT),
        (json!({ "event": "a", "properties": { "b".repeat(9_000): { "c": 1 } } }), KEPT),
        (page(json!("shop.example")), KEPT),
        (page(json!(7)), "wrong_type"),
        (json!({ "event": "$pageleave" }), "missing_field"),
        (heat(json!(7)), "missing_field"),
        (click(json!("left")), "wrong_type"),
        (click(json!(-1)), KEPT),
        (click(json!(null)), "missing_field"),
        (json!({ "event": "purchase", "properties": { "value": 3 } }), "empty_order_id"),
        (json!({ "event": "purchase", "properties": { "order_id": "a", "value": -3 } }), KEPT),
        (json!({ "event": "purchase", "properties": { "order_id": "a", "value": "much" } }), KEPT),
        (json!({ "event": "purchase", "properties": { "order_id": "a", "currency": "gold" } }), KEPT),
        (json!({ "event": "Order Completed", "properties": { "order_id": "a", "products": [3] } }), KEPT),
        (json!({ "event": "Product Added", "properties": { "product_id": "p", "quantity": -1 } }), KEPT),
    ];
    for (event, reason) in rejected {
        let (before, stored) = (service.rejected(reason), service.rows());
        if reason == KEPT {
            let answer = post(&service, "/batch/", batch(&[event.clone(), json!({ "event": "good" })])).await;
            assert_eq!((answer.status, service.rows() - stored), (200, 2), "{event}");
            continue;
        }
        let answer = post(&service, "/batch/", batch(&[event.clone(), json!({ "event": "good" })])).await;
        assert_eq!(answer.status, 200, "{event}");
        assert_eq!(service.rejected(reason) - before, 1.0, "{reason}: {event}");
        // Alone it is refused, and not to be sent again.
        let answer = post(&service, "/batch/", batch(std::slice::from_ref(&event))).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (400, Some(reason)), "{event}");
    }
    // What does not matter costs an event nothing.
    let odd = json!({
        "event": "odd", "distinct_id": 7, "timestamp": TIME, "sent_at": "soon", "properties": {
            "$viewport_width": "wide", "$screen_height": -4, "$ip": "here", "$current_url": "app://start", "$session_id": {},
            "$is_identified": "yes", "$heatmap_data": null, "$groups": [1], "value": "high", "deep": [[[[[[[[[[1]]]]]]]]]],
            "$exception_list": 7, "$set": [],
        },
    });
    assert_eq!(post(&service, "/e/?sent_at=later", batch(&[odd])).await.status, 200);
    let rows = service.events();
    let row = rows.last().unwrap();
    assert_eq!(
        (&row["name"], &row["visitor_id"], &row["user_id"]),
        (&json!("odd"), &json!("7"), &json!("7"))
    );
    assert_eq!(
        row["properties"],
        json!({ "$groups": "[1]", "value": "high", "deep": "[[[[[[[[[[1]]]]]]]]]]" })
    );
}

/// posthog-js says how long ago an event happened, which is another number each time it sends the event.
#[tokio::test]
async fn an_offset_moves_no_key() {
    let service = Service::start().await;
    let day_ms = 86_400_000;
    for offset in [5_000, 11_000, 2 * day_ms] {
        let event = json!({ "event": "seen", "distinct_id": "d", "uuid": uuid(1), "offset": offset });
        assert_eq!(post(&service, "/batch/", batch(&[event])).await.status, 200);
        let row = service.events().pop().unwrap();
        assert_eq!(row["key_date"], "2024-07-11", "the id's own date");
        let ms = |field: &str| {
            let text = row[field].as_str().unwrap().replace(' ', "T");
            format!("{text}Z").parse::<jiff::Timestamp>().unwrap().as_millisecond()
        };
        assert_eq!(ms("received_at") - ms("event_time"), offset);
    }
    let heat = json!({ "https://a.example/": [{ "type": "click", "x": 1, "y": 1 }, { "type": "click", "x": 900, "y": 1 }] });
    let event = json!({ "event": "$$heatmap", "uuid": uuid(2), "offset": 9_000, "properties": { "$heatmap_data": heat } });
    assert_eq!(post(&service, "/batch/", batch(&[event])).await.status, 200);
    let clicks = service.clicks();
    assert_eq!(clicks.len(), 2);
    assert!(clicks.iter().all(|click| click.get("key_date").is_none_or(Value::is_null)));
    assert!(
        clicks[0]["event_time"].as_str() < clicks[1]["event_time"].as_str(),
        "apart, as those with a time"
    );
}

/// posthog-js sends again what got 5xx, and nothing else.
#[tokio::test]
async fn what_should_come_back_gets_503() {
    let service = Service::start().await;
    let send = |events: usize| {
        let event = json!({ "event": "a", "distinct_id": "d" });
        post(
            &service,
            "/e/",
            json!({ "api_key": "slow-write-key", "batch": vec![event; events] }).to_string(),
        )
    };
    assert_eq!(send(500).await.status, 200);
    let answer = send(60).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (503, Some("rate_limited")));
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(service.rejected("rate_limited"), 1.0);
}

/// Every event of posthog-js's own, with what it becomes.
#[tokio::test]
async fn events_become_rows() {
    let service = Service::start().await;
    let common = json!({
        "$device_id": "device", "distinct_id": "device", "$session_id": "session", "$window_id": "window",
        "$current_url": "https://shop.example/a?utm_source=x", "$pageview_id": uuid(1), "$viewport_width": 1200,
        "$viewport_height": 800, "$screen_width": 1600, "$screen_height": 1000, "$browser_language": "de-CH",
        "$timezone": "Europe/Zurich", "$referrer": "https://search.example/", "$lib": "web", "$sdk_debug_x": 1,
        "token": WRITE_KEY, "gclid": null, "$raw_user_agent": "Mozilla/5.0 (a visitor)", "$is_identified": false,
    });
    let event = |name: &str, number: usize, more: Value| {
        let mut properties = common.clone();
        properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "event": name, "uuid": uuid(number), "timestamp": TIME, "properties": properties })
    };
    let identified = json!({ "distinct_id": "user", "$is_identified": true, "$anon_distinct_id": "device" });
    let mut identify = event("$identify", 3, identified);
    identify["$set"] = json!({ "plan": "gold", "$browser": "Chrome" });
    let frames = json!([
        { "filename": "outer.js", "function": "outer", "lineno": 1, "colno": 2 },
        { "filename": "inner.js", "function": "inner", "lineno": 3, "colno": 4 },
    ]);
    let next = json!({
        "$current_url": "https://shop.example/b?q=1", "$pageview_id": uuid(2), "title": "B", "$prev_pageview_id": uuid(1),
        "$prev_pageview_pathname": "/a", "$prev_pageview_duration": 1.25, "$prev_pageview_max_content_percentage": 0.505,
    });
    let sent = batch(&[
        event("$pageview", 1, json!({ "title": "A" })),
        event("$pageview", 2, next),
        identify,
        event("$create_alias", 4, json!({ "alias": "old" })),
        event(
            "$groupidentify",
            5,
            json!({ "$group_type": "firm", "$group_key": "f", "$group_set": { "seats": 3 } }),
        ),
        event("$screen", 6, json!({ "$screen_name": "Start" })),
        event(
            "$autocapture",
            7,
            json!({ "$event_type": "click", "$el_text": "ä".repeat(1_000), "$elements": [1] }),
        ),
        event(
            "$exception",
            8,
            json!({ "$exception_list": [
            { "type": "TypeError", "value": "no tea", "mechanism": { "handled": false }, "stacktrace": { "frames": frames } },
        ] }),
        ),
        event(
            "$web_vitals",
            9,
            json!({ "$web_vitals_LCP_value": 72.5, "$web_vitals_LCP_event": {}, "$web_vitals_CLS_value": 0 }),
        ),
        event(
            "bought",
            10,
            json!({ "value": 3, "nested": { "a": { "b": true } }, "$feature/x": "on", "utm_source": "x" }),
        ),
        event("$snapshot", 11, json!({ "$snapshot_data": [1, 2] })),
        event(
            "$pageleave",
            12,
            json!({ "$prev_pageview_id": uuid(2), "$prev_pageview_duration": 9e9, "$prev_pageview_max_scroll_percentage": 7 }),
        ),
    ]);
    let answer = post(&service, "/e/", sent).await;
    assert_eq!(answer.status, 200);
    assert_eq!(service.events().len(), 13, "one page was left, two vitals known, the recording is dropped");
    let rows = service.events();
    for row in &rows {
        assert_eq!(row["visitor_id"], "device", "{row:#}");
        assert_eq!(row["session_id"], "session");
        assert_eq!((&row["viewport_width"], &row["screen_height"]), (&json!(1200), &json!(1000)), "{row:#}");
        assert_eq!((&row["language"], &row["timezone"]), (&json!("de-CH"), &json!("Europe/Zurich")));
        // Not with a key that stands in pages.
        assert_ne!(row["user_agent"], "Mozilla/5.0 (a visitor)");
    }
    let of = |number: usize| rows.iter().find(|row| row["event_id"] == uuid(number)).unwrap();
    let has = |row: &Value, wanted: Value| assert_row(row, &wanted);
    has(
        of(1),
        json!({ "type": "page_view", "title": "A", "page_view_id": uuid(1), "referrer": "https://search.example/" }),
    );
    has(of(2), json!({ "type": "page_view", "title": "B", "page_view_id": uuid(2), "duration_ms": 0 }));
    let left = rows.iter().find(|row| row["duration_ms"] == 1250).unwrap();
    has(
        left,
        json!({ "type": "page_view", "page_view_id": uuid(1), "url": "https://shop.example/a", "scroll_depth": 51 }),
    );
    has(of(12), json!({ "page_view_id": uuid(2), "duration_ms": u32::MAX, "scroll_depth": 100 }));
    has(of(3), json!({ "name": "identify", "user_id": "user", "non_interactive": 1 }));
    has(&of(3)["properties"], json!({ "plan": "gold", "previous_id": "device", "$browser": null }));
    has(of(4), json!({ "name": "alias", "user_id": "", "non_interactive": 1 }));
    has(&of(4)["properties"], json!({ "alias": "old" }));
    has(of(5), json!({ "name": "group", "non_interactive": 1 }));
    has(&of(5)["properties"], json!({ "$group_type": "firm", "$group_key": "f", "seats": "3" }));
    has(of(6), json!({ "name": "screen_view", "label": "Start", "non_interactive": 1 }));
    has(of(7), json!({ "name": "$autocapture", "non_interactive": 1 }));
    has(
        &of(7)["properties"],
        json!({ "$event_type": "click", "$el_text": "ä".repeat(500), "$elements": null }),
    );
    has(of(8), json!({ "name": "exception", "non_interactive": 1 }));
    let stack = "at inner (inner.js:3:4)\nat outer (outer.js:1:2)";
    has(
        &of(8)["properties"],
        json!({
            "type": "TypeError", "message": "no tea", "fatal": "true", "source": "inner.js", "line": "3", "column": "4",
            "stack": stack,
        }),
    );
    let mut vitals: Vec<_> = rows.iter().filter(|row| row["name"] == "web_vitals").collect();
    vitals.sort_by_key(|row| row["label"].to_string());
    assert_eq!(vitals.len(), 2);
    has(vitals[0], json!({ "label": "CLS", "value": 0.0, "non_interactive": 1 }));
    has(vitals[1], json!({ "label": "LCP", "value": 72.5, "non_interactive": 1 }));
    has(of(10), json!({ "name": "bought", "value": 3.0, "non_interactive": 0, "user_id": "" }));
    assert_eq!(
        of(10)["properties"],
        json!({ "$lib": "web", "$window_id": "window", "nested.a.b": "true", "$feature/x": "on", "utm_source": "x" })
    );
}

/// Clicks: of one time each, unless there was rage.
#[tokio::test]
async fn heatmaps_become_clicks() {
    let service = Service::start().await;
    let point = |kind: &str, x: i32, y: i32| json!({ "x": x, "y": y, "target_fixed": y == 9, "type": kind });
    let data = json!({
        "https://shop.example/calm": [
            point("click", 10, 20), point("mousemove", 1, 1), point("click", 10, 20), point("click", 10, 20), point("click", 500, 9),
        ],
        "https://shop.example/rage": [
            point("click", 10, 20), point("click", 12, 20), point("rageclick", 12, 22), point("click", 12, 22), point("deadclick", 400, 20),
        ],
    });
    let event = json!({
        "event": "$$heatmap", "uuid": uuid(1), "timestamp": TIME, "distinct_id": "d",
        "properties": { "$heatmap_data": data, "$viewport_width": 1200, "$viewport_height": 800, "$session_id": "s" },
    });
    // Sent again it is the same clicks.
    for _ in 0..2 {
        assert_eq!(post(&service, "/e/", batch(std::slice::from_ref(&event))).await.status, 200);
    }
    assert!(service.events().is_empty());
    let rows = service.clicks();
    assert_eq!(rows.len(), 16);
    let ids: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 8);
    let of = |page: &str| -> Vec<_> {
        let url = format!("https://shop.example/{page}");
        rows[..8].iter().filter(|row| row["url"] == url.as_str()).collect()
    };
    let (calm, rage) = (of("calm"), of("rage"));
    let gaps = |rows: &[&Value]| rows.windows(2).map(|two| ms(two[1]) - ms(two[0])).collect::<Vec<_>>();
    assert_eq!(gaps(&calm), [501, 501, 501]);
    assert_eq!(gaps(&rage), [0, 0, 501]);
    assert_eq!(calm[3]["properties"], json!({ "target_fixed": "true" }));
    assert_eq!(rage[3]["properties"], json!({ "dead": "true" }));
    let first = calm[0];
    assert_eq!((&first["x"], &first["y"], &first["page_width"]), (&json!(10), &json!(20), &json!(1200)));
    assert_eq!((&first["visitor_id"], &first["session_id"]), (&json!("d"), &json!("s")));

    // More than anybody clicks.
    let many = json!({ "https://shop.example/": vec![point("click", 1, 1); 5_000] });
    let event = json!({ "event": "$$heatmap", "uuid": uuid(2), "properties": { "$heatmap_data": many } });
    assert_eq!(post(&service, "/e/", batch(&[event])).await.status, 200);
    assert_eq!(service.clicks().len(), 16 + 100);
}

fn ms(row: &Value) -> i64 {
    let time = row["event_time"].as_str().unwrap();
    format!("{time}Z").parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Who an event is about; without Postgres there is no salt for a derived visitor.
#[tokio::test]
async fn visitors_and_users_are_told_apart() {
    let service = Service::start().await;
    let people = [
        (json!({ "$device_id": "d", "distinct_id": "d" }), ("d", "")),
        (json!({ "$device_id": "d", "distinct_id": "u", "$is_identified": true }), ("d", "u")),
        (json!({ "$device_id": "d", "distinct_id": "old", "$is_identified": false }), ("d", "")),
        (json!({ "distinct_id": "u", "$is_server": true }), ("u", "u")),
        // As Mixpanel's clients say that nobody has signed in.
        (json!({ "$device_id": "d", "distinct_id": "$device:d" }), ("d", "")),
        (json!({ "distinct_id": "$device:d" }), ("$device:d", "")),
        (json!({ "distinct_id": "u", "$process_person_profile": false }), ("u", "")),
        (json!({ "$device_id": "$posthog_cookieless", "distinct_id": "$posthog_cookieless" }), ("", "")),
        (json!({}), ("", "")),
    ];
    for (number, (properties, _)) in people.iter().enumerate() {
        let event = json!({ "event": format!("a{number}"), "properties": properties });
        assert_eq!(post(&service, "/e/", batch(&[event])).await.status, 200);
    }
    let rows = service.events();
    assert_eq!(rows.len(), people.len());
    for ((_, (visitor, user)), row) in people.iter().zip(&rows) {
        assert_row(row, &json!({ "visitor_id": visitor, "user_id": user }));
    }
    // A server may speak for somebody.
    let event = json!({
        "event": "served", "distinct_id": "u", "properties": { "$raw_user_agent": "Mozilla/5.0 (a visitor)", "$ip": "203.0.113.7" },
    });
    let body = json!({ "api_key": SECRET_KEY, "batch": [event] }).to_string();
    assert_eq!(post(&service, "/batch/", body).await.status, 200);
    let rows = service.events();
    let served = rows.last().unwrap();
    assert_eq!((&served["trusted"], &served["user_agent"]), (&json!(1), &json!("Mozilla/5.0 (a visitor)")));
}

/// What clients ask beside sending is answered, so that they leave off what there is none of.
#[tokio::test]
async fn questions_are_answered() {
    let service = Service::start().await;
    let config = service.get("/array/phc_x/config").await;
    assert_eq!((config.status, &config.body["heatmaps"]), (200, &json!(true)));
    for off in ["hasFeatureFlags", "sessionRecording", "captureDeadClicks"] {
        assert_eq!(config.body[off], false, "{off}");
    }
    assert!(config.body.get("surveys").is_none(), "told that there are none, posthog-js loads their script");
    let script = async |token: &str| {
        let url = format!("{}/array/{token}/config.js", service.url);
        let answer = service.client.get(url).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/javascript; charset=utf-8");
        answer.text().await.unwrap()
    };
    assert!(script("phc_x").await.contains("_POSTHOG_REMOTE_CONFIG[\"phc_x\"]={config:{"));
    let hostile = script("%22%5D%3Balert(1)%2F%2F").await;
    assert!(hostile.contains("_POSTHOG_REMOTE_CONFIG[\"\"]") && !hostile.contains("alert"), "{hostile}");
    let flags = post(&service, "/flags/?v=2", "{\"token\":\"phc_x\"}").await;
    assert_eq!(
        (flags.status, &flags.body["flags"], &flags.body["errorsWhileComputingFlags"]),
        (200, &json!({}), &json!(false))
    );
    for path in ["/decide/?v=3", "/s/", "/i/v1/logs?token=phc_x"] {
        assert_eq!(post(&service, path, "[1]").await.status, 200, "{path}");
    }
    for path in [
        "/api/surveys/?token=phc_x",
        "/api/feature_flag/local_evaluation?token=phc_x",
        "/api/early_access_features/",
    ] {
        assert_eq!(service.get(path).await.status, 200, "{path}");
    }
    let page = "https://shop.example";
    for path in ["/static/1.449.2/dead-clicks-autocapture.js", "/static/recorder.js?v=1.449.2"] {
        let request = service.client.get(format!("{}{path}", service.url)).header("origin", page);
        let script = service.send(request).await;
        assert_eq!((script.status, &script.body), (200, &Value::Null), "{path}");
        assert_eq!(script.headers["content-type"], "text/javascript; charset=utf-8", "{path}");
        assert_eq!(script.headers["cache-control"], "public, max-age=3600", "{path}");
        assert_eq!(script.headers["access-control-allow-origin"], page, "{path}");
    }
    // A page is not left without a word when it asks here for posthog-js itself.
    for path in ["/static/array.js", "/static/1.449.2/array.full.js", "/array/phc_x/array.js"] {
        assert_eq!(service.get(path).await.status, 404, "{path}");
    }
    assert!(!service.topic_dir(millrace_schemas::topic::EVENTS).exists() || service.events().is_empty());
}

/// Of a person: PostHog's clients tell it in an event, Mixpanel's in a record without a name.
#[tokio::test]
async fn traits_are_kept() {
    let service = Service::start().await;
    let once = json!({ "plan": "free", "first_page": "/a", "$initial_referrer": "$direct" });
    let said = json!({ "$set": { "plan": "gold" }, "$set_once": once });
    let identify = json!({ "event": "$identify", "distinct_id": "u", "properties": said });
    assert_eq!(post(&service, "/e/", batch(&[identify])).await.status, 200);
    let record = json!({
        "$token": WRITE_KEY, "$distinct_id": "$device:d", "$device_id": "d", "$set_once": { "plan": "free" },
    });
    let record = json!([record]).to_string();
    let form: String = form_urlencoded::Serializer::new(String::new()).append_pair("data", &record).finish();
    let answer = post(&service, "/engage/?verbose=1&ip=1", form).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({ "status": 1 })));
    let rows = service.events();
    assert_eq!(rows[0]["properties"], json!({ "plan": "gold", "first_page": "/a" }));
    let wanted = json!({ "name": "identify", "visitor_id": "d", "user_id": "", "non_interactive": 1 });
    assert_row(&rows[1], &wanted);
    assert_eq!(rows[1]["properties"], json!({ "plan": "free" }));
}

#[tokio::test]
async fn an_event_is_not_lost_for_what_is_beside_the_point() {
    let service = Service::start().await;
    let flags: serde_json::Map<_, _> =
        (0..120).map(|number| (format!("$feature/{number:03}"), json!(true))).collect();
    let with = |more: Value| {
        let mut properties = flags.clone();
        properties.extend(more.as_object().unwrap().clone());
        properties
    };
    let error = json!({ "$exception_list": [{ "type": "TypeError", "value": "no tea" }] });
    let list = json!({ "items": ["a", "b"], "value": "up" });
    let sent = batch(&[
        json!({ "event": "$exception", "distinct_id": "d", "properties": with(error) }),
        json!({ "event": "$identify", "distinct_id": "d", "properties": with(json!({ "$anon_distinct_id": "a" })) }),
        json!({ "event": "list_sorted", "distinct_id": "d", "properties": list }),
        json!({ "event": "purchase", "distinct_id": "d", "properties": { "order_id": "o", "value": 3, "currency": "eur" } }),
    ]);
    assert_eq!(post(&service, "/e/", sent).await.status, 200);
    let rows = service.events();
    let names: Vec<_> = rows.iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["exception", "identify", "list_sorted", "purchase"]);
    assert_eq!(
        (&rows[0]["properties"]["type"], &rows[0]["properties"]["message"]),
        (&json!("TypeError"), &json!("no tea"))
    );
    assert_eq!(rows[1]["properties"]["previous_id"], "a", "what a decoder says itself has room");
    assert_eq!(rows[2]["properties"], json!({ "items": "[\"a\",\"b\"]", "value": "up" }));
    assert_eq!((&rows[3]["currency"], &rows[3]["total_minor"]), (&json!("EUR"), &json!(300)));
}

/// As PostHog's documentation writes them; what it does not name stays as it is.
#[tokio::test]
async fn its_specification_of_commerce_is_understood() {
    let service = Service::start().await;
    let product = json!({ "product_id": "p", "currency": "usd", "price": 30, "position": 3 });
    let sent: Vec<_> = [
        ("Product Viewed", product.clone()),
        ("Product Clicked", product),
        ("Cart Viewed", json!({ "cart_id": "c", "products": [{ "product_id": "p" }] })),
        ("Products Searched", json!({ "query": "blue roses", "$el_text": "x".repeat(2_000) })),
        ("Product Reviewed", json!({ "product_id": "p", "rating": "5" })),
        ("Order Updated", json!({ "order_id": "o", "total": 3 })),
        ("order completed", json!({ "cart_id": "c" })),
        ("Completed Order", json!({ "steps": 3 })),
        ("Signed Up", json!({})),
    ]
    .into_iter()
    .map(|(name, properties)| json!({ "event": name, "distinct_id": "d", "properties": properties }))
    .collect();
    assert_eq!(post(&service, "/e/", batch(&sent)).await.status, 200);
    let rows = service.events();
    let names: Vec<_> = rows.iter().map(|row| row["name"].clone()).collect();
    assert_eq!(
        names,
        [
            "view_item",
            "select_item",
            "view_cart",
            "search",
            "review",
            "order_updated",
            "order completed",
            "Completed Order",
            "Signed Up"
        ]
    );
    for row in &rows[..3] {
        assert_eq!(row["item_product_id"], json!(["p"]), "{row}");
    }
    assert_eq!((&rows[0]["currency"], &rows[0]["properties"]), (&json!("USD"), &json!({ "position": "3" })));
    assert_eq!(rows[3]["properties"]["search_term"], "blue roses");
    assert_eq!(rows[3]["properties"]["$el_text"].as_str().unwrap().len(), 1_000);
    assert_eq!((&rows[4]["item_product_id"], &rows[4]["value"]), (&json!(["p"]), &json!(5)));
    assert_eq!(rows[6]["properties"], json!({ "cart_id": "c" }));
}

#[tokio::test]
async fn refunds_of_some_products_are_several() {
    let service = Service::start().await;
    let refund = |name: &str, number: usize, more: Value| {
        let mut properties = json!({ "order_id": "o", "total": 3 });
        properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "event": name, "distinct_id": "d", "uuid": uuid(number), "properties": properties })
    };
    let some = json!({ "products": [{ "product_id": "p" }] });
    let named = json!({ "products": [{ "product_id": "p" }], "refund_id": "r" });
    let sent = batch(&[
        refund("Order Refunded", 1, some.clone()),
        refund("Order Refunded", 2, named),
        refund("Order Refunded", 3, json!({})),
        refund("refund", 4, some.clone()),
        refund("Refunded Order", 5, some),
    ]);
    assert_eq!(post(&service, "/e/", sent).await.status, 200);
    let ids: Vec<_> = service.events().iter().map(|row| row.get("refund_id").cloned()).collect();
    let own = |number| Some(json!(uuid(number)));
    assert_eq!(ids, [own(1), Some(json!("r")), None, own(4), own(5)]);
}

/// The time spent on a page is not that of the next one.
#[tokio::test]
async fn a_page_that_is_not_named_is_not_left() {
    let service = Service::start().await;
    let next = |more: Value| {
        let mut properties = json!({
            "$current_url": "https://shop.example/b", "$pageview_id": uuid(2), "$prev_pageview_id": uuid(1),
            "$prev_pageview_duration": 1.25,
        });
        properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "event": "$pageview", "distinct_id": "d", "properties": properties })
    };
    let sent = batch(&[next(json!({})), next(json!({ "$prev_pageview_pathname": "/a" }))]);
    assert_eq!(post(&service, "/e/", sent).await.status, 200);
    let seen: Vec<_> =
        service.events().iter().map(|row| (row["url"].clone(), row["page_view_id"].clone())).collect();
    let at = |path: &str, number: usize| (json!(format!("https://shop.example{path}")), json!(uuid(number)));
    assert_eq!(seen, [at("/b", 2), at("/b", 2), at("/a", 1)]);
}

/// Old clients and programs wrap bodies in further ways.
#[tokio::test]
async fn base64_of_any_kind_is_unwrapped() {
    let service = Service::start().await;
    let event =
        json!({ "event": "seen", "distinct_id": "d", "properties": { "token": WRITE_KEY, "t": "~~~???ÿþ" } });
    let base64 = STANDARD.encode(event.to_string());
    assert!(base64.contains('/') && base64.contains('+'), "{base64}");
    let lines: Vec<_> = base64.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let lines = lines.join("\r\n");
    let url_safe = base64.replace('+', "-").replace('/', "_").replace('=', "");
    let escaped = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    for text in [&lines, &url_safe, &base64] {
        let form = format!("verbose=1&data={}", escaped(text));
        for body in [text.clone(), format!("data={}", escaped(text)), form] {
            let answer = post(&service, "/track/", body.clone()).await;
            assert_eq!(answer.status, 200, "{body}");
            assert_eq!(service.events().pop().unwrap()["properties"]["t"], "~~~???ÿþ", "{body}");
        }
        assert_eq!(service.get(&format!("/e/?data={}", escaped(text))).await.status, 200, "{text}");
    }
    assert_eq!(service.events().len(), 12);
    // Also as JSON, of which a form is no part.
    let plain = format!("\u{feff}{}", event.to_string().replace("~~~", "&data=7"));
    assert_eq!(post(&service, "/e/", plain).await.status, 200);
    assert_eq!(service.events().pop().unwrap()["properties"]["t"], "&data=7???ÿþ");
}

#[tokio::test]
async fn an_order_is_found_however_it_is_written() {
    let service = Service::start().await;
    let order = json!({ "order_id": {}, "transaction_id": "T", "value": 50.5, "currency": "USD", "products": [{ "product_id": "a" }] });
    let named = |name: &str| json!({ "event": name, "distinct_id": "d", "properties": order });
    let text = json!({ "event": "purchase", "distinct_id": "d", "properties": order.to_string() });
    let lists = format!(
        r#"{{"api_key":"{WRITE_KEY}","batch":[{}],"batch":[{}]}}"#,
        named("purchase"),
        named("Order Completed")
    );
    for (body, count) in [
        (batch(&[named(" purchase ")]), 1),
        (batch(&[named("Order Completed\n")]), 1),
        (batch(&[text]), 1),
        (lists, 2),
    ] {
        let before = service.events().len();
        assert_eq!(post(&service, "/batch/", body.clone()).await.status, 200, "{body}");
        let rows = service.events().split_off(before);
        assert_eq!(rows.len(), count, "{body}");
        for row in &rows {
            let wanted = json!({ "name": "purchase", "order_id": "T", "total_minor": 5_050, "item_product_id": ["a"] });
            assert_row(row, &wanted);
        }
    }
}
