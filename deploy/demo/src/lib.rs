//! A believable shop's traffic, sent into a running Millrace and checked afterwards.
//!
//! [`Scenario`] says what is to happen; [`Scenario::generate`] makes it up, always the same for the same scenario:
//! the requests with the answers they must get, and the ledger, from which [`millrace_recount`] knows what the rollups
//! must show. [`rehearse`] does the whole round against a running instance; `millrace demo` is [`run`].
//!
//! Left out, because what they lead to depends on the moment of receipt, which a ledger cannot know exactly: events
//! without `event_id` or `timestamp`, clocks that are wrong by more than five minutes, events that are too old.

mod admin;
mod bad;
mod clicks;
mod command;
mod dirty;
mod edges;
mod journey;
mod orders;
mod plan;
mod rates;
mod rehearsal;
mod report;
mod request;
mod send;
mod shop;
#[cfg(test)]
mod tests;
mod world;

use anyhow::Context as _;
use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use millrace_recount::{Bot, Filter, Funnel, Operator, OrderMode, Sent, Step};

pub use admin::{Account, create_funnel, create_store};
pub use command::{Config, run};
pub use rates::{example_rates, insert_rates, read_rates};
pub use rehearsal::{Outcome, Target, rehearse};
pub use request::{Expected, Keys, Request};
pub use send::{Pace, SendReport, send};

use world::World;

/// What is to happen in a shop.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The same seed gives the same traffic.
    pub seed: u64,
    /// Events that are accepted, each once; copies that differ count.
    pub events: usize,
    /// Nothing happens at or after this moment.
    pub now: Timestamp,
    /// First day, by the store's calendar.
    pub first_day: Date,
    /// Number of days.
    pub days: u32,
    /// The store's time zone.
    pub time_zone: TimeZone,
    /// The store's currency, in which most people pay.
    pub currency: String,
    /// The currency in which others pay; a few pay in JPY.
    pub second_currency: String,
    /// Share of events that are sent twice.
    pub duplicates: f64,
    /// Refused events, as a share of the accepted ones.
    pub malformed: f64,
    /// Share of events that are written carelessly.
    pub dirty: f64,
    /// Share of visitors that are bots.
    pub bots: f64,
    /// Share of visitors that send no `visitor_id`.
    pub anonymous: f64,
    /// Whether some events are sent again by others, in other words: a ledger by `event_id` alone cannot tell which of them
    /// was accepted.
    pub has_copies: bool,
}

/// What a [`Scenario`] comes to.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// To be sent, in about this order.
    pub requests: Vec<Request>,
    /// Every event that must be accepted, once.
    pub ledger: Vec<Sent>,
    /// The funnels that the store is to have.
    pub funnels: Vec<Funnel>,
}

impl Scenario {
    /// The last `days` days up to `now`.
    pub fn until(now: Timestamp, days: u32, time_zone: TimeZone) -> Self {
        let today = time_zone.to_datetime(now).date();
        Self {
            seed: 1,
            events: 20_000,
            now,
            first_day: today.saturating_sub(i64::from(days.saturating_sub(1)).days()),
            days,
            time_zone,
            currency: "USD".into(),
            second_currency: "EUR".into(),
            duplicates: 0.05,
            malformed: 0.01,
            dirty: 0.1,
            bots: 0.04,
            anonymous: 0.02,
            has_copies: true,
        }
    }

    /// Days on both sides of the latest change of clocks before `now`, which lies in the past.
    pub fn over_clock_change(now: Timestamp, days: u32, time_zone: TimeZone) -> anyhow::Result<Self> {
        let margin = (24 * i64::from(days)).hours();
        let change = time_zone
            .preceding(now.checked_sub(margin)?)
            .next()
            .context("the clocks of this time zone have never been changed")?
            .timestamp();
        let day = time_zone.to_datetime(change).date();
        let mut scenario = Self::until(now, days, time_zone);
        scenario.first_day = day.saturating_sub((i64::from(days) / 2).days());
        Ok(scenario)
    }

    /// How old events may get in days: what the store must allow, so that their times are kept.
    pub fn event_age_days(&self) -> u32 {
        let today = self.time_zone.to_datetime(self.now).date();
        let age = self.first_day.until(today).map_or(0, |span| span.get_days());
        u32::try_from(age).unwrap_or(0) + 3
    }

    /// Makes it up.
    pub fn generate(&self) -> anyhow::Result<Traffic> {
        anyhow::ensure!(self.days >= 1 && self.events >= 1, "traffic needs at least a day and an event");
        let mut world = World::new(self);
        world.edges();
        // Every visit may lie in the future, so that a scenario without a past would never come to its events.
        let mut fruitless = 0;
        while world.made.len() < self.events {
            let before = world.made.len();
            world.come_and_go();
            fruitless = if world.made.len() == before { fruitless + 1 } else { 0 };
            anyhow::ensure!(fruitless < 10_000, "the days of the scenario lie in the future");
        }
        world.made.truncate(self.events);
        let requests = world.plan();
        let ledger = world
            .made
            .iter()
            .map(|made| {
                let sender = &world.senders[made.sender];
                Sent {
                    json: made.json.clone(),
                    trusted: sender.is_server,
                    bot: sender.is_bot.then_some(Bot::Other),
                    anonymous: sender.is_anonymous.then(|| sender.agent.clone()),
                }
            })
            .collect();
        Ok(Traffic { requests, ledger, funnels: funnels() })
    }
}

fn step(name: &str, event: &str, filters: &[(&str, Operator, &str)]) -> Step {
    Step {
        name: name.into(),
        event: event.into(),
        filters: filters
            .iter()
            .map(|(field, operator, value)| Filter {
                field: (*field).into(),
                operator: *operator,
                value: (*value).into(),
            })
            .collect(),
    }
}

/// Funnels in every order, with and without filters, with steps that compete for the same events.
fn funnels() -> Vec<Funnel> {
    let recommended = ("properties.placement", Operator::Equals, "recommendation");
    let funnel = |name: &str, order_mode, window_seconds, steps| Funnel {
        name: name.into(),
        order_mode,
        window_seconds,
        steps,
    };
    vec![
        funnel(
            "Purchase",
            OrderMode::Sequential,
            14 * 86_400,
            vec![
                step("Product seen", "view_item", &[]),
                step("Into the cart", "add_to_cart", &[]),
                step("Checkout", "begin_checkout", &[]),
                step("Bought", "purchase", &[]),
            ],
        ),
        funnel(
            "Straight into the cart",
            OrderMode::Strict,
            3_600,
            vec![
                step("Page", "page_view", &[("url", Operator::Contains, "/product/")]),
                step("Product", "view_item", &[]),
                step("Cart", "add_to_cart", &[]),
            ],
        ),
        funnel(
            "Interest",
            OrderMode::Any,
            86_400,
            vec![
                step("Anything into the cart", "add_to_cart", &[]),
                step("Recommended into the cart", "add_to_cart", &[recommended]),
                step("Searched", "search", &[]),
                step("Seen", "view_item", &[("url", Operator::StartsWith, "https://shop.example/product/")]),
            ],
        ),
        funnel(
            "Recommended, bought without coupon",
            OrderMode::Sequential,
            2 * 86_400,
            vec![
                step("Recommended", "add_to_cart", &[recommended]),
                step("Bought", "purchase", &[("coupon", Operator::NotEquals, "AUTUMN5")]),
            ],
        ),
        funnel(
            "Second look",
            OrderMode::Sequential,
            7_200,
            vec![step("First", "view_item", &[]), step("Second", "view_item", &[])],
        ),
    ]
}
