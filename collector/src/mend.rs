//! JSON that is nearly JSON, made whole where its meaning is certain. It is asked of what does not parse alone.
//!
//! | in the text | becomes |
//! |---|---|
//! | half of a surrogate pair, bytes that are not UTF-8, control characters in a string | U+FFFD |
//! | a line break or tab in a string | its escape |
//! | a backslash before a character that needs none | the character |
//! | `undefined`, Python's `None`, `True`, `False` | `null`, `null`, `true`, `false` |
//! | a number that 64 bits do not hold, or that JSON writes otherwise: `1e400`, `007`, `.5`, `+1` | the same as a string |
//! | `NaN`, `Infinity`, any other word, a value that is missing or breaks off | `{}`, which no field, item or event can be |
//! | commas too many; what stands where only a name, a colon, a comma or a bracket may; what stands behind the value | nothing |
//! | brackets that are not closed | closed |
//! | what is nested deeper than anybody reads | `null` |
//!
//! One pass, in as much time and memory as the text has bytes.

use crate::split::end_of_value;

/// Deeper brackets are emptied. Parsers have limits of their own, beyond which they give up the whole.
pub(crate) const DEPTH_MAX: usize = 64;

const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// The byte order mark, with which some programs begin their UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text without a byte order mark.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Whether a number may stand in the text that a parser would round: a run of so many digits, in strings or not.
pub(crate) fn has_long_number(json: &[u8]) -> bool {
    json.split(|byte| !byte.is_ascii_digit()).any(|run| run.len() > 19)
}

/// The text, mended: JSON, or nothing where not even a value begins. What stands behind its value is nothing.
pub(crate) fn mend(json: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(json);
    let text = text.as_bytes();
    let mut mended = Mended::new(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at).filter(|_| !mended.is_whole()) {
        at = match byte {
            b'"' => mended.string(text, at),
            b'{' | b'[' => mended.open(text, at),
            b'}' | b']' => mended.close(at),
            b',' => mended.comma(at),
            b':' => mended.colon(at),
            b' ' | b'\t' | b'\r' | b'\n' => {
                mended.out.push(byte);
                at + 1
            }
            _ => mended.word(text, at),
        };
    }
    while !mended.open.is_empty() {
        mended.close(at);
    }
    mended.out
}

/// Stands where a value could not be read. As a field's value it is noted, as an item or an event it is refused: `null` would be
/// left out without a word.
const UNREADABLE: &[u8] = b"{}";

/// What must come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A value: of a name, or by itself.
    Value,
    /// An element of an array.
    Element,
    /// The name of a member.
    Name,
    Colon,
    /// What ends a value.
    End,
}

/// JSON as far as it has been written.
struct Mended {
    out: Vec<u8>,
    /// Brackets that have not been closed.
    open: Vec<u8>,
    next: Next,
}

impl Mended {
    fn new(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes + 16), open: Vec::new(), next: Next::Value }
    }

    fn is_whole(&self) -> bool {
        self.open.is_empty() && self.next == Next::End
    }

    fn takes_value(&self) -> bool {
        matches!(self.next, Next::Value | Next::Element)
    }

    fn string(&mut self, text: &[u8], at: usize) -> usize {
        let start = self.out.len();
        let end = mend_string(text, at, &mut self.out);
        let takes_it = self.takes_value() || self.next == Next::Name;
        match end {
            Some(_) if !takes_it => self.out.truncate(start),
            Some(_) if self.next == Next::Name => self.next = Next::Colon,
            Some(_) => self.next = Next::End,
            // It breaks off, and says less than was meant, or something else.
            None => {
                self.out.truncate(start);
                if self.takes_value() {
                    self.unreadable();
                }
            }
        }
        end.unwrap_or(text.len())
    }

    fn open(&mut self, text: &[u8], at: usize) -> usize {
        if !self.takes_value() {
            return end_of_brackets(text, at);
        }
        if self.open.len() == DEPTH_MAX {
            self.out.extend_from_slice(b"null");
            self.next = Next::End;
            return end_of_brackets(text, at);
        }
        self.open.push(text[at]);
        self.out.push(text[at]);
        self.next = if text[at] == b'{' { Next::Name } else { Next::Element };
        at + 1
    }

    /// Whatever bracket stands there closes the last that was opened, as the scanner has it that finds a body's elements.
    fn close(&mut self, at: usize) -> usize {
        self.end_value();
        let Some(opened) = self.open.pop() else { return at + 1 };
        let end = self.out.trim_ascii_end().len();
        if self.out[..end].last() == Some(&b',') {
            let end = self.out[..end - 1].trim_ascii_end().len();
            self.out.truncate(end);
        }
        self.out.push(if opened == b'{' { b'}' } else { b']' });
        self.next = Next::End;
        at + 1
    }

    fn comma(&mut self, at: usize) -> usize {
        self.end_value();
        if self.next == Next::End
            && let Some(opened) = self.open.last()
        {
            self.out.push(b',');
            self.next = if *opened == b'{' { Next::Name } else { Next::Element };
        }
        at + 1
    }

    /// Says of a name whose value does not come that it is unreadable.
    fn end_value(&mut self) {
        if self.next == Next::Colon {
            self.out.push(b':');
        }
        if self.next == Next::Colon || (self.next == Next::Value && !self.open.is_empty()) {
            self.unreadable();
        }
    }

    fn colon(&mut self, at: usize) -> usize {
        if self.next == Next::Colon {
            self.out.push(b':');
            self.next = Next::Value;
        }
        at + 1
    }

    fn word(&mut self, text: &[u8], at: usize) -> usize {
        let end =
            text[at..].iter().position(|byte| is_delimiter(*byte)).map_or(text.len(), |length| at + length);
        if self.takes_value() {
            let breaks_off = end == text.len() && !self.open.is_empty();
            if breaks_off || !mend_word(&text[at..end], &mut self.out) {
                self.unreadable();
            }
            self.next = Next::End;
        }
        end
    }

    /// Of what is no part of anything nothing is left.
    fn unreadable(&mut self) {
        if !self.open.is_empty() {
            self.out.extend_from_slice(UNREADABLE);
        }
        self.next = Next::End;
    }
}

const fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n')
}

/// Where the object or array that opens at `at` ends.
fn end_of_brackets(text: &[u8], at: usize) -> usize {
    // To its reader a list ends where a bracket closes that it has not opened.
    let inner = end_of_list(text, at + 1);
    (inner + 1).min(text.len())
}

/// Where the list whose first value begins at `at` closes.
fn end_of_list(text: &[u8], mut at: usize) -> usize {
    loop {
        match end_of_value(text, at) {
            Some(end) if text[end] == b',' => at = end + 1,
            Some(end) => return end,
            None => return text.len(),
        }
    }
}

/// Copies the string that opens at `start`; returns where it ends, if it does.
fn mend_string(text: &[u8], start: usize, out: &mut Vec<u8>) -> Option<usize> {
    out.push(b'"');
    let mut at = start + 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                out.push(b'"');
                return Some(at + 1);
            }
            b'\\' => {
                at = mend_escape(text, at, out);
                continue;
            }
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(REPLACEMENT),
            _ => out.push(byte),
        }
        at += 1;
    }
    None
}

/// Copies the escape that begins at `at`; returns where it ends.
fn mend_escape(text: &[u8], at: usize, out: &mut Vec<u8>) -> usize {
    match text.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
            out.extend_from_slice(&text[at..at + 2]);
            at + 2
        }
        Some(b'u') => {
            let (length, is_text) = match (unit(text, at), unit(text, at + 6)) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, true),
                (Some(0xd800..=0xdfff), _) => (6, false),
                (Some(_), _) => (6, true),
                (None, _) => (2, false),
            };
            out.extend_from_slice(if is_text { &text[at..at + length] } else { REPLACEMENT });
            at + length
        }
        // What stands behind it is copied as any other.
        _ => at + 1,
    }
}

/// The UTF-16 unit that the escape at `at` names, if one stands there.
fn unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)? as u16))
}

/// Copies what stands outside of strings and is no bracket, if it can be read.
fn mend_word(word: &[u8], out: &mut Vec<u8>) -> bool {
    match word {
        b"true" | b"false" | b"null" => out.extend_from_slice(word),
        b"undefined" | b"None" | b"NULL" | b"nil" => out.extend_from_slice(b"null"),
        b"True" => out.extend_from_slice(b"true"),
        b"False" => out.extend_from_slice(b"false"),
        _ if is_plain_number(word) => out.extend_from_slice(word),
        [b'-' | b'+' | b'.' | b'0'..=b'9', rest @ ..] if rest.iter().all(|byte| is_of_number(*byte)) => {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
        }
        _ => return false,
    }
    true
}

const fn is_of_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E')
}

/// Whether JSON writes this number so, and 64 bits hold it.
fn is_plain_number(word: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Number>(word) {
        Ok(number) => {
            let is_whole = word.iter().all(|byte| matches!(byte, b'-' | b'0'..=b'9'));
            !is_whole || number.is_i64() || number.is_u64()
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mended(json: &[u8]) -> String {
        String::from_utf8(mend(json)).unwrap()
    }

    #[test]
    fn what_has_a_certain_meaning_is_mended() {
        for (json, wanted) in [
            (&br#"{"a":"x\ud83d"}"#[..], "{\"a\":\"x\u{fffd}\"}"),
            (br#"{"a":"\ude00x"}"#, "{\"a\":\"\u{fffd}x\"}"),
            (br#"{"a":"\ud83d\ud83d\ude00"}"#, "{\"a\":\"\u{fffd}\\ud83d\\ude00\"}"),
            (br#"{"a":"\ud83dA"}"#, "{\"a\":\"\u{fffd}A\"}"),
            (br#"{"a":"\u12"}"#, "{\"a\":\"\u{fffd}12\"}"),
            (b"{\"a\":\"x\xff\"}", "{\"a\":\"x\u{fffd}\"}"),
            (b"{\"a\":\"x\ny\x01\"}", "{\"a\":\"x\\ny\u{fffd}\"}"),
            (br#"{"a":"it\'s"}"#, r#"{"a":"it's"}"#),
            (b"{\"a\":NaN,\"b\": -Infinity}", r#"{"a":{},"b": {}}"#),
            (b"{\"a\":1e400}", r#"{"a":"1e400"}"#),
            (
                b"[18446744073709551615,18446744073709551616]",
                r#"[18446744073709551615,"18446744073709551616"]"#,
            ),
            (b"[007,.5,+1,1.,-1.5e3]", r#"["007",".5","+1","1.",-1.5e3]"#),
            (b"{\"a\":[1,2 , ],}", r#"{"a":[1,2]}"#),
            (b"{'a':1,\"b\":hello,\"c\":$5,\"d\":,\"e\"}", r#"{"b":{},"c":{},"d":{},"e":{}}"#),
            (br#"{"a":1,,"b":5,00,"c":2 3 "x" [4],,}"#, r#"{"a":1,"b":5,"c":2}"#),
            (b"{,\"a\" 1:2}", r#"{"a" :2}"#),
            (br#"[1,,2,],[3]"#, "[1,2]"),
            (br#"{"a":[1,{"b":"c","d":"brea"#, r#"{"a":[1,{"b":"c","d":{}}]}"#),
            (br#"{"a":"b","c":12"#, r#"{"a":"b","c":{}}"#),
            (br#"{"a":1}}; x"#, r#"{"a":1}"#),
            (br#"{"a":[1,2}}"#, r#"{"a":[1,2]}"#),
            (b"hello", ""),
            (b" ", " "),
            (b"{\"a\":True,\"b\":None}", r#"{"a":true,"b":null}"#),
            (b"\"never ends\\", ""),
        ] {
            assert_eq!(mended(json), wanted);
        }
    }

    #[test]
    fn deep_brackets_are_emptied() {
        let deep = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
        assert_eq!(mended(deep(DEPTH_MAX).as_bytes()), deep(DEPTH_MAX));
        let emptied = mended(format!("[{},\"]\",1]", deep(100_000)).as_bytes());
        assert_eq!(
            emptied,
            format!("[{}null{},\"]\",1]", "[".repeat(DEPTH_MAX - 1), "]".repeat(DEPTH_MAX - 1))
        );
    }

    #[test]
    fn marks_and_long_numbers_are_seen() {
        assert_eq!(without_mark(b"\xef\xbb\xbf{}"), b"{}");
        assert_eq!(without_mark(b"{}"), b"{}");
        assert!(has_long_number(b"[12345678901234567890]"));
        assert!(!has_long_number(b"[1234567890123456789.5]"));
    }

    proptest! {
        #[test]
        fn json_stays_what_it_was(
            texts in proptest::collection::vec("\\PC{0,8}", 0..4),
            number in any::<f64>().prop_filter("a number", |number| number.is_finite()),
            whole in any::<i64>(),
        ) {
            let json = serde_json::json!({ "a": texts, "b": [number, whole, null, true, { "c": {} }] }).to_string();
            prop_assert_eq!(mended(json.as_bytes()), json);
        }

        #[test]
        fn any_bytes_are_mended_once_and_for_all(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            near in "[\\[\\]{}\",:\\\\ud8 0-9.eNa\\n]{0,40}",
        ) {
            for json in [&bytes[..], near.as_bytes()] {
                let once = mend(json);
                if !once.trim_ascii().is_empty() {
                    prop_assert!(serde_json::from_slice::<serde_json::Value>(&once).is_ok(), "{}", String::from_utf8_lossy(&once));
                }
                prop_assert_eq!(mend(&once), once);
            }
        }
    }
}
