//! `cohort_analytics`: all cohorts of a store at once, for any event may be somebody's first.

use std::collections::{BTreeMap, HashMap};

use clickhouse::Row;
use jiff::civil::Date;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use super::{
    scope::Store,
    write::{Rows, table},
};
use crate::money::{Converted, Rates, decimal_text, divide, ratio, saturate};
use crate::{
    calendar::{Grid, Period},
    clickhouse::{Warehouse, text},
    error::Result,
    postgres::{Answer as _, beside},
    privacy::retention::Frozen,
};

/// Periods that are followed after a cohort's own.
const PERIODS_MAX: [(Period, usize); 3] = [(Period::Day, 90), (Period::Week, 53), (Period::Month, 36)];

#[derive(Row, Deserialize)]
struct Active {
    kind: String,
    cohort: i64,
    period: i64,
    active: u64,
    last_active: u64,
}

#[derive(Row, Deserialize)]
struct Orders {
    first_day: i64,
    day: i64,
    in_currency: String,
    /// Total of each, unless it is in the store's currency.
    each: i128,
    orders: u64,
    sum: i128,
}

/// First and last time of a store's events (not bots').
#[derive(Row, Deserialize)]
struct Span {
    first_ms: i64,
    last_ms: i64,
    events: u64,
}

/// Writes all cohorts of the store. Where old events are gone, the older half of what is left tells who is new, and
/// cohorts from there and before stay as they stand.
pub async fn write(
    warehouse: &Warehouse,
    postgres: &mut PgConnection,
    store: &Store,
    frozen: &Frozen,
) -> Result<()> {
    let query = warehouse.query(&text::assemble(text::event_span)).param("store", &store.id);
    let span: Vec<Span> = beside(postgres, warehouse.rows(query)).await?;
    let Some(span) = span.into_iter().find(|span| span.events > 0) else {
        return delete_others(postgres, store, &[], frozen.cohorts_until(Date::MAX)).await;
    };
    let (from, to) = (store.calendar.date(span.first_ms), store.calendar.date(span.last_ms));
    let settled = frozen.cohorts_until(to);
    let grid = |period| store.calendar.grid(period, from, to);
    let (days, weeks, months) = (grid(Period::Day), grid(Period::Week), grid(Period::Month));
    let ask = |name: &str| {
        warehouse
            .query(&text::assemble(name))
            .param("store", &store.id)
            .param("base", &store.currency)
            .param("days", &days.starts)
            .param("weeks", &weeks.starts)
            .param("months", &months.starts)
    };
    let active: Vec<Active> = beside(postgres, warehouse.rows(ask(text::cohorts))).await?;
    let orders: Vec<Orders> = beside(postgres, warehouse.rows(ask(text::cohort_orders))).await?;
    let rates = store.rates(postgres, from, to).await?;
    for (period, n_max) in PERIODS_MAX {
        let grid = match period {
            Period::Day => &days,
            Period::Week => &weeks,
            Period::Month => &months,
        };
        let money = revenue(store, period, &days, &orders, &rates);
        let rows = lines(store, period, n_max, grid, &active, money);
        let dates: Vec<Date> = grid.dates.iter().copied().filter(|date| *date >= settled).collect();
        table::COHORTS.replace(postgres, &store.id, &[period.as_str()], &dates, rows).await?;
    }
    let kept = [&days, &weeks, &months].map(|grid| (grid.dates.first().copied(), grid.dates.last().copied()));
    delete_others(postgres, store, &kept, settled).await
}

/// Cohorts outside of the store's span of events: left over from another time zone, or from events that were erased.
/// Those before `settled` stay.
async fn delete_others(
    postgres: &mut PgConnection,
    store: &Store,
    kept: &[(Option<Date>, Option<Date>)],
    settled: Date,
) -> Result<()> {
    for (index, period) in Period::ALL.into_iter().enumerate() {
        let (from, to) = match kept.get(index) {
            Some((Some(from), Some(to))) => (from.to_string(), to.to_string()),
            _ => ("infinity".into(), "infinity".into()),
        };
        sqlx::query(
            "DELETE FROM cohort_analytics
             WHERE store_id = $1 AND period_type = $2 AND cohort_date NOT BETWEEN $3::date AND $4::date
               AND ($5::date IS NULL OR cohort_date >= $5::date)",
        )
        .bind(&store.id)
        .bind(period.as_str())
        .bind(from)
        .bind(to)
        .bind((settled > Date::MIN).then(|| settled.to_string()))
        .execute(&mut *postgres)
        .within()
        .await?;
    }
    Ok(())
}

/// Revenue by cohort and period, each order converted by itself.
fn revenue(
    store: &Store,
    period: Period,
    days: &Grid,
    orders: &[Orders],
    rates: &Rates,
) -> HashMap<(Date, Date), Converted> {
    let mut money: HashMap<(Date, Date), Converted> = HashMap::new();
    for row in orders {
        let (Some(first), Some(day)) = (days.date(row.first_day), days.date(row.day)) else { continue };
        let sum = money.entry((period.start(first), period.start(day))).or_default();
        if row.in_currency == store.currency {
            sum.minor += row.sum;
            continue;
        }
        // Each of these orders comes to as much.
        match rates.convert(day, &row.in_currency, row.each) {
            Some(converted) => sum.minor += converted * i128::from(row.orders),
            None => *sum.unconverted.entry(row.in_currency.clone()).or_default() += row.sum,
        }
    }
    money
}

fn lines(
    store: &Store,
    period: Period,
    n_max: usize,
    grid: &Grid,
    active: &[Active],
    mut money: HashMap<(Date, Date), Converted>,
) -> Rows {
    let place: HashMap<Date, usize> = grid.dates.iter().enumerate().map(|(at, date)| (*date, at)).collect();
    let index = |ms: i64| grid.date(ms).and_then(|date| place.get(&date).copied());
    // By cohort and period: persons active, and persons active for the last time.
    let mut counts: BTreeMap<usize, BTreeMap<usize, (u64, u64)>> = BTreeMap::new();
    for row in active.iter().filter(|row| row.kind == period.as_str()) {
        let (Some(cohort), Some(at)) = (index(row.cohort), index(row.period)) else { continue };
        counts.entry(cohort).or_default().insert(at, (row.active, row.last_active));
    }
    let mut rows = Rows::default();
    for (cohort, by_period) in &counts {
        let size = i128::from(by_period.get(cohort).map_or(0, |(active, _)| *active));
        // Active in a period or later: those whose last period is not before it.
        let mut later: i128 = by_period.values().map(|(_, last)| i128::from(*last)).sum();
        for at in *cohort..grid.dates.len().min(cohort + n_max + 1) {
            let (active, last) = by_period.get(&at).copied().unwrap_or_default();
            let sum = money.remove(&(grid.dates[*cohort], grid.dates[at])).unwrap_or_default();
            rows.push(grid.dates[*cohort], line(store, at - cohort, size, i128::from(active), later, &sum));
            later -= i128::from(last);
        }
    }
    rows
}

fn line(
    store: &Store,
    n: usize,
    size: i128,
    active: i128,
    later: i128,
    sum: &Converted,
) -> serde_json::Value {
    let decimals = millrace_schemas::money::exponent(&store.currency).unwrap_or(2);
    // Two decimals of the currency itself, whatever its minor unit.
    let per_user = divide(sum.minor * 100, size * 10_i128.pow(decimals));
    json!({
        "period_number": n,
        "user_count": saturate(size),
        "active_user_count": saturate(active),
        "retention_rate": ratio(active * 100, size, 2),
        "unbounded_user_count": saturate(later),
        "unbounded_retention_rate": ratio(later * 100, size, 2),
        "revenue_cents": saturate(sum.minor),
        "currency": store.currency,
        "unconverted": sum.unconverted_json(),
        "average_revenue_per_user": decimal_text(per_user, 2),
    })
}
