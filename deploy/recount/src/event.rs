//! An event as the definitions see it, read from the JSON that was sent.

use std::{cmp::Reverse, collections::BTreeMap};

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
    /// Why it is taken for a bot's.
    pub bot: Option<Bot>,
    /// Stands for the visitor of a browser that sent no `visitor_id`: the collector makes one of address and user
    /// agent, so events with the same text here must come from one address, under one user agent, on one UTC day.
    pub anonymous: Option<String>,
}

/// Why an event is taken for a bot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bot {
    /// Too many events came at once (`rate`): what it says of orders and refunds counts all the same.
    Rate,
    /// Anything else, such as its user agent.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PageView,
    Named,
    Click,
}

/// A line of `items`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) product_id: String,
    pub(super) variant_id: String,
    /// Of one, after its own discount. In a refund 0 stands for what the order charged.
    pub(super) price: Decimal,
    /// Below zero for what comes back with an order. In a refund 0 stands for the whole line.
    pub(super) quantity: Decimal,
}

impl Item {
    /// What rows about products call it.
    pub(super) fn product(&self) -> &str {
        if self.product_id.is_empty() { "(none)" } else { &self.product_id }
    }

    /// What the line comes to in minor units, rounded once.
    pub(super) fn amount(&self, currency: &str) -> i64 {
        money::minor(self.price * self.quantity, currency)
    }
}

/// An event. Empty strings and absent ones are the same; amounts are as sent, in the currency's unit.
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
    /// Of a purchase without one, the store's; of other words about an order empty, which stands for the order's.
    pub(super) currency: String,
    pub(super) tax: Option<Decimal>,
    pub(super) shipping: Option<Decimal>,
    pub(super) discount: Option<Decimal>,
    /// What was refunded before is not in the amounts of this update.
    pub(super) refunds_included: bool,
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
    pub(super) bot: Option<Bot>,
}

impl Event {
    pub(super) fn read(sent: &Sent, calendar: &Calendar, currency_of_store: &str) -> anyhow::Result<Self> {
        let json = &sent.json;
        let kind = match json.get("type").and_then(Value::as_str) {
            Some("page_view") => Kind::PageView,
            Some("event") => Kind::Named,
            Some("click") => Kind::Click,
            other => bail!("the ledger holds an event of type {other:?}"),
        };
        let name = match kind {
            Kind::PageView => "page_view".into(),
            Kind::Click => String::new(),
            Kind::Named => canonical(&text(json, "name").unwrap_or_default()).to_string(),
        };
        let at = instant(json.get("timestamp"))?;
        let amount = |field| decimal(json.get(field));
        let properties = properties(json);
        Ok(Self {
            id: text(json, "event_id").context("the ledger holds an event without event_id")?.to_lowercase(),
            kind,
            at,
            day: calendar.day(at),
            sequence: json.get("sequence").and_then(Value::as_i64),
            visitor: text(json, "visitor_id").or_else(|| sent.anonymous.clone()),
            session_id: text(json, "session_id"),
            user: text(json, "user_id"),
            interactive: kind == Kind::Named && json.get("interactive") != Some(&Value::Bool(false)),
            page_view_id: text(json, "page_view_id"),
            duration_ms: whole(json, "duration_ms"),
            // A refund takes off what it says whatever the sign; an order of less than nothing is a mistake.
            value: match name.as_str() {
                "refund" => amount("value").map(|value| value.abs()),
                "purchase" | "order_updated" => amount("value").filter(|value| !value.is_sign_negative()),
                _ => amount("value"),
            },
            tax: amount("tax").filter(|tax| !tax.is_sign_negative()),
            shipping: amount("shipping").filter(|shipping| !shipping.is_sign_negative()),
            discount: amount("discount").map(|discount| discount.abs()),
            refunds_included: properties.get("refunds_included").is_some_and(|said| said == "true"),
            order_id: text(json, "order_id").unwrap_or_default(),
            refund_id: text(json, "refund_id").unwrap_or_default(),
            items: items(json, name == "refund"),
            currency: match text(json, "currency") {
                None if name == "purchase" => currency_of_store.into(),
                sent => sent.unwrap_or_default(),
            },
            x: whole(json, "x"),
            y: whole(json, "y"),
            page_width: whole(json, "page_width"),
            viewport_width: whole(json, "viewport_width"),
            texts: json
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string())))
                .filter(|(_, value)| !value.is_empty())
                .collect(),
            properties,
            name,
            trusted: sent.trusted,
            bot: sent.bot.filter(|_| !sent.trusted),
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

    /// Sorts reports of one thing so that the one that counts comes first: a server's, the earliest, the one of the greater
    /// value, and then by what it says. Who says the same of everything is as good as another; its identity decides nothing.
    pub(super) fn rank(&self) -> impl Ord {
        let amounts = (self.tax, self.shipping, self.discount);
        let text = (&self.currency, &self.visitor, &self.session_id, &self.user, amounts, &self.items);
        (!self.trusted, self.at, Reverse(self.value), text)
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

/// Prices have six decimals, quantities three. Signs do not matter in a refund.
fn items(json: &Map<String, Value>, is_refund: bool) -> Vec<Item> {
    let Some(Value::Array(items)) = json.get("items") else { return Vec::new() };
    let read = |item: &Value| {
        let text = |field| item.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
        let number = |field, decimals| {
            let sent = decimal(item.get(field))?;
            Some(money::rounded(if is_refund { sent.abs() } else { sent }, decimals))
        };
        Item {
            product_id: text("product_id"),
            variant_id: text("variant_id"),
            price: number("price", 6).unwrap_or(Decimal::ZERO),
            quantity: number("quantity", 3).unwrap_or(if is_refund { Decimal::ZERO } else { Decimal::ONE }),
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
