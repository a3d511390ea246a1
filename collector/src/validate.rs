//! Events to rows, in named steps. The first step that finds something wrong ends an event with its reason; nothing is
//! repaired by guessing.
//!
//! `hints` → `kind` → `identity` → `person` → `moment` → `place` → one of `page_view`, `named_event`, `click` →
//! `commerce` → `properties`.

use std::{borrow::Cow, net::IpAddr};

use millrace_schemas::{
    event::{self, Kind, canonical_name},
    limits::Limits,
    reject::{Reason, Rejection},
    row::{ClickRow, EventRow, Properties},
};
use simd_json::{Node, StaticNode};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    commerce,
    field::Field,
    read::{self, Read, out_of_range},
    tape::{Source, size},
    time::{self, EventTime, TimeSource},
};

/// What holds for all events of one request.
#[derive(Clone, Debug)]
pub struct Request<'r> {
    /// Store that the key belongs to.
    pub store_id: &'r str,
    /// The store's currency, for amounts sent without one.
    pub currency: &'r str,
    /// Events older than this get the time of their receipt.
    pub event_age_max_days: u32,
    /// Whether the key was a secret one.
    pub trusted: bool,
    /// Receipt, epoch milliseconds.
    pub received_at: i64,
    /// User agent of the sender.
    pub user_agent: &'r str,
    /// Address of the sender; enrichment alone reads it.
    pub address: Option<IpAddr>,
    /// The day's salt, for visitors of events that name none; without it they stay without.
    pub salt: Option<&'r [u8; 32]>,
    /// Random bits for the ids of events that have none.
    pub id_seed: u64,
    /// How large anything may be.
    pub limits: Limits,
}

/// A row, of one table or the other.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack, until it is encoded")]
pub(crate) enum Valid<'t> {
    Event(EventRow<'t>),
    Click(ClickRow<'t>),
}

/// What an event says for the steps of enrichment alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints<'t> {
    /// Of the visitor for whom a server speaks.
    pub(crate) address: Option<IpAddr>,
    /// Likewise.
    pub(crate) user_agent: Option<&'t str>,
    /// Whether a program drives the browser.
    pub(crate) webdriver: bool,
}

/// Longer user agents are cut: no browser's comes near.
pub(crate) const USER_AGENT_BYTES_MAX: usize = 512;

/// Checks one event of a request; `index` is its place in it.
pub(crate) fn validate<'t>(
    source: &Source<'t>,
    index: usize,
    request: &Request<'t>,
) -> Read<(Valid<'t>, Hints<'t>)> {
    let draft = Draft { source, request };
    let hints = draft.hints()?;
    Ok((draft.row(index)?, hints))
}

impl<'t> Hints<'t> {
    /// For whom a server speaks, if it does.
    pub(crate) fn speaks_for(&self) -> Option<(Option<IpAddr>, Option<&'t str>)> {
        (self.address.is_some() || self.user_agent.is_some()).then_some((self.address, self.user_agent))
    }
}

/// What rows of both tables begin with.
struct Base<'t> {
    event_id: Uuid,
    time: EventTime,
    key_date: u16,
    visitor_id: &'t str,
    visitor_hash: u64,
    session_id: &'t str,
    user_id: &'t str,
    sequence: Option<u32>,
    url: &'t str,
    page_view_id: &'t str,
    viewport: (u16, u16),
    properties: Properties<'t>,
}

/// An event on its way to a row.
pub(crate) struct Draft<'a, 't> {
    source: &'a Source<'t>,
    pub(crate) request: &'a Request<'t>,
}

impl<'t> Draft<'_, 't> {
    fn row(&self, index: usize) -> Read<Valid<'t>> {
        let kind = self.kind()?;
        let base = self.base(index)?;
        match kind {
            Kind::Click => self.click(base).map(Valid::Click),
            Kind::PageView => {
                let mut row = self.event_row(kind, base)?;
                self.page_view(&mut row)?;
                Ok(Valid::Event(row))
            }
            Kind::Event => {
                let mut row = self.event_row(kind, base)?;
                self.named_event(&mut row)?;
                commerce::read(self, &mut row)?;
                Ok(Valid::Event(row))
            }
        }
    }

    /// Whom a server speaks for it may say with a secret key; with a write key these fields are as unknown as any other.
    fn hints(&self) -> Read<Hints<'t>> {
        let mut hints = Hints::default();
        if self.request.trusted {
            hints.address = self.get(Field::Ip, read::address)?.flatten();
            let user_agent = self.text(Field::UserAgent)?;
            let end = user_agent.floor_char_boundary(USER_AGENT_BYTES_MAX);
            hints.user_agent = Some(&user_agent[..end]).filter(|text| !text.is_empty());
        }
        hints.webdriver = match self.nodes(Field::Webdriver) {
            None => false,
            Some([Node::Static(StaticNode::Bool(webdriver))]) => *webdriver,
            Some(_) => return Err(Rejection::new(Reason::WrongType, "`webdriver` must be true or false")),
        };
        Ok(hints)
    }

    fn base(&self, index: usize) -> Read<Base<'t>> {
        let (event_id, sent_event_id) = self.identity(index)?;
        let (visitor_id, visitor_hash) = self.person()?;
        let (time, key_date) = self.moment(sent_event_id)?;
        Ok(Base {
            event_id,
            time,
            key_date,
            visitor_id,
            visitor_hash,
            session_id: self.text(Field::SessionId)?,
            user_id: self.text(Field::UserId)?,
            sequence: self.get(Field::Sequence, read::whole)?,
            url: self.place()?,
            page_view_id: self.text(Field::PageViewId)?,
            viewport: (self.size(Field::ViewportWidth)?, self.size(Field::ViewportHeight)?),
            properties: self.properties()?,
        })
    }

    fn kind(&self) -> Read<Kind> {
        let name = self.text(Field::Type)?;
        if name.is_empty() {
            return missing(Field::Type);
        }
        Kind::parse(name)
            .ok_or_else(|| Rejection::new(Reason::UnknownType, "`type` is none of page_view, event, click"))
    }

    /// The event's id, and the one that was sent.
    fn identity(&self, index: usize) -> Read<(Uuid, Option<Uuid>)> {
        let text = self.text(Field::EventId)?;
        if text.is_empty() {
            return Ok((new_event_id(self.request, index), None));
        }
        match Uuid::try_parse(text) {
            Ok(id) if !id.is_nil() => Ok((id, Some(id))),
            _ => Err(Rejection::new(Reason::InvalidEventId, "`event_id` is not a UUID")),
        }
    }

    /// The visitor, and the hash that orders the table: of what was sent alone.
    fn person(&self) -> Read<(&'t str, u64)> {
        let sent = self.text(Field::VisitorId)?;
        Ok((sent, if sent.is_empty() { 0 } else { xxh3_64(sent.as_bytes()) }))
    }

    fn moment(&self, sent_event_id: Option<Uuid>) -> Read<(EventTime, u16)> {
        let read = |field: Field, value: Option<&[Node<'t>]>| {
            value.map(|value| read::instant(field.name(), value[0])).transpose()
        };
        let client = read(Field::Timestamp, self.source.get(Field::Timestamp))?;
        let sent_at = read(Field::SentAt, self.source.sent_at())?;
        let Request { received_at, event_age_max_days, .. } = *self.request;
        let time = time::event_time(client, sent_at, received_at, event_age_max_days);
        Ok((time, time::key_date(client, sent_event_id)))
    }

    fn place(&self) -> Read<&'t str> {
        let limits = &self.request.limits;
        let url = self.get(Field::Url, |name, value| read::url(name, value, limits))?;
        Ok(url.unwrap_or_default())
    }

    fn event_row(&self, kind: Kind, base: Base<'t>) -> Read<EventRow<'t>> {
        let request = self.request;
        let limits = &request.limits;
        let referrer =
            self.get(Field::Referrer, |name, value| read::text(name, value, limits.url_bytes_max))?;
        Ok(EventRow {
            store_id: request.store_id,
            event_id: base.event_id,
            r#type: kind.as_str(),
            event_time: base.time.event_time,
            client_time: base.time.client_time,
            received_at: request.received_at,
            time_source: base.time.source.as_str(),
            key_date: base.key_date,
            visitor_id: base.visitor_id,
            visitor_hash: base.visitor_hash,
            session_id: base.session_id,
            user_id: base.user_id,
            sequence: base.sequence,
            non_interactive: self.non_interactive()?,
            url: base.url,
            title: self.text(Field::Title)?,
            referrer: referrer.unwrap_or_default(),
            language: self.text(Field::Language)?,
            timezone: self.text(Field::Timezone)?,
            viewport_width: base.viewport.0,
            viewport_height: base.viewport.1,
            screen_width: self.size(Field::ScreenWidth)?,
            screen_height: self.size(Field::ScreenHeight)?,
            page_view_id: base.page_view_id,
            properties: base.properties,
            user_agent: request.user_agent,
            trusted: request.trusted.into(),
            ..EventRow::default()
        })
    }

    fn page_view(&self, row: &mut EventRow<'t>) -> Read<()> {
        if row.url.is_empty() {
            return missing(Field::Url);
        }
        row.name = event::PAGE_VIEW;
        row.duration_ms =
            self.get(Field::DurationMs, |name, value| read::size(name, value, u32::MAX))?.unwrap_or(0);
        row.scroll_depth =
            self.get(Field::ScrollDepth, |name, value| read::size(name, value, 100_u8))?.unwrap_or(0);
        Ok(())
    }

    fn named_event(&self, row: &mut EventRow<'t>) -> Read<()> {
        row.name = canonical_name(self.text(Field::Name)?);
        if row.name.is_empty() {
            return missing(Field::Name);
        }
        row.duration_ms =
            self.get(Field::DurationMs, |name, value| read::size(name, value, u32::MAX))?.unwrap_or(0);
        row.scroll_depth =
            self.get(Field::ScrollDepth, |name, value| read::size(name, value, 100_u8))?.unwrap_or(0);
        row.category = self.text(Field::Category)?;
        row.action = self.text(Field::Action)?;
        row.label = self.text(Field::Label)?;
        row.value = self.get(Field::Value, read::number)?;
        Ok(())
    }

    fn click(&self, base: Base<'t>) -> Read<ClickRow<'t>> {
        if base.url.is_empty() {
            return missing(Field::Url);
        }
        let request = self.request;
        Ok(ClickRow {
            store_id: request.store_id,
            event_id: base.event_id,
            event_time: base.time.event_time,
            client_time: base.time.client_time,
            received_at: request.received_at,
            time_source: base.time.source.as_str(),
            key_date: base.key_date,
            visitor_id: base.visitor_id,
            visitor_hash: base.visitor_hash,
            session_id: base.session_id,
            user_id: base.user_id,
            sequence: base.sequence,
            url: base.url,
            page_view_id: base.page_view_id,
            x: self.required_pixel(Field::X)?,
            y: self.required_pixel(Field::Y)?,
            page_width: self.pixel(Field::PageWidth)?.unwrap_or(0),
            page_height: self.pixel(Field::PageHeight)?.unwrap_or(0),
            viewport_width: base.viewport.0,
            viewport_height: base.viewport.1,
            selector: self.text(Field::Selector)?,
            text: self.text(Field::Text)?,
            properties: base.properties,
            user_agent: request.user_agent,
            trusted: request.trusted.into(),
            ..ClickRow::default()
        })
    }

    fn properties(&self) -> Read<Properties<'t>> {
        let Some(nodes) = self.source.get(Field::Properties) else { return Ok(Vec::new()) };
        let Node::Object { len, .. } = nodes[0] else {
            return Err(Rejection::new(Reason::WrongType, "`properties` must be an object"));
        };
        let Limits { properties_max, string_bytes_max, .. } = self.request.limits;
        if len > properties_max {
            return Err(too_many("properties", len, properties_max));
        }
        let mut properties: Properties<'t> = Vec::with_capacity(len);
        let mut at = 1;
        for _ in 0..len {
            let (key, value) = (nodes[at], at + 1);
            at = value + size(nodes, value);
            let key = read::text("properties", key, string_bytes_max)?;
            if properties.iter().any(|(known, _)| *known == key) {
                return Err(Rejection::new(Reason::DuplicateKey, format!("property `{key}` stands twice")));
            }
            let text = match nodes[value] {
                Node::String(_) => Cow::Borrowed(read::text(key, nodes[value], string_bytes_max)?),
                Node::Static(StaticNode::Bool(true)) => Cow::Borrowed("true"),
                Node::Static(StaticNode::Bool(false)) => Cow::Borrowed("false"),
                Node::Static(StaticNode::U64(number)) => Cow::Owned(number.to_string()),
                Node::Static(StaticNode::I64(number)) => Cow::Owned(number.to_string()),
                Node::Static(StaticNode::F64(number)) if number.is_finite() => Cow::Owned(number.to_string()),
                Node::Static(StaticNode::F64(_)) => return out_of_range(key, "a finite number"),
                Node::Static(StaticNode::Null) => continue,
                Node::Object { .. } | Node::Array { .. } => {
                    let detail = format!("property `{key}` must be a string, a number or a boolean");
                    return Err(Rejection::new(Reason::WrongType, detail));
                }
            };
            properties.push((key, text));
        }
        Ok(properties)
    }

    fn non_interactive(&self) -> Read<u8> {
        match self.nodes(Field::Interactive) {
            None | Some([Node::Static(StaticNode::Bool(true))]) => Ok(0),
            Some([Node::Static(StaticNode::Bool(false))]) => Ok(1),
            Some(_) => Err(Rejection::new(Reason::WrongType, "`interactive` must be true or false")),
        }
    }

    /// The nodes of a field; `None` when it is absent or null.
    pub(crate) fn nodes(&self, field: Field) -> Option<&'t [Node<'t>]> {
        self.source.get(field)
    }

    /// A field as `read` reads it; `None` when it is absent or null.
    #[inline]
    pub(crate) fn get<T>(
        &self,
        field: Field,
        read: impl FnOnce(&str, Node<'t>) -> Read<T>,
    ) -> Read<Option<T>> {
        self.nodes(field).map(|value| read(field.name(), value[0])).transpose()
    }

    /// A string; empty when it is absent or null.
    #[inline]
    pub(crate) fn text(&self, field: Field) -> Read<&'t str> {
        let bytes_max = self.request.limits.string_bytes_max;
        let text = self.get(field, |name, value| read::text(name, value, bytes_max))?;
        Ok(text.unwrap_or_default())
    }

    fn size(&self, field: Field) -> Read<u16> {
        Ok(self.get(field, |name, value| read::size(name, value, u16::MAX))?.unwrap_or(0))
    }

    fn pixel(&self, field: Field) -> Read<Option<u32>> {
        self.get(field, |name, value| read::size(name, value, u32::MAX))
    }

    fn required_pixel(&self, field: Field) -> Read<u32> {
        self.pixel(field)?.map_or_else(|| missing(field), Ok)
    }
}

fn missing<T>(field: Field) -> Read<T> {
    Err(Rejection::new(Reason::MissingField, format!("`{}` is required", field.name())))
}

pub(crate) fn too_many(name: &str, count: usize, most: usize) -> Rejection {
    Rejection::new(Reason::TooMany, format!("{count} {name}, at most {most}"))
}

/// A UUIDv7 of the receipt. Events of one request keep their order in it, so that events without times of their own
/// stay in the order in which they were sent.
fn new_event_id(request: &Request<'_>, index: usize) -> Uuid {
    let mut random = [0; 10];
    random[..2].copy_from_slice(&(index as u16 & 0x0fff).to_be_bytes());
    random[2..].copy_from_slice(&request.id_seed.wrapping_add(index as u64).to_be_bytes());
    uuid::Builder::from_unix_timestamp_millis(request.received_at.max(0) as u64, &random).into_uuid()
}

impl Valid<'_> {
    pub(crate) fn time_source_is(&self, source: TimeSource) -> bool {
        let (Valid::Event(EventRow { time_source, .. }) | Valid::Click(ClickRow { time_source, .. })) = self;
        *time_source == source.as_str()
    }
}
