//! What `millrace demo` shows at its end.

use std::fmt::Write as _;

use millrace_recount::{Table, Value};
use rust_decimal::{Decimal, prelude::ToPrimitive as _};

use super::Outcome;

/// Columns of a full bar.
const BAR: usize = 40;

/// The summary as text.
pub(super) fn draw(outcome: &Outcome, tables: &[Table]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, outcome, tables);
    text
}

fn write(text: &mut String, outcome: &Outcome, tables: &[Table]) -> std::fmt::Result {
    let sent = &outcome.sent;
    let rejected: usize = sent.rejected.values().sum();
    let seconds = sent.took.as_secs_f64();
    writeln!(
        text,
        "\n{} requests in {seconds:.1} s: {} events accepted ({:.0}/s), {rejected} refused for {} reasons, \
         {} sent again on request.",
        sent.requests,
        sent.accepted,
        sent.accepted as f64 / seconds.max(0.001),
        sent.rejected.len(),
        sent.retries
    )?;
    writeln!(text, "Store {} (API token {}).\n", outcome.account.store_id, outcome.account.api_token)?;

    revenue(text, &outcome.store.currency, tables)?;

    writeln!(text, "{:<20} {:>8} {:>12}", "rollup", "rows", "differences")?;
    writeln!(text, "{}", "─".repeat(42))?;
    for (table, rows, differences) in &outcome.verdict.tables {
        let mark = if *differences == 0 { "✓" } else { "✗" };
        writeln!(text, "{table:<20} {rows:>8} {differences:>12} {mark}")?;
    }
    match outcome.verdict.is_equal() && sent.wrong_answers == 0 {
        true => writeln!(text, "\nEvery row is what the recount of the sent events says."),
        false => writeln!(text),
    }
}

/// Revenue per day, as bars.
fn revenue(text: &mut String, currency: &str, tables: &[Table]) -> std::fmt::Result {
    let days: Vec<(String, Decimal)> = tables
        .iter()
        .filter(|table| table.name == "analytics_summary")
        .flat_map(|table| table.rows.values())
        .filter(|row| row["period_type"] == Value::Text("day".into()))
        .filter_map(|row| match &row["total_revenue"] {
            Value::Number(revenue) => Some((row["date"].to_string(), *revenue)),
            _ => None,
        })
        .collect();
    let most = days.iter().map(|(_, revenue)| *revenue).max().unwrap_or_default().max(Decimal::ONE);
    writeln!(text, "Revenue per day, {currency} (other currencies where a rate is known)")?;
    for (day, revenue) in days {
        let length = (revenue / most * Decimal::from(BAR)).round().to_usize().unwrap_or(0);
        writeln!(text, "{day}  {:<BAR$}  {revenue}", "█".repeat(length))?;
    }
    writeln!(text)
}
