//! A request of another product's client to rows. Whatever its address, head and body are,
//!
//! * the decoder refuses them or makes events of them, the same ones each time;
//! * what it makes takes no more memory than many times what came in;
//! * what it makes is a body that `POST /v1/collect` takes, and every event of it gets an answer there.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use millrace_collector::{
    chain::collect_body,
    compat::{Call, Protocol},
    decode::{Form, Scratch},
};
use millrace_schemas::{limits::Limits, reject::Reason};

use crate::decode::{ENRICHER, request, rows};

/// Most bytes that anything compressed inside may take.
const INFLATED_BYTES_MAX: usize = 64 << 10;
/// What an event's own names and defaults take, for each byte that came in.
const EXPANSION_MAX: usize = 128;
/// What that is added to.
const EXPANSION_BASE: usize = 16 << 10;

/// A request as text: `choice`, `POST /path?query`, a header in each line, an empty line, the body.
struct Told<'i> {
    choice: u8,
    method: Method,
    path: &'i str,
    query: &'i str,
    headers: HeaderMap,
    body: &'i [u8],
}

impl<'i> Told<'i> {
    fn read(input: &'i [u8]) -> Option<Self> {
        let (choice, mut rest) = input.split_first()?;
        let (method, address) = std::str::from_utf8(line(&mut rest)).ok()?.split_once(' ')?;
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let mut headers = HeaderMap::new();
        loop {
            let header = line(&mut rest);
            if header.is_empty() {
                break;
            }
            let Some(colon) = header.iter().position(|byte| *byte == b':') else { continue };
            let name = HeaderName::from_bytes(&header[..colon]);
            let value = HeaderValue::from_bytes(header[colon + 1..].trim_ascii());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        let method = if method == "GET" { Method::GET } else { Method::POST };
        Some(Self { choice: *choice, method, path, query, headers, body: rest })
    }

    fn call(&self) -> Call<'_> {
        Call {
            method: &self.method,
            path: self.path,
            query: self.query,
            headers: &self.headers,
            body: self.body,
            received_at: 1_793_511_000_123,
            inflated_bytes_max: INFLATED_BYTES_MAX,
        }
    }
}

/// The bytes before the next newline; the rest begins after it.
fn line<'i>(rest: &mut &'i [u8]) -> &'i [u8] {
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (line, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    line
}

/// See the module. The first byte chooses the limits and the key.
pub fn check(protocol: Protocol, input: &[u8]) {
    let Some(told) = Told::read(input) else { return };
    let call = told.call();
    let first = protocol.decode(&call);
    assert!(protocol.decode(&call) == first, "the same request, other events");
    let Ok(translation) = first else { return };
    let sent = translation.events.len();
    let body = translation.into_body();
    let bytes_max = EXPANSION_MAX * input.len() + EXPANSION_BASE;
    assert!(body.len() <= bytes_max, "{} bytes of {}", body.len(), input.len());
    // Each limit is met, but the one on events, of which none is sent when there is none.
    let (_, request) = request(told.choice & !1);
    let outcome = match collect_body(&body, Form::Json, &request, &ENRICHER, &mut Scratch::default()) {
        Ok(outcome) => outcome,
        Err(refusal) => {
            let is_count = refusal.reason == Reason::TooManyEvents && sent > request.limits.events_max;
            assert!(is_count, "{refusal:?} of {}", String::from_utf8_lossy(&body));
            return;
        }
    };
    assert_eq!(outcome.accepted() + outcome.rejected.len(), sent, "every event has its answer");
    assert_eq!(rows(&outcome.messages), outcome.accepted());
    if request.limits == Limits::default() {
        let unreadable =
            outcome.rejected.iter().find(|(_, rejection)| rejection.reason == Reason::MalformedJson);
        assert!(unreadable.is_none(), "{unreadable:?} of {}", String::from_utf8_lossy(&body));
    }
}
