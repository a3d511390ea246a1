//! The settings of a store that its rollups depend on.

use jiff::tz::TimeZone;

use super::{funnels::Funnel, money::Rates};

/// A store, as far as numbers depend on it.
#[derive(Clone, Debug)]
pub struct Store {
    /// Identity.
    pub store_id: String,
    /// Where its days begin.
    pub time_zone: TimeZone,
    /// Reporting currency, ISO 4217.
    pub currency: String,
    /// Exchange rates into that currency.
    pub rates: Rates,
    /// Its funnels.
    pub funnels: Vec<Funnel>,
}
