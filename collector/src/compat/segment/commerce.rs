//! Segment's e-commerce specification, in GA4's names.

use millrace_schemas::event::{
    ADD_TO_CART, BEGIN_CHECKOUT, PURCHASE, REFUND, REMOVE_FROM_CART, REVIEW, VIEW_ITEM,
};
use serde_json::{Map, Value};

use crate::compat::{
    commerce::put_commerce,
    properties,
    value::{put_currency, put_first, put_property, put_text},
};

/// The GA4 name of an event that the specification names, in its second or first version.
pub(super) fn name(sent: &str) -> Option<&'static str> {
    if sent.len() > 40 {
        return None;
    }
    Some(match sent.trim().to_ascii_lowercase().replace('_', " ").as_str() {
        "products searched" => "search",
        "product list viewed" | "product list filtered" | "viewed product category" => "view_item_list",
        "promotion viewed" | "viewed promotion" => "view_promotion",
        "promotion clicked" | "clicked promotion" => "select_promotion",
        "product clicked" | "clicked product" => "select_item",
        "product viewed" | "viewed product" => VIEW_ITEM,
        "product added" | "added product" => ADD_TO_CART,
        "product removed" | "removed product" => REMOVE_FROM_CART,
        "product added to wishlist" => "add_to_wishlist",
        "product shared" | "cart shared" => "share",
        "product reviewed" => REVIEW,
        "cart viewed" => "view_cart",
        "checkout started" | "started checkout" => BEGIN_CHECKOUT,
        "payment info entered" => "add_payment_info",
        "order completed" | "completed order" => PURCHASE,
        "order refunded" | "refunded order" => REFUND,
        "order cancelled" | "order canceled" => "order_cancelled",
        // They name an order without placing one again.
        "order updated" | "updated order" => "order_updated",
        "checkout step viewed" | "viewed checkout step" => "checkout_step_viewed",
        "checkout step completed" | "completed checkout step" => "checkout_step_completed",
        "coupon entered" => "coupon_entered",
        "coupon applied" => "coupon_applied",
        "coupon denied" => "coupon_denied",
        "coupon removed" => "coupon_removed",
        "signed up" => "sign_up",
        "signed in" => "login",
        _ => return None,
    })
}

/// Puts an order's or a product's properties where the event has a place for them; gives back the others.
pub(super) fn put(
    event: &mut Map<String, Value>,
    name: &str,
    sent: &Map<String, Value>,
    message_id: Option<&Value>,
) -> Map<String, Value> {
    let mut taken = put_commerce(event, name, sent);
    if event.contains_key("currency") {
        put_currency(event, sent.get("currency"));
    }
    match name {
        "search" => taken.push("query"),
        "view_item_list" => taken.push("list_id"),
        REVIEW => {
            taken.push("rating");
            put_first(event, "value", sent, &["rating", "value"]);
        }
        // A refund of some products is one of several; sent again it has the same id.
        REFUND if !event.contains_key("refund_id") && event.contains_key("items") => {
            put_text(event, "refund_id", message_id);
        }
        _ => {}
    }
    let mut rest = properties(sent, &taken);
    match name {
        "search" => put_property(&mut rest, "search_term", sent.get("query")),
        "view_item_list" => put_property(&mut rest, "item_list_id", sent.get("list_id")),
        _ => {}
    }
    // What is not the order's value is still said.
    if sent.get("total").or_else(|| sent.get("value")).is_some_and(|value| !value.is_null()) {
        put_property(&mut rest, "revenue", sent.get("revenue"));
    }
    if name.starts_with("coupon_") {
        put_text(event, "coupon", sent.get("coupon_id").or_else(|| sent.get("coupon_name")));
    }
    rest
}
