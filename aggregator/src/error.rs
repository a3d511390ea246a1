//! What can go wrong while rolling up.

/// Why a piece of work failed. All of it is tried again; none of it reaches a client as text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ClickHouse is away, or refused a query.
    #[error("ClickHouse: {0}")]
    ClickHouse(#[from] clickhouse::error::Error),
    /// Postgres is away, or refused a statement.
    #[error("Postgres: {0}")]
    Postgres(#[from] sqlx::Error),
    /// Postgres takes connections and answers nothing.
    #[error("Postgres gives no answer: is it frozen, or the network to it cut? It is asked again")]
    PostgresSilent,
    /// The migrations could not be applied.
    #[error("migrations: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A superuser has something to do.
    #[error(
        "Postgres is not set up for Millrace{}: run `millrace-aggregator postgres-setup | psql -d <its database>` as a \
         superuser of Postgres (README, Growing)", if *is_old { " as it is now" } else { "" }
    )]
    NotSetUp {
        /// Whether an earlier version's set-up was run.
        is_old: bool,
    },
    /// A store's settings cannot be used.
    #[error("store {store_id}: {message}")]
    Store {
        /// The store.
        store_id: String,
        /// What is wrong.
        message: String,
    },
    /// A rollup's rows could not be encoded.
    #[error("encoding rows: {0}")]
    Encode(#[from] serde_json::Error),
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] millrace_service::setting::Error),
    /// A task of ours ended badly.
    #[error("{0}")]
    Internal(String),
}

/// A result of rolling up.
pub type Result<T, E = Error> = std::result::Result<T, E>;
