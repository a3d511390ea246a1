//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use millrace_service::{host::Hosts, serve::serve_metrics};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// Renders the metrics of the process' recorder.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves until `shutdown` is cancelled.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    render: RenderMetrics,
    hosts: Hosts,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(|| std::future::ready(Json(json!({"status": "ok"})))))
        .route("/readyz", get(readyz).with_state(health));
    serve_metrics(listener, router, move || render(), hosts, shutdown).await;
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let readiness = health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}
