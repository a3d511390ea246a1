//! `millrace-clickhouse`: ClickHouse's HTTP interface over the engine library.

use std::{
    io::{IsTerminal as _, Read, Write},
    net::TcpListener,
};

use anyhow::Context;
use clap::Parser;
use millrace_clickhouse::{Config, access::Passwords, environment, sandbox};
use millrace_service::private;
use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, getrlimit, setrlimit, umask},
};
use tokio::{
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
    let code = match environment::clean()
        .context("cannot start again with a clean environment")
        .and_then(|()| run())
    {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error:#}");
            1
        }
    };
    // Not a return: the runtime would wait for a statement that does not end.
    std::process::exit(code)
}

/// Takes what is outside the wall (passwords, the listener), builds the wall, and only then starts threads.
fn run() -> anyhow::Result<()> {
    let mut config = Config::parse();
    let passwords = Passwords::read(&config)?;
    let listener =
        TcpListener::bind(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
    listener.set_nonblocking(true)?;
    confine(&mut config)?;
    tokio::runtime::Runtime::new()?.block_on(serve(config, passwords, listener))
}

fn confine(config: &mut Config) -> anyhow::Result<()> {
    // The engine makes its files with the rights that this leaves: its owner's.
    umask(Mode::RWXG | Mode::RWXO);
    // Its parts are files, of which it may open as many as there may be.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let place = |path: &std::path::Path| format!("cannot use {}", path.display());
    private::create_dir_all(&config.data_dir).with_context(|| place(&config.data_dir))?;
    config.data_dir = config.data_dir.canonicalize().with_context(|| place(&config.data_dir))?;
    config.library = std::path::absolute(&config.library)?;
    // Nothing is found by a relative name but what is the engine's own.
    std::env::set_current_dir(&config.data_dir)?;
    match sandbox::confine(&config.data_dir, &config.library, !config.sources.is_empty())? {
        sandbox::Wall::Whole => {}
        sandbox::Wall::Partial => tracing::warn!(
            "this kernel keeps statements from files, not from connections (Landlock, Linux 6.7 has both)"
        ),
        sandbox::Wall::None => tracing::warn!(
            "this kernel does not confine the engine (Landlock is missing or switched off): its own access rights alone keep \
             statements from files and connections"
        ),
    }
    Ok(())
}

async fn serve(config: Config, passwords: Passwords, listener: TcpListener) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parent = config.exit_with_parent.then(parent_gone);
    let listener = tokio::net::TcpListener::from_std(listener)?;
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
    millrace_clickhouse::run(config, passwords, listener, shutdown).await.context("the engine stopped")
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
