//! `millrace`: the whole pipeline on one machine, and a demonstration of it.

use std::io::IsTerminal as _;

use clap::{Parser, Subcommand};
use millrace_embedded::{demo, runner};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exact analytics for shops: events in over HTTP, daily rollups out of Postgres.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole pipeline on this machine, in the foreground, until Ctrl-C.
    Run(runner::Config),
    /// Send a believable shop's traffic into a running instance and check every rollup.
    Demo(demo::Config),
}

fn main() -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,sqlx::query=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let command = Cli::parse().command;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        Command::Run(config) => runtime.block_on(run(config)),
        Command::Demo(mut config) => {
            if config.admin_token.is_none() {
                config.admin_token = runner::kept_admin_token(&config.data_dir)?;
            }
            runtime.block_on(demo::run(config))
        }
    }
}

async fn run(config: runner::Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    tokio::spawn(obey_signals(shutdown.clone()));
    runner::run(config, shutdown, |banner| println!("{banner}")).await?;
    eprintln!("Millrace has stopped; a start finds everything again.");
    Ok(())
}

/// The first signal drains, the second ends everything at once: the engines die with us, and the spool and their own
/// logs hold what was acknowledged.
async fn obey_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    for count in 1.. {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if count > 1 {
            eprintln!("Stopping at once.");
            std::process::exit(130);
        }
        eprintln!("Draining; press Ctrl-C again to stop at once.");
        shutdown.cancel();
    }
    Ok(())
}
