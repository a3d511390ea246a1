//! `millrace-consumer`: wires the library to a process.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use millrace_consumer::{Config, Health, describe_metrics, http};
use millrace_schemas::metric;
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Histograms collect samples until they are looked at; without upkeep they would grow where nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

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
        served.clone(),
    ));
    tokio::spawn(signals(shutdown.clone()));

    let result = millrace_consumer::run(config, health, shutdown).await;
    served.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), http).await;
    result.context("the consumer stopped")
}

/// The first signal drains, the second ends at once: the intents on record make that safe.
async fn signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    for signal in 1.. {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if signal > 1 {
            tracing::warn!("stopping at once");
            std::process::exit(130);
        }
        tracing::info!("draining; a second signal stops at once");
        shutdown.cancel();
    }
    Ok(())
}
