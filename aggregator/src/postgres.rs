//! Connections to Postgres, its migrations, and the forms in which dates and instants travel.

use std::time::Duration;

use jiff::civil::Date;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{config::Config, error::Result};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../schemas/postgres");

/// A pool that connects when first asked.
pub fn pool(config: &Config) -> Result<PgPool> {
    let options: PgConnectOptions = config.postgres_url.parse()?;
    Ok(PgPoolOptions::new()
        .max_connections(config.postgres_connections)
        .acquire_timeout(Duration::from_secs(10))
        .idle_timeout(Duration::from_secs(300))
        .connect_lazy_with(options.application_name("millrace-aggregator")))
}

/// Brings the schema up to date. Under the migrator's lock: of several instances one migrates, the others wait.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    Ok(MIGRATIONS.run(pool).await?)
}

/// A date as Postgres reads and writes it.
pub fn parse_date(text: &str) -> Result<Date> {
    text.parse().map_err(|_| crate::error::Error::Internal(format!("Postgres gave the date {text:?}")))
}
