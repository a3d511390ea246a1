//! A real Postgres for one test: [`LocalPostgres`] in a temporary directory, without fsync.

use millrace_local::postgres::{Config, LocalPostgres};
use millrace_schemas::postgres::migration_text;
use sqlx::{
    AssertSqlSafe, SqlSafeStr as _,
    migrate::{MigrateError, Migration, Migrator},
};
use tempfile::TempDir;

use super::{Error, Port};

/// A server of its own with the empty database `millrace`. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Postgres {
    // Declared before the directory: the server ends first.
    server: Option<LocalPostgres>,
    url: String,
    config: Config,
    _port: Port,
    _dir: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts it. It survives `kill -9`, but not a crash of the machine.
    pub async fn start() -> Result<Self, Error> {
        let port = Port::reserve()?;
        let dir = tempfile::Builder::new().prefix("millrace-postgres-").tempdir()?;
        let config = Config { durable: false, ..Config::new(dir.path().join("postgres"), port.number()) };
        let server = LocalPostgres::start(&config).await?;
        Ok(Self { url: server.url().to_owned(), server: Some(server), config, _port: port, _dir: dir })
    }

    /// The connection string of the role and database `millrace`; the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes all tables, without the aggregator.
    pub async fn migrate(pool: &sqlx::PgPool) -> Result<(), MigrateError> {
        Self::migrate_to(pool, i64::MAX).await
    }

    /// Makes the tables as they were at an earlier migration.
    pub async fn migrate_to(pool: &sqlx::PgPool, version: i64) -> Result<(), MigrateError> {
        let with_text = |migration: &Migration| {
            let text = migration_text(migration.version, migration.sql.as_str());
            Migration { sql: AssertSqlSafe(text).into_sql_str(), ..migration.clone() }
        };
        let all = sqlx::migrate!("../../schemas/postgres");
        // A lock that the role may not take; a test's database has nobody else.
        Migrator::with_migrations(all.iter().map(with_text).collect())
            .set_locking(false)
            .run_to(version, pool)
            .await
    }

    /// Where its data is.
    pub fn data_dir(&self) -> &std::path::Path {
        &self.config.data_dir
    }

    /// Kills the server with no chance to write anything; its data stays for [`Postgres::restart`].
    pub fn kill9(&mut self) -> Result<(), Error> {
        if let Some(server) = self.server.take() {
            server.kill9()?;
        }
        Ok(())
    }

    /// Stops the server in good order; its data stays for [`Postgres::restart`].
    pub async fn stop(&mut self) -> Result<(), Error> {
        if let Some(server) = self.server.take() {
            server.stop().await?;
        }
        Ok(())
    }

    /// Starts the server again on the same port and data, killing it first if it runs.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.kill9()?;
        self.server = Some(LocalPostgres::start(&self.config).await?);
        Ok(())
    }
}
