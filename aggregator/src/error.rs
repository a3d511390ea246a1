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
    /// A store's rollup was given up, so that others have their turn.
    #[error("it took longer than {0:?}; it is tried again by itself, with more time")]
    BudgetExceeded(std::time::Duration),
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

/// Why a store's rollup is given up for now. A closed list: metrics and `/readyz` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// It took longer than it may.
    Time,
    /// A query needed more memory than it may have.
    Memory,
    /// A table would have more rows than are held in memory at once.
    Rows,
    /// Its settings cannot be used.
    Settings,
    /// ClickHouse or Postgres refused something else.
    Refused,
}

impl Setback {
    /// All of them.
    pub const ALL: [Setback; 5] =
        [Setback::Time, Setback::Memory, Setback::Rows, Setback::Settings, Setback::Refused];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Setback::Time => "time",
            Setback::Memory => "memory",
            Setback::Rows => "rows",
            Setback::Settings => "settings",
            Setback::Refused => "refused",
        }
    }

    /// Whether less work at once may help.
    pub const fn is_of_size(self) -> bool {
        matches!(self, Setback::Time | Setback::Memory | Setback::Rows)
    }
}

impl Error {
    /// Whether all that ClickHouse does has taken its memory, not this query: somebody gives some back soon.
    pub fn is_memory_of_all(&self) -> bool {
        match self {
            Error::ClickHouse(clickhouse::error::Error::BadResponse(text)) => {
                text.contains("Code: 241.") && clickhouse_setback(text).is_none()
            }
            _ => false,
        }
    }

    /// Whether less work at once may help.
    pub fn is_of_size(&self) -> bool {
        self.is_memory_of_all() || self.setback().is_some_and(Setback::is_of_size)
    }

    /// What kept one store's work from being done. `None`: ClickHouse or Postgres is away, for all stores alike.
    pub fn setback(&self) -> Option<Setback> {
        match self {
            Error::ClickHouse(clickhouse::error::Error::BadResponse(text)) => clickhouse_setback(text),
            Error::ClickHouse(clickhouse::error::Error::TimedOut) | Error::BudgetExceeded(_) => {
                Some(Setback::Time)
            }
            Error::ClickHouse(clickhouse::error::Error::Network(_)) => None,
            Error::ClickHouse(_) => Some(Setback::Refused),
            Error::Postgres(sqlx::Error::Database(refusal)) => postgres_setback(refusal.code().as_deref()),
            Error::Postgres(
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed,
            )
            | Error::PostgresSilent
            | Error::Migrate(_)
            | Error::Setting(_)
            | Error::NotSetUp { .. } => None,
            Error::Store { .. } => Some(Setback::Settings),
            Error::Postgres(_) | Error::Encode(_) | Error::Internal(_) => Some(Setback::Refused),
        }
    }
}

/// ClickHouse's codes, as its texts begin.
const CLICKHOUSE_SETBACKS: [(&str, Option<Setback>); 9] = [
    // What all queries, merges and inserts have taken together, of late and of earlier engines.
    ("(total) memory limit exceeded", None),
    ("Memory limit (total) exceeded", None),
    ("Code: 241.", Some(Setback::Memory)),
    ("Code: 159.", Some(Setback::Time)),
    ("Code: 160.", Some(Setback::Time)),
    ("Code: 396.", Some(Setback::Rows)),
    // Too many statements at once; it is shutting down; the tables are not there.
    ("Code: 202.", None),
    ("Code: 236.", None),
    ("Code: 60.", None),
];

fn clickhouse_setback(text: &str) -> Option<Setback> {
    let known = CLICKHOUSE_SETBACKS.iter().find(|(code, _)| text.contains(code));
    known.map_or(Some(Setback::Refused), |(_, setback)| *setback)
}

/// Postgres's codes, or their classes.
fn postgres_setback(code: Option<&str>) -> Option<Setback> {
    match code {
        // A statement's timeout.
        Some("57014") => Some(Setback::Time),
        // No connection, no resources, shutting down, a broken disk; a transaction that was silent for too long.
        Some(code) if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => None,
        Some("25P03") => None,
        _ => Some(Setback::Refused),
    }
}

/// A result of rolling up.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_away_is_no_stores_fault() {
        use clickhouse::error::Error as ClickHouse;
        let refused = |text: &str| Error::ClickHouse(ClickHouse::BadResponse(text.into())).setback();
        assert_eq!(refused("Code: 241. DB::Exception: Memory limit exceeded"), Some(Setback::Memory));
        assert_eq!(refused("Code: 396. DB::Exception: Limit for result exceeded"), Some(Setback::Rows));
        assert_eq!(refused("Code: 43. DB::Exception: Illegal type"), Some(Setback::Refused));
        assert_eq!(refused("Code: 202. DB::Exception: Too many simultaneous queries"), None);
        let of_all = "Code: 241. DB::Exception: (total) memory limit exceeded: would use 1.00 GiB";
        assert_eq!(refused(of_all), None);
        assert_eq!(Error::Postgres(sqlx::Error::PoolTimedOut).setback(), None);
        assert_eq!(Error::PostgresSilent.setback(), None);
        assert_eq!(
            (postgres_setback(Some("57014")), postgres_setback(Some("57P01"))),
            (Some(Setback::Time), None)
        );
        assert_eq!(postgres_setback(Some("22003")), Some(Setback::Refused));
    }
}
