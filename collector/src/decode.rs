//! Bytes to events: finds the events of a body and their fields, without deciding whether they are acceptable.
//!
//! The body is parsed once, as a whole, into simd-json's tape, and each event's fields are looked up on it by hand: an
//! event of a wrong shape then costs its neighbours nothing, and duplicate keys are seen. Only when the body does not
//! parse is it split ([`crate::split`]), each element parsed alone, and mended ([`crate::mend`]) where that fails.
//!
//! Strings are borrowed from the scratch copy that simd-json unescapes in place; nothing is allocated per field.

use std::ops::Range;

use millrace_schemas::{
    limits::Limits,
    reject::{Reason, Rejection},
};
use simd_json::Node;

use crate::{
    field::Field,
    mend::{mend, without_mark},
    split::{self, Top},
    tape::{Object, Parsed, Parser, Source, size},
};

/// How a body holds its events, as its content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON value: an event, an array of events, or an envelope. Several of them in a row are taken for lines.
    Json,
    /// One event per line.
    Lines,
}

/// Memory that is used again from request to request.
#[derive(Default)]
pub struct Scratch {
    body: Parser,
    head: Parser,
    element: Parser,
    mended: Parser,
}

/// A request that is refused whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What to do about it; safe to show to the sender.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its detail.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl From<Rejection> for Refusal {
    fn from(Rejection { reason, detail }: Rejection) -> Self {
        Self { reason, detail }
    }
}

/// The events of one body.
pub struct Events<'s> {
    /// The body's tape; of a broken one that of what stands beside its pieces, and of a single event its known fields,
    /// among which the key is; may be empty.
    parsed: Parsed<'s>,
    list: List,
    has_envelope: bool,
    body: &'s [u8],
    element: &'s mut Parser,
    mended: &'s mut Parser,
}

enum List {
    /// Events start at this node of the tape.
    Nodes { first: usize, count: usize },
    /// Each event is parsed alone from these bytes.
    Pieces(Vec<Range<usize>>),
}

/// Finds the events of a body. Refuses it whole when it is not JSON, or holds no list where one should be.
pub fn decode<'s>(
    body: &'s [u8],
    form: Form,
    limits: &Limits,
    scratch: &'s mut Scratch,
) -> Result<Events<'s>, Refusal> {
    let Scratch { body: whole, head, element, mended } = scratch;
    let body = without_mark(body);
    let mut events = Events {
        parsed: Parsed::nothing(),
        list: List::Pieces(Vec::new()),
        has_envelope: false,
        body,
        element,
        mended,
    };
    if form == Form::Lines {
        events.list = List::Pieces(lines(body, limits.events_max)?);
    } else {
        match whole.parse(body) {
            Ok(parsed) => {
                events.parsed = parsed;
                events.find_in_tape()?;
            }
            Err(rejection) => events.find_in_pieces(limits.events_max, &rejection, head)?,
        }
    }
    if events.len() > limits.events_max {
        let detail = format!("send at most {} events in one request", limits.events_max);
        return Err(Refusal::new(Reason::TooManyEvents, detail));
    }
    Ok(events)
}

fn lines(body: &[u8], most: usize) -> Result<Vec<Range<usize>>, Refusal> {
    let lines = split::lines(body, most);
    if lines.iter().all(|line| !matches!(body[line.start], b'{' | b'[')) && !lines.is_empty() {
        return Err(not_json("no line of the body is a JSON object"));
    }
    Ok(lines)
}

fn not_json(detail: impl Into<String>) -> Refusal {
    Refusal::new(Reason::NotJson, detail)
}

fn events_are_no_array() -> Refusal {
    Refusal::new(Reason::WrongType, "`events` must be an array of events")
}

/// Of two lists one would be lost without a word.
fn two_lists() -> Refusal {
    Refusal::new(Reason::DuplicateKey, "`events` stands twice; send one list")
}

impl<'s> Events<'s> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.list {
            List::Nodes { count, .. } => *count,
            List::Pieces(ranges) => ranges.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that stands in the body.
    pub fn write_key(&self) -> Option<&str> {
        match Object::read(&self.parsed.tape.0, 0).ok()?.get(Field::WriteKey)? {
            [Node::String(key), ..] => Some(key),
            _ => None,
        }
    }

    /// Visits every event, in order, with its place in the request.
    pub(crate) fn for_each(&mut self, mut visit: impl FnMut(usize, Result<Source<'_>, Rejection>)) {
        let Self { parsed, list, element, mended, body, .. } = self;
        let nodes = &parsed.tape.0;
        let envelope = if self.has_envelope { Object::read(nodes, 0).ok() } else { None };
        let context_at = envelope.as_ref().and_then(|envelope| envelope.position(Field::Context));
        let context = context_at.and_then(|at| Object::read(nodes, at).ok());
        let has_odd_context = context_at.is_some() && context.is_none();
        let sent_at = envelope.as_ref().and_then(|envelope| envelope.get(Field::SentAt));
        let context = context.as_ref();
        match list {
            List::Nodes { first, count } => {
                let mut at = *first;
                for index in 0..*count {
                    let event = Object::read(nodes, at);
                    visit(index, event.map(|event| Source { event, context, sent_at, has_odd_context }));
                    at += size(nodes, at);
                }
            }
            List::Pieces(ranges) => {
                for (index, range) in ranges.iter().enumerate() {
                    let mut visit = |parsed: &Result<Parsed<'_>, Rejection>| match parsed {
                        Ok(Parsed { tape, .. }) => {
                            let event = Object::read(&tape.0, 0);
                            visit(
                                index,
                                event.map(|event| Source { event, context, sent_at, has_odd_context }),
                            );
                        }
                        Err(rejection) => visit(index, Err(rejection.clone())),
                    };
                    let piece = &body[range.clone()];
                    match element.parse(piece) {
                        Err(_) => visit(&mended.parse(&mend(piece))),
                        parsed => visit(&parsed),
                    }
                }
            }
        }
    }

    /// Finds the events of a body that parsed.
    fn find_in_tape(&mut self) -> Result<(), Refusal> {
        let nodes = &self.parsed.tape.0;
        let (first, count) = match nodes[0] {
            Node::Array { len, .. } => (1, len),
            Node::Object { .. } => {
                let root = Object::read(nodes, 0)?;
                match root.position(Field::Events).map(|at| (at, nodes[at])) {
                    None => (0, 1),
                    Some(_) if root.duplicates().any(|field| field == Field::Events) => {
                        return Err(two_lists());
                    }
                    Some((at, Node::Array { len, .. })) => {
                        self.has_envelope = true;
                        (at + 1, len)
                    }
                    Some(_) => return Err(events_are_no_array()),
                }
            }
            Node::String(_) | Node::Static(_) => (0, 1),
        };
        self.list = List::Nodes { first, count };
        Ok(())
    }

    /// Finds the events of a body that does not parse as a whole.
    fn find_in_pieces(
        &mut self,
        events_max: usize,
        rejection: &Rejection,
        head: &'s mut Parser,
    ) -> Result<(), Refusal> {
        let pieces = match split::split(self.body, events_max) {
            None => return Err(not_json(format!("the body is not JSON: {}", rejection.detail))),
            Some(Top::Array(ranges)) => ranges,
            Some(Top::Sequence) => match lines(self.body, events_max)? {
                lines if lines.len() > 1 => lines,
                _ => return Err(not_json("one JSON value follows another; put each on a line of its own")),
            },
            Some(Top::Object(members)) => {
                let (list, head_json) = event_list(self.body, &members, events_max)?;
                // Its key is needed before the event that stands by itself is read.
                self.parsed = head.parse(&head_json)?;
                self.has_envelope = list.is_some();
                list.unwrap_or_else(|| vec![whole_of(self.body)])
            }
        };
        self.list = List::Pieces(pieces);
        Ok(())
    }

    /// Bytes that the events take with their context, about: it is sent once and kept with every event, so a small body
    /// can become very many bytes.
    pub fn expanded_bytes(&self) -> usize {
        let context_bytes = || {
            let nodes = &self.parsed.tape.0;
            let at = Object::read(nodes, 0).ok()?.position(Field::Context)?;
            Some(bytes_of(&nodes[at..at + size(nodes, at)]))
        };
        let context_bytes = if self.has_envelope { context_bytes().unwrap_or(0) } else { 0 };
        self.body.len().saturating_add(self.len().saturating_mul(context_bytes))
    }
}

/// Bytes that values take, about.
fn bytes_of(nodes: &[Node<'_>]) -> usize {
    nodes.iter().map(|node| if let Node::String(text) = node { text.len() + 4 } else { 8 }).sum()
}

/// The bytes of each event of an envelope.
type Pieces = Vec<Range<usize>>;

/// The events of an envelope, none when the object is no envelope; and the JSON of all its other fields.
fn event_list(
    body: &[u8],
    members: &[(Range<usize>, Range<usize>)],
    most: usize,
) -> Result<(Option<Pieces>, Vec<u8>), Refusal> {
    let mut list = None;
    let mut head = b"{\"events\":[]".to_vec();
    for (name, value) in members {
        let name = &body[name.clone()];
        if name == Field::Events.name().as_bytes() {
            if body.get(value.start) != Some(&b'[') {
                return Err(events_are_no_array());
            }
            if list.is_some() {
                return Err(two_lists());
            }
            list = Some(split::split_array(body, value.start, most).0);
        } else if std::str::from_utf8(name).is_ok_and(|name| Field::parse(name).is_some()) {
            head.extend_from_slice(b",\"");
            head.extend_from_slice(name);
            head.extend_from_slice(b"\":");
            // One that cannot be read costs the list nothing.
            let value = mend(&body[value.clone()]);
            head.extend_from_slice(if value.trim_ascii().is_empty() { b"false" } else { &value });
        }
    }
    head.push(b'}');
    Ok((list, head))
}

fn whole_of(body: &[u8]) -> Range<usize> {
    0..body.len()
}
