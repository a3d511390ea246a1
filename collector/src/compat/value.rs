//! Values as other products' clients send them: their types are looser than the collector's.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{PROPERTIES_MAX, put};
use crate::read::is_absolute;

/// A string, or a number as one. What says nothing of the kind is left out.
pub(super) fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Puts a field that only describes an event: where it is of another type than text the event goes without.
pub(super) fn put_text(event: &mut Map<String, Value>, field: &str, value: Option<&Value>) {
    if let Some(text) = text(value) {
        put(event, field, text);
    }
}

/// Puts a property that is text. What a decoder says itself takes the place of the last of too many.
pub(super) fn put_property(properties: &mut Map<String, Value>, name: &str, value: Option<&Value>) {
    let Some(text) = text(value) else { return };
    if properties.len() >= PROPERTIES_MAX
        && !properties.contains_key(name)
        && let Some(last) = properties.keys().next_back().cloned()
    {
        properties.remove(&last);
    }
    properties.insert(name.to_owned(), text.into());
}

/// Puts the first value that says something, as it was sent: whether it is acceptable is not decided here.
pub(super) fn put_first(
    event: &mut Map<String, Value>,
    field: &str,
    from: &Map<String, Value>,
    names: &[&str],
) {
    let says = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    if let Some(value) = names.iter().filter_map(|name| from.get(*name)).find(says) {
        event.insert(field.to_owned(), value.clone());
    }
}

/// Puts a number of CSS pixels, where it can be one.
pub(super) fn put_pixels(event: &mut Map<String, Value>, field: &str, value: Option<&Value>) {
    let number = match value {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    if let Some(pixels) = number.filter(|number| (0.0..=f64::from(u16::MAX)).contains(number)) {
        put(event, field, pixels);
    }
}

/// Puts the address of a page, where it is one.
pub(super) fn put_url(event: &mut Map<String, Value>, url: Option<&Value>) {
    if let Some(url) = url.and_then(Value::as_str).filter(|url| is_absolute(url)) {
        put(event, "url", url);
    }
}

/// Puts a network address, where it is one.
pub(super) fn put_ip(event: &mut Map<String, Value>, value: Option<&Value>) {
    if let Some(ip) = value.and_then(Value::as_str).filter(|ip| ip.parse::<IpAddr>().is_ok()) {
        put(event, "ip", ip);
    }
}

/// A currency as ISO 4217 writes it; anything but three letters stays as it was sent.
pub(super) fn put_currency(event: &mut Map<String, Value>, value: Option<&Value>) {
    match value {
        Some(Value::String(code)) if code.len() == 3 => put(event, "currency", code.to_ascii_uppercase()),
        Some(value) => put(event, "currency", value.clone()),
        None => {}
    }
}

/// An object's member that is an object.
pub(super) fn object<'m>(of: &'m Map<String, Value>, name: &str) -> Option<&'m Map<String, Value>> {
    of.get(name).and_then(Value::as_object)
}
