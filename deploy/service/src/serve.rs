//! One way of serving for every listener.
//!
//! Connections are bounded in number, in time and in what they may send, whatever listens: a listener that is left open
//! takes the files of the others in its process. A head is bounded in time, bytes and headers; who takes all connections
//! takes them from himself ([`connections`]); answers have to be read; what two readers could read differently is refused
//! ([`framing`], [`refusal`]); refused bodies are read to their end within bounds ([`body`]); and every listener has its
//! part of the process's open files ([`files`]).
//!
//! Answers that are not the router's: 400 for what is no request or names no one host, 408 by closing the connection, 431
//! for a head over its bounds. But for a wrong host they have no body.

mod body;
mod connections;
mod files;
mod framing;
mod refusal;
mod stream;

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use ipnet::IpNet;
use tokio::{
    net::TcpListener,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use self::{
    body::{Given, Streamed},
    connections::Connections,
    files::Held,
    refusal::refusal,
    stream::Stream,
};
use crate::host::{Hosts, known_hosts_only};

pub use self::{
    connections::{Connection, network},
    files::Share,
};

/// How long room is waited for before more is made.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);
/// hyper's buffers are not smaller.
const BUFFER_BYTES_MIN: usize = 8 << 10;

/// The bounds of a listener.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which part of the process's open files it may take.
    pub share: Share,
    /// Connections at a time, at most, and never more than its share of open files.
    pub connections_max: usize,
    /// Until a request's head must be complete; also how long a connection may stay idle.
    pub head_timeout: Duration,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Headers of a request.
    pub headers_max: usize,
    /// How long a client may take none of its answer's bytes.
    pub write_timeout: Duration,
    /// Bytes of a body that is wanted; how much more is read of one that is not.
    pub body_bytes_max: usize,
    /// Until a body that is not wanted must be complete.
    pub body_timeout: Duration,
    /// Proxies: their connections stand for many clients, and are closed last.
    pub trusted_proxies: Vec<IpNet>,
}

impl Options {
    /// For an API of so many connections.
    pub const fn api(connections_max: usize) -> Self {
        Self {
            share: Share::Eighth,
            connections_max,
            head_timeout: Duration::from_secs(30),
            head_bytes_max: 32 << 10,
            headers_max: 100,
            write_timeout: Duration::from_secs(10),
            body_bytes_max: 1 << 20,
            body_timeout: Duration::from_secs(10),
            trusted_proxies: Vec::new(),
        }
    }

    /// For metrics, health and readiness: few ask for them, and send nothing.
    pub fn metrics() -> Self {
        Self {
            share: Share::Sixteenth,
            head_timeout: Duration::from_secs(10),
            head_bytes_max: 16 << 10,
            body_bytes_max: 0,
            ..Self::api(64)
        }
    }
}

/// What a listener does beside serving its router.
pub trait Hooks: Send + Sync + 'static {
    /// What is remembered of a request until it is answered.
    type Request: Send;

    /// A request's head is complete.
    fn began(&self, request: &Request<Incoming>) -> Self::Request;

    /// Its answer is about to be sent.
    fn answered(&self, request: Self::Request, status: StatusCode, elapsed: Duration) {
        let _ = (request, status, elapsed);
    }

    /// Something ended with this status before it was a request.
    fn broken(&self, status: StatusCode) {
        tracing::debug!(%status, "no request");
    }

    /// Connections were closed to make room for others.
    fn closed_for_room(&self, connections: usize) {
        tracing::debug!(connections, "connections closed to make room");
    }

    /// The answer to a request that names its host wrongly.
    fn bad_request(&self, message: &'static str) -> Response {
        error(StatusCode::BAD_REQUEST, message)
    }

    /// Whether clients are asked to send their next request elsewhere.
    fn is_draining(&self) -> bool {
        false
    }
}

/// A listener that does nothing else.
impl Hooks for () {
    type Request = ();

    fn began(&self, _: &Request<Incoming>) {}
}

/// The connection that a request comes over: one of its extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address that it comes from.
    pub address: IpAddr,
    /// The connection.
    pub connection: Arc<Connection>,
}

/// A refusal as JSON.
pub fn error(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(serde_json::json!({"error": {"message": message}}))).into_response()
}

/// Serves until `stop`, then lets open requests finish within `patience`.
pub async fn serve<H: Hooks>(
    listener: TcpListener,
    router: Router,
    options: Options,
    hooks: Arc<H>,
    stop: CancellationToken,
    patience: Duration,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .max_headers(options.headers_max)
        .max_header_size(options.head_bytes_max)
        .max_buf_size(options.head_bytes_max.max(BUFFER_BYTES_MIN));
    let held = Held::take(options.share, options.connections_max);
    let permits = Arc::new(Semaphore::new(held.connections()));
    let open = Connections::new(held.connections(), options.trusted_proxies.clone());
    let options = Arc::new(options);
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
                hooks.closed_for_room(closed);
                tracing::warn!(%error, closed, "a connection was not accepted");
                tokio::time::sleep(ROOM_INTERVAL).await;
                continue;
            }
        };
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = room(&permits, &open, &*hooks) => permit,
        };
        // Answers are small and written whole: waiting for more to send would only delay them.
        let _ = tcp.set_nodelay(true);
        let seat = open.enter(peer.ip());
        let id = seat.id();
        let peer = Peer { address: peer.ip(), connection: Arc::clone(&seat.connection) };
        let service = service(router.clone(), Arc::clone(&hooks), Arc::clone(&options), peer);
        let stream = TokioIo::new(Stream::new(tcp, options.write_timeout));
        let connection = graceful.watch(http.serve_connection(stream, service));
        let hooks = Arc::clone(&hooks);
        let task = tasks.spawn(async move {
            // Given back in this order, also when this task is aborted.
            let (_permit, _seat) = (permit, seat);
            if let Err(error) = connection.await {
                tell_broken(&*hooks, &error);
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
async fn room<H: Hooks>(
    permits: &Arc<Semaphore>,
    open: &Connections,
    hooks: &H,
) -> Result<OwnedSemaphorePermit, AcquireError> {
    loop {
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Ok(permit);
        }
        hooks.closed_for_room(open.make_room());
        // When all are busy none is closed; they will not be busy for long, and need not end by themselves then.
        let permit = Arc::clone(permits).acquire_owned();
        if let Ok(permit) = tokio::time::timeout(ROOM_INTERVAL, permit).await {
            return permit;
        }
    }
}

fn service<H: Hooks>(
    router: Router,
    hooks: Arc<H>,
    options: Arc<Options>,
    peer: Peer,
) -> impl hyper::service::Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> {
    service_fn(move |mut request: Request<Incoming>| {
        let started = Instant::now();
        let connection = &peer.connection;
        connection.wait(started);
        let remembered = hooks.began(&request);
        let refused = refusal(&request);
        request.extensions_mut().insert(peer.clone());
        let request = Given::of(request, connection).map(Body::new);
        let answer = match refused {
            None => Ok(router.clone().call(request)),
            Some(message) => {
                drop(request);
                Err(hooks.bad_request(message))
            }
        };
        let (hooks, options, connection) = (Arc::clone(&hooks), Arc::clone(&options), Arc::clone(connection));
        async move {
            // Whoever names hosts in two ways gets no further.
            let mut is_last = answer.is_err();
            let answer = match answer {
                Ok(answering) => answering.await?,
                Err(refusal) => refusal,
            };
            let mut ended = Instant::now();
            connection.wait(ended);
            if let Some(unread) = connection.take_unread() {
                is_last |= !unread.discard(options.body_bytes_max, started + options.body_timeout).await;
                ended = Instant::now();
            }
            is_last |= hooks.is_draining();
            let mut answer = answer.map(|body| Streamed::of(body, &connection));
            hooks.answered(remembered, answer.status(), ended.duration_since(started));
            let headers = answer.headers_mut();
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            if is_last {
                // The client's next request had better go to another process; or what is left of the body would be read as
                // the next request, or waited for.
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer)
        }
    })
}

/// hyper has answered these by itself, where an answer was possible.
fn tell_broken<H: Hooks>(hooks: &H, error: &hyper::Error) {
    if error.is_parse_too_large() {
        hooks.broken(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    } else if error.is_timeout() {
        hooks.broken(StatusCode::REQUEST_TIMEOUT);
    } else if error.is_parse() {
        hooks.broken(StatusCode::BAD_REQUEST);
    }
    tracing::debug!(%error, "a connection ended");
}

/// How long whoever reads the metrics may keep a process from ending.
const METRICS_PATIENCE: Duration = Duration::from_secs(1);

/// Serves `/metrics`, and what else `router` has, until `stop`: to whom asks by an address or by a known name.
pub async fn serve_metrics(
    listener: TcpListener,
    router: Router,
    render: impl Fn() -> String + Clone + Send + Sync + 'static,
    hosts: Hosts,
    stop: CancellationToken,
) {
    let metrics = move || {
        let text = render();
        std::future::ready(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
    };
    let router = router
        .route("/metrics", get(metrics))
        .fallback(|| std::future::ready(error(StatusCode::NOT_FOUND, "there is nothing here")))
        .method_not_allowed_fallback(|| {
            std::future::ready(error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here"))
        })
        .layer(from_fn_with_state(hosts, known_hosts_only));
    serve(listener, router, Options::metrics(), Arc::new(()), stop, METRICS_PATIENCE).await;
}
