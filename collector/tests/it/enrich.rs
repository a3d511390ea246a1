//! What is learned of events on their way, through the real listener into the real spool.

use std::{path::Path, sync::LazyLock};

use millrace_collector::{
    EnrichConfig, Step,
    chain::collect_body,
    decode::{Form, Scratch},
    enrich::Enricher,
    salts::{Salts, UTC},
    validate::Request,
};
use millrace_schemas::{
    limits::Limits,
    spool::{CONSUMER_FILE, Position},
    topic,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::service::{SECRET_KEY, Service, WRITE_KEY, eventually};

const DATABASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/GeoIP2-City-Test.mmdb");
const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                      Version/17.0 Mobile/15E148 Safari/604.1";
/// In the test database: London.
const LONDON: &str = "81.2.69.142";

/// A collector behind a proxy, so that a test can come from anywhere.
async fn behind_proxy(change: impl FnOnce(&mut EnrichConfig)) -> Service {
    Service::with(|config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        config.enrich.geo_database = Some(DATABASE.into());
        change(&mut config.enrich);
    })
    .await
}

async fn send(service: &Service, key: &str, address: &str, user_agent: &str, body: &Value) {
    let request = service.request(key).header("x-forwarded-for", address).header("user-agent", user_agent);
    let answer = service.send(request.body(body.to_string())).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// Checks fields of a row; null: the field is left out.
fn check(row: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row.get(name).unwrap_or(&Value::Null), value, "{name} of {row}");
    }
}

#[tokio::test]
async fn a_browser_tells_where_it_is_and_what_led_it_here() {
    let service = behind_proxy(|enrich| enrich.keep_network = true).await;
    let page = json!([
        {
            "type": "page_view", "visitor_id": "v",
            "url": "https://jo:pw@shop.example/u/jo@mail.example?utm_source=news&utm_medium=email&token=1&gclid=G#top",
            "referrer": "https://www.google.com/search?q=shoes&sid=2",
            "properties": { "link_url": "https://other.example/?secret=1", "note": "a?secret=1" },
        },
        { "type": "click", "visitor_id": "v", "url": "https://shop.example/?sid=3", "x": 1, "y": 2 },
    ]);
    send(&service, WRITE_KEY, LONDON, IPHONE, &page).await;
    let [event] = service.events().try_into().unwrap();
    check(
        &event,
        &json!({
            "url": "https://shop.example/u/:email?utm_source=news&utm_medium=email&gclid=G",
            "referrer": "https://www.google.com/search?q=shoes",
            "properties": { "link_url": "https://other.example/", "note": "a?secret=1" },
            "browser": "Mobile Safari", "browser_version": "17", "os": "iOS", "os_version": "17.0", "device": "mobile",
            "country": "GB", "region": "GB-ENG", "city": "London", "ip": "81.2.69.0", "user_agent": IPHONE,
            "utm_source": "news", "utm_medium": "email", "utm_campaign": null, "click_id_kind": "gclid",
            "click_id": "G", "referrer_host": "google.com", "channel": "Email", "is_bot": null,
        }),
    );
    let [click] = service.clicks().try_into().unwrap();
    check(
        &click,
        &json!({
            "url": "https://shop.example/", "browser": "Mobile Safari", "device": "mobile", "country": "GB",
            "is_bot": null,
        }),
    );
}

#[tokio::test]
async fn the_address_is_nowhere() {
    let service = behind_proxy(|_| {}).await;
    send(&service, WRITE_KEY, LONDON, IPHONE, &json!({ "type": "event", "name": "a" })).await;
    send(&service, SECRET_KEY, LONDON, "", &json!({ "type": "event", "name": "a", "ip": "81.2.69.144" }))
        .await;
    let url = service.url.clone();
    let dir = service.stop().await;
    assert!(!url.contains("81.2"));
    let mut files = vec![dir.path().to_owned()];
    let mut looked_at = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(7).any(|part| part == b"81.2.69"), "{}", path.display());
            looked_at += usize::from(bytes.windows(6).any(|part| part == b"London"));
        }
    }
    assert!(looked_at > 0, "the rows themselves were looked at");
}

#[tokio::test]
async fn a_server_speaks_for_its_visitor_and_a_browser_for_nobody_else() {
    let service = behind_proxy(|enrich| enrich.keep_network = true).await;
    let own = json!({ "type": "event", "name": "own" });
    let event = json!({ "type": "event", "name": "for", "ip": LONDON, "user_agent": IPHONE });
    let context = json!({ "context": { "ip": LONDON, "user_agent": "Googlebot/2.1" }, "events": [own] });
    for (key, body) in [(SECRET_KEY, &own), (SECRET_KEY, &event), (SECRET_KEY, &context), (WRITE_KEY, &event)]
    {
        send(&service, key, "2001:218::1", "Somebot/1.0", body).await;
    }
    let events = service.events();
    // A server's own address and program are no visitor's, whatever it calls itself.
    check(
        &events[0],
        &json!({ "country": null, "browser": null, "ip": null, "is_bot": null, "user_agent": "Somebot/1.0" }),
    );
    check(
        &events[1],
        &json!({ "country": "GB", "device": "mobile", "ip": "81.2.69.0", "is_bot": null, "user_agent": IPHONE }),
    );
    // What a server tells of is never a bot's, or an order would go with the program that its buyer used. Only a page view
    // that it passes on is judged.
    check(&events[2], &json!({ "city": "London", "device": "bot", "is_bot": null, "bot_reason": null }));
    let view = json!({ "type": "page_view", "url": "https://shop.example/", "user_agent": "Googlebot/2.1" });
    let order = json!({ "type": "event", "name": "purchase", "order_id": "1", "user_agent": "Googlebot/2.1", "webdriver": true });
    for event in [&view, &order] {
        send(&service, SECRET_KEY, "2001:218::1", "Somebot/1.0", event).await;
    }
    let passed_on = service.events();
    check(&passed_on[4], &json!({ "is_bot": 1, "bot_reason": "user_agent", "for_visitor": 1 }));
    check(&passed_on[5], &json!({ "is_bot": null, "bot_reason": null, "for_visitor": null }));
    check(
        &events[3],
        &json!({ "country": "JP", "ip": "2001:218::", "user_agent": "Somebot/1.0", "bot_reason": "user_agent" }),
    );
    for (field, value) in [("ip", json!("nonsense")), ("ip", json!(1)), ("webdriver", json!("yes"))] {
        let wrong = json!({ "type": "event", "name": "a", field: value });
        let answer = service.send(service.request(SECRET_KEY).body(wrong.to_string())).await;
        assert_eq!(answer.body["repaired"], json!([{ "index": 0, "field": field, "reason": "unreadable" }]));
    }
    let ignored = json!({ "type": "event", "name": "a", "ip": [], "user_agent": 1 });
    assert_eq!(service.post(ignored.to_string()).await.status, 202);
}

#[tokio::test]
async fn bots_are_kept_and_marked_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let networks = dir.path().join("networks");
    std::fs::write(&networks, "203.0.113.0/24 # a cloud\n").unwrap();
    let service = behind_proxy(|enrich| {
        enrich.data_centre_networks = Some(networks);
        enrich.bot_events_per_minute = 3;
    })
    .await;
    let headless = IPHONE.replace("Version", "HeadlessChrome");
    let event = json!({ "type": "event", "name": "a", "visitor_id": "v" });
    let driven = json!({ "type": "event", "name": "a", "webdriver": true });
    let hasty: Vec<Value> = (0..5)
        .map(|number| {
            let second = number * 10;
            json!({ "type": "event", "name": "a", "visitor_id": "w", "timestamp": format!("2026-11-01T00:00:{second:02}Z") })
        })
        .collect();
    // As many, each in a minute of its own: a phone that was away.
    let patient: Vec<Value> = (0..5)
        .map(|minute| json!({ "type": "event", "name": "a", "visitor_id": "x", "timestamp": format!("2026-11-01T00:0{minute}:00Z") }))
        .collect();
    for (key, address, user_agent, body) in [
        (WRITE_KEY, "192.0.2.1", "Googlebot/2.1", &event),
        (WRITE_KEY, "192.0.2.1", &*headless, &event),
        (WRITE_KEY, "192.0.2.1", IPHONE, &driven),
        (WRITE_KEY, "203.0.113.9", IPHONE, &event),
        (SECRET_KEY, "203.0.113.9", "Googlebot/2.1", &event),
        (WRITE_KEY, "192.0.2.1", IPHONE, &event),
        (WRITE_KEY, "192.0.2.1", IPHONE, &Value::from(hasty.clone())),
        (WRITE_KEY, "192.0.2.1", IPHONE, &Value::from(patient)),
        (SECRET_KEY, "192.0.2.1", IPHONE, &Value::from(hasty)),
    ] {
        send(&service, key, address, user_agent, body).await;
    }
    let reasons: Vec<_> = service
        .events()
        .iter()
        .map(|event| {
            let reason = event["bot_reason"].as_str().unwrap_or_default().to_owned();
            assert_eq!(event.get("is_bot").is_some(), !reason.is_empty());
            reason
        })
        .collect();
    let no = String::new();
    let expected =
        [&["user_agent", "headless", "headless", "data_centre", "", ""][..], &["", "", "", "rate", "rate"]];
    assert_eq!(reasons[..11], expected.concat());
    assert!(reasons[11..].iter().all(|reason| *reason == no), "{reasons:?}");
    for (reason, count) in [("user_agent", 1.0), ("headless", 2.0), ("data_centre", 1.0), ("rate", 2.0)] {
        let metric = format!("millrace_collector_bot_events_total{{reason=\"{reason}\"}}");
        assert_eq!(service.metric(&metric), count, "{reason}");
    }
}

#[tokio::test]
async fn what_was_refused_makes_nobody_a_bot() {
    let service = Service::with(|config| {
        config.enrich.bot_events_per_minute = 3;
        config.log.spool_age_max_seconds = 1;
    })
    .await;
    let event = |visitor: &str| {
        let event = json!({ "type": "event", "name": "a", "visitor_id": visitor, "timestamp": "2026-11-01T00:00:00Z" });
        event.to_string()
    };
    assert_eq!(service.post(event("v")).await.status, 202);
    eventually("it is not ready", async || service.get("/readyz").await.status == 503).await;
    for _ in 0..5 {
        assert_eq!(service.post(event("w")).await.error(), (503, "unavailable"));
    }
    let position = Position { next: service.events().len() as u64, pending_next: None };
    let file = service.topic_dir(topic::EVENTS).join(CONSUMER_FILE);
    std::fs::write(file, serde_json::to_vec(&position).unwrap()).unwrap();
    eventually("it is ready", async || service.get("/readyz").await.status == 200).await;
    assert_eq!(service.post(event("w")).await.status, 202);
    let last = service.events().pop().unwrap();
    assert_eq!((&last["visitor_id"], last.get("bot_reason")), (&"w".into(), None));
}

#[tokio::test]
async fn every_step_can_be_left_out() {
    let all = [Step::UserAgent, Step::Geo, Step::Campaign, Step::Visitor, Step::Bot, Step::Url];
    let service = behind_proxy(|enrich| enrich.skip = all.to_vec()).await;
    let url = "https://shop.example/?utm_source=x&sid=1#top";
    send(&service, WRITE_KEY, LONDON, "Googlebot/2.1", &json!({ "type": "page_view", "url": url })).await;
    let row = &service.events()[0];
    check(
        row,
        &json!({ "url": url, "is_bot": null, "browser": null, "country": null, "channel": null, "utm_source": null }),
    );
}

#[tokio::test]
async fn files_that_change_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let networks = dir.path().join("networks");
    std::fs::write(&networks, "").unwrap();
    let service = behind_proxy(|enrich| {
        enrich.data_centre_networks = Some(networks.clone());
        enrich.refresh_seconds = 1;
    })
    .await;
    let event = json!({ "type": "event", "name": "a" });
    send(&service, WRITE_KEY, "192.0.2.1", IPHONE, &event).await;
    assert_eq!(service.events()[0].get("is_bot"), None);
    std::fs::write(&networks, "192.0.2.0/24").unwrap();
    eventually("the new list holds", async || {
        send(&service, WRITE_KEY, "192.0.2.1", IPHONE, &event).await;
        service.events().last().unwrap()["bot_reason"] == "data_centre"
    })
    .await;
}

#[test]
fn files_that_cannot_be_used_stop_the_start() {
    let open = |change: fn(&mut EnrichConfig, &Path)| {
        let mut config = EnrichConfig::default();
        change(&mut config, Path::new("/nowhere/at/all"));
        Enricher::new(&config).err().unwrap().to_string()
    };
    for error in [
        open(|config, path| config.geo_database = Some(path.into())),
        open(|config, path| config.data_centre_networks = Some(path.into())),
        open(|config, path| config.user_agent_rules = Some(path.into())),
    ] {
        assert!(error.starts_with("/nowhere/at/all: "), "{error}");
    }
}

fn request<'a>(trusted: bool, user_agent: &'a str, address: [u8; 4]) -> Request<'a> {
    Request {
        store_id: "demo",
        currency: "USD",
        event_age_max_days: 30,
        trusted,
        received_at: 1_793_511_000_123,
        user_agent,
        address: Some(address.into()),
        salts: &SALTS,
        timezone: &UTC,
        id_seed: 7,
        limits: Limits::default(),
    }
}

fn rows(enricher: &Enricher, request: &Request<'_>, body: &Value) -> Vec<Value> {
    let body = body.to_string();
    let outcome =
        collect_body(body.as_bytes(), Form::Json, request, enricher, &mut Scratch::default()).unwrap();
    let lines = outcome.messages.iter().flat_map(|message| message.value.split(|byte| *byte == b'\n'));
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

static SALTS: LazyLock<Salts> = LazyLock::new(|| Salts::same([7; 32], 1_793_511_000_123));

static ENRICHER: LazyLock<Enricher> = LazyLock::new(|| {
    let config = EnrichConfig { geo_database: Some(DATABASE.into()), ..EnrichConfig::default() };
    Enricher::new(&config).unwrap()
});

#[test]
fn a_server_has_visitors_only_when_it_says_where_they_are() {
    let visitor = |trusted, event: &Value| {
        let row = rows(&ENRICHER, &request(trusted, IPHONE, [81, 2, 69, 142]), event).remove(0);
        row["visitor_id"].as_str().unwrap_or_default().to_owned()
    };
    let event = json!({ "type": "event", "name": "a" });
    let browser = visitor(false, &event);
    assert_eq!(browser.len(), 32);
    assert_eq!(visitor(true, &event), "");
    let spoken_for = json!({ "type": "event", "name": "a", "ip": "81.2.69.1", "user_agent": IPHONE });
    assert_eq!(visitor(true, &spoken_for), browser, "the server and the browser mean the same person");
}

proptest! {
    /// Sent again, by anyone and from anywhere, an event lands on the same key.
    #[test]
    fn no_step_touches_the_key(
        url in "https://a\\.example/(\\PC{0,20}|\\?utm_source=[a-z]{0,3}&(q|sid)=\\PC{0,5})",
        visitor in "[a-z@.]{0,12}",
        user_agent in "\\PC{0,30}(bot|iPhone)?",
        address in any::<[u8; 4]>(),
        trusted in any::<bool>(),
    ) {
        let body = json!({
            "type": "page_view", "event_id": "018f3a5e-0000-7000-8000-000000000001", "timestamp": 1_793_510_000_000_i64,
            "visitor_id": visitor, "url": url, "ip": LONDON, "webdriver": true,
        });
        let key = |rows: &[Value]| {
            let names = ["store_id", "key_date", "name", "visitor_hash", "event_id"];
            rows.iter().map(|row| names.map(|name| row.get(name).cloned())).collect::<Vec<_>>()
        };
        let off = EnrichConfig {
            skip: vec![Step::UserAgent, Step::Geo, Step::Campaign, Step::Visitor, Step::Bot, Step::Url],
            ..EnrichConfig::default()
        };
        let off = Enricher::new(&off).unwrap();
        let plain = key(&rows(&off, &request(true, "", [127, 0, 0, 1]), &body));
        prop_assert_eq!(plain, key(&rows(&ENRICHER, &request(trusted, &user_agent, address), &body)));
    }
}

/// Who names no visitor is one person from midnight to midnight of the store, when the event happened.
#[test]
fn a_derived_visitor_lasts_for_a_day_of_the_store() {
    let hour_ms = 3_600_000;
    let received_at = 1_793_511_000_123;
    let hour = received_at / hour_ms;
    let salts = Salts::new((hour - 47..=hour + 1).map(|hour| (hour, [hour as u8; 32])).collect());
    let zone = |name: &str| jiff::tz::TimeZone::get(name).unwrap();
    let visitors = |timezone: &jiff::tz::TimeZone, times: &[&str]| -> Vec<Value> {
        let request = Request {
            salts: &salts,
            timezone,
            received_at,
            ..request(false, "Mozilla/5.0 (a visitor)", [192, 0, 2, 7])
        };
        let events = times.iter().map(|time| json!({ "type": "event", "name": "a", "timestamp": time }));
        let rows = rows(&ENRICHER, &request, &events.collect());
        rows.iter().map(|row| row["visitor_id"].clone()).collect()
    };
    // Received on 2026-11-01 at 05:30 UTC: 01:30 in New York, before the clock goes back there.
    let utc_midnight = ["2026-10-31T23:59:59Z", "2026-11-01T00:00:01Z"];
    let new_york_midnight = ["2026-11-01T03:59:59Z", "2026-11-01T04:00:01Z", "2026-11-01T05:30:00Z"];
    let in_utc = visitors(&UTC, &utc_midnight);
    let [last, first] = &in_utc[..] else { panic!() };
    assert_ne!(last, first);
    let in_new_york = visitors(&zone("America/New_York"), &utc_midnight);
    let [one, same] = &in_new_york[..] else { panic!() };
    assert_eq!(one, same);
    let around = visitors(&zone("America/New_York"), &new_york_midnight);
    let [last, first, later] = &around[..] else { panic!() };
    assert!(last == one && first != last && first == later, "{last} {first} {later}");
    // One whose day's salt is gone is one of the day of receipt; together with others in one request, too.
    let late = visitors(&UTC, &["2026-10-20T12:00:00Z", "2026-11-01T05:00:00Z"]);
    let [old, now] = &late[..] else { panic!() };
    assert_eq!(old, now);
    assert_eq!(now.as_str().unwrap().len(), 32);
}
