//! The collector as a process of its own.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use clap::Parser as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use millrace_collector::{Config, Listeners, describe_metrics, run};
use millrace_schemas::metric;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,millrace_collector=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    let mut builder = PrometheusBuilder::new();
    for (ending, buckets) in metric::BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(ending.to_owned()), buckets)?;
    }
    let recorder = builder.install_recorder().context("metrics recorder")?;
    describe_metrics();

    let shutdown = CancellationToken::new();
    let listeners = Listeners::bind(&config).await.context("MILLRACE_COLLECTOR_ADDRESS")?;
    let metrics_listener = TcpListener::bind(config.metrics_address)
        .await
        .with_context(|| format!("MILLRACE_METRICS_ADDRESS {}", config.metrics_address))?;
    tokio::spawn(serve_metrics(metrics_listener, recorder));
    tokio::spawn(cancel_on_signal(shutdown.clone()));

    tracing::info!(address = %config.address, metrics = %config.metrics_address, "collecting");
    run(config, listeners, shutdown).await?;
    Ok(())
}

async fn serve_metrics(listener: TcpListener, recorder: PrometheusHandle) {
    let render = move || {
        let recorder = recorder.clone();
        async move {
            recorder.run_upkeep();
            ([(CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render())
        }
    };
    if let Err(error) = axum::serve(listener, Router::new().route("/metrics", get(render))).await {
        tracing::error!(%error, "metrics are no longer served");
    }
}

async fn cancel_on_signal(shutdown: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals are not heard");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
}
