//! Funnels in three orders, and filters.

use super::*;

fn steps(names: &[&str]) -> Vec<Step> {
    let step = |(index, name): (usize, &&str)| Step {
        name: format!("{index}"),
        event: (*name).into(),
        filters: Vec::new(),
    };
    names.iter().enumerate().map(step).collect()
}

fn funnel(order_mode: OrderMode, names: &[&str]) -> Vec<Funnel> {
    vec![Funnel { name: "f".into(), order_mode, window_seconds: 100, steps: steps(names) }]
}

/// Entered, completed, rate and seconds of each step on the first day.
fn run(funnels: Vec<Funnel>, events: &[(f64, Json)]) -> Vec<String> {
    let steps = funnels[0].steps.len();
    let tables = count_with(funnels, events);
    (1..=steps)
        .map(|step| {
            let columns = ["users_entered", "users_completed", "completion_rate", "average_time_to_complete"];
            cells(&tables, "funnel_analytics", &["f", DAY, &step.to_string()], &columns).join(" ")
        })
        .collect()
}

#[test]
fn sequential_funnels() {
    let rows = run(
        funnel(OrderMode::Sequential, &["x", "y", "y"]),
        &[
            // a comes through, with others between; the last step at the very end of the window.
            (0.0, named("a", "y")),
            (1.0, named("a", "x")),
            (2.0, named("a", "x")),
            (3.0, named("a", "z")),
            (4.0, named("a", "y")),
            (101.0, named("a", "y")),
            // b is a millisecond late.
            (0.0, named("b", "x")),
            (100.001, named("b", "y")),
            // c has one y, which is not two.
            (0.0, named("c", "x")),
            (10.0, named("c", "y")),
        ],
    );
    // From 1 to 2: (3 + 10) / 2 s; from 2 to 3: 97 s.
    assert_eq!(rows, ["3 2 66.67 7", "2 1 50.00 97", "1 1 100.00 0"]);
}

#[test]
fn strict_funnels() {
    let rows = run(
        funnel(OrderMode::Strict, &["x", "y", "page_view"]),
        &[
            (0.0, named("a", "x")),
            (2.0, named("a", "y")),
            (5.0, view("a")),
            (0.0, named("b", "x")),
            (1.0, named("b", "z")),
            (2.0, named("b", "y")),
            // Only the first x of the day enters.
            (0.0, named("c", "x")),
            (1.0, named("c", "x")),
            (2.0, named("c", "y")),
        ],
    );
    assert_eq!(rows, ["3 1 33.33 2", "1 1 100.00 3", "1 1 100.00 0"]);
}

#[test]
fn funnels_in_any_order() {
    let rows = run(
        funnel(OrderMode::Any, &["x", "y", "x"]),
        &[
            (0.0, named("a", "y")),
            (1.0, named("a", "y")),
            (3.0, named("a", "x")),
            (9.0, named("a", "x")),
            (5.0, named("b", "x")),
            (6.0, named("b", "z")),
            (105.0, named("b", "x")),
            (105.001, named("b", "y")),
        ],
    );
    // a: 0, 3, 9; b: 5, 105, and y comes too late.
    assert_eq!(rows, ["2 2 100.00 52", "2 1 50.00 6", "1 1 100.00 0"]);
}

#[test]
fn in_any_order_an_event_gives_way_to_another() {
    let mut funnels = funnel(OrderMode::Any, &["x", "x"]);
    funnels[0].steps[1].filters =
        vec![Filter { field: "properties.n".into(), operator: Operator::Equals, value: "1".into() }];
    // The first x could fill both steps and takes the first; the second can fill that one only.
    let rows = run(
        funnels,
        &[
            (0.0, with(named("a", "x"), json!({ "properties": { "n": 1 } }))),
            (4.0, with(named("a", "x"), json!({ "properties": { "n": 2 } }))),
        ],
    );
    assert_eq!(rows, ["1 1 100.00 4", "1 1 100.00 0"]);
}

#[test]
fn filters() {
    let holds = |operator, value: &str, event: Json| {
        let mut funnels = funnel(OrderMode::Sequential, &["x", "y"]);
        funnels[0].steps[0].filters = vec![Filter { field: "label".into(), operator, value: value.into() }];
        !count_with(funnels, &[(0.0, with(named("a", "x"), event))])["funnel_analytics"].rows.is_empty()
    };
    let label = |label: &str| json!({ "label": label });
    assert!(holds(Operator::Equals, "ab", label("ab")) && !holds(Operator::Equals, "ab", label("abc")));
    assert!(holds(Operator::NotEquals, "ab", label("abc")) && !holds(Operator::NotEquals, "ab", label("ab")));
    assert!(holds(Operator::Contains, "b", label("abc")) && !holds(Operator::Contains, "d", label("abc")));
    assert!(
        holds(Operator::StartsWith, "a", label("abc")) && !holds(Operator::StartsWith, "b", label("abc"))
    );
    assert!(holds(Operator::NotEquals, "ab", json!({})) && !holds(Operator::Contains, "", json!({})));
}

#[test]
fn a_window_that_has_not_passed_is_open() {
    let funnels = funnel(OrderMode::Sequential, &["x", "y"]);
    let is_open = |from: f64, until: f64| {
        let store = store(funnels.clone());
        let tables = recount(&sent(&[(7.0, named("a", "x"))]), &store, (ms(from), ms(until))).unwrap();
        let table = tables.iter().find(|table| table.name == "funnel_analytics").unwrap();
        table.rows.values().next().unwrap()["is_open"].to_string()
    };
    assert_eq!(is_open(50.0, 107.0), "true");
    assert_eq!(is_open(107.001, 200.0), "false");
    assert_eq!(is_open(50.0, 200.0), "true or false");
}
