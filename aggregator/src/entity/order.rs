//! An order: what all its reports together say.
//!
//! * Of its `purchase` reports one wins: a server's before a browser's, then the earliest, then the one with the greater
//!   value, then the one with the smaller text. It gives the amounts.
//! * A browser's report **agrees** with it if it lies at most 7 days before it or 24 h after it, has its currency and, where
//!   it tells a value, its value. The order's time is the earliest of the winner's and of those that agree; who bought is told
//!   by the winner, else by the first that agrees and tells. So a server that confirms on Wednesday what a browser ordered on
//!   Monday leaves the order where the visit was.
//! * Words about it are heard in order of time; of one time updates come first and a cancellation last. Updates replace what
//!   they name; refunds and a cancellation take from the order, never more than is left, nor than its last total.
//! * What was sent with a write key counts only for an order that no server reported.
//!
//! A refund in another currency is converted into the order's by the rate of its day. Without a rate it stands by itself; an
//! untrusted one is then left out, as nothing would bound it.

use std::{cmp::Reverse, collections::BTreeMap};

use millrace_schemas::money::{exponent, from_float, line_minor, to_minor};

use crate::money::divide;

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
        for word in state.words(reports.iter().filter(counts), terms) {
            state.hear(word, terms);
        }
        let taken = state.settle();

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

/// An order as of the words that were heard so far.
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
    taken: Vec<Taken>,
    /// Of it, what is in the order's currency.
    taken_sum: i128,
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
            taken: Vec::new(),
            taken_sum: 0,
        };
        state.first_total = state.total();
        state
    }

    /// What the parts come to.
    fn sum(&self) -> i128 {
        let decimals = decimals(&self.currency);
        let lines: i128 = self.lines.iter().map(|line| line_minor(line.price, line.quantity, decimals)).sum();
        let tax = if self.prices_include_tax { 0 } else { self.tax };
        lines - self.discount + self.shipping + tax
    }

    fn total(&self) -> i128 {
        self.told.unwrap_or_else(|| self.sum().max(0)) + self.added_back
    }

    fn is_cancelled(&self) -> bool {
        self.taken.iter().any(|taken| taken.is_cancellation)
    }

    fn left(&self) -> i128 {
        (self.total() - self.taken_sum).max(0)
    }

    /// Whether a report is of the same purchase as the winner.
    fn agrees(&self, winner: &Report, report: &Report) -> bool {
        !report.trusted
            && report.at_ms >= winner.at_ms - AGREES_BEFORE_MS
            && report.at_ms <= winner.at_ms + AGREES_AFTER_MS
            && report.currency == winner.currency
            && report.value_minor.is_none_or(|value| i128::from(value) == self.first_total)
    }

    /// Updates, refunds (each once) and cancellations in the order in which they are heard. A refund without an id is one of its
    /// own if its value or its items are.
    fn words<'r>(&self, reports: impl Iterator<Item = &'r Report>, terms: &Terms<'_>) -> Vec<&'r Report> {
        let (mut updates, mut cancellations, mut refunds) = (Vec::new(), Vec::new(), BTreeMap::new());
        for report in sorted(reports) {
            match report.kind {
                Kind::Placed => {}
                Kind::Updated => updates.push(report),
                Kind::Cancelled => cancellations.push(report),
                Kind::Refunded => {
                    let content = report.refund_id.is_empty().then(|| {
                        let currency = self.currency_of(report).to_owned();
                        let mut lines: Vec<&Line> = report.lines.iter().collect();
                        lines.sort_unstable();
                        (self.value_of(report, &currency, terms), currency, lines)
                    });
                    refunds.entry((&report.refund_id, content)).or_insert(report);
                }
            }
        }
        // Of updates of one time the best is heard last, and stands.
        let refunds = sorted(refunds.into_values());
        let mut words: Vec<&Report> = updates.into_iter().rev().chain(refunds).chain(cancellations).collect();
        words.sort_by_key(|word| word.at_ms);
        words
    }

    fn hear(&mut self, word: &Report, terms: &Terms<'_>) {
        match word.kind {
            Kind::Placed => {}
            Kind::Updated => self.update(word, terms),
            Kind::Refunded => {
                if let Some((currency, amount)) = self.refunded(word, terms) {
                    self.take(word, currency, amount);
                }
            }
            // It is given up once; what was added to it since then goes, too.
            Kind::Cancelled if self.is_cancelled() && self.left() == 0 => {}
            Kind::Cancelled => self.take(word, self.currency.clone(), self.left()),
        }
    }

    /// Replaces what an update names; items as a whole, and unless it names a value the total is then theirs. One in another
    /// currency names nothing that could stand here.
    fn update(&mut self, update: &Report, terms: &Terms<'_>) {
        if self.currency_of(update) != self.currency {
            return;
        }
        let stored = if update.currency.is_empty() { terms.currency } else { &update.currency };
        let (stored, own) = (decimals(stored), decimals(&self.currency));
        for (amount, named) in [
            (&mut self.tax, update.tax_minor),
            (&mut self.shipping, update.shipping_minor),
            (&mut self.discount, update.discount_minor),
        ] {
            let named = named.map(|minor| rescale(minor.into(), stored, own));
            *amount = named.unwrap_or(*amount);
        }
        let value = self.value_of(update, &self.currency, terms);
        let names_items = !update.lines.is_empty();
        if names_items {
            self.lines.clone_from(&update.lines);
        }
        if value.is_some() || names_items {
            self.told = value;
            self.added_back = if update.refunds_included { self.taken_sum } else { 0 };
        }
    }

    /// What a refund takes, and in which currency. Nothing bounds one in another currency without a rate, so it needs a
    /// server's word.
    fn refunded(&self, word: &Report, terms: &Terms<'_>) -> Option<(String, i128)> {
        let currency = self.currency_of(word);
        // What it says itself, in its currency, and what it leaves to the order to say.
        let (said, charged) = match self.value_of(word, currency, terms) {
            Some(value) => (value, 0),
            None if word.lines.is_empty() => (0, self.left()),
            None => self.lines_of(word, currency),
        };
        let is_own = currency == self.currency || said == 0;
        let own =
            if is_own { Some(said) } else { (terms.convert)(word.at_ms, currency, &self.currency, said) };
        match own {
            Some(said) => Some((self.currency.clone(), (said + charged).clamp(0, self.left()))),
            None => word.trusted.then(|| (currency.to_owned(), said)),
        }
    }

    fn take(&mut self, word: &Report, currency: String, amount: i128) {
        if currency == self.currency {
            self.taken_sum += amount;
        }
        self.taken.push(Taken {
            at_ms: word.at_ms,
            currency,
            asked_currency: word.currency.clone(),
            amount,
            names_items: word.kind == Kind::Refunded && !word.lines.is_empty(),
            is_cancellation: word.kind == Kind::Cancelled && !self.is_cancelled(),
        });
    }

    /// All that was taken. An update may have left less than had been taken before it.
    fn settle(&mut self) -> Vec<Taken> {
        let mut left = self.total();
        for taken in self.taken.iter_mut().filter(|taken| taken.currency == self.currency) {
            taken.amount = taken.amount.min(left.max(0));
            left -= taken.amount;
        }
        std::mem::take(&mut self.taken)
    }

    /// A word's currency: the order's where it names none.
    fn currency_of<'s>(&'s self, word: &'s Report) -> &'s str {
        if word.currency.is_empty() { &self.currency } else { &word.currency }
    }

    /// A word's value, without its sign. One without a currency was stored with the decimals of the store's.
    fn value_of(&self, word: &Report, currency: &str, terms: &Terms<'_>) -> Option<i128> {
        let stored = if word.currency.is_empty() { terms.currency } else { &word.currency };
        let exact = || to_minor(from_float(word.value?)?, decimals(currency)).map(i128::from);
        let value = if decimals(stored) == decimals(currency) { None } else { exact() };
        value.or(word.value_minor.map(i128::from)).map(i128::abs)
    }

    /// What the lines of a refund come to: those with a price in its currency, and the others, which cost what the order
    /// charged (as updated, else as first sold), in the order's. Without a quantity it is the whole line. Signs do not matter,
    /// but for those of the order.
    fn lines_of(&self, word: &Report, currency: &str) -> (i128, i128) {
        let (mut said, mut charged) = (0, 0);
        let mut found: Vec<&Line> = Vec::new();
        for line in &word.lines {
            let sold =
                self.sold(&self.lines, line, &found).or_else(|| self.sold(&self.first_lines, line, &found));
            found.extend(sold);
            let (price, quantity) = (line.price.saturating_abs(), line.quantity.saturating_abs());
            let whole = sold.map_or(1_000, |sold| sold.quantity);
            if price != 0 {
                let quantity = if quantity == 0 { whole.saturating_abs() } else { quantity };
                said += line_minor(price, quantity, decimals(currency));
            } else if let Some(sold) = sold {
                let quantity = if quantity == 0 { whole } else { quantity * whole.signum() };
                charged += line_minor(sold.price, quantity, decimals(&self.currency));
            }
        }
        (said, charged)
    }

    /// The line that a refunded one is of: the first of its product, and of its variant where it names one, that none before it is
    /// of; without such a one the first.
    fn sold<'s>(&self, lines: &'s [Line], line: &Line, found: &[&Line]) -> Option<&'s Line> {
        let is_it = |sold: &&Line| {
            sold.product_id == line.product_id
                && (line.variant_id.is_empty() || sold.variant_id == line.variant_id)
        };
        let is_free = |sold: &&Line| !found.iter().any(|found| std::ptr::eq(*found, *sold));
        lines.iter().filter(is_it).find(is_free).or_else(|| lines.iter().find(is_it))
    }
}

/// An amount of minor units in those of another number of decimals, half away from zero.
fn rescale(minor: i128, from: u32, into: u32) -> i128 {
    divide(minor * 10_i128.pow(into), 10_i128.pow(from))
}

/// What decides between reports of one thing: the first wins.
fn rank(report: &Report) -> impl Ord + '_ {
    let Report { trusted, at_ms, value, value_minor, currency, lines, .. } = report;
    let Report { refund_id, visitor_id, session_id, user_id, .. } = report;
    let amounts = (report.tax_minor, report.shipping_minor, report.discount_minor);
    // Bits of numbers not below zero have their order.
    let value = value.map(|value| value.abs().to_bits());
    let text = (currency, visitor_id, session_id, user_id, amounts, lines, refund_id);
    (!trusted, *at_ms, Reverse(value), text, Reverse(*value_minor))
}

fn sorted<'a>(reports: impl Iterator<Item = &'a Report>) -> Vec<&'a Report> {
    let mut sorted: Vec<&Report> = reports.collect();
    sorted.sort_by(|one, other| rank(one).cmp(&rank(other)));
    sorted
}

fn decimals(currency: &str) -> u32 {
    exponent(currency).unwrap_or(2)
}

#[cfg(test)]
mod tests;
