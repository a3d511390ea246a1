//! An order: what all its reports together say.
//!
//! * Of its `purchase` reports one wins: a server's before a browser's, then the earliest, then the one with the greater
//!   value, then the one with the smaller text. It gives the amounts.
//! * A browser's report **agrees** with it if it lies at most 7 days before it or 24 h after it, has its currency and, where
//!   it tells a value, its value. The order's time is the earliest of the winner's and of those that agree; who bought is told
//!   by the winner, else by the first that agrees and tells. So a server that confirms on Wednesday what a browser ordered on
//!   Monday leaves the order where the visit was.
//! * Updates, in order of time, replace what they name. Refunds and a cancellation then take from the order, in order of time,
//!   never more than its total.
//! * What was sent with a write key counts only for an order that no server reported.
//!
//! A refund in another currency is converted into the order's by the rate of its day. Without a rate it stands by itself; an
//! untrusted one is then left out, as nothing would bound it.

use std::{cmp::Reverse, collections::BTreeMap};

use millrace_schemas::money::{exponent, from_float, line_minor, to_minor};

const DAY_MS: i64 = 86_400_000;
/// How long before the winner a browser's report may lie that agrees with it, and how long after it.
const AGREES_BEFORE_MS: i64 = 7 * DAY_MS;
const AGREES_AFTER_MS: i64 = DAY_MS;

/// What a report says of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It was placed: `purchase`.
    Placed,
    /// It has changed: `order_updated`.
    Updated,
    /// Money was given back: `refund`.
    Refunded,
    /// It was given up: `order_cancelled`.
    Cancelled,
}

/// A line of an order, of an update or of a refund.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Product.
    pub product_id: String,
    /// Variant of the product.
    pub variant_id: String,
    /// Price of one, millionths of the currency's unit; in a refund 0 for what the order charged.
    pub price: i64,
    /// Thousandths; in a refund 0 for the whole line.
    pub quantity: i64,
}

/// One event about an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What it says.
    pub kind: Kind,
    /// Whether a server sent it.
    pub trusted: bool,
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Currency of its amounts; empty where a refund, an update or a cancellation names none.
    pub currency: String,
    /// `value`, minor units; without a currency those of the store's.
    pub value_minor: Option<i64>,
    /// `value` as sent.
    pub value: Option<f64>,
    /// Tax, minor units, where it is named; likewise the next two.
    pub tax_minor: Option<i64>,
    /// Shipping.
    pub shipping_minor: Option<i64>,
    /// Discount on the whole.
    pub discount_minor: Option<i64>,
    /// Items.
    pub lines: Vec<Line>,
    /// Refund, where it has an id.
    pub refund_id: String,
    /// An update's amounts are what is left after the refunds before it.
    pub refunds_included: bool,
    /// Visitor.
    pub visitor_id: String,
    /// Session, as sent.
    pub session_id: String,
    /// User.
    pub user_id: String,
}

/// What of a store an order depends on.
pub struct Terms<'a> {
    /// The store's currency.
    pub currency: &'a str,
    /// Whether the prices of items hold the tax.
    pub prices_include_tax: bool,
    /// An amount (minor units) of an instant in one currency, in another; `None` without a rate.
    pub convert: &'a dyn Fn(i64, &str, &str, i128) -> Option<i128>,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// When it was placed, epoch milliseconds.
    pub at_ms: i64,
    /// Whether a server reported it.
    pub trusted: bool,
    /// Currency of all its amounts.
    pub currency: String,
    /// Total, minor units.
    pub total: i128,
    /// Tax.
    pub tax: i128,
    /// Shipping.
    pub shipping: i128,
    /// Discount on the whole.
    pub discount: i128,
    /// What of the total its parts do not explain.
    pub unexplained: i128,
    /// Items, as updated.
    pub lines: Vec<Line>,
    /// When the report that tells who bought was made; nothing if none does.
    pub visit_ms: Option<i64>,
    /// Visitor who bought; empty if nobody tells.
    pub visitor_id: String,
    /// Session in which, as sent.
    pub session_id: String,
    /// User who bought.
    pub user_id: String,
    /// What was given back, in order of time.
    pub taken: Vec<Taken>,
}

/// What a refund or a cancellation takes from an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Currency: the order's, or without a rate its own.
    pub currency: String,
    /// Currency in which it was asked for; empty where none was named.
    pub asked_currency: String,
    /// Minor units.
    pub amount: i128,
    /// Whether it names items: a return.
    pub names_items: bool,
    /// Whether the order was cancelled.
    pub is_cancellation: bool,
}

impl Order {
    /// The order that these reports, in whatever order, tell of; `None` if none says that it was placed.
    pub fn of(reports: &[Report], terms: &Terms<'_>) -> Option<Self> {
        let placed: Vec<&Report> = sorted(reports.iter().filter(|report| report.kind == Kind::Placed));
        let winner = *placed.first()?;
        let mut state = State::of(winner, terms);
        let counts = |report: &&Report| report.trusted || !winner.trusted;
        let of_kind = |kind: Kind| reports.iter().filter(move |report| report.kind == kind).filter(counts);

        let later: Vec<&Report> = words(of_kind(Kind::Refunded), of_kind(Kind::Cancelled));
        let mut updates: Vec<&Report> = of_kind(Kind::Updated).collect();
        updates.sort_by(|one, other| (one.at_ms, rank(one)).cmp(&(other.at_ms, rank(other))));
        updates.dedup();
        for update in updates {
            let before = later.iter().copied().filter(|word| word.at_ms < update.at_ms);
            let taken_before = if update.refunds_included { state.settle(before, terms).1 } else { 0 };
            state.update(update, taken_before);
        }
        let (taken, _) = state.settle(later.into_iter(), terms);

        let agreeing: Vec<&Report> =
            placed.iter().copied().filter(|report| state.agrees(winner, report)).collect();
        let at_ms = agreeing.iter().map(|report| report.at_ms).fold(winner.at_ms, i64::min);
        let mut by_time = agreeing;
        by_time.sort_by(|one, other| (one.at_ms, rank(one)).cmp(&(other.at_ms, rank(other))));
        let tellers = || std::iter::once(winner).chain(by_time.iter().copied());
        let visit = tellers().find(|report| !report.visitor_id.is_empty());
        let user = tellers().find(|report| !report.user_id.is_empty());
        Some(Self {
            at_ms,
            trusted: winner.trusted,
            currency: state.currency.clone(),
            total: state.total(),
            tax: state.tax,
            shipping: state.shipping,
            discount: state.discount,
            unexplained: state.total() - state.sum(),
            visit_ms: visit.map(|report| report.at_ms),
            visitor_id: visit.map(|report| report.visitor_id.clone()).unwrap_or_default(),
            session_id: visit.map(|report| report.session_id.clone()).unwrap_or_default(),
            user_id: user.map(|report| report.user_id.clone()).unwrap_or_default(),
            lines: state.lines,
            taken,
        })
    }
}

/// Amounts of an order, as of the updates so far.
struct State {
    currency: String,
    prices_include_tax: bool,
    /// As told; else it is what the parts come to.
    told: Option<i128>,
    /// What was taken before the last update that counts it as taken.
    added_back: i128,
    tax: i128,
    shipping: i128,
    discount: i128,
    lines: Vec<Line>,
    /// Before any update; likewise the next.
    first_lines: Vec<Line>,
    first_total: i128,
}

impl State {
    fn of(winner: &Report, terms: &Terms<'_>) -> Self {
        let currency = if winner.currency.is_empty() { terms.currency } else { &winner.currency };
        let mut state = Self {
            currency: currency.to_owned(),
            prices_include_tax: terms.prices_include_tax,
            told: winner.value_minor.map(i128::from),
            added_back: 0,
            tax: winner.tax_minor.unwrap_or(0).into(),
            shipping: winner.shipping_minor.unwrap_or(0).into(),
            discount: winner.discount_minor.unwrap_or(0).into(),
            lines: winner.lines.clone(),
            first_lines: winner.lines.clone(),
            first_total: 0,
        };
        state.first_total = state.total();
        state
    }

    fn decimals(&self) -> u32 {
        decimals(&self.currency)
    }

    /// What the parts come to.
    fn sum(&self) -> i128 {
        let lines: i128 =
            self.lines.iter().map(|line| line_minor(line.price, line.quantity, self.decimals())).sum();
        let tax = if self.prices_include_tax { 0 } else { self.tax };
        lines - self.discount + self.shipping + tax
    }

    fn total(&self) -> i128 {
        self.told.unwrap_or_else(|| self.sum().max(0)) + self.added_back
    }

    /// Replaces what an update names; items as a whole, and unless it names a value the total is then theirs.
    fn update(&mut self, update: &Report, taken_before: i128) {
        for (amount, named) in [
            (&mut self.tax, update.tax_minor),
            (&mut self.shipping, update.shipping_minor),
            (&mut self.discount, update.discount_minor),
        ] {
            *amount = named.map_or(*amount, i128::from);
        }
        let names_items = !update.lines.is_empty();
        if names_items {
            self.lines.clone_from(&update.lines);
        }
        if update.value_minor.is_some() || names_items {
            self.told = update.value_minor.map(i128::from);
            self.added_back = taken_before;
        }
    }

    /// Whether a report is of the same purchase as the winner.
    fn agrees(&self, winner: &Report, report: &Report) -> bool {
        !report.trusted
            && report.at_ms >= winner.at_ms - AGREES_BEFORE_MS
            && report.at_ms <= winner.at_ms + AGREES_AFTER_MS
            && report.currency == winner.currency
            && report.value_minor.is_none_or(|value| i128::from(value) == self.first_total)
    }

    /// What refunds and cancellations take, in order of time, and the sum of it in the order's currency.
    fn settle<'a>(&self, words: impl Iterator<Item = &'a Report>, terms: &Terms<'_>) -> (Vec<Taken>, i128) {
        let (total, mut sum) = (self.total(), 0);
        let mut all = Vec::new();
        let mut is_cancelled = false;
        for word in words {
            let left = (total - sum).max(0);
            let is_cancellation = word.kind == Kind::Cancelled;
            if is_cancellation && is_cancelled {
                continue;
            }
            is_cancelled |= is_cancellation;
            let (currency, asked) = match self.asked(word, left, is_cancellation, terms) {
                Asked::OfOrder(amount) => (self.currency.clone(), amount.min(left)),
                Asked::Foreign(amount) if word.trusted => (word.currency.clone(), amount),
                Asked::Foreign(_) => continue,
            };
            if currency == self.currency {
                sum += asked;
            }
            let names_items = !word.lines.is_empty() && !is_cancellation;
            let asked_currency = word.currency.clone();
            all.push(Taken {
                at_ms: word.at_ms,
                currency,
                asked_currency,
                amount: asked,
                names_items,
                is_cancellation,
            });
        }
        (all, sum)
    }

    fn asked(&self, word: &Report, left: i128, is_cancellation: bool, terms: &Terms<'_>) -> Asked {
        if is_cancellation || (word.value_minor.is_none() && word.lines.is_empty()) {
            return Asked::OfOrder(left);
        }
        let is_own = word.currency.is_empty() || word.currency == self.currency;
        let currency = if is_own { &self.currency } else { &word.currency };
        let amount = self.value_of(word, currency, terms).unwrap_or_else(|| self.lines_of(word, currency));
        if is_own {
            return Asked::OfOrder(amount);
        }
        match (terms.convert)(word.at_ms, currency, &self.currency, amount) {
            Some(converted) => Asked::OfOrder(converted),
            None => Asked::Foreign(amount),
        }
    }

    /// A word's value, without its sign. One without a currency was stored with the decimals of the store's.
    fn value_of(&self, word: &Report, currency: &str, terms: &Terms<'_>) -> Option<i128> {
        let stored = if word.currency.is_empty() { terms.currency } else { &word.currency };
        let exact = || to_minor(from_float(word.value?)?, decimals(currency)).map(i128::from);
        let value = if decimals(stored) == decimals(currency) { None } else { exact() };
        value.or(word.value_minor.map(i128::from)).map(i128::abs)
    }

    /// What the lines of a refund come to. Without a price a line costs what the order charged, as updated, else as first
    /// sold; without a quantity it is the whole line.
    fn lines_of(&self, word: &Report, currency: &str) -> i128 {
        let amount = |line: &Line| {
            let is_it = |sold: &&Line| {
                sold.product_id == line.product_id
                    && (line.variant_id.is_empty() || sold.variant_id == line.variant_id)
            };
            let sold = self.lines.iter().find(is_it).or_else(|| self.first_lines.iter().find(is_it));
            let or_sold = |own: i64, sold: Option<i64>, otherwise| {
                if own == 0 { sold.unwrap_or(otherwise) } else { own }
            };
            let price = or_sold(line.price, sold.map(|sold| sold.price), 0);
            let quantity = or_sold(line.quantity, sold.map(|sold| sold.quantity), 1_000);
            line_minor(price, quantity, decimals(currency)).abs()
        };
        word.lines.iter().map(amount).sum()
    }
}

/// What a refund asks for.
enum Asked {
    /// In the order's currency.
    OfOrder(i128),
    /// In its own, without a rate.
    Foreign(i128),
}

/// What decides between reports of one thing: the first wins.
fn rank(report: &Report) -> impl Ord + '_ {
    let Report {
        trusted,
        at_ms,
        value_minor,
        currency,
        lines,
        refund_id,
        visitor_id,
        session_id,
        user_id,
        ..
    } = report;
    let amounts = (report.tax_minor, report.shipping_minor, report.discount_minor);
    (
        !trusted,
        *at_ms,
        Reverse(*value_minor),
        (currency, lines, amounts, refund_id, visitor_id, session_id, user_id),
    )
}

fn sorted<'a>(reports: impl Iterator<Item = &'a Report>) -> Vec<&'a Report> {
    let mut sorted: Vec<&Report> = reports.collect();
    sorted.sort_by(|one, other| rank(one).cmp(&rank(other)));
    sorted
}

/// Refunds, each once, and cancellations, in order of time. A refund without an id is one of its own if its value or its items
/// are.
fn words<'a>(
    refunds: impl Iterator<Item = &'a Report>,
    cancellations: impl Iterator<Item = &'a Report>,
) -> Vec<&'a Report> {
    let mut by_identity: BTreeMap<_, &Report> = BTreeMap::new();
    for refund in sorted(refunds) {
        let is_named = !refund.refund_id.is_empty();
        let content = (!is_named).then_some((refund.value_minor, &refund.currency, &refund.lines));
        by_identity.entry((&refund.refund_id, content)).or_insert(refund);
    }
    let mut words: Vec<&Report> = by_identity.into_values().chain(cancellations).collect();
    words.sort_by(|one, other| (one.at_ms, one.kind, rank(one)).cmp(&(other.at_ms, other.kind, rank(other))));
    words
}

fn decimals(currency: &str) -> u32 {
    exponent(currency).unwrap_or(2)
}

#[cfg(test)]
mod tests;
