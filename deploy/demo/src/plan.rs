//! Who sends what together, in which order, and in which shape; copies and refused events go in between.

use std::collections::BTreeMap;

use millrace_schemas::reject::Reason;
use rand::{RngExt as _, seq::SliceRandom as _};
use serde_json::{Map, Value};

use super::{
    bad::{Bad, bad_events},
    request::{Expected, Form, KeyPlace, Payload, Request},
    shop::SERVER,
    world::{Made, World},
};

/// Most events that one request holds here; the collector takes 500.
const BATCH_MAX: usize = 450;
/// Requests that are refused as a whole: one of each kind for so many events.
const EVENTS_PER_REFUSAL: usize = 2_000;
/// Fields that a batch may state once, in its `context`.
const SHARED: [&str; 5] = ["visitor_id", "session_id", "user_id", "viewport_width", "viewport_height"];

#[derive(Clone, Debug)]
enum Entry {
    Good(Map<String, Value>),
    Bad(Bad),
}

/// Events of one sender that go out together.
#[derive(Clone, Debug)]
struct Batch {
    sender: usize,
    /// When it goes out, relative to the others.
    order: i64,
    entries: Vec<Entry>,
}

impl World<'_> {
    /// All requests, in the order in which they are to be sent.
    pub(super) fn plan(&mut self) -> Vec<Request> {
        let mut batches = self.batches();
        batches.sort_by_key(|batch| batch.order);
        self.spoil(&mut batches);
        let mut requests: Vec<Request> = batches.iter().map(|batch| self.request(batch)).collect();
        for _ in 0..self.made.len() / EVENTS_PER_REFUSAL {
            for refused in self.refused_requests() {
                let at = self.rng.random_range(0..=requests.len());
                requests.insert(at, refused);
            }
        }
        requests
    }

    fn batches(&mut self) -> Vec<Batch> {
        let mut by_sender: BTreeMap<usize, Vec<Made>> = BTreeMap::new();
        for made in &self.made {
            by_sender.entry(made.sender).or_default().push(made.clone());
        }
        let span = i64::from(self.scenario.days) * 24 * 3_600_000;
        let mut batches = Vec::new();
        for (sender, mut events) in by_sender {
            events.sort_by_key(|made| made.at);
            let mut rest = events.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(self.batch_size(sender).min(rest.len()));
                rest = later;
                let mut order = now.last().map_or(0, |made| made.at);
                // Some are late, a few of them by days.
                if self.chance(0.08) {
                    order += self.rng.random_range(0..span);
                }
                let mut entries: Vec<Entry> = Vec::new();
                for made in now {
                    entries.push(Entry::Good(made.json.clone()));
                    if !self.chance(self.scenario.duplicates) {
                        continue;
                    }
                    let copy = Entry::Good(made.json.clone());
                    if now.len() > 1 && self.chance(0.3) {
                        entries.push(copy);
                    } else {
                        let order = order + self.rng.random_range(1..span);
                        batches.push(Batch { sender, order, entries: vec![copy] });
                    }
                }
                batches.push(Batch { sender, order, entries });
            }
        }
        batches
    }

    fn batch_size(&mut self, sender: usize) -> usize {
        if self.senders[sender].is_anonymous {
            return BATCH_MAX;
        }
        let (alone, largest) = if self.senders[sender].is_server { (0.3, 40) } else { (0.5, 25) };
        match self.rng.random_range(0..100) {
            _ if self.chance(alone) => 1,
            0..4 if self.senders[sender].is_server => 300,
            _ => self.rng.random_range(2..=largest),
        }
    }

    /// Puts refused events beside good ones, and some into requests of their own.
    fn spoil(&mut self, batches: &mut Vec<Batch>) {
        let kinds = bad_events(self.scenario.now.as_millisecond() - 3_600_000);
        let count = (self.made.len() as f64 * self.scenario.malformed).round() as usize;
        for number in 0..count {
            let bad = kinds[number % kinds.len()].clone();
            let at = self.rng.random_range(0..batches.len());
            if bad.can_stand_alone() && self.chance(0.15) {
                let (sender, order) = (batches[at].sender, batches[at].order);
                batches.insert(at, Batch { sender, order, entries: vec![Entry::Bad(bad)] });
            } else {
                let entries = &mut batches[at].entries;
                entries.insert(self.rng.random_range(0..=entries.len()), Entry::Bad(bad));
            }
        }
    }

    fn request(&mut self, batch: &Batch) -> Request {
        let is_malformed =
            |entry: &Entry| matches!(entry, Entry::Bad(bad) if bad.reason == Reason::MalformedJson);
        let form = if batch.entries.iter().any(is_malformed) {
            // Only between lines can a collector tell where a broken event ends.
            Form::Lines
        } else if batch.entries.len() == 1 {
            self.one_of(&[Form::Single, Form::Single, Form::Single, Form::Array, Form::Envelope])
        } else {
            self.one_of(&[Form::Array, Form::Envelope, Form::Envelope, Form::Lines])
        };
        let mut expected = Expected { status: 202, accepted: 0, rejected: Vec::new() };
        let mut goods = Vec::new();
        for (index, entry) in batch.entries.iter().enumerate() {
            match entry {
                Entry::Good(json) => goods.push(json),
                Entry::Bad(bad) => expected.rejected.push((index, bad.reason)),
            }
        }
        expected.accepted = goods.len();
        if goods.is_empty() {
            expected.status = 422;
        }
        let context = if form == Form::Envelope { shared(&goods) } else { Map::new() };
        let mut texts = Vec::new();
        for entry in &batch.entries {
            texts.push(match entry {
                Entry::Bad(bad) => bad.text.clone(),
                Entry::Good(json) => {
                    let mut json = json.clone();
                    json.retain(|field, _| !context.contains_key(field));
                    self.text_of(json)
                }
            });
        }
        let id = |event: &&Map<String, Value>| event.get("event_id")?.as_str()?.parse().ok();
        let accepted_ids = goods.iter().filter_map(id).collect();
        let sender = self.senders[batch.sender].clone();
        let key_place = match form {
            Form::Envelope => {
                self.one_of(&[KeyPlace::Bearer, KeyPlace::Header, KeyPlace::Body, KeyPlace::Body])
            }
            _ => self.one_of(&[KeyPlace::Bearer, KeyPlace::Header, KeyPlace::Query]),
        };
        let content_type = match form {
            Form::Lines => "application/x-ndjson",
            _ if sender.is_server => "application/json",
            _ => self.one_of(&["application/json", "text/plain", "application/json; charset=utf-8"]),
        };
        let is_large = batch.entries.len() > 3;
        Request {
            agent: sender.agent,
            content_type,
            encoding: (is_large && self.chance(0.4)).then_some("gzip"),
            is_server: sender.is_server,
            expected,
            accepted_ids,
            key_place,
            payload: Payload::Events { form, context, texts, is_stamped: self.chance(0.5) },
        }
    }

    /// Requests of which nothing is accepted.
    fn refused_requests(&mut self) -> Vec<Request> {
        let json = "application/json";
        let good = r#"{"type":"page_view","url":"https://shop.example/"}"#;
        let many = format!("[{}]", vec![good; 501].join(","));
        let cases: [(Reason, &str, &'static str, Option<&'static str>, KeyPlace); 9] = [
            (Reason::NotJson, "{type:", json, None, KeyPlace::Header),
            (Reason::NotJson, "hello", "text/plain", None, KeyPlace::Bearer),
            (Reason::NoEvents, "[]", json, None, KeyPlace::Header),
            (Reason::NoEvents, r#"{"events":[]}"#, json, None, KeyPlace::Query),
            (Reason::UnknownKey, good, json, None, KeyPlace::Wrong),
            (Reason::UnknownKey, good, json, None, KeyPlace::Nowhere),
            (Reason::UnsupportedType, good, "application/xml", None, KeyPlace::Header),
            (Reason::UnsupportedEncoding, good, json, Some("snappy"), KeyPlace::Header),
            (Reason::TooManyEvents, &many, json, None, KeyPlace::Header),
        ];
        let mut requests: Vec<Request> = cases
            .into_iter()
            .map(|(reason, body, content_type, encoding, key_place)| Request {
                agent: SERVER.into(),
                content_type,
                encoding,
                is_server: false,
                expected: Expected { status: reason.status(), accepted: 0, rejected: Vec::new() },
                accepted_ids: Vec::new(),
                key_place,
                payload: Payload::Raw(body.into()),
            })
            .collect();
        requests.shuffle(&mut self.rng);
        requests
    }
}

/// What all of the events have in common, of the fields that a context may hold.
fn shared(events: &[&Map<String, Value>]) -> Map<String, Value> {
    let mut context = Map::new();
    for field in SHARED {
        let Some(value) = events.first().and_then(|event| event.get(field)) else { continue };
        if events.iter().all(|event| event.get(field) == Some(value)) {
            context.insert(field.into(), value.clone());
        }
    }
    context
}
