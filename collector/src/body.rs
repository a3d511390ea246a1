//! A request's body: read with a deadline and a cap, then inflated with caps of its own.

use std::{
    borrow::Cow,
    collections::HashMap,
    io::Read,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, header::CONTENT_ENCODING},
};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use millrace_schemas::{limits::Limits, metric, reject::Reason};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{client, decode::Refusal};

/// Bytes of a body that need no permission: connections are bounded, so their sum is.
const FREE_BYTES: usize = 16 << 10;
/// Memory is taken in such steps as bytes arrive: what a sender announces, and does not send, costs nobody anything.
const STEP_BYTES: usize = 64 << 10;
/// What one client's bodies may take is this part of the whole.
const CLIENT_PART: usize = 8;
/// How long a body waits for others to give memory back.
const MEMORY_PATIENCE: Duration = Duration::from_secs(2);

/// Bounds what bodies may take in memory together, and what those of one client's network may take of it.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    all: Arc<Semaphore>,
    client_bytes_max: usize,
    clients: Arc<Mutex<Clients>>,
    taken_gauge: metrics::Gauge,
}

/// Networks with bodies in memory now, with the number of these.
type Clients = HashMap<IpAddr, (Arc<Semaphore>, usize)>;

impl Memory {
    pub(crate) fn new(bytes_max: u32, body_bytes_max: usize) -> Self {
        // One body of the largest size must always fit.
        let least = body_bytes_max.next_multiple_of(STEP_BYTES);
        let bytes_max = (bytes_max as usize).max(least);
        Self {
            all: Arc::new(Semaphore::new(bytes_max)),
            client_bytes_max: (bytes_max / CLIENT_PART).max(least),
            clients: Arc::default(),
            taken_gauge: metrics::gauge!(metric::COLLECTOR_BODIES_BYTES),
        }
    }

    fn share(&self, client: IpAddr) -> Share {
        let network = client::network(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, bodies) =
            clients.entry(network).or_insert_with(|| (Arc::new(Semaphore::new(self.client_bytes_max)), 0));
        *bodies += 1;
        Share { own: Arc::clone(own), memory: self.clone(), network, bytes: 0, permits: Vec::new() }
    }
}

/// What one body has taken; dropping it gives that back.
#[derive(Debug)]
struct Share {
    memory: Memory,
    network: IpAddr,
    own: Arc<Semaphore>,
    bytes: usize,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Share {
    /// Takes memory for a body of so many bytes.
    async fn grow(&mut self, bytes: usize, deadline: Instant) -> Result<(), Refusal> {
        let more = bytes.next_multiple_of(STEP_BYTES).saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let permits = u32::try_from(more).unwrap_or(u32::MAX);
        let (own, all) = (Arc::clone(&self.own), Arc::clone(&self.memory.all));
        let take = async {
            Ok::<_, tokio::sync::AcquireError>([
                own.acquire_many_owned(permits).await?,
                all.acquire_many_owned(permits).await?,
            ])
        };
        let deadline = deadline.min(Instant::now() + MEMORY_PATIENCE);
        match tokio::time::timeout_at(deadline, take).await {
            Ok(Ok(taken)) => {
                self.permits.extend(taken);
                self.bytes += more;
                self.memory.taken_gauge.increment(more as f64);
                Ok(())
            }
            Ok(Err(_)) | Err(_) => {
                Err(Refusal::new(Reason::Unavailable, "too many large bodies at once; send this one again"))
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.taken_gauge.decrement(self.bytes as f64);
        let mut clients = self.memory.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bodies)) = clients.get_mut(&self.network) {
            *bodies -= 1;
            if *bodies == 0 {
                clients.remove(&self.network);
            }
        }
    }
}

/// A body that has arrived, and its share of memory.
pub(crate) struct Received {
    pub(crate) bytes: bytes::Bytes,
    _share: Option<Share>,
}

/// Reads a body to its end.
pub(crate) async fn read(
    mut body: Body,
    limits: &Limits,
    patience: Duration,
    memory: &Memory,
    client: IpAddr,
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
    let mut share = None;
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
        if length > FREE_BYTES {
            share.get_or_insert_with(|| memory.share(client)).grow(length, deadline).await?;
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
    Ok(Received { bytes, _share: share })
}

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, or 1951 without the frame.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
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

/// Events in JSON shrink to a tenth, the most alike of them to a fortieth; what shrinks to less than a hundredth is made
/// to cost its reader more than its sender.
const INFLATED_RATIO_MAX: usize = 100;
/// Whatever the ratio, so much is never too much.
const INFLATED_BYTES_FREE: usize = 64 << 10;

/// What a body of so many bytes may inflate to.
pub(crate) fn inflated_max(body_bytes: usize, bytes_max: usize) -> usize {
    bytes_max.min(body_bytes.saturating_mul(INFLATED_RATIO_MAX).max(INFLATED_BYTES_FREE))
}

/// Undoes an encoding. Stops as soon as the cap is passed, so a bomb costs no more than the cap.
pub fn inflate(body: &[u8], encoding: Encoding, bytes_max: usize) -> Result<Cow<'_, [u8]>, Refusal> {
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
            let detail =
                format!("the body inflates to more than {bytes_max} bytes: send less in one request");
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
