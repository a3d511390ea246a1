//! What came of it all in Postgres.

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::PgPool;

use super::{PATIENCE, list};

pub(super) async fn check_rollups(postgres: &PgPool, ledger: &Value, sessions: i64) {
    let runs = ledger.as_object().unwrap().values().filter(|run| run["names"].is_array());
    let count = |name: &str| {
        let names = runs.clone().flat_map(|run| list(&run["names"]));
        i64::try_from(names.filter(|found| *found == name).count()).unwrap()
    };
    let clicks: Vec<_> = runs.clone().flat_map(|run| run["clicks"].as_array().unwrap()).collect();
    let of = |what: &str| i64::try_from(clicks.iter().filter(|click| click[what] == true).count()).unwrap();
    let all = i64::try_from(clicks.len()).unwrap();
    let sums = [
        (
            "sessions",
            "SELECT coalesce(sum(total_sessions), 0)::bigint FROM analytics_summary WHERE period_type = 'day'",
            sessions,
        ),
        (
            "page_views",
            "SELECT coalesce(sum(page_views), 0)::bigint FROM analytics_summary WHERE period_type = 'day'",
            count("page_view"),
        ),
        (
            "orders",
            "SELECT coalesce(sum(total_orders), 0)::bigint FROM analytics_summary WHERE period_type = 'day'",
            1,
        ),
        ("revenue", "SELECT coalesce(sum(gross_revenue_cents), 0)::bigint FROM revenue_analytics", 3000),
        (
            "views",
            "SELECT coalesce(sum(views_count), 0)::bigint FROM product_analytics WHERE product_id = 'mug'",
            count("view_item"),
        ),
        (
            "carts",
            "SELECT coalesce(sum(add_to_cart_count), 0)::bigint FROM product_analytics WHERE product_id = 'mug'",
            1,
        ),
        (
            "units",
            "SELECT coalesce(sum(units_sold), 0)::bigint FROM product_analytics WHERE product_id = 'mug'",
            2,
        ),
        ("clicks", "SELECT coalesce(sum(clicks), 0)::bigint FROM heatmap_data", all),
        (
            "rage",
            "SELECT coalesce(sum(rage_clicks), 0)::bigint FROM heatmap_elements WHERE element_selector = '#rage'",
            of("rage"),
        ),
        ("dead", "SELECT coalesce(sum(dead_clicks), 0)::bigint FROM heatmap_data", of("dead")),
    ];
    let begin = Instant::now();
    for (what, sql, wanted) in sums {
        loop {
            let found: i64 = sqlx::query_scalar(sql).fetch_one(postgres).await.unwrap();
            if found == wanted {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{what}: {found}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
