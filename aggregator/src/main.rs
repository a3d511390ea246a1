//! `millrace-aggregator`: rolls up events into Postgres and serves what is there.

use std::{io::IsTerminal as _, io::Write as _, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use millrace_aggregator::{Config, backfill, clickhouse::Warehouse, postgres};
use millrace_schemas::metric;
use millrace_service::{host::Hosts, serve::serve_metrics};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Rolls up events from ClickHouse, per store and local day, into Postgres; serves the read and admin API.
///
/// SIGTERM or SIGINT stops it within 10 seconds: open requests to the API have 5 of them, a rollup under way is not
/// committed and is made again by the next start. A second signal ends the process at once, with exit code 130.
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
    /// Forgets every rollup of every store; whatever serves then rolls up anew all that ClickHouse holds. Days older than
    /// its retention are lost.
    Rebuild,
    /// Prints what a superuser of Postgres has to run in Millrace's database, once, and again when a start asks for it:
    /// `millrace-aggregator postgres-setup | psql -d millrace`. One machine (`millrace run`) does it by itself.
    PostgresSetup {
        /// The role that the services log in as; without it, the one in --postgres-url. It is made if it is not there.
        #[arg(long)]
        role: Option<String>,
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
            let warehouse = Warehouse::new(&config);
            let run = backfill::run(&warehouse, &pool, &store, from, to, &bar);
            let days = postgres::patient(&config, run).await?;
            writeln!(std::io::stdout(), "{days} days of {store} rolled up, {from} to {to}")?;
            Ok(())
        }
        Some(Command::PostgresSetup { role }) => {
            let options: sqlx::postgres::PgConnectOptions = config.postgres_url.parse()?;
            let role = role.unwrap_or_else(|| options.get_username().to_owned());
            write!(std::io::stdout(), "{}", millrace_schemas::postgres::set_up(&role)?)?;
            Ok(())
        }
        Some(Command::Rebuild) => {
            let pool = postgres::pool(&config)?;
            postgres::migrate(&pool).await?;
            postgres::patient(&config, backfill::forget(&pool)).await?;
            let next = "they are rolled up anew by whatever instance serves (millrace_aggregator_watermark_age_seconds)";
            writeln!(std::io::stdout(), "all rollups are forgotten; {next}")?;
            Ok(())
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    obey_signals(shutdown.clone()).context("signals")?;
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
    let render = move || {
        metrics.run_upkeep();
        metrics.render()
    };
    let listener = bind(config.metrics_address).await?;
    let hosts = Hosts::new(&config.hosts);
    let endpoint =
        tokio::spawn(serve_metrics(listener, axum::Router::new(), render, hosts, shutdown.clone()));
    tracing::info!(api = %config.api_address, metrics = %config.metrics_address, "the aggregator is up");
    millrace_aggregator::run(config, api, shutdown).await?;
    endpoint.await.context("serving metrics")?;
    tracing::info!("stopped");
    Ok(())
}

/// The first signal drains, the second ends the process at once: a rollup that is cut off was not committed. On a thread
/// of its own, so that nothing that hangs can keep a signal from being obeyed.
fn obey_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
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
