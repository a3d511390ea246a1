//! No order is lost: a valid one with any one field replaced by anything, in every protocol, is kept, with its total unless
//! that is the field.

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};

use crate::service::{Service, WRITE_KEY};

/// An order in a protocol's words.
struct Protocol {
    name: &'static str,
    path: &'static str,
    /// The request with `@id` for the order's id, and `@` before the name of each field that is replaced.
    request: Value,
    /// The field that holds the total.
    total: &'static str,
}

const ITEMS: &str = r#"[{"product_id":"p","name":"n","price":4,"quantity":2},{"product_id":"q","price":2}]"#;

fn protocols() -> Vec<Protocol> {
    let items = || serde_json::from_str::<Value>(ITEMS).unwrap();
    let money = |id: &str, total: &str| {
        json!({
            id: "@id", format!("@{total}"): 10, "@currency": "USD", "@tax": 0, "@shipping": 0, "@discount": 0,
            "@coupon": "C", "@items": items(), "@note": "n", "@refund_id": "r",
        })
    };
    let with = |mut object: Value, more: Value| {
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    };
    vec![
        Protocol {
            name: "native",
            path: "/v1/collect",
            request: json!({ "write_key": WRITE_KEY, "@sent_at": null, "@context": {}, "events": [with(money("order_id", "value"), json!({
                "type": "event", "name": "purchase", "@event_id": "e", "@timestamp": null, "@visitor_id": "v", "@session_id": "s",
                "@user_id": "u", "@url": "https://a.example/", "@title": "t", "@referrer": "r", "@language": "l",
                "@timezone": "z", "@viewport_width": 1, "@page_view_id": "pv", "@sequence": 1, "@interactive": true,
                "@label": "l", "@category": "c", "@properties": {}, "@duration_ms": 1, "@ecommerce": null,
            }))]}),
            total: "value",
        },
        Protocol {
            name: "segment",
            path: "/v1/batch",
            request: json!({ "writeKey": WRITE_KEY, "@sentAt": null, "batch": [{
                "type": "track", "event": "Order Completed", "@anonymousId": "a", "@userId": "u", "@messageId": "m",
                "@timestamp": null, "@context": { "page": { "url": "https://a.example/" } },
                "properties": with(money("order_id", "total"), json!({ "@products": items() })),
            }]}),
            total: "total",
        },
        Protocol {
            name: "ga4",
            path: "/mp/collect?api_secret=demo-write-key",
            request: json!({ "@client_id": "1.2", "@user_id": "u", "@timestamp_micros": null, "@user_properties": {}, "events": [{
                "name": "purchase",
                "params": with(money("transaction_id", "value"), json!({ "@page_location": "https://a.example/", "@session_id": 1 })),
            }]}),
            total: "value",
        },
        Protocol {
            name: "posthog",
            path: "/batch/",
            request: json!({ "api_key": WRITE_KEY, "@sent_at": null, "batch": [{
                "event": "purchase", "@uuid": "x", "@distinct_id": "d", "@timestamp": null, "@offset": 1,
                "properties": with(money("order_id", "value"), json!({ "@$current_url": "https://a.example/", "@$device_id": "d" })),
            }]}),
            total: "value",
        },
        Protocol {
            name: "umami",
            path: "/api/send",
            request: json!({ "type": "event", "payload": {
                "website": WRITE_KEY, "name": "purchase", "@url": "/", "@title": "t", "@referrer": "", "@screen": "1x1",
                "@language": "en", "@id": "u", "@hostname": "a.example", "@timestamp": null, "data": money("order_id", "value"),
            }}),
            total: "value",
        },
        Protocol {
            name: "plausible",
            path: "/api/event",
            request: json!({
                "n": "purchase", "d": WRITE_KEY, "@u": "https://a.example/", "@r": null, "@w": 1, "@i": true, "@$": null,
                "p": money("order_id", "value"),
            }),
            total: "value",
        },
        Protocol {
            name: "snowplow",
            path: "/com.snowplowanalytics.snowplow/tp2",
            request: json!({ "schema": "x", "data": [{
                "e": "tr", "aid": WRITE_KEY, "tr_id": "@id", "@tr_tt": "10", "@tr_cu": "USD", "@tr_tx": "0", "@tr_sh": "0",
                "@eid": "e", "@dtm": null, "@url": "https://a.example/", "@page": "t", "@duid": "d", "@uid": "u", "@cx": null,
                "@co": null, "@res": "1x1", "@lang": "en",
            }]}),
            total: "tr_tt",
        },
    ]
}

/// What real clients put into fields, as it stands in their JSON.
fn dirty() -> Vec<String> {
    let known = [
        r#""\ud83d""#,
        r#""a\ud83d b""#,
        r#""\u0000""#,
        "NaN",
        "-Infinity",
        "1e400",
        "12345678901234567890123",
        "-1",
        "0.5",
        "true",
        "null",
        "{}",
        "[]",
        "[1]",
        "[null]",
        r#"{"0":{"price":1},"2":{"price":2}}"#,
        r#"{"a":{"b":[{"c":1}]}}"#,
        r#""""#,
        r#"" 5 ""#,
        r#""5,00""#,
        r#""$5.00""#,
        r#""1.299,00 \u20ac""#,
        r#""free""#,
        r#""2026-03-01T08:00:00+0000""#,
        r#""/relative""#,
        r#""capacitor://localhost/a""#,
        r#""[{\"price\":1}]""#,
        "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]",
    ];
    let long = format!("\"{}\"", "x".repeat(9_000));
    let items = format!("[{}]", vec![r#"{"price":1}"#; 201].join(","));
    known.into_iter().map(str::to_owned).chain([long, items]).collect()
}

/// Any JSON value: the same ones each time.
fn any_values(count: usize) -> Vec<String> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        "[-+0-9.,eE\u{20ac}$ ]{0,12}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{0,10}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    });
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| value.new_tree(&mut runner).unwrap().current().to_string()).collect()
}

/// The names that are replaced, wherever they stand.
fn names(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.extend(name.strip_prefix('@').map(str::to_owned));
                names(value, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| names(value, found)),
        _ => {}
    }
}

/// The request of an order, one field of which is replaced; `""`: none.
fn request(protocol: &Protocol, order_id: &str, field: &str, sent: &str) -> String {
    let mut marked = protocol.request.clone();
    fn mark(value: &mut Value, wanted: &str) {
        match value {
            Value::Object(object) => {
                for (_, value) in object.iter_mut().filter(|(name, _)| *name == wanted) {
                    *value = "@sent".into();
                }
                object.values_mut().for_each(|value| mark(value, wanted));
            }
            Value::Array(list) => list.iter_mut().for_each(|value| mark(value, wanted)),
            _ => {}
        }
    }
    mark(&mut marked, &format!("@{field}"));
    let text = marked.to_string().replace("\"@sent\"", sent).replace("@id\"", &format!("{order_id}\""));
    text.replace(&format!("\"{order_id}\":"), "\"id\":").replace("\"@", "\"")
}

/// Sends each protocol's order with each of its fields replaced by each value, and finds all of them again.
async fn none_is_lost(values: &[String]) {
    let service = Service::with(|config| config.enrich.bot_events_per_minute = 0).await;
    let mut sent = BTreeMap::new();
    for protocol in protocols() {
        let mut fields = vec![String::new()];
        names(&protocol.request, &mut fields);
        for field in &fields {
            for (index, value) in
                values.iter().enumerate().take(if field.is_empty() { 1 } else { usize::MAX })
            {
                let order_id = format!("{}-{}-{index}", protocol.name, field.replace('$', "_"));
                let body = request(&protocol, &order_id, field, value);
                let post =
                    service.client.post(format!("{}{}", service.url, protocol.path)).body(body.clone());
                let answer = post.header("content-type", "application/json").send().await.unwrap();
                assert!(answer.status().is_success(), "{} for {body:.600}", answer.status());
                sent.insert(order_id, (field.clone(), protocol.total, body));
            }
        }
    }
    let rows = service.events();
    let kept: BTreeMap<_, _> = rows
        .iter()
        // A bot's would count as little as one that is lost.
        .filter(|row| row["name"] == "purchase" && row["is_bot"].is_null())
        .map(|row| (row["order_id"].as_str().unwrap_or_default(), row))
        .collect();
    let total = |row: &Value| row["total_minor"].as_i64();
    let lost: Vec<_> = sent.iter().filter(|(id, _)| !kept.contains_key(id.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} orders are lost: {:.3000?}", lost.len(), sent.len(), lost);
    for (id, (field, total_field, body)) in &sent {
        // The currency decides how many minor units there are.
        if field != total_field
            && !["currency", "tr_cu", "ecommerce", "context", "$"].contains(&field.as_str())
        {
            assert_eq!(total(kept[id.as_str()]), Some(1_000), "{body:.900}");
        }
    }
}

#[tokio::test]
async fn what_real_clients_send_costs_no_order() {
    none_is_lost(&dirty()).await;
}

#[tokio::test]
async fn no_value_of_any_field_costs_an_order() {
    none_is_lost(&any_values(if std::env::var_os("MILLRACE_ACCEPT").is_some() { 500 } else { 25 })).await;
}
