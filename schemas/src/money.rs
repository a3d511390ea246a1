//! Money: decimals in, integers of the currency's minor unit (ISO 4217) kept.

use rust_decimal::{Decimal, RoundingStrategy, prelude::ToPrimitive as _};

/// Number of decimals of a currency's minor unit: 2 for USD, 0 for JPY, 3 for KWD. `None`: not an ISO 4217 code.
pub fn exponent(currency: &str) -> Option<u32> {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI"
        | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => Some(0),
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => Some(3),
        "CLF" | "UYW" => Some(4),
        "AED" | "AFN" | "ALL" | "AMD" | "ANG" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD"
        | "BDT" | "BGN" | "BMD" | "BND" | "BOB" | "BOV" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD"
        | "CAD" | "CDF" | "CHE" | "CHF" | "CHW" | "CNY" | "COP" | "COU" | "CRC" | "CUP" | "CVE" | "CZK"
        | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS"
        | "GIP" | "GMD" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IRR"
        | "JMD" | "KES" | "KGS" | "KHR" | "KPW" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL"
        | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN"
        | "MXV" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "PAB" | "PEN" | "PGK"
        | "PHP" | "PKR" | "PLN" | "QAR" | "RON" | "RSD" | "RUB" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK"
        | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SVC" | "SYP" | "SZL" | "THB" | "TJS"
        | "TMT" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "USD" | "USN" | "UYU" | "UZS" | "VED"
        | "VES" | "WST" | "XCD" | "XCG" | "YER" | "ZAR" | "ZMW" | "ZWG" => Some(2),
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
