//! The pure path, bytes to log messages, against known rows and against a small model of what it should do.

use std::sync::LazyLock;

use millrace_collector::{
    EnrichConfig,
    chain::{Outcome, collect_body},
    decode::{Form, Scratch},
    enrich::Enricher,
    salts::{Salts, UTC},
    validate::Request,
};
use millrace_schemas::limits::Limits;
use proptest::prelude::*;
use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use serde_json::{Map, Value, json};

const RECEIVED_AT: i64 = 1_793_511_000_123;
const RECEIVED: &str = "2026-11-01 05:30:00.123";

fn request() -> Request<'static> {
    Request {
        store_id: "demo",
        currency: "USD",
        event_age_max_days: 30,
        trusted: false,
        received_at: RECEIVED_AT,
        user_agent: "Mozilla/5.0 (a visitor)",
        address: Some([192, 0, 2, 7].into()),
        salts: &SALTS,
        timezone: &UTC,
        id_seed: 7,
        limits: Limits::default(),
    }
}

static SALTS: LazyLock<Salts> = LazyLock::new(|| Salts::same([7; 32], RECEIVED_AT));

/// Every step, with what needs no file.
static ENRICHER: LazyLock<Enricher> = LazyLock::new(|| Enricher::new(&EnrichConfig::default()).unwrap());

/// What `request` becomes a visitor of.
const DERIVED: &str = "688d2e50e21e7b96de4508a2851f39ef";

fn collect(body: &str) -> Outcome {
    collect_body(body.as_bytes(), Form::Json, &request(), &ENRICHER, &mut Scratch::default()).unwrap()
}

/// The only row of an outcome.
fn row(outcome: &Outcome) -> Value {
    let [message] = outcome.messages.as_slice() else { panic!("{outcome:?}") };
    serde_json::from_slice(&message.value).unwrap()
}

/// Checks fields of the row that an event becomes; null: the field is left out.
fn check(event: &Value, expected: &Value) {
    let row = row(&collect(&event.to_string()));
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row.get(name).unwrap_or(&Value::Null), value, "{name} of {row}");
    }
}

#[test]
fn page_views_become_rows() {
    let event = json!({
        "type": "page_view", "event_id": "018f3a5e-0000-7000-8000-000000000001", "visitor_id": "v-1",
        "url": "https://shop.example/", "title": "Tä\"\ng", "viewport_width": 1280.5, "duration_ms": 1500.4,
        "scroll_depth": 99.6, "timestamp": "2026-11-01T06:29:00+01:00", "sequence": 3, "name": "ignored",
        "properties": { "a": "x", "b": 1, "c": 1.5, "d": true, "e": null, "f": -2, "g": 5.0 }, "new_field": [{}],
    });
    let row = row(&collect(&event.to_string()));
    assert_eq!(
        row,
        json!({
            "store_id": "demo", "event_id": "018f3a5e-0000-7000-8000-000000000001", "type": "page_view",
            "name": "page_view", "event_time": "2026-11-01 05:29:00.000", "client_time": "2026-11-01 05:29:00.000",
            "received_at": RECEIVED, "time_source": "client", "key_date": "2026-11-01", "visitor_id": "v-1",
            "visitor_hash": xxhash_rust::xxh3::xxh3_64(b"v-1"), "sequence": 3, "url": "https://shop.example/",
            "title": "Tä\"\ng", "viewport_width": 1281, "duration_ms": 1500, "scroll_depth": 100,
            "properties": { "a": "x", "b": "1", "c": "1.5", "d": "true", "f": "-2", "g": "5" },
            "user_agent": "Mozilla/5.0 (a visitor)", "channel": "Direct",
        })
    );
}

#[test]
fn what_was_not_sent_is_filled_in_and_stays_out_of_the_key() {
    check(
        &json!({ "type": "event", "name": "a" }),
        &json!({
            "event_time": RECEIVED, "client_time": null, "time_source": "received", "key_date": null,
            "visitor_id": DERIVED, "visitor_hash": null, "currency": null,
        }),
    );
    let two = collect(r#"[{"type":"event","name":"a"},{"type":"event","name":"b"}]"#);
    let ids: Vec<_> = two.messages[0]
        .value
        .split(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["event_id"].as_str().unwrap().to_owned())
        .collect();
    assert!(ids[0] < ids[1], "events without times keep their order: {ids:?}");
    assert_eq!(uuid::Uuid::parse_str(&ids[0]).unwrap().get_version_num(), 7);
}

#[test]
fn wrong_clocks_are_seen_through_the_envelope() {
    let body = |sent_at: i64, timestamp: i64| json!({ "sent_at": sent_at, "events": [{ "type": "event", "name": "a", "timestamp": timestamp }] });
    let hour = 3_600_000;
    let outcome = collect(&body(RECEIVED_AT - hour, RECEIVED_AT - hour - 1000).to_string());
    let corrected = row(&outcome);
    assert_eq!(outcome.times_corrected, 1);
    assert_eq!(corrected["event_time"], "2026-11-01 05:29:59.123");
    assert_eq!(corrected["client_time"], "2026-11-01 04:29:59.123");
    let outcome = collect(&body(RECEIVED_AT, RECEIVED_AT + 25 * hour).to_string());
    assert_eq!((outcome.times_replaced, &row(&outcome)["time_source"]), (1, &json!("replaced")));
    assert_eq!(row(&outcome)["key_date"], "2026-11-02", "the key is of what was sent");
    for (timestamp, client_time, key_date) in [
        (8_640_000_000_000_000, "2299-12-31 23:59:59.999", json!("2149-06-06")),
        (-8_640_000_000_000_000, "1900-01-01 00:00:00.000", Value::Null),
    ] {
        let row = row(&collect(&body(RECEIVED_AT, timestamp).to_string()));
        assert_eq!(
            (&row["client_time"], row.get("key_date").unwrap_or(&Value::Null)),
            (&client_time.into(), &key_date)
        );
    }
}

#[test]
fn orders_are_kept_in_minor_units() {
    check(
        &json!({
            "type": "event", "name": "Order Completed", "transaction_id": "o-1", "value": "25.005", "tax": 1.1,
            "shipping": 5, "discount": "0.5", "coupon": "C", "refund_id": "r",
            "items": [
                { "item_id": "p", "item_variant": "v", "item_name": "n", "item_brand": "b", "item_category": "c",
                  "price": 19.99, "index": {} },
                { "product_id": "q", "item_id": "other", "quantity": "2", "discount": 0.1, "product_kind": "live" },
            ],
        }),
        &json!({
            "name": "purchase", "order_id": "o-1", "value": 25.005, "total_minor": 2501, "tax_minor": 110,
            "shipping_minor": 500, "discount_minor": 50, "coupon": "C", "refund_id": "r", "currency": "USD",
            "item_product_id": ["p", "q"], "item_variant_id": ["v", ""], "item_name": ["n", ""],
            "item_brand": ["b", ""], "item_category": ["c", ""], "item_price": ["19.99", "0"],
            "item_quantity": ["1", "2"], "item_discount": ["0", "0.1"], "item_product_kind": ["", "live"],
        }),
    );
    check(
        &json!({ "type": "event", "name": "refund", "order_id": "o", "currency": "JPY", "value": 1200 }),
        &json!({ "total_minor": 1200, "value": 1200.0.to_i64().unwrap(), "currency": "JPY" }),
    );
    // As GA4's data layer has it; other keys of the object are as unknown as they are beside it.
    check(
        &json!({
            "type": "event", "name": "purchase",
            "ecommerce": { "transaction_id": "o", "currency": "EUR", "value": 3, "type": "x", "items": [{ "item_id": "p" }] },
        }),
        &json!({ "order_id": "o", "currency": "EUR", "total_minor": 300, "type": "event", "item_product_id": ["p"] }),
    );
    check(
        &json!({ "type": "event", "name": "a", "value": 4, "ecommerce": { "value": 3, "tax": 1 } }),
        &json!({ "value": 4, "tax_minor": 100, "repairs": ["value:duplicate"] }),
    );
    check(
        &json!({ "type": "event", "name": "a", "value": 4, "ecommerce": [{ "value": 3 }] }),
        &json!({ "value": 4, "repairs": ["ecommerce:unreadable"] }),
    );
    check(&json!({ "type": "event", "name": "a", "value": 4, "ecommerce": null }), &json!({ "value": 4 }));
    // The value of any other event is a number, not money.
    check(
        &json!({ "type": "event", "name": "review", "value": -4.5, "interactive": false }),
        &json!({ "value": -4.5, "total_minor": null, "currency": null, "non_interactive": 1 }),
    );
}

#[test]
fn a_large_visitor_becomes_several_messages() {
    let event =
        json!({ "type": "event", "name": "a", "label": "x".repeat(8000), "action": "y".repeat(8000) });
    let outcome = collect(&Value::from(vec![event; 60]).to_string());
    assert_eq!(outcome.accepted(), 60);
    assert!(
        outcome.messages.len() > 1 && outcome.messages.iter().all(|message| message.value.len() < 900_000)
    );
}

/// Kafka's brokers refuse messages beyond 1 MiB, and a message in the spool that they refuse stops its drain.
#[test]
fn no_way_of_sending_makes_a_row_larger_than_brokers_take() {
    let entry = |number| (format!("k{number}"), Value::from("\"".repeat(8_000)));
    let properties: Map<String, Value> = (0..100).map(entry).collect();
    let good = json!({ "type": "event", "name": "a" });
    let large = json!({ "type": "event", "name": "a", "properties": properties });
    let context = json!({ "properties": properties });
    let items: Vec<_> =
        (0..300).map(|_| json!({ "product_id": "p".repeat(9_000), "name": "n".repeat(9_000) })).collect();
    let goods = json!({ "type": "event", "name": "purchase", "order_id": "o".repeat(9_000), "items": items });
    for body in [
        format!("[{good},{large},{good}]"),
        format!("[{good},{large},{good},NaN"),
        format!(r#"{{"context":{context},"events":[{good},{good},{good}]}}"#),
        format!("[{good},{goods},{good}]"),
    ] {
        let outcome = collect(&body);
        assert_eq!(outcome.accepted(), 3, "{body:.40}");
        assert!(outcome.messages.iter().all(|message| message.value.len() < 900_000));
    }
}

/// One of these values, or none.
fn one_of(values: Value) -> impl Strategy<Value = Option<Value>> {
    let Value::Array(values) = values else { unreachable!() };
    proptest::option::weighted(0.7, proptest::sample::select(values))
}

fn any_event() -> impl Strategy<Value = Value> {
    let item = (
        one_of(json!(["p-1", "", 7])),
        one_of(json!([1, 19.99, "0.005", -1, null, "x"])),
        one_of(json!([0, 2, "3", -1, 1.5, null])),
    );
    let item = item.prop_map(|(id, price, quantity)| {
        object([("item_id", id), ("price", price), ("quantity", quantity)])
    });
    let items = prop_oneof![
        6 => proptest::collection::vec(item, 0..4).prop_map(Value::from),
        1 => Just(json!({})),
        1 => Just(json!([1])),
    ];
    let kind = one_of(json!(["event", "event", "page_view", "click", "view", 1]));
    let name = one_of(json!(["purchase", "Order Completed", "search", "", null, 5]));
    let url = one_of(json!(["https://a.example/?q", "http://b", "", "c", 1]));
    let id = one_of(json!([
        "018f3a5e-0000-7000-8000-000000000001",
        "018f3a5e-0000-4000-8000-000000000001",
        "x",
        ""
    ]));
    let time = one_of(json!([RECEIVED_AT - 5, "2026-10-30T00:00:00Z", 0, "1793511000123", "x", true, null]));
    let visitor = one_of(json!(["v", "w", "", null, []]));
    let pixels = (one_of(json!([0, 1.5, 7, -1, "1"])), one_of(json!([0, 99999, null])));
    let money = (
        one_of(json!([19.99, "5.5", 0, 12345.675, -1, true, "x", null])),
        one_of(json!(["USD", "JPY", "KWD", "usd", "", null])),
        one_of(json!([1, "0.995", -0.01, {}])),
        one_of(json!(["o", "", null, 3])),
        proptest::option::of(items),
    );
    (kind, name, url, id, time, visitor, pixels, money).prop_map(
        |(kind, name, url, id, time, visitor, pixels, money)| {
            object([
                ("type", kind),
                ("name", name),
                ("url", url),
                ("event_id", id),
                ("timestamp", time),
                ("visitor_id", visitor),
                ("x", pixels.0),
                ("y", pixels.1),
                ("value", money.0),
                ("currency", money.1),
                ("tax", money.2),
                ("order_id", money.3),
                ("items", money.4),
            ])
        },
    )
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect::<Map<_, _>>()
        .into()
}

/// What an event should become: some fields of its row, or nothing. It shares no code with the collector.
fn model(event: &Value) -> Option<Value> {
    let sent = |name: &str| event.get(name).filter(|value| !value.is_null());
    let text = |name: &str| match sent(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let (kind, id, visitor) = (text("type"), text("event_id"), text("visitor_id"));
    let url = sent("url").and_then(Value::as_str).unwrap_or_default();
    let date = match sent("timestamp") {
        Some(Value::String(text)) if text.starts_with("20") => json!("2026-10-30"),
        Some(Value::String(text)) if text.starts_with("17") => json!("2026-11-01"),
        Some(Value::Number(number)) if *number == 0.into() => Value::Null,
        Some(Value::Number(_)) => json!("2026-11-01"),
        _ if id.as_bytes().get(14) == Some(&b'7') => json!("2024-05-02"),
        _ => Value::Null,
    };
    let visitor = if visitor.is_empty() { DERIVED.to_owned() } else { visitor };
    let mut row = json!({ "visitor_id": visitor, "key_date": date, "url": if url.is_empty() { Value::Null } else { url.into() } });
    let pixel = |name: &str| {
        let value = sent(name)?;
        let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
        Some(Value::from(number.round().max(0.0) as u64))
            .map(|pixel| if pixel == 0 { Value::Null } else { pixel })
    };
    match kind.as_str() {
        "page_view" if !url.is_empty() => row["name"] = json!("page_view"),
        "click" if !url.is_empty() => (row["x"], row["y"]) = (pixel("x")?, pixel("y")?),
        "event" => model_event(event, &text("name"), &text("order_id"), &mut row)?,
        _ => return None,
    }
    Some(row)
}

fn model_event(event: &Value, name: &str, order: &str, row: &mut Value) -> Option<()> {
    let sent = |name: &str| event.get(name).filter(|value| !value.is_null());
    let is_order = matches!(name, "purchase" | "Order Completed");
    if name.is_empty() || (is_order && order.is_empty()) {
        return None;
    }
    row["name"] = if is_order { json!("purchase") } else { json!(name) };
    let places = match sent("currency").and_then(Value::as_str).unwrap_or_default() {
        "JPY" => 0,
        "KWD" => 3,
        _ => 2,
    };
    let decimal = |value: &Value| -> Option<Decimal> {
        match value {
            Value::Number(number) => number.to_string().parse().ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    };
    let minor = |value: &Value| {
        let amount = decimal(value).filter(|amount| !amount.is_sign_negative() || amount.is_zero())?;
        let scaled = amount * Decimal::from(10_u32.pow(places));
        scaled.round_dp_with_strategy(0, rust_decimal::RoundingStrategy::MidpointAwayFromZero).to_i64()
    };
    let total = sent("value").and_then(minor).filter(|_| is_order);
    row["total_minor"] = total.map_or(Value::Null, Value::from);
    row["tax_minor"] = sent("tax").and_then(minor).map_or(Value::Null, Value::from);
    let items = sent("items").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    let items = items.filter(|item| !item.is_empty());
    let number = |value: Option<&Value>, otherwise: u32| {
        value.and_then(decimal).unwrap_or_else(|| otherwise.into()).normalize().to_string()
    };
    let (prices, quantities): (Vec<_>, Vec<_>) =
        items.map(|item| (number(item.get("price"), 0), number(item.get("quantity"), 1))).unzip();
    if !prices.is_empty() {
        (row["item_price"], row["item_quantity"]) = (json!(prices), json!(quantities));
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn events_become_what_the_model_says(events in proptest::collection::vec(any_event(), 1..4)) {
        let outcome = collect(&Value::from(events.clone()).to_string());
        let refused: Vec<_> = outcome.rejected.iter().map(|(index, _)| *index).collect();
        let mut rows: Vec<Value> = outcome
            .messages
            .iter()
            .flat_map(|message| message.value.split(|byte| *byte == b'\n'))
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        for (index, event) in events.iter().enumerate() {
            let Some(expected) = model(event) else {
                prop_assert!(refused.contains(&index), "{} should be refused: {:?}", event, rows);
                continue;
            };
            prop_assert!(!refused.contains(&index), "{} should be accepted: {:?}", event, outcome.rejected);
            let matches = |row: &Value| {
                expected.as_object().unwrap().iter().all(|(name, value)| row.get(name).unwrap_or(&Value::Null) == value)
            };
            let Some(place) = rows.iter().position(matches) else {
                return Err(TestCaseError::fail(format!("{expected} is not among {rows:?}")));
            };
            rows.remove(place);
        }
        prop_assert!(rows.is_empty());
    }

    /// Whatever the form of the request, the events of it become the same.
    #[test]
    fn forms_differ_in_nothing(events in proptest::collection::vec(any_event(), 1..4)) {
        let lines: Vec<_> = events.iter().map(Value::to_string).collect();
        let array = format!("[{}]", lines.join(","));
        let bodies = [
            array.clone(),
            format!("{{\"events\":{array}}}"),
            // A broken neighbour behind them makes each of them be parsed alone.
            format!("[{},oh]", lines.join(",")),
            format!("{{\"events\":[{},oh]}}", lines.join(" , ")),
            // Or the end that is missing.
            format!("[{}", lines.join(",")),
            format!("\u{feff}{{\"events\":[{}", lines.join(" , ")),
        ];
        let outcomes = bodies.map(|body| collect(&body));
        let in_lines = collect_body(lines.join("\n").as_bytes(), Form::Lines, &request(), &ENRICHER, &mut Scratch::default()).unwrap();
        for outcome in outcomes.iter().chain([&in_lines]) {
            prop_assert_eq!(&outcome.messages, &outcomes[0].messages);
            let rejected: Vec<_> = outcome.rejected.iter().filter(|(index, _)| *index < events.len()).cloned().collect();
            prop_assert_eq!(&rejected, &outcomes[0].rejected);
        }
    }

    #[test]
    fn any_bytes_are_taken_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for form in [Form::Json, Form::Lines] {
            let _ = collect_body(&body, form, &request(), &ENRICHER, &mut Scratch::default());
        }
    }

    /// JSON-like soup finds more than random bytes do.
    #[test]
    fn any_soup_is_taken_or_refused(body in "([\\[\\]{},:\"\\\\ \n]|\"type\"|\"events\"|\"context\"|null|NaN|1e99|\"event\"|\"name\"){0,40}") {
        let mut scratch = Scratch::default();
        for _ in 0..2 {
            let _ = collect_body(body.as_bytes(), Form::Json, &request(), &ENRICHER, &mut scratch);
        }
    }
}
