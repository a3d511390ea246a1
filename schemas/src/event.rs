//! Kinds of events, and the names of those that rollups know.

/// What an event is, as its `type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A page was shown, or left (the same `page_view_id` again, with its duration).
    PageView,
    /// Something with a name happened.
    Event,
    /// A click on a page, for heatmaps.
    Click,
}

impl Kind {
    /// The kind that a `type` names, if any.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "page_view" => Some(Kind::PageView),
            "event" => Some(Kind::Event),
            "click" => Some(Kind::Click),
            _ => None,
        }
    }

    /// The kind as `type` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::PageView => PAGE_VIEW,
            Kind::Event => "event",
            Kind::Click => "click",
        }
    }
}

/// Name of every page view row.
pub const PAGE_VIEW: &str = "page_view";
/// A product's page was seen.
pub const VIEW_ITEM: &str = "view_item";
/// A product went into the cart.
pub const ADD_TO_CART: &str = "add_to_cart";
/// A product left the cart.
pub const REMOVE_FROM_CART: &str = "remove_from_cart";
/// A checkout was begun.
pub const BEGIN_CHECKOUT: &str = "begin_checkout";
/// An order was placed.
pub const PURCHASE: &str = "purchase";
/// Money of an order was given back.
pub const REFUND: &str = "refund";
/// An order has changed: what is named replaces what was.
pub const ORDER_UPDATED: &str = "order_updated";
/// An order was given up.
pub const ORDER_CANCELLED: &str = "order_cancelled";
/// A server reports the stock of a product: `items[].quantity`.
pub const INVENTORY_LEVEL: &str = "inventory_level";
/// A product was rated: `items[].product_id`, rating in `value`.
pub const REVIEW: &str = "review";

/// Names that older clients and other products give to events, with the canonical (GA4) ones.
pub const SYNONYMS: [(&str, &str); 10] = [
    ("product_view", VIEW_ITEM),
    ("Product Viewed", VIEW_ITEM),
    ("cart_add", ADD_TO_CART),
    ("Product Added", ADD_TO_CART),
    ("Product Removed", REMOVE_FROM_CART),
    ("checkout_start", BEGIN_CHECKOUT),
    ("Checkout Started", BEGIN_CHECKOUT),
    ("order_completed", PURCHASE),
    ("Order Completed", PURCHASE),
    ("Order Refunded", REFUND),
];

/// The canonical name of an event: [`SYNONYMS`] become it, all others stay as they are.
pub fn canonical_name(name: &str) -> &str {
    SYNONYMS.iter().find(|(synonym, _)| *synonym == name).map_or(name, |(_, canonical)| canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clients out there send: none may be lost.
    #[test]
    fn synonyms_become_canonical_names_and_nothing_else_does() {
        let sent: [(&str, &[&str]); 6] = [
            ("view_item", &["product_view", "Product Viewed"]),
            ("add_to_cart", &["cart_add", "Product Added"]),
            ("remove_from_cart", &["Product Removed"]),
            ("begin_checkout", &["checkout_start", "Checkout Started"]),
            ("purchase", &["order_completed", "Order Completed"]),
            ("refund", &["Order Refunded"]),
        ];
        for (canonical, synonyms) in sent {
            assert!(synonyms.iter().all(|synonym| canonical_name(synonym) == canonical), "{canonical}");
        }
        for (synonym, canonical) in SYNONYMS {
            assert_eq!(canonical_name(canonical), canonical);
            for other in [synonym.to_uppercase(), format!("{synonym} "), synonym[1..].to_owned()] {
                assert_eq!(canonical_name(&other), other);
            }
        }
        assert_eq!(canonical_name(""), "");
    }
}
