//! `millrace-aggregator`: rolls up events into Postgres and serves what is there.

use std::{io::IsTerminal as _, io::Write as _, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use millrace_aggregator::{Config, backfill, clickhouse::Warehouse, postgres};
use millrace_schemas::metric;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Rolls up events from ClickHouse, per store and local day, into Postgres; serves the read and admin API.
#[derive(Debug, Parser)]
#[command(name = "millrace-aggregator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Rolls up what arrives and serves the API, until told to stop. What happens when no command is given.
    Serve,
    /// Rolls up days of a store anew, whatever stands there.
    Backfill {
        /// The store.
        #[arg(long)]
        store: String,
        /// First day, like 2026-11-01.
        #[arg(long)]
        from: jiff::civil::Date,
        /// Last day.
        #[arg(long)]
        to: jiff::civil::Date,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let Arguments { command, config } = Arguments::parse();
    match command {
        None | Some(Command::Serve) => serve(config).await,
        Some(Command::Backfill { store, from, to }) => {
            let pool = postgres::pool(&config)?;
            postgres::migrate(&pool).await?;
            let bar = backfill::progress_bar();
            bar.enable_steady_tick(Duration::from_millis(200));
            let days = backfill::run(&Warehouse::new(&config), &pool, &store, from, to, &bar).await?;
            writeln!(std::io::stdout(), "{days} days of {store} rolled up, {from} to {to}")?;
            Ok(())
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut builder = PrometheusBuilder::new();
    for (ending, buckets) in metric::BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(ending.to_owned()), buckets)?;
    }
    let metrics = builder.install_recorder().context("installing the metrics recorder")?;
    for (name, help) in
        metric::ALL.iter().filter(|(name, _)| !name.contains("_collector_") && !name.contains("_consumer_"))
    {
        if name.ends_with("_total") {
            metrics::describe_counter!(*name, *help);
        } else {
            metrics::describe_gauge!(*name, *help);
        }
    }
    let bind = |address| async move {
        TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
    };
    let api = bind(config.api_address).await?;
    let endpoint =
        tokio::spawn(serve_metrics(bind(config.metrics_address).await?, metrics, shutdown.clone()));
    tracing::info!(api = %config.api_address, metrics = %config.metrics_address, "the aggregator is up");
    tokio::spawn(cancel_on_signal(shutdown.clone()));
    millrace_aggregator::run(config, api, shutdown).await?;
    endpoint.await?
}

async fn cancel_on_signal(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
    shutdown.cancel();
}

async fn serve_metrics(
    listener: TcpListener,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let render = axum::routing::get(move || {
        let metrics = metrics.clone();
        async move {
            metrics.run_upkeep();
            metrics.render()
        }
    });
    axum::serve(listener, axum::Router::new().route("/metrics", render))
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await
        .context("serving metrics")
}
