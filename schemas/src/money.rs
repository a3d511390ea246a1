//! Money: decimals in, integers of the currency's minor unit (ISO 4217) kept.

use rust_decimal::{Decimal, RoundingStrategy, prelude::ToPrimitive as _};

/// Number of decimals of a currency's minor unit: 2 for USD, 0 for JPY, 3 for KWD. `None`: not an ISO 4217 code.
pub fn exponent(currency: &str) -> Option<u32> {
    match currency.as_bytes() {
        // Of bytes the compiler makes a tree, of texts one comparison after the other.
        b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
        | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => Some(0),
        b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => Some(3),
        b"CLF" | b"UYW" => Some(4),
        b"AED" | b"AFN" | b"ALL" | b"AMD" | b"ANG" | b"AOA" | b"ARS" | b"AUD" | b"AWG" | b"AZN" | b"BAM"
        | b"BBD" | b"BDT" | b"BGN" | b"BMD" | b"BND" | b"BOB" | b"BOV" | b"BRL" | b"BSD" | b"BTN"
        | b"BWP" | b"BYN" | b"BZD" | b"CAD" | b"CDF" | b"CHE" | b"CHF" | b"CHW" | b"CNY" | b"COP"
        | b"COU" | b"CRC" | b"CUP" | b"CVE" | b"CZK" | b"DKK" | b"DOP" | b"DZD" | b"EGP" | b"ERN"
        | b"ETB" | b"EUR" | b"FJD" | b"FKP" | b"GBP" | b"GEL" | b"GHS" | b"GIP" | b"GMD" | b"GTQ"
        | b"GYD" | b"HKD" | b"HNL" | b"HTG" | b"HUF" | b"IDR" | b"ILS" | b"INR" | b"IRR" | b"JMD"
        | b"KES" | b"KGS" | b"KHR" | b"KPW" | b"KYD" | b"KZT" | b"LAK" | b"LBP" | b"LKR" | b"LRD"
        | b"LSL" | b"MAD" | b"MDL" | b"MGA" | b"MKD" | b"MMK" | b"MNT" | b"MOP" | b"MRU" | b"MUR"
        | b"MVR" | b"MWK" | b"MXN" | b"MXV" | b"MYR" | b"MZN" | b"NAD" | b"NGN" | b"NIO" | b"NOK"
        | b"NPR" | b"NZD" | b"PAB" | b"PEN" | b"PGK" | b"PHP" | b"PKR" | b"PLN" | b"QAR" | b"RON"
        | b"RSD" | b"RUB" | b"SAR" | b"SBD" | b"SCR" | b"SDG" | b"SEK" | b"SGD" | b"SHP" | b"SLE"
        | b"SOS" | b"SRD" | b"SSP" | b"STN" | b"SVC" | b"SYP" | b"SZL" | b"THB" | b"TJS" | b"TMT"
        | b"TOP" | b"TRY" | b"TTD" | b"TWD" | b"TZS" | b"UAH" | b"USD" | b"USN" | b"UYU" | b"UZS"
        | b"VED" | b"VES" | b"WST" | b"XCD" | b"XCG" | b"YER" | b"ZAR" | b"ZMW" | b"ZWG" => Some(2),
        _ => None,
    }
}

/// Units of a currency that are worth a dollar, rounded down to a power of ten; 1 where fewer than a hundred are. (By the
/// rates of the end of 2025; what it is for needs the order of magnitude alone.)
pub fn units_per_dollar(currency: &str) -> u32 {
    match currency {
        "AMD" | "AOA" | "BDT" | "CLP" | "CRC" | "CVE" | "DJF" | "DZD" | "GYD" | "HTG" | "HUF" | "ISK"
        | "JMD" | "JPY" | "KES" | "KMF" | "KZT" | "LKR" | "LRD" | "NPR" | "PKR" | "RSD" | "SDG" | "SOS"
        | "VES" | "VUV" | "XAF" | "XOF" | "XPF" | "YER" => 100,
        "ARS" | "BIF" | "CDF" | "COP" | "GNF" | "IQD" | "KHR" | "KRW" | "MGA" | "MMK" | "MNT" | "MWK"
        | "NGN" | "PYG" | "RWF" | "SSP" | "TZS" | "UGX" => 1_000,
        "IDR" | "LAK" | "SYP" | "UZS" | "VND" => 10_000,
        "IRR" | "LBP" => 100_000,
        _ => 1,
    }
}

/// `amount` in minor units of a currency with `exponent` decimals, half away from zero; `None` beyond 64 bits.
pub fn to_minor(amount: Decimal, exponent: u32) -> Option<i64> {
    amount
        .checked_mul(Decimal::from(10_i64.pow(exponent)))?
        .round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero)
        .to_i64()
}

/// Decimals of an item's price: net prices and goods by the thousand have more than their currency.
pub const PRICE_DECIMALS: u32 = 6;

/// Decimals of an item's quantity: goods by weight.
pub const QUANTITY_DECIMALS: u32 = 3;

/// What a line comes to in minor units of a currency with `exponent` decimals: price (millionths) times quantity
/// (thousandths), rounded once, half away from zero.
pub fn line_minor(price: i64, quantity: i64, exponent: u32) -> i128 {
    let exact = i128::from(price) * i128::from(quantity);
    let scale = 10_i128.pow(PRICE_DECIMALS + QUANTITY_DECIMALS - exponent);
    (exact + exact.signum() * (scale / 2)) / scale
}

/// Minor units as a decimal of the currency.
pub fn to_decimal(minor: i64, exponent: u32) -> Decimal {
    Decimal::new(minor, exponent)
}

/// The decimal that a sender wrote, where JSON has made it a float: the shortest decimal that is that float.
/// Every decimal of up to 15 digits survives the trip. `None`: not finite, or beyond what a decimal can hold.
pub fn from_float(value: f64) -> Option<Decimal> {
    if !value.is_finite() {
        return None;
    }
    value.to_string().parse().ok()
}

/// Longer texts are nobody's amount.
const AMOUNT_BYTES_MAX: usize = 64;

/// An amount as people and shops write it: `5,00`, `$5.00`, `1.299,00 €`, `1'234.50`, `.99`, `1e3`. `None`: no amount.
///
/// A lone dot is decimal; of dot and comma the last is decimal; a lone comma before exactly three digits separates
/// thousands, else it is decimal; several of one kind separate thousands. Currency signs and codes around it, spaces and
/// apostrophes go.
pub fn parse_amount(text: &str) -> Option<Decimal> {
    if text.len() > AMOUNT_BYTES_MAX {
        return None;
    }
    if let Ok(plain) = text.parse::<Decimal>().or_else(|_| Decimal::from_scientific(text)) {
        return Some(plain);
    }
    let (is_negative, text) = without_sign(text.trim());
    // `Rs. 5`: the dot is the currency's.
    let is_unit = |letter: char| letter.is_alphabetic() || is_currency_sign(letter) || letter.is_whitespace();
    let unit_end = text.find(|letter| !is_unit(letter)).unwrap_or(text.len());
    let (unit, rest) = text.split_at(unit_end);
    let rest =
        if unit.ends_with(char::is_alphabetic) { rest.strip_prefix('.').unwrap_or(rest) } else { rest };
    let (is_negative_inside, rest) = without_sign(rest.trim_start());
    if is_negative && is_negative_inside {
        return None;
    }
    let digits: String = rest
        .trim_end_matches(is_unit)
        .chars()
        .filter(|letter| !(letter.is_whitespace() || matches!(letter, '\'' | '\u{2019}')))
        .collect();
    let amount = parse_separated(&digits)?;
    Some(if is_negative || is_negative_inside { -amount } else { amount })
}

fn without_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix(['-', '\u{2212}']) {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn is_currency_sign(letter: char) -> bool {
    matches!(letter, '$' | '\u{a2}'..='\u{a5}' | '\u{20a0}'..='\u{20cf}' | '\u{fdfc}')
}

/// Digits with dots and commas among them.
fn parse_separated(text: &str) -> Option<Decimal> {
    let is_known = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b',');
    if !text.bytes().all(is_known) || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count = |separator| text.matches(separator).count();
    let decimal = match (count('.'), count(',')) {
        (0, 0) => None,
        (1, 0) => Some('.'),
        (0, 1) if text.rsplit(',').next().is_some_and(|after| after.len() == 3) => None,
        (0, 1) => Some(','),
        (_, 0) | (0, _) => None,
        (dots, commas) => {
            let last = if text.rfind('.') > text.rfind(',') { ('.', dots) } else { (',', commas) };
            // The decimal one stands once.
            Some(last).filter(|(_, count)| *count == 1).map(|(separator, _)| separator)?.into()
        }
    };
    let plain: String = text
        .chars()
        .filter_map(|letter| match letter {
            '.' | ',' => (Some(letter) == decimal).then_some('.'),
            digit => Some(digit),
        })
        .collect();
    // A dot alone at either end is no decimal of the library's.
    format!("0{}", plain.trim_end_matches('.')).parse().ok()
}

/// Whether a currency's sign is `$` alone where it is at home.
pub fn is_dollar(currency: &str) -> bool {
    matches!(
        currency,
        "ARS"
            | "AUD"
            | "BBD"
            | "BMD"
            | "BND"
            | "BSD"
            | "CAD"
            | "CLP"
            | "COP"
            | "FJD"
            | "HKD"
            | "JMD"
            | "KYD"
            | "LRD"
            | "MXN"
            | "NAD"
            | "NZD"
            | "SBD"
            | "SGD"
            | "SRD"
            | "TTD"
            | "TWD"
            | "USD"
            | "UYU"
            | "XCD"
    )
}

/// The currency that a sign stands for, where it stands for no other.
pub fn currency_of_sign(sign: &str) -> Option<&'static str> {
    match sign {
        "\u{20ac}" => Some("EUR"),
        "\u{a3}" => Some("GBP"),
        "\u{20b9}" => Some("INR"),
        "\u{20a9}" => Some("KRW"),
        "\u{20bd}" => Some("RUB"),
        "\u{20ba}" => Some("TRY"),
        "\u{20b4}" => Some("UAH"),
        "\u{20ab}" => Some("VND"),
        "US$" => Some("USD"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_minor_units_exactly() {
        for (text, currency, minor) in [
            ("19.99", "USD", 1999),
            ("0.1", "EUR", 10),
            ("1200", "JPY", 1200),
            ("1.2345", "KWD", 1235),
            ("0.005", "USD", 1),
            ("-0.005", "USD", -1),
            ("92233720368547758.07", "USD", i64::MAX),
        ] {
            let decimals = exponent(currency).unwrap();
            assert_eq!(to_minor(text.parse().unwrap(), decimals), Some(minor), "{text} {currency}");
        }
        assert_eq!(to_minor("92233720368547758.08".parse().unwrap(), 2), None);
    }

    #[test]
    fn lines_are_rounded_once() {
        for (price, quantity, currency, minor) in [
            (3_500, 1_000_000, "USD", 350),
            (29_000, 5_000_000, "USD", 14_500),
            (8_403_361, 10_000, "EUR", 8403),
            (12_500_000, 4000, "JPY", 50),
            (10_000_000, 1850, "USD", 1850),
            (5_000, 1000, "USD", 1),
            (-5_000, 1000, "USD", -1),
            (i64::MAX, i64::MIN, "USD", -8_507_059_173_023_461_585_662_027_982_109),
        ] {
            let decimals = exponent(currency).unwrap();
            assert_eq!(line_minor(price, quantity, decimals), minor, "{price} x {quantity} {currency}");
        }
    }

    #[test]
    fn amounts_are_read_as_shops_print_them() {
        for (text, amount) in [
            ("19.99", "19.99"),
            (".99", "0.99"),
            ("5.", "5"),
            (" 5 ", "5"),
            ("5,00", "5.00"),
            (",5", "0.5"),
            ("$5.00", "5.00"),
            ("\u{20ac}12.50", "12.50"),
            ("12,50\u{a0}\u{20ac}", "12.50"),
            ("EUR 12.50", "12.50"),
            ("12.50 USD", "12.50"),
            ("Rs. 500", "500"),
            ("kr 199,00", "199.00"),
            ("R$ 5,00", "5.00"),
            ("1,234.50", "1234.50"),
            ("1.299,00", "1299.00"),
            ("1,234", "1234"),
            ("1,2345", "1.2345"),
            ("1.234", "1.234"),
            ("1.234.567", "1234567"),
            ("1,234,567", "1234567"),
            ("12,34,567.89", "1234567.89"),
            ("1\u{202f}299,00", "1299.00"),
            ("1'299.00", "1299.00"),
            ("-5", "-5"),
            ("\u{2212}5,00 \u{20ac}", "-5.00"),
            ("$-5", "-5"),
            ("+5", "5"),
            ("1e3", "1000"),
            ("2.5E-3", "0.0025"),
        ] {
            assert_eq!(parse_amount(text), Some(amount.parse().unwrap()), "{text}");
        }
        for text in
            ["", " ", "free", "$", ".", ",", "1.2,3.4", "5%", "(5.00)", "12 x 3", "--5", "1e400", "NaN", "5-"]
        {
            assert_eq!(parse_amount(text), None, "{text}");
        }
        assert_eq!(parse_amount(&"9".repeat(AMOUNT_BYTES_MAX + 1)), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_amount_or_none(text in "\\PC{0,20}", digits in "[-+0-9.,\u{20ac}'eE ]{0,20}") {
            let _ = (parse_amount(&text), parse_amount(&digits));
        }
    }

    #[test]
    fn floats_keep_what_was_written() {
        for text in ["19.99", "1234567890.12", "0.07", "4.35", "1e3"] {
            let float: f64 = text.parse().unwrap();
            let written = Decimal::from_scientific(text).or_else(|_| text.parse()).unwrap();
            assert_eq!(from_float(float), Some(written), "{text}");
        }
        assert_eq!(from_float(f64::INFINITY), None);
        assert_eq!(from_float(1e300), None);
    }
}
