//! The API, asked as clients ask it.

use millrace_aggregator::{Config, run};
use millrace_schemas::row::EventRow;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::harness::{ADMIN_TOKEN, Bed, click, event};

/// A running aggregator.
pub(crate) struct Service {
    pub(crate) address: String,
    shutdown: CancellationToken,
    running: JoinHandle<millrace_aggregator::Result<()>>,
}

impl Service {
    pub(crate) async fn start(bed: &Bed) -> Self {
        Self::start_with(bed.config.clone()).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(run(config, listener, shutdown.clone()));
        Self { address, shutdown, running }
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = reqwest::Client::new().request(method, format!("{}{path}", self.address));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        self.ask(Method::GET, path, token, None).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, path, ADMIN_TOKEN, Some(body)).await
    }

    /// Asks until the answer's rows are as expected.
    async fn wait_for(&self, path: &str, token: &str, expected: impl Fn(&[Value]) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..4_000 {
            let (status, answer) = self.get(path, token).await;
            if status == 200 && expected(answer["data"].as_array().unwrap()) {
                return answer;
            }
            last = answer;
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("{path}: {last}");
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_are_read_with_the_stores_own_token_only() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.demo().await;
    let service = Service::start(&bed).await;
    let own = |path: &str| format!("/api/v1/stores/demo/{path}");
    bed.insert(&[
        EventRow {
            store_id: "demo",
            order_id: "o1",
            currency: "USD",
            total_minor: Some(1999),
            item_product_id: vec!["a"],
            item_price: vec![19_990_000],
            item_quantity: vec![1000],
            item_discount: vec![0],
            ..event(1, "purchase", "2026-10-01 10:00:00", "v", "a")
        },
        EventRow { store_id: "demo", ..event(2, "view_item", "2026-10-02 10:00:00", "v", "b") },
        // Another store's, which must never be seen.
        event(3, "page_view", "2026-10-02 10:00:00", "v", "a"),
    ])
    .await;
    let mut clicked =
        click(1, millrace_schemas::time::parse_instant("2026-10-01 10:00:00.000").unwrap(), "v", 5, 5);
    clicked.store_id = "demo";
    clicked.selector = "#a";
    bed.insert(&[clicked]).await;

    let path = own("analytics_summary?period_type=day&from=2026-10-01&to=2026-10-01");
    let answer = service.wait_for(&path, "demo-api-token", |rows| rows.len() == 1).await;
    let row = &answer["data"][0];
    assert_eq!(row["total_revenue"], json!("19.99"));
    assert_eq!(row["conversion_rate"], json!(1.0));
    assert_eq!(row["date"], json!("2026-10-01"));
    assert!(row.get("store_id").is_none());
    assert_eq!(answer["watermark"].as_str().map(str::len), Some("2026-10-01T10:00:01.000Z".len()));
    for (path, rows) in [
        ("product_analytics?product_id=a", 1),
        ("product_analytics?product_id=b", 0),
        ("revenue_analytics", 1),
        ("funnels", 1),
        ("funnel_analytics?funnel_name=purchase", 4),
        ("cohort_analytics?period_type=day", 2),
        ("heatmap_data?url=https%3A%2F%2Fshop.example%2Fa", 1),
        ("heatmap_elements", 1),
    ] {
        service.wait_for(&own(path), "demo-api-token", |found| found.len() == rows).await;
    }
    let (_, page) = service.get(&own("analytics_summary?period_type=day&limit=1"), "demo-api-token").await;
    assert_eq!((page["data"].as_array().unwrap().len(), &page["next_offset"]), (1, &json!(1)));
    let (_, page) =
        service.get(&own("analytics_summary?period_type=day&limit=1&offset=1"), "demo-api-token").await;
    assert_eq!((&page["data"][0]["date"], &page["next_offset"]), (&json!("2026-10-02"), &Value::Null));

    for (path, token, status, field) in [
        ("/api/v1/stores/demo/analytics_summary", "", 401, None),
        ("/api/v1/stores/demo/analytics_summary", "wrong", 401, None),
        // A write key is no API token.
        ("/api/v1/stores/demo/analytics_summary", "demo-write-key", 401, None),
        ("/api/v1/stores/s/analytics_summary", "demo-api-token", 403, None),
        ("/api/v1/stores/demo/nothing", "demo-api-token", 404, None),
        ("/api/v1/stores/demo/analytics_summary?from=yesterday", "demo-api-token", 400, Some("from")),
        (
            "/api/v1/stores/demo/analytics_summary?from=2026-10-02&to=2026-10-01",
            "demo-api-token",
            400,
            Some("from"),
        ),
        (
            "/api/v1/stores/demo/analytics_summary?period_type=year",
            "demo-api-token",
            400,
            Some("period_type"),
        ),
        ("/api/v1/stores/demo/analytics_summary?limit=0", "demo-api-token", 400, Some("limit")),
        ("/api/v1/stores/demo/analytics_summary?perod_type=day", "demo-api-token", 400, Some("perod_type")),
        ("/api/v1/stores", "demo-api-token", 403, None),
        // What Postgres cannot hold is the client's mistake, and no better later.
        ("/api/v1/stores/demo/analytics_summary?from=0000-01-01", "demo-api-token", 400, None),
        ("/api/v1/stores/demo/funnels?funnel_name=%00", "demo-api-token", 400, None),
    ] {
        let (found, answer) = service.get(path, token).await;
        assert_eq!((found, answer["error"]["field"].as_str()), (status, field), "{path} {answer}");
    }
    assert_eq!(service.get("/healthz", "").await.0, 200);
    let (status, mut ready) = service.get("/readyz", "").await;
    let age = ready.as_object_mut().unwrap().remove("watermark_age_seconds");
    assert!(age.is_some_and(|age| age.is_u64()));
    let expected =
        json!({"ready": true, "postgres": "ok", "clickhouse": "ok", "stores_failing": 0, "failing": []});
    assert_eq!((status, ready), (200, expected));
    // A store that fails is named, and is no reason to send nobody here.
    sqlx::query(
        "INSERT INTO rollup_backoff (store_id, failures, budget_ms, days_max, retry_at, failing_since, reason)
         SELECT min(id), 3, 10000, 1, clock_timestamp(), clock_timestamp(), 'memory' FROM stores",
    )
    .execute(&bed.pool)
    .await
    .unwrap();
    let (status, ready) = service.get("/readyz", "").await;
    let named = json!([ready["stores_failing"], ready["failing"][0]["reason"]]);
    assert_eq!((status, named), (200, json!([1, "memory"])), "{ready}");
    let (_, document) = service.get("/openapi.json", "").await;
    assert!(document["paths"]["/api/v1/stores/{store_id}/heatmap_data"]["get"].is_object());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_funnels_and_rates_are_administered() {
    let bed = Bed::start().await;
    let service = Service::start(&bed).await;
    let (status, made) = service
        .post("/api/v1/stores", json!({"name": "Shop", "timezone": "Europe/Berlin", "currency": "EUR"}))
        .await;
    assert_eq!(status, 201, "{made}");
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let (store, token) = (text("store_id"), text("api_token"));
    assert!(text("write_key").starts_with("mr_w_") && text("secret_key").starts_with("mr_s_"));
    let path = |rest: &str| format!("/api/v1/stores/{store}/{rest}");

    bed.insert(&[
        EventRow { store_id: &store, ..event(1, "view_item", "2026-10-01 21:30:00", "v", "a") },
        EventRow {
            store_id: &store,
            order_id: "o1",
            currency: "USD",
            total_minor: Some(1000),
            ..event(2, "purchase", "2026-10-01 22:30:00", "v", "a")
        },
    ])
    .await;
    let summary = path("analytics_summary?period_type=day");
    // Two days in Berlin, and dollars without a rate.
    let answer = service.wait_for(&summary, &token, |rows| rows.len() == 2).await;
    assert_eq!(answer["data"][1]["unconverted"], json!({"USD": 1000}));
    // Several of one day, as banks publish them; of one that stands twice the later holds.
    let rate = |currency: &str, rate: &str| json!({"date": "2026-10-02", "currency": currency, "base": "EUR", "rate": rate});
    let rates = json!([rate("USD", "9.9"), rate("GBP", "1.15"), rate("USD", "0.9215")]);
    assert_eq!(service.post("/api/v1/exchange_rates", rates).await.0, 200);
    service.wait_for(&summary, &token, |rows| rows[1]["total_revenue"] == json!("9.22")).await;

    let funnel =
        |steps: Value| json!({"name": "f", "order_mode": "any", "window_seconds": 3600, "steps": steps});
    let steps = json!([{"name": "look", "event": "product_view"}, {"name": "buy", "event": "purchase"}]);
    assert_eq!(service.post(&path("funnels"), funnel(steps)).await.0, 201);
    let counted = path("funnel_analytics");
    service
        .wait_for(&counted, &token, |rows| rows.len() == 4 && rows[1]["users_completed"] == json!(1))
        .await;
    let filters = json!([{"field": "value", "operator": "greater_than", "value": 5}]);
    let steps = json!([{"name": "look", "event": "view_item"}, {"name": "buy", "event": "purchase", "filters": filters}]);
    assert_eq!(service.post(&path("funnels"), funnel(steps)).await.0, 201);
    service
        .wait_for(&counted, &token, |rows| rows.len() == 2 && rows[0]["users_completed"] == json!(0))
        .await;
    let wrong = json!([{"name": "look", "event": "x"}, {"name": "buy", "event": "y", "filters": [{"field": "store_id", "operator": "exists"}]}]);
    let (status, answer) = service.post(&path("funnels"), funnel(wrong)).await;
    assert_eq!((status, answer["error"]["field"].as_str()), (400, Some("steps[1].filters[0]")));
    assert_eq!(service.ask(Method::DELETE, &path("funnels/f"), ADMIN_TOKEN, None).await.0, 204);
    assert_eq!(service.ask(Method::DELETE, &path("funnels/f"), ADMIN_TOKEN, None).await.0, 404);
    assert_eq!(service.get(&counted, &token).await.1["data"], json!([]));

    // In UTC it is one day, and the other one vanishes.
    let zone = Some(json!({"timezone": "UTC", "events_per_second": 50}));
    assert_eq!(
        service.ask(Method::PATCH, &format!("/api/v1/stores/{store}"), ADMIN_TOKEN, zone).await.0,
        200
    );
    let answer = service.wait_for(&summary, &token, |rows| rows.len() == 1).await;
    assert_eq!(answer["data"][0]["date"], json!("2026-10-01"));
    let (_, all) = service.get("/api/v1/stores", ADMIN_TOKEN).await;
    assert_eq!(
        (&all["data"][0]["timezone"], &all["data"][0]["events_per_second"]),
        (&json!("UTC"), &json!(50))
    );

    for (body, field) in [
        (json!({"name": "x", "timezone": "Mars/Olympus", "currency": "EUR"}), "timezone"),
        (json!({"name": "x", "timezone": "UTC", "currency": "XYZ"}), "currency"),
        (json!({"timezone": "UTC", "currency": "EUR"}), "name"),
        (json!({"name": "x", "timezone": "UTC", "currency": "EUR", "colour": 1}), "colour"),
        (
            json!({"name": "x", "timezone": "UTC", "currency": "EUR", "max_event_age_days": 0}),
            "max_event_age_days",
        ),
    ] {
        let (status, answer) = service.post("/api/v1/stores", body).await;
        assert_eq!((status, answer["error"]["field"].as_str()), (400, Some(field)));
    }
    let audit = bed.rows("SELECT action FROM admin_audit ORDER BY id").await;
    let actions: Vec<_> = audit.iter().map(|row| row["action"].as_str().unwrap()).collect();
    let expected =
        ["create_store", "put_exchange_rates", "put_funnel", "put_funnel", "delete_funnel", "change_store"];
    assert_eq!(actions, expected);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboards_role_sees_one_store() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.add_store("t", "UTC", "USD").await;
    bed.insert(&[
        event(1, "ping", "2026-10-01 10:00:00", "v", "a"),
        EventRow { store_id: "t", ..event(2, "ping", "2026-10-01 10:00:00", "v", "a") },
    ])
    .await;
    bed.roll().await;
    let mut transaction = bed.pool.begin().await.unwrap();
    sqlx::query("SET LOCAL ROLE millrace_dashboard").execute(&mut *transaction).await.unwrap();
    let count = "SELECT count(*) FROM analytics_summary";
    let none: i64 = sqlx::query_scalar(count).fetch_one(&mut *transaction).await.unwrap();
    sqlx::query("SET LOCAL millrace.store_id = 's'").execute(&mut *transaction).await.unwrap();
    let one: i64 = sqlx::query_scalar(count).fetch_one(&mut *transaction).await.unwrap();
    assert_eq!((none, one), (0, 3));
    assert!(sqlx::query("SELECT * FROM store_keys").execute(&mut *transaction).await.is_err());
}
