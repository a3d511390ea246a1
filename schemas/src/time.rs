//! Instants and dates as numbers, and as the text that the JSON rows carry (`2026-11-01 05:30:00.123`, UTC).

const DAY_MS: i64 = 86_400_000;

/// Days since 1970-01-01 of an instant, clamped to what a ClickHouse `Date` holds (1970-01-01 to 2149-06-06).
pub fn date_of(epoch_ms: i64) -> u16 {
    u16::try_from(epoch_ms.div_euclid(DAY_MS).max(0)).unwrap_or(u16::MAX)
}

/// Year, month, day of a day number (Howard Hinnant's days-to-civil algorithm).
pub fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// Day number of a year, month, day: the inverse of [`civil`].
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn put_digits(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Appends `YYYY-MM-DD`.
pub fn write_date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00";
    put_digits(&mut text[0..4], year as u32);
    put_digits(&mut text[5..7], month);
    put_digits(&mut text[8..10], day);
    out.extend_from_slice(&text);
}

/// Appends `YYYY-MM-DD hh:mm:ss.mmm` in UTC.
pub fn write_instant(out: &mut Vec<u8>, epoch_ms: i64) {
    write_date(out, epoch_ms.div_euclid(DAY_MS));
    let ms = epoch_ms.rem_euclid(DAY_MS) as u32;
    let mut text = *b" 00:00:00.000";
    put_digits(&mut text[1..3], ms / 3_600_000);
    put_digits(&mut text[4..6], ms / 60_000 % 60);
    put_digits(&mut text[7..9], ms / 1000 % 60);
    put_digits(&mut text[10..13], ms % 1000);
    out.extend_from_slice(&text);
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0')))
}

/// Reads what [`write_date`] writes.
pub fn parse_date(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(&bytes[0..4])?, digits(&bytes[5..7])?, digits(&bytes[8..10])?);
    let days = days_from_civil(i64::from(year), month, day);
    ((1..=12).contains(&month) && civil(days) == (i64::from(year), month, day)).then_some(days)
}

/// Reads what [`write_instant`] writes.
pub fn parse_instant(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 23 || !text.is_ascii() {
        return None;
    }
    let (hour, minute) = (digits(&bytes[11..13])?, digits(&bytes[14..16])?);
    let (second, ms) = (digits(&bytes[17..19])?, digits(&bytes[20..23])?);
    let marks = (bytes[10], bytes[13], bytes[16], bytes[19]);
    if marks != (b' ', b':', b':', b'.') || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let day_ms = ((hour * 60 + minute) * 60 + second) * 1000 + ms;
    Some(parse_date(&text[..10])? * DAY_MS + i64::from(day_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_instants() {
        let mut out = Vec::new();
        write_instant(&mut out, 1_793_511_000_123);
        assert_eq!(std::str::from_utf8(&out).unwrap(), "2026-11-01 05:30:00.123");
        assert_eq!(parse_date("2026-02-29"), None);
        assert_eq!(parse_instant("2026-11-01 24:00:00.000"), None);
        assert_eq!(parse_instant("2026-11-01T05:30:00.123"), None);
    }

    proptest! {
        #[test]
        fn instants_come_back(ms in 0_i64..4_102_444_800_000) {
            let mut out = Vec::new();
            write_instant(&mut out, ms);
            prop_assert_eq!(parse_instant(std::str::from_utf8(&out).unwrap()), Some(ms));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,30}") {
            let _ = parse_instant(&text);
        }
    }
}
