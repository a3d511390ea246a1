//! Reading an event's fields. Nothing here refuses an event: what cannot be kept as it was sent is repaired where its
//! meaning is certain, else left out, and noted either way.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
};

use bumpalo::Bump;
use millrace_schemas::{limits::Limits, money, repair::Repair};
use rust_decimal::Decimal;
use sha2::{Digest as _, Sha256};
use simd_json::{Node, StaticNode};

use crate::{
    field::Field,
    mend::mend,
    tape::Source,
    time::{self, EPOCH_MS_MAX},
};

/// What was done to a field of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note<'t> {
    pub(crate) field: &'t str,
    pub(crate) repair: Repair,
}

/// Notes of one event; more are not worth their room.
const NOTES_MAX: usize = 20;

/// Bytes of a short id with its hash.
const HASHED_BYTES: usize = 64;

/// What a sign says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// What it says.
    Counts,
    /// Nothing: what is taken off is taken off, however it is written.
    SaysNothing,
    /// That the amount cannot be meant: it is left out.
    Refuses,
}

/// An event's fields.
pub(crate) struct Reader<'a, 't> {
    source: &'a Source<'t>,
    limits: &'a Limits,
    /// Of what had to be written anew.
    arena: &'t Bump,
    /// Bytes that the event's texts may still take.
    room: Cell<usize>,
    notes: RefCell<Vec<Note<'t>>>,
}

impl<'a, 't> Reader<'a, 't> {
    pub(crate) fn new(source: &'a Source<'t>, limits: &'a Limits, arena: &'t Bump) -> Self {
        let room = Cell::new(limits.event_bytes_max);
        let reader = Self { source, limits, arena, room, notes: RefCell::default() };
        if source.has_odd_context {
            reader.note(Field::Context.name(), Repair::Unreadable);
        }
        if source.event.has_odd_commerce {
            reader.note(Field::Ecommerce.name(), Repair::Unreadable);
        }
        for field in source.event.duplicates() {
            reader.note(field.name(), Repair::Duplicate);
        }
        reader
    }

    pub(crate) fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// Notes what is done to a field; each field's reason once.
    pub(crate) fn note(&self, field: &'t str, repair: Repair) {
        let mut notes = self.notes.borrow_mut();
        let note = Note { field, repair };
        if notes.len() < NOTES_MAX && !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// What was noted so far.
    pub(crate) fn notes(self) -> Vec<Note<'t>> {
        self.notes.into_inner()
    }

    /// A text that lives as long as the event.
    pub(crate) fn keep(&self, text: &str) -> &'t str {
        self.arena.alloc_str(text)
    }

    pub(crate) fn keep_nodes(&self, nodes: &[Node<'t>]) -> &'t [Node<'t>] {
        self.arena.alloc_slice_copy(nodes)
    }

    /// JSON inside a text, on a tape.
    pub(crate) fn parse(&self, json: &str) -> Option<&'t [Node<'t>]> {
        let json = json.trim();
        if !json.starts_with(['{', '[']) {
            return None;
        }
        let parsed = simd_json::to_tape(self.arena.alloc_slice_copy(json.as_bytes()));
        let tape = match parsed {
            Ok(tape) => tape,
            Err(_) => simd_json::to_tape(self.arena.alloc_slice_copy(&mend(json.as_bytes()))).ok()?,
        };
        Some(self.keep_nodes(&tape.0))
    }

    /// The nodes of a field; `None` when it is absent or null.
    #[inline]
    pub(crate) fn nodes(&self, field: Field) -> Option<&'t [Node<'t>]> {
        self.source.get(field)
    }

    /// A text; empty when it is absent.
    #[inline]
    pub(crate) fn text(&self, field: Field) -> &'t str {
        self.nodes(field).map_or("", |value| self.text_of(field.name(), value[0]))
    }

    /// A text that an event cannot be without: it has room, however much others take.
    pub(crate) fn required_text(&self, field: Field) -> &'t str {
        let Some(value) = self.nodes(field) else { return "" };
        let text = self.clean(field.name(), self.scalar(field.name(), value[0], true));
        self.cut(field.name(), text, self.limits.string_bytes_max)
    }

    /// An id; empty when it is absent.
    #[inline]
    pub(crate) fn id(&self, field: Field) -> &'t str {
        self.nodes(field).map_or("", |value| self.id_of(field.name(), value[0]))
    }

    /// An address of a page. How long it may be is seen when what must not be kept has gone from it.
    pub(crate) fn url(&self, field: Field) -> &'t str {
        let Some(value) = self.nodes(field) else { return "" };
        let Node::String(sent) = value[0] else {
            self.note(field.name(), Repair::Unreadable);
            return "";
        };
        let url = self.clean(field.name(), sent);
        if is_program(url) {
            self.note(field.name(), Repair::Unreadable);
            return "";
        }
        self.cut(field.name(), url, self.limits.event_bytes_max)
    }

    /// A number; `None` when it is absent.
    pub(crate) fn number(&self, field: Field) -> Option<f64> {
        self.float_of(field.name(), self.nodes(field)?[0])
    }

    /// A whole number that fits into 32 bits.
    pub(crate) fn whole(&self, field: Field) -> Option<u32> {
        let number = self.number(field)?;
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        if !is_whole {
            self.note(field.name(), Repair::OutOfRange);
        }
        is_whole.then_some(number as u32)
    }

    /// A number from 0 to `most`; browsers report fractions of pixels, which are rounded.
    pub(crate) fn size(&self, field: Field, most: u32) -> Option<u32> {
        let number = self.number(field)?.round();
        let clamped = number.clamp(0.0, f64::from(most));
        if clamped != number {
            self.note(field.name(), Repair::Clamped);
        }
        Some(clamped as u32)
    }

    /// True or false.
    pub(crate) fn flag(&self, field: Field) -> Option<bool> {
        let (flag, repair) = match self.nodes(field)?[0] {
            Node::Static(StaticNode::Bool(flag)) => return Some(flag),
            Node::String("true" | "1") | Node::Static(StaticNode::U64(1)) => (Some(true), Repair::Converted),
            Node::String("false" | "0") | Node::Static(StaticNode::U64(0)) => {
                (Some(false), Repair::Converted)
            }
            _ => (None, Repair::Unreadable),
        };
        self.note(field.name(), repair);
        flag
    }

    /// A time, epoch milliseconds. What cannot be read is noted as `otherwise`.
    pub(crate) fn instant(&self, field: Field, value: &[Node<'t>], otherwise: Repair) -> Option<i64> {
        let (ms, is_plain) = match value[0] {
            Node::Static(StaticNode::I64(number)) => time::of_number(number),
            Node::Static(StaticNode::U64(number)) => {
                time::of_number(i64::try_from(number).unwrap_or(i64::MAX))
            }
            Node::Static(StaticNode::F64(number)) => time::of_float(number),
            Node::String(text) if field == Field::SentAt => time::of_clock_text(text),
            Node::String(text) => time::of_text(text),
            _ => (None, true),
        };
        let ms = ms.filter(|ms| (-EPOCH_MS_MAX..=EPOCH_MS_MAX).contains(ms));
        match ms {
            None => self.note(field.name(), otherwise),
            Some(_) if !is_plain => self.note(field.name(), Repair::Converted),
            Some(_) => {}
        }
        ms
    }

    /// An IP address, with or without a port.
    pub(crate) fn address(&self, field: Field) -> Option<IpAddr> {
        let address = match self.nodes(field)?[0] {
            Node::String("") => return None,
            Node::String(text) => crate::client::parse_address(text),
            _ => None,
        };
        if address.is_none() {
            self.note(field.name(), Repair::Unreadable);
        }
        address
    }

    /// An amount, or another decimal, as a whole number of its last of `decimals` places.
    #[inline]
    pub(crate) fn amount(&self, field: Field, decimals: u32, sign: Sign) -> Option<i64> {
        self.amount_of(field.name(), self.nodes(field)?[0], decimals, sign)
    }

    /// The text in a value.
    pub(crate) fn text_of(&self, name: &'t str, value: Node<'t>) -> &'t str {
        let text = self.scalar(name, value, true);
        self.fit(name, self.clean(name, text), self.limits.string_bytes_max)
    }

    /// The id in a value. A longer one than the limit stays one id.
    pub(crate) fn id_of(&self, name: &'t str, value: Node<'t>) -> &'t str {
        let id = self.clean(name, self.scalar(name, value, false));
        // An event with so many long ids that its room is used up may still say all of them.
        let most = self.limits.string_bytes_max.min(self.room.get().max(HASHED_BYTES));
        let kept = if id.len() > most { self.hash_id(name, id, most) } else { id };
        self.room.set(self.room.get().saturating_sub(kept.len()));
        kept
    }

    #[cold]
    fn hash_id(&self, name: &'t str, id: &str, bytes_max: usize) -> &'t str {
        self.note(name, Repair::Hashed);
        let hash = hex::encode(&Sha256::digest(id.as_bytes())[..16]);
        let head = id.floor_char_boundary(bytes_max.saturating_sub(hash.len() + 1));
        self.keep(&format!("{}~{hash}", &id[..head]))
    }

    /// A property's value: any text, as it is.
    pub(crate) fn property_of(&self, name: &'t str, value: Node<'t>) -> &'t str {
        let text = match value {
            Node::Static(StaticNode::Bool(true)) => "true",
            Node::Static(StaticNode::Bool(false)) => "false",
            Node::Static(value) => self.digits(value),
            Node::String(text) => self.legible(name, text),
            Node::Object { .. } | Node::Array { .. } => "",
        };
        self.fit(name, text, self.limits.string_bytes_max)
    }

    /// Whether the event's texts have taken all there is.
    pub(crate) fn is_full(&self) -> bool {
        self.room.get() == 0
    }

    /// A text with no more than `bytes_max` bytes, and no more than the event may still take.
    pub(crate) fn fit(&self, name: &'t str, text: &'t str, bytes_max: usize) -> &'t str {
        let kept = self.cut(name, text, bytes_max.min(self.room.get()));
        self.room.set(self.room.get() - kept.len());
        kept
    }

    fn cut(&self, name: &'t str, text: &'t str, bytes_max: usize) -> &'t str {
        if text.len() <= bytes_max {
            return text;
        }
        self.note(name, Repair::Cut);
        &text[..text.floor_char_boundary(bytes_max)]
    }

    /// What a text may be sent as. For an id true and false are none.
    fn scalar(&self, name: &'t str, value: Node<'t>, takes_flags: bool) -> &'t str {
        let (text, repair) = match value {
            Node::String(text) => return text,
            Node::Static(StaticNode::Null) => return "",
            Node::Static(StaticNode::Bool(true)) if takes_flags => ("true", Repair::Converted),
            Node::Static(StaticNode::Bool(false)) if takes_flags => ("false", Repair::Converted),
            Node::Static(StaticNode::Bool(_)) | Node::Object { .. } | Node::Array { .. } => {
                ("", Repair::Unreadable)
            }
            Node::Static(number) => (self.digits(number), Repair::Converted),
        };
        self.note(name, repair);
        text
    }

    /// A number as text: `1002` of 1002.0, too.
    fn digits(&self, number: StaticNode) -> &'t str {
        match number {
            StaticNode::U64(number) => self.arena.alloc_str(&number.to_string()),
            StaticNode::I64(number) => self.arena.alloc_str(&number.to_string()),
            StaticNode::F64(number) => self.arena.alloc_str(&number.to_string()),
            StaticNode::Bool(_) | StaticNode::Null => "",
        }
    }

    /// A text without space around it, and without characters that no text holds.
    #[inline]
    fn clean(&self, name: &'t str, text: &'t str) -> &'t str {
        let text = self.legible(name, text);
        if let [first, .., last] = text.as_bytes()
            && first.is_ascii_graphic()
            && last.is_ascii_graphic()
        {
            return text;
        }
        let trimmed = trim(text);
        if trimmed.len() != text.len() {
            self.note(name, Repair::Trimmed);
        }
        trimmed
    }

    /// A text without characters that no text holds.
    #[inline]
    pub(crate) fn legible(&self, name: &'t str, text: &'t str) -> &'t str {
        // Without a branch in the loop, so that many bytes are looked at at once. U+FFFD begins with 0xEF.
        let is_odd = |byte: u8| (byte < 0x20) | (byte == 0x7f) | (byte == 0xef);
        if text.bytes().fold(false, |found, byte| found | is_odd(byte)) {
            self.without_controls(name, text)
        } else {
            text
        }
    }

    #[cold]
    fn without_controls(&self, name: &'t str, text: &'t str) -> &'t str {
        let is_control =
            |letter: char| matches!(letter, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\x7f');
        let has_control = text.contains(is_control);
        // What the text was mended with before it was parsed is told like what is mended here.
        if has_control || text.contains('\u{fffd}') {
            self.note(name, Repair::Characters);
        }
        if has_control { self.keep(&text.replace(is_control, "\u{fffd}")) } else { text }
    }

    /// The number in a value.
    fn float_of(&self, name: &'t str, value: Node<'t>) -> Option<f64> {
        let number = match value {
            Node::Static(StaticNode::U64(number)) => Some(number as f64),
            Node::Static(StaticNode::I64(number)) => Some(number as f64),
            Node::Static(StaticNode::F64(number)) => Some(number),
            Node::Static(StaticNode::Null) => return None,
            Node::String("") => return None,
            Node::String(text) if is_decimal(text) => text.parse().ok(),
            Node::String(text) => {
                let amount = money::parse_amount(text).and_then(|amount| amount.to_string().parse().ok());
                if amount.is_some() {
                    self.note(name, Repair::Converted);
                }
                amount
            }
            _ => None,
        };
        let number = number.filter(|number: &f64| number.is_finite());
        if number.is_none() {
            self.note(name, Repair::Unreadable);
        }
        number
    }

    /// The decimal in a value, as a whole number of its last of `decimals` places.
    #[inline]
    pub(crate) fn amount_of(&self, name: &'t str, value: Node<'t>, decimals: u32, sign: Sign) -> Option<i64> {
        // The common case, without a decimal.
        if let Node::Static(StaticNode::F64(number)) = value
            && let Some(amount) = short_float(number, decimals)
            && number >= 0.0
        {
            return Some(amount);
        }
        self.decimal_of(name, value, decimals, sign)
    }

    fn decimal_of(&self, name: &'t str, value: Node<'t>, decimals: u32, sign: Sign) -> Option<i64> {
        let amount = match value {
            Node::Static(StaticNode::F64(number)) => money::from_float(number),
            Node::Static(StaticNode::U64(number)) => Some(Decimal::from(number)),
            Node::Static(StaticNode::I64(number)) => Some(Decimal::from(number)),
            Node::Static(StaticNode::Null) | Node::String("") => return None,
            Node::String(text) => {
                let amount = money::parse_amount(text);
                if amount.is_some() && !is_decimal(text) {
                    self.note(name, Repair::Converted);
                }
                amount
            }
            _ => None,
        };
        let Some(amount) = amount else {
            self.note(name, Repair::Unreadable);
            return None;
        };
        let amount = match sign {
            // The sign is that of what was sent: -0.001 is negative, though it would be 0 in minor units.
            Sign::Refuses if amount < Decimal::ZERO => {
                self.note(name, Repair::Negative);
                return None;
            }
            Sign::SaysNothing => amount.abs(),
            Sign::Counts | Sign::Refuses => amount,
        };
        let minor = money::to_minor(amount, decimals);
        if minor.is_none() {
            self.note(name, Repair::OutOfRange);
        }
        minor
    }
}

/// Whether a string is a plain decimal: digits, perhaps a sign and a fraction.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.len() <= 40
        && digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().filter(|byte| *byte == b'.').count() <= 1
}

/// The common case of [`money::from_float`] without a decimal: an amount with no more decimals than its currency has.
/// A float that is the nearest to `minor / 10^decimals`, with few enough digits, was written so.
#[inline]
fn short_float(number: f64, decimals: u32) -> Option<i64> {
    let scale = f64::from(10_u32.pow(decimals));
    let minor = (number * scale).round();
    // One comparison for "too large" and NaN: 10^14 keeps the whole within the 15 digits that a float is sure of.
    (minor.abs() < 1e14 && minor / scale == number).then_some(minor as i64)
}

/// Whether an address runs something where a browser is sent to it: no page has one of these.
fn is_program(url: &str) -> bool {
    ["javascript:", "vbscript:", "data:"]
        .iter()
        .any(|scheme| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

/// Whether an address is one of http or https, and whole.
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

/// A text without space around it, nor what nobody means at its ends: marks of writing direction, joints without width, byte
/// order marks.
pub(crate) fn trim(text: &str) -> &str {
    let is_nothing = |letter: char| {
        letter.is_whitespace() || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    };
    text.trim_matches(is_nothing)
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
        fn any_float_is_short_or_not(number in any::<f64>(), exponent in 0_u32..7) {
            let _ = short_float(number, exponent);
        }
    }
}
