//! Segment's HTTP tracking API: one call per request, or `{"batch": […]}`.
//!
//! `page` becomes a page view, `track` an event (the names of Segment's e-commerce specification become GA4's, see
//! [`commerce`]), and `identify`, `group`, `alias` and `screen` become events of those names. The key is the user of basic
//! authentication, or `writeKey`. What stands in `context` beyond page, campaign, locale, time zone, screen, session, user
//! agent and address is dropped, and so are `integrations` and `_metadata`. RudderStack's clients speak the same. What both
//! ask beside sending is answered so that they send (`ask`).

mod ask;
pub(super) mod commerce;

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::Response,
};
use millrace_schemas::reject::Reason;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Call, Does, Route, Translation, add_properties, event_id, properties, put,
    value::{
        base64, object, object_or_json, parameter, put_first, put_property, put_referrer, put_sent, text,
        word,
    },
};
use crate::{
    decode::Refusal,
    http::answer::{self, Refused},
};

/// Addresses. `b` is what `@segment/analytics-next` calls a batch, `beacon` what RudderStack's pages send when they end.
pub(crate) const ROUTES: &[Route] = &[
    Route { path: "/v1/t", does: Does::Post },
    Route { path: "/v1/track", does: Does::Post },
    Route { path: "/v1/p", does: Does::Post },
    Route { path: "/v1/page", does: Does::Post },
    Route { path: "/v1/i", does: Does::Post },
    Route { path: "/v1/identify", does: Does::Post },
    Route { path: "/v1/s", does: Does::Post },
    Route { path: "/v1/screen", does: Does::Post },
    Route { path: "/v1/g", does: Does::Post },
    Route { path: "/v1/group", does: Does::Post },
    Route { path: "/v1/a", does: Does::Post },
    Route { path: "/v1/alias", does: Does::Post },
    Route { path: "/v1/b", does: Does::Post },
    Route { path: "/v1/batch", does: Does::Post },
    Route { path: "/v1/import", does: Does::Post },
    Route { path: "/beacon/v1/batch", does: Does::Post },
    Route { path: "/v1/projects/{project}/settings", does: Does::Say(ask::settings) },
    Route { path: "/analytics-next/bundles/{bundle}", does: Does::Say(ask::bundle) },
    Route { path: "/sourceConfig/", does: Does::Say(ask::source_config) },
    Route { path: "/sourceConfig", does: Does::Say(ask::source_config) },
];

/// Calls that Segment takes in one request.
const CALLS_MAX: usize = 2_500;

/// A context for the whole batch is given to each of its calls, if together they take no more than this: a small body must
/// not make a large one.
const SHARED_CONTEXT_BYTES_MAX: usize = 64 << 10;

/// The events of a request.
pub(crate) fn decode(call: &Call<'_>) -> Result<Translation, Refusal> {
    let Value::Object(body) = super::json(call.body)? else {
        return Err(Refusal::new(Reason::NotJson, "send one call as an object, or {\"batch\": [\u{2026}]}"));
    };
    let mut key = user(call.headers)
        .or_else(|| text(body.get("writeKey")))
        .or_else(|| parameter(call.query, "writeKey"));
    // What Segment has received before was not sent now: nothing is to be learned from its clock.
    let sent_at = body.get("sentAt").filter(|_| !body.contains_key("receivedAt")).cloned();
    let kind = match call.path.rsplit('/').next().unwrap_or_default() {
        "b" | "batch" | "import" => {
            let Some(Value::Array(calls)) = body.get("batch") else {
                return Err(Refusal::new(Reason::NoEvents, "`batch` must be a list of calls"));
            };
            if calls.len() > CALLS_MAX {
                let detail = format!("{} calls, at most {CALLS_MAX}", calls.len());
                return Err(Refusal::new(Reason::TooManyEvents, detail));
            }
            let shared = body
                .get("context")
                .filter(|context| context.to_string().len() * calls.len() <= SHARED_CONTEXT_BYTES_MAX)
                .and_then(Value::as_object);
            key = key.or_else(|| calls.iter().find_map(|call| text(call.get("writeKey"))));
            let events = calls.iter().map(|call| event(call, None, shared)).collect();
            return Ok(Translation { key, sent_at, events });
        }
        "t" | "track" => "track",
        "p" | "page" => "page",
        "i" | "identify" => "identify",
        "s" | "screen" => "screen",
        "g" | "group" => "group",
        _ => "alias",
    };
    let events = vec![event(&Value::Object(body), Some(kind), None)];
    Ok(Translation { key, sent_at, events })
}

/// The user of basic authentication.
fn user(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(base64(credentials.as_bytes())?).ok()?;
    let user = decoded.split(':').next().unwrap_or_default();
    (!user.is_empty()).then(|| user.to_owned())
}

/// A call with its context, and what the batch says for all of its calls.
struct Message<'m> {
    call: &'m Map<String, Value>,
    context: Option<&'m Map<String, Value>>,
    properties: Option<&'m Map<String, Value>>,
    shared: Option<&'m Map<String, Value>>,
}

/// A call as an event. One that makes no sense becomes an event that is refused for its reason.
fn event(call: &Value, kind: Option<&str>, shared: Option<&Map<String, Value>>) -> Map<String, Value> {
    let Value::Object(call) = call else { return Map::new() };
    let [context, properties] = ["context", "properties"].map(|name| object_or_json(call, name));
    let message = Message { call, context: context.as_deref(), properties: properties.as_deref(), shared };
    let kind = kind.unwrap_or_else(|| word(call.get("type")));
    let mut event = message.base();
    match kind {
        "track" => message.track(&mut event),
        "page" => message.page(&mut event),
        "screen" => message.screen(&mut event),
        "identify" => message.person(&mut event, "identify", "userId", ""),
        "group" => message.person(&mut event, "group", "groupId", "group_id"),
        "alias" => message.person(&mut event, "alias", "previousId", "previous_id"),
        unknown => {
            event.insert("type".into(), unknown.into());
        }
    }
    event
}

impl<'m> Message<'m> {
    fn context(&self, name: &str) -> Option<&'m Value> {
        [self.context, self.shared].into_iter().flatten().find_map(|context| context.get(name))
    }

    fn context_object(&self, name: &str) -> Option<&'m Map<String, Value>> {
        self.context(name).and_then(Value::as_object)
    }

    /// What every event may say.
    fn base(&self) -> Map<String, Value> {
        let mut event = Map::new();
        if let Some(id) = text(self.call.get("messageId")) {
            put(&mut event, "event_id", event_id(&id));
        }
        // Where both stand, a server has corrected `timestamp` by `sentAt`, as will be done here unless it is long ago.
        let first = ["originalTimestamp", "timestamp"];
        let corrected = ["timestamp", "originalTimestamp"];
        let names = if self.call.contains_key("receivedAt") { corrected } else { first };
        put_first(&mut event, "timestamp", self.call, &names);
        put_sent(&mut event, "visitor_id", self.call.get("anonymousId"));
        put_sent(&mut event, "user_id", self.call.get("userId"));
        // RudderStack's, a number; Segment's clients say none.
        if let Some(session) = text(self.context("sessionId")) {
            put(&mut event, "session_id", session);
        }
        put_sent(&mut event, "language", self.context("locale"));
        put_sent(&mut event, "timezone", self.context("timezone"));
        put_sent(&mut event, "user_agent", self.context("userAgent"));
        put_sent(&mut event, "ip", self.context("ip"));
        if let Some(screen) = self.context_object("screen") {
            put_sent(&mut event, "screen_width", screen.get("width"));
            put_sent(&mut event, "screen_height", screen.get("height"));
            put_sent(&mut event, "viewport_width", screen.get("innerWidth"));
            put_sent(&mut event, "viewport_height", screen.get("innerHeight"));
        }
        if let Some(page) = self.context_object("page") {
            put_sent(&mut event, "url", page.get("url"));
            put_sent(&mut event, "title", page.get("title"));
            put_referrer(&mut event, page.get("referrer"));
        }
        event
    }

    fn track(&self, event: &mut Map<String, Value>) {
        event.insert("type".into(), "event".into());
        let sent = self.call.get("event");
        let names_order = self.properties.is_some_and(commerce::names_order);
        let known = commerce::name(word(sent), names_order);
        let name = known.unwrap_or(word(sent));
        match self.properties {
            Some(sent) => {
                let rest = commerce::put(event, name, sent, self.call.get("messageId"));
                event.insert("properties".into(), rest.into());
            }
            None => put(event, "properties", self.call.get("properties").cloned().unwrap_or_default()),
        }
        // A name that is no text is looked at where fields are read.
        put_sent(event, "name", known.map(Value::from).as_ref().or(sent));
        self.campaign(event);
    }

    fn page(&self, event: &mut Map<String, Value>) {
        let sent = self.properties;
        let own = |name| sent.and_then(|sent| sent.get(name));
        put_sent(event, "url", own("url").filter(|url| url.is_string()));
        if !event.contains_key("url") {
            // A server says which page it means, but not where it is.
            return self.screen(event);
        }
        event.insert("type".into(), "page_view".into());
        put_sent(event, "title", own("title"));
        put_referrer(event, own("referrer"));
        // Most of these say again what `url` says, with whatever stands in its query.
        let fields = ["url", "path", "search", "title", "referrer", "tab_url", "referring_domain"];
        let mut rest = sent.map(|sent| properties(sent, &fields)).unwrap_or_default();
        for name in ["name", "category"] {
            if self.call.contains_key(name) {
                rest.remove(name);
                put_property(&mut rest, name, self.call.get(name));
            }
        }
        event.insert("properties".into(), rest.into());
        self.campaign(event);
    }

    fn screen(&self, event: &mut Map<String, Value>) {
        event.insert("type".into(), "event".into());
        event.insert("name".into(), "screen_view".into());
        let mut rest = self.properties.map(|sent| properties(sent, &["name"])).unwrap_or_default();
        let name = self.call.get("name").or_else(|| self.properties?.get("name"));
        put_property(&mut rest, "screen_name", name);
        put_property(&mut rest, "category", self.call.get("category"));
        event.insert("properties".into(), rest.into());
        self.campaign(event);
    }

    /// Who somebody is, or belongs to: nothing that a visitor did.
    fn person(&self, event: &mut Map<String, Value>, name: &str, id: &str, property: &str) {
        event.insert("type".into(), "event".into());
        event.insert("name".into(), name.into());
        event.insert("interactive".into(), false.into());
        let traits = object(self.call, "traits").or_else(|| self.context_object("traits"));
        let mut rest = traits.map(|traits| properties(traits, &[])).unwrap_or_default();
        if !property.is_empty() {
            put_property(&mut rest, property, self.call.get(id));
        }
        event.insert("properties".into(), rest.into());
    }

    /// The campaign, as the parameters of the address that it came from, or as properties where there is no address. Pages
    /// say it in their own address already.
    fn campaign(&self, event: &mut Map<String, Value>) {
        let Some(campaign) = self.context_object("campaign") else { return };
        let said: Vec<(&str, String)> = CAMPAIGN
            .iter()
            .filter_map(|(name, parameter)| Some((*parameter, text(campaign.get(*name))?)))
            .collect();
        match event.get("url").and_then(Value::as_str) {
            Some(url) if url.contains("utm_") || said.is_empty() => {}
            Some(url) => {
                let (page, fragment) =
                    url.split_once('#').map_or((url, None), |(page, rest)| (page, Some(rest)));
                let mut url = page.to_owned();
                url.push(if page.contains('?') { '&' } else { '?' });
                let start = url.len();
                url = form_urlencoded::Serializer::for_suffix(url, start).extend_pairs(said).finish();
                if let Some(fragment) = fragment {
                    url.push('#');
                    url.push_str(fragment);
                }
                event.insert("url".into(), url.into());
            }
            None => {
                if let Some(Value::Object(properties)) = event.get_mut("properties") {
                    let said =
                        said.into_iter().map(|(parameter, value)| (parameter.to_owned(), value.into()));
                    add_properties(properties, said);
                }
            }
        }
    }
}

const CAMPAIGN: [(&str, &str); 6] = [
    ("source", "utm_source"),
    ("medium", "utm_medium"),
    ("name", "utm_campaign"),
    ("term", "utm_term"),
    ("content", "utm_content"),
    ("id", "utm_id"),
];

/// `{"success": true}`. Its clients send again after 429 and 5xx, and drop what 400, 401 and 403 refuse; RudderStack's drop
/// what gets 408, too, which therefore becomes 503.
pub(crate) fn answer(result: Result<usize, &Refused>) -> Response {
    #[derive(Serialize)]
    struct Answer<'a> {
        success: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
    }
    let Err(refused) = result else {
        return answer::json(StatusCode::OK, &Answer { success: true, message: None, code: None });
    };
    let mut response = answer::refused(refused);
    *response.status_mut() = match response.status() {
        StatusCode::REQUEST_TIMEOUT => StatusCode::SERVICE_UNAVAILABLE,
        status if matches!(status.as_u16(), 401 | 403 | 429 | 503) => status,
        _ => StatusCode::BAD_REQUEST,
    };
    let code = if response.status() == StatusCode::BAD_REQUEST {
        "invalid_request"
    } else {
        refused.refusal.reason.as_str()
    };
    let body = Answer { success: false, message: Some(&refused.refusal.detail), code: Some(code) };
    *response.body_mut() = Body::from(serde_json::to_vec(&body).unwrap_or_default());
    response
}
