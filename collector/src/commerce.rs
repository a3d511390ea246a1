//! Money and items of an event.

use std::fmt;

use millrace_schemas::{
    event::{PURCHASE, REFUND},
    limits::untrusted_minor_max,
    money,
    reject::{Reason, Rejection},
    row::EventRow,
};
use simd_json::{Node, StaticNode};

use crate::{
    field::Field,
    read::{self, Read},
    tape::size,
    validate::{Draft, too_many},
};

/// Reads an event's money into its row.
pub(crate) fn read<'t>(draft: &Draft<'_, 't>, row: &mut EventRow<'t>) -> Read<()> {
    let is_order = row.name == PURCHASE || row.name == REFUND;
    row.order_id = draft.text(Field::OrderId)?;
    if row.order_id.is_empty() {
        row.order_id = draft.text(Field::TransactionId)?;
    }
    if is_order && row.order_id.is_empty() {
        let detail = format!("a {} without an `order_id` could not be told from the next", row.name);
        return Err(Rejection::new(Reason::EmptyOrderId, detail));
    }
    row.refund_id = draft.text(Field::RefundId)?;
    row.coupon = draft.text(Field::Coupon)?;

    let sent_currency = draft.text(Field::Currency)?;
    let currency = if sent_currency.is_empty() { draft.request.currency } else { sent_currency };
    let exponent = match money::exponent(currency) {
        Some(exponent) => exponent,
        // The store's own currency was checked when the store was made.
        None if sent_currency.is_empty() => 2,
        None => {
            let detail = "`currency` is not an ISO 4217 code in capital letters";
            return Err(Rejection::new(Reason::UnknownCurrency, detail));
        }
    };
    let amount = |field| draft.get(field, |name, value| read::amount(name, value, exponent));
    let (tax, shipping, discount) = (amount(Field::Tax)?, amount(Field::Shipping)?, amount(Field::Discount)?);
    (row.tax_minor, row.shipping_minor, row.discount_minor) =
        (tax.unwrap_or(0), shipping.unwrap_or(0), discount.unwrap_or(0));
    if is_order {
        row.total_minor = amount(Field::Value)?;
    }
    if let Some(items) = draft.nodes(Field::Items) {
        read_items(draft, items, exponent, row)?;
    }
    if !draft.request.trusted {
        let is_money = is_order || !sent_currency.is_empty();
        Ceiling::of(draft, currency, exponent).check(row, is_money)?;
    }
    let has_amounts = is_order || tax.or(shipping).or(discount).is_some() || !row.item_price_minor.is_empty();
    row.currency = if has_amounts { currency } else { sent_currency };
    Ok(())
}

/// What anybody may say who has read the write key off the page. A server's word has the limits of its columns alone.
struct Ceiling<'t> {
    units: usize,
    currency: &'t str,
    minor: i128,
}

impl<'t> Ceiling<'t> {
    fn of(draft: &Draft<'_, '_>, currency: &'t str, exponent: u32) -> Self {
        let units = draft.request.limits.untrusted_amount_max;
        Self { units, currency, minor: untrusted_minor_max(units, currency, exponent) }
    }

    fn check(&self, row: &EventRow<'_>, is_money: bool) -> Read<()> {
        let amounts = [
            ("value", row.total_minor.unwrap_or(0)),
            ("tax", row.tax_minor),
            ("shipping", row.shipping_minor),
            ("discount", row.discount_minor),
        ];
        for (name, minor) in amounts {
            self.amount(&format_args!("`{name}`"), i128::from(minor))?;
        }
        // A goal's or lead's value; without a currency it is a number of anything.
        if is_money && row.value.is_some_and(|value| value.abs() > self.whole_units()) {
            return self.above(&"`value`");
        }
        let mut sum = 0_i128;
        let lines = row.item_price_minor.iter().zip(&row.item_discount_minor).zip(&row.item_quantity);
        for (index, ((price, discount), quantity)) in lines.enumerate() {
            if u64::from(*quantity) > self.units as u64 {
                let detail = format!("item {index}: `quantity` is above {}; {ADVICE}", self.units);
                return Err(Rejection::new(Reason::AmountTooLarge, detail));
            }
            let quantity = i128::from(*quantity);
            self.amount(
                &format_args!("item {index}: `price` times `quantity`"),
                i128::from(*price) * quantity,
            )?;
            self.amount(
                &format_args!("item {index}: `discount` times `quantity`"),
                i128::from(*discount) * quantity,
            )?;
            sum += i128::from(*price) * quantity;
        }
        self.amount(&"the sum of `items`", sum)
    }

    fn amount(&self, what: &dyn fmt::Display, minor: i128) -> Read<()> {
        if minor > self.minor { self.above(what) } else { Ok(()) }
    }

    fn whole_units(&self) -> f64 {
        self.units as f64 * f64::from(money::units_per_dollar(self.currency))
    }

    fn above(&self, what: &dyn fmt::Display) -> Read<()> {
        let detail = format!("{what} is above {} {}; {ADVICE}", self.whole_units(), self.currency);
        Err(Rejection::new(Reason::AmountTooLarge, detail))
    }
}

/// What to do about an amount above the ceiling.
const ADVICE: &str =
    "the most that a write key may say (--untrusted-amount-max); let a server say it with a secret key";

fn read_items<'t>(
    draft: &Draft<'_, 't>,
    nodes: &'t [Node<'t>],
    exponent: u32,
    row: &mut EventRow<'t>,
) -> Read<()> {
    let Node::Array { len, .. } = nodes[0] else {
        return Err(Rejection::new(Reason::WrongType, "`items` must be an array"));
    };
    let limits = &draft.request.limits;
    if len > limits.items_max {
        return Err(too_many("items", len, limits.items_max));
    }
    if len == 0 {
        return Ok(());
    }
    let texts = || Vec::with_capacity(len);
    (row.item_product_id, row.item_variant_id, row.item_name) = (texts(), texts(), texts());
    (row.item_brand, row.item_category, row.item_product_kind) = (texts(), texts(), texts());
    (row.item_price_minor, row.item_discount_minor) = (Vec::with_capacity(len), Vec::with_capacity(len));
    row.item_quantity = Vec::with_capacity(len);
    let mut at = 1;
    for index in 0..len {
        let end = at + size(nodes, at);
        let item =
            read_item(&nodes[at..end], exponent, limits.string_bytes_max).map_err(|mut rejection| {
                rejection.detail = format!("item {index}: {}", rejection.detail);
                rejection
            })?;
        row.item_product_id.push(item.product_id);
        row.item_variant_id.push(item.variant_id);
        row.item_name.push(item.name);
        row.item_brand.push(item.brand);
        row.item_category.push(item.category);
        row.item_product_kind.push(item.product_kind);
        row.item_price_minor.push(item.price_minor);
        row.item_quantity.push(item.quantity);
        row.item_discount_minor.push(item.discount_minor);
        at = end;
    }
    Ok(())
}

#[derive(Default)]
struct Item<'t> {
    product_id: &'t str,
    variant_id: &'t str,
    name: &'t str,
    brand: &'t str,
    category: &'t str,
    product_kind: &'t str,
    price_minor: i64,
    quantity: u32,
    discount_minor: i64,
}

/// Keys of an item with those of GA4 that mean the same; the first of a line wins. Others are ignored.
const ITEM_KEYS: [&[&str]; 9] = [
    &["product_id", "item_id"],
    &["variant_id", "item_variant"],
    &["name", "item_name"],
    &["brand", "item_brand"],
    &["category", "item_category"],
    &["product_kind"],
    &["price"],
    &["quantity"],
    &["discount"],
];

fn read_item<'t>(nodes: &'t [Node<'t>], exponent: u32, bytes_max: usize) -> Read<Item<'t>> {
    let Node::Object { len, .. } = nodes[0] else {
        return Err(Rejection::new(Reason::WrongType, "must be an object"));
    };
    // The place of each key's value, by its line and column in ITEM_KEYS; 0: not there.
    let mut places = [[0_usize; 2]; ITEM_KEYS.len()];
    let mut at = 1;
    for _ in 0..len {
        let Node::String(key) = nodes[at] else { break };
        let value = at + 1;
        let known = ITEM_KEYS.iter().zip(&mut places).find_map(|(names, places)| {
            names.iter().zip(places).find_map(|(name, place)| (*name == key).then_some(place))
        });
        if let Some(place) = known {
            if *place != 0 {
                return Err(Rejection::new(Reason::DuplicateKey, format!("`{key}` stands twice")));
            }
            *place = value;
        }
        at = value + size(nodes, value);
    }
    let value = |line: usize| {
        let sent = |column: &usize| *column != 0 && nodes[*column] != Node::Static(StaticNode::Null);
        let column = places[line].iter().position(sent)?;
        Some((ITEM_KEYS[line][column], nodes[places[line][column]]))
    };
    let text = |line| value(line).map_or(Ok(""), |(name, value)| read::text(name, value, bytes_max));
    let amount = |line| value(line).map_or(Ok(0), |(name, value)| read::amount(name, value, exponent));
    Ok(Item {
        product_id: text(0)?,
        variant_id: text(1)?,
        name: text(2)?,
        brand: text(3)?,
        category: text(4)?,
        product_kind: text(5)?,
        price_minor: amount(6)?,
        quantity: value(7).map_or(Ok(1), |(name, value)| quantity(name, value))?,
        discount_minor: amount(8)?,
    })
}

fn quantity(name: &str, value: Node<'_>) -> Read<u32> {
    if read::number(name, value)? < 0.0 {
        return Err(Rejection::new(Reason::NegativeAmount, format!("`{name}` is below zero")));
    }
    read::whole(name, value)
}
