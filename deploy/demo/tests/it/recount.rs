//! The comparison against a real Postgres with the real migrations.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use millrace_demo::{Scenario, example_rates, insert_rates, read_rates};
use millrace_recount::{Patience, Store, Table, Value, compare, recount, verify};
use millrace_testbed::Postgres;
use sqlx::{AssertSqlSafe, PgPool};

/// Columns that Postgres computes from others.
const GENERATED: [&str; 3] = ["views", "cart_additions", "revenue_amount"];

async fn store_with_funnels(pool: &PgPool, scenario: &Scenario) -> Store {
    Postgres::migrate(pool).await.unwrap();
    sqlx::query(
        "INSERT INTO stores (id, name, timezone, currency) VALUES ('s', 'S', 'America/New_York', 'USD')",
    )
    .execute(pool)
    .await
    .unwrap();
    let funnels = scenario.generate().unwrap().funnels;
    for funnel in &funnels {
        sqlx::query("INSERT INTO funnels (store_id, funnel_name) VALUES ('s', $1)")
            .bind(&funnel.name)
            .execute(pool)
            .await
            .unwrap();
    }
    insert_rates(pool, "USD", &example_rates(scenario)).await.unwrap();
    let rates = read_rates(pool, "USD").await.unwrap();
    assert_eq!(rates.by_day, example_rates(scenario).by_day);
    Store {
        store_id: "s".into(),
        time_zone: scenario.time_zone.clone(),
        currency: "USD".into(),
        prices_include_tax: false,
        rates,
        funnels,
    }
}

fn literal(value: &Value) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
    match value {
        Value::Null => "NULL".into(),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.unwrap_or(true).to_string(),
        Value::Text(text) => quote(text),
        Value::Amounts(amounts) => quote(&serde_json::to_string(amounts).unwrap()),
    }
}

async fn write(pool: &PgPool, table: &Table) {
    for row in table.rows.values() {
        let (columns, values): (Vec<_>, Vec<_>) = row
            .iter()
            .filter(|(column, _)| table.name != "product_analytics" || !GENERATED.contains(column))
            .map(|(column, value)| (*column, literal(value)))
            .unzip();
        let insert = format!(
            "INSERT INTO {} (store_id, {}) VALUES ('s', {})",
            table.name,
            columns.join(", "),
            values.join(", ")
        );
        sqlx::raw_sql(AssertSqlSafe(insert)).execute(pool).await.unwrap();
    }
}

#[tokio::test]
async fn every_difference_between_postgres_and_the_recount_is_seen() {
    let server = Postgres::start().await.unwrap();
    let pool = PgPool::connect(server.url()).await.unwrap();
    let zone = TimeZone::get("America/New_York").unwrap();
    let now: Timestamp = "2026-11-20T13:00:00Z".parse().unwrap();
    let scenario = Scenario { events: 3_000, ..Scenario::over_clock_change(now, 6, zone).unwrap() };
    let store = store_with_funnels(&pool, &scenario).await;
    let ledger = scenario.generate().unwrap().ledger;
    let tables = recount(&ledger, &store, (now.as_millisecond(), now.as_millisecond())).unwrap();
    for table in &tables {
        write(&pool, table).await;
    }
    let verdict = compare(&pool, "s", &tables).await.unwrap();
    assert!(verdict.is_equal(), "{verdict}");
    assert_eq!(verdict.tables.len(), 7);

    for change in [
        "UPDATE analytics_summary SET page_views = page_views + 1 WHERE date = '2026-11-01' AND period_type = 'day'",
        "DELETE FROM cohort_analytics WHERE ctid = (SELECT min(ctid) FROM cohort_analytics)",
        "UPDATE product_analytics SET stock_turns = NULL
             WHERE ctid = (SELECT min(ctid) FROM product_analytics WHERE stock_turns IS NOT NULL)",
        "INSERT INTO revenue_analytics VALUES ('s', '2026-11-01', 'XAU', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
        "ALTER TABLE heatmap_data ADD COLUMN scrolls BIGINT",
    ] {
        sqlx::raw_sql(change).execute(&pool).await.unwrap();
    }
    let verdict = compare(&pool, "s", &tables).await.unwrap();
    let clicked = tables.iter().find(|table| table.name == "heatmap_data").unwrap().rows.len();
    assert_eq!(verdict.differences.len(), 4 + clicked, "{verdict}");
    let text = verdict.to_string();
    assert!(text.contains("analytics_summary [day, 2026-11-01] page_views: expected"), "{text}");
    assert!(text.contains("revenue_analytics [2026-11-01, XAU] : expected no row, found one"), "{text}");

    let patience = Patience {
        poll: Duration::from_millis(20),
        quiet: Duration::from_millis(200),
        total: Duration::from_secs(60),
    };
    let verdict = verify(&pool, &ledger, &store, now, patience).await.unwrap();
    assert!(!verdict.is_equal());
}
