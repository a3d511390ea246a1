//! One partition as a pure state machine: inputs and the time go in, effects come out, nothing is done here.
//!
//! The rules that carry the guarantee, all of them visible below:
//!
//! * a batch is a range of offsets `[first, next)`; ranges follow each other without a gap (the log may have gaps,
//!   the ranges cover them);
//! * **intent before insert**: `Insert` is only asked for once `Recorded` has confirmed a position that names the
//!   batch's range;
//! * **position after insert**: a position beyond a batch is only recorded once all of it is inserted or dead-lettered;
//! * a range that was recorded and not finished is **rebuilt exactly** (on start, and to search a refused batch) and
//!   carries the same token, whatever the limits are now;
//! * **asked before sent again**: rows that may have been sent before are looked for in the store first
//!   ([`Effect::ReadBack`]), and sent again unless every one of them is there;
//! * nothing is dropped because it failed: retries never end, except that a row which ClickHouse refuses for good, or
//!   an error nobody knows keeps refusing, is dead-lettered alone, and only when the store says that
//!   it is not there.
//!
//! Recording the end of one batch and the intent of the next is one record when the next is already full.
//!
//! Why reading back is enough. Sending rows again is always safe: within the deduplication window the token drops them,
//! beyond it copies meet their sorting key and `FINAL` leaves one. Not sending them is safe only when they are stored, so
//! nothing but the sight of every row of the batch (its event at its offset and line) counts as proof. Everything else
//! sends all of them: a part of them, as an insert over two months or several shards leaves it; none, because
//! `ReplacingMergeTree` has merged them into older copies; rows of another log at these offsets; no answer. What
//! reading back spares is therefore the physical copies, and the work, of a repetition that the window has forgotten.
//! It costs nothing where nothing fails: a batch that is sent for the first time is not asked for.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use millrace_schemas::spool::Position;

use crate::backoff::Backoff;

/// What closes a batch, and how failures are met.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows that close a batch.
    pub rows_max: u32,
    /// Bytes that close a batch.
    pub bytes_max: usize,
    /// Age that closes a batch.
    pub age_max: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Attempts of an insert that fails for an unknown reason before its rows are searched.
    pub unknown_attempts_max: u32,
}

/// Why an insert failed, as far as the partition must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may pass: tried again without end.
    Passing,
    /// The store has too much to do: tried again without end, later, and with larger batches for a while.
    Overloaded,
    /// These rows will never be taken.
    Refused,
    /// Nobody knows: tried a few times, then taken for a refusal.
    Unknown,
}

/// What happened. `jitter` is a random number in `0..1`: drawing it would not be pure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// A message waits; the partition answers with [`Effect::Take`] or leaves it waiting.
    Offered {
        /// Its offset.
        offset: u64,
    },
    /// The message that was to be taken has been added to the open batch.
    Taken {
        /// Its offset.
        offset: u64,
        /// Lines it held, rows or not.
        lines: u32,
        /// Rows of the open batch as it now stands.
        open_rows: u32,
        /// Bytes of the open batch as it now stands.
        open_bytes: usize,
    },
    /// [`Partition::deadline`] has come (or has not: asking too early is harmless).
    Timer,
    /// The position has been recorded.
    Recorded,
    /// The position could not be recorded.
    RecordFailed {
        /// Random, `0..1`.
        jitter: f64,
    },
    /// What the store holds of the rows that were asked for.
    ReadBack {
        /// Every one of them was seen there.
        all: bool,
    },
    /// The store did not say what it holds of them.
    Unanswered {
        /// Random, `0..1`.
        jitter: f64,
    },
    /// The insert is acknowledged.
    Inserted,
    /// The insert failed, or nobody knows.
    InsertFailed {
        /// Why.
        failure: Failure,
        /// Random, `0..1`.
        jitter: f64,
    },
    /// The batch's dead-letter records are stored.
    DeadLettersWritten,
    /// They could not be stored.
    DeadLettersFailed {
        /// Random, `0..1`.
        jitter: f64,
    },
    /// Memory is full: what is open should leave.
    MemoryFull,
    /// Store what was read and stop.
    Drain,
}

/// What to do. Effects of one input are performed in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Decode the message that was offered into the open batch and answer with [`Input::Taken`].
    Take,
    /// The open batch becomes the closed one; a new one is open.
    Close {
        /// Its first offset.
        first: u64,
        /// The offset after its last.
        next: u64,
    },
    /// Record the position durably.
    Record(Position),
    /// Look whether all of these rows of the closed batch are in the store.
    ReadBack {
        /// Rows of the batch.
        rows: Range<u32>,
    },
    /// Insert these rows of the closed batch, all of them or a part.
    Insert {
        /// Rows of the batch.
        rows: Range<u32>,
        /// Whether they are all rows of the batch.
        whole: bool,
    },
    /// Add this row of the closed batch to its dead-letter records.
    Refuse {
        /// Row of the batch.
        row: u32,
    },
    /// Store the closed batch's dead-letter records.
    WriteDeadLetters,
    /// The closed batch is stored: forget it.
    Release,
    /// Forget the open and the closed batch; read again from `first`, keeping raw rows below `next`.
    Reread {
        /// Where to read from.
        first: u64,
        /// Where the range ends.
        next: u64,
    },
    /// The partition is done.
    Stop,
}

/// The state of a partition.
#[derive(Clone, Debug)]
pub struct Partition {
    limits: Limits,
    /// Where the next batch begins; unknown until the first message of a log without a recorded position.
    begin: Option<u64>,
    /// A recorded range that has to be rebuilt before anything else.
    rebuild: Option<Rebuild>,
    open: Option<Open>,
    closed: Option<Closed>,
    /// How often the age that closes a batch is doubled, because the store is overloaded.
    slowed: u32,
    draining: bool,
}

/// An overloaded store gets batches up to so many doublings of their age older.
const SLOWED_MAX: u32 = 5;
/// A process that stood still for so long between intent and insert may have had a successor.
const INTENT_AGE_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Rebuild {
    first: u64,
    next: u64,
    /// The range was refused: its rows are kept as they were read and searched.
    search: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    first: u64,
    next: u64,
    rows: u32,
    /// Rows, and lines that are none.
    lines: u32,
    since: Instant,
    /// It takes nothing more and leaves as soon as the closed batch is gone.
    full: bool,
}

#[derive(Clone, Debug)]
struct Closed {
    first: u64,
    next: u64,
    rows: u32,
    since: Instant,
    search: bool,
    step: Step,
    /// The part that comes next may be stored already.
    ask: bool,
    /// It is a single row that was refused.
    refused: bool,
    overloaded: bool,
    /// Failures of the step in a row, and how many of them nobody could explain.
    attempts: u32,
    unknown_attempts: u32,
    retry_at: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The range is being recorded.
    Intent,
    /// The last of these parts is being inserted; the others wait.
    Insert(Vec<Range<u32>>),
    /// Dead-letter records are being stored.
    WriteDeadLetters,
    /// The position after the batch is being recorded, and nothing is waiting to be closed.
    Position,
}

impl Partition {
    /// A partition that goes on where `position` says; `None` begins with the first message of the log.
    pub fn new(limits: Limits, position: Option<Position>) -> Self {
        let rebuild = position.and_then(|position| {
            let next = position.pending_next.filter(|next| *next > position.next)?;
            Some(Rebuild { first: position.next, next, search: false })
        });
        let begin = position.map(|position| position.next);
        Self { limits, begin, rebuild, open: None, closed: None, slowed: 0, draining: false }
    }

    /// When [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match (&self.closed, &self.open) {
            (Some(closed), _) => closed.retry_at,
            (None, Some(open)) if self.rebuild.is_none() => Some(open.since + self.age_max()),
            _ => None,
        }
    }

    /// The end of a range that must be read however full memory is, or nothing could ever leave.
    pub fn must_read_to(&self) -> Option<u64> {
        self.rebuild.map(|rebuild| rebuild.next)
    }

    /// Takes an input and adds what is to be done to `effects`.
    pub fn step(&mut self, now: Instant, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Offered { offset } => self.offered(now, offset, effects),
            Input::Taken { offset, lines, open_rows, open_bytes } => {
                self.taken(now, offset, lines, open_rows, open_bytes, effects);
            }
            Input::Timer => self.timer(now, effects),
            Input::Recorded => self.recorded(now, effects),
            Input::ReadBack { all } => self.read_back(all, effects),
            Input::Unanswered { jitter } => self.unanswered(now, jitter, effects),
            Input::Inserted => self.inserted(effects),
            Input::DeadLettersWritten => self.finish(now, effects),
            Input::InsertFailed { failure, jitter } => self.insert_failed(now, failure, jitter, effects),
            Input::RecordFailed { jitter } | Input::DeadLettersFailed { jitter } => {
                self.retry(now, jitter, false);
            }
            Input::MemoryFull => {
                if let (None, Some(open)) = (self.rebuild, &mut self.open) {
                    open.full = true;
                    self.close_if_due(now, effects);
                }
            }
            Input::Drain => self.drain(now, effects),
        }
    }

    fn offered(&mut self, now: Instant, offset: u64, effects: &mut Vec<Effect>) {
        if self.draining {
            return;
        }
        if let Some(rebuild) = self.rebuild {
            if offset >= rebuild.next || offset < rebuild.first {
                // The end of the range fell into a gap of the log: what there is, is all there is.
                self.close_rebuilt(now, rebuild, effects);
            }
        } else if let Some(open) = &mut self.open
            && offset < open.next
        {
            // The log begins again below (it was truncated): a new range, rather than rows passed over.
            open.full = true;
            self.close_if_due(now, effects);
        }
        let first = match (&self.rebuild, self.begin) {
            (Some(rebuild), _) => rebuild.first,
            (None, Some(begin)) if begin <= offset => begin,
            _ => offset,
        };
        match &mut self.open {
            Some(open) if open.full => {}
            Some(_) => effects.push(Effect::Take),
            None => {
                self.open = Some(Open { first, next: first, rows: 0, lines: 0, since: now, full: false });
                effects.push(Effect::Take);
            }
        }
    }

    fn taken(
        &mut self,
        now: Instant,
        offset: u64,
        lines: u32,
        open_rows: u32,
        open_bytes: usize,
        effects: &mut Vec<Effect>,
    ) {
        let Some(open) = &mut self.open else { return };
        open.next = offset + 1;
        open.rows = open_rows;
        open.lines += lines;
        if let Some(rebuild) = self.rebuild {
            if open.next >= rebuild.next {
                self.close_rebuilt(now, rebuild, effects);
            }
        } else if open.lines >= self.limits.rows_max || open_bytes >= self.limits.bytes_max {
            open.full = true;
            if self.closed.is_none() {
                self.close(now, effects);
            }
        }
    }

    fn timer(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(closed) = &mut self.closed
            && closed.retry_at.is_some_and(|at| at <= now)
        {
            closed.retry_at = None;
            self.perform(effects);
        }
        self.close_if_due(now, effects);
    }

    /// Closes the open batch if it is due and nothing is in its way.
    fn close_if_due(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.closed.is_none() && self.rebuild.is_none() && self.open_is_due(now) {
            self.close(now, effects);
        }
    }

    fn age_max(&self) -> Duration {
        self.limits.age_max.saturating_mul(1 << self.slowed)
    }

    fn open_is_due(&self, now: Instant) -> bool {
        self.open.is_some_and(|open| {
            open.next > open.first && (open.full || self.draining || now >= open.since + self.age_max())
        })
    }

    /// Closes the open batch; its intent has to be recorded first.
    fn close(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(Open { first, next, rows, .. }) = self.open.take() {
            self.put_closed(Closed::new(now, first, next, rows, Step::Intent), effects);
        }
    }

    /// Closes a range whose intent is on record already: it may have been sent, by us or by somebody before us.
    fn close_rebuilt(&mut self, now: Instant, rebuild: Rebuild, effects: &mut Vec<Effect>) {
        let Rebuild { first, next, search } = rebuild;
        let rows = self.open.take().map_or(0, |open| open.rows);
        self.rebuild = None;
        let closed = Closed::new(now, first, next, rows, Step::Insert(whole(rows)));
        self.put_closed(Closed { search, ask: true, ..closed }, effects);
    }

    fn put_closed(&mut self, closed: Closed, effects: &mut Vec<Effect>) {
        let Closed { first, next, .. } = closed;
        self.begin = Some(next);
        effects.push(Effect::Close { first, next });
        self.closed = Some(closed);
        self.perform(effects);
    }

    /// Asks for whatever the closed batch's step needs.
    fn perform(&mut self, effects: &mut Vec<Effect>) {
        let Some(closed) = &mut self.closed else { return };
        loop {
            match &closed.step {
                Step::Intent => {
                    let intent = Position { next: closed.first, pending_next: Some(closed.next) };
                    effects.push(Effect::Record(intent));
                }
                Step::Insert(parts) => match parts.last() {
                    Some(part) if closed.ask => effects.push(Effect::ReadBack { rows: part.clone() }),
                    Some(part) => {
                        let whole = *part == (0..closed.rows);
                        effects.push(Effect::Insert { rows: part.clone(), whole });
                    }
                    None => {
                        closed.step = Step::WriteDeadLetters;
                        continue;
                    }
                },
                Step::WriteDeadLetters => effects.push(Effect::WriteDeadLetters),
                Step::Position => {
                    effects.push(Effect::Record(Position { next: closed.next, pending_next: None }));
                }
            }
            return;
        }
    }

    fn recorded(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(closed) = &mut self.closed else { return };
        closed.attempts = 0;
        match closed.step {
            Step::Intent => {
                closed.step = Step::Insert(whole(closed.rows));
                closed.ask = now > closed.since + INTENT_AGE_MAX;
                self.perform(effects);
            }
            Step::Position => {
                self.closed = None;
                self.close_if_due(now, effects);
                self.stop_if_drained(effects);
            }
            Step::Insert(_) | Step::WriteDeadLetters => {}
        }
    }

    fn read_back(&mut self, all: bool, effects: &mut Vec<Effect>) {
        let Some(closed) = &mut self.closed else { return };
        let Step::Insert(parts) = &mut closed.step else { return };
        if all {
            closed.next_part();
        } else if closed.refused {
            effects.extend(parts.last().map(|row| Effect::Refuse { row: row.start }));
            closed.next_part();
        } else {
            closed.ask = false;
        }
        self.perform(effects);
    }

    fn unanswered(&mut self, now: Instant, jitter: f64, effects: &mut Vec<Effect>) {
        if self.closed.as_ref().is_some_and(|closed| closed.refused) {
            // Sending again needs no proof. Dead-lettering does, of the opposite: the row may be stored.
            self.retry(now, jitter, false);
        } else {
            self.read_back(false, effects);
        }
    }

    fn inserted(&mut self, effects: &mut Vec<Effect>) {
        if let Some(closed) = &mut self.closed {
            if !closed.overloaded {
                self.slowed = self.slowed.saturating_sub(1);
            }
            closed.next_part();
            self.perform(effects);
        }
    }

    fn insert_failed(&mut self, now: Instant, failure: Failure, jitter: f64, effects: &mut Vec<Effect>) {
        let Some(closed) = &mut self.closed else { return };
        let Step::Insert(parts) = &mut closed.step else { return };
        // Whatever was answered, the rows may be stored, all of them or some.
        closed.ask = true;
        let refused = match failure {
            Failure::Passing | Failure::Overloaded => false,
            Failure::Refused => true,
            Failure::Unknown => {
                closed.unknown_attempts += 1;
                closed.unknown_attempts >= self.limits.unknown_attempts_max
            }
        };
        if !refused {
            let overloaded = failure == Failure::Overloaded;
            if overloaded && !std::mem::replace(&mut closed.overloaded, true) {
                self.slowed = (self.slowed + 1).min(SLOWED_MAX);
            }
            self.retry(now, jitter, overloaded);
            return;
        }
        (closed.attempts, closed.unknown_attempts) = (0, 0);
        if !closed.search {
            let Closed { first, next, .. } = *closed;
            self.open = None;
            self.closed = None;
            self.begin = Some(first);
            self.rebuild = Some(Rebuild { first, next, search: true });
            effects.push(Effect::Reread { first, next });
            self.stop_if_drained(effects);
            return;
        }
        if parts.last().is_some_and(|part| part.len() == 1) {
            closed.refused = true;
        } else if let Some(part) = parts.pop() {
            let middle = part.start + part.len() as u32 / 2;
            parts.push(middle..part.end);
            parts.push(part.start..middle);
        }
        self.perform(effects);
    }

    fn retry(&mut self, now: Instant, jitter: f64, overloaded: bool) {
        if let Some(closed) = &mut self.closed {
            let pause = if overloaded {
                self.limits.backoff.long_pause(closed.attempts, jitter)
            } else {
                self.limits.backoff.pause(closed.attempts, jitter)
            };
            closed.retry_at = Some(now + pause);
            closed.attempts = closed.attempts.saturating_add(1);
        }
    }

    /// Everything of the closed batch is stored: the position moves beyond it.
    fn finish(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(closed) = &mut self.closed else { return };
        if closed.step != Step::WriteDeadLetters {
            return;
        }
        effects.push(Effect::Release);
        closed.attempts = 0;
        closed.step = Step::Position;
        // The next batch's intent says the same and more, unless the log began again below.
        let next_is_first = self.open.is_some_and(|open| open.first == closed.next);
        if self.open_is_due(now) && next_is_first {
            self.closed = None;
            self.close(now, effects);
        } else {
            self.perform(effects);
        }
    }

    fn drain(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.draining = true;
        if self.rebuild.is_some() {
            // Half of a recorded range must not be inserted; the record stays for the next start.
            self.open = None;
        }
        self.close_if_due(now, effects);
        self.stop_if_drained(effects);
    }

    fn stop_if_drained(&mut self, effects: &mut Vec<Effect>) {
        let nothing_open = self.open.is_none_or(|open| open.next == open.first);
        if self.draining && self.closed.is_none() && nothing_open {
            effects.push(Effect::Stop);
        }
    }
}

impl Closed {
    /// A batch that nobody has sent.
    fn new(now: Instant, first: u64, next: u64, rows: u32, step: Step) -> Self {
        Self {
            first,
            next,
            rows,
            since: now,
            search: false,
            step,
            ask: false,
            refused: false,
            overloaded: false,
            attempts: 0,
            unknown_attempts: 0,
            retry_at: None,
        }
    }

    /// The part is stored or refused; a part that comes after it may have been sent in an earlier search.
    fn next_part(&mut self) {
        if let Step::Insert(parts) = &mut self.step {
            parts.pop();
            (self.attempts, self.unknown_attempts) = (0, 0);
            (self.ask, self.refused) = (true, false);
        }
    }
}

fn whole(rows: u32) -> Vec<Range<u32>> {
    if rows == 0 { Vec::new() } else { std::iter::once(0..rows).collect() }
}
