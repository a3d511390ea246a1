//! What Segment's and RudderStack's clients ask beside sending events.

use axum::{
    http::{
        HeaderName, StatusCode,
        header::{HOST, ORIGIN, REFERER},
    },
    response::Response,
};
use serde_json::json;

use crate::{
    compat::Call,
    http::{answer, pages},
};

/// What `@segment/analytics-next` asks before it sends: here is your only destination, and it is where you asked.
pub(super) fn settings(call: &Call<'_>) -> Response {
    let key = call.path.rsplit('/').nth(1).unwrap_or_default();
    // Of several proxies the first is the one that was asked.
    let text = |name: HeaderName| Some(call.headers.get(name)?.to_str().ok()?.split(',').next()?.trim());
    let host = text(HeaderName::from_static("x-forwarded-host")).or_else(|| text(HOST)).unwrap_or_default();
    // Who ends TLS says so; where nobody did, a secure page can reach nothing but a secure address.
    let is_secure = match text(HeaderName::from_static("x-forwarded-proto")) {
        Some(protocol) => protocol == "https",
        None => text(ORIGIN).or_else(|| text(REFERER)).is_some_and(|page| page.starts_with("https:")),
    };
    let protocol = if is_secure { "https" } else { "http" };
    let segment_io = json!({
        "apiKey": key, "apiHost": format!("{host}/v1"), "protocol": protocol, "addBundledMetadata": false,
    });
    // Its metrics about itself would go to Segment.
    let settings = json!({ "integrations": { "Segment.io": segment_io }, "metrics": { "sampleRate": 0 } });
    answer::json(StatusCode::OK, &settings)
}

/// Parts of `@segment/analytics-next` that it loads when a page first needs them, under the names of its build:
/// `auto-track.bundle.….js`. The settings above need no other ones.
pub(super) fn bundle(call: &Call<'_>) -> Response {
    match call.path.rsplit('/').next().and_then(|file| file.split('.').next()) {
        Some("auto-track") => pages::script(include_str!("auto-track.js")),
        Some("queryString") => pages::script(include_str!("query-string.js")),
        _ => pages::not_found(),
    }
}

/// What RudderStack's SDKs ask before they send: nothing but sending. Without a source that has all of these they send
/// nothing.
pub(super) fn source_config(_: &Call<'_>) -> Response {
    let off = json!({ "enabled": false });
    let source = json!({
        "id": "millrace", "name": "Millrace", "workspaceId": "millrace", "enabled": true, "destinations": [],
        "config": { "statsCollection": { "errors": off, "metrics": off } },
        "updatedAt": "2026-01-01T00:00:00.000Z",
    });
    answer::json(StatusCode::OK, &json!({ "source": source }))
}
