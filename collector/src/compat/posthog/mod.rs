//! PostHog's capture API.
//!
//! A body is one event, a list of them, or `{"api_key", "batch": […], "sent_at"}`: as JSON, compressed beside
//! `Content-Encoding`, or in a form's field (`body`). `event` makes native events of one; `heatmap` makes clicks of the
//! coordinates that posthog-js collects. What its clients ask beside that is answered so that they leave off what there is
//! no counterpart to: flags, surveys, recordings (`ask`).

mod ask;
mod body;
mod event;
mod heatmap;

use axum::{
    http::{StatusCode, header::AUTHORIZATION},
    response::Response,
};
use millrace_schemas::reject::Reason;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Call, Does, Route, Translation, value};
use crate::{
    decode::Refusal,
    http::answer::{self, Refused},
    time::parse_time,
};

const fn takes(path: &'static str) -> Route {
    Route { path, does: Does::GetAndPost }
}

const fn says(path: &'static str, say: fn(&Call<'_>) -> Response) -> Route {
    Route { path, does: Does::Say(say) }
}

/// Addresses. Clients write most of them with a slash at the end, and people without.
pub(crate) const ROUTES: &[Route] = &[
    takes("/e/"),
    takes("/e"),
    takes("/i/v0/e/"),
    takes("/i/v0/e"),
    takes("/batch/"),
    takes("/batch"),
    takes("/capture/"),
    takes("/capture"),
    takes("/track/"),
    takes("/track"),
    takes("/engage/"),
    takes("/engage"),
    says("/static/{*rest}", ask::script),
    says("/array/{token}/config", ask::config),
    says("/array/{token}/config.js", ask::config_script),
    says("/flags/", ask::flags),
    says("/flags", ask::flags),
    says("/decide/", ask::flags),
    says("/decide", ask::flags),
    says("/s/", ask::nothing),
    says("/s", ask::nothing),
    says("/i/v1/logs", ask::nothing),
    says("/i/v1/metrics", ask::nothing),
    says("/api/surveys/", ask::surveys),
    says("/api/surveys", ask::surveys),
    says("/api/early_access_features/", ask::early_access),
    says("/api/web_experiments/", ask::experiments),
    says("/api/product_tours/", ask::product_tours),
    says("/api/feature_flag/local_evaluation", ask::definitions),
    says("/api/feature_flag/local_evaluation/", ask::definitions),
];

/// Events that one batch may hold, whatever the setting: one may become several native ones.
const EVENTS_MAX: usize = 1_000;

/// The events of a request.
pub(crate) fn decode(call: &Call<'_>) -> Result<Translation, Refusal> {
    let sent = body::read(call)?;
    let (root, list) = match &sent {
        Value::Object(root) => match root.get("batch") {
            Some(Value::Array(list)) => (Some(root), list.as_slice()),
            Some(_) => return Err(Refusal::new(Reason::WrongType, "`batch` must be an array of events")),
            None => (Some(root), std::slice::from_ref(&sent)),
        },
        Value::Array(list) => (None, list.as_slice()),
        _ => return Err(Refusal::new(Reason::NotJson, "the body is neither an object nor a list of events")),
    };
    if list.is_empty() {
        return Err(Refusal::new(Reason::NoEvents, "send at least one event"));
    }
    let too_many = || {
        let detail = format!("send at most {EVENTS_MAX} events, clicks of heatmaps included, in one request");
        Refusal::new(Reason::TooManyEvents, detail)
    };
    if list.len() > EVENTS_MAX {
        return Err(too_many());
    }
    let mut events = Vec::with_capacity(list.len());
    for element in list {
        match element {
            Value::Object(element) => event::translate(element, &mut events),
            // Refused in its place, beside its neighbours.
            _ => events.push(Map::new()),
        }
        if events.len() > EVENTS_MAX {
            return Err(too_many());
        }
    }
    Ok(Translation { key: key(root, list, call), sent_at: sent_at(root, call), events })
}

/// The store's key: beside the events, in the first that has one, in its properties, or in the head.
fn key(root: Option<&Map<String, Value>>, list: &[Value], call: &Call<'_>) -> Option<String> {
    let of = |map: &Map<String, Value>| {
        ["api_key", "token", "$token"].into_iter().find_map(|name| Some(map.get(name)?.as_str()?.to_owned()))
    };
    let of_event = || {
        list.iter()
            .filter_map(Value::as_object)
            .find_map(|event| of(event).or_else(|| of(value::object(event, "properties")?)))
    };
    let in_head = || {
        let bearer = call.headers.get(AUTHORIZATION)?.to_str().ok()?;
        Some(bearer.strip_prefix("Bearer ")?.trim().to_owned())
    };
    root.and_then(of)
        .or_else(of_event)
        .or_else(|| value::parameter(call.query, "api_key").or_else(|| value::parameter(call.query, "token")))
        .or_else(in_head)
}

fn sent_at(root: Option<&Map<String, Value>>, call: &Call<'_>) -> Option<Value> {
    let text = root
        .and_then(|root| value::text(root.get("sent_at")))
        .or_else(|| value::parameter(call.query, "sent_at"))
        .or_else(|| value::parameter(call.query, "_"));
    text.filter(|text| parse_time(text).is_some()).map(Value::String)
}

/// `{"status": 1}`. posthog-js takes 200 alone for a yes, sends again what got 5xx, and drops what got 4xx: also 429 and
/// 408, which therefore become 503.
pub(crate) fn answer(result: Result<usize, &Refused>) -> Response {
    #[derive(Serialize)]
    struct No<'a> {
        r#type: &'static str,
        code: &'static str,
        detail: &'a str,
        attr: Option<&'static str>,
    }
    let Err(refused) = result else { return ask::done() };
    let reason = refused.refusal.reason;
    let (status, kind) = match reason {
        Reason::UnknownKey => (StatusCode::UNAUTHORIZED, "authentication_error"),
        Reason::OriginNotAllowed => (StatusCode::FORBIDDEN, "authentication_error"),
        // posthog-node halves a batch that gets this.
        Reason::BodyTooLarge | Reason::TooManyEvents => (StatusCode::PAYLOAD_TOO_LARGE, "validation_error"),
        _ if reason.is_worth_a_retry() => (StatusCode::SERVICE_UNAVAILABLE, "server_error"),
        _ => (StatusCode::BAD_REQUEST, "validation_error"),
    };
    let code = if reason == Reason::UnknownKey { "invalid_api_key" } else { reason.as_str() };
    answer::refused_as(
        status,
        &No { r#type: kind, code, detail: &refused.refusal.detail, attr: None },
        refused,
    )
}
