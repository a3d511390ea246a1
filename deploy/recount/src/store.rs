//! The settings of a store that its rollups depend on.

use jiff::{civil::Date, tz::TimeZone};
use rust_decimal::Decimal;

use super::{
    funnels::Funnel,
    money::{self, Rates},
};

/// A store, as far as numbers depend on it.
#[derive(Clone, Debug)]
pub struct Store {
    /// Identity.
    pub store_id: String,
    /// Where its days begin.
    pub time_zone: TimeZone,
    /// Reporting currency, ISO 4217.
    pub currency: String,
    /// Prices hold the tax already, so that a total without a value does not add it.
    pub prices_include_tax: bool,
    /// Exchange rates into that currency.
    pub rates: Rates,
    /// Its funnels.
    pub funnels: Vec<Funnel>,
}

impl Store {
    /// An amount in the store's currency, by the rate of a day; half up.
    pub(super) fn convert(&self, minor: i64, currency: &str, day: Date) -> Option<i64> {
        self.exchange(minor, currency, &self.currency, day)
    }

    /// An amount of one currency in another, by the rates of both on a day, rounded once, half up.
    pub(super) fn exchange(&self, minor: i64, from: &str, into: &str, day: Date) -> Option<i64> {
        if from == into {
            return Some(minor);
        }
        let amount = Decimal::new(minor, money::exponent(from)) * self.rate(from, day)?;
        Some(money::minor(amount.checked_div(self.rate(into, day)?)?, into))
    }

    fn rate(&self, currency: &str, day: Date) -> Option<Decimal> {
        if currency == self.currency { Some(Decimal::ONE) } else { self.rates.of(currency, day) }
    }
}
