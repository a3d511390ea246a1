//! What browsers need to be told before they let a page send, or read the answer.
//!
//! `sendBeacon` sends in credentials mode, for which `*` is no answer: the concrete origin is. It is repeated only where it
//! is an origin, or `null`, and where no store has refused it.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
            ACCESS_CONTROL_REQUEST_HEADERS, ORIGIN, REFERER, VARY,
        },
        request::Parts,
    },
    response::Response,
};
use millrace_schemas::reject::Reason;

use super::{App, answer, collect, compat};
use crate::origin::Origin;

const ALLOWED_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-encoding, content-type, x-write-key");

/// Browsers say with every request whether a page of another site makes it, whatever else that page hides.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Marks an answer which says that a store has not listed the page's origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OriginRefused;

/// `OPTIONS`: may this page send? Asked without the key, unless it stands in the address; the request itself is checked
/// again.
///
/// Counts towards the client's rate, and is answered at any rate: a page learns nothing of a refused preflight but that
/// the network failed, and of the request itself when to come again. posthog-js drops what failed four times so.
pub(crate) async fn preflight(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let _ = collect::take_client_rate(&app, &parts);
    let headers = &parts.headers;
    let directory = app.directory.load();
    let key = compat::key_in_path(parts.uri.path()).map(Cow::Borrowed);
    let key = key.or_else(|| collect::query_key(&parts.uri));
    if let (Some(key), Some(origin)) = (key.and_then(|key| directory.find(&key)), origin(headers))
        && !key.is_trusted
        && !key.store.allows(&origin)
    {
        app.metrics.refused(Reason::OriginNotAllowed);
        return answer::refused(&collect::wrong_origin(&origin));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    // What a page may send is for the key and its origins to say; a header more or less lets nobody in.
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.cloned().unwrap_or(ALLOWED_HEADERS));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    allow(&mut response, headers);
    response
}

/// The page's origin, where a browser sent one. Of several headers, which no browser sends, the text is no origin.
pub(crate) fn origin(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(ORIGIN).iter().map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    let first = values.next()?.into_owned();
    Some(values.fold(first, |all, next| format!("{all}, {next}")))
}

/// The origin of the page that a request comes from. With a picture browsers send no `Origin`: then the referrer tells. A
/// page of another site that hides that, too, is on nobody's list, like one whose origin is `null`.
pub(crate) fn page_origin(parts: &Parts) -> Option<String> {
    let headers = &parts.headers;
    origin(headers).or_else(|| {
        if parts.method != Method::GET {
            return None;
        }
        let is_foreign = || headers.get(FETCH_SITE).is_some_and(|site| site == "cross-site");
        referrer_origin(headers).or_else(|| is_foreign().then(|| "null".to_owned()))
    })
}

fn referrer_origin(headers: &HeaderMap) -> Option<String> {
    let referrer = headers.get(REFERER)?.to_str().ok()?;
    let (scheme, rest) = referrer.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    Some(format!("{scheme}://{host}"))
}

/// Lets the page read this answer, unless it says that the page may not send.
pub(crate) fn allow(response: &mut Response, headers: &HeaderMap) {
    let is_refused = response.extensions().get::<OriginRefused>().is_some();
    let origin =
        origin(headers).filter(|origin| !is_refused && (origin == "null" || Origin::parse(origin).is_some()));
    let origin = origin.and_then(|origin| HeaderValue::try_from(origin).ok());
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        // When to send again.
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
}
