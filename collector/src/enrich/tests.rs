//! What the steps together make of an event.

use std::sync::LazyLock;

use millrace_schemas::limits::Limits;
use serde_json::{Value, json};

use super::Enricher;
use crate::{
    chain::collect_body,
    config::EnrichConfig,
    decode::{Form, Scratch},
    salts::{Salts, UTC},
    validate::Request,
};

const PERSON: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

static SALTS: LazyLock<Salts> = LazyLock::new(|| Salts::same([7; 32], 1_793_511_000_123));

static ENRICHER: LazyLock<Enricher> = LazyLock::new(|| Enricher::new(&EnrichConfig::default()).unwrap());

fn rows_by(enricher: &Enricher, user_agent: &str, trusted: bool, events: &Value) -> Vec<Value> {
    let request = Request {
        store_id: "demo",
        currency: "USD",
        event_age_max_days: 30,
        trusted,
        received_at: 1_793_511_000_123,
        user_agent,
        address: Some([192, 0, 2, 7].into()),
        salts: &SALTS,
        timezone: &UTC,
        id_seed: 7,
        limits: Limits::default(),
    };
    let body = events.to_string();
    let outcome =
        collect_body(body.as_bytes(), Form::Json, &request, enricher, &mut Scratch::default()).unwrap();
    assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
    let lines = outcome.messages.iter().flat_map(|message| message.value.split(|byte| *byte == b'\n'));
    lines.filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn row(user_agent: &str, trusted: bool, event: &Value) -> Value {
    rows_by(&ENRICHER, user_agent, trusted, event).remove(0)
}

/// Reason, kind and name; empty for a person.
fn verdict(row: &Value) -> [&str; 3] {
    let verdict = ["bot_reason", "bot_kind", "bot_name"].map(|name| row[name].as_str().unwrap_or_default());
    assert_eq!(row["is_bot"] == 1, !verdict[0].is_empty(), "{row}");
    verdict
}

fn view() -> Value {
    json!({ "type": "page_view", "visitor_id": "v", "url": "https://shop.example/" })
}

fn order() -> Value {
    json!({ "type": "event", "name": "purchase", "visitor_id": "v", "order_id": "1", "value": 70, "url": "https://shop.example/thanks" })
}

#[test]
fn a_bot_has_a_reason_a_kind_and_a_name() {
    let googlebot = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    for event in [view(), order()] {
        assert_eq!(verdict(&row(googlebot, false, &event)), ["user_agent", "search", "Googlebot"]);
    }
    assert_eq!(verdict(&row(PERSON, false, &view())), [""; 3]);
    let mut driven = view();
    driven["webdriver"] = true.into();
    assert_eq!(verdict(&row(PERSON, false, &driven)), ["headless", "other", ""]);
}

#[test]
fn a_library_takes_page_views_out_and_no_order() {
    for library in ["curl/8.5.0", "python-requests/2.31.0", "axios/1.6.8", "node", "Go-http-client/1.1"] {
        assert_eq!(verdict(&row(library, false, &view()))[..2], ["user_agent", "library"], "{library}");
        let order = row(library, false, &order());
        assert_eq!(verdict(&order), [""; 3], "{library}");
        assert_eq!(order.get("device"), None, "{library}");
    }
    for app in ["okhttp/4.12.0", "Shop/12 CFNetwork/1399 Darwin/22.1.0", "Dart/3.2 (dart:io)", ""] {
        for event in [view(), order()] {
            assert_eq!(verdict(&row(app, false, &event)), [""; 3], "{app}");
        }
    }
}

#[test]
fn a_device_that_is_a_bots_and_a_bot_are_one() {
    let agents = include_str!("data/tests/crawlers_unseen.txt").lines();
    for user_agent in agents.chain(include_str!("data/tests/browsers.txt").lines()).step_by(7) {
        let row = row(user_agent, false, &view());
        assert!(row["device"] != "bot" || row["is_bot"] == 1, "{user_agent}: {row}");
    }
}

#[test]
fn haste_takes_no_order_out() {
    let hasty = EnrichConfig { bot_events_per_minute: 2, ..EnrichConfig::default() };
    let reasons = |trusted, events: &Value| -> Vec<String> {
        let rows = rows_by(&Enricher::new(&hasty).unwrap(), PERSON, trusted, events);
        rows.iter().map(|row| verdict(row)[0].to_owned()).collect()
    };
    let named = |name: &str| {
        let mut event = order();
        event["name"] = name.into();
        event
    };
    let events = json!([view(), view(), view(), named("purchase"), named("refund"), named("other")]);
    assert_eq!(reasons(false, &events), ["", "", "rate", "", "", "rate"]);
    // A server that speaks for its visitor is judged like a browser; of itself it says nothing.
    let mut told = view();
    told["user_agent"] = PERSON.into();
    assert_eq!(reasons(true, &json!([told, told, told, view()])), ["", "", "rate", ""]);
}

#[test]
fn a_servers_page_view_is_judged_by_the_visitor_it_names() {
    let mut passed_on = view();
    passed_on["user_agent"] = "Mozilla/5.0 (compatible; bingbot/2.0)".into();
    assert_eq!(verdict(&row("node", true, &passed_on))[2], "bingbot");
    assert_eq!(verdict(&row("Googlebot/2.1", true, &view())), [""; 3]);
    let mut told = order();
    told["user_agent"] = "Mozilla/5.0 (compatible; bingbot/2.0)".into();
    assert_eq!(verdict(&row("node", true, &told)), [""; 3]);
}

#[test]
fn referrer_spam_is_a_bot() {
    let mut spam = view();
    spam["referrer"] = "http://1.semalt.com/crawler.php?u=shop.example".into();
    assert_eq!(verdict(&row(PERSON, false, &spam)), ["referrer_spam", "spam", "1.semalt.com"]);
    let mut friend = view();
    friend["referrer"] = "https://blog.example/".into();
    assert_eq!(verdict(&row(PERSON, false, &friend)), [""; 3]);
}

#[test]
fn an_event_without_referrer_has_no_channel() {
    assert_eq!(row(PERSON, false, &view())["channel"], "Direct");
    assert_eq!(row(PERSON, false, &order()).get("channel"), None);
}

#[test]
fn nobody_pays_on_the_way_from_elsewhere() {
    for referrer in
        ["https://www.paypal.com/", "https://checkout.stripe.com/c/pay", "https://pay.klarna.com/"]
    {
        let mut back = view();
        back["referrer"] = referrer.into();
        let row = row(PERSON, false, &back);
        assert_eq!((row.get("channel"), row.get("referrer_host")), (None, None), "{referrer}");
    }
}

#[test]
fn campaigns_beside_the_address_count() {
    let mut told = view();
    told["properties"] =
        json!({ "utm_source": "newsletter", "utm_medium": "Email", "utm_campaign": "Autumn" });
    for trusted in [false, true] {
        let row = row(PERSON, trusted, &told);
        assert_eq!(
            [&row["channel"], &row["utm_source"], &row["utm_medium"], &row["utm_campaign"]],
            ["Email", "newsletter", "Email", "Autumn"]
        );
    }
}
