//! One event of PostHog's to native ones.

use millrace_schemas::event::{PURCHASE, REFUND, canonical_name};
use serde_json::{Map, Value};

use super::heatmap;
use crate::compat::{
    add_properties, commerce, event_id, properties, put,
    segment::commerce as specification,
    value::{object, object_or_json, put_property, put_referrer, put_sent, text, word},
};

/// Who is on a page without cookies: nobody.
const COOKIELESS: &str = "$posthog_cookieless";

/// How Mixpanel's clients, which speak the same, begin the id of a device on which nobody has signed in.
const DEVICE: &str = "$device:";

/// Properties with a dollar that are kept; the others have become fields, are known here anyway, or are about PostHog.
const KEPT: [&str; 14] = [
    "$lib",
    "$lib_version",
    "$window_id",
    "$groups",
    "$group_type",
    "$group_key",
    "$event_type",
    "$el_text",
    "$elements_chain",
    "$screen_name",
    "$feature_flag",
    "$feature_flag_response",
    "$exception_level",
    "$is_server",
];
/// Of every feature flag that was on.
const KEPT_PREFIX: &str = "$feature/";
/// What describes elements is long, and cut.
const ELEMENTS_BYTES_MAX: usize = 1_000;
const STACK_BYTES_MAX: usize = 4_000;
const FRAMES_MAX: usize = 20;

const VITALS: [&str; 5] = ["LCP", "INP", "CLS", "FCP", "TTFB"];

struct Sent<'s> {
    event: &'s Map<String, Value>,
    properties: &'s Map<String, Value>,
    name: &'s str,
}

/// Adds what an event becomes to `events`: nothing, itself, and what it says of the page before or of clicks.
pub(super) fn translate(event: &Map<String, Value>, events: &mut Vec<Map<String, Value>>) {
    let properties = object_or_json(event, "properties").unwrap_or_default();
    let properties = &*properties;
    let name = match event.get("event") {
        // What Mixpanel's clients say of a person has no name.
        None if event.contains_key("$distinct_id") => "$set",
        name => word(name),
    };
    let sent = Sent { event, properties, name };
    // Short, because what is made of the event has ids that are made of it.
    let id = sent.id().map(|id| event_id(&id));
    let shared = sent.shared(id.as_deref());
    match name {
        "$snapshot" | "$snapshot_items" | "$performance_event" => return,
        "$pageview" => {
            events.push(sent.page_view(shared.clone()));
            events.extend(sent.leave(&shared, id.as_deref(), "leave"));
        }
        "$pageleave" => {
            let left = sent.leave(&shared, id.as_deref(), "");
            // Without a page there is nothing to leave: refused in its place.
            events.push(left.unwrap_or(shared.clone()));
        }
        "$web_vitals" => events.extend(sent.vitals(&shared, id.as_deref())),
        // Clicks alone.
        name if name.starts_with("$$") => {}
        _ => events.push(sent.named(shared.clone())),
    }
    match (properties.get("$heatmap_data"), name) {
        (Some(data), _) if !data.is_null() => {
            let mut shared = sent.shared(None);
            put_sent(&mut shared, "page_width", properties.get("$viewport_width"));
            heatmap::clicks(data, &shared, id.as_deref(), events);
        }
        (_, "$$heatmap") => heatmap::clicks(&Value::Null, &shared, None, events),
        _ => {}
    }
}

impl Sent<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.properties.get(name)
    }

    /// The sender's id of the event, where it has one that tells it from others.
    fn id(&self) -> Option<String> {
        text(self.event.get("uuid")).or_else(|| text(self.get("uuid"))).or_else(|| {
            let insert_id = text(self.get("$insert_id"))?;
            Some(format!("{} {} {insert_id}", self.distinct_id().unwrap_or_default(), self.name))
        })
    }

    /// What the event has in common with all that is made of it.
    fn shared(&self, id: Option<&str>) -> Map<String, Value> {
        let mut event = Map::new();
        if let Some(id) = id {
            put(&mut event, "event_id", id);
        }
        self.put_time(&mut event);
        self.put_person(&mut event);
        put_sent(&mut event, "session_id", self.get("$session_id"));
        put_sent(&mut event, "url", self.get("$current_url"));
        put_sent(&mut event, "page_view_id", self.get("$pageview_id"));
        put_sent(&mut event, "viewport_width", self.get("$viewport_width"));
        put_sent(&mut event, "viewport_height", self.get("$viewport_height"));
        put_sent(&mut event, "ip", self.get("$ip"));
        put_sent(&mut event, "user_agent", self.get("$raw_user_agent").or_else(|| self.get("$useragent")));
        event
    }

    /// When it happened: as such, as milliseconds before it was sent, which are others when it is sent again, or as epoch
    /// seconds.
    fn put_time(&self, event: &mut Map<String, Value>) {
        let seconds =
            || self.get("$time").and_then(Value::as_f64).map(|seconds| (seconds * 1000.0).round() as i64);
        match (self.event.get("timestamp"), self.event.get("offset").filter(|offset| offset.is_number())) {
            (Some(time), _) if !time.is_null() => put(event, "timestamp", time.clone()),
            (_, Some(offset)) => put(event, "age_ms", offset.clone()),
            _ => put(event, "timestamp", seconds()),
        }
    }

    fn distinct_id(&self) -> Option<String> {
        let outside = text(self.event.get("distinct_id")).or_else(|| text(self.event.get("$distinct_id")));
        outside.or_else(|| text(self.get("distinct_id"))).or_else(|| text(self.get("$distinct_id")))
    }

    /// The visitor is the device where there is one, and else whoever the event is about. The user is whoever the event is
    /// about, unless that is a device's id or said to be nobody in particular.
    fn put_person(&self, event: &mut Map<String, Value>) {
        let device = self.get("$device_id").or_else(|| self.event.get("$device_id"));
        let device = text(device).filter(|id| id != COOKIELESS);
        let person = self.distinct_id().filter(|id| id != COOKIELESS);
        let is_nobody =
            self.name == "$groupidentify" && person.as_ref().is_some_and(|id| id.starts_with('$'));
        let Some(person) = person.filter(|_| !is_nobody) else {
            put(event, "visitor_id", device.unwrap_or_default());
            return;
        };
        let is_anonymous = match self.get("$is_identified") {
            Some(Value::Bool(is_identified)) => !is_identified,
            _ => self.get("$process_person_profile") == Some(&Value::Bool(false)),
        };
        if device.as_ref() != Some(&person) && !person.starts_with(DEVICE) && !is_anonymous {
            put(event, "user_id", person.as_str());
        }
        put(event, "visitor_id", device.unwrap_or(person));
    }

    fn put_page(&self, event: &mut Map<String, Value>) {
        put_referrer(event, self.get("$referrer"));
        put_sent(event, "language", self.get("$browser_language"));
        put_sent(event, "timezone", self.get("$timezone"));
        put_sent(event, "screen_width", self.get("$screen_width"));
        put_sent(event, "screen_height", self.get("$screen_height"));
    }

    fn page_view(&self, mut event: Map<String, Value>) -> Map<String, Value> {
        put(&mut event, "type", "page_view");
        put_sent(&mut event, "title", self.get("title").or_else(|| self.get("$title")));
        if !event.contains_key("page_view_id") {
            // posthog-js names a showing of a page by the event that began it.
            put_sent(&mut event, "page_view_id", self.event.get("uuid"));
        }
        self.put_page(&mut event);
        put(&mut event, "properties", self.rest(&["title"]));
        event
    }

    /// The end of a showing of a page, of which an event tells that ends it: `$pageleave`, or the next `$pageview`.
    fn leave(
        &self,
        shared: &Map<String, Value>,
        id: Option<&str>,
        suffix: &str,
    ) -> Option<Map<String, Value>> {
        let left = text(self.get("$prev_pageview_id")).or_else(|| text(self.get("$pageview_id")))?;
        if self.name == "$pageview" && shared.get("page_view_id").is_none_or(|own| *own == left) {
            return None;
        }
        let mut event = shared.clone();
        put(&mut event, "type", "page_view");
        put(&mut event, "page_view_id", left);
        if let Some(id) = id.filter(|_| !suffix.is_empty()) {
            put(&mut event, "event_id", event_id(&format!("{id} {suffix}")));
        }
        if self.name == "$pageview" {
            put(&mut event, "url", self.url_before()?);
        }
        let number = |name: &str| self.get(name).and_then(Value::as_f64).filter(|number| number.is_finite());
        if let Some(seconds) = number("$prev_pageview_duration") {
            put(&mut event, "duration_ms", (seconds * 1000.0).round().clamp(0.0, f64::from(u32::MAX)) as u32);
        }
        let depth = number("$prev_pageview_max_content_percentage");
        if let Some(share) = depth.or_else(|| number("$prev_pageview_max_scroll_percentage")) {
            put(&mut event, "scroll_depth", (share * 100.0).round().clamp(0.0, 100.0) as u8);
        }
        self.put_page(&mut event);
        Some(event)
    }

    /// The page before, of which only the path is told.
    fn url_before(&self) -> Option<String> {
        let now = self.get("$current_url")?.as_str()?;
        let path = self.get("$prev_pageview_pathname")?.as_str().filter(|path| path.starts_with('/'))?;
        let host = now.find("://")? + 3;
        let origin = now.get(host..)?.find(['/', '?', '#']).map_or(now, |end| &now[..host + end]);
        Some(format!("{origin}{path}"))
    }

    /// An event with a name. PostHog's own are not what makes a visit more than a look at one page.
    fn named(&self, mut event: Map<String, Value>) -> Map<String, Value> {
        put(&mut event, "type", "event");
        self.put_page(&mut event);
        if self.name.starts_with('$') || self.name.is_empty() {
            put(&mut event, "interactive", false);
        }
        let (name, properties) = match self.name {
            "$identify" | "$set" => ("identify", self.traits(&["$set", "$set_once"])),
            "$create_alias" | "$merge_dangerously" => ("alias", self.rest(&["distinct_id"])),
            "$groupidentify" => ("group", self.traits(&["$group_set"])),
            "$exception" => ("exception", self.exception()),
            "$screen" => {
                put_sent(&mut event, "label", self.get("$screen_name"));
                ("screen_view", self.rest(&[]))
            }
            name => match self.specified_name() {
                Some(known) => {
                    let id = event.get("event_id").cloned();
                    let rest = specification::put(&mut event, known, &self.left(), id.as_ref());
                    (known, without_long_elements(rest))
                }
                None => {
                    let taken = commerce::put_commerce(&mut event, name, self.properties);
                    (name, self.rest(&taken))
                }
            },
        };
        // A name that is no text is refused.
        match self.event.get("event") {
            Some(Value::String(_)) | None => put(&mut event, "name", name),
            Some(other) => put(&mut event, "name", other.clone()),
        }
        put(&mut event, "properties", properties);
        event
    }

    /// What PostHog's specification of e-commerce calls this event: Segment's, with names that begin with a capital.
    fn specified_name(&self) -> Option<&'static str> {
        let is_capital = self.name.starts_with(|first: char| first.is_ascii_uppercase());
        let has_order = specification::names_order(self.properties);
        let specified = specification::specified_name(&self.name.to_ascii_lowercase(), has_order);
        let known = specified.filter(|_| is_capital).or((self.name == REFUND).then_some(REFUND))?;
        // Anybody's words may mean an order; one that nobody names would be refused.
        let is_meant = has_order || canonical_name(self.name) == known || !matches!(known, PURCHASE | REFUND);
        is_meant.then_some(known)
    }

    /// The properties that say something here, and are in no field yet.
    fn left(&self) -> Map<String, Value> {
        let is_left = |name: &str| match name {
            "token" | "distinct_id" | "uuid" => false,
            name => !name.starts_with('$') || KEPT.contains(&name) || name.starts_with(KEPT_PREFIX),
        };
        let left = self.properties.iter().filter(|(name, _)| is_left(name));
        left.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Those of them that were not taken, for `properties`.
    fn rest(&self, taken: &[&str]) -> Map<String, Value> {
        without_long_elements(properties(&self.left(), taken))
    }

    /// What is said of a person or a group in these places, under its own names. What the first says wins.
    fn traits(&self, places: &[&str]) -> Map<String, Value> {
        let mut said = Map::new();
        let both = [self.properties, self.event];
        for traits in places.iter().flat_map(|place| both.map(|of| object(of, place))).flatten() {
            let traits = properties(traits, &[]).into_iter().filter(|(name, _)| !name.starts_with('$'));
            add_properties(&mut said, traits);
        }
        put_property(&mut said, "previous_id", self.get("$anon_distinct_id"));
        add_properties(&mut said, self.rest(&[]));
        said
    }

    /// The outermost of the exceptions, with the innermost frames first.
    fn exception(&self) -> Map<String, Value> {
        let mut said = Map::new();
        let first = self.get("$exception_list").and_then(|list| list.get(0)).unwrap_or(&Value::Null);
        let kind = text(first.get("type")).or_else(|| text(self.get("$exception_type")));
        let message = text(first.get("value")).or_else(|| text(self.get("$exception_message")));
        put(&mut said, "type", kind.unwrap_or_default());
        put(
            &mut said,
            "message",
            message.map(|mut message| {
                cut(&mut message, ELEMENTS_BYTES_MAX);
                message
            }),
        );
        put(&mut said, "fatal", first["mechanism"]["handled"].as_bool().map(|is_handled| !is_handled));
        let frames = first["stacktrace"]["frames"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(top) = frames.last() {
            put(
                &mut said,
                "source",
                text(top.get("filename")).map(|mut source| {
                    cut(&mut source, ELEMENTS_BYTES_MAX);
                    source
                }),
            );
            put(&mut said, "line", top["lineno"].as_u64());
            put(&mut said, "column", top["colno"].as_u64());
        }
        let mut stack = String::new();
        for frame in frames.iter().rev().take(FRAMES_MAX) {
            let part = |name: &str| text(frame.get(name)).unwrap_or_default();
            let line = format!(
                "at {} ({}:{}:{})\n",
                part("function"),
                part("filename"),
                part("lineno"),
                part("colno")
            );
            if stack.len() + line.len() > STACK_BYTES_MAX {
                break;
            }
            stack.push_str(&line);
        }
        put(&mut said, "stack", stack.trim_end());
        add_properties(&mut said, self.rest(&["type", "message"]));
        said
    }

    /// An event for each of the vitals that have become known: milliseconds, but of the shift of the layout.
    fn vitals(
        &self,
        shared: &Map<String, Value>,
        id: Option<&str>,
    ) -> impl Iterator<Item = Map<String, Value>> {
        VITALS.into_iter().filter_map(move |vital| {
            let value = self.get(&format!("$web_vitals_{vital}_value")).filter(|value| value.is_number())?;
            let mut event = shared.clone();
            for (field, value) in [("type", "event"), ("name", "web_vitals"), ("label", vital)] {
                put(&mut event, field, value);
            }
            self.put_page(&mut event);
            put(&mut event, "interactive", false);
            put(&mut event, "value", value.clone());
            if let Some(id) = id {
                put(&mut event, "event_id", event_id(&format!("{id} {vital}")));
            }
            Some(event)
        })
    }
}

fn without_long_elements(mut properties: Map<String, Value>) -> Map<String, Value> {
    for name in ["$elements_chain", "$el_text"] {
        if let Some(Value::String(text)) = properties.get_mut(name) {
            cut(text, ELEMENTS_BYTES_MAX);
        }
    }
    properties
}

fn cut(text: &mut String, bytes_max: usize) {
    text.truncate(text.floor_char_boundary(bytes_max));
}
