use std::collections::HashMap;

use proptest::{prelude::*, sample::Index};

use super::*;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

fn at(at_ms: i64, session_id: &'static str) -> Event<'static> {
    Event { at_ms, session_id, page_view_id: "", duration_ms: 0 }
}

fn view(at_ms: i64, page_view_id: &'static str) -> Event<'static> {
    Event { page_view_id, ..at(at_ms, "") }
}

/// Name, start and last activity of each session.
fn spans(events: &[Event<'_>]) -> Vec<(String, i64, i64)> {
    let cut = cut(events);
    cut.sessions.into_iter().map(|span| (span.session_id, span.start_ms, span.last_ms)).collect()
}

#[test]
fn a_gap_of_half_an_hour_ends_a_session() {
    let apart = |gap| spans(&[at(0, ""), at(gap, "")]).len();
    assert_eq!((apart(GAP_MS - 1), apart(GAP_MS)), (1, 2));
    assert_eq!(spans(&[at(0, "s"), at(20 * HOUR_MS, "s")]), [("s".into(), 0, 20 * HOUR_MS)]);
}

#[test]
fn a_session_lasts_for_a_day() {
    let apart = |gap| spans(&[at(0, "s"), at(gap, "s")]).len();
    assert_eq!((apart(LENGTH_MAX_MS), apart(LENGTH_MAX_MS + 1)), (1, 2));
    let screen: Vec<_> = (0..100).map(|turn| at(turn * 25 * MINUTE_MS, "")).collect();
    let starts: Vec<_> = spans(&screen).into_iter().map(|(_, start, _)| start).collect();
    assert_eq!(starts, [0, 58 * 25 * MINUTE_MS]);
}

#[test]
fn who_names_no_session_joins_the_one_under_way() {
    let events = [
        at(0, "a"),
        at(MINUTE_MS, "b"),
        at(2 * MINUTE_MS, ""),
        at(3 * MINUTE_MS, "a"),
        at(33 * MINUTE_MS, ""),
    ];
    let cut = cut(&events);
    assert_eq!(cut.places, [0, 1, 1, 0, 2]);
    // Of one instant, who names one comes first.
    assert_eq!(spans(&[at(0, ""), at(0, "a")]), [("a".into(), 0, 0)]);
}

#[test]
fn reports_of_a_page_view_stay_where_it_began() {
    // With a name only later: the whole page view has it, and what follows is of the same session.
    let events = [view(0, "p"), Event { page_view_id: "p", ..at(MINUTE_MS, "s") }, at(2 * MINUTE_MS, "s")];
    assert_eq!(spans(&events), [("s".into(), 0, 2 * MINUTE_MS)]);
    // However late, a report prolongs, to a day, and begins nothing.
    assert_eq!(spans(&[view(0, "p"), view(5 * HOUR_MS, "p")]), [(String::new(), 0, 5 * HOUR_MS)]);
    let late = [view(0, "p"), view(50 * HOUR_MS, "p"), at(50 * HOUR_MS, "")];
    assert_eq!(
        spans(&late),
        [(String::new(), 0, LENGTH_MAX_MS), (String::new(), 50 * HOUR_MS, 50 * HOUR_MS)]
    );
    // Time that a page was seen is activity.
    let seen = [Event { duration_ms: 20 * MINUTE_MS, ..view(0, "p") }, at(45 * MINUTE_MS, "")];
    assert_eq!(spans(&seen).len(), 1);
}

#[derive(Clone, Debug)]
struct Drawn {
    minutes: i64,
    session: usize,
    page_view: usize,
    duration_minutes: i64,
}

const NAMES: [&str; 4] = ["", "", "a", "b"];
const VIEWS: [&str; 8] = ["", "", "", "p", "q", "r", "s", "t"];

impl Drawn {
    fn event(&self) -> Event<'static> {
        Event {
            at_ms: self.minutes * MINUTE_MS,
            session_id: NAMES[self.session],
            page_view_id: VIEWS[self.page_view],
            duration_ms: if self.page_view > 2 { self.duration_minutes * MINUTE_MS } else { 0 },
        }
    }
}

/// Times that lie near each other's gaps, over a week.
fn drawn() -> impl Strategy<Value = Drawn> {
    let minutes = (0_i64..7 * 6, 0_i64..9).prop_map(|(slot, part)| slot * 240 + part * 15);
    (minutes, 0..NAMES.len(), 0..VIEWS.len(), prop_oneof![Just(0), 1_i64..90]).prop_map(
        |(minutes, session, page_view, duration_minutes)| Drawn {
            minutes,
            session,
            page_view,
            duration_minutes,
        },
    )
}

fn events(drawn: &[Drawn]) -> Vec<Event<'static>> {
    drawn.iter().map(Drawn::event).collect()
}

fn first_reports(events: &[Event<'static>]) -> HashMap<&'static str, i64> {
    let mut first = HashMap::new();
    for event in events.iter().filter(|event| !event.page_view_id.is_empty()) {
        let at = first.entry(event.page_view_id).or_insert(event.at_ms);
        *at = event.at_ms.min(*at);
    }
    first
}

/// What the cut of `new` is, made of that of `old` and of the events that the difference affects.
fn cut_again(
    old: &[Event<'static>],
    new: &[Event<'static>],
    changed: &[Event<'static>],
) -> (Vec<Span>, Range<i64>) {
    let before = cut(old).sessions;
    let touched_views: Vec<&str> =
        changed.iter().map(|event| event.page_view_id).filter(|id| !id.is_empty()).collect();
    let of_touched = |event: &&Event<'static>| touched_views.contains(&event.page_view_id);
    let related: Vec<Event<'static>> =
        old.iter().chain(new).filter(of_touched).chain(changed).copied().collect();
    let firsts = [first_reports(old), first_reports(new)];
    let mut touched: Vec<i64> = changed.iter().map(|event| event.at_ms).collect();
    touched
        .extend(touched_views.iter().flat_map(|id| firsts.iter().filter_map(|first| first.get(id).copied())));
    let names: Vec<&str> =
        related.iter().map(|event| event.session_id).filter(|name| !name.is_empty()).collect();
    let range = affected(&before, &touched, &names).unwrap();
    let began = |event: &&Event<'static>| {
        let began = firsts[1].get(event.page_view_id).copied();
        range.contains(&began.unwrap_or(event.at_ms))
    };
    let within: Vec<Event<'static>> = new.iter().filter(began).copied().collect();
    let mut sessions: Vec<Span> = before.into_iter().filter(|span| !range.contains(&span.start_ms)).collect();
    sessions.extend(cut(&within).sessions);
    sessions.sort_by(|one, other| (one.start_ms, &one.session_id).cmp(&(other.start_ms, &other.session_id)));
    (sessions, range)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_arrival_changes_it(
        drawn in proptest::collection::vec(drawn(), 1..40),
        swaps in proptest::collection::vec((any::<Index>(), any::<Index>()), 20),
    ) {
        let events = events(&drawn);
        let mut others = events.clone();
        for (one, other) in swaps {
            let (one, other) = (one.index(others.len()), other.index(others.len()));
            others.swap(one, other);
        }
        prop_assert_eq!(spans(&events), spans(&others));
    }

    #[test]
    fn every_event_has_a_session_that_may_hold_it(drawn in proptest::collection::vec(drawn(), 1..40)) {
        let events = events(&drawn);
        let cut = cut(&events);
        let firsts = first_reports(&events);
        for (event, place) in events.iter().zip(&cut.places) {
            let span = &cut.sessions[*place];
            let began = firsts.get(event.page_view_id).copied().unwrap_or(event.at_ms);
            prop_assert!(span.start_ms <= began && began <= span.end_max_ms());
            prop_assert!(span.last_ms >= began && span.last_ms <= span.end_max_ms());
            if !event.session_id.is_empty() && event.page_view_id.is_empty() {
                prop_assert_eq!(&span.session_id, event.session_id);
            }
        }
    }

    /// What the entities stand on: the events of the affected range alone give the sessions that all events give.
    #[test]
    fn what_arrives_changes_no_session_outside_of_its_range(
        old in proptest::collection::vec(drawn(), 0..40),
        arrived in proptest::collection::vec(drawn(), 1..4),
    ) {
        let (old, arrived) = (events(&old), events(&arrived));
        let new: Vec<_> = old.iter().chain(&arrived).copied().collect();
        let (again, range) = cut_again(&old, &new, &arrived);
        prop_assert_eq!(cut(&new).sessions, again, "{:?}", range);
        // Erasure is the same with its sign turned.
        let (back, range) = cut_again(&new, &old, &arrived);
        prop_assert_eq!(cut(&old).sessions, back, "{:?}", range);
    }
}
