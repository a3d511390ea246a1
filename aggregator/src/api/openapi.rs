//! The OpenAPI document, made from the list of rollups that the handlers read from.

use serde_json::{Map, Value, json};

use std::sync::LazyLock;

use super::{
    admin::{FUNNELS_MAX, ORIGINS_MAX, RATES_MAX},
    around,
    keys::OVERLAP_MAX,
    read::{LIMIT_MAX, ROLLUPS, Rollup, Type, filter_values},
    readers,
};
use crate::funnel::{FILTERS_MAX, STEPS_MAX, TEXT_BYTES_MAX};

/// Every currency that amounts may have.
static CURRENCIES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let letters = || 'A'..='Z';
    let codes = letters().flat_map(move |a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
    let codes = codes.map(|code| code.iter().collect::<String>());
    codes.filter(|code| millrace_schemas::money::exponent(code).is_some()).collect()
});

/// A text as it is taken: neither empty nor with a NUL in it.
pub(super) fn text(description: &str) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": TEXT_BYTES_MAX, "pattern": "^[^\\u0000]*$",
           "description": description})
}

/// The same, or null.
pub(super) fn or_null(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.push(Value::Null);
    }
    schema
}

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

pub(super) fn parameter(name: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "required": false, "schema": schema})
}

/// An answer that is no success.
pub(super) fn error(description: &str) -> Value {
    json!({"description": description, "content": {"application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}}}})
}

/// A part of the path.
pub(super) fn parameter_of_path(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
}

pub(super) fn answers(ok: &str, description: &str, schema: &Value) -> Value {
    json!({
        ok: {"description": description, "content": {"application/json": {"schema": schema}}},
        "400": error("A parameter or field is wrong; `error.field` names it."),
        "401": error("The token is missing or unknown."),
        "403": error("The token belongs to another store or may only read, or the admin API is closed."),
        "404": error("There is no such thing."),
        "503": error("A database is away; try again."),
    })
}

/// What a read may answer.
fn read_answers(description: &str, item: &Value) -> Value {
    let mut answers = answers("200", description, &page(item));
    answers["429"] = error(&format!(
        "The store is read more than {} times at once, answers that are not taken yet included; see `Retry-After`.",
        readers::AT_ONCE
    ));
    answers
}

fn page(item: &Value) -> Value {
    json!({"type": "object", "required": ["data", "watermark"], "properties": {
        "data": {"type": "array", "items": item},
        "next_offset": {"type": ["integer", "null"], "description": format!(
            "`offset` of the next page; null: there is none. A page of {} MiB ends before its `limit`.",
            readers::ANSWER_BYTES_MAX >> 20
        )},
        "watermark": {"type": ["string", "null"], "format": "date-time",
                      "description": "Everything received up to here is in the rows."},
    }})
}

fn offset() -> Value {
    json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX, "default": 0})
}

fn rollup_path(rollup: &Rollup) -> Value {
    let columns: Map<String, Value> =
        rollup.columns.iter().map(|(name, ty)| ((*name).to_owned(), schema(*ty))).collect();
    let mut parameters = vec![
        json!({"$ref": "#/components/parameters/store_id"}),
        parameter("from", &json!({"type": "string", "format": "date"})),
        parameter("to", &json!({"type": "string", "format": "date"})),
        parameter("limit", &json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 1000})),
        parameter("offset", &offset()),
    ];
    parameters.extend(rollup.filters.iter().map(|name| {
        let values = filter_values(name);
        let schema = if values.is_empty() {
            json!({"type": "string", "pattern": "^[^\\u0000]*$"})
        } else {
            json!({"type": "string", "enum": values})
        };
        parameter(name, &schema)
    }));
    json!({"get": {
        "operationId": rollup.name, "summary": rollup.doc, "tags": ["read"], "security": [{"store": []}],
        "parameters": parameters,
        "responses": read_answers("Rows by date.", &json!({
            "type": "object", "properties": columns, "additionalProperties": false,
        })),
    }})
}

/// Settings of a store; those that are not required may be null, which is the same as leaving them out.
fn settings(required: &[&str]) -> Value {
    let mut properties = json!({
        "name": text("What people call it."),
        "timezone": {"type": "string", "description": "IANA, or a fixed offset in quarters of an hour: `+05:30`.", "pattern": "^[A-Za-z0-9_+/:-]{1,64}$",
                     "examples": ["Europe/Berlin"]},
        "currency": {"type": "string", "description": "ISO 4217.", "enum": *CURRENCIES, "examples": ["EUR"]},
        "max_event_age_days": {"type": "integer", "minimum": 1, "maximum": 3650, "default": 30},
        "allowed_origins": {"type": "array", "maxItems": ORIGINS_MAX, "items": text("An origin.")},
        "events_per_second": {"type": "integer", "minimum": 1, "maximum": i32::MAX,
                              "description": "Null: the collector's setting."},
        "prices_include_tax": {"type": "boolean", "default": false,
            "description": "Prices of items hold the tax: a total that was not sent does not count it twice."},
        "retention_days": {"type": "integer", "minimum": 62, "maximum": 3650,
                           "description": "Days that events are kept after their receipt; null: as the tables do."},
    });
    for (name, schema) in properties.as_object_mut().into_iter().flatten() {
        if !required.contains(&name.as_str()) {
            *schema = or_null(schema.take());
        }
    }
    json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties})
}

/// A store as it is listed.
fn store() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": ["integer", "null"]});
    let texts = json!({"type": "array", "items": text});
    json!({"type": "object", "required": ["store_id", "name", "timezone", "currency"], "properties": {
        "store_id": text, "name": text, "timezone": text, "currency": text,
        "max_event_age_days": {"type": "integer"}, "allowed_origins": texts, "events_per_second": number,
        "retention_days": number, "prices_include_tax": {"type": "boolean"}, "created_at": {"type": "string", "format": "date-time"}, "write_keys": texts,
    }})
}

/// An object of which these fields are always there.
fn object(fields: &[(&str, &str)]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|(name, ty)| ((*name).to_owned(), json!({"type": ty}))).collect();
    let required: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    json!({"type": "object", "required": required, "properties": properties})
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
    let value = json!({"type": ["string", "number", "boolean", "null"]});
    let filter = json!({"type": "object", "required": ["field", "operator"], "additionalProperties": false,
    "properties": {
        "field": text("A column of the events, or `properties.<key>`."),
        "operator": {"type": "string", "enum": operators},
        "value": value,
    }});
    let step = json!({"type": "object", "required": ["step_name", "event"], "additionalProperties": false,
    "properties": {
        "step_name": text("Its name; no other step of the funnel has it."),
        "event": text("Name of the events; `page_view`: page views."),
        "filters": {"type": "array", "maxItems": FILTERS_MAX, "items": filter},
        "description": or_null(text("What people read.")),
    }});
    json!({"type": "object", "required": ["funnel_name", "steps"], "additionalProperties": false, "properties": {
        "funnel_name": text("Its name. A funnel that has it is replaced."),
        "order_mode": {"type": "string", "enum": ["sequential", "strict", "any"], "default": "sequential"},
        "window_seconds": {"type": "integer", "minimum": 1, "maximum": 7_776_000, "default": 1_209_600},
        "steps": {"type": "array", "minItems": 2, "maxItems": STEPS_MAX, "items": step},
    }})
}

/// A funnel as it is read.
fn stored_funnel() -> Value {
    let step = json!({"type": "object", "required": ["step_name", "step_order", "event"], "properties": {
        "step_name": {"type": "string"}, "step_order": {"type": "integer"}, "event": {"type": "string"},
        "filters": {"type": "array", "items": {"type": "object"}},
        "step_description": {"type": ["string", "null"]},
    }});
    json!({"type": "object", "required": ["funnel_name", "order_mode", "window_seconds", "steps"], "properties": {
        "funnel_name": {"type": "string"}, "order_mode": {"type": "string"}, "window_seconds": {"type": "integer"},
        "steps": {"type": "array", "items": step},
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
        "links_ignored": {"type": "boolean", "description": "Servers named more visitors with the user than a person \
                          has: what names no user stays."},
        "error": {"type": ["string", "null"]},
    }})
}

fn privacy_paths() -> Vec<(String, Value)> {
    let store_id = json!({"$ref": "#/components/parameters/store_id"});
    let path = parameter_of_path;
    let admin = |summary: String, parameters: Value, responses: Value| {
        json!({"summary": summary, "tags": ["privacy"], "security": [{"admin": []}], "parameters": parameters,
               "responses": responses})
    };
    let mut paths = Vec::new();
    for (kind, whose) in [
        ("visitor", "a visitor"),
        ("user", "a user, and what visitors did without a name whom servers named with that user alone"),
    ] {
        let id = format!("{kind}_id");
        let at = format!("/api/v1/stores/{{store_id}}/{kind}s/{{{id}}}");
        let mut erase = admin(
            format!("Erases all that was received until now of {whose}."),
            json!([store_id, path(&id)]),
            answers("202", "Under way; `Location` names the receipt.", &receipt()),
        );
        // More than so many at a time: not now, or not before others are final.
        erase["responses"]["409"] = error("10,000 erasures of the store are not final.");
        erase["responses"]["429"] = error("500 are not done yet.");
        erase["responses"]["202"]["headers"] =
            json!({"Location": {"description": "The receipt.", "schema": {"type": "string"}}});
        let mut lines = answers("200", "A row on each line.", &json!({"type": "object"}));
        lines["200"]["content"] = json!({"application/x-ndjson": {"schema": {"type": "string"}}});
        let export = admin(format!("All rows of {whose}."), json!([store_id, path(&id)]), lines);
        paths.push((at.clone(), json!({"delete": erase})));
        paths.push((format!("{at}/export"), json!({"get": export})));
    }
    let list = json!({"type": "object", "properties": {"data": {"type": "array", "items": receipt()}}});
    let limits = [
        parameter("limit", &json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 1000})),
        parameter("offset", &offset()),
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
        "kind": kind, "name": or_null(text("What people call it.")),
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

pub(super) fn body(schema: &Value) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

/// What needs no token.
fn open_paths() -> Vec<(String, Value)> {
    let get = |summary: &str, responses: Value| json!({"get": {"summary": summary, "tags": ["health"], "responses": responses}});
    let json = |description: &str, schema: Value| json!({"description": description, "content": {"application/json": {"schema": schema}}});
    let ready = json!({"type": "object", "required": ["ready", "postgres", "clickhouse", "watermark_age_seconds"],
    "properties": {
        "ready": {"type": "boolean"}, "postgres": {"type": "string"}, "clickhouse": {"type": "string"},
        "watermark_age_seconds": {"type": "integer"},
    }});
    vec![
        (
            "/healthz".into(),
            get("It runs.", json!({"200": json("It does.", object(&[("status", "string")]))})),
        ),
        (
            "/readyz".into(),
            get(
                "Its databases answer.",
                json!({
                    "200": json("They do.", ready.clone()), "503": json("They do not, or not all of them.", ready),
                }),
            ),
        ),
        (
            "/openapi.json".into(),
            get(
                "This document.",
                json!({
                    "200": json("OpenAPI 3.1.", json!({"type": "object"})),
                }),
            ),
        ),
    ]
}

/// The document.
pub(super) fn document() -> Value {
    let store_id = json!({"$ref": "#/components/parameters/store_id"});
    let admin = |summary: &str, ok: &str, answer: Value, request: Option<&Value>, in_store: bool| {
        let mut operation = json!({
            "summary": summary, "tags": ["admin"], "security": [{"admin": []}],
            "responses": answers(ok, "Done.", &answer),
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
    let mut remove = admin("Deletes a funnel and its rows.", "204", Value::Null, None, true);
    remove["responses"]["204"] = json!({"description": "Gone."});
    remove["parameters"] = json!([store_id,
        {"name": "funnel_name", "in": "path", "required": true, "schema": {"type": "string"}}]);
    let currency = json!({"type": "string", "enum": *CURRENCIES});
    let rates = json!({"type": "array", "minItems": 1, "maxItems": RATES_MAX, "items": {
        "type": "object", "required": ["date", "currency", "base", "rate"], "additionalProperties": false,
        "properties": {
            "date": {"type": "string", "format": "date"}, "currency": currency, "base": currency,
            "rate": {"description": "1 unit of `currency` in `base`: above 0, at most 18 digits.", "oneOf": [
                {"type": "string", "pattern": "^[1-9][0-9]{0,8}(\\.[0-9]{1,9})?$"},
                {"type": "number", "exclusiveMinimum": 0},
            ]},
        },
    }});
    let rates_set = object(&[("rates", "integer"), ("days_to_roll_up", "integer")]);
    let set_rates = admin(
        "Sets rates; the days of the stores that count in the base are rolled up again.",
        "200",
        rates_set,
        Some(&rates),
        false,
    );
    paths.insert(
        "/api/v1/stores".into(),
        json!({
            "get": admin("All stores with their settings and write keys.", "200",
                         json!({"type": "object", "required": ["data"], "properties": {
                             "data": {"type": "array", "items": store()}}}), None, false),
            "post": admin("Makes a store; answers its id and its keys, which are shown this once.", "201",
                          object(&[("store_id", "string"), ("write_key", "string"), ("secret_key", "string"),
                                   ("api_token", "string")]),
                          Some(&settings(&["name", "timezone", "currency"])), false),
        }),
    );
    paths.insert("/api/v1/stores/{store_id}".into(), json!({
        "patch": admin("Changes settings. Another time zone or currency has all days rolled up again.", "200",
                       object(&[("store_id", "string"), ("days_to_roll_up", "integer")]),
                       Some(&settings(&[])), true),
    }));
    let mut put_funnel = admin(
        "Makes a funnel or replaces the one of this name; all days are rolled up again.",
        "201",
        object(&[("store_id", "string"), ("funnel_name", "string"), ("days_to_roll_up", "integer")]),
        Some(&funnel()),
        true,
    );
    put_funnel["responses"]["409"] = error(&format!("The store has {FUNNELS_MAX} funnels."));
    paths.insert("/api/v1/stores/{store_id}/funnels".into(), json!({
        "get": {"summary": "Funnels as defined.", "tags": ["read"], "security": [{"store": []}],
                "parameters": [store_id, parameter("funnel_name", &json!({"type": "string", "pattern": "^[^\\u0000]*$"})),
                               parameter("limit", &json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX})),
                               parameter("offset", &offset())],
                "responses": read_answers("Funnels by name.", &stored_funnel())},
        "post": put_funnel,
    }));
    paths.insert("/api/v1/stores/{store_id}/funnels/{funnel_name}".into(), json!({"delete": remove}));
    paths.extend(privacy_paths());
    paths.extend(keys_paths());
    paths.extend(super::logins::paths());
    paths.extend(super::refused::paths());
    paths.insert("/api/v1/exchange_rates".into(), json!({"post": set_rates, "put": set_rates}));
    paths.extend(open_paths());
    paths.values_mut().for_each(around::describe);
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
                                        "schema": {"type": "string", "minLength": 1}}},
            "schemas": {"Error": {"type": "object", "required": ["error"], "additionalProperties": false, "properties": {
                "error": {"type": "object", "required": ["message"], "additionalProperties": false, "properties": {
                    "message": {"type": "string"},
                    "field": {"type": "string", "description": "The parameter or field that is wrong."}}}}}},
        },
    })
}
