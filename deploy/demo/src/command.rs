//! The command `millrace demo`.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use millrace_recount::Patience;
use millrace_service::setting;
use sqlx::postgres::PgPoolOptions;

use super::{Pace, Scenario, Target, rehearse, report};

/// Sends a believable shop's traffic into a running instance and checks every rollup.
#[derive(Args, Clone)]
pub struct Config {
    /// Base URL of the collector.
    #[arg(
        long,
        env = "MILLRACE_COLLECTOR_URL",
        default_value = "http://127.0.0.1:8080",
        hide_env_values = true
    )]
    pub collector_url: String,
    /// Base URL of the admin and read API.
    #[arg(long, env = "MILLRACE_API_URL", default_value = "http://127.0.0.1:8090", hide_env_values = true)]
    pub api_url: String,
    /// Postgres that holds the rollups; without one, the one in the data directory.
    #[arg(long, env = "MILLRACE_POSTGRES_URL", hide_env_values = true)]
    pub postgres_url: Option<String>,
    /// Token of the admin API, as `millrace run` prints it; without one, the one in the data directory.
    #[arg(long, env = "MILLRACE_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// Data directory of the running instance.
    #[arg(long, env = "MILLRACE_DATA_DIR", default_value = ".millrace")]
    pub data_dir: PathBuf,
    /// Different events to send; a twentieth of them is sent twice.
    #[arg(long, env = "MILLRACE_DEMO_EVENTS", default_value_t = 20_000)]
    pub events: usize,
    /// The same seed makes up the same visitors.
    #[arg(long, env = "MILLRACE_DEMO_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Days, the last of which is today.
    #[arg(long, env = "MILLRACE_DEMO_DAYS", default_value_t = 14)]
    pub days: u32,
    /// Events per second; 0: as fast as it goes.
    #[arg(long, env = "MILLRACE_DEMO_SPEED", default_value_t = 0.0)]
    pub speed: f64,
    /// Time zone of the shop, IANA.
    #[arg(long, env = "MILLRACE_DEMO_TIMEZONE", default_value = "America/New_York")]
    pub timezone: String,
    /// Seconds to wait for rollups that do not change any more.
    #[arg(long, env = "MILLRACE_DEMO_PATIENCE_SECONDS", default_value_t = 60)]
    pub patience_seconds: u64,
}

/// Runs the demo. An error says what differs, if anything does.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let time_zone = TimeZone::get(&config.timezone)
        .with_context(|| format!("--timezone: nobody knows the time zone {}", config.timezone))?;
    anyhow::ensure!((1..=365).contains(&config.days), "--days: from 1 to 365");
    anyhow::ensure!(config.events > 0, "--events: at least 1");
    anyhow::ensure!(config.speed.is_finite() && config.speed >= 0.0, "--speed: 0 or more");
    let admin_token = config
        .admin_token
        .context("there is no admin token in --data-dir; is `make run` up? Else give --admin-token")?;
    let admin_token = setting::admin_token(&admin_token)?.to_owned();
    let postgres_url = match config.postgres_url {
        Some(url) => url,
        None => std::fs::read_to_string(config.data_dir.join("postgres.url"))
            .context("there is no postgres.url in --data-dir; is `make run` up? Else give --postgres-url")?,
    };
    setting::check_postgres_url(&postgres_url)?;
    let postgres = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(10))
        .connect(&postgres_url)
        .await
        .context("Postgres does not answer; is `make run` up?")?;
    let scenario = Scenario {
        seed: config.seed,
        events: config.events,
        ..Scenario::until(Timestamp::now(), config.days, time_zone)
    };
    let target = Target {
        collector: config.collector_url.trim_end_matches('/').into(),
        api: config.api_url.trim_end_matches('/').into(),
        admin_token,
        postgres,
    };
    let pace = Pace {
        events_per_second: (config.speed > 0.0).then_some(config.speed),
        progress: true,
        ..Pace::default()
    };
    let patience = Patience { quiet: Duration::from_secs(config.patience_seconds), ..Patience::default() };
    println!("A shop's {} days in {} (seed {}).", config.days, config.timezone, config.seed);
    let outcome = rehearse(&target, &scenario, None, pace, patience).await?;
    let tables = millrace_recount::recount(
        &outcome.traffic.ledger,
        &outcome.store,
        (outcome.sent_from.as_millisecond(), Timestamp::now().as_millisecond()),
    )?;
    print!("{}", report::draw(&outcome, &tables));
    outcome.check()
}
