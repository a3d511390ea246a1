//! Days, weeks and months of a store's time zone.

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};

/// The three lengths of period that rollups know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Period {
    Day,
    Week,
    Month,
}

impl Period {
    pub(super) const ALL: [Period; 3] = [Period::Day, Period::Week, Period::Month];

    /// As `period_type` spells it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
        }
    }

    /// First day of the period that contains `day`.
    pub(super) fn first_day(self, day: Date) -> Date {
        match self {
            Period::Day => day,
            Period::Week => day.saturating_sub(i64::from(day.weekday().to_monday_zero_offset()).days()),
            Period::Month => day.first_of_month(),
        }
    }

    /// First day of the period after the one that begins with `first`.
    pub(super) fn next(self, first: Date) -> Date {
        match self {
            Period::Day => first.saturating_add(1.day()),
            Period::Week => first.saturating_add(7.days()),
            Period::Month => first.saturating_add(1.month()),
        }
    }
}

/// A store's calendar.
pub(super) struct Calendar {
    time_zone: TimeZone,
}

impl Calendar {
    pub(super) fn new(time_zone: TimeZone) -> Self {
        Self { time_zone }
    }

    /// The store day that contains an instant.
    pub(super) fn day(&self, epoch_ms: i64) -> Date {
        let instant = Timestamp::from_millisecond(epoch_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        self.time_zone.to_datetime(instant).date()
    }
}
