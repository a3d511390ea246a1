//! Events to rows, in named steps. An event is refused only for what it cannot be without: its kind's required fields, and
//! an order's id. Whatever else is wrong with it is repaired or left out, and noted ([`crate::read`]).
//!
//! `hints` → `kind` → `identity` → `person` → `moment` → one of `page_view`, `named_event`, `click` → `commerce` →
//! `properties`, which get the room that the others leave.

use std::net::IpAddr;

use bumpalo::Bump;
use jiff::tz::TimeZone;
use millrace_schemas::{
    event::{self, Kind, canonical_name},
    limits::Limits,
    reject::{Reason, Rejection},
    repair::Repair,
    row::{ClickRow, EventRow, Properties},
};
use sha2::{Digest as _, Sha256};
use simd_json::Node;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    commerce,
    field::Field,
    properties,
    read::{Note, Reader},
    salts::Salts,
    tape::Source,
    time::{self, EventTime, TimeSource, Told},
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
    /// For visitors of events that name none; without the day's they stay without.
    pub salts: &'r Salts,
    /// The store's, in which its days begin.
    pub timezone: &'r TimeZone,
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

/// An event that is kept.
pub(crate) struct Checked<'t> {
    pub(crate) row: Valid<'t>,
    pub(crate) hints: Hints<'t>,
    /// What was done to its fields.
    pub(crate) notes: Vec<Note<'t>>,
}

/// Why an event cannot be kept.
type Refused<T> = Result<T, Rejection>;

/// Checks one event of a request; `index` is its place in it. What has to be written anew is written into `arena`.
pub(crate) fn validate<'t>(
    source: &Source<'t>,
    index: usize,
    request: &Request<'t>,
    arena: &'t Bump,
) -> Refused<Checked<'t>> {
    let draft = Draft { read: Reader::new(source, &request.limits, arena), source, request };
    let hints = draft.hints();
    let row = draft.row(index)?;
    Ok(Checked { row, hints, notes: draft.read.notes() })
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
}

/// An event on its way to a row.
pub(crate) struct Draft<'a, 't> {
    pub(crate) read: Reader<'a, 't>,
    source: &'a Source<'t>,
    pub(crate) request: &'a Request<'t>,
}

impl<'t> Draft<'_, 't> {
    fn row(&self, index: usize) -> Refused<Valid<'t>> {
        let kind = self.kind()?;
        let base = self.base(index);
        match kind {
            Kind::Click => self.click(&base).map(Valid::Click),
            Kind::PageView => {
                let mut row = self.event_row(kind, &base);
                self.page_view(&mut row)?;
                row.properties = self.properties();
                Ok(Valid::Event(row))
            }
            Kind::Event => {
                let mut row = self.event_row(kind, &base);
                self.named_event(&mut row)?;
                commerce::read(self, &mut row)?;
                row.properties.extend(self.properties());
                Ok(Valid::Event(row))
            }
        }
    }

    /// Whom a server speaks for it may say with a secret key; with a write key these fields are as unknown as any other.
    fn hints(&self) -> Hints<'t> {
        let mut hints = Hints::default();
        if self.request.trusted {
            hints.address = self.read.address(Field::Ip);
            let user_agent = self.read.text(Field::UserAgent);
            let end = user_agent.floor_char_boundary(USER_AGENT_BYTES_MAX);
            hints.user_agent = Some(&user_agent[..end]).filter(|text| !text.is_empty());
        }
        hints.webdriver = self.read.flag(Field::Webdriver).unwrap_or(false);
        hints
    }

    fn base(&self, index: usize) -> Base<'t> {
        let read = &self.read;
        let (event_id, sent_event_id) = self.identity(index);
        let (visitor_id, visitor_hash) = self.person();
        let (time, key_date) = self.moment(sent_event_id);
        Base {
            event_id,
            time,
            key_date,
            visitor_id,
            visitor_hash,
            session_id: read.id(Field::SessionId),
            user_id: read.id(Field::UserId),
            sequence: read.whole(Field::Sequence),
            url: read.url(Field::Url),
            page_view_id: read.id(Field::PageViewId),
            viewport: (self.size(Field::ViewportWidth), self.size(Field::ViewportHeight)),
        }
    }

    fn kind(&self) -> Refused<Kind> {
        let name = self.read.required_text(Field::Type);
        if name.is_empty() {
            return Err(self.missing(Field::Type));
        }
        Kind::parse(name)
            .ok_or_else(|| Rejection::new(Reason::UnknownType, "`type` is none of page_view, event, click"))
    }

    /// The event's id, and the one that was sent. Of what is no UUID one is made: the same text makes the same.
    fn identity(&self, index: usize) -> (Uuid, Option<Uuid>) {
        let text = self.read.id(Field::EventId);
        let id = match Uuid::try_parse(text) {
            Ok(id) if !id.is_nil() => Some(id),
            _ if text.is_empty() => None,
            _ => {
                self.read.note(Field::EventId.name(), Repair::Converted);
                Some(id_of_text(text))
            }
        };
        let id = id.map(|id| if id.get_version_num() == TEXT_VERSION { self.with_order(id) } else { id });
        (id.unwrap_or_else(|| new_event_id(self.request, index)), id)
    }

    /// An id that was made of a text, with the event's order: who sends one text for all events (`undefined`) loses no order.
    fn with_order(&self, id: Uuid) -> Uuid {
        let order_ids = [Field::OrderId, Field::TransactionId].map(|field| self.read.id(field));
        let order_id = order_ids.into_iter().find(|id| !id.is_empty());
        order_id.map_or(id, |order_id| id_of_text(&format!("{id}\0{order_id}")))
    }

    /// The visitor, and the hash that orders the table: of what was sent alone.
    fn person(&self) -> (&'t str, u64) {
        let sent = self.read.id(Field::VisitorId);
        (sent, if sent.is_empty() { 0 } else { xxh3_64(sent.as_bytes()) })
    }

    fn moment(&self, sent_event_id: Option<Uuid>) -> (EventTime, u16) {
        let read = |field: Field, value: Option<&[Node<'t>]>, otherwise| {
            value.and_then(|value| self.read.instant(field, value, otherwise))
        };
        let at =
            read(Field::Timestamp, self.read.nodes(Field::Timestamp), Repair::TimeOfReceipt).map(Told::At);
        let told = at.or_else(|| self.read.number(Field::AgeMs).map(|ms| Told::Ago(ms as i64)));
        let sent_at = read(Field::SentAt, self.source.sent_at(), Repair::Unreadable);
        let Request { received_at, event_age_max_days, .. } = *self.request;
        let time = time::event_time(told, sent_at, received_at, event_age_max_days);
        if time.source == TimeSource::Replaced {
            self.read.note(Field::Timestamp.name(), Repair::TimeOfReceipt);
        }
        (time, time::key_date(told, sent_event_id))
    }

    fn event_row(&self, kind: Kind, base: &Base<'t>) -> EventRow<'t> {
        let Self { read, request, .. } = self;
        EventRow {
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
            non_interactive: u8::from(read.flag(Field::Interactive) == Some(false)),
            url: base.url,
            title: read.text(Field::Title),
            referrer: read.url(Field::Referrer),
            language: read.text(Field::Language),
            timezone: read.text(Field::Timezone),
            viewport_width: base.viewport.0,
            viewport_height: base.viewport.1,
            screen_width: self.size(Field::ScreenWidth),
            screen_height: self.size(Field::ScreenHeight),
            page_view_id: base.page_view_id,
            duration_ms: read.size(Field::DurationMs, u32::MAX).unwrap_or(0),
            scroll_depth: read.size(Field::ScrollDepth, 100).unwrap_or(0) as u8,
            user_agent: request.user_agent,
            trusted: request.trusted.into(),
            ..EventRow::default()
        }
    }

    fn page_view(&self, row: &mut EventRow<'t>) -> Refused<()> {
        if row.url.is_empty() {
            return Err(self.missing(Field::Url));
        }
        row.name = event::PAGE_VIEW;
        Ok(())
    }

    fn named_event(&self, row: &mut EventRow<'t>) -> Refused<()> {
        let read = &self.read;
        row.name = canonical_name(read.required_text(Field::Name));
        if row.name.is_empty() {
            return Err(self.missing(Field::Name));
        }
        row.category = read.text(Field::Category);
        row.action = read.text(Field::Action);
        row.label = read.text(Field::Label);
        Ok(())
    }

    fn click(&self, base: &Base<'t>) -> Refused<ClickRow<'t>> {
        let Self { read, request, .. } = self;
        if base.url.is_empty() {
            return Err(self.missing(Field::Url));
        }
        let pixels = |field| read.size(field, u32::MAX);
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
            x: pixels(Field::X).ok_or_else(|| self.missing(Field::X))?,
            y: pixels(Field::Y).ok_or_else(|| self.missing(Field::Y))?,
            page_width: pixels(Field::PageWidth).unwrap_or(0),
            page_height: pixels(Field::PageHeight).unwrap_or(0),
            viewport_width: base.viewport.0,
            viewport_height: base.viewport.1,
            selector: read.text(Field::Selector),
            text: read.text(Field::Text),
            properties: self.properties(),
            user_agent: request.user_agent,
            trusted: request.trusted.into(),
            ..ClickRow::default()
        })
    }

    fn properties(&self) -> Properties<'t> {
        self.read.nodes(Field::Properties).map_or_else(Vec::new, |nodes| properties::read(&self.read, nodes))
    }

    fn size(&self, field: Field) -> u16 {
        self.read.size(field, u16::MAX.into()).unwrap_or(0) as u16
    }

    /// What an event cannot be without; whether it was sent, and could not be read, is told.
    fn missing(&self, field: Field) -> Rejection {
        let name = field.name();
        match self.read.nodes(field).map(|value| value[0]) {
            None | Some(Node::String("")) => {
                Rejection::new(Reason::MissingField, format!("`{name}` is required"))
            }
            Some(Node::String(_)) => {
                Rejection::new(Reason::WrongType, format!("`{name}` is required, and cannot be read"))
            }
            Some(_) => {
                Rejection::new(Reason::WrongType, format!("`{name}` is required, and of another type"))
            }
        }
    }
}

/// Version of UUIDs that are made of texts.
const TEXT_VERSION: usize = 8;

/// The id that stands for a text that is no UUID.
pub(crate) fn id_of_text(text: &str) -> Uuid {
    let hash = Sha256::digest(text.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// A UUIDv7 of the receipt. Events of one request keep their order in it, so that events without times of their own
/// stay in the order in which they were sent.
fn new_event_id(request: &Request<'_>, index: usize) -> Uuid {
    let mut random = [0; 10];
    random[..2].copy_from_slice(&(index as u16 & 0x0fff).to_be_bytes());
    random[2..].copy_from_slice(&request.id_seed.wrapping_add(index as u64).to_be_bytes());
    uuid::Builder::from_unix_timestamp_millis(request.received_at.max(0) as u64, &random).into_uuid()
}

impl<'t> Valid<'t> {
    /// Says in the row what was done to its fields.
    pub(crate) fn set_repairs(&mut self, notes: &[Note<'t>], arena: &'t Bump) {
        let (Valid::Event(EventRow { repairs, .. }) | Valid::Click(ClickRow { repairs, .. })) = self;
        repairs.extend(notes.iter().map(|Note { field, repair }| {
            let repair: &'t str = arena.alloc_str(&format!("{field}:{repair}"));
            repair
        }));
    }

    pub(crate) fn time_source_is(&self, source: TimeSource) -> bool {
        let (Valid::Event(EventRow { time_source, .. }) | Valid::Click(ClickRow { time_source, .. })) = self;
        *time_source == source.as_str()
    }
}
