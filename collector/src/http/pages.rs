//! Everything that is not an event: health, documentation, the snippet, other products' scripts.

use std::{
    io::Write as _,
    sync::{Arc, LazyLock},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE,
            ETAG, IF_NONE_MATCH, VARY,
        },
    },
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{App, answer};

const OPENAPI: &str = include_str!("../../openapi.json");

pub(crate) const JAVASCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const FOR_AN_HOUR: HeaderValue = HeaderValue::from_static("public, max-age=3600");

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

/// A build of the snippet, as it is and compressed.
struct Script {
    plain: Sent,
    gzip: Option<Sent>,
}

struct Sent {
    bytes: Bytes,
    etag: HeaderValue,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let gzip = gzip.write_all(text.as_bytes()).and_then(|()| gzip.finish());
        Self {
            plain: Sent::new(Bytes::from_static(text.as_bytes())),
            gzip: gzip.ok().map(|bytes| Sent::new(bytes.into())),
        }
    }

    /// What a client gets; nothing but its tag where the client has it.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let gzip = self.gzip.as_ref().filter(|_| accepts_gzip(headers));
        let sent = gzip.unwrap_or(&self.plain);
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
        let is_known = known.flat_map(|tags| tags.split(',')).any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == sent.etag
        });
        let mut response = Response::new(Body::empty());
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = Body::from(sent.bytes.clone());
        }
        let answer = response.headers_mut();
        answer.insert(CONTENT_TYPE, JAVASCRIPT);
        answer.insert(CACHE_CONTROL, FOR_AN_HOUR);
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        answer.insert(VARY, HeaderValue::from_static("accept-encoding"));
        answer.insert(ETAG, sent.etag.clone());
        if gzip.is_some() && !is_known {
            answer.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

impl Sent {
    fn new(bytes: Bytes) -> Self {
        let hash = hex::encode(&Sha256::digest(&bytes)[..16]);
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Self { bytes, etag }
    }
}

/// Whether `gzip` is named and not with a weight of zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|offers| offers.to_str().ok());
    offers.flat_map(|offers| offers.split(',')).any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
        is_gzip && weight.is_ok_and(|weight| weight > 0.0)
    })
}

/// The snippet.
pub(crate) async fn tracker(headers: HeaderMap) -> Response {
    static FULL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../tracker/dist/t.js")));
    FULL.answer(&headers)
}

/// The snippet without clicks, links, forms, vitals and errors.
pub(crate) async fn core_tracker(headers: HeaderMap) -> Response {
    static CORE: LazyLock<Script> =
        LazyLock::new(|| Script::new(include_str!("../../tracker/dist/t.core.js")));
    CORE.answer(&headers)
}

/// A small script for another product's client.
pub(crate) fn script(text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    let answer = response.headers_mut();
    answer.insert(CONTENT_TYPE, JAVASCRIPT);
    answer.insert(CACHE_CONTROL, FOR_AN_HOUR);
    response
}

/// The description of this API.
pub(crate) async fn openapi() -> Response {
    let mut response = Response::new(Body::from(OPENAPI));
    let answer = response.headers_mut();
    answer.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

pub(crate) fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "not_found", "see /openapi.json for what there is")
}

pub(crate) async fn method_not_allowed() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "see /openapi.json for what there is")
}

/// Operators ask by an address or by a name that is known; pages have no business with these.
pub(crate) async fn known_hosts_only(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match app.hosts.refusal(request.uri(), request.headers()) {
        None => next.run(request).await,
        Some((status, detail)) => error(status, "unknown_host", detail),
    }
}

pub(crate) fn error(status: StatusCode, error: &'static str, detail: &'static str) -> Response {
    #[derive(Serialize)]
    struct Error {
        error: &'static str,
        detail: &'static str,
    }
    answer::json(status, &Error { error, detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::{money, reject::Reason, repair::Repair};

    fn ask(headers: &[(axum::http::HeaderName, &str)]) -> Response {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        Script::new("some script, some script, some script").answer(&headers.collect())
    }

    #[test]
    fn a_script_is_sent_once_and_compressed_where_that_is_understood() {
        let plain = ask(&[]);
        assert_eq!(plain.status(), StatusCode::OK);
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
        let gzip = ask(&[(ACCEPT_ENCODING, "br, GZIP;q=0.5")]);
        assert_eq!(gzip.headers()[CONTENT_ENCODING], "gzip");
        let (plain, gzip) = (plain.headers()[ETAG].clone(), gzip.headers()[ETAG].clone());
        assert_ne!(plain, gzip, "they are different bytes");
        assert!(!ask(&[(ACCEPT_ENCODING, "gzip;q=0")]).headers().contains_key(CONTENT_ENCODING));

        let status = |tags: &str| ask(&[(IF_NONE_MATCH, tags)]).status();
        let plain = plain.to_str().unwrap();
        assert_eq!(status(plain), StatusCode::NOT_MODIFIED);
        assert_eq!(status(&format!("\"other\", W/{plain}")), StatusCode::NOT_MODIFIED);
        assert_eq!(status("*"), StatusCode::NOT_MODIFIED);
        assert_eq!(status(gzip.to_str().unwrap()), StatusCode::OK);
        let known = ask(&[(IF_NONE_MATCH, plain)]);
        assert_eq!(known.headers()[ETAG], plain);
        assert_eq!(known.headers()[CACHE_CONTROL], "public, max-age=3600");
    }

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
        let repairs = openapi["components"]["schemas"]["Repair"]["enum"].as_array().unwrap();
        assert!(
            Repair::ALL
                .iter()
                .map(|repair| repair.as_str())
                .eq(repairs.iter().map(|text| text.as_str().unwrap()))
        );
        let currencies = openapi["components"]["schemas"]["Currency"]["enum"].as_array().unwrap();
        let letters = || 'A'..='Z';
        let codes = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
        let codes = codes.map(|code| code.iter().collect::<String>());
        assert!(
            codes
                .filter(|code| money::exponent(code).is_some())
                .eq(currencies.iter().map(|code| code.as_str().unwrap()))
        );
    }

    #[test]
    fn the_description_names_every_route_but_other_products() {
        let openapi: serde_json::Value = serde_json::from_str(super::OPENAPI).unwrap();
        let routes = super::super::ROUTES;
        let named: Vec<_> = openapi["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(routes.iter().all(|route| named.contains(route)), "{named:?}");
        assert_eq!(named.len(), routes.len());
    }
}
