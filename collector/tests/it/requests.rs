//! Every status and reason, each with its count; and that a bad event costs its neighbours nothing.

use serde_json::{Value, json};

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

    check(service, "oh", "malformed_json").await;
    check(service, "NaN", "malformed_json").await;
    check(service, r#"{"type":event}"#, "wrong_type").await;
    for no_object in ["42", "[]", "null", &deep] {
        check(service, no_object, "not_an_object").await;
    }
    check(service, "{}", "missing_field").await;
    check(service, r#"{"type":"page_view"}"#, "missing_field").await;
    check(service, r#"{"type":"event","name":""}"#, "missing_field").await;
    check(service, r#"{"type":"click","url":"https://a.example/","x":1}"#, "missing_field").await;
    check(service, r#"{"type":"pageview"}"#, "unknown_type").await;
    check(service, r#"{"type":7}"#, "unknown_type").await;
    check(service, r#"{"type":[]}"#, "wrong_type").await;
    check(service, &event(r#""name":{}"#), "wrong_type").await;
    check(service, r#"{"type":"page_view","url":7}"#, "wrong_type").await;
    check(service, r#"{"type":"page_view","url":"javascript:alert(1)"}"#, "wrong_type").await;
    check(service, r#"{"type":"click","url":"https://a.example/","x":"left","y":1}"#, "wrong_type").await;
    check(service, &purchase(r#""order_id":[1]"#), "empty_order_id").await;
    check(service, &purchase(r#""order_id":"""#), "empty_order_id").await;
    check(service, r#"{"type":"event","name":"Order Refunded"}"#, "empty_order_id").await;
}

/// Sends an event between two good ones, and returns what of it was repaired, and its row.
async fn repaired(service: &Service, event: &str) -> (Vec<String>, Value) {
    let before: Vec<_> = service.events();
    let answer = service.post(format!("[{GOOD},{event},{GOOD}]")).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(3)), "{event:.200}: {answer:?}");
    let repaired = answer.body["repaired"].as_array().unwrap();
    assert!(repaired.iter().all(|entry| entry["index"] == 1), "{event:.200}: {repaired:?}");
    let text =
        |entry: &Value| format!("{}:{}", entry["field"].as_str().unwrap(), entry["reason"].as_str().unwrap());
    let told: Vec<_> = repaired.iter().map(text).collect();
    let row = service.events().swap_remove(before.len() + 1);
    assert_eq!(row.get("repairs").cloned().unwrap_or(json!([])), json!(told), "{event:.200}");
    (told, row)
}

/// What stands around an event, or in place of one of its values, costs the event nothing.
#[tokio::test]
async fn nothing_around_an_event_costs_it() {
    let service = Service::start().await;
    let mut number = 0;
    let mut send = async |form: &str, key: bool, content_type: &str| {
        number += 1;
        let order = format!(r#"{{"type":"event","name":"purchase","order_id":"{number}","value":5}}"#);
        let body = form.replace("@order", &order).replace('@', order.trim_end_matches('}'));
        let url = format!("{}/v1/collect", service.url);
        let request = service.client.post(url).header("content-type", content_type).body(body.clone());
        let request = if key { request.bearer_auth(crate::service::WRITE_KEY) } else { request };
        let answer = service.send(request).await;
        assert!(matches!(answer.status, 202), "{body}: {answer:?}");
        let rows = service.events();
        let row = rows
            .iter()
            .find(|row| row["order_id"] == *number.to_string())
            .unwrap_or_else(|| panic!("{body}"));
        assert_eq!(row["total_minor"], 500, "{body}");
        row["repairs"].clone()
    };
    for form in [
        // Siblings of the list.
        r#"{"sent_at":yesterday,"events":[@order]}"#,
        r#"{"context":{'a':1},"events":[@order]}"#,
        r#"{"events":[@order],"context":{"a":hello}}"#,
        r#"{"sent_at":,"events":[@order]}"#,
        r#"{"x":,"events":[@order],"y"}"#,
        // Behind it.
        "@order;",
        "@order}",
        "@order,",
        "@order\0",
        "@order x",
        "@order\nhello\n@order",
        // Within it.
        r#"@,"tax":1"#,
        r#"@,"#,
        r#"@,"label":"never en"#,
        r#"@,"tax":}"#,
        r#"@,"tax":5,00}"#,
        r#"@,"tax":$5}"#,
        r#"@,,"tax":5}"#,
        r#"@,'tax':5}"#,
        r#"[@,"tax":$5},{"type":"event","name":"a"}]"#,
        r#"@,"order_id":null,"value":""}"#,
    ] {
        send(form, true, "application/json").await;
    }
    let repairs = send(r#"@,"tax":NaN,"shipping":$5}"#, true, "application/json").await;
    assert_eq!(repairs, json!(["tax:unreadable", "shipping:unreadable"]));
    for content_type in ["application/octet-stream", "application/x-www-form-urlencoded", "application/jsonl"]
    {
        send("@order", true, content_type).await;
    }
    send(r#"@,"label":"x\ud83d","write_key":"demo-write-key"}"#, false, "application/json").await;
}

/// What is no reading of a clock corrects none.
#[tokio::test]
async fn a_zero_is_no_clock() {
    let service = Service::start().await;
    let now = jiff::Timestamp::now();
    let at = now - jiff::SignedDuration::from_hours(70);
    let today = now.strftime("%Y-%m-%d").to_string();
    let local = now.strftime("%Y-%m-%dT00:36").to_string();
    for sent_at in [json!(today), json!(local), json!("0001-01-01T00:00:00Z"), json!(0), json!("now")] {
        let event = json!({ "type": "event", "name": "a", "timestamp": at.to_string() });
        let body = json!({ "sent_at": sent_at, "events": [event] });
        assert_eq!(service.post(body.to_string()).await.status, 202);
        let row = service.events().pop().unwrap();
        assert_eq!(row["time_source"], "client", "{sent_at}: {row}");
    }
}

/// Programs that send one text as every event's id lose no order; the same order sent again is one.
#[tokio::test]
async fn one_id_for_all_events_costs_no_order() {
    let service = Service::start().await;
    for id in [json!("undefined"), json!(0), json!("purchase")] {
        for order in ["1", "2", "1"] {
            let event = json!({ "type": "event", "name": "purchase", "event_id": id, "order_id": order });
            assert_eq!(service.post(event.to_string()).await.status, 202);
        }
    }
    let ids: Vec<_> = service.events().iter().map(|row| row["event_id"].to_string()).collect();
    let different: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), different.len()), (9, 6), "{ids:?}");
}

#[tokio::test]
async fn no_detail_costs_an_event() {
    let service = Service::start().await;
    let service = &service;
    assert_eq!(service.post(GOOD).await.status, 202);
    let long = "x".repeat(9_000);
    let many: Vec<_> = (0..101).map(|index| format!(r#""{index}":1"#)).collect();
    let items = |count: usize| vec![r#"{"product_id":"p","price":1}"#; count].join(",");
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    // Fields of an order, what is told of them, and what its row says.
    let cases: Vec<(String, &[&str], Value)> = vec![
        (r#""label":"x\ud83d""#.into(), &["label:characters"], json!({ "label": "x\u{fffd}" })),
        (r#""label":"\udc00\ud800""#.into(), &["label:characters"], json!({ "label": "\u{fffd}\u{fffd}" })),
        (r#""label":"a\u0000b""#.into(), &["label:characters"], json!({ "label": "a\u{fffd}b" })),
        ("\"label\":\"a\nb\"".into(), &[], json!({ "label": "a\nb" })),
        (r#""label":" a ""#.into(), &["label:trimmed"], json!({ "label": "a" })),
        (format!(r#""label":"{long}""#), &["label:cut"], json!({ "label": &long[..8192] })),
        (r#""label":7"#.into(), &["label:converted"], json!({ "label": "7" })),
        (r#""label":{}"#.into(), &["label:unreadable"], json!({ "label": null })),
        (r#""label":"a","label":"b""#.into(), &["label:duplicate"], json!({ "label": "b" })),
        (r#""title":"caf\u00e9""#.into(), &[], json!({ "title": "caf\u{e9}" })),
        (r#""user_id":1002.0"#.into(), &["user_id:converted"], json!({ "user_id": "1002" })),
        (
            r#""user_id":123456789012345678901234567890"#.into(),
            &[],
            json!({ "user_id": "123456789012345678901234567890" }),
        ),
        (
            r#""user_id":18446744073709551615"#.into(),
            &["user_id:converted"],
            json!({ "user_id": "18446744073709551615" }),
        ),
        (r#""user_id":true"#.into(), &["user_id:unreadable"], json!({ "user_id": null })),
        (r#""value":NaN"#.into(), &["value:unreadable"], json!({ "total_minor": null })),
        (r#""value":1e999"#.into(), &["value:unreadable"], json!({ "total_minor": null, "value": null })),
        (r#""value":".99""#.into(), &["value:converted"], json!({ "total_minor": 99 })),
        (r#""value":" 5 ""#.into(), &["value:converted"], json!({ "total_minor": 500 })),
        (r#""value":"5,00""#.into(), &["value:converted"], json!({ "total_minor": 500 })),
        (r#""value":"$5.00""#.into(), &["value:converted"], json!({ "total_minor": 500, "value": 5 })),
        (r#""value":"1,234.50""#.into(), &["value:converted"], json!({ "total_minor": 123_450 })),
        (r#""value":"1.299,00""#.into(), &["value:converted"], json!({ "total_minor": 129_900 })),
        (r#""value":-5"#.into(), &["value:negative"], json!({ "total_minor": null, "value": null })),
        (r#""value":true"#.into(), &["value:unreadable"], json!({ "total_minor": null })),
        (
            r#""value":1e12"#.into(),
            &["value:amount_too_large"],
            json!({ "total_minor": null, "value": null }),
        ),
        (
            r#""value":1,"tax":"free""#.into(),
            &["tax:unreadable"],
            json!({ "total_minor": 100, "tax_minor": null }),
        ),
        (
            r#""value":1,"shipping":{"price":1}"#.into(),
            &["shipping:unreadable"],
            json!({ "total_minor": 100 }),
        ),
        (r#""value":1,"tax":"-1""#.into(), &["tax:negative"], json!({ "tax_minor": null })),
        (r#""value":1,"discount":-2"#.into(), &[], json!({ "discount_minor": 200 })),
        (r#""value":1,"currency":"eur""#.into(), &["currency:converted"], json!({ "currency": "EUR" })),
        (r#""value":1,"currency":"\u20ac""#.into(), &["currency:converted"], json!({ "currency": "EUR" })),
        (r#""value":1,"currency":"$""#.into(), &["currency:converted"], json!({ "currency": "USD" })),
        (
            r#""value":1,"currency":"zzz""#.into(),
            &["currency:unknown_currency"],
            json!({ "currency": "ZZZ", "total_minor": 100 }),
        ),
        (
            r#""value":1,"currency":"points""#.into(),
            &["currency:unknown_currency"],
            json!({ "currency": "XXX", "total_minor": 100, "properties": { "currency": "points" } }),
        ),
        (
            r#""event_id":"7""#.into(),
            &["event_id:converted"],
            json!({ "event_id": "e492c9f2-538e-8030-9b66-9eb0951f7b00" }),
        ),
        (
            r#""timestamp":"yesterday""#.into(),
            &["timestamp:time_of_receipt"],
            json!({ "time_source": "received" }),
        ),
        (r#""timestamp":0"#.into(), &["timestamp:time_of_receipt"], json!({ "time_source": "replaced" })),
        (r#""sent_at":true"#.into(), &["sent_at:unreadable"], json!({})),
        // However much is said beside it, an order has its name.
        (
            format!(
                r#""url":"https://a.example/?q={0}","title":"{0}","label":"{0}","user_id":"{0}""#,
                "x+".repeat(60_000)
            ),
            &["user_id:hashed", "url:cut", "title:cut", "label:cut"],
            json!({ "name": "purchase", "order_id": "1" }),
        ),
        (r#""sequence":-1"#.into(), &["sequence:out_of_range"], json!({ "sequence": null })),
        (r#""viewport_width":70000"#.into(), &["viewport_width:clamped"], json!({ "viewport_width": 65535 })),
        (r#""scroll_depth":101"#.into(), &["scroll_depth:clamped"], json!({ "scroll_depth": 100 })),
        (r#""interactive":"false""#.into(), &["interactive:converted"], json!({ "non_interactive": 1 })),
        (r#""interactive":"no""#.into(), &["interactive:unreadable"], json!({ "non_interactive": null })),
        (r#""url":"capacitor://localhost/cart""#.into(), &[], json!({ "url": "capacitor://localhost/cart" })),
        (r#""url":"/relative""#.into(), &[], json!({ "url": "/relative" })),
        (r#""url":"javascript:alert(1)""#.into(), &["url:unreadable"], json!({ "url": null })),
        (
            format!(r#""url":"https://a.example/?session={long}""#),
            &[],
            json!({ "url": "https://a.example/" }),
        ),
        (
            format!(r#""url":"https://a.example/?q={}""#, "y+".repeat(4_000)),
            &["url:cut"],
            json!({ "url": format!("https://a.example/?q={}", "y+".repeat(4_000))[..4096] }),
        ),
        (
            r#""properties":{"a":{"b":1,"c":[1,"x"]},"d":[]}"#.into(),
            &["properties:converted"],
            json!({ "properties": { "a.b": "1", "a.c": "[1,\"x\"]", "d": "[]" } }),
        ),
        (
            r#""properties":{"a":1,"a":2}"#.into(),
            &["properties:duplicate"],
            json!({ "properties": { "a": "2" } }),
        ),
        (
            r#""properties":"{\"a\":1}""#.into(),
            &["properties:converted"],
            json!({ "properties": { "a": "1" } }),
        ),
        (r#""properties":7"#.into(), &["properties:unreadable"], json!({ "properties": null })),
        (format!(r#""properties":{{{}}}"#, many.join(",")), &["properties:cut"], json!({})),
        (format!(r#""extra":{deep}"#), &[], json!({})),
        (format!(r#""extra":"{}""#, "x".repeat(100_000)), &[], json!({})),
        (r#""items":[{"price":60},{"price":-10}]"#.into(), &[], json!({ "item_price": ["60", "-10"] })),
        (r#""items":[{"price":10,"quantity":1.85}]"#.into(), &[], json!({ "item_quantity": ["1.85"] })),
        (
            r#""items":[{"price":0.0035,"quantity":1000}]"#.into(),
            &[],
            json!({ "item_price": ["0.0035"], "item_quantity": ["1000"] }),
        ),
        (r#""items":[null,{"price":1}]"#.into(), &[], json!({ "item_price": ["1"] })),
        (r#""items":[1,{"price":1}]"#.into(), &["items:unreadable"], json!({ "item_price": ["1"] })),
        (
            r#""items":{"0":{"price":1},"2":{"price":2}}"#.into(),
            &["items:converted"],
            json!({ "item_price": ["1", "2"] }),
        ),
        (r#""items":{"product_id":"p"}"#.into(), &["items:converted"], json!({ "item_product_id": ["p"] })),
        (r#""items":"[{\"price\":1},]""#.into(), &["items:converted"], json!({ "item_price": ["1"] })),
        (r#""items":"none""#.into(), &["items:unreadable"], json!({ "item_price": null })),
        (
            r#""items":[{"product_id":7,"price":"dear"}]"#.into(),
            &["items.price:unreadable", "items.product_id:converted"],
            json!({ "item_product_id": ["7"], "item_price": ["0"] }),
        ),
        (
            r#""items":[{"price":9e12},{"price":1}]"#.into(),
            &["items.price:out_of_range"],
            json!({ "item_price": ["0", "1"] }),
        ),
        (
            r#""items":[{"price":1,"price":2}]"#.into(),
            &["items.price:duplicate"],
            json!({ "item_price": ["2"] }),
        ),
        (
            r#""items":[{"price":500001,"quantity":2}]"#.into(),
            &["items.price:amount_too_large"],
            json!({ "item_price": ["0"] }),
        ),
        (format!(r#""items":[{}]"#, items(201)), &["items:cut"], json!({})),
        (r#""ecommerce":[]"#.into(), &["ecommerce:unreadable"], json!({})),
    ];
    for (fields, wanted, row_wanted) in cases {
        let event = format!(r#"{{"type":"event","name":"purchase","order_id":"1",{fields}}}"#);
        let (told, row) = repaired(service, &event).await;
        assert_eq!(told, wanted, "{event:.200}");
        for (name, value) in row_wanted.as_object().unwrap() {
            assert_eq!(row.get(name).unwrap_or(&Value::Null), value, "{name} of {event:.200}");
        }
    }
    let (_, row) = repaired(
        service,
        &format!(r#"{{"type":"event","name":"purchase","order_id":"1","items":[{}]}}"#, items(250)),
    )
    .await;
    let prices = row["item_price"].as_array().unwrap();
    assert_eq!((prices.len(), &prices[199], &prices[200]), (201, &json!("1"), &json!("50")), "the sum stays");
    // An id stays one id, however long.
    let order = |order_id: &str| format!(r#"{{"type":"event","name":"purchase","order_id":"{order_id}"}}"#);
    let (told, row) = repaired(service, &order(&long)).await;
    assert_eq!((told, row["order_id"].as_str().unwrap().len()), (vec!["order_id:hashed".to_owned()], 8192));
    assert_eq!(repaired(service, &order(&long)).await.1["order_id"], row["order_id"]);
    assert_ne!(repaired(service, &order(&format!("{long}x"))).await.1["order_id"], row["order_id"]);
    let counted = r#"millrace_collector_repaired_fields_total{reason="hashed"}"#;
    assert_eq!(service.metric(counted), 4.0);
    // Clicks left of the page and above it, as on pages that are read from right to left.
    let click = r#"{"type":"click","url":"https://a.example/","x":-1800,"y":-2}"#;
    let answer = service.post(click).await;
    assert_eq!(answer.body["repaired"][1], json!({ "index": 0, "field": "y", "reason": "clamped" }));
}

#[tokio::test]
async fn amounts_with_a_write_key_have_a_ceiling_and_a_servers_have_none() {
    let service = Service::start().await;
    let event = |name: &str, fields: &str| format!(r#"{{"type":"event","name":"{name}",{fields}}}"#);
    let order = |fields: &str| event("purchase", &format!(r#""order_id":"1",{fields}"#));
    let left_out = [
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
        event("add_to_cart", r#""items":[{"price":9200000000}]"#),
        event("generate_lead", r#""value":1e15,"currency":"EUR""#),
    ];
    let kept = [
        order(r#""value":1000000,"currency":"USD""#),
        order(r#""value":100000000,"currency":"JPY""#),
        order(r#""value":1,"items":[{"price":500000,"quantity":2}]"#),
        // No amount: milliseconds, say.
        event("timing", r#""value":1e15"#),
    ];
    let reasons = |answer: &Answer| -> Vec<String> {
        let repaired = answer.body["repaired"].as_array().unwrap();
        repaired.iter().map(|entry| entry["reason"].as_str().unwrap().to_owned()).collect()
    };
    for event in &left_out {
        let answer = service.post(event.clone()).await;
        assert_eq!((answer.status, reasons(&answer)), (202, vec!["amount_too_large".to_owned()]), "{event}");
        let answer = service.send(service.request(SECRET_KEY).body(event.clone())).await;
        assert_eq!((answer.status, reasons(&answer)), (202, Vec::new()), "{event}");
    }
    for event in kept {
        let answer = service.post(event.clone()).await;
        assert_eq!((answer.status, reasons(&answer)), (202, Vec::new()), "{event}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_cost_no_event() {
    let service = Service::start().await;
    let body = [
        b"[".as_slice(),
        GOOD.as_bytes(),
        b",{\"type\":\"event\",\"name\":\"\xff\"},",
        GOOD.as_bytes(),
        b"]",
    ];
    let answer = service.post(body.concat()).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(3)));
    assert_eq!(answer.body["repaired"], json!([{ "index": 1, "field": "name", "reason": "characters" }]));
    // In lines, a line that is cut off in the middle does not reach into the next.
    let body = [GOOD.as_bytes(), b"\n{\"type\":\"event\",\"name\":\"\xff\n", GOOD.as_bytes()].concat();
    let lines = service.request(SECRET_KEY).header("content-type", "application/x-ndjson").body(body);
    let answer = service.send(lines).await;
    assert_eq!((answer.status, answer.reasons()), (202, vec![(1, "wrong_type")]));
}

#[tokio::test]
async fn requests_are_refused_whole_with_what_to_do_next() {
    let service = Service::start().await;
    for body in ["", "hello", "NaN", "{type", "[] []x", "\""] {
        assert_refused(&service.post(body).await, 400, "not_json");
    }
    assert_eq!(service.rejected("not_json"), 6.0);
    for body in ["{\"type\":\"event\"", "[{\"a\":1]}"] {
        assert_refused(&service.post(body).await, 422, "missing_field");
    }
    assert_refused(&service.post("[".repeat(100_000)).await, 422, "not_an_object");

    for body in ["[]", r#"{"events":[]}"#] {
        assert_refused(&service.post(body).await, 422, "no_events");
    }
    assert_refused(&service.post(r#"{"events":1}"#).await, 422, "wrong_type");
    let answer = service.post(format!(r#"{{"events":[{GOOD}],"context":1}}"#)).await;
    assert_eq!(answer.body["repaired"], json!([{ "index": 0, "field": "context", "reason": "unreadable" }]));
    let answer = service.post("[1,{}]").await;
    assert_refused(&answer, 422, "not_an_object");
    assert_eq!(answer.reasons(), [(0, "not_an_object"), (1, "missing_field")]);
    let closed = "[".repeat(100_000) + &"]".repeat(100_000);
    assert_refused(&service.post(closed).await, 422, "not_an_object");
    // What stands before a break is kept.
    for body in
        [format!("[{GOOD},{GOOD},{{\"type\":\"ev"), format!("{{\"events\":[{GOOD},{GOOD},{{\"type\":\"ev")]
    {
        let answer = service.post(body).await;
        assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(2)));
        assert_eq!(answer.reasons(), [(2, "wrong_type")]);
    }
    let answer = service.post(format!("\u{feff}[{GOOD}]")).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(1)));

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
    assert_eq!(service.rows(), 6, "what was kept beside what was not");
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
        (
            service.client.post(&url).body(
                r#"{"write_key":"demo-write-key","type":"event","name":"one","label":"x\ud83d","properties":{"n":NaN}}"#,
            ),
            1,
        ),
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
