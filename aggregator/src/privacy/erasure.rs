//! Erasure: a job in Postgres (`erasures`) whose row is its receipt.
//!
//! 1. **Sweep**, in slices of so many rows in the order of their receipt, so that each ends and leaves the erasure further
//!    on, however much anybody sent under the id; a slice on which ClickHouse gives up is halved. Under the locks of whoever looks for arrivals and of whoever rolls the store up: find the subject's rows,
//!    write down how many and which days they decide, hide them, put the days on the list of what must be rolled up. The
//!    locks make the days right: what arrives meanwhile is looked at afterwards, when the rows are gone, and finds what it
//!    changes without them.
//! 2. **Rewrite** the parts that held them.
//! 3. **`deleted`** once the days are rolled up.
//! 4. Events of the subject that were received before the request may still be on their way: in a spool, in Kafka, in a
//!    consumer's memory, in a dead letter that is replayed. So the sweep is repeated, at growing intervals, until nothing
//!    can be on its way any more ([`super::log`]); a last one finds nothing, the parts that were replaced have left the
//!    disk, and the receipt is **`final`**.
//!
//! What is received after the request is new, and stays: whoever wants no more of it tells the sender.
//!
//! Between writing down what was found and the end of a sweep, a crash leaves `removing`. Then nobody can say what the
//! rows that are gone already decided together with what arrived in between, and all days of the store are rolled up
//! again.

use std::collections::BTreeSet;

use jiff::civil::Date;
use millrace_schemas::{
    entity::{ORDERS, REFUNDS},
    refused::person_key,
};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Postgres, Row as _, Transaction, postgres::PgRow};
use uuid::Uuid;

use super::{
    Finality, log,
    subject::{Counts, Kind, Subject, literal},
    tables::Tables,
};
use crate::{
    arrival::{decided_by, touch},
    backfill::touch_everything,
    clickhouse::Warehouse,
    entity::orders,
    error::{Error, Result},
    locks::{self, Work},
    postgres::{Answer as _, begin, beside},
    rollup::scope::Store,
};

/// How long a run of `millrace replay` may hold a letter that has been removed meanwhile.
const LETTER_REST_SECONDS: i64 = 3600;
/// Pauses between two sweeps: a quarter of the erasure's age, within these.
const SWEEP_SECONDS: (i64, i64) = (60, 6 * 3600);

/// An erasure as it stands in Postgres.
#[derive(Debug)]
struct Erasure {
    id: String,
    subject: Subject,
    state: String,
    removing: Option<Counts>,
    must_rewrite: bool,
    slice_rows: u32,
    rewritten_at: Option<i64>,
    log_ends: Option<Value>,
    /// Seconds since the request, since the last sweep, and since letters were removed.
    age: i64,
    swept_ago: Option<i64>,
    letters_ago: Option<i64>,
}

/// Asks for an erasure. It is under way when the caller's transaction is committed.
pub async fn request(postgres: &mut PgConnection, store_id: &str, kind: Kind, id: &str) -> Result<String> {
    let Subject { salt, hash, .. } = Subject::new(store_id, kind, id, 0);
    let erasure_id = Uuid::now_v7().to_string();
    sqlx::query(
        "INSERT INTO erasures (id, store_id, kind, salt, subject_sha256, person_key, requested_at)
         VALUES ($1, $2, $3, $4, $5, $6, date_trunc('milliseconds', clock_timestamp()))",
    )
    .bind(&erasure_id)
    .bind(store_id)
    .bind(kind.as_str())
    .bind(salt.as_slice())
    .bind(hash.as_slice())
    .bind(person_key(store_id, id))
    .execute(postgres)
    .within()
    .await?;
    Ok(erasure_id)
}

/// One step of the erasure that is due. `false`: none was.
pub async fn step(warehouse: &Warehouse, pool: &PgPool, finality: &Finality) -> Result<bool> {
    let mut transaction = begin(pool).within().await?;
    // One at a time, whatever the number of instances. Not by a lock of its row: that is written beside this transaction.
    if !Work::Erasures.try_take(&mut transaction).await? {
        return Ok(false);
    }
    let row = sqlx::query(
        "SELECT id, store_id, kind, salt, subject_sha256, visitors, state, removing, must_rewrite, rewritten_at, log_ends,
                slice_rows, links_ignored,
                (extract(epoch FROM requested_at) * 1000)::bigint AS requested_ms,
                extract(epoch FROM clock_timestamp() - requested_at)::bigint AS age,
                extract(epoch FROM clock_timestamp() - swept_at)::bigint AS swept_ago,
                extract(epoch FROM clock_timestamp() - letters_at)::bigint AS letters_ago
         FROM erasures
         WHERE state <> 'final' AND next_at <= clock_timestamp()
           -- A store that asks for thousands does not stand before all others.
           AND store_id = (SELECT store_id FROM erasures WHERE state <> 'final' AND next_at <= clock_timestamp()
                           GROUP BY store_id ORDER BY random() LIMIT 1)
         ORDER BY swept_at IS NOT NULL, next_at LIMIT 1",
    )
    .fetch_optional(&mut *transaction)
    .within()
    .await?;
    let Some(row) = row else { return Ok(false) };
    let mut erasure = Erasure::read(&row)?;
    let id = erasure.id.clone();
    match erasure.advance(warehouse, pool, transaction, finality).await {
        Ok(()) => Ok(true),
        Err(error) => {
            tracing::warn!(erasure = %id, %error, "an erasure cannot go on; trying again");
            // What went wrong inside is in the log; the receipt says what an operator can do.
            let told = match &error {
                Error::Store { message, .. } => message.clone(),
                Error::ClickHouse(_) => {
                    "ClickHouse does not answer, or refuses: see the aggregator's log".into()
                }
                _ => "it failed and is tried again: see the aggregator's log".into(),
            };
            sqlx::query(
                "UPDATE erasures
                 SET error = $2, next_at = clock_timestamp() + interval '5 seconds',
                     slice_rows = CASE WHEN $3 THEN greatest(slice_rows / 2, 1) ELSE slice_rows END
                 WHERE id = $1",
            )
            .bind(&id)
            .bind(told)
            .bind(is_too_much(&error))
            .execute(pool)
            .within()
            .await?;
            Ok(true)
        }
    }
}

/// Whether ClickHouse gave up on what was asked: it was too much for its memory or its time.
fn is_too_much(error: &Error) -> bool {
    match error {
        // MEMORY_LIMIT_EXCEEDED and TIMEOUT_EXCEEDED.
        Error::ClickHouse(clickhouse::error::Error::BadResponse(text)) => {
            ["Code: 241.", "Code: 159."].iter().any(|code| text.contains(code))
        }
        Error::ClickHouse(clickhouse::error::Error::TimedOut) => true,
        _ => false,
    }
}

impl Erasure {
    fn read(row: &PgRow) -> Result<Self> {
        let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column);
        let wrong = |_| Error::Internal("an erasure's salt or hash has another length".into());
        let kind: String = row.try_get("kind")?;
        let visitors: Vec<i64> = row.try_get("visitors")?;
        let removing: Option<Value> = row.try_get("removing")?;
        Ok(Self {
            id: row.try_get("id")?,
            subject: Subject {
                store_id: row.try_get("store_id")?,
                kind: Kind::parse(&kind)
                    .ok_or_else(|| Error::Internal(format!("an erasure of kind {kind}")))?,
                salt: bytes("salt")?.try_into().map_err(wrong)?,
                hash: bytes("subject_sha256")?.try_into().map_err(wrong)?,
                visitors: visitors.into_iter().map(i64::cast_unsigned).collect(),
                links_ignored: row.try_get("links_ignored")?,
                until_ms: row.try_get("requested_ms")?,
            },
            state: row.try_get("state")?,
            removing: removing.map(|found| {
                let count = |name: &str| found[name].as_u64().unwrap_or_default();
                Counts {
                    events: count("events"),
                    clicks: count("clicks"),
                    dead_letters: count("dead_letters"),
                }
            }),
            must_rewrite: row.try_get("must_rewrite")?,
            slice_rows: row.try_get::<i32, _>("slice_rows")?.unsigned_abs(),
            rewritten_at: row.try_get("rewritten_at")?,
            log_ends: row.try_get("log_ends")?,
            age: row.try_get("age")?,
            swept_ago: row.try_get("swept_ago")?,
            letters_ago: row.try_get("letters_ago")?,
        })
    }

    /// Does one thing, and says when to look again.
    async fn advance(
        &mut self,
        warehouse: &Warehouse,
        pool: &PgPool,
        mut transaction: Transaction<'static, Postgres>,
        finality: &Finality,
    ) -> Result<()> {
        let tables = beside(&mut transaction, Tables::find(warehouse)).await?;
        let pause = (self.age / 4).clamp(SWEEP_SECONDS.0, SWEEP_SECONDS.1);
        let is_swept = self.removing.is_none() && self.swept_ago.is_some_and(|ago| ago < pause);
        let mut wait_seconds = 1;
        match (self.state.as_str(), &tables) {
            _ if !is_swept => {
                self.sweep(warehouse, pool, &mut transaction, tables.as_ref()).await?;
                wait_seconds = 0;
            }
            (_, Some(tables)) if self.must_rewrite => {
                let at = beside(&mut transaction, tables.rewrite(warehouse)).await?;
                // One rewrite is for all: sweeps come first, and none is under way now.
                sqlx::query(
                    "UPDATE erasures SET must_rewrite = false, rewritten_at = $1 WHERE must_rewrite AND removing IS NULL",
                )
                .bind(at)
                .execute(&mut *transaction)
                .within()
                .await?;
                wait_seconds = 0;
            }
            ("removed", _) => self.close_days(&mut transaction).await?,
            (_, tables) => {
                wait_seconds =
                    self.finish(warehouse, pool, &mut transaction, tables.as_ref(), finality, pause).await?;
            }
        }
        sqlx::query(
            "UPDATE erasures SET error = NULL, next_at = clock_timestamp() + make_interval(secs => $2::float8)
             WHERE id = $1",
        )
        .bind(&self.id)
        .bind(wait_seconds)
        .execute(&mut *transaction)
        .within()
        .await?;
        transaction.commit().within().await
    }

    /// Removes what there is of the subject. Says whether there was anything.
    async fn sweep(
        &mut self,
        warehouse: &Warehouse,
        pool: &PgPool,
        transaction: &mut Transaction<'static, Postgres>,
        tables: Option<&Tables>,
    ) -> Result<bool> {
        self.forget_refused(transaction).await?;
        let Some(tables) = tables else {
            self.swept(transaction, Counts::default(), true).await?;
            return Ok(false);
        };
        // Nobody looks for arrivals until this transaction ends, and nobody rolls the store up: a row of the subject that
        // comes in between goes without ever having been counted.
        Work::Arrivals.take(transaction).await?;
        locks::take_store(transaction, &self.subject.store_id).await?;
        let was_cut_off = self.removing.is_some();
        if was_cut_off && beside(transaction, tables.is_changing(warehouse)).await? {
            return Err(Error::Internal("an earlier removal of rows is still under way".into()));
        }
        beside(transaction, self.subject.find_visitors(warehouse)).await?;
        let (slice, has_more) = beside(transaction, self.subject.slice(warehouse, self.slice_rows)).await?;
        let found = beside(transaction, slice.count(warehouse)).await?;
        let has_orders = beside(transaction, slice.has_orders_alone(warehouse)).await?;
        if found.is_zero() && !has_orders && !was_cut_off {
            self.swept(transaction, found, true).await?;
            return Ok(false);
        }
        let going = beside(transaction, decide(&slice, warehouse, self.slice_rows > EXACT_ROWS_MIN)).await?;
        let store = Store::read(transaction, &self.subject.store_id).await?;
        let days: BTreeSet<Date> = store
            .iter()
            .flat_map(|store| going.quarters.iter().map(|quarter| store.calendar.date(*quarter)))
            .collect();
        // Durable before anything is removed: what is gone cannot be asked which days it decided.
        let known = self.removing.unwrap_or_default();
        let removing = Counts {
            events: going.counts[0].max(known.events),
            clicks: going.counts[1].max(known.clicks),
            dead_letters: found.dead_letters.max(known.dead_letters),
        };
        let orders = self.orders_without(warehouse, transaction, &slice, &going).await?;
        self.note(pool, &days, removing).await?;
        for rows in order_rows(&slice.store_id, &orders) {
            for table in [ORDERS.name, REFUNDS.name] {
                beside(transaction, tables.hide(warehouse, table, &rows)).await?;
            }
        }
        for (table, rows) in TABLES.iter().zip(&going.rows) {
            beside(transaction, tables.hide(warehouse, table, rows)).await?;
        }
        if found.dead_letters > 0 {
            let letters = slice.letters();
            beside(transaction, tables.hide(warehouse, "dead_letters", &letters)).await?;
        }
        for mut made in orders {
            made.forget_gone();
            made.write(warehouse, pool, transaction).await?;
        }
        if let Some(store) = store {
            touch(transaction, &store.id, days.iter(), 0).await?;
            if was_cut_off {
                orders::make_stale(transaction, &[&store.id]).await?;
                touch_everything(warehouse, transaction, &store).await?;
            }
        }
        self.swept(transaction, removing, !has_more && !going.has_more).await?;
        Ok(true)
    }

    /// The orders that lose a report, as they are without it, and where they stood.
    async fn orders_without(
        &self,
        warehouse: &Warehouse,
        postgres: &mut PgConnection,
        slice: &Subject,
        going: &Going,
    ) -> Result<Vec<orders::Made>> {
        let [events, _] = &going.rows;
        let scope = orders::Scope {
            stores: vec![&slice.store_id],
            rows: events,
            bind: &|query| query,
            are_all: false,
            going: Some(&orders::Going { reports: events.clone(), orders: slice.orders() }),
        };
        let mut all = Vec::new();
        for part in orders::Part::of(going.counts[0]) {
            all.push(orders::make(warehouse, postgres, &scope, part).await?);
        }
        all.retain(|made| !made.is_empty());
        Ok(all)
    }

    /// Removes what is kept of refused events that named the visitor or user. What would be a user's by link alone stays: it is
    /// not known whose it is, and holds no id.
    async fn forget_refused(&self, postgres: &mut PgConnection) -> Result<()> {
        sqlx::query(
            "DELETE FROM refused_events USING erasures
             WHERE erasures.id = $1 AND refused_events.store_id = erasures.store_id AND refused_at <= requested_at
               AND CASE kind WHEN 'visitor' THEN visitor_key ELSE user_key END = person_key",
        )
        .bind(&self.id)
        .execute(postgres)
        .within()
        .await?;
        Ok(())
    }

    /// Writes down what will be removed, at once.
    async fn note(&self, pool: &PgPool, days: &BTreeSet<Date>, removing: Counts) -> Result<()> {
        let days: Vec<String> = days.iter().map(Date::to_string).collect();
        let visitors: Vec<i64> = self.subject.visitors.iter().map(|hash| hash.cast_signed()).collect();
        sqlx::query(
            "UPDATE erasures
             SET days = ARRAY(SELECT DISTINCT unnest(days || $2::date[]) ORDER BY 1), visitors = $3, removing = $4,
                 links_ignored = $5
             WHERE id = $1",
        )
        .bind(&self.id)
        .bind(days)
        .bind(visitors)
        .bind(json!({
            "events": removing.events, "clicks": removing.clicks, "dead_letters": removing.dead_letters,
        }))
        .bind(self.subject.links_ignored)
        .execute(pool)
        .within()
        .await?;
        Ok(())
    }

    /// Writes down what a sweep has removed. One that is not whole is gone on with at once.
    async fn swept(&self, postgres: &mut PgConnection, removed: Counts, is_whole: bool) -> Result<()> {
        sqlx::query(
            "UPDATE erasures
             SET sweeps = sweeps + 1, removing = NULL,
                 events = events + $2, clicks = clicks + $3, dead_letters = dead_letters + $4,
                 state = CASE WHEN $5 OR state = 'requested' THEN 'removed' ELSE state END,
                 must_rewrite = must_rewrite OR $5,
                 touched_at = CASE WHEN $5 THEN clock_timestamp() ELSE touched_at END,
                 letters_at = CASE WHEN $4 > 0 THEN clock_timestamp() ELSE letters_at END,
                 swept_at = CASE WHEN $6 THEN clock_timestamp() END
             WHERE id = $1",
        )
        .bind(&self.id)
        .bind(removed.events.cast_signed())
        .bind(removed.clicks.cast_signed())
        .bind(removed.dead_letters.cast_signed())
        .bind(!removed.is_zero())
        .bind(is_whole)
        .execute(postgres)
        .within()
        .await?;
        Ok(())
    }

    /// `deleted`, once no day of the store waits that was touched by then.
    async fn close_days(&self, postgres: &mut PgConnection) -> Result<()> {
        sqlx::query(
            "UPDATE erasures SET state = 'deleted', deleted_at = clock_timestamp()
             WHERE id = $1 AND NOT EXISTS (
                 SELECT 1 FROM touched_days
                 WHERE touched_days.store_id = erasures.store_id AND touched_days.touched_at <= erasures.touched_at)",
        )
        .bind(&self.id)
        .execute(postgres)
        .within()
        .await?;
        Ok(())
    }

    /// `final`, once nothing is on its way any more. Says how many seconds to wait else.
    async fn finish(
        &mut self,
        warehouse: &Warehouse,
        pool: &PgPool,
        transaction: &mut Transaction<'static, Postgres>,
        tables: Option<&Tables>,
        finality: &Finality,
        pause: i64,
    ) -> Result<i64> {
        let until_sweep = pause - self.swept_ago.unwrap_or(0);
        if let Some(wait) = self.on_its_way(transaction, finality).await? {
            return Ok(wait.clamp(1, until_sweep.max(1)));
        }
        if let (Some(tables), Some(until)) = (tables, self.rewritten_at)
            && beside(transaction, tables.has_old_parts(warehouse, until)).await?
        {
            return Ok(5);
        }
        if self.sweep(warehouse, pool, transaction, tables).await? {
            return Ok(0);
        }
        sqlx::query(
            "UPDATE erasures SET state = 'final', final_at = clock_timestamp(), visitors = '{}', person_key = NULL
             WHERE id = $1",
        )
        .bind(&self.id)
        .execute(&mut **transaction)
        .within()
        .await?;
        tracing::info!(erasure = %self.id, "an erasure is final");
        Ok(0)
    }

    /// Seconds after which to ask again whether something is on its way; `None`: nothing is.
    async fn on_its_way(&self, postgres: &mut PgConnection, finality: &Finality) -> Result<Option<i64>> {
        let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let io = |error: std::io::Error| Error::Internal(format!("reading the spool's positions: {error}"));
        let settling = seconds(finality.settle) - self.age;
        if settling >= 0 {
            return Ok(Some(settling));
        }
        if let Some(rest) = self.letters_ago.map(|ago| LETTER_REST_SECONDS - ago).filter(|rest| *rest > 0) {
            return Ok(Some(rest));
        }
        let Some(spool_dir) = &finality.spool_dir else {
            let rest = seconds(finality.horizon) - self.age;
            return Ok((rest > 0).then_some(rest));
        };
        match &self.log_ends {
            None => {
                let ends = log::ends(spool_dir).map_err(io)?;
                sqlx::query("UPDATE erasures SET log_ends = $2 WHERE id = $1")
                    .bind(&self.id)
                    .bind(ends)
                    .execute(postgres)
                    .within()
                    .await?;
                Ok(Some(1))
            }
            Some(ends) if log::has_passed(spool_dir, ends).map_err(io)? => Ok(None),
            Some(_) => Ok(Some(2)),
        }
    }
}

/// Conditions of the rows of these orders, few enough of them for a statement each.
fn order_rows(store_id: &str, made: &[orders::Made]) -> Vec<String> {
    let ids: BTreeSet<&str> = made.iter().flat_map(orders::Made::order_ids).collect();
    let ids: Vec<String> = ids.into_iter().map(literal).collect();
    let batch =
        |ids: &[String]| format!("store_id = {} AND order_id IN ({})", literal(store_id), ids.join(","));
    ids.chunks(ORDERS_MAX).map(batch).collect()
}

/// Orders that one statement removes: ids have up to 200 bytes, and a statement a mebibyte.
const ORDERS_MAX: usize = 1_000;

/// Rows of a slice of which it is not worth while to be told which days they decide, when that needs too much: a visitor of
/// millions of events is one list however few of them go. Then all days of the store are rolled up again.
const EXACT_ROWS_MIN: u32 = 100;

const TABLES: [&str; 2] = ["events", "clicks"];

/// What of `events` and `clicks` goes now.
async fn decide(subject: &Subject, warehouse: &Warehouse, is_exact: bool) -> Result<Going> {
    let (events, more_events) = subject.rows_with_copies(warehouse, TABLES[0]).await?;
    let (clicks, more_clicks) = subject.rows_with_copies(warehouse, TABLES[1]).await?;
    let quarters = decided_by(warehouse, &subject.store_id, [&events, &clicks], is_exact).await?;
    let rows = [events, clicks];
    let mut counts = [0; 2];
    for ((table, rows), count) in TABLES.iter().zip(&rows).zip(&mut counts) {
        let query = warehouse.long_query(&format!("SELECT count() FROM {table} WHERE {rows}"));
        *count = warehouse.rows::<u64>(query).await?.first().copied().unwrap_or_default();
    }
    Ok(Going { rows, has_more: more_events || more_clicks, quarters, counts })
}

/// What of each of [`TABLES`] a sweep removes.
struct Going {
    /// Conditions.
    rows: [String; 2],
    /// There are more copies than one statement names.
    has_more: bool,
    /// Quarters of an hour whose days they decide.
    quarters: BTreeSet<i64>,
    counts: [u64; 2],
}
