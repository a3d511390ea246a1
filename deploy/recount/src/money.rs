//! Amounts, exchange rates, and the one way of rounding: once, half up.

use std::collections::BTreeMap;

use jiff::{ToSpan as _, civil::Date};
use rust_decimal::{Decimal, RoundingStrategy, prelude::ToPrimitive as _};

use super::table::Value;

/// A day without a rate takes the latest of so many days before: banks publish on working days.
const RATE_AGE_DAYS_MAX: i64 = 7;

/// Exchange rates into the store's currency: 1 unit of the currency on that day.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// By day and currency.
    pub by_day: BTreeMap<(Date, String), Decimal>,
}

impl Rates {
    /// That of a day, else the latest of the days before.
    pub(super) fn of(&self, currency: &str, day: Date) -> Option<Decimal> {
        let days = (0..=RATE_AGE_DAYS_MAX).map(|age| day.saturating_sub(age.days()));
        let mut rates = days.filter_map(|day| self.by_day.get(&(day, currency.to_string())).copied());
        rates.next()
    }
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
    rounded(amount, 0).to_i64().unwrap_or(0)
}

/// Half up to so many decimals; halves below zero go away from it.
pub(super) fn rounded(amount: Decimal, decimals: u32) -> Decimal {
    amount.round_dp_with_strategy(decimals, RoundingStrategy::MidpointAwayFromZero)
}

/// A sum in the store's currency, and what could not be converted.
#[derive(Clone, Debug, Default)]
pub(super) struct Takings {
    /// Minor units of the store's currency.
    pub(super) minor: i64,
    /// How many amounts are in `minor`.
    pub(super) count: i64,
    /// Minor units by currency that had no rate.
    unconverted: BTreeMap<String, i64>,
}

impl Takings {
    /// Adds an amount in its own currency, and in the store's if it could be converted.
    pub(super) fn add(&mut self, minor: i64, currency: &str, converted: Option<i64>) {
        match converted {
            Some(converted) => {
                self.minor += converted;
                self.count += 1;
            }
            None => *self.unconverted.entry(currency.to_string()).or_default() += minor,
        }
    }

    /// The column `unconverted`.
    pub(super) fn rest(&self) -> Value {
        Value::Amounts(self.unconverted.clone())
    }
}
