//! Logins for people, through the API.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{
    api::Service,
    harness::{ADMIN_TOKEN, Bed, eventually},
};

const LOGINS: &str = "/api/v1/stores/s/logins";

async fn count(login: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM rollup_watermarks").fetch_one(login).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_made_listed_and_dropped() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.add_store("t", "UTC", "USD").await;
    for store in ["s", "t"] {
        sqlx::query("INSERT INTO rollup_watermarks VALUES ($1, now())")
            .bind(store)
            .execute(&bed.pool)
            .await
            .unwrap();
    }
    let service = Service::start(&bed).await;
    let (status, made) =
        service.ask(Method::POST, LOGINS, ADMIN_TOKEN, Some(json!({"name": "Grafana"}))).await;
    assert_eq!(status, 201, "{made}");
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let (login, password) = (text("login"), text("password"));
    assert!(text("url").contains(&format!("//{login}:{password}@127.0.0.1:")), "{made}");
    let mut person = PgConnection::connect(&text("url")).await.unwrap();
    assert_eq!(count(&mut person).await.unwrap(), 1);
    let wrong = text("url").replace(&password, &password.replace(char::is_alphanumeric, "0"));
    PgConnection::connect(&wrong).await.unwrap_err();

    let (_, listed) = service.get(LOGINS, ADMIN_TOKEN).await;
    assert_eq!((&listed["data"][0]["login"], &listed["data"][0]["name"]), (&json!(login), &json!("Grafana")));
    assert!(!listed.to_string().contains(&password) && listed["data"].as_array().unwrap().len() == 1);
    assert_eq!(service.get("/api/v1/stores/t/logins", ADMIN_TOKEN).await.1, json!({"data": []}));
    // Nothing of the password is in Postgres but its verifier.
    let stored = bed.rows("SELECT detail, action FROM admin_audit").await;
    assert_eq!(stored[0]["action"], json!("create_login"));
    assert!(!json!(stored).to_string().contains(&password));

    for (method, path, token, body, status) in [
        (Method::POST, LOGINS, "", None, 401),
        (Method::GET, LOGINS, "wrong", None, 401),
        (Method::POST, "/api/v1/stores/nobody/logins", ADMIN_TOKEN, None, 404),
        (Method::GET, "/api/v1/stores/nobody/logins", ADMIN_TOKEN, None, 404),
        (Method::POST, LOGINS, ADMIN_TOKEN, Some(json!({"name": ""})), 400),
        (Method::POST, LOGINS, ADMIN_TOKEN, Some(json!({"login": "postgres"})), 400),
        (Method::DELETE, "/api/v1/stores/s/logins/postgres", ADMIN_TOKEN, None, 404),
        (Method::DELETE, &format!("/api/v1/stores/t/logins/{login}"), ADMIN_TOKEN, None, 404),
        (Method::DELETE, &format!("{LOGINS}/{login}"), "", None, 401),
    ] {
        let (found, answer) = service.ask(method.clone(), path, token, body).await;
        assert_eq!(found, status, "{method} {path} {answer}");
    }
    assert_eq!(count(&mut person).await.unwrap(), 1);

    let gone = service.ask(Method::DELETE, &format!("{LOGINS}/{login}"), ADMIN_TOKEN, None).await;
    assert_eq!(gone.0, 204, "{}", gone.1);
    eventually("the session has ended", async || count(&mut person).await.is_err()).await;
    PgConnection::connect(&text("url")).await.unwrap_err();
    let roles = bed.rows("SELECT rolname FROM pg_roles WHERE rolname LIKE 'millrace_login%'").await;
    assert_eq!(roles, [] as [Value; 0]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_bounded_and_go_with_their_store() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let service = Service::start(&bed).await;
    let make = async |store: &str| {
        service.ask(Method::POST, &format!("/api/v1/stores/{store}/logins"), ADMIN_TOKEN, None).await
    };
    let mut urls = Vec::new();
    for _ in 0..10 {
        let (status, made) = make("s").await;
        assert_eq!(status, 201, "{made}");
        urls.push(made["url"].as_str().unwrap().to_owned());
    }
    let (status, answer) = make("s").await;
    assert_eq!((status, answer["error"]["message"].as_str()), (409, Some("a store has at most 10 logins")));
    // All logins together leave the services their connections: 100 less 3 of superusers less 25.
    let mut made = 10;
    for store in ["t", "u"] {
        bed.add_store(store, "UTC", "USD").await;
        while let (201, _) = make(store).await {
            made += 1;
        }
    }
    assert_eq!(made, 72 / 3);
    let (status, answer) = make("u").await;
    let told = answer["error"]["message"].as_str().unwrap();
    assert!(status == 409 && told.contains("max_connections"), "{answer}");

    // A login that has left something behind is dropped all the same.
    let mut person = PgConnection::connect(&urls[0]).await.unwrap();
    person.execute("SET default_transaction_read_only = off").await.unwrap();
    person.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC").await.unwrap();
    sqlx::query("DELETE FROM stores WHERE id = 's'").execute(&bed.pool).await.unwrap();
    eventually("the session has ended", async || count(&mut person).await.is_err()).await;
    for url in &urls {
        PgConnection::connect(url).await.unwrap_err();
    }
    let roles = bed.rows("SELECT count(*) AS n FROM pg_roles WHERE rolname LIKE 'millrace_login%'").await;
    assert_eq!(roles, [json!({"n": 14})]);
    service.stop().await;
}
