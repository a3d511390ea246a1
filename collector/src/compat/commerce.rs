//! E-commerce as GA4's and Segment's vocabularies have it, from the properties of an event of any product.

use millrace_schemas::event::{
    ADD_TO_CART, BEGIN_CHECKOUT, INVENTORY_LEVEL, PURCHASE, REFUND, REMOVE_FROM_CART, REVIEW, VIEW_ITEM,
    canonical_name,
};
use serde_json::{Map, Value};

use super::put;

/// Members that become fields, whether they say something or not.
const FIELDS: [&str; 13] = [
    "value",
    "total",
    "revenue",
    "currency",
    "tax",
    "shipping",
    "discount",
    "coupon",
    "order_id",
    "transaction_id",
    "refund_id",
    "items",
    "products",
];

/// Members that become the one item of an event which has no list.
const ITEM_FIELDS: [&str; 17] = [
    "product_id",
    "item_id",
    "id",
    "sku",
    "variant_id",
    "item_variant",
    "variant",
    "name",
    "item_name",
    "brand",
    "item_brand",
    "category",
    "item_category",
    "product_kind",
    "price",
    "quantity",
    "discount",
];

/// A field of an item with the members that it is read from; the first that says something wins.
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
/// Only an event of a known name, or one with a list of items, is about goods: `value` and `currency` of others mean what
/// their senders want them to mean. A number in `value` stays a number everywhere.
pub(crate) fn put_commerce(
    event: &mut Map<String, Value>,
    name: &str,
    from: &Map<String, Value>,
) -> Vec<&'static str> {
    let list =
        ["items", "products"].into_iter().find_map(|name| from.get(name).filter(|list| list.is_array()));
    if list.is_none() && !is_about_goods(canonical_name(name)) {
        return match from.get("value") {
            Some(value @ Value::Number(_)) => {
                put(event, "value", value.clone());
                vec!["value"]
            }
            _ => Vec::new(),
        };
    }
    for (field, names) in
        [("value", &["value", "total", "revenue"][..]), ("order_id", &["order_id", "transaction_id"])]
    {
        put(event, field, first(from, names));
    }
    for field in ["currency", "tax", "shipping", "coupon", "refund_id"] {
        put(event, field, first(from, &[field]));
    }
    as_text(event, &["order_id", "refund_id", "coupon"]);
    let mut taken = FIELDS.to_vec();
    if let Some(Value::Array(items)) = list {
        event.insert("items".into(), items.iter().map(item).collect());
        put(event, "discount", first(from, &["discount"]));
    } else if ITEM[0].1.iter().any(|id| from.contains_key(*id)) {
        event.insert("items".into(), Value::Array(vec![item_of(from)]));
        taken.extend(ITEM_FIELDS);
    } else {
        put(event, "discount", first(from, &["discount"]));
    }
    taken
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
            | "order_cancelled"
    )
}

fn first(from: &Map<String, Value>, names: &[&str]) -> Value {
    let says = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    names.iter().find_map(|name| from.get(*name).filter(says)).cloned().unwrap_or_default()
}

/// What is no object stays as it is, and is refused where items are read.
fn item(item: &Value) -> Value {
    match item {
        Value::Object(item) => item_of(item),
        other => other.clone(),
    }
}

fn item_of(from: &Map<String, Value>) -> Value {
    let mut item = Map::new();
    for (field, names) in ITEM {
        put(&mut item, field, first(from, names));
    }
    as_text(&mut item, &["product_id", "variant_id", "name", "brand", "category"]);
    Value::Object(item)
}

/// Ids are text here, and numbers in many shops.
fn as_text(of: &mut Map<String, Value>, fields: &[&str]) {
    for field in fields {
        if let Some(value @ Value::Number(_)) = of.get_mut(*field) {
            *value = Value::String(value.to_string());
        }
    }
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
                "order_id": "7", "value": 42.5, "currency": "USD",
                "items": [{ "product_id": "1", "variant_id": "red", "price": "15" }, 3],
            }),
            &["affiliation"],
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
        check("signup", &json!({ "value": "high", "id": 3 }), &json!({}), &["id", "value"]);
        check("signup", &json!({ "value": 3, "currency": "points" }), &json!({ "value": 3 }), &["currency"]);
    }
}
