//! What collectors refused of a store's events: samples and counts. Neither names anybody.

use axum::{
    extract::{Path, Query, State as Shared},
    response::Response,
};
use millrace_schemas::{refused::SAMPLES_MAX, reject::Reason};
use serde_json::{Map, Value, json};

use super::{
    Answer, Failure, State,
    openapi::{answers, parameter, text},
    read::{Parameters, refuse_rest, take_date},
};

/// `GET /api/v1/stores/{store_id}/refused_events`.
pub(super) async fn list(
    Shared(state): Shared<State>,
    Path(store_id): Path<String>,
    Query(mut parameters): Query<Parameters>,
) -> Answer<Response> {
    let (from, to) = (take_date(&mut parameters, "from")?, take_date(&mut parameters, "to")?);
    let reason = parameters.remove("reason");
    if reason.as_deref().is_some_and(|reason| Reason::ALL.iter().all(|known| known.as_str() != reason)) {
        return Err(Failure::field("reason", "a reason for which events are refused, such as missing_field"));
    }
    refuse_rest(&parameters)?;
    let place = state.readers.enter(&store_id).await?;
    let answer: String = sqlx::query_scalar(
        "SELECT json_build_object(
             'counts', (SELECT coalesce(json_agg(counted), '[]') FROM (
                 SELECT date, reason, sum(events)::bigint AS events FROM refused_counts
                 WHERE store_id = $1 AND reason = coalesce($2, reason)
                   AND date BETWEEN coalesce($3::date, '-infinity') AND coalesce($4::date, 'infinity')
                 GROUP BY date, reason ORDER BY date DESC, reason) AS counted),
             'data', (SELECT coalesce(json_agg(kept), '[]') FROM (
                 SELECT refused_at, reason, detail, sample::json AS sample FROM refused_events
                 WHERE store_id = $1 AND reason = coalesce($2, reason)
                   AND (refused_at AT TIME ZONE 'UTC')::date
                       BETWEEN coalesce($3::date, '-infinity') AND coalesce($4::date, 'infinity')
                 ORDER BY refused_at DESC, id DESC) AS kept))::text",
    )
    .bind(&store_id)
    .bind(reason)
    .bind(from.map(|date| date.to_string()))
    .bind(to.map(|date| date.to_string()))
    .fetch_one(&state.pool)
    .await?;
    Ok(place.answer(answer))
}

pub(super) fn paths() -> Map<String, Value> {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let reason = json!({"type": "string", "enum": reasons});
    let date = json!({"type": "string", "format": "date"});
    let list = |items: Value| json!({"type": "array", "items": items});
    let answer = json!({"type": "object", "required": ["counts", "data"], "properties": {
        "counts": list(json!({"type": "object", "properties": {
            "date": {"type": "string", "format": "date", "description": "Of UTC."}, "reason": reason,
            "events": {"type": "integer"},
        }})),
        "data": list(json!({"type": "object", "properties": {
            "refused_at": {"type": "string", "format": "date-time"}, "reason": reason,
            "detail": text("Which field, and what was wrong with it."),
            "sample": {"type": "object", "description": "What the event was: the values of its type, name, address, \
                       time, place and currency, and of what kind its other fields were. Empty where it was no JSON object."},
        }})),
    }});
    let summary = format!(
        "Events that were refused: how many by day and reason, and the newest {SAMPLES_MAX} of each reason, some seconds after."
    );
    let get = json!({
        "summary": summary, "tags": ["read"], "security": [{"store": []}],
        "parameters": [{"$ref": "#/components/parameters/store_id"}, parameter("reason", &reason),
                       parameter("from", &date), parameter("to", &date)],
        "responses": answers("200", "Counts and samples, newest first.", &answer),
    });
    Map::from_iter([("/api/v1/stores/{store_id}/refused_events".to_owned(), json!({"get": get}))])
}
