//! Orders as they are reported: by browsers, by the shop's server, by both, more than once; and what becomes of them.

use rand::RngExt as _;
use serde_json::{Value, json};

use super::{
    shop::{Line, amount},
    world::{Visit, Visitor, World},
};

const HOUR_MS: i64 = 3_600_000;

/// An order that was placed.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) id: String,
    pub(super) at: i64,
    pub(super) currency: String,
    pub(super) lines: Vec<Line>,
    pub(super) total: i64,
}

impl World<'_> {
    /// A number that no other order has.
    pub(super) fn order_id(&mut self) -> String {
        self.orders += 1;
        format!("O-{:06}", self.orders)
    }

    /// Somebody buys: whoever learns of it reports it.
    pub(super) fn order(&mut self, visitor: &Visitor, visit: &mut Visit, lines: &[Line]) {
        self.wait(visit, 800, 5_000);
        let order_id = self.order_id();
        let currency = visitor.currency.clone();
        let page = self.show(visitor, visit, &format!("/thanks?order={order_id}"), "Thank you");
        let fields = self.order_fields(&order_id, lines, &currency);
        let total = self.total_of(&fields, lines, &currency);

        let (by_browser, by_server) =
            self.one_of(&[(true, false), (true, true), (true, true), (false, true)]);
        self.wait(visit, 20, 900);
        if by_browser {
            let mut seen = fields.clone();
            // A browser often does not know all of it.
            if by_server && self.chance(0.4) {
                seen["value"] = amount(self.shop.sum(lines, &currency), &currency);
                seen["tax"] = 0.into();
            }
            self.event(visitor, visit, &page, "purchase", seen.clone());
            if visitor.id.is_some() && self.chance(0.1) {
                // The page of thanks is opened again, hours or days later, and reports again.
                let again_at = visit.at + self.rng.random_range(1..60) * HOUR_MS;
                let mut later = self.arrive(visitor, again_at);
                let page = self.show(visitor, &mut later, &format!("/thanks?order={order_id}"), "Thank you");
                self.event(visitor, &mut later, &page, "purchase", seen);
            }
        }
        let placed_at = visit.at;
        if by_server {
            let at = visit.at + self.rng.random_range(300..20_000);
            let whose = self.as_known_to_server(visitor, visit);
            self.server(at, "purchase", &whose, fields);
        }
        self.after(&Placed { id: order_id, at: placed_at, currency, lines: lines.to_vec(), total });
    }

    /// What the server knows of the visitor: all of it, some of it, or nothing.
    fn as_known_to_server(&mut self, visitor: &Visitor, visit: &Visit) -> Value {
        let mut whose = json!({});
        let known = self.rng.random_range(0..4);
        if let Some(id) = visitor.id.as_ref().filter(|_| known >= 1) {
            whose["visitor_id"] = id.clone().into();
        }
        if let Some(id) = visit.session.as_ref().filter(|_| known >= 2) {
            whose["session_id"] = id.clone().into();
        }
        if let Some(id) = visitor.user.as_ref().filter(|_| known != 1) {
            whose["user_id"] = id.clone().into();
        }
        whose
    }

    fn order_fields(&mut self, order_id: &str, lines: &[Line], currency: &str) -> Value {
        let sum = self.shop.sum(lines, currency);
        let tax = sum * 8 / 100;
        let shipping = self.one_of(&[0, 500, 799]);
        let coupon = self.chance(0.2);
        let discount = if coupon { sum / 20 } else { 0 };
        let items: Vec<Value> = lines.iter().map(|line| self.shop.item(line, currency)).collect();
        let mut fields = json!({
            "order_id": order_id,
            "currency": currency,
            "tax": amount(tax, currency),
            "shipping": amount(shipping, currency),
            "items": items,
        });
        if coupon {
            fields["discount"] = amount(discount, currency);
            fields["coupon"] = "AUTUMN5".into();
        }
        // Without a currency, it is the store's.
        let is_left_out = currency == self.scenario.currency && self.chance(0.1);
        if let Some(fields) = fields.as_object_mut().filter(|_| is_left_out) {
            fields.remove("currency");
        }
        // Without a total, it follows from the rest.
        if self.chance(0.8) {
            fields["value"] = amount(sum - discount + tax + shipping, currency);
        }
        fields
    }

    /// The total as the shop knows it; refunds are made with respect to it.
    fn total_of(&self, fields: &Value, lines: &[Line], currency: &str) -> i64 {
        let sum = self.shop.sum(lines, currency);
        let discount = if fields.get("coupon").is_some() { sum / 20 } else { 0 };
        sum - discount + sum * 8 / 100
    }

    /// Days later: shipped, sometimes changed or cancelled, and sometimes money goes back.
    fn after(&mut self, order: &Placed) {
        if self.chance(0.5) {
            let at = order.at + self.rng.random_range(2..50) * HOUR_MS;
            self.server(at, "order_shipped", &json!({}), json!({ "order_id": order.id }));
        }
        if self.chance(0.15) {
            let how = self.rng.random_range(0..5);
            let at = order.at + self.rng.random_range(1..96) * HOUR_MS;
            self.refund(order, at, how);
        }
        if self.chance(0.1) {
            let at = order.at + self.rng.random_range(1..96) * HOUR_MS;
            self.change(order, at);
        }
    }

    /// The shop changes an order, or drops it.
    fn change(&mut self, order: &Placed, at: i64) {
        let currency = &order.currency;
        let about = json!({ "order_id": order.id });
        let (name, fields) = match self.rng.random_range(0..4) {
            0 => ("order_cancelled", json!({})),
            // Only what is named changes, in the order's currency.
            1 => ("order_updated", json!({ "shipping": amount(990, currency), "currency": currency })),
            // What is left after all refunds.
            2 => {
                let value = amount(order.total * 4 / 5, currency);
                ("order_updated", json!({ "value": value, "properties": { "refunds_included": true } }))
            }
            // Other items, and the total is theirs.
            _ => {
                let items = order.lines.first().map(|line| {
                    self.shop.item(&Line { quantity: line.quantity + 1, ..line.clone() }, currency)
                });
                ("order_updated", json!({ "items": items.into_iter().collect::<Vec<_>>() }))
            }
        };
        self.server(at, name, &about, fields);
    }

    /// Money goes back, in one of five ways.
    pub(super) fn refund(&mut self, order: &Placed, at: i64, how: u32) {
        let currency = &order.currency;
        let base =
            |refund_id: &str| json!({ "order_id": order.id, "refund_id": refund_id, "currency": currency });
        let first: Vec<Value> = order
            .lines
            .first()
            .map(|line| self.shop.item(&Line { quantity: 1, ..line.clone() }, currency))
            .into_iter()
            .collect();
        match how {
            // Everything: the server says no amount.
            0 => self.server(at, "refund", &json!({}), base("R-1")),
            // One item, whose price says the amount.
            1 => {
                let mut fields = base("R-1");
                fields["items"] = first.into();
                self.server(at, "refund", &json!({}), fields);
            }
            // One item, with an amount; reported twice under the same number.
            2 => {
                let mut fields = base("R-1");
                fields["items"] = first.into();
                fields["value"] = amount(order.total / 3, currency);
                self.server(at, "refund", &json!({}), fields.clone());
                self.server(at + 90_000, "Order Refunded", &json!({}), fields);
            }
            // More than the order: cut.
            3 => {
                let mut fields = base("");
                fields["value"] = amount(order.total * 2, currency);
                self.server(at, "refund", &json!({}), fields);
            }
            // Two parts that are together more than the order, on two days.
            _ => {
                for (part, refund_id) in ["R-1", "R-2"].into_iter().enumerate() {
                    let mut fields = base(refund_id);
                    fields["value"] = amount(order.total * 7 / 10, currency);
                    self.server(at + part as i64 * 20 * HOUR_MS, "refund", &json!({}), fields);
                }
            }
        }
    }
}
