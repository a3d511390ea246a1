//! Orders and refunds, each once however often it was reported, and `revenue_analytics`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;

use super::{
    event::{Event, Item},
    money,
    reports::Reports,
    store::Store,
    table::{Row, Table},
    words::{Refund, Standing, outcome},
};

/// An order as it stands after all that was said of it.
#[derive(Clone, Debug)]
pub(super) struct Order<'e> {
    /// The day on which it was placed,
    pub(super) day: Date,
    /// and when on it.
    pub(super) at: i64,
    pub(super) visitor: Option<&'e str>,
    pub(super) user: Option<&'e str>,
    pub(super) currency: &'e str,
    pub(super) total: i64,
    pub(super) lines: &'e [Item],
    tax: i64,
    shipping: i64,
    discount: i64,
    unexplained: i64,
    cancelled: Option<Date>,
}

impl Order<'_> {
    /// An amount of the order in the store's currency, by the rate of the order's day.
    pub(super) fn convert(&self, minor: i64, store: &Store) -> Option<i64> {
        store.convert(minor, self.currency, self.day)
    }

    /// Its lines of a product, as rows call it.
    pub(super) fn lines_of(&self, product: &str) -> impl Iterator<Item = &Item> {
        self.lines.iter().filter(move |line| line.product() == product)
    }
}

/// All orders and refunds of a store.
pub(super) struct Book<'e> {
    pub(super) orders: Vec<Order<'e>>,
    pub(super) refunds: Vec<Refund<'e>>,
    tell_visitors: BTreeSet<&'e str>,
}

impl<'e> Book<'e> {
    /// Of all events that may speak of orders. What is said of one that nobody reported waits.
    pub(super) fn of(events: impl Iterator<Item = &'e Event>, store: &Store) -> Self {
        let mut purchases: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        let mut words: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in events.filter(|event| !event.order_id.is_empty()) {
            match event.name.as_str() {
                "purchase" => purchases.entry(&event.order_id).or_default().push(event),
                "order_updated" | "refund" | "order_cancelled" => {
                    words.entry(&event.order_id).or_default().push(event);
                }
                _ => {}
            }
        }

        let mut book = Self { orders: Vec::new(), refunds: Vec::new(), tell_visitors: BTreeSet::new() };
        for (order_id, reports) in purchases {
            let reports = Reports::of(&reports, |report| Standing::of(report, store).total());
            let words = words.get(order_id).map_or(&[][..], Vec::as_slice);
            let outcome = outcome(&reports, words, store);
            book.refunds.extend(outcome.refunds);
            book.tell_visitors.extend(reports.of_visitor.map(|report| report.id.as_str()));
            let standing = outcome.standing;
            book.orders.push(Order {
                day: reports.earliest.day,
                at: reports.earliest.at,
                visitor: reports.of_visitor.and_then(|report| report.visitor.as_deref()),
                user: reports.user,
                currency: standing.currency,
                total: standing.total(),
                lines: standing.lines,
                tax: standing.tax,
                shipping: standing.shipping,
                discount: standing.discount,
                unexplained: standing.unexplained(),
                cancelled: outcome.cancelled,
            });
        }
        book
    }

    /// Whether an event is the report that tells an order's visitor and session.
    pub(super) fn tells_visitor(&self, event_id: &str) -> bool {
        self.tell_visitors.contains(event_id)
    }
}

/// `revenue_analytics`: a row for each day and currency with an order, a refund or a cancellation.
pub(super) fn revenue_analytics(book: &Book<'_>) -> Table {
    let mut keys: BTreeSet<(Date, &str)> = BTreeSet::new();
    for order in &book.orders {
        keys.insert((order.day, order.currency));
        keys.extend(order.cancelled.map(|day| (day, order.currency)));
    }
    keys.extend(book.refunds.iter().map(|refund| (refund.day, refund.currency)));

    let mut table = Table::new("revenue_analytics", &["date", "currency"]);
    for (day, currency) in keys {
        let in_currency: Vec<_> = book.orders.iter().filter(|order| order.currency == currency).collect();
        let cancelled = in_currency.iter().filter(|order| order.cancelled == Some(day)).count();
        let orders: Vec<_> = in_currency.into_iter().filter(|order| order.day == day).collect();
        let refunds: Vec<_> =
            book.refunds.iter().filter(|refund| (refund.day, refund.currency) == (day, currency)).collect();
        let returns: Vec<_> = refunds.iter().filter(|refund| refund.names_items).collect();
        let sum = |amount: fn(&Order<'_>) -> i64| -> i64 { orders.iter().map(|order| amount(order)).sum() };
        let count = orders.len() as i64;
        let gross = sum(|order| order.total);
        let refunded: i64 = refunds.iter().map(|refund| refund.amount).sum();
        table.add(Row::from([
            ("date", day.into()),
            ("currency", currency.into()),
            ("gross_revenue_cents", gross.into()),
            ("net_revenue_cents", (gross - refunded).into()),
            ("orders_count", count.into()),
            ("cancelled_orders", cancelled.into()),
            ("average_order_value_cents", money::mean(gross, count).into()),
            ("returns_count", returns.len().into()),
            ("returns_amount_cents", returns.iter().map(|refund| refund.amount).sum::<i64>().into()),
            ("discounts_amount_cents", sum(|order| order.discount).into()),
            ("shipping_amount_cents", sum(|order| order.shipping).into()),
            ("tax_amount_cents", sum(|order| order.tax).into()),
            ("unexplained_amount_cents", sum(|order| order.unexplained).into()),
            ("refunds_amount_cents", refunded.into()),
        ]));
    }
    table
}
