//! `revenue_analytics`: per day and currency, from orders and refunds.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde_json::json;

use super::{orders::Sales, scope::Chunk, write::Rows};
use crate::money::{divide, saturate};

#[derive(Default)]
struct Line {
    orders: i128,
    gross: i128,
    discounts: i128,
    shipping: i128,
    tax: i128,
    refunds: i128,
    returns: i128,
    returned: i128,
    cancelled: i128,
    unexplained: i128,
}

/// The chunk's rows.
pub fn rows(chunk: &Chunk, sales: &Sales) -> Rows {
    let mut lines: BTreeMap<(Date, String), Line> = BTreeMap::new();
    for order in &sales.orders {
        let Some(date) = chunk.date(order.at_ms) else { continue };
        let line = lines.entry((date, order.in_currency.clone())).or_default();
        line.orders += 1;
        line.gross += order.total;
        line.discounts += order.discount;
        line.shipping += order.shipping;
        line.tax += order.tax;
        line.unexplained += order.unexplained;
    }
    for refund in &sales.refunds {
        let Some(date) = chunk.date(refund.at_ms) else { continue };
        let line = lines.entry((date, refund.in_currency.clone())).or_default();
        line.refunds += refund.amount;
        line.cancelled += i128::from(refund.is_cancellation);
        if refund.names_items == 1 {
            line.returns += 1;
            line.returned += refund.amount;
        }
    }
    let mut rows = Rows::default();
    for ((date, currency), line) in lines {
        rows.push(
            date,
            json!({
                "currency": currency,
                "gross_revenue_cents": saturate(line.gross),
                "net_revenue_cents": saturate(line.gross - line.refunds),
                "orders_count": saturate(line.orders),
                "average_order_value_cents": saturate(divide(line.gross, line.orders)),
                "returns_count": saturate(line.returns),
                "returns_amount_cents": saturate(line.returned),
                "discounts_amount_cents": saturate(line.discounts),
                "shipping_amount_cents": saturate(line.shipping),
                "tax_amount_cents": saturate(line.tax),
                "refunds_amount_cents": saturate(line.refunds),
                "unexplained_amount_cents": saturate(line.unexplained),
                "cancelled_orders": saturate(line.cancelled),
            }),
        );
    }
    rows
}
