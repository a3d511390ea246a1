//! The HTTP API: reading rollups with a store's token, administering with the operator's.
//!
//! Answers are JSON. An error is `{"error": {"message": "…", "field": "…"}}`; what went wrong inside is logged, and
//! never told.

mod admin;
mod around;
mod auth;
mod keys;
mod logins;
mod openapi;
mod privacy;
mod read;
mod readers;
mod refused;
mod routes;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use millrace_schemas::demo;
use millrace_service::{
    host::{Hosts, known_hosts_only},
    serve::{self, Options},
    setting,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use routes::{Access, Route, routes};

use crate::{
    clickhouse::Warehouse,
    config::Config,
    error::{Error, Result},
    turn::failing::failing_stores,
    worker::Health,
};

/// Longest that open requests may keep a shutdown waiting.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct State {
    pool: PgPool,
    warehouse: Warehouse,
    health: Arc<Health>,
    admin_token_hash: Option<[u8; 32]>,
    hosts: Hosts,
    connections_max: usize,
    readers: readers::Readers,
    /// Whether tokens that everybody knows are taken: only where nobody else can send any.
    takes_known_keys: bool,
}

impl State {
    /// The state of one API. Fails where the admin token is one that could be guessed.
    pub fn new(config: &Config, pool: PgPool, warehouse: Warehouse, health: Arc<Health>) -> Result<Self> {
        // Set to nothing is not set: that is how a shell leaves a setting out.
        let token = config.admin_token.as_deref().filter(|token| !token.is_empty());
        let token = token.map(setting::admin_token).transpose()?;
        Ok(Self {
            pool,
            warehouse,
            health,
            admin_token_hash: token.map(crate::stores::hash),
            hosts: Hosts::new(&config.hosts),
            connections_max: config.api_connections_max as usize,
            readers: readers::Readers::default(),
            takes_known_keys: demo::reachable(&[config.metrics_address]).is_none(),
        })
    }
}

/// Serves until shut down; open requests get some seconds to finish.
pub async fn serve(listener: TcpListener, mut state: State, shutdown: CancellationToken) -> Result<()> {
    let address =
        listener.local_addr().map_err(|error| Error::Internal(format!("the API's address: {error}")))?;
    state.takes_known_keys &= demo::reachable(&[address]).is_none();
    let options = Options::api(state.connections_max);
    serve::serve(listener, router(state), options, Arc::new(()), shutdown, DRAIN_TIMEOUT).await;
    Ok(())
}

fn router(state: State) -> Router {
    routes::router(&state)
        .fallback(|| async { Failure::new(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(|| async {
            Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this method is not answered here; see /openapi.json",
            )
        })
        .layer(from_fn_with_state(state.hosts.clone(), known_hosts_only))
        .layer(from_fn(around::count))
        .layer(DefaultBodyLimit::max(around::BODY_BYTES_MAX))
        .with_state(state)
}

async fn readyz(axum::extract::State(state): axum::extract::State<State>) -> Response {
    let postgres = async {
        if !state.health.is_migrated() {
            return "the schema is not up to date yet";
        }
        let answer =
            tokio::time::timeout(Duration::from_secs(3), sqlx::query("SELECT 1").execute(&state.pool));
        if matches!(answer.await, Ok(Ok(_))) { "ok" } else { "no answer" }
    };
    let clickhouse = async { if state.warehouse.ping().await.is_ok() { "ok" } else { "no answer" } };
    let (postgres, clickhouse) = tokio::join!(postgres, clickhouse);
    let is_ready = postgres == "ok" && clickhouse == "ok";
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = json!({
        "ready": is_ready, "postgres": postgres, "clickhouse": clickhouse,
        "watermark_age_seconds": state.health.watermark_age().as_secs(),
    });
    // One store's failure is not the service's.
    if is_ready
        && let Ok(Ok((stores, counts))) =
            tokio::time::timeout(Duration::from_secs(3), failing_stores(&state.pool)).await
    {
        body["stores_failing"] = counts.values().sum::<i64>().into();
        body["failing"] = json!(stores);
    }
    (status, Json(body)).into_response()
}

/// A refusal.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    message: String,
    field: Option<String>,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), field: None }
    }

    /// 400 for a field.
    fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), field: Some(field.into()) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut error = json!({"message": self.message});
        if let Some(field) = self.field {
            error["field"] = field.into();
        }
        let mut answer = (self.status, Json(json!({"error": error}))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
        }
        answer
    }
}

/// Postgres's codes for what it cannot hold: a date out of its range, a text with a NUL, the same in `jsonb`.
const CANNOT_BE_HELD: [&str; 4] = ["22007", "22008", "22021", "22P05"];

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if let Error::Postgres(sqlx::Error::Database(refusal)) = &error
            && refusal.code().is_some_and(|code| CANNOT_BE_HELD.contains(&code.as_ref()))
        {
            return Self::new(StatusCode::BAD_REQUEST, "a text with a NUL, or a date that is none");
        }
        tracing::warn!(%error, "a request failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the request cannot be served now")
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

type Answer<T = Json<Value>> = std::result::Result<T, Failure>;
