//! Dead letters on one machine: from HTTP to the letters, and by `millrace replay` into rollups.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan as _};
use millrace_local::process::{Signal, program};
use serde_json::json;
use sqlx::PgPool;

use crate::pipeline::OneMachine;

const PATIENCE: Duration = Duration::from_secs(180);

/// Page views of the day in the shop's rollup.
async fn page_views(postgres: &PgPool, date: &str) -> i64 {
    let sql = "SELECT coalesce(sum(page_views), 0)::bigint FROM analytics_summary \
               WHERE store_id = 'demo' AND period_type = 'day' AND date = $1::date";
    sqlx::query_scalar(sql).bind(date).fetch_one(postgres).await.unwrap()
}

async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !so().await {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn letters_that_are_replayed_reach_the_rollups() {
    let machine = OneMachine::new();
    let mut running = machine.start().await;
    let target = machine.target().await;
    let clickhouse_port = machine.ports[3].number();
    let clickhouse = machine.clickhouse();
    let tell = async |statement: &str| clickhouse.query_raw(statement).execute().await.unwrap();
    let count = async |what: &str| {
        clickhouse
            .query_raw(&format!("SELECT count() FROM millrace.{what} FINAL"))
            .fetch_one::<u64>()
            .await
            .unwrap()
    };

    tell("ALTER TABLE millrace.events ADD CONSTRAINT calm CHECK visitor_id NOT LIKE 'angry%'").await;
    // The letters' day is a day on which nothing else happens: only their arrival can have it rolled up.
    let (today, before) = (Timestamp::now(), Timestamp::now() - 72.hours());
    let date = before.strftime("%Y-%m-%d").to_string();
    let views = |visitor: &str, at: Timestamp| {
        let view = |number| {
            json!({"type": "page_view", "visitor_id": format!("{visitor}-{number}"), "timestamp": at.to_string(),
                   "url": "https://shop.example/"})
        };
        (0..10).map(view).collect::<Vec<_>>()
    };
    let events = json!([views("calm", today), views("angry", before)].concat());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request =
        client.post(format!("{}/v1/collect", target.collector)).header("X-Write-Key", "demo-write-key");
    let answer = request.json(&events).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["accepted"], 20);
    eventually("all are stored or dead", async || {
        (count("events").await, count("dead_letters").await) == (10, 10)
    })
    .await;
    let (today, postgres) = (today.strftime("%Y-%m-%d").to_string(), &target.postgres);
    eventually("what is stored is rolled up", async || page_views(postgres, &today).await == 10).await;
    assert_eq!(page_views(postgres, &date).await, 0);

    tell("ALTER TABLE millrace.events DROP CONSTRAINT calm").await;
    let replay = || {
        let mut command = Command::new(program("millrace").unwrap());
        command.arg("replay").arg(format!("--clickhouse-port={clickhouse_port}"));
        command.arg("--data-dir").arg(machine.data_dir()).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(replay(), "10 dead letters: 10 stored (10 rows), 0 left as they were\n");
    assert_eq!((count("events").await, count("dead_letters").await), (20, 0));
    eventually("what came back is rolled up", async || page_views(postgres, &date).await == 10).await;
    assert_eq!(page_views(postgres, &today).await, 10);
    assert_eq!(replay(), "0 dead letters: 0 stored (0 rows), 0 left as they were\n");
    assert!(running.stop(Signal::INT, PATIENCE).await.unwrap().success());
}
