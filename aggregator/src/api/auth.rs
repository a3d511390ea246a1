//! Who may do what, as [`super::routes`] says. Tokens are found by their SHA-256, so that no comparison tells how much of a
//! guess was right. A refusal says nothing of the store in the path: whether it exists is not told to strangers.

use axum::{
    extract::{RawPathParams, Request, State as Shared, rejection::RawPathParamsRejection},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};

use super::{Answer, Failure, State};
use crate::stores::{HOLDS, hash};

fn bearer(headers: &HeaderMap) -> Answer<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    // Of two, whoever stands between might look at the other one.
    let only = values.next().filter(|_| values.next().is_none());
    only.and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Failure::new(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer <token>`"))
}

/// The store that an API token opens, if it holds now: neither revoked, ended nor suspended.
async fn owner(state: &State, token: &str) -> Answer<Option<String>> {
    if !state.takes_known_keys && crate::stores::is_known(token) {
        return Ok(None);
    }
    let sql = format!("SELECT store_id FROM store_keys WHERE key_sha256 = $1 AND kind = 'api' AND {HOLDS}");
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(hash(token).as_slice())
        .fetch_optional(&state.pool)
        .await?)
}

/// Lets requests through that have the API token of the store in their path.
pub(super) async fn store_only(
    Shared(state): Shared<State>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let token = bearer(request.headers())?;
    let owner = owner(&state, token)
        .await?
        .ok_or_else(|| Failure::new(StatusCode::UNAUTHORIZED, "the token is unknown"))?;
    let path = path.map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "the path is not UTF-8"))?;
    if path.iter().all(|(name, value)| name != "store_id" || value != owner) {
        return Err(Failure::new(StatusCode::FORBIDDEN, "the token belongs to another store"));
    }
    Ok(next.run(request).await)
}

/// Lets requests through that have the operator's token.
pub(super) async fn admin_only(
    Shared(state): Shared<State>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let token = bearer(request.headers())?;
    match state.admin_token_hash {
        Some(expected) if expected == hash(token) => return Ok(next.run(request).await),
        Some(_) => {}
        None => {
            let message = "the admin API is closed: no MILLRACE_ADMIN_TOKEN is set";
            return Err(Failure::new(StatusCode::FORBIDDEN, message));
        }
    }
    Err(match owner(&state, token).await? {
        Some(_) => {
            Failure::new(StatusCode::FORBIDDEN, "a store's API token reads; this needs the admin token")
        }
        None => Failure::new(StatusCode::UNAUTHORIZED, "the token is not the admin token"),
    })
}
