//! Goals, as Plausible and Umami know them: events with names that somebody has written for people to read, and with money
//! in them. Those that are clearly about orders and carts get the names that rollups know.

use millrace_schemas::event::{ADD_TO_CART, BEGIN_CHECKOUT, PURCHASE, REFUND, REMOVE_FROM_CART, VIEW_ITEM};
use serde_json::{Map, Value};

use super::{Call, event_id, put};

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
    let known = ["woocommerce_", "woo_"].iter().find_map(|prefix| words.strip_prefix(prefix));
    Some(match known.unwrap_or(&words) {
        "view_item" | "product_viewed" | "product_view" => VIEW_ITEM,
        "add_to_cart" | "product_added" | "cart_add" => ADD_TO_CART,
        "remove_from_cart" | "product_removed" => REMOVE_FROM_CART,
        "begin_checkout" | "start_checkout" | "checkout_started" | "checkout_start" => BEGIN_CHECKOUT,
        "purchase" | "complete_purchase" | "order_completed" => PURCHASE,
        "refund" | "order_refunded" => REFUND,
        _ => return None,
    })
}

/// Puts the name of a goal whose money is in the event already. An order without an id gets one of its own, because these
/// products know none and their clients send nothing twice; what names no money and no order is no order.
pub(super) fn put_name(event: &mut Map<String, Value>, name: &str, call: &Call<'_>, index: usize) {
    let has_order = event.contains_key("order_id");
    let name = match commerce_name(name) {
        Some(PURCHASE) if !has_order && !event.contains_key("value") && name != PURCHASE => name,
        Some(REFUND) if !has_order => name,
        Some(known) => known,
        None => name,
    };
    if name == PURCHASE && !has_order {
        put(event, "order_id", order_id(call, index));
    }
    put(event, "name", name);
}

/// Differs for what arrives at different times, from different browsers or by different ways, or says something else.
fn order_id(call: &Call<'_>, index: usize) -> String {
    let mut text = format!("{}\n{index}\n", call.received_at);
    for header in ["user-agent", "x-forwarded-for"] {
        let value = call.headers.get(header).map_or(&b""[..], |value| value.as_bytes());
        text.push_str(&String::from_utf8_lossy(value));
        text.push('\n');
    }
    text.push_str(&String::from_utf8_lossy(call.body));
    event_id(&text)
}

/// An amount that can be read as one; what cannot stays where it was.
pub(super) fn amount(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| match value {
        Value::Number(_) => true,
        Value::String(text) => {
            text.starts_with(|first: char| first.is_ascii_digit())
                && text.len() <= 40
                && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
                && text.matches('.').count() <= 1
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
