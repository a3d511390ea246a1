//! Everything that is being made up: the source of chance, the shop, who sends, and what has happened so far.

use jiff::{Timestamp, civil::Date, tz::Offset};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::ChaCha8Rng};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Scenario,
    shop::{self, ORIGIN, Shop},
};

/// Who posts events.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) agent: String,
    pub(super) is_server: bool,
    pub(super) is_bot: bool,
    /// Its events name no visitor: they must go out together, so that the collector makes one visitor of them.
    pub(super) is_anonymous: bool,
}

/// An event, and who posts it.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) at: i64,
    pub(super) sender: usize,
    pub(super) json: Map<String, Value>,
}

/// How a sender writes times.
#[derive(Clone, Copy, Debug)]
pub(super) enum TimeStyle {
    Zulu,
    Local,
    Millis,
}

/// How a sender names events: index into [`NAMES`].
pub(super) type Dialect = usize;

const NAMES: [[&str; 6]; 3] = [
    ["view_item", "add_to_cart", "remove_from_cart", "begin_checkout", "purchase", "refund"],
    ["product_view", "cart_add", "remove_from_cart", "checkout_start", "order_completed", "refund"],
    [
        "Product Viewed",
        "Product Added",
        "Product Removed",
        "Checkout Started",
        "Order Completed",
        "Order Refunded",
    ],
];

/// A canonical name in the words of a dialect.
pub(super) fn name_in(dialect: Dialect, name: &'static str) -> &'static str {
    NAMES[0].iter().position(|canonical| *canonical == name).map_or(name, |index| NAMES[dialect][index])
}

/// One browser, or one program that behaves like one.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) sender: usize,
    pub(super) id: Option<String>,
    pub(super) user: Option<String>,
    pub(super) sends_sessions: bool,
    pub(super) sends_sequence: bool,
    pub(super) sends_page_view_ids: bool,
    pub(super) sends_clicks: bool,
    pub(super) times: TimeStyle,
    pub(super) dialect: Dialect,
    pub(super) viewport: (u32, u32),
    pub(super) currency: String,
    pub(super) is_bot: bool,
}

/// One visit, as far as it has come.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) at: i64,
    pub(super) session: Option<String>,
    pub(super) sequence: u32,
    pub(super) cart: Vec<shop::Line>,
}

/// A page that is being shown.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) url: String,
    pub(super) id: Option<String>,
    pub(super) since: i64,
}

/// See the module.
pub(super) struct World<'s> {
    pub(super) scenario: &'s Scenario,
    pub(super) rng: ChaCha8Rng,
    pub(super) shop: Shop,
    pub(super) senders: Vec<Sender>,
    pub(super) made: Vec<Made>,
    pub(super) orders: u32,
    pub(super) users: Vec<String>,
}

/// The server is always the first sender.
pub(super) const SERVER: usize = 0;

impl<'s> World<'s> {
    pub(super) fn new(scenario: &'s Scenario) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(scenario.seed);
        let shop = Shop::new(&mut rng);
        let server =
            Sender { agent: shop::SERVER.into(), is_server: true, is_bot: false, is_anonymous: false };
        Self { scenario, rng, shop, senders: vec![server], made: Vec::new(), orders: 0, users: Vec::new() }
    }

    /// True in this share of cases.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    /// One of the list.
    pub(super) fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.rng.random_range(0..list.len())]
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, visit: &mut Visit, least_ms: i64, most_ms: i64) {
        visit.at += self.rng.random_range(least_ms..=most_ms);
    }

    /// An instant by the store's clocks. Where these show it twice, `is_second` says which of the two.
    pub(super) fn local(
        &self,
        day: Date,
        (hour, minute, second, ms): (i8, i8, i8, i16),
        is_second: bool,
    ) -> i64 {
        let at = day.at(hour, minute, second, i32::from(ms) * 1_000_000);
        let times = self.scenario.time_zone.to_ambiguous_timestamp(at);
        let instant = if is_second { times.later() } else { times.earlier() };
        instant.map_or(0, Timestamp::as_millisecond)
    }

    /// A new UUID: of its time for most senders, by chance for others, so that ids do not always sort like times.
    pub(super) fn uuid(&mut self, at: i64) -> String {
        let mut bytes = [0_u8; 16];
        self.rng.fill_bytes(&mut bytes);
        let id = if self.chance(0.7) {
            let mut tail = [0_u8; 10];
            tail.copy_from_slice(&bytes[..10]);
            uuid::Builder::from_unix_timestamp_millis(at.unsigned_abs(), &tail).into_uuid()
        } else {
            uuid::Builder::from_random_bytes(bytes).into_uuid()
        };
        if self.chance(0.01) { id.to_string().to_uppercase() } else { id.to_string() }
    }

    /// A short identity with a prefix.
    pub(super) fn identity(&mut self, prefix: &str) -> String {
        format!("{prefix}{:016x}", self.rng.random::<u64>())
    }

    fn time(&self, at: i64, style: TimeStyle) -> Value {
        let instant = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
        match style {
            TimeStyle::Zulu => format!("{instant:.3}").into(),
            TimeStyle::Millis => at.into(),
            TimeStyle::Local => {
                let offset: Offset = self.scenario.time_zone.to_offset(instant);
                instant.display_with_offset(offset).to_string().into()
            }
        }
    }

    /// Keeps an event. What would happen in the future has not happened.
    pub(super) fn push(&mut self, sender: usize, at: i64, json: Map<String, Value>) {
        if at < self.scenario.now.as_millisecond() {
            self.made.push(Made { at, sender, json });
        }
    }

    /// What every event of a visit has; `fields` on top of it.
    pub(super) fn happen(&mut self, visitor: &Visitor, visit: &mut Visit, fields: Value) {
        let at = visit.at;
        let mut json = Map::new();
        json.insert("event_id".into(), self.uuid(at).into());
        json.insert("timestamp".into(), self.time(at, visitor.times));
        for (field, value) in
            [("visitor_id", &visitor.id), ("session_id", &visit.session), ("user_id", &visitor.user)]
        {
            if let Some(value) = value {
                json.insert(field.into(), value.clone().into());
            }
        }
        if visitor.sends_sequence {
            json.insert("sequence".into(), visit.sequence.into());
            visit.sequence += 1;
        }
        json.insert("viewport_width".into(), visitor.viewport.0.into());
        json.insert("viewport_height".into(), visitor.viewport.1.into());
        if let Value::Object(fields) = fields {
            json.extend(fields);
        }
        self.push(visitor.sender, at, json);
    }

    /// A named event on a page.
    pub(super) fn event(
        &mut self,
        visitor: &Visitor,
        visit: &mut Visit,
        page: &Page,
        name: &'static str,
        fields: Value,
    ) {
        let mut all = json!({ "type": "event", "name": name_in(visitor.dialect, name), "url": page.url });
        if let (Some(id), Some(all)) = (&page.id, all.as_object_mut()) {
            all.insert("page_view_id".into(), id.clone().into());
        }
        if let (Value::Object(fields), Some(all)) = (fields, all.as_object_mut()) {
            all.extend(fields);
        }
        self.happen(visitor, visit, all);
    }

    /// A page is shown.
    pub(super) fn show(&mut self, visitor: &Visitor, visit: &mut Visit, path: &str, title: &str) -> Page {
        let at = visit.at;
        let id = visitor.sends_page_view_ids.then(|| self.uuid(at));
        let page = Page { url: format!("{ORIGIN}{path}"), id, since: at };
        let mut fields = json!({ "type": "page_view", "url": page.url, "title": title });
        match &page.id {
            Some(id) => fields["page_view_id"] = id.clone().into(),
            // Without an identity the page cannot be told from the next, so its time comes with its only report.
            None if self.chance(0.3) => {
                fields["duration_ms"] = self.rng.random_range(500..90_000).into();
            }
            None => {}
        }
        self.happen(visitor, visit, fields);
        page
    }

    /// A page reports, as it is left, how long it was seen. Some reports bear the time at which it was shown.
    pub(super) fn leave(&mut self, visitor: &Visitor, visit: &mut Visit, page: &Page) {
        let Some(id) = &page.id else { return };
        let seen_ms = (visit.at - page.since) * self.one_of(&[10, 10, 10, 8, 3]) / 10;
        let fields = json!({
            "type": "page_view",
            "url": page.url,
            "page_view_id": id,
            "duration_ms": seen_ms,
            "scroll_depth": self.rng.random_range(0..=100),
        });
        if self.chance(0.1) {
            let left = std::mem::replace(&mut visit.at, page.since);
            self.happen(visitor, visit, fields);
            visit.at = left;
        } else {
            self.happen(visitor, visit, fields);
        }
    }

    /// An event of the shop's server. `whose` names the visitor and session, as far as the server knows them.
    pub(super) fn server(&mut self, at: i64, name: &'static str, whose: &Value, fields: Value) {
        let mut json = Map::new();
        json.insert("type".into(), "event".into());
        json.insert("name".into(), name.into());
        json.insert("event_id".into(), self.uuid(at).into());
        let style = self.one_of(&[TimeStyle::Zulu, TimeStyle::Millis]);
        json.insert("timestamp".into(), self.time(at, style));
        for fields in [whose.clone(), fields] {
            if let Value::Object(fields) = fields {
                json.extend(fields);
            }
        }
        self.push(SERVER, at, json);
    }

    /// A browser that has not been here before.
    pub(super) fn visitor(&mut self) -> Visitor {
        let number = self.senders.len();
        let is_bot = self.chance(self.scenario.bots);
        let is_anonymous = !is_bot && self.chance(self.scenario.anonymous);
        let (agent, width, height) = self.one_of(&shop::BROWSERS);
        let agent = if is_bot {
            self.one_of(&shop::BOTS).to_string()
        } else if is_anonymous {
            // The collector tells visitors without identity apart by user agent: nobody else has this one.
            format!(
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/{}.0.{}.{} Safari/537.36",
                120 + number % 20,
                6000 + number / 100 % 1000,
                number % 100
            )
        } else {
            agent.to_string()
        };
        self.senders.push(Sender { agent, is_server: false, is_bot, is_anonymous });
        let currency = match self.rng.random_range(0..100) {
            0..78 => self.scenario.currency.clone(),
            78..95 => self.scenario.second_currency.clone(),
            _ => "JPY".into(),
        };
        Visitor {
            sender: number,
            id: (!is_anonymous).then(|| self.identity("v-")),
            user: None,
            sends_sessions: !is_anonymous && self.chance(0.55),
            sends_sequence: !is_anonymous && self.chance(0.4),
            sends_page_view_ids: self.chance(0.9),
            sends_clicks: self.chance(0.3),
            times: self.one_of(&[TimeStyle::Zulu, TimeStyle::Zulu, TimeStyle::Local, TimeStyle::Millis]),
            dialect: self.one_of(&[0, 0, 0, 0, 1, 2]),
            viewport: (width, height),
            currency,
            is_bot,
        }
    }

    /// The beginning of a visit.
    pub(super) fn arrive(&mut self, visitor: &Visitor, at: i64) -> Visit {
        let session = visitor.sends_sessions.then(|| Uuid::from_u128(self.rng.random()).to_string());
        Visit { at, session, sequence: 0, cart: Vec::new() }
    }
}
