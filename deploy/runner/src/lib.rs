//! Everything on one machine: a local Postgres and the ClickHouse engine as child processes, the three services in
//! this one.
//!
//! * The services are the ones that run on a cluster; only their settings differ (the log is the collector's spool).
//! * Start: engines, then the aggregator (which brings Postgres to the newest schema), the consumer (which makes
//!   ClickHouse's tables), the collector last, when what it takes in can flow.
//! * Stop: in the direction the data flows. The collector first, so that nothing new comes in; the consumer stores
//!   what the spool holds; the aggregator ends its cycle; then the engines. A second Ctrl-C ends everything at once,
//!   which loses nothing either: that is what the spool is for.
//! * An engine that dies is started again; a service that cannot go on ends the run with its error.

mod banner;
mod clickhouse;
mod config;
mod data_dir;
mod metrics;
mod supervise;

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use millrace_collector::{Listeners, LogKind};
use millrace_consumer::{Health, Log};
use millrace_local::{
    engine::{self, LocalEngine},
    postgres::{self, LocalPostgres},
};
use millrace_service::host::Hosts;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use banner::{Banner, Demo};
pub use clickhouse::kept_clickhouse_login;
pub use config::Config;
pub use data_dir::kept_admin_token;
use data_dir::{AdminToken, DataDir, Source};
use supervise::supervise;

/// The engine's share of the machine; see `millrace-clickhouse --help`. Its environment variables win.
const ENGINE_SETTINGS: [(&str, &str, &str); 2] = [
    ("MILLRACE_CLICKHOUSE_MEMORY_BYTES_MAX", "--memory-bytes-max", "536870912"),
    ("MILLRACE_CLICKHOUSE_STATEMENTS_MAX", "--statements-max", "4"),
];
/// With which a service's settings are those of its environment variables.
const NO_ARGUMENTS: [&str; 1] = ["millrace"];
/// How long the services may take to be ready at a start.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Runs until `shutdown`, or until a service cannot go on. `up` is called once, with what is to be printed.
pub async fn run(config: Config, shutdown: CancellationToken, up: impl FnOnce(String)) -> anyhow::Result<()> {
    let data_dir = DataDir::take(&config.data_dir)?;
    let AdminToken { token: admin_token, source } = data_dir.admin_token(config.admin_token.as_deref())?;
    // Addresses first: one that is taken should be known before anything was started.
    let database = millrace_consumer::Config::try_parse_from(NO_ARGUMENTS)?.clickhouse_database;
    let clickhouse = clickhouse::Login::keep(&data_dir, config.clickhouse_port, &database)?;
    let settings = Settings::new(&config, &data_dir, &admin_token, &clickhouse)?;
    let listeners = Listeners::bind(&settings.collector).await?;
    let api_listener = listen(config.api_address, "--api-address").await?;
    let metrics_listener = listen(config.metrics_address, "--metrics-address").await?;

    let engines = tokio::select! {
        engines = Engines::start(&config, &data_dir, &clickhouse) => engines?,
        // What has been started of them ends with us.
        () = shutdown.cancelled() => return Ok(()),
    };
    let settings = settings.with_postgres(&engines.postgres_url);
    let addresses =
        [listeners.http.local_addr()?, api_listener.local_addr()?, metrics_listener.local_addr()?];
    let (schema, demo) = match make_schema(&settings.aggregator, &addresses).await {
        Ok(demo) => (Ok(()), demo),
        // Nothing is printed then.
        Err(error) => (Err(error), Demo::Holds),
    };
    let banner = Banner {
        collector: format!("http://{}", listeners.http.local_addr()?),
        api: format!("http://{}", api_listener.local_addr()?),
        // Shown once: whoever starts it again, and whoever keeps what it prints, need not know it.
        admin_token: match source {
            Source::New => admin_token,
            Source::File => format!("in {}", data_dir.join(data_dir::ADMIN_TOKEN).display()),
            Source::Setting => "as MILLRACE_ADMIN_TOKEN says".to_owned(),
        },
        clickhouse: settings.consumer.clickhouse_url.clone(),
        metrics: format!("http://{}", metrics_listener.local_addr()?),
        data_dir: data_dir.path().display().to_string(),
        demo,
    };

    let recorder = metrics::install()?;
    millrace_collector::describe_metrics();
    let health = Health::new();
    let services = metrics::Services {
        consumer: health.clone(),
        asked: vec![("collector", banner.collector.clone()), ("aggregator", banner.api.clone())],
    };
    let hosts = Hosts::new(&settings.collector.hosts);
    tokio::spawn(metrics::serve(metrics_listener, recorder, services.clone(), hosts, engines.stop.clone()));

    // A service that ends early takes the others with it, in the same order as a shutdown.
    let stop = shutdown.child_token();
    let aggregator = Service::spawn("the aggregator", &stop, |token| {
        millrace_aggregator::run(settings.aggregator, api_listener, token)
    });
    let consumer = Service::spawn("the consumer", &stop, |token| {
        millrace_consumer::run(settings.consumer, health, token)
    });
    let collector = Service::spawn("the collector", &stop, |token| {
        millrace_collector::run(settings.collector, listeners, token)
    });
    match &schema {
        Ok(()) => tokio::select! {
            () = services.ready(READY_PATIENCE) => up(banner.to_string()),
            () = stop.cancelled() => {}
        },
        Err(_) => stop.cancel(),
    }
    stop.cancelled().await;

    let mut result = schema;
    for service in [collector, consumer, aggregator] {
        result = result.and(service.stop().await);
    }
    result.and(engines.stop().await)
}

/// The engines with their supervisors.
struct Engines {
    postgres_url: String,
    stop: CancellationToken,
    supervisors: [JoinHandle<anyhow::Result<()>>; 2],
}

impl Engines {
    async fn start(
        config: &Config,
        data_dir: &DataDir,
        clickhouse: &clickhouse::Login,
    ) -> anyhow::Result<Self> {
        let engine_config = engine_config(config, data_dir, clickhouse)?;
        let postgres_config = postgres::Config::new(data_dir.join("postgres"), config.postgres_port);
        let (engine, postgres) =
            tokio::try_join!(async { Ok(LocalEngine::start(&engine_config).await?) }, async {
                Ok::<_, anyhow::Error>(LocalPostgres::start(&postgres_config).await?)
            },)?;
        let stop = CancellationToken::new();
        let postgres_url = postgres.url().to_owned();
        let supervisors = [
            tokio::spawn(supervise(engine, engine_config, stop.clone())),
            tokio::spawn(supervise(postgres, postgres_config, stop.clone())),
        ];
        Ok(Self { postgres_url, stop, supervisors })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let mut result = Ok(());
        for supervisor in self.supervisors {
            let ended = supervisor.await.context("an engine's supervisor ended unexpectedly");
            result = result.and(ended.and_then(|ended| ended));
        }
        result
    }
}

/// Brings Postgres's schema up to date and makes the store `demo`, whose keys hold while nobody else reaches a listener.
async fn make_schema(config: &millrace_aggregator::Config, listeners: &[SocketAddr]) -> anyhow::Result<Demo> {
    let pool = millrace_aggregator::postgres::pool(config)?;
    millrace_aggregator::postgres::migrate(&pool).await.context("Postgres's schema cannot be made")?;
    let made = millrace_aggregator::ensure_demo_store(&pool, listeners).await;
    pool.close().await;
    Ok(match made.context("the store demo cannot be made")? {
        None => Demo::Holds,
        Some(address) => Demo::IsSuspendedBy(address),
    })
}

/// A service in this process, with a stop of its own.
struct Service {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    /// Starts a service. When it ends before it was told to, `stop_all` is cancelled.
    fn spawn<F, E>(
        name: &'static str,
        stop_all: &CancellationToken,
        run: impl FnOnce(CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        let stop = CancellationToken::new();
        let running = run(stop.clone());
        let stop_all = stop_all.clone();
        let task = tokio::spawn(async move {
            // A panic unwinds through here; the guard's drop still tells the others.
            let _others = stop_all.drop_guard();
            running.await.map_err(Into::into)
        });
        Self { name, stop, task }
    }

    /// Stops it and waits until it has.
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task
            .await
            .with_context(|| format!("{} ended unexpectedly", self.name))?
            .with_context(|| format!("{} failed", self.name))
    }
}

/// The settings of everybody: their own, from their environment variables, with one machine's put over them.
struct Settings {
    collector: millrace_collector::Config,
    consumer: millrace_consumer::Config,
    aggregator: millrace_aggregator::Config,
}

/// The aggregator's settings are `Args`; this makes them a command line.
#[derive(Parser)]
struct AggregatorSettings {
    #[command(flatten)]
    config: millrace_aggregator::Config,
}

impl Settings {
    fn new(
        config: &Config,
        data_dir: &DataDir,
        admin_token: &str,
        clickhouse: &clickhouse::Login,
    ) -> anyhow::Result<Self> {
        let mut collector = millrace_collector::Config::try_parse_from(NO_ARGUMENTS)?;
        let mut consumer = millrace_consumer::Config::try_parse_from(NO_ARGUMENTS)?;
        let mut aggregator = AggregatorSettings::try_parse_from(NO_ARGUMENTS)?.config;
        let clickhouse_url = format!("http://127.0.0.1:{}", config.clickhouse_port);
        let spool = data_dir.join("spool");

        collector.address = config.collector_address;
        collector.keys_snapshot = Some(data_dir.join("keys.json"));
        collector.log.kind = LogKind::Spool;
        collector.log.spool_dir = spool.clone();

        consumer.log = Log::Spool;
        consumer.spool_dir = spool.clone();
        aggregator.erasure_spool_dir = Some(spool);
        consumer.clickhouse_url = clickhouse_url.clone();
        consumer.clickhouse_user = Some(clickhouse.user.to_owned());
        consumer.clickhouse_password = Some(clickhouse.password.clone());
        consumer.memory_bytes = config.memory_bytes;

        aggregator.clickhouse_url = clickhouse_url;
        clickhouse.user.clone_into(&mut aggregator.clickhouse_user);
        aggregator.clickhouse_password.clone_from(&clickhouse.password);
        aggregator.admin_token = Some(admin_token.to_owned());
        Ok(Self { collector, consumer, aggregator })
    }

    fn with_postgres(mut self, url: &str) -> Self {
        url.clone_into(&mut self.collector.postgres_url);
        url.clone_into(&mut self.aggregator.postgres_url);
        self
    }
}

fn engine_config(
    config: &Config,
    data_dir: &DataDir,
    clickhouse: &clickhouse::Login,
) -> anyhow::Result<engine::Config> {
    anyhow::ensure!(
        config.library.exists(),
        "--library: there is no ClickHouse engine at {}; `make run` puts it there, or name its place",
        config.library.display()
    );
    let arguments = ENGINE_SETTINGS
        .into_iter()
        .filter(|(variable, _, _)| std::env::var_os(variable).is_none())
        .flat_map(|(_, flag, value)| [flag.into(), value.into()])
        .chain(clickhouse.arguments.clone())
        .collect();
    Ok(engine::Config {
        library: config.library.clone(),
        data_dir: data_dir.join("clickhouse"),
        log: data_dir.join("clickhouse.log"),
        port: config.clickhouse_port,
        arguments,
    })
}

async fn listen(address: std::net::SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{setting}: cannot listen on {address}; is something else running there?"))
}
