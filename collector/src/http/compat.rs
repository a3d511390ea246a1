//! What other products' clients send: `client rate → body → inflate → translate`, and from there on as
//! `POST /v1/collect` does.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, header::ORIGIN, request::Parts},
    middleware::from_fn_with_state,
    response::Response,
    routing::MethodRouter,
};
use millrace_service::serve::Peer;

use super::{
    App,
    answer::{self, Refused},
    collect::{self, Accepted, Head},
    cors, pages,
};
use crate::{
    body::{self, Encoding},
    clock::now_ms,
    compat::{Call, Does, Judge, Protocol, Route},
};

/// A write key may stand before every path, for clients that have no other place for it.
const KEY_PREFIX: &str = "/k/";

/// A body larger than this, as it arrives, is worked on aside.
const LARGE_BYTES: usize = 16 << 10;

/// So is one that takes more than this when it is inflated.
const LARGE_INFLATED_BYTES: usize = 64 << 10;

/// The addresses of every product.
pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    let limit = from_fn_with_state(Arc::clone(app), collect::limit_client);
    let mut router = Router::new();
    for (protocol, route) in routes() {
        let take = move |State(app): State<Arc<App>>, request: Request| async move {
            let (parts, body) = request.into_parts();
            let result = take(&app, protocol, &parts, body).await;
            respond(&app, protocol, &parts, &result)
        };
        // What has a body looks at the client's rate itself.
        let nothing = MethodRouter::new().fallback(pages::method_not_allowed).layer(limit.clone());
        let mut methods = nothing.options(cors::preflight);
        methods = match route.does {
            Does::Post => methods.post(take),
            Does::Get => methods.get(take),
            Does::GetAndPost => methods.get(take).post(take),
            Does::Say(say) => {
                let tell = move |State(app): State<Arc<App>>, request| tell(app, say, request);
                methods.get(tell).post(tell)
            }
            Does::Check(judge) => {
                methods.post(move |State(app): State<Arc<App>>, request| check(app, protocol, judge, request))
            }
        };
        let keyed = format!("{KEY_PREFIX}{{write_key}}{}", route.path);
        router = router.route(route.path, methods.clone()).route(&keyed, methods);
    }
    router
}

/// Every address with its product.
fn routes() -> impl Iterator<Item = (Protocol, Route)> {
    Protocol::ALL
        .into_iter()
        .flat_map(|protocol| protocol.routes().iter().map(move |route| (protocol, *route)))
}

/// Every address with its methods, and whether it takes events.
pub(crate) fn methods() -> impl Iterator<Item = (Method, &'static str, bool)> {
    routes().flat_map(|(_, route)| {
        let (methods, takes_events) = match route.does {
            Does::Post => (vec![Method::POST], true),
            Does::Get => (vec![Method::GET], true),
            Does::GetAndPost => (vec![Method::GET, Method::POST], true),
            Does::Say(_) => (vec![Method::GET, Method::POST], false),
            Does::Check(_) => (vec![Method::POST], false),
        };
        methods.into_iter().map(move |method| (method, route.path, takes_events))
    })
}

fn respond(app: &App, protocol: Protocol, parts: &Parts, result: &Result<usize, Refused>) -> Response {
    let mut response = match result {
        Ok(accepted) => protocol.answer(&parts.method, Ok(*accepted)),
        Err(refused) => {
            collect::count_refused(app, refused);
            protocol.answer(&parts.method, Err(refused))
        }
    };
    cors::allow(&mut response, &parts.headers);
    response
}

/// What a client asks before it sends. A body says nothing here, and is left unread.
async fn tell(app: Arc<App>, say: fn(&Call<'_>) -> Response, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let mut response = match collect::take_client_rate(&app, &parts) {
        Ok(_) => say(&call(&parts, &[], 0)),
        Err(refused) => {
            collect::count_refused(&app, &refused);
            answer::refused(&refused)
        }
    };
    cors::allow(&mut response, &parts.headers);
    response
}

/// Any other address. Pages that were made for a further product learn it from an answer that they may read: else their
/// consoles would complain of the answer, too.
pub(crate) async fn elsewhere(State(app): State<Arc<App>>, request: Request) -> Response {
    if request.method() == Method::OPTIONS && request.headers().contains_key(ORIGIN) {
        return cors::preflight(State(app), request).await;
    }
    tell(app, |_| pages::not_found(), request).await
}

/// What would become of events that were sent elsewhere: everything but the log.
async fn check(app: Arc<App>, protocol: Protocol, judge: Judge, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let judged = translate(&app, protocol, &parts, body).await;
    let mut response = match &judged {
        Ok(None) => judge(Ok(&[])),
        Ok(Some(accepted)) => judge(Ok(&accepted.outcome.rejected)),
        Err(refused) => judge(Err(refused)),
    };
    cors::allow(&mut response, &parts.headers);
    response
}

/// How many events were accepted.
async fn take(app: &App, protocol: Protocol, parts: &Parts, body: Body) -> Result<usize, Refused> {
    match translate(app, protocol, parts, body).await? {
        None => Ok(0),
        Some(accepted) => Ok(collect::append(app, accepted).await?.accepted()),
    }
}

/// Bytes in, log messages out; `None` when the request holds no event.
async fn translate(
    app: &App,
    protocol: Protocol,
    parts: &Parts,
    body: Body,
) -> Result<Option<Accepted>, Refused> {
    let client = collect::take_client_rate(app, parts)?;
    let encoding = Encoding::of(&parts.headers)?;
    let origin = cors::page_origin(parts);
    let key_in_path = key_in_path(parts.uri.path());
    // A key that stands in the path beats any other, so it is checked before the body is read.
    if let Some(key) = key_in_path {
        collect::admit(app, key, origin.as_deref()).await?;
    }
    let received = body::read(body, &app.limits, app.body_timeout, &app.memory, client).await?;
    if let Some(peer) = parts.extensions.get::<Peer>() {
        peer.connection.work();
    }
    app.metrics.body_bytes.increment(received.bytes.len() as u64);
    let work = |inflated_max: usize| {
        let inflated = body::inflate(&received.bytes, encoding, inflated_max)?;
        let translation = protocol.decode(&call(parts, &inflated, inflated_max))?;
        let key = key_in_path.map(str::to_owned).or_else(|| translation.key.clone());
        if translation.events.is_empty() {
            collect::check_key(app, key.as_deref(), origin.as_deref())?;
            return Ok(None);
        }
        let head = Head { headers: &parts.headers, client, key: key.as_deref(), origin: origin.as_deref() };
        let most = 2 * app.limits.inflated_bytes_max.max(app.limits.body_bytes_max);
        collect::accept_body(app, &translation.into_body(), &head, most).map(Some)
    };
    let inflated_max = body::inflated_max(received.bytes.len(), app.limits.inflated_bytes_max);
    let once = async || {
        // A body is small until it has turned out not to be: nobody's small one waits for the large ones of others.
        let first =
            (received.bytes.len() <= LARGE_BYTES).then(|| work(inflated_max.min(LARGE_INFLATED_BYTES)));
        match first {
            Some(result) if !collect::is_too_large(&result) => result,
            _ => app.aside.run(|| work(inflated_max)).await?,
        }
    };
    collect::again_if_known_by_now(app, once().await, once).await
}

fn call<'a>(parts: &'a Parts, body: &'a [u8], inflated_bytes_max: usize) -> Call<'a> {
    Call {
        method: &parts.method,
        path: without_key(parts.uri.path()),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        body,
        received_at: now_ms(),
        inflated_bytes_max,
    }
}

/// `key` and `/path` of `/k/key/path`.
fn split_key(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix(KEY_PREFIX)?;
    Some(rest.split_at(rest.find('/')?))
}

pub(crate) fn key_in_path(path: &str) -> Option<&str> {
    split_key(path).map(|(key, _)| key)
}

/// The path as the product's clients know it.
pub(crate) fn without_key(path: &str) -> &str {
    split_key(path).map_or(path, |(_, path)| path)
}

/// The product that sends to this path.
pub(crate) fn protocol_of(path: &str) -> Option<Protocol> {
    let path = without_key(path);
    routes().find(|(_, route)| is_at(route.path, path)).map(|(protocol, _)| protocol)
}

/// Whether a path is the one of a route, of which a part in braces stands for anything.
fn is_at(route: &str, path: &str) -> bool {
    let (mut route, mut path) = (route.split('/'), path.split('/'));
    loop {
        match (route.next(), path.next()) {
            (None, None) => return true,
            (Some(wanted), Some(_)) if wanted.starts_with("{*") => return true,
            (Some(wanted), Some(part)) if wanted == part || wanted.starts_with('{') => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_before_paths() {
        assert_eq!(key_in_path("/k/demo-write-key/v1/batch"), Some("demo-write-key"));
        assert_eq!(without_key("/k/demo-write-key/v1/batch"), "/v1/batch");
        assert_eq!(without_key("/v1/batch"), "/v1/batch");
        assert_eq!(key_in_path("/k/demo-write-key"), None);
    }

    #[test]
    fn a_path_belongs_to_one_product() {
        let mut seen = std::collections::BTreeSet::new();
        for (protocol, route) in routes() {
            assert!(seen.insert(route.path), "{}", route.path);
            assert_eq!(protocol_of(route.path), Some(protocol));
            assert_eq!(protocol_of(&format!("/k/a{}", route.path)), Some(protocol));
        }
        assert_eq!(protocol_of("/v1/collect"), None);
        assert!(is_at("/a/{key}/b", "/a/1/b") && !is_at("/a/{key}/b", "/a/1/c") && !is_at("/a", "/a/b"));
    }
}
