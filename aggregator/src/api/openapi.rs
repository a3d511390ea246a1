//! The OpenAPI document, made from the list of rollups that the handlers read from.

use serde_json::{Map, Value, json};

use super::{
    keys::OVERLAP_MAX,
    read::{LIMIT_MAX, ROLLUPS, Rollup, Type},
};

fn schema(ty: Type) -> Value {
    match ty {
        Type::Text => json!({"type": "string"}),
        Type::Date => json!({"type": "string", "format": "date"}),
        Type::Integer => json!({"type": ["integer", "null"], "format": "int64"}),
        Type::Number => json!({"type": ["number", "null"]}),
        Type::Money => {
            json!({"type": "string", "description": "A decimal in units of the currency.", "examples": ["19.99"]})
        }
        Type::Object => {
            json!({"type": "object", "description": "Minor units by currency, of what had no rate.",
                               "additionalProperties": {"type": "integer"}})
        }
        Type::Flag => json!({"type": "boolean"}),
    }
}

fn parameter(name: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "required": false, "schema": schema})
}

fn answers(ok: &str, description: &str, schema: &Value) -> Value {
    let error = |description: &str| {
        json!({"description": description, "content": {"application/json": {
            "schema": {"$ref": "#/components/schemas/Error"}}}})
    };
    json!({
        ok: {"description": description, "content": {"application/json": {"schema": schema}}},
        "400": error("A parameter or field is wrong; `error.field` names it."),
        "401": error("The token is missing or unknown."),
        "403": error("The token belongs to another store or may only read, or the admin API is closed."),
        "404": error("There is no such thing."),
        "503": error("A database is away; try again."),
    })
}

fn page(item: &Value) -> Value {
    json!({"type": "object", "required": ["data", "watermark"], "properties": {
        "data": {"type": "array", "items": item},
        "next_offset": {"type": ["integer", "null"], "description": "`offset` of the next page; null: there is none."},
        "watermark": {"type": ["string", "null"], "format": "date-time",
                      "description": "Everything received up to here is in the rows."},
    }})
}

fn rollup_path(rollup: &Rollup) -> Value {
    let columns: Map<String, Value> =
        rollup.columns.iter().map(|(name, ty)| ((*name).to_owned(), schema(*ty))).collect();
    let mut parameters = vec![
        json!({"$ref": "#/components/parameters/store_id"}),
        parameter("from", &json!({"type": "string", "format": "date"})),
        parameter("to", &json!({"type": "string", "format": "date"})),
        parameter("limit", &json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 1000})),
        parameter("offset", &json!({"type": "integer", "minimum": 0, "default": 0})),
    ];
    parameters.extend(rollup.filters.iter().map(|name| parameter(name, &json!({"type": "string"}))));
    json!({"get": {
        "operationId": rollup.name, "summary": rollup.doc, "tags": ["read"], "security": [{"store": []}],
        "parameters": parameters,
        "responses": answers("200", "Rows by date.", &page(&json!({"type": "object", "properties": columns}))),
    }})
}

fn settings(required: &[&str]) -> Value {
    json!({"type": "object", "required": required, "additionalProperties": false, "properties": {
        "name": {"type": "string"},
        "timezone": {"type": "string", "description": "IANA.", "examples": ["Europe/Berlin"]},
        "currency": {"type": "string", "description": "ISO 4217.", "examples": ["EUR"]},
        "max_event_age_days": {"type": "integer", "minimum": 1, "maximum": 3650, "default": 30},
        "allowed_origins": {"type": "array", "items": {"type": "string"}},
        "events_per_second": {"type": ["integer", "null"], "minimum": 1},
        "retention_days": {"type": ["integer", "null"], "minimum": 62, "maximum": 3650,
                           "description": "Days that events are kept after their receipt; null: as the tables do."},
    }})
}

fn funnel() -> Value {
    let operators = [
        "equals",
        "not_equals",
        "contains",
        "starts_with",
        "ends_with",
        "greater_than",
        "less_than",
        "exists",
    ];
    let filter = json!({"type": "object", "required": ["field", "operator"], "properties": {
        "field": {"type": "string", "description": "A column of the events, or `properties.<key>`."},
        "operator": {"type": "string", "enum": operators},
        "value": {"type": ["string", "number", "boolean"]},
    }});
    json!({"type": "object", "required": ["funnel_name", "steps"], "properties": {
        "funnel_name": {"type": "string"},
        "order_mode": {"type": "string", "enum": ["sequential", "strict", "any"], "default": "sequential"},
        "window_seconds": {"type": "integer", "minimum": 1, "maximum": 7_776_000, "default": 1_209_600},
        "steps": {"type": "array", "minItems": 2, "maxItems": 20, "items": {
            "type": "object", "required": ["step_name", "event"], "properties": {
                "step_name": {"type": "string"},
                "event": {"type": "string", "description": "Name of the events; `page_view`: page views."},
                "filters": {"type": "array", "items": filter},
                "description": {"type": "string"},
            },
        }},
    }})
}

/// What an erasure has come to.
fn receipt() -> Value {
    let (count, time) =
        (json!({"type": "integer"}), json!({"type": ["string", "null"], "format": "date-time"}));
    let days = json!({"type": "array", "items": {"type": "string", "format": "date"}});
    json!({"type": "object", "properties": {
        "erasure_id": {"type": "string", "format": "uuid"}, "store_id": {"type": "string"},
        "kind": {"type": "string", "enum": ["visitor", "user"]},
        "salt": {"type": "string", "description": "Hexadecimal."},
        "subject_sha256": {"type": "string", "description": "SHA-256 of the salt's bytes and the id, hexadecimal."},
        "requested_at": time, "deleted_at": time, "final_at": time,
        "state": {"type": "string", "enum": ["requested", "removed", "deleted", "final"],
                  "description": "deleted: no row that was received until `requested_at` is stored, and rollups are \
                      without them. final: none is on its way that could come back, and replaced files are gone."},
        "events": count, "clicks": count, "dead_letters": count, "sweeps": count,
        "days_rolled_up": days,
        "days_kept": {"type": "array", "items": {"type": "string", "format": "date"},
                      "description": "Days whose rollups stay as they are: their events are no longer all there."},
        "final_by": {"type": ["string", "null"], "enum": ["log", "horizon", null]},
        "error": {"type": ["string", "null"]},
    }})
}

fn privacy_paths() -> Vec<(String, Value)> {
    let store_id = json!({"$ref": "#/components/parameters/store_id"});
    let path =
        |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let admin = |summary: String, parameters: Value, responses: Value| {
        json!({"summary": summary, "tags": ["privacy"], "security": [{"admin": []}], "parameters": parameters,
               "responses": responses})
    };
    let mut paths = Vec::new();
    for (kind, whose) in
        [("visitor", "a visitor"), ("user", "a user and of the visitors seen with that user")]
    {
        let id = format!("{kind}_id");
        let at = format!("/api/v1/stores/{{store_id}}/{kind}s/{{{id}}}");
        let erase = admin(
            format!("Erases all that was received until now of {whose}."),
            json!([store_id, path(&id)]),
            answers("202", "Under way; `Location` names the receipt.", &receipt()),
        );
        let mut lines = answers("200", "A row on each line.", &json!({"type": "object"}));
        lines["200"]["content"] = json!({"application/x-ndjson": {"schema": {"type": "string"}}});
        let export = admin(format!("All rows of {whose}."), json!([store_id, path(&id)]), lines);
        paths.push((at.clone(), json!({"delete": erase})));
        paths.push((format!("{at}/export"), json!({"get": export})));
    }
    let list = json!({"type": "object", "properties": {"data": {"type": "array", "items": receipt()}}});
    let limits = [
        parameter("limit", &json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 1000})),
        parameter("offset", &json!({"type": "integer", "minimum": 0, "default": 0})),
    ];
    paths.push((
        "/api/v1/stores/{store_id}/erasures".into(),
        json!({"get": admin("Receipts of erasures, newest first.".into(),
                            json!([store_id, limits[0], limits[1]]), answers("200", "Receipts.", &list))}),
    ));
    paths.push((
        "/api/v1/stores/{store_id}/erasures/{erasure_id}".into(),
        json!({"get": admin("The receipt of an erasure.".into(), json!([store_id, path("erasure_id")]),
                            answers("200", "The receipt.", &receipt()))}),
    ));
    paths
}

/// Keys and tokens of a store.
fn keys_paths() -> Vec<(String, Value)> {
    let store_id = json!({"$ref": "#/components/parameters/store_id"});
    let key_id = json!({"name": "key_id", "in": "path", "required": true, "schema": {"type": "string"}});
    let kind = json!({"type": "string", "enum": ["write", "secret", "api"],
                      "description": "write: public, stands in the page. secret: the shop's own server. api: reads rollups."});
    let time = json!({"type": "string", "format": "date-time"});
    let maybe_time = json!({"type": ["string", "null"], "format": "date-time"});
    let made = json!({"type": "object", "required": ["store_id", "key_id", "kind", "name", "key", "created_at"],
    "properties": {
        "store_id": {"type": "string"}, "key_id": {"type": "string"}, "kind": kind, "name": {"type": "string"},
        "key": {"type": "string", "description": "The key itself, shown this once."}, "created_at": time,
        "replaces": {"type": "object", "properties": {"key_id": {"type": "string"}, "valid_until": time}},
    }});
    let listed = json!({"type": "object", "properties": {
        "key_id": {"type": "string"}, "kind": kind, "name": {"type": "string"},
        "key": {"type": ["string", "null"], "description": "A write key, which is public; null for the others."},
        "last_characters": {"type": "string"}, "created_at": time, "valid_until": maybe_time, "revoked_at": maybe_time,
        "state": {"type": "string", "enum": ["active", "ending", "ended", "revoked", "suspended"]},
    }});
    let new = json!({"type": "object", "required": ["kind"], "additionalProperties": false, "properties": {
        "kind": kind, "name": {"type": ["string", "null"], "description": "What people call it."},
    }});
    let rotation = json!({"type": "object", "additionalProperties": false, "properties": {
        "overlap_seconds": {"type": ["integer", "null"], "minimum": 0, "maximum": OVERLAP_MAX.as_secs(), "default": 86_400,
                            "description": "How long the old key goes on beside the new one."},
    }});
    let revoked = json!({"type": "object", "properties": {
        "key_id": {"type": "string"}, "kind": kind, "revoked_at": time,
        "keys_left": {"type": "integer", "description": "Keys of this kind that the store still has."},
    }});
    let list = json!({"type": "object", "properties": {"data": {"type": "array", "items": listed}}});
    let admin = |summary: &str, parameters: Value, responses: Value| {
        json!({"summary": summary, "tags": ["keys"], "security": [{"admin": []}], "parameters": parameters,
               "responses": responses})
    };
    let with_conflict = |mut responses: Value| {
        responses["409"] = json!({"description": "The store has too many keys, or the key does not hold any more.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}});
        responses
    };
    let mut create = admin(
        "Makes a key or token; it holds within a second everywhere.",
        json!([store_id]),
        with_conflict(answers("201", "The key, shown this once.", &made)),
    );
    create["requestBody"] = body(&new);
    let mut rotate = admin(
        "Makes a key in place of another one, which ends after the overlap.",
        json!([store_id, key_id]),
        with_conflict(answers("201", "The new key, shown this once.", &made)),
    );
    rotate["requestBody"] = body(&rotation);
    rotate["requestBody"]["required"] = false.into();
    let keys = admin(
        "Keys and tokens of a store, without secrets.",
        json!([store_id]),
        answers("200", "Keys.", &list),
    );
    let revoke = admin(
        "Revokes a key for good, within a second everywhere; the last one, too.",
        json!([store_id, key_id]),
        answers("200", "Revoked.", &revoked),
    );
    vec![
        ("/api/v1/stores/{store_id}/keys".into(), json!({"get": keys, "post": create})),
        ("/api/v1/stores/{store_id}/keys/{key_id}".into(), json!({"delete": revoke})),
        ("/api/v1/stores/{store_id}/keys/{key_id}/rotate".into(), json!({"post": rotate})),
    ]
}

fn body(schema: &Value) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

/// The document.
pub(super) fn document() -> Value {
    let store_id = json!({"$ref": "#/components/parameters/store_id"});
    let object = json!({"type": "object"});
    let admin = |summary: &str, ok: &str, request: Option<&Value>, in_store: bool| {
        let mut operation = json!({
            "summary": summary, "tags": ["admin"], "security": [{"admin": []}],
            "responses": answers(ok, "Done.", &object),
        });
        if let Some(request) = request {
            operation["requestBody"] = body(request);
        }
        if in_store {
            operation["parameters"] = json!([store_id]);
        }
        operation
    };
    let mut paths = Map::new();
    for rollup in &ROLLUPS {
        paths.insert(format!("/api/v1/stores/{{store_id}}/{}", rollup.name), rollup_path(rollup));
    }
    let mut remove = admin("Deletes a funnel and its rows.", "204", None, true);
    remove["parameters"] = json!([store_id,
        {"name": "funnel_name", "in": "path", "required": true, "schema": {"type": "string"}}]);
    let rates = json!({"type": "array", "items": {
        "type": "object", "required": ["date", "currency", "base", "rate"], "properties": {
            "date": {"type": "string", "format": "date"}, "currency": {"type": "string"}, "base": {"type": "string"},
            "rate": {"type": ["string", "number"], "description": "1 unit of `currency` in `base`."},
        },
    }});
    paths.insert(
        "/api/v1/stores".into(),
        json!({
            "get": admin("All stores with their settings and write keys.", "200", None, false),
            "post": admin("Makes a store; answers its id and its keys, which are shown this once.", "201",
                          Some(&settings(&["name", "timezone", "currency"])), false),
        }),
    );
    paths.insert("/api/v1/stores/{store_id}".into(), json!({
        "patch": admin("Changes settings. Another time zone or currency has all days rolled up again.", "200",
                       Some(&settings(&[])), true),
    }));
    paths.insert("/api/v1/stores/{store_id}/funnels".into(), json!({
        "get": {"summary": "Funnels as defined.", "tags": ["read"], "security": [{"store": []}],
                "parameters": [store_id, parameter("funnel_name", &json!({"type": "string"}))],
                "responses": answers("200", "Funnels by name.", &page(&funnel()))},
        "post": admin("Makes a funnel or replaces the one of this name; all days are rolled up again.", "201",
                      Some(&funnel()), true),
    }));
    paths.insert("/api/v1/stores/{store_id}/funnels/{funnel_name}".into(), json!({"delete": remove}));
    paths.extend(privacy_paths());
    paths.extend(keys_paths());
    paths.insert("/api/v1/exchange_rates".into(), json!({
        "post": admin("Sets rates; the days of the stores that count in the base are rolled up again.", "200",
                      Some(&rates), false),
    }));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Millrace: rollups and administration", "version": env!("CARGO_PKG_VERSION"),
            "description": "Amounts named `_cents` are integers in minor units of their currency; other amounts are \
                decimals in strings. Rates and means are numbers. Dates are days of the store's time zone.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "store": {"type": "http", "scheme": "bearer", "description": "The store's API token."},
                "admin": {"type": "http", "scheme": "bearer", "description": "MILLRACE_ADMIN_TOKEN."},
            },
            "parameters": {"store_id": {"name": "store_id", "in": "path", "required": true,
                                        "schema": {"type": "string"}}},
            "schemas": {"Error": {"type": "object", "properties": {"error": {"type": "object", "properties": {
                "message": {"type": "string"}, "field": {"type": "string"}}}}}},
        },
    })
}
