//! A backlog of any size is looked at in slices: in order, exactly, with bounded memory.

use std::time::Instant;

use millrace_aggregator::{
    arrival::{self, Discovery},
    clickhouse::Warehouse,
};
use millrace_schemas::row::EventRow;
use serde_json::json;

use crate::harness::{Bed, at, event};

/// Whether everything is run in full: hours rather than seconds.
pub(crate) fn in_full() -> bool {
    std::env::var_os("MILLRACE_ACCEPT").is_some_and(|value| value == "1")
}

impl Bed {
    /// Has ClickHouse make so many events of a lane, in batches of 100,000: `columns` are further ones, with expressions
    /// over `number`.
    pub(crate) async fn generate(&self, store: &str, partition: u32, count: u64, columns: &[(&str, &str)]) {
        let first = at("2026-10-20 00:00:00");
        let mut all = vec![
            ("store_id", format!("'{store}'")),
            (
                "event_id",
                format!(
                    "toUUID(concat('00000000-0000-4000-8{partition:03x}-', leftPad(lower(hex(number)), 12, '0')))"
                ),
            ),
            ("type", "'event'".into()),
            ("name", "'search'".into()),
            // Five days, in order.
            (
                "event_time",
                format!(
                    "fromUnixTimestamp64Milli(toInt64({first} + intDiv(432000000 * number, {count})), 'UTC')"
                ),
            ),
            ("received_at", "event_time + 1".into()),
            ("time_source", "'client'".into()),
            ("key_date", "toDate(event_time, 'UTC')".into()),
            ("visitor_id", "concat('v', toString(number % 30011))".into()),
            ("visitor_hash", "cityHash64(visitor_id)".into()),
            ("_topic", "'millrace.events'".into()),
            ("_partition", partition.to_string()),
            ("_offset", "number".into()),
            ("_row", "0".into()),
            ("_batch", "intDiv(number, 100000) * 100000".into()),
        ];
        for (name, expression) in columns {
            all.retain(|(known, _)| known != name);
            all.push((name, (*expression).into()));
        }
        let names: Vec<_> = all.iter().map(|(name, _)| format!("`{name}`")).collect();
        let expressions: Vec<_> =
            all.iter().map(|(name, expression)| format!("{expression} AS `{name}`")).collect();
        for from in (0..count).step_by(100_000) {
            let insert = format!(
                "INSERT INTO millrace.events ({}) SELECT {} FROM numbers({from}, {})",
                names.join(", "),
                expressions.join(", "),
                (count - from).min(100_000),
            );
            self.clickhouse("", &insert).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_millions_is_caught_up_in_slices() {
    let (rows, memory) = if in_full() { (10_000_000_u64, 256 << 20) } else { (1_500_000, 64 << 20) };
    let mut bed = Bed::with_store("s", "UTC", "USD").await;
    bed.add_store("other", "UTC", "USD").await;
    bed.generate("s", 0, rows, &[("visitor_id", "concat('v', toString(intDiv(number, 50)))")]).await;
    bed.generate("other", 1, 1_000, &[]).await;
    bed.config.query_memory_bytes = memory;
    let warehouse = Warehouse::new(&bed.config);
    // All of it at once does not fit, and so nothing moves.
    let mut whole = Discovery::new(2 * rows);
    let looked = arrival::look(&warehouse, &bed.pool, &mut whole).await.unwrap().unwrap();
    assert_eq!((looked.days, looked.has_more, whole.slice_rows()), (0, true, rows));
    assert!(bed.rows("SELECT topic FROM arrival_watermarks").await.is_empty());
    let mut discovery = Discovery::new(rows / 10);
    let (start, mut slices, mut halved, mut next) = (Instant::now(), 0, 0, 0);
    let lane = "SELECT next_offset AS next FROM arrival_watermarks WHERE partition = 0";
    loop {
        let looked = arrival::look(&warehouse, &bed.pool, &mut discovery).await.unwrap().unwrap();
        slices += 1;
        let seen = bed.rows(lane).await.first().map_or(0, |row| row["next"].as_u64().unwrap());
        // The newest batch is not cut.
        assert!(seen - next <= rows / 10 + 100_000, "slice {slices} goes from {next} to {seen}");
        // One that needs too much is taken again, smaller.
        if seen == next {
            slices -= 1;
            halved += 1;
            assert!(looked.has_more && halved < 10, "{looked:?} at {next}");
            continue;
        }
        next = seen;
        if slices == 1 {
            // Nobody waits for the end of another lane.
            let days = "SELECT count(*) AS n FROM touched_days WHERE store_id = 'other'";
            assert_eq!(bed.rows(days).await, [json!({"n": 5})]);
        }
        if !looked.has_more {
            break;
        }
    }
    println!("{rows} rows in {slices} slices, {halved} of them halved, {:?}", start.elapsed());
    assert!(slices >= 9, "{slices} slices");
    let newest =
        "SELECT next_offset AS next, batch_offset AS batch, batch_rows AS rows FROM arrival_watermarks
                  WHERE partition = 0";
    let expected = json!({"next": rows, "batch": rows - 100_000, "rows": 100_000});
    assert_eq!(bed.rows(newest).await, [expected]);
    let days = "SELECT count(*) AS n FROM touched_days WHERE store_id = 's'";
    assert_eq!(bed.rows(days).await, [json!({"n": 5})]);
    let again = arrival::look(&warehouse, &bed.pool, &mut discovery).await.unwrap().unwrap();
    assert_eq!((again.days, again.has_more), (0, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_who_is_one_long_list_keeps_nobodys_arrivals() {
    let rows = if in_full() { 5_000_000 } else { 600_000 };
    let mut bed = Bed::with_store("hostile", "UTC", "USD").await;
    bed.add_store("honest", "UTC", "USD").await;
    // One visitor without a pause: what an arrival of theirs decides is asked of a list that does not fit.
    bed.generate("hostile", 0, rows, &[("visitor_id", "'one'")]).await;
    bed.generate("honest", 1, 1_000, &[]).await;
    bed.config.query_memory_bytes = 32 << 20;
    let warehouse = Warehouse::new(&bed.config);
    let mut discovery = Discovery::new(rows);
    let mut looks = 0;
    while arrival::look(&warehouse, &bed.pool, &mut discovery).await.unwrap().unwrap().has_more {
        looks += 1;
        assert!(looks < 100, "it comes to no end");
    }
    let days = "SELECT store_id AS s, count(*) AS n FROM touched_days GROUP BY store_id ORDER BY store_id";
    assert_eq!(bed.rows(days).await, [json!({"s": "honest", "n": 5}), json!({"s": "hostile", "n": 5})]);
    // An arrival on one of its days touches all of them, and of others what it decides.
    bed.clickhouse("", "SYSTEM STOP MERGES").await;
    sqlx::query("DELETE FROM touched_days").execute(&bed.pool).await.unwrap();
    for (store, partition) in [("hostile", 2), ("honest", 3)] {
        bed.generate(store, partition, 1, &[("visitor_id", "'one'")]).await;
    }
    arrival::look(&warehouse, &bed.pool, &mut Discovery::new(rows)).await.unwrap().unwrap();
    assert_eq!(bed.rows(days).await, [json!({"s": "honest", "n": 1}), json!({"s": "hostile", "n": 5})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_do_not_fit_are_their_own_stores_alone() {
    let mut bed = Bed::with_store("hostile", "UTC", "USD").await;
    bed.add_store("honest", "UTC", "USD").await;
    let honest = |number, session, time| EventRow {
        store_id: "honest",
        ..event(number, "page_view", time, "v", session)
    };
    bed.insert(&[honest(1, "a", "2026-10-01 10:00:00")]).await;
    arrival::look(&bed.warehouse, &bed.pool, &mut Discovery::default()).await.unwrap().unwrap();
    sqlx::query("DELETE FROM touched_days").execute(&bed.pool).await.unwrap();
    // A list of these sessions alone is larger than a query's memory.
    let session = ("session_id", "concat(repeat('s', 10000), toString(number))");
    bed.generate("hostile", 1, 10_000, &[session]).await;
    bed.insert(&[honest(2, "b", "2026-10-20 10:00:00")]).await;
    bed.config.query_memory_bytes = 64 << 20;
    let warehouse = Warehouse::new(&bed.config);
    let mut discovery = Discovery::new(10_000);
    while arrival::look(&warehouse, &bed.pool, &mut discovery).await.unwrap().unwrap().has_more {}
    let days = "SELECT store_id AS s, count(*) AS n FROM touched_days GROUP BY store_id ORDER BY store_id";
    assert_eq!(bed.rows(days).await, [json!({"s": "honest", "n": 1}), json!({"s": "hostile", "n": 5})]);
    assert_eq!(discovery.apart(), ["hostile"]);
}
