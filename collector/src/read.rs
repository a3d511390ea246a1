//! Typed reads of an event's fields: each says which field was wrong, and how.

use std::net::IpAddr;

use millrace_schemas::{
    limits::Limits,
    money,
    reject::{Reason, Rejection},
};
use rust_decimal::Decimal;
use simd_json::{Node, StaticNode};

use crate::time::{EPOCH_MS_MAX, parse_time};

/// A value that cannot be used, before it is known under which name it was sent.
pub(crate) type Read<T> = Result<T, Rejection>;

fn wrong_type<T>(name: &str, wanted: &str) -> Read<T> {
    Err(Rejection::new(Reason::WrongType, format!("`{name}` must be {wanted}")))
}

pub(crate) fn out_of_range<T>(name: &str, range: &str) -> Read<T> {
    Err(Rejection::new(Reason::OutOfRange, format!("`{name}` must be {range}")))
}

/// A string of at most `bytes_max` bytes.
pub(crate) fn text<'t>(name: &str, value: Node<'t>, bytes_max: usize) -> Read<&'t str> {
    match value {
        Node::String(text) if text.len() <= bytes_max => Ok(text),
        Node::String(text) => {
            let detail = format!("`{name}` has {} bytes, at most {bytes_max}", text.len());
            Err(Rejection::new(Reason::TooLong, detail))
        }
        _ => wrong_type(name, "a string"),
    }
}

/// A number, or a string that holds one.
pub(crate) fn number(name: &str, value: Node<'_>) -> Read<f64> {
    let number = match value {
        Node::Static(StaticNode::U64(number)) => number as f64,
        Node::Static(StaticNode::I64(number)) => number as f64,
        Node::Static(StaticNode::F64(number)) => number,
        Node::String(text) if is_decimal(text) => text.parse().unwrap_or(f64::INFINITY),
        _ => return wrong_type(name, "a number"),
    };
    if number.is_finite() { Ok(number) } else { out_of_range(name, "a finite number") }
}

/// A number from 0 to `most`; browsers report fractions of pixels, which are rounded.
pub(crate) fn size<T: TryFrom<u32>>(name: &str, value: Node<'_>, most: T) -> Read<T>
where
    u32: From<T>,
{
    let most = u32::from(most);
    let number = match value {
        Node::Static(StaticNode::U64(number)) => number as f64,
        Node::Static(StaticNode::I64(number)) => number as f64,
        Node::Static(StaticNode::F64(number)) => number,
        _ => return wrong_type(name, "a number"),
    };
    let rounded = number.round();
    if !(0.0..=f64::from(most)).contains(&rounded) {
        return out_of_range(name, &format!("from 0 to {most}"));
    }
    T::try_from(rounded as u32).or_else(|_| out_of_range(name, &format!("from 0 to {most}")))
}

/// A whole number that fits into 32 bits.
pub(crate) fn whole(name: &str, value: Node<'_>) -> Read<u32> {
    let number = number(name, value)?;
    if number.fract() != 0.0 {
        return wrong_type(name, "a whole number");
    }
    if !(0.0..=f64::from(u32::MAX)).contains(&number) {
        return out_of_range(name, "from 0 to 4294967295");
    }
    Ok(number as u32)
}

/// Whether a string is a plain decimal: digits, perhaps a sign and a fraction.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.len() <= 40
        && digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().filter(|byte| *byte == b'.').count() <= 1
}

/// An amount of money in minor units of a currency with `exponent` decimals, not below zero.
pub(crate) fn amount(name: &str, value: Node<'_>, exponent: u32) -> Read<i64> {
    let (is_negative, minor) = match value {
        Node::Static(StaticNode::F64(number)) => match short_float(number, exponent) {
            Some(minor) => (number < 0.0, Some(minor)),
            None => {
                (number < 0.0, money::from_float(number).and_then(|amount| money::to_minor(amount, exponent)))
            }
        },
        Node::Static(StaticNode::U64(number)) => (false, money::to_minor(Decimal::from(number), exponent)),
        Node::Static(StaticNode::I64(number)) => {
            (number < 0, money::to_minor(Decimal::from(number), exponent))
        }
        Node::String(text) if is_decimal(text) => {
            let amount = text.parse::<Decimal>().ok();
            let is_negative = amount.is_some_and(|amount| amount < Decimal::ZERO);
            (is_negative, amount.and_then(|amount| money::to_minor(amount, exponent)))
        }
        _ => return wrong_type(name, "an amount: a number or a decimal in a string"),
    };
    // The sign is that of what was sent: -0.001 is negative, though it would be 0 in minor units.
    if is_negative {
        return Err(Rejection::new(Reason::NegativeAmount, format!("`{name}` is below zero")));
    }
    minor.map_or_else(|| out_of_range(name, "an amount of at most 64 bits of minor units"), Ok)
}

/// The common case of [`money::from_float`] without a decimal: an amount with no more decimals than its currency has.
/// A float that is the nearest to `minor / 10^exponent`, with few enough digits, was written so.
#[inline]
fn short_float(number: f64, exponent: u32) -> Option<i64> {
    let scale = f64::from(10_u32.pow(exponent));
    let minor = (number * scale).round();
    // One comparison for "too large" and NaN: 10^14 keeps the whole within the 15 digits that a float is sure of.
    (minor.abs() < 1e14 && minor / scale == number).then_some(minor as i64)
}

/// RFC 3339, or epoch milliseconds as a number or as digits.
pub(crate) fn instant(name: &str, value: Node<'_>) -> Read<i64> {
    let ms = match value {
        Node::Static(StaticNode::I64(ms)) => Some(ms),
        Node::Static(StaticNode::U64(ms)) => i64::try_from(ms).ok(),
        Node::Static(StaticNode::F64(ms)) if ms.abs() <= EPOCH_MS_MAX as f64 => Some(ms.floor() as i64),
        Node::String(text) => parse_time(text),
        _ => None,
    };
    ms.filter(|ms| (-EPOCH_MS_MAX..=EPOCH_MS_MAX).contains(ms)).ok_or_else(|| {
        let detail = format!("`{name}` is neither RFC 3339 nor epoch milliseconds");
        Rejection::new(Reason::InvalidTimestamp, detail)
    })
}

/// An IP address, or none where the string is empty.
pub(crate) fn address(name: &str, value: Node<'_>) -> Read<Option<IpAddr>> {
    match value {
        Node::String("") => Ok(None),
        Node::String(text) => text.trim().parse().map(Some).or_else(|_| wrong_type(name, "an IP address")),
        _ => wrong_type(name, "an IP address"),
    }
}

/// An absolute http or https URL. Its parts are not looked into: a page's own URL is what the browser says it is.
pub(crate) fn url<'t>(name: &str, value: Node<'t>, limits: &Limits) -> Read<&'t str> {
    let url = text(name, value, limits.url_bytes_max)?;
    if url.is_empty() || is_absolute(url) {
        return Ok(url);
    }
    Err(Rejection::new(Reason::InvalidUrl, format!("`{name}` is not an absolute http or https URL")))
}

pub(crate) fn is_absolute(url: &str) -> bool {
    let after = |scheme: &str| {
        let (start, rest) = url.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let Some(rest) = after("https://").or_else(|| after("http://")) else { return false };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    !host.is_empty() && !host.starts_with(':') && url.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_absolute() {
        for url in ["https://shop.example", "HTTP://a:80/b?c#d", "https://user@host/ä", "http://[::1]:8080/"]
        {
            assert!(is_absolute(url), "{url}");
        }
        for url in [
            "",
            "shop.example",
            "//shop.example",
            "https://",
            "https:///a",
            "http://:80/",
            "ftp://a/",
            "javascript:1",
            "http://a b/",
            "httpß://a",
        ] {
            assert!(!is_absolute(url), "{url}");
        }
    }

    #[test]
    fn decimals_are_plain() {
        assert!(["0", "19.99", "-1", "+1.", "007"].into_iter().all(is_decimal));
        assert!(!["", ".", ".5", "1e3", "1_0", "1,5", "NaN", "1.2.3", " 1"].into_iter().any(is_decimal));
    }

    proptest! {
        #[test]
        fn the_short_way_agrees_with_decimals(minor in -100_000_000_000_000_i64..100_000_000_000_000, shift in 0_u32..7, exponent in 0_u32..5) {
            let written = Decimal::new(minor, shift);
            let float: f64 = written.to_string().parse().unwrap();
            let slow = money::from_float(float).and_then(|amount| money::to_minor(amount, exponent));
            if let Some(fast) = short_float(float, exponent) {
                prop_assert_eq!(Some(fast), slow, "{}", written);
            }
        }

        #[test]
        fn any_float_is_an_amount_or_refused(number in any::<f64>(), exponent in 0_u32..5) {
            let _ = amount("a", Node::Static(StaticNode::F64(number)), exponent);
            let _ = size::<u16>("a", Node::Static(StaticNode::F64(number)), u16::MAX);
        }
    }
}
