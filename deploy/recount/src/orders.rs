//! Orders and refunds, each once however often it was reported, and `revenue_analytics`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;

use super::{
    event::Event,
    money,
    store::Store,
    table::{Row, Table},
};

/// An order, as its winning report has it.
#[derive(Clone, Debug)]
pub(super) struct Order<'e> {
    pub(super) report: &'e Event,
    pub(super) total: i64,
}

impl Order<'_> {
    /// An amount of the order in the store's currency, by the rate of the order's day.
    pub(super) fn convert(&self, minor: i64, store: &Store) -> Option<i64> {
        store.convert(minor, &self.report.currency, self.report.day)
    }
}

/// A refund, as its winning report has it, after the cut at its order's total.
#[derive(Clone, Debug)]
pub(super) struct Refund<'e> {
    pub(super) report: &'e Event,
    pub(super) amount: i64,
}

/// All orders and refunds of a store.
pub(super) struct Book<'e> {
    pub(super) orders: Vec<Order<'e>>,
    pub(super) refunds: Vec<Refund<'e>>,
    winners: BTreeSet<&'e str>,
}

impl<'e> Book<'e> {
    pub(super) fn of(events: &'e [Event]) -> Self {
        let mut purchases: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        let mut refund_reports: BTreeMap<(&str, &str), Vec<&Event>> = BTreeMap::new();
        for event in events {
            match event.name.as_str() {
                "purchase" => purchases.entry(&event.order_id).or_default().push(event),
                "refund" => {
                    refund_reports.entry((&event.order_id, &event.refund_id)).or_default().push(event);
                }
                _ => {}
            }
        }
        let orders: BTreeMap<&str, Order<'e>> = purchases
            .into_iter()
            .map(|(order_id, reports)| {
                let report = winner(&reports);
                (order_id, Order { report, total: order_total(report) })
            })
            .collect();
        let mut reports: Vec<&Event> = refund_reports.values().map(|reports| winner(reports)).collect();
        reports.sort_by_key(|report| (report.at, &report.id));

        let mut refunded: BTreeMap<&str, i64> = BTreeMap::new();
        let refunds = reports
            .into_iter()
            // Without a server's word a refund counts against an order in its currency, and against none that a server
            // reported.
            .filter(|report| {
                report.trusted
                    || orders.get(report.order_id.as_str()).is_some_and(|order| {
                        !order.report.trusted && order.report.currency == report.currency
                    })
            })
            .map(|report| {
                let order = orders
                    .get(report.order_id.as_str())
                    .filter(|order| order.report.currency == report.currency);
                let wanted = refund_amount(report, order);
                let amount = match order {
                    None => wanted,
                    Some(order) => {
                        let so_far = refunded.entry(&report.order_id).or_default();
                        let amount = wanted.min(order.total - *so_far);
                        *so_far += amount;
                        amount
                    }
                };
                Refund { report, amount }
            })
            .collect();
        let orders: Vec<Order<'e>> = orders.into_values().collect();
        let winners = orders.iter().map(|order| order.report.id.as_str()).collect();
        Self { orders, refunds, winners }
    }

    /// Whether an event is the winning report of an order.
    pub(super) fn is_winner(&self, event_id: &str) -> bool {
        self.winners.contains(event_id)
    }
}

/// Trusted before untrusted, then the earliest. There is at least one report.
fn winner<'e>(reports: &[&'e Event]) -> &'e Event {
    let mut best = reports[0];
    for report in reports {
        if (!report.trusted, report.at, &report.id) < (!best.trusted, best.at, &best.id) {
            best = report;
        }
    }
    best
}

fn order_total(report: &Event) -> i64 {
    report.total.unwrap_or_else(|| {
        let items: i64 = report.items.iter().map(|item| item.revenue).sum();
        (items - report.discount + report.tax + report.shipping).max(0)
    })
}

fn refund_amount(report: &Event, order: Option<&Order<'_>>) -> i64 {
    if let Some(value) = report.total {
        return value;
    }
    if !report.items.is_empty() {
        return report.items.iter().map(|item| item.revenue.abs()).sum();
    }
    order.map_or(0, |order| order.total)
}

/// `revenue_analytics`: a row for each day and currency with an order or a refund.
pub(super) fn revenue_analytics(book: &Book<'_>) -> Table {
    let mut keys: BTreeSet<(Date, &str)> = BTreeSet::new();
    keys.extend(book.orders.iter().map(|order| (order.report.day, order.report.currency.as_str())));
    keys.extend(book.refunds.iter().map(|refund| (refund.report.day, refund.report.currency.as_str())));

    let mut table = Table::new("revenue_analytics", &["date", "currency"]);
    for (day, currency) in keys {
        let orders: Vec<_> = book
            .orders
            .iter()
            .filter(|order| order.report.day == day && order.report.currency == currency)
            .collect();
        let refunds: Vec<_> = book
            .refunds
            .iter()
            .filter(|refund| refund.report.day == day && refund.report.currency == currency)
            .collect();
        let returns: Vec<_> = refunds.iter().filter(|refund| !refund.report.items.is_empty()).collect();
        let count = orders.len() as i64;
        let gross: i64 = orders.iter().map(|order| order.total).sum();
        let refunded: i64 = refunds.iter().map(|refund| refund.amount).sum();
        table.add(Row::from([
            ("date", day.into()),
            ("currency", currency.into()),
            ("gross_revenue_cents", gross.into()),
            ("net_revenue_cents", (gross - refunded).into()),
            ("orders_count", count.into()),
            ("average_order_value_cents", money::mean(gross, count).into()),
            ("returns_count", returns.len().into()),
            ("returns_amount_cents", returns.iter().map(|refund| refund.amount).sum::<i64>().into()),
            ("discounts_amount_cents", orders.iter().map(|order| order.report.discount).sum::<i64>().into()),
            ("shipping_amount_cents", orders.iter().map(|order| order.report.shipping).sum::<i64>().into()),
            ("tax_amount_cents", orders.iter().map(|order| order.report.tax).sum::<i64>().into()),
            ("refunds_amount_cents", refunded.into()),
        ]));
    }
    table
}
