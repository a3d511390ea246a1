//! `product_analytics`: what events say of a product, its page's showings, the sessions that entered there, and orders.

use std::collections::{BTreeMap, BTreeSet};

use clickhouse::Row;
use jiff::civil::Date;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use super::{
    orders::Sales,
    scope::{Chunk, Store},
    sessions::{Lookback, Sessions},
    write::Rows,
};
use crate::money::{Converted, Rates, decimal_text, divide, ratio, saturate};
use crate::{
    calendar::shift,
    clickhouse::{Warehouse, text},
    error::Result,
    postgres::Answer as _,
};

/// Days over which stock turns are taken.
const STOCK_DAYS: i64 = 30;
#[derive(Default, Row, Deserialize)]
struct Counts {
    day: i64,
    product_id: String,
    views: u64,
    unique_views: u64,
    carts: u64,
    removals: u64,
    reviews: u64,
    ratings: u64,
    rating_sum: i128,
    told_reviews: u64,
    told_ratings: u64,
    told_rating_sum: i128,
    stock: i64,
    stock_reports: u64,
}

impl Counts {
    /// How many reviews count, how many of them rate, and the sum of the ratings in millionths. Where a server has told of
    /// any, what others sent is no review: who reads a public key off the page cannot rate beside the shop's own word.
    fn reviews(&self) -> (u64, u64, i128) {
        match self.told_reviews {
            0 => (self.reviews, self.ratings, self.rating_sum),
            told => (told, self.told_ratings, self.told_rating_sum),
        }
    }
}

#[derive(Row, Deserialize)]
struct Times {
    day: i64,
    product_id: String,
    showings: u64,
    shown_sum_ms: u64,
}

#[derive(Row, Deserialize)]
struct Checkouts {
    day: i64,
    product_id: String,
    checkouts: u64,
}

#[derive(Default)]
struct Line {
    counts: Counts,
    showings: u64,
    shown_ms: u64,
    checkouts: u64,
    entries: u64,
    bounces: u64,
    orders: u64,
    /// Thousandths.
    units: i128,
    revenue: Converted,
}

/// The chunk's rows.
pub async fn rows(
    warehouse: &Warehouse,
    chunk: &Chunk,
    lookback: &Lookback,
    sessions: &[Sessions],
    sales: &Sales,
    rates: &Rates,
) -> Result<Rows> {
    let mut lines: BTreeMap<(Date, String), Line> = BTreeMap::new();
    let counts: Vec<Counts> = warehouse.rows(chunk.query(warehouse, text::products)).await?;
    for row in counts {
        let Some(date) = chunk.date(row.day) else { continue };
        let product_id = row.product_id.clone();
        lines.entry((date, product_id)).or_default().counts = row;
    }
    for order in &sales.orders {
        let Some(date) = chunk.date(order.at_ms) else { continue };
        let mut named: BTreeMap<&str, (i128, i128)> = BTreeMap::new();
        for (product, quantity, amount) in order.items() {
            let (units, sum) = named.entry(if product.is_empty() { "(none)" } else { product }).or_default();
            *units += i128::from(quantity);
            *sum += amount;
        }
        for (product, (units, sum)) in named {
            let line = lines.entry((date, product.to_owned())).or_default();
            line.orders += 1;
            line.units += units;
            line.revenue.add(rates, date, &order.in_currency, sum);
        }
    }
    // These events and orders make a product's row; what follows only adds to rows that are there.
    let mut add = |day: i64, product_id: &str, add: &dyn Fn(&mut Line)| {
        let line = chunk.date(day).and_then(|date| lines.get_mut(&(date, product_id.to_owned())));
        if let Some(line) = line {
            add(line);
        }
    };
    let times: Vec<Times> = warehouse.rows(chunk.query(warehouse, text::product_times)).await?;
    for row in times {
        add(row.day, &row.product_id, &|line| {
            line.showings = row.showings;
            line.shown_ms = row.shown_sum_ms;
        });
    }
    let query = lookback.param(chunk.query(warehouse, text::product_checkouts));
    let checkouts: Vec<Checkouts> = warehouse.rows(query).await?;
    for row in checkouts {
        add(row.day, &row.product_id, &|line| line.checkouts = row.checkouts);
    }
    for row in sessions.iter().filter(|row| !row.product_id.is_empty()) {
        add(row.day, &row.product_id, &|line| {
            line.entries = row.sessions;
            line.bounces = row.bounces;
        });
    }
    let mut rows = Rows::default();
    for ((date, product_id), line) in lines {
        rows.push(date, row(&product_id, &line, rates));
    }
    Ok(rows)
}

fn row(product_id: &str, line: &Line, rates: &Rates) -> serde_json::Value {
    let counts = &line.counts;
    let revenue = &line.revenue;
    let (reviews, ratings, rating_sum) = counts.reviews();
    let rating = divide(rating_sum, i128::from(ratings) * 10_000);
    json!({
        "product_id": product_id,
        "views_count": counts.views,
        "unique_views_count": counts.unique_views,
        "add_to_cart_count": counts.carts,
        "cart_removal_count": counts.removals,
        "checkout_count": line.checkouts,
        "purchase_count": line.orders,
        "units_sold": saturate(divide(line.units, 1000)),
        "revenue_cents": saturate(revenue.minor),
        "currency": rates.base(),
        "unconverted": revenue.unconverted_json(),
        "average_time_on_page": saturate(divide(i128::from(line.shown_ms), i128::from(line.showings) * 1000)),
        "bounce_rate": ratio(i128::from(line.bounces), i128::from(line.entries), 4),
        "conversion_rate": ratio(i128::from(line.orders), i128::from(counts.unique_views), 4),
        "stock_level": (counts.stock_reports > 0).then_some(counts.stock),
        "average_rating": (ratings > 0).then(|| decimal_text(rating, 2)),
        "review_count": reviews,
    })
}

/// Computes `stock_turns` of the days `$3`, from the rows of the days `$2`, of the store `$1`.
///
/// The planner knows nothing of rows that this transaction has just written, and takes them for one: a join on anything
/// that it may answer with a loop over all of them costs their number squared. So there is none: one pass over the rows
/// in order, which is a sum that moves along, and each changed row is found by its place.
pub const STOCK_TURNS_SQL: &str = "
    WITH turns AS MATERIALIZED (
        SELECT ctid AS place, date, stock_turns,
               round(sum(units_sold) OVER past * count(stock_level) OVER past
                     / nullif(sum(stock_level) OVER past, 0), 4) AS turns
        FROM product_analytics
        WHERE store_id = $1 AND date = ANY ($2::date[])
        WINDOW past AS (PARTITION BY product_id ORDER BY date RANGE BETWEEN '29 days' PRECEDING AND CURRENT ROW)
    )
    UPDATE product_analytics SET stock_turns = turns.turns
    FROM turns
    WHERE product_analytics.ctid = turns.place AND turns.date = ANY ($3::date[])
      AND turns.stock_turns IS DISTINCT FROM turns.turns";

/// Computes `stock_turns` of every row that one of the days takes part in: the day's own and those of the 29 days after.
pub async fn write_stock_turns(
    postgres: &mut PgConnection,
    store: &Store,
    days: &BTreeSet<Date>,
) -> Result<()> {
    let around = |back: i64| -> Vec<String> {
        let around: BTreeSet<Date> =
            days.iter().flat_map(|day| (-back..STOCK_DAYS).map(move |ahead| shift(*day, ahead))).collect();
        around.iter().map(Date::to_string).collect()
    };
    sqlx::query(STOCK_TURNS_SQL)
        .bind(&store.id)
        .bind(around(STOCK_DAYS - 1))
        .bind(around(0))
        .execute(postgres)
        .within()
        .await?;
    Ok(())
}
