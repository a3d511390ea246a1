//! Time zones of stores: a name of IANA's, or a fixed offset.

/// The offset that a text like `+05:30` or `-03:00` is, in seconds east of Greenwich. Whole quarters of an hour alone: at
/// every midnight one begins.
pub fn fixed_offset_seconds(zone: &str) -> Option<i32> {
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i32>().ok().filter(|_| is_number)
    };
    let (hours, minutes) = rest.split_once(':')?;
    let minutes = number(hours)? * 60 + number(minutes)?;
    (minutes <= 14 * 60 && minutes % 15 == 0 && number(rest.split_at(3).1)? < 60)
        .then_some(sign * minutes * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read() {
        for (zone, seconds) in [
            ("+05:30", Some(19_800)),
            ("-03:00", Some(-10_800)),
            ("+00:00", Some(0)),
            ("+14:00", Some(50_400)),
            ("+05:45", Some(20_700)),
            ("+14:15", None),
            ("+05:20", None),
            ("+05:75", None),
            ("+5:30", None),
            ("+0530", None),
            ("+ 5:30", None),
            ("05:30", None),
            ("+-5:30", None),
            ("", None),
            ("é", None),
            ("Europe/Berlin", None),
        ] {
            assert_eq!(fixed_offset_seconds(zone), seconds, "{zone}");
        }
    }
}
