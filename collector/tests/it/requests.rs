//! Every status and reason, each with its count; and that a bad event costs its neighbours nothing.

use serde_json::json;

use crate::service::{Answer, SECRET_KEY, Service};

const GOOD: &str = r#"{"type":"event","name":"test"}"#;

/// Posts an event between two good ones: only it may be rejected, with this reason.
async fn check(service: &Service, event: &str, reason: &str) {
    let before = service.rejected(reason);
    let accepted = r#"millrace_collector_events_accepted_total{type="event"}"#;
    let accepted_before = service.metric(accepted);
    for body in [
        format!("[{GOOD},{event},{GOOD}]"),
        format!(r#"{{"events":[{GOOD},{event},{GOOD}],"sent_at":null}}"#),
    ] {
        let answer = service.post(body).await;
        assert_eq!(answer.status, 202, "{event}: {answer:?}");
        assert_eq!(answer.reasons(), [(1, reason)], "{event}: {answer:?}");
        assert_eq!(answer.body["accepted"], 2);
    }
    assert_eq!(service.rejected(reason) - before, 2.0, "{event}");
    assert_eq!(service.metric(accepted) - accepted_before, 4.0, "{event}");
}

fn assert_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.error(), (status, reason), "{answer:?}");
    assert!(!answer.body["detail"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_event_costs_its_neighbours_nothing() {
    let service = Service::start().await;
    let service = &service;
    let event = |fields: &str| format!(r#"{{"type":"event","name":"test",{fields}}}"#);
    let purchase = |fields: &str| event(fields).replace("test", "purchase");
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);

    check(service, "NaN", "malformed_json").await;
    check(service, &event(r#""value":NaN"#), "malformed_json").await;
    check(service, &event(r#""value":1e999"#), "out_of_range").await;
    check(service, &event(r#""value":123456789012345678901234567890"#), "out_of_range").await;
    check(service, &event(r#""label":"\ud800""#), "malformed_json").await;
    check(service, &event(r#""label":"\udc00\ud800""#), "malformed_json").await;
    check(service, &event(&format!(r#""extra":{}"#, &deep[90_000..110_000])), "too_deep").await;
    check(service, &event(r#""extra":[[[[[[[[1]]]]]]]]"#), "too_deep").await;
    check(service, &event(r#""label":"a","label":"a""#), "duplicate_key").await;
    check(service, &event(r#""properties":{"a":1,"a":2}"#), "duplicate_key").await;
    check(service, &event(r#""items":[{"price":1,"price":2}]"#), "duplicate_key").await;
    check(service, "42", "not_an_object").await;
    check(service, "[]", "not_an_object").await;
    check(service, "null", "not_an_object").await;
    check(service, "{}", "missing_field").await;
    check(service, r#"{"type":"page_view"}"#, "missing_field").await;
    check(service, r#"{"type":"event","name":""}"#, "missing_field").await;
    check(service, r#"{"type":"click","url":"https://a.example/","x":1}"#, "missing_field").await;
    check(service, r#"{"type":"pageview"}"#, "unknown_type").await;
    check(service, r#"{"type":7}"#, "wrong_type").await;
    check(service, &event(r#""user_id":7"#), "wrong_type").await;
    check(service, &event(r#""properties":{"a":{}}"#), "wrong_type").await;
    check(service, &event(r#""properties":[]"#), "wrong_type").await;
    check(service, &event(r#""items":{}"#), "wrong_type").await;
    check(service, &event(r#""items":[1]"#), "wrong_type").await;
    check(service, &event(r#""interactive":"no""#), "wrong_type").await;
    check(service, &event(r#""value":"much""#), "wrong_type").await;
    check(service, &event(r#""sequence":-1"#), "out_of_range").await;
    check(service, &event(r#""viewport_width":70000"#), "out_of_range").await;
    check(service, r#"{"type":"page_view","url":"https://a.example/","scroll_depth":101}"#, "out_of_range")
        .await;
    check(service, &event(&format!(r#""label":"{}""#, "x".repeat(8193))), "too_long").await;
    check(service, &event(&format!(r#""referrer":"{}""#, "x".repeat(4097))), "too_long").await;
    let many: Vec<_> = (0..101).map(|index| format!(r#""{index}":1"#)).collect();
    check(service, &event(&format!(r#""properties":{{{}}}"#, many.join(","))), "too_many").await;
    check(service, &event(&format!(r#""items":[{}{{}}]"#, "{},".repeat(200))), "too_many").await;
    check(service, &event(&format!(r#""extra":"{}""#, "x".repeat(65_536))), "event_too_large").await;
    check(service, &event(r#""event_id":"7""#), "invalid_event_id").await;
    check(service, &event(r#""event_id":"00000000-0000-0000-0000-000000000000""#), "invalid_event_id").await;
    check(service, &event(r#""timestamp":"yesterday""#), "invalid_timestamp").await;
    check(service, &event(r#""timestamp":1e300"#), "invalid_timestamp").await;
    check(service, &event(r#""sent_at":true"#), "invalid_timestamp").await;
    check(service, r#"{"type":"page_view","url":"/relative"}"#, "invalid_url").await;
    check(service, &event(r#""items":[{"price":-0.01}]"#), "negative_amount").await;
    check(service, &event(r#""items":[{"quantity":-1}]"#), "negative_amount").await;
    check(service, &event(r#""tax":"-1""#), "negative_amount").await;
    check(service, &purchase(r#""order_id":"1","value":-1"#), "negative_amount").await;
    check(service, &event(r#""currency":"usd""#), "unknown_currency").await;
    check(service, &purchase(r#""order_id":"""#), "empty_order_id").await;
    check(service, r#"{"type":"event","name":"Order Refunded"}"#, "empty_order_id").await;
}

#[tokio::test]
async fn amounts_with_a_write_key_have_a_ceiling_and_a_servers_have_none() {
    let service = Service::start().await;
    let event = |name: &str, fields: &str| format!(r#"{{"type":"event","name":"{name}",{fields}}}"#);
    let order = |fields: &str| event("purchase", &format!(r#""order_id":"1",{fields}"#));
    let refused = [
        order(r#""value":92000000000000000"#),
        order(r#""value":1000000.01,"currency":"USD""#),
        order(r#""value":100000001,"currency":"JPY""#),
        order(r#""value":1,"tax":1000001"#),
        order(r#""value":1,"shipping":1e9"#),
        order(r#""value":1,"discount":1e9"#),
        order(r#""value":1,"items":[{"price":500001,"quantity":2}]"#),
        order(r#""value":1,"items":[{"price":1},{"price":600000},{"price":600000}]"#),
        order(r#""value":1,"items":[{"price":1,"discount":500001,"quantity":2}]"#),
        order(r#""value":1,"items":[{"price":0,"quantity":4294967295}]"#),
        event("refund", r#""order_id":"1","value":1000001"#),
        event("add_to_cart", r#""items":[{"price":92000000000000000}]"#),
        event("generate_lead", r#""value":-1e15,"currency":"EUR""#),
    ];
    let kept = [
        order(r#""value":1000000,"currency":"USD""#),
        order(r#""value":100000000,"currency":"JPY""#),
        order(r#""value":1,"items":[{"price":500000,"quantity":2}]"#),
        // No amount: milliseconds, say.
        event("timing", r#""value":1e15"#),
    ];
    for event in &refused {
        check(&service, event, "amount_too_large").await;
        let answer = service.send(service.request(SECRET_KEY).body(event.clone())).await;
        assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(1)), "{event}: {answer:?}");
    }
    for event in kept {
        let answer = service.post(event.clone()).await;
        assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(1)), "{event}: {answer:?}");
    }
    let answer = service.post(refused[1].clone()).await;
    let detail = answer.body["rejected"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("1000000 USD") && detail.contains("--untrusted-amount-max"), "{detail}");
}

#[tokio::test]
async fn invalid_utf8_costs_one_event() {
    let service = Service::start().await;
    let body = [
        b"[".as_slice(),
        GOOD.as_bytes(),
        b",{\"type\":\"event\",\"name\":\"\xff\"},",
        GOOD.as_bytes(),
        b"]",
    ];
    let answer = service.post(body.concat()).await;
    assert_eq!((answer.status, answer.reasons()), (202, vec![(1, "malformed_json")]));
    // In lines, a line that is cut off in the middle does not reach into the next.
    let body = [GOOD.as_bytes(), b"\n{\"type\":\"event\",\"name\":\"\xff\n", GOOD.as_bytes()].concat();
    let lines = service.request(SECRET_KEY).header("content-type", "application/x-ndjson").body(body);
    let answer = service.send(lines).await;
    assert_eq!((answer.status, answer.reasons()), (202, vec![(1, "malformed_json")]));
}

#[tokio::test]
async fn requests_are_refused_whole_with_what_to_do_next() {
    let service = Service::start().await;
    for body in ["", "hello", "NaN", "[1,2", "{\"type\":\"event\"", "[] []x", "\"", "[{\"a\":1]}"] {
        assert_refused(&service.post(body).await, 400, "not_json");
    }
    assert_eq!(service.rejected("not_json"), 8.0);
    let unclosed = "[".repeat(100_000);
    assert_refused(&service.post(unclosed).await, 400, "not_json");

    for body in ["[]", r#"{"events":[]}"#] {
        assert_refused(&service.post(body).await, 422, "no_events");
    }
    assert_refused(&service.post(r#"{"events":1}"#).await, 422, "wrong_type");
    assert_refused(&service.post(r#"{"events":[{}],"context":1}"#).await, 422, "not_an_object");
    let answer = service.post("[1,{}]").await;
    assert_refused(&answer, 422, "not_an_object");
    assert_eq!(answer.reasons(), [(0, "not_an_object"), (1, "missing_field")]);
    assert_refused(
        &service.post(r#"{"type":"event","name":"test","value":NaN}"#).await,
        422,
        "malformed_json",
    );
    let closed = "[".repeat(100_000) + &"]".repeat(100_000);
    let answer = service.post(closed).await;
    assert_eq!(answer.reasons(), [(0, "event_too_large")]);
    let closed = "[".repeat(30_000) + &"]".repeat(30_000);
    let answer = service.post(closed).await;
    assert_eq!(answer.reasons(), [(0, "too_deep")]);

    let many = format!("[{}{GOOD}]", format!("{GOOD},").repeat(500));
    assert_refused(&service.post(many.clone()).await, 413, "too_many_events");
    assert_refused(&service.post(many.replace(GOOD, "NaN")).await, 413, "too_many_events");
    assert_refused(&service.post(vec![b' '; (1 << 20) + 1]).await, 413, "body_too_large");

    for (key, reason) in [("nobody", "unknown_key"), ("", "unknown_key")] {
        assert_refused(&service.send(service.request(key).body(GOOD)).await, 401, reason);
    }
    let keyless = service.client.post(format!("{}/v1/collect", service.url)).body(GOOD);
    assert_refused(&service.send(keyless).await, 401, "unknown_key");

    let request = || service.request(SECRET_KEY).body(GOOD);
    assert_refused(
        &service.send(request().header("content-type", "text/html")).await,
        415,
        "unsupported_type",
    );
    assert_refused(
        &service.send(request().header("content-encoding", "lzma")).await,
        415,
        "unsupported_encoding",
    );
    assert_refused(
        &service.send(request().header("content-encoding", "gzip")).await,
        415,
        "unsupported_encoding",
    );
    assert_eq!(service.requests("collect", 415), 3.0);
    assert_eq!(service.requests("collect", 401), 3.0);
    assert!(service.events().is_empty() && service.clicks().is_empty());
}

#[tokio::test]
async fn every_form_and_every_place_of_the_key() {
    let service = Service::start().await;
    let url = format!("{}/v1/collect", service.url);
    let envelope = json!({
        "write_key": "demo-write-key",
        "context": { "session_id": "s", "label": "from context" },
        "events": [{ "type": "event", "name": "a", "label": "own" }, { "type": "event", "name": "b" }],
    });
    let requests = [
        (service.client.post(&url).body(envelope.to_string()), 2),
        (service.client.post(format!("{url}?key=demo-write-key")).body(GOOD), 1),
        (
            service
                .client
                .post(&url)
                .header("x-write-key", "demo-write-key")
                .body(format!("[{GOOD},{GOOD}]")),
            2,
        ),
        (service.client.post(&url).bearer_auth("demo-write-key").body(format!("{GOOD}\n\n{GOOD}\n")), 2),
        (
            service
                .request(SECRET_KEY)
                .header("content-type", "application/x-ndjson; charset=utf-8")
                .body(GOOD),
            1,
        ),
        (service.request(SECRET_KEY).header("content-type", "text/plain;charset=UTF-8").body(GOOD), 1),
        (service.request(SECRET_KEY).header("content-type", "Application/JSON").body(GOOD), 1),
        (service.client.post(&url).body(r#"{"write_key":"demo-write-key","type":"event","name":"one"}"#), 1),
        // What stands beside a broken event in an envelope is used all the same.
        (service.client.post(&url).body(envelope.to_string().replace("\"b\"", "NaN")), 1),
    ];
    for (request, accepted) in requests {
        let answer = service.send(request).await;
        assert_eq!((answer.status, answer.body["accepted"].as_u64()), (202, Some(accepted)), "{answer:?}");
    }
    let events = service.events();
    assert_eq!(events[0]["label"], "own");
    assert_eq!(events[1]["label"], "from context");
    assert_eq!(events[1]["session_id"], "s");
    assert_eq!(events.last().unwrap()["session_id"], "s");
}

#[tokio::test]
async fn trusted_events_are_marked_and_bots_are_told_apart() {
    let service = Service::start().await;
    let googlebot = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    for key in ["demo-write-key", SECRET_KEY] {
        service.send(service.request(key).header("user-agent", googlebot).body(GOOD)).await;
    }
    let events = service.events();
    assert_eq!((&events[0]["is_bot"], &events[0]["bot_reason"]), (&json!(1), &json!("user_agent")));
    assert_eq!((events[1].get("is_bot"), &events[1]["trusted"]), (None, &json!(1)));
    assert_eq!(service.metric(r#"millrace_collector_bot_events_total{reason="user_agent"}"#), 1.0);
    // Without Postgres there is no salt, and without a salt no visitor is made up.
    assert!(events.iter().all(|event| event.get("visitor_id").is_none()));
    assert_eq!(service.metric("millrace_collector_anonymous_events_total"), 1.0);
}
