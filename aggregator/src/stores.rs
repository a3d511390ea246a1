//! Stores and their keys: made here, read by the collector.

use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};

use crate::{error::Result, postgres::Answer as _};

/// The store that one machine starts with.
pub const DEMO_STORE: &str = "demo";
/// Its write key.
pub const DEMO_WRITE_KEY: &str = "demo-write-key";
/// Its secret key.
pub const DEMO_SECRET_KEY: &str = "demo-secret-key";
/// Its API token.
pub const DEMO_API_TOKEN: &str = "demo-api-token";

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Stores a key of a store; one that is there already stays as it is.
pub async fn add_key(postgres: &mut PgConnection, store_id: &str, kind: KeyKind, key: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO store_keys (key_sha256, store_id, kind, write_key) VALUES ($1, $2, $3, $4)
         ON CONFLICT (key_sha256) DO NOTHING",
    )
    .bind(hash(key).as_slice())
    .bind(store_id)
    .bind(kind.as_str())
    .bind((kind == KeyKind::Write).then_some(key))
    .execute(postgres)
    .within()
    .await?;
    Ok(())
}

/// Makes the store `demo` with its keys and the funnel `purchase`, unless it is there. The schema must be (see
/// [`crate::postgres::migrate`]). For the one-machine runner only: its keys are in the documentation.
pub async fn ensure_demo_store(pool: &PgPool) -> Result<()> {
    let mut transaction = pool.begin().within().await?;
    let made = sqlx::query(
        "INSERT INTO stores (id, name, timezone, currency) VALUES ($1, 'demo', 'UTC', 'USD') ON CONFLICT DO NOTHING",
    )
    .bind(DEMO_STORE)
    .execute(&mut *transaction)
    .within()
    .await?;
    if made.rows_affected() > 0 {
        for (kind, key) in [
            (KeyKind::Write, DEMO_WRITE_KEY),
            (KeyKind::Secret, DEMO_SECRET_KEY),
            (KeyKind::Api, DEMO_API_TOKEN),
        ] {
            add_key(&mut transaction, DEMO_STORE, kind, key).await?;
        }
        sqlx::query(
            "INSERT INTO funnels (store_id, funnel_name) VALUES ($1, 'purchase') ON CONFLICT DO NOTHING",
        )
        .bind(DEMO_STORE)
        .execute(&mut *transaction)
        .within()
        .await?;
        for (order, event) in (1..).zip(["view_item", "add_to_cart", "begin_checkout", "purchase"]) {
            sqlx::query(
                "INSERT INTO funnel_steps (store_id, funnel_name, step_name, step_order, definition)
                 VALUES ($1, 'purchase', $2, $3, $4) ON CONFLICT DO NOTHING",
            )
            .bind(DEMO_STORE)
            .bind(event)
            .bind(order)
            .bind(serde_json::json!({ "event": event }))
            .execute(&mut *transaction)
            .within()
            .await?;
        }
    }
    transaction.commit().within().await?;
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
    }
}
