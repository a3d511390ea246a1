//! Answers: always JSON, and a refusal always says what to do next.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    },
    response::Response,
};
use millrace_schemas::reject::{Reason, Rejection};
use serde::Serialize;

use super::cors::OriginRefused;
use crate::{
    chain::{Outcome, Repaired},
    decode::Refusal,
    key::{Hash, Store},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request of which nothing was accepted.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    /// When it may be sent again.
    pub(crate) retry_after: Option<Duration>,
    /// Its events, where it came to them.
    pub(crate) rejected: Vec<(usize, Rejection)>,
    /// The key that nobody knows, where that is why. It may have been made a moment ago.
    pub(crate) unknown_key: Option<Hash>,
    /// The store that it was for, where its key says so.
    pub(crate) store: Option<Arc<Store>>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        // How long the log is away nobody knows; soon is the best guess, and spreads nothing.
        let retry_after = (refusal.reason == Reason::Unavailable).then_some(Duration::from_secs(2));
        Self { refusal, retry_after, rejected: Vec::new(), unknown_key: None, store: None }
    }
}

impl Refused {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Refusal::new(reason, detail).into()
    }

    /// Over a rate.
    pub(crate) fn wait(detail: &str, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..Self::new(Reason::RateLimited, detail) }
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    index: usize,
    reason: &'static str,
    detail: &'a str,
}

fn entries(rejected: &[(usize, Rejection)]) -> Vec<Entry<'_>> {
    let entry = |(index, rejection): &'_ (usize, Rejection)| (*index, rejection.reason.as_str());
    rejected
        .iter()
        .map(|rejected| {
            let (index, reason) = entry(rejected);
            Entry { index, reason, detail: &rejected.1.detail }
        })
        .collect()
}

/// 202: what was accepted is durable.
pub(crate) fn accepted(outcome: &Outcome) -> Response {
    #[derive(Serialize)]
    struct Entry<'a> {
        index: usize,
        field: &'a str,
        reason: &'static str,
    }
    #[derive(Serialize)]
    struct Accepted<'a> {
        accepted: usize,
        rejected: Vec<self::Entry<'a>>,
        repaired: Vec<Entry<'a>>,
    }
    let repaired = outcome.repaired.iter().map(|Repaired { index, field, repair }| Entry {
        index: *index,
        field,
        reason: repair.as_str(),
    });
    let accepted = Accepted {
        accepted: outcome.accepted(),
        rejected: entries(&outcome.rejected),
        repaired: repaired.collect(),
    };
    json(StatusCode::ACCEPTED, &accepted)
}

/// Nothing of the request was accepted.
pub(crate) fn refused(refused: &Refused) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'static str,
        detail: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        accepted: Option<usize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rejected: Option<Vec<Entry<'a>>>,
    }
    let Refused { refusal: Refusal { reason, detail }, rejected, .. } = refused;
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let has_list = status == StatusCode::UNPROCESSABLE_ENTITY;
    let body = Body {
        error: reason.as_str(),
        detail,
        accepted: has_list.then_some(0),
        rejected: has_list.then(|| entries(rejected)),
    };
    refused_as(status, &body, refused)
}

/// A refusal in another product's words: what an answer says beside its body stays the same.
pub(crate) fn refused_as(status: StatusCode, body: &impl Serialize, refused: &Refused) -> Response {
    let mut response = json(status, body);
    if refused.refusal.reason == Reason::OriginNotAllowed {
        response.extensions_mut().insert(OriginRefused);
    }
    if let Some(wait) = refused.retry_after {
        let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Any JSON. Answers are never cached.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
