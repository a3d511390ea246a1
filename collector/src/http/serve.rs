//! Connections: accepted one by one, bounded in number, in time and in the size of their heads, and drained at the end.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use hyper::{
    Request,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::{
    App, Peer,
    connections::{Connection, Connections},
    endpoint, router,
    stream::Stream,
    unread::Given,
};
use crate::{
    config::ConnectionConfig,
    metric::{Endpoint, Metrics},
};

/// Files that the collector needs beside its connections: the log's, Postgres's, the metrics'.
const OTHER_FILES: u64 = 128;
/// How long room is waited for before more is made.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);

/// Serves until `stop`, then lets open requests finish within `patience`.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    config: &ConnectionConfig,
    stop: CancellationToken,
    patience: Duration,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.head_timeout_ms))
        .max_headers(config.headers_max.into())
        .max_buf_size(config.head_bytes_max as usize);
    let write_timeout = Duration::from_millis(config.write_timeout_ms);
    let connections_max = within_open_files(config.connections_max as usize);
    let permits = Arc::new(Semaphore::new(connections_max));
    let open = Connections::new(connections_max, app.trusted_proxies.clone());
    let router = router(Arc::clone(&app));
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: some are given back.
                let closed = open.make_room();
                app.metrics.closed_for_room(closed);
                tracing::warn!(%error, closed, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = room(&permits, &open, &app.metrics) => permit,
        };
        // Answers are small and written whole: waiting for more to send would only delay them.
        let _ = tcp.set_nodelay(true);
        let seat = open.enter(peer.ip());
        let id = seat.id();
        let service = service(router.clone(), Arc::clone(&app), peer.ip(), Arc::clone(&seat.connection));
        let stream = TokioIo::new(Stream::new(tcp, write_timeout));
        let connection = graceful.watch(http.serve_connection(stream, service));
        let metrics = Arc::clone(&app.metrics);
        let task = tasks.spawn(async move {
            // Given back in this order, also when this task is aborted.
            let (_permit, _seat) = (permit, seat);
            if let Err(error) = connection.await {
                count_broken(&metrics, &error);
            }
        });
        open.served_by(id, task);
    }
    drop(listener);
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        let cut_off = open.len();
        tracing::warn!(cut_off, "requests did not finish in time; their senders were not answered");
    }
    tasks.shutdown().await;
}

/// A place for one more connection.
async fn room(
    permits: &Arc<Semaphore>,
    open: &Connections,
    metrics: &Metrics,
) -> Result<OwnedSemaphorePermit, AcquireError> {
    loop {
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Ok(permit);
        }
        metrics.closed_for_room(open.make_room());
        // When all are busy none is closed; they will not be busy for long, and need not end by themselves then.
        let permit = Arc::clone(permits).acquire_owned();
        if let Ok(permit) = tokio::time::timeout(ROOM_INTERVAL, permit).await {
            return permit;
        }
    }
}

/// As many connections as there may be open files. Many systems start programs with a low limit, and let them raise it.
fn within_open_files(connections_max: usize) -> usize {
    let wanted = connections_max as u64 + OTHER_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(mut allowed) = current else { return connections_max };
    if allowed < wanted {
        let raised = maximum.map_or(wanted, |maximum| maximum.min(wanted));
        if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }).is_ok() {
            allowed = raised;
        }
    }
    let most = usize::try_from(allowed.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX).max(1);
    if most < connections_max {
        tracing::warn!(most, "fewer connections than --connections-max: raise the limit of open files");
    }
    connections_max.min(most)
}

type Answer = Result<axum::response::Response, Infallible>;

fn service(
    router: Router,
    app: Arc<App>,
    peer: IpAddr,
    connection: Arc<Connection>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future: Send,
> {
    service_fn(move |mut request: Request<Incoming>| {
        let started = Instant::now();
        connection.wait(started);
        let endpoint = endpoint(request.method(), request.uri().path());
        request.extensions_mut().insert(Peer { address: peer, connection: Arc::clone(&connection) });
        let answer = router.clone().call(Given::of(request, &connection).map(Body::new));
        let (app, connection) = (Arc::clone(&app), Arc::clone(&connection));
        async move {
            let mut answer: Answer = answer.await;
            let mut ended = Instant::now();
            connection.wait(ended);
            let mut is_last = false;
            if let Some(unread) = connection.take_unread() {
                is_last = !unread.discard(app.limits.body_bytes_max, started + app.body_timeout).await;
                ended = Instant::now();
            }
            is_last |= app.is_draining.load(Ordering::Relaxed);
            if let Ok(answer) = &mut answer {
                app.metrics.request(endpoint, answer.status().as_u16(), ended.duration_since(started));
                if is_last {
                    // The client's next request had better go to another collector; or what is left of the body would be
                    // read as the next request, or waited for.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
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
