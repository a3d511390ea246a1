//! Erasing and exporting what is known of a visitor or user. With the operator's token alone: a store's API token reads
//! sums, and stands in dashboards; it must neither name anybody nor destroy anything.

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use sqlx::{PgConnection, Row as _};

use super::{
    Answer, Failure, State, admin,
    read::{Page, Parameters, refuse_rest},
};
use crate::{
    postgres::begin,
    privacy::{
        erasure, export,
        subject::{Kind, Subject},
    },
};

/// Bytes of an id, at most: no event's is longer.
const ID_BYTES_MAX: usize = 32 << 10;
/// Erasures of a store that are not final, at most.
const UNDER_WAY_MAX: i64 = 10_000;
/// Erasures of a store whose rows are not all deleted yet, at most: each holds up rollups while it works.
const WAITING_MAX: i64 = 500;

async fn check(state: &State, store_id: &str, id: &str) -> Answer<()> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Failure::new(StatusCode::BAD_REQUEST, format!("an id of 1 to {ID_BYTES_MAX} bytes")));
    }
    check_store(state, store_id).await
}

async fn check_store(state: &State, store_id: &str) -> Answer<()> {
    let is_there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM stores WHERE id = $1)")
        .bind(store_id)
        .fetch_one(&state.pool)
        .await?;
    if is_there { Ok(()) } else { Err(Failure::new(StatusCode::NOT_FOUND, "there is no such store")) }
}

/// `DELETE /api/v1/stores/{store_id}/visitors/{visitor_id}`.
pub(super) async fn erase_visitor(
    Shared(state): Shared<State>,
    Path((store_id, id)): Path<(String, String)>,
) -> Answer<Response> {
    erase(&state, &store_id, Kind::Visitor, &id).await
}

/// `DELETE /api/v1/stores/{store_id}/users/{user_id}`.
pub(super) async fn erase_user(
    Shared(state): Shared<State>,
    Path((store_id, id)): Path<(String, String)>,
) -> Answer<Response> {
    erase(&state, &store_id, Kind::User, &id).await
}

async fn erase(state: &State, store_id: &str, kind: Kind, id: &str) -> Answer<Response> {
    check(state, store_id, id).await?;
    let mut transaction = begin(&state.pool).await?;
    let (under_way, waiting): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE state IN ('requested', 'removed'))
         FROM erasures WHERE store_id = $1 AND state <> 'final'",
    )
    .bind(store_id)
    .fetch_one(&mut *transaction)
    .await?;
    if waiting >= WAITING_MAX {
        let message = format!(
            "{WAITING_MAX} erasures of the store are not done yet; ask again when receipts say `deleted`"
        );
        return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, message));
    }
    if under_way >= UNDER_WAY_MAX {
        let message = format!("{UNDER_WAY_MAX} erasures of the store are not final yet; ask again later");
        return Err(Failure::new(StatusCode::CONFLICT, message));
    }
    let erasure_id = erasure::request(&mut transaction, store_id, kind, id).await?;
    // The audit names the receipt, never the person.
    let detail = json!({"erasure_id": erasure_id, "kind": kind.as_str()});
    admin::audit(&mut transaction, "erase", Some(store_id), detail).await?;
    let made = receipt(&mut transaction, store_id, &erasure_id).await?;
    transaction.commit().await?;
    let location = [(header::LOCATION, format!("/api/v1/stores/{store_id}/erasures/{erasure_id}"))];
    Ok((StatusCode::ACCEPTED, location, Json(made)).into_response())
}

const RECEIPT: &str = "jsonb_build_object(
    'erasure_id', id, 'store_id', store_id, 'kind', kind, 'salt', encode(salt, 'hex'),
    'subject_sha256', encode(subject_sha256, 'hex'), 'state', state, 'requested_at', requested_at,
    'deleted_at', deleted_at, 'final_at', final_at, 'events', events, 'clicks', clicks,
    'dead_letters', dead_letters, 'sweeps', sweeps,
    'days_rolled_up', ARRAY(SELECT day FROM unnest(days) AS day
                            WHERE NOT EXISTS (SELECT 1 FROM thinned_days AS thinned
                                              WHERE thinned.store_id = erasures.store_id AND thinned.date = day)),
    'days_kept', ARRAY(SELECT day FROM unnest(days) AS day
                       WHERE EXISTS (SELECT 1 FROM thinned_days AS thinned
                                     WHERE thinned.store_id = erasures.store_id AND thinned.date = day)),
    'final_by', CASE WHEN state = 'final' THEN CASE WHEN log_ends IS NULL THEN 'horizon' ELSE 'log' END END,
    'links_ignored', links_ignored, 'error', error)";

async fn receipt(postgres: &mut PgConnection, store_id: &str, erasure_id: &str) -> Answer<Value> {
    let sql = format!("SELECT {RECEIPT} FROM erasures WHERE store_id = $1 AND id = $2");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(store_id)
        .bind(erasure_id)
        .fetch_optional(postgres)
        .await?
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such erasure"))
}

/// `GET /api/v1/stores/{store_id}/erasures/{erasure_id}`.
pub(super) async fn erasure(
    Shared(state): Shared<State>,
    Path((store_id, erasure_id)): Path<(String, String)>,
) -> Answer {
    let mut postgres = state.pool.acquire().await?;
    Ok(Json(receipt(&mut postgres, &store_id, &erasure_id).await?))
}

/// `GET /api/v1/stores/{store_id}/erasures`.
pub(super) async fn erasures(
    Shared(state): Shared<State>,
    Path(store_id): Path<String>,
    Query(mut parameters): Query<Parameters>,
) -> Answer {
    let page = Page::take(&mut parameters)?;
    refuse_rest(&parameters)?;
    check_store(&state, &store_id).await?;
    let sql = format!(
        "SELECT {RECEIPT} AS receipt FROM erasures WHERE store_id = $1 ORDER BY requested_at DESC, id LIMIT $2 OFFSET $3"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&store_id)
        .bind(page.limit)
        .bind(page.offset)
        .fetch_all(&state.pool)
        .await?;
    let data: Vec<Value> = rows.iter().map(|row| row.try_get("receipt")).collect::<Result<_, _>>()?;
    Ok(Json(json!({"data": data})))
}

/// `GET /api/v1/stores/{store_id}/visitors/{visitor_id}/export`.
pub(super) async fn export_visitor(
    Shared(state): Shared<State>,
    Path((store_id, id)): Path<(String, String)>,
) -> Answer<Response> {
    export_lines(&state, &store_id, Kind::Visitor, &id).await
}

/// `GET /api/v1/stores/{store_id}/users/{user_id}/export`.
pub(super) async fn export_user(
    Shared(state): Shared<State>,
    Path((store_id, id)): Path<(String, String)>,
) -> Answer<Response> {
    export_lines(&state, &store_id, Kind::User, &id).await
}

async fn export_lines(state: &State, store_id: &str, kind: Kind, id: &str) -> Answer<Response> {
    check(state, store_id, id).await?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let mut subject = Subject::new(store_id, kind, id, now_ms);
    subject.find_visitors(&state.warehouse).await?;
    let mut postgres = state.pool.acquire().await?;
    admin::audit(&mut postgres, "export", Some(store_id), json!({"kind": kind.as_str()})).await?;
    drop(postgres);
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(export::lines(&state.warehouse, &subject))).into_response())
}
