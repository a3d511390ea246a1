//! JSON that is nearly JSON, made whole where its meaning is certain. It is asked of what does not parse alone.
//!
//! | in the text | becomes |
//! |---|---|
//! | half of a surrogate pair, bytes that are not UTF-8, control characters in a string | U+FFFD |
//! | a line break or tab in a string | its escape |
//! | a backslash before a character that needs none | the character |
//! | `NaN`, `Infinity`, `undefined`, Python's `None`, `True`, `False` | `null`, `null`, `null`, `null`, `true`, `false` |
//! | a number that 64 bits do not hold, or that JSON writes otherwise: `1e400`, `007`, `.5`, `+1` | the same as a string |
//! | commas before a closing bracket | nothing |
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

/// The text, mended. What it cannot mend it leaves as it is.
pub(crate) fn mend(json: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(json);
    let text = text.as_bytes();
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut depth = 0;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                at = mend_string(text, at, &mut out);
                continue;
            }
            b'{' | b'[' if depth == DEPTH_MAX => {
                out.extend_from_slice(b"null");
                at = end_of_brackets(text, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                let mut end = out.trim_ascii_end().len();
                while out[..end].last() == Some(&b',') {
                    end = out[..end - 1].trim_ascii_end().len();
                    out.truncate(end);
                }
            }
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                let end = text[at..].iter().position(|byte| is_delimiter(*byte));
                let end = end.map_or(text.len(), |length| at + length);
                mend_word(&text[at..end], &mut out);
                at = end;
                continue;
            }
        }
        out.push(byte);
        at += 1;
    }
    out
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

/// Copies the string that opens at `start`; returns where it ends.
fn mend_string(text: &[u8], start: usize, out: &mut Vec<u8>) -> usize {
    out.push(b'"');
    let mut at = start + 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                out.push(b'"');
                return at + 1;
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
    at
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

/// Copies what stands outside of strings and is no bracket.
fn mend_word(word: &[u8], out: &mut Vec<u8>) {
    match word {
        b"true" | b"false" | b"null" => out.extend_from_slice(word),
        b"NaN" | b"nan" | b"Infinity" | b"-Infinity" | b"inf" | b"-inf" | b"undefined" | b"None" => {
            out.extend_from_slice(b"null");
        }
        b"True" => out.extend_from_slice(b"true"),
        b"False" => out.extend_from_slice(b"false"),
        _ if is_plain_number(word) => out.extend_from_slice(word),
        [b'-' | b'+' | b'.' | b'0'..=b'9', rest @ ..] if rest.iter().all(|byte| is_of_number(*byte)) => {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
        }
        _ => out.extend_from_slice(word),
    }
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
            (b"{\"a\":NaN,\"b\": -Infinity}", r#"{"a":null,"b": null}"#),
            (b"{\"a\":1e400}", r#"{"a":"1e400"}"#),
            (
                b"[18446744073709551615,18446744073709551616]",
                r#"[18446744073709551615,"18446744073709551616"]"#,
            ),
            (b"[007,.5,+1,1.,-1.5e3]", r#"["007",".5","+1","1.",-1.5e3]"#),
            (b"{\"a\":[1,2 , ],}", r#"{"a":[1,2]}"#),
            (b"{'a':hello}", "{'a':hello}"),
            (b"{\"a\":True,\"b\":None}", r#"{"a":true,"b":null}"#),
            (b"\"never ends\\", "\"never ends"),
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
                prop_assert_eq!(mend(&once), once);
            }
        }
    }
}
