//! Where fuzzing begins: requests as browsers and servers send them, and what becomes of them on their way.

use millrace_collector::{
    chain::{Encoding, collect_body},
    compat::Protocol,
    decode::{Form, Scratch},
    encode::Topic,
};

use crate::{Target, body, decode};

/// Bodies, one in a line; `⏎` stands for a newline within one.
const BODIES: &str = include_str!("../seeds/bodies.txt");
/// Requests of other products' clients, as `compat.rs` reads them without the first byte: the end of a line that is only
/// `---` separates them, and their last newline is not theirs.
const REQUESTS: [(Protocol, &str); 6] = [
    (Protocol::Segment, include_str!("../seeds/segment.txt")),
    (Protocol::Ga4, include_str!("../seeds/ga4.txt")),
    (Protocol::Plausible, include_str!("../seeds/plausible.txt")),
    (Protocol::Umami, include_str!("../seeds/umami.txt")),
    (Protocol::Posthog, include_str!("../seeds/posthog.txt")),
    (Protocol::Snowplow, include_str!("../seeds/snowplow.txt")),
];
/// Stories of spools (`spool.rs` reads them): nothing; one group; several segments; then a torn tail, zeros, a cut, a
/// flipped bit, a lost segment, a durable offset that never was.
const STORIES: [&[u8]; 9] = [
    &[],
    &[3, 1, 0, 5, b'h', b'e', b'l', b'l', b'o'],
    &[1, 5, 0, 3, 1, 2, 3, 1, 9, 9, 2, 0, 0, 1, 0, 4, 4, 4, 4, 4, 2, 8, 8, 8],
    &[3, 2, 0, 2, 1, 1, 0, 2, 2, 2, 1, 1, 0, 0, 0, 0, 0, 6, 0, 2, 0, 0, 0, 1],
    &[3, 2, 0, 2, 1, 1, 0, 2, 2, 2, 0, 1, 0, 0, 0, 0, 2, 16, 0],
    &[3, 2, 0, 2, 1, 1, 0, 2, 2, 2, 1, 1, 0, 0, 30, 0, 3],
    &[3, 2, 0, 2, 1, 1, 0, 2, 2, 2, 0, 1, 0, 0, 20, 0, 4, 1],
    &[0, 3, 0, 2, 1, 1, 0, 2, 2, 2, 0, 1, 3, 0, 1, 1, 0, 0, 0, 6],
    &[3, 1, 0, 2, 1, 1, 0, 1, 0, 0, 0, 0, 7, 8, 9, 0, 0, 0, 0, 0, 0, 0],
];

/// A page's path, the address of the page before and a user agent in each line, `⏎` between them.
const ADDRESSES: &str = include_str!("../seeds/addresses.txt");

/// The inputs with which a target's fuzzing begins.
pub fn of(target: Target) -> Vec<Vec<u8>> {
    match target {
        Target::Decode => {
            bodies().flat_map(|body| [0_u8, 1, 2, 4].map(|choice| with(choice, &body))).collect()
        }
        Target::Body => bodies().step_by(4).flat_map(|body| compressed(&body)).collect(),
        // What was sent is not far from a row, and was not written by us.
        Target::Row => {
            bodies().flat_map(|body| [rows(&body), vec![with(0, &body), with(1, &body)]].concat()).collect()
        }
        Target::Spool => STORIES.map(<[u8]>::to_vec).to_vec(),
        Target::Enrich => {
            let parts = ADDRESSES.lines().map(|line| line.replace('⏎', "\n").into_bytes());
            parts.flat_map(|parts| [with(0, &parts), with(4, &parts)]).collect()
        }
        Target::Compat(protocol) => {
            requests(protocol).flat_map(|request| [0, 2, 4].map(|choice| with(choice, request))).collect()
        }
    }
}

fn bodies() -> impl Iterator<Item = Vec<u8>> {
    BODIES.lines().map(|line| line.replace('⏎', "\n").into_bytes())
}

fn requests(protocol: Protocol) -> impl Iterator<Item = &'static [u8]> {
    let of_protocol = REQUESTS.iter().filter(move |(of, _)| *of == protocol);
    of_protocol.flat_map(|(_, text)| text.trim_end().split("\n---\n")).map(str::as_bytes)
}

fn with(choice: u8, bytes: &[u8]) -> Vec<u8> {
    [&[choice], bytes].concat()
}

fn compressed(bytes: &[u8]) -> Vec<Vec<u8>> {
    let encodings = [Encoding::Gzip, Encoding::Deflate, Encoding::Brotli, Encoding::Zstd];
    (0_u8..)
        .zip(encodings)
        .flat_map(|(choice, encoding)| {
            let foreign = body::compress(bytes, encoding).unwrap_or_default();
            [with(choice | 0x70, &foreign), with(choice | 4, bytes)]
        })
        .collect()
}

fn rows(body: &[u8]) -> Vec<Vec<u8>> {
    let (_, request) = decode::request(0);
    let outcome = collect_body(body, Form::Json, &request, &decode::ENRICHER, &mut Scratch::default());
    let messages = outcome.map(|outcome| outcome.messages).unwrap_or_default();
    messages.iter().map(|message| with(u8::from(message.topic == Topic::Clicks), &message.value)).collect()
}
