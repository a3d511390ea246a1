//! Who may do what. Tokens are found by their SHA-256, so that no comparison tells how much of a guess was right.

use axum::http::{HeaderMap, StatusCode, header};

use super::{Answer, Failure, State};
use crate::stores::hash;

fn bearer(headers: &HeaderMap) -> Answer<&str> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Failure::new(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer <token>`"))
}

/// The store's API token.
pub(super) async fn store(state: &State, headers: &HeaderMap, store_id: &str) -> Answer<()> {
    let token = bearer(headers)?;
    let owner: Option<String> = sqlx::query_scalar(
        "SELECT store_id FROM store_keys WHERE key_sha256 = $1 AND kind = 'api' AND revoked_at IS NULL",
    )
    .bind(hash(token).as_slice())
    .fetch_optional(&state.pool)
    .await?;
    match owner {
        None => Err(Failure::new(StatusCode::UNAUTHORIZED, "the token is unknown")),
        Some(owner) if owner != store_id => {
            Err(Failure::new(StatusCode::FORBIDDEN, "the token belongs to another store"))
        }
        Some(_) => Ok(()),
    }
}

/// The operator's token.
pub(super) fn admin(state: &State, headers: &HeaderMap) -> Answer<()> {
    let token = bearer(headers)?;
    match state.admin_token_hash {
        Some(expected) if expected == hash(token) => Ok(()),
        Some(_) => Err(Failure::new(StatusCode::UNAUTHORIZED, "the token is not the admin token")),
        None => Err(Failure::new(
            StatusCode::FORBIDDEN,
            "the admin API is closed: no MILLRACE_ADMIN_TOKEN is set",
        )),
    }
}
