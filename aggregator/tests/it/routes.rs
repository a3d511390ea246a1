//! Every route, by every method, with every kind of token, for the store of the token, another store and none.

use millrace_aggregator::api::{Access, Route, routes};
use reqwest::{Client, Method, Response, header::WWW_AUTHENTICATE};
use serde_json::{Value, json};

use crate::{
    api::Service,
    harness::{ADMIN_TOKEN, Bed},
    keys::make_store,
};

const METHODS: [Method; 6] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Somebody's attempt to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Nothing that says anything.
    Nobody,
    /// The API token of the store that is tried.
    Own,
    /// That of another one.
    Other,
    /// The operator.
    Admin,
}

struct Matrix {
    bed: Bed,
    service: Service,
    client: Client,
    /// Who, and the header that says so.
    tokens: Vec<(Who, Option<String>)>,
    own: String,
    other: String,
    /// Nothing of these may stand in a refusal.
    secrets: Vec<String>,
}

impl Matrix {
    async fn new() -> Self {
        let bed = Bed::start().await;
        let service = Service::start(&bed).await;
        let [own, write, secret, api] = make_store(&service, "name-of-the-own-store").await;
        let [other, _, _, others] = make_store(&service, "name-of-the-other-store").await;
        let [mut revoked, mut ended] = [String::new(), String::new()];
        for (token, column) in [(&mut revoked, "revoked_at"), (&mut ended, "valid_until")] {
            let path = format!("/api/v1/stores/{own}/keys");
            let (_, made) = service.ask(Method::POST, &path, ADMIN_TOKEN, Some(json!({"kind": "api"}))).await;
            made["key"].as_str().unwrap().clone_into(token);
            let sql = format!("UPDATE store_keys SET {column} = now() WHERE key_id = $1");
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(made["key_id"].as_str().unwrap())
                .execute(&bed.pool)
                .await
                .unwrap();
        }
        let bearer = |token: &str| Some(format!("Bearer {token}"));
        let tokens = vec![
            (Who::Nobody, None),
            (Who::Nobody, Some("Bearer".to_owned())),
            (Who::Nobody, Some(api.clone())),
            (Who::Nobody, Some(format!("Basic {ADMIN_TOKEN}"))),
            (Who::Nobody, bearer("mr_a_0")),
            (Who::Nobody, bearer(&format!("{ADMIN_TOKEN}0"))),
            (Who::Nobody, bearer(&write)),
            (Who::Nobody, bearer(&secret)),
            (Who::Nobody, bearer(&revoked)),
            (Who::Nobody, bearer(&ended)),
            (Who::Own, bearer(&api)),
            (Who::Other, bearer(&others)),
            (Who::Admin, bearer(ADMIN_TOKEN)),
        ];
        let secrets = vec![own.clone(), other.clone(), write, secret, api, others, revoked, ended]
            .into_iter()
            .chain(["name-of-the", ADMIN_TOKEN].map(str::to_owned))
            .collect();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { bed, service, client, tokens, own, other, secrets }
    }

    async fn ask(&self, method: &Method, path: &str, header: Option<&str>, body: Option<Value>) -> Response {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.service.address));
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// All that a request could change.
    async fn everything(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for table in
            ["stores", "store_keys", "store_logins", "funnels", "erasures", "exchange_rates", "admin_audit"]
        {
            all.extend(self.bed.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2")).await);
        }
        all
    }

    async fn audited(&self) -> i64 {
        let rows = self.bed.rows("SELECT count(*) AS n FROM admin_audit").await;
        rows[0]["n"].as_i64().unwrap()
    }
}

/// The status with which somebody is refused; `None`: let in.
fn refusal(access: Access, who: Who) -> Option<u16> {
    match (access, who) {
        (Access::Open, _) | (Access::Store, Who::Own) | (Access::Admin, Who::Admin) => None,
        (Access::Store, Who::Other) | (Access::Admin, Who::Own | Who::Other) => Some(403),
        (Access::Store, Who::Nobody | Who::Admin) | (Access::Admin, Who::Nobody) => Some(401),
    }
}

/// A path of a route, of this store.
fn fill(path: &str, store: &str, ids: &[(&str, String)]) -> String {
    let mut filled = path.replace("{store_id}", store).replace("{rollup}", "analytics_summary");
    for (name, value) in ids {
        filled = filled.replace(&format!("{{{name}}}"), value);
    }
    assert!(!filled.contains('{'), "say in `ids` what stands for the parameter of {filled}");
    filled
}

fn some_ids(key_id: &str, erasure_id: &str, login: &str) -> Vec<(&'static str, String)> {
    [
        ("key_id", key_id),
        ("erasure_id", erasure_id),
        ("login", login),
        ("visitor_id", "v"),
        ("user_id", "u"),
        ("funnel_name", "f"),
    ]
    .map(|(name, id)| (name, id.to_owned()))
    .into()
}

/// A request that the operator may send to a route.
fn good_body(method: &Method, path: &str) -> Option<Value> {
    let ending = path.rsplit('/').next().unwrap();
    match (method.as_str(), ending) {
        ("POST", "stores") => Some(json!({"name": "n", "timezone": "UTC", "currency": "EUR"})),
        ("PATCH", "{store_id}") => Some(json!({"name": "new"})),
        ("POST" | "PUT", "exchange_rates") => {
            Some(json!([{"date": "2026-10-02", "currency": "USD", "base": "EUR", "rate": 1}]))
        }
        ("POST", "funnels") => {
            let steps = json!([{"name": "a", "event": "a"}, {"name": "b", "event": "b"}]);
            Some(json!({"name": "f", "steps": steps}))
        }
        ("POST", "logins") => Some(json!({"name": "n"})),
        ("POST", "keys") => Some(json!({"kind": "secret"})),
        ("GET" | "DELETE", _) | ("POST", "rotate") => None,
        _ => panic!("say here what a good request to {method} {path} holds"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_through_a_route_that_is_not_theirs() {
    let matrix = Matrix::new().await;
    let routes = routes();
    let before = matrix.everything().await;
    let ids = some_ids("none", "none", "none");
    for Route { path, .. } in &routes {
        for method in METHODS {
            let route = routes.iter().find(|route| route.path == *path && route.method == method);
            for (who, header) in &matrix.tokens {
                let expected = match route {
                    None => Some(405),
                    Some(route) => refusal(route.access, *who),
                };
                let Some(expected) = expected else { continue };
                let mut bodies = Vec::new();
                // The store of the token, another one, and one that does not exist.
                for store in [&matrix.own, &matrix.other, "nowhere"] {
                    // For the other store, the other's token is the one of the store.
                    let expected = match (route.map(|route| route.access), who) {
                        (Some(Access::Store), Who::Other) if *store == matrix.other => continue,
                        _ => expected,
                    };
                    let at = fill(path, store, &ids);
                    let answer = matrix.ask(&method, &at, header.as_deref(), None).await;
                    let what = format!("{method} {at} as {who:?} with {header:?}");
                    assert_eq!(answer.status().as_u16(), expected, "{what}");
                    assert_eq!(answer.headers().contains_key(WWW_AUTHENTICATE), expected == 401, "{what}");
                    let text = answer.text().await.unwrap();
                    let body: Value =
                        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{what}: {text}"));
                    assert!(body["error"]["message"].is_string(), "{what}: {text}");
                    let told = matrix.secrets.iter().find(|secret| text.contains(secret.as_str()));
                    assert_eq!(told, None, "{what}: {text}");
                    bodies.push(text);
                }
                // Whether a store exists is nobody's business.
                bodies.dedup();
                assert_eq!(bodies.len(), 1, "{method} {path} as {who:?}: {bodies:?}");
            }
        }
    }
    assert_eq!(matrix.everything().await, before, "a refused request has changed something");
    matrix.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_own_token_opens_no_other_store() {
    let matrix = Matrix::new().await;
    let (_, own) = matrix.tokens.iter().find(|(who, _)| *who == Who::Own).unwrap();
    for route in routes().iter().filter(|route| route.access == Access::Store) {
        for (store, status) in [(&*matrix.own, 200), (&*matrix.other, 403), ("nowhere", 403)] {
            let at = fill(route.path, store, &[]);
            let answer = matrix.ask(&route.method, &at, own.as_deref(), None).await;
            assert_eq!(answer.status().as_u16(), status, "{at}");
        }
        // A token in the address would stand in logs and histories: it is none.
        let token = own.as_deref().unwrap().trim_start_matches("Bearer ");
        for name in ["token", "access_token", "api_token", "key", "authorization"] {
            let at = format!("{}?{name}={token}", fill(route.path, &matrix.own, &[]));
            assert_eq!(matrix.ask(&route.method, &at, None, None).await.status().as_u16(), 401, "{at}");
        }
    }
    // Two tokens are none: who stands between might look at the other one.
    let request = matrix.client.get(format!("{}/api/v1/stores", matrix.service.address));
    let request = request.header("authorization", format!("Bearer {ADMIN_TOKEN}"));
    let answer = request.header("authorization", own.as_deref().unwrap()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    matrix.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_changes_is_written_down() {
    let matrix = Matrix::new().await;
    let admin = format!("Bearer {ADMIN_TOKEN}");
    for Route { method, path, access, .. } in routes() {
        if access != Access::Admin {
            continue;
        }
        // Each has a key of its own, the latest receipt, and the login.
        let keys = format!("/api/v1/stores/{}/keys", matrix.own);
        let made = matrix.ask(&Method::POST, &keys, Some(&admin), Some(json!({"kind": "write"}))).await;
        let made: Value = made.json().await.unwrap();
        let erasures = matrix.bed.rows("SELECT id FROM erasures ORDER BY requested_at DESC").await;
        let erasure = erasures.first().map_or("none", |row| row["id"].as_str().unwrap());
        let logins = matrix.bed.rows("SELECT login FROM store_logins").await;
        let login = logins.first().map_or("none", |row| row["login"].as_str().unwrap());
        let at = fill(path, &matrix.own, &some_ids(made["key_id"].as_str().unwrap(), erasure, login));

        let before = matrix.audited().await;
        let answer = matrix.ask(&method, &at, Some(&admin), good_body(&method, path)).await;
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert!((200..300).contains(&status), "{method} {at}: {status} {text}");
        // Who hands out what is known of a person has that written down, too.
        let is_audited = method != Method::GET || path.ends_with("/export");
        let written = matrix.audited().await - before;
        assert_eq!(written, i64::from(is_audited), "{method} {at}");
    }
    matrix.service.stop().await;
}
