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

/// An amount as people and shops write it: `5,00`, `$5.00`, `1.299,00 €`, `1'234.50`, `5.–`, `.99`, `1e3`. `None`: no amount.
///
/// A lone dot is decimal; of dot and comma the last is decimal; a lone comma before exactly three digits separates
/// thousands where a group of thousands can stand before it, else it is decimal; several of one kind separate thousands.
/// Blanks and apostrophes separate thousands only. A currency may stand on either side.
pub fn parse_amount(text: &str) -> Option<Decimal> {
    if text.len() > AMOUNT_BYTES_MAX {
        return None;
    }
    match text.parse::<Decimal>().or_else(|_| Decimal::from_scientific(text)) {
        Ok(plain) => Some(plain),
        Err(_) => parse_written(text),
    }
}

#[cold]
fn parse_written(text: &str) -> Option<Decimal> {
    let text = to_plain(text);
    let is_digit = |letter: char| letter.is_ascii_digit();
    let (first, last) = (text.find(is_digit)?, text.rfind(is_digit)?);
    let before = &text[..first];
    let before = match before.strip_suffix(['.', ',']) {
        // `Rs.500`: the dot is the currency's.
        Some(unit) if before.ends_with('.') && unit.ends_with(char::is_alphabetic) => before,
        Some(unit) => unit,
        None => before,
    };
    let is_negative = is_negative(before)?;

    // `5.–`, `5,--` and `5:-` are whole.
    let after = &text[last + 1..];
    let behind = after.strip_prefix(['.', ',', ':']).unwrap_or(after);
    let unit = behind.trim_start_matches(is_dash);
    let dashes = behind[..behind.len() - unit.len()].chars().count();
    let (end, is_whole) = match (after.as_bytes().first(), dashes) {
        (Some(b'.' | b',' | b':'), 1..=2) => (last + 1, true),
        (Some(b'.' | b','), 0) => (last + 2, false),
        (Some(b':'), _) | (_, 1..) => return None,
        (_, 0) => (last + 1, false),
    };
    if !is_currency(unit) {
        return None;
    }
    let number = &text[before.len()..end];
    let amount = if is_whole { without_groups(number)?.parse().ok()? } else { parse_separated(number)? };
    Some(if is_negative { -amount } else { amount })
}

/// Whether what stands before a number makes it negative; `None`: it is no sign and no currency.
fn is_negative(text: &str) -> Option<bool> {
    const SIGNS: [char; 2] = ['-', '+'];
    let text = text.trim();
    let unit = text.strip_prefix(SIGNS).or_else(|| text.strip_suffix(SIGNS)).unwrap_or(text).trim();
    // The rand's sign is a letter, and stands before the number.
    (unit == "R" || is_currency(unit)).then(|| text.starts_with('-') || text.ends_with('-'))
}

const fn is_dash(letter: char) -> bool {
    matches!(letter, '-' | '\u{2010}'..='\u{2015}')
}

/// What HTML writes for a blank or a currency's sign.
const ENTITIES: [(&str, char); 11] = [
    ("&nbsp;", ' '),
    ("&#160;", ' '),
    ("&#xa0;", ' '),
    ("&#xA0;", ' '),
    ("&#8239;", ' '),
    ("&euro;", '\u{20ac}'),
    ("&#8364;", '\u{20ac}'),
    ("&pound;", '\u{a3}'),
    ("&#163;", '\u{a3}'),
    ("&yen;", '\u{a5}'),
    ("&#165;", '\u{a5}'),
];

/// The zeros whose digits number formats of some locales write: Arabic, Persian, Devanagari, Bengali, Burmese.
const ZEROS: [char; 5] = ['\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{1040}'];

/// The text with ASCII's digits, separators and blanks, and without marks of direction and width.
fn to_plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let entity = ENTITIES.iter().find(|(entity, _)| rest.starts_with(*entity));
        let (letter, bytes) =
            entity.map_or((letter, letter.len_utf8()), |(entity, letter)| (*letter, entity.len()));
        plain.extend(to_plain_letter(letter));
        rest = &rest[bytes..];
    }
    plain
}

fn to_plain_letter(letter: char) -> Option<char> {
    match letter {
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}' => None,
        '\u{2066}'..='\u{2069}' | '\u{feff}' => None,
        '\u{66b}' => Some('.'),
        '\u{66c}' | '\u{2019}' => Some('\''),
        '\u{2212}' => Some('-'),
        // Full width, as Chinese and Japanese input writes.
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(letter) - 0xfee0),
        '\u{ffe1}' => Some('\u{a3}'),
        '\u{ffe5}' => Some('\u{a5}'),
        letter if letter.is_whitespace() => Some(' '),
        letter => {
            let digit = |zero: &char| u32::from(letter).checked_sub(u32::from(*zero));
            let value = ZEROS.iter().filter_map(digit).find(|value| *value < 10);
            value.map_or(Some(letter), |value| char::from_digit(value, 10))
        }
    }
}

/// U+FFFD is what is left of a € or £ of windows-1252.
fn is_currency_sign(letter: char) -> bool {
    matches!(letter,
        '$' | '\u{a2}'..='\u{a5}' | '\u{60b}' | '\u{9f3}' | '\u{e3f}' | '\u{17db}' | '\u{20a0}'..='\u{20cf}'
            | '\u{fdfc}' | '\u{fffd}')
}

/// Words, abbreviations and signs of currencies besides the codes, in lower case and without dots and blanks.
const CURRENCY_WORDS: [&str; 6] = [
    "euro euros dollar dollars peso pesos rupee rupees yen yuan lei leu lek din",
    "us$ ca$ c$ au$ a$ nz$ hk$ sg$ s$ nt$ mx$ ar$ r$ rd$ j$ tt$ cn¥ jp¥ gh₵",
    "br bs b/ s/ cfa fcfa dh dhs fr sfr kr kc kč ksh tsh ush le rm rp rs sr tk tl zl zł đ 元 円 원",
    "лв р руб грн ден дин",
    // The dirhams, dinars, riyals and pounds of the Arab countries as their locales abbreviate them.
    "دإ دم دك دب دأ دع دت دج دل رس رق رع جم",
    "ریال تومان",
];

/// Codes that are also words, or units of other things, unless they stand in capitals.
const WORDS_FIRST: [&str; 12] =
    ["all", "bob", "cop", "cup", "gel", "kgs", "mad", "mop", "pen", "sos", "top", "try"];

/// Whether a text beside a number is nothing, or names a currency: by signs, ISO 4217 codes or [`CURRENCY_WORDS`].
fn is_currency(text: &str) -> bool {
    let text = text.trim();
    // `F CFA` is one.
    text.is_empty() || is_currency_word(&text.replace(' ', "")) || text.split(' ').all(is_currency_word)
}

fn is_currency_word(word: &str) -> bool {
    // `د.إ.`, `Rs.`
    let word = word.replace('.', "");
    let code = word.trim_matches(is_currency_sign);
    match code.len() {
        0 => (1..=2).contains(&word.chars().count()),
        // Feet are written otherwise.
        2 if code == "Ft" => true,
        3 if exponent(&code.to_ascii_uppercase()).is_some() => {
            code.bytes().all(|byte| byte.is_ascii_uppercase())
                || !WORDS_FIRST.contains(&code.to_ascii_lowercase().as_str())
        }
        _ => {
            let lower = word.to_lowercase();
            CURRENCY_WORDS.iter().flat_map(|words| words.split(' ')).any(|known| known == lower)
        }
    }
}

/// Digits with dots, commas, blanks and apostrophes among them.
fn parse_separated(text: &str) -> Option<Decimal> {
    if text.contains(['e', 'E']) {
        return Decimal::from_scientific(text).ok();
    }
    let count = |separator| text.matches(separator).count();
    let decimal = match (count('.'), count(',')) {
        (0, 0) => None,
        (1, 0) => Some('.'),
        (0, 1) => Some(',').filter(|_| !is_thousand(text)),
        (_, 0) | (0, _) => None,
        // The decimal one stands once.
        (1, _) if text.rfind('.') > text.rfind(',') => Some('.'),
        (_, 1) if text.rfind(',') > text.rfind('.') => Some(','),
        _ => return None,
    };
    let (whole, fraction) = decimal.and_then(|decimal| text.split_once(decimal)).unwrap_or((text, ""));
    let whole = if decimal.is_some() && whole.is_empty() { "0".into() } else { without_groups(whole)? };
    if fraction.is_empty() {
        return whole.parse().ok();
    }
    is_number(fraction).then(|| format!("{whole}.{fraction}").parse().ok())?
}

/// Whether a lone comma separates thousands: before exactly three digits, unless no group of thousands can stand before it.
/// None begins with a lone 0 (`0,500` is a half), and none has more than three digits.
fn is_thousand(text: &str) -> bool {
    text.split_once(',').is_some_and(|(group, after)| {
        after.len() == 3 && (1..=3).contains(&group.len()) && group != "0" && is_number(group)
    })
}

/// A whole number without what separates its thousands: one kind, before groups of three digits (in India, where it is a
/// comma, of two before the last).
fn without_groups(text: &str) -> Option<String> {
    let Some(separator) = text.chars().find(|letter| !letter.is_ascii_digit()) else {
        return is_number(text).then(|| text.into());
    };
    let groups: Vec<&str> = text.split(separator).collect();
    let [first, middle @ .., last] = groups.as_slice() else { return None };
    let all_have = |digits: usize| first.len() <= digits && middle.iter().all(|group| group.len() == digits);
    let are_groups = *first != "0" && last.len() == 3 && (all_have(3) || separator == ',' && all_have(2));
    let is_separator = matches!(separator, '.' | ',' | ' ' | '\'');
    (is_separator && are_groups && groups.iter().all(|group| is_number(group))).then(|| groups.concat())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
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
            ("$.99", "0.99"),
            ("\u{20ac}12.50", "12.50"),
            ("12,50\u{a0}\u{20ac}", "12.50"),
            ("1,234.50", "1234.50"),
            ("1.299,00", "1299.00"),
            ("1,234", "1234"),
            ("12,345", "12345"),
            ("1,2345", "1.2345"),
            ("1.234", "1.234"),
            ("1.234.567", "1234567"),
            ("1,234,567", "1234567"),
            ("1,234,567.89", "1234567.89"),
            ("12,34,567.89", "1234567.89"),
            ("1 234", "1234"),
            ("1 234,50", "1234.50"),
            ("1 234 567,5", "1234567.5"),
            ("1\u{202f}299,00", "1299.00"),
            ("1'299.00", "1299.00"),
            ("1\u{2019}234\u{2019}567.50", "1234567.50"),
            ("-5", "-5"),
            ("\u{2212}5,00 \u{20ac}", "-5.00"),
            ("$-5", "-5"),
            ("-$5", "-5"),
            ("- 5 \u{20ac}", "-5"),
            ("+5", "5"),
            ("1e3", "1000"),
            ("2.5E-3", "0.0025"),
            ("$1e2", "100"),
            ("2.5E-3 USD", "0.0025"),
        ] {
            assert_eq!(parse_amount(text), Some(amount.parse().unwrap()), "{text}");
        }
        for text in
            ["", " ", "free", "$", ".", ",", "(5.00)", "--5", "+-5", "-$-5", "1e400", "NaN", "5-", "5--"]
        {
            assert_eq!(parse_amount(text), None, "{text}");
        }
        assert_eq!(parse_amount(&"9".repeat(AMOUNT_BYTES_MAX + 1)), None);
    }

    #[test]
    fn a_comma_that_can_separate_no_thousands_is_decimal() {
        for (text, amount) in [
            ("0,500", "0.500"),
            ("0,029", "0.029"),
            ("-0,500 \u{20ac}", "-0.500"),
            ("$0,029", "0.029"),
            (",500", "0.500"),
            ("1234,567", "1234.567"),
            ("1 234,567", "1234.567"),
            ("10,500", "10500"),
        ] {
            assert_eq!(parse_amount(text), Some(amount.parse().unwrap()), "{text}");
        }
        for text in ["0,500,000", "0,500.00", "0 500"] {
            assert_eq!(parse_amount(text), None, "{text}");
        }
    }

    #[test]
    fn dashes_for_cents_mean_whole_units() {
        for (text, amount) in [
            ("5.\u{2013}", "5"),
            ("5,-", "5"),
            ("5,--", "5"),
            ("5.-", "5"),
            ("199:-", "199"),
            ("1.299,-", "1299"),
            ("1,299.\u{2014}", "1299"),
            ("1'299.\u{2013}", "1299"),
            ("CHF 5.\u{2013}", "5"),
            ("5,-- \u{20ac}", "5"),
            ("5,- kr", "5"),
        ] {
            assert_eq!(parse_amount(text), Some(amount.parse().unwrap()), "{text}");
        }
        for text in ["5,---", "5:", "5:00", "5.-3", "12,34.-", "5 -"] {
            assert_eq!(parse_amount(text), None, "{text}");
        }
    }

    #[test]
    fn digits_and_marks_of_other_scripts_are_read() {
        for (text, amount) in [
            ("\u{661}\u{662}\u{66b}\u{665}\u{660}", "12.50"),
            ("\u{661}\u{66c}\u{662}\u{663}\u{664}\u{66b}\u{665}", "1234.5"),
            ("\u{6f1}\u{66c}\u{6f2}\u{6f3}\u{6f4}", "1234"),
            ("\u{ff11}\u{ff0c}\u{ff12}\u{ff13}\u{ff14}\u{ff0e}\u{ff15}", "1234.5"),
            ("\u{ffe5}\u{ff15}\u{ff10}\u{ff10}", "500"),
            ("\u{967}\u{968}\u{969}", "123"),
            ("\u{200f}5.00\u{a0}\u{62f}.\u{625}.\u{200f}", "5.00"),
            ("5.00 \u{62f}.\u{625}", "5.00"),
            ("\u{62f}.\u{625}. 5.00", "5.00"),
            ("\u{200e}-5,00\u{a0}\u{20ac}", "-5.00"),
            ("\u{61c}-\u{665}", "-5"),
            ("\u{feff}5.00", "5.00"),
            ("5\u{200b}.00", "5.00"),
            ("\u{2066}$5.00\u{2069}", "5.00"),
            ("\u{202a}5.00\u{202c} \u{20aa}\u{2060}", "5.00"),
        ] {
            assert_eq!(parse_amount(text), Some(amount.parse().unwrap()), "{text:?}");
        }
    }

    #[test]
    fn what_pages_and_encodings_make_of_a_currency_goes() {
        for (text, amount) in [
            ("5&nbsp;\u{20ac}", "5"),
            ("1&#160;299,00&nbsp;&euro;", "1299.00"),
            ("&pound;5.00", "5.00"),
            ("\u{fffd}5.00", "5.00"),
            ("5,00 \u{fffd}", "5.00"),
            ("12,50\u{fffd}\u{fffd}", "12.50"),
        ] {
            assert_eq!(parse_amount(text), Some(amount.parse().unwrap()), "{text}");
        }
        for text in ["5\u{fffd}00", "\u{fffd}", "5&amp;", "5 \u{fffd}\u{fffd}\u{fffd}"] {
            assert_eq!(parse_amount(text), None, "{text}");
        }
    }

    #[test]
    fn words_beside_a_number_are_currencies_or_make_it_none() {
        for (text, amount) in [
            ("EUR 12.50", "12.50"),
            ("12.50 USD", "12.50"),
            ("12.50 usd", "12.50"),
            ("Usd12.50", "12.50"),
            ("$12.50 USD", "12.50"),
            ("USD$12.50", "12.50"),
            ("US$1,234.50", "1234.50"),
            ("CA$5", "5"),
            ("5 A$", "5"),
            ("Rs. 500", "500"),
            ("Rs.500", "500"),
            ("Rp 10.000,00", "10000.00"),
            ("kr 199,00", "199.00"),
            ("199 kr.", "199"),
            ("199 K\u{10d}", "199"),
            ("5 z\u{142}", "5"),
            ("5 Ft", "5"),
            ("5,00 lei", "5.00"),
            ("5,00 \u{43b}\u{432}.", "5.00"),
            ("5 \u{440}\u{443}\u{431}.", "5"),
            ("5 \u{20bd}", "5"),
            ("\u{e3f}5", "5"),
            ("R$ 5,00", "5.00"),
            ("R100", "100"),
            ("-R 1 299,00", "-1299.00"),
            ("5 000 F\u{202f}CFA", "5000"),
            ("5 euros", "5"),
            ("500\u{5186}", "500"),
            ("5 TRY", "5"),
            ("-5 TOP", "-5"),
        ] {
            assert_eq!(parse_amount(text), Some(amount.parse().unwrap()), "{text}");
        }
        let none = [
            "5k|5 K|1M|1 Mio|1 Mio. \u{20ac}|1 Mrd|2 bn|5 million|1 lakh|1 crore|5%|5 %|%5|2x|x2",
            "12 x 3|1.5 kg|5 kgs|5 ft|5 pcs|3 cup|top 5|M\u{20ac} 5|$5M|A100|A 100|100R|No. 5|from $5",
            "5 EUR/kg|5 EUR incl. VAT|5 ...|5 .|Total: 5|5 USD 6",
        ];
        for text in none.iter().flat_map(|texts| texts.split('|')) {
            assert_eq!(parse_amount(text), None, "{text}");
        }
    }

    #[test]
    fn two_numbers_are_no_amount() {
        let none = [
            "5 6|10 20|1 2345|1 234 56|12 34 567|1  234|1.234 567|1 234.567,89|5 ,00|1'23|1'2345",
            "1.2.3|1,2,3|1.2,3.4|1.2,3|12.34.567|28.11.2026|1234,567.89|1,,234|5-6|5/6|5e 3|1,5e3",
        ];
        for text in none.iter().flat_map(|texts| texts.split('|')) {
            assert_eq!(parse_amount(text), None, "{text}");
        }
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
