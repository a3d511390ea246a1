//! What a visitor did in each session.
//!
//! * A session's page views are distinct page views, each counted at its first report.
//! * **First and last page**: in the order of the client's sequence numbers, where any event of the session has one (those without
//!   come last), then of time; pages of one instant go by address.
//! * **Dimensions** (source, device, place) are those of the first page view, each that it lacks that of the first event that
//!   has it. Source goes as a whole.
//! * **Interactive** is every named event but those sent as not interactive and those that a page sends by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::session::{Cut, Event, cut};

/// The length of the stretches of time in which activity is kept. Every time zone's midnight is the beginning of one.
pub const BUCKET_MS: i64 = 15 * 60_000;

/// Named events that a page sends by itself, and that say nothing of its visitor.
pub const SENT_BY_PAGES: [&str; 11] = [
    "content_viewed",
    "exception",
    "experiment_exposure",
    "live_ping",
    "timing",
    "view_cart",
    "view_item",
    "view_item_list",
    "view_promotion",
    "view_search_results",
    "web_vitals",
];

/// What brought a visitor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// GA4's default channel group.
    pub channel: String,
    /// Host of the referrer.
    pub referrer_host: String,
    /// Campaign's source, medium, name, term and content.
    pub campaign: [String; 5],
}

impl Source {
    fn is_empty(&self) -> bool {
        self.channel.is_empty() && self.referrer_host.is_empty() && self.campaign.iter().all(String::is_empty)
    }
}

/// Where somebody is, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Country, region and city.
    pub place: [String; 3],
    /// Language.
    pub language: String,
    /// Kind of device, browser and operating system.
    pub device: [String; 3],
}

/// One event of a visitor: a report of a page view, or a named event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// The client's sequence number.
    pub sequence: Option<u32>,
    /// Whether it reports a page view.
    pub is_page_view: bool,
    /// Whether somebody did it, rather than the page.
    pub is_interactive: bool,
    /// Session, as sent.
    pub session_id: String,
    /// The page view that it reports, or happened on; of a page view never empty.
    pub page_view_id: String,
    /// How long the page was seen until then.
    pub duration_ms: i64,
    /// User, as sent.
    pub user_id: String,
    /// Address of the page, without what stands behind `?` or `#`.
    pub page: String,
    /// What brought the visitor to the page.
    pub source: Source,
    /// Device and place.
    pub device: Device,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// As its client named it; may be empty.
    pub session_id: String,
    /// Its first event, epoch milliseconds.
    pub start_ms: i64,
    /// Its last activity.
    pub last_ms: i64,
    /// The same, had a session no end.
    pub reach_ms: i64,
    /// Page views.
    pub page_views: u32,
    /// Interactive events.
    pub interactions: u32,
    /// Events in all.
    pub events: u32,
    /// The first page view, and its address.
    pub entry: (String, String),
    /// Address of the last page view.
    pub exit_page: String,
    /// First user that an event names.
    pub user_id: String,
    /// What brought the visitor.
    pub source: Source,
    /// Device and place.
    pub device: Device,
    /// Beginnings of the stretches of time in which an event happened.
    pub active: BTreeSet<i64>,
    /// Page views, by the stretch of time in which each was first reported.
    pub viewed: BTreeMap<i64, u32>,
}

/// The stretch of time that holds an instant.
pub fn bucket(at_ms: i64) -> i64 {
    at_ms.div_euclid(BUCKET_MS) * BUCKET_MS
}

/// The sessions of one visitor, of all events that decide about them, in whatever order; and of each event the place of its
/// session.
pub fn sessions(seen: &[Seen]) -> (Vec<Session>, Vec<usize>) {
    let events: Vec<Event<'_>> = seen
        .iter()
        .map(|seen| Event {
            at_ms: seen.at_ms,
            session_id: &seen.session_id,
            page_view_id: if seen.is_page_view { &seen.page_view_id } else { "" },
            duration_ms: if seen.is_page_view { seen.duration_ms } else { 0 },
        })
        .collect();
    let Cut { sessions, places } = cut(&events);
    let mut of: Vec<Vec<&Seen>> = vec![Vec::new(); sessions.len()];
    for (event, place) in seen.iter().zip(&places) {
        of[*place].push(event);
    }
    let sessions = sessions.into_iter().zip(of).map(|(span, mut events)| {
        let has_sequence = events.iter().any(|event| event.sequence.is_some());
        events.sort_by(|one, other| place(one, has_sequence).cmp(&place(other, has_sequence)));
        let mut session = Session {
            session_id: span.session_id,
            start_ms: span.start_ms,
            last_ms: span.last_ms,
            reach_ms: span.reach_ms,
            ..of_events(&events)
        };
        session.take_dimensions(&events);
        session
    });
    (sessions.collect(), places)
}

/// What orders the events of a session. No random id does.
fn place(event: &Seen, has_sequence: bool) -> impl Ord + '_ {
    let sequence = event.sequence.map_or(u64::MAX, u64::from);
    let rest = (&event.user_id, &event.page_view_id, &event.source.channel, &event.device.language);
    (if has_sequence { sequence } else { 0 }, event.at_ms, &event.page, !event.is_page_view, rest)
}

/// Counts of a session's events, which stand in order.
fn of_events(events: &[&Seen]) -> Session {
    let mut session = Session { events: events.len() as u32, ..Session::default() };
    // A page view is where its first report is.
    let mut first_reports: BTreeMap<&str, &Seen> = BTreeMap::new();
    for event in events.iter().filter(|event| event.is_page_view) {
        let first = first_reports.entry(&event.page_view_id).or_insert(event);
        if event.at_ms < first.at_ms {
            *first = event;
        }
    }
    let is_first = |event: &&&Seen| {
        event.is_page_view
            && first_reports.get(&*event.page_view_id).is_some_and(|first| std::ptr::eq(*first, **event))
    };
    let mut views = events.iter().filter(is_first);
    if let Some(entry) = views.next() {
        session.entry = (entry.page_view_id.clone(), entry.page.clone());
        session.exit_page = views.next_back().unwrap_or(entry).page.clone();
    }
    session.page_views = first_reports.len() as u32;
    for first in first_reports.values() {
        *session.viewed.entry(bucket(first.at_ms)).or_default() += 1;
    }
    for event in events {
        session.interactions += u32::from(!event.is_page_view && event.is_interactive);
        session.active.insert(bucket(event.at_ms));
        if session.user_id.is_empty() {
            session.user_id.clone_from(&event.user_id);
        }
    }
    session
}

impl Session {
    /// Each dimension is the first page view's, else that of the first event that has it.
    fn take_dimensions(&mut self, events: &[&Seen]) {
        let entry = events.iter().find(|event| event.is_page_view && event.page_view_id == self.entry.0);
        for event in entry.into_iter().chain(events) {
            if self.source.is_empty() {
                self.source.clone_from(&event.source);
            }
            if self.device.language.is_empty() {
                self.device.language.clone_from(&event.device.language);
            }
            for (own, told) in [
                (&mut self.device.place, &event.device.place),
                (&mut self.device.device, &event.device.device),
            ] {
                if own.iter().all(String::is_empty) {
                    own.clone_from(told);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn view(at_minutes: i64, page: &str) -> Seen {
        Seen {
            at_ms: at_minutes * MINUTE_MS,
            is_page_view: true,
            page_view_id: format!("{page} {at_minutes}"),
            page: page.into(),
            ..Seen::default()
        }
    }

    fn named(at_minutes: i64, is_interactive: bool) -> Seen {
        Seen { at_ms: at_minutes * MINUTE_MS, is_interactive, ..Seen::default() }
    }

    fn only(seen: &[Seen]) -> Session {
        let (mut sessions, _) = sessions(seen);
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        sessions.remove(0)
    }

    #[test]
    fn a_page_view_counts_once_where_it_was_first_reported() {
        let shown = view(14, "/a");
        let left = Seen { at_ms: 17 * MINUTE_MS, duration_ms: 3 * MINUTE_MS, ..shown.clone() };
        let session = only(&[left, named(16, true), shown, view(20, "/b"), named(21, false)]);
        assert_eq!((session.page_views, session.interactions, session.events), (2, 1, 5));
        assert_eq!((&*session.entry.1, &*session.exit_page), ("/a", "/b"));
        assert_eq!(session.viewed, BTreeMap::from([(0, 1), (15 * MINUTE_MS, 1)]));
        assert_eq!(session.active, BTreeSet::from([0, 15 * MINUTE_MS]));
        assert_eq!((session.start_ms, session.last_ms), (14 * MINUTE_MS, 21 * MINUTE_MS));
    }

    #[test]
    fn sequence_then_time_then_address_tell_the_first_page() {
        let at = |minutes, page: &str, sequence| Seen { sequence, ..view(minutes, page) };
        let session = only(&[at(0, "/b", None), at(0, "/a", None), at(0, "/c", None)]);
        assert_eq!((&*session.entry.1, &*session.exit_page), ("/a", "/c"));
        let session = only(&[at(0, "/a", Some(2)), at(1, "/b", Some(1)), at(2, "/c", None)]);
        assert_eq!((&*session.entry.1, &*session.exit_page), ("/b", "/c"));
    }

    #[test]
    fn dimensions_are_the_first_page_views_else_the_first_that_has_them() {
        let from = |host: &str| Source { referrer_host: host.into(), ..Source::default() };
        let in_place =
            |country: &str| Device { place: [country.into(), "".into(), "".into()], ..Device::default() };
        let early = Seen { source: from("early"), device: in_place("DE"), ..named(0, true) };
        let page = Seen { source: from("page"), ..view(1, "/") };
        let later = Seen { source: from("later"), device: in_place("FR"), ..view(2, "/b") };
        let session = only(&[later, page, early.clone()]);
        assert_eq!((&*session.source.referrer_host, &*session.device.place[0]), ("page", "DE"));
        let session = only(&[early]);
        assert_eq!(&*session.source.referrer_host, "early");
    }
}
