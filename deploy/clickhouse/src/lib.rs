//! ClickHouse for one machine: the engine as a library, behind ClickHouse's HTTP protocol, so that the
//! services use the clients they use with a cluster.
//!
//! A request's way: [`server`] takes it apart ([`request`], [`body`], [`statement`]), waits for a place in
//! the [`pool`], and a thread runs it there ([`session`], over [`ffi`]); its result goes back as it is made
//! ([`response`]).
//!
//! What is promised:
//! * an insert is answered when it is stored, and survives `kill -9` from then on;
//! * an insert whose body ends early is cancelled; up to the block size (`--insert-block-rows`) nothing of it
//!   is stored, beyond it whole blocks may be, as in ClickHouse;
//! * one insert up to the block size is one block: one part per partition, one deduplication token;
//! * a setting, a `SET`, a `USE` or a temporary table lasts for its own statement and no longer.
//!
//! Who may ask stands in [`access`]: the services, and people, who only read. What keeps a statement from this machine's
//! files, programs and ports: the engine's own rights ([`rights`]), a look at its tokens ([`forbidden`], [`lexer`]), the
//! kernel ([`sandbox`]), and an environment without secrets ([`environment`]).
//!
//! What is not: sessions (`session_id`), further users, expressions in `VALUES` (use `INSERT … SELECT`), external tables in a request, HTTP compression
//! by `Accept-Encoding` (a loopback has no need of it; `compress=1` is there).

pub mod access;
pub mod body;
pub mod config;
pub mod environment;
pub mod error;
pub mod ffi;
pub mod forbidden;
pub mod format;
pub mod lexer;
pub mod lz4;
pub mod pool;
pub mod request;
pub mod response;
mod rights;
pub mod sandbox;
pub mod server;
pub mod session;
pub mod statement;

use std::{future::Future, sync::Arc, time::Duration};

use millrace_service::{
    host::Hosts,
    serve::{Options, Share, serve},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use access::Passwords;
pub use config::Config;
use pool::{Engine, StartError};

/// Connections beside those whose statements run or wait.
const IDLE_CONNECTIONS: usize = 128;
/// Of a request's head.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// How long answers on their way may keep the process from ending.
const SERVED_PATIENCE: Duration = Duration::from_secs(1);

/// Why the server does not start or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The engine's start was cut off.
    #[error("the engine's start was cut off: {0}")]
    Cut(#[from] tokio::task::JoinError),
    /// A statement did not end when it was killed, so the engine could not be closed in order. Nothing that
    /// was acknowledged is lost; the process must end now.
    #[error("statements are still running after the time to shut down")]
    StillRunning,
}

/// Starts the engine and serves it on `listener` until `shutdown` is done; then lets running statements end
/// within the configured time, kills what is left, and closes the engine. Once per process: the library
/// cannot be started again.
pub async fn run(
    config: Config,
    passwords: Passwords,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let hosts = Hosts::new(&config.hosts);
    let options = listener_options(&config);
    let config = Arc::new(config);
    let starting = Arc::clone(&config);
    let engine = tokio::task::spawn_blocking(move || Engine::start(&starting)).await??;
    tracing::info!(version = engine.version(), address = ?listener.local_addr().ok(), "engine started");

    let grace = config.shutdown_grace();
    let give_up = CancellationToken::new();
    let requests = Arc::new(Semaphore::new(config.statements_max as usize + usize::from(config.queue_max)));
    let hooks = Arc::new(server::Refusals { version: engine.version().to_owned() });
    let app = server::App {
        engine: Arc::clone(&engine),
        config,
        passwords: Arc::new(passwords),
        hosts,
        requests,
        give_up: give_up.clone(),
    };
    let stopping = CancellationToken::new();
    let stop = stopping.clone();
    let serving = tokio::spawn({
        let stopping = stopping.clone();
        async move {
            let patience = 3 * grace + SERVED_PATIENCE;
            serve(listener, server::router(app), options, hooks, stopping, patience).await;
        }
    });
    tokio::spawn(async move {
        shutdown.await;
        stop.cancel();
    });
    stopping.cancelled().await;
    tracing::info!("shutting down");
    // Bodies still arriving get half the time: their statements must end within the rest.
    let bodies = tokio::spawn(async move {
        tokio::time::sleep(grace / 2).await;
        give_up.cancel();
    });
    let closed = engine.stop(grace).await;
    bodies.abort();
    // Idle keep-alive connections end by themselves; answers on their way get a moment.
    let _ = tokio::time::timeout(SERVED_PATIENCE, serving).await;
    if closed { Ok(()) } else { Err(Error::StillRunning) }
}

/// The listener's bounds. A statement may stand in the address, and an answer may be read slowly.
fn listener_options(config: &Config) -> Options {
    let statements = config.statements_max as usize + usize::from(config.queue_max);
    Options {
        share: Share::Eighth,
        head_bytes_max: HEAD_BYTES_MAX,
        write_timeout: config.receive_timeout(),
        body_bytes_max: server::DRAIN_BYTES_MAX,
        body_timeout: config.receive_timeout(),
        ..Options::api(statements + IDLE_CONNECTIONS)
    }
}
