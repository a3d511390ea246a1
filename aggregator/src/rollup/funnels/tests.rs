use super::*;
use crate::{calendar::Calendar, funnel::StepDefinition};
use jiff::civil::date;
use proptest::prelude::*;

const A: u32 = 1;
const B: u32 = 2;
const C: u32 = 4;

#[test]
fn sequential_takes_the_first_that_matches_and_lets_others_between() {
    let events = [(0, A), (5, C), (10, B), (20, A), (30, B | C)];
    assert_eq!(walk(OrderMode::Sequential, 3, 100, &events, 0), [0, 10, 30]);
    // The window is inclusive.
    assert_eq!(walk(OrderMode::Sequential, 3, 30, &events, 0), [0, 10, 30]);
    assert_eq!(walk(OrderMode::Sequential, 3, 29, &events, 0), [0, 10]);
}

#[test]
fn strict_lets_nothing_between() {
    let events = [(0, A), (10, B), (15, 0), (20, C)];
    assert_eq!(walk(OrderMode::Strict, 3, 100, &events, 0), [0, 10]);
    let events = [(0, A), (10, B), (20, C), (30, 0)];
    assert_eq!(walk(OrderMode::Strict, 3, 100, &events, 0), [0, 10, 20]);
}

#[test]
fn two_steps_never_share_an_event() {
    assert_eq!(walk(OrderMode::Sequential, 2, 100, &[(0, A | B)], 0), [0]);
    assert_eq!(walk(OrderMode::Any, 2, 100, &[(0, A | B)], 0), [0]);
    assert_eq!(walk(OrderMode::Any, 2, 100, &[(0, A | B), (1, A | B)], 0), [0, 1]);
}

#[test]
fn any_moves_events_to_where_they_are_needed() {
    // The first event would take step 1; the second can only be step 1.
    assert_eq!(walk(OrderMode::Any, 2, 100, &[(0, A | B), (1, A)], 0), [0, 1]);
    assert_eq!(walk(OrderMode::Any, 3, 100, &[(0, C), (1, C), (2, A)], 0), [0, 2]);
}

#[test]
fn each_day_has_one_entry_a_visitor() {
    let grid = Calendar::new("UTC").unwrap().grid(Period::Day, date(1970, 1, 1), date(1970, 1, 2));
    let day = 86_400_000;
    let definition = definition(OrderMode::Sequential, 2, 2 * 86_400);
    let mut tallies = BTreeMap::new();
    let events = [(0, A), (1000, A), (day, A), (day + 1500, B), (2 * day, A)];
    tally(&definition, &grid, &events, &mut tallies);
    let first = &tallies[&date(1970, 1, 1)].steps;
    assert_eq!((first[0].entered, first[0].completed, first[0].wait_ms), (1, 1, i128::from(day) + 1500));
    assert_eq!(tallies[&date(1970, 1, 2)].last_entry_ms, day);
    let second = &tallies[&date(1970, 1, 2)].steps;
    assert_eq!((second[0].entered, second[0].wait_ms), (1, 1500));
    assert_eq!((second[1].entered, second[1].completed), (1, 1));
    assert_eq!(tallies.len(), 2);
}

fn definition(order_mode: OrderMode, steps: usize, window_seconds: i64) -> Definition {
    let step = |index: usize| StepDefinition { name: index.to_string(), ..StepDefinition::default() };
    Definition { name: "f".into(), order_mode, window_seconds, steps: (0..steps).map(step).collect() }
}

/// Sequential and strict, told as they are defined: step by step, each time the earliest (strict: the next) event.
fn told(strict: bool, steps: usize, window: i64, events: &[Step], entry: usize) -> Vec<i64> {
    let mut at = entry;
    let mut times = vec![events[entry].0];
    'steps: for step in 1..steps {
        let candidates = if strict { at + 1..events.len().min(at + 2) } else { at + 1..events.len() };
        for candidate in candidates {
            let (time, mask) = events[candidate];
            if time - events[entry].0 <= window && mask & (1 << step) != 0 {
                times.push(time);
                at = candidate;
                continue 'steps;
            }
        }
        break;
    }
    times
}

/// How many steps the events can fill, by trying every assignment.
fn best(steps: usize, masks: &[u32], used: u32) -> usize {
    let Some((mask, rest)) = masks.split_first() else { return 0 };
    let mut most = best(steps, rest, used);
    for step in 0..steps {
        if mask >> step & 1 == 1 && used >> step & 1 == 0 {
            most = most.max(1 + best(steps, rest, used | 1 << step));
        }
    }
    most
}

proptest! {
    #[test]
    fn ordered_walks_are_as_told(
        steps in 2_usize..5,
        window in 0_i64..40,
        events in proptest::collection::vec((0_i64..8, 0_u32..32), 1..14),
        strict in any::<bool>(),
    ) {
        let events = in_order(events);
        let mode = if strict { OrderMode::Strict } else { OrderMode::Sequential };
        prop_assert_eq!(walk(mode, steps, window, &events, 0), told(strict, steps, window, &events, 0));
    }

    #[test]
    fn any_fills_as_many_steps_as_can_be(
        steps in 2_usize..5,
        window in 0_i64..40,
        events in proptest::collection::vec((0_i64..8, 1_u32..16), 1..9),
    ) {
        let events: Vec<Step> =
            in_order(events).into_iter().map(|(at, mask)| (at, mask & ((1 << steps) - 1))).collect();
        prop_assume!(events[0].1 != 0);
        let mut expected = Vec::new();
        for until in 1..=events.len() {
            let (at, _) = events[until - 1];
            if at - events[0].0 > window {
                break;
            }
            let masks: Vec<u32> = events[..until].iter().map(|(_, mask)| *mask).collect();
            if best(steps, &masks, 0) > expected.len() {
                expected.push(at);
            }
        }
        prop_assert_eq!(walk(OrderMode::Any, steps, window, &events, 0), expected);
    }
}

/// Gaps become times.
fn in_order(mut events: Vec<Step>) -> Vec<Step> {
    let mut at = 0;
    for (time, _) in &mut events {
        at += *time;
        *time = at;
    }
    events
}
