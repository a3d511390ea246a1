//! A row's values in JSON: written by [`Cell::write_json`], read back by what serde is told beside each field.

use uuid::Uuid;

use super::cell::Cell;
use crate::time;

impl Cell<'_> {
    /// Appends the value.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        match *self {
            Cell::Symbol(text) | Cell::Text(text) => write_string(out, text),
            Cell::Uuid(id) => write_quoted(out, |out| {
                out.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
            }),
            Cell::U8(number) => write_unsigned(out, number.into()),
            Cell::U16(number) => write_unsigned(out, number.into()),
            Cell::U32(number) => write_unsigned(out, number.into()),
            Cell::U64(number) => write_unsigned(out, number),
            Cell::OptionU32(Some(number)) => write_unsigned(out, number.into()),
            Cell::OptionI64(Some(number)) => write_signed(out, number),
            Cell::OptionF64(Some(number)) => write_float(out, number),
            Cell::Instant(ms) | Cell::OptionInstant(Some(ms)) => {
                write_quoted(out, |out| time::write_instant(out, ms));
            }
            Cell::OptionU32(None)
            | Cell::OptionI64(None)
            | Cell::OptionF64(None)
            | Cell::OptionInstant(None) => out.extend_from_slice(b"null"),
            Cell::Date(days) => write_quoted(out, |out| time::write_date(out, days.into())),
            Cell::Texts(list) => write_list(out, list, |out, text| write_string(out, text)),
            // Quoted: as numbers readers would make floats of them.
            Cell::Millionths(list) => write_list(out, list, |out, number| write_decimal(out, *number, 6)),
            Cell::Thousandths(list) => write_list(out, list, |out, number| write_decimal(out, *number, 3)),
            Cell::Map(map) => {
                out.push(b'{');
                for (index, (key, value)) in map.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_string(out, key);
                    out.push(b':');
                    write_string(out, value);
                }
                out.push(b'}');
            }
        }
    }
}

fn write_quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn write_list<T>(out: &mut Vec<u8>, list: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn write_signed(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    write_unsigned(out, number.unsigned_abs());
}

fn write_unsigned(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// `"19.99"` of 19,990,000 with six decimals: no zero at its end.
fn write_decimal(out: &mut Vec<u8>, number: i64, decimals: u32) {
    let scale = 10_u64.pow(decimals);
    out.extend_from_slice(if number < 0 { b"\"-" } else { b"\"" });
    write_unsigned(out, number.unsigned_abs() / scale);
    let mut fraction = number.unsigned_abs() % scale;
    if fraction > 0 {
        out.push(b'.');
    }
    let mut place = scale / 10;
    while fraction > 0 {
        out.push(b'0' + (fraction / place) as u8);
        fraction %= place;
        place /= 10;
    }
    out.push(b'"');
}

/// JSON has no word for NaN and infinity; validation lets neither through, and null is the honest rest.
fn write_float(out: &mut Vec<u8>, number: f64) {
    use std::io::Write as _;
    if !number.is_finite() {
        return out.extend_from_slice(b"null");
    }
    // Written out, a large number would be an integer of up to 309 digits, which readers refuse beyond 64 bits; and minus
    // zero would be the integer 0.
    let is_plain = number.abs() < 1e15 && (number != 0.0 || number.is_sign_positive());
    let written = if is_plain { write!(out, "{number}") } else { write!(out, "{number:e}") };
    written.expect("writing to a Vec cannot fail");
}

/// For each byte: 0 as it is, otherwise the character after the backslash (`u`: as `\u00XX`).
const ESCAPES: [u8; 256] = {
    let mut table = [0_u8; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[b'\n' as usize] = b'n';
    table[b'\r' as usize] = b'r';
    table[b'\t' as usize] = b't';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let is_escaped = |byte: &u8| (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\');
    let mut written = 0;
    // Few texts have any such byte; without a way out of the loop sixteen bytes are looked at in one step.
    if !bytes.iter().fold(false, |any, byte| any | is_escaped(byte)) {
        out.extend_from_slice(bytes);
        return out.push(b'"');
    }
    for (index, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[byte as usize];
        if escape != 0 {
            out.extend_from_slice(&bytes[written..index]);
            out.extend_from_slice(&[b'\\', escape]);
            if escape == b'u' {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(&[
                    b'0',
                    b'0',
                    HEX[usize::from(byte >> 4)],
                    HEX[usize::from(byte & 15)],
                ]);
            }
            written = index + 1;
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

pub(super) mod instant {
    use serde::{Deserialize as _, Deserializer, de::Error as _};

    pub(in crate::row) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        let text = <&str>::deserialize(from)?;
        crate::time::parse_instant(text).ok_or_else(|| D::Error::custom("not an instant"))
    }
}

pub(super) mod option_instant {
    use serde::{Deserialize as _, Deserializer, de::Error as _};

    pub(in crate::row) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
        <Option<&str>>::deserialize(from)?
            .map(|text| crate::time::parse_instant(text).ok_or_else(|| D::Error::custom("not an instant")))
            .transpose()
    }
}

pub(super) mod date {
    use serde::{Deserialize as _, Deserializer, de::Error as _};

    pub(in crate::row) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
        let text = <&str>::deserialize(from)?;
        crate::time::parse_date(text)
            .and_then(|days| u16::try_from(days).ok())
            .ok_or_else(|| D::Error::custom("not a date"))
    }
}

pub(super) mod millionths {
    use serde::Deserializer;

    pub(in crate::row) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<i64>, D::Error> {
        from.deserialize_seq(super::Decimals { decimals: 6 })
    }
}

pub(super) mod thousandths {
    use serde::Deserializer;

    pub(in crate::row) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<i64>, D::Error> {
        from.deserialize_seq(super::Decimals { decimals: 3 })
    }
}

/// Reads a list of decimals, quoted or whole numbers (as an earlier release wrote quantities).
struct Decimals {
    decimals: u32,
}

impl<'de> serde::de::Visitor<'de> for Decimals {
    type Value = Vec<i64>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of decimals")
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<i64>, A::Error> {
        // A hostile size hint must not reserve memory.
        let mut numbers = Vec::with_capacity(list.size_hint().unwrap_or(0).min(1024));
        while let Some(number) = list.next_element_seed(OneDecimal { decimals: self.decimals })? {
            numbers.push(number);
        }
        Ok(numbers)
    }
}

struct OneDecimal {
    decimals: u32,
}

impl<'de> serde::de::DeserializeSeed<'de> for OneDecimal {
    type Value = i64;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<i64, D::Error> {
        from.deserialize_any(self)
    }
}

impl serde::de::Visitor<'_> for OneDecimal {
    type Value = i64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a decimal of at most {} places", self.decimals)
    }

    fn visit_u64<E: serde::de::Error>(self, whole: u64) -> Result<i64, E> {
        let number = i64::try_from(whole).ok().and_then(|whole| whole.checked_mul(10_i64.pow(self.decimals)));
        number.ok_or_else(|| E::custom("a decimal beyond 64 bits"))
    }

    fn visit_i64<E: serde::de::Error>(self, whole: i64) -> Result<i64, E> {
        whole.checked_mul(10_i64.pow(self.decimals)).ok_or_else(|| E::custom("a decimal beyond 64 bits"))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<i64, E> {
        parse_decimal(text, self.decimals).ok_or_else(|| E::custom("not a decimal"))
    }
}

fn parse_decimal(text: &str, decimals: u32) -> Option<i64> {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > decimals as usize || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let padding = 10_i64.pow(decimals - fraction.len() as u32);
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<i64>().ok()? * padding };
    // Below zero first: the least number has no counterpart above.
    let sign = if is_negative { -1 } else { 1 };
    let whole = whole.parse::<i64>().ok()?.checked_mul(sign * 10_i64.pow(decimals))?;
    whole.checked_add(sign * fraction)
}

pub(super) mod properties {
    use std::{borrow::Cow, fmt};

    use serde::{
        Deserializer,
        de::{MapAccess, Visitor},
    };

    use crate::row::Properties;

    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = Properties<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            // A hostile size hint must not reserve memory.
            let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(0).min(128));
            while let Some((key, value)) = map.next_entry::<&str, &str>()? {
                entries.push((key, Cow::Borrowed(value)));
            }
            Ok(entries)
        }
    }

    pub(in crate::row) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Properties<'de>, D::Error> {
        from.deserialize_map(Entries)
    }
}
