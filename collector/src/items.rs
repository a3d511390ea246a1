//! Items of an event.

use millrace_schemas::{
    event::{ORDER_UPDATED, PURCHASE, REFUND},
    money::{PRICE_DECIMALS, QUANTITY_DECIMALS, line_minor},
    repair::Repair,
    row::EventRow,
};
use simd_json::{Node, StaticNode};

use crate::{
    field::Field,
    read::{Reader, Sign},
    tape::{entries, size},
};

/// Columns of decimals hold eighteen digits.
const DECIMAL_MAX: u64 = 10_u64.pow(18);
/// A quantity of one.
pub(crate) const QUANTITY_ONE: i64 = 10_i64.pow(QUANTITY_DECIMALS);

/// Keys of an item with those of GA4 that mean the same; the first of a line that says something wins. Others are ignored.
const KEYS: [&[&str]; 9] = [
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

/// What each line of [`KEYS`] is called in notes.
const NAMES: [&str; 9] = [
    "items.product_id",
    "items.variant_id",
    "items.name",
    "items.brand",
    "items.category",
    "items.product_kind",
    "items.price",
    "items.quantity",
    "items.discount",
];

/// Reads the items into a row. Those beyond the limit become one line without a product, so that an order's sum stays.
pub(crate) fn read<'t>(read: &Reader<'_, 't>, nodes: &'t [Node<'t>], decimals: u32, row: &mut EventRow<'t>) {
    let Some(nodes) = list(read, nodes) else { return };
    let most = read.limits().items_max;
    let (Node::Array { len, .. } | Node::Object { len, .. }) = nodes[0] else { return };
    reserve(row, len.min(most + 1));
    let mut rest = 0_i128;
    for (_, at) in entries(nodes, 0) {
        match nodes[at] {
            Node::Object { len: 1.., .. } => {}
            Node::Static(StaticNode::Null) => continue,
            _ => {
                read.note(Field::Items.name(), Repair::Unreadable);
                continue;
            }
        }
        let is_beyond = row.item_product_id.len() == most;
        let item = read_item(read, &nodes[at..at + size(nodes, at)], row.name == REFUND, is_beyond);
        if is_beyond {
            let quantity =
                if row.name == REFUND && item.quantity == 0 { QUANTITY_ONE } else { item.quantity };
            rest += line_minor(item.price, quantity, decimals);
            read.note(Field::Items.name(), Repair::Cut);
        } else {
            push(row, &item);
        }
    }
    if rest != 0 && matches!(row.name, PURCHASE | REFUND | ORDER_UPDATED) {
        let price = i64::try_from(rest * 10_i128.pow(PRICE_DECIMALS - decimals)).ok();
        let price = price.filter(|price| price.unsigned_abs() < DECIMAL_MAX).unwrap_or(0);
        push(row, &Item { price, quantity: QUANTITY_ONE, ..Item::default() });
    }
}

/// The list in what was sent: a list, the object that some languages make of one with gaps, a single item, or the JSON of
/// these in a text.
fn list<'t>(read: &Reader<'_, 't>, nodes: &'t [Node<'t>]) -> Option<&'t [Node<'t>]> {
    let sent = match nodes[0] {
        Node::Array { .. } => return Some(nodes),
        Node::Object { .. } => Some(nodes),
        Node::String("") => return None,
        Node::String(text) => read.parse(text),
        Node::Static(_) => None,
    };
    let list = match sent {
        Some(list @ [Node::Array { .. }, ..]) => Some(list),
        Some(object @ [Node::Object { .. }, ..]) => {
            let is_item = entries(object, 0).any(|(name, _)| KEYS.iter().any(|names| names.contains(&name)));
            let one = || {
                let array = Node::Array { len: 1, count: object.len() };
                read.keep_nodes(&[&[array], object].concat())
            };
            Some(if is_item { one() } else { object })
        }
        _ => None,
    };
    read.note(Field::Items.name(), if list.is_some() { Repair::Converted } else { Repair::Unreadable });
    list
}

fn reserve(row: &mut EventRow<'_>, len: usize) {
    if len == 0 {
        return;
    }
    let texts = || Vec::with_capacity(len);
    (row.item_product_id, row.item_variant_id, row.item_name) = (texts(), texts(), texts());
    (row.item_brand, row.item_category, row.item_product_kind) = (texts(), texts(), texts());
    (row.item_price, row.item_discount) = (Vec::with_capacity(len), Vec::with_capacity(len));
    row.item_quantity = Vec::with_capacity(len);
}

fn push<'t>(row: &mut EventRow<'t>, item: &Item<'t>) {
    row.item_product_id.push(item.product_id);
    row.item_variant_id.push(item.variant_id);
    row.item_name.push(item.name);
    row.item_brand.push(item.brand);
    row.item_category.push(item.category);
    row.item_product_kind.push(item.product_kind);
    row.item_price.push(item.price);
    row.item_quantity.push(item.quantity);
    row.item_discount.push(item.discount);
}

#[derive(Default)]
struct Item<'t> {
    product_id: &'t str,
    variant_id: &'t str,
    name: &'t str,
    brand: &'t str,
    category: &'t str,
    product_kind: &'t str,
    price: i64,
    quantity: i64,
    discount: i64,
}

/// Reads an item, of one that is `beyond` the limit only what it costs.
fn read_item<'t>(read: &Reader<'_, 't>, nodes: &'t [Node<'t>], is_refund: bool, is_beyond: bool) -> Item<'t> {
    // The place of each key's value, by its line and column in KEYS; 0: not there.
    let mut places = [[0_usize; 2]; KEYS.len()];
    for (key, value) in entries(nodes, 0) {
        let known = KEYS.iter().zip(&mut places).zip(NAMES).find_map(|((names, places), called)| {
            names.iter().zip(places).find_map(|(name, place)| (*name == key).then_some((place, called)))
        });
        if let Some((place, called)) = known {
            if *place != 0 {
                read.note(called, Repair::Duplicate);
            }
            *place = value;
        }
    }
    let value = |line: usize| {
        let says = |place: &&usize| {
            **place != 0 && !matches!(nodes[**place], Node::Static(StaticNode::Null) | Node::String(""))
        };
        places[line].iter().find(says).map(|place| nodes[*place])
    };
    let id = |line: usize| value(line).map_or("", |value| read.id_of(NAMES[line], value));
    let text = |line: usize| value(line).map_or("", |value| read.text_of(NAMES[line], value));
    let amount = |line: usize, decimals: u32, sign| {
        let amount = value(line).and_then(|value| read.amount_of(NAMES[line], value, decimals, sign))?;
        let fits = amount.unsigned_abs() < DECIMAL_MAX;
        if !fits {
            read.note(NAMES[line], Repair::OutOfRange);
        }
        fits.then_some(amount)
    };
    let sign = if is_refund { Sign::SaysNothing } else { Sign::Counts };
    let mut item = Item {
        price: amount(6, PRICE_DECIMALS, sign).unwrap_or(0),
        // A refund that names none is of the whole line.
        quantity: amount(7, QUANTITY_DECIMALS, sign).unwrap_or(if is_refund { 0 } else { QUANTITY_ONE }),
        discount: amount(8, PRICE_DECIMALS, Sign::SaysNothing).unwrap_or(0),
        ..Item::default()
    };
    if !is_beyond {
        (item.product_id, item.variant_id) = (id(0), id(1));
        (item.name, item.brand, item.category, item.product_kind) = (text(2), text(3), text(4), text(5));
    }
    item
}
