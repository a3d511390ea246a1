//! Google Analytics 4: the Measurement Protocol for servers (`/mp/collect`, JSON), and what its tags send from pages
//! (`/g/collect`, queries; `wire`). Both end in an event with a name and parameters, which `event` makes a native one.
//!
//! Google answers 204 to whatever is sent. So does this for what will never be acceptable; what should be sent again gets
//! 429 or 503. `/debug/mp/collect` says what would become of a request, and keeps nothing.

mod event;
mod wire;

use axum::{body::Body, http::StatusCode, response::Response};
use millrace_schemas::reject::{Reason, Rejection};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Call, Does, Route, Translation, put, value};
use crate::{
    decode::Refusal,
    http::answer::{self, Refused},
};
use event::Sender;

/// Addresses.
pub(crate) const ROUTES: &[Route] = &[
    Route { path: "/mp/collect", does: Does::Post },
    Route { path: "/debug/mp/collect", does: Does::Check(judge) },
    Route { path: "/g/collect", does: Does::GetAndPost },
];

/// More events than a setting of the collector would let into one request: nothing is made of them. Google takes 25.
const EVENTS_MAX: usize = 1_000;
/// What the sender says of itself once is kept with each event; all of that together takes no more than so many bytes.
const SHARED_BYTES_MAX: usize = 4 << 20;

/// The events of a request.
pub(crate) fn decode(call: &Call<'_>) -> Result<Translation, Refusal> {
    if call.path == "/g/collect" { wire::decode(call) } else { decode_json(call) }
}

fn decode_json(call: &Call<'_>) -> Result<Translation, Refusal> {
    let Value::Object(root) = super::json(call.body)? else {
        return Err(Refusal::new(Reason::NotJson, "the body is no object"));
    };
    let list: &[Value] = match root.get("events") {
        Some(Value::Array(list)) => list,
        Some(one @ Value::Object(_)) => std::slice::from_ref(one),
        None | Some(Value::Null) => &[],
        Some(_) => return Err(Refusal::new(Reason::WrongType, "`events` must be an array of events")),
    };
    if list.is_empty() {
        return Err(Refusal::new(Reason::NoEvents, "send at least one event"));
    }
    let sender = sender(&root);
    check_size(list.len(), sender.bytes())?;
    let events = list.iter().map(|element| {
        // What is no object is refused in its place, beside its neighbours.
        let Value::Object(element) = element else { return Map::new() };
        let name = element.get("name");
        let params = value::object_or_json(element, "params").unwrap_or_default();
        let timestamp = time(element.get("timestamp_micros"));
        event::translate(name, &params, timestamp, &sender)
    });
    let key = value::parameter(call.query, "api_secret");
    Ok(Translation { key, sent_at: None, events: events.collect() })
}

/// What a body says of its sender, beside the events.
fn sender(root: &Map<String, Value>) -> Sender {
    let mut fields = Map::new();
    value::put_first(&mut fields, "visitor_id", root, &["client_id", "app_instance_id"]);
    value::put_sent(&mut fields, "user_id", root.get("user_id"));
    put(&mut fields, "timestamp", time(root.get("timestamp_micros")));
    value::put_sent(&mut fields, "ip", root.get("ip_override"));
    value::put_sent(&mut fields, "user_agent", root.get("user_agent"));
    let mut told = Map::new();
    if let Some(device) = value::object(root, "device") {
        value::put_sent(&mut fields, "language", device.get("language"));
        event::put_screen(&mut fields, device.get("screen_resolution"));
    }
    for (prefix, of) in [("user", "user_properties"), ("location", "user_location")] {
        for (name, value) in value::object(root, of).into_iter().flatten() {
            // Of users as documented, `{"value": …}`, and as often sent, bare.
            let value = value.get("value").unwrap_or(value);
            told.insert(format!("{prefix}.{name}"), value.clone());
        }
    }
    Sender { fields, properties: super::properties(&told, &[]) }
}

/// Microseconds as milliseconds; what is no number is refused in its place.
fn time(micros: Option<&Value>) -> Value {
    let ms = |micros: &Value| match micros {
        Value::Number(number) => number.as_i64().or_else(|| Some(number.as_f64()? as i64)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    match micros {
        None | Some(Value::Null) => Value::Null,
        Some(micros) => {
            ms(micros).map_or_else(|| micros.clone(), |micros: i64| Value::from(micros.div_euclid(1_000)))
        }
    }
}

fn check_size(events: usize, shared_bytes: usize) -> Result<(), Refusal> {
    if events > EVENTS_MAX {
        let detail = format!("send at most {EVENTS_MAX} events in one request");
        return Err(Refusal::new(Reason::TooManyEvents, detail));
    }
    if events.saturating_mul(shared_bytes) > SHARED_BYTES_MAX {
        let detail = "what stands beside the events is kept with each of them, and is too large for so many";
        return Err(Refusal::new(Reason::BodyTooLarge, detail));
    }
    Ok(())
}

/// 204 without a body; what should be sent again, whole or in parts, has its status.
pub(crate) fn answer(result: Result<usize, &Refused>) -> Response {
    match result {
        Err(refused) if refused.refusal.reason.is_worth_a_retry() => answer::refused(refused),
        // A sender with a queue can send it in parts.
        Err(refused) if matches!(refused.refusal.reason, Reason::BodyTooLarge | Reason::TooManyEvents) => {
            answer::refused(refused)
        }
        _ => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
    }
}

/// `{"validationMessages": […]}`, which is empty when all is well.
fn judge(result: Result<&[(usize, Rejection)], &Refused>) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Message {
        field_path: &'static str,
        description: String,
        validation_code: &'static str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Verdict {
        validation_messages: Vec<Message>,
    }
    let of_event = |(index, rejection): &(usize, Rejection)| Message {
        field_path: "events",
        description: format!("Event at index: [{index}] {}: {}", rejection.reason, rejection.detail),
        validation_code: code(rejection.reason),
    };
    let validation_messages = match result {
        Ok(rejected) => rejected.iter().map(of_event).collect(),
        Err(refused) if refused.refusal.reason.is_worth_a_retry() => return answer::refused(refused),
        Err(refused) if !refused.rejected.is_empty() => refused.rejected.iter().map(of_event).collect(),
        Err(Refused { refusal, .. }) => vec![Message {
            field_path: if refusal.reason == Reason::UnknownKey { "api_secret" } else { "" },
            description: format!("{}: {}", refusal.reason, refusal.detail),
            validation_code: code(refusal.reason),
        }],
    };
    answer::json(StatusCode::OK, &Verdict { validation_messages })
}

/// Google's word for a reason.
fn code(reason: Reason) -> &'static str {
    match reason {
        Reason::MissingField | Reason::EmptyOrderId | Reason::NoEvents => "VALUE_REQUIRED",
        Reason::TooManyEvents => "EXCEEDED_MAX_ENTITIES",
        Reason::RowTooLarge | Reason::BodyTooLarge => "VALUE_OUT_OF_BOUNDS",
        Reason::DuplicateKey => "NAME_DUPLICATED",
        _ => "VALUE_INVALID",
    }
}
