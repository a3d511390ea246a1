//! Self-describing events, and the entities that no field has a place for.

use millrace_schemas::event::REFUND;
use serde_json::{Map, Value};

use super::{Entity, Payload, SNOWPLOW, ecommerce, nested};
use crate::compat::{
    commerce::put_commerce,
    event_id, properties, put,
    value::{put_sent, text},
};

/// Vendors whose entities describe browsers and pages, for which there are fields or no use.
const DROPPED_VENDORS: [&str; 4] = [SNOWPLOW, "org.w3", "org.ietf", "com.google."];

impl Payload<'_> {
    pub(super) fn unstructured(&mut self) {
        let event = nested(self.fields, "ue_px", "ue_pr");
        let inner = event.and_then(|mut event| event.get_mut("data").map(Value::take));
        let Some(Entity { vendor, name, data }) = inner.and_then(Entity::read) else {
            // Refused: an event has a name.
            return self.named("");
        };
        if vendor == ecommerce::VENDOR && name == "snowplow_ecommerce_action" {
            return self.ecommerce(&data);
        }
        if vendor != "com.snowplowanalytics.snowplow" {
            return self.as_it_is(&name, &data);
        }
        match name.as_str() {
            "link_click" => self.link_click(&data),
            "submit_form" => self.form("form_submit", &data),
            "focus_form" => self.form("form_focus", &data),
            "change_form" => self.form("form_change", &data),
            "site_search" => self.site_search(&data),
            "screen_view" => {
                self.named("screen_view");
                self.renamed(&data, &[("screen_name", "name"), ("screen_id", "id")]);
            }
            "application_error" => {
                self.quiet("exception");
                self.renamed(&data, APPLICATION_ERROR);
            }
            "web_vitals" => {
                self.quiet(&name);
                self.vitals = Vital::ALL.iter().filter_map(|vital| Vital::read(vital, &data)).collect();
            }
            "consent_granted" | "consent_withdrawn" => {
                self.as_it_is(&name, &data);
                self.quiet(&name);
            }
            "add_to_cart" | "remove_from_cart" => self.cart(&name, &data),
            _ => self.as_it_is(&name, &data),
        }
    }

    fn as_it_is(&mut self, name: &str, data: &Map<String, Value>) {
        self.named(name);
        let taken = put_commerce(&mut self.event, name, data);
        // A refund of some products is one of several; sent again it has the same id.
        let is_named = text(self.event.get("refund_id")).is_some();
        if name == REFUND && self.event.contains_key("items") && !is_named {
            put_sent(&mut self.event, "refund_id", self.fields.get("eid"));
        }
        self.event.insert("properties".into(), properties(data, &taken).into());
    }

    /// An event that no visitor meant.
    fn quiet(&mut self, name: &str) {
        self.named(name);
        self.event.insert("interactive".into(), false.into());
    }

    fn renamed(&mut self, data: &Map<String, Value>, names: &[(&str, &str)]) {
        for (property, name) in names {
            match data.get(*name) {
                Some(value @ Value::Bool(_)) => self.property(property, value.clone()),
                value => self.property(property, text(value).into()),
            }
        }
    }

    /// GA4's `click`.
    fn link_click(&mut self, data: &Map<String, Value>) {
        self.named("click");
        self.renamed(
            data,
            &[
                ("link_url", "targetUrl"),
                ("link_id", "elementId"),
                ("link_target", "elementTarget"),
                ("link_text", "elementContent"),
            ],
        );
        if let Some(Value::Array(classes)) = data.get("elementClasses") {
            let classes: Vec<&str> = classes.iter().filter_map(Value::as_str).collect();
            self.property("link_classes", classes.join(" ").into());
        }
        let page = self.event.get("url").and_then(Value::as_str).and_then(host);
        let target = data.get("targetUrl").and_then(Value::as_str).and_then(host);
        if let (Some(page), Some(target)) = (page, target) {
            let is_outbound = !page.eq_ignore_ascii_case(target);
            self.property("outbound", is_outbound.into());
        }
    }

    /// Which form and which element of it. What was typed is dropped.
    fn form(&mut self, name: &str, data: &Map<String, Value>) {
        self.named(name);
        self.renamed(
            data,
            &[
                ("form_id", "formId"),
                ("element_id", "elementId"),
                ("element_type", "type"),
                ("element_type", "elementType"),
                ("node_name", "nodeName"),
            ],
        );
    }

    fn site_search(&mut self, data: &Map<String, Value>) {
        self.named("search");
        if let Some(Value::Array(terms)) = data.get("terms") {
            let terms: Vec<&str> = terms.iter().filter_map(Value::as_str).collect();
            self.property("search_term", terms.join(" ").into());
        }
        self.renamed(data, &[("total_results", "totalResults"), ("page_results", "pageResults")]);
    }

    fn cart(&mut self, name: &str, data: &Map<String, Value>) {
        self.named(name);
        put_sent(&mut self.event, "currency", data.get("currency"));
        self.event.insert("items".into(), vec![Value::Object(ecommerce::cart_item(data))].into());
    }

    /// A shop's own entities, as properties `entity.member`.
    pub(super) fn other_entities(&mut self) {
        let mut said = Map::new();
        for Entity { vendor, name, data } in std::mem::take(&mut self.entities) {
            let is_dropped = DROPPED_VENDORS.iter().any(|dropped| vendor.starts_with(dropped));
            if !is_dropped {
                said.insert(name, Value::Object(data));
            }
        }
        for (name, value) in properties(&said, &[]) {
            self.property(&name, value);
        }
    }
}

/// One of a page's web vitals.
pub(super) struct Vital {
    label: &'static str,
    value: Value,
}

impl Vital {
    /// What the snippet calls them.
    const ALL: [&'static str; 5] = ["LCP", "INP", "CLS", "FCP", "TTFB"];

    fn read(label: &'static str, data: &Map<String, Value>) -> Option<Self> {
        let value = data.get(&label.to_ascii_lowercase()).filter(|value| value.is_number())?;
        Some(Self { label, value: value.clone() })
    }

    /// Its event, with an id made of that of them all.
    pub(super) fn of(self, all: &Map<String, Value>) -> Map<String, Value> {
        let mut event = all.clone();
        if let Some(id) = all.get("event_id").and_then(Value::as_str) {
            put(&mut event, "event_id", event_id(&format!("{id} {}", self.label)));
        }
        put(&mut event, "label", self.label);
        put(&mut event, "value", self.value);
        event
    }
}

const APPLICATION_ERROR: &[(&str, &str)] = &[
    ("message", "message"),
    ("type", "exceptionName"),
    ("stack", "stackTrace"),
    ("source", "fileName"),
    ("line", "lineNumber"),
    ("column", "lineColumn"),
];

fn host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?', '#']).next()
}
