//! JSON as simd-json's tape, and objects on it whose fields are looked up by hand.

use millrace_schemas::reject::{Reason, Rejection};
use simd_json::{Buffers, ErrorType, INPUT_PADDING, Node, StaticNode, Tape, fill_tape_padded};

use crate::field::{COMMERCE, COUNT, Field};

/// Parses JSON again and again in the same memory.
#[derive(Default)]
pub(crate) struct Parser {
    input: Vec<u8>,
    buffers: Buffers,
    spare: Vec<Node<'static>>,
}

/// Scratch memory beyond this is given back after a larger body.
const SCRATCH_BYTES_KEPT: usize = 1 << 20;

impl Parser {
    /// Parses `json` into a tape that borrows from this parser's memory.
    pub(crate) fn parse(&mut self, json: &[u8]) -> Result<Parsed<'_>, Rejection> {
        if self.input.capacity() > SCRATCH_BYTES_KEPT && json.len() <= SCRATCH_BYTES_KEPT {
            *self = Self::default();
        }
        let Self { input, buffers, spare } = self;
        input.clear();
        input.extend_from_slice(json);
        input.resize(json.len() + INPUT_PADDING, b' ');
        let mut tape = Tape(std::mem::take(spare)).reset();
        match fill_tape_padded(input, json.len(), buffers, &mut tape) {
            Ok(()) => Ok(Parsed { tape, spare: Some(spare) }),
            Err(error) => {
                *spare = tape.reset().0;
                Err(malformed(json, &error))
            }
        }
    }
}

/// Why an element is no JSON that the collector can read.
fn malformed(json: &[u8], error: &simd_json::Error) -> Rejection {
    match error.error() {
        ErrorType::DepthLimitExceeded => Rejection::new(Reason::TooDeep, "brackets are nested too deep"),
        ErrorType::InvalidUtf8 => Rejection::new(Reason::MalformedJson, "the text is not UTF-8"),
        // simd-json calls a number that is well-formed and too large invalid, too.
        _ if holds_number_beyond_64_bits(json) => {
            Rejection::new(Reason::OutOfRange, "a number does not fit into 64 bits")
        }
        _ => Rejection::new(Reason::MalformedJson, format!("not valid JSON near byte {}", error.index())),
    }
}

/// Whether JSON that does not parse holds a well-formed number that no 64-bit number can be. Asked of refused
/// elements only.
fn holds_number_beyond_64_bits(json: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(json) else { return false };
    // Every second part between unescaped quotes is a string.
    let outside = text.replace("\\\\", "").replace("\\\"", "");
    outside.split('"').step_by(2).flat_map(|part| part.split([',', ':', '[', ']', '{', '}'])).any(|token| {
        let token = token.trim();
        let is_number = token.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let is_whole = token.bytes().skip(1).all(|byte| byte.is_ascii_digit());
        is_number
            && match token.parse::<f64>() {
                Ok(number) if is_whole => number.abs() >= 9.2e18,
                Ok(number) => number.is_infinite(),
                Err(_) => false,
            }
    })
}

/// A tape that gives its memory back when it is no longer needed.
pub(crate) struct Parsed<'s> {
    pub(crate) tape: Tape<'s>,
    spare: Option<&'s mut Vec<Node<'static>>>,
}

impl Parsed<'_> {
    /// An empty tape.
    pub(crate) const fn nothing() -> Self {
        Self { tape: Tape(Vec::new()), spare: None }
    }
}

impl Drop for Parsed<'_> {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            *spare = Tape(std::mem::take(&mut self.tape.0)).reset().0;
        }
    }
}

/// Number of nodes that the value at `at` takes.
pub(crate) fn size(nodes: &[Node<'_>], at: usize) -> usize {
    match nodes[at] {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::String(_) | Node::Static(_) => 1,
    }
}

/// What a setting of the nesting limit may be at most.
pub(crate) const NESTING_MAX: usize = 64;

/// Whether the value that `nodes` are has more than `most` levels of objects and arrays.
pub(crate) fn is_deeper(nodes: &[Node<'_>], most: usize) -> bool {
    let mut ends = [0_usize; NESTING_MAX];
    let mut depth = 0;
    for (index, node) in nodes.iter().enumerate() {
        while depth > 0 && ends[depth - 1] == index {
            depth -= 1;
        }
        if let Node::Object { count, .. } | Node::Array { count, .. } = node {
            if depth >= most.min(NESTING_MAX) {
                return true;
            }
            ends[depth] = index + 1 + count;
            depth += 1;
        }
    }
    false
}

/// An object on a tape, with the places of the fields that are known.
pub(crate) struct Object<'t> {
    nodes: &'t [Node<'t>],
    at: [u32; COUNT],
    /// Whether any value in it is an object or an array.
    pub(crate) has_containers: bool,
}

impl<'t> Object<'t> {
    /// Finds the fields of the object at `start`, and those in its object `ecommerce` as if they stood beside it. A
    /// known field that stands twice is refused: nobody could say which of the two was meant.
    pub(crate) fn read(nodes: &'t [Node<'t>], start: usize) -> Result<Self, Rejection> {
        let Some(Node::Object { len, .. }) = nodes.get(start) else {
            return Err(Rejection::new(Reason::NotAnObject, "an event is a JSON object"));
        };
        let mut object = Self { nodes, at: [0; COUNT], has_containers: false };
        let mut at = start + 1;
        for _ in 0..*len {
            let Node::String(key) = nodes[at] else { break };
            let value = at + 1;
            if let Some(field) = Field::parse(key) {
                let place = &mut object.at[field as usize];
                if *place != 0 {
                    return Err(Rejection::new(Reason::DuplicateKey, format!("`{key}` stands twice")));
                }
                *place = value as u32;
            }
            let value_size = size(nodes, value);
            object.has_containers |= value_size > 1;
            at = value + value_size;
        }
        match object.position(Field::Ecommerce) {
            None => Ok(object),
            Some(start) => object.with_commerce(start),
        }
    }

    /// Adds the fields of the object `ecommerce`, which begins at `start`.
    fn with_commerce(mut self, start: usize) -> Result<Self, Rejection> {
        let Node::Object { len, .. } = self.nodes[start] else {
            return Err(Rejection::new(Reason::WrongType, "`ecommerce` must be an object"));
        };
        let mut at = start + 1;
        for _ in 0..len {
            let Node::String(key) = self.nodes[at] else { break };
            let value = at + 1;
            if let Some(field) = Field::parse(key).filter(|field| COMMERCE.contains(field)) {
                let place = &mut self.at[field as usize];
                if *place != 0 {
                    let detail = format!("`{key}` stands twice, counting those in `ecommerce`");
                    return Err(Rejection::new(Reason::DuplicateKey, detail));
                }
                *place = value as u32;
            }
            at = value + size(self.nodes, value);
        }
        Ok(self)
    }

    /// The nodes of a field's value; `None` when it is absent or null.
    #[inline]
    pub(crate) fn get(&self, field: Field) -> Option<&'t [Node<'t>]> {
        let at = self.position(field)?;
        Some(&self.nodes[at..at + size(self.nodes, at)])
    }

    /// Where a field's value starts; `None` when it is absent or null.
    #[inline]
    pub(crate) fn position(&self, field: Field) -> Option<usize> {
        let at = self.at[field as usize] as usize;
        (at != 0 && !matches!(self.nodes[at], Node::Static(StaticNode::Null))).then_some(at)
    }
}

/// An event with what its envelope adds to it.
pub(crate) struct Source<'t> {
    pub(crate) event: Object<'t>,
    pub(crate) context: Option<&'t Object<'t>>,
    pub(crate) sent_at: Option<&'t [Node<'t>]>,
}

impl<'t> Source<'t> {
    /// The nodes of a field: the event's own, else the context's.
    #[inline]
    pub(crate) fn get(&self, field: Field) -> Option<&'t [Node<'t>]> {
        self.event.get(field).or_else(|| self.context?.get(field))
    }

    /// When the client sent the request, by its own clock.
    pub(crate) fn sent_at(&self) -> Option<&'t [Node<'t>]> {
        self.get(Field::SentAt).or(self.sent_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(json: &str) -> Option<Reason> {
        Parser::default().parse(json.as_bytes()).err().map(|rejection| rejection.reason)
    }

    #[test]
    fn what_is_no_json_is_told_apart() {
        assert_eq!(reason("{\"a\": 18446744073709551615}"), None);
        assert_eq!(reason("{\"a\": 18446744073709551616}"), Some(Reason::OutOfRange));
        assert_eq!(reason("{\"a\": -9223372036854775809}"), Some(Reason::OutOfRange));
        assert_eq!(reason("{\"a\": 1e999}"), Some(Reason::OutOfRange));
        for malformed in
            ["NaN", "Infinity", "01", "1.", "+1", "'a'", "\"\\ud800\"", "\"\\x\"", "\"18446744073709551616"]
        {
            assert_eq!(
                reason(&format!("{{\"a\": {malformed}}}")),
                Some(Reason::MalformedJson),
                "{malformed}"
            );
        }
        assert_eq!(
            Parser::default().parse(b"{\"a\": \"\xff\"}").err().unwrap().reason,
            Reason::MalformedJson
        );
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(reason(&deep), Some(Reason::TooDeep));
    }

    #[test]
    fn levels_are_counted() {
        let mut parser = Parser::default();
        let parsed = parser.parse(b"{\"a\":[{}],\"b\":{},\"c\":[[1],[2]]}").ok().unwrap();
        assert!(is_deeper(&parsed.tape.0, 2));
        assert!(!is_deeper(&parsed.tape.0, 3));
    }
}
