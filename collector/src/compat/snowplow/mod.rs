//! Snowplow's tracker protocol: a `payload_data` of events, or one event in an address.
//!
//! Page views and page pings become page views of one `page_view_id` (the `web_page` entity's), structured events events,
//! self-describing ones events of their schema's name (see [`unstructured`]), and the entities of its e-commerce plugin items
//! and money (see [`ecommerce`]). The key is `aid`, that of the first event of a request, unless one stands in the address.
//! Versions of tracker and platform, cookies, colours, character sets, visit counts and the entities that Snowplow's plugins
//! measure browsers with are dropped.

mod ecommerce;
mod unstructured;

use axum::{
    body::Body,
    http::{
        HeaderValue, Method, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::Response,
};
use millrace_schemas::{event::PURCHASE, event::REFUND, event::canonical_name, reject::Reason};
use serde_json::{Map, Value};

use self::unstructured::Vital;
use super::{
    Call, Does, Route, Translation, add_properties, event_id, put,
    value::{base64, put_first, put_sent, text, word},
};
use crate::{
    decode::Refusal,
    http::{answer, answer::Refused, pixel::GIF},
    read::trim,
    time::parse_time,
};

/// Addresses.
pub(crate) const ROUTES: &[Route] = &[
    Route { path: "/com.snowplowanalytics.snowplow/tp2", does: Does::Post },
    Route { path: "/i", does: Does::Get },
];

/// Events that one request may hold: trackers send 40 kB at a time.
const EVENTS_MAX: usize = 2_500;

/// How the vendors of its own schemas begin.
const SNOWPLOW: &str = "com.snowplowanalytics.";

/// Who asks for no trace of themselves at the collector.
const ANONYMOUS: &str = "sp-anonymous";

/// The events of a request.
pub(crate) fn decode(call: &Call<'_>) -> Result<Translation, Refusal> {
    let payloads =
        if call.method == Method::GET { vec![in_address(call.query)] } else { in_body(call.body)? };
    if payloads.len() > EVENTS_MAX {
        let detail = format!("{} events, at most {EVENTS_MAX}", payloads.len());
        return Err(Refusal::new(Reason::TooManyEvents, detail));
    }
    let key = payloads.iter().find_map(|payload| text(payload.get("aid")));
    let is_anonymous = call.headers.contains_key(ANONYMOUS);
    let mut events = Vec::with_capacity(payloads.len());
    // The place of the last order, whose items follow it.
    let mut order = None;
    for payload in &payloads {
        let Value::Object(fields) = payload else {
            events.push(Map::new());
            continue;
        };
        let Payload { mut event, vitals, .. } = Payload::read(fields);
        if is_anonymous {
            event.remove("visitor_id");
            event.remove("user_id");
        }
        match word(fields.get("e")) {
            "ti" if order.is_some_and(|at| ecommerce::joins_order(&mut events[at], fields)) => {}
            _ if !vitals.is_empty() => events.extend(vitals.into_iter().map(|vital| vital.of(&event))),
            _ => {
                if event.get("name").and_then(Value::as_str) == Some(PURCHASE) {
                    order = Some(events.len());
                }
                events.push(event);
            }
        }
    }
    Ok(Translation { key, sent_at: None, events })
}

fn in_address(query: &str) -> Value {
    let pairs = form_urlencoded::parse(query.as_bytes());
    pairs
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect::<Map<_, _>>()
        .into()
}

fn in_body(body: &[u8]) -> Result<Vec<Value>, Refusal> {
    let Value::Object(mut body) = super::json(body)? else {
        return Err(Refusal::new(Reason::NotJson, "send a payload_data object"));
    };
    match body.remove("data") {
        Some(Value::Array(payloads)) => Ok(payloads),
        _ => Err(Refusal::new(Reason::NoEvents, "`data` of a payload_data must be a list of events")),
    }
}

/// One event of the protocol, on its way to one of ours.
struct Payload<'p> {
    fields: &'p Map<String, Value>,
    entities: Vec<Entity>,
    event: Map<String, Value>,
    /// Each becomes an event of its own.
    vitals: Vec<Vital>,
}

/// A self-describing JSON.
struct Entity {
    vendor: String,
    name: String,
    data: Map<String, Value>,
}

impl Entity {
    /// `{"schema": "iglu:vendor/name/jsonschema/1-0-0", "data": {…}}`.
    fn read(json: Value) -> Option<Self> {
        let Value::Object(mut json) = json else { return None };
        let Some(Value::Object(data)) = json.remove("data") else { return None };
        let schema = json.get("schema")?.as_str()?;
        let mut parts = schema.strip_prefix("iglu:").unwrap_or(schema).split('/').map(trim);
        let (vendor, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        (!name.is_empty()).then_some(Self { vendor, name, data })
    }
}

impl<'p> Payload<'p> {
    fn read(fields: &'p Map<String, Value>) -> Self {
        let mut payload = Self { fields, entities: entities(fields), event: Map::new(), vitals: Vec::new() };
        payload.base();
        payload.said_beside();
        match word(fields.get("e")) {
            "pv" => payload.page_view(),
            "pp" => payload.page_ping(),
            "se" => payload.structured(),
            "ue" => payload.unstructured(),
            "tr" => payload.transaction(),
            "ti" => payload.transaction_item(),
            unknown => {
                payload.event.insert("type".into(), unknown.into());
            }
        }
        payload.other_entities();
        payload
    }

    fn field(&self, name: &str) -> Option<&'p Value> {
        self.fields.get(name)
    }

    /// One of Snowplow's own: a shop's `user` may be anything.
    fn entity(&self, name: &str) -> Option<&Map<String, Value>> {
        let is = |entity: &&Entity| entity.name == name && entity.vendor.starts_with(SNOWPLOW);
        self.entities.iter().find(is).map(|entity| &entity.data)
    }

    /// What every event may say.
    fn base(&mut self) {
        let (fields, event) = (self.fields, &mut self.event);
        if let Some(id) = text(fields.get("eid")) {
            put(event, "event_id", event_id(&id));
        }
        // A time that was set by hand beats the device's clock.
        put_first(event, "timestamp", fields, &["ttm", "dtm"]);
        if let Some(sent_at) = text(fields.get("stm")).filter(|sent_at| parse_time(sent_at).is_some()) {
            put(event, "sent_at", sent_at);
        }
        put_first(event, "visitor_id", fields, &["duid", "nuid"]);
        put_sent(event, "user_id", fields.get("uid"));
        put_sent(event, "session_id", fields.get("sid"));
        put_sent(event, "url", fields.get("url"));
        put_sent(event, "title", fields.get("page"));
        put_sent(event, "referrer", fields.get("refr"));
        put_sent(event, "language", fields.get("lang"));
        put_sent(event, "timezone", fields.get("tz"));
        put_sent(event, "user_agent", fields.get("ua"));
        put_sent(event, "ip", fields.get("ip"));
        put_size(event, ["screen_width", "screen_height"], fields.get("res"));
        put_size(event, ["viewport_width", "viewport_height"], fields.get("vp"));
    }

    /// What entities say about every event.
    fn said_beside(&mut self) {
        let mut said = Map::new();
        if let Some(page) = self.entity("web_page") {
            put_sent(&mut said, "page_view_id", page.get("id"));
        }
        if let Some(session) = self.entity("client_session") {
            put_sent(&mut said, "session_id", session.get("sessionId"));
            put_sent(&mut said, "visitor_id", session.get("userId"));
            let index = session.get("eventIndex").and_then(Value::as_u64);
            put(
                &mut said,
                "sequence",
                index.filter(|index| *index <= u64::from(u32::MAX)).map_or(Value::Null, Value::from),
            );
        }
        if let Some(browser) = self.entity("browser_context") {
            put_size(&mut said, ["screen_width", "screen_height"], browser.get("resolution"));
            put_size(&mut said, ["viewport_width", "viewport_height"], browser.get("viewport"));
        }
        if let Some(user) = self.entity("user") {
            put_sent(&mut said, "user_id", user.get("id"));
        }
        // What the event says itself comes first.
        for (name, value) in said {
            self.event.entry(name).or_insert(value);
        }
    }

    /// Puts a property, beside what is there.
    fn property(&mut self, name: &str, value: Value) {
        if let Value::Object(properties) = self.event.entry("properties").or_insert_with(|| Map::new().into())
        {
            let says = !value.is_null() && value.as_str() != Some("");
            add_properties(properties, says.then(|| (name.to_owned(), value)));
        }
    }

    fn named(&mut self, name: &str) {
        self.event.insert("type".into(), "event".into());
        self.event.insert("name".into(), name.into());
    }

    fn page_view(&mut self) {
        self.event.insert("type".into(), "page_view".into());
    }

    /// The page is still looked at. Without the page view's id it would count as another one.
    fn page_ping(&mut self) {
        let scrolled = self.scroll_depth();
        if self.event.contains_key("page_view_id") && self.event.contains_key("url") {
            self.page_view();
        } else {
            self.named("page_ping");
            self.event.insert("interactive".into(), false.into());
        }
        if let Some(percent) = scrolled {
            put(&mut self.event, "scroll_depth", percent);
        }
    }

    /// How far down the lower edge of the viewport has come, in percent of the document.
    fn scroll_depth(&self) -> Option<f64> {
        let furthest: f64 = text(self.field("pp_may")).map_or(Some(0.0), |pixels| pixels.parse().ok())?;
        let (_, document) = size(self.field("ds"))?;
        let (_, viewport) = size(self.field("vp"))?;
        let percent = (100.0 * (furthest + viewport) / document).min(100.0).floor();
        (percent >= 0.0).then_some(percent)
    }

    fn structured(&mut self) {
        let fields = self.fields;
        let action = text(fields.get("se_ac")).unwrap_or_default();
        // An order has more to say than a structured event can.
        let is_order = matches!(canonical_name(&action), PURCHASE | REFUND);
        self.named(if is_order { "structured_event" } else { &action });
        for (field, name) in [("category", "se_ca"), ("action", "se_ac"), ("label", "se_la")] {
            put_sent(&mut self.event, field, fields.get(name));
        }
        put_first(&mut self.event, "value", fields, &["se_va"]);
        self.property("property", text(fields.get("se_pr")).into());
    }

    /// The older e-commerce events.
    fn transaction(&mut self) {
        let fields = self.fields;
        self.named(PURCHASE);
        put_sent(&mut self.event, "order_id", fields.get("tr_id"));
        for (field, name) in [("value", "tr_tt"), ("tax", "tr_tx"), ("shipping", "tr_sh")] {
            put_first(&mut self.event, field, fields, &[name]);
        }
        put_sent(&mut self.event, "currency", fields.get("tr_cu"));
        for (property, name) in
            [("affiliation", "tr_af"), ("city", "tr_ci"), ("state", "tr_st"), ("country", "tr_co")]
        {
            self.property(property, text(fields.get(name)).into());
        }
    }

    /// An item whose order came in another request: an order is reported whole.
    fn transaction_item(&mut self) {
        self.named("transaction_item");
        put_sent(&mut self.event, "order_id", self.fields.get("ti_id"));
        put_sent(&mut self.event, "currency", self.fields.get("ti_cu"));
        self.event
            .insert("items".into(), vec![Value::Object(ecommerce::transaction_item(self.fields))].into());
    }
}

/// The entities that came with an event: base64 or plain.
fn entities(fields: &Map<String, Value>) -> Vec<Entity> {
    let Some(Value::Object(mut contexts)) = nested(fields, "cx", "co") else { return Vec::new() };
    match contexts.remove("data") {
        Some(Value::Array(contexts)) => contexts.into_iter().filter_map(Entity::read).collect(),
        _ => Vec::new(),
    }
}

/// JSON inside a field, mended; `None` also when it cannot be read.
fn nested(fields: &Map<String, Value>, encoded: &str, plain: &str) -> Option<Value> {
    let decoded = fields.get(encoded).and_then(Value::as_str).and_then(|text| base64(text.as_bytes()));
    decoded.and_then(|json| super::json(&json).ok()).or_else(|| match fields.get(plain)? {
        Value::String(json) => super::json(json.as_bytes()).ok(),
        json => Some(json.clone()),
    })
}

/// `1920x1080`.
fn size(value: Option<&Value>) -> Option<(f64, f64)> {
    let (width, height) = value?.as_str()?.split_once('x')?;
    let (width, height) = (width.parse().ok()?, height.parse().ok()?);
    let is_size = |pixels: f64| (1.0..=1e7).contains(&pixels);
    (is_size(width) && is_size(height)).then_some((width, height))
}

fn put_size(event: &mut Map<String, Value>, [width, height]: [&str; 2], value: Option<&Value>) {
    if let Some((across, down)) = size(value) {
        put_sent(event, width, Some(&across.into()));
        put_sent(event, height, Some(&down.into()));
    }
}

/// `ok`, or a pixel where the events came in an address. Its trackers send again for ever whatever is not refused with 400,
/// 401, 403, 410 or 422, so everything that will not be better next time is 400.
pub(crate) fn answer(method: &Method, result: Result<usize, &Refused>) -> Response {
    let mut response = match result {
        Ok(_) if method == Method::GET => {
            let mut response = Response::new(Body::from(GIF.as_slice()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("image/gif"));
            response
        }
        Ok(_) => text_answer(Response::default(), "ok"),
        Err(refused) => {
            let mut response = answer::refused(refused);
            if !matches!(response.status().as_u16(), 401 | 403 | 408 | 429 | 503) {
                *response.status_mut() = StatusCode::BAD_REQUEST;
            }
            text_answer(response, &refused.refusal.detail)
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text_answer(mut response: Response, text: &str) -> Response {
    *response.body_mut() = Body::from(text.to_owned());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
