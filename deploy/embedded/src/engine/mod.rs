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
pub mod local;
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

use axum::serve::ListenerExt;
use millrace_service::host::Hosts;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use access::Passwords;
pub use config::Config;
use pool::{Engine, StartError};

/// Why the server does not start or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The listener failed.
    #[error("the HTTP listener failed: {0}")]
    Listener(#[from] std::io::Error),
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
    let config = Arc::new(config);
    let starting = Arc::clone(&config);
    let engine = tokio::task::spawn_blocking(move || Engine::start(&starting))
        .await
        .map_err(std::io::Error::other)??;
    tracing::info!(version = engine.version(), address = ?listener.local_addr().ok(), "engine started");

    let grace = config.shutdown_grace();
    let give_up = CancellationToken::new();
    let requests = Arc::new(Semaphore::new(config.statements_max as usize + usize::from(config.queue_max)));
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
            axum::serve(listener.tap_io(without_delay), server::router(app))
                .with_graceful_shutdown(stopping.cancelled_owned())
                .await
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
    let served = tokio::time::timeout(Duration::from_secs(1), serving).await;
    if !closed {
        return Err(Error::StillRunning);
    }
    if let Ok(Ok(result)) = served {
        result?;
    }
    Ok(())
}

/// Answers are small and awaited, so they must not wait to be joined to something larger.
fn without_delay(stream: &mut TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn Nagle's algorithm off");
    }
}
