//! The collector as a process of its own.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use axum::Router;
use clap::Parser as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use millrace_collector::{Config, Listeners, describe_metrics, run};
use millrace_schemas::metric;
use millrace_service::{host::Hosts, serve::serve_metrics};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,millrace_collector=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    let shutdown = CancellationToken::new();
    obey_signals(shutdown.clone()).context("signals")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config, shutdown));
    // Not a drop: that would wait for a look at a server that hangs.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut builder = PrometheusBuilder::new();
    for (ending, buckets) in metric::BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(ending.to_owned()), buckets)?;
    }
    let recorder = builder.install_recorder().context("metrics recorder")?;
    describe_metrics();

    let listeners = Listeners::bind(&config).await.context("MILLRACE_COLLECTOR_ADDRESS")?;
    let metrics_listener = TcpListener::bind(config.metrics_address)
        .await
        .with_context(|| format!("MILLRACE_METRICS_ADDRESS {}", config.metrics_address))?;
    let render = move || {
        recorder.run_upkeep();
        recorder.render()
    };
    let hosts = Hosts::new(&config.hosts);
    // Until the process ends: the drain is when they are looked at.
    tokio::spawn(serve_metrics(metrics_listener, Router::new(), render, hosts, CancellationToken::new()));

    tracing::info!(address = %config.address, metrics = %config.metrics_address, "collecting");
    run(config, listeners, shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The first signal drains, the second ends the process at once: what was acknowledged is in the log. On a thread of its
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
                tracing::warn!("stopping at once; requests that were not answered must be sent again");
                std::process::exit(130);
            }
            tracing::info!("draining; a second signal stops at once");
            shutdown.cancel();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(obey))?;
    Ok(())
}
