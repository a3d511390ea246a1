//! `product_analytics`: a row for each product and day on which something was told about the product.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{ToSpan as _, civil::Date};
use rust_decimal::{Decimal, RoundingStrategy};

use super::{
    event::{Event, Item, Kind},
    money::{Takings, half_up_decimal, mean_seconds, ratio},
    orders::{Book, Order},
    sessions::Session,
    store::Store,
    table::{Row, Table, Value},
};

/// Days that stock turns look back over, the day itself included.
const TURN_DAYS: i64 = 30;

pub(super) fn product_analytics(
    events: &[Event],
    sessions: &[Session<'_>],
    book: &Book<'_>,
    store: &Store,
) -> Table {
    let mut table = Table::new("product_analytics", &["date", "product_id"]);
    let shown = longest_showings(events);
    for (product_id, events) in by_product(events, book) {
        let product = Product {
            id: product_id,
            orders: book.orders.iter().filter(|order| order.lines_of(product_id).next().is_some()).collect(),
            stock: stock_levels(&events, product_id),
            events,
        };
        for day in product.days() {
            table.add(product.row(day, sessions, &shown, store));
        }
    }
    table
}

/// Events by each product that they name; with the products of which only an order tells.
fn by_product<'e>(events: &'e [Event], book: &Book<'e>) -> BTreeMap<&'e str, Vec<&'e Event>> {
    let lines = book.orders.iter().flat_map(|order| order.lines);
    let mut products: BTreeMap<&str, Vec<&Event>> = lines.map(|line| (line.product(), Vec::new())).collect();
    for event in events {
        let named: BTreeSet<&str> = event.items.iter().map(Item::product).collect();
        for product_id in named {
            products.entry(product_id).or_default().push(event);
        }
    }
    products
}

/// The last level of each day.
fn stock_levels(events: &[&Event], product_id: &str) -> BTreeMap<Date, i64> {
    let mut levels: Vec<_> = events.iter().filter(|event| tells_stock(event)).collect();
    levels.sort_by_key(|event| event.order());
    let mut by_day = BTreeMap::new();
    for event in levels {
        for item in event.items.iter().filter(|item| item.product() == product_id) {
            by_day.insert(event.day, half_up_decimal(item.quantity));
        }
    }
    by_day
}

/// Only the shop's own server knows what it has.
fn tells_stock(event: &Event) -> bool {
    event.name == "inventory_level" && event.trusted
}

struct Product<'e> {
    id: &'e str,
    /// Events that name it.
    events: Vec<&'e Event>,
    /// Orders that name it.
    orders: Vec<&'e Order<'e>>,
    stock: BTreeMap<Date, i64>,
}

impl Product<'_> {
    /// The days that get a row.
    fn days(&self) -> BTreeSet<Date> {
        let counted = ["view_item", "add_to_cart", "remove_from_cart", "begin_checkout", "review"];
        let mut days: BTreeSet<Date> = self
            .events
            .iter()
            .filter(|event| counted.contains(&event.name.as_str()) || tells_stock(event))
            .map(|event| event.day)
            .collect();
        days.extend(self.orders.iter().map(|order| order.day));
        days
    }

    fn row(&self, day: Date, sessions: &[Session<'_>], shown: &Showings<'_>, store: &Store) -> Row {
        let of_day = |name: &str| -> Vec<&Event> {
            let events = self.events.iter().copied();
            events.filter(|event| event.name == name && event.day == day).collect()
        };
        let views = of_day("view_item");
        let viewers: BTreeSet<_> = views.iter().filter_map(|event| event.visitor.as_ref()).collect();
        let adds = of_day("add_to_cart").len();
        let orders: Vec<_> = self.orders.iter().filter(|order| order.day == day).collect();
        let mut revenue = Takings::default();
        for order in &orders {
            let amount = self.revenue(order);
            revenue.add(amount, order.currency, order.convert(amount, store));
        }
        let units: Decimal = orders.iter().map(|order| self.units(order)).sum();
        let mut reviews = of_day("review");
        if reviews.iter().any(|event| event.trusted) {
            reviews.retain(|event| event.trusted);
        }
        let purchases = orders.len() as i64;
        Row::from([
            ("product_id", self.id.into()),
            ("date", day.into()),
            ("views_count", views.len().into()),
            ("views", views.len().into()),
            ("unique_views_count", viewers.len().into()),
            ("add_to_cart_count", adds.into()),
            ("cart_additions", adds.into()),
            ("cart_removal_count", of_day("remove_from_cart").len().into()),
            ("checkout_count", checkouts(sessions, &of_day("begin_checkout")).into()),
            ("purchase_count", purchases.into()),
            ("units_sold", half_up_decimal(units).into()),
            ("revenue_cents", revenue.minor.into()),
            ("revenue_amount", revenue.minor.into()),
            ("currency", store.currency.as_str().into()),
            ("unconverted", revenue.rest()),
            ("average_time_on_page", time_on_page(shown, &views).into()),
            ("bounce_rate", self.bounce_rate(day, sessions).into()),
            ("conversion_rate", ratio(purchases, viewers.len() as i64, 4).into()),
            ("stock_level", self.stock.get(&day).copied().into()),
            ("stock_turns", self.stock_turns(day).into()),
            ("average_rating", average_rating(&reviews)),
            ("review_count", reviews.len().into()),
        ])
    }

    fn units(&self, order: &Order<'_>) -> Decimal {
        order.lines_of(self.id).map(|line| line.quantity).sum()
    }

    fn revenue(&self, order: &Order<'_>) -> i64 {
        order.lines_of(self.id).map(|line| line.amount(order.currency)).sum()
    }

    /// Among the day's sessions that entered on a page of the product.
    fn bounce_rate(&self, day: Date, sessions: &[Session<'_>]) -> Decimal {
        let pages: BTreeSet<(&str, &str)> = self
            .events
            .iter()
            .filter(|event| event.name == "view_item")
            .filter_map(|event| Some((event.visitor.as_deref()?, event.page_view_id.as_deref()?)))
            .collect();
        let entered: Vec<_> = sessions
            .iter()
            .filter(|session| session.day == day)
            .filter(|session| session.entry.is_some_and(|entry| pages.contains(&entry)))
            .collect();
        let bounces = entered.iter().filter(|session| session.is_bounce).count();
        ratio(bounces as i64, entered.len() as i64, 4)
    }

    /// Units sold in 30 days over the mean of the levels known in these days: sold × levels / sum of levels.
    fn stock_turns(&self, day: Date) -> Option<Decimal> {
        let first = day.saturating_sub((TURN_DAYS - 1).days());
        let levels: Vec<i64> = self.stock.range(first..=day).map(|(_, level)| *level).collect();
        let sum: i64 = levels.iter().sum();
        if sum == 0 {
            return None;
        }
        let orders = self.orders.iter().filter(|order| first <= order.day && order.day <= day);
        let sold: Decimal = orders.map(|order| self.units(order)).sum();
        // Quantities have three decimals.
        let thousandths = half_up_decimal(sold * Decimal::ONE_THOUSAND);
        Some(ratio(thousandths * levels.len() as i64, sum * 1000, 4))
    }
}

/// Distinct sessions that hold one of the events.
fn checkouts(sessions: &[Session<'_>], begun: &[&Event]) -> usize {
    let begun: BTreeSet<&str> = begun.iter().map(|event| event.id.as_str()).collect();
    let holds = |session: &&Session<'_>| session.events.iter().any(|event| begun.contains(event.id.as_str()));
    sessions.iter().filter(holds).count()
}

/// The longest time reported for each showing of a page, by visitor and showing.
type Showings<'e> = BTreeMap<(&'e str, &'e str), i64>;

fn longest_showings(events: &[Event]) -> Showings<'_> {
    let mut shown = Showings::new();
    for event in events.iter().filter(|event| event.kind == Kind::PageView) {
        let Some(visitor) = event.visitor.as_deref() else { continue };
        let longest = shown.entry((visitor, event.showing())).or_default();
        *longest = event.duration_ms.max(*longest);
    }
    shown
}

/// Mean over the showings on which one of the views happened, of those that report a time.
fn time_on_page(shown: &Showings<'_>, views: &[&Event]) -> i64 {
    let pages: BTreeSet<(&str, &str)> = views
        .iter()
        .filter_map(|event| Some((event.visitor.as_deref()?, event.page_view_id.as_deref()?)))
        .collect();
    let times: Vec<i64> =
        pages.iter().filter_map(|page| shown.get(page)).copied().filter(|time_ms| *time_ms > 0).collect();
    mean_seconds(times.iter().sum(), times.len() as i64)
}

fn average_rating(reviews: &[&Event]) -> Value {
    let ratings: Vec<Decimal> = reviews
        .iter()
        .filter_map(|event| event.value)
        .filter(|value| (Decimal::ONE..=Decimal::from(5)).contains(value))
        .collect();
    if ratings.is_empty() {
        return Value::Null;
    }
    let mean = ratings.iter().sum::<Decimal>() / Decimal::from(ratings.len());
    mean.round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero).into()
}
