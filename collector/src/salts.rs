//! Salts of visitors that are derived: one for the days that begin in the same hour, in whatever time zone.

use jiff::{Timestamp, tz::TimeZone};

const HOUR_MS: i64 = 3_600_000;

/// The time zone of stores that name none.
pub static UTC: TimeZone = TimeZone::UTC;

/// Hours after which the salt of the days that began in an hour is destroyed.
pub(crate) const HOURS_KEPT: i64 = 48;

/// Hours about this one whose salts are made: days of 25 hours that are under way may have begun in the first, and into a day
/// that begins in the last falls who has a clock that goes ahead.
pub(crate) const HOURS_MADE: std::ops::RangeInclusive<i64> = -25..=1;

/// A salt with its hour, in hours since 1970.
pub type Salt = (i64, [u8; 32]);

/// The salts that are known.
#[derive(Clone, Debug, Default)]
pub struct Salts(Vec<Salt>);

impl Salts {
    /// These salts.
    pub fn new(mut salts: Vec<Salt>) -> Self {
        salts.sort_unstable();
        Self(salts)
    }

    /// The same salt for all days within a month of an instant, for tests and measurements.
    pub fn same(salt: [u8; 32], around_ms: i64) -> Self {
        let hour = Self::hour(around_ms);
        Self::new((hour - 720..=hour + 720).map(|hour| (hour, salt)).collect())
    }

    /// The hour of an instant.
    pub(crate) fn hour(epoch_ms: i64) -> i64 {
        epoch_ms.div_euclid(HOUR_MS)
    }

    fn of_hour(&self, hour: i64) -> Option<&[u8; 32]> {
        self.0.binary_search_by_key(&hour, |(known, _)| *known).ok().map(|at| &self.0[at].1)
    }

    /// The salt of the day in `zone` that an instant lies in, with that day's beginning and end.
    pub(crate) fn of_day(&self, zone: &TimeZone, epoch_ms: i64) -> Option<(&[u8; 32], std::ops::Range<i64>)> {
        let now = Timestamp::from_millisecond(epoch_ms).ok()?.to_zoned(zone.clone());
        let day = now.start_of_day().ok()?;
        let next = day.tomorrow().ok()?.start_of_day().ok()?;
        let (begin, end) = (day.timestamp().as_millisecond(), next.timestamp().as_millisecond());
        Some((self.of_hour(Self::hour(begin))?, begin..end))
    }

    /// Whether the salts that must be made by then are there.
    pub(crate) fn are_made(&self, hour: i64) -> bool {
        HOURS_MADE.map(|apart| hour + apart).all(|hour| self.of_hour(hour).is_some())
    }

    /// Those that are not to be destroyed yet.
    pub(crate) fn kept(&self, hour: i64) -> Self {
        Self(self.0.iter().filter(|(known, _)| *known > hour - HOURS_KEPT).copied().collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(crate) fn hours(&self) -> Vec<i64> {
        self.0.iter().map(|(hour, _)| *hour).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_day_has_one_salt_and_the_next_another() {
        let noon = ms("2026-11-01T12:00:00Z");
        let salts = Salts::new(
            (-60..=60).map(|apart| (Salts::hour(noon) + apart, [(apart + 60) as u8; 32])).collect(),
        );
        let of = |zone: &str, at: &str| {
            salts.of_day(&TimeZone::get(zone).unwrap(), ms(at)).map(|(salt, _)| salt[0])
        };
        for (zone, begin, end) in [
            ("UTC", "2026-11-01T00:00:00Z", "2026-11-01T23:59:59.999Z"),
            ("Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-01T22:59:59.999Z"),
            // The clock goes back that day: it has 25 hours.
            ("America/New_York", "2026-11-01T04:00:00Z", "2026-11-02T04:59:59.999Z"),
            ("Asia/Kathmandu", "2026-10-31T18:15:00Z", "2026-11-01T18:14:59.999Z"),
            ("Pacific/Kiritimati", "2026-11-01T10:00:00Z", "2026-11-02T09:59:59.999Z"),
        ] {
            let first = of(zone, begin);
            assert!(first.is_some() && first == of(zone, end), "{zone}");
            let after = Timestamp::from_millisecond(ms(end) + 1).unwrap().to_string();
            let before = Timestamp::from_millisecond(ms(begin) - 1).unwrap().to_string();
            assert!(of(zone, &after) != first && of(zone, &before) != first, "{zone}");
        }
        assert_eq!(of("UTC", "2026-10-20T00:00:00Z"), None);
    }

    #[test]
    fn every_day_under_way_has_a_salt_and_none_for_longer_than_two_days() {
        let now = ms("2026-11-01T12:34:00Z");
        let hour = Salts::hour(now);
        let salts = Salts::new(HOURS_MADE.map(|apart| (hour + apart, [1; 32])).collect());
        assert!(salts.are_made(hour) && !salts.are_made(hour + 1));
        for name in ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu", "America/New_York", "UTC"] {
            let zone = TimeZone::get(name).unwrap();
            let (_, day) = salts.of_day(&zone, now).unwrap();
            assert!(day.contains(&now), "{name}");
            assert!(
                salts.kept(Salts::hour(day.end) - 1).of_day(&zone, now).is_some(),
                "{name}: as long as it lasts"
            );
            assert!(salts.kept(Salts::hour(day.start) + HOURS_KEPT).of_day(&zone, now).is_none(), "{name}");
        }
    }
}
