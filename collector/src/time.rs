//! Times as clients send them, and the time an event is given.

use jiff::{
    civil::{Date, DateTime, Time},
    fmt::{strtime::BrokenDownTime, temporal::Pieces},
    tz::{Offset, TimeZone},
};
use millrace_schemas::{
    limits::{CLOCK_SKEW_MIN_MS, EVENT_AHEAD_MAX_MS},
    time::{date_of, parse_date},
};

const DAY_MS: i64 = 86_400_000;

/// Instants that the log and the store can hold: 1900-01-01 to 2299-12-31. A clock beyond them is kept at the edge.
const CLIENT_TIMES: std::ops::RangeInclusive<i64> = -2_208_988_800_000..=10_413_791_999_999;

/// What lies further from an event's time is no reading of the same clock: zeros, counters, dates of nobody's. Correcting by it
/// would put an event on a day that nothing tells.
const CLOCK_APART_MAX_MS: i64 = 400 * DAY_MS;

/// JavaScript's dates end here; a number beyond is no time.
pub(crate) const EPOCH_MS_MAX: i64 = 8_640_000_000_000_000;

/// Numbers that can only be seconds of a clock that goes: as milliseconds they would be weeks in the beginning of 1970.
const EPOCH_SECONDS: std::ops::Range<i64> = 1_200_000_000..10_000_000_000;

/// Numbers that can only be microseconds: as milliseconds they would be some thirty thousand years from now.
const EPOCH_MICROS: std::ops::Range<i64> = 1_200_000_000_000_000..5_000_000_000_000_000;

/// The time that a number means, epoch milliseconds, and whether it is written as documented.
pub(crate) fn of_number(number: i64) -> (Option<i64>, bool) {
    match number {
        seconds if EPOCH_SECONDS.contains(&seconds) => (Some(seconds * 1000), false),
        micros if EPOCH_MICROS.contains(&micros) => (Some(micros.div_euclid(1000)), false),
        ms => (Some(ms), true),
    }
}

/// Likewise of one with a fraction.
pub(crate) fn of_float(number: f64) -> (Option<i64>, bool) {
    match number {
        number if !number.is_finite() || number.abs() > i64::MAX as f64 => (None, true),
        seconds if EPOCH_SECONDS.contains(&(seconds as i64)) => {
            (Some((seconds * 1000.0).floor() as i64), false)
        }
        number => of_number(number.floor() as i64),
    }
}

/// Likewise of a text: RFC 3339 with any offset or epoch milliseconds, as documented; besides, what programs print where
/// its meaning is certain ([`CIVIL_FORMATS`] and [`offset_of`] say it). A time without a zone and a date alone are UTC's.
pub(crate) fn of_text(text: &str) -> (Option<i64>, bool) {
    let (told, is_plain) = read_text(text);
    (told.map(|told| told.ms), is_plain)
}

/// Likewise of a text that tells what a clock shows: a whole instant, or a number. A date, or a time without a zone, is none:
/// correcting by it would move events by hours.
pub(crate) fn of_clock_text(text: &str) -> (Option<i64>, bool) {
    let (told, is_plain) = read_text(text);
    (told.filter(|told| told.is_instant).map(|told| told.ms), is_plain)
}

/// Reads whatever [`of_text`] does.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    of_text(text).0.filter(|ms| ms.abs() <= EPOCH_MS_MAX)
}

/// A time in a text.
struct InText {
    ms: i64,
    /// Whether the text says date, time of day and zone, or is a number: nothing was added to it.
    is_instant: bool,
}

impl InText {
    fn instant(ms: i64) -> Self {
        Self { ms, is_instant: true }
    }

    fn civil(civil: DateTime, offset_ms: Option<i64>) -> Option<Self> {
        let utc = civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond();
        Some(Self { ms: utc - offset_ms.unwrap_or(0), is_instant: offset_ms.is_some() })
    }
}

fn read_text(text: &str) -> (Option<InText>, bool) {
    let text = text.trim();
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let (ms, is_plain) = text.parse().map_or((None, true), of_number);
        return (ms.map(InText::instant), is_plain);
    }
    match parse_rfc3339(text) {
        Some(ms) => (Some(InText::instant(ms)), true),
        None => (parse_loosely(text), false),
    }
}

/// Longer texts are no times, what stands in brackets behind them included.
const TIME_BYTES_MAX: usize = 256;

/// No zone is further from UTC: 14 hours are the widest in use, and 18 what Java allows.
const OFFSET_MINUTES_MAX: i64 = 18 * 60;

/// What stands before the zone. Years have four digits.
const CIVIL_FORMATS: [&str; 9] = [
    // `2026-11-25 8:00:00`, `2026/11/25T08:00`; slashes have become hyphens.
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    // JavaScript's `Date.toString`; those of C, Java and Ruby have been brought into its order.
    "%a %b %d %Y %T",
    // RFC 2822 and 1123.
    "%a, %d %b %Y %T",
    "%d %b %Y %T",
    // RFC 850, and of cookies.
    "%A, %d-%b-%y %T",
    "%a, %d-%b-%Y %T",
];

#[cold]
fn parse_loosely(text: &str) -> Option<InText> {
    if text.len() > TIME_BYTES_MAX {
        return None;
    }
    // JavaScript's name of the zone, in the reader's language: `GMT+0100 (Central European Standard Time)`.
    let text = match text.split_once('(') {
        Some((time, name)) if name.ends_with(')') => time.trim_end(),
        _ => text,
    };
    // Go's monotonic clock.
    let text = text.split_once(" m=").map_or(text, |(time, _)| time);
    if !text.is_ascii() {
        return None;
    }
    if let Ok(number) = text.parse::<f64>() {
        return of_float(number).0.map(InText::instant);
    }
    parse_iso(text).or_else(|| parse_printed(text)).or_else(|| parse_mail(text))
}

/// ISO 8601, also without a zone or with a zone's name in brackets.
fn parse_iso(text: &str) -> Option<InText> {
    let pieces = Pieces::parse(text).ok()?;
    let civil = DateTime::from_parts(pieces.date(), pieces.time().unwrap_or_else(Time::midnight));
    if let Some(offset) = pieces.to_numeric_offset() {
        return InText::civil(civil, Some(offset_ms(offset)?));
    }
    match pieces.to_time_zone().ok()? {
        Some(zone) => {
            let ms = civil.to_zoned(zone).ok()?.timestamp().as_millisecond();
            Some(InText { ms, is_instant: pieces.time().is_some() })
        }
        None => InText::civil(civil, None),
    }
}

/// What programs print: [`CIVIL_FORMATS`] and perhaps a zone; or a date alone.
fn parse_printed(text: &str) -> Option<InText> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let text = match words.as_slice() {
        // `Sat Nov 28 10:00:00 2026` of C, `… UTC 2026` of Java and Unix, `… +0000 2026` of Ruby.
        [weekday, month, day, clock, zone @ .., year]
            if clock.contains(':') && zone.len() < 2 && four_digits(year) == Some("") =>
        {
            format!("{weekday} {month} {day} {year} {clock} {}", zone.concat())
        }
        // `2026/11/25`: where the year is first, the order of the rest is certain.
        [date, ..] if four_digits(date).is_some_and(|rest| rest.starts_with('/')) => text.replace('/', "-"),
        _ => text.into(),
    };
    let printed = CIVIL_FORMATS.iter().find_map(|format| {
        let (time, end) = BrokenDownTime::parse_prefix(format, &text).ok()?;
        let civil = time.to_datetime().ok().filter(|civil| civil.year() >= 1000)?;
        match text[end..].trim() {
            "" => InText::civil(civil, None),
            zone => InText::civil(civil, Some(offset_of(zone)?)),
        }
    });
    printed.or_else(|| {
        let date = Date::strptime("%Y-%m-%d", &text).ok().filter(|date| date.year() >= 1000)?;
        InText::civil(date.to_datetime(Time::midnight()), None)
    })
}

/// What stands behind four digits.
fn four_digits(text: &str) -> Option<&str> {
    let (digits, rest) = text.split_at_checked(4)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(rest)
}

/// What else mails have: two digits for a year, comments, `EST`. Zones whose names say nothing certain are taken for UTC, as the
/// RFC wants it, so this is no instant.
fn parse_mail(text: &str) -> Option<InText> {
    let time = jiff::fmt::rfc2822::parse(text).ok()?;
    offset_ms(time.offset())?;
    Some(InText { ms: time.timestamp().as_millisecond(), is_instant: false })
}

fn offset_ms(offset: Offset) -> Option<i64> {
    let seconds = i64::from(offset.seconds());
    (seconds.abs() <= OFFSET_MINUTES_MAX * 60).then_some(seconds * 1000)
}

/// What a zone is ahead of UTC, in milliseconds: `Z`, `UTC`, `GMT`, `+01:00`, `+0100`, `+01`, `GMT+0100`, and Go's, which has a
/// name behind the offset: `+0100 CET`.
fn offset_of(zone: &str) -> Option<i64> {
    let (zone, name) = zone.split_once(' ').unwrap_or((zone, ""));
    let is_name = |byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-');
    if !name.is_empty() && (name.len() > 5 || !name.bytes().all(is_name) || !zone.starts_with(['+', '-'])) {
        return None;
    }
    if matches!(zone, "Z" | "z" | "UTC" | "GMT") {
        return Some(0);
    }
    let offset = zone.strip_prefix("UTC").or_else(|| zone.strip_prefix("GMT")).unwrap_or(zone).as_bytes();
    let [sign @ (b'+' | b'-'), digits @ ..] = offset else { return None };
    let (hours, minutes) = match digits.len() {
        2 => (digits, &b"00"[..]),
        4 => digits.split_at(2),
        5 if digits[2] == b':' => (&digits[..2], &digits[3..]),
        _ => return None,
    };
    let minutes = minutes_of(two(hours)?, two(minutes)?)?;
    Some(minutes * 60_000 * if *sign == b'-' { -1 } else { 1 })
}

fn minutes_of(hours: i64, minutes: i64) -> Option<i64> {
    let all = hours * 60 + minutes;
    (minutes <= 59 && all <= OFFSET_MINUTES_MAX).then_some(all)
}

/// `2026-11-01T05:30:00.123456+01:00`: `T` may be a space or lower case, the fraction may be absent and is cut at
/// milliseconds; a leap second is the first moment of the next minute.
fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let days = parse_date(&text[..10])?;
    let (hour, minute, second) = clock(&bytes[11..19])?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = &bytes[19..];
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return None;
        }
        for place in 0..3 {
            ms = ms * 10 + fraction[..length].get(place).map_or(0, |digit| i64::from(digit - b'0'));
        }
        rest = &fraction[length..];
    }
    let offset_minutes = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), rest @ ..] if rest.len() == 5 && rest[2] == b':' => {
            minutes_of(two(&rest[..2])?, two(&rest[3..])?)? * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    Some(days * DAY_MS + (((hour * 60 + minute - offset_minutes) * 60) + second) * 1000 + ms)
}

fn clock(text: &[u8]) -> Option<(i64, i64, i64)> {
    (text[2] == b':' && text[5] == b':').then_some(())?;
    Some((two(&text[..2])?, two(&text[3..5])?, two(&text[6..8])?))
}

fn two(text: &[u8]) -> Option<i64> {
    let [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = text else { return None };
    Some(i64::from((tens - b'0') * 10 + ones - b'0'))
}

/// When an event happened, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventTime {
    pub(crate) event_time: i64,
    pub(crate) client_time: Option<i64>,
    pub(crate) source: TimeSource,
}

/// Where an event's time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeSource {
    /// The client's clock.
    Client,
    /// The client's clock, corrected by how wrong it was when it sent the event.
    Corrected,
    /// The client sent no time.
    Received,
    /// What the client's clock says is implausible.
    Replaced,
}

impl TimeSource {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            TimeSource::Client => "client",
            TimeSource::Corrected => "corrected",
            TimeSource::Received => "received",
            TimeSource::Replaced => "replaced",
        }
    }
}

/// What a client says of when an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A time of its clock, epoch milliseconds.
    At(i64),
    /// Milliseconds before it was received; no clock needs to be right for that.
    Ago(i64),
}

impl Told {
    fn time(self) -> Option<i64> {
        match self {
            Told::At(time) => Some(time),
            Told::Ago(_) => None,
        }
    }
}

/// Whether `sent_at` and an event's time may be readings of one clock, however wrong it is: a zero beside a date is none.
fn is_clock(sent_at: i64, told: Option<Told>) -> bool {
    matches!(told, Some(Told::At(time)) if time.abs_diff(sent_at) <= CLOCK_APART_MAX_MS.unsigned_abs())
}

/// Decides an event's time.
pub(crate) fn event_time(
    told: Option<Told>,
    sent_at: Option<i64>,
    received_at: i64,
    age_max_days: u32,
) -> EventTime {
    // Below the threshold the difference is mostly the network's delay, and correcting by it would add noise.
    let clock = sent_at.filter(|sent_at| is_clock(*sent_at, told));
    let skew = clock.map_or(0, |sent_at| received_at.saturating_sub(sent_at));
    let (time, source) = match told {
        None => {
            return EventTime { event_time: received_at, client_time: None, source: TimeSource::Received };
        }
        Some(Told::Ago(ms)) => (received_at.saturating_sub(ms), TimeSource::Client),
        Some(Told::At(time)) if skew.abs() > CLOCK_SKEW_MIN_MS => {
            (time.saturating_add(skew), TimeSource::Corrected)
        }
        Some(Told::At(time)) => (time, TimeSource::Client),
    };
    let oldest = received_at - i64::from(age_max_days) * DAY_MS;
    let plausible = (oldest..=received_at + EVENT_AHEAD_MAX_MS).contains(&time);
    EventTime {
        event_time: if plausible { time } else { received_at },
        client_time: told
            .and_then(Told::time)
            .map(|time| time.clamp(*CLIENT_TIMES.start(), *CLIENT_TIMES.end())),
        source: if plausible { source } else { TimeSource::Replaced },
    }
}

/// The date in an event's sorting key. It depends on what was sent alone: an event that is sent again, at any time,
/// must land on the same key. So an age says nothing here, and the time in a UUIDv7 beats a timestamp near it, of which some
/// senders make a new one each time. One that is far from it was made later, of history that is sent now.
pub(crate) fn key_date(told: Option<Told>, sent_event_id: Option<uuid::Uuid>) -> u16 {
    let of_id = sent_event_id.filter(|id| id.get_version_num() == 7).map(|id| (id.as_u128() >> 80) as i64);
    let time = match (told.and_then(Told::time), of_id) {
        (Some(told), Some(of_id)) if told.abs_diff(of_id) > DAY_MS as u64 => Some(told),
        (told, of_id) => of_id.or(told),
    };
    time.map_or(0, date_of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_793_511_000_123;
    const MINUTE: i64 = 60_000;

    #[test]
    fn times_are_read_in_every_form() {
        for text in [
            "2026-11-01T05:30:00.123Z",
            "2026-11-01t05:30:00.1239z",
            "2026-11-01 06:30:00.123+01:00",
            "2026-10-31T23:15:00.123-06:15",
            "1793511000123",
        ] {
            assert_eq!(parse_time(text), Some(NOW), "{text}");
        }
        for text in [
            "",
            "-",
            "now",
            "2026-13-01T05:30:00Z",
            "2026-02-29T05:30:00Z",
            "2026-11-01T24:30:00Z",
            "2026-11-01T05:30:00.Z",
            "99999999999999999",
            "2026-11-01T05:30:00.123ZZ",
            "2026-11-01T05:30:00é",
            "2026-11-01T05:30:00+25:00",
            "2026-11-01T05:30:00+18:01",
            "2026-11-01T05:30:00-2500",
            "2026-11-01T05:30:00+19",
            "2026-11-01T05:30:00 +2500",
            "2026-11-01T05:30:00+01:60",
            "Sun, 1 Nov 2026 05:30:00 +2500",
            "Sat, 1 Nov 2026 05:30:00 GMT",
            "Sat Nov 01 2026 05:30:00 GMT+0100",
            "Sun Nov 01 2026 05:30:00 GMT+0100 (",
            "Sun Nov 01 2026 05:30:00 GMT+2500",
            "01/11/2026 05:30:00",
            "10/11/12 05:30:00",
            "10-11-12 05:30:00",
            "2026/13/01 05:30:00",
            "2026-11-01 5:3x",
            "2026-11-01 5:30:00 +0100 then",
            "2026-11-01 5:30:00 Europe/Berlin",
            "2026-11-01 +01:00",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_read_where_their_meaning_is_certain() {
        for (text, wanted) in [
            ("2026-03-01", "2026-03-01T00:00:00Z"),
            ("2026-03-01T08:00:00", "2026-03-01T08:00:00Z"),
            ("2026-03-01 08:00", "2026-03-01T08:00:00Z"),
            ("2026-03-01T08:00Z", "2026-03-01T08:00:00Z"),
            ("2026-03-01T08:00:00+0000", "2026-03-01T08:00:00Z"),
            ("2026-03-01T08:00:00-0530", "2026-03-01T13:30:00Z"),
            ("2026-03-01T08:00:00+02", "2026-03-01T06:00:00Z"),
            ("2026-03-01 08:00:00 +0200", "2026-03-01T06:00:00Z"),
            ("2026-03-01 08:00:00 UTC", "2026-03-01T08:00:00Z"),
            ("2026-03-01T08:00:00,250Z", "2026-03-01T08:00:00.25Z"),
            ("Sun, 01 Mar 2026 08:00:00 GMT", "2026-03-01T08:00:00Z"),
            ("Sun, 1 Mar 2026 08:00:00 +0200", "2026-03-01T06:00:00Z"),
            ("Sun, 1 Mar 26 08:00:00 EST", "2026-03-01T13:00:00Z"),
            ("1 Mar 2026 8:00:00 +0100", "2026-03-01T07:00:00Z"),
            ("Sun, 01 Mar 2026 08:00:00 UTC", "2026-03-01T08:00:00Z"),
            ("Sunday, 01-Mar-26 08:00:00 GMT", "2026-03-01T08:00:00Z"),
            ("Sun, 01-Mar-2026 08:00:00 GMT", "2026-03-01T08:00:00Z"),
            ("Sun Mar 01 2026 08:00:00 GMT+0100 (Central European Standard Time)", "2026-03-01T07:00:00Z"),
            (
                "Sun Mar 01 2026 08:00:00 GMT-0330 (heure normale de Terre\u{2010}Neuve)",
                "2026-03-01T11:30:00Z",
            ),
            ("Sun Mar 01 2026 08:00:00 GMT+0300 (Москва (зима))", "2026-03-01T05:00:00Z"),
            ("Sun Mar 01 2026 08:00:00 GMT+0100", "2026-03-01T07:00:00Z"),
            ("Sun Mar 1 08:00:00 UTC+0100 2026", "2026-03-01T07:00:00Z"),
            ("Sun Mar  1 08:00:00 2026", "2026-03-01T08:00:00Z"),
            ("Sun Mar 01 08:00:00 GMT 2026", "2026-03-01T08:00:00Z"),
            ("Sun Mar 01 08:00:00 +0200 2026", "2026-03-01T06:00:00Z"),
            ("2026/03/01 08:00:00", "2026-03-01T08:00:00Z"),
            ("2026/03/01T08:00:00+02:00", "2026-03-01T06:00:00Z"),
            ("2026/3/1 8:00", "2026-03-01T08:00:00Z"),
            ("2026/03/01", "2026-03-01T00:00:00Z"),
            ("2026-3-1", "2026-03-01T00:00:00Z"),
            ("2026-03-01 8:00:00", "2026-03-01T08:00:00Z"),
            ("2026-03-01T8:00:00.5Z", "2026-03-01T08:00:00.5Z"),
            ("2026-03-01T08:00:00 Z", "2026-03-01T08:00:00Z"),
            ("2026-03-01T08:00:00.25 +02:00", "2026-03-01T06:00:00.25Z"),
            ("2026-03-01T08:00 -02", "2026-03-01T10:00:00Z"),
            ("2026-03-01T08:00:00-1800", "2026-03-02T02:00:00Z"),
            ("2026-03-01 08:00:00 +0000 UTC", "2026-03-01T08:00:00Z"),
            ("2026-03-01 08:00:00.123456789 +0100 CET m=+0.000000001", "2026-03-01T07:00:00.123Z"),
            ("2026-03-01 08:00:00 -0300 -03", "2026-03-01T11:00:00Z"),
            ("2026-03-01T08:00:00[Europe/Berlin]", "2026-03-01T07:00:00Z"),
            ("1772352000", "2026-03-01T08:00:00Z"),
            ("1772352000.25", "2026-03-01T08:00:00.25Z"),
            ("1772352000000000", "2026-03-01T08:00:00Z"),
        ] {
            assert_eq!(of_text(text), (parse_rfc3339(wanted), false), "{text}");
        }
        assert_eq!(of_text("2026-03-01T08:00:00+18:00"), of_text("2026-02-28T14:00:00Z"), "documented");
        // A clock that was never set shows milliseconds since 1970.
        assert_eq!(of_number(86_400_000), (Some(86_400_000), true));
        assert_eq!(of_float(1_772_352_000_123.9), (Some(1_772_352_000_123), true));
        assert_eq!(of_float(f64::NAN), (None, true));
    }

    #[test]
    fn a_clock_is_read_where_a_text_says_a_whole_instant() {
        for (text, ms) in [
            ("2026-11-01T05:30:00.123Z", Some(NOW)),
            ("2026-11-01 06:30:00.123+0100", Some(NOW)),
            ("2026-11-01T05:30:00.123 Z", Some(NOW)),
            ("2026-11-01 05:30:00.123 +0000 UTC", Some(NOW)),
            ("2026-11-01T06:30:00.123[Europe/Berlin]", Some(NOW)),
            ("Sun, 01 Nov 2026 05:30:00 GMT", Some(NOW - 123)),
            ("Sun Nov 01 2026 06:30:00 GMT+0100 (Central European Standard Time)", Some(NOW - 123)),
            ("1793511000123", Some(NOW)),
            ("1793511000.123", Some(NOW)),
            ("2026-11-28", None),
            ("2026/11/28", None),
            ("2026-11-28T00:36", None),
            ("2026-11-28 00:36:00", None),
            ("Sat Nov 28 00:36:00 2026", None),
            ("Sat, 28 Nov 2026 00:36:00 CET", None),
            ("2026-11-28[Europe/Berlin]", None),
            ("now", None),
        ] {
            assert_eq!(of_clock_text(text).0, ms, "{text}");
        }
    }

    #[test]
    fn what_is_no_clock_corrects_nothing() {
        let zero = parse_time("0001-01-01T00:00:00Z").unwrap();
        let most = CLOCK_APART_MAX_MS;
        let at = NOW - 3 * DAY_MS;
        for sent_at in [zero, 0, 1, 70_000, at - most - 1, at + most + 1, i64::MIN, i64::MAX] {
            let time = event_time(Some(Told::At(at)), Some(sent_at), NOW, 30);
            assert_eq!((time.event_time, time.source), (at, TimeSource::Client), "{sent_at}");
        }
        for sent_at in [zero, 70_000, NOW - 900 * DAY_MS, NOW + 900 * DAY_MS] {
            let time = event_time(Some(Told::At(sent_at - MINUTE)), Some(sent_at), NOW, 30);
            assert_eq!((time.event_time, time.source), (NOW - MINUTE, TimeSource::Corrected), "{sent_at}");
        }
    }

    #[test]
    fn wrong_clocks_are_corrected_and_impossible_times_replaced() {
        let time = |client: Option<i64>, sent_at| {
            let EventTime { event_time, source, .. } = event_time(client.map(Told::At), sent_at, NOW, 30);
            (event_time - NOW, source)
        };
        assert_eq!(time(None, Some(0)), (0, TimeSource::Received));
        assert_eq!(time(Some(NOW - MINUTE), None), (-MINUTE, TimeSource::Client));
        // Four minutes between sending and receipt are the network's, six are the clock's.
        assert_eq!(time(Some(NOW - 5 * MINUTE), Some(NOW - 4 * MINUTE)), (-5 * MINUTE, TimeSource::Client));
        assert_eq!(time(Some(NOW - 7 * MINUTE), Some(NOW - 6 * MINUTE)), (-MINUTE, TimeSource::Corrected));
        assert_eq!(time(Some(NOW + 90 * MINUTE), Some(NOW + 91 * MINUTE)), (-MINUTE, TimeSource::Corrected));
        assert_eq!(
            time(Some(10_000), Some(70_000)),
            (-MINUTE, TimeSource::Corrected),
            "a clock that was never set"
        );
        assert_eq!(time(Some(NOW + DAY_MS), None), (DAY_MS, TimeSource::Client));
        assert_eq!(time(Some(NOW + DAY_MS + 1), None), (0, TimeSource::Replaced));
        assert_eq!(time(Some(NOW - 30 * DAY_MS - 1), None), (0, TimeSource::Replaced));
        assert_eq!(time(Some(i64::MIN), Some(i64::MIN)), (0, TimeSource::Replaced));

        let ago = |ms| event_time(Some(Told::Ago(ms)), Some(NOW - 90 * MINUTE), NOW, 30);
        let five = EventTime { event_time: NOW - 5 * MINUTE, client_time: None, source: TimeSource::Client };
        assert_eq!(ago(5 * MINUTE), five, "no clock is asked");
        assert_eq!(ago(-MINUTE).event_time, NOW + MINUTE);
        assert_eq!(ago(31 * DAY_MS).source, TimeSource::Replaced);
        assert_eq!(ago(i64::MIN).source, TimeSource::Replaced);
    }

    #[test]
    fn the_key_date_knows_nothing_of_receipt() {
        let v7 = uuid::Uuid::parse_str("01a19a3b-6c00-7000-8000-000000000000").unwrap();
        let v4 = uuid::Uuid::parse_str("01a19a3b-6c00-4000-8000-000000000000").unwrap();
        let of_id = 0x01a1_9a3b_6c00;
        assert_eq!(key_date(None, Some(v7)), date_of(of_id));
        assert_eq!(key_date(None, Some(v4)), 0);
        assert_eq!(key_date(Some(Told::At(-5)), None), 0);
        assert_eq!(key_date(Some(Told::At(i64::MAX)), None), u16::MAX);
        assert_eq!(key_date(Some(Told::At(of_id)), Some(v4)), date_of(of_id));
        for ms in [0, 86_400_000, -5] {
            assert_eq!(key_date(Some(Told::Ago(ms)), Some(v7)), date_of(of_id));
            assert_eq!(key_date(Some(Told::Ago(ms)), None), 0);
        }
        // An id made at its event says the date, on whichever side of midnight a later timestamp is.
        let midnight = (of_id / DAY_MS + 1) * DAY_MS;
        for told in [midnight - 1, midnight, of_id - DAY_MS, of_id + DAY_MS] {
            assert_eq!(key_date(Some(Told::At(told)), Some(v7)), date_of(of_id));
        }
        for told in [of_id - DAY_MS - 1, of_id + DAY_MS + 1] {
            assert_eq!(key_date(Some(Told::At(told)), Some(v7)), date_of(told), "history that is sent now");
        }
    }

    proptest! {
        #[test]
        fn what_a_library_writes_is_read_alike(ms in -62_000_000_000_000_i64..250_000_000_000_000) {
            let text = jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
            prop_assert_eq!(parse_rfc3339(&text), Some(ms), "{}", text);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = parse_time(&text);
        }
    }
}
