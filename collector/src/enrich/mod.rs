//! What the collector learns of an event from its request, in named steps, each of which can be switched off.
//!
//! Of a sender, once for all events of a request: `ip` → `geo` → `user_agent` → `visitor` → `bot` (user agent, network).
//! Of each event: `campaign` → `url` → `bot` (headless, referrer, rate). `campaign` comes before `url`, which removes what it reads.
//!
//! * A sender with a write key is the visitor. A shop's own server is not: with its secret key nothing is learned from its
//!   own address and user agent, only from those that it sends for its visitor, in `ip` and `user_agent`. With a write key
//!   these two are ignored, as anybody could send them.
//! * No step touches what the sorting key is made of, and none refuses an event: what cannot be learned stays empty.
//! * The address is truncated before anything is made of it that outlives the request.

mod bot;
mod campaign;
mod channel;
mod crawler;
mod file;
mod geo;
mod host;
mod ip;
mod network;
mod rate;
mod referrer;
mod secret;
mod sources;
mod url;
mod user_agent;
mod visitor;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use millrace_schemas::{
    event::{ORDER_CANCELLED, ORDER_UPDATED, PAGE_VIEW, PURCHASE, REFUND},
    repair::Repair,
    row::{ClickRow, EventRow, Properties},
};

pub use self::{bot::BotReason, file::FileError};
use self::{
    bot::{BotKind, Verdict},
    campaign::Campaign,
    crawler::{Crawler, Crawlers},
    geo::{Place, Places},
    network::Networks,
    rate::Rates,
    referrer::{Ignored, Spam},
    url::UrlRules,
    user_agent::{Agent, UserAgents},
    visitor::Visitors,
};
pub(crate) use self::{rate::COUNT_MAX, url::PARAMETERS};
use crate::{
    config::{EnrichConfig, Step},
    read::Note,
    validate::{Hints, Request, Valid},
};

/// A visitor that was derived may be several people, of one office or one telephone network, with like browsers.
const PEOPLE_PER_DERIVED_VISITOR: u32 = 10;

const MINUTE_MS: i64 = 60_000;

/// What is told of orders: no haste takes it out.
const OF_ORDERS: [&str; 4] = [PURCHASE, REFUND, ORDER_UPDATED, ORDER_CANCELLED];

/// The steps with what they know; one for all requests.
pub struct Enricher {
    skipped: Vec<Step>,
    user_agents: UserAgents,
    crawlers: Crawlers,
    places: Option<Places>,
    networks: Option<Networks>,
    rates: Option<(Rates, u32)>,
    urls: UrlRules,
    referrers_ignored: Ignored,
    referrer_spam: Spam,
    keeps_network: bool,
}

impl Enricher {
    /// The steps as they are set; reads their files.
    pub fn new(config: &EnrichConfig) -> Result<Self, FileError> {
        let per_minute = config.bot_events_per_minute;
        Ok(Self {
            skipped: config.skip.clone(),
            user_agents: UserAgents::open(config.user_agent_rules.as_deref())?,
            crawlers: Crawlers::new(),
            places: config.geo_database.as_deref().map(Places::open).transpose()?,
            networks: config.data_centre_networks.as_deref().map(Networks::open).transpose()?,
            rates: (per_minute > 0).then(|| (Rates::new(), per_minute)),
            urls: UrlRules::new(config.url_parameters.iter().map(String::as_str), config.url_routes),
            referrers_ignored: Ignored::new(&config.referrers_ignored),
            referrer_spam: Spam::open(config.referrer_spam.as_deref())?,
            keeps_network: config.keep_network,
        })
    }

    /// Makes ready what the first event would have to wait for.
    pub fn warm(&self) {
        if self.does(Step::UserAgent) {
            self.user_agents.warm();
        }
        if self.does(Step::Bot) {
            Crawlers::warm();
        }
    }

    /// Reads files again that have changed. Waits for the disk.
    pub fn refresh(&self) {
        self.user_agents.refresh();
        self.referrer_spam.refresh();
        if let Some(places) = &self.places {
            places.refresh();
        }
        if let Some(networks) = &self.networks {
            networks.refresh();
        }
    }

    fn does(&self, step: Step) -> bool {
        !self.skipped.contains(&step)
    }

    /// The steps of a sender.
    fn sender(&self, known: &Known<'_>) -> Sender {
        let mut sender = Sender::default();
        if let Some(address) = known.address {
            if self.keeps_network {
                sender.network = ip::truncate(address).to_string();
            }
            if let Some(places) = self.places.as_ref().filter(|_| self.does(Step::Geo)) {
                sender.place = places.find(address);
            }
        }
        if let Some(user_agent) = known.user_agent {
            (sender.agent, sender.crawler) = self.agent(user_agent);
        }
        if self.does(Step::Visitor)
            && let Some(address) = known.address
        {
            let user_agent = known.user_agent.unwrap_or_default().to_owned();
            sender.visitors = Some(Visitors::new(address, user_agent));
        }
        if self.does(Step::Bot)
            && let (Some(networks), Some(address)) = (&self.networks, known.address)
        {
            sender.is_in_data_centre = networks.contain(address);
        }
        sender
    }

    /// The steps `user_agent` and `bot` of a user agent. A device that is a bot's and a bot are one.
    fn agent(&self, user_agent: &str) -> (Arc<Agent>, Option<Arc<Crawler>>) {
        // Rules for browsers know little more of crawlers, and take longest over them. A library is no device.
        let of = |crawler: &Crawler| Agent {
            device: if crawler.kind == BotKind::Library { "" } else { "bot" },
            ..Agent::default()
        };
        let crawler = self.crawlers.find(user_agent);
        let agent = match &crawler {
            _ if !self.does(Step::UserAgent) => Arc::default(),
            Some(crawler) if crawler.reason == BotReason::UserAgent => Arc::new(of(crawler)),
            _ => self.user_agents.find(user_agent),
        };
        if crawler.is_some() || agent.device != "bot" {
            return (agent, crawler);
        }
        match Crawlers::spider(user_agent, &agent.browser) {
            Some(spider) => (agent, Some(spider)),
            None => (Arc::new(Agent { device: "", ..Agent::clone(&agent) }), None),
        }
    }

    /// The steps `campaign` and `url` of an event.
    fn page<'t>(
        &self,
        url: &'t str,
        referrer: &'t str,
        properties: &mut Properties<'t>,
        is_page_view: bool,
    ) -> Page<'t> {
        let mut page = Page { url: url.into(), referrer: referrer.into(), campaign: Campaign::default() };
        if self.does(Step::Campaign) {
            let is_ignored = |host: &str| self.referrers_ignored.contains(host);
            page.campaign = Campaign::read(url, referrer, properties, is_page_view, is_ignored);
        }
        if self.does(Step::Url) {
            page.referrer = self.urls.normalise(referrer);
        }
        page.url = self.clean(url, properties);
        page
    }

    /// The step `url` of what every event has.
    fn clean<'t>(&self, url: &'t str, properties: &mut Properties<'t>) -> Cow<'t, str> {
        if !self.does(Step::Url) {
            return url.into();
        }
        for (_, value) in properties {
            if let Cow::Borrowed(text) = *value {
                *value = self.urls.normalise_value(text);
            }
        }
        self.urls.normalise(url)
    }

    /// The step `url` of an address alone.
    pub(crate) fn clean_address<'t>(&self, url: &'t str) -> Cow<'t, str> {
        self.clean(url, &mut Vec::new())
    }

    /// The step `url` of a text in which pages put addresses.
    fn clean_text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.does(Step::Url) { self.urls.normalise_text(text) } else { text.into() }
    }

    /// The step `bot` of an event.
    ///
    /// * A server tells of orders, whoever made them: only a page view with which it names its visitor is judged, as a
    ///   browser's would be.
    /// * A library's verdict takes out page views alone. Apps and servers post with one and a public key, so an order, or
    ///   any named event, must not go with the program that carried it; a page that nothing but a library "saw" was
    ///   fetched, and seen by nobody.
    /// * What is told of orders is never too hasty.
    fn verdict<'s>(
        &self,
        event: &Moment<'_>,
        sender: &'s Sender,
        webdriver: bool,
        referrer_host: &'s str,
    ) -> Option<Verdict<'s>> {
        if !self.does(Step::Bot) || !event.is_judged {
            return None;
        }
        let is_hasty = || {
            let (rates, per_minute) = self.rates.as_ref()?;
            let (visitor, people) = match event.visitor_hash {
                0 => (xxhash_rust::xxh3::xxh3_64(event.derived.as_bytes()), PEOPLE_PER_DERIVED_VISITOR),
                sent => (sent, 1),
            };
            let most = per_minute.saturating_mul(people).min(COUNT_MAX - 1);
            let minute = |ms: i64| ms.div_euclid(MINUTE_MS);
            let counted = rates.count(visitor ^ event.store, minute(event.happened), minute(event.received));
            (counted > most && !event.is_of_order).then_some(Verdict::nameless(BotReason::Rate))
        };
        let by_name = sender.crawler.as_deref().map(Crawler::verdict);
        let is_somebody = event.visitor_hash != 0 || !event.derived.is_empty();
        by_name
            .filter(|verdict| verdict.kind != BotKind::Library || event.is_page_view)
            .or(sender.is_in_data_centre.then_some(Verdict::nameless(BotReason::DataCentre)))
            .or(webdriver.then_some(Verdict::nameless(BotReason::Headless)))
            .or_else(|| {
                let name = Some(referrer_host).filter(|host| self.referrer_spam.contains(host))?;
                Some(Verdict { reason: BotReason::ReferrerSpam, kind: BotKind::Spam, name })
            })
            .or_else(|| if is_somebody { is_hasty() } else { None })
    }
}

/// What a sender tells of itself, or of the visitor it speaks for.
struct Known<'a> {
    address: Option<IpAddr>,
    user_agent: Option<&'a str>,
}

/// What was learned of a sender.
#[derive(Default)]
struct Sender {
    network: String,
    place: Place,
    agent: Arc<Agent>,
    /// None of a sender whose address is not known.
    visitors: Option<Visitors>,
    crawler: Option<Arc<Crawler>>,
    is_in_data_centre: bool,
}

/// What was learned of a page.
struct Page<'t> {
    url: Cow<'t, str>,
    referrer: Cow<'t, str>,
    campaign: Campaign<'t>,
}

/// What the verdict on an event depends on.
struct Moment<'d> {
    store: u64,
    visitor_hash: u64,
    /// The visitor, where none was sent.
    derived: &'d str,
    happened: i64,
    received: i64,
    is_judged: bool,
    is_page_view: bool,
    is_of_order: bool,
}

/// The steps for the events of one request.
pub(crate) struct Enrichment<'e, 'r> {
    enricher: &'e Enricher,
    request: &'e Request<'r>,
    store: u64,
    /// Of whom sent the request.
    sender: Sender,
}

impl<'e, 'r> Enrichment<'e, 'r> {
    pub(crate) fn new(enricher: &'e Enricher, request: &'e Request<'r>) -> Self {
        let sender = if request.trusted {
            Sender::default()
        } else {
            let known = Known { address: request.address, user_agent: Some(request.user_agent) };
            enricher.sender(&known)
        };
        let store = xxhash_rust::xxh3::xxh3_64(request.store_id.as_bytes());
        Self { enricher, request, store, sender }
    }

    /// Shows a row with what was learned of it.
    pub(crate) fn with<'t>(
        &self,
        row: Valid<'t>,
        hints: &Hints<'t>,
        notes: &mut Vec<Note<'t>>,
        see: impl FnOnce(&Valid<'_>, Option<BotReason>),
    ) {
        let other = hints
            .speaks_for()
            .map(|(address, user_agent)| self.enricher.sender(&Known { address, user_agent }));
        let sender = other.as_ref().unwrap_or(&self.sender);
        match row {
            Valid::Event(row) => self.event(row, sender, hints, notes, see),
            Valid::Click(row) => self.click(row, sender, hints, notes, see),
        }
    }

    fn event<'t>(
        &self,
        mut row: EventRow<'t>,
        sender: &Sender,
        hints: &Hints<'t>,
        notes: &mut Vec<Note<'t>>,
        see: impl FnOnce(&Valid<'_>, Option<BotReason>),
    ) {
        let is_page_view = row.r#type == PAGE_VIEW;
        let mut page = self.enricher.page(row.url, row.referrer, &mut row.properties, is_page_view);
        self.cut(&mut page.url, ("url", "url:cut"), &mut row.repairs, notes);
        self.cut(&mut page.referrer, ("referrer", "referrer:cut"), &mut row.repairs, notes);
        let (title, label) = (self.enricher.clean_text(row.title), self.enricher.clean_text(row.label));
        let (agent, campaign) = (&sender.agent, &page.campaign);
        let derived = self.derived(sender, row.visitor_hash, row.event_time);
        let moment = Moment {
            is_judged: !self.request.trusted || (is_page_view && hints.speaks_for().is_some()),
            is_page_view,
            is_of_order: OF_ORDERS.contains(&row.name),
            ..self.moment(row.visitor_hash, &derived, row.event_time)
        };
        let bot = self.enricher.verdict(&moment, sender, hints.webdriver, &campaign.referrer_host);
        let mut row: EventRow<'_> = row;
        if row.visitor_id.is_empty() {
            row.visitor_id = &derived;
        }
        row.url = &page.url;
        row.referrer = &page.referrer;
        row.title = &title;
        row.label = &label;
        row.for_visitor = (self.request.trusted && moment.is_judged).into();
        row.user_agent = hints.user_agent.unwrap_or(row.user_agent);
        row.ip = &sender.network;
        row.browser = &agent.browser;
        row.browser_version = &agent.browser_version;
        row.os = &agent.os;
        row.os_version = &agent.os_version;
        row.device = agent.device;
        row.country = &sender.place.country;
        row.region = &sender.place.region;
        row.city = &sender.place.city;
        row.referrer_host = &campaign.referrer_host;
        row.channel = campaign.channel;
        row.utm_source = &campaign.source;
        row.utm_medium = &campaign.medium;
        row.utm_campaign = &campaign.name;
        row.utm_term = &campaign.term;
        row.utm_content = &campaign.content;
        row.utm_id = &campaign.id;
        row.click_id_kind = campaign.click_id_kind;
        row.click_id = &campaign.click_id;
        row.is_bot = bot.is_some().into();
        if let Some(Verdict { reason, kind, name }) = bot {
            row.bot_reason = reason.as_str();
            row.bot_kind = kind.as_str();
            row.bot_name = name;
        }
        see(&Valid::Event(row), bot.map(|bot| bot.reason));
    }

    fn click<'t>(
        &self,
        mut row: ClickRow<'t>,
        sender: &Sender,
        hints: &Hints<'t>,
        notes: &mut Vec<Note<'t>>,
        see: impl FnOnce(&Valid<'_>, Option<BotReason>),
    ) {
        let mut url = self.enricher.clean(row.url, &mut row.properties);
        self.cut(&mut url, ("url", "url:cut"), &mut row.repairs, notes);
        let derived = self.derived(sender, row.visitor_hash, row.event_time);
        let moment = self.moment(row.visitor_hash, &derived, row.event_time);
        let bot = self.enricher.verdict(&moment, sender, hints.webdriver, "").map(|bot| bot.reason);
        let mut row: ClickRow<'_> = row;
        if row.visitor_id.is_empty() {
            row.visitor_id = &derived;
        }
        row.url = &url;
        row.user_agent = hints.user_agent.unwrap_or(row.user_agent);
        row.browser = &sender.agent.browser;
        row.device = sender.agent.device;
        row.country = &sender.place.country;
        row.is_bot = bot.is_some().into();
        row.bot_reason = bot.map_or("", BotReason::as_str);
        see(&Valid::Click(row), bot);
    }

    /// Cuts an address that is still too long when what must not be kept has gone from it.
    fn cut<'t>(
        &self,
        url: &mut Cow<'_, str>,
        (field, repair): (&'static str, &'static str),
        repairs: &mut Vec<&'t str>,
        notes: &mut Vec<Note<'t>>,
    ) {
        let bytes_max = self.request.limits.url_bytes_max;
        if url.len() > bytes_max {
            let end = url.floor_char_boundary(bytes_max);
            match url {
                Cow::Borrowed(url) => *url = &url[..end],
                Cow::Owned(url) => url.truncate(end),
            }
            let note = Note { field, repair: Repair::Cut };
            if !notes.contains(&note) {
                repairs.push(repair);
                notes.push(note);
            }
        }
    }

    /// The visitor of an event that names none.
    fn derived(&self, sender: &Sender, visitor_hash: u64, happened: i64) -> String {
        match &sender.visitors {
            Some(visitors) if visitor_hash == 0 => visitors.at(happened, self.request),
            _ => String::new(),
        }
    }

    fn moment<'d>(&self, visitor_hash: u64, derived: &'d str, happened: i64) -> Moment<'d> {
        let Request { trusted, received_at, .. } = *self.request;
        Moment {
            store: self.store,
            visitor_hash,
            derived,
            happened,
            received: received_at,
            is_judged: !trusted,
            is_page_view: false,
            is_of_order: false,
        }
    }
}
