//! Stores and keys from a real Postgres, and without it.

use std::time::{Duration, Instant};

use millrace_schemas::refused::person_key;
use millrace_testbed::{Postgres, Proxy};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::service::{Service, eventually};

pub(crate) const GOOD: &str = r#"{"type":"event","name":"test"}"#;

pub(crate) async fn migrated(postgres: &Postgres) -> PgPool {
    let pool = PgPool::connect(postgres.url()).await.unwrap();
    Postgres::migrate(&pool).await.unwrap();
    sqlx::query("INSERT INTO stores (id, name, timezone, currency) VALUES ('shop', 'Shop', 'UTC', 'EUR')")
        .execute(&pool)
        .await
        .unwrap();
    pool
}

pub(crate) async fn add_key(pool: &PgPool, key: &str, kind: &str) {
    sqlx::query(
        "INSERT INTO store_keys (key_sha256, store_id, kind, write_key)
         VALUES (sha256(convert_to($1, 'UTF8')), 'shop', $2, CASE WHEN $2 = 'write' THEN $1 END)",
    )
    .bind(key)
    .bind(kind)
    .execute(pool)
    .await
    .unwrap();
}

pub(crate) async fn status(service: &Service, key: &str) -> u16 {
    service.send(service.request(key).body(GOOD)).await.status
}

#[tokio::test]
async fn keys_follow_postgres_and_outlive_it() {
    let mut postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    add_key(&pool, "first", "write").await;
    add_key(&pool, "api", "api").await;
    let (url, snapshot_dir) = (postgres.url().to_owned(), tempfile::tempdir().unwrap());
    let snapshot = snapshot_dir.path().join("stores.json");
    let service = Service::with(|config| {
        config.postgres_url.clone_from(&url);
        config.keys_snapshot = Some(snapshot.clone());
    })
    .await;
    eventually("it gets ready", async || service.get("/readyz").await.status == 200).await;
    assert_eq!(status(&service, "first").await, 202);
    assert_eq!(status(&service, "api").await, 401, "API tokens are no keys to send with");
    let event = &service.events()[0];
    assert_eq!(event["visitor_id"].as_str().unwrap().len(), 32, "a salt was made and read");
    let salts: i64 = sqlx::query_scalar("SELECT count(*) FROM visitor_salts").fetch_one(&pool).await.unwrap();
    assert_eq!(salts, 27, "for all days under way, wherever");

    // Changes arrive with the next look, also the revocation of a key and a list of origins.
    assert_eq!(status(&service, "second").await, 401);
    let changed = Instant::now();
    add_key(&pool, "second", "secret").await;
    eventually("the new key is known", async || status(&service, "second").await == 202).await;
    sqlx::query("UPDATE store_keys SET revoked_at = now() WHERE write_key = 'first'")
        .execute(&pool)
        .await
        .unwrap();
    eventually("the revoked key is unknown", async || status(&service, "first").await == 401).await;
    assert!(changed.elapsed() < Duration::from_secs(60));

    drop(pool);
    postgres.kill9().unwrap();
    // A look every five seconds would have been due.
    eventually("it is away", async || service.metric("millrace_collector_keys_age_seconds") > 6.0).await;
    assert_eq!(status(&service, "second").await, 202, "Postgres is away");
    assert_eq!(service.get("/readyz").await.status, 200);

    // Started again while it is away: from the snapshot, and without visitors it could not derive.
    let dir = service.stop().await;
    let service = Service::in_dir(dir, |config| {
        config.postgres_url.clone_from(&url);
        config.keys_snapshot = Some(snapshot.clone());
    })
    .await;
    assert_eq!(status(&service, "second").await, 202);
    assert_eq!(status(&service, "first").await, 401);

    postgres.restart().await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    add_key(&pool, "third", "write").await;
    eventually("Postgres is heard again", async || status(&service, "third").await == 202).await;
    service.stop().await;
}

#[tokio::test]
async fn it_waits_for_a_postgres_that_is_not_ready_yet() {
    let postgres = Postgres::start().await.unwrap();
    let url = postgres.url().to_owned();
    let service = Service::with(|config| {
        config.postgres_url = url;
        config.keys_snapshot = None;
    })
    .await;
    let old = "date_trunc('hour', now()) - interval '48 hours'";
    // No tables yet.
    assert_eq!(service.get("/readyz").await.status, 503);
    assert_eq!(status(&service, "first").await, 503);
    let pool = PgPool::connect(postgres.url()).await.unwrap();
    Postgres::migrate(&pool).await.unwrap();
    eventually("it gets ready", async || service.get("/readyz").await.status == 200).await;
    assert_eq!(status(&service, "first").await, 401);

    // A salt of days that began 48 h ago is destroyed by whoever looks next.
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO visitor_salts VALUES ({old}, decode(repeat('00', 32), 'hex'))"
    )))
    .execute(&pool)
    .await
    .unwrap();
    let service = Service::with(|config| config.postgres_url = postgres.url().to_owned()).await;
    let count = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM visitor_salts").fetch_one(&pool).await.unwrap()
    };
    eventually("old salts are destroyed", async || count().await == 27).await;
    service.stop().await;
}

/// For what takes as long as the collector's own patience, several times.
async fn patiently(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_postgres_that_answers_nothing_is_missed_by_nobody() {
    let postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    add_key(&pool, "first", "write").await;
    let target = postgres.url().rsplit_once('@').and_then(|(_, rest)| rest.split('/').next()).unwrap();
    let proxy = Proxy::start(target).await.unwrap();
    let url = postgres.url().replace(target, &proxy.address().to_string());
    let service = Service::with(|config| config.postgres_url = url).await;
    patiently("the key is known", async || status(&service, "first").await == 202).await;

    // Frozen: what was asked is not answered, and connections are taken by nobody.
    proxy.cut(false);
    let age = async || service.metric("millrace_collector_keys_age_seconds");
    patiently("more than one look is in vain", async || age().await > 12.0).await;
    assert_eq!(status(&service, "first").await, 202);
    assert_eq!(service.get("/readyz").await.status, 200);
    add_key(&pool, "second", "write").await;
    proxy.mend();
    patiently("the new key is known", async || status(&service, "second").await == 202).await;

    // Only the connection is lost, and nobody says so: another one is made.
    add_key(&pool, "third", "write").await;
    proxy.cut(true);
    patiently("the next key is known", async || status(&service, "third").await == 202).await;
    service.stop().await;
}

/// Somebody finds out what was refused, and it names nobody.
#[tokio::test]
async fn refused_events_are_kept_for_their_store() {
    let mut postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    add_key(&pool, "first", "write").await;
    let url = postgres.url().to_owned();
    let service = Service::with(|config| config.postgres_url.clone_from(&url)).await;
    eventually("it gets ready", async || service.get("/readyz").await.status == 200).await;

    let person = "jane-0815";
    let nameless = json!({
        "type": "event", "visitor_id": person, "user_id": person, "label": person, "sequence": 3,
        "url": format!("https://jane:pass@shop.example/a?token={person}"), "properties": { "mail": person, "a\0": [1] },
    });
    let misplaced = json!({ "type": "click", "url": "https://shop.example/", "x": "left\0", "y": 1.5 });
    let body = json!([{ "type": "event", "name": "good" }, nameless, misplaced, 7]);
    let answer = service.send(service.request("first").body(body.to_string())).await;
    let reasons = [(1, "missing_field"), (2, "wrong_type"), (3, "not_an_object")];
    assert_eq!((answer.status, answer.reasons()), (202, reasons.to_vec()));

    let count = async |sql: &'static str| -> i64 { sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap() };
    let samples = "SELECT count(*) FROM refused_events WHERE store_id = 'shop'";
    eventually("samples are there", async || count(samples).await == 3).await;
    let kept: Vec<(String, String, Option<i64>, Option<i64>)> =
        sqlx::query_as("SELECT reason, sample, visitor_key, user_key FROM refused_events ORDER BY reason")
            .fetch_all(&pool)
            .await
            .unwrap();
    let key = Some(person_key("shop", person));
    let sample = |at: usize| serde_json::from_str::<Value>(&kept[at].1).unwrap();
    assert_eq!((kept[0].0.as_str(), kept[0].2, kept[0].3), ("missing_field", key, key));
    assert_eq!(
        sample(0),
        json!({
            "type": "event", "visitor_id": "(text of 9 bytes)", "user_id": "(text of 9 bytes)",
            "label": "(text of 9 bytes)", "sequence": "(number)", "url": "https://shop.example/a",
            "properties": { "mail": "(text of 9 bytes)", "a\u{fffd}": "(list of 1)" },
        })
    );
    assert_eq!((kept[1].0.as_str(), sample(1)), ("not_an_object", json!({})));
    let click = json!({ "type": "click", "url": "https://shop.example/", "x": "left\u{fffd}", "y": 1.5 });
    assert_eq!((kept[2].0.as_str(), sample(2)), ("wrong_type", click));
    let metric = |reason: &str| {
        let labels = format!("{{store=\"shop\",reason=\"{reason}\"}}");
        service.metric(&format!("millrace_collector_refused_events_total{labels}"))
    };
    assert_eq!(reasons.map(|(_, reason)| metric(reason)), [1.0; 3]);

    // Of a flood, with Postgres away, a few samples are kept, and all of it is counted.
    postgres.kill9().unwrap();
    let flood = json!(vec![json!({ "type": "event", "visitor_id": person }); 100]).to_string();
    for _ in 0..30 {
        assert_eq!(service.send(service.request("first").body(flood.clone())).await.status, 422);
    }
    postgres.restart().await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    let counted =
        "SELECT coalesce(sum(events), 0)::bigint FROM refused_counts WHERE reason = 'missing_field'";
    let count = async |sql: &'static str| -> i64 { sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap() };
    eventually("all is counted", async || count(counted).await == 3_001).await;
    assert!((4..=30).contains(&count(samples).await));

    // The newest of each reason stay, and what is noted last is written before the end.
    sqlx::query(
        "INSERT INTO refused_events (id, store_id, refused_at, reason, detail, sample)
         SELECT gen_random_uuid(), 'shop', now() - interval '1 hour' - n * interval '1 second', 'missing_field', '', '{}'
         FROM generate_series(1, 60) AS n",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(service.send(service.request("first").body(flood)).await.status, 422);
    service.stop().await;
    assert_eq!(count(counted).await, 3_101);
    let like = "SELECT count(*) FROM refused_events WHERE reason = 'missing_field'";
    assert_eq!((count(like).await, count(samples).await), (50, 52));
}
