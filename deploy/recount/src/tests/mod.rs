//! The oracle against numbers computed by hand.
//!
//! Times are minutes (and seconds) after noon of 2026-10-31 in New York, the day before clocks go back: 12 hours later
//! the next day begins, which has 25 hours.

mod cohorts;
mod funnels;
mod heatmaps;
mod orders;
mod products;
mod refunds;
mod traffic;
mod values;
mod words;

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::date, tz::TimeZone};
use rust_decimal::Decimal;
use serde_json::{Value as Json, json};

use super::*;

const NOON: &str = "2026-10-31T12:00:00-04:00";
const DAY: &str = "2026-10-31";
const NEXT: &str = "2026-11-01";
/// Seconds.
const HOUR: f64 = 3_600.0;
/// From noon to noon of a day without a change of clocks.
const ONE_DAY: f64 = 24.0 * HOUR;

fn ms(seconds: f64) -> i64 {
    NOON.parse::<Timestamp>().unwrap().as_millisecond() + (seconds * 1000.0).round() as i64
}

/// An event at a second after noon. Its identity is its place in the list, unless it says one.
fn sent(events: &[(f64, Json)]) -> Vec<Sent> {
    events
        .iter()
        .enumerate()
        .map(|(index, (seconds, fields))| {
            let mut json = fields.as_object().unwrap().clone();
            json.entry("event_id").or_insert_with(|| format!("id-{index:03}").into());
            json.entry("type").or_insert_with(|| "event".into());
            json.insert("timestamp".into(), ms(*seconds).into());
            let trusted = json.remove("trusted").is_some();
            let bot = json.remove("bot").map(|why| if why == "rate" { Bot::Rate } else { Bot::Other });
            Sent { json, trusted, bot, anonymous: None }
        })
        .collect()
}

fn store(funnels: Vec<Funnel>) -> Store {
    let mut rates = Rates::default();
    rates.by_day.insert((date(2026, 10, 31), "EUR".into()), "1.105".parse().unwrap());
    Store {
        store_id: "s".into(),
        time_zone: TimeZone::get("America/New_York").unwrap(),
        currency: "USD".into(),
        prices_include_tax: false,
        rates,
        funnels,
    }
}

type Tables = BTreeMap<&'static str, Table>;

fn count_in(store: &Store, events: &[(f64, Json)]) -> Tables {
    let tables = recount(&sent(events), store, (0, 1)).unwrap();
    tables.into_iter().map(|table| (table.name, table)).collect()
}

fn count_with(funnels: Vec<Funnel>, events: &[(f64, Json)]) -> Tables {
    count_in(&store(funnels), events)
}

fn count(events: &[(f64, Json)]) -> Tables {
    count_with(Vec::new(), events)
}

/// The columns of a row as text, in the order asked for.
fn cells(tables: &Tables, table: &str, key: &[&str], columns: &[&str]) -> Vec<String> {
    let key: Vec<String> = key.iter().map(|part| (*part).to_string()).collect();
    let rows = &tables[table].rows;
    let row = rows.get(&key).unwrap_or_else(|| panic!("no row {key:?} in {:?}", rows.keys()));
    columns.iter().map(|column| row[column].to_string()).collect()
}

fn view(visitor: &str) -> Json {
    json!({ "type": "page_view", "visitor_id": visitor, "url": "https://shop.example/" })
}

fn with(mut event: Json, fields: Json) -> Json {
    if let (Json::Object(event), Json::Object(fields)) = (&mut event, fields) {
        event.extend(fields);
    }
    event
}

fn purchase(order: &str, fields: Json) -> Json {
    with(json!({ "name": "purchase", "order_id": order, "currency": "USD" }), fields)
}

fn refund(order: &str, fields: Json) -> Json {
    with(json!({ "name": "refund", "order_id": order, "trusted": true }), fields)
}

fn update(order: &str, fields: Json) -> Json {
    with(json!({ "name": "order_updated", "order_id": order, "trusted": true }), fields)
}

/// An order of 100.00 at noon: a for 60, b for 40.
fn order() -> (f64, Json) {
    let items = json!([{ "product_id": "a", "price": 60 }, { "product_id": "b", "price": 40 }]);
    (0.0, purchase("1", json!({ "value": 100, "items": items })))
}

/// [`MONEY`] of the first day after these words about [`order`].
fn after(words: &[(f64, Json)]) -> String {
    let mut events = vec![order()];
    events.extend_from_slice(words);
    money_of(&count(&events), DAY, "USD")
}

/// What `revenue_analytics` says of money.
const MONEY: [&str; 6] = [
    "orders_count",
    "gross_revenue_cents",
    "refunds_amount_cents",
    "net_revenue_cents",
    "returns_count",
    "returns_amount_cents",
];

/// [`MONEY`] of a day and currency.
fn money_of(tables: &Tables, day: &str, currency: &str) -> String {
    cells(tables, "revenue_analytics", &[day, currency], &MONEY).join(" ")
}

/// The days and currencies that `revenue_analytics` has rows for.
fn days_of_money(tables: &Tables) -> Vec<String> {
    tables["revenue_analytics"].rows.keys().map(|key| key.join(" ")).collect()
}

fn named(visitor: &str, name: &str) -> Json {
    json!({ "name": name, "visitor_id": visitor })
}
