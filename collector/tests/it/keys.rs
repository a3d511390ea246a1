//! Every address with every kind of key; and keys that are made, end, and are made up.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use millrace_collector::{Config, Route, routes};
use millrace_testbed::Postgres;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    postgres::{GOOD, add_key, migrated, status},
    service::{Service, eventually},
};

/// What every product's decoder finds its event in.
fn any_body(path: &str) -> String {
    let call = json!({"type": "track", "event": "x", "anonymousId": "a", "distinct_id": "d"});
    let payload = json!({"website": "somebody", "hostname": "shop.example", "url": "/"});
    let umami = json!({"type": "event", "payload": payload});
    let structured = json!({"e": "se", "se_ca": "c", "se_ac": "a", "duid": "d", "aid": "somebody"});
    if path == "/api/batch" {
        return json!([umami]).to_string();
    }
    let mut all = json!({
        "name": "x", "anonymousId": "a", "userId": "u", "previousId": "p", "groupId": "g", "event": "x",
        "distinct_id": "d", "client_id": "1.2", "events": [{"name": "x"}], "n": "pageview",
        "u": "https://shop.example/", "d": "somebody",
    });
    let more = match path {
        _ if path.contains("snowplow") => json!({"data": [structured]}),
        _ if path.contains("batch") || path == "/v1/b" || path == "/v1/import" => json!({"batch": [call]}),
        "/v1/collect" => json!({"events": [{"type": "event", "name": "x"}]}),
        _ => umami,
    };
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    if path == "/v1/collect" { more.to_string() } else { all.to_string() }
}

/// The same in an address.
fn any_query(path: &str) -> String {
    let posthog = STANDARD.encode(json!({"event": "x", "distinct_id": "d"}).to_string());
    let posthog: String = form_urlencoded::byte_serialize(posthog.as_bytes()).collect();
    match path {
        "/v1/pixel.gif" => "type=event&name=x".to_owned(),
        "/i" => "e=se&se_ca=c&se_ac=a&duid=d&aid=somebody".to_owned(),
        "/g/collect" => "v=2&tid=G-1&cid=1.2&en=x&dl=https%3A%2F%2Fshop.example%2F".to_owned(),
        _ => format!("data={posthog}"),
    }
}

async fn send(service: &Service, Route { method, path, .. }: &Route, key: Option<&str>) -> u16 {
    let filled = path.replace("{project}", "p").replace("{*rest}", "x").replace("{key}", "k");
    let mut url = match key {
        Some(key) if path.starts_with("/v1/collect") || path.starts_with("/v1/pixel") => {
            format!("{}{filled}?key={key}&", service.url)
        }
        Some(key) => format!("{}/k/{key}{filled}?", service.url),
        None => format!("{}{filled}?", service.url),
    };
    // Google's tag posts its event in the address, too.
    let is_in_address = *method == Method::GET || path == "/g/collect";
    if is_in_address {
        url.push_str(&any_query(path));
    }
    let mut request = service.client.request(method.clone(), url);
    if !is_in_address {
        request = request.body(any_body(path));
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn every_address_asks_every_key() {
    let postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    for (key, kind) in [
        ("write", "write"),
        ("secret", "secret"),
        ("api", "api"),
        ("revoked", "write"),
        ("ended", "secret"),
        ("suspended", "write"),
    ] {
        add_key(&pool, key, kind).await;
    }
    for (key, column) in [("revoked", "revoked_at"), ("ended", "valid_until"), ("suspended", "suspended_at")]
    {
        change(&pool, key, &format!("{column} = now()")).await;
    }
    let service = with_postgres(&postgres, |_| {}).await;
    let mut taken = 0;
    for route in &routes() {
        let what = format!("{} {}", route.method, route.path);
        for key in [None, Some("api"), Some("revoked"), Some("ended"), Some("suspended"), Some("made-up")] {
            let status = send(&service, route, key).await;
            assert_ne!(status, 500, "{what} with {key:?}");
            assert!(!route.takes_events || status != 202, "{what} with {key:?}");
            let events =
                if service.topic_dir("millrace.events").exists() { service.events().len() } else { 0 };
            assert_eq!(events, taken, "{what} with {key:?}");
        }
        for (key, is_trusted) in [("write", false), ("secret", true)] {
            let status = send(&service, route, Some(key)).await;
            assert!(!route.takes_events || (200..300).contains(&status), "{what}: {status}");
            if !route.takes_events {
                continue;
            }
            let events = service.events();
            assert_eq!(events.len(), taken + 1, "{what} with the {key} key");
            taken += 1;
            let row = events.last().unwrap();
            assert_eq!(row["store_id"], "shop", "{what}: {row}");
            assert_eq!(row.get("trusted") == Some(&json!(1)), is_trusted, "{what}: {row}");
        }
    }
    assert!(taken > 60, "{taken}");
    service.stop().await;
}

async fn change(pool: &PgPool, key: &str, to: &str) {
    let sql = format!("UPDATE store_keys SET {to} WHERE key_sha256 = sha256(convert_to($1, 'UTF8'))");
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(key).execute(pool).await.unwrap();
}

async fn with_postgres(postgres: &Postgres, settings: impl FnOnce(&mut Config)) -> Service {
    let url = postgres.url().to_owned();
    let service = Service::with(|config| {
        config.postgres_url = url;
        config.keys_snapshot = None;
        settings(config);
    })
    .await;
    eventually("it gets ready", async || service.get("/readyz").await.status == 200).await;
    service
}

/// Where nobody looks again for an hour, only the request itself can have had Postgres asked.
#[tokio::test]
async fn a_new_key_is_never_refused() {
    let postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    let service = with_postgres(&postgres, |config| config.keys_refresh_ms = 3_600_000).await;
    for number in 0..5 {
        let key = format!("head-{number}");
        add_key(&pool, &key, "write").await;
        assert_eq!(status(&service, &key).await, 202, "in the head");
        let key = format!("body-{number}");
        add_key(&pool, &key, "write").await;
        let body = json!({"write_key": key, "events": [{"type": "event", "name": "x"}]}).to_string();
        let request = service.client.post(format!("{}/v1/collect", service.url)).body(body);
        assert_eq!(service.send(request).await.status, 202, "in the body");
        let key = format!("path-{number}");
        add_key(&pool, &key, "write").await;
        let request = service.client.post(format!("{}/k/{key}/v1/track", service.url));
        assert_eq!(service.send(request.body(r#"{"event":"x","anonymousId":"a"}"#)).await.status, 200);
        let key = format!("pixel-{number}");
        add_key(&pool, &key, "write").await;
        assert_eq!(service.get(&format!("/v1/pixel.gif?key={key}&type=event&name=x")).await.status, 200);
    }
    service.stop().await;
}

/// Made-up keys have Postgres asked a few times a second, whatever their number, and keep nobody else waiting.
#[tokio::test]
async fn a_flood_of_made_up_keys_costs_a_few_looks() {
    let postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    add_key(&pool, "known", "write").await;
    let service = with_postgres(&postgres, |config| config.keys_refresh_ms = 3_600_000).await;
    let asked = async || -> i64 {
        // A look reads the one row of this table; nothing else does meanwhile.
        sqlx::query_scalar(
            "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables
             WHERE relname = 'settings_version'",
        )
        .fetch_one(&pool)
        .await
        .unwrap()
    };
    // What was read before the flood is counted first: a backend tells its counts when it has been idle for a while.
    let mut before = 0;
    eventually("earlier looks are counted", async || {
        before = asked().await;
        before > 0
    })
    .await;
    let begun = Instant::now();
    let mut refused = 0;
    for round in 0..20 {
        let flood = (0..200).map(|number| {
            let request = service.request(&format!("made-up-{round}-{number}")).body(GOOD);
            async { request.send().await.unwrap().status().as_u16() }
        });
        let known = async { status(&service, "known").await };
        let (statuses, known) = tokio::join!(futures_all(flood), known);
        assert_eq!(known, 202);
        refused += statuses.iter().filter(|status| **status == 401).count();
    }
    assert_eq!(refused, 4_000);
    // Looks begin 200 ms apart, and each round needs one of its own.
    let looks_max = i64::try_from(begun.elapsed().as_millis() / 200).unwrap() + 2;
    let mut looks = 0;
    eventually("the looks are counted", async || {
        looks = asked().await - before;
        looks >= 20
    })
    .await;
    // Some of what came before the flood may have been told late.
    assert!(looks <= looks_max + 10, "{looks} looks for {refused} keys");
    service.stop().await;
}

async fn futures_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

/// An overlap ends by itself: nobody need tell the collector, and Postgres may be away.
#[tokio::test]
async fn a_key_ends_when_its_time_has_come() {
    let mut postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    for key in ["short", "long", "open"] {
        add_key(&pool, key, "write").await;
    }
    change(&pool, "short", "valid_until = now() + interval '3 s'").await;
    change(&pool, "long", "valid_until = now() + interval '1 day'").await;
    let service = with_postgres(&postgres, |config| config.keys_refresh_ms = 3_600_000).await;
    let ends = Instant::now() + Duration::from_secs(3);
    assert_eq!(status(&service, "short").await, 202);
    drop(pool);
    postgres.kill9().unwrap();
    eventually("it ends", async || status(&service, "short").await == 401).await;
    assert!(Instant::now() >= ends - Duration::from_secs(3), "not before it is due");
    assert_eq!(status(&service, "long").await, 202);
    assert_eq!(status(&service, "open").await, 202);
    service.stop().await;
}

/// What is known to everybody is refused by a collector that others can reach, whatever Postgres says.
#[tokio::test]
async fn known_keys_are_for_loopback() {
    let postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    for (key, kind) in [("demo-write-key", "write"), ("demo-secret-key", "secret"), ("own", "write")] {
        add_key(&pool, key, kind).await;
    }
    let service = with_postgres(&postgres, |_| {}).await;
    assert_eq!(status(&service, "demo-secret-key").await, 202);
    service.stop().await;
    let service = with_postgres(&postgres, |config| {
        // Not listened on here; that it would be is enough.
        config.metrics_address = "0.0.0.0:9101".parse().unwrap();
    })
    .await;
    for key in ["demo-write-key", "demo-secret-key"] {
        assert_eq!(status(&service, key).await, 401, "{key}");
    }
    assert_eq!(status(&service, "own").await, 202);
    service.stop().await;
}

/// A snapshot brings nothing back that was known to be revoked, nor what may have been revoked long ago.
#[tokio::test]
async fn snapshots_follow_at_once_and_grow_old() {
    let mut postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    for key in ["stays", "goes", "ends"] {
        add_key(&pool, key, "write").await;
    }
    change(&pool, "ends", "valid_until = now() + interval '1 hour'").await;
    let (url, dir) = (postgres.url().to_owned(), tempfile::tempdir().unwrap());
    let snapshot = dir.path().join("keys.json");
    let settings = |config: &mut Config| {
        config.postgres_url.clone_from(&url);
        config.keys_snapshot = Some(snapshot.clone());
    };
    let service = Service::with(settings).await;
    eventually("it gets ready", async || service.get("/readyz").await.status == 200).await;
    change(&pool, "goes", "revoked_at = now()").await;
    eventually("it is revoked", async || status(&service, "goes").await == 401).await;
    let gone = hex::encode(<sha2::Sha256 as sha2::Digest>::digest("goes"));
    eventually("the snapshot is without it", async || {
        let text = std::fs::read_to_string(&snapshot).unwrap_or_default();
        text.contains("valid_until_ms") && !text.contains(&gone)
    })
    .await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&snapshot).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    drop(pool);
    postgres.kill9().unwrap();
    service.stop().await;

    let service = Service::with(settings).await;
    assert_eq!(status(&service, "stays").await, 202);
    assert_eq!(status(&service, "ends").await, 202);
    assert_eq!(status(&service, "goes").await, 401);
    service.stop().await;

    // An hour later, by the clock of this machine; and a day and more.
    let text = std::fs::read_to_string(&snapshot).unwrap();
    let mut kept: Value = serde_json::from_str(&text).unwrap();
    for key in kept["keys"].as_array_mut().unwrap() {
        if let Some(until) = key.get_mut("valid_until_ms") {
            *until = (until.as_i64().unwrap() - 3_600_000).into();
        }
    }
    std::fs::write(&snapshot, kept.to_string()).unwrap();
    let service = Service::with(settings).await;
    assert_eq!(status(&service, "stays").await, 202);
    assert_eq!(status(&service, "ends").await, 401);
    service.stop().await;
    let file = std::fs::File::options().append(true).open(&snapshot).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(90_000)).unwrap();
    let service = Service::with(settings).await;
    assert_eq!(status(&service, "stays").await, 503);
    service.stop().await;
}

/// 10,000 stores with 30,000 keys: what one change costs does not grow with them.
#[tokio::test]
async fn one_change_among_ten_thousand_stores_is_read_alone() {
    let postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    for sql in [
        "INSERT INTO stores (id, name, timezone, currency)
         SELECT 'store-' || n, 'Store', 'UTC', 'EUR' FROM generate_series(1, 10000) AS n",
        "INSERT INTO store_keys (key_sha256, store_id, kind, write_key)
         SELECT sha256(convert_to('key-' || n || kind, 'UTF8')), 'store-' || n, kind,
                CASE WHEN kind = 'write' THEN 'key-' || n || kind END
         FROM generate_series(1, 10000) AS n, unnest(ARRAY['write', 'secret', 'api']) AS kind",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    // Nothing is read again by the clock.
    let begun = Instant::now();
    let service = with_postgres(&postgres, |config| config.keys_refresh_ms = 3_600_000).await;
    println!("all read after {:?}", begun.elapsed());
    assert_eq!(status(&service, "key-10000secret").await, 202);
    let begun = Instant::now();
    add_key(&pool, "new", "write").await;
    assert_eq!(status(&service, "new").await, 202);
    println!("a new key taken after {:?}", begun.elapsed());
    // A revocation; whoever asks for a key that is not known has it read.
    change(&pool, "key-5000write", "revoked_at = now()").await;
    let begun = Instant::now();
    assert_eq!(status(&service, "made-up").await, 401);
    assert_eq!(status(&service, "key-5000write").await, 401);
    println!("a revoked key refused after {:?}", begun.elapsed());
    // A store's settings reach its keys, and nobody else's.
    let sql = "UPDATE stores SET allowed_origins = ARRAY['https://shop.example'] WHERE id = 'store-7'";
    sqlx::query(sql).execute(&pool).await.unwrap();
    assert_eq!(status(&service, "made-up").await, 401);
    for (key, expected) in [("key-7write", 403), ("key-8write", 202)] {
        let request = service.request(key).header("origin", "https://elsewhere.example").body(GOOD);
        assert_eq!(service.send(request).await.status, expected, "{key}");
    }
    // What is deleted is gone, although no row tells so.
    sqlx::query("DELETE FROM stores WHERE id = 'store-9'").execute(&pool).await.unwrap();
    assert_eq!(status(&service, "made-up").await, 401);
    assert_eq!(status(&service, "key-9write").await, 401);
    assert_eq!(status(&service, "key-10write").await, 202);
    service.stop().await;
}
