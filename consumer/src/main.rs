//! `millrace-consumer`: wires the library to a process.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use millrace_consumer::{Config, Health, describe_metrics, http, replay};
use millrace_schemas::metric;
use millrace_service::host::Hosts;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Histograms collect samples until they are looked at; without upkeep they would grow where nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Moves events from the log into ClickHouse.
#[derive(Debug, Parser)]
#[command(name = "millrace-consumer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Moves events until told to stop. What happens when no command is given.
    Serve,
    /// Tries dead-letter records again after their cause has been fixed: what can be stored now is stored, and its record
    /// removed; everything else stays as it was.
    ///
    /// It may run beside consumers, be killed at any moment and be repeated: no event is counted twice. Rollups follow
    /// by themselves.
    Replay(replay::Options),
}

fn main() -> anyhow::Result<()> {
    let Arguments { command, config } = Arguments::parse();
    // Without a filter of one's own: `info`. One that cannot be read is said, and does not keep events waiting.
    let given = std::env::var_os(EnvFilter::DEFAULT_ENV).map(|_| EnvFilter::try_from_default_env());
    let (filter, unreadable) = match given {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new("info"), Some(error)),
        None => (EnvFilter::new("info"), None),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    if let Some(error) = unreadable {
        tracing::warn!(%error, "{} cannot be read; logging at info", EnvFilter::DEFAULT_ENV);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match command {
            None | Some(Command::Serve) => serve(config).await,
            Some(Command::Replay(options)) => {
                let report = replay::run(&config, &options, &replay::progress_bar()).await?;
                writeln!(std::io::stdout(), "{report}")?;
                Ok(())
            }
        }
    });
    // Not a drop: that would wait for a client whose server hangs.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut builder = PrometheusBuilder::new();
    for (ending, buckets) in metric::BUCKETS {
        builder = builder
            .set_buckets_for_metric(Matcher::Suffix(ending.to_owned()), buckets)
            .context("cannot set the buckets of histograms")?;
    }
    let recorder = builder.install_recorder().context("cannot install the metrics recorder")?;
    describe_metrics();
    let listener = TcpListener::bind(config.metrics_address)
        .await
        .with_context(|| format!("metrics-address: cannot listen on {}", config.metrics_address))?;
    let (health, shutdown) = (Health::new(), CancellationToken::new());

    let upkeep = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            upkeep.run_upkeep();
        }
    });
    // Metrics and health outlive the drain: it is when they are looked at.
    let served = CancellationToken::new();
    let http = tokio::spawn(http::serve(
        listener,
        health.clone(),
        Arc::new(move || recorder.render()),
        Hosts::new(&config.hosts),
        served.clone(),
    ));
    obey_signals(shutdown.clone()).context("signals")?;

    let result = millrace_consumer::run(config, health, shutdown).await;
    served.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), http).await;
    result.context("the consumer stopped")?;
    tracing::info!("stopped");
    Ok(())
}

/// The first signal drains, the second ends the process at once: the intents on record make that safe. On a thread of its
/// own, so that nothing that hangs can keep a signal from being obeyed.
fn obey_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let obey = async move {
        for count in 1.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if count > 1 {
                tracing::warn!("stopping at once");
                std::process::exit(130);
            }
            tracing::info!("draining; a second signal stops at once");
            shutdown.cancel();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(obey))?;
    Ok(())
}
