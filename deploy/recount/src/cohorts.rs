//! Cohorts: persons by the period of their first event, and what became of them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use rust_decimal::{Decimal, RoundingStrategy};

use super::{
    calendar::Period,
    event::Event,
    money::{Takings, exponent, ratio},
    orders::Book,
    store::Store,
    table::{Row, Table},
};

/// Somebody: a user where one is known, else a visitor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Person {
    User(String),
    Visitor(String),
}

/// The user of each visitor's first event that has one. An order whose reports name both is one, after the events of its
/// time.
fn users_of_visitors<'e>(events: &'e [Event], book: &Book<'e>) -> BTreeMap<&'e str, &'e str> {
    let by_events = events.iter().filter_map(|event| {
        let (at, sequence, id) = event.order();
        Some((event.visitor.as_deref()?, (at, false, sequence, id), event.user.as_deref()?))
    });
    let by_orders = book.orders.iter().filter_map(|order| {
        let user = order.user?;
        Some((order.visitor?, (order.at, true, 0, user), user))
    });
    let mut firsts = BTreeMap::new();
    for (visitor, when, user) in by_events.chain(by_orders) {
        let first = firsts.entry(visitor).or_insert((when, user));
        *first = (*first).min((when, user));
    }
    firsts.into_iter().map(|(visitor, (_, user))| (visitor, user)).collect()
}

fn person(user: Option<&str>, visitor: Option<&str>, users: &BTreeMap<&str, &str>) -> Option<Person> {
    if let Some(user) = user {
        return Some(Person::User(user.to_string()));
    }
    let visitor = visitor?;
    match users.get(visitor) {
        Some(user) => Some(Person::User((*user).to_string())),
        None => Some(Person::Visitor(visitor.to_string())),
    }
}

/// What the rows of all cohorts are computed from.
struct Everybody<'e> {
    users: BTreeMap<&'e str, &'e str>,
    /// The days on which each person has events.
    days: BTreeMap<Person, BTreeSet<Date>>,
    book: &'e Book<'e>,
    store: &'e Store,
}

/// `cohort_analytics`: a row for every cohort and every period from its own to the newest event's.
pub(super) fn cohort_analytics(events: &[Event], book: &Book<'_>, store: &Store) -> Table {
    let users = users_of_visitors(events, book);
    let mut days: BTreeMap<Person, BTreeSet<Date>> = BTreeMap::new();
    for event in events {
        if let Some(person) = person(event.user.as_deref(), event.visitor.as_deref(), &users) {
            days.entry(person).or_default().insert(event.day);
        }
    }
    let everybody = Everybody { users, days, book, store };

    let mut table = Table::new("cohort_analytics", &["period_type", "cohort_date", "period_number"]);
    let Some(newest) = events.iter().map(|event| event.day).max() else { return table };
    for period in Period::ALL {
        let number_max = match period {
            Period::Day => 90,
            Period::Week => 53,
            Period::Month => 36,
        };
        for (cohort, persons) in everybody.cohorts(period) {
            let mut date = cohort;
            for number in 0..=number_max {
                if date > period.first_day(newest) {
                    break;
                }
                let mut row = everybody.row(period, &persons, date);
                row.insert("cohort_date", cohort.into());
                row.insert("period_number", number.into());
                table.add(row);
                date = period.next(date);
            }
        }
    }
    table
}

impl Everybody<'_> {
    /// Persons by the period of their first event.
    fn cohorts(&self, period: Period) -> BTreeMap<Date, Vec<&Person>> {
        let mut cohorts: BTreeMap<Date, Vec<&Person>> = BTreeMap::new();
        for (person, days) in &self.days {
            if let Some(first) = days.first() {
                cohorts.entry(period.first_day(*first)).or_default().push(person);
            }
        }
        cohorts
    }

    /// What the persons of a cohort did in the period that begins on `date`.
    fn row(&self, period: Period, persons: &[&Person], date: Date) -> Row {
        let inside = |day: &Date| period.first_day(*day) == date;
        let did = |which: &dyn Fn(&Date) -> bool| -> i64 {
            persons.iter().filter(|person| self.days[**person].iter().any(which)).count() as i64
        };
        let size = persons.len() as i64;
        let active = did(&inside);
        let active_later = did(&|day| *day >= date);

        let mut revenue = Takings::default();
        for order in self.book.orders.iter().filter(|order| inside(&order.day)) {
            let buyer = person(order.user, order.visitor, &self.users);
            if buyer.is_some_and(|buyer| persons.contains(&&buyer)) {
                revenue.add(order.total, order.currency, order.convert(order.total, self.store));
            }
        }
        let currency = self.store.currency.as_str();
        let per_person = (Decimal::new(revenue.minor, exponent(currency)) / Decimal::from(size))
            .round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero);
        Row::from([
            ("period_type", period.as_str().into()),
            ("user_count", size.into()),
            ("active_user_count", active.into()),
            ("retention_rate", ratio(active * 100, size, 2).into()),
            ("unbounded_user_count", active_later.into()),
            ("unbounded_retention_rate", ratio(active_later * 100, size, 2).into()),
            ("revenue_cents", revenue.minor.into()),
            ("currency", currency.into()),
            ("unconverted", revenue.rest()),
            ("average_revenue_per_user", per_person.into()),
        ])
    }
}
