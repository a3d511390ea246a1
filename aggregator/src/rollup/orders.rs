//! Orders that were placed on some days, and what was taken from orders on them.

use clickhouse::Row;
use millrace_schemas::money::{exponent, line_minor};
use serde::Deserialize;

use super::scope::Chunk;
use crate::{
    clickhouse::{Warehouse, text},
    error::Result,
};

/// An order.
#[derive(Clone, Debug, Default, Row, Deserialize)]
pub struct Order {
    /// When it was placed, epoch milliseconds.
    pub at_ms: i64,
    /// Currency of its amounts.
    pub in_currency: String,
    /// Total, minor units; likewise what follows.
    pub total: i128,
    /// Tax.
    pub tax: i128,
    /// Shipping.
    pub shipping: i128,
    /// Discount on the whole.
    pub discount: i128,
    /// What of the total its parts do not come to.
    pub unexplained: i128,
    /// Products of its items.
    pub product_ids: Vec<String>,
    /// Prices of its items, millionths of the currency's unit.
    pub prices: Vec<i64>,
    /// Quantities of its items, thousandths.
    pub quantities: Vec<i64>,
}

impl Order {
    /// Product, quantity (thousandths) and amount of each item. A line may be below zero: a voucher, or what comes back.
    pub fn items(&self) -> impl Iterator<Item = (&str, i64, i128)> {
        let decimals = exponent(&self.in_currency).unwrap_or(2);
        let items = self.product_ids.iter().zip(&self.prices).zip(&self.quantities);
        items.map(move |((product, price), quantity)| {
            (product.as_str(), *quantity, line_minor(*price, *quantity, decimals))
        })
    }
}

/// What a refund or a cancellation took from an order.
#[derive(Clone, Debug, Row, Deserialize)]
pub struct Refund {
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Currency.
    pub in_currency: String,
    /// Minor units.
    pub amount: i128,
    /// 1: it names items, and is a return.
    pub names_items: u8,
    /// 1: the order was cancelled.
    pub is_cancellation: u8,
}

/// The orders and refunds of a chunk of days.
#[derive(Clone, Debug, Default)]
pub struct Sales {
    /// Orders that were placed then.
    pub orders: Vec<Order>,
    /// What was taken then.
    pub refunds: Vec<Refund>,
}

impl Sales {
    /// Reads them.
    pub async fn read(warehouse: &Warehouse, chunk: &Chunk) -> Result<Self> {
        Ok(Self {
            orders: warehouse.rows(chunk.query(warehouse, text::orders)).await?,
            refunds: warehouse.rows(chunk.query(warehouse, text::refunds)).await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_rounded_once() {
        let order = Order {
            in_currency: "USD".into(),
            product_ids: vec!["voucher".into(), "screw".into()],
            prices: vec![-4_000_000, 3_500],
            quantities: vec![1_000, 1_000_000],
            ..Order::default()
        };
        let lines: Vec<_> = order.items().collect();
        assert_eq!(lines, [("voucher", 1_000, -400), ("screw", 1_000_000, 350)]);
    }
}
