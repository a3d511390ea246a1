//! An event of Google's, which is a name and parameters, to a native one.

use serde_json::{Map, Value};

use crate::compat::{
    add_properties, commerce, properties, put,
    value::{put_first, put_sent, text},
};

/// Sent by tags on their own: they are no sign of interest.
const AUTOMATIC: [&str; 5] = ["user_engagement", "session_start", "first_visit", "scroll", "exception"];

/// Parameters that become fields, or say nothing here.
const TAKEN: [&str; 12] = [
    "page_location",
    "page_title",
    "page_referrer",
    "language",
    "screen_resolution",
    "session_id",
    "ga_session_id",
    "client_id",
    "user_id",
    "timestamp_micros",
    "debug_mode",
    "non_personalized_ads",
];

/// What holds for all events of a request.
pub(super) struct Sender {
    /// Fields of native events.
    pub(super) fields: Map<String, Value>,
    /// Entries of their `properties`.
    pub(super) properties: Map<String, Value>,
}

impl Sender {
    /// About what it takes in each event.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |map: &Map<String, Value>| {
            map.iter()
                .map(|(name, value)| {
                    name.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)
                })
                .sum::<usize>()
        };
        bytes(&self.fields) + bytes(&self.properties)
    }
}

/// The native event; a name that is no text is refused later, in its place.
pub(super) fn translate(
    sent_name: Option<&Value>,
    params: &Map<String, Value>,
    timestamp: Value,
    sender: &Sender,
) -> Map<String, Value> {
    let Some(name) = text(sent_name) else {
        // Refused in its place, for having no name; what would be kept with it is not said again.
        return Map::from_iter([
            ("type".to_owned(), Value::from("event")),
            ("name".to_owned(), sent_name.cloned().unwrap_or_default()),
        ]);
    };
    let name = name.as_str();
    let mut event = sender.fields.clone();
    put(&mut event, "timestamp", timestamp);
    put_first(&mut event, "session_id", params, &["session_id", "ga_session_id"]);
    put_sent(&mut event, "user_id", params.get("user_id"));
    if name == "page_view" {
        put(&mut event, "url", params.get("page_location").cloned().unwrap_or_default());
    } else {
        put_sent(&mut event, "url", params.get("page_location"));
    }
    put_sent(&mut event, "title", params.get("page_title"));
    put_sent(&mut event, "referrer", params.get("page_referrer"));
    put_sent(&mut event, "language", params.get("language"));
    put_screen(&mut event, params.get("screen_resolution"));
    let mut taken = TAKEN.to_vec();
    if name == "page_view" {
        put(&mut event, "type", "page_view");
    } else {
        put(&mut event, "type", "event");
        put_sent(&mut event, "name", sent_name);
        if AUTOMATIC.contains(&name) {
            put(&mut event, "interactive", false);
        }
        if let Some(ms) = number(params.get("engagement_time_msec")) {
            put(&mut event, "duration_ms", ms.round().clamp(0.0, f64::from(u32::MAX)) as u32);
            taken.push("engagement_time_msec");
        }
        if let Some(percent) = number(params.get("percent_scrolled")) {
            put(&mut event, "scroll_depth", percent.round().clamp(0.0, 100.0) as u8);
            taken.push("percent_scrolled");
        }
        taken.extend(commerce::put_commerce(&mut event, name, params));
    }
    let mut rest = properties(params, &taken);
    if name == "exception"
        && let Some(message) = rest.remove("description")
    {
        rest.insert("message".into(), message);
    }
    add_properties(&mut rest, sender.properties.clone());
    put(&mut event, "properties", rest);
    event
}

/// `1280x720`.
pub(super) fn put_screen(event: &mut Map<String, Value>, size: Option<&Value>) {
    if let Some((width, height)) = size.and_then(Value::as_str).and_then(|size| size.split_once('x')) {
        put_sent(event, "screen_width", Some(&Value::from(width)));
        put_sent(event, "screen_height", Some(&Value::from(height)));
    }
}

fn number(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}
