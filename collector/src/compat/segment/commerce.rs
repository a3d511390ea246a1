//! Segment's e-commerce specification, which PostHog has taken over, in GA4's names.

use millrace_schemas::event::{
    ADD_TO_CART, BEGIN_CHECKOUT, ORDER_CANCELLED, ORDER_UPDATED, PURCHASE, REFUND, REMOVE_FROM_CART, REVIEW,
    SYNONYMS, VIEW_ITEM,
};
use serde_json::{Map, Value};

use crate::compat::{
    commerce::put_commerce,
    properties,
    value::{amount, put_first, put_property, put_sent, text},
};

/// The GA4 name of an event that Segment names, by what it is called and whether it says which order it is about.
pub(super) fn name(sent: &str, names_order: bool) -> Option<&'static str> {
    if sent.len() > 40 {
        return None;
    }
    match sent.to_ascii_lowercase().replace('_', " ").as_str() {
        "signed up" => Some("sign_up"),
        "signed in" => Some("login"),
        sent => specified_name(sent, names_order),
    }
}

/// That of an event that the specification names, in its second or first version, or RudderStack's Shopify source, in lower
/// case. Those of the second that are e-commerce for everybody stand in [`SYNONYMS`].
pub(in crate::compat) fn specified_name(sent: &str, names_order: bool) -> Option<&'static str> {
    if let Some((_, known)) = SYNONYMS.iter().find(|(synonym, _)| synonym.eq_ignore_ascii_case(sent)) {
        return Some(known);
    }
    Some(match sent {
        "products searched" | "search submitted" => "search",
        "product list viewed" | "product list filtered" | "viewed product category" => "view_item_list",
        "promotion viewed" | "viewed promotion" => "view_promotion",
        "promotion clicked" | "clicked promotion" => "select_promotion",
        "product clicked" | "clicked product" => "select_item",
        "viewed product" => VIEW_ITEM,
        "added product" => ADD_TO_CART,
        "removed product" => REMOVE_FROM_CART,
        "product added to wishlist" => "add_to_wishlist",
        "product shared" | "cart shared" => "share",
        "product reviewed" => REVIEW,
        "cart viewed" => "view_cart",
        "started checkout" => BEGIN_CHECKOUT,
        "payment info entered" => "add_payment_info",
        "completed order" => PURCHASE,
        // The source sends both of one order, and the second in some versions without saying of which.
        "order created" | "order paid" if names_order => PURCHASE,
        "refunded order" => REFUND,
        "order cancelled" | "order canceled" => ORDER_CANCELLED,
        // They name an order without placing one again.
        "order updated" | "updated order" => ORDER_UPDATED,
        "checkout step viewed" | "viewed checkout step" => "checkout_step_viewed",
        "checkout step completed" | "completed checkout step" => "checkout_step_completed",
        "coupon entered" => "coupon_entered",
        "coupon applied" => "coupon_applied",
        "coupon denied" => "coupon_denied",
        "coupon removed" => "coupon_removed",
        _ => return None,
    })
}

/// What Shopify calls the total of an order, which it calls by its `id`.
const SHOPIFY_TOTAL: &str = "total_price";

/// The name under which an order's id stands: the specification's or GA4's, that of its first version, Shopify's, and at last
/// that of the checkout, which an order may have before its own.
fn order_id(sent: &Map<String, Value>) -> Option<&'static str> {
    ["order_id", "transaction_id", "orderId", "id", "checkout_id"]
        .into_iter()
        .filter(|name| *name != "id" || sent.contains_key(SHOPIFY_TOTAL))
        .find(|name| text(sent.get(*name)).is_some())
}

/// Whether properties say which order they are about.
pub(in crate::compat) fn names_order(sent: &Map<String, Value>) -> bool {
    order_id(sent).is_some()
}

/// Puts an order's or a product's properties where the event has a place for them; gives back the others.
pub(in crate::compat) fn put(
    event: &mut Map<String, Value>,
    name: &str,
    sent: &Map<String, Value>,
    message_id: Option<&Value>,
) -> Map<String, Value> {
    let mut taken = put_commerce(event, name, sent);
    if matches!(name, PURCHASE | REFUND | ORDER_UPDATED | ORDER_CANCELLED)
        && text(event.get("order_id")).is_none()
        && let Some(known) = order_id(sent)
    {
        put_sent(event, "order_id", sent.get(known));
        taken.push(known);
    }
    if name == PURCHASE && amount(event.get("value")).is_none() {
        put_sent(event, "value", sent.get(SHOPIFY_TOTAL));
        taken.push(SHOPIFY_TOTAL);
    }
    match name {
        "search" if text(sent.get("query")).is_some() => taken.push("query"),
        "view_item_list" => taken.push("list_id"),
        REVIEW => {
            taken.push("rating");
            put_first(event, "value", sent, &["rating", "value"]);
        }
        // A refund of some products is one of several; sent again it has the same id.
        REFUND if text(event.get("refund_id")).is_none() && event.contains_key("items") => {
            put_sent(event, "refund_id", message_id);
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
        put_sent(event, "coupon", sent.get("coupon_id").or_else(|| sent.get("coupon_name")));
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each name in the table of the documentation, one or several of which become one or as many of GA4's.
    #[test]
    fn names_are_understood_as_documented() {
        let documented = include_str!("../../../../docs/compat/segment.md");
        let (_, table) = documented.split_once("| Segment's e-commerce").unwrap();
        let mut seen = 0;
        for line in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
            let [_, names, becomes, _] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let names = names.split(':').next().unwrap().trim();
            if names.starts_with('`') {
                continue;
            }
            for (names, becomes) in names.split(';').zip(becomes.split(';')) {
                let names = names.split(" (").next().unwrap().split(',').map(str::trim);
                let names: Vec<_> =
                    names.filter(|name| name.starts_with(|first: char| first.is_uppercase())).collect();
                let becomes: Vec<_> = becomes.split('`').skip(1).step_by(2).collect();
                assert!(becomes.len() == 1 || becomes.len() == names.len(), "{line}");
                for (index, name) in names.iter().enumerate() {
                    let wanted = becomes.get(index).or(becomes.first()).copied();
                    let spelled =
                        [(*name).to_owned(), name.to_uppercase(), name.replace(' ', "_").to_lowercase()];
                    for name in spelled {
                        assert_eq!(super::name(&name, true), wanted, "{name}");
                    }
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 31);
    }

    #[test]
    fn the_first_version_calls_an_orders_id_otherwise() {
        let sent = serde_json::json!({ "orderId": 7, "total": 3, "affiliation": "web" });
        let mut event = Map::new();
        let rest = put(&mut event, PURCHASE, sent.as_object().unwrap(), None);
        assert_eq!(Value::from(event), serde_json::json!({ "order_id": 7, "value": 3 }));
        assert_eq!(Value::from(rest), serde_json::json!({ "affiliation": "web" }));
    }

    /// As RudderStack's source passes on what Shopify tells.
    #[test]
    fn shopifys_orders_are_orders() {
        let products = serde_json::json!([{ "product_id": "p", "price": 9 }]);
        for (called, sent, wanted) in [
            (
                "Order Created",
                serde_json::json!({ "order_id": "7", "checkout_id": "3", "value": 9 }),
                serde_json::json!({ "order_id": "7", "value": 9 }),
            ),
            (
                "Order Paid",
                serde_json::json!({ "id": 7, "checkout_id": 3, "total_price": "9.00", "products": products }),
                serde_json::json!({ "order_id": 7, "value": "9.00", "items": products }),
            ),
            (
                "Order Completed",
                serde_json::json!({ "order_id": null, "checkout_id": "3", "total": 9 }),
                serde_json::json!({ "order_id": "3", "value": 9 }),
            ),
        ] {
            let sent = sent.as_object().unwrap();
            let known = name(called, names_order(sent)).unwrap();
            assert_eq!(known, PURCHASE, "{called}");
            let mut event = Map::new();
            put(&mut event, known, sent, None);
            assert_eq!(Value::from(event), wanted, "{called}");
        }
        // Of no order that anybody names: a word, which costs nothing.
        assert_eq!(name("Order Paid", false), None);
        // Before there is an order.
        let sent = serde_json::json!({ "checkout_id": "3", "products": products });
        let mut event = Map::new();
        let rest = put(&mut event, BEGIN_CHECKOUT, sent.as_object().unwrap(), None);
        assert_eq!(Value::from(event), serde_json::json!({ "items": products }));
        assert_eq!(Value::from(rest), serde_json::json!({ "checkout_id": "3" }));
    }

    #[test]
    fn a_search_may_be_for_several_things() {
        let rest = |query: Value| {
            let sent = Map::from_iter([("query".to_owned(), query)]);
            Value::from(put(&mut Map::new(), "search", &sent, None))
        };
        assert_eq!(rest("tea".into()), serde_json::json!({ "search_term": "tea" }));
        assert_eq!(
            rest(serde_json::json!({ "colour": "red" })),
            serde_json::json!({ "query.colour": "red" })
        );
    }

    /// Its first version puts the verb first.
    #[test]
    fn the_first_version_is_understood() {
        for (first, second) in [
            ("Viewed Promotion", "Promotion Viewed"),
            ("Clicked Promotion", "Promotion Clicked"),
            ("Clicked Product", "Product Clicked"),
            ("Viewed Product", "Product Viewed"),
            ("Added Product", "Product Added"),
            ("Removed Product", "Product Removed"),
            ("Started Checkout", "Checkout Started"),
            ("Completed Order", "Order Completed"),
            ("Refunded Order", "Order Refunded"),
            ("Updated Order", "Order Updated"),
            ("Viewed Checkout Step", "Checkout Step Viewed"),
            ("Completed Checkout Step", "Checkout Step Completed"),
            ("Viewed Product Category", "Product List Viewed"),
        ] {
            assert!(name(second, true).is_some(), "{second}");
            assert_eq!(name(first, true), name(second, true), "{first}");
        }
    }
}
