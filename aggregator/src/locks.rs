//! Who does what, when several instances run: whoever holds the lock of a row, from before anything is read until its
//! transaction ends. The lock is gone in the moment the transaction is committed, or can no longer be: who loses one has
//! lost the other.
//!
//! Rows and not advisory locks: those can be taken, and kept, by anybody who may log in, and all of them share one table of
//! the server that anybody can fill. The tables of these rows are visible to their owner only.
//!
//! A transaction that has done nothing but take a lock is rolled back rather than committed: a commit would wait for the disk.

use sqlx::PgConnection;

use crate::{error::Result, postgres::Answer as _};

/// Work of which one instance at a time does all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Looking for arrivals.
    Arrivals,
    /// Erasing.
    Erasures,
    /// Making logins, of which there may be so many.
    Logins,
}

impl Work {
    const fn name(self) -> &'static str {
        match self {
            Work::Arrivals => "arrivals",
            Work::Erasures => "erasures",
            Work::Logins => "logins",
        }
    }

    /// Takes the work for this transaction. `false`: another one has it.
    pub async fn try_take(self, postgres: &mut PgConnection) -> Result<bool> {
        let row = sqlx::query("SELECT FROM work_locks WHERE name = $1 FOR UPDATE SKIP LOCKED")
            .bind(self.name())
            .fetch_optional(postgres)
            .within()
            .await?;
        Ok(row.is_some())
    }

    /// The same, waiting for the one that has it.
    pub async fn take(self, postgres: &mut PgConnection) -> Result<()> {
        sqlx::query("SELECT FROM work_locks WHERE name = $1 FOR UPDATE")
            .bind(self.name())
            .fetch_one(postgres)
            .within()
            .await?;
        Ok(())
    }
}

/// Takes a store's rollups for this transaction. `false`: another one has them, or the store is gone.
pub async fn try_take_store(postgres: &mut PgConnection, store_id: &str) -> Result<bool> {
    let row = sqlx::query("SELECT FROM store_locks WHERE store_id = $1 FOR UPDATE SKIP LOCKED")
        .bind(store_id)
        .fetch_optional(postgres)
        .within()
        .await?;
    Ok(row.is_some())
}

/// The same, waiting for the one that has them. Of a store that is gone there is nothing to wait for.
pub async fn take_store(postgres: &mut PgConnection, store_id: &str) -> Result<()> {
    sqlx::query("SELECT FROM store_locks WHERE store_id = $1 FOR UPDATE")
        .bind(store_id)
        .fetch_optional(postgres)
        .within()
        .await?;
    Ok(())
}
