//! Other products' protocols: their clients send here with nothing changed but an address.
//!
//! A decoder is a pure function from a request of such a client to events as `POST /v1/collect` takes them. What it lets
//! through is checked, limited, enriched and stored like everybody's; it decides names and shapes, never what is
//! acceptable. It costs a second pass over the JSON, which the native protocol does not pay.
//!
//! Each product's module says what becomes of what, and what is dropped. It has `ROUTES`, `decode` and `answer`: a client
//! that gets an answer it does not know sends again for ever.

pub(crate) mod commerce;
pub mod ga4;
mod goal;
pub mod plausible;
pub mod posthog;
pub mod segment;
pub mod snowplow;
pub mod umami;
mod value;

use std::fmt;

use axum::{
    http::{HeaderMap, Method},
    response::Response,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    decode::Refusal,
    http::answer::Refused,
    mend::{has_long_number, mend, without_mark},
    split::{self, Top},
    validate::id_of_text,
};
use millrace_schemas::reject::{Reason, Rejection};

/// A product whose clients may send here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Segment's HTTP tracking API.
    Segment,
    /// Google Analytics 4's Measurement Protocol.
    Ga4,
    /// Plausible's events API.
    Plausible,
    /// Umami's send API.
    Umami,
    /// PostHog's capture API.
    Posthog,
    /// Snowplow's tracker protocol 2.
    Snowplow,
}

/// An address that a product's clients send to, below the collector's own or below `/k/{write key}`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// As axum writes paths.
    pub(crate) path: &'static str,
    pub(crate) does: Does,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Takes events, from a body.
    Post,
    /// Takes events, from the address alone.
    Get,
    /// Takes events either way.
    GetAndPost,
    /// Answers what a client asks before or beside sending; a body says nothing here.
    Say(fn(&Call<'_>) -> Response),
    /// Takes events as [`Does::Post`] does and says what would become of them; nothing is kept.
    Check(Judge),
}

/// Answers for events that were checked: those that were rejected, with their places, or why all of them were.
pub(crate) type Judge = fn(Result<&[(usize, Rejection)], &Refused>) -> Response;

/// What a decoder sees of a request.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// GET or POST.
    pub method: &'a Method,
    /// Path, without `/k/{write key}`.
    pub path: &'a str,
    /// Query, as it stands in the address; empty when there is none.
    pub query: &'a str,
    /// Head.
    pub headers: &'a HeaderMap,
    /// Body after `Content-Encoding` was undone.
    pub body: &'a [u8],
    /// Receipt, epoch milliseconds.
    pub received_at: i64,
    /// Most bytes that anything compressed inside may take.
    pub inflated_bytes_max: usize,
}

/// A request as events of `POST /v1/collect`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translation {
    /// The store's key, from where that product's clients put theirs. One in the address beats it.
    pub key: Option<String>,
    /// When the client sent it, as RFC 3339 or epoch milliseconds.
    pub sent_at: Option<Value>,
    /// Events, each an object. None is no error: some calls of some products say nothing that is kept.
    pub events: Vec<Map<String, Value>>,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 6] = [
        Protocol::Segment,
        Protocol::Ga4,
        Protocol::Plausible,
        Protocol::Umami,
        Protocol::Posthog,
        Protocol::Snowplow,
    ];

    /// What the product is called in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Segment => "segment",
            Protocol::Ga4 => "ga4",
            Protocol::Plausible => "plausible",
            Protocol::Umami => "umami",
            Protocol::Posthog => "posthog",
            Protocol::Snowplow => "snowplow",
        }
    }

    /// The addresses that its clients send to.
    pub(crate) const fn routes(self) -> &'static [Route] {
        match self {
            Protocol::Segment => segment::ROUTES,
            Protocol::Ga4 => ga4::ROUTES,
            Protocol::Plausible => plausible::ROUTES,
            Protocol::Umami => umami::ROUTES,
            Protocol::Posthog => posthog::ROUTES,
            Protocol::Snowplow => snowplow::ROUTES,
        }
    }

    /// The events of a request; refuses what is no request of this product's clients.
    pub fn decode(self, call: &Call<'_>) -> Result<Translation, Refusal> {
        match self {
            Protocol::Segment => segment::decode(call),
            Protocol::Ga4 => ga4::decode(call),
            Protocol::Plausible => plausible::decode(call),
            Protocol::Umami => umami::decode(call),
            Protocol::Posthog => posthog::decode(call),
            Protocol::Snowplow => snowplow::decode(call),
        }
    }

    /// What this product's clients take for a yes or a no; `Ok` has the number of events accepted.
    pub(crate) fn answer(self, method: &Method, result: Result<usize, &Refused>) -> Response {
        match self {
            Protocol::Segment => segment::answer(result),
            Protocol::Ga4 => ga4::answer(result),
            Protocol::Plausible => plausible::answer(result),
            Protocol::Umami => umami::answer(result),
            Protocol::Posthog => posthog::answer(result),
            Protocol::Snowplow => snowplow::answer(method, result),
        }
    }
}

impl Translation {
    /// The body that `POST /v1/collect` would take.
    pub fn into_body(self) -> Vec<u8> {
        let mut envelope = Map::new();
        if let Some(sent_at) = self.sent_at {
            envelope.insert("sent_at".into(), sent_at);
        }
        envelope.insert("events".into(), self.events.into_iter().map(Value::Object).collect());
        Value::Object(envelope).to_string().into_bytes()
    }
}

/// The body, or a text in it, as JSON. What is broken is mended where its meaning is certain; what cannot be is left out.
pub(crate) fn json(body: &[u8]) -> Result<Value, Refusal> {
    let body = without_mark(body);
    // A longer number than 64 bits would be read, and rounded: it may be an order's id.
    if !has_long_number(body)
        && let Ok(json) = parse(body)
    {
        return Ok(json);
    }
    // To be mended is to end with the first value.
    if matches!(split::split(body, SCANNED_MAX), Some(Top::Sequence)) {
        return Err(Refusal::new(Reason::NotJson, "one JSON value follows another; send one"));
    }
    parse(&mend(body))
        .map_err(|error| Refusal::new(Reason::NotJson, format!("the body is not JSON: {error}")))
}

/// What stands behind a list of more elements is not looked for: no request may hold as many.
const SCANNED_MAX: usize = 10_000;

fn parse(json: &[u8]) -> serde_json::Result<Value> {
    if json.trim_ascii_start().first() == Some(&b'{') {
        let Members(members) = serde_json::from_slice(json)?;
        return Ok(Value::Object(members));
    }
    serde_json::from_slice(json)
}

/// An object. Of two lists of one name both are kept, one behind the other, so that no event is lost without a word; of
/// anything else that stands twice the last that is not null.
struct Members(Map<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Map::new();
                while let Some((name, mut value)) = map.next_entry::<String, Value>()? {
                    if let Value::Array(more) = &mut value
                        && let Some(Value::Array(list)) = members.get_mut(&name)
                    {
                        list.append(more);
                    } else if !(value.is_null() && members.contains_key(&name)) {
                        members.insert(name, value);
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// The id of an event: the sender's own where it is a UUID, or one made of it. The same text makes the same id, so that
/// what is sent twice counts once.
pub(crate) fn event_id(text: &str) -> String {
    match Uuid::try_parse(text) {
        Ok(id) if !id.is_nil() => id.to_string(),
        _ => id_of_text(text).to_string(),
    }
}

/// Puts a value into an event, unless it says nothing.
pub(crate) fn put(event: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    match value.into() {
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        value => {
            event.insert(field.to_owned(), value);
        }
    }
}

/// Most properties that [`properties`] makes: what `POST /v1/collect` takes by default.
const PROPERTIES_MAX: usize = 100;

/// Most bytes that the names of these take together: `outer.inner` repeats `outer` for every member.
const NAMES_BYTES_MAX: usize = 16 << 10;

/// An object as the flat `properties` of an event, without the members that have become fields: objects inside become
/// `outer.inner`, lists become their JSON text. What is beyond the hundredth is left out.
pub(crate) fn properties(from: &Map<String, Value>, without: &[&str]) -> Map<String, Value> {
    let mut flat = Map::new();
    let mut names_bytes = 0;
    for (name, value) in from {
        if !without.contains(&name.as_str()) {
            flatten(&mut flat, name, value, &mut names_bytes);
        }
    }
    flat
}

/// Adds entries to `properties`, as many as an event may have. What stands there stays.
pub(crate) fn add_properties(
    properties: &mut Map<String, Value>,
    more: impl IntoIterator<Item = (String, Value)>,
) {
    for (name, value) in more {
        if properties.len() >= PROPERTIES_MAX {
            return;
        }
        properties.entry(name).or_insert(value);
    }
}

fn flatten(flat: &mut Map<String, Value>, name: &str, value: &Value, names_bytes: &mut usize) {
    if flat.len() >= PROPERTIES_MAX {
        return;
    }
    // Also of what says nothing: the name has been made.
    *names_bytes += name.len();
    match value {
        Value::Null => {}
        // Names as long as that are refused; to repeat them would cost more than they did.
        Value::Object(inner) if name.len() <= NAMES_BYTES_MAX / 2 => {
            for (inner_name, value) in inner {
                if *names_bytes > NAMES_BYTES_MAX || flat.len() >= PROPERTIES_MAX {
                    return;
                }
                flatten(flat, &format!("{name}.{inner_name}"), value, names_bytes);
            }
        }
        Value::Array(_) => {
            flat.insert(name.to_owned(), Value::String(value.to_string()));
        }
        scalar => {
            flat.insert(name.to_owned(), scalar.clone());
        }
    }
}
