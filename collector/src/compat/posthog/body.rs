//! A request's bytes to JSON. Over the years PostHog's clients have wrapped it in gzip, in base64 and in forms, and said so
//! in the query or not at all; bytes say it themselves. Nothing but JSON begins with a brace or bracket.

use std::borrow::Cow;

use millrace_schemas::reject::Reason;
use serde_json::Value;

use crate::{
    body::{Encoding, inflate},
    compat::{
        self, Call,
        value::{base64, parameter},
    },
    decode::Refusal,
    mend::without_mark,
};

/// A form's field around base64 around gzip around a form's field: no client goes further.
const WRAPPINGS_MAX: usize = 4;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What was sent, as JSON.
pub(super) fn read(call: &Call<'_>) -> Result<Value, Refusal> {
    let mut bytes = Cow::Borrowed(call.body);
    if bytes.is_empty() {
        bytes = parameter(call.query, "data").map_or(bytes, |data| Cow::Owned(data.into_bytes()));
    }
    for _ in 0..WRAPPINGS_MAX {
        let Some(inner) = unwrap(&bytes, call.inflated_bytes_max)? else { return compat::json(&bytes) };
        bytes = Cow::Owned(inner);
    }
    Err(Refusal::new(Reason::NotJson, "the body is wrapped too often"))
}

/// What is inside, unless it is JSON or nothing that is known.
fn unwrap(bytes: &[u8], bytes_max: usize) -> Result<Option<Vec<u8>>, Refusal> {
    if bytes.starts_with(&GZIP) {
        return inflate(bytes, Encoding::Gzip, bytes_max).map(|inflated| Some(inflated.into_owned()));
    }
    if matches!(without_mark(bytes).trim_ascii_start().first(), None | Some(b'{' | b'[')) {
        return Ok(None);
    }
    let data = form_urlencoded::parse(bytes).find(|(name, _)| name == "data");
    Ok(match data {
        Some((_, data)) => Some(data.into_owned().into_bytes()),
        None => base64(bytes),
    })
}
