//! Sessions: how a visitor's events are cut into them.
//!
//! * An event belongs to the session that its client names. Such a session has any gaps, and 24 h at most: what comes later
//!   begins another of the same name.
//! * One that names none joins the session under way, named or not: the one with the latest activity, if that is less than 30
//!   minutes ago and the session not older than 24 h. Else it begins a session.
//! * Reports of one page view are one event, at the time of the first of them, in the session that the first of them with a name
//!   names. A later report prolongs that session, to 24 h at most, however late it comes, and begins none.
//!
//! Exactly 30 minutes is a gap; exactly 24 h is inside. Of events of one instant, reports that prolong come first, then those
//! that name a session, then the others, so that their order decides nothing.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

/// A gap that ends a session.
pub const GAP_MS: i64 = 30 * 60_000;
/// The longest session.
pub const LENGTH_MAX_MS: i64 = 24 * 3_600_000;

/// What of an event decides about sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Session, as sent; may be empty.
    pub session_id: &'a str,
    /// Of a report of a page view: which one; else, or where the client sends none, empty.
    pub page_view_id: &'a str,
    /// Of such a report: how long the page was seen until then.
    pub duration_ms: i64,
}

/// A session in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// As its client named it; may be empty.
    pub session_id: String,
    /// Its first event, epoch milliseconds.
    pub start_ms: i64,
    /// Its last activity.
    pub last_ms: i64,
    /// The same, had it no end: reports may come later than a session may last.
    pub reach_ms: i64,
}

impl Span {
    /// Until when it may take an event.
    fn end_max_ms(&self) -> i64 {
        self.start_ms.saturating_add(LENGTH_MAX_MS)
    }

    /// Whether it is under way at an instant.
    fn is_under_way(&self, at_ms: i64) -> bool {
        at_ms - self.last_ms < GAP_MS && at_ms <= self.end_max_ms()
    }

    fn prolong(&mut self, until_ms: i64) {
        self.last_ms = self.last_ms.max(until_ms.min(self.end_max_ms()));
        self.reach_ms = self.reach_ms.max(until_ms);
    }
}

/// Sessions, and of each event the place of its session among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// In order of start, then name.
    pub sessions: Vec<Span>,
    /// One for each event.
    pub places: Vec<usize>,
}

/// Cuts all events of one visitor, in whatever order.
pub fn cut(events: &[Event<'_>]) -> Cut {
    let mut under_way = UnderWay::default();
    let views = page_views(events);
    let mut places = vec![0; events.len()];
    let mut turns: Vec<Turn> = (0..events.len()).map(|index| Turn::of(events, index, &views)).collect();
    turns.sort_unstable();
    for Turn { index, first, .. } in turns {
        let event = &events[index];
        places[index] = if first == index {
            let session_id = views.get(event.page_view_id).map_or(event.session_id, |view| view.session_id);
            under_way.take(event.at_ms, session_id)
        } else {
            places[first]
        };
        let seen_until = events[first].at_ms.saturating_add(event.duration_ms);
        under_way.prolong(places[index], event.at_ms.max(seen_until));
    }
    in_order(under_way.sessions, places)
}

fn in_order(sessions: Vec<Span>, mut places: Vec<usize>) -> Cut {
    let mut order: Vec<usize> = (0..sessions.len()).collect();
    order.sort_by(|one, other| {
        let key = |at: usize| (sessions[at].start_ms, &sessions[at].session_id);
        key(*one).cmp(&key(*other))
    });
    let mut place_of = vec![0; sessions.len()];
    for (place, at) in order.iter().enumerate() {
        place_of[*at] = place;
    }
    places.iter_mut().for_each(|place| *place = place_of[*place]);
    let mut sessions: Vec<Option<Span>> = sessions.into_iter().map(Some).collect();
    let sessions = order.into_iter().filter_map(|at| sessions[at].take()).collect();
    Cut { sessions, places }
}

/// A page view, by all its reports.
struct PageView<'a> {
    /// Its first report.
    first: usize,
    session_id: &'a str,
}

fn page_views<'a>(events: &[Event<'a>]) -> HashMap<&'a str, PageView<'a>> {
    let mut reports: Vec<usize> =
        (0..events.len()).filter(|at| !events[*at].page_view_id.is_empty()).collect();
    // Of reports of one instant the one that names a session, by the smaller name, so that no order decides.
    reports.sort_by_key(|at| {
        (
            events[*at].at_ms,
            events[*at].session_id.is_empty(),
            events[*at].session_id,
            events[*at].duration_ms,
        )
    });
    let mut views: HashMap<&str, PageView<'_>> = HashMap::new();
    for at in reports {
        let Event { page_view_id, session_id, .. } = events[at];
        let view = views.entry(page_view_id).or_insert(PageView { first: at, session_id });
        if view.session_id.is_empty() {
            view.session_id = session_id;
        }
    }
    views
}

/// When an event is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    at_ms: i64,
    /// Among those of one instant.
    class: u8,
    index: usize,
    /// The first report of its page view, or itself.
    first: usize,
}

impl Turn {
    fn of(events: &[Event<'_>], index: usize, views: &HashMap<&str, PageView<'_>>) -> Self {
        let event = &events[index];
        let view = views.get(event.page_view_id);
        let first = view.map_or(index, |view| view.first);
        let session_id = view.map_or(event.session_id, |view| view.session_id);
        let class = match () {
            // Another report of the same instant as the first must come after it.
            () if first != index && events[first].at_ms == event.at_ms => 3,
            () if first != index => 0,
            () if !session_id.is_empty() => 1,
            () => 2,
        };
        Self { at_ms: event.at_ms, class, index, first }
    }
}

/// The sessions so far.
#[derive(Default)]
struct UnderWay {
    sessions: Vec<Span>,
    /// The newest of each name.
    named: HashMap<String, usize>,
    /// Last activity, start, name and place of all that may still take an event without a name.
    open: BTreeSet<(i64, i64, String, usize)>,
}

impl UnderWay {
    /// The session of an event.
    fn take(&mut self, at_ms: i64, session_id: &str) -> usize {
        let known = if session_id.is_empty() {
            self.latest(at_ms)
        } else {
            self.named.get(session_id).copied().filter(|place| at_ms <= self.sessions[*place].end_max_ms())
        };
        known.unwrap_or_else(|| self.begin(at_ms, session_id))
    }

    fn begin(&mut self, at_ms: i64, session_id: &str) -> usize {
        let place = self.sessions.len();
        self.sessions.push(Span {
            session_id: session_id.into(),
            start_ms: at_ms,
            last_ms: at_ms,
            reach_ms: at_ms,
        });
        if !session_id.is_empty() {
            self.named.insert(session_id.into(), place);
        }
        self.open.insert(self.entry(place));
        place
    }

    fn entry(&self, place: usize) -> (i64, i64, String, usize) {
        let Span { session_id, start_ms, last_ms, .. } = &self.sessions[place];
        (*last_ms, *start_ms, session_id.clone(), place)
    }

    /// Of those under way the one with the latest activity. Those that are over go.
    fn latest(&mut self, at_ms: i64) -> Option<usize> {
        while let Some((_, start_ms, _, place)) = self.open.last() {
            if self.sessions[*place].is_under_way(at_ms) {
                return Some(*place);
            }
            if at_ms - start_ms <= LENGTH_MAX_MS {
                // It may be prolonged again; all others have been quiet for longer.
                return None;
            }
            self.open.pop_last();
        }
        None
    }

    fn prolong(&mut self, place: usize, until_ms: i64) {
        let entry = self.entry(place);
        self.sessions[place].prolong(until_ms);
        if self.open.remove(&entry) {
            self.open.insert(self.entry(place));
        }
    }
}

/// Which of a visitor's events decide about the sessions that events of these instants touch: those from the begin of the range
/// on, where no session is under way, up to its end, where none is again. `sessions` are those that the visitor had before, all
/// that may reach into the range; `touched` are the instants of new, changed and vanished events (with the first reports of their page
/// views), `names` the sessions that they name. `None`: nothing is touched.
pub fn affected(sessions: &[Span], touched: &[i64], names: &[&str]) -> Option<Range<i64>> {
    let (first, last) = (*touched.iter().min()?, *touched.iter().max()?);
    let reaches = |span: &Span, at_ms: i64| {
        span.end_max_ms() >= at_ms
            && (at_ms - span.last_ms < GAP_MS || names.contains(&span.session_id.as_str()))
    };
    let mut by_start: Vec<&Span> = sessions.iter().collect();
    by_start.sort_by_key(|span| std::cmp::Reverse(span.start_ms));
    let mut begin = first;
    for span in by_start.iter().filter(|span| span.start_ms < first) {
        if reaches(span, begin) {
            begin = begin.min(span.start_ms);
        }
    }
    Some(begin..settled(&by_start, last.saturating_add(LENGTH_MAX_MS)))
}

/// The first start after `after_ms` from which on all sessions begin as they did, whatever the cuts before it become: a gap
/// lies before it, and no session behind it may become one with another of its name before it. `newest_first`: all sessions.
fn settled(newest_first: &[&Span], after_ms: i64) -> i64 {
    let mut following: HashMap<&str, i64> = HashMap::new();
    // Of each session where the next of its name begins, if the two may become one.
    let mut next: Vec<Option<i64>> = Vec::with_capacity(newest_first.len());
    for span in newest_first {
        let following = following.insert(&span.session_id, span.start_ms);
        next.push(
            following.filter(|start| !span.session_id.is_empty() && start - span.reach_ms <= LENGTH_MAX_MS),
        );
    }
    let (mut reach_ms, mut tied_until_ms) = (i64::MIN, i64::MIN);
    for (span, next) in newest_first.iter().zip(next).rev() {
        let is_quiet = reach_ms.saturating_add(GAP_MS) <= span.start_ms;
        if span.start_ms > after_ms && is_quiet && tied_until_ms < span.start_ms {
            return span.start_ms;
        }
        reach_ms = reach_ms.max(span.reach_ms);
        tied_until_ms = tied_until_ms.max(next.unwrap_or(i64::MIN));
    }
    i64::MAX
}

#[cfg(test)]
mod tests;
