//! Answers in ClickHouse's shape.
//!
//! An error before the first byte of a result is a status, a number in `X-ClickHouse-Exception-Code` and the
//! text. After it the status is gone, so the text comes as the last bytes of the body, marked with a tag that
//! the response's headers announced (ClickHouse 25.11 and later, read by the official clients):
//!
//! ```text
//! \r\n__exception__\r\n<tag>\r\n<text>\n<length of text and line end> <tag>\r\n__exception__\r\n
//! ```
//!
//! and then the connection breaks, so that a client that knows nothing of tags does not take the beginning of
//! a result for all of it.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use rand::distr::{Alphanumeric, SampleString};

use super::{error::Exception, ffi::Progress, lz4, pool::Engine, session::Output};
use futures::Stream;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The name under which ClickHouse's server would show its host.
const DISPLAY_NAME: &str = "millrace";
/// Between the last frame of a failed response and its breaking off. Breaking off throws away what the HTTP
/// library still holds (some hundred KiB), so this is the time a slow client has to take that in; one that
/// reads the tag does not wait for the end.
const BREAK_DELAY: Duration = Duration::from_secs(1);

/// What all answers to one request have in common.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The statement's name, the client's own or a new one.
    pub query_id: String,
    /// The result's format.
    pub format: String,
    /// Whether the result goes into compressed blocks.
    pub compress: bool,
}

impl Reply {
    /// A statement that failed before its first byte.
    pub fn failure(&self, error: &Exception) -> Response {
        let text = format!("{error}\n");
        let body = if self.compress { lz4::compress(text.as_bytes()) } else { text.into() };
        let mut response = self.response(Body::from(body), None);
        *response.status_mut() = error.status();
        let headers = response.headers_mut();
        headers.insert("x-clickhouse-exception-code", HeaderValue::from(error.code()));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
        response
    }

    /// A statement that has ended, with all of its result.
    pub fn whole(&self, body: Bytes, progress: Progress) -> Response {
        self.response(Body::from(body), Some(progress))
    }

    /// A statement whose result goes on.
    pub fn streamed(
        &self,
        first: Bytes,
        progress: Progress,
        rest: mpsc::Receiver<Output>,
        on_hang_up: KillOnDrop,
    ) -> Response {
        let tag = Alphanumeric.sample_string(&mut rand::rng(), 16);
        let tag_header = HeaderValue::from_str(&tag);
        let stream = self.stream(first, rest, tag, on_hang_up);
        let mut response = self.response(Body::from_stream(stream), Some(progress));
        if let Ok(tag) = tag_header {
            response.headers_mut().insert("x-clickhouse-exception-tag", tag);
        }
        response
    }

    fn stream(
        &self,
        first: Bytes,
        rest: mpsc::Receiver<Output>,
        tag: String,
        on_hang_up: KillOnDrop,
    ) -> impl Stream<Item = Result<Bytes, std::io::Error>> + use<> {
        enum State {
            First(Bytes),
            Rest,
            Broken,
        }
        let compress = self.compress;
        let start = (State::First(first), rest, tag, on_hang_up);
        futures::stream::unfold(start, move |(state, mut rest, tag, mut on_hang_up)| async move {
            let (item, state) = match state {
                State::First(data) => (Ok(data), State::Rest),
                State::Rest => match rest.recv().await {
                    Some(Output::Data(data, _)) => (Ok(data), State::Rest),
                    Some(Output::Done(_)) | None => {
                        on_hang_up.disarm();
                        return None;
                    }
                    Some(Output::Failed(error)) => {
                        on_hang_up.disarm();
                        let frame = exception_frame(&error, &tag);
                        (Ok(if compress { lz4::compress(&frame) } else { frame }), State::Broken)
                    }
                },
                State::Broken => {
                    tokio::time::sleep(BREAK_DELAY).await;
                    (Err(std::io::Error::other("the statement failed")), State::Broken)
                }
            };
            Some((item, (state, rest, tag, on_hang_up)))
        })
    }

    fn response(&self, body: Body, progress: Option<Progress>) -> Response {
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert("x-clickhouse-server-display-name", HeaderValue::from_static(DISPLAY_NAME));
        text_header(headers, "x-clickhouse-query-id", &self.query_id);
        text_header(headers, "x-clickhouse-format", &self.format);
        let summary = progress.map_or_else(|| "{}".to_owned(), summary);
        text_header(headers, "x-clickhouse-summary", &summary);
        headers.insert(header::CONTENT_TYPE, content_type(&self.format));
        response
    }
}

/// Kills a statement when the response, or the wait for it, is dropped: the client hung up.
pub struct KillOnDrop {
    engine: Arc<Engine>,
    number: Option<u64>,
}

impl KillOnDrop {
    /// For the statement with this number.
    pub fn new(engine: Arc<Engine>, number: u64) -> Self {
        Self { engine, number: Some(number) }
    }

    /// The statement ended by itself, or shall go on without its client.
    pub fn disarm(&mut self) {
        self.number = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.engine.kill(number);
        }
    }
}

fn exception_frame(error: &Exception, tag: &str) -> Bytes {
    let text = error.to_string();
    let length = text.len() + 1;
    format!("\r\n__exception__\r\n{tag}\r\n{text}\n{length} {tag}\r\n__exception__\r\n").into()
}

/// The counters of `X-ClickHouse-Summary`, as strings, which is how ClickHouse has them.
fn summary(progress: Progress) -> String {
    let Progress { read_rows, read_bytes, written_rows, written_bytes } = progress;
    format!(
        r#"{{"read_rows":"{read_rows}","read_bytes":"{read_bytes}","written_rows":"{written_rows}","written_bytes":"{written_bytes}"}}"#
    )
}

fn text_header(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // What a header cannot carry (a client's odd query_id) is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn content_type(format: &str) -> HeaderValue {
    let lower = format.to_ascii_lowercase();
    HeaderValue::from_static(if lower == "json" || lower == "jsoncompact" || lower == "jsoncolumns" {
        "application/json; charset=UTF-8"
    } else if lower.starts_with("json") || lower == "ndjson" {
        "application/x-ndjson; charset=UTF-8"
    } else if lower.starts_with("csv") {
        "text/csv; charset=UTF-8"
    } else if lower.starts_with("tsv") || lower.starts_with("tabseparated") {
        "text/tab-separated-values; charset=UTF-8"
    } else if lower.starts_with("pretty") || lower == "vertical" || lower == "values" {
        "text/plain; charset=UTF-8"
    } else {
        "application/octet-stream"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exceptions_length_counts_its_line_end() {
        let error = Exception::from_engine("Code: 1. DB::Exception: x. (Y)");
        let frame = exception_frame(&error, "0123456789abcdef");
        let expected = "\r\n__exception__\r\n0123456789abcdef\r\nCode: 1. DB::Exception: x. (Y)\n\
                        31 0123456789abcdef\r\n__exception__\r\n";
        assert_eq!(frame, expected);
    }
}
