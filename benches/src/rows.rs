//! Rows as they stand in the log, made by the collector's own code from the same requests that the load sends.

use std::sync::{LazyLock, OnceLock};

use millrace_collector::{
    EnrichConfig,
    chain::collect_body,
    decode::{Form, Scratch},
    encode::Message,
    enrich::Enricher,
    salts::{Salts, UTC},
    validate::Request,
};
use millrace_schemas::limits::{EVENT_AGE_MAX_DAYS, Limits};

use crate::event::{Fresh, Mix, Template, templates};

/// The browser that all requests come from.
pub const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                              Chrome/142.0.0.0 Safari/537.36";

/// Different requests that are sent again and again, made fresh each time.
pub const TEMPLATES: usize = 256;

/// What the collector knows of a sender.
pub fn sender(received_at: i64) -> Request<'static> {
    static SALTS: OnceLock<Salts> = OnceLock::new();
    Request {
        store_id: "demo",
        currency: "USD",
        event_age_max_days: EVENT_AGE_MAX_DAYS,
        trusted: false,
        received_at,
        user_agent: USER_AGENT,
        address: Some([192, 0, 2, 7].into()),
        salts: SALTS.get_or_init(|| Salts::same([7; 32], received_at)),
        timezone: &UTC,
        id_seed: 1,
        limits: Limits::default(),
    }
}

/// The steps of enrichment as they are by default, but for the rate: made-up visitors are in a hurry.
pub fn enricher() -> &'static Enricher {
    static ENRICHER: LazyLock<Enricher> = LazyLock::new(|| {
        let config = EnrichConfig { bot_events_per_minute: 0, ..EnrichConfig::default() };
        Enricher::new(&config).expect("it reads no file")
    });
    &ENRICHER
}

/// Makes the log's messages of one request after the other.
pub struct Maker {
    templates: Vec<Template>,
    fresh: Fresh,
    body: Vec<u8>,
    scratch: Scratch,
    made: usize,
}

impl Maker {
    /// Requests of so many events each, from so many visitors.
    pub fn new(events: usize, visitors: u64, seed: u64) -> Self {
        Self {
            templates: templates(Mix { events, clicks_percent: 0 }, TEMPLATES, seed),
            fresh: Fresh::new(seed, visitors),
            body: Vec::new(),
            scratch: Scratch::default(),
            made: 0,
        }
    }

    /// A fresh request's body, received at `at_ms`.
    pub fn body(&mut self, at_ms: i64, apart_ms: i64) -> &[u8] {
        self.body.clear();
        self.templates[self.made % TEMPLATES].append_to(&mut self.body, &mut self.fresh, at_ms, apart_ms);
        self.made += 1;
        &self.body
    }

    /// What the collector writes for a fresh request.
    pub fn messages(&mut self, at_ms: i64, apart_ms: i64) -> anyhow::Result<Vec<Message>> {
        self.body(at_ms, apart_ms);
        let outcome = collect_body(&self.body, Form::Json, &sender(at_ms), enricher(), &mut self.scratch)
            .map_err(|refusal| anyhow::anyhow!("a request is refused: {}", refusal.detail))?;
        match outcome.rejected.first() {
            Some((_, rejection)) => anyhow::bail!("an event is rejected: {}", rejection.detail),
            None => Ok(outcome.messages),
        }
    }
}

/// Now, epoch milliseconds.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
