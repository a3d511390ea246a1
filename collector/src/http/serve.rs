//! Connections: accepted one by one, bounded in number, in time and in the size of their heads, and drained at the end.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::{Peer, endpoint};
use crate::{
    config::ConnectionConfig,
    metric::{Endpoint, Metrics},
};

/// Serves until `stop`, then lets open requests finish within `patience`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Arc<Metrics>,
    config: &ConnectionConfig,
    stop: CancellationToken,
    patience: Duration,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.head_timeout_ms))
        .max_headers(config.headers_max.into())
        .max_buf_size(config.head_bytes_max as usize);
    let permits = Arc::new(Semaphore::new(config.connections_max as usize));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let Some((stream, peer, permit)) = accepted else { continue };
        let connection = {
            let service = service(router.clone(), Arc::clone(&metrics), peer);
            http.serve_connection(TokioIo::new(stream), service)
        };
        let connection = graceful.watch(connection);
        let metrics = Arc::clone(&metrics);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                count_broken(&metrics, &error);
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were cut off");
    }
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are small and written whole: waiting for more to send would only delay them.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, permit))
        }
        Err(error) => {
            // Out of file descriptors, most likely: some will come back.
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

type Answer = Result<axum::response::Response, Infallible>;

fn service(
    router: Router,
    metrics: Arc<Metrics>,
    peer: SocketAddr,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future: Send,
> {
    service_fn(move |mut request: Request<Incoming>| {
        let started = Instant::now();
        let endpoint = endpoint(request.method(), request.uri().path());
        request.extensions_mut().insert(Peer(peer.ip()));
        let answer = router.clone().call(request.map(Body::new));
        let metrics = Arc::clone(&metrics);
        async move {
            let answer: Answer = answer.await;
            if let Ok(answer) = &answer {
                metrics.request(endpoint, answer.status().as_u16(), started.elapsed());
            }
            answer
        }
    })
}

/// hyper has answered these by itself, where an answer was possible.
fn count_broken(metrics: &Metrics, error: &hyper::Error) {
    if error.is_parse_too_large() {
        metrics.ended(Endpoint::Connection, 431);
    } else if error.is_timeout() {
        metrics.ended(Endpoint::Connection, 408);
    } else if error.is_parse() {
        metrics.ended(Endpoint::Connection, 400);
    }
    tracing::debug!(%error, "a connection ended");
}
