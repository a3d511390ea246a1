//! What the collector answers over HTTP.

pub(crate) mod answer;
pub(crate) mod collect;
pub(crate) mod compat;
pub(crate) mod cors;
pub(crate) mod pages;
pub(crate) mod pixel;
pub(crate) mod serve;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    http::Method,
    middleware::from_fn_with_state,
    routing::{MethodRouter, get},
};
use ipnet::IpNet;
use millrace_schemas::limits::Limits;
use millrace_service::host::Hosts;

use crate::{
    body::Memory,
    clock::Clock,
    enrich::Enricher,
    key::Directory,
    limit::{Aside, ClientRate, Unlogged},
    log::Log,
    metric::{Endpoint, Metrics},
    refusals::Refusals,
    stores::ask::Asking,
};

/// What every request shares.
pub(crate) struct App {
    pub(crate) directory: Arc<ArcSwap<Directory>>,
    pub(crate) asking: Arc<Asking>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) clients: ClientRate,
    pub(crate) memory: Memory,
    pub(crate) aside: Aside,
    pub(crate) unlogged: Unlogged,
    pub(crate) limits: Limits,
    pub(crate) enricher: Arc<Enricher>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Names under which an operator asks.
    pub(crate) hosts: Hosts,
    pub(crate) body_timeout: Duration,
    pub(crate) is_draining: AtomicBool,
}

impl App {
    /// Why the collector should get no requests now; empty when it should.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.is_draining.load(Ordering::Relaxed) {
            reasons.push("it is being stopped".to_owned());
        }
        if !self.directory.load().is_loaded {
            reasons.push("stores and keys have not been read from Postgres yet".to_owned());
        }
        reasons.extend(self.clock.ready().err());
        reasons.extend(self.log.ready().err());
        reasons
    }
}

const COLLECT: &str = "/v1/collect";
const PIXEL: &str = "/v1/pixel.gif";
const TRACKER: &str = "/t.js";
const CORE_TRACKER: &str = "/t.core.js";
const OPENAPI: &str = "/openapi.json";
const HEALTHZ: &str = "/healthz";
const READYZ: &str = "/readyz";

/// An address of the collector.
#[derive(Debug)]
pub struct Route {
    /// Its method; a page may ask with OPTIONS first, where events are taken.
    pub method: Method,
    /// As axum writes paths.
    pub path: String,
    /// Whether it takes events, and so asks for a store's key.
    pub takes_events: bool,
}

/// Every address of the collector. Those of other products are answered with a key before the path, too: `/k/{key}/…`.
pub fn routes() -> Vec<Route> {
    let own = [(Method::POST, COLLECT, true), (Method::GET, PIXEL, true)].into_iter();
    let pages = pages().into_iter().chain(operators()).map(|(path, _)| (Method::GET, path, false));
    own.chain(pages)
        .chain(compat::methods())
        .map(|(method, path, takes_events)| Route { method, path: path.to_owned(), takes_events })
        .collect()
}

/// What is answered without a key.
fn pages() -> [(&'static str, MethodRouter<Arc<App>>); 3] {
    [(TRACKER, get(pages::tracker)), (CORE_TRACKER, get(pages::core_tracker)), (OPENAPI, get(pages::openapi))]
}

/// What operators ask.
fn operators() -> [(&'static str, MethodRouter<Arc<App>>); 2] {
    [(HEALTHZ, get(pages::healthz)), (READYZ, get(pages::readyz))]
}

fn routed<const N: usize>(pages: [(&'static str, MethodRouter<Arc<App>>); N]) -> Router<Arc<App>> {
    pages.into_iter().fold(Router::new(), |router, (path, page)| router.route(path, page))
}

/// The addresses that are Millrace's own.
#[cfg(test)]
const ROUTES: [&str; 7] = [COLLECT, PIXEL, TRACKER, CORE_TRACKER, OPENAPI, HEALTHZ, READYZ];

pub(crate) fn router(app: Arc<App>) -> Router {
    // Those that take events look at the client's rate themselves.
    let limit = from_fn_with_state(Arc::clone(&app), collect::limit_client);
    let operators =
        routed(operators()).route_layer(from_fn_with_state(Arc::clone(&app), pages::known_hosts_only));
    let pages = routed(pages())
        .merge(operators)
        .method_not_allowed_fallback(pages::method_not_allowed)
        .layer(limit.clone());
    let nothing = MethodRouter::new().fallback(pages::method_not_allowed).layer(limit);
    Router::new()
        .route(COLLECT, nothing.clone().options(cors::preflight).post(collect::post))
        .route(PIXEL, nothing.get(pixel::get))
        .merge(compat::router(&app))
        .merge(pages)
        .fallback(compat::elsewhere)
        .with_state(app)
}

/// What a request is counted as.
pub(crate) fn endpoint(method: &Method, path: &str) -> Endpoint {
    match path {
        COLLECT if method == Method::OPTIONS => Endpoint::Other,
        COLLECT => Endpoint::Collect,
        PIXEL => Endpoint::Pixel,
        TRACKER | CORE_TRACKER => Endpoint::Tracker,
        OPENAPI => Endpoint::OpenApi,
        HEALTHZ => Endpoint::Health,
        READYZ => Endpoint::Ready,
        _ => match compat::protocol_of(path) {
            Some(protocol) if method != Method::OPTIONS => Endpoint::Compatible(protocol),
            _ => Endpoint::Other,
        },
    }
}
