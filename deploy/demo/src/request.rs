//! A request to the collector, and the answer it must get.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use millrace_schemas::reject::Reason;
use serde_json::{Map, Value};
use uuid::Uuid;

/// The keys of the store that the traffic belongs to.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Public: stands in the page.
    pub write: String,
    /// Of the shop's server.
    pub secret: String,
}

/// In which of its shapes a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Single,
    Array,
    Envelope,
    Lines,
}

/// Where the key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyPlace {
    Bearer,
    Header,
    Query,
    Body,
    Wrong,
    Nowhere,
}

#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// Events as JSON texts, and what all of them have in common.
    Events { form: Form, context: Map<String, Value>, texts: Vec<String>, is_stamped: bool },
    /// Something else.
    Raw(Vec<u8>),
}

/// The answer that a request must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// HTTP status.
    pub status: u16,
    /// Events accepted.
    pub accepted: usize,
    /// Events refused, by their place in the request.
    pub rejected: Vec<(usize, Reason)>,
}

/// A request as it will be posted, but for the keys and the time of sending.
#[derive(Clone, Debug)]
pub struct Request {
    /// `User-Agent`.
    pub agent: String,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `Content-Encoding`.
    pub encoding: Option<&'static str>,
    /// Whether it is sent by the shop's server, with the secret key.
    pub is_server: bool,
    /// What must come back.
    pub expected: Expected,
    /// The ids of the events in it that must be accepted; one that stands in it twice comes twice.
    pub accepted_ids: Vec<Uuid>,
    pub(super) key_place: KeyPlace,
    pub(super) payload: Payload,
}

impl Request {
    /// How many events it holds, refused ones included.
    pub fn events(&self) -> usize {
        match &self.payload {
            Payload::Events { texts, .. } => texts.len(),
            Payload::Raw(_) => 0,
        }
    }

    fn key<'k>(&self, keys: &'k Keys) -> &'k str {
        if self.is_server { &keys.secret } else { &keys.write }
    }

    /// The body, for a sending at `now`.
    pub fn body(&self, keys: &Keys, now: Timestamp) -> std::io::Result<Vec<u8>> {
        let plain = match &self.payload {
            Payload::Raw(bytes) => return Ok(bytes.clone()),
            Payload::Events { form, context, texts, is_stamped } => match form {
                Form::Single => texts.concat(),
                Form::Lines => texts.iter().map(|text| format!("{text}\n")).collect(),
                Form::Array => format!("[{}]", texts.join(",")),
                Form::Envelope => {
                    let mut fields = Vec::new();
                    if self.key_place == KeyPlace::Body {
                        fields.push(format!(r#""write_key":"{}""#, self.key(keys)));
                    }
                    if *is_stamped {
                        fields.push(format!(r#""sent_at":"{now:.3}""#));
                    }
                    if !context.is_empty() {
                        fields.push(format!(r#""context":{}"#, Value::Object(context.clone())));
                    }
                    fields.push(format!(r#""events":[{}]"#, texts.join(",")));
                    format!("{{{}}}", fields.join(","))
                }
            },
        };
        if self.encoding.is_none() {
            return Ok(plain.into_bytes());
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(plain.as_bytes())?;
        gzip.finish()
    }

    /// The request for a client to send.
    pub fn build(
        &self,
        client: &reqwest::Client,
        collector: &str,
        keys: &Keys,
    ) -> anyhow::Result<reqwest::RequestBuilder> {
        let mut url = format!("{collector}/v1/collect");
        if self.key_place == KeyPlace::Query {
            url = format!("{url}?key={}", self.key(keys));
        }
        let mut request = client
            .post(url)
            .header("user-agent", &self.agent)
            .header("content-type", self.content_type)
            .body(self.body(keys, Timestamp::now())?);
        request = match self.key_place {
            KeyPlace::Bearer => request.header("authorization", format!("Bearer {}", self.key(keys))),
            KeyPlace::Header => request.header("x-write-key", self.key(keys)),
            KeyPlace::Wrong => request.header("x-write-key", "nobody-knows-this-key"),
            KeyPlace::Query | KeyPlace::Body | KeyPlace::Nowhere => request,
        };
        if let Some(encoding) = self.encoding {
            request = request.header("content-encoding", encoding);
        }
        Ok(request)
    }
}
