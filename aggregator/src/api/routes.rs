//! Every route, once: where it is, by which method, and for whom. The router is built from this list, and so are the tests
//! that try every route with every token.

use axum::{
    Json, Router,
    http::Method,
    middleware::{from_fn, from_fn_with_state},
    routing::{MethodRouter, delete, get, patch, post, put},
};
use serde_json::json;

use super::{State, admin, around, auth, keys, logins, openapi, privacy, read, readyz, refused};

/// Whose token a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody's.
    Open,
    /// The API token of the store in the path.
    Store,
    /// The operator's.
    Admin,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, parameters in braces.
    pub path: &'static str,
    /// Whose token it asks for.
    pub access: Access,
    handler: MethodRouter<State>,
}

/// Every route of the API.
pub fn routes() -> Vec<Route> {
    use Access::{Admin, Open, Store};
    let mut routes = Vec::new();
    let mut add = |access, method, path, handler: MethodRouter<State>| {
        routes.push(Route { method, path, access, handler });
    };
    add(Open, Method::GET, "/healthz", get(|| async { Json(json!({"status": "ok"})) }));
    add(Open, Method::GET, "/readyz", get(readyz));
    add(Open, Method::GET, "/openapi.json", get(|| async { Json(openapi::document()) }));

    add(Admin, Method::GET, "/api/v1/stores", get(admin::list_stores));
    add(Admin, Method::POST, "/api/v1/stores", post(admin::create_store));
    add(Admin, Method::PATCH, "/api/v1/stores/{store_id}", patch(admin::change_store));
    add(Admin, Method::POST, "/api/v1/exchange_rates", post(admin::put_exchange_rates));
    add(Admin, Method::PUT, "/api/v1/exchange_rates", put(admin::put_exchange_rates));

    add(Admin, Method::GET, "/api/v1/stores/{store_id}/keys", get(keys::list));
    add(Admin, Method::POST, "/api/v1/stores/{store_id}/keys", post(keys::create));
    add(Admin, Method::DELETE, "/api/v1/stores/{store_id}/keys/{key_id}", delete(keys::revoke));
    add(Admin, Method::POST, "/api/v1/stores/{store_id}/keys/{key_id}/rotate", post(keys::rotate));

    add(Admin, Method::GET, "/api/v1/stores/{store_id}/logins", get(logins::list));
    add(Admin, Method::POST, "/api/v1/stores/{store_id}/logins", post(logins::create));
    add(Admin, Method::DELETE, "/api/v1/stores/{store_id}/logins/{login}", delete(logins::remove));

    add(Store, Method::GET, "/api/v1/stores/{store_id}/funnels", get(read::funnels));
    add(Admin, Method::POST, "/api/v1/stores/{store_id}/funnels", post(admin::put_funnel));
    add(
        Admin,
        Method::DELETE,
        "/api/v1/stores/{store_id}/funnels/{funnel_name}",
        delete(admin::delete_funnel),
    );

    let visitor = "/api/v1/stores/{store_id}/visitors/{visitor_id}";
    add(Admin, Method::DELETE, visitor, delete(privacy::erase_visitor));
    let export = "/api/v1/stores/{store_id}/visitors/{visitor_id}/export";
    add(Admin, Method::GET, export, get(privacy::export_visitor));
    add(Admin, Method::DELETE, "/api/v1/stores/{store_id}/users/{user_id}", delete(privacy::erase_user));
    add(Admin, Method::GET, "/api/v1/stores/{store_id}/users/{user_id}/export", get(privacy::export_user));
    add(Admin, Method::GET, "/api/v1/stores/{store_id}/erasures", get(privacy::erasures));
    add(Admin, Method::GET, "/api/v1/stores/{store_id}/erasures/{erasure_id}", get(privacy::erasure));

    add(Store, Method::GET, "/api/v1/stores/{store_id}/refused_events", get(refused::list));
    add(Store, Method::GET, "/api/v1/stores/{store_id}/{rollup}", get(read::rollup));
    routes
}

/// The routes with their guards. No handler looks at a token.
pub(super) fn router(state: &State) -> Router<State> {
    routes().into_iter().fold(Router::new(), |router, Route { method, path, access, handler }| {
        // Behind the guard: nobody else's body is read.
        let has_body = matches!(method, Method::POST | Method::PUT | Method::PATCH);
        let handler = if has_body { handler.route_layer(from_fn(around::read_body)) } else { handler };
        let guarded = match access {
            Access::Open => handler,
            Access::Store => handler.route_layer(from_fn_with_state(state.clone(), auth::store_only)),
            Access::Admin => handler.route_layer(from_fn_with_state(state.clone(), auth::admin_only)),
        };
        router.route(path, guarded)
    })
}
