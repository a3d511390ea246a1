//! Plausible's events API, as its scripts, `@plausible-analytics/tracker`, `plausible-tracker` and servers speak it.
//!
//! The site's `domain` is the key. Visitors have no id there: Millrace's own visitor of the day stands for them. An
//! `engagement` says how long and how far a page was read, and not which showing of it: it stays an event of its own.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, USER_AGENT},
    },
    response::Response,
};
use millrace_schemas::reject::Reason;
use serde_json::{Map, Value, json};

use super::{
    Call, Does, Route, Translation, add_properties, goal, properties, put,
    value::{amount, object_or_json, put_sent},
};
use crate::{
    client::parse_address,
    decode::Refusal,
    http::answer::{self, Refused},
    read::trim,
};

/// Addresses.
pub(crate) const ROUTES: &[Route] = &[Route { path: "/api/event", does: Does::Post }];

/// Names of Plausible's own goals with GA4's for the same.
const NAMES: [(&str, &str); 3] = [
    ("Outbound Link: Click", "click"),
    ("File Download", "file_download"),
    ("Form: Submission", "form_submit"),
];

/// The event of a request.
pub(crate) fn decode(call: &Call<'_>) -> Result<Translation, Refusal> {
    let Value::Object(said) = super::json(call.body)? else {
        return Err(Refusal::new(Reason::NotJson, "the body must be one JSON object"));
    };
    let name = first(&said, &["n", "name"]);
    let url = first(&said, &["u", "url"]);
    let mut event = Map::new();
    put_sent(&mut event, "referrer", first(&said, &["r", "referrer"]));
    put_sent(&mut event, "viewport_width", first(&said, &["w", "screen_width"]));
    if first(&said, &["i", "interactive"]) == Some(&Value::Bool(false)) {
        event.insert("interactive".into(), false.into());
    }
    put_sender(&mut event, call);
    let props = props(&said);
    match name {
        Some(Value::String(name)) if trim(name) == "pageview" => {
            event.insert("type".into(), "page_view".into());
            // What is no address of a page is refused as that.
            put(&mut event, "url", url.cloned().unwrap_or_default());
            put(&mut event, "properties", properties(&props, &[]));
        }
        Some(Value::String(name)) => {
            event.insert("type".into(), "event".into());
            put_sent(&mut event, "url", url);
            put_named(&mut event, trim(name), &said, &props, call);
        }
        // Refused for it.
        name => {
            event.insert("type".into(), "event".into());
            put(&mut event, "name", name.cloned().unwrap_or_default());
        }
    }
    Ok(Translation { key: key(&said), sent_at: None, events: vec![event] })
}

/// Of several sites the first: a request has one store.
fn key(said: &Map<String, Value>) -> Option<String> {
    let domain = first(said, &["d", "domain"])?.as_str()?;
    let key = domain.split(',').next().unwrap_or_default().trim();
    (!key.is_empty()).then(|| key.to_owned())
}

fn put_named(
    event: &mut Map<String, Value>,
    name: &str,
    said: &Map<String, Value>,
    props: &Map<String, Value>,
    call: &Call<'_>,
) {
    if name == "engagement" {
        event.insert("interactive".into(), false.into());
        let number = |name| said.get(name).and_then(Value::as_f64);
        // A page that could not be measured has a depth of -1 or 255.
        if let Some(depth) = number("sd").filter(|depth| (0.0..=100.0).contains(depth)) {
            put(event, "scroll_depth", depth);
        }
        if let Some(ms) = number("e").filter(|ms| (0.0..=f64::from(u32::MAX)).contains(ms)) {
            put(event, "duration_ms", ms);
        }
        put(event, "name", name);
        put(event, "properties", properties(props, &[]));
        return;
    }
    if let Some((_, known)) = NAMES.iter().find(|(own, _)| *own == name) {
        let mut kept = Map::new();
        put_sent(&mut kept, "link_url", props.get("url"));
        if *known == "click" {
            put(&mut kept, "outbound", true);
        }
        add_properties(&mut kept, properties(props, &["url"]));
        put(event, "name", *known);
        put(event, "properties", kept);
        return;
    }
    let mut taken = super::commerce::put_commerce(event, goal::commerce_name(name).unwrap_or(name), props);
    taken.extend(put_revenue(event, said, props));
    goal::put_name(event, name, call, 0, said);
    put(event, "properties", properties(props, &taken));
}

/// What a goal is worth stands beside its properties: an object, the text of one, or an amount in the store's currency. Old
/// plugins put it into them.
fn put_revenue(
    event: &mut Map<String, Value>,
    said: &Map<String, Value>,
    props: &Map<String, Value>,
) -> Vec<&'static str> {
    let object = ["$", "revenue"].into_iter().find_map(|name| object_or_json(said, name));
    let (worth, currency) = match &object {
        Some(revenue) => (revenue.get("amount"), revenue.get("currency")),
        None => (first(said, &["$", "revenue"]), None),
    };
    if amount(worth).is_some() {
        put_sent(event, "value", worth);
        put_sent(event, "currency", currency);
        return Vec::new();
    }
    if amount(event.get("value")).is_some() {
        return Vec::new();
    }
    if props.contains_key("currency") && amount(props.get("amount")).is_some() {
        put_sent(event, "value", props.get("amount"));
        put_sent(event, "currency", props.get("currency"));
        return vec!["amount", "currency"];
    }
    // What cannot be read is told where amounts are read.
    put_sent(event, "value", worth);
    Vec::new()
}

/// A server speaks for a visitor in the head: whether it may is for its key to say.
fn put_sender(event: &mut Map<String, Value>, call: &Call<'_>) {
    let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok());
    let Some(forwarded) = header("x-forwarded-for") else { return };
    // Of a list the first that is an address, as Plausible has it.
    let visitor = forwarded.split(',').map(str::trim).find(|ip| parse_address(ip).is_some());
    put_sent(event, "ip", visitor.map(Value::from).as_ref());
    if event.contains_key("ip")
        && let Some(user_agent) = header(USER_AGENT.as_str())
    {
        put(event, "user_agent", user_agent);
    }
}

/// Properties: the first of four names that holds any, as an object or the text of one.
fn props(said: &Map<String, Value>) -> Cow<'_, Map<String, Value>> {
    let mut objects = ["m", "meta", "p", "props"].into_iter().filter_map(|name| object_or_json(said, name));
    objects.find(|object| !object.is_empty()).unwrap_or_default()
}

/// The first of these members that is not null.
fn first<'s>(said: &'s Map<String, Value>, names: &[&str]) -> Option<&'s Value> {
    names.iter().filter_map(|name| said.get(*name)).find(|value| !value.is_null())
}

/// 202 `ok`; a refusal is 400 with what was wrong with which part, unless it can be sent again or is too large.
pub(crate) fn answer(result: Result<usize, &Refused>) -> Response {
    let Err(refused) = result else {
        let mut response = Response::new(Body::from("ok"));
        *response.status_mut() = StatusCode::ACCEPTED;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return response;
    };
    let reason = refused.refusal.reason;
    let part = match reason {
        Reason::UnknownKey | Reason::OriginNotAllowed => "domain",
        _ if refused.rejected.is_empty() => "request",
        _ => "event",
    };
    let status = match StatusCode::from_u16(reason.status()) {
        Ok(status) if matches!(status.as_u16(), 408 | 413 | 429 | 500..) => status,
        _ => StatusCode::BAD_REQUEST,
    };
    answer::refused_as(status, &json!({ "errors": { part: [refused.refusal.detail] } }), refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderMap, Method};

    #[test]
    fn the_visitors_address_is_the_first_in_the_list_that_is_one() {
        for (list, address) in [
            ("203.0.113.9, 10.0.0.1", json!("203.0.113.9")),
            ("unknown, 2001:db8::1", json!("2001:db8::1")),
            ("203.0.113.9:51234, 10.0.0.1", json!("203.0.113.9:51234")),
            ("unknown", Value::Null),
        ] {
            let headers = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), list.parse().unwrap())]);
            let call = Call {
                method: &Method::POST,
                path: "/api/event",
                query: "",
                headers: &headers,
                body: b"{}",
                received_at: 0,
                inflated_bytes_max: 0,
            };
            let event = decode(&call).unwrap().events.remove(0);
            assert_eq!(event.get("ip").unwrap_or(&Value::Null), &address, "{list}");
        }
    }
}
