//! What the bytes of a connection are: heads, or bodies.
//!
//! hyper reads requests as leniently as many servers do: a bare line feed ends a line, of two lengths one is taken. A proxy
//! before us may read the same bytes otherwise, and whoever knows both can hide a request in another one's body. So what
//! can be read in two ways is refused: a bare line feed, a length that is given twice or in two kinds, a coding but
//! `chunked`.
//!
//! The bytes are looked at as they are read, and nothing is kept of them but the beginning of a line that goes on in the
//! next read. What must not be read as a line's end is handed on as a byte that no head may hold: hyper refuses it with 400
//! in its turn, after the answers to the requests before it, and closes the connection. So is all that comes after it.

/// Stands where a line would have ended; no head and no trailer may hold it.
const REFUSED: u8 = 0;
/// Of a line that comes in pieces, as many bytes as a length or a coding takes, spaces included.
const LINE_BYTES_MAX: usize = 64;

/// Follows the bytes of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// The last byte of the last read was a carriage return.
    after_return: bool,
    /// The beginning of a line that goes on.
    line: [u8; LINE_BYTES_MAX],
    /// Bytes of that line so far, also of those that are not kept.
    line_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head(Head),
    /// So many bytes are left of a body.
    Body(u64),
    Chunked(Chunked),
    /// Refused: nothing is a request any more.
    Over,
}

/// What the lines of a head have said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    has_begun: bool,
    length: Option<u64>,
    is_chunked: bool,
}

/// A place in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunked {
    Size(u64),
    /// What follows a chunk's size in its line.
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    DataEnded,
    TrailerBegin,
    Trailer,
    TrailerEnd,
    End,
}

impl Framing {
    pub(super) const fn new() -> Self {
        let state = State::Head(Head { has_begun: false, length: None, is_chunked: false });
        Self { state, after_return: false, line: [0; LINE_BYTES_MAX], line_bytes: 0 }
    }

    /// Looks at bytes that have just been read, and spoils those that end a line where none may end.
    pub(super) fn inspect(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Head(head) => at += self.head_line(head, &mut bytes[at..]),
                State::Body(left) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    at += usize::try_from(taken).unwrap_or(usize::MAX);
                    self.state = if taken == left { BEGIN } else { State::Body(left - taken) };
                }
                State::Chunked(Chunked::Data(left)) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    at += usize::try_from(taken).unwrap_or(usize::MAX);
                    let next = if taken == left { Chunked::DataEnd } else { Chunked::Data(left - taken) };
                    self.state = State::Chunked(next);
                }
                State::Chunked(chunked) => {
                    self.state = chunked.step(&mut bytes[at]);
                    at += 1;
                }
                State::Over => {
                    bytes[at..].fill(REFUSED);
                    return;
                }
            }
        }
    }

    /// Takes a line of a head, or its beginning; how many bytes that were.
    fn head_line(&mut self, head: Head, bytes: &mut [u8]) -> usize {
        let Some(feed) = memchr::memchr(b'\n', bytes) else {
            self.keep(bytes);
            return bytes.len();
        };
        let ends_well = if feed == 0 { self.after_return } else { bytes[feed - 1] == b'\r' };
        let next = if !ends_well {
            None
        } else if self.line_bytes == 0 {
            head.line(&bytes[..feed - 1], feed <= LINE_BYTES_MAX)
        } else {
            self.keep(&bytes[..feed]);
            // Without the carriage return.
            let line_bytes = self.line_bytes - 1;
            head.line(&self.line[..line_bytes.min(LINE_BYTES_MAX)], line_bytes < LINE_BYTES_MAX)
        };
        if next.is_none() {
            bytes[feed] = REFUSED;
        }
        self.state = next.unwrap_or(State::Over);
        (self.line_bytes, self.after_return) = (0, false);
        feed + 1
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(free) = self.line.get_mut(self.line_bytes..) {
            let kept = free.len().min(bytes.len());
            free[..kept].copy_from_slice(&bytes[..kept]);
        }
        self.line_bytes = self.line_bytes.saturating_add(bytes.len());
        if let Some(last) = bytes.last() {
            self.after_return = *last == b'\r';
        }
    }
}

/// Between two requests.
const BEGIN: State = State::Head(Head { has_begun: false, length: None, is_chunked: false });

impl Head {
    /// What follows a line, of which long ones are not whole; `None` where it must not stand.
    fn line(mut self, line: &[u8], is_whole: bool) -> Option<State> {
        if line.is_empty() {
            return Some(match self {
                // Some clients send a line end after a body.
                Head { has_begun: false, .. } => State::Head(self),
                Head { is_chunked: true, .. } => State::Chunked(Chunked::Size(NO_DIGIT)),
                Head { length: Some(bytes @ 1..), .. } => State::Body(bytes),
                _ => BEGIN,
            });
        }
        if !self.has_begun {
            self.has_begun = true;
            return Some(State::Head(self));
        }
        // Nearly all other headers begin with another letter.
        if matches!(line[0] | 0x20, b'c' | b't')
            && let Some(colon) = memchr::memchr(b':', line)
        {
            let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                if self.length.is_some() || self.is_chunked || !is_whole {
                    return None;
                }
                self.length = Some(number(value)?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                let is_chunked = is_whole && value.eq_ignore_ascii_case(b"chunked");
                if self.length.is_some() || self.is_chunked || !is_chunked {
                    return None;
                }
                self.is_chunked = true;
            }
        }
        Some(State::Head(self))
    }
}

/// Nothing but digits.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if is_number { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// A size of which no digit has come; none is as large.
const NO_DIGIT: u64 = u64::MAX;

impl Chunked {
    /// What follows a byte. What is malformed hyper refuses by itself, and reads no further.
    fn step(self, byte: &mut u8) -> State {
        use Chunked::{
            Data, DataEnd, DataEnded, End, Extension, Size, SizeEnd, Trailer, TrailerBegin, TrailerEnd,
        };
        let next = match (self, *byte) {
            (Size(NO_DIGIT), b';' | b' ' | b'\t' | b'\r') => None,
            (Size(size), digit) if digit.is_ascii_hexdigit() => {
                let size = if size == NO_DIGIT { 0 } else { size };
                let digit = (digit as char).to_digit(16).map_or(0, u64::from);
                size.checked_mul(16).and_then(|size| size.checked_add(digit)).map(Size)
            }
            (Size(size) | Extension(size), b'\r') => Some(SizeEnd(size)),
            (Size(size), b';' | b' ' | b'\t') => Some(Extension(size)),
            (Extension(size), byte) if byte != b'\n' => Some(Extension(size)),
            (SizeEnd(0), b'\n') | (TrailerEnd, b'\n') => Some(TrailerBegin),
            (SizeEnd(size), b'\n') => Some(Data(size)),
            (DataEnd, b'\r') => Some(DataEnded),
            (DataEnded, b'\n') => Some(Size(NO_DIGIT)),
            (TrailerBegin, b'\r') => Some(End),
            (Trailer, b'\r') => Some(TrailerEnd),
            (TrailerBegin | Trailer, byte) if byte != b'\n' => Some(Trailer),
            (End, b'\n') => return BEGIN,
            _ => None,
        };
        if next.is_none() {
            match self {
                // May hold anything but a line feed.
                Extension(_) => {}
                // Goes on until a carriage return, which must not stand alone.
                Trailer | TrailerBegin => *byte = b'\r',
                _ => *byte = REFUSED,
            }
        }
        next.map_or(State::Over, State::Chunked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From where on bytes are refused, read in pieces of every size; and whether another request may follow.
    fn refused(text: &str) -> (Option<usize>, bool) {
        let read = |piece: usize| {
            let (mut bytes, mut framing) = (text.as_bytes().to_vec(), Framing::new());
            for piece in bytes.chunks_mut(piece) {
                framing.inspect(piece);
            }
            let first = (0..bytes.len()).find(|at| bytes[*at] != text.as_bytes()[*at]);
            assert!(first.is_none_or(|first| bytes[first + 1..].iter().all(|byte| *byte == REFUSED)));
            (first, framing.state == BEGIN)
        };
        let whole = read(text.len());
        for piece in 1..text.len() {
            assert_eq!(read(piece), whole, "{text:?} in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn what_can_be_read_in_one_way_only_is_let_through() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-LENGTH:  5 \r\n\r\n\nab\n\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\nContent-Type: a\r\n\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=b\r\n\n\n\n\n\n\r\n00\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA \r\n0123456789\r\n0\r\nTrailer: a\r\nb: c\r\n\r\n",
            &format!("GET / HTTP/1.1\r\nContent-Lengths: {0}\r\nX: {0}\r\n\r\n", "x".repeat(200)),
        ] {
            assert_eq!(refused(text), (None, true), "{text:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused_where_it_stands() {
        for text in [
            "\n|",
            "GET / HTTP/1.1\n|Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n|\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n|GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\n|\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n|\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n|\r\na",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n|\r\na",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n|\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n|\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n|\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\nContent-Length: 1\r\n|\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n|\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n|\r\na",
            "POST / HTTP/1.1\r\nContent-Length:\r\n|\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n|\r\na",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\n|a\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;\na|\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n|0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n|\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n|",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-|1\r\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000|\r\n",
        ] {
            let at = text.find('|').unwrap() - 1;
            assert_eq!(refused(&text.replace('|', "")), (Some(at), false), "{text:?}");
        }
        let long = format!("POST / HTTP/1.1\r\nContent-Length: {}1\r\n", " ".repeat(100));
        assert_eq!(refused(&long), (Some(long.len() - 1), false), "of what does not fit nothing is guessed");
    }
}
