//! Logins of Postgres for people, each bound to one store: made, listed, dropped, and watched.
//!
//! The services' role can make no role. The functions of the schema `millrace_admin` can, which a superuser has installed
//! ([`millrace_schemas::postgres::set_up`]): they take a name of ours and a password's verifier, so the password itself is
//! in no statement and no log of Postgres. Which rows a login sees follows from `store_logins` and `session_user`.
//!
//! A login may set most of its own bounds back. Those that hold in spite of it are the limits of connections and of temporary
//! files, and [`watch`].

use std::{convert::Infallible, time::Duration};

use millrace_schemas::{
    metric,
    postgres::{LOGIN_OVERDUE_SECONDS, LOGIN_PREFIX, scram_verifier},
};
use rand::Rng as _;
use sqlx::{PgConnection, PgPool, postgres::PgConnectOptions};

use crate::{
    error::{Error, Result},
    locks::Work,
    postgres::Answer as _,
};

/// Logins of a store, at most.
pub const LOGINS_MAX: i64 = 10;
/// How often logins are looked after.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Postgres's code for "configuration limit exceeded": all connections are promised.
const NO_ROOM: &str = "53400";

/// A login, when it is made: the password is kept by nobody.
#[derive(Clone, Debug)]
pub struct NewLogin {
    /// The name to log in with.
    pub login: String,
    /// The password.
    pub password: String,
}

/// Why a login is not made.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such store.
    #[error("there is no such store")]
    NoStore,
    /// The store has as many as it may have.
    #[error("a store has at most {LOGINS_MAX} logins")]
    TooMany,
    /// The logins there are may take all connections that the services leave.
    #[error("Postgres has no connections left to promise: drop logins, or raise max_connections")]
    NoRoom,
    /// It could not be tried.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Makes a login. It is there when the caller's transaction is committed.
pub async fn create(
    postgres: &mut PgConnection,
    store_id: &str,
    name: Option<&str>,
) -> Result<NewLogin, Refusal> {
    Work::Logins.take(postgres).await?;
    let known: Option<i64> = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM store_logins WHERE store_id = stores.id) FROM stores WHERE id = $1",
    )
    .bind(store_id)
    .fetch_optional(&mut *postgres)
    .within()
    .await?;
    match known {
        None => return Err(Refusal::NoStore),
        Some(count) if count >= LOGINS_MAX => return Err(Refusal::TooMany),
        Some(_) => {}
    }
    let made = NewLogin {
        login: format!("{LOGIN_PREFIX}{}", hex::encode(random::<8>())),
        password: hex::encode(random::<24>()),
    };
    sqlx::query("INSERT INTO store_logins (login, store_id, name) VALUES ($1, $2, $3)")
        .bind(&made.login)
        .bind(store_id)
        .bind(name)
        .execute(&mut *postgres)
        .within()
        .await?;
    let created = sqlx::query("SELECT millrace_admin.create_login($1, $2)")
        .bind(&made.login)
        .bind(scram_verifier(&made.password, random()))
        .execute(postgres)
        .within()
        .await;
    match created {
        Ok(_) => Ok(made),
        Err(Error::Postgres(sqlx::Error::Database(refusal)))
            if refusal.code().as_deref() == Some(NO_ROOM) =>
        {
            Err(Refusal::NoRoom)
        }
        Err(error) => Err(error.into()),
    }
}

/// Drops a store's login, and ends its sessions. `false`: there is none.
pub async fn drop(postgres: &mut PgConnection, store_id: &str, login: &str) -> Result<bool> {
    let gone = sqlx::query("DELETE FROM store_logins WHERE store_id = $1 AND login = $2")
        .bind(store_id)
        .bind(login)
        .execute(postgres)
        .within()
        .await?;
    Ok(gone.rows_affected() > 0)
}

/// The connection string of a login, where ours has a form that others can use too.
pub fn url(options: &PgConnectOptions, made: &NewLogin) -> Option<String> {
    let is_plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':'))
    };
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    let host = options.get_host().trim_matches(['[', ']']);
    if options.get_socket().is_some() || !is_plain(host) || !is_plain(database) {
        return None;
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let NewLogin { login, password } = made;
    Some(format!("postgres://{login}:{password}@{host}:{}/{database}", options.get_port()))
}

/// Ends what logins do beyond their bounds, whatever they have set, for as long as it is asked to: transactions that hold
/// locks and old rows, and what fills the disk.
pub async fn watch(pool: &PgPool) -> Infallible {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        match watch_once(pool, LOGIN_OVERDUE_SECONDS).await {
            Ok(0) => {}
            Ok(ended) => {
                metrics::counter!(metric::AGGREGATOR_LOGIN_SESSIONS_ENDED).increment(ended);
                tracing::warn!(ended, "sessions of logins went beyond their bounds and were ended");
            }
            // Postgres is away, or not set up: others say so.
            Err(error) => tracing::debug!(%error, "logins cannot be watched"),
        }
    }
}

/// The same, once; answers how many sessions were ended.
pub async fn watch_once(pool: &PgPool, overdue_seconds: i32) -> Result<u64> {
    let ended: i32 = sqlx::query_scalar("SELECT millrace_admin.watch_logins($1)")
        .bind(overdue_seconds)
        .fetch_one(pool)
        .within()
        .await?;
    Ok(u64::from(ended.unsigned_abs()))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_given_where_it_has_one_form() {
        let made = NewLogin { login: "l".into(), password: "p".into() };
        let url_of = |text: &str| url(&text.parse().unwrap(), &made);
        assert_eq!(url_of("postgres://m:x@db.example:6432/m").unwrap(), "postgres://l:p@db.example:6432/m");
        assert_eq!(url_of("postgres://m@[::1]/m").unwrap(), "postgres://l:p@[::1]:5432/m");
        assert_eq!(url_of("postgres://m@h/a%20b"), None);
    }
}
