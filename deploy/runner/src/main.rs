//! `millrace`: the whole pipeline on one machine, and a demonstration of it.

use std::{io::IsTerminal as _, path::PathBuf};

use clap::{Parser, Subcommand};
use millrace_consumer::replay;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exact analytics for shops: events in over HTTP, daily rollups out of Postgres.
#[derive(Parser)]
#[command(name = "millrace", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole pipeline on this machine, in the foreground, until Ctrl-C.
    Run(millrace_runner::Config),
    /// Send a believable shop's traffic into a running instance and check every rollup.
    Demo(millrace_demo::Config),
    /// Try dead letters of a running instance again after their cause has been fixed; `millrace-consumer replay` for one
    /// machine.
    Replay {
        #[command(flatten)]
        options: replay::Options,
        /// Port of ClickHouse's HTTP protocol on 127.0.0.1.
        #[arg(long, env = "MILLRACE_CLICKHOUSE_PORT", default_value_t = 8123)]
        clickhouse_port: u16,
        /// Data directory of the running instance, whose password it needs.
        #[arg(long, env = "MILLRACE_DATA_DIR", default_value = ".millrace")]
        data_dir: PathBuf,
    },
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
        Command::Run(config) => {
            let result = runtime.block_on(run(config));
            // Not a drop: that would wait for a client whose server hangs.
            runtime.shutdown_background();
            result
        }
        Command::Demo(mut config) => {
            if config.admin_token.is_none() {
                config.admin_token = millrace_runner::kept_admin_token(&config.data_dir)?;
            }
            runtime.block_on(millrace_demo::run(config))
        }
        Command::Replay { options, clickhouse_port, data_dir } => {
            let mut config = millrace_consumer::Config::try_parse_from(["millrace"])?;
            config.clickhouse_url = format!("http://127.0.0.1:{clickhouse_port}");
            if let Some((user, password)) = millrace_runner::kept_clickhouse_login(&data_dir)? {
                config.clickhouse_user = Some(user);
                config.clickhouse_password = Some(password);
            }
            let report = runtime.block_on(replay::run(&config, &options, &replay::progress_bar()))?;
            println!("{report}");
            Ok(())
        }
    }
}

async fn run(config: millrace_runner::Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    obey_signals(shutdown.clone())?;
    millrace_runner::run(config, shutdown, |banner| println!("{banner}")).await?;
    eprintln!("Millrace has stopped; a start finds everything again.");
    Ok(())
}

/// The first signal drains, the second ends everything at once: the engines die with us, and the spool and their own
/// logs hold what was acknowledged. On a thread of its own, so that nothing that hangs can keep a signal from being
/// obeyed.
fn obey_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let obey = async move {
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
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(obey))?;
    Ok(())
}
