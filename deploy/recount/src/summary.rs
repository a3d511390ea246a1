//! `analytics_summary`: traffic and orders of a store by day, week and month.

use std::collections::BTreeSet;

use jiff::civil::Date;
use rust_decimal::Decimal;

use super::{
    calendar::Period,
    event::{Event, Kind},
    money::{Takings, exponent, mean, mean_seconds, ratio},
    orders::Book,
    sessions::Session,
    store::Store,
    table::{Row, Table},
};

pub(super) fn analytics_summary(
    events: &[Event],
    bots: &[Event],
    sessions: &[Session<'_>],
    book: &Book<'_>,
    store: &Store,
) -> Table {
    let mut table = Table::new("analytics_summary", &["period_type", "date"]);
    for period in Period::ALL {
        let dates: BTreeSet<_> = events.iter().chain(bots).map(|event| period.first_day(event.day)).collect();
        for date in dates {
            let inside = |day: Date| period.first_day(day) == date;
            let events: Vec<_> = events.iter().filter(|event| inside(event.day)).collect();
            let sessions: Vec<_> = sessions.iter().filter(|session| inside(session.day)).collect();
            let orders: Vec<_> = book.orders.iter().filter(|order| inside(order.day)).collect();

            let visitors: BTreeSet<_> = events.iter().filter_map(|event| event.visitor.as_ref()).collect();
            let page_views: BTreeSet<_> = events
                .iter()
                .filter(|event| event.kind == Kind::PageView)
                .map(|event| event.showing())
                .collect();
            let mut revenue = Takings::default();
            for order in &orders {
                revenue.add(order.total, order.currency, order.convert(order.total, store));
            }
            let decimals = exponent(&store.currency);

            let count = sessions.len() as i64;
            let share = |which: fn(&Session<'_>) -> bool| {
                let some = sessions.iter().filter(|session| which(session)).count();
                ratio(some as i64, count, 4)
            };
            let durations: i64 = sessions.iter().map(|session| session.duration_ms).sum();
            table.add(Row::from([
                ("period_type", period.as_str().into()),
                ("date", date.into()),
                ("total_sessions", count.into()),
                ("unique_visitors", visitors.len().into()),
                ("page_views", page_views.len().into()),
                ("bounce_rate", share(|session| session.is_bounce).into()),
                ("engagement_rate", share(|session| session.is_engaged).into()),
                ("conversion_rate", share(|session| session.is_conversion).into()),
                ("avg_session_duration", mean_seconds(durations, count).into()),
                ("total_orders", orders.len().into()),
                ("total_revenue", Decimal::new(revenue.minor, decimals).into()),
                ("avg_order_value", Decimal::new(mean(revenue.minor, revenue.count), decimals).into()),
                ("currency", store.currency.as_str().into()),
                ("unconverted", revenue.rest()),
                ("bot_events", bots.iter().filter(|event| inside(event.day)).count().into()),
            ]));
        }
    }
    table
}
