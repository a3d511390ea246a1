//! Amounts, exchange rates, and the one way of rounding: once, half up.

use std::collections::BTreeMap;

use jiff::civil::Date;
use rust_decimal::{Decimal, RoundingStrategy, prelude::ToPrimitive as _};

use super::table::Value;

/// Exchange rates into the store's currency: 1 unit of the currency on that day.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// By day and currency.
    pub by_day: BTreeMap<(Date, String), Decimal>,
}

/// Decimals of a currency's minor unit. A currency that is none counts like most do.
pub(super) fn exponent(currency: &str) -> u32 {
    millrace_schemas::money::exponent(currency).unwrap_or(2)
}

/// An amount as sent, in minor units of its currency.
pub(super) fn minor(amount: Decimal, currency: &str) -> i64 {
    half_up_decimal(amount * Decimal::from(10_i64.pow(exponent(currency))))
}

/// `part / whole` with `decimals` decimals, half up; 0 when there is no whole. Neither may be negative.
pub(super) fn ratio(part: i64, whole: i64, decimals: u32) -> Decimal {
    if whole == 0 {
        return Decimal::ZERO;
    }
    let scaled = i128::from(part) * 10_i128.pow(decimals);
    let whole = i128::from(whole);
    Decimal::from_i128_with_scale((2 * scaled + whole).div_euclid(2 * whole), decimals)
}

/// `part / whole` as a whole number, half up; 0 when there is no whole.
pub(super) fn mean(part: i64, whole: i64) -> i64 {
    ratio(part, whole, 0).to_i64().unwrap_or(0)
}

/// The mean of milliseconds in whole seconds, rounded once.
pub(super) fn mean_seconds(total_ms: i64, count: i64) -> i64 {
    mean(total_ms, count * 1000)
}

/// Half up to a whole number.
pub(super) fn half_up_decimal(amount: Decimal) -> i64 {
    amount.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero).to_i64().unwrap_or(0)
}

/// Amounts that are added up by day and currency, and converted only then.
#[derive(Clone, Debug, Default)]
pub(super) struct Takings {
    by_day: BTreeMap<(Date, String), (i64, i64)>,
}

/// [`Takings`] in the store's currency, and what could not be converted.
#[derive(Clone, Debug, Default)]
pub(super) struct Converted {
    /// Minor units of the store's currency.
    pub(super) minor: i64,
    /// How many amounts are in `minor`.
    pub(super) count: i64,
    /// Minor units by currency that had no rate.
    pub(super) unconverted: BTreeMap<String, i64>,
}

impl Takings {
    pub(super) fn add(&mut self, day: Date, currency: &str, minor: i64) {
        let (sum, count) = self.by_day.entry((day, currency.to_string())).or_default();
        *sum += minor;
        *count += 1;
    }

    /// Converts the sum of each day and currency, rounding each.
    pub(super) fn convert(&self, rates: &Rates, into: &str) -> Converted {
        let mut converted = Converted::default();
        for ((day, currency), &(sum, count)) in &self.by_day {
            let rate = if currency == into {
                Some(Decimal::ONE)
            } else {
                rates.by_day.get(&(*day, currency.clone())).copied()
            };
            let Some(rate) = rate else {
                *converted.unconverted.entry(currency.clone()).or_default() += sum;
                continue;
            };
            let amount = Decimal::new(sum, exponent(currency)) * rate;
            converted.minor += minor(amount, into);
            converted.count += count;
        }
        converted
    }
}

impl Converted {
    /// The column `unconverted`.
    pub(super) fn rest(&self) -> Value {
        Value::Amounts(self.unconverted.clone())
    }
}
