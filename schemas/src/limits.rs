//! How large anything may be. Each is a setting of the collector; these are the defaults.

use crate::money;

/// Bounds on one request and on each event in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request body as it arrives.
    pub body_bytes_max: usize,
    /// Bytes of a request body after `Content-Encoding` is undone.
    pub inflated_bytes_max: usize,
    /// Events in one request.
    pub events_max: usize,
    /// Bytes of one event as it arrives, and of the `context` of a request's events.
    pub event_bytes_max: usize,
    /// Entries in `properties`.
    pub properties_max: usize,
    /// Items in `items`.
    pub items_max: usize,
    /// Bytes of any string but a URL.
    pub string_bytes_max: usize,
    /// Bytes of a URL (`url`, `referrer`).
    pub url_bytes_max: usize,
    /// Levels of objects and arrays, the event itself being the first.
    pub nesting_max: usize,
    /// Largest amount that an event sent with a write key may name: see [`untrusted_minor_max`].
    pub untrusted_amount_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            inflated_bytes_max: 8 << 20,
            events_max: 500,
            event_bytes_max: 64 << 10,
            properties_max: 100,
            items_max: 200,
            string_bytes_max: 8 << 10,
            url_bytes_max: 4 << 10,
            nesting_max: 8,
            untrusted_amount_max: 1_000_000,
        }
    }
}

/// The largest amount in minor units of a currency that an event sent with a write key may name, `units` being that of a
/// currency like the dollar or the euro: in one whose unit is worth less it is as many times more.
pub fn untrusted_minor_max(units: usize, currency: &str, exponent: u32) -> i128 {
    i128::try_from(units)
        .unwrap_or(i128::MAX)
        .saturating_mul(10_i128.pow(exponent).saturating_mul(i128::from(money::units_per_dollar(currency))))
}

/// How far ahead of its receipt an event's time may lie before the time of receipt takes its place.
pub const EVENT_AHEAD_MAX_MS: i64 = 24 * 3600 * 1000;

/// How old an event may be when its store does not say otherwise.
pub const EVENT_AGE_MAX_DAYS: u32 = 30;

/// Differences of `received_at − sent_at` up to this are network delay, not a wrong clock.
pub const CLOCK_SKEW_MIN_MS: i64 = 5 * 60 * 1000;

/// A gap this long between two events of a visitor starts a new session.
pub const SESSION_GAP_MS: i64 = 30 * 60 * 1000;

/// No derived session is longer than this.
pub const SESSION_LENGTH_MAX_MS: i64 = 24 * 3600 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_of_untrusted_amounts_is_worth_much_the_same_in_every_currency() {
        assert_eq!(untrusted_minor_max(1_000_000, "USD", 2), 100_000_000);
        assert_eq!(untrusted_minor_max(1_000_000, "KWD", 3), 1_000_000_000);
        assert_eq!(untrusted_minor_max(1_000_000, "JPY", 0), 100_000_000);
        assert_eq!(untrusted_minor_max(1_000_000, "VND", 0), 10_000_000_000);
        // However it is set, it stays far from where 64 bits end, after ten thousand events, too.
        assert!(untrusted_minor_max(1_000_000, "LBP", 2) * 10_000 < i128::from(i64::MAX));
    }
}
