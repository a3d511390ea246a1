//! What PostHog's clients ask beside sending events.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::Response,
};
use serde_json::{Value, json};

use crate::{
    compat::Call,
    http::{answer, pages},
};

/// What is taken, whether it was wanted or not.
pub(super) fn done() -> Response {
    answer::json(StatusCode::OK, &json!({ "status": 1 }))
}

/// Recordings, logs and metrics: answered, so that they are not sent again, and not kept.
pub(super) fn nothing(_: &Call<'_>) -> Response {
    done()
}

/// What posthog-js should do on a page: collect clicks for heatmaps, and nothing that has no counterpart or needs one of
/// its scripts from here. A page's own settings in `posthog.init` beat this. Of surveys there is no word: posthog-js loads
/// their script whether it is told yes or no.
fn settings() -> Value {
    json!({
        "supportedCompression": ["gzip", "gzip-js"],
        "heatmaps": true,
        "hasFeatureFlags": false,
        "sessionRecording": false,
        "conversations": false,
        "productTours": false,
        "autocapture_opt_out": true,
        "autocaptureExceptions": false,
        "errorTracking": { "autocaptureExceptions": false, "suppressionRules": [] },
        "captureDeadClicks": false,
        "capturePerformance": { "web_vitals": false, "network_timing": false },
        "logs": { "captureConsoleLogs": false },
        "siteApps": [],
        "toolbarParams": {},
        "isAuthenticated": false,
        "defaultIdentifiedOnly": true,
        "elementsChainAsString": true,
        "analytics": { "endpoint": "/e/" },
    })
}

/// `/array/{token}/config`.
pub(super) fn config(_: &Call<'_>) -> Response {
    answer::json(StatusCode::OK, &settings())
}

/// `/array/{token}/config.js`, the same as a script. The token is a sender's text in a script: it is written as JSON
/// writes strings, with nothing in it that could end one.
pub(super) fn config_script(call: &Call<'_>) -> Response {
    let token = call.path.trim_end_matches("/config.js").rsplit('/').next().unwrap_or_default();
    let is_plain =
        token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let token = if is_plain { token } else { "" };
    let script = format!(
        "(function(){{window._POSTHOG_REMOTE_CONFIG=window._POSTHOG_REMOTE_CONFIG||{{}};\
         window._POSTHOG_REMOTE_CONFIG[{}]={{config:{},siteApps:[]}};}})();",
        Value::from(token),
        settings()
    );
    let mut response = answer::json(StatusCode::OK, &());
    *response.body_mut() = script.into();
    response.headers_mut().insert(CONTENT_TYPE, pages::JAVASCRIPT);
    response
}

/// `/static/…`: what posthog-js loads beside itself, such as what finds dead clicks for heatmaps. An empty script leaves it
/// without, and says nothing in the console. posthog-js itself, which a page cannot do without, is missing aloud.
pub(super) fn script(call: &Call<'_>) -> Response {
    let name = call.path.rsplit('/').next().unwrap_or_default();
    if name.ends_with(".js") && !name.starts_with("array.") { pages::script("") } else { pages::not_found() }
}

/// `/flags` and `/decide`: there are no flags.
pub(super) fn flags(_: &Call<'_>) -> Response {
    let mut said = settings();
    if let Value::Object(said) = &mut said {
        for none in ["flags", "featureFlags", "featureFlagPayloads"] {
            said.insert(none.into(), json!({}));
        }
        said.insert("errorsWhileComputingFlags".into(), json!(false));
        said.insert("quotaLimited".into(), json!([]));
    }
    answer::json(StatusCode::OK, &said)
}

/// What servers fetch to compute flags themselves.
pub(super) fn definitions(_: &Call<'_>) -> Response {
    answer::json(StatusCode::OK, &json!({ "flags": [], "group_type_mapping": {}, "cohorts": {} }))
}

pub(super) fn surveys(_: &Call<'_>) -> Response {
    answer::json(StatusCode::OK, &json!({ "surveys": [], "survey_config": null }))
}

pub(super) fn early_access(_: &Call<'_>) -> Response {
    answer::json(StatusCode::OK, &json!({ "earlyAccessFeatures": [] }))
}

pub(super) fn experiments(_: &Call<'_>) -> Response {
    answer::json(StatusCode::OK, &json!({ "experiments": [] }))
}

pub(super) fn product_tours(_: &Call<'_>) -> Response {
    answer::json(StatusCode::OK, &json!({ "product_tours": [] }))
}
