//! The pure part of the hot path: decode → validate → enrich → encode, with nothing but memory in and out.

use bumpalo::Bump;
use millrace_schemas::{
    limits::Limits,
    reject::{Reason, Rejection},
    repair::Repair,
    row::{ClickRow, EventRow},
};

use crate::{
    decode::{Events, Form, Refusal, Scratch, decode},
    encode::{Encoder, Message, MessageBytesMax, RowTooLarge, Topic},
    enrich::{BotReason, Enricher, Enrichment},
    read::Note,
    refusals::{SAMPLES_OF_REQUEST, Sample},
    time::TimeSource,
    validate::{Checked, Request, Valid, validate},
};

pub use crate::body::{Encoding, inflate};

/// What became of a request's events.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What goes into the log.
    pub messages: Vec<Message>,
    /// Page views among the accepted.
    pub page_views: usize,
    /// Named events among the accepted.
    pub named_events: usize,
    /// Clicks among the accepted.
    pub clicks: usize,
    /// Accepted events whose time was corrected.
    pub times_corrected: usize,
    /// Accepted events whose time was replaced.
    pub times_replaced: usize,
    /// Accepted events without a visitor that should have had one.
    pub anonymous: usize,
    /// Accepted events that are taken for a bot's, by [`BotReason`].
    pub bots: [usize; BotReason::ALL.len()],
    /// What was refused, with its place in the request.
    pub rejected: Vec<(usize, Rejection)>,
    /// The first few of those, as far as they may be kept.
    pub samples: Vec<(Rejection, Sample)>,
    /// What was done to fields of accepted events.
    pub repaired: Vec<Repaired>,
}

/// What was done to a field of an event that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Place of the event in the request.
    pub index: usize,
    /// The field.
    pub field: String,
    /// What was done, and why.
    pub repair: Repair,
}

impl Outcome {
    /// Number of events accepted.
    pub fn accepted(&self) -> usize {
        self.page_views + self.named_events + self.clicks
    }
}

/// Validates, enriches and encodes the events of a request.
pub fn accept(
    events: &mut Events<'_>,
    request: &Request<'_>,
    enricher: &Enricher,
    bytes_max: MessageBytesMax,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut encoder = Encoder::new(bytes_max);
    let enrichment = Enrichment::new(enricher, request);
    events.for_each(|index, source| {
        let arena = Bump::new();
        let checked = source.as_ref().map_err(Clone::clone);
        let checked = checked.and_then(|source| validate(source, index, request, &arena));
        let accepted = checked.and_then(|Checked { mut row, hints, mut notes }| {
            row.set_repairs(&notes, &arena);
            let mut pushed = Ok(());
            enrichment.with(row, &hints, &mut notes, |row, bot| {
                pushed = encoder.push(row);
                if pushed.is_ok() {
                    outcome.count(row, bot);
                }
            });
            pushed.map(|()| outcome.note(index, &notes)).map_err(Rejection::from)
        });
        if let Err(rejection) = accepted {
            if outcome.samples.len() < SAMPLES_OF_REQUEST {
                let sample = source.map_or_else(
                    |_| Sample::default(),
                    |source| Sample::of(&source, &request.limits, enricher),
                );
                outcome.samples.push((rejection.clone(), sample));
            }
            outcome.rejected.push((index, rejection));
        }
    });
    outcome.messages = encoder.finish();
    outcome
}

impl From<RowTooLarge> for Rejection {
    fn from(RowTooLarge { bytes, bytes_max }: RowTooLarge) -> Self {
        let detail = format!("as a row the event has {bytes} bytes, and the log takes {bytes_max}");
        Self::new(Reason::RowTooLarge, detail)
    }
}

impl Outcome {
    fn note(&mut self, index: usize, notes: &[Note<'_>]) {
        let repaired =
            |note: &Note<'_>| Repaired { index, field: note.field.to_owned(), repair: note.repair };
        self.repaired.extend(notes.iter().map(repaired));
    }

    fn count(&mut self, row: &Valid<'_>, bot: Option<BotReason>) {
        if let Some(reason) = bot {
            self.bots[reason as usize] += 1;
        }
        match row {
            Valid::Event(EventRow { r#type: "page_view", .. }) => self.page_views += 1,
            Valid::Event(_) => self.named_events += 1,
            Valid::Click(_) => self.clicks += 1,
        }
        self.times_corrected += usize::from(row.time_source_is(TimeSource::Corrected));
        self.times_replaced += usize::from(row.time_source_is(TimeSource::Replaced));
        let (Valid::Event(EventRow { visitor_id, trusted, .. })
        | Valid::Click(ClickRow { visitor_id, trusted, .. })) = row;
        self.anonymous += usize::from(visitor_id.is_empty() && *trusted == 0);
    }
}

/// The whole pure path, for fuzzing, tests and benchmarks: a body to log messages.
pub fn collect_body(
    body: &[u8],
    form: Form,
    request: &Request<'_>,
    enricher: &Enricher,
    scratch: &mut Scratch,
) -> Result<Outcome, Refusal> {
    let limits: &Limits = &request.limits;
    let mut events = decode(body, form, limits, scratch)?;
    Ok(accept(&mut events, request, enricher, [usize::MAX; Topic::ALL.len()]))
}
