//! Connections to Postgres, its migrations, how long one waits for it, and the forms in which dates and instants travel.
//!
//! Every wait has an end, on both sides. Postgres ends our statements, our waits for locks, and a session that is in a
//! transaction and silent: what an instance holds that is frozen or cut off goes to another after [`SILENCE_MAX`]. Its
//! transaction is gone with its locks, so when it wakes up it can commit nothing. We give up an answer that does not
//! come ([`Answer::within`]): a server that is frozen, or behind a cut network, refuses nothing and closes nothing.

use std::{sync::LazyLock, time::Duration};

use jiff::civil::Date;
use millrace_schemas::postgres::SET_UP_VERSION;
use millrace_service::setting;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Postgres, SqlSafeStr as _,
    Transaction,
    migrate::{Migration, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    config::Config,
    error::{Error, Result},
    logins,
};

/// The migrations. Without sqlx's lock, which is one that anybody can take.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let with_text = |migration: &Migration| {
        let text = millrace_schemas::postgres::migration_text(migration.version, migration.sql.as_str());
        Migration { sql: AssertSqlSafe(text).into_sql_str(), ..migration.clone() }
    };
    let all = sqlx::migrate!("../schemas/postgres").iter().map(with_text).collect();
    let mut migrator = Migrator::with_migrations(all);
    migrator.set_locking(false);
    migrator
});

/// Makes the row whose lock the migrator holds. Another instance may be making it.
const MAKE_LOCK: &str = "DO $$
BEGIN
    IF to_regclass('migration_lock') IS NULL THEN
        CREATE TABLE migration_lock (only_row BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row));
    END IF;
    INSERT INTO migration_lock DEFAULT VALUES ON CONFLICT DO NOTHING;
EXCEPTION WHEN duplicate_table OR unique_violation THEN NULL;
END $$";

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

/// Begins a transaction, on a task of its own: sqlx forgets a `BEGIN` that is under way when its caller is dropped, and lends the
/// connection, inside a transaction, to whoever comes next.
pub fn begin(
    pool: &PgPool,
) -> impl Future<Output = Result<Transaction<'static, Postgres>, sqlx::Error>> + Send + use<> {
    let pool = pool.clone();
    async move {
        let beginning = tokio::spawn(async move { pool.begin().await });
        beginning.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }
}

/// The pool of all work but the API's, which connects when first asked.
pub fn pool(config: &Config) -> Result<PgPool> {
    pool_of(config, config.postgres_connections)
}

/// The API's pool.
pub fn api_pool(config: &Config) -> Result<PgPool> {
    pool_of(config, config.api_postgres_connections)
}

fn pool_of(config: &Config, connections_max: u32) -> Result<PgPool> {
    setting::check_postgres_url(&config.postgres_url)?;
    let options: PgConnectOptions = config.postgres_url.parse()?;
    let limits = format!(
        "SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}",
        config.postgres_timeout().as_millis(),
        LOCK_TIMEOUT.min(config.postgres_timeout()).as_millis(),
        SILENCE_MAX.as_millis(),
    );
    Ok(PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(Duration::from_secs(300))
        // After connecting rather than while: not every pooler in between takes settings with the connection.
        .after_connect(move |connection, _| {
            let limits = limits.clone();
            Box::pin(async move {
                connection.execute(AssertSqlSafe(limits)).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options.application_name("millrace-aggregator")))
}

/// Brings the schema up to date, whole or not at all. Under a lock: of several instances one migrates, the others wait.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    // A connection of its own, without the limits on a statement.
    let options = pool.connect_options().as_ref().clone();
    let connecting = tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&options));
    let mut own = connecting.await.map_err(|_| Error::PostgresSilent)??;
    let migrated = tokio::select! {
        migrated = tokio::time::timeout(MIGRATE_TIMEOUT, migrate_on(&mut own)) => migrated,
        // A table that changes waits for everybody who reads it.
        never = logins::watch(pool) => match never {},
    };
    drop(tokio::time::timeout(GRACE, own.close()).await);
    migrated.map_err(|_| Error::PostgresSilent)?
}

async fn migrate_on(postgres: &mut PgConnection) -> Result<()> {
    check_set_up(postgres).await?;
    postgres.execute(MAKE_LOCK).await?;
    let silence = format!("SET idle_in_transaction_session_timeout = {}", SILENCE_MAX.as_millis());
    postgres.execute(AssertSqlSafe(silence)).await?;
    let mut transaction = postgres.begin().await?;
    transaction.execute("SELECT FROM migration_lock FOR UPDATE").await?;
    MIGRATIONS.run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
    Ok(())
}

/// Whether a superuser has done what the services may not, and what they may do that they should not.
async fn check_set_up(postgres: &mut PgConnection) -> Result<()> {
    let is_there: bool =
        sqlx::query_scalar("SELECT to_regprocedure('millrace_admin.set_up_version()') IS NOT NULL")
            .fetch_one(&mut *postgres)
            .await?;
    if !is_there {
        return Err(Error::NotSetUp { is_old: false });
    }
    let version: i32 =
        sqlx::query_scalar("SELECT millrace_admin.set_up_version()").fetch_one(&mut *postgres).await?;
    if version < SET_UP_VERSION {
        return Err(Error::NotSetUp { is_old: true });
    }
    let excess: bool = sqlx::query_scalar(
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
         FROM pg_roles WHERE rolname = current_user",
    )
    .fetch_one(postgres)
    .await?;
    if excess {
        tracing::warn!(
            "the role of MILLRACE_POSTGRES_URL may do more than Millrace needs (superuser, or making roles): give it a \
             plain role, and run `millrace-aggregator postgres-setup --role <it>`"
        );
    }
    Ok(())
}

/// A date as Postgres reads and writes it.
pub fn parse_date(text: &str) -> Result<Date> {
    text.parse().map_err(|_| Error::Internal(format!("Postgres gave the date {text:?}")))
}
