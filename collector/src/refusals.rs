//! What was refused of a store's events, so that somebody finds out: how many of each reason, and the newest few as samples.
//!
//! Requests leave it in memory, and one task writes it to Postgres every other second. It is for finding mistakes, not a copy
//! of what was sent: of a flood, and while Postgres is away, a few samples are kept and the others only counted. A sample
//! says what the event was, and of what kind its fields were; it holds no id, and no text that a person may have written.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bumpalo::Bump;
use millrace_schemas::{
    limits::Limits,
    metric,
    refused::{SAMPLES_MAX, person_key},
    reject::{Reason, Rejection},
};
use serde_json::{Map, Value};
use simd_json::{Node, StaticNode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::now_ms,
    enrich::Enricher,
    field::Field,
    read::Reader,
    tape::{Source, entries},
};

const WRITE_EVERY: Duration = Duration::from_secs(2);
/// Longest that one writing may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Samples that one request leaves.
pub(crate) const SAMPLES_OF_REQUEST: usize = 5;
/// Samples of one store and reason that wait to be written.
const SAMPLES_OF_REASON: usize = 5;
/// Samples of all stores that wait to be written.
const SAMPLES_WAITING: usize = 1_000;
/// Stores that the metric names; what is refused of others is counted as `other`.
const STORES_NAMED: usize = 200;
/// Names that a sample shows of an object.
const NAMES_SHOWN: usize = 30;
/// Bytes of a text in a sample.
const TEXT_BYTES: usize = 200;

const DAY_MS: i64 = 86_400_000;

/// Fields whose value says what an event was; of the others the kind is told.
const SHOWN: [Field; 7] =
    [Field::Type, Field::Name, Field::Url, Field::Timestamp, Field::X, Field::Y, Field::Currency];

/// Fields that are not told of: they are the envelope's, or stand in another's place.
const UNTOLD: [Field; 4] = [Field::WriteKey, Field::Context, Field::Events, Field::Ecommerce];

/// What is kept of an event that was refused: nothing of one that could not be read at all.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    shown: Map<String, Value>,
    visitor_id: String,
    user_id: String,
}

impl Sample {
    /// What an event was, as far as it may be kept.
    pub(crate) fn of(source: &Source<'_>, limits: &Limits, enricher: &Enricher) -> Self {
        let arena = Bump::new();
        let read = Reader::new(source, limits, &arena);
        let mut told = Map::new();
        for field in Field::ALL.iter().filter(|field| !UNTOLD.contains(field)) {
            let Some(nodes) = source.get(*field) else { continue };
            let value = match nodes[0] {
                Node::String(text) if *field == Field::Url => shown(&enricher.clean_address(text)).into(),
                Node::String(text) if SHOWN.contains(field) => shown(text).into(),
                Node::Static(StaticNode::U64(number)) if SHOWN.contains(field) => number.into(),
                Node::Static(StaticNode::I64(number)) if SHOWN.contains(field) => number.into(),
                Node::Static(StaticNode::F64(number)) if SHOWN.contains(field) => number.into(),
                Node::Object { .. } if *field == Field::Properties => names(nodes),
                _ => kind(nodes[0]).into(),
            };
            told.insert(field.name().to_owned(), value);
        }
        Self {
            shown: told,
            visitor_id: read.id(Field::VisitorId).to_owned(),
            user_id: read.id(Field::UserId).to_owned(),
        }
    }
}

/// The names in an object with the kinds of their values.
fn names(nodes: &[Node<'_>]) -> Value {
    let told = entries(nodes, 0).take(NAMES_SHOWN);
    Value::Object(told.map(|(name, at)| (shown(name), kind(nodes[at]).into())).collect())
}

fn kind(node: Node<'_>) -> String {
    match node {
        Node::String(text) => format!("(text of {} bytes)", text.len()),
        Node::Static(StaticNode::Bool(_)) => "(true or false)".to_owned(),
        Node::Static(StaticNode::Null) => "(null)".to_owned(),
        Node::Static(_) => "(number)".to_owned(),
        Node::Object { len, .. } => format!("(object with {len} names)"),
        Node::Array { len, .. } => format!("(list of {len})"),
    }
}

/// The beginning of a text. Postgres takes no NUL in JSON.
fn shown(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES)].replace('\0', "\u{fffd}")
}

/// What waits to be written, and what was counted since this process began.
pub(crate) struct Refusals {
    /// Of this process alone.
    collector: Uuid,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    samples: Vec<Waiting>,
    /// By store and day.
    counts: HashMap<(String, i64), Counts>,
    named: HashSet<String>,
}

struct Waiting {
    id: Uuid,
    store_id: String,
    refused_at: i64,
    rejection: Rejection,
    sample: Sample,
}

struct Counts {
    by_reason: [i64; Reason::ALL.len()],
    is_written: bool,
}

impl Refusals {
    pub(crate) fn new() -> Self {
        Self { collector: Uuid::now_v7(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the events of one request that were refused.
    pub(crate) fn note(
        &self,
        store_id: &str,
        rejected: &[(usize, Rejection)],
        samples: Vec<(Rejection, Sample)>,
    ) {
        if rejected.is_empty() {
            return;
        }
        let now = now_ms();
        let mut state = self.state();
        let day = (store_id.to_owned(), now.div_euclid(DAY_MS));
        let counts = state.counts.entry(day).or_insert(Counts { by_reason: [0; _], is_written: false });
        counts.is_written = false;
        let mut by_reason = [0_u64; Reason::ALL.len()];
        for (_, Rejection { reason, .. }) in rejected {
            counts.by_reason[*reason as usize] += 1;
            by_reason[*reason as usize] += 1;
        }
        let store = state.name(store_id);
        for (reason, count) in Reason::ALL.iter().zip(by_reason).filter(|(_, count)| *count > 0) {
            metrics::counter!(metric::COLLECTOR_REFUSED_EVENTS, "store" => store.clone(), "reason" => reason.as_str())
                .increment(count);
        }
        for (rejection, sample) in samples {
            let is_like = |waiting: &&Waiting| {
                waiting.store_id == store_id && waiting.rejection.reason == rejection.reason
            };
            if state.samples.len() < SAMPLES_WAITING
                && state.samples.iter().filter(is_like).count() < SAMPLES_OF_REASON
            {
                state.samples.push(Waiting {
                    id: Uuid::now_v7(),
                    store_id: store_id.to_owned(),
                    refused_at: now,
                    rejection,
                    sample,
                });
            }
        }
    }

    /// Writes what is noted until it is told to stop, and once more then.
    pub(crate) async fn run(self: Arc<Self>, options: PgConnectOptions, end: CancellationToken) {
        let mut connection = None;
        let mut is_failing = false;
        loop {
            let is_last = tokio::select! {
                () = end.cancelled() => true,
                () = tokio::time::sleep(WRITE_EVERY) => false,
            };
            if let Some(batch) = self.take() {
                let writing = tokio::time::timeout(PATIENCE, self.write(&options, &mut connection, &batch));
                let failed = match writing.await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some((error.to_string(), !is_of_samples(&error))),
                    Err(_) => Some(("Postgres did not answer within 5 s".to_owned(), true)),
                };
                match failed {
                    None => is_failing = false,
                    Some((error, may_pass)) => {
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(error, "refused events could not be written; trying again");
                        }
                        connection = None;
                        self.give_back(batch, may_pass);
                    }
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// What is to be written; `None`: nothing.
    fn take(&self) -> Option<Batch> {
        let mut state = self.state();
        let yesterday = now_ms().div_euclid(DAY_MS) - 1;
        state.counts.retain(|(_, day), counts| !counts.is_written || *day >= yesterday);
        let mut counts = Vec::new();
        for (day, counted) in &mut state.counts {
            if !std::mem::replace(&mut counted.is_written, true) {
                counts.push((day.clone(), counted.by_reason));
            }
        }
        let samples = std::mem::take(&mut state.samples);
        (!counts.is_empty() || !samples.is_empty()).then_some(Batch { samples, counts })
    }

    /// Notes again what could not be written; samples only where Postgres did not refuse them.
    fn give_back(&self, batch: Batch, may_pass: bool) {
        let mut state = self.state();
        for (day, _) in batch.counts {
            if let Some(counts) = state.counts.get_mut(&day) {
                counts.is_written = false;
            }
        }
        if may_pass {
            let room = SAMPLES_WAITING.saturating_sub(state.samples.len());
            state.samples.extend(batch.samples.into_iter().take(room));
        }
    }

    async fn write(
        &self,
        options: &PgConnectOptions,
        kept: &mut Option<PgConnection>,
        batch: &Batch,
    ) -> Result<(), sqlx::Error> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => options.connect().await?,
        };
        let mut transaction = connection.begin().await?;
        batch.write_samples(&mut transaction).await?;
        batch.write_counts(&mut transaction, self.collector).await?;
        transaction.commit().await?;
        *kept = Some(connection);
        Ok(())
    }
}

/// Whether Postgres takes no such values: it would refuse them for ever.
fn is_of_samples(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

impl State {
    /// A store's name in the metric.
    fn name(&mut self, store_id: &str) -> String {
        if self.named.contains(store_id) {
            return store_id.to_owned();
        }
        if self.named.len() >= STORES_NAMED {
            return "other".to_owned();
        }
        self.named.insert(store_id.to_owned());
        store_id.to_owned()
    }
}

/// What one transaction writes. Written twice, it is there once.
struct Batch {
    samples: Vec<Waiting>,
    counts: Vec<((String, i64), [i64; Reason::ALL.len()])>,
}

impl Batch {
    /// The samples; of each store and reason the newest stay. A store may have gone meanwhile.
    async fn write_samples(&self, postgres: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.samples.is_empty() {
            return Ok(());
        }
        let texts = |text: fn(&Waiting) -> &str| self.samples.iter().map(text).collect::<Vec<_>>();
        let keys = |id: fn(&Sample) -> &str| -> Vec<Option<i64>> {
            let key = |waiting: &Waiting| {
                let id = id(&waiting.sample);
                (!id.is_empty()).then(|| person_key(&waiting.store_id, id))
            };
            self.samples.iter().map(key).collect()
        };
        let ids: Vec<String> = self.samples.iter().map(|waiting| waiting.id.to_string()).collect();
        let times: Vec<i64> = self.samples.iter().map(|waiting| waiting.refused_at).collect();
        let stores = texts(|waiting| &waiting.store_id);
        let shown = |waiting: &Waiting| Value::Object(waiting.sample.shown.clone()).to_string();
        let shown: Vec<String> = self.samples.iter().map(shown).collect();
        sqlx::query(
            "INSERT INTO refused_events (id, store_id, refused_at, reason, detail, sample, visitor_key, user_key)
             SELECT sent.id::uuid, store_id, to_timestamp(refused_ms / 1000.0), reason, detail, sample, visitor_key, user_key
             FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[])
                  AS sent (id, store_id, refused_ms, reason, detail, sample, visitor_key, user_key)
             JOIN stores ON stores.id = store_id
             ON CONFLICT DO NOTHING",
        )
        .bind(&ids)
        .bind(&stores)
        .bind(&times)
        .bind(texts(|waiting| waiting.rejection.reason.as_str()))
        .bind(texts(|waiting| &waiting.rejection.detail))
        .bind(&shown)
        .bind(keys(|sample| &sample.visitor_id))
        .bind(keys(|sample| &sample.user_id))
        .execute(&mut *postgres)
        .await?;
        sqlx::query(
            "DELETE FROM refused_events USING (
                 SELECT id, row_number() OVER (PARTITION BY store_id, reason ORDER BY refused_at DESC, id DESC) AS place
                 FROM refused_events WHERE store_id = ANY($1)) AS placed
             WHERE refused_events.id = placed.id AND place > $2",
        )
        .bind(&stores)
        .bind(i64::from(SAMPLES_MAX))
        .execute(postgres)
        .await?;
        Ok(())
    }

    async fn write_counts(&self, postgres: &mut PgConnection, collector: Uuid) -> Result<(), sqlx::Error> {
        let (mut stores, mut days, mut reasons, mut events) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((store_id, day), by_reason) in &self.counts {
            for (reason, count) in Reason::ALL.iter().zip(by_reason).filter(|(_, count)| **count > 0) {
                stores.push(store_id.as_str());
                days.push(*day as i32);
                reasons.push(reason.as_str());
                events.push(*count);
            }
        }
        sqlx::query(
            "INSERT INTO refused_counts (store_id, date, reason, collector, events)
             SELECT store_id, DATE '1970-01-01' + day, reason, $5::uuid, events
             FROM unnest($1::text[], $2::int[], $3::text[], $4::bigint[]) AS counted (store_id, day, reason, events)
             JOIN stores ON stores.id = store_id
             ON CONFLICT (store_id, date, reason, collector) DO UPDATE SET events = EXCLUDED.events",
        )
        .bind(&stores)
        .bind(&days)
        .bind(&reasons)
        .bind(&events)
        .bind(collector.to_string())
        .execute(postgres)
        .await?;
        Ok(())
    }
}
