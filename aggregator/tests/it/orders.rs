//! The tables of orders: kept up to date as reports arrive in any order, they are what all reports at once give.

use millrace_aggregator::entity::orders;
use millrace_schemas::row::EventRow;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::harness::{Bed, at, event};

const ORDERS: &str =
    "SELECT * EXCEPT (_version, _deleted) FROM millrace.orders FINAL ORDER BY ALL FORMAT TSVWithNames";
const REFUNDS: &str =
    "SELECT * EXCEPT (_version, _deleted) FROM millrace.refunds FINAL ORDER BY ALL FORMAT TSVWithNames";

impl Bed {
    /// What the tables hold.
    async fn tables(&self) -> (String, String) {
        (self.clickhouse("", ORDERS).await, self.clickhouse("", REFUNDS).await)
    }

    async fn make_all_anew(&self) {
        orders::make_stale(&mut self.pool.acquire().await.unwrap(), &["s"]).await.unwrap();
        while orders::refresh_stale(&self.warehouse, &self.pool).await.unwrap() {}
    }
}

/// A report of one of a few orders, with little to choose from, so that much coincides.
fn report(random: &mut StdRng, number: u128) -> EventRow<'static> {
    let pick = |random: &mut StdRng, of: &[&'static str]| of[random.random_range(0..of.len())];
    let name =
        pick(random, &["purchase", "purchase", "purchase", "refund", "order_updated", "order_cancelled"]);
    let visitor = pick(random, &["", "ann", "bob"]);
    let mut row = event(number, name, "2026-11-02 12:00:00", visitor, "");
    row.event_time += random.random_range(0..240_i64) * 3_600_000;
    row.order_id = pick(random, &["1", "2", "3", "4", "5"]);
    row.trusted = random.random_range(0..2);
    row.currency = if name == "purchase" {
        pick(random, &["USD", "USD", "EUR"])
    } else {
        pick(random, &["", "USD", "EUR", "CHF"])
    };
    row.total_minor = (random.random_range(0..3) > 0).then(|| random.random_range(1..4) * 500);
    row.refund_id = pick(random, &["", "", "r1", "r2"]);
    row.user_id = pick(random, &["", "", "u"]);
    if random.random_range(0..2) == 0 {
        row.item_product_id = vec!["p", pick(random, &["p", "q"])];
        row.item_variant_id = vec!["", ""];
        row.item_price = vec![random.random_range(0..3) * 2_500_000, 1_000_000];
        row.item_quantity = vec![random.random_range(0..3) * 1_000, 1_000];
        row.item_name = vec!["", ""];
        row.item_brand = vec!["", ""];
        row.item_category = vec!["", ""];
        row.item_discount = vec![0, 0];
        row.item_product_kind = vec!["", ""];
    }
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn in_whatever_order_reports_arrive_orders_are_what_all_of_them_say() {
    let bed = Bed::with_store("s", "Europe/Berlin", "USD").await;
    sqlx::query("INSERT INTO exchange_rates (date, currency, base, rate) SELECT date, 'EUR', 'USD', 1.1 FROM generate_series('2026-11-01'::date, '2026-11-09', '1 day') AS date")
        .execute(&bed.pool)
        .await
        .unwrap();
    let seed = rand::rng().next_u64();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..12 {
        let mut rows: Vec<EventRow<'_>> = Vec::new();
        for index in 0..random.random_range(1..12) {
            let row = report(&mut random, round * 100 + index);
            // Sometimes a copy of it says something else, and one of the two counts.
            if random.random_range(0..4) == 0 {
                rows.push(EventRow { event_time: row.event_time - 3_600_000, order_id: "6", ..row.clone() });
            }
            rows.push(row);
        }
        for batch in rows.chunks(3) {
            bed.insert(batch).await;
            if random.random_range(0..2) == 0 {
                bed.look().await;
            }
        }
        bed.look().await;
        let kept = bed.tables().await;
        bed.make_all_anew().await;
        assert_eq!(kept, bed.tables().await, "seed {seed}, round {round}");
        for table in ["orders", "refunds"] {
            bed.clickhouse("", &format!("TRUNCATE TABLE millrace.{table}")).await;
        }
        bed.make_all_anew().await;
        assert_eq!(kept, bed.tables().await, "seed {seed}, round {round}, from nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_a_server_confirms_stays_where_the_visit_was() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let purchase = |number, time, trusted| EventRow {
        order_id: "o1",
        currency: "USD",
        total_minor: Some(1_000),
        trusted,
        ..event(number, "purchase", time, if trusted == 1 { "" } else { "ann" }, "")
    };
    bed.insert(&[purchase(1, "2026-11-02 10:00:00", 0)]).await;
    bed.look().await;
    bed.insert(&[purchase(2, "2026-11-04 09:00:00", 1)]).await;
    bed.look().await;
    let query =
        "SELECT order_id, toUnixTimestamp64Milli(placed_at), trusted, visitor_id, toString(total_minor)
                 FROM millrace.orders FINAL FORMAT TSV";
    let expected = format!("o1\t{}\t1\tann\t1000\n", at("2026-11-02 10:00:00"));
    assert_eq!(bed.clickhouse("", query).await, expected);
    // A later report that agrees with the server's alone makes the order earlier, and leaves nothing where it was.
    bed.insert(&[purchase(3, "2026-11-01 09:00:00", 0)]).await;
    bed.look().await;
    let expected = format!("o1\t{}\t1\tann\t1000\n", at("2026-11-01 09:00:00"));
    assert_eq!(bed.clickhouse("", query).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_settings_change_has_its_orders_made_anew_before_it_is_rolled_up() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let order = EventRow {
        order_id: "o1",
        currency: "USD",
        tax_minor: Some(100),
        shipping_minor: Some(500),
        trusted: 1,
        ..event(1, "purchase", "2026-11-02 10:00:00", "", "")
    };
    bed.insert(&[order]).await;
    bed.roll().await;
    let total = "SELECT toString(total_minor) FROM millrace.orders FINAL FORMAT TSV";
    assert_eq!(bed.clickhouse("", total).await, "600\n");
    sqlx::query("UPDATE stores SET prices_include_tax = true").execute(&bed.pool).await.unwrap();
    let days: i64 =
        sqlx::query_scalar("SELECT count(*) FROM stale_orders").fetch_one(&bed.pool).await.unwrap();
    assert_eq!(days, 1);
    bed.roll().await;
    assert_eq!(bed.clickhouse("", total).await, "500\n");
}

/// One order whose reports do not fit into a query's memory, which anybody may send.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_orders_need_too_much_keeps_nobody_waiting() {
    let mut bed = Bed::with_store("s", "UTC", "USD").await;
    bed.add_store("hostile", "UTC", "USD").await;
    let items = "arrayMap(i -> concat(repeat('p', 200), toString(i)), range(200))";
    let columns = [
        ("name", "'purchase'"),
        ("order_id", "'one'"),
        ("currency", "'USD'"),
        ("item_product_id", items),
        ("item_price", "arrayMap(i -> toDecimal64(i, 6), range(200))"),
        ("item_quantity", "arrayMap(i -> toDecimal64(1, 3), range(200))"),
    ];
    bed.generate("hostile", 10, 3_000, &columns).await;
    let order = EventRow {
        order_id: "o1",
        currency: "USD",
        total_minor: Some(1_000),
        ..event(1, "purchase", "2026-11-02 10:00:00", "ann", "")
    };
    bed.insert(&[order]).await;
    bed.config.query_memory_bytes = 24 << 20;
    bed.warehouse = millrace_aggregator::clickhouse::Warehouse::new(&bed.config);
    assert!(bed.look().await > 0);
    while orders::refresh_stale(&bed.warehouse, &bed.pool).await.unwrap() {}
    let orders = "SELECT store_id, order_id FROM millrace.orders FINAL FORMAT TSV";
    assert_eq!(bed.clickhouse("", orders).await, "s\to1\n");
    let stale = "SELECT store_id AS store, retry_at > now() AS later FROM stale_orders";
    assert_eq!(bed.rows(stale).await, [serde_json::json!({"store": "hostile", "later": true})]);
    // With the memory that it needs it comes to its turn.
    bed.config.query_memory_bytes = 1 << 30;
    bed.warehouse = millrace_aggregator::clickhouse::Warehouse::new(&bed.config);
    sqlx::query("UPDATE stale_orders SET retry_at = now()").execute(&bed.pool).await.unwrap();
    while orders::refresh_stale(&bed.warehouse, &bed.pool).await.unwrap() {}
    assert_eq!(bed.clickhouse("", orders).await, "hostile\tone\ns\to1\n");
}
