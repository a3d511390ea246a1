//! What the rollups must show, computed a second time.
//!
//! The ledger is every event that was sent and accepted, as the JSON that was sent. From that and the store's settings
//! this crate computes every row of every rollup, in memory and by the plainest loops that fit
//! `aggregator/DEFINITIONS.md`. It is the oracle of the end-to-end tests and of `millrace demo`, so:
//!
//! * it shares no code with the aggregator, and none with the collector's decoding;
//! * it prefers a loop that reads like the definition to one that is fast;
//! * money and rates are integers and decimals, rounded once, half up.

mod calendar;
mod cohorts;
pub mod compare;
mod event;
mod funnels;
mod heatmaps;
mod money;
mod orders;
mod products;
mod reports;
mod sessions;
mod store;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;

pub use compare::{Difference, Patience, Verdict, compare, verify};
pub use event::{Bot, Sent};
pub use funnels::{Filter, Funnel, Operator, OrderMode, Step};
pub use money::Rates;
pub use store::Store;
pub use table::{Row, Table, Value};

use calendar::Calendar;
use event::{Event, Kind};
use orders::Book;

/// All rows that the rollups of `store` must hold after exactly the events `sent` were accepted.
///
/// The same event may stand in the ledger more than once. `rolled_up_ms` says when the rollups may have run: from the
/// first request to the moment of the comparison. Only a funnel's `is_open` depends on it.
pub fn recount(sent: &[Sent], store: &Store, rolled_up_ms: (i64, i64)) -> anyhow::Result<Vec<Table>> {
    let calendar = Calendar::new(store.time_zone.clone());
    let all = distinct(sent, &calendar, &store.currency)?;
    let (bots, persons): (Vec<Event>, Vec<Event>) = all.into_iter().partition(|event| event.bot.is_some());
    let (clicks, events): (Vec<Event>, Vec<Event>) =
        persons.into_iter().partition(|event| event.kind == Kind::Click);
    let bots: Vec<Event> = bots.into_iter().filter(|event| event.kind != Kind::Click).collect();

    let hasty = bots.iter().filter(|event| event.bot == Some(Bot::Rate));
    let book = Book::of(events.iter().chain(hasty), store);
    let sessions = sessions::sessions(&events, &book);

    let mut tables = vec![
        summary::analytics_summary(&events, &bots, &sessions, &book, store),
        products::product_analytics(&events, &sessions, &book, store),
        orders::revenue_analytics(&book),
        funnels::funnel_analytics(&events, store, rolled_up_ms),
        cohorts::cohort_analytics(&events, &book, store),
    ];
    tables.extend(heatmaps::heatmaps(&clicks));
    Ok(tables)
}

/// The events of the ledger, each once: the same identity is the same event, however often it was sent. Of copies that
/// differ a server's counts, then the earliest, then the one that was sent first.
fn distinct(sent: &[Sent], calendar: &Calendar, currency: &str) -> anyhow::Result<Vec<Event>> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut events: Vec<Event> = Vec::new();
    for sent in sent {
        let event = Event::read(sent, calendar, currency)?;
        match places.get(&event.id) {
            None => {
                places.insert(event.id.clone(), events.len());
                events.push(event);
            }
            Some(&place) => {
                let known = &mut events[place];
                if (!event.trusted, event.at) < (!known.trusted, known.at) {
                    *known = event;
                }
            }
        }
    }
    Ok(events)
}
