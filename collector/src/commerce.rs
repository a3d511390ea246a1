//! Money and items of an event.

use millrace_schemas::{
    event::{ORDER_UPDATED, PURCHASE, REFUND},
    limits::untrusted_minor_max,
    money,
    reject::{Reason, Rejection},
    repair::Repair,
    row::EventRow,
};

use crate::{
    field::Field,
    items,
    read::{Reader, Sign},
    validate::Draft,
};

/// Decimals of amounts in a currency that nobody knows.
const DECIMALS_OF_UNKNOWN: u32 = 2;

/// ISO 4217's code for no currency: what stands for one that is no code at all.
const NO_CURRENCY: &str = "XXX";

/// Reads an event's money into its row.
pub(crate) fn read<'t>(draft: &Draft<'_, 't>, row: &mut EventRow<'t>) -> Result<(), Rejection> {
    let read = &draft.read;
    let (is_refund, is_update) = (row.name == REFUND, row.name == ORDER_UPDATED);
    let is_order = row.name == PURCHASE || is_refund;
    row.order_id = read.id(Field::OrderId);
    if row.order_id.is_empty() {
        row.order_id = read.id(Field::TransactionId);
    }
    if is_order && row.order_id.is_empty() {
        let detail = format!("a {} without an `order_id` could not be told from the next", row.name);
        return Err(Rejection::new(Reason::EmptyOrderId, detail));
    }
    row.refund_id = read.id(Field::RefundId);
    row.coupon = read.text(Field::Coupon);

    let sent_currency = currency(draft, row);
    let currency = if sent_currency.is_empty() { draft.request.currency } else { sent_currency };
    let decimals = money::exponent(currency).unwrap_or(DECIMALS_OF_UNKNOWN);
    let (tax, shipping) = (
        read.amount(Field::Tax, decimals, Sign::Refuses),
        read.amount(Field::Shipping, decimals, Sign::Refuses),
    );
    let discount = read.amount(Field::Discount, decimals, Sign::SaysNothing);
    (row.tax_minor, row.shipping_minor, row.discount_minor) = (tax, shipping, discount);
    if is_order || is_update {
        // What is given back is, however its sign is written; an order of less than nothing is a mistake.
        let sign = if is_refund { Sign::SaysNothing } else { Sign::Refuses };
        row.total_minor = read.amount(Field::Value, decimals, sign);
    }
    row.value = value(read, is_order || is_update, is_refund, !sent_currency.is_empty());
    if let Some(nodes) = read.nodes(Field::Items) {
        items::read(read, nodes, decimals, row);
    }
    if !draft.request.trusted {
        let is_money = is_order || is_update || !sent_currency.is_empty();
        Ceiling::of(draft, currency, decimals).lower(read, row, is_money);
    }
    let has_amounts = is_order || tax.or(shipping).or(discount).is_some() || !row.item_price.is_empty();
    // A refund's is its order's, which nobody here knows; likewise an update's.
    row.currency = if has_amounts && !is_refund && !is_update { currency } else { sent_currency };
    Ok(())
}

/// The value as a number. Where it is money, a sign is read as that of the total.
fn value(read: &Reader<'_, '_>, is_order: bool, is_refund: bool, has_currency: bool) -> Option<f64> {
    let value = read.number(Field::Value)?;
    match () {
        () if is_refund => Some(value.abs()),
        () if value < 0.0 && (is_order || has_currency) => {
            read.note(Field::Value.name(), Repair::Negative);
            None
        }
        () => Some(value),
    }
}

/// The currency that was sent, by its code. What is no code is kept as a property.
fn currency<'t>(draft: &Draft<'_, 't>, row: &mut EventRow<'t>) -> &'t str {
    let (read, name) = (&draft.read, Field::Currency.name());
    let sent = read.text(Field::Currency);
    if sent.is_empty() || money::exponent(sent).is_some() {
        return sent;
    }
    let upper = sent.to_ascii_uppercase();
    let known = match money::currency_of_sign(&upper) {
        Some(code) => code,
        None if upper == "$" && money::is_dollar(draft.request.currency) => draft.request.currency,
        None if money::exponent(&upper).is_some() => read.keep(&upper),
        None => "",
    };
    if !known.is_empty() {
        read.note(name, Repair::Converted);
        return known;
    }
    read.note(name, Repair::UnknownCurrency);
    if upper.len() == 3 && upper.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return read.keep(&upper);
    }
    row.properties.push((name, sent.into()));
    NO_CURRENCY
}

/// What anybody may say who has read the write key off the page. A server's word has the limits of its columns alone.
struct Ceiling {
    units: f64,
    quantity: i64,
    minor: i128,
    decimals: u32,
}

impl Ceiling {
    fn of(draft: &Draft<'_, '_>, currency: &str, decimals: u32) -> Self {
        let units = draft.request.limits.untrusted_amount_max;
        Self {
            units: units as f64 * f64::from(money::units_per_dollar(currency)),
            quantity: i64::try_from(units).unwrap_or(i64::MAX).saturating_mul(items::QUANTITY_ONE),
            minor: untrusted_minor_max(units, currency, decimals),
            decimals,
        }
    }

    /// Leaves out what lies above.
    fn lower<'t>(&self, read: &Reader<'_, 't>, row: &mut EventRow<'t>, is_money: bool) {
        let leave_out = |name: &'t str| read.note(name, Repair::AmountTooLarge);
        let is_above = |minor: i128| minor.abs() > self.minor;
        if row.total_minor.is_some_and(|total| is_above(total.into())) {
            row.total_minor = None;
            leave_out("value");
        }
        let amounts = [
            ("tax", &mut row.tax_minor),
            ("shipping", &mut row.shipping_minor),
            ("discount", &mut row.discount_minor),
        ];
        for (name, minor) in amounts {
            if minor.is_some_and(|minor| is_above(minor.into())) {
                *minor = None;
                leave_out(name);
            }
        }
        // A goal's or lead's value; without a currency it is a number of anything.
        if is_money && row.value.is_some_and(|value| value.abs() > self.units) {
            row.value = None;
            leave_out("value");
        }
        let mut sum = 0_i128;
        for (index, quantity) in row.item_quantity.iter_mut().enumerate() {
            if quantity.abs() > self.quantity {
                *quantity = items::QUANTITY_ONE;
                leave_out("items.quantity");
            }
            let price = &mut row.item_price[index];
            let minor = money::line_minor(*price, *quantity, self.decimals);
            if is_above(minor) {
                *price = 0;
                leave_out("items.price");
            } else {
                sum += minor;
            }
            let discount = &mut row.item_discount[index];
            if is_above(money::line_minor(*discount, *quantity, self.decimals)) {
                *discount = 0;
                leave_out("items.discount");
            }
        }
        if is_above(sum) {
            row.item_price.fill(0);
            leave_out("items.price");
        }
    }
}
