//! Everything that is not an event: health, documentation, the snippet.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::Response,
};
use serde::Serialize;

use super::{App, answer};

const TRACKER: &str = include_str!("../../tracker/t.js");
const OPENAPI: &str = include_str!("../../openapi.json");

#[derive(Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

/// It runs.
pub(crate) async fn healthz() -> Response {
    answer::json(StatusCode::OK, &Status { status: "ok", reasons: Vec::new() })
}

/// It can keep its promise; if not, why.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let reasons = app.not_ready();
    if reasons.is_empty() {
        // What is not as it should be although the promise is kept.
        let reasons = app.log.note().into_iter().collect();
        answer::json(StatusCode::OK, &Status { status: "ready", reasons })
    } else {
        answer::json(StatusCode::SERVICE_UNAVAILABLE, &Status { status: "not ready", reasons })
    }
}

/// The snippet.
pub(crate) async fn tracker() -> Response {
    file(TRACKER, "text/javascript; charset=utf-8", "public, max-age=3600")
}

/// The description of this API.
pub(crate) async fn openapi() -> Response {
    file(OPENAPI, "application/json", "no-cache")
}

pub(crate) async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "not_found", "see /openapi.json for what there is")
}

pub(crate) async fn method_not_allowed() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "see /openapi.json for what there is")
}

fn error(status: StatusCode, error: &'static str, detail: &'static str) -> Response {
    #[derive(Serialize)]
    struct Error {
        error: &'static str,
        detail: &'static str,
    }
    answer::json(status, &Error { error, detail })
}

fn file(text: &'static str, content_type: &'static str, cache: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    response.headers_mut().insert("access-control-allow-origin", HeaderValue::from_static("*"));
    response
}

#[cfg(test)]
mod tests {
    use millrace_schemas::reject::Reason;

    #[test]
    fn the_description_is_json_and_names_every_reason() {
        let openapi: serde_json::Value = serde_json::from_str(super::OPENAPI).unwrap();
        let mut named: Vec<_> = openapi["components"]["schemas"]["Reason"]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .map(|reason| reason.as_str().unwrap())
            .collect();
        let mut known: Vec<_> = Reason::ALL
            .iter()
            .filter(|reason| reason.status() != 500)
            .map(|reason| reason.as_str())
            .collect();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
    }
}
