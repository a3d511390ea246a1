//! A request's body: read with a deadline and a cap, then inflated with a cap of its own.

use std::{borrow::Cow, io::Read, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, header::CONTENT_ENCODING},
};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use millrace_schemas::{limits::Limits, reject::Reason};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::decode::Refusal;

/// Bytes of a body that need no permission: connections are bounded, so their sum is.
const FREE_BYTES: usize = 16 << 10;

/// Bounds what bodies may take in memory together.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Semaphore>);

impl Memory {
    pub(crate) fn new(bytes_max: u32, body_bytes_max: usize) -> Self {
        // One body of the largest size must always fit.
        Self(Arc::new(Semaphore::new((bytes_max as usize).max(body_bytes_max))))
    }

    async fn take(&self, bytes: usize, deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        match tokio::time::timeout_at(deadline, Arc::clone(&self.0).acquire_many_owned(permits)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                Err(Refusal::new(Reason::Unavailable, "too many large bodies at once; send this one again"))
            }
        }
    }
}

/// A body that has arrived, and its share of memory.
pub(crate) struct Received {
    pub(crate) bytes: bytes::Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Reads a body to its end.
pub(crate) async fn read(
    mut body: Body,
    limits: &Limits,
    patience: Duration,
    memory: &Memory,
) -> Result<Received, Refusal> {
    let deadline = Instant::now() + patience;
    let too_large = || {
        let detail = format!("send at most {} bytes in one request", limits.body_bytes_max);
        Refusal::new(Reason::BodyTooLarge, detail)
    };
    let announced = body.size_hint();
    let least = usize::try_from(announced.lower()).unwrap_or(usize::MAX);
    if least > limits.body_bytes_max {
        return Err(too_large());
    }
    let mut permit = None;
    if least > FREE_BYTES {
        permit = Some(memory.take(least, deadline).await?);
    }
    let mut first = bytes::Bytes::new();
    let mut more = Vec::new();
    loop {
        let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(Refusal::new(Reason::NotJson, "the body ended early")),
            Err(_) => {
                let detail = format!("the body was not complete within {} ms", patience.as_millis());
                return Err(Refusal::new(Reason::BodyTimeout, detail));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = first.len() + more.len() + data.len();
        if length > limits.body_bytes_max {
            return Err(too_large());
        }
        // A body of unknown length asks once, for the most it can become.
        if length > FREE_BYTES && permit.is_none() {
            permit = Some(memory.take(limits.body_bytes_max, deadline).await?);
        }
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.reserve(least.max(length));
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
    }
    let bytes = if more.is_empty() { first } else { more.into() };
    Ok(Received { bytes, _memory: permit })
}

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// The encoding that the headers name.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(Encoding::Identity) };
        let name = value.as_bytes().trim_ascii();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let encoding = match () {
            () if values.next().is_some() => None,
            () if is("identity") || name.is_empty() => Some(Encoding::Identity),
            () if is("gzip") || is("x-gzip") => Some(Encoding::Gzip),
            () if is("deflate") => Some(Encoding::Deflate),
            () if is("br") => Some(Encoding::Brotli),
            () if is("zstd") => Some(Encoding::Zstd),
            () => None,
        };
        encoding.ok_or_else(|| {
            Refusal::new(Reason::UnsupportedEncoding, "send gzip, deflate, br or zstd, and only one of them")
        })
    }
}

/// Windows of zstd frames up to 8 MiB, as RFC 9659 asks of HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Undoes an encoding. Stops as soon as the cap is passed, so a bomb costs no more than the cap.
pub(crate) fn inflate(body: &[u8], encoding: Encoding, bytes_max: usize) -> Result<Cow<'_, [u8]>, Refusal> {
    let mut inflated = Vec::new();
    let result = match encoding {
        Encoding::Identity => return Ok(Cow::Borrowed(body)),
        Encoding::Gzip => read_capped(flate2::read::MultiGzDecoder::new(body), bytes_max, &mut inflated),
        // The name means zlib; some senders mean the bare stream.
        Encoding::Deflate if is_zlib(body) => {
            read_capped(flate2::read::ZlibDecoder::new(body), bytes_max, &mut inflated)
        }
        Encoding::Deflate => read_capped(flate2::read::DeflateDecoder::new(body), bytes_max, &mut inflated),
        Encoding::Brotli => read_capped(brotli::Decompressor::new(body, 8 << 10), bytes_max, &mut inflated),
        Encoding::Zstd => zstd::stream::read::Decoder::with_buffer(body).and_then(|mut decoder| {
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            read_capped(decoder, bytes_max, &mut inflated)
        }),
    };
    match result {
        Ok(()) if inflated.len() > bytes_max => {
            let detail = format!("the body inflates to more than {bytes_max} bytes");
            Err(Refusal::new(Reason::BodyTooLarge, detail))
        }
        Ok(()) => Ok(Cow::Owned(inflated)),
        Err(_) => {
            let detail = "the body does not decode as its Content-Encoding says";
            Err(Refusal::new(Reason::UnsupportedEncoding, detail))
        }
    }
}

fn read_capped(from: impl Read, bytes_max: usize, into: &mut Vec<u8>) -> std::io::Result<()> {
    from.take(bytes_max as u64 + 1).read_to_end(into).map(|_| ())
}

fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..] if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}
