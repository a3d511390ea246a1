//! An event as the definitions see it, read from the JSON that was sent.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use jiff::{Timestamp, civil::Date};
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::{calendar::Calendar, money};

/// An entry of the ledger: an event that the collector accepted, with what its request said about it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The event, with the defaults of its request's `context` filled in. It has an `event_id` and a `timestamp`.
    pub json: Map<String, Value>,
    /// It came with a secret key.
    pub trusted: bool,
    /// Its user agent is a bot's.
    pub bot: bool,
    /// Stands for the visitor of a browser that sent no `visitor_id`: the collector makes one of address and user
    /// agent, so events with the same text here must come from one address, under one user agent, on one UTC day.
    pub anonymous: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PageView,
    Named,
    Click,
}

/// A line of `items`.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) product_id: String,
    pub(super) quantity: Decimal,
    /// What the line brings in, minor units: price times quantity, rounded once. A discount has gone from the price.
    pub(super) revenue: i64,
}

/// An event. Empty strings and absent ones are the same; amounts are minor units of `currency`.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) at: i64,
    /// The store day that contains it.
    pub(super) day: Date,
    pub(super) sequence: Option<i64>,
    pub(super) visitor: Option<String>,
    pub(super) session_id: Option<String>,
    pub(super) user: Option<String>,
    pub(super) interactive: bool,
    pub(super) page_view_id: Option<String>,
    pub(super) duration_ms: i64,
    pub(super) value: Option<Decimal>,
    pub(super) currency: String,
    pub(super) total: Option<i64>,
    pub(super) tax: i64,
    pub(super) shipping: i64,
    pub(super) discount: i64,
    pub(super) order_id: String,
    pub(super) refund_id: String,
    pub(super) items: Vec<Item>,
    pub(super) x: i64,
    pub(super) y: i64,
    pub(super) page_width: i64,
    pub(super) viewport_width: i64,
    /// Fields that are text, for filters and heatmaps.
    pub(super) texts: BTreeMap<String, String>,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) trusted: bool,
    pub(super) bot: bool,
}

impl Event {
    /// Amounts without a currency are in `currency_of_store`.
    pub(super) fn read(sent: &Sent, calendar: &Calendar, currency_of_store: &str) -> anyhow::Result<Self> {
        let json = &sent.json;
        let kind = match json.get("type").and_then(Value::as_str) {
            Some("page_view") => Kind::PageView,
            Some("event") => Kind::Named,
            Some("click") => Kind::Click,
            other => bail!("the ledger holds an event of type {other:?}"),
        };
        let currency = text(json, "currency").unwrap_or_else(|| currency_of_store.into());
        let at = instant(json.get("timestamp"))?;
        let amount = |field| decimal(json.get(field)).map(|amount| money::minor(amount, &currency));
        Ok(Self {
            id: text(json, "event_id").context("the ledger holds an event without event_id")?.to_lowercase(),
            kind,
            name: match kind {
                Kind::PageView => "page_view".into(),
                Kind::Click => String::new(),
                Kind::Named => canonical(&text(json, "name").unwrap_or_default()).into(),
            },
            at,
            day: calendar.day(at),
            sequence: json.get("sequence").and_then(Value::as_i64),
            visitor: text(json, "visitor_id").or_else(|| sent.anonymous.clone()),
            session_id: text(json, "session_id"),
            user: text(json, "user_id"),
            interactive: kind == Kind::Named && json.get("interactive") != Some(&Value::Bool(false)),
            page_view_id: text(json, "page_view_id"),
            duration_ms: whole(json, "duration_ms"),
            value: decimal(json.get("value")),
            total: amount("value"),
            tax: amount("tax").unwrap_or(0),
            shipping: amount("shipping").unwrap_or(0),
            discount: amount("discount").unwrap_or(0),
            order_id: text(json, "order_id").unwrap_or_default(),
            refund_id: text(json, "refund_id").unwrap_or_default(),
            items: items(json, &currency),
            currency,
            x: whole(json, "x"),
            y: whole(json, "y"),
            page_width: whole(json, "page_width"),
            viewport_width: whole(json, "viewport_width"),
            texts: json
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string())))
                .filter(|(_, value)| !value.is_empty())
                .collect(),
            properties: properties(json),
            trusted: sent.trusted,
            bot: sent.bot && !sent.trusted,
        })
    }

    /// The showing of a page that a page view belongs to.
    pub(super) fn showing(&self) -> &str {
        self.page_view_id.as_deref().unwrap_or(&self.id)
    }

    /// Sorts the events of a visitor: by time, then sequence with none last, then identity.
    pub(super) fn order(&self) -> (i64, i64, &str) {
        (self.at, self.sequence.unwrap_or(i64::MAX), &self.id)
    }

    /// Whether any of its items is of the product.
    pub(super) fn names(&self, product_id: &str) -> bool {
        self.items.iter().any(|item| item.product_id == product_id)
    }
}

/// Older and other products' names of events.
fn canonical(name: &str) -> &str {
    match name {
        "product_view" | "Product Viewed" => "view_item",
        "cart_add" | "Product Added" => "add_to_cart",
        "Product Removed" => "remove_from_cart",
        "checkout_start" | "Checkout Started" => "begin_checkout",
        "order_completed" | "Order Completed" => "purchase",
        "Order Refunded" => "refund",
        other => other,
    }
}

fn text(json: &Map<String, Value>, field: &str) -> Option<String> {
    json.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_string)
}

fn whole(json: &Map<String, Value>, field: &str) -> i64 {
    json.get(field).and_then(Value::as_i64).unwrap_or(0)
}

/// A number as it was written: its shortest text is the decimal that the sender meant.
fn decimal(value: Option<&Value>) -> Option<Decimal> {
    match value? {
        Value::Number(number) => number.to_string().parse().ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// RFC 3339, or epoch milliseconds.
fn instant(value: Option<&Value>) -> anyhow::Result<i64> {
    match value {
        Some(Value::Number(number)) => number.as_i64().context("a time is not whole milliseconds"),
        Some(Value::String(text)) => Ok(text.parse::<Timestamp>()?.as_millisecond()),
        other => bail!("the ledger holds an event with the time {other:?}"),
    }
}

fn items(json: &Map<String, Value>, currency: &str) -> Vec<Item> {
    let Some(Value::Array(items)) = json.get("items") else { return Vec::new() };
    let read = |item: &Value| {
        let price = decimal(item.get("price")).unwrap_or_default();
        let quantity = decimal(item.get("quantity")).unwrap_or(Decimal::ONE);
        Item {
            product_id: item.get("product_id").and_then(Value::as_str).unwrap_or_default().into(),
            quantity,
            revenue: money::minor(price * quantity, currency),
        }
    };
    items.iter().map(read).collect()
}

/// Numbers and booleans as their JSON text.
fn properties(json: &Map<String, Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(properties)) = json.get("properties") else { return BTreeMap::new() };
    properties
        .iter()
        .map(|(key, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            (key.clone(), text)
        })
        .collect()
}
