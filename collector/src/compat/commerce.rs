//! E-commerce as GA4's and Segment's vocabularies have it, from the properties of an event of any product.

use millrace_schemas::event::{
    ADD_TO_CART, BEGIN_CHECKOUT, INVENTORY_LEVEL, ORDER_CANCELLED, ORDER_UPDATED, PURCHASE, REFUND,
    REMOVE_FROM_CART, REVIEW, VIEW_ITEM, canonical_name,
};
use serde_json::{Map, Value};

use super::{
    put,
    value::{json_in, put_first, put_sent},
};

/// Fields of an event with the members that they are read from; the first that can be read wins.
const FIELDS: [(&str, &[&str]); 6] = [
    ("value", &["value", "total", "revenue"]),
    ("tax", &["tax"]),
    ("shipping", &["shipping"]),
    ("coupon", &["coupon"]),
    ("order_id", &["order_id", "transaction_id"]),
    ("refund_id", &["refund_id"]),
];

/// Members with the rest: `discount` is the one item's, where the event has one and no list.
const OTHER_FIELDS: [&str; 4] = ["currency", "discount", "items", "products"];

/// Likewise of an item. An event that has no list may have the members of its one item.
const ITEM: [(&str, &[&str]); 9] = [
    ("product_id", &["product_id", "item_id", "id", "sku"]),
    ("variant_id", &["variant_id", "item_variant", "variant"]),
    ("name", &["name", "item_name"]),
    ("brand", &["brand", "item_brand"]),
    ("category", &["category", "item_category"]),
    ("product_kind", &["product_kind"]),
    ("price", &["price"]),
    ("quantity", &["quantity"]),
    ("discount", &["discount"]),
];

/// Puts the money and the items of an event called `name` into it. Returns the members that have become fields by that.
///
/// Only an event of a known name, or one with a list of objects for items, is about goods: `value` and `currency` of
/// others mean what their senders want them to mean. A number in `value` stays a number everywhere.
pub(crate) fn put_commerce(
    event: &mut Map<String, Value>,
    name: &str,
    from: &Map<String, Value>,
) -> Vec<&'static str> {
    let is_known = is_about_goods(canonical_name(name));
    let says = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    let sent = || ["items", "products"].into_iter().filter_map(|name| from.get(name)).filter(says);
    let list = sent().find_map(|value| list_of(value, is_known));
    if list.is_none() && !is_known {
        return match from.get("value") {
            Some(value @ Value::Number(_)) => {
                put(event, "value", value.clone());
                vec!["value"]
            }
            _ => Vec::new(),
        };
    }
    for (field, names) in FIELDS {
        put_first(event, field, from, names);
    }
    put_sent(event, "currency", from.get("currency"));
    let mut taken = OTHER_FIELDS.to_vec();
    taken.extend(FIELDS.iter().flat_map(|(_, names)| *names));
    let is_of_one = sent().next().is_none() && ITEM[0].1.iter().any(|id| from.contains_key(*id));
    if is_of_one {
        event.insert("items".into(), vec![item_of(from)].into());
        taken.extend(ITEM.iter().flat_map(|(_, names)| *names));
        return taken;
    }
    put_first(event, "discount", from, &["discount"]);
    match list {
        Some(items) => put(event, "items", items.iter().map(item).collect::<Value>()),
        // What holds no item is told where items are read.
        None => put_sent(event, "items", sent().next()),
    }
    taken
}

/// The items in a value, if it holds any: a list, the object that some languages make of one with gaps, a single item, or
/// the JSON of these in a text. Of an event that nobody knows to be about goods only a list of objects is one.
fn list_of(value: &Value, is_known: bool) -> Option<Vec<Value>> {
    let list = match value {
        Value::Array(list) => list.clone(),
        Value::Object(object) if is_item(object) => vec![value.clone()],
        Value::Object(object) => object.values().cloned().collect(),
        Value::String(text) => return list_of(&json_in(text)?, is_known),
        _ => return None,
    };
    let says = |item: &Value| item.as_object().is_some_and(|item| !item.is_empty());
    let is_of_goods = || value.is_array() && list.iter().all(Value::is_object);
    (list.iter().any(says) && (is_known || is_of_goods())).then_some(list)
}

/// Whether an object is an item, rather than a list with places or ids for names.
fn is_item(object: &Map<String, Value>) -> bool {
    let is_place = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    ITEM.iter().flat_map(|(_, names)| *names).any(|name| object.contains_key(*name))
        && !object.values().all(Value::is_object)
        && !object.keys().any(is_place)
}

fn is_about_goods(canonical_name: &str) -> bool {
    matches!(
        canonical_name,
        VIEW_ITEM
            | ADD_TO_CART
            | REMOVE_FROM_CART
            | BEGIN_CHECKOUT
            | PURCHASE
            | REFUND
            | INVENTORY_LEVEL
            | REVIEW
            | "add_payment_info"
            | "add_shipping_info"
            | "add_to_wishlist"
            | "select_item"
            | "select_promotion"
            | "view_cart"
            | "view_item_list"
            | "view_promotion"
            | "order_shipped"
            | "order_delivered"
            | ORDER_UPDATED
            | ORDER_CANCELLED
    )
}

/// What is no object stays as it is, and is left out where items are read.
fn item(item: &Value) -> Value {
    match item {
        Value::Object(item) => item_of(item),
        other => other.clone(),
    }
}

fn item_of(from: &Map<String, Value>) -> Value {
    let mut item = Map::new();
    for (field, names) in ITEM {
        put_first(&mut item, field, from, names);
    }
    Value::Object(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(name: &str, from: &Value, wanted: &Value, left: &[&str]) {
        let from = from.as_object().unwrap();
        let mut event = Map::new();
        let taken = put_commerce(&mut event, name, from);
        assert_eq!(&Value::Object(event), wanted, "{name}");
        let rest: Vec<_> = from.keys().filter(|name| !taken.contains(&name.as_str())).collect();
        assert_eq!(rest, left, "{name}");
    }

    #[test]
    fn vocabularies_meet() {
        check(
            "Order Completed",
            &json!({
                "order_id": 7, "total": 42.5, "revenue": 30, "currency": "USD", "affiliation": "web",
                "products": [{ "sku": "s", "product_id": 1, "variant": "red", "price": "15", "position": 1 }, 3],
            }),
            &json!({
                "order_id": 7, "value": 42.5, "currency": "USD",
                "items": [{ "product_id": 1, "variant_id": "red", "price": "15" }, 3],
            }),
            &["affiliation"],
        );
        check(
            "purchase",
            &json!({ "order_id": {}, "transaction_id": "t", "value": { "a": 1 }, "total": "50.5", "revenue": 3 }),
            &json!({ "order_id": "t", "value": "50.5" }),
            &[],
        );
        check(
            "purchase",
            &json!({ "transaction_id": "t", "value": 1, "items": [{ "item_id": "a", "item_name": "A", "quantity": 2 }] }),
            &json!({ "order_id": "t", "value": 1, "items": [{ "product_id": "a", "name": "A", "quantity": 2 }] }),
            &[],
        );
        check(
            "Product Viewed",
            &json!({ "product_id": "p", "name": "Shoe", "price": 5, "colour": "red" }),
            &json!({ "items": [{ "product_id": "p", "name": "Shoe", "price": 5 }] }),
            &["colour"],
        );
        check(
            "purchase",
            &json!({
                "order_id": 7, "currency": "eur",
                "products": { "0": { "id": "a" }, "2": { "id": "b" } },
            }),
            &json!({ "order_id": 7, "currency": "eur", "items": [{ "product_id": "a" }, { "product_id": "b" }] }),
            &[],
        );
        for items in [json!("[{\"id\":\"a\"},]"), json!("{\"id\":\"a\"}"), json!({ "id": "a" })] {
            check(
                "purchase",
                &json!({ "order_id": 7, "items": items }),
                &json!({ "order_id": 7, "items": [{ "product_id": "a" }] }),
                &[],
            );
        }
        for products in [
            json!({ "0": { "id": "a" }, "1": null, "2": { "id": "b" } }),
            json!({ "0": { "id": "a" }, "1": { "id": "b" }, "price": 2 }),
        ] {
            let mut event = Map::new();
            let sent = json!({ "items": [], "products": products });
            put_commerce(&mut event, "purchase", sent.as_object().unwrap());
            let ids = event["items"].as_array().unwrap().iter().filter_map(|item| item.get("product_id"));
            assert_eq!(ids.collect::<Vec<_>>(), ["a", "b"], "{products}");
        }
        for unreadable in
            [json!("garbage"), json!(true), json!(5), json!("[{"), json!("\"[{}]\""), json!([3])]
        {
            check("purchase", &json!({ "products": unreadable }), &json!({ "items": unreadable }), &[]);
        }
        for list in [json!(["a", "b"]), json!([{ "id": "a" }, 3]), json!([])] {
            check("list_sorted", &json!({ "items": list, "value": "up" }), &json!({}), &["items", "value"]);
        }
        check(
            "list_sorted",
            &json!({ "items": [{ "id": "a" }], "value": 3 }),
            &json!({ "items": [{ "product_id": "a" }], "value": 3 }),
            &[],
        );
        check("signup", &json!({ "value": "high", "id": 3 }), &json!({}), &["id", "value"]);
        check("signup", &json!({ "value": 3, "currency": "points" }), &json!({ "value": 3 }), &["currency"]);
    }
}
