//! `analytics_summary`: a day's parts are computed and kept; days, weeks and months are sums of parts, beside what is
//! distinct within the period.

use std::collections::{BTreeMap, BTreeSet};

use clickhouse::Row;
use jiff::civil::Date;
use serde::Deserialize;
use serde_json::json;
use sqlx::{PgConnection, Row as _};

use super::{
    orders::Sales,
    scope::{Chunk, Store, grids, period_query},
    sessions::Sessions,
    write::{Rows, table},
};
use crate::money::{Converted, Rates, decimal_text, divide, ratio, saturate};
use crate::{
    calendar::{Grid, Period, shift},
    clickhouse::{Warehouse, text},
    error::Result,
    postgres::{Answer as _, beside, parse_date},
    privacy::retention::Frozen,
};

/// Periods of a kind that are counted in one query: about two months of each.
const RUN_MAX: [(Period, usize); 3] = [(Period::Day, 62), (Period::Week, 9), (Period::Month, 2)];

/// What a day adds to every period that holds it.
#[derive(Clone, Debug, Default)]
struct Parts {
    sessions: i128,
    bounces: i128,
    engaged: i128,
    converted: i128,
    length_ms: i128,
    orders: i128,
    orders_converted: i128,
    revenue: i128,
    unconverted: BTreeMap<String, i128>,
}

/// The chunk's parts, as rows of `summary_days`.
pub fn parts(chunk: &Chunk, sessions: &[Sessions], sales: &Sales, rates: &Rates) -> Rows {
    let mut days: BTreeMap<Date, Parts> = BTreeMap::new();
    for row in sessions.iter().filter(|row| row.product_id.is_empty()) {
        let Some(date) = chunk.date(row.day) else { continue };
        let parts = days.entry(date).or_default();
        parts.sessions += i128::from(row.sessions);
        parts.bounces += i128::from(row.bounces);
        parts.engaged += i128::from(row.engaged);
        parts.converted += i128::from(row.converted);
        parts.length_ms += i128::from(row.length_sum_ms);
    }
    for order in &sales.orders {
        let Some(date) = chunk.date(order.at_ms) else { continue };
        let parts = days.entry(date).or_default();
        parts.orders += 1;
        match rates.convert(date, &order.in_currency, order.total) {
            Some(converted) => {
                parts.orders_converted += 1;
                parts.revenue += converted;
            }
            None => *parts.unconverted.entry(order.in_currency.clone()).or_default() += order.total,
        }
    }
    let mut rows = Rows::default();
    for (date, parts) in days {
        let unconverted = Converted { minor: 0, unconverted: parts.unconverted }.unconverted_json();
        rows.push(
            date,
            json!({
                "sessions": saturate(parts.sessions),
                "bounces": saturate(parts.bounces),
                "engaged": saturate(parts.engaged),
                "converted": saturate(parts.converted),
                "length_ms": saturate(parts.length_ms),
                "orders": saturate(parts.orders),
                "orders_converted": saturate(parts.orders_converted),
                "revenue_cents": saturate(parts.revenue),
                "unconverted": unconverted,
            }),
        );
    }
    rows
}

#[derive(Row, Deserialize)]
struct Traffic {
    period: i64,
    visitors: u64,
    page_views: u64,
    bot_events: u64,
}

/// Writes the days, weeks and months that hold the given days. Their parts must have been written.
pub async fn write(
    warehouse: &Warehouse,
    postgres: &mut PgConnection,
    store: &Store,
    days: &BTreeSet<Date>,
    frozen: &Frozen,
) -> Result<()> {
    for (period, run_max) in RUN_MAX {
        // Who was there in a week some of whose events are gone cannot be counted any more.
        let days: BTreeSet<Date> =
            days.iter().copied().filter(|day| !frozen.overlaps(period, period.start(*day))).collect();
        for grid in grids(&store.calendar, period, &days, run_max) {
            let query = period_query(warehouse, text::traffic, store, &grid);
            let traffic: Vec<Traffic> = beside(postgres, warehouse.rows(query)).await?;
            let parts = read_parts(postgres, store, period, &grid).await?;
            let mut rows = Rows::default();
            for row in &traffic {
                let Some(date) = grid.date(row.period) else { continue };
                rows.push(date, line(store, row, &parts.get(&date).cloned().unwrap_or_default()));
            }
            // Periods without an instant are not in the grid, and have no rows either.
            table::SUMMARY.replace(postgres, &store.id, &[period.as_str()], &grid.dates, rows).await?;
        }
    }
    Ok(())
}

fn line(store: &Store, traffic: &Traffic, parts: &Parts) -> serde_json::Value {
    let decimals = millrace_schemas::money::exponent(&store.currency).unwrap_or(2);
    let unconverted = Converted { minor: 0, unconverted: parts.unconverted.clone() }.unconverted_json();
    json!({
        "total_sessions": saturate(parts.sessions),
        "unique_visitors": traffic.visitors,
        "page_views": traffic.page_views,
        "bounce_rate": ratio(parts.bounces, parts.sessions, 4),
        "engagement_rate": ratio(parts.engaged, parts.sessions, 4),
        "avg_session_duration": saturate(divide(parts.length_ms, parts.sessions * 1000)),
        "total_orders": saturate(parts.orders),
        "total_revenue": decimal_text(parts.revenue, decimals),
        "avg_order_value": decimal_text(divide(parts.revenue, parts.orders_converted), decimals),
        "currency": store.currency,
        "unconverted": unconverted,
        "conversion_rate": ratio(parts.converted, parts.sessions, 4),
        "bot_events": traffic.bot_events,
    })
}

/// Sums of parts by period.
async fn read_parts(
    postgres: &mut PgConnection,
    store: &Store,
    period: Period,
    grid: &Grid,
) -> Result<BTreeMap<Date, Parts>> {
    let (Some(first), Some(last)) = (grid.dates.first(), grid.dates.last()) else {
        return Ok(BTreeMap::new());
    };
    let rows = sqlx::query(
        "SELECT date::text AS date, sessions, bounces, engaged, converted, length_ms, orders, orders_converted,
                revenue_cents, unconverted
         FROM summary_days WHERE store_id = $1 AND date BETWEEN $2::date AND $3::date",
    )
    .bind(&store.id)
    .bind(first.to_string())
    .bind(shift(period.after(*last, 1), -1).to_string())
    .fetch_all(postgres)
    .within()
    .await?;
    let mut sums: BTreeMap<Date, Parts> = BTreeMap::new();
    for row in rows {
        let date: String = row.try_get("date")?;
        let sum = sums.entry(period.start(parse_date(&date)?)).or_default();
        let number = |column: &str| row.try_get::<i64, _>(column).map(i128::from);
        sum.sessions += number("sessions")?;
        sum.bounces += number("bounces")?;
        sum.engaged += number("engaged")?;
        sum.converted += number("converted")?;
        sum.length_ms += number("length_ms")?;
        sum.orders += number("orders")?;
        sum.orders_converted += number("orders_converted")?;
        sum.revenue += number("revenue_cents")?;
        let unconverted: BTreeMap<String, i64> = serde_json::from_value(row.try_get("unconverted")?)?;
        for (currency, minor) in unconverted {
            *sum.unconverted.entry(currency).or_default() += i128::from(minor);
        }
    }
    Ok(sums)
}
