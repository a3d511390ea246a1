//! The generator against its own promises.

use std::collections::{BTreeMap, BTreeSet};

use millrace_recount::{Store, Table, recount};

use super::*;

const NOW: &str = "2026-11-20T13:00:00Z";

fn scenario(events: usize) -> Scenario {
    let zone = TimeZone::get("America/New_York").unwrap();
    Scenario { events, ..Scenario::over_clock_change(NOW.parse().unwrap(), 14, zone).unwrap() }
}

fn keys() -> Keys {
    Keys { write: "w".into(), secret: "s".into() }
}

fn bodies(traffic: &Traffic) -> Vec<Vec<u8>> {
    let now = NOW.parse().unwrap();
    traffic.requests.iter().map(|request| request.body(&keys(), now).unwrap()).collect()
}

fn store(scenario: &Scenario, traffic: &Traffic) -> Store {
    Store {
        store_id: "s".into(),
        time_zone: scenario.time_zone.clone(),
        currency: scenario.currency.clone(),
        prices_include_tax: false,
        rates: example_rates(scenario),
        funnels: traffic.funnels.clone(),
    }
}

fn tables(scenario: &Scenario, traffic: &Traffic) -> BTreeMap<&'static str, Table> {
    let now = scenario.now.as_millisecond();
    let tables = recount(&traffic.ledger, &store(scenario, traffic), (now, now + 60_000)).unwrap();
    tables.into_iter().map(|table| (table.name, table)).collect()
}

#[test]
fn the_same_seed_gives_the_same_traffic() {
    let one = scenario(3_000).generate().unwrap();
    let two = scenario(3_000).generate().unwrap();
    assert_eq!(bodies(&one), bodies(&two));
    let other = Scenario { seed: 2, ..scenario(3_000) }.generate().unwrap();
    assert_ne!(bodies(&one), bodies(&other));
}

#[test]
fn it_sends_as_many_events_as_it_was_asked_for() {
    let traffic = scenario(6_000).generate().unwrap();
    assert_eq!(traffic.ledger.len(), 6_000);
    let ids: BTreeSet<_> = traffic.ledger.iter().map(|sent| sent.json["event_id"].to_string()).collect();
    assert_eq!(ids.len(), 5_995, "five are sent in other words by others");

    let accepted: usize = traffic.requests.iter().map(|request| request.expected.accepted).sum();
    let rejected: usize = traffic.requests.iter().map(|request| request.expected.rejected.len()).sum();
    assert!((6_240..6_360).contains(&accepted), "a twentieth is sent twice: {accepted}");
    assert_eq!(rejected, 60);
    assert!(traffic.requests.iter().all(|request| request.events() <= 500));
    let alone = traffic.requests.iter().filter(|request| request.events() == 1).count();
    assert!(alone > 500 && alone < traffic.requests.len(), "{alone} of {}", traffic.requests.len());
}

#[test]
fn bodies_are_what_they_are_sent_as() {
    let traffic = Scenario { dirty: 0.0, ..scenario(3_000) }.generate().unwrap();
    let mut sent = BTreeSet::new();
    for request in &traffic.requests {
        let body = request.body(&keys(), NOW.parse().unwrap()).unwrap();
        if request.encoding.is_some() || request.expected.status != 202 {
            continue;
        }
        let text = String::from_utf8(body).unwrap();
        if request.content_type == "application/x-ndjson" {
            sent.extend(
                text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(|event| id_of(&event)),
            );
            continue;
        }
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let events = match json {
            serde_json::Value::Array(events) => events,
            serde_json::Value::Object(ref fields) if fields.contains_key("events") => {
                fields["events"].as_array().unwrap().clone()
            }
            single => vec![single],
        };
        sent.extend(events.iter().map(id_of));
    }
    assert!(sent.len() > 1_500, "{}", sent.len());
}

#[test]
fn a_tenth_is_written_carelessly() {
    let sent = |dirty| {
        let traffic = Scenario { dirty, ..scenario(3_000) }.generate().unwrap();
        let plain = traffic.requests.iter().filter(|request| request.encoding.is_none());
        let bodies = plain.map(|request| request.body(&keys(), NOW.parse().unwrap()).unwrap());
        String::from_utf8(bodies.collect::<Vec<_>>().concat()).unwrap()
    };
    let (clean, dirty) = (sent(0.0), sent(0.1));
    let found = |mark: &str| (clean.matches(mark).count(), dirty.matches(mark).count());
    for mark in
        [r"\ud83d", "NaN", ":1e400", r"\u0000", "+0000", "\"usd\"", "null", r#""items":"["#, r#""items":{"#]
    {
        let (in_clean, in_dirty) = found(mark);
        assert!(in_clean == 0 && in_dirty > 0, "{mark}: {in_clean}, {in_dirty}");
    }
}

fn id_of(event: &serde_json::Value) -> String {
    event["event_id"].as_str().unwrap_or_default().into()
}

/// The traffic is only worth something if every number of every rollup is something else than nothing.
#[test]
fn the_scenario_reaches_every_column() {
    let scenario = scenario(20_000);
    let traffic = scenario.generate().unwrap();
    let tables = tables(&scenario, &traffic);
    for table in tables.values() {
        assert!(table.rows.len() > 10, "{} has {} rows", table.name, table.rows.len());
        let columns: BTreeSet<_> = table.rows.values().flat_map(|row| row.keys()).collect();
        for column in columns {
            let values: BTreeSet<_> = table.rows.values().map(|row| row[column].to_string()).collect();
            let is_told = values.len() > 1 || *column == "currency";
            assert!(is_told, "{}.{column} is always {values:?}", table.name);
        }
    }
    let summary = &tables["analytics_summary"];
    let days: BTreeSet<_> = summary.rows.keys().filter(|key| key[0] == "day").map(|key| &key[1]).collect();
    assert!(days.iter().any(|day| *day == "2026-11-01") && days.len() >= 14, "{days:?}");
    let currencies: BTreeSet<_> = tables["revenue_analytics"].rows.keys().map(|key| key[1].clone()).collect();
    assert_eq!(currencies, BTreeSet::from(["EUR".into(), "JPY".into(), "USD".into()]));
    for funnel in &traffic.funnels {
        let rows: Vec<_> = tables["funnel_analytics"]
            .rows
            .values()
            .filter(|row| row["funnel_name"] == funnel.name.as_str().into())
            .collect();
        let last = funnel.steps.len();
        let through = rows
            .iter()
            .filter(|row| row["step_order"] == last.into() && row["users_entered"] != 0_i64.into());
        assert!(through.count() > 0, "nobody comes through {}", funnel.name);
    }
}

#[test]
fn traffic_up_to_now_has_no_future() {
    let zone = TimeZone::get("Australia/Lord_Howe").unwrap();
    let now = "2026-11-20T20:00:00Z".parse().unwrap();
    let scenario = Scenario { events: 2_000, seed: 7, ..Scenario::until(now, 3, zone) };
    let traffic = scenario.generate().unwrap();
    let newest = tables(&scenario, &traffic)["analytics_summary"].rows.keys().map(|key| key[1].clone()).max();
    assert_eq!(newest.as_deref(), Some("2026-11-21"));
}
