//! Funnels: how far visitors came through a list of steps, by the day they entered.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::Serialize;

use super::{
    event::{Event, Kind},
    money::{mean_seconds, ratio},
    store::Store,
    table::{Row, Table, Value},
};

/// In what order the steps of a funnel must come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderMode {
    /// In order, others may lie between.
    Sequential,
    /// In order, nothing between.
    Strict,
    /// In any order.
    Any,
}

/// How a filter compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// The same text.
    Equals,
    /// Another text, or none.
    NotEquals,
    /// The text stands somewhere in it.
    Contains,
    /// It begins with the text.
    StartsWith,
}

/// A condition on an event.
#[derive(Clone, Debug, Serialize)]
pub struct Filter {
    /// A text field of the event, or `properties.<key>`.
    pub field: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub value: String,
}

/// A step of a funnel.
#[derive(Clone, Debug)]
pub struct Step {
    /// Unique within the funnel.
    pub name: String,
    /// Canonical name of the event, or `page_view`.
    pub event: String,
    /// All of them must hold.
    pub filters: Vec<Filter>,
}

/// A funnel.
#[derive(Clone, Debug)]
pub struct Funnel {
    /// Unique within the store.
    pub name: String,
    /// In what order the steps must come.
    pub order_mode: OrderMode,
    /// How long after the entry a step may come, inclusive.
    pub window_seconds: i64,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Filter {
    fn holds(&self, event: &Event) -> bool {
        let found = match self.field.strip_prefix("properties.") {
            Some(key) => event.properties.get(key),
            None => event.texts.get(&self.field),
        };
        let Some(found) = found else { return self.operator == Operator::NotEquals };
        match self.operator {
            Operator::Equals => *found == self.value,
            Operator::NotEquals => *found != self.value,
            Operator::Contains => found.contains(&self.value),
            Operator::StartsWith => found.starts_with(&self.value),
        }
    }
}

impl Step {
    fn matches(&self, event: &Event) -> bool {
        event.kind != Kind::Click
            && event.name == self.event
            && self.filters.iter().all(|filter| filter.holds(event))
    }
}

impl Funnel {
    /// The times at which a visitor's run reached steps 1, 2, …; it begins with the first of `events`.
    fn run(&self, events: &[&Event]) -> Vec<i64> {
        let entry = events[0].at;
        let events: Vec<&Event> =
            events.iter().copied().filter(|event| event.at - entry <= self.window_seconds * 1000).collect();
        match self.order_mode {
            OrderMode::Sequential => self.run_in_order(&events, false),
            OrderMode::Strict => self.run_in_order(&events, true),
            OrderMode::Any => self.run_in_any_order(&events),
        }
    }

    fn run_in_order(&self, events: &[&Event], is_strict: bool) -> Vec<i64> {
        let mut reached = vec![events[0].at];
        for event in &events[1..] {
            let Some(step) = self.steps.get(reached.len()) else { break };
            if step.matches(event) {
                reached.push(event.at);
            } else if is_strict {
                break;
            }
        }
        reached
    }

    /// Step k is reached when k different steps can first be filled by k different events.
    fn run_in_any_order(&self, events: &[&Event]) -> Vec<i64> {
        let mut reached = Vec::new();
        // For each step the event that fills it: a matching, which grows by at most one with each event.
        let mut filled: Vec<Option<usize>> = vec![None; self.steps.len()];
        for at in 0..events.len() {
            if self.place(events, at, &mut filled, &mut BTreeSet::new()) {
                reached.push(events[at].at);
            }
        }
        reached
    }

    /// Finds a step for an event, moving events that have one already where that makes room.
    fn place(
        &self,
        events: &[&Event],
        which: usize,
        filled: &mut [Option<usize>],
        tried: &mut BTreeSet<usize>,
    ) -> bool {
        for (index, step) in self.steps.iter().enumerate() {
            if !step.matches(events[which]) || !tried.insert(index) {
                continue;
            }
            let is_free = match filled[index] {
                None => true,
                Some(other) => self.place(events, other, filled, tried),
            };
            if is_free {
                filled[index] = Some(which);
                return true;
            }
        }
        false
    }

    /// The runs of one visitor: day of entry, and when each step was reached.
    fn runs_of(&self, events: &[&Event]) -> BTreeMap<Date, Vec<i64>> {
        let mut runs = BTreeMap::new();
        for (index, event) in events.iter().enumerate() {
            let enters = match self.order_mode {
                OrderMode::Any => self.steps.iter().any(|step| step.matches(event)),
                _ => self.steps[0].matches(event),
            };
            if enters && !runs.contains_key(&event.day) {
                runs.insert(event.day, self.run(&events[index..]));
            }
        }
        runs
    }
}

/// `funnel_analytics` of all the store's funnels.
pub(super) fn funnel_analytics(events: &[Event], store: &Store, rolled_up_ms: (i64, i64)) -> Table {
    let mut visitors: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        if let Some(visitor) = &event.visitor {
            visitors.entry(visitor).or_default().push(event);
        }
    }
    for events in visitors.values_mut() {
        events.sort_by_key(|event| event.order());
    }

    let mut table = Table::new("funnel_analytics", &["funnel_name", "date", "step_order"]);
    for funnel in &store.funnels {
        let mut days: BTreeMap<Date, Vec<Vec<i64>>> = BTreeMap::new();
        for events in visitors.values() {
            for (day, reached) in funnel.runs_of(events) {
                days.entry(day).or_default().push(reached);
            }
        }
        for (day, runs) in days {
            for step in 0..funnel.steps.len() {
                table.add(row(funnel, day, &runs, step, rolled_up_ms));
            }
        }
    }
    table
}

fn row(funnel: &Funnel, day: Date, runs: &[Vec<i64>], step: usize, rolled_up_ms: (i64, i64)) -> Row {
    let entered = runs.iter().filter(|run| run.len() > step).count() as i64;
    let onward: Vec<_> = runs.iter().filter(|run| run.len() > step + 1).collect();
    let is_last = step + 1 == funnel.steps.len();
    let completed = if is_last { entered } else { onward.len() as i64 };
    let took_ms: i64 = onward.iter().map(|run| run[step + 1] - run[step]).sum();

    let window_end = runs.iter().map(|run| run[0]).max().unwrap_or(0) + funnel.window_seconds * 1000;
    let (earliest, latest) = rolled_up_ms;
    let is_open = if latest <= window_end {
        Some(true)
    } else if window_end < earliest {
        Some(false)
    } else {
        None
    };
    Row::from([
        ("funnel_name", funnel.name.as_str().into()),
        ("date", day.into()),
        ("step_order", (step + 1).into()),
        ("step_name", funnel.steps[step].name.as_str().into()),
        ("users_entered", entered.into()),
        ("users_completed", completed.into()),
        ("completion_rate", ratio(completed * 100, entered, 2).into()),
        ("average_time_to_complete", mean_seconds(took_ms, onward.len() as i64).into()),
        ("is_open", Value::Flag(is_open)),
    ])
}
