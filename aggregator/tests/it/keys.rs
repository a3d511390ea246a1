//! Keys and tokens by API, and the store whose keys everybody knows.

use millrace_aggregator::ensure_demo_store;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::Service,
    harness::{ADMIN_TOKEN, Bed},
};

/// A store made by API: id, write key, secret key, API token.
pub(crate) async fn make_store(service: &Service, name: &str) -> [String; 4] {
    let body = json!({"name": name, "timezone": "UTC", "currency": "EUR"});
    let (status, made) = service.ask(Method::POST, "/api/v1/stores", ADMIN_TOKEN, Some(body)).await;
    assert_eq!(status, 201, "{made}");
    ["store_id", "write_key", "secret_key", "api_token"].map(|field| made[field].as_str().unwrap().to_owned())
}

/// What the admin API answers about a store's keys.
async fn keys(
    service: &Service,
    method: Method,
    store: &str,
    rest: &str,
    body: Option<Value>,
) -> (u16, Value) {
    service.ask(method, &format!("/api/v1/stores/{store}/keys{rest}"), ADMIN_TOKEN, body).await
}

async fn reads(service: &Service, store: &str, token: &str) -> u16 {
    service.get(&format!("/api/v1/stores/{store}/analytics_summary"), token).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_rotated_and_revoked() {
    let bed = Bed::start().await;
    let service = Service::start(&bed).await;
    let [store, write, secret, first] = make_store(&service, "own").await;
    let [other, _, _, others] = make_store(&service, "other").await;

    let (status, made) =
        keys(&service, Method::POST, &store, "", Some(json!({"kind": "api", "name": "Grafana"}))).await;
    assert_eq!((status, &made["kind"], &made["name"]), (201, &json!("api"), &json!("Grafana")), "{made}");
    let (id, second) = (made["key_id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(reads(&service, &store, second).await, 200, "it holds at once");
    assert_eq!(reads(&service, &other, second).await, 403);

    // Listed: everything but the secrets.
    let (_, list) = keys(&service, Method::GET, &store, "", None).await;
    let text = list.to_string();
    assert!(text.contains(&write), "a write key is public");
    for hidden in [&secret, &first, second] {
        assert!(!text.contains(hidden) && text.contains(&hidden[hidden.len() - 4..]), "{text}");
    }
    let row = list["data"].as_array().unwrap().iter().find(|key| key["key_id"] == id).unwrap();
    assert_eq!(
        (&row["state"], &row["name"], &row["key"]),
        (&json!("active"), &json!("Grafana"), &Value::Null)
    );

    // Rotated: both hold, until the old one's time has come.
    let (status, rotated) = keys(&service, Method::POST, &store, &format!("/{id}/rotate"), None).await;
    assert_eq!(
        (status, &rotated["name"], &rotated["replaces"]["key_id"]),
        (201, &json!("Grafana"), &json!(id))
    );
    let third = rotated["key"].as_str().unwrap();
    for token in [second, third] {
        assert_eq!(reads(&service, &store, token).await, 200);
    }
    let ends = bed
        .rows(&format!(
            "SELECT extract(epoch FROM valid_until - now())::int AS s FROM store_keys WHERE key_id = '{id}'"
        ))
        .await;
    assert!((86_000..=86_400).contains(&ends[0]["s"].as_i64().unwrap()), "{ends:?}");
    sqlx::query("UPDATE store_keys SET valid_until = now() WHERE key_id = $1")
        .bind(id)
        .execute(&bed.pool)
        .await
        .unwrap();
    assert_eq!(reads(&service, &store, second).await, 401, "its time has come");
    let again = keys(&service, Method::POST, &store, &format!("/{id}/rotate"), None).await;
    assert_eq!(again.0, 409, "{}", again.1);

    // At once; and again under the longest overlap there is, and beyond.
    let third_id = rotated["key_id"].as_str().unwrap();
    let at_once = Some(json!({"overlap_seconds": 0}));
    let (status, rotated) =
        keys(&service, Method::POST, &store, &format!("/{third_id}/rotate"), at_once).await;
    let fourth = rotated["key"].as_str().unwrap();
    assert_eq!((status, reads(&service, &store, third).await), (201, 401));
    assert_eq!(reads(&service, &store, fourth).await, 200);
    let fourth_id = rotated["key_id"].as_str().unwrap();
    for (body, field) in [
        (json!({"overlap_seconds": 2_592_001}), "overlap_seconds"),
        (json!({"overlap_seconds": -1}), "overlap_seconds"),
        (json!({"overlap": 1}), "overlap"),
    ] {
        let answer = keys(&service, Method::POST, &store, &format!("/{fourth_id}/rotate"), Some(body)).await;
        assert_eq!((answer.0, answer.1["error"]["field"].as_str()), (400, Some(field)), "{}", answer.1);
    }

    // Revoked, twice; by another store's path it is not there.
    let path = format!("/{fourth_id}");
    assert_eq!(keys(&service, Method::DELETE, &other, &path, None).await.0, 404);
    assert_eq!(keys(&service, Method::POST, &other, &format!("{path}/rotate"), None).await.0, 404);
    assert_eq!(reads(&service, &store, fourth).await, 200);
    let (status, revoked) = keys(&service, Method::DELETE, &store, &path, None).await;
    assert_eq!((status, &revoked["keys_left"]), (200, &json!(1)), "{revoked}");
    assert_eq!(reads(&service, &store, fourth).await, 401);
    assert_eq!(keys(&service, Method::DELETE, &store, &path, None).await, (200, revoked), "the same again");
    assert_eq!(reads(&service, &other, &others).await, 200);
    // The last write key goes, too; the answer says so.
    let (_, list) = keys(&service, Method::GET, &store, "", None).await;
    let write_id = list["data"].as_array().unwrap().iter().find(|key| key["kind"] == "write").unwrap();
    let path = format!("/{}", write_id["key_id"].as_str().unwrap());
    assert_eq!(keys(&service, Method::DELETE, &store, &path, None).await.1["keys_left"], json!(0));
    assert_eq!(service.get("/api/v1/stores", ADMIN_TOKEN).await.1["data"][0]["write_keys"], json!([]));

    // Who did what is written down, and no secret with it.
    let audit = bed.rows("SELECT action, detail FROM admin_audit WHERE action LIKE '%key' ORDER BY id").await;
    let actions: Vec<_> = audit.iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["create_key", "rotate_key", "rotate_key", "revoke_key", "revoke_key"]);
    let kept = bed.rows("SELECT * FROM store_keys").await;
    let everything = format!("{audit:?} {kept:?}");
    for hidden in [&secret, &first, second, third, fourth] {
        assert!(!everything.contains(hidden), "{everything}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_checked_and_few() {
    let bed = Bed::start().await;
    let service = Service::start(&bed).await;
    let [store, ..] = make_store(&service, "own").await;
    for (body, field) in [
        (json!({}), "kind"),
        (json!({"kind": "admin"}), "kind"),
        (json!({"kind": "api", "name": ""}), "name"),
        (json!({"kind": "api", "name": "a\u{0}"}), "name"),
        (json!({"kind": "api", "name": "a\u{1b}[2J"}), "name"),
        (json!({"kind": "api", "name": "x".repeat(10_000)}), "name"),
        (json!({"kind": "api", "key": "mine"}), "key"),
    ] {
        let (status, answer) = keys(&service, Method::POST, &store, "", Some(body.clone())).await;
        assert_eq!((status, answer["error"]["field"].as_str()), (400, Some(field)), "{body}: {answer}");
    }
    let new = || Some(json!({"kind": "write"}));
    for rest in ["", "/none", "/none/rotate"] {
        let method = if rest == "/none" { Method::DELETE } else { Method::POST };
        assert_eq!(keys(&service, method, "nowhere", rest, new().filter(|_| rest.is_empty())).await.0, 404);
    }
    assert_eq!(keys(&service, Method::GET, "nowhere", "", None).await.0, 404);

    // Three came with the store.
    let mut last = Value::Null;
    for _ in 3..100 {
        let (status, made) = keys(&service, Method::POST, &store, "", new()).await;
        assert_eq!(status, 201, "{made}");
        last = made["key_id"].clone();
    }
    assert_eq!(keys(&service, Method::POST, &store, "", new()).await.0, 409);
    // However often one is rotated, no more than so many rows stay.
    for _ in 0..110 {
        let rest = format!("/{}/rotate", last.as_str().unwrap());
        let (status, made) =
            keys(&service, Method::POST, &store, &rest, Some(json!({"overlap_seconds": 0}))).await;
        assert_eq!(status, 201, "{made}");
        last = made["key_id"].clone();
    }
    let (_, list) = keys(&service, Method::GET, &store, "", None).await;
    assert_eq!(list["data"].as_array().unwrap().len(), 200);
    let rows = bed.rows("SELECT count(*) AS n FROM store_keys").await;
    assert_eq!(rows[0]["n"], json!(200));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_everybody_knows_opens_nothing_beyond_loopback() {
    let bed = Bed::start().await;
    let [local, open] = ["127.0.0.1:1", "0.0.0.0:1"].map(|address| address.parse().unwrap());
    // The first start is reachable: the store is made, and its keys do not hold.
    assert_eq!(ensure_demo_store(&bed.pool, &[local, open]).await.unwrap(), Some(open));
    let service = Service::start(&bed).await;
    let read = async |service: &Service| reads(service, "demo", "demo-api-token").await;
    assert_eq!(read(&service).await, 401);
    let (_, list) = keys(&service, Method::GET, "demo", "", None).await;
    assert!(list["data"].as_array().unwrap().iter().all(|key| key["state"] == "suspended"), "{list}");
    // A key of its own serves instead.
    let (_, made) = keys(&service, Method::POST, "demo", "", Some(json!({"kind": "api"}))).await;
    assert_eq!(reads(&service, "demo", made["key"].as_str().unwrap()).await, 200);

    assert_eq!(ensure_demo_store(&bed.pool, &[local]).await.unwrap(), None);
    assert_eq!(read(&service).await, 200);
    service.stop().await;
    // Services of their own on the same database: whoever can be reached takes none of these keys.
    let mut elsewhere = bed.config.clone();
    elsewhere.metrics_address = open;
    let service = Service::start_with(elsewhere).await;
    assert_eq!(read(&service).await, 401);
    assert_eq!(reads(&service, "demo", made["key"].as_str().unwrap()).await, 200);
    service.stop().await;

    // What was revoked stays so.
    let service = Service::start(&bed).await;
    let api = list["data"].as_array().unwrap().iter().find(|key| key["kind"] == "api").unwrap();
    let path = format!("/{}", api["key_id"].as_str().unwrap());
    assert_eq!(keys(&service, Method::DELETE, "demo", &path, None).await.0, 200);
    ensure_demo_store(&bed.pool, &[open]).await.unwrap();
    ensure_demo_store(&bed.pool, &[local]).await.unwrap();
    assert_eq!(read(&service).await, 401);
    service.stop().await;
}
