//! Keys and tokens of a store: made, listed, rotated with an overlap, revoked. A secret is shown once, in the answer that
//! makes it; what is kept of it is its SHA-256. Collectors learn of every change within a second, the API at once.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State as Shared},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{
    Answer, Failure, State,
    admin::{audit, check_text, parse},
};
use crate::{
    postgres::begin,
    stores::{HOLDS, KeyKind, Made, add_key},
};

/// Keys of a store that hold at a time.
const KEYS_MAX: i64 = 100;
/// Keys of a store that no longer hold and are still listed; older ones are forgotten, but for their lines in `admin_audit`.
const ENDED_KEYS_MAX: i64 = 100;
/// How long a key goes on beside the one that replaces it, when nothing else is asked for.
const OVERLAP_DEFAULT: Duration = Duration::from_secs(86_400);
/// And at most.
pub(super) const OVERLAP_MAX: Duration = Duration::from_secs(30 * 86_400);

/// A key as it is listed: everything but the secret. A write key is public.
const LISTED: &str = "jsonb_build_object(
    'key_id', key_id, 'kind', kind, 'name', name, 'key', write_key, 'last_characters', last_characters,
    'created_at', created_at, 'valid_until', valid_until, 'revoked_at', revoked_at,
    'state', CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN valid_until <= now() THEN 'ended'
                  WHEN suspended_at IS NOT NULL THEN 'suspended' WHEN valid_until IS NOT NULL THEN 'ending'
                  ELSE 'active' END)";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    kind: KeyKind,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    #[serde(default)]
    overlap_seconds: Option<u64>,
}

/// Answers that hold a secret are kept by nobody on the way.
fn secret(status: StatusCode, body: Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// `POST /api/v1/stores/{store_id}/keys`.
pub(super) async fn create(
    Shared(state): Shared<State>,
    Path(store_id): Path<String>,
    body: Bytes,
) -> Answer<Response> {
    let new: NewKey = parse(&body)?;
    if let Some(name) = &new.name {
        check_text("name", name)?;
        if name.chars().any(char::is_control) {
            return Err(Failure::field("name", "a text without control characters"));
        }
    }
    let mut transaction = begin(&state.pool).await?;
    check_store(&mut transaction, &store_id).await?;
    let made = add(&mut transaction, &store_id, new.kind, new.name.as_deref().unwrap_or_default()).await?;
    let detail = json!({"key_id": made.key_id, "kind": new.kind, "name": new.name});
    audit(&mut transaction, "create_key", Some(&store_id), detail).await?;
    transaction.commit().await?;
    Ok(secret(StatusCode::CREATED, shown(&store_id, &made)))
}

/// `GET /api/v1/stores/{store_id}/keys`: those that hold first, then the newest.
pub(super) async fn list(Shared(state): Shared<State>, Path(store_id): Path<String>) -> Answer<Response> {
    let mut postgres = state.pool.acquire().await?;
    check_store(&mut postgres, &store_id).await?;
    let sql = format!(
        "SELECT {LISTED} FROM store_keys WHERE store_id = $1
         ORDER BY ({HOLDS}) DESC, created_at DESC, key_id LIMIT {}",
        KEYS_MAX + ENDED_KEYS_MAX
    );
    let keys: Vec<Value> =
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(&store_id).fetch_all(&mut *postgres).await?;
    Ok(secret(StatusCode::OK, json!({"data": keys})))
}

/// `POST /api/v1/stores/{store_id}/keys/{key_id}/rotate`.
pub(super) async fn rotate(
    Shared(state): Shared<State>,
    Path((store_id, key_id)): Path<(String, String)>,
    body: Bytes,
) -> Answer<Response> {
    let rotation: Rotation = if body.is_empty() { Rotation::default() } else { parse(&body)? };
    let overlap = rotation.overlap_seconds.unwrap_or(OVERLAP_DEFAULT.as_secs());
    if overlap > OVERLAP_MAX.as_secs() {
        let message = format!("a whole number from 0 to {}", OVERLAP_MAX.as_secs());
        return Err(Failure::field("overlap_seconds", message));
    }
    let mut transaction = begin(&state.pool).await?;
    let sql = format!(
        "SELECT kind, name, (suspended_at IS NOT NULL AND revoked_at IS NULL) OR ({HOLDS}) AS holds
         FROM store_keys WHERE store_id = $1 AND key_id = $2 FOR UPDATE"
    );
    let old = sqlx::query(AssertSqlSafe(sql))
        .bind(&store_id)
        .bind(&key_id)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or_else(no_such_key)?;
    // One that is suspended may be replaced all the same.
    if !old.try_get::<bool, _>("holds")? {
        let message = "the key does not hold any more; make a new one";
        return Err(Failure::new(StatusCode::CONFLICT, message));
    }
    let kind = KeyKind::parse(old.try_get("kind")?)?;
    // A rotated key never lasts longer than it did.
    let ended: Value = sqlx::query_scalar(
        "UPDATE store_keys
         SET valid_until = least(valid_until, now() + make_interval(secs => $3)),
             revoked_at = CASE WHEN $3 = 0 THEN now() END
         WHERE store_id = $1 AND key_id = $2
         RETURNING to_jsonb(coalesce(revoked_at, valid_until))",
    )
    .bind(&store_id)
    .bind(&key_id)
    .bind(overlap as f64)
    .fetch_one(&mut *transaction)
    .await?;
    let made = add(&mut transaction, &store_id, kind, old.try_get("name")?).await?;
    let detail = json!({"key_id": made.key_id, "kind": kind, "replaces": key_id, "overlap_seconds": overlap});
    audit(&mut transaction, "rotate_key", Some(&store_id), detail).await?;
    transaction.commit().await?;
    let mut answer = shown(&store_id, &made);
    answer["replaces"] = json!({"key_id": key_id, "valid_until": ended});
    Ok(secret(StatusCode::CREATED, answer))
}

/// `DELETE /api/v1/stores/{store_id}/keys/{key_id}`: at once, and for good.
pub(super) async fn revoke(
    Shared(state): Shared<State>,
    Path((store_id, key_id)): Path<(String, String)>,
) -> Answer {
    let mut transaction = begin(&state.pool).await?;
    let before = sqlx::query(
        "SELECT kind, revoked_at IS NOT NULL AS revoked FROM store_keys WHERE store_id = $1 AND key_id = $2
         FOR UPDATE",
    )
    .bind(&store_id)
    .bind(&key_id)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(no_such_key)?;
    let kind: String = before.try_get("kind")?;
    if !before.try_get::<bool, _>("revoked")? {
        sqlx::query("UPDATE store_keys SET revoked_at = now() WHERE store_id = $1 AND key_id = $2")
            .bind(&store_id)
            .bind(&key_id)
            .execute(&mut *transaction)
            .await?;
        let detail = json!({"key_id": key_id, "kind": kind});
        audit(&mut transaction, "revoke_key", Some(&store_id), detail).await?;
    }
    // Who revokes a store's last key should see that nothing can be sent, or read, any more.
    let sql = format!(
        "SELECT jsonb_build_object('key_id', key_id, 'kind', kind, 'revoked_at', revoked_at, 'keys_left',
                    (SELECT count(*) FROM store_keys WHERE store_id = $1 AND kind = $3 AND {HOLDS}))
         FROM store_keys WHERE store_id = $1 AND key_id = $2"
    );
    let revoked: Value = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(&store_id)
        .bind(&key_id)
        .bind(&kind)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Json(revoked))
}

/// Adds a key and sees to it that a store's keys stay few.
async fn add(postgres: &mut PgConnection, store_id: &str, kind: KeyKind, name: &str) -> Answer<Made> {
    let made = add_key(postgres, store_id, kind, &kind.generate(), name).await?;
    // After it was added: changes of keys follow each other (settings_version), so nobody else's is missed.
    let count = format!("SELECT count(*) FROM store_keys WHERE store_id = $1 AND {HOLDS}");
    let holding: i64 =
        sqlx::query_scalar(AssertSqlSafe(count)).bind(store_id).fetch_one(&mut *postgres).await?;
    if holding > KEYS_MAX {
        let message = format!("a store has at most {KEYS_MAX} keys; revoke one first");
        return Err(Failure::new(StatusCode::CONFLICT, message));
    }
    let ended = format!(
        "SELECT key_sha256 FROM store_keys WHERE store_id = $1 AND suspended_at IS NULL AND NOT ({HOLDS})
         ORDER BY coalesce(revoked_at, valid_until) DESC OFFSET {ENDED_KEYS_MAX}"
    );
    let forgotten: Vec<Vec<u8>> =
        sqlx::query_scalar(AssertSqlSafe(ended)).bind(store_id).fetch_all(&mut *postgres).await?;
    if !forgotten.is_empty() {
        sqlx::query("DELETE FROM store_keys WHERE key_sha256 = ANY ($1)")
            .bind(forgotten)
            .execute(postgres)
            .await?;
    }
    Ok(made)
}

fn shown(store_id: &str, made: &Made) -> Value {
    json!({
        "store_id": store_id, "key_id": made.key_id, "kind": made.kind, "name": made.name, "key": made.key,
        "created_at": made.created_at,
    })
}

fn no_such_key() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "the store has no such key")
}

async fn check_store(postgres: &mut PgConnection, store_id: &str) -> Answer<()> {
    let is_there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM stores WHERE id = $1)")
        .bind(store_id)
        .fetch_one(postgres)
        .await?;
    if is_there { Ok(()) } else { Err(Failure::new(StatusCode::NOT_FOUND, "there is no such store")) }
}
