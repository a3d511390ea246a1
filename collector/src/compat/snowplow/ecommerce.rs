//! Snowplow's e-commerce plugin: `snowplow_ecommerce_action` says what was done, the entities beside it with what.

use millrace_schemas::event::{BEGIN_CHECKOUT, PURCHASE, REFUND, canonical_name};
use serde_json::{Map, Value};

use super::{Entity, Payload};
use crate::compat::value::{put_first, put_sent, text, word};

/// Vendor of its schemas.
pub(super) const VENDOR: &str = "com.snowplowanalytics.snowplow.ecommerce";

impl Payload<'_> {
    /// The action, and its entities.
    pub(super) fn ecommerce(&mut self, action: &Map<String, Value>) {
        let kind = word(action.get("type"));
        let entities = std::mem::take(&mut self.entities);
        let of = |name: &str| {
            let is = move |entity: &&Entity| entity.vendor == VENDOR && entity.name == name;
            entities.iter().find(is).map(|entity| &entity.data)
        };
        let name = match kind {
            "list_view" => "view_item_list",
            "list_click" => "select_item",
            "promo_view" => "view_promotion",
            "promo_click" => "select_promotion",
            "checkout_step" => of("checkout_step").map_or("checkout_progress", checkout_name),
            "transaction" => PURCHASE,
            "trns_error" => "transaction_error",
            other => canonical_name(other),
        };
        self.named(name);
        self.property("item_list_name", text(action.get("name")).into());
        let items: Vec<Value> = entities
            .iter()
            .filter(|entity| entity.vendor == VENDOR && entity.name == "product")
            .map(|entity| item(&entity.data).into())
            .collect();
        let currency =
            ["transaction", "refund", "cart", "product"].iter().find_map(|name| of(name)?.get("currency"));
        put_sent(&mut self.event, "currency", currency);
        if name == REFUND && !items.is_empty() {
            // A refund of some products is one of several; sent again it has the same id.
            put_sent(&mut self.event, "refund_id", self.fields.get("eid"));
        }
        if !items.is_empty() {
            self.event.insert("items".into(), items.into());
        }
        if let Some(transaction) = of("transaction") {
            self.order(transaction, kind == "trns_error");
        }
        if let Some(refund) = of("refund") {
            put_sent(&mut self.event, "order_id", refund.get("transaction_id"));
            put_first(&mut self.event, "value", refund, &["refund_amount"]);
            self.properties_of(refund, &[("refund_reason", "refund_reason")]);
        }
        if let Some(cart) = of("cart") {
            self.properties_of(cart, &[("cart_id", "cart_id"), ("cart_value", "total_value")]);
        }
        if let Some(step) = of("checkout_step") {
            put_sent(&mut self.event, "coupon", step.get("coupon_code"));
            // Where somebody lives is nobody's statistics.
            self.properties_of(step, CHECKOUT);
        }
        if let Some(promotion) = of("promotion") {
            self.properties_of(promotion, PROMOTION);
        }
        if let Some(error) = of("transaction_error") {
            self.properties_of(error, ERROR);
        }
        self.entities = entities;
    }

    fn order(&mut self, transaction: &Map<String, Value>, has_failed: bool) {
        put_sent(&mut self.event, "order_id", transaction.get("transaction_id"));
        put_first(&mut self.event, "value", transaction, &["revenue"]);
        if !has_failed {
            for (field, name) in [("tax", "tax"), ("shipping", "shipping"), ("discount", "discount_amount")] {
                put_first(&mut self.event, field, transaction, &[name]);
            }
        }
        put_sent(&mut self.event, "coupon", transaction.get("discount_code"));
        self.properties_of(transaction, TRANSACTION);
    }

    fn properties_of(&mut self, entity: &Map<String, Value>, names: &[(&str, &str)]) {
        for (property, name) in names {
            match entity.get(*name) {
                Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => {
                    self.property(property, value.clone());
                }
                Some(Value::Array(list)) => {
                    self.property(property, Value::Array(list.clone()).to_string().into());
                }
                _ => {}
            }
        }
    }
}

const CHECKOUT: &[(&str, &str)] = &[
    ("checkout_step", "step"),
    ("shipping_tier", "delivery_method"),
    ("delivery_provider", "delivery_provider"),
    ("payment_type", "payment_method"),
    ("account_type", "account_type"),
    ("marketing_opt_in", "marketing_opt_in"),
];

const PROMOTION: &[(&str, &str)] = &[
    ("promotion_id", "id"),
    ("promotion_name", "name"),
    ("creative_name", "creative_id"),
    ("creative_slot", "slot"),
    ("promotion_type", "type"),
    ("promotion_position", "position"),
    ("promotion_product_ids", "product_ids"),
];

const TRANSACTION: &[(&str, &str)] = &[
    ("payment_type", "payment_method"),
    ("total_quantity", "total_quantity"),
    ("credit_order", "credit_order"),
];

const ERROR: &[(&str, &str)] = &[
    ("error_code", "error_code"),
    ("error_shortcode", "error_shortcode"),
    ("error_description", "error_description"),
    ("error_type", "error_type"),
    ("resolution", "resolution"),
];

/// Which of GA4's steps a step of a checkout is.
fn checkout_name(step: &Map<String, Value>) -> &'static str {
    let says = |name: &str| text(step.get(name)).is_some();
    if text(step.get("step")).as_deref() == Some("1") {
        BEGIN_CHECKOUT
    } else if says("payment_method") {
        "add_payment_info"
    } else if says("delivery_method") || says("delivery_provider") {
        "add_shipping_info"
    } else {
        "checkout_progress"
    }
}

/// A product. Its `list_price` is dropped: `price` is already what it costs.
fn item(product: &Map<String, Value>) -> Map<String, Value> {
    let mut item = Map::new();
    for (field, name) in [
        ("product_id", "id"),
        ("name", "name"),
        ("category", "category"),
        ("variant_id", "variant"),
        ("brand", "brand"),
    ] {
        put_sent(&mut item, field, product.get(name));
    }
    put_first(&mut item, "price", product, &["price"]);
    put_first(&mut item, "quantity", product, &["quantity"]);
    item
}

/// A product of the events before the plugin: `add_to_cart`, `remove_from_cart`.
pub(super) fn cart_item(data: &Map<String, Value>) -> Map<String, Value> {
    let mut item = Map::new();
    for (field, name) in [("product_id", "sku"), ("name", "name"), ("category", "category")] {
        put_sent(&mut item, field, data.get(name));
    }
    put_first(&mut item, "price", data, &["unitPrice"]);
    put_first(&mut item, "quantity", data, &["quantity"]);
    item
}

/// The item of a `ti` event.
pub(super) fn transaction_item(fields: &Map<String, Value>) -> Map<String, Value> {
    let mut item = Map::new();
    for (field, name) in [("product_id", "ti_sk"), ("name", "ti_nm"), ("category", "ti_ca")] {
        put_sent(&mut item, field, fields.get(name));
    }
    put_first(&mut item, "price", fields, &["ti_pr"]);
    put_first(&mut item, "quantity", fields, &["ti_qu"]);
    item
}

/// Puts a `ti` event's item into an order, where it belongs to that: trackers send an order and then its items.
pub(super) fn joins_order(order: &mut Map<String, Value>, fields: &Map<String, Value>) -> bool {
    let order_id = text(fields.get("ti_id"));
    if order_id.is_none() || text(order.get("order_id")) != order_id {
        return false;
    }
    match order.entry("items").or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(items) => items.push(transaction_item(fields).into()),
        _ => return false,
    }
    if !order.contains_key("currency") {
        put_sent(order, "currency", fields.get("ti_cu"));
    }
    true
}
