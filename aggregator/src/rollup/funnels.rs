//! `funnel_analytics`: ClickHouse gives each visitor's events in order with the steps that each matches; the walk through
//! them is here, a pure function of that list.

use std::collections::{BTreeMap, BTreeSet};

use clickhouse::Row;
use jiff::civil::Date;
use serde::Deserialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool, Row as _};

use super::{
    scope::{Store, grids},
    write::{Rows, table},
};
use crate::money::{divide, ratio, saturate};
use crate::{
    calendar::{Grid, Period},
    clickhouse::{Warehouse, text},
    error::{Error, Result},
    funnel::{Definition, OrderMode},
    locks,
    postgres::{Answer as _, begin, beside, parse_date},
    privacy::retention::Frozen,
};

/// Days of entry that one query covers.
const RUN_DAYS: usize = 7;

/// An event of a visitor: when, and which steps it matches (bit 0 the first).
pub type Step = (i64, u32);

#[derive(Row, Deserialize)]
struct Visitor {
    events: Vec<Step>,
}

/// Times at which a visitor who entered with `events[entry]` reached step 1, 2, …
pub fn walk(mode: OrderMode, steps: usize, window_ms: i64, events: &[Step], entry: usize) -> Vec<i64> {
    let Some(&(start, first)) = events.get(entry) else { return Vec::new() };
    let later = events[entry + 1..].iter().take_while(|(at, _)| at.saturating_sub(start) <= window_ms);
    match mode {
        OrderMode::Sequential => {
            let mut reached = vec![start];
            for (at, mask) in later {
                if reached.len() < steps && mask >> reached.len() & 1 == 1 {
                    reached.push(*at);
                }
            }
            reached
        }
        OrderMode::Strict => {
            let mut reached = vec![start];
            for (at, mask) in later {
                if reached.len() == steps || mask >> reached.len() & 1 == 0 {
                    break;
                }
                reached.push(*at);
            }
            reached
        }
        OrderMode::Any => {
            let mut filled = Filled { by_step: vec![None; steps] };
            let mut reached = Vec::new();
            for (at, mask) in std::iter::once(&(start, first)).chain(later) {
                if reached.len() < steps && filled.take(*mask, &mut 0) {
                    reached.push(*at);
                }
            }
            reached
        }
    }
}

/// Which event fills which step, as its mask: as many steps as the events so far can fill. An event that finds no place
/// now never finds one later, so it is not kept (augmenting paths only ever start at a new event).
struct Filled {
    by_step: Vec<Option<u32>>,
}

impl Filled {
    /// Finds a place for an event, moving others where that helps. `seen`: steps already tried.
    fn take(&mut self, mask: u32, seen: &mut u32) -> bool {
        for step in 0..self.by_step.len() {
            if mask >> step & 1 == 0 || *seen >> step & 1 == 1 {
                continue;
            }
            *seen |= 1 << step;
            let moves = match self.by_step[step] {
                None => true,
                Some(other) => self.take(other, seen),
            };
            if moves {
                self.by_step[step] = Some(mask);
                return true;
            }
        }
        false
    }
}

/// A day's entries: the latest, and a tally of each step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// When the latest visitor entered, epoch milliseconds.
    pub last_entry_ms: i64,
    /// The steps.
    pub steps: Vec<Tally>,
}

/// Entries and times of one step on one day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Visitors who reached the step.
    pub entered: i128,
    /// Of them, those who reached the next (last step: the same).
    pub completed: i128,
    /// Their milliseconds to it.
    pub wait_ms: i128,
}

/// Adds a visitor's entries on each day to the tallies of that day's steps.
pub fn tally(definition: &Definition, grid: &Grid, events: &[Step], tallies: &mut BTreeMap<Date, Day>) {
    let steps = definition.steps.len();
    let enters = match definition.order_mode {
        OrderMode::Any => (1_u32 << steps) - 1,
        OrderMode::Sequential | OrderMode::Strict => 1,
    };
    let mut entered_on = None;
    for (index, (at, mask)) in events.iter().enumerate() {
        let date = if *at < grid.lo() { None } else { grid.date(*at) };
        let Some(date) = date.filter(|date| mask & enters != 0 && entered_on != Some(*date)) else {
            continue;
        };
        entered_on = Some(date);
        let reached = walk(definition.order_mode, steps, definition.window_ms(), events, index);
        let day = tallies.entry(date).or_default();
        day.steps.resize(steps, Tally::default());
        day.last_entry_ms = day.last_entry_ms.max(*at);
        let day = &mut day.steps;
        for (step, at) in reached.iter().enumerate() {
            day[step].entered += 1;
            match reached.get(step + 1) {
                Some(next) => {
                    day[step].completed += 1;
                    day[step].wait_ms += i128::from(next - at);
                }
                None if step + 1 == steps => day[step].completed += 1,
                None => {}
            }
        }
    }
}

/// Writes every funnel's rows of the days whose entries the given days' events can change.
pub async fn write(
    warehouse: &Warehouse,
    postgres: &mut PgConnection,
    store: &Store,
    days: &BTreeSet<Date>,
    frozen: &Frozen,
) -> Result<()> {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    for definition in Definition::read_all(postgres, &store.id).await? {
        let mut entries = BTreeSet::new();
        for day in days {
            let first = store.calendar.date(store.calendar.start(*day) - definition.window_ms());
            entries.extend(crate::calendar::dates(first, *day).filter(|entry| !frozen.has(*entry)));
        }
        for grid in grids(&store.calendar, Period::Day, &entries, RUN_DAYS) {
            let tallies = beside(postgres, read(warehouse, store, &definition, &grid)).await?;
            let rows = rows(&definition, tallies, now_ms);
            table::FUNNELS.replace(postgres, &store.id, &[&definition.name], &grid.dates, rows).await?;
        }
    }
    Ok(())
}

async fn read(
    warehouse: &Warehouse,
    store: &Store,
    definition: &Definition,
    grid: &Grid,
) -> Result<BTreeMap<Date, Day>> {
    let mut tallies = BTreeMap::new();
    let compiled = definition.compile();
    let sql = text::assemble(text::funnel).replace("/*mask*/", &compiled.mask).replace(
        "/*names*/",
        if definition.order_mode == OrderMode::Strict { "1" } else { "name IN {names:Array(String)}" },
    );
    let enters: u32 = match definition.order_mode {
        OrderMode::Any => u32::MAX,
        OrderMode::Sequential | OrderMode::Strict => 1,
    };
    let mut query = warehouse
        .query(&sql)
        // Read one by one, so that their number does not matter.
        .with_setting("max_result_rows", "0")
        .param("store", &store.id)
        .param("lo", grid.lo())
        .param("hi", grid.end)
        .param("until", grid.end.saturating_add(definition.window_ms()))
        .param("enters", enters)
        .param("names", &compiled.names);
    for (name, value) in &compiled.params {
        query = query.param(name, value);
    }
    // One visitor at a time: the answer is as long as the events that match.
    let reading = async {
        let mut visitors = query.fetch::<Visitor>()?;
        while let Some(visitor) = visitors.next().await? {
            tally(definition, grid, &visitor.events, &mut tallies);
        }
        Ok(())
    };
    warehouse.within(reading).await?;
    Ok(tallies)
}

fn rows(definition: &Definition, tallies: BTreeMap<Date, Day>, now_ms: i64) -> Rows {
    let mut rows = Rows::default();
    for (date, day) in tallies {
        let is_open = day.last_entry_ms.saturating_add(definition.window_ms()) > now_ms;
        for (index, (step, tally)) in definition.steps.iter().zip(&day.steps).enumerate() {
            rows.push(
                date,
                json!({
                    "step_name": step.name,
                    "step_order": index + 1,
                    "users_entered": saturate(tally.entered),
                    "users_completed": saturate(tally.completed),
                    "completion_rate": ratio(tally.completed * 100, tally.entered, 2),
                    "average_time_to_complete": saturate(divide(tally.wait_ms, tally.completed * 1000)),
                    "is_open": is_open,
                }),
            );
        }
    }
    rows
}

/// Closes the days whose window has passed: nothing arrives that would say so. A store that is being rolled up keeps its
/// days open until the next time: whoever waited for its rows would wait for the whole rollup.
pub async fn close_passed(pool: &PgPool) -> Result<()> {
    let stores: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT entries.store_id
         FROM funnel_analytics AS entries
         JOIN funnels USING (store_id, funnel_name)
         WHERE entries.is_open AND entries.date + (funnels.window_seconds / 86400)::integer <= current_date
         LIMIT 10000",
    )
    .fetch_all(pool)
    .within()
    .await?;
    for store_id in stores {
        let mut transaction = begin(pool).within().await?;
        if locks::try_take_store(&mut transaction, &store_id).await? {
            close_passed_of(&mut transaction, &store_id).await?;
            transaction.commit().within().await?;
        }
    }
    Ok(())
}

async fn close_passed_of(postgres: &mut PgConnection, store_id: &str) -> Result<()> {
    let store = match Store::read(postgres, store_id).await {
        Ok(Some(store)) => store,
        // Its arrivals are not rolled up either, and that is logged there.
        Ok(None) | Err(Error::Store { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let rows = sqlx::query(
        "SELECT DISTINCT entries.date::text AS date, funnels.window_seconds, entries.funnel_name
         FROM funnel_analytics AS entries
         JOIN funnels USING (store_id, funnel_name)
         WHERE entries.store_id = $1 AND entries.is_open
           AND entries.date + (funnels.window_seconds / 86400)::integer <= current_date
         LIMIT 10000",
    )
    .bind(store_id)
    .fetch_all(&mut *postgres)
    .within()
    .await?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    for row in rows {
        let date: String = row.try_get("date")?;
        let window: i64 = row.try_get("window_seconds")?;
        if store.calendar.end(parse_date(&date)?).saturating_add(window * 1000) > now_ms {
            continue;
        }
        sqlx::query(
            "UPDATE funnel_analytics SET is_open = false, updated_at = now()
             WHERE store_id = $1 AND funnel_name = $2 AND date = $3::date",
        )
        .bind(store_id)
        .bind(row.try_get::<String, _>("funnel_name")?)
        .bind(date)
        .execute(&mut *postgres)
        .within()
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
