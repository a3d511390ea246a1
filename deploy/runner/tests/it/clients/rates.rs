//! Clients of stores and addresses that are at their rate: who repeats what was refused, and that each event of theirs is stored once.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{CLIENT_PATIENCE, OneMachine, Stores, node};
use crate::pipeline::ADMIN_TOKEN;

/// What a client of several events waits for is seconds, and others take it as it comes.
const EVENTS_PER_SECOND: u32 = 2;
/// A request of so many events fits into what an idle store takes at once, and is soon used up.
const EVENTS_MAX: u32 = 50;

/// A shop of its own for each client: none takes anything of another's rate.
struct Shop {
    host: String,
    id: String,
    write_key: String,
    secret_key: String,
}

impl Shop {
    async fn open(machine: &OneMachine) -> Self {
        let [host, api] = [0, 1].map(|port: usize| format!("127.0.0.1:{}", machine.ports[port].number()));
        let settings = json!({
            "name": "Shop", "timezone": "UTC", "currency": "USD", "events_per_second": EVENTS_PER_SECOND,
        });
        let request = reqwest::Client::new().post(format!("http://{api}/api/v1/stores"));
        let answer = request.bearer_auth(ADMIN_TOKEN).json(&settings).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        let made: Value = answer.json().await.unwrap();
        let [id, write_key, secret_key] =
            ["store_id", "write_key", "secret_key"].map(|name| made[name].as_str().unwrap().to_owned());
        let shop = Self { host, id, write_key, secret_key };
        // The collector learns of it a little later.
        shop.send("first").await;
        shop
    }

    /// Sends an event of this name, as soon as it is accepted.
    async fn send(&self, name: &str) {
        let (client, begin) = (reqwest::Client::new(), Instant::now());
        let url = format!("http://{}/v1/collect?key={}", self.host, self.write_key);
        let event = json!({ "type": "event", "name": name });
        loop {
            let status = client.post(&url).json(&event).send().await.unwrap().status();
            if status == StatusCode::ACCEPTED {
                return;
            }
            assert!(begin.elapsed() < CLIENT_PATIENCE, "{name} gets {status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The numbers that this client's events have, of all that was accepted.
    async fn numbers(&self, stores: &Stores) -> Vec<u64> {
        self.send("last").await;
        let of_shop = format!("store_id = '{}'", self.id);
        stores.events(1, &format!("{of_shop} AND name = 'last'")).await;
        let rows = stores.select(&format!("{of_shop} AND properties['number'] != ''")).await;
        let number = |row: &Value| row["properties"]["number"].as_str().unwrap().parse().unwrap();
        let mut numbers: Vec<_> = rows.iter().map(number).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Whether a client comes no sooner than `Retry-After` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    AsTold,
    ByItself,
}

/// A client that is refused with this status, then accepted, until every event that it was given is stored, once.
async fn repeats(
    machine: &OneMachine,
    stores: &Stores,
    product: &str,
    script: &str,
    refusal: u16,
    waits: Waits,
) {
    let shop = Shop::open(machine).await;
    let key = if script == "limited-node.mjs" { &shop.secret_key } else { &shop.write_key };
    let said = node(product, script, &[&shop.host, key]).await;
    let what = format!("{product}/{script}: {said}");
    assert_eq!(said["statuses"], json!([200, refusal]), "{what}");
    let told = said["waits"].as_array().unwrap();
    assert!(told.iter().all(|wait| wait.as_u64().unwrap() >= 1_000), "{what}");
    if waits == Waits::AsTold {
        assert_eq!(said["early"], 0, "{what}");
    }
    let given = said["given"].as_u64().unwrap();
    assert_eq!(shop.numbers(stores).await, (1..=given).collect::<Vec<_>>(), "{what}");
}

/// Clients of a product that are told, repeat nothing, and are accepted later.
async fn is_told(machine: &OneMachine, product: &str, accepted: u16) {
    let shop = Shop::open(machine).await;
    let said = node(product, "limited.mjs", &[&shop.host, &shop.write_key]).await;
    let wanted = json!({ "refused": 429, "then": accepted });
    assert_eq!(said, json!([wanted, wanted]), "{product}");
}

#[tokio::test]
async fn what_a_stores_rate_refuses_is_sent_again_and_stored_once() {
    let machine = OneMachine::new();
    let _running = machine.start_with(&[("MILLRACE_EVENTS_MAX", EVENTS_MAX.to_string())]).await;
    let stores = Stores::of(&machine).await;
    let repeats =
        |product, script, refusal, waits| repeats(&machine, &stores, product, script, refusal, waits);
    let told = async {
        is_told(&machine, "umami", 200).await;
        is_told(&machine, "plausible", 202).await;
        is_told(&machine, "ga4", 204).await;
    };
    tokio::join!(
        repeats("segment", "limited-node.mjs", 429, Waits::AsTold),
        repeats("segment", "limited-browser.mjs", 429, Waits::AsTold),
        repeats("segment", "limited-rudderstack.mjs", 429, Waits::ByItself),
        // PostHog's would drop what gets 429.
        repeats("posthog", "limited-node.mjs", 503, Waits::ByItself),
        repeats("posthog", "limited-browser.mjs", 503, Waits::AsTold),
        repeats("snowplow", "limited-node.mjs", 429, Waits::ByItself),
        repeats("snowplow", "limited-browser.mjs", 429, Waits::ByItself),
        told,
    );
}

/// An address has used up its rate before the client's first word to the collector: what browsers ask beforehand counts,
/// too, and is answered nevertheless.
#[tokio::test]
async fn what_an_addresss_rate_refuses_is_sent_again_and_stored_once() {
    let machine = OneMachine::new();
    let rate = ("MILLRACE_CLIENT_REQUESTS_PER_SECOND", EVENTS_PER_SECOND.to_string());
    let _running = machine.start_with(&[rate]).await;
    let stores = Stores::of(&machine).await;
    repeats(&machine, &stores, "posthog", "limited-browser.mjs", 503, Waits::AsTold).await;
    repeats(&machine, &stores, "snowplow", "limited-browser.mjs", 429, Waits::ByItself).await;
}
