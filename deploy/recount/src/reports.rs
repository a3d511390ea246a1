//! Which reports of an order count, and for what.
//!
//! Whoever reads a page can report an order with its key. So the report that wins gives the amounts, and a browser's says
//! when and by whom the order was placed only where it agrees with the winner in them.

use super::{event::Event, money};

/// A browser's report agrees when it came so long before the winner,
const AGREES_BEFORE_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// or so long after it.
const AGREES_AFTER_MS: i64 = 24 * 60 * 60 * 1000;

/// The reports of one order that count.
#[derive(Clone, Debug)]
pub(super) struct Reports<'e> {
    /// Gives currency, amounts and lines.
    pub(super) winner: &'e Event,
    /// The earliest of the winner and those that agree: the order was placed at its time.
    pub(super) earliest: &'e Event,
    /// Tells visitor and session: the winner if it has a visitor, else the first that agrees and has one.
    pub(super) of_visitor: Option<&'e Event>,
    /// The user, found likewise.
    pub(super) user: Option<&'e str>,
}

impl<'e> Reports<'e> {
    /// Of all reports of an order, of which there is at least one. `total_of` says what an order costs by a report.
    pub(super) fn of(reports: &[&'e Event], total_of: impl Fn(&Event) -> i64) -> Self {
        let winner = first(reports);
        let total = total_of(winner);
        let mut agreeing: Vec<&Event> =
            reports.iter().copied().filter(|report| agrees(report, winner, total)).collect();
        agreeing.sort_by(|one, other| one.rank().cmp(&other.rank()));
        // A winner of a browser's agrees with itself.
        let counting = || std::iter::once(winner).chain(agreeing.iter().copied());
        Self {
            winner,
            earliest: counting().min_by_key(|report| report.at).unwrap_or(winner),
            of_visitor: counting().find(|report| report.visitor.is_some()),
            user: counting().find_map(|report| report.user.as_deref()),
        }
    }
}

/// The one that counts of several reports of one thing; there is at least one.
pub(super) fn first<'e>(reports: &[&'e Event]) -> &'e Event {
    let mut first = reports[0];
    for report in reports {
        if report.rank() < first.rank() {
            first = report;
        }
    }
    first
}

fn agrees(report: &Event, winner: &Event, total: i64) -> bool {
    let is_near = (-AGREES_BEFORE_MS..=AGREES_AFTER_MS).contains(&(report.at - winner.at));
    let has_value = report.value.is_none_or(|value| money::minor(value, &report.currency) == total);
    !report.trusted && is_near && report.currency == winner.currency && has_value
}
