//! Goals, as Plausible and Umami know them: events with names that somebody has written for people to read, and with money
//! in them. Those that are clearly about orders and carts get the names that rollups know.

use millrace_schemas::event::{BEGIN_CHECKOUT, PURCHASE, REFUND, SYNONYMS, canonical_name};
use serde_json::{Map, Value};

use super::{Call, event_id, put, value::text};

/// Names longer than this are nobody's e-commerce.
const NAME_BYTES_MAX: usize = 64;

/// The name that rollups know, for what is clearly meant by it: `Add to Cart`, `add-to-cart`, `Woo Add to Cart`.
pub(super) fn commerce_name(name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let words: Vec<String> = name
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let words = words.join("_");
    let words =
        ["woocommerce_", "woo_"].iter().find_map(|prefix| words.strip_prefix(prefix)).unwrap_or(&words);
    match words {
        "start_checkout" => Some(BEGIN_CHECKOUT),
        "complete_purchase" => Some(PURCHASE),
        _ => {
            let letter = |byte: u8| if byte == b' ' { b'_' } else { byte.to_ascii_lowercase() };
            let is = |name: &str| name.bytes().map(letter).eq(words.bytes());
            let known = SYNONYMS.iter().find(|(synonym, canonical)| *canonical == words || is(synonym));
            known.map(|(_, canonical)| *canonical)
        }
    }
}

/// Puts the name of a goal whose money is in the event already. An order without an id gets one of its own, because these
/// products know none and their clients send nothing twice; what names no money and no order is no order, unless its name
/// can mean nothing else. `said` is the request's word for the goal, of which `index` is the place.
pub(super) fn put_name(
    event: &mut Map<String, Value>,
    name: &str,
    call: &Call<'_>,
    index: usize,
    said: &Map<String, Value>,
) {
    let has_order = text(event.get("order_id")).is_some();
    let name = match commerce_name(name) {
        Some(PURCHASE) if !has_order && !event.contains_key("value") && canonical_name(name) != PURCHASE => {
            name
        }
        // Of an order that nobody names: under a name that rollups know it would be refused.
        Some(REFUND) if !has_order && canonical_name(name) == REFUND => "Refund",
        Some(REFUND) if !has_order => name,
        Some(known) => known,
        None => name,
    };
    if name == PURCHASE && !has_order {
        put(event, "order_id", order_id(call, index, said));
    }
    put(event, "name", name);
}

/// Differs for what arrives at different times, from different browsers or by different ways, or says something else.
fn order_id(call: &Call<'_>, index: usize, said: &Map<String, Value>) -> String {
    let mut text = format!("{}\n{index}\n", call.received_at);
    for header in ["user-agent", "x-forwarded-for"] {
        let value = call.headers.get(header).map_or(&b""[..], |value| value.as_bytes());
        text.push_str(&String::from_utf8_lossy(value));
        text.push('\n');
    }
    text.push_str(&Value::Object(said.clone()).to_string());
    event_id(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::event::ADD_TO_CART;

    #[test]
    fn what_everybody_knows_is_known_in_any_spelling() {
        for (synonym, canonical) in SYNONYMS {
            let dashed = synonym.replace(['_', ' '], "-");
            for name in [synonym, canonical, &synonym.to_uppercase(), &dashed, &format!("Woo {dashed}")] {
                assert_eq!(commerce_name(name), Some(canonical), "{name}");
            }
        }
    }

    /// The line of the documentation that says so.
    #[test]
    fn names_are_understood_as_documented() {
        let documented = include_str!("../../../docs/compat/plausible.md");
        let (names, rest) = documented.split_once(", also with `Woo` before |").unwrap();
        let names = names.rsplit('|').next().unwrap();
        let in_ticks = |text: &str| -> Vec<String> {
            text.lines().next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let (names, canonical) = (in_ticks(names), in_ticks(rest));
        assert_eq!((names.len(), canonical.len()), (5, 5), "{names:?} {canonical:?}");
        for (name, canonical) in names.iter().zip(&canonical) {
            for name in [name.clone(), format!("Woo {name}")] {
                assert_eq!(commerce_name(&name), Some(canonical.as_str()), "{name}");
            }
        }
    }

    #[test]
    fn names_for_people_become_names_for_rollups() {
        for (name, known) in [
            ("Purchase", Some(PURCHASE)),
            ("Woo Complete Purchase", Some(PURCHASE)),
            ("WooCommerce Add to Cart", Some(ADD_TO_CART)),
            ("add-to-cart", Some(ADD_TO_CART)),
            ("Start  checkout", Some(BEGIN_CHECKOUT)),
            ("Refund", Some(REFUND)),
            ("Purchase intent", None),
            ("", None),
        ] {
            assert_eq!(commerce_name(name), known, "{name}");
        }
    }
}
