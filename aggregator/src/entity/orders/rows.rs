//! Rows of the tables `orders` and `refunds`.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::entity::order::{Order, Taken};

const DAY_MS: i64 = 86_400_000;

/// The date of an instant in UTC, as ClickHouse's `Date`: days since 1970, which no event is before.
fn day(at_ms: i64) -> u16 {
    u16::try_from(at_ms.div_euclid(DAY_MS).max(0)).unwrap_or(u16::MAX)
}

/// Where an order stands in `orders`.
#[derive(Debug, Row, Deserialize)]
pub(super) struct OrderPlace {
    pub(super) store: String,
    placed_on: u16,
    order_id: String,
    pub(super) at_ms: i64,
}

/// A row of `orders`.
#[derive(Clone, Debug, Default, Row, Serialize)]
pub(super) struct OrderRow {
    store_id: String,
    placed_on: u16,
    order_id: String,
    placed_at: i64,
    trusted: u8,
    currency: String,
    total_minor: i128,
    tax_minor: i128,
    shipping_minor: i128,
    discount_minor: i128,
    unexplained_minor: i128,
    visit_at: Option<i64>,
    visitor_id: String,
    session_id: String,
    user_id: String,
    item_product_id: Vec<String>,
    item_variant_id: Vec<String>,
    item_price: Vec<i64>,
    item_quantity: Vec<i64>,
    _version: u64,
    _deleted: u8,
}

impl OrderRow {
    pub(super) fn new(store: &str, order_id: &str, order: &Order) -> Self {
        Self {
            store_id: store.to_owned(),
            placed_on: day(order.at_ms),
            order_id: order_id.to_owned(),
            placed_at: order.at_ms,
            trusted: u8::from(order.trusted),
            currency: order.currency.clone(),
            total_minor: order.total,
            tax_minor: order.tax,
            shipping_minor: order.shipping,
            discount_minor: order.discount,
            unexplained_minor: order.unexplained,
            visit_at: order.visit_ms,
            visitor_id: order.visitor_id.clone(),
            session_id: order.session_id.clone(),
            user_id: order.user_id.clone(),
            item_product_id: order.lines.iter().map(|line| line.product_id.clone()).collect(),
            item_variant_id: order.lines.iter().map(|line| line.variant_id.clone()).collect(),
            item_price: order.lines.iter().map(|line| line.price).collect(),
            item_quantity: order.lines.iter().map(|line| line.quantity).collect(),
            _version: 0,
            _deleted: 0,
        }
    }

    /// What stands there says no more than that it no longer is.
    pub(super) fn deleted(OrderPlace { store, placed_on, order_id, .. }: OrderPlace) -> Self {
        Self { store_id: store, placed_on, order_id, _deleted: 1, ..Self::default() }
    }

    /// What makes it itself.
    pub(super) fn key(&self) -> (String, u16, String) {
        (self.store_id.clone(), self.placed_on, self.order_id.clone())
    }

    pub(super) fn order_id(&self) -> &str {
        &self.order_id
    }

    pub(super) fn is_deleted(&self) -> bool {
        self._deleted == 1
    }

    pub(super) fn set_version(&mut self, version: u64) {
        self._version = version;
    }
}

/// Where a row stands in `refunds`, and when its order was placed.
#[derive(Debug, Row, Deserialize)]
pub(super) struct RefundPlace {
    pub(super) store: String,
    taken_on: u16,
    order_id: String,
    number: u32,
    pub(super) at_ms: i64,
}

/// A row of `refunds`.
#[derive(Clone, Debug, Default, Row, Serialize)]
pub(super) struct RefundRow {
    store_id: String,
    taken_on: u16,
    order_id: String,
    number: u32,
    taken_at: i64,
    placed_at: i64,
    currency: String,
    asked_currency: String,
    order_currency: String,
    amount_minor: i128,
    names_items: u8,
    is_cancellation: u8,
    _version: u64,
    _deleted: u8,
}

impl RefundRow {
    pub(super) fn new(store: &str, order_id: &str, number: u32, order: &Order, taken: &Taken) -> Self {
        Self {
            store_id: store.to_owned(),
            taken_on: day(taken.at_ms),
            order_id: order_id.to_owned(),
            number,
            taken_at: taken.at_ms,
            placed_at: order.at_ms,
            currency: taken.currency.clone(),
            asked_currency: taken.asked_currency.clone(),
            order_currency: order.currency.clone(),
            amount_minor: taken.amount,
            names_items: u8::from(taken.names_items),
            is_cancellation: u8::from(taken.is_cancellation),
            _version: 0,
            _deleted: 0,
        }
    }

    /// What stands there says no more than that it no longer is.
    pub(super) fn deleted(RefundPlace { store, taken_on, order_id, number, .. }: RefundPlace) -> Self {
        Self { store_id: store, taken_on, order_id, number, _deleted: 1, ..Self::default() }
    }

    /// What makes it itself.
    pub(super) fn key(&self) -> (String, u16, String, u32) {
        (self.store_id.clone(), self.taken_on, self.order_id.clone(), self.number)
    }

    pub(super) fn is_deleted(&self) -> bool {
        self._deleted == 1
    }

    pub(super) fn set_version(&mut self, version: u64) {
        self._version = version;
    }
}
