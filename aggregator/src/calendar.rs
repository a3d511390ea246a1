//! Days, weeks and months of a store's time zone, and the instants at which they begin.
//!
//! A day is [local midnight, next local midnight): 23, 24 or 25 hours, or, where a zone once skipped a whole day, none.
//! Where local midnight does not exist, the day begins with the first instant after it.

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Weekday},
    tz::{Offset, TimeZone},
};
use millrace_schemas::zone::fixed_offset_seconds;

/// How events are grouped in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// A local day.
    Day,
    /// Monday to Sunday.
    Week,
    /// A month of the calendar.
    Month,
}

impl Period {
    /// All of them.
    pub const ALL: [Period; 3] = [Period::Day, Period::Week, Period::Month];

    /// The name in `period_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
        }
    }

    /// First day of the period that holds a day.
    pub fn start(self, date: Date) -> Date {
        match self {
            Period::Day => date,
            Period::Week => {
                let back = i64::from(date.weekday().since(Weekday::Monday));
                date.checked_sub(back.days()).unwrap_or(Date::MIN)
            }
            Period::Month => date.first_of_month(),
        }
    }

    /// First day of the period `n` after the one that begins on `start`.
    pub fn after(self, start: Date, n: i64) -> Date {
        let span = match self {
            Period::Day => jiff::Span::new().try_days(n),
            Period::Week => jiff::Span::new().try_weeks(n),
            Period::Month => jiff::Span::new().try_months(n),
        };
        span.and_then(|span| start.checked_add(span)).unwrap_or(Date::MAX)
    }
}

/// Days around a date, within what dates can be.
pub fn shift(date: Date, days: i64) -> Date {
    Period::Day.after(date, days)
}

/// All dates from one to another, both included.
pub fn dates(from: Date, to: Date) -> impl Iterator<Item = Date> {
    std::iter::successors(Some(from), |date| date.tomorrow().ok()).take_while(move |date| *date <= to)
}

/// A store's calendar.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
}

impl Calendar {
    /// The calendar of an IANA time zone, or of a fixed offset like `+05:30`.
    pub fn new(zone: &str) -> Option<Self> {
        if let Some(seconds) = fixed_offset_seconds(zone) {
            return Offset::from_seconds(seconds).ok().map(|offset| Self { zone: TimeZone::fixed(offset) });
        }
        // A POSIX rule or a file path is no IANA name, and jiff's lookup knows none.
        jiff::tz::db().get(zone).ok().map(|zone| Self { zone })
    }

    /// The local day of an instant.
    pub fn date(&self, epoch_ms: i64) -> Date {
        let instant = Timestamp::from_millisecond(epoch_ms).unwrap_or(Timestamp::MAX);
        self.zone.to_datetime(instant).date()
    }

    /// The instant at which a local day begins, epoch milliseconds.
    pub fn start(&self, date: Date) -> i64 {
        date.to_zoned(self.zone.clone()).map_or(Timestamp::MAX, |zoned| zoned.timestamp()).as_millisecond()
    }

    /// The instant at which a local day ends.
    pub fn end(&self, date: Date) -> i64 {
        self.start(shift(date, 1))
    }

    /// The instants at which the periods from the one of `from` to the one of `to` begin, and the end of the last.
    pub fn grid(&self, period: Period, from: Date, to: Date) -> Grid {
        let mut dates = Vec::new();
        let mut starts = Vec::new();
        let last = period.start(to);
        let mut date = period.start(from);
        // At the end of what dates can be nothing comes after.
        while date <= last && dates.last() != Some(&date) {
            let start = self.start(date);
            // Of a day that a zone skipped nothing is left: it begins where the next one does.
            if starts.last() == Some(&start) {
                dates.pop();
                starts.pop();
            }
            dates.push(date);
            starts.push(start);
            date = period.after(date, 1);
        }
        Grid { dates, starts, end: self.start(date) }
    }
}

/// Consecutive periods with the instants at which they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// First day of each period.
    pub dates: Vec<Date>,
    /// The instant at which each begins, epoch milliseconds, ascending.
    pub starts: Vec<i64>,
    /// The end of the last.
    pub end: i64,
}

impl Grid {
    /// The first instant.
    pub fn lo(&self) -> i64 {
        self.starts.first().copied().unwrap_or(self.end)
    }

    /// The period that begins at, or holds, an instant within the grid.
    pub fn date(&self, epoch_ms: i64) -> Option<Date> {
        if epoch_ms >= self.end {
            return None;
        }
        let index = self.starts.partition_point(|start| *start <= epoch_ms).checked_sub(1)?;
        self.dates.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn days_have_as_many_hours_as_the_clocks_say() {
        for (zone, day, hours) in [
            ("America/New_York", date(2026, 11, 1), 25),
            ("America/New_York", date(2026, 3, 8), 23),
            ("Europe/Berlin", date(2026, 10, 25), 25),
            ("UTC", date(2026, 11, 1), 24),
            ("+05:30", date(2026, 11, 1), 24),
            // Clocks go forward at midnight: the day begins at one.
            ("America/Havana", date(2026, 3, 8), 23),
            // The island skipped this day.
            ("Pacific/Apia", date(2011, 12, 30), 0),
        ] {
            let calendar = Calendar::new(zone).unwrap();
            assert_eq!(calendar.end(day) - calendar.start(day), hours * HOUR, "{zone} {day}");
        }
        assert_eq!(Calendar::new("+05:30").unwrap().start(date(1970, 1, 2)), 24 * HOUR - 330 * 60_000);
        assert_eq!(Calendar::new("-03:00").unwrap().start(date(1970, 1, 1)), 3 * HOUR);
        assert!(Calendar::new("Mars/Olympus").is_none() && Calendar::new("+25:00").is_none());
    }

    #[test]
    fn weeks_begin_on_monday() {
        assert_eq!(Period::Week.start(date(2026, 11, 1)), date(2026, 10, 26));
        assert_eq!(Period::Week.start(date(2026, 11, 2)), date(2026, 11, 2));
        assert_eq!(Period::Month.after(date(2026, 12, 1), 2), date(2027, 2, 1));
    }

    #[test]
    fn a_grid_has_no_empty_period() {
        let grid =
            Calendar::new("Pacific/Apia").unwrap().grid(Period::Day, date(2011, 12, 29), date(2011, 12, 31));
        assert_eq!(grid.dates, [date(2011, 12, 29), date(2011, 12, 31)]);
    }

    #[test]
    fn a_grid_ends_where_dates_do() {
        for zone in ["UTC", "America/New_York", "Asia/Tokyo"] {
            let grid = Calendar::new(zone).unwrap().grid(Period::Day, Date::MAX, Date::MAX);
            assert_eq!(grid.dates, [Date::MAX], "{zone}");
        }
    }

    proptest! {
        #[test]
        fn an_instant_lies_in_its_day(
            ms in 0_i64..4_102_444_800_000,
            zone in proptest::sample::select(vec![
                "America/New_York", "Europe/London", "Asia/Kathmandu", "Pacific/Apia", "America/Havana",
                "Australia/Lord_Howe", "Africa/Casablanca", "UTC", "+05:45", "-09:30",
            ]),
        ) {
            let calendar = Calendar::new(zone).unwrap();
            let day = calendar.date(ms);
            prop_assert!(calendar.start(day) <= ms && ms < calendar.end(day));
            for period in Period::ALL {
                let grid = calendar.grid(period, shift(day, -3), shift(day, 3));
                prop_assert_eq!(grid.date(ms), Some(period.start(day)));
                prop_assert!(grid.starts.is_sorted_by(|a, b| a < b));
            }
        }
    }
}
