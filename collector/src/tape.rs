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
                Err(malformed(&error))
            }
        }
    }
}

/// Why an element is no JSON.
fn malformed(error: &simd_json::Error) -> Rejection {
    let detail = match error.error() {
        ErrorType::InvalidUtf8 => "the text is not UTF-8".to_owned(),
        _ => format!("not valid JSON near byte {}", error.index()),
    };
    Rejection::new(Reason::MalformedJson, detail)
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

/// The entries of the object or array that starts at `at`, each by its name (empty in an array) and the place of its value.
pub(crate) fn entries<'t>(nodes: &'t [Node<'t>], at: usize) -> impl Iterator<Item = (&'t str, usize)> {
    let (len, has_names) = match nodes[at] {
        Node::Object { len, .. } => (len, true),
        Node::Array { len, .. } => (len, false),
        Node::String(_) | Node::Static(_) => (0, false),
    };
    let mut next = at + 1;
    (0..len).map(move |_| {
        let name = match nodes[next] {
            Node::String(name) if has_names => name,
            _ => "",
        };
        let value = next + usize::from(has_names);
        next = value + size(nodes, value);
        (name, value)
    })
}

/// Appends a value's JSON, as far as `bytes_max` bytes reach; what is cut off is no JSON any more, and is read by people.
pub(crate) fn write_json(nodes: &[Node<'_>], at: usize, bytes_max: usize, out: &mut String) {
    use std::fmt::Write as _;
    let mut closing = Vec::new();
    let mut at = at;
    loop {
        let mut opens = None;
        // Writing to a string cannot fail.
        let _ = match nodes[at] {
            Node::String(text) => write!(out, "{}", serde_json::Value::from(text)),
            Node::Static(StaticNode::Null) => write!(out, "null"),
            Node::Static(StaticNode::Bool(flag)) => write!(out, "{flag}"),
            Node::Static(StaticNode::U64(number)) => write!(out, "{number}"),
            Node::Static(StaticNode::I64(number)) => write!(out, "{number}"),
            Node::Static(StaticNode::F64(number)) => write!(out, "{}", serde_json::Value::from(number)),
            Node::Object { count, .. } => {
                opens = Some(('}', at + 1 + count, true));
                write!(out, "{{")
            }
            Node::Array { count, .. } => {
                opens = Some((']', at + 1 + count, false));
                write!(out, "[")
            }
        };
        at += 1;
        if let Some(opened) = opens {
            closing.push(opened);
        }
        let mut is_first = opens.is_some();
        while let Some((bracket, end, _)) = closing.last()
            && *end == at
        {
            out.push(*bracket);
            closing.pop();
            is_first = false;
        }
        let Some((_, _, has_names)) = closing.last() else { return };
        if out.len() > bytes_max {
            return out.truncate(out.floor_char_boundary(bytes_max));
        }
        if !is_first {
            out.push(',');
        }
        if *has_names {
            if let Node::String(name) = nodes[at] {
                let _ = write!(out, "{}:", serde_json::Value::from(name));
            }
            at += 1;
        }
    }
}

/// An object on a tape, with the places of the fields that are known.
pub(crate) struct Object<'t> {
    nodes: &'t [Node<'t>],
    at: [u32; COUNT],
    /// Fields that stand twice, by their bits.
    duplicates: u64,
    /// Whether `ecommerce` stands there and is no object.
    pub(crate) has_odd_commerce: bool,
}

/// A bit for each field.
const _: () = assert!(COUNT <= u64::BITS as usize);

impl<'t> Object<'t> {
    /// Finds the fields of the object at `start`, and those in its object `ecommerce` as if they stood beside it. Of a
    /// field that stands twice the last that says something counts; of those in `ecommerce` none that stands
    /// outside, too.
    pub(crate) fn read(nodes: &'t [Node<'t>], start: usize) -> Result<Self, Rejection> {
        let Some(Node::Object { len, .. }) = nodes.get(start) else {
            return Err(Rejection::new(Reason::NotAnObject, "an event is a JSON object"));
        };
        let mut object = Self { nodes, at: [0; COUNT], duplicates: 0, has_odd_commerce: false };
        let mut at = start + 1;
        for _ in 0..*len {
            let Node::String(key) = nodes[at] else { break };
            let value = at + 1;
            if let Some(field) = Field::parse(key) {
                let place = &mut object.at[field as usize];
                let says_nothing = matches!(nodes[value], Node::Static(StaticNode::Null) | Node::String(""));
                object.duplicates |= u64::from(*place != 0) << field as u64;
                if *place == 0 || !says_nothing {
                    *place = value as u32;
                }
            }
            at = value + size(nodes, value);
        }
        if let Some(start) = object.position(Field::Ecommerce) {
            object.add_commerce(start);
        }
        Ok(object)
    }

    /// Adds the fields of the object `ecommerce`, which begins at `start`.
    fn add_commerce(&mut self, start: usize) {
        self.has_odd_commerce = !matches!(self.nodes[start], Node::Object { .. });
        let outside = self.at;
        for (name, value) in entries(self.nodes, start) {
            if let Some(field) = Field::parse(name).filter(|field| COMMERCE.contains(field)) {
                let place = &mut self.at[field as usize];
                self.duplicates |= u64::from(*place != 0) << field as u64;
                if outside[field as usize] == 0 {
                    *place = value as u32;
                }
            }
        }
    }

    /// Fields that stand twice.
    pub(crate) fn duplicates(&self) -> impl Iterator<Item = Field> {
        let duplicates = self.duplicates;
        // Hardly ever any: nothing is looked for then.
        let fields = if duplicates == 0 { &[][..] } else { Field::ALL };
        fields.iter().copied().filter(move |field| duplicates >> (*field as u64) & 1 == 1)
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
    /// Whether there is a context that is no object.
    pub(crate) has_odd_context: bool,
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
    fn what_is_no_json_is_malformed() {
        for malformed in
            ["NaN", "01", "1.", "+1", "'a'", "\"\\ud800\"", "\"\\x\"", "1e999", "18446744073709551616"]
        {
            let reason = reason(&format!("{{\"a\": {malformed}}}"));
            assert_eq!(reason, Some(Reason::MalformedJson), "{malformed}");
        }
        assert_eq!(reason("{\"a\": 18446744073709551615}"), None);
        assert_eq!(reason(&("[".repeat(100_000) + &"]".repeat(100_000))), Some(Reason::MalformedJson));
        let refused = Parser::default().parse(b"{\"a\": \"\xff\"}").err().unwrap();
        assert_eq!(refused.detail, "the text is not UTF-8");
    }

    #[test]
    fn the_last_of_two_counts_and_both_are_told() {
        let mut parser = Parser::default();
        let json = br#"{"label":"a","value":1,"label":"b","ecommerce":{"value":2,"tax":3}}"#;
        let parsed = parser.parse(json).ok().unwrap();
        let object = Object::read(&parsed.tape.0, 0).unwrap();
        assert_eq!(object.duplicates().collect::<Vec<_>>(), [Field::Label, Field::Value]);
        assert_eq!(object.get(Field::Label).unwrap()[0], Node::String("b"));
        assert_eq!(object.get(Field::Value).unwrap()[0], Node::Static(StaticNode::U64(1)));
        assert_eq!(object.get(Field::Tax).unwrap()[0], Node::Static(StaticNode::U64(3)));
    }

    #[test]
    fn values_are_written_as_they_were_sent() {
        let json = r#"{"a":[{},[],1,-2,1.5,null,true,"x\"y\u0001"],"b":{"c":[[2],{"d":3}]}}"#;
        let mut parser = Parser::default();
        let parsed = parser.parse(json.as_bytes()).ok().unwrap();
        let mut out = String::new();
        write_json(&parsed.tape.0, 0, 1000, &mut out);
        assert_eq!(out, json);
        out.clear();
        write_json(&parsed.tape.0, 0, 10, &mut out);
        assert_eq!(out, &json[..10]);
    }
}
