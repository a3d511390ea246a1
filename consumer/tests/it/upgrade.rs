//! Tables that an earlier release made, with its rows in them, under a consumer of this one.

use millrace_schemas::{
    clickhouse::SOURCE_COLUMNS,
    row::{ClickRow, Column, EventRow, Row as _},
    topic::{CLICKS, EVENTS},
};
use uuid::Uuid;

use crate::parts::{
    Bench, NOON_MS, Running, SpoolTopic, ask, ask_text, await_answer, click, event, json, tell,
};

/// What release 0.1.0 made at its start.
const TABLES: &str = include_str!("../data/tables-0.1.0.sql");

#[tokio::test(flavor = "multi_thread")]
async fn old_tables_get_the_new_columns_and_keep_their_rows() {
    let bench = Bench::start().await;
    for statement in TABLES.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        tell(&bench.engine, statement).await;
    }
    let before = ask(
        &bench.engine,
        "SELECT count() FROM system.columns WHERE database = 'millrace' AND table = 'events'",
    );
    assert!(before.await < (EventRow::COLUMNS.len() + SOURCE_COLUMNS.len()) as u64, "these are the old ones");
    let old = event(1).replacen('{', r#"{"_topic":"millrace.events","_offset":0,"#, 1);
    tell(&bench.engine, &format!("INSERT INTO millrace.events FORMAT JSONEachRow {old}")).await;

    // What the old collector left in the log has none of the new fields; the new one's rows have them.
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    let mut clicks = SpoolTopic::new(bench.spool.path(), CLICKS);
    let new = json(&EventRow {
        store_id: "demo",
        event_id: Uuid::from_u128(3),
        name: "page_view",
        received_at: NOON_MS,
        browser: "Firefox",
        city: "Köln",
        utm_term: "shoes",
        channel: "Paid Search",
        ..EventRow::default()
    });
    events.write([event(1), event(2), new]);
    clicks.write([click(1)]);
    for start in 1..=2 {
        let running = Running::start(bench.config.clone());
        await_answer(&bench.engine, "SELECT count() FROM millrace.events FINAL", 3).await;
        await_answer(&bench.engine, "SELECT count() FROM millrace.clicks", 1).await;
        let rows = "SELECT arrayStringConcat(groupArray(concat(browser, '/', city, '/', utm_term, '/', channel)), ' ') \
                    FROM (SELECT * FROM millrace.events FINAL ORDER BY event_id)";
        assert_eq!(
            ask_text(&bench.engine, rows).await,
            "/// /// Firefox/Köln/shoes/Paid Search",
            "start {start}"
        );
        for (table, columns) in [("events", EventRow::COLUMNS), ("clicks", ClickRow::COLUMNS)] {
            assert_eq!(columns_of(&bench, table).await, expected(columns), "{table}, start {start}");
        }
        running.stop().await;
    }
}

/// Prices were minor units and quantities whole numbers, in rows of the table and of the log.
#[tokio::test(flavor = "multi_thread")]
async fn items_of_an_earlier_release_keep_their_prices() {
    let bench = Bench::start().await;
    for statement in TABLES.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        tell(&bench.engine, statement).await;
    }
    let former = |id: u128, currency: &str, more: &str| {
        let id = Uuid::from_u128(id);
        let list = |value: &str| format!("[{value},{value}]");
        let texts: Vec<_> = ["product_id", "variant_id", "name", "brand", "category", "product_kind"]
            .iter()
            .map(|name| format!(r#""item_{name}":{}"#, list(r#""p""#)))
            .collect();
        format!(
            r#"{{{more}"store_id":"demo","event_id":"{id}","type":"event","name":"purchase","currency":"{currency}",
               "event_time":"2026-11-01 12:00:00.000","received_at":"2026-11-01 12:00:00.000","tax_minor":5,{},
               "item_price_minor":[1999,0],"item_quantity":[1,2],"item_discount_minor":[0,10]}}"#,
            texts.join(",")
        )
        .replace(['\n'], " ")
    };
    let place = r#""_topic":"millrace.events","_offset":0,"#;
    let old = [former(1, "USD", place), former(2, "JPY", place)].join("\n");
    tell(&bench.engine, &format!("INSERT INTO millrace.events FORMAT JSONEachRow {old}")).await;
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write([former(3, "USD", ""), former(4, "KWD", "")]);
    for start in 1..=2 {
        let running = Running::start(bench.config.clone());
        await_answer(&bench.engine, "SELECT count() FROM millrace.events FINAL", 4).await;
        let rows = "SELECT arrayStringConcat(groupArray(concat(currency, toString(item_price), \
                    toString(item_quantity), toString(item_discount))), ' ') \
                    FROM (SELECT * FROM millrace.events FINAL ORDER BY event_id)";
        assert_eq!(
            ask_text(&bench.engine, rows).await,
            "USD[19.99,0][1,2][0,0.1] JPY[1999,0][1,2][0,10] USD[19.99,0][1,2][0,0.1] KWD[1.999,0][1,2][0,0.01]",
            "start {start}"
        );
        let cents = "SELECT arrayStringConcat(groupArray(toString(price_cents)), ' ') \
                     FROM (SELECT * FROM millrace.ecommerce_events ORDER BY id, price_cents)";
        assert_eq!(ask_text(&bench.engine, cents).await, "0 1999 0 1999 0 1999 0 1999", "start {start}");
        let amounts = "SELECT arrayStringConcat(arrayDistinct(groupArray(concat(toTypeName(tax_minor), toString(tax_minor), \
                       toString(shipping_minor)))), ' ') FROM (SELECT * FROM millrace.events FINAL WHERE _offset = 0 ORDER BY event_id)";
        let kept = ask_text(&bench.engine, amounts).await;
        assert_eq!(kept, "Nullable(Int64)50", "start {start}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_old_tables_a_servers_word_comes_to_stand_before_what_anybody_sent() {
    let bench = Bench::start().await;
    for statement in TABLES.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        tell(&bench.engine, statement).await;
    }
    let order = |number: u128, trusted: u8, total: i64, received_at: i64| EventRow {
        store_id: "demo",
        event_id: Uuid::from_u128(number),
        name: "purchase",
        event_time: NOON_MS,
        received_at,
        trusted,
        total_minor: Some(total),
        ..EventRow::default()
    };
    // The copy that anybody sent was received first; each insert is a part of its own.
    for (offset, row) in
        [order(1, 0, 1, NOON_MS), order(1, 1, 9_900, NOON_MS + 60_000), order(2, 1, 500, NOON_MS)]
            .iter()
            .enumerate()
    {
        let row = json(row).replacen('{', &format!(r#"{{"_topic":"millrace.events","_offset":{offset},"#), 1);
        tell(&bench.engine, &format!("INSERT INTO millrace.events FORMAT JSONEachRow {row}")).await;
    }
    let total = "SELECT toUInt64(sum(ifNull(total_minor, 0))) FROM millrace.events FINAL";
    assert_eq!(ask(&bench.engine, total).await, 501, "what this is about");
    let mut events = SpoolTopic::new(bench.spool.path(), EVENTS);
    events.write([json(&EventRow { event_time: NOON_MS - 60_000, ..order(2, 0, 1, NOON_MS) })]);
    SpoolTopic::new(bench.spool.path(), CLICKS).write([click(1)]);
    for _ in 1..=2 {
        let running = Running::start(bench.config.clone());
        await_answer(&bench.engine, "SELECT count() FROM millrace.clicks", 1).await;
        await_answer(&bench.engine, total, 10_400).await;
        running.stop().await;
    }
    let rewrites =
        "SELECT count() FROM system.mutations WHERE command LIKE '%MATERIALIZE COLUMN%' AND table = 'events'";
    assert_eq!(ask(&bench.engine, rewrites).await, 1, "once, not at each start");
}

/// Names and types, in their order.
async fn columns_of(bench: &Bench, table: &str) -> Vec<String> {
    let query = format!(
        "SELECT arrayStringConcat(groupArray(concat(name, ' ', type)), ';') FROM (SELECT name, type \
         FROM system.columns WHERE database = 'millrace' AND table = '{table}' AND name NOT LIKE 'item_%_minor' \
         ORDER BY position)"
    );
    ask_text(&bench.engine, &query).await.split(';').map(str::to_owned).collect()
}

/// What a new table has.
fn expected(columns: &[Column]) -> Vec<String> {
    let own = columns.iter().chain(&SOURCE_COLUMNS);
    let own = own.map(|column| format!("{} {}", column.name, column.ty.clickhouse()));
    own.chain(["_version UInt128".to_owned()]).collect()
}
