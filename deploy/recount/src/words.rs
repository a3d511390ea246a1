//! What is said of an order after it was placed: `order_updated`, `refund`, `order_cancelled`, in order of time.

use std::collections::BTreeMap;

use jiff::civil::Date;
use rust_decimal::Decimal;

use super::{
    event::{Event, Item},
    money,
    reports::{Reports, first},
    store::Store,
};

/// What an order costs and consists of, as far as it has been told.
#[derive(Clone, Debug)]
pub(super) struct Standing<'e> {
    pub(super) currency: &'e str,
    pub(super) lines: &'e [Item],
    pub(super) tax: i64,
    pub(super) shipping: i64,
    pub(super) discount: i64,
    value: Option<i64>,
    /// Had been refunded when a total without it was told.
    added_back: i64,
    prices_include_tax: bool,
}

impl<'e> Standing<'e> {
    /// As a report of the order has it.
    pub(super) fn of(report: &'e Event, store: &Store) -> Self {
        let currency = report.currency.as_str();
        let amount = |sent: Option<_>| sent.map(|sent| money::minor(sent, currency));
        Self {
            currency,
            lines: &report.items,
            tax: amount(report.tax).unwrap_or(0),
            shipping: amount(report.shipping).unwrap_or(0),
            discount: amount(report.discount).unwrap_or(0),
            value: amount(report.value),
            added_back: 0,
            prices_include_tax: store.prices_include_tax,
        }
    }

    pub(super) fn total(&self) -> i64 {
        self.value.unwrap_or_else(|| self.explained().max(0)) + self.added_back
    }

    /// The part of the total that neither lines nor amounts explain.
    pub(super) fn unexplained(&self) -> i64 {
        self.total() - self.explained()
    }

    fn explained(&self) -> i64 {
        let lines: i64 = self.lines.iter().map(|line| line.amount(self.currency)).sum();
        let tax = if self.prices_include_tax { 0 } else { self.tax };
        lines - self.discount + self.shipping + tax
    }

    /// Replaces what an update names. One in another currency names nothing that could stand here.
    fn update(&mut self, update: &'e Event, refunded: i64) {
        if !update.currency.is_empty() && update.currency != self.currency {
            return;
        }
        let amount = |sent: Option<_>| sent.map(|sent| money::minor(sent, self.currency));
        let value = amount(update.value);
        self.tax = amount(update.tax).unwrap_or(self.tax);
        self.shipping = amount(update.shipping).unwrap_or(self.shipping);
        self.discount = amount(update.discount).unwrap_or(self.discount);
        let names_items = !update.items.is_empty();
        if names_items {
            self.lines = &update.items;
        }
        if value.is_some() || names_items {
            self.value = value;
            self.added_back = if update.refunds_included { refunded } else { 0 };
        }
    }
}

/// Money that goes back.
#[derive(Clone, Debug)]
pub(super) struct Refund<'e> {
    pub(super) day: Date,
    /// Its order's, unless it could not be converted.
    pub(super) currency: &'e str,
    pub(super) amount: i64,
    /// In the store's currency at its order's rate: what it takes off what is left. So that a full refund leaves nothing.
    pub(super) converted: Option<i64>,
    pub(super) names_items: bool,
}

impl<'e> Refund<'e> {
    fn of(word: &Event, currency: &'e str, amount: i64) -> Self {
        // A cancellation may name what was ordered; nothing comes back by it.
        let names_items = word.name == "refund" && !word.items.is_empty();
        Self { day: word.day, currency, amount, converted: None, names_items }
    }
}

/// What became of an order.
#[derive(Clone, Debug)]
pub(super) struct Outcome<'e> {
    /// As it stands after all words.
    pub(super) standing: Standing<'e>,
    /// In order of time.
    pub(super) refunds: Vec<Refund<'e>>,
    pub(super) cancelled: Option<Date>,
}

/// Takes the words about an order in order of time. Without a secret key nobody has a say in an order that a server reported.
pub(super) fn outcome<'e>(reports: &Reports<'e>, words: &[&'e Event], store: &Store) -> Outcome<'e> {
    let report = reports.winner;
    let mut standing = Standing::of(report, store);
    let words: Vec<&Event> = words.iter().copied().filter(|word| word.trusted || !report.trusted).collect();
    let mut refunds: Vec<Refund<'_>> = Vec::new();
    let mut refunded = 0;
    let mut cancelled = None;
    for word in in_order_of_time(&words, standing.currency) {
        let left = (standing.total() - refunded).max(0);
        let refund = match word.name.as_str() {
            "order_updated" => {
                standing.update(word, refunded);
                None
            }
            "refund" => refund(word, &standing, &report.items, left, store),
            _ => {
                cancelled.get_or_insert(word.day);
                (left > 0).then_some(Refund::of(word, standing.currency, left))
            }
        };
        if let Some(refund) = refund {
            refunded += if refund.currency == standing.currency { refund.amount } else { 0 };
            refunds.push(refund);
        }
    }

    // An update may have left less than had gone back before it.
    let mut left = standing.total();
    for refund in refunds.iter_mut().filter(|refund| refund.currency == standing.currency) {
        refund.amount = refund.amount.min(left);
        let convert = |minor| store.convert(minor, standing.currency, reports.earliest.day);
        refund.converted =
            convert(left).zip(convert(left - refund.amount)).map(|(before, after)| before - after);
        left -= refund.amount;
    }
    Outcome { standing, refunds, cancelled }
}

/// Each word once, by time. Of one time come updates, so that the one that would win stands; then refunds, which are later
/// than the update unless something orders them; then the cancellation, which takes what is left.
fn in_order_of_time<'e>(words: &[&'e Event], currency: &str) -> Vec<&'e Event> {
    let named = |name: &str| -> Vec<&'e Event> {
        let mut words: Vec<_> = words.iter().copied().filter(|word| word.name == name).collect();
        words.sort_by(|one, other| one.rank().cmp(&other.rank()));
        words
    };
    let updates = named("order_updated").into_iter().rev();
    let mut in_order: Vec<&Event> = updates.collect();
    let mut refunds: BTreeMap<_, Vec<&Event>> = BTreeMap::new();
    for refund in named("refund") {
        refunds.entry(identity(refund, currency)).or_default().push(refund);
    }
    let mut refunds: Vec<&Event> = refunds.values().map(|reports| first(reports)).collect();
    refunds.sort_by(|one, other| one.rank().cmp(&other.rank()));
    in_order.extend(refunds);
    in_order.extend(named("order_cancelled"));
    // Stable: what has one time stays as it is.
    in_order.sort_by_key(|word| word.at);
    in_order
}

/// What tells refunds of an order apart: their id; of those without one, value and items.
fn identity<'e>(refund: &'e Event, currency: &'e str) -> impl Ord + 'e {
    let id = refund.refund_id.as_str();
    let told = id.is_empty().then(|| {
        let currency = told_currency(refund, currency);
        let mut items: Vec<&Item> = refund.items.iter().collect();
        items.sort();
        (currency, refund.value.map(|value| money::minor(value, currency)), items)
    });
    (id, told)
}

/// A refund's currency: its order's where it says none.
fn told_currency<'e>(refund: &'e Event, currency: &'e str) -> &'e str {
    if refund.currency.is_empty() { currency } else { &refund.currency }
}

/// A refund of an order of which so much is left. None: it counts for nothing.
fn refund<'e>(
    report: &'e Event,
    order: &Standing<'e>,
    first_sold: &'e [Item],
    left: i64,
    store: &Store,
) -> Option<Refund<'e>> {
    let currency = told_currency(report, order.currency);
    // What the refund itself says, in its currency; and what it leaves to the order to say, in the order's.
    let (said, charged) = match report.value {
        Some(value) => (money::minor(value, currency), 0),
        None if !report.items.is_empty() => amount_of_items(&report.items, currency, order, first_sold),
        None => (0, left),
    };
    // Nothing is worth nothing in any currency.
    let exchanged = match said {
        0 => Some(0),
        said => store.exchange(said, currency, order.currency, report.day),
    };
    match exchanged {
        Some(said) => Some(Refund::of(report, order.currency, (said + charged).clamp(0, left))),
        // Nothing bounds it, so it needs a server's word.
        None => report.trusted.then(|| Refund::of(report, currency, said)),
    }
}

/// What items with a price come to, and those without one by the order's lines.
fn amount_of_items(items: &[Item], currency: &str, order: &Standing<'_>, first_sold: &[Item]) -> (i64, i64) {
    let (mut said, mut charged) = (0, 0);
    let mut taken: Vec<&Item> = Vec::new();
    for item in items {
        let line = line_of(item, order.lines, &taken).or_else(|| line_of(item, first_sold, &taken));
        taken.extend(line);
        let whole = line.map_or(Decimal::ONE, |line| line.quantity);
        if !item.price.is_zero() {
            let quantity = if item.quantity.is_zero() { whole.abs() } else { item.quantity };
            said += Item { quantity, ..item.clone() }.amount(currency);
        } else if let Some(line) = line {
            let some = if whole.is_sign_negative() { -item.quantity } else { item.quantity };
            let quantity = if some.is_zero() { whole } else { some };
            charged += Item { quantity, ..line.clone() }.amount(order.currency);
        }
    }
    (said, charged)
}

/// The line that an item is of: the first with its product, and its variant where it names one, that no item before it is of;
/// if there is none, the first.
fn line_of<'l>(item: &Item, lines: &'l [Item], taken: &[&Item]) -> Option<&'l Item> {
    let is_of = |line: &&Item| {
        line.product_id == item.product_id
            && (item.variant_id.is_empty() || line.variant_id == item.variant_id)
    };
    let is_free = |line: &&Item| !taken.iter().any(|taken| std::ptr::eq(*taken, *line));
    lines.iter().filter(is_of).find(is_free).or_else(|| lines.iter().find(is_of))
}
