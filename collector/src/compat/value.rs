//! Values as other products' clients send them. Whether a field can be read is decided where it is read, for all alike.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use millrace_schemas::money;
use serde_json::{Map, Value};

use super::{PROPERTIES_MAX, put};
use crate::read::trim;

/// A string without what nobody means around it, or a number as one. What says nothing of the kind is left out.
pub(super) fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(trim(text)).filter(|text| !text.is_empty()).map(str::to_owned),
        // A number with no fraction is one id with or without it.
        Value::Number(number) if number.is_f64() => number.as_f64().map(|number| number.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A name: a string without what nobody means around it, empty where there is none.
pub(super) fn word(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).map_or("", trim)
}

/// What can be read as an amount.
pub(super) fn amount(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| match value {
        Value::Number(_) => true,
        Value::String(text) => money::parse_amount(text).is_some(),
        _ => false,
    })
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

/// Fields that are amounts. The others that [`put_first`] puts are texts, ids and times.
const AMOUNTS: [&str; 6] = ["value", "tax", "shipping", "discount", "price", "quantity"];

/// Puts the first value that can be read, as it was sent; where none can be, the first that says something, so that what
/// is wrong with it is told where fields are read.
pub(super) fn put_first(
    event: &mut Map<String, Value>,
    field: &str,
    from: &Map<String, Value>,
    names: &[&str],
) {
    let sent = || names.iter().filter_map(|name| from.get(*name));
    let is_amount = AMOUNTS.contains(&field);
    let is_readable = |value: &&Value| match *value {
        value if is_amount => amount(Some(value)).is_some(),
        Value::Number(_) => true,
        value => !word(Some(value)).is_empty(),
    };
    let says = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    if let Some(value) = sent().find(is_readable).or_else(|| sent().find(says)) {
        event.insert(field.to_owned(), value.clone());
    }
}

/// An object's member that is an object.
pub(super) fn object<'m>(of: &'m Map<String, Value>, name: &str) -> Option<&'m Map<String, Value>> {
    of.get(name).and_then(Value::as_object)
}

/// Likewise, or one whose JSON stands in a text.
pub(super) fn object_or_json<'m>(
    of: &'m Map<String, Value>,
    name: &str,
) -> Option<Cow<'m, Map<String, Value>>> {
    match of.get(name)? {
        Value::Object(object) => Some(Cow::Borrowed(object)),
        Value::String(text) => match json_in(text)? {
            Value::Object(object) => Some(Cow::Owned(object)),
            _ => None,
        },
        _ => None,
    }
}

/// The object or list whose JSON a text is, mended.
pub(super) fn json_in(text: &str) -> Option<Value> {
    let text = trim(text);
    if text.starts_with(['{', '[']) { super::json(text.as_bytes()).ok() } else { None }
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Base64 of either alphabet, with or without padding and line breaks. In forms and addresses that were not escaped every
/// plus has become a space.
pub(super) fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n' | b'\t');
    let letters = text.trim_ascii().iter().copied().filter(|byte| !is_break(byte));
    let letters: Vec<u8> = letters
        .map(|byte| match byte {
            b'-' | b' ' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    BASE64.decode(letters).ok()
}

/// A parameter of a query.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find_map(|(known, value)| (known == name && !value.is_empty()).then(|| value.into_owned()))
}
