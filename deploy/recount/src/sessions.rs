//! Sessions: by the client's identity where it sent one, else split by gaps.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;

use super::{
    event::{Event, Kind},
    orders::Book,
};

/// A gap this long between two events starts the next session.
const GAP_MS: i64 = 30 * 60 * 1000;
/// An event that lies further than this after the first of its session starts the next one.
const LENGTH_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// A session this long is engaged.
const ENGAGED_MS: i64 = 10_000;

/// A session with what is asked about it.
#[derive(Clone, Debug)]
pub(super) struct Session<'e> {
    pub(super) events: Vec<&'e Event>,
    /// The day of its earliest event: the day it belongs to.
    pub(super) day: Date,
    pub(super) duration_ms: i64,
    /// Visitor and showing of the first page view.
    pub(super) entry: Option<(&'e str, &'e str)>,
    pub(super) is_bounce: bool,
    pub(super) is_conversion: bool,
    pub(super) is_engaged: bool,
}

/// All sessions. Events without a visitor belong to none.
pub(super) fn sessions<'e>(events: &'e [Event], book: &Book<'_>) -> Vec<Session<'e>> {
    let mut with_id: BTreeMap<(&str, &str), Vec<&Event>> = BTreeMap::new();
    let mut without_id: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        match (&event.visitor, &event.session_id) {
            (Some(visitor), Some(session)) => with_id.entry((visitor, session)).or_default().push(event),
            (Some(visitor), None) => without_id.entry(visitor).or_default().push(event),
            (None, _) => {}
        }
    }
    let mut groups: Vec<Vec<&Event>> = with_id.into_values().collect();
    for (_, mut events) in without_id {
        events.sort_by_key(|event| event.order());
        groups.extend(split(events));
    }
    groups.into_iter().map(|events| Session::of(events, book)).collect()
}

fn split(events: Vec<&Event>) -> Vec<Vec<&Event>> {
    let mut groups: Vec<Vec<&Event>> = Vec::new();
    for event in events {
        match groups.last_mut() {
            Some(group)
                if event.at - group[group.len() - 1].at < GAP_MS
                    && event.at - group[0].at <= LENGTH_MAX_MS =>
            {
                group.push(event);
            }
            _ => groups.push(vec![event]),
        }
    }
    groups
}

impl<'e> Session<'e> {
    /// A session of events, of which there is at least one.
    fn of(mut events: Vec<&'e Event>, book: &Book<'_>) -> Self {
        if events.iter().any(|event| event.sequence.is_some()) {
            events.sort_by_key(|event| (event.sequence.unwrap_or(i64::MAX), event.at, &event.id));
        } else {
            events.sort_by_key(|event| event.order());
        }
        let views: Vec<&Event> =
            events.iter().copied().filter(|event| event.kind == Kind::PageView).collect();
        let showings: BTreeSet<&str> = views.iter().map(|view| view.showing()).collect();

        let mut start = events[0];
        let mut end = start.at;
        for event in &events {
            if event.at < start.at {
                start = event;
            }
            end = end.max(event.at);
        }
        for showing in &showings {
            let reports = views.iter().filter(|view| view.showing() == *showing);
            let first = reports.clone().map(|view| view.at).min().unwrap_or(0);
            let longest = reports.map(|view| view.duration_ms).max().unwrap_or(0);
            end = end.max(first + longest);
        }

        let duration_ms = end - start.at;
        let page_views = showings.len();
        let is_interactive = events.iter().any(|event| event.interactive);
        let is_conversion = events.iter().any(|event| book.tells_visitor(&event.id));
        Self {
            day: start.day,
            duration_ms,
            entry: views.first().and_then(|view| Some((view.visitor.as_deref()?, view.showing()))),
            is_bounce: page_views == 1 && !is_interactive,
            is_conversion,
            is_engaged: duration_ms >= ENGAGED_MS || page_views >= 2 || is_conversion,
            events,
        }
    }
}
