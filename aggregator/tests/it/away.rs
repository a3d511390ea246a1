//! Postgres or ClickHouse away, frozen, or behind a network that lost its connections: nothing hangs, nothing is lost,
//! and what is wrong can be seen from outside.

use std::time::{Duration, Instant};

use millrace_aggregator::{Config, postgres::begin, run};
use millrace_testbed::{Postgres, Proxy};
use serde_json::Value;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    equal::{Dice, assert_same, define, random_clicks, random_events},
    harness::{Bed, eventually},
};

/// A whole aggregator in this process.
struct Running {
    api: String,
    shutdown: CancellationToken,
    task: JoinHandle<millrace_aggregator::Result<()>>,
}

impl Running {
    async fn start(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        Self { api, shutdown: shutdown.clone(), task: tokio::spawn(run(config, listener, shutdown)) }
    }

    async fn readiness(&self) -> (u16, Value) {
        let answer = reqwest::get(format!("{}/readyz", self.api)).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn is_ready(&self) -> bool {
        self.readiness().await.0 == 200
    }

    /// Not ready because of this, and the watermark grows old.
    async fn is_waiting_for(&self, part: &str) -> bool {
        let (status, body) = self.readiness().await;
        status == 503 && body[part] == "no answer" && body["watermark_age_seconds"].as_u64() >= Some(2)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl Bed {
    /// Whether everything that is stored has been looked at and rolled up.
    pub(crate) async fn is_whole(&self) -> bool {
        let sql = "SELECT (SELECT count(*) FROM touched_days) AS days,
                          (SELECT coalesce(sum(next_offset), 0) FROM arrival_watermarks) AS next";
        let books = &self.rows(sql).await[0];
        let lanes = |table| {
            format!("SELECT max(_offset) + 1 AS next FROM millrace.{table} GROUP BY _topic, _partition")
        };
        let arrived = format!("SELECT sum(next) FROM ({} UNION ALL {})", lanes("events"), lanes("clicks"));
        let arrived = self.clickhouse("", &format!("{arrived} FORMAT TabSeparated")).await;
        books["days"] == 0 && books["next"].as_u64() == arrived.trim().parse().ok()
    }

    /// The rollups are those of a rebuild from nothing.
    pub(crate) async fn check_rebuild(&self, seed: u64) {
        let found = self.everything().await;
        self.forget().await;
        self.roll().await;
        assert_same(seed, &found, &self.everything().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_while_a_store_is_away_is_rolled_up_when_it_is_back() {
    let mut bed = Bed::start().await;
    bed.add_store("s", "America/New_York", "USD").await;
    define(&bed, "s").await;
    let mut dice = Dice(31);
    let events = random_events(&mut dice, "s");
    let mut events = events.chunks(100);
    bed.insert(&random_clicks(&mut dice, "s")).await;
    bed.insert(events.next().unwrap()).await;
    let running = Running::start(bed.config.clone()).await;
    eventually("the first events are rolled up", async || bed.is_whole().await).await;

    // Postgres ends in the middle of whatever is going on.
    bed.postgres.kill9().unwrap();
    bed.insert(events.next().unwrap()).await;
    eventually("it says that Postgres is away", async || running.is_waiting_for("postgres").await).await;
    bed.postgres.restart().await.unwrap();
    eventually("Postgres is heard again", async || running.is_ready().await).await;
    eventually("all is rolled up", async || bed.is_whole().await).await;

    // And ClickHouse.
    bed.insert(events.next().unwrap()).await;
    bed.engine.kill9().unwrap();
    eventually("it says that ClickHouse is away", async || running.is_waiting_for("clickhouse").await).await;
    bed.engine.restart().await.unwrap();
    for rest in events {
        bed.insert(rest).await;
    }
    eventually("ClickHouse is heard again", async || running.is_ready().await).await;
    eventually("all is rolled up", async || bed.is_whole().await).await;
    let (_, body) = running.readiness().await;
    assert!(body["watermark_age_seconds"].as_u64() < Some(60), "{body}");
    running.stop().await;
    bed.check_rebuild(31).await;
}

/// The bed's Postgres behind a network that can be cut, with little patience.
async fn behind_a_proxy(bed: &Bed) -> (Proxy, Config) {
    let url = &bed.config.postgres_url;
    let target = url.rsplit_once('@').and_then(|(_, rest)| rest.split('/').next()).unwrap();
    let proxy = Proxy::start(target).await.unwrap();
    let postgres_url = url.replace(target, &proxy.address().to_string());
    (proxy, Config { postgres_url, postgres_timeout_seconds: 1, ..bed.config.clone() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_answers_nothing_is_given_up() {
    let bed = Bed::with_store("s", "America/New_York", "USD").await;
    define(&bed, "s").await;
    let (proxy, config) = behind_a_proxy(&bed).await;
    let running = Running::start(config).await;
    let mut dice = Dice(32);
    let events = random_events(&mut dice, "s");
    let (first, rest) = events.split_at(150);
    bed.insert(first).await;
    eventually("the first events are rolled up", async || bed.is_whole().await).await;

    // Whatever was asked is never answered, and connections are taken by nobody.
    bed.insert(rest).await;
    proxy.cut(false);
    eventually("it says that Postgres is silent", async || running.is_waiting_for("postgres").await).await;
    proxy.mend();
    eventually("all is rolled up", async || bed.is_whole().await).await;

    // Only what was open is lost: the next connection is as good as ever.
    bed.insert(&random_clicks(&mut dice, "s")).await;
    proxy.cut(true);
    let cut = Instant::now();
    eventually("all is rolled up", async || bed.is_whole().await).await;
    println!("rolled up {:?} after all connections were lost", cut.elapsed());
    running.stop().await;
    bed.check_rebuild(32).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_a_silent_postgres() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let (proxy, config) = behind_a_proxy(&bed).await;
    let running = Running::start(Config { postgres_timeout_seconds: 120, ..config }).await;
    eventually("it is ready", async || running.is_ready().await).await;
    proxy.cut(false);
    let stopping = Instant::now();
    running.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(60), "{:?}", stopping.elapsed());
}

/// Whoever leaves while a transaction begins, as a reader of the API whose client has gone, leaves nobody inside one.
#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_nobody_waits_for_holds_nothing() {
    let postgres = Postgres::start().await.unwrap();
    // Without the ping by which a pool looks at what it lends: who is dropped in that loses the connection alone.
    let options = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let pool = options.connect(postgres.url()).await.unwrap();
    let other = PgPool::connect(postgres.url()).await.unwrap();
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    let mut dropped = 0;
    for attempt in 0..200 {
        // A timer is too coarse.
        let soon = async {
            for _ in 0..attempt {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = begin(&pool) => {}
            () = soon => dropped += 1,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        eventually("no session is in a transaction", async || {
            sqlx::query_scalar::<_, i64>(open).fetch_one(&other).await.unwrap() == 0
        })
        .await;
    }
    assert!(dropped > 10, "{dropped}");
}
