//! The rows of `millrace.events` and `millrace.clicks`, each listed once.
//!
//! The list of a row's fields is the single source of four things that must agree: the struct that the collector
//! fills, the JSON line in the log ([`Row::write_json`]), the columns that the consumer sends
//! ([`Row::for_each_cell`]) and the table definition ([`crate::clickhouse`]).
//!
//! In JSON a field that holds its type's default (empty, zero, null) is left out; ClickHouse and serde both put the
//! default back. Instants are `"2026-11-01 05:30:00.123"` in UTC, dates `"2026-11-01"`, properties all strings, so
//! that `JSONEachRow` reads every line as it is.

mod cell;
mod json;

use std::borrow::Cow;

use serde::Deserialize;
use uuid::Uuid;

pub use cell::{Cell, ColumnType};
use json::{date, instant, millionths, option_instant, properties, thousandths};

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in JSON and in ClickHouse.
    pub name: &'static str,
    /// Type.
    pub ty: ColumnType,
    /// What it means, for the table's comments and the documentation.
    pub doc: &'static str,
}

/// A row of one of the tables.
pub trait Row {
    /// The table, without its database.
    const TABLE: &'static str;
    /// The columns, in the order in which [`Row::for_each_cell`] visits them.
    const COLUMNS: &'static [Column];
    /// What stands before the value of each column in a line of JSON: `,"name":`.
    const JSON_KEYS: &'static [&'static [u8]];

    /// Visits every value with the index of its column.
    fn for_each_cell<'s>(&'s self, visit: impl FnMut(usize, Cell<'s>));

    /// Appends the row as one line of JSON, without the newline.
    fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let start = out.len();
        self.for_each_cell(|index, cell| {
            if !cell.is_default() {
                let is_first = out.len() == start;
                out.extend_from_slice(&Self::JSON_KEYS[index][usize::from(is_first)..]);
                cell.write_json(out);
            }
        });
        out.push(b'}');
    }
}

/// A field's name without the `r#` that a keyword needs in Rust.
const fn column_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// `,"name":`, of `N` bytes.
const fn json_key<const N: usize>(name: &str) -> [u8; N] {
    let mut key = [0; N];
    let (before, rest) = key.split_at_mut(2);
    let (middle, after) = rest.split_at_mut(name.len());
    before.copy_from_slice(b",\"");
    middle.copy_from_slice(name.as_bytes());
    after.copy_from_slice(b"\":");
    key
}

macro_rules! rows {
    ($(
        $(#[doc = $struct_doc:literal])+
        pub struct $row:ident in $table:literal {
            $(#[doc = $doc:literal] $(#[serde($($serde:tt)+)])? $field:ident: $ty:ty => $cell:ident,)+
        }
    )+) => {$(
        $(#[doc = $struct_doc])+
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(default)]
        pub struct $row<'a> {
            $(#[doc = $doc] $(#[serde($($serde)+)])? pub $field: $ty,)+
        }

        impl Row for $row<'_> {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [Column] =
                &[$(Column { name: column_name(stringify!($field)), ty: ColumnType::$cell, doc: $doc.trim_ascii() },)+];
            const JSON_KEYS: &'static [&'static [u8]] = &[$({
                const NAME: &str = column_name(stringify!($field));
                const KEY: [u8; NAME.len() + 4] = json_key(NAME);
                &KEY
            },)+];

            #[inline]
            #[allow(unused_assignments)]
            fn for_each_cell<'s>(&'s self, mut visit: impl FnMut(usize, Cell<'s>)) {
                let mut index = 0;
                $(visit(index, rows!(@cell $cell, self.$field)); index += 1;)+
            }
        }
    )+};
    (@cell Texts, $value:expr) => { Cell::Texts(&$value) };
    (@cell Millionths, $value:expr) => { Cell::Millionths(&$value) };
    (@cell Thousandths, $value:expr) => { Cell::Thousandths(&$value) };
    (@cell Map, $value:expr) => { Cell::Map(&$value) };
    (@cell $cell:ident, $value:expr) => { Cell::$cell($value) };
}

/// Properties of an event, in the order in which they were sent.
pub type Properties<'a> = Vec<(&'a str, Cow<'a, str>)>;

rows! {
    /// A page view or a named event.
    pub struct EventRow in "events" {
        /// Store it belongs to.
        store_id: &'a str => Symbol,
        /// Identity of the event: sent again, it counts once.
        event_id: Uuid => Uuid,
        /// `page_view` or `event`.
        r#type: &'a str => Symbol,
        /// Canonical name; `page_view` for page views.
        name: &'a str => Symbol,
        /// When it happened: the client's time, corrected where its clock is wrong.
        #[serde(with = "instant")]
        event_time: i64 => Instant,
        /// The time the client sent, uncorrected; null when it sent none.
        #[serde(with = "option_instant")]
        client_time: Option<i64> => OptionInstant,
        /// When the collector received it.
        #[serde(with = "instant")]
        received_at: i64 => Instant,
        /// Where `event_time` comes from: `client`, `corrected`, `received` (none was sent), `replaced` (implausible).
        time_source: &'a str => Symbol,
        /// Date that orders the table, a function of what was sent alone.
        #[serde(with = "date")]
        key_date: u16 => Date,
        /// Visitor: as sent, or a keyed hash that lasts one day; empty for a server's events without one.
        visitor_id: &'a str => Text,
        /// Hash of the visitor that was sent, 0 when none was: orders the table.
        visitor_hash: u64 => U64,
        /// Session, as sent.
        session_id: &'a str => Text,
        /// User, as sent.
        user_id: &'a str => Text,
        /// The client's sequence number within the session.
        sequence: Option<u32> => OptionU32,
        /// 1: happened without the visitor's doing, so it does not end a bounce.
        non_interactive: u8 => U8,
        /// Address of the page.
        url: &'a str => Text,
        /// Title of the page.
        title: &'a str => Text,
        /// Address of the page before.
        referrer: &'a str => Text,
        /// Language of the browser, BCP 47.
        language: &'a str => Symbol,
        /// Time zone of the browser, IANA.
        timezone: &'a str => Symbol,
        /// Width of the browser's viewport in CSS pixels.
        viewport_width: u16 => U16,
        /// Height of the browser's viewport in CSS pixels.
        viewport_height: u16 => U16,
        /// Width of the screen in CSS pixels.
        screen_width: u16 => U16,
        /// Height of the screen in CSS pixels.
        screen_height: u16 => U16,
        /// Identity of one showing of a page.
        page_view_id: &'a str => Text,
        /// Milliseconds the page has been shown.
        duration_ms: u32 => U32,
        /// How much of the page was seen, percent.
        scroll_depth: u8 => U8,
        /// Category of the event.
        category: &'a str => Symbol,
        /// Action of the event.
        action: &'a str => Symbol,
        /// Label of the event.
        label: &'a str => Text,
        /// Value of the event, as sent.
        value: Option<f64> => OptionF64,
        /// Currency of all amounts, ISO 4217; empty in a refund or an update: its order's.
        currency: &'a str => Symbol,
        /// Total of the order, or amount of the refund, minor units; null when none was sent.
        total_minor: Option<i64> => OptionI64,
        /// Tax, minor units; null when none was sent, which in an `order_updated` leaves it as it is.
        tax_minor: Option<i64> => OptionI64,
        /// Shipping, minor units; null likewise.
        shipping_minor: Option<i64> => OptionI64,
        /// Discount, minor units; null likewise.
        discount_minor: Option<i64> => OptionI64,
        /// Order.
        order_id: &'a str => Text,
        /// Refund, unique within its order.
        refund_id: &'a str => Text,
        /// Coupon.
        coupon: &'a str => Text,
        /// Items: product.
        item_product_id: Vec<&'a str> => Texts,
        /// Items: variant of the product.
        item_variant_id: Vec<&'a str> => Texts,
        /// Items: name.
        item_name: Vec<&'a str> => Texts,
        /// Items: brand.
        item_brand: Vec<&'a str> => Texts,
        /// Items: category.
        item_category: Vec<&'a str> => Texts,
        /// Items: price of one, in the currency's unit.
        #[serde(with = "millionths")]
        item_price: Vec<i64> => Millionths,
        /// Items: quantity; below zero for what comes back; of a refund 0 for the whole line.
        #[serde(with = "thousandths")]
        item_quantity: Vec<i64> => Thousandths,
        /// Items: discount on one, in the currency's unit.
        #[serde(with = "millionths")]
        item_discount: Vec<i64> => Millionths,
        /// Items: kind of product (`retail`, `wholesale`, `live`, …).
        item_product_kind: Vec<&'a str> => Texts,
        /// Everything else that was sent; numbers and booleans as their JSON text.
        #[serde(with = "properties", borrow)]
        properties: Properties<'a> => Map,
        /// Fields that could not be kept as they were sent, each with what was done: `label:cut`.
        repairs: Vec<&'a str> => Texts,
        /// User agent of the sender.
        user_agent: &'a str => Symbol,
        /// 1: sent with a secret key, by the shop's own server.
        trusted: u8 => U8,
        /// 1: a server's page view that names its visitor's user agent or address, and so counts like a browser's.
        for_visitor: u8 => U8,
        /// 1: not a person; kept, and left out of every rollup.
        is_bot: u8 => U8,
        /// Why it is taken for a bot.
        bot_reason: &'a str => Symbol,
        /// Name of the bot, where it has one: `Googlebot`.
        bot_name: &'a str => Symbol,
        /// What the bot is for: `search`, `ai_training`, `ai_assistant`, `monitor`, `preview`, `library`, `spam`, `other`.
        bot_kind: &'a str => Symbol,
        /// The client's network: its address without the last 8 bits, of IPv6 the last 80; kept only when a setting says so.
        ip: &'a str => Text,
        /// Browser, or another program that speaks for a person.
        browser: &'a str => Symbol,
        /// First part of its version.
        browser_version: &'a str => Symbol,
        /// Operating system.
        os: &'a str => Symbol,
        /// Its version, two parts at most.
        os_version: &'a str => Symbol,
        /// Kind of device: `desktop`, `mobile`, `tablet`, `tv`, `console`, `wearable`, `bot`.
        device: &'a str => Symbol,
        /// Country of the client, ISO 3166-1.
        country: &'a str => Symbol,
        /// Largest subdivision of the country, ISO 3166-2: `US-CA`.
        region: &'a str => Symbol,
        /// City, in English.
        city: &'a str => Symbol,
        /// Host of the referrer, without `www.`; empty when it is the page's own.
        referrer_host: &'a str => Symbol,
        /// GA4's default channel group of what brought the visitor here; empty where the page before was the shop's own.
        channel: &'a str => Symbol,
        /// Campaign: source.
        utm_source: &'a str => Symbol,
        /// Campaign: medium.
        utm_medium: &'a str => Symbol,
        /// Campaign: name.
        utm_campaign: &'a str => Symbol,
        /// Campaign: paid keyword.
        utm_term: &'a str => Text,
        /// Campaign: which of its advertisements.
        utm_content: &'a str => Text,
        /// Campaign: identity.
        utm_id: &'a str => Text,
        /// Parameter that an advertiser's click id came in: `gclid`, `fbclid`, …
        click_id_kind: &'a str => Symbol,
        /// The click id.
        click_id: &'a str => Text,
    }

    /// A click on a page.
    pub struct ClickRow in "clicks" {
        /// Store it belongs to.
        store_id: &'a str => Symbol,
        /// Identity of the click: sent again, it counts once.
        event_id: Uuid => Uuid,
        /// When it happened: the client's time, corrected where its clock is wrong.
        #[serde(with = "instant")]
        event_time: i64 => Instant,
        /// The time the client sent, uncorrected; null when it sent none.
        #[serde(with = "option_instant")]
        client_time: Option<i64> => OptionInstant,
        /// When the collector received it.
        #[serde(with = "instant")]
        received_at: i64 => Instant,
        /// Where `event_time` comes from: `client`, `corrected`, `received` (none was sent), `replaced` (implausible).
        time_source: &'a str => Symbol,
        /// Date that orders the table, a function of what was sent alone.
        #[serde(with = "date")]
        key_date: u16 => Date,
        /// Visitor: as sent, or a keyed hash that lasts one day.
        visitor_id: &'a str => Text,
        /// Hash of the visitor that was sent, 0 when none was: orders the table.
        visitor_hash: u64 => U64,
        /// Session, as sent.
        session_id: &'a str => Text,
        /// User, as sent.
        user_id: &'a str => Text,
        /// The client's sequence number within the session.
        sequence: Option<u32> => OptionU32,
        /// Address of the page.
        url: &'a str => Text,
        /// Showing of the page.
        page_view_id: &'a str => Text,
        /// CSS pixels from the document's left edge.
        x: u32 => U32,
        /// CSS pixels from the document's top edge.
        y: u32 => U32,
        /// Width of the document in CSS pixels.
        page_width: u32 => U32,
        /// Height of the document in CSS pixels.
        page_height: u32 => U32,
        /// Width of the browser's viewport in CSS pixels.
        viewport_width: u16 => U16,
        /// Height of the browser's viewport in CSS pixels.
        viewport_height: u16 => U16,
        /// CSS selector of the element.
        selector: &'a str => Text,
        /// Text of the element.
        text: &'a str => Text,
        /// Everything else that was sent; numbers and booleans as their JSON text.
        #[serde(with = "properties", borrow)]
        properties: Properties<'a> => Map,
        /// Fields that could not be kept as they were sent, each with what was done: `label:cut`.
        repairs: Vec<&'a str> => Texts,
        /// User agent of the sender.
        user_agent: &'a str => Symbol,
        /// 1: sent with a secret key, by the shop's own server.
        trusted: u8 => U8,
        /// 1: not a person; kept, and left out of every rollup.
        is_bot: u8 => U8,
        /// Why it is taken for a bot.
        bot_reason: &'a str => Symbol,
        /// Browser, or another program that speaks for a person.
        browser: &'a str => Symbol,
        /// Kind of device: `desktop`, `mobile`, `tablet`, `tv`, `console`, `wearable`, `bot`.
        device: &'a str => Symbol,
        /// Country of the client, ISO 3166-1.
        country: &'a str => Symbol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json_of(row: &impl Row) -> Vec<u8> {
        let mut out = Vec::new();
        row.write_json(&mut out);
        out
    }

    #[test]
    fn defaults_are_left_out_and_put_back() {
        let mut json = json_of(&EventRow::default());
        assert_eq!(json, b"{}");
        assert_eq!(simd_json::from_slice::<EventRow<'_>>(&mut json).unwrap(), EventRow::default());
    }

    #[test]
    fn column_names_are_json_names() {
        let names: Vec<_> = EventRow::COLUMNS.iter().map(|column| column.name).collect();
        assert!(names.contains(&"type") && names.contains(&"item_product_id"));
    }

    proptest! {
        #[test]
        fn rows_come_back_from_their_json(
            text in "\\PC{0,40}[\\x00-\\x20\"\\\\]{0,4}",
            time in 0_i64..4_000_000_000_000,
            total in proptest::option::of(any::<i64>()),
            value in proptest::option::of(any::<f64>().prop_filter("a number", |value| value.is_finite())),
            numbers in proptest::collection::vec(any::<i64>(), 0..4),
            id in any::<u128>(),
            date in any::<u16>(),
        ) {
            let row = EventRow {
                store_id: "demo",
                event_id: Uuid::from_u128(id),
                r#type: "event",
                name: &text,
                event_time: time,
                client_time: Some(time),
                key_date: date,
                value,
                total_minor: total,
                item_product_id: vec![&text; numbers.len()],
                item_price: numbers.clone(),
                item_quantity: numbers,
                properties: vec![(&text, Cow::Borrowed(&text)), ("k", Cow::Borrowed(""))],
                ..EventRow::default()
            };
            let mut json = json_of(&row);
            let again: serde_json::Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(again["store_id"].as_str(), Some("demo"));
            prop_assert_eq!(simd_json::from_slice::<EventRow<'_>>(&mut json).unwrap(), row);
        }
    }
}
