//! Logins of Postgres for people, each bound to one store.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State as Shared},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Answer, Failure, State,
    admin::{audit, check_text, parse},
    openapi::{answers, body, error, or_null, parameter_of_path, text},
};
use crate::{
    logins::{self, LOGINS_MAX, Refusal},
    postgres::begin,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: Option<String>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoStore => Self::new(StatusCode::NOT_FOUND, refusal.to_string()),
            Refusal::TooMany | Refusal::NoRoom => Self::new(StatusCode::CONFLICT, refusal.to_string()),
            Refusal::Failed(error) => error.into(),
        }
    }
}

/// `POST /api/v1/stores/{store_id}/logins`.
pub(super) async fn create(
    Shared(state): Shared<State>,
    Path(store_id): Path<String>,
    body: Bytes,
) -> Answer<(StatusCode, Json<Value>)> {
    let Wanted { name } = if body.is_empty() { Wanted::default() } else { parse(&body)? };
    if let Some(name) = &name {
        check_text("name", name)?;
    }
    let mut transaction = begin(&state.pool).await?;
    let made = logins::create(&mut transaction, &store_id, name.as_deref()).await?;
    let detail = json!({"login": made.login, "name": name});
    audit(&mut transaction, "create_login", Some(&store_id), detail).await?;
    transaction.commit().await?;
    let url = logins::url(&state.pool.connect_options(), &made);
    Ok((StatusCode::CREATED, Json(json!({"login": made.login, "password": made.password, "url": url}))))
}

/// `GET /api/v1/stores/{store_id}/logins`.
pub(super) async fn list(Shared(state): Shared<State>, Path(store_id): Path<String>) -> Answer {
    let rows: Option<Value> = sqlx::query_scalar(
        "SELECT (SELECT coalesce(jsonb_agg(jsonb_build_object('login', login, 'name', name, 'created_at', created_at)
                                           ORDER BY created_at, login), '[]')
                 FROM store_logins WHERE store_id = stores.id)
         FROM stores WHERE id = $1",
    )
    .bind(&store_id)
    .fetch_optional(&state.pool)
    .await?;
    let rows = rows.ok_or_else(|| Failure::from(Refusal::NoStore))?;
    Ok(Json(json!({"data": rows})))
}

/// `DELETE /api/v1/stores/{store_id}/logins/{login}`.
pub(super) async fn remove(
    Shared(state): Shared<State>,
    Path((store_id, login)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let mut transaction = begin(&state.pool).await?;
    if !logins::drop(&mut transaction, &store_id, &login).await? {
        return Err(Failure::new(StatusCode::NOT_FOUND, "there is no such login"));
    }
    audit(&mut transaction, "drop_login", Some(&store_id), json!({"login": login})).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the OpenAPI document says of it.
pub(super) fn paths() -> Map<String, Value> {
    let store_id = json!({"$ref": "#/components/parameters/store_id"});
    let operation = |summary: &str, parameters: Value, responses: Value| {
        json!({"summary": summary, "tags": ["admin"], "security": [{"admin": []}], "parameters": parameters,
               "responses": responses})
    };
    let name = or_null(text("What it is for."));
    let made = json!({"type": "object", "required": ["login", "password", "url"], "properties": {
        "login": {"type": "string"},
        "password": {"type": "string", "description": "Shown this once."},
        "url": {"type": ["string", "null"], "description": "The same as an address, as the aggregator reaches Postgres."},
    }});
    let listed = json!({"type": "object", "required": ["data"], "properties": {"data": {
        "type": "array", "maxItems": LOGINS_MAX, "items": {"type": "object", "properties": {
            "login": {"type": "string"}, "name": name, "created_at": {"type": "string", "format": "date-time"},
        }},
    }}});
    let mut create = operation(
        "Makes a login of Postgres that sees the rollups of this store and nothing else.",
        json!([store_id]),
        answers("201", "The login.", &made),
    );
    create["requestBody"] =
        body(&json!({"type": "object", "additionalProperties": false, "properties": {"name": name}}));
    create["requestBody"]["required"] = false.into();
    let conflict =
        format!("The store has {LOGINS_MAX} logins, or Postgres has no connections left to promise.");
    create["responses"]["409"] = error(&conflict);
    let list = operation("Logins of a store.", json!([store_id]), answers("200", "Logins.", &listed));
    let mut gone = answers("204", "Gone.", &json!({"type": "object"}));
    gone["204"] = json!({"description": "Gone, with its sessions."});
    let remove = operation(
        "Drops a login and ends its sessions.",
        json!([store_id, parameter_of_path("login")]),
        gone,
    );
    Map::from_iter([
        ("/api/v1/stores/{store_id}/logins".to_owned(), json!({"get": list, "post": create})),
        ("/api/v1/stores/{store_id}/logins/{login}".to_owned(), json!({"delete": remove})),
    ])
}
