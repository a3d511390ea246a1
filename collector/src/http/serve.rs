//! What is the collector's own in serving: its settings, its metrics, and the shape of its refusals.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{http::StatusCode, response::Response};
use hyper::{Request, body::Incoming};
use millrace_service::serve::{self, Hooks, Options, Share};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{App, endpoint, pages, router};
use crate::{config::ConnectionConfig, metric::Endpoint};

/// Serves until `stop`, then lets open requests finish within `patience`.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    config: &ConnectionConfig,
    stop: CancellationToken,
    patience: Duration,
) {
    let options = Options {
        share: Share::Rest,
        connections_max: config.connections_max as usize,
        head_timeout: Duration::from_millis(config.head_timeout_ms),
        head_bytes_max: config.head_bytes_max as usize,
        headers_max: config.headers_max.into(),
        write_timeout: Duration::from_millis(config.write_timeout_ms),
        body_bytes_max: app.limits.body_bytes_max,
        body_timeout: app.body_timeout,
        trusted_proxies: app.trusted_proxies.clone(),
    };
    serve::serve(listener, router(Arc::clone(&app)), options, app, stop, patience).await;
}

impl Hooks for App {
    type Request = Endpoint;

    fn began(&self, request: &Request<Incoming>) -> Endpoint {
        endpoint(request.method(), request.uri().path())
    }

    fn answered(&self, endpoint: Endpoint, status: StatusCode, elapsed: Duration) {
        self.metrics.request(endpoint, status.as_u16(), elapsed);
    }

    fn broken(&self, status: StatusCode) {
        self.metrics.ended(Endpoint::Connection, status.as_u16());
    }

    fn closed_for_room(&self, connections: usize) {
        self.metrics.closed_for_room(connections);
    }

    fn bad_request(&self, message: &'static str) -> Response {
        pages::error(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}
