//! Umami's send API, as its tracker, `@umami/node` and other servers speak it.
//!
//! The `website` is the key. Addresses of pages may be paths: the page's host and the browser's own word for it make them
//! whole. What the server remembers for a client in `cache` is nothing here: no client needs it.

use axum::{
    http::{
        HeaderMap, StatusCode,
        header::{ORIGIN, REFERER},
    },
    response::Response,
};
use millrace_schemas::reject::Reason;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Call, Does, Route, Translation, goal, properties, put,
    value::{amount, object, object_or_json, put_property, put_sent, text, word},
};
use crate::{
    decode::Refusal,
    http::answer::{self, Refused},
    read::is_absolute,
};

/// Addresses.
pub(crate) const ROUTES: &[Route] =
    &[Route { path: "/api/send", does: Does::Post }, Route { path: BATCH, does: Does::Post }];

const BATCH: &str = "/api/batch";

/// Events that one batch may hold, whatever the setting: each of them repeats the page's origin.
const EVENTS_MAX: usize = 1_000;

/// A longer origin is no page's; a path is repeated with it.
const ORIGIN_BYTES_MAX: usize = 512;

/// Members of a payload that become fields, or that say nothing here.
const FIELDS: [&str; 16] = [
    "website",
    "hostname",
    "language",
    "referrer",
    "screen",
    "title",
    "url",
    "name",
    "tag",
    "id",
    "vid",
    "data",
    "timestamp",
    "userAgent",
    "ip",
    "browser",
];

/// The events of a request.
pub(crate) fn decode(call: &Call<'_>) -> Result<Translation, Refusal> {
    let sent = match super::json(call.body)? {
        Value::Array(sent) if call.path == BATCH => sent,
        Value::Object(sent) if call.path != BATCH => vec![Value::Object(sent)],
        _ if call.path == BATCH => {
            return Err(Refusal::new(Reason::WrongType, "the body must be an array of objects"));
        }
        _ => return Err(Refusal::new(Reason::WrongType, "the body must be an object")),
    };
    if sent.len() > EVENTS_MAX {
        let detail = format!("send at most {EVENTS_MAX} events in one request");
        return Err(Refusal::new(Reason::TooManyEvents, detail));
    }
    let website = |sent: &Value| text(sent.get("payload").and_then(|payload| payload.get("website")));
    let key = sent.iter().find_map(website);
    let base = Base::of(call.headers);
    let events = sent.iter().enumerate().map(|(index, sent)| {
        // A request has one store; what is another's is refused rather than stored there.
        if website(sent).is_some_and(|website| Some(&website) != key.as_ref()) {
            return Map::from_iter([("type".into(), "of another website".into())]);
        }
        event(sent, &base, call, index)
    });
    let events = events.collect();
    Ok(Translation { key, sent_at: None, events })
}

/// What was sent as an event. One that makes no sense becomes an event that is refused for its reason.
fn event(sent: &Value, base: &Base, call: &Call<'_>, index: usize) -> Map<String, Value> {
    let mut event = Map::new();
    let Some(payload) = sent.as_object().and_then(|sent| object(sent, "payload")) else { return event };
    let base = base.with(payload.get("hostname").and_then(Value::as_str));
    if let Some(url) = payload.get("url").and_then(Value::as_str) {
        put(&mut event, "url", base.absolute(url));
    }
    if let Some(referrer) = payload.get("referrer").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        put(&mut event, "referrer", base.absolute(referrer));
    }
    if let Some(title) = payload.get("title").and_then(Value::as_str) {
        put(&mut event, "title", decoded(title));
    }
    put_sent(&mut event, "language", payload.get("language"));
    put_sent(&mut event, "user_id", payload.get("id"));
    put_sent(&mut event, "visitor_id", payload.get("vid"));
    put_sent(&mut event, "user_agent", payload.get("userAgent"));
    put_sent(&mut event, "ip", payload.get("ip"));
    put_screen(&mut event, payload.get("screen"));
    put_time(&mut event, payload.get("timestamp"));
    let data = object_or_json(payload, "data").unwrap_or_default();
    let data = &*data;
    let name = text(payload.get("name"));
    let mut kept = Map::new();
    let quiet = |event: &mut Map<String, Value>, name: &str| {
        event.insert("type".into(), "event".into());
        event.insert("name".into(), name.into());
        event.insert("interactive".into(), false.into());
    };
    match (word(sent.get("type")), name) {
        ("event", None) => {
            event.insert("type".into(), "page_view".into());
            kept = properties(data, &[]);
        }
        ("event", Some(name)) => {
            event.insert("type".into(), "event".into());
            let taken = put_money(&mut event, &name, data);
            goal::put_name(&mut event, &name, call, index, payload);
            kept = properties(data, &taken);
        }
        ("identify", _) => {
            quiet(&mut event, "identify");
            kept = properties(data, &[]);
        }
        ("performance", _) => {
            quiet(&mut event, "web_vitals");
            kept = properties(payload, &FIELDS);
        }
        ("error", _) => {
            quiet(&mut event, "exception");
            kept = properties(payload, &FIELDS);
        }
        (other, _) => put(&mut event, "type", other),
    }
    put_property(&mut kept, "tag", payload.get("tag"));
    put(&mut event, "properties", kept);
    event
}

/// Puts the money of an event, and returns the members that it was read from.
fn put_money(event: &mut Map<String, Value>, name: &str, data: &Map<String, Value>) -> Vec<&'static str> {
    let mut taken = super::commerce::put_commerce(event, goal::commerce_name(name).unwrap_or(name), data);
    if !event.contains_key("value")
        && let Some(revenue) = amount(data.get("revenue"))
    {
        event.insert("value".into(), revenue.clone());
        taken.push("revenue");
    }
    let currency =
        data.get("currency").filter(|currency| currency.as_str().is_some_and(|code| code.len() == 3));
    if event.contains_key("value") && currency.is_some() {
        put_sent(event, "currency", currency);
        taken.push("currency");
    }
    taken
}

/// `1920x1080`.
fn put_screen(event: &mut Map<String, Value>, screen: Option<&Value>) {
    let size = screen.and_then(Value::as_str).and_then(|screen| screen.split_once('x'));
    if let Some((Ok(width), Ok(height))) =
        size.map(|(width, height)| (width.parse::<u16>(), height.parse::<u16>()))
    {
        put(event, "screen_width", width);
        put(event, "screen_height", height);
    }
}

/// Seconds since 1970, also in a string; what is no number is refused as a time.
fn put_time(event: &mut Map<String, Value>, timestamp: Option<&Value>) {
    let seconds = match timestamp {
        Some(Value::Number(seconds)) => seconds.as_f64(),
        Some(Value::String(seconds)) => seconds.parse().ok(),
        _ => None,
    };
    let ms = seconds.map(|seconds: f64| seconds * 1e3).filter(|ms| ms.is_finite());
    put(event, "timestamp", ms.map(Value::from).or_else(|| timestamp.cloned()).unwrap_or_default());
}

/// Where a path is a path of.
struct Base {
    /// `https://shop.example:8443`, as the browser says.
    origin: Option<String>,
    /// `https://shop.example`.
    site: String,
}

impl Base {
    fn of(headers: &HeaderMap) -> Self {
        let header =
            |name| headers.get(name).and_then(|value| value.to_str().ok()).filter(|url| is_absolute(url));
        let origin = header(ORIGIN).or_else(|| header(REFERER)).map(|url| {
            let authority_at = url.find("//").map_or(0, |at| at + 2);
            let end =
                url[authority_at..].find(['/', '?', '#', '\\']).map_or(url.len(), |at| authority_at + at);
            url[..end].to_owned()
        });
        let origin = origin.filter(|origin| origin.len() <= ORIGIN_BYTES_MAX);
        // As Umami has it where nobody says anything.
        let site = origin.clone().unwrap_or_else(|| "https://localhost".to_owned());
        Self { origin, site }
    }

    /// For a page of this host.
    fn with(&self, hostname: Option<&str>) -> Self {
        let Some(host) = hostname.filter(|host| is_host(host)) else {
            return Self { origin: self.origin.clone(), site: self.site.clone() };
        };
        let own = self.origin.as_deref().filter(|origin| {
            let authority = origin.split_once("//").map_or("", |(_, authority)| authority);
            let rest = authority.strip_prefix(host);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        Self { origin: None, site: own.map_or_else(|| format!("https://{host}"), str::to_owned) }
    }

    /// An address as it is, a path below the site. Old trackers escape paths that are escaped already.
    fn absolute(&self, url: &str) -> String {
        if is_absolute(url) {
            return url.to_owned();
        }
        let path = url.trim_start_matches('/').replace("%25", "%").replace(' ', "%20");
        format!("{}/{path}", self.site)
    }
}

fn is_host(host: &str) -> bool {
    let is_letter =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':') || byte >= 0x80;
    !host.is_empty() && host.len() <= 255 && !host.starts_with(':') && host.bytes().all(is_letter)
}

/// A title as it was before an old tracker escaped it.
fn decoded(title: &str) -> String {
    let mut bytes = Vec::with_capacity(title.len());
    let mut rest = title.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let byte = after.get(..2).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            u8::from_str_radix(digits, 16).ok()
        });
        let Some(byte) = byte else { return title.to_owned() };
        bytes.push(byte);
        rest = &after[2..];
    }
    String::from_utf8(bytes).unwrap_or_else(|_| title.to_owned())
}

/// What Umami says, of one event and of a batch at once. There is no session to speak of: ids are those of nobody.
pub(crate) fn answer(result: Result<usize, &Refused>) -> Response {
    let refused = match result {
        Ok(processed) => {
            let nobody = Uuid::nil();
            let said = json!({ "cache": "", "sessionId": nobody, "visitId": nobody, "processed": processed });
            return answer::json(StatusCode::OK, &said);
        }
        Err(refused) => refused,
    };
    let reason = refused.refusal.reason;
    let status = match StatusCode::from_u16(reason.status()) {
        Ok(status) if matches!(status.as_u16(), 403 | 408 | 413 | 429 | 500..) => status,
        _ => StatusCode::BAD_REQUEST,
    };
    let (message, code) = (&refused.refusal.detail, reason.as_str());
    let said = json!({ "error": { "message": message, "code": code, "status": status.as_u16() } });
    answer::refused_as(status, &said, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Method;

    fn decode_batch(batch: &Value) -> Result<Translation, Refusal> {
        let body = batch.to_string();
        decode(&Call {
            method: &Method::POST,
            path: BATCH,
            query: "",
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
            received_at: 0,
            inflated_bytes_max: 0,
        })
    }

    #[test]
    fn a_batch_is_bounded() {
        let batch = |events: usize| Value::from(vec![json!({ "type": "event", "payload": {} }); events]);
        assert_eq!(decode_batch(&batch(EVENTS_MAX)).unwrap().events.len(), EVENTS_MAX);
        assert_eq!(decode_batch(&batch(EVENTS_MAX + 1)).unwrap_err().reason, Reason::TooManyEvents);
    }

    /// Made of the whole batch it would cost the more the longer that is, for each order in it.
    #[test]
    fn an_orders_own_id_is_made_of_what_it_says_itself() {
        let order = |note: &str| json!({ "type": "event", "payload": { "name": "purchase", "data": { "note": note } } });
        let ids = |batch: &[Value]| -> Vec<Value> {
            let events = decode_batch(&Value::from(batch)).unwrap().events;
            events.into_iter().map(|event| event["order_id"].clone()).collect()
        };
        let first = &ids(&[order("a")])[0];
        let all = ids(&[order("a"), order("a"), order("b")]);
        assert_eq!(&all[0], first);
        assert_ne!(&all[1], first, "the same again is another order");
        assert_ne!(all[2], ids(&[order("a"), order("a"), order("c")])[2]);
    }

    #[test]
    fn paths_become_addresses() {
        let check = |origin: &str, hostname: Option<&str>, url: &str, wanted: &str| {
            let mut headers = HeaderMap::new();
            if !origin.is_empty() {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(Base::of(&headers).with(hostname).absolute(url), wanted);
        };
        check("", None, "/home", "https://localhost/home");
        check("", Some("shop.example"), "/home?a=1", "https://shop.example/home?a=1");
        check("http://shop.example:8080", Some("shop.example"), "/", "http://shop.example:8080/");
        check("http://shop.example.evil", Some("shop.example"), "/", "https://shop.example/");
        check("http://other.example", None, "x y", "http://other.example/x%20y");
        check("", Some("a/b"), "//evil.example/x", "https://localhost/evil.example/x");
        check(&format!("https://{}.example", "a".repeat(ORIGIN_BYTES_MAX)), None, "/", "https://localhost/");
        check("", None, "https://shop.example/x", "https://shop.example/x");
        check("", Some("shop.example"), "/caf%25C3%25A9", "https://shop.example/caf%C3%A9");
    }

    #[test]
    fn titles_are_decoded_where_they_were_encoded() {
        for (title, wanted) in
            [("Caf%C3%A9%20a", "Café a"), ("50% off", "50% off"), ("%ff", "%ff"), ("a%", "a%"), ("é", "é")]
        {
            assert_eq!(decoded(title), wanted);
        }
    }
}
