//! Finding the elements of a body without parsing them, so that one that is not JSON costs its neighbours nothing. Where a
//! body breaks off, the last of them is what is there of it.
//!
//! The scanner knows strings and brackets and nothing else. It counts depth instead of recursing, so nesting costs
//! neither stack nor more than linear time.

use std::ops::Range;

/// What a body consists of at its top level. Ranges are bytes of the body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Top {
    /// The elements of one array.
    Array(Vec<Range<usize>>),
    /// The members of one object: name (without quotes) and value.
    Object(Vec<(Range<usize>, Range<usize>)>),
    /// Several values, one after the other.
    Sequence,
}

/// Splits a body at its top level; `None`: it has none that could be found. Of longer lists only the first `most + 1`
/// elements are returned.
pub(crate) fn split(body: &[u8], most: usize) -> Option<Top> {
    let start = skip_whitespace(body, 0);
    let (top, end) = match *body.get(start)? {
        b'[' => {
            let (elements, end) = split_array(body, start, most);
            (Top::Array(elements), end)
        }
        b'{' => {
            let (members, end) = split_object(body, start, most)?;
            (Top::Object(members), end)
        }
        _ => return None,
    };
    // What stands behind the end is nothing, unless another value begins there, or on a later line.
    let begins_value = |line: &[u8]| matches!(line.trim_ascii_start().first(), Some(b'{' | b'['));
    let follows = body[end.min(body.len())..].split(|byte| *byte == b'\n').any(begins_value);
    Some(if follows { Top::Sequence } else { top })
}

/// The elements of the array that opens at `start`, and where it ends.
pub(crate) fn split_array(body: &[u8], start: usize, most: usize) -> (Vec<Range<usize>>, usize) {
    let mut elements = Vec::new();
    let mut at = skip_whitespace(body, start + 1);
    if body.get(at) == Some(&b']') {
        return (elements, at + 1);
    }
    while at < body.len() {
        let end = end_of_value(body, at).unwrap_or(body.len());
        elements.push(at..trim_end(body, at, end));
        match body.get(end) {
            Some(b',') if elements.len() <= most => at = skip_whitespace(body, end + 1),
            Some(b']') => return (elements, end + 1),
            _ => break,
        }
    }
    (elements, body.len())
}

/// Name and value of a member.
type Member = (Range<usize>, Range<usize>);

/// The members of the object that opens at `start`, and where it ends; `None`: it has none.
fn split_object(body: &[u8], start: usize, most: usize) -> Option<(Vec<Member>, usize)> {
    let mut members = Vec::new();
    let mut at = skip_whitespace(body, start + 1);
    if body.get(at) == Some(&b'}') {
        return Some((members, at + 1));
    }
    while let Some((name, value)) = member(body, at) {
        let end = end_of_value(body, value).unwrap_or(body.len());
        members.push((name, value..trim_end(body, value, end)));
        match body.get(end) {
            // Nobody needs a thousand members of an envelope: the scan is for `events` and its siblings.
            Some(b',') if members.len() <= most.max(1000) => at = skip_whitespace(body, end + 1),
            Some(b',') => return None,
            Some(b'}') => return Some((members, end + 1)),
            _ => break,
        }
    }
    (!members.is_empty()).then_some((members, body.len()))
}

/// The name of the member that begins at `at`, and where its value begins.
fn member(body: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let name_end = if body.get(at) == Some(&b'"') { end_of_string(body, at)? } else { return None };
    let colon = skip_whitespace(body, name_end);
    (body.get(colon) == Some(&b':')).then(|| (at + 1..name_end - 1, skip_whitespace(body, colon + 1)))
}

/// The non-empty lines of a body. Of more only the first `most + 1` are returned.
pub(crate) fn lines(body: &[u8], most: usize) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', body).chain([body.len()]) {
        let from = skip_whitespace(&body[..end], start);
        let line = from..trim_end(body, from, end);
        start = end + 1;
        if !line.is_empty() {
            lines.push(line);
            if lines.len() > most {
                break;
            }
        }
    }
    lines
}

/// Where the value at `at` ends: at the comma or closing bracket of the list it stands in, or after the last byte.
pub(crate) fn end_of_value(body: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match *body.get(at)? {
            b'"' => {
                at = end_of_string(body, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
}

/// Where the string that opens at `at` ends: after its closing quote.
fn end_of_string(body: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', body.get(at..)?)?;
        if body[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn skip_whitespace(body: &[u8], at: usize) -> usize {
    body[at.min(body.len())..]
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
        .map_or(body.len(), |length| at + length)
}

fn trim_end(body: &[u8], start: usize, end: usize) -> usize {
    start + body[start..end.max(start)].trim_ascii_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn elements(body: &str) -> Option<Vec<&str>> {
        match split(body.as_bytes(), 100)? {
            Top::Array(ranges) => Some(ranges.into_iter().map(|range| &body[range]).collect()),
            _ => None,
        }
    }

    #[test]
    fn elements_are_found_whatever_they_hold() {
        assert_eq!(elements("[]"), Some(vec![]));
        assert_eq!(
            elements(" [ 1 , {\"a\":[2,3]} , \"],\\\"\" ] "),
            Some(vec!["1", "{\"a\":[2,3]}", "\"],\\\"\""])
        );
        assert_eq!(elements("[NaN,{\"a\":1e999},,]"), Some(vec!["NaN", "{\"a\":1e999}", "", ""]));
        assert_eq!(elements("[1,2"), Some(vec!["1", "2"]));
        assert_eq!(elements("[1,{\"a\": [2"), Some(vec!["1", "{\"a\": [2"]));
        assert_eq!(elements("[1,"), Some(vec!["1"]));
        assert_eq!(elements("[\"]"), Some(vec!["\"]"]));
        assert_eq!(elements("[1] x"), Some(vec!["1"]));
        assert_eq!(elements("hello"), None);
        assert_eq!(split(b"{\"a\":1}\n{\"a\":2}", 9), Some(Top::Sequence));
        assert_eq!(split(b"{\"a\": NaN }", 9), Some(Top::Object(vec![(2..3, 6..9)])));
        assert_eq!(split(b"{\"a\": [1, ", 9), Some(Top::Object(vec![(2..3, 6..9)])));
        assert_eq!(split(b"{\"a\": 1, oh", 9), Some(Top::Object(vec![(2..3, 6..7)])));
        assert_eq!(split(b"{oh", 9), None);
    }

    #[test]
    fn lines_are_trimmed_and_empty_ones_skipped() {
        assert_eq!(lines(b"{}\r\n\n [1] \n", 9), vec![0..2, 6..9]);
        assert_eq!(lines(b"1\n2\n3\n4", 2).len(), 3);
    }

    #[test]
    fn values_on_later_lines_are_looked_for_once() {
        assert_eq!(split(b"{\"a\":1}\nhello\n\n {\"a\":2}", 9), Some(Top::Sequence));
        let empty = [b"[1]".to_vec(), vec![b'\n'; 1_000_000]].concat();
        let one = split(&empty, 9);
        assert!(matches!(one, Some(Top::Array(found)) if found.len() == 1));
    }

    #[test]
    fn deep_nesting_is_linear_and_needs_no_stack() {
        let deep = [vec![b'['; 1_000_000], vec![b']'; 1_000_000]].concat();
        let inner = 1..deep.len() - 1;
        assert_eq!(split(&deep, 9), Some(Top::Array(vec![inner])));
    }

    proptest! {
        #[test]
        fn valid_arrays_are_split_as_a_parser_would(
            values in proptest::collection::vec("[a-z\"\\\\,\\[\\]{}: ]{0,12}", 0..6),
        ) {
            let values: Vec<_> = values.iter().map(|text| serde_json::json!({ "k": [text, 1] })).collect();
            let body = serde_json::to_string(&values).unwrap();
            let found: Vec<serde_json::Value> =
                elements(&body).unwrap().into_iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn any_bytes_are_split_or_refused(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = split(&body, 3);
            let _ = lines(&body, 3);
        }
    }
}
