//! The closed list of what is done to a field that cannot be kept as it was sent, so that no detail costs an event.
//!
//! One enum is the answer's `reason`, the metric's label and what stands in a row's `repairs`, so the three cannot drift
//! apart. `docs/fields.md` says for every field what becomes of what.

use std::fmt;

macro_rules! repairs {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal;)+) => {
        /// What was done to a field, and why.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Repair { $($(#[doc = $doc])+ $variant,)+ }

        impl Repair {
            /// Every one, in the order of the documentation; each stands at its own index.
            pub const ALL: &'static [Repair] = &[$(Repair::$variant,)+];

            /// As answers, metrics and rows spell it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Repair::$variant => $text,)+ }
            }

            /// What it means, for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Repair::$variant => concat!($($doc, " ",)+).trim_ascii(),)+ }
            }
        }
    };
}

repairs! {
    /// Characters that no text holds (half of a surrogate pair, bytes that are not UTF-8, control characters) became
    /// U+FFFD.
    Characters = "characters";
    /// Space around it went.
    Trimmed = "trimmed";
    /// It was longer, or there were more of them, than the limit: what stood beyond it is gone.
    Cut = "cut";
    /// An id longer than the limit: its beginning and a hash of the whole stand for it.
    Hashed = "hashed";
    /// It was of another type or spelling, and what it means is certain.
    Converted = "converted";
    /// A number beyond what the field can hold became the nearest that it can.
    Clamped = "clamped";
    /// It stood twice; the last one counts.
    Duplicate = "duplicate";
    /// Left out: nothing that the field can hold.
    Unreadable = "unreadable";
    /// Left out: below zero.
    Negative = "negative";
    /// Left out: a number outside what the field can hold.
    OutOfRange = "out_of_range";
    /// Left out: an amount or quantity above what a write key may name; a server says it with a secret key.
    AmountTooLarge = "amount_too_large";
    /// No ISO 4217 code: the amounts are kept, and converted into no other currency.
    UnknownCurrency = "unknown_currency";
    /// A time that cannot be read, or too far from now to be true: the time of receipt took its place.
    TimeOfReceipt = "time_of_receipt";
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_are_distinct_documented_and_indexes() {
        let mut texts: Vec<_> = Repair::ALL.iter().map(|repair| repair.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Repair::ALL.len());
        for (index, repair) in Repair::ALL.iter().enumerate() {
            assert_eq!(*repair as usize, index);
            assert!(repair.meaning().ends_with('.'));
        }
    }
}
