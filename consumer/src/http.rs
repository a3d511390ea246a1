//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
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
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(health, render))
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await
}

fn router(health: Health, render: RenderMetrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(health))
        .route("/metrics", get(metrics).with_state(render))
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let readiness = health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

async fn metrics(State(render): State<RenderMetrics>) -> impl IntoResponse {
    ([("content-type", "text/plain; version=0.0.4")], render())
}
