//! What Google's tags send: parameters of a query with short names, or a line of them for each event in the body; those in
//! the address hold for all lines. A line without a name adds to the event in the address. `ep.name` is a text and
//! `epn.name` a number; `pr1`, `pr2`, … are items, written as `id123~nmShoe~pr9.99~qt1`.

use std::borrow::Cow;

use millrace_schemas::reject::Reason;
use serde_json::{Map, Value};

use super::{check_size, event, event::Sender};
use crate::{
    compat::{Call, Translation, put, value::put_sent},
    decode::Refusal,
};

/// Short names with the parameters that they stand for.
const PARAMS: [(&str, &str); 14] = [
    ("dl", "page_location"),
    ("dt", "page_title"),
    ("dr", "page_referrer"),
    ("ul", "language"),
    ("sr", "screen_resolution"),
    ("sid", "session_id"),
    ("cu", "currency"),
    ("_et", "engagement_time_msec"),
    ("cc", "campaign_content"),
    ("ci", "campaign_id"),
    ("cm", "campaign_medium"),
    ("cn", "campaign_name"),
    ("cs", "campaign_source"),
    ("ck", "campaign_term"),
];

/// Keys of an item, two letters before each value; others, such as its place in a list, have no counterpart.
const ITEM: [(&str, &str); 8] = [
    ("id", "item_id"),
    ("nm", "item_name"),
    ("br", "item_brand"),
    ("ca", "item_category"),
    ("va", "item_variant"),
    ("pr", "price"),
    ("qt", "quantity"),
    ("ds", "discount"),
];

type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// The events of a request.
pub(super) fn decode(call: &Call<'_>) -> Result<Translation, Refusal> {
    let shared: Pairs<'_> = form_urlencoded::parse(call.query.as_bytes()).collect();
    let find = |name: &str| shared.iter().find_map(|(known, value)| (known == name).then(|| value.as_ref()));
    let mut fields = Map::new();
    // Without consent every ping has an id of its own: whoever sends them has none that could be kept.
    let has_consent = find("gcs").is_none_or(|consent| !consent.ends_with('0'));
    put(&mut fields, "visitor_id", find("cid").filter(|_| has_consent).unwrap_or_default());
    put(&mut fields, "user_id", find("uid").unwrap_or_default());
    put_sent(&mut fields, "ip", find("_uip").map(Value::from).as_ref());
    let sender = Sender { fields, properties: Map::new() };
    let lines: Vec<_> = call
        .body
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .collect();
    let query_bytes = call.query.len();
    check_size(lines.len().max(1), query_bytes)?;
    let lines = lines.into_iter().map(|line| form_urlencoded::parse(line).collect::<Pairs<'_>>());
    let (named, unnamed): (Vec<_>, Vec<_>) =
        lines.partition(|line| line.iter().any(|(name, _)| name == "en"));
    let mut events = Vec::new();
    if find("en").is_some() && (named.is_empty() || !unnamed.is_empty()) {
        events.push(translate(&unnamed.concat(), &shared, &sender));
    }
    events.extend(named.iter().map(|own| translate(own, &shared, &sender)));
    if events.is_empty() {
        return Err(Refusal::new(Reason::NoEvents, "send at least one event: `en` is its name"));
    }
    Ok(Translation { key: find("tid").map(str::to_owned), sent_at: None, events })
}

fn translate(
    own: &[(Cow<'_, str>, Cow<'_, str>)],
    shared: &[(Cow<'_, str>, Cow<'_, str>)],
    sender: &Sender,
) -> Map<String, Value> {
    let mut params = Map::new();
    let mut items = Vec::new();
    let mut name = None;
    // An event's own parameters come later, and win.
    for (key, value) in shared.iter().chain(own) {
        let (key, value) = (key.as_ref(), value.as_ref());
        if let Some(text) = key.strip_prefix("ep.") {
            put(&mut params, text, value);
        } else if let Some(number) = key.strip_prefix("epn.") {
            put(&mut params, number, to_number(value));
        } else if let Some(user) = key.strip_prefix("up.").or_else(|| key.strip_prefix("upn.")) {
            put(&mut params, &format!("user.{user}"), value);
        } else if key == "en" && !(value.is_empty() && name.is_some()) {
            name = Some(Value::from(value));
        } else if key.strip_prefix("pr").is_some_and(|place| place.parse::<u16>().is_ok()) {
            items.push(item(value));
        } else if let Some((_, param)) = PARAMS.iter().find(|(short, _)| *short == key) {
            put(&mut params, param, value);
        }
    }
    if !items.is_empty() {
        params.insert("items".into(), Value::Array(items));
    }
    event::translate(name.as_ref(), &params, Value::Null, sender)
}

/// A number where it is one that 64 bits hold exactly; another stays text, because it may be an id.
fn to_number(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(number) => number.into(),
        Err(_) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.into(),
        Err(_) => {
            let number = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(|| text.into(), Value::Number)
        }
    }
}

/// A tilde ends a value; two of them stand for one.
fn item(text: &str) -> Value {
    let mut item = Map::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut part = String::new();
        loop {
            let (before, after) = rest.split_once('~').unwrap_or((rest, ""));
            part.push_str(before);
            rest = after;
            match after.strip_prefix('~') {
                Some(after) => {
                    part.push('~');
                    rest = after;
                }
                None => break,
            }
        }
        let known = ITEM.iter().find_map(|(short, name)| Some((*name, part.strip_prefix(short)?)));
        if let Some((name, value)) = known {
            put(&mut item, name, value);
        }
    }
    Value::Object(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn items_are_read() {
        assert_eq!(
            item("id7~nmA ~~ B~pr9.99~qt2~k0colour~v0red~lp3"),
            json!({ "item_id": "7", "item_name": "A ~ B", "price": "9.99", "quantity": "2" })
        );
        assert_eq!(item("~"), json!({}));
        assert_eq!(item("id~"), json!({}));
    }
}
