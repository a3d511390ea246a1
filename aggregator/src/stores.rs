//! Stores and their keys: made here, read by the collector.

use std::net::SocketAddr;

use millrace_schemas::demo;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row as _};

use crate::{
    error::{Error, Result},
    postgres::{Answer as _, begin},
};

/// Whether a row of `store_keys` holds now.
pub const HOLDS: &str =
    "revoked_at IS NULL AND suspended_at IS NULL AND (valid_until IS NULL OR valid_until > now())";

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Public: stands in the page.
    Write,
    /// The shop's own server.
    Secret,
    /// Reads rollups.
    Api,
}

impl KeyKind {
    const fn as_str(self) -> &'static str {
        match self {
            KeyKind::Write => "write",
            KeyKind::Secret => "secret",
            KeyKind::Api => "api",
        }
    }

    /// The kind that a row names.
    pub fn parse(text: &str) -> Result<Self> {
        [KeyKind::Write, KeyKind::Secret, KeyKind::Api]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Error::Internal(format!("{text:?} is no kind of keys")))
    }

    /// A new key: 192 random bits after the kind's prefix.
    pub fn generate(self) -> String {
        let mut bytes = [0_u8; 24];
        rand::rng().fill_bytes(&mut bytes);
        let prefix = match self {
            KeyKind::Write => "mr_w_",
            KeyKind::Secret => "mr_s_",
            KeyKind::Api => "mr_a_",
        };
        format!("{prefix}{}", hex::encode(bytes))
    }
}

/// What of a key is kept.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Whether everybody knows this key.
pub fn is_known(key: &str) -> bool {
    demo::KNOWN_KEYS.contains(&key)
}

/// A key that was just made: the one time that it is shown.
#[derive(Debug)]
pub struct Made {
    /// Names it from here on.
    pub key_id: String,
    /// What it is for.
    pub kind: KeyKind,
    /// What people call it.
    pub name: String,
    /// The key itself.
    pub key: String,
    /// When.
    pub created_at: Value,
}

/// Stores a key of a store.
pub async fn add_key(
    postgres: &mut PgConnection,
    store_id: &str,
    kind: KeyKind,
    key: &str,
    name: &str,
) -> Result<Made> {
    let row = sqlx::query(
        "INSERT INTO store_keys (key_sha256, store_id, kind, write_key, name, last_characters)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING key_id, to_jsonb(created_at) AS created_at",
    )
    .bind(hash(key).as_slice())
    .bind(store_id)
    .bind(kind.as_str())
    .bind((kind == KeyKind::Write).then_some(key))
    .bind(name)
    // Of a short key four characters would be too much.
    .bind(if key.len() >= 32 { &key[key.len() - 4..] } else { "" })
    .fetch_one(postgres)
    .within()
    .await?;
    Ok(Made {
        key_id: row.try_get("key_id")?,
        kind,
        name: name.to_owned(),
        key: key.to_owned(),
        created_at: row.try_get("created_at")?,
    })
}

/// Makes the store `demo` with its keys and the funnel `purchase`, unless it is there. The schema must be (see
/// [`crate::postgres::migrate`]). For the one-machine runner only: its keys are in the documentation. They hold only while
/// nobody else reaches a listener; the answer is the listener that suspends them, if one does.
pub async fn ensure_demo_store(pool: &PgPool, listeners: &[SocketAddr]) -> Result<Option<SocketAddr>> {
    let mut transaction = begin(pool).within().await?;
    let made = sqlx::query(
        "INSERT INTO stores (id, name, timezone, currency) VALUES ($1, 'demo', 'UTC', 'USD') ON CONFLICT DO NOTHING",
    )
    .bind(demo::STORE)
    .execute(&mut *transaction)
    .within()
    .await?;
    if made.rows_affected() > 0 {
        fill_demo_store(&mut transaction).await?;
    }
    let reachable = demo::reachable(listeners);
    suspend_known_keys(&mut transaction, reachable.is_some()).await?;
    transaction.commit().within().await?;
    Ok(reachable)
}

async fn fill_demo_store(postgres: &mut PgConnection) -> Result<()> {
    for (kind, key) in [
        (KeyKind::Write, demo::WRITE_KEY),
        (KeyKind::Secret, demo::SECRET_KEY),
        (KeyKind::Api, demo::API_TOKEN),
    ] {
        add_key(postgres, demo::STORE, kind, key, "demo").await?;
    }
    sqlx::query("INSERT INTO funnels (store_id, funnel_name) VALUES ($1, 'purchase') ON CONFLICT DO NOTHING")
        .bind(demo::STORE)
        .execute(&mut *postgres)
        .within()
        .await?;
    for (order, event) in (1..).zip(["view_item", "add_to_cart", "begin_checkout", "purchase"]) {
        sqlx::query(
            "INSERT INTO funnel_steps (store_id, funnel_name, step_name, step_order, definition)
             VALUES ($1, 'purchase', $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(demo::STORE)
        .bind(event)
        .bind(order)
        .bind(serde_json::json!({ "event": event }))
        .execute(&mut *postgres)
        .within()
        .await?;
    }
    Ok(())
}

/// Suspends the keys that everybody knows, whatever store they are of, or lets them hold again. What was revoked stays so.
async fn suspend_known_keys(postgres: &mut PgConnection, is_suspended: bool) -> Result<()> {
    let to = if is_suspended { "now()" } else { "NULL" };
    let sql = format!(
        "UPDATE store_keys SET suspended_at = {to}
         WHERE key_sha256 = ANY ($1) AND (suspended_at IS NOT NULL) <> $2"
    );
    let known: Vec<Vec<u8>> = demo::KNOWN_KEYS.iter().map(|key| hash(key).to_vec()).collect();
    sqlx::query(AssertSqlSafe(sql)).bind(known).bind(is_suspended).execute(postgres).within().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_say_what_they_are_for() {
        let keys: Vec<String> = (0..3).map(|_| KeyKind::Api.generate()).collect();
        assert!(keys.iter().all(|key| key.starts_with("mr_a_") && key.len() == 5 + 48));
        assert!(keys[0] != keys[1] && keys[1] != keys[2]);
        assert_eq!(KeyKind::parse("api").unwrap(), KeyKind::Api);
    }
}
