//! What is done around every handler.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use millrace_schemas::metric;

use serde_json::{Value, json};

use super::{Answer, Failure, openapi::error};

/// Bytes of a request's body, at most.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest that a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A method as a metric's label: whatever else a client makes up is one label.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Counts every request, and gives up those that take too long.
pub(super) async fn count(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let endpoint = format!("{} {}", method_label(request.method()), path.as_deref().unwrap_or("other"));
    let answer = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => Failure::new(StatusCode::GATEWAY_TIMEOUT, "it took too long").into_response(),
    };
    let answer = with_headers(as_json(answer));
    let status = answer.status().as_u16().to_string();
    metrics::counter!(metric::AGGREGATOR_REQUESTS, "endpoint" => endpoint, "status" => status).increment(1);
    answer
}

/// axum refuses some requests by itself, with a text: a path or a query that cannot be read.
fn as_json(answer: Response) -> Response {
    let status = answer.status();
    let is_failure = status.is_client_error() || status.is_server_error();
    let is_json = answer.headers().get(header::CONTENT_TYPE).is_some_and(|ty| ty == "application/json");
    if !is_failure || is_json {
        return answer;
    }
    let message = match status {
        StatusCode::BAD_REQUEST => "the address cannot be read: a path and a query are percent-encoded UTF-8",
        StatusCode::METHOD_NOT_ALLOWED => "this method is not answered here; see /openapi.json",
        _ => status.canonical_reason().unwrap_or("the request is refused"),
    };
    let (mut parts, _) = answer.into_parts();
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut answer = Failure::new(status, message).into_response();
    answer.headers_mut().extend(parts.headers);
    answer
}

/// Answers are data and keys: nobody keeps them, and no browser shows them as a page.
fn with_headers(mut answer: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 3] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in HEADERS {
        answer.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// Reads a body whole before its handler runs. Only JSON, which no form of another site can send.
pub(super) async fn read_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let read = async {
        if !body.is_end_stream() && !is_json(parts.headers.get(header::CONTENT_TYPE)) {
            let message = "send `Content-Type: application/json`";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        whole(body).await
    };
    match read.await {
        Ok(body) => next.run(Request::from_parts(parts, body)).await,
        Err(failure) => failure.into_response(),
    }
}

fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let essence = content_type.and_then(|ty| ty.as_bytes().split(|byte| *byte == b';').next());
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}

async fn whole(body: Body) -> Answer<Body> {
    let too_large = || {
        let message = format!("a body has at most {BODY_BYTES_MAX} bytes");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let read = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(read)) => Ok(Body::from(read.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Failure::new(StatusCode::BAD_REQUEST, "the body is broken")),
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body was not complete in time")),
    }
}

/// Writes into an operation's part of the document what is answered around every handler.
pub(super) fn describe(path: &mut Value) {
    for operation in path.as_object_mut().into_iter().flat_map(|path| path.values_mut()) {
        let has_body = operation.get("requestBody").is_some();
        let responses = &mut operation["responses"];
        let mut may_answer = |status: &str, description: &str| {
            if responses.get(status).is_none() {
                responses[status] = error(description);
            }
        };
        may_answer("400", "The request names no host, or more than one; or its address cannot be read.");
        may_answer(
            "421",
            "Asked for under a name that is not answered here: use an address or localhost, or set MILLRACE_ALLOWED_HOSTS.",
        );
        may_answer("504", "It took too long.");
        if has_body {
            may_answer("408", "The body was not complete in time.");
            may_answer("413", &format!("The body has more than {BODY_BYTES_MAX} bytes."));
            may_answer("415", "The body is not `application/json`.");
        }
        for (status, description) in [("414", "The address is too long."), ("431", "The head is too large.")]
        {
            responses[status] = json!({"description": format!("{description} No body.")});
        }
    }
}
