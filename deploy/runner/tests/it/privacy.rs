//! Erasure on one machine, to the last byte: what was acknowledged, stored and rolled up is gone from every file.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::{Timestamp, tz::TimeZone};
use millrace_demo::{Pace, Scenario, Target, example_rates, rehearse};
use millrace_local::process::Signal;
use millrace_recount::{Patience, verify};
use serde_json::{Value, json};

use crate::pipeline::{ADMIN_TOKEN, OneMachine};

/// Beside other tests ClickHouse takes minutes until a part that was rewritten is off the disk; alone it takes one.
const PATIENCE: Duration = Duration::from_secs(400);
/// Letters that nothing else is made of: compression finds nothing to refer to, and leaves them as they are.
const VISITOR: &str = "ZQXJ-KWVUGYPH-to-be-forgotten";
const USER: &str = "GYZQ-HPXKJWUV-her-login";

/// Every file below a directory that holds these bytes.
fn files_with(dir: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // A file may go while one looks.
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle.as_bytes()))
        {
            found.push(path);
        }
    }
    found
}

async fn eventually(what: &str, mut so: impl AsyncFnMut() -> Result<(), String>) {
    let begin = Instant::now();
    while let Err(why) = so().await {
        assert!(begin.elapsed() < PATIENCE, "{what}: {why}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What the person did: a visit with a search, a purchase and clicks, half of it after a login.
fn visit(now: Timestamp) -> Value {
    let event = |kind: &str, more: Value| {
        let mut event = json!({"type": kind, "visitor_id": VISITOR, "session_id": "s", "timestamp": now.to_string(),
                               "url": "https://shop.example/a"});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let mut events = vec![
        event("page_view", json!({})),
        event("event", json!({"name": "search", "user_id": USER})),
        event(
            "event",
            json!({"name": "purchase", "user_id": USER, "order_id": "of-hers", "value": 12.5,
                              "currency": "USD", "items": [{"product_id": "p", "price": 12.5, "quantity": 1}]}),
        ),
    ];
    events
        .extend((0..3).map(|x| event("click", json!({"x": x, "y": 5, "selector": "#buy", "user_id": USER}))));
    Value::Array(events)
}

async fn machine_with_traffic(machine: &OneMachine) -> (Target, millrace_demo::Outcome) {
    let target = machine.target().await;
    let clickhouse = machine.clickhouse();
    for table in ["events", "clicks", "dead_letters"] {
        // ClickHouse's 8 minutes are longer than a test should take.
        let sql = format!("ALTER TABLE millrace.{table} MODIFY SETTING old_parts_lifetime = 1");
        clickhouse.query_raw(&sql).execute().await.unwrap();
    }
    let zone = TimeZone::get("America/New_York").unwrap();
    let scenario =
        Scenario { events: 2_000, ..Scenario::over_clock_change(Timestamp::now(), 6, zone).unwrap() };
    let rates = example_rates(&scenario);
    let outcome =
        rehearse(&target, &scenario, Some(&rates), Pace::default(), Patience::default()).await.unwrap();
    outcome.check().unwrap();
    (target, outcome)
}

#[tokio::test]
async fn nothing_on_the_disk_holds_who_was_erased() {
    let machine = OneMachine::new();
    let variables = [
        ("MILLRACE_SPOOL_SEGMENT_AGE_MAX_SECONDS", "1".to_owned()),
        ("MILLRACE_ERASURE_SETTLE_SECONDS", "5".to_owned()),
    ];
    let mut running = machine.start_with(&variables).await;
    let (target, outcome) = machine_with_traffic(&machine).await;
    let data = machine.dir.path().join("data");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let api = format!("{}/api/v1/stores/{}", target.api, outcome.account.store_id);
    let export = async || {
        let answer =
            client.get(format!("{api}/users/{USER}/export")).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
        assert!(answer.status().is_success());
        answer.text().await.unwrap().lines().count()
    };
    let request = client
        .post(format!("{}/v1/collect", target.collector))
        .header("X-Write-Key", &outcome.account.write_key)
        .json(&visit(Timestamp::now()));
    assert_eq!(request.send().await.unwrap().json::<Value>().await.unwrap()["accepted"], 6);
    // Her page view named no user; it is hers because the shop's server says whose visitor it is.
    let request = client
        .post(format!("{}/v1/collect", target.collector))
        .header("X-Write-Key", &outcome.account.secret_key)
        .json(&json!({"type": "event", "name": "login", "visitor_id": VISITOR, "user_id": USER}));
    assert_eq!(request.send().await.unwrap().json::<Value>().await.unwrap()["accepted"], 1);
    // Of what was refused somebody finds out, and it goes with her.
    let refused = client
        .post(format!("{}/v1/collect", target.collector))
        .header("X-Write-Key", &outcome.account.write_key)
        .json(&json!({"type": "event", "visitor_id": VISITOR, "user_id": USER, "label": USER, "order_id": "of-hers"}));
    assert_eq!(refused.send().await.unwrap().status(), 422);
    // The demo's own traffic has some, too, of people with other names.
    let hers = json!(format!("(text of {} bytes)", USER.len()));
    let refusals = async || -> (usize, i64) {
        let request = client.get(format!("{api}/refused_events")).bearer_auth(&outcome.account.api_token);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let list = |name: &str| answer[name].as_array().unwrap().clone();
        let counts = list("counts").iter().map(|count| count["events"].as_i64().unwrap()).sum();
        (list("data").iter().filter(|kept| kept["sample"]["user_id"] == hers).count(), counts)
    };
    eventually("the refusal is kept", async || match refusals().await {
        (1, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let (_, counted) = refusals().await;
    eventually("all is stored", async || match export().await {
        7 => Ok(()),
        other => Err(format!("{other} rows are exported")),
    })
    .await;
    let sum = "SELECT coalesce(sum(total_orders), 0)::bigint FROM analytics_summary
               WHERE store_id = $1 AND period_type = 'day' AND date >= $2::date";
    let yesterday = Timestamp::now() - jiff::ToSpan::hours(48);
    eventually("it is rolled up", async || {
        let orders: i64 = sqlx::query_scalar(sum)
            .bind(&outcome.store.store_id)
            .bind(yesterday.strftime("%Y-%m-%d").to_string())
            .fetch_one(&target.postgres)
            .await
            .unwrap();
        if orders > 0 { Ok(()) } else { Err("no order of today".into()) }
    })
    .await;
    // The search finds what is there.
    for name in [VISITOR, USER] {
        assert!(!files_with(&data.join("clickhouse"), name).is_empty(), "{name} is in ClickHouse's files");
    }

    let answer = client.delete(format!("{api}/users/{USER}")).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let made: Value = answer.json().await.unwrap();
    let receipt = async || -> Value {
        let at = format!("{api}/erasures/{}", made["erasure_id"].as_str().unwrap());
        client.get(at).bearer_auth(ADMIN_TOKEN).send().await.unwrap().json().await.unwrap()
    };
    eventually("the erasure is final", async || {
        let receipt = receipt().await;
        if receipt["state"] == "final" { Ok(()) } else { Err(receipt.to_string()) }
    })
    .await;
    let receipt = receipt().await;
    assert_eq!((&receipt["events"], &receipt["clicks"]), (&json!(4), &json!(3)), "{receipt}");
    assert_eq!(receipt["final_by"], "log", "{receipt}");
    assert_eq!(export().await, 0);
    assert_eq!(refusals().await, (0, counted), "a number names nobody");

    // Spool, ClickHouse's parts, Postgres's tables and its write-ahead log, logs, keys: the whole directory.
    for name in [VISITOR, USER, "of-hers"] {
        assert_eq!(files_with(machine.dir.path(), name), Vec::<PathBuf>::new(), "{name} is left");
    }
    let verdict = verify(
        &target.postgres,
        &outcome.traffic.ledger,
        &outcome.store,
        outcome.sent_from,
        Patience::default(),
    )
    .await
    .unwrap();
    assert!(verdict.is_equal(), "{verdict}");
    assert!(running.stop(Signal::INT, PATIENCE).await.unwrap().success());
}
