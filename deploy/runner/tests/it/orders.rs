//! The aggregator's orders against those of the recount, which was written for itself from the definitions.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use millrace_aggregator::{
    entity::order::{Kind, Line, Order, Report, Terms},
    money::Rates,
};
use millrace_recount::{Sent, Store, recount};
use millrace_schemas::money::exponent;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};
use uuid::Uuid;

const ORDERS: u64 = 10_000;
const HOUR_MS: i64 = 3_600_000;
/// 2 November 2026, the week before which clocks went back.
const START_MS: i64 = 1_793_577_600_000;

/// What is drawn for an event; of few values, so that much coincides.
struct Draw(StdRng);

impl Draw {
    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.0.random_range(0..values.len())]
    }

    fn one_in(&mut self, number: u32) -> bool {
        self.0.random_range(0..number) == 0
    }

    fn event(&mut self) -> Map<String, Value> {
        let name = self.of(&["purchase", "purchase", "refund", "refund", "order_updated", "order_cancelled"]);
        let hours = self.of(&[0, 0, 1, 23, 24, 25, 72, 167, 168, 169, 200]);
        let at = Timestamp::from_millisecond(START_MS + hours * HOUR_MS).unwrap();
        let mut event = json!({
            "type": "event", "event_id": Uuid::from_u128(self.0.random()), "name": name, "order_id": "o",
            "timestamp": format!("{at:.3}"),
        });
        let currencies: &[&str] = if name == "purchase" {
            &["EUR", "EUR", "USD", "JPY"]
        } else {
            &["", "", "EUR", "USD", "JPY", "CHF"]
        };
        let mut tell = |field: &str, value: Value| event[field] = value;
        tell("currency", self.of(currencies).into());
        if name != "order_cancelled" && !self.one_in(3) {
            tell("value", self.of(&[10, 20, 25, 60]).into());
        }
        for field in ["tax", "shipping", "discount"] {
            if self.one_in(3) {
                tell(field, self.of(&[0, 1, 3]).into());
            }
        }
        for (field, values) in [
            ("visitor_id", ["", "ann", "bob"]),
            ("session_id", ["", "a", "b"]),
            ("user_id", ["", "", "u"]),
            ("refund_id", ["", "r1", "r2"]),
        ] {
            tell(field, self.of(&values).into());
        }
        if self.one_in(2) {
            let items: Vec<Value> =
                (0..self.0.random_range(1..4)).map(|_| self.item(name == "refund")).collect();
            tell("items", items.into());
        }
        if name == "order_updated" && self.one_in(2) {
            tell("properties", json!({"refunds_included": true}));
        }
        let Value::Object(event) = event else { panic!("an event is an object") };
        event
    }

    fn item(&mut self, is_refund: bool) -> Value {
        let mut item =
            json!({"product_id": self.of(&["p", "p", "q", ""]), "variant_id": self.of(&["", "s", "m"])});
        // A voucher is a line below nothing.
        let prices: &[&str] =
            if is_refund { &["0", "0", "2.5", "0.005"] } else { &["5", "2.5", "0.335", "-3"] };
        item["price"] = self.of(prices).parse::<f64>().unwrap().into();
        let quantities: &[&str] = if is_refund { &["0", "1", "0.5"] } else { &["1", "2", "0.5", "3"] };
        item["quantity"] = self.of(quantities).parse::<f64>().unwrap().into();
        item
    }
}

/// The event as its report stands in ClickHouse's row.
fn report(event: &Map<String, Value>, trusted: bool, currency_of_store: &str) -> Report {
    let text = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let currency = text("currency");
    let stored = if currency.is_empty() { currency_of_store } else { &currency };
    let decimals = exponent(stored).unwrap();
    let minor = |field: &str| {
        let amount = event.get(field)?.as_i64()?;
        Some(amount * 10_i64.pow(decimals))
    };
    let scaled = |item: &Value, field: &str, by: f64| (item[field].as_f64().unwrap() * by).round() as i64;
    let lines = event.get("items").and_then(Value::as_array).into_iter().flatten().map(|item| Line {
        product_id: item["product_id"].as_str().unwrap().into(),
        variant_id: item["variant_id"].as_str().unwrap().into(),
        price: scaled(item, "price", 1e6),
        quantity: scaled(item, "quantity", 1e3),
    });
    Report {
        kind: match event["name"].as_str().unwrap() {
            "purchase" => Kind::Placed,
            "refund" => Kind::Refunded,
            "order_updated" => Kind::Updated,
            _ => Kind::Cancelled,
        },
        trusted,
        at_ms: text("timestamp").parse::<Timestamp>().unwrap().as_millisecond(),
        value_minor: minor("value"),
        value: event.get("value").and_then(Value::as_f64),
        tax_minor: minor("tax"),
        shipping_minor: minor("shipping"),
        discount_minor: minor("discount"),
        lines: lines.collect(),
        refund_id: text("refund_id"),
        refunds_included: event.get("properties").is_some(),
        visitor_id: text("visitor_id"),
        session_id: text("session_id"),
        user_id: text("user_id"),
        currency,
    }
}

/// Gross, refunds, orders, cancelled orders, returns and what they amount to, discounts, shipping, tax, unexplained.
type Cells = [i128; 10];

/// What an order adds to `revenue_analytics`, by date and currency.
fn revenue(order: &Order, zone: &TimeZone) -> BTreeMap<(String, String), Cells> {
    let date = |at_ms| {
        let instant = Timestamp::from_millisecond(at_ms).unwrap();
        zone.to_datetime(instant).date().to_string()
    };
    let mut rows: BTreeMap<(String, String), Cells> = BTreeMap::new();
    let placed = rows.entry((date(order.at_ms), order.currency.clone())).or_default();
    *placed = [order.total, 0, 1, 0, 0, 0, order.discount, order.shipping, order.tax, order.unexplained];
    for taken in &order.taken {
        let row = rows.entry((date(taken.at_ms), taken.currency.clone())).or_default();
        row[1] += taken.amount;
        row[3] += i128::from(taken.is_cancellation);
        row[4] += i128::from(taken.names_items);
        row[5] += if taken.names_items { taken.amount } else { 0 };
    }
    rows
}

/// The same as the recount has it.
fn recounted(sent: &[Sent], store: &Store) -> BTreeMap<(String, String), Cells> {
    let tables = recount(sent, store, (START_MS, START_MS)).unwrap();
    let table = tables.iter().find(|table| table.name == "revenue_analytics").unwrap();
    let cell = |row: &millrace_recount::Row, column: &str| row[column].to_string().parse().unwrap();
    let columns = [
        "gross_revenue_cents",
        "refunds_amount_cents",
        "orders_count",
        "cancelled_orders",
        "returns_count",
        "returns_amount_cents",
        "discounts_amount_cents",
        "shipping_amount_cents",
        "tax_amount_cents",
        "unexplained_amount_cents",
    ];
    let rows = table
        .rows
        .iter()
        .map(|(key, row)| ((key[0].clone(), key[1].clone()), columns.map(|column| cell(row, column))));
    rows.collect()
}

#[test]
fn of_any_reports_both_make_the_same_order() {
    let zone = TimeZone::get("America/New_York").unwrap();
    let days =
        (-7..12).map(|day| Date::new(2026, 11, 1).unwrap().saturating_add(jiff::Span::new().days(day)));
    let rates: Vec<(Date, String, Decimal)> = days
        .enumerate()
        // Of yen not every day, and of francs none.
        .flat_map(|(at, day)| {
            let yen = (at % 9 == 0).then(|| (day, "JPY".to_owned(), Decimal::new(65 + at as i64, 4)));
            [Some((day, "USD".to_owned(), Decimal::new(9_150 + at as i64, 4))), yen]
        })
        .flatten()
        .collect();
    let seed = std::env::var("MILLRACE_ORDERS_SEED")
        .ok()
        .map_or_else(|| rand::rng().next_u64(), |seed| seed.parse().unwrap());
    println!("MILLRACE_ORDERS_SEED={seed}");
    let mut draw = Draw(StdRng::seed_from_u64(seed));
    let ours = Rates::new("EUR", rates.clone());
    let mut taken = 0;
    for number in 0..ORDERS {
        let store = Store {
            store_id: "s".into(),
            time_zone: zone.clone(),
            currency: "EUR".into(),
            prices_include_tax: number % 2 == 1,
            rates: millrace_recount::Rates {
                by_day: rates.iter().map(|(day, currency, rate)| ((*day, currency.clone()), *rate)).collect(),
            },
            funnels: Vec::new(),
        };
        let events: Vec<(Map<String, Value>, bool)> =
            (0..draw.0.random_range(1..9)).map(|_| (draw.event(), draw.one_in(2))).collect();
        let reports: Vec<Report> =
            events.iter().map(|(event, trusted)| report(event, *trusted, &store.currency)).collect();
        let convert = |at_ms: i64, from: &str, into: &str, amount: i128| {
            let date = zone.to_datetime(Timestamp::from_millisecond(at_ms).unwrap()).date();
            ours.exchange(date, from, into, amount)
        };
        let terms = Terms {
            currency: &store.currency,
            prices_include_tax: store.prices_include_tax,
            convert: &convert,
        };
        let order = Order::of(&reports, &terms);
        taken += order.as_ref().map_or(0, |order| order.taken.len());
        let sent: Vec<Sent> = events
            .iter()
            .map(|(json, trusted)| Sent { json: json.clone(), trusted: *trusted, bot: None, anonymous: None })
            .collect();
        assert_eq!(
            order.as_ref().map(|order| revenue(order, &zone)).unwrap_or_default(),
            recounted(&sent, &store),
            "MILLRACE_ORDERS_SEED={seed}, order {number}: {order:#?}\nof {}",
            events.iter().map(|(event, trusted)| format!("\n{trusted} {}", json!(event))).collect::<String>()
        );
    }
    assert!(taken as u64 > ORDERS / 2, "only {taken} refunds");
}
