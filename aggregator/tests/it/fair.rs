//! Nobody keeps another store's rollups waiting: not by what they send, and not by what goes wrong with it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::StatusCode,
};
use millrace_aggregator::{
    arrival::{self, Discovery},
    privacy::{self, Finality},
    rollup::products::STOCK_TURNS_SQL,
    turn::{self, failing::failing_stores},
    worker::{self, Health},
};
use millrace_schemas::row::EventRow;
use serde_json::{Value, json};
use sqlx::Row as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    equal::{Dice, define, random_clicks, random_events},
    harness::{Bed, at, click, event, eventually},
    slices::in_full,
};

/// Rows that a plan's nodes have made or thrown away.
fn rows_of(plan: &Value) -> f64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or(0.0);
    let removed: f64 = plan
        .as_object()
        .unwrap()
        .keys()
        .filter(|key| key.starts_with("Rows Removed"))
        .map(|key| number(key))
        .sum();
    let own = (number("Actual Rows") + removed) * number("Actual Loops");
    own + plan["Plans"].as_array().map_or(0.0, |plans| plans.iter().map(rows_of).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_turns_cost_as_much_as_there_are_rows() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.add_store("other", "UTC", "USD").await;
    let fill = |store: &str, date: &str, count: u32| {
        format!(
            "INSERT INTO product_analytics (store_id, product_id, date, views_count, unique_views_count,
                 add_to_cart_count, cart_removal_count, checkout_count, purchase_count, units_sold, revenue_cents,
                 currency, average_time_on_page, bounce_rate, conversion_rate, stock_level, review_count)
             SELECT '{store}', 'p' || i, '{date}', 1, 1, 1, 0, 0, 1, i % 7, 0, 'USD', 0, 0, 0, 10 + i % 3, 0
             FROM generate_series(1, {count}) AS i"
        )
    };
    // What the planner knows of the table is another store.
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill("other", "2026-10-01", 100))).execute(&bed.pool).await.unwrap();
    sqlx::raw_sql("ANALYZE product_analytics").execute(&bed.pool).await.unwrap();
    let mut transaction = bed.pool.begin().await.unwrap();
    let count = 3_000;
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill("s", "2026-11-01", count)))
        .execute(&mut *transaction)
        .await
        .unwrap();
    let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN (ANALYZE, FORMAT JSON) {STOCK_TURNS_SQL}")))
        .bind("s")
        .bind(vec!["2026-10-03", "2026-11-01", "2026-11-30"])
        .bind(vec!["2026-11-01", "2026-11-30"])
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    let plan: Value = plan.get(0);
    let rows = rows_of(&plan[0]["Plan"]);
    assert!(rows < 20.0 * f64::from(count), "{rows} rows went through {plan:#}");
    let written: i64 =
        sqlx::query_scalar("SELECT count(*) FROM product_analytics WHERE stock_turns IS NOT NULL")
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
    assert_eq!(written, i64::from(count));
}

impl Bed {
    /// A store's rollups.
    async fn everything_of(&self, store: &str) -> Vec<(String, Vec<Value>)> {
        let mut all = self.everything().await;
        for (_, rows) in &mut all {
            rows.retain(|row| row["rest"]["store_id"] == store);
        }
        all
    }

    /// A store as shops are, and what its rollups must be.
    async fn honest(&self) -> Vec<(String, Vec<Value>)> {
        self.add_store("honest", "America/New_York", "USD").await;
        define(self, "honest").await;
        let mut dice = Dice(91);
        self.insert(&random_events(&mut dice, "honest")).await;
        self.insert(&random_clicks(&mut dice, "honest")).await;
        self.roll().await;
        let expected = self.everything_of("honest").await;
        assert!(expected.iter().all(|(table, rows)| !rows.is_empty() || table.is_empty()), "{expected:?}");
        self.forget().await;
        expected
    }

    /// Lets whoever steps aside be tried at once.
    async fn end_pauses(&self, table: &str) {
        let end = format!("UPDATE {table} SET retry_at = clock_timestamp() WHERE retry_at IS NOT NULL");
        sqlx::query(sqlx::AssertSqlSafe(end)).execute(&self.pool).await.unwrap();
    }

    async fn waits(&self, store: &str) -> bool {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM touched_days WHERE store_id = $1)")
            .bind(store)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Stores with the reason why they fail.
    async fn failing(&self) -> Vec<(String, String)> {
        let (stores, _) = failing_stores(&self.pool).await.unwrap();
        let mut stores: Vec<_> = stores.into_iter().map(|store| (store.store_id, store.reason)).collect();
        stores.sort();
        stores
    }

    /// A worker, until the answer's token is cancelled.
    fn work(&self) -> CancellationToken {
        let shutdown = CancellationToken::new();
        let (warehouse, pool, token) = (self.warehouse.clone(), self.pool.clone(), shutdown.clone());
        let settings = self.config.worker();
        tokio::spawn(
            async move { worker::work(&warehouse, &pool, &Health::default(), &settings, &token).await },
        );
        shutdown
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_never_end_keep_nobody_waiting() {
    let mut bed = Bed::with_store("honest", "UTC", "USD").await;
    // One takes a place beside the others, one has stepped aside; both wait for what never comes, and have waited longer.
    for store in ["a", "b"] {
        bed.add_store(store, "UTC", "USD").await;
        sqlx::query("INSERT INTO touched_days (store_id, date, received_at, waiting_since) VALUES ($1, '2026-10-01', 'epoch', 'epoch')")
            .bind(store)
            .execute(&bed.pool)
            .await
            .unwrap();
    }
    sqlx::query(
        "INSERT INTO rollup_backoff (store_id, failures, budget_ms, days_max, retry_at, failing_since, reason)
         VALUES ('b', 1, 600000, 1, 'epoch', 'epoch', 'time')",
    )
    .execute(&bed.pool)
    .await
    .unwrap();
    // Their rollups never end while the table has a row.
    sqlx::raw_sql(
        "CREATE TABLE held (); INSERT INTO held DEFAULT VALUES;
         CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             WHILE EXISTS (SELECT FROM held) LOOP PERFORM pg_sleep(0.05); END LOOP;
             RETURN OLD;
         END $$;
         CREATE TRIGGER hold BEFORE DELETE ON touched_days
             FOR EACH ROW WHEN (length(OLD.store_id) = 1) EXECUTE FUNCTION hold()",
    )
    .execute(&bed.pool)
    .await
    .unwrap();
    // The honest one waits beside them, and not for so long.
    bed.insert(&[EventRow { store_id: "honest", ..event(1, "page_view", "2026-10-05 12:00:00", "v", "") }])
        .await;
    let mut discovery = Discovery::new(bed.config.arrival_slice_rows);
    eventually("it has arrived", async || {
        arrival::look(&bed.warehouse, &bed.pool, &mut discovery).await.unwrap();
        bed.waits("honest").await
    })
    .await;
    bed.config.store_budget_ms = 600_000;
    bed.config.interval_ms = 10;
    bed.config.stores_at_once = 2;
    let shutdown = bed.work();
    // Whose rollup is under way has locked its days.
    let is_at_it = async |bed: &Bed, store: &str| {
        let free = format!("SELECT 1 FROM touched_days WHERE store_id = '{store}' FOR UPDATE SKIP LOCKED");
        bed.waits(store).await && bed.rows(&free).await.is_empty()
    };
    eventually("both are at it", async || is_at_it(&bed, "a").await && is_at_it(&bed, "b").await).await;
    eventually("the honest store is fresh beside them", async || !bed.waits("honest").await).await;
    assert!(is_at_it(&bed, "a").await && is_at_it(&bed, "b").await, "neither was given up");
    let views =
        "SELECT page_views AS n FROM analytics_summary WHERE period_type = 'day' AND store_id = 'honest'";
    assert_eq!(bed.rows(views).await, [json!({"n": 1})]);
    // What held them ends: they come back by themselves.
    sqlx::query("DELETE FROM held").execute(&bed.pool).await.unwrap();
    eventually("they are rolled up too", async || {
        bed.end_pauses("rollup_backoff").await;
        bed.end_pauses("touched_days").await;
        !bed.waits("a").await && !bed.waits("b").await && bed.failing().await.is_empty()
    })
    .await;
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_exceeds_its_budget_steps_aside_and_finds_what_it_needs() {
    let mut bed = Bed::with_store("s", "UTC", "USD").await;
    bed.insert(&[event(1, "page_view", "2026-10-05 12:00:00", "v", "")]).await;
    bed.config.store_budget_ms = 1;
    bed.cycle().await.unwrap();
    assert_eq!(bed.failing().await, [("s".to_owned(), "time".to_owned())]);
    let mut cycles = 0;
    while bed.waits("s").await {
        bed.end_pauses("rollup_backoff").await;
        bed.end_pauses("touched_days").await;
        bed.cycle().await.unwrap();
        cycles += 1;
        assert!(cycles < 20, "{:?}", bed.failing().await);
    }
    // It fails no longer, and keeps what it needs.
    assert!(bed.failing().await.is_empty());
    assert_eq!(
        bed.rows("SELECT failures FROM rollup_backoff WHERE budget_ms > 1").await,
        [json!({"failures": 0})]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_too_many_rows_keeps_no_other_day() {
    let mut bed = Bed::with_store("s", "UTC", "USD").await;
    bed.config.rollup_rows_max = 1_000;
    let day = |number: u128, time| EventRow {
        item_product_id: vec!["p"],
        ..event(number, "view_item", time, "v", "")
    };
    bed.insert(&[
        day(1, "2026-10-05 10:00:00"),
        day(2, "2026-10-06 10:00:00"),
        day(3, "2026-10-07 10:00:00"),
        day(4, "2026-10-08 10:00:00"),
    ])
    .await;
    let products = [
        ("name", "'view_item'"),
        ("event_time", "toDateTime64('2026-10-06 11:00:00', 3, 'UTC')"),
        ("item_product_id", "[toString(number)]"),
    ];
    bed.generate("s", 7, 3_000, &products).await;
    let views = "SELECT date, page_views AS n FROM analytics_summary WHERE period_type = 'day' ORDER BY date";
    let mut cycles = 0;
    while bed.rows("SELECT date FROM summary_days").await.len() < 3 {
        bed.cycle().await.unwrap();
        bed.end_pauses("rollup_backoff").await;
        cycles += 1;
        assert!(cycles < 20, "{:?}", bed.rows(views).await);
    }
    let dates = bed.rows("SELECT date FROM summary_days ORDER BY date").await;
    assert_eq!(dates, ["2026-10-05", "2026-10-07", "2026-10-08"].map(|date| json!({"date": date})));
    assert_eq!(
        bed.rows("SELECT date FROM touched_days WHERE failures > 0").await,
        [json!({"date": "2026-10-06"})]
    );
    assert_eq!(bed.failing().await, [("s".to_owned(), "rows".to_owned())]);
    // With room for them it is a day like any other, and the store one like any other.
    bed.config.rollup_rows_max = 200_000;
    for _ in 0..20 {
        bed.end_pauses("rollup_backoff").await;
        bed.end_pauses("touched_days").await;
        bed.cycle().await.unwrap();
    }
    let rest =
        "SELECT (SELECT count(*) FROM touched_days) AS days, (SELECT count(*) FROM rollup_backoff WHERE failing_since IS NOT NULL) AS stores,
                       (SELECT count(*) FROM product_analytics WHERE date = '2026-10-06') AS products";
    assert_eq!(bed.rows(rest).await, [json!({"days": 0, "stores": 0, "products": 3_001})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_days_are_rolled_up_although_new_ones_come_all_the_time() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let dates: Vec<String> = (1..=30).map(|day| format!("2026-10-{day:02}")).collect();
    let touch = "INSERT INTO touched_days (store_id, date, received_at)
                 SELECT 's', day, 'epoch' FROM unnest($1::date[]) AS day
                 ON CONFLICT (store_id, date) DO UPDATE SET touched_at = clock_timestamp()";
    let mut rolled = BTreeSet::new();
    // Thirty events a second on thirty days: all of them are touched again whenever some have been rolled up.
    for _ in 0..40 {
        sqlx::query(touch).bind(&dates).execute(&bed.pool).await.unwrap();
        let mut days = Vec::new();
        millrace_aggregator::rollup::roll_up(&bed.warehouse, &bed.pool, "s", 2, &mut days).await.unwrap();
        assert_eq!(days.len(), 2);
        rolled.extend(days);
    }
    assert_eq!(rolled.len(), dates.len());
    // The newest day does not wait for the others.
    sqlx::query(touch).bind(&dates).execute(&bed.pool).await.unwrap();
    let mut days = Vec::new();
    millrace_aggregator::rollup::roll_up(&bed.warehouse, &bed.pool, "s", 2, &mut days).await.unwrap();
    assert!(days.iter().any(|day| day.to_string() == "2026-10-30"), "{days:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_who_clicks_all_day_costs_no_more_than_their_clicks() {
    let mut bed = Bed::with_store("s", "UTC", "USD").await;
    bed.config.query_memory_bytes = 64 << 20;
    let ms = at("2026-10-05 10:00:00");
    let clicks: Vec<_> =
        (0..20_000).map(|number| click(number, ms + 400 * number as i64, "v", 10, 10)).collect();
    bed.insert(&clicks).await;
    bed.warehouse = millrace_aggregator::clickhouse::Warehouse::new(&bed.config);
    bed.roll().await;
    let all = "SELECT sum(clicks) AS clicks, sum(rage_clicks) AS rage FROM heatmap_data";
    assert_eq!(bed.rows(all).await, [json!({"clicks": 20_000, "rage": 20_000})]);
}

/// Everything at once that a public key can send against others: products, elements, memory, days.
#[tokio::test(flavor = "multi_thread")]
async fn an_honest_store_beside_hostile_ones_stays_fresh_and_loses_nothing() {
    let mut bed = Bed::start().await;
    let expected = bed.honest().await;
    let products = if in_full() { 100_000 } else { 20_000 };
    for store in ["products", "elements", "memory", "days"] {
        bed.add_store(store, "UTC", "USD").await;
        define(&bed, store).await;
    }
    let day = ("event_time", "toDateTime64('2026-10-06 11:00:00', 3, 'UTC')");
    // A request of 100 events with 200 products each, or five of them.
    let items = ("item_product_id", "arrayMap(i -> toString(200 * number + i), range(200))");
    let view = ("name", "'view_item'");
    bed.generate("products", 10, products / 200, &[day, view, items]).await;
    // Pages and elements, as many as clicks.
    bed.clickhouse(
        "",
        &format!(
            "INSERT INTO millrace.clicks (store_id, event_id, event_time, received_at, key_date, visitor_id, visitor_hash,
                 url, selector, x, y, page_width, page_height, _topic, _partition, _offset, _row, _batch)
             SELECT 'elements', generateUUIDv4(), toDateTime64('2026-10-06 11:00:00', 3, 'UTC') AS at, at, toDate('2026-10-06'),
                 concat('v', toString(number)), number, concat('https://shop.example/', toString(number)),
                 concat('#', toString(number)), 1, 1, 1000, 1000, 'millrace.clicks', 10, number, 0, 0
             FROM numbers({})",
            if in_full() { 300_000 } else { 30_000 }
        ),
    )
    .await;
    // Ids that do not fit into a query's memory.
    let visitors = [day, ("visitor_id", "concat(repeat('v', 200), toString(number))")];
    bed.generate("memory", 11, if in_full() { 2_000_000 } else { 300_000 }, &visitors).await;
    // Every event on another day.
    let days = if in_full() { 3_650 } else { 400 };
    let spread = format!("toDateTime64('2026-10-06 11:00:00', 3, 'UTC') - toIntervalDay(number % {days})");
    // Received at once: a month of receipt is a partition, and ClickHouse takes no hundred of them in one insert.
    let at_once = ("received_at", "toDateTime64('2026-10-20 00:00:00', 3, 'UTC')");
    bed.generate("days", 12, days, &[("event_time", &spread), at_once]).await;
    bed.config.query_memory_bytes = if in_full() { 256 << 20 } else { 48 << 20 };
    bed.config.rollup_rows_max = if in_full() { 200_000 } else { 25_000 };
    bed.config.store_budget_ms = 30_000;
    bed.config.interval_ms = 10;
    bed.warehouse = millrace_aggregator::clickhouse::Warehouse::new(&bed.config);
    // The hostile ones are there first.
    let mut discovery = Discovery::default();
    while !bed.waits("days").await || !bed.waits("memory").await {
        arrival::look(&bed.warehouse, &bed.pool, &mut discovery).await.unwrap();
    }
    sqlx::query("UPDATE touched_days SET waiting_since = 'epoch' WHERE store_id <> 'honest'")
        .execute(&bed.pool)
        .await
        .unwrap();
    let start = Instant::now();
    let shutdown = bed.work();
    let is_rolled_up = async || !bed.waits("honest").await && bed.everything_of("honest").await == expected;
    eventually("the honest store is rolled up", is_rolled_up).await;
    println!("the honest store after {:?}", start.elapsed());
    assert!(bed.waits("days").await && bed.waits("memory").await, "the hostile ones are not done");
    let failing = async || {
        let failing = bed.failing().await;
        failing.iter().any(|(store, reason)| store == "memory" && reason == "memory")
            && failing.iter().any(|(store, reason)| store == "elements" && reason == "rows")
    };
    eventually("those that cannot be rolled up are named", failing).await;
    // While they are at it.
    for (number, time) in
        [(9_001, "2026-12-24 12:00:00"), (9_002, "2026-12-25 12:00:00"), (9_003, "2026-12-26 12:00:00")]
    {
        let sent = Instant::now();
        let row = EventRow { store_id: "honest", ..event(number, "page_view", time, "late", "") };
        bed.insert(&[row]).await;
        let views = format!(
            "SELECT page_views AS n FROM analytics_summary
             WHERE store_id = 'honest' AND period_type = 'day' AND date = '{}'",
            &time[..10]
        );
        eventually("it stays fresh", async || bed.rows(&views).await == [json!({"n": 1})]).await;
        println!("the honest store's next event after {:?}", sent.elapsed());
    }
    if in_full() {
        let deadline = Instant::now() + Duration::from_secs(3_600);
        while bed.waits("products").await {
            assert!(Instant::now() < deadline, "{:?}", bed.failing().await);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // The other one would be ten years of cohorts, 6.7 M rows, written at each turn: it is not waited for.
        println!("100,000 products after {:?}", start.elapsed());
    }
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_old_rows_cannot_go_keeps_no_other_stores() {
    let bed = Bed::with_store("bad", "UTC", "USD").await;
    bed.add_store("good", "UTC", "USD").await;
    sqlx::query("UPDATE stores SET retention_days = 100").execute(&bed.pool).await.unwrap();
    let old = |number, store_id| EventRow {
        store_id,
        ..event(number, "page_view", "2026-01-05 10:00:00", "v", "")
    };
    bed.insert(&[old(1, "bad"), old(2, "good")]).await;
    sqlx::raw_sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON thinned_days FOR EACH ROW WHEN (NEW.store_id = 'bad')
         EXECUTE FUNCTION refuse()",
    )
    .execute(&bed.pool)
    .await
    .unwrap();
    let finality = Finality { spool_dir: None, settle: Duration::ZERO, horizon: Duration::ZERO };
    while privacy::step(&bed.warehouse, &bed.pool, &finality).await.unwrap() {}
    let left = "SELECT store_id FROM millrace.events ORDER BY store_id FORMAT TabSeparated";
    assert_eq!(bed.clickhouse("", left).await, "bad\n");
    // Within the hour it is tried again.
    let due = "SELECT store_id FROM retention_runs WHERE ran_at < clock_timestamp() - interval '22 hours'";
    assert_eq!(bed.rows(due).await, [json!({"store_id": "bad"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_all_have_taken_is_nobodys_setback() {
    let mut bed = Bed::with_store("s", "UTC", "USD").await;
    bed.insert(&[event(1, "page_view", "2026-10-05 12:00:00", "v", "")]).await;
    arrival::look(&bed.warehouse, &bed.pool, &mut Discovery::default()).await.unwrap();
    // The engine, with the answers that it gives while others have all of its memory.
    let refusals = Arc::new(AtomicUsize::new(3));
    let (left, engine) = (Arc::clone(&refusals), bed.engine.url());
    let pass = move |request: Request<Body>| {
        let (left, engine) = (Arc::clone(&left), engine.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            // That it is there it says all the same.
            let is_ping = body.starts_with(b"SELECT toUInt8(1)");
            let take = |left: usize| left.checked_sub(1);
            if !is_ping && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let text = "Code: 241. DB::Exception: (total) memory limit exceeded: would use 513.00 MiB";
                return (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(text.as_bytes()));
            }
            let url = format!("{engine}{}", parts.uri);
            let mut headers = parts.headers;
            headers.remove("content-length");
            headers.remove("transfer-encoding");
            let answer = reqwest::Client::new().post(url).headers(headers).body(body).send().await.unwrap();
            let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
            (status, answer.bytes().await.unwrap())
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bed.config.clickhouse_url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(pass)).await });
    let warehouse = millrace_aggregator::clickhouse::Warehouse::new(&bed.config);
    let limits = bed.config.limits();
    assert_eq!(turn::take(&warehouse, &bed.pool, &limits, "s", None).await.unwrap(), 1);
    assert_eq!((refusals.load(Ordering::Relaxed), bed.failing().await), (0, vec![]));
    // Who has it for longer than the turn lasts: then it is the next ones'.
    refusals.store(usize::MAX, Ordering::Relaxed);
    sqlx::query("INSERT INTO touched_days (store_id, date, received_at) VALUES ('s', '2026-10-05', 'epoch')")
        .execute(&bed.pool)
        .await
        .unwrap();
    let limits = turn::Limits { budget: Duration::from_millis(300), ..limits };
    assert_eq!(turn::take(&warehouse, &bed.pool, &limits, "s", None).await.unwrap(), 0);
    assert_eq!(bed.failing().await, [("s".to_owned(), "time".to_owned())]);
}
