//! The limit of the collector: an axum server that reads each body and answers 202.

use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::StatusCode,
    routing::{get, post},
    serve::ListenerExt as _,
};
use tokio::net::TcpListener;

/// Serves until the listener fails, with the same socket options as the collector.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/collect", post(take))
        .route("/readyz", get(|| async {}))
        .layer(DefaultBodyLimit::max(1 << 20));
    let listener = listener.tap_io(|stream| {
        // A connection that is gone already shows itself when it is read.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await
}

async fn take(body: Bytes) -> StatusCode {
    drop(body);
    StatusCode::ACCEPTED
}
