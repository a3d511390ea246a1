//! `millrace-clickhouse`: ClickHouse's HTTP interface over the engine library.

use std::io::{IsTerminal as _, Read, Write};

use anyhow::Context;
use clap::Parser;
use millrace_embedded::engine::{self, Config};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing_subscriber::EnvFilter;

fn main() -> ! {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let code = match serve(Config::parse()) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error:#}");
            1
        }
    };
    // Not a return: the runtime would wait for a statement that does not end.
    std::process::exit(code)
}

#[tokio::main]
async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parent = config.exit_with_parent.then(parent_gone);
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let shutdown = async move {
        let parent_gone = async {
            match parent {
                Some(parent) => drop(parent.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = parent_gone => tracing::info!("standard input ended: the parent is gone"),
        }
    };
    // Whoever asked for port 0 reads here which one it is; nobody listening is no error.
    let _ = writeln!(std::io::stdout(), "http://{address}");
    engine::run(config, listener, shutdown).await.context("the engine stopped")
}

/// Tells when standard input ends. A thread of its own, because a read there cannot be cancelled.
fn parent_gone() -> oneshot::Receiver<()> {
    let (gone, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        let mut input = std::io::stdin();
        while input.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        let _ = gone.send(());
    });
    told
}
