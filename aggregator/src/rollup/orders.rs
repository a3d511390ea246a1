//! Orders and refunds as their winning reports say, and what they come to.

use std::collections::HashMap;

use clickhouse::Row;
use millrace_schemas::money::{exponent, line_minor};
use serde::Deserialize;

use super::scope::Chunk;
use crate::{
    clickhouse::{Warehouse, text},
    error::Result,
};

/// What a line comes to, minor units of its currency.
fn line_amount(price: i64, quantity: i64, currency: &str) -> i128 {
    line_minor(price, quantity, exponent(currency).unwrap_or(2))
}

/// The winning report of an order.
#[derive(Clone, Debug, Default, Row, Deserialize)]
pub struct Order {
    /// Its id.
    pub order_id: String,
    /// When it was placed, epoch milliseconds.
    pub at_ms: i64,
    /// Currency of its amounts.
    pub currency: String,
    /// Total as sent.
    pub total: Option<i64>,
    /// Tax as sent.
    pub tax: i64,
    /// Shipping as sent.
    pub shipping: i64,
    /// Discount as sent.
    pub discount: i64,
    /// Products of its items.
    pub product_ids: Vec<String>,
    /// Prices of its items, millionths of the currency's unit.
    pub prices: Vec<i64>,
    /// Quantities of its items, thousandths.
    pub quantities: Vec<i64>,
    /// 1: a server reported it.
    pub trusted: u8,
}

impl Order {
    /// Product, quantity (thousandths) and amount of each item. A line may be below zero: a voucher, or what comes back.
    pub fn items(&self) -> impl Iterator<Item = (&str, i64, i128)> {
        self.product_ids.iter().enumerate().map(|(index, product)| {
            let price = self.prices.get(index).copied().unwrap_or(0);
            let quantity = self.quantities.get(index).copied().unwrap_or(0);
            (product.as_str(), quantity, line_amount(price, quantity, &self.currency))
        })
    }

    /// What the order comes to, minor units.
    pub fn total(&self) -> i128 {
        self.total.map_or_else(
            || {
                let items: i128 = self.items().map(|(_, _, amount)| amount).sum();
                let rest = i128::from(self.tax) + i128::from(self.shipping) - i128::from(self.discount);
                (items + rest).max(0)
            },
            i128::from,
        )
    }
}

/// The winning report of a refund.
#[derive(Clone, Debug, Default, Row, Deserialize)]
pub struct Refund {
    /// The order it belongs to.
    pub order_id: String,
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Currency of its amounts.
    pub currency: String,
    /// Amount as sent.
    pub total: Option<i64>,
    /// Prices of its items, millionths of the currency's unit.
    pub prices: Vec<i64>,
    /// Quantities of its items, thousandths.
    pub quantities: Vec<i64>,
    /// 1: a server reported it.
    pub trusted: u8,
}

impl Refund {
    /// What anybody may have sent takes nothing off but what anybody may have sent: it counts against an order that is
    /// known, that no server reported, and whose currency it has: otherwise nothing would bound it.
    fn counts_against(&self, order: Option<&Order>) -> bool {
        self.trusted == 1 || order.is_some_and(|order| order.trusted == 0 && order.currency == self.currency)
    }

    /// What is asked for; without an amount and items the whole of the order.
    fn amount(&self, order: Option<&Order>) -> i128 {
        match self.total {
            Some(total) => i128::from(total),
            None if self.prices.is_empty() => order.map_or(0, Order::total),
            None => {
                let items = self.prices.iter().zip(&self.quantities);
                let amount = |(price, quantity): (&i64, &i64)| {
                    // None was told.
                    let quantity = if *quantity == 0 { 1_000 } else { *quantity };
                    line_amount(*price, quantity, &self.currency).abs()
                };
                items.map(amount).sum()
            }
        }
    }
}

/// A refund with what it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Currency.
    pub currency: String,
    /// Amount, minor units.
    pub amount: i128,
    /// Whether it names items: a return.
    pub names_items: bool,
}

/// What each refund comes to. `refunds` of one order stand in the order in which they are taken.
pub fn settle(orders: &[Order], refunds: &[Refund]) -> Vec<Settled> {
    let by_id: HashMap<&str, &Order> = orders.iter().map(|order| (order.order_id.as_str(), order)).collect();
    let mut taken: HashMap<&str, i128> = HashMap::new();
    let mut settled = Vec::with_capacity(refunds.len());
    for refund in refunds {
        let order = by_id.get(refund.order_id.as_str()).copied();
        if !refund.counts_against(order) {
            continue;
        }
        let order = order.filter(|order| order.currency == refund.currency);
        let mut amount = refund.amount(order);
        if let Some(order) = order {
            let taken = taken.entry(&order.order_id).or_default();
            amount = amount.min((order.total() - *taken).max(0));
            *taken += amount;
        }
        let names_items = !refund.prices.is_empty();
        settled.push(Settled { at_ms: refund.at_ms, currency: refund.currency.clone(), amount, names_items });
    }
    settled
}

/// The orders and refunds that a chunk of days needs.
#[derive(Clone, Debug, Default)]
pub struct Sales {
    /// Orders placed or refunded in the chunk.
    pub orders: Vec<Order>,
    /// Refunds of orders refunded in the chunk.
    pub refunds: Vec<Settled>,
}

impl Sales {
    /// Reads them. Amounts without a currency are in the store's.
    pub async fn read(warehouse: &Warehouse, chunk: &Chunk) -> Result<Self> {
        let mut orders: Vec<Order> = warehouse.rows(chunk.query(warehouse, text::orders)).await?;
        let mut refunds: Vec<Refund> = warehouse.rows(chunk.query(warehouse, text::refunds)).await?;
        let currencies = orders
            .iter_mut()
            .map(|order| &mut order.currency)
            .chain(refunds.iter_mut().map(|refund| &mut refund.currency));
        for currency in currencies.filter(|currency| currency.is_empty()) {
            currency.clone_from(&chunk.store.currency);
        }
        let refunds = settle(&orders, &refunds);
        Ok(Self { orders, refunds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: &str, total: Option<i64>) -> Order {
        Order {
            order_id: id.into(),
            currency: "USD".into(),
            total,
            tax: 80,
            shipping: 500,
            discount: 100,
            product_ids: vec!["a".into(), "b".into()],
            prices: vec![9_000_000, 2_500_000],
            quantities: vec![2000, 1000],
            ..Order::default()
        }
    }

    fn refund(order_id: &str, total: Option<i64>) -> Refund {
        Refund { order_id: order_id.into(), currency: "USD".into(), total, trusted: 1, ..Refund::default() }
    }

    #[test]
    fn a_total_is_what_was_sent_or_what_the_items_say() {
        assert_eq!(order("1", Some(42)).total(), 42);
        assert_eq!(order("1", None).total(), 1800 + 250 + 80 + 500 - 100);
        assert_eq!(Order { discount: 100_000, ..order("1", None) }.total(), 0);
        // A voucher is a line below zero; what costs less than a cent is rounded when it is multiplied.
        let fine =
            Order { prices: vec![-4_000_000, 3_500], quantities: vec![1000, 1_000_000], ..order("1", None) };
        assert_eq!(fine.items().map(|(_, _, amount)| amount).collect::<Vec<_>>(), [-400, 350]);
        assert_eq!(fine.total(), 80 + 500 - 100 - 50);
    }

    #[test]
    fn refunds_never_pass_the_order() {
        let orders = [order("1", Some(1000))];
        let refunds = [refund("1", Some(700)), refund("1", Some(700)), refund("1", None)];
        let amounts: Vec<_> = settle(&orders, &refunds).iter().map(|refund| refund.amount).collect();
        assert_eq!(amounts, [700, 300, 0]);
    }

    #[test]
    fn what_anybody_sent_takes_nothing_off_a_servers_order() {
        let sent = |id: &str| Refund { trusted: 0, ..refund(id, Some(300)) };
        let orders = [Order { trusted: 1, ..order("1", Some(1000)) }, order("2", Some(200))];
        let foreign = Refund { currency: "EUR".into(), ..sent("2") };
        let refunds = [sent("1"), refund("1", Some(100)), foreign, sent("2"), sent("unknown")];
        let amounts: Vec<_> = settle(&orders, &refunds).iter().map(|refund| refund.amount).collect();
        assert_eq!(amounts, [100, 200]);
    }

    #[test]
    fn refunds_of_strangers_and_in_other_currencies_are_not_cut() {
        let orders = [order("1", Some(1000))];
        let foreign = Refund { currency: "EUR".into(), ..refund("1", Some(5000)) };
        let bare = Refund { currency: "EUR".into(), ..refund("1", None) };
        let with_items = Refund { prices: vec![1_000_000], quantities: vec![3000], ..refund("9", None) };
        let refunds = [foreign, bare, refund("9", Some(5000)), refund("9", None), with_items];
        let settled = settle(&orders, &refunds);
        let amounts: Vec<_> = settled.iter().map(|refund| refund.amount).collect();
        assert_eq!(amounts, [5000, 0, 5000, 0, 300]);
        assert!(settled[4].names_items && !settled[0].names_items);
    }
}
