//! `POST /v1/collect`: the hot path, link by link.
//!
//! client rate → content type → key → body → inflate → decode → store rate → validate → enrich → encode → log → answer

use std::{
    borrow::Cow,
    cell::RefCell,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, Uri,
        header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
        request::Parts,
    },
    middleware::Next,
    response::Response,
};
use millrace_schemas::reject::{Reason, Rejection};
use millrace_service::serve::Peer;
use tokio::runtime::Handle;

use super::{App, answer, answer::Refused, cors};
use crate::{
    body::{self, Encoding},
    chain::{self, Outcome},
    client,
    decode::{Form, Refusal, Scratch, decode},
    encode::Message,
    key::{self, Directory, Flow, Key, Store},
    limit::{Held, NoMemory},
    log::{NotLogged, Receipt},
    stores::ask::Asked,
    validate::{Request as Sender, USER_AGENT_BYTES_MAX},
};

const WRITE_KEY: HeaderName = HeaderName::from_static("x-write-key");

/// When a store of which too much waits may come again: nobody knows when the log has gone on; soon is as good a guess
/// as any, and asks little.
const SHARE_WAIT: Duration = Duration::from_secs(5);

/// A body larger than this, as it arrives or inflated, takes milliseconds: it is worked on aside.
const LARGE_BYTES: usize = 128 << 10;

thread_local! {
    /// Parsing needs memory of the size of the body; each worker thread keeps its own.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The handler.
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let result = collect(&app, &parts, body).await;
    let mut response = match &result {
        Ok(outcome) => answer::accepted(outcome),
        Err(refused) => {
            count_refused(&app, refused);
            if refused.store.is_none()
                && let Some(key) = sent_key(&parts.headers, &parts.uri)
                && let Some(store) = store_of(&app, &key)
            {
                tell_store(&app, &store, refused);
            }
            answer::refused(refused)
        }
    };
    cors::allow(&mut response, &parts.headers);
    response
}

/// Events that were listed have been counted by their own reasons.
pub(crate) fn count_refused(app: &App, refused: &Refused) {
    if refused.rejected.is_empty() {
        app.metrics.refused(refused.refusal.reason);
        if let Some(store) = &refused.store {
            tell_store(app, store, refused);
        }
    }
}

/// A request that is refused whole, for good, counts for its store as one event would: its sender may never look at an answer.
fn tell_store(app: &App, store: &Store, refused: &Refused) {
    let Refusal { reason, detail } = &refused.refusal;
    let is_for_good = !matches!(reason.status(), 401 | 408 | 429 | 500..);
    if is_for_good && refused.rejected.is_empty() {
        app.refusals.note(&store.id, &[(0, Rejection::new(*reason, detail.clone()))], Vec::new());
    }
}

fn store_of(app: &App, key: &str) -> Option<Arc<Store>> {
    app.directory.load().find(key).map(|key| Arc::clone(&key.store))
}

async fn collect(app: &App, parts: &Parts, body: Body) -> Result<Outcome, Refused> {
    let client = take_client_rate(app, parts)?;
    let form = form(&parts.headers)?;
    let encoding = Encoding::of(&parts.headers)?;
    let sent_key = sent_key(&parts.headers, &parts.uri);
    let origin = cors::origin(&parts.headers);
    // A key that stands in the head is checked before the body is read; the one in the body cannot be.
    if let Some(sent_key) = &sent_key {
        admit(app, sent_key, origin.as_deref()).await?;
    }
    let received = body::read(body, &app.limits, app.body_timeout, &app.memory, client).await?;
    if let Some(peer) = parts.extensions.get::<Peer>() {
        peer.connection.work();
    }
    app.metrics.body_bytes.increment(received.bytes.len() as u64);
    let sender =
        Head { headers: &parts.headers, client, key: sent_key.as_deref(), origin: origin.as_deref() };
    let accept = async || accept_received(app, &received.bytes, encoding, form, &sender).await;
    let accepted = again_if_known_by_now(app, accept().await, accept).await?;
    drop(received);
    append(app, accepted).await
}

/// A body, here or aside.
async fn accept_received(
    app: &App,
    received: &[u8],
    encoding: Encoding,
    form: Form,
    sender: &Head<'_>,
) -> Result<Accepted, Refused> {
    let inflated_max = body::inflated_max(received.len(), app.limits.inflated_bytes_max);
    let first = (received.len() <= LARGE_BYTES).then(|| {
        let body = body::inflate(received, encoding, inflated_max.min(LARGE_BYTES))?;
        SCRATCH.with_borrow_mut(|scratch| accept(scratch, app, &body, form, sender, LARGE_BYTES))
    });
    match first {
        Some(result) if !is_too_large(&result) => result,
        _ => {
            let work = || {
                let body = body::inflate(received, encoding, inflated_max)?;
                let most = 2 * app.limits.inflated_bytes_max.max(app.limits.body_bytes_max);
                // Memory of its size is not kept.
                accept(&mut Scratch::default(), app, &body, form, sender, most)
            };
            app.aside.run(work).await?
        }
    }
}

/// What is known of a request before its body.
pub(crate) struct Head<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) client: IpAddr,
    pub(crate) key: Option<&'a str>,
    pub(crate) origin: Option<&'a str>,
}

/// What became of a request's events, and whose they are.
pub(crate) struct Accepted {
    pub(crate) outcome: Outcome,
    store: Arc<Store>,
    is_trusted: bool,
}

/// Whether a body, or what it expands to, is larger than was allowed.
pub(crate) fn is_too_large<T>(result: &Result<T, Refused>) -> bool {
    matches!(result, Err(refused) if refused.refusal.reason == Reason::BodyTooLarge)
}

/// Events of an address.
pub(crate) fn accept_one(app: &App, body: &[u8], head: &Head<'_>) -> Result<Accepted, Refused> {
    SCRATCH.with_borrow_mut(|scratch| accept(scratch, app, body, Form::Json, head, LARGE_BYTES))
}

/// Events of another product, translated.
pub(crate) fn accept_body(
    app: &App,
    body: &[u8],
    head: &Head<'_>,
    bytes_max: usize,
) -> Result<Accepted, Refused> {
    accept(&mut Scratch::default(), app, body, Form::Json, head, bytes_max)
}

/// Whether a key may send from an origin.
pub(crate) fn check_key(app: &App, key: Option<&str>, origin: Option<&str>) -> Result<(), Refused> {
    find_key(&app.directory.load(), key, origin).map(drop)
}

/// Refuses a key that may not send from an origin; not before Postgres has been asked, if nobody knows it.
pub(crate) async fn admit(app: &App, key: &str, origin: Option<&str>) -> Result<(), Refused> {
    let check = async || check_key(app, Some(key), origin);
    again_if_known_by_now(app, check().await, check).await
}

/// Does again what was refused for a key that has become known: Postgres is asked. While too many ask, nobody can say that
/// the key is none: that is no refusal for good, which would cost the sender its events.
pub(crate) async fn again_if_known_by_now<T>(
    app: &App,
    result: Result<T, Refused>,
    again: impl AsyncFnOnce() -> Result<T, Refused>,
) -> Result<T, Refused> {
    let Err(Refused { unknown_key: Some(hash), .. }) = &result else { return result };
    let is_known = || app.directory.load().find_hash(hash).is_some();
    if is_known() {
        return again().await;
    }
    match app.asking.look().await {
        Asked::Answered if is_known() => again().await,
        Asked::Answered | Asked::Away => result,
        Asked::Busy => {
            let detail = "whether a store has this key cannot be looked up now; send this again";
            Err(Refused::new(Reason::Unavailable, detail))
        }
    }
}

/// The part of a request that waits for nothing: bytes in, log messages out, if these take `bytes_max` at most.
fn accept(
    scratch: &mut Scratch,
    app: &App,
    body: &[u8],
    form: Form,
    head: &Head<'_>,
    bytes_max: usize,
) -> Result<Accepted, Refused> {
    let mut events = decode(body, form, &app.limits, scratch).map_err(|refusal| Refused {
        store: head.key.and_then(|key| store_of(app, key)),
        ..refusal.into()
    })?;
    let directory = app.directory.load();
    let sent_key = head.key.or_else(|| events.write_key());
    let key = find_key(&directory, sent_key, head.origin)?;
    let of_store = |refused: Refused| Refused { store: Some(Arc::clone(&key.store)), ..refused };
    if events.is_empty() {
        return Err(of_store(Refused::new(Reason::NoEvents, "send at least one event")));
    }
    let bytes = events.expanded_bytes();
    if bytes > bytes_max {
        let detail =
            format!("with their context the events take {bytes} bytes, at most {bytes_max} are let in");
        return Err(of_store(Refused::new(Reason::BodyTooLarge, detail)));
    }
    // What is bound to be refused counts towards nothing: nobody becomes a bot by sending it again.
    if app.log.ready().is_err() {
        return Err(NotLogged::Unavailable.into());
    }
    let wrong_clock =
        |_| Refused::new(Reason::Unavailable, "the collector's clock is wrong; send the events again");
    let received_at = app.clock.receipt().map_err(wrong_clock)?;
    let store = &key.store;
    if !app.log.admits(&store.id, key.is_trusted) {
        return Err(NotLogged::StoreOverShare.into());
    }
    let Flow { events: rate, bytes: byte_rate } = store.flow(key.is_trusted);
    byte_rate.admit().map_err(|wait| {
        Refused::wait("the store is over its bytes per second; send this again later", wait.0)
    })?;
    rate.take(events.len()).map_err(|wait| {
        Refused::wait("the store is over its events per second; send this again later", wait.0)
    })?;
    let user_agent = user_agent(head.headers);
    let request = Sender {
        store_id: &store.id,
        currency: &store.currency,
        event_age_max_days: store.event_age_max_days,
        trusted: key.is_trusted,
        received_at,
        user_agent: &user_agent,
        address: Some(head.client),
        salts: &directory.salts,
        timezone: &store.timezone,
        id_seed: rand::random(),
        limits: app.limits,
    };
    let outcome = chain::accept(&mut events, &request, &app.enricher, app.log.message_bytes_max());
    byte_rate.take(message_bytes(&outcome.messages));
    Ok(Accepted { outcome, store: Arc::clone(store), is_trusted: key.is_trusted })
}

fn message_bytes(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.key.len() + message.value.len()).sum()
}

/// Waits until the log holds what was accepted.
pub(crate) async fn append(app: &App, accepted: Accepted) -> Result<Outcome, Refused> {
    let Accepted { mut outcome, store, is_trusted } = accepted;
    app.metrics.rejected(&outcome);
    app.refusals.note(&store.id, &outcome.rejected, std::mem::take(&mut outcome.samples));
    if outcome.messages.is_empty() {
        let (reason, detail) = outcome.rejected.first().map_or_else(
            || (Reason::NoEvents, "send at least one event".to_owned()),
            |(_, first)| (first.reason, format!("no event was acceptable; the first: {}", first.detail)),
        );
        return Err(Refused { rejected: outcome.rejected, ..Refused::new(reason, detail) });
    }
    let started = Instant::now();
    let bytes = message_bytes(&outcome.messages);
    let memory = app.unlogged.take(bytes, &store.unlogged, is_trusted).map_err(|why| match why {
        NoMemory::OfTheStore => NotLogged::StoreOverShare.into(),
        NoMemory::OfAll => {
            Refused::new(Reason::Unavailable, "too many events wait for the log; send these again")
        }
    })?;
    let receipt = app.log.append(std::mem::take(&mut outcome.messages));
    Waiting { receipt: Some(receipt), memory: Some(memory) }.await?;
    app.metrics.log_seconds.record(started.elapsed().as_secs_f64());
    app.metrics.accepted(&outcome);
    Ok(outcome)
}

impl From<NotLogged> for Refused {
    fn from(why: NotLogged) -> Self {
        match why {
            NotLogged::Unavailable => {
                Self::new(Reason::Unavailable, "the events were not stored; send them again")
            }
            NotLogged::StoreOverShare => {
                let detail = "too much of what the store sent waits to be stored; send this again later";
                Self { retry_after: Some(SHARE_WAIT), ..Self::new(Reason::StoreOverShare, detail) }
            }
        }
    }
}

/// Waits for the log's word. The events stay in memory until it has come, also when the client has gone.
struct Waiting {
    receipt: Option<Receipt>,
    memory: Option<Held>,
}

impl Future for Waiting {
    type Output = Result<(), NotLogged>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(receipt) = &mut self.receipt else { return Poll::Ready(Err(NotLogged::Unavailable)) };
        let word = ready!(Pin::new(receipt).poll(context));
        self.receipt = None;
        Poll::Ready(word)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let (Some(receipt), Some(memory), Ok(runtime)) =
            (self.receipt.take(), self.memory.take(), Handle::try_current())
        {
            runtime.spawn(async move {
                let _ = receipt.await;
                drop(memory);
            });
        }
    }
}

/// For what costs next to nothing once, and is no event: a flood of it is the client's to pay for.
pub(crate) async fn limit_client(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match take_client_rate(&app, &parts) {
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
        Err(refused) => {
            count_refused(&app, &refused);
            answer::refused(&refused)
        }
    }
}

pub(crate) fn take_client_rate(app: &App, parts: &Parts) -> Result<IpAddr, Refused> {
    let peer = parts.extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.address);
    let client = client::address(peer, &parts.headers, &app.trusted_proxies);
    app.clients.take(client).map_err(|wait| {
        Refused::wait("this address is over its requests per second; send this again later", wait.0)
    })?;
    Ok(client)
}

fn find_key<'d>(
    directory: &'d Directory,
    sent_key: Option<&str>,
    origin: Option<&str>,
) -> Result<&'d Key, Refused> {
    if !directory.is_loaded {
        return Err(Refused::new(Reason::Unavailable, "the collector is starting; send this again"));
    }
    let Some(sent_key) = sent_key else {
        let detail = "send the store's key: Authorization: Bearer, X-Write-Key, ?key= or `write_key`";
        return Err(Refused::new(Reason::UnknownKey, detail));
    };
    let Some(key) = directory.find(sent_key) else {
        let refused = Refused::new(Reason::UnknownKey, "no store has this key; it may have been revoked");
        return Err(Refused { unknown_key: key::hash(sent_key), ..refused });
    };
    match origin {
        Some(origin) if !key.is_trusted && !key.store.allows(origin) => Err(wrong_origin(origin)),
        _ => Ok(key),
    }
}

pub(crate) fn wrong_origin(origin: &str) -> Refused {
    let detail = format!("add {origin} to the store's allowed origins, or empty the list");
    Refused::new(Reason::OriginNotAllowed, detail)
}

fn sent_key<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<Cow<'a, str>> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let header = || headers.get(WRITE_KEY).and_then(|value| value.to_str().ok());
    bearer.or_else(header).map(Cow::Borrowed).or_else(|| query_key(uri))
}

/// The key in the address.
pub(crate) fn query_key(uri: &Uri) -> Option<Cow<'_, str>> {
    let query = uri.query()?;
    form_urlencoded::parse(query.as_bytes()).find_map(|(name, value)| (name == "key").then_some(value))
}

/// Types under which JSON comes: the last two are what programs say that say nothing, `curl -d` among them.
const JSON_TYPES: [&str; 4] =
    ["application/json", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded"];
const LINES_TYPES: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];

/// How the body holds its events. No content type at all is taken for JSON.
fn form(headers: &HeaderMap) -> Result<Form, Refused> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Form::Json) };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is = |known: &str| essence.eq_ignore_ascii_case(known.as_bytes());
    match () {
        () if essence.is_empty() || JSON_TYPES.iter().any(|known| is(known)) => Ok(Form::Json),
        () if LINES_TYPES.iter().any(|known| is(known)) => Ok(Form::Lines),
        () => {
            let detail = "send application/json, text/plain or application/x-ndjson";
            Err(Refused::new(Reason::UnsupportedType, detail))
        }
    }
}

fn user_agent(headers: &HeaderMap) -> Cow<'_, str> {
    let bytes = headers.get(USER_AGENT).map_or(&b""[..], |value| value.as_bytes());
    let bytes = &bytes[..bytes.len().min(USER_AGENT_BYTES_MAX)];
    String::from_utf8_lossy(bytes)
}
