//! Exact money: sums in minor units, conversion with a day's rate, division; everything half up, never a float.

use std::collections::{BTreeMap, HashMap};

use jiff::civil::Date;
use millrace_schemas::money::exponent;
use rust_decimal::Decimal;

use crate::calendar::shift;

/// `numerator / denominator`, rounded to a whole number, half away from zero; 0 where nothing is divided by.
pub fn divide(numerator: i128, denominator: i128) -> i128 {
    if denominator == 0 {
        return 0;
    }
    let (quotient, rest) = (numerator / denominator, numerator % denominator);
    if rest.unsigned_abs() >= denominator.unsigned_abs() - rest.unsigned_abs() {
        quotient + numerator.signum() * denominator.signum()
    } else {
        quotient
    }
}

/// `numerator / denominator` as a decimal with `decimals` places, half up; 0 where nothing is divided by.
pub fn ratio(numerator: i128, denominator: i128, decimals: u32) -> String {
    let scaled = numerator.saturating_mul(10_i128.pow(decimals));
    decimal_text(divide(scaled, denominator), decimals)
}

/// An integer of `decimals` places as text: `1234` with 2 is `12.34`.
pub fn decimal_text(minor: i128, decimals: u32) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let unit = 10_u128.pow(decimals);
    let amount = minor.unsigned_abs();
    if decimals == 0 {
        return format!("{sign}{amount}");
    }
    format!("{sign}{}.{:0width$}", amount / unit, amount % unit, width = decimals as usize)
}

/// What a column of 64 bits holds of an amount. Only a store that takes more than 9 × 10¹⁸ minor units sees the bound.
pub fn saturate(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

/// Days before a day of which the latest rate holds where it has none: banks publish on working days.
pub const RATE_AGE_MAX_DAYS: i64 = 7;

/// The rates into one currency, by day.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    base: String,
    by_day: HashMap<(Date, String), Decimal>,
}

impl Rates {
    /// Rates into `base`.
    pub fn new(base: impl Into<String>, rates: impl IntoIterator<Item = (Date, String, Decimal)>) -> Self {
        let by_day = rates.into_iter().map(|(date, currency, rate)| ((date, currency), rate)).collect();
        Self { base: base.into(), by_day }
    }

    /// The currency into which these convert.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// An amount of a day in one currency, in minor units of the base, rounded once; `None` without a rate.
    pub fn convert(&self, date: Date, currency: &str, minor: i128) -> Option<i128> {
        self.exchange(date, currency, &self.base, minor)
    }

    /// An amount of a day in one currency, in minor units of another, by the rates of both, rounded once; `None` without
    /// one of them.
    pub fn exchange(&self, date: Date, from: &str, into: &str, minor: i128) -> Option<i128> {
        if from == into {
            return Some(minor);
        }
        let (sold, bought) = (self.rate(date, from)?, self.rate(date, into)?);
        let decimals = |currency| exponent(currency).unwrap_or(2);
        // Both have a power of ten less than they may have in common.
        let (above, below) = (bought.scale() + decimals(into), sold.scale() + decimals(from));
        let common = above.min(below);
        let product =
            minor.checked_mul(sold.mantissa())?.checked_mul(10_i128.checked_pow(above - common)?)?;
        Some(divide(product, bought.mantissa().checked_mul(10_i128.checked_pow(below - common)?)?))
    }

    /// The rate of a day, else the latest of the days before.
    fn rate(&self, date: Date, currency: &str) -> Option<Decimal> {
        if currency == self.base {
            return Some(Decimal::ONE);
        }
        let mut days = (0..=RATE_AGE_MAX_DAYS).map(|back| shift(date, -back));
        days.find_map(|day| self.by_day.get(&(day, currency.to_owned()))).copied()
    }
}

/// Amounts of several currencies and days, each converted by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// What could be converted, minor units of the base.
    pub minor: i128,
    /// What had no rate, minor units by currency.
    pub unconverted: BTreeMap<String, i128>,
}

impl Converted {
    /// Adds an amount of a day in one currency; says whether it had a rate.
    pub fn add(&mut self, rates: &Rates, date: Date, currency: &str, minor: i128) -> bool {
        match rates.convert(date, currency, minor) {
            Some(converted) => {
                self.minor += converted;
                true
            }
            None => {
                *self.unconverted.entry(currency.to_owned()).or_default() += minor;
                false
            }
        }
    }

    /// `unconverted` as it is stored.
    pub fn unconverted_json(&self) -> serde_json::Value {
        self.unconverted
            .iter()
            .map(|(currency, minor)| (currency.clone(), serde_json::Value::from(saturate(*minor))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use proptest::prelude::*;

    #[test]
    fn halves_go_up() {
        for (a, b, is) in [(1, 2, 1), (3, 2, 2), (-1, 2, -1), (1, 3, 0), (2, 3, 1), (0, 5, 0), (5, 0, 0)] {
            assert_eq!(divide(a, b), is, "{a}/{b}");
        }
        assert_eq!(ratio(1, 3, 4), "0.3333");
        assert_eq!(ratio(2, 3, 4), "0.6667");
        assert_eq!(ratio(100, 8, 2), "12.50");
        assert_eq!(decimal_text(-5, 2), "-0.05");
        assert_eq!(decimal_text(1200, 0), "1200");
    }

    #[test]
    fn currencies_have_their_own_decimals() {
        let day = date(2026, 11, 1);
        let rates = Rates::new(
            "USD",
            [(day, "JPY".into(), "0.0065".parse().unwrap()), (day, "EUR".into(), "1.08505".parse().unwrap())],
        );
        assert_eq!(rates.convert(day, "JPY", 1000), Some(650));
        assert_eq!(rates.convert(day, "EUR", 1000), Some(1085));
        assert_eq!(rates.convert(day, "EUR", 10_000), Some(10_851));
        assert_eq!(rates.convert(day, "GBP", 10_000), None);
        // Over a weekend and holidays, and not for ever.
        assert_eq!(rates.convert(date(2026, 11, 8), "EUR", 10_000), Some(10_851));
        assert_eq!(rates.convert(date(2026, 11, 9), "EUR", 10_000), None);
        assert_eq!(rates.convert(date(2026, 10, 31), "EUR", 10_000), None);
        assert_eq!(rates.convert(day, "USD", 7), Some(7));
        // 1000 yen are 6.50 dollars, and those 5.99 euros.
        assert_eq!(rates.exchange(day, "JPY", "EUR", 1000), Some(599));
        assert_eq!(rates.exchange(day, "USD", "EUR", 10_851), Some(10_000));
        assert_eq!(rates.exchange(day, "USD", "GBP", 10_851), None);
    }

    proptest! {
        #[test]
        fn division_is_nearest(a in -1_000_000_i128..1_000_000, b in 1_i128..1000) {
            let quotient = divide(a, b);
            // |a/b − q| ≤ 1/2, and a half goes away from zero.
            prop_assert!((a - quotient * b).abs() * 2 <= b);
            if (a - quotient * b).abs() * 2 == b {
                prop_assert!(quotient.abs() * b > a.abs());
            }
        }
    }
}
