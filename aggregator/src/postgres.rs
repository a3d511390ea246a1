//! Connections to Postgres, its migrations, how long one waits for it, and the forms in which dates and instants travel.
//!
//! Every wait has an end, on both sides. Postgres ends our statements, our waits for locks, and a session that is in a
//! transaction and silent: what an instance holds that is frozen or cut off goes to another after [`SILENCE_MAX`]. Its
//! transaction is gone with its locks, so when it wakes up it can commit nothing. We give up an answer that does not
//! come ([`Answer::within`]): a server that is frozen, or behind a cut network, refuses nothing and closes nothing.

use std::time::Duration;

use jiff::civil::Date;
use millrace_service::setting;
use sqlx::{
    Executor as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    config::Config,
    error::{Error, Result},
};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../schemas/postgres");

/// Longest wait for a free connection, and for a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a lock: nobody here holds one of rows for longer than the end of a rollup.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transaction's session may be silent before Postgres ends it.
pub const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How often it says something while we wait for something else.
const PULSE: Duration = Duration::from_secs(15);
/// How much later than Postgres we give up a statement: it is the one to say so, while it can.
const GRACE: Duration = Duration::from_secs(5);
/// Longest that bringing the schema up to date may take, waiting for another instance included.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Statements outside of [`patient`] have this long.
const PATIENCE_DEFAULT: Duration = Duration::from_secs(120);

tokio::task_local! {
    static PATIENCE: Duration;
}

/// Runs work whose statements have so long, each.
pub async fn patient<T>(config: &Config, work: impl Future<Output = T>) -> T {
    PATIENCE.scope(config.postgres_timeout(), work).await
}

/// Anything that Postgres answers.
pub trait Answer<T>: Future<Output = Result<T, sqlx::Error>> + Send + Sized {
    /// Waits for the answer, not for ever.
    fn within(self) -> impl Future<Output = Result<T>> + Send {
        async {
            let patience = PATIENCE.try_with(|patience| *patience).unwrap_or(PATIENCE_DEFAULT);
            match tokio::time::timeout(patience + GRACE, self).await {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(Error::PostgresSilent),
            }
        }
    }
}

impl<T, F: Future<Output = Result<T, sqlx::Error>> + Send> Answer<T> for F {}

/// Does something else while a transaction is open, so that Postgres does not take us for dead; and ends it soon when the
/// transaction, and with it the lock, is lost.
pub async fn beside<T>(postgres: &mut PgConnection, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(PULSE) => {
                postgres.execute("SELECT 1").within().await?;
            }
        }
    }
}

/// A pool that connects when first asked.
pub fn pool(config: &Config) -> Result<PgPool> {
    setting::check_postgres_url(&config.postgres_url)?;
    let options: PgConnectOptions = config.postgres_url.parse()?;
    let limits = format!(
        "SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}",
        config.postgres_timeout().as_millis(),
        LOCK_TIMEOUT.min(config.postgres_timeout()).as_millis(),
        SILENCE_MAX.as_millis(),
    );
    Ok(PgPoolOptions::new()
        .max_connections(config.postgres_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(Duration::from_secs(300))
        // After connecting rather than while: not every pooler in between takes settings with the connection.
        .after_connect(move |connection, _| {
            let limits = limits.clone();
            Box::pin(async move {
                connection.execute(sqlx::AssertSqlSafe(limits)).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options.application_name("millrace-aggregator")))
}

/// Brings the schema up to date. Under the migrator's lock: of several instances one migrates, the others wait.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    // A connection of its own, without the limits on a statement.
    let options = pool.connect_options().as_ref().clone();
    let own =
        PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT).connect_lazy_with(options);
    let migrated = tokio::time::timeout(MIGRATE_TIMEOUT, MIGRATIONS.run(&own)).await;
    drop(tokio::time::timeout(GRACE, own.close()).await);
    Ok(migrated.map_err(|_| Error::PostgresSilent)??)
}

/// A date as Postgres reads and writes it.
pub fn parse_date(text: &str) -> Result<Date> {
    text.parse().map_err(|_| Error::Internal(format!("Postgres gave the date {text:?}")))
}
