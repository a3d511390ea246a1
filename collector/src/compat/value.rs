//! Values as other products' clients send them. Whether a field can be read is decided where it is read, for all alike.

use serde_json::{Map, Value};

use super::{PROPERTIES_MAX, put};

/// A string, or a number as one. What says nothing of the kind is left out.
pub(super) fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        // A number with no fraction is one id with or without it.
        Value::Number(number) if number.is_f64() => number.as_f64().map(|number| number.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Puts a field as it was sent.
pub(super) fn put_sent(event: &mut Map<String, Value>, field: &str, value: Option<&Value>) {
    if let Some(value) = value {
        put(event, field, value.clone());
    }
}

/// Puts a page's referrer. PostHog's and RudderStack's clients have a word for none.
pub(super) fn put_referrer(event: &mut Map<String, Value>, referrer: Option<&Value>) {
    put_sent(event, "referrer", referrer.filter(|referrer| referrer.as_str() != Some("$direct")));
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

/// An object's member that is an object.
pub(super) fn object<'m>(of: &'m Map<String, Value>, name: &str) -> Option<&'m Map<String, Value>> {
    of.get(name).and_then(Value::as_object)
}

/// A parameter of a query.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find_map(|(known, value)| (known == name && !value.is_empty()).then(|| value.into_owned()))
}
