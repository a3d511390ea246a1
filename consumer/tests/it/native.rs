//! The block encoder against a real engine: every type of column, odd values, and dictionaries of every width.

use std::borrow::Cow;

use clickhouse::Client;
use millrace_consumer::{
    Config,
    decode::Table,
    native::{BlockBuilder, Source},
    store::Store,
};
use millrace_schemas::row::{EventRow, Row};
use millrace_testbed::Engine;
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::Value;
use uuid::Uuid;

use crate::parts::{NOON_MS, ask, config, json, tell};

/// Values of a row that the tests vary; texts are short and long, empty, with quotes, NULs and other alphabets.
#[derive(Clone, Debug)]
struct Values {
    id: u128,
    texts: Vec<String>,
    numbers: Vec<i64>,
    small: Vec<u32>,
    option: Option<i64>,
    value: Option<f64>,
    time_ms: i64,
    date: u16,
}

fn values() -> impl Strategy<Value = Values> {
    let text = prop_oneof![
        3 => "\\PC{0,12}[\\x00-\\x20\"\\\\']{0,3}",
        1 => proptest::string::string_regex("[a-zü]{100,400}").unwrap(),
        1 => Just(String::new()),
    ];
    (
        any::<u128>(),
        proptest::collection::vec(text, 8),
        proptest::collection::vec(any::<i64>(), 0..5),
        proptest::collection::vec(any::<u32>(), 4),
        proptest::option::of(any::<i64>()),
        proptest::option::of(-1e15_f64..1e15),
        0..4_102_444_800_000_i64,
        any::<u16>(),
    )
        .prop_map(|(id, texts, numbers, small, option, value, time_ms, date)| Values {
            id,
            texts,
            numbers,
            small,
            option,
            value,
            time_ms,
            date,
        })
}

fn row(values: &Values) -> EventRow<'_> {
    let Values { id, texts, numbers, small, option, value, time_ms, date } = values;
    let items = vec![texts[0].as_str(); numbers.len()];
    EventRow {
        store_id: &texts[0],
        event_id: Uuid::from_u128(*id),
        name: &texts[1],
        event_time: *time_ms,
        client_time: option.map(|_| *time_ms),
        received_at: NOON_MS,
        key_date: *date,
        visitor_id: &texts[2],
        visitor_hash: *id as u64,
        sequence: option.map(|_| small[0]),
        url: &texts[3],
        viewport_width: small[1] as u16,
        duration_ms: small[2],
        scroll_depth: small[3] as u8,
        value: *value,
        total_minor: *option,
        tax_minor: option.map(|number| !number),
        item_product_id: items.clone(),
        item_variant_id: items.clone(),
        item_name: items.clone(),
        item_brand: items.clone(),
        item_category: items.clone(),
        item_price: numbers.clone(),
        item_quantity: numbers.clone(),
        item_discount: numbers.clone(),
        item_product_kind: items,
        properties: vec![("k1", Cow::Borrowed(&texts[4])), (&texts[5], Cow::Borrowed(&texts[6]))],
        user_agent: &texts[7],
        ..EventRow::default()
    }
}

async fn store(engine: &Engine) -> (Config, Store) {
    let config = config(engine, std::path::Path::new("unused"));
    let store = Store::new(&config);
    store.make_tables().await.unwrap();
    (config, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_known_token_keeps_a_block_out() {
    let engine = Engine::start().await.unwrap();
    let (_, store) = store(&engine).await;
    tell(&engine, "SYSTEM STOP MERGES millrace.events").await;
    let mut builder = BlockBuilder::new(Table::Events.columns());
    let values = values().new_tree(&mut TestRunner::deterministic()).unwrap().current();
    builder.push(&row(&values), Source { topic: "t", partition: 3, offset: 1, row: 0 });
    let block = builder.finish();
    for (token, stored) in [(Some("one"), 1), (Some("one"), 1), (None, 2), (None, 3), (Some("two"), 4)] {
        store.insert(Table::Events, token, &block).await.unwrap();
        assert_eq!(ask(&engine, "SELECT count() FROM millrace.events").await, stored, "{token:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_comes_back() {
    let engine = Engine::start().await.unwrap();
    let (_, store) = store(&engine).await;
    let mut runner = TestRunner::deterministic();
    let all: Vec<Values> = (0..1000).map(|_| values().new_tree(&mut runner).unwrap().current()).collect();
    let mut builder = BlockBuilder::new(Table::Events.columns());
    for (offset, values) in all.iter().enumerate() {
        let offset = offset as u64;
        builder.push(&row(values), Source { topic: "t", partition: 3, offset, row: u32::MAX });
    }
    let block = builder.finish();
    store.insert(Table::Events, Some("one"), &block).await.unwrap();
    store.insert(Table::Events, Some("one"), &block).await.unwrap();

    let names: Vec<&str> = EventRow::COLUMNS.iter().map(|column| column.name).collect();
    let query =
        format!("SELECT {}, _partition, _row FROM millrace.events ORDER BY _offset", names.join(", "));
    let client = Client::default()
        .with_url(engine.url())
        .with_setting("output_format_json_quote_64bit_integers", "0")
        .with_setting("output_format_json_quote_decimals", "1")
        .with_setting("output_format_json_escape_forward_slashes", "0");
    let bytes = client.query_raw(&query).fetch_bytes("JSONEachRow").unwrap().collect().await.unwrap();
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), all.len(), "the same token stores nothing twice");
    let batch = "SELECT countIf(_batch = 0) FROM millrace.events";
    assert_eq!(ask(&engine, batch).await, all.len() as u64, "all rows of an insert name the first");
    for (line, values) in lines.iter().zip(&all) {
        let found: Value = serde_json::from_slice(line).unwrap();
        let sent: Value = serde_json::from_str(&json(&row(values))).unwrap();
        for name in &names {
            check(name, &found[*name], sent.get(*name), values);
        }
        assert_eq!((&found["_partition"], &found["_row"]), (&3.into(), &u32::MAX.into()));
    }
}

/// `sent` is absent where the row holds the default.
fn check(name: &str, found: &Value, sent: Option<&Value>, values: &Values) {
    let same = match (found, sent) {
        (Value::Number(found), Some(Value::Number(sent))) => {
            // The last bit of a float is lost on its way through this test's JSON parser.
            let (exact, near) = (found.as_f64().unwrap(), sent.as_f64().unwrap());
            found == sent || found.is_f64() && (exact - near).abs() <= exact.abs() * 1e-15
        }
        (found, Some(sent)) => found == sent,
        (Value::Number(found), None) => found.as_f64() == Some(0.0),
        (Value::String(found), None) => {
            ["", "1970-01-01", "1970-01-01 00:00:00.000", "00000000-0000-0000-0000-000000000000"]
                .contains(&found.as_str())
        }
        (Value::Null, None) => true,
        (Value::Array(found), None) => found.is_empty(),
        (Value::Object(found), None) => found.is_empty(),
        (Value::Bool(_), None) => false,
    };
    assert!(same, "{name}: {found} instead of {sent:?} of {values:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_of_every_width_come_back() {
    let engine = Engine::start().await.unwrap();
    let (_, store) = store(&engine).await;
    for names in [1_u32, 255, 256, 257, 65_536, 65_537] {
        let mut builder = BlockBuilder::new(Table::Events.columns());
        for number in 0..names {
            let name = format!("name-{number}");
            let row = EventRow {
                name: &name,
                received_at: NOON_MS,
                visitor_hash: number.into(),
                event_id: Uuid::from_u128(number.into()),
                ..EventRow::default()
            };
            let source = Source { topic: "t", partition: 0, offset: names.into(), row: number };
            builder.push(&row, source);
        }
        store.insert(Table::Events, Some(&names.to_string()), &builder.finish()).await.unwrap();
        let query = format!(
            "SELECT countIf(name = concat('name-', toString(_row))) FROM millrace.events WHERE _offset = {names}"
        );
        assert_eq!(ask(&engine, &query).await, u64::from(names));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_changes_nothing() {
    let engine = Engine::start().await.unwrap();
    let (config, _) = store(&engine).await;
    let compressed = Config { clickhouse_compression: millrace_consumer::NetworkCompression::Lz4, ..config };
    let mut builder = BlockBuilder::new(Table::Events.columns());
    let url = "x".repeat(5_000);
    for number in 0..1000 {
        let row = EventRow { url: &url, received_at: NOON_MS, visitor_hash: number, ..EventRow::default() };
        builder.push(&row, Source { topic: "t", partition: 0, offset: number, row: 0 });
    }
    Store::new(&compressed).insert(Table::Events, Some("lz4"), &builder.finish()).await.unwrap();
    let query = "SELECT countIf(length(url) = 5000) FROM millrace.events";
    assert_eq!(ask(&engine, query).await, 1000);
}
