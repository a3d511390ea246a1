//! One partition as a pure state machine: inputs and the time go in, effects come out, nothing is done here.
//!
//! The rules that carry the guarantee, all of them visible in the files beside this one:
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
//! * **asked again once acknowledged**: ClickHouse drops rows whose token it knows, and it writes a token down before its
//!   rows. An acknowledgement proves that rows are stored only where nobody has sent their token before; after any other
//!   they are looked for once more, and sent without their token unless every one of them is there;
//! * nothing is dropped because it failed: retries never end, except that a row which ClickHouse refuses for good, or
//!   an error nobody knows keeps refusing, is dead-lettered alone, and only when the store says that it is not there.
//!
//! Recording the end of one batch and the intent of the next is one record when the next is already full.
//!
//! The phases of a batch are types, and each is consumed by what ends it, so that no answer can meet a phase it does not
//! belong to:
//!
//! ```text
//! Gathering ──closed──> Recording ──recorded──> Inserting ──all stored or refused──> DeadLettering ──> Moving ──> done
//!                                                   ▲  │
//!                       Rebuilding ──closed again───┘  │
//!                           ▲                          │
//!                           └──refused as a whole──────┘
//!
//! within Inserting, for each part:  LookingUp ──not all there──> Sending ──refused──> its halves, or Confirming
//!                                       ▲                         │  ▲│
//!                                       └──────failed: later──────┘  │└─acknowledged for a known token─> Verifying
//!                                                                    └─────not all there: without one────────┘
//! ```
//!
//! Answers that nothing was asked for are defects of the driver and assert; what a log, a broker or a store may say never
//! does.
//!
//! Why reading back is enough. Sending rows again doubles no event: within the deduplication window their token drops them,
//! without it, or beyond, copies meet their sorting key and `FINAL` leaves one. Not sending them is safe only when they are stored, so
//! nothing but the sight of every row of the batch (its event at its offset and line) counts as proof. Everything else
//! sends all of them: a part of them, as an insert over two months or several shards leaves it; none, because
//! `ReplacingMergeTree` has merged them into older copies; rows of another log at these offsets; no answer. What
//! reading back spares is therefore the physical copies, and the work, of a repetition that the window has forgotten.
//! It costs nothing where nothing fails: a batch that is sent for the first time is not asked for.

mod batch;
mod dead_lettering;
mod delivery;
mod gathering;
mod id;
mod inserting;
mod parts;
mod protocol;
mod rebuilding;
mod recording;
mod retry;

use std::time::{Duration, Instant};

use millrace_schemas::spool::Position;

use self::{
    batch::Batch,
    delivery::{Delivery, Outcome},
    gathering::Gathering,
    rebuilding::Rebuilding,
    recording::{Moving, Recording},
    retry::Slowdown,
};
pub use self::{
    id::TopicPartition,
    protocol::{Effect, Failure, Input, Limits},
};

/// The state of a partition.
#[derive(Clone, Debug)]
pub struct Partition {
    limits: Limits,
    phase: Phase,
    /// Where the next batch begins; unknown until the first message of a log without a recorded position.
    begin: Option<u64>,
    /// The message that is being taken: [`Effect::Take`] was the last word on it.
    taking: Option<u64>,
    slowdown: Slowdown,
    draining: bool,
}

#[derive(Clone, Debug)]
enum Phase {
    /// A recorded range has to be whole again before anything else.
    Rebuilding(Rebuilding),
    /// One batch takes messages while the one before it is on its way.
    Reading { open: Option<Gathering>, delivery: Option<Delivery> },
}

impl Partition {
    /// A partition that goes on where `position` says; `None` begins with the first message of the log.
    pub fn new(limits: Limits, position: Option<Position>, now: Instant) -> Self {
        let phase = match position.and_then(|position| Rebuilding::of_record(position, now)) {
            Some(rebuilding) => Phase::Rebuilding(rebuilding),
            None => Phase::Reading { open: None, delivery: None },
        };
        let begin = position.map(|position| position.next);
        Self { limits, phase, begin, taking: None, slowdown: Slowdown::default(), draining: false }
    }

    /// When [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Rebuilding(_) => None,
            Phase::Reading { delivery: Some(delivery), .. } => delivery.retry_at(),
            Phase::Reading { open, delivery: None } => open.as_ref().map(|open| open.due_at(self.age_max())),
        }
    }

    /// The end of a range that must be read however full memory is, or nothing could ever leave.
    pub fn must_read_to(&self) -> Option<u64> {
        match &self.phase {
            Phase::Rebuilding(rebuilding) => Some(rebuilding.next()),
            Phase::Reading { .. } => None,
        }
    }

    /// Since when the position has been waiting for a batch that is on its way, or for a range that is being rebuilt.
    pub fn stalled_since(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Rebuilding(rebuilding) => Some(rebuilding.since()),
            Phase::Reading { delivery, .. } => delivery.as_ref().map(Delivery::since),
        }
    }

    /// Takes an input and adds what is to be done to `effects`.
    ///
    /// # Panics
    ///
    /// When an answer comes that nothing was asked for: the caller has mixed up what it performed, and what it would do
    /// next could lose events. The position on record is where the next start goes on.
    pub fn step(&mut self, now: Instant, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Offered { offset } => self.offered(now, offset, effects),
            Input::Taken { offset, lines, open_rows, open_bytes } => {
                self.taken(now, offset, lines, open_rows, open_bytes, effects);
            }
            Input::Timer => self.timer(now, effects),
            Input::MemoryFull => self.memory_full(now, effects),
            Input::Drain => self.drain(now, effects),
            Input::Recorded
            | Input::RecordFailed { .. }
            | Input::ReadBack { .. }
            | Input::Unanswered { .. }
            | Input::Inserted
            | Input::InsertFailed { .. }
            | Input::DeadLettersWritten
            | Input::DeadLettersFailed { .. } => self.answered(now, input, effects),
        }
    }

    fn offered(&mut self, now: Instant, offset: u64, effects: &mut Vec<Effect>) {
        debug_assert_eq!(self.taking, None, "offset {offset} is offered while another message is taken");
        if self.draining {
            return;
        }
        match &mut self.phase {
            // The end of the range fell into a gap of the log: what there is, is all there is.
            Phase::Rebuilding(rebuilding) if !rebuilding.covers(offset) => self.close_rebuilt(effects),
            // The log begins again below (it was truncated): a new range, rather than rows passed over.
            Phase::Reading { open: Some(open), .. } if offset < open.next() => {
                open.fill();
                self.close_if_due(now, effects);
            }
            _ => {}
        }
        if let Phase::Reading { open, .. } = &mut self.phase {
            let first = self.begin.filter(|begin| *begin <= offset).unwrap_or(offset);
            if open.get_or_insert_with(|| Gathering::begin(now, first)).is_full() {
                return;
            }
        }
        self.taking = Some(offset);
        effects.push(Effect::Take);
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
        let asked = self.taking.take();
        assert_eq!(asked, Some(offset), "a message is taken that was not asked for");
        match &mut self.phase {
            Phase::Rebuilding(rebuilding) => {
                rebuilding.add(offset, open_rows);
                if rebuilding.is_whole() {
                    self.close_rebuilt(effects);
                }
            }
            Phase::Reading { open: Some(open), .. } => {
                open.add(offset, lines, open_rows, open_bytes, &self.limits);
                if open.is_full() {
                    self.close_if_due(now, effects);
                }
            }
            Phase::Reading { open: None, .. } => panic!("offset {offset} is taken, and no batch is open"),
        }
    }

    fn timer(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Phase::Reading { delivery: Some(delivery), .. } = &mut self.phase {
            delivery.retry_if_due(now, effects);
        }
        self.close_if_due(now, effects);
    }

    fn memory_full(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Phase::Reading { open: Some(open), .. } = &mut self.phase {
            open.fill();
            self.close_if_due(now, effects);
        }
    }

    fn drain(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        // Half of a recorded range must not be inserted; the record stays for the next start.
        self.draining = true;
        self.close_if_due(now, effects);
        self.stop_if_drained(effects);
    }

    fn answered(&mut self, now: Instant, answer: Input, effects: &mut Vec<Effect>) {
        let delivery = match &mut self.phase {
            Phase::Reading { delivery, .. } => delivery.take(),
            Phase::Rebuilding(_) => None,
        };
        let Some(delivery) = delivery else { panic!("{answer:?}, and no batch is on its way") };
        match delivery.answered(now, answer, &self.limits, &mut self.slowdown, effects) {
            Outcome::OnItsWay(delivery) => self.deliver(delivery),
            Outcome::Stored(batch) => self.move_on(now, batch, effects),
            Outcome::Moved => {
                self.close_if_due(now, effects);
                self.stop_if_drained(effects);
            }
            Outcome::Refused(batch) => self.search(&batch, effects),
        }
    }

    /// What was gathered behind the batch is forgotten with it, and read again after it.
    fn search(&mut self, batch: &Batch, effects: &mut Vec<Effect>) {
        let Batch { first, next, .. } = *batch;
        self.begin = Some(first);
        self.phase = Phase::Rebuilding(Rebuilding::to_search(batch));
        effects.push(Effect::Reread { first, next });
        self.stop_if_drained(effects);
    }

    /// Everything of the batch is stored: the position moves beyond it.
    fn move_on(&mut self, now: Instant, batch: Batch, effects: &mut Vec<Effect>) {
        // The next batch's intent says the same and more, unless the log began again below.
        let next_says_it = match &self.phase {
            Phase::Reading { open: Some(open), .. } => {
                open.first() == batch.next && open.is_due(now, self.age_max(), self.draining)
            }
            _ => false,
        };
        if next_says_it {
            self.close_if_due(now, effects);
        } else {
            self.deliver(Delivery::Moving(Moving::begin(batch, effects)));
        }
    }

    /// Closes the open batch if it is due and nothing is in its way; its intent has to be recorded first.
    fn close_if_due(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let (age_max, draining) = (self.age_max(), self.draining);
        let Phase::Reading { open, delivery: None } = &mut self.phase else { return };
        let due = open.take_if(|open| open.is_due(now, age_max, draining));
        if let Some(open) = due {
            let batch = open.close(now);
            self.close(&batch, effects);
            self.deliver(Delivery::Recording(Recording::begin(batch, effects)));
        }
    }

    /// Closes a range whose intent is on record already: it may have been sent, by us or by somebody before us.
    fn close_rebuilt(&mut self, effects: &mut Vec<Effect>) {
        let reading = Phase::Reading { open: None, delivery: None };
        let Phase::Rebuilding(rebuilding) = std::mem::replace(&mut self.phase, reading) else {
            panic!("a range is closed that was not rebuilt");
        };
        let (batch, origin) = rebuilding.close();
        self.close(&batch, effects);
        self.deliver(Delivery::of_recorded(batch, origin, effects));
    }

    fn close(&mut self, batch: &Batch, effects: &mut Vec<Effect>) {
        self.begin = Some(batch.next);
        effects.push(Effect::Close { first: batch.first, next: batch.next });
    }

    fn deliver(&mut self, next: Delivery) {
        match &mut self.phase {
            Phase::Reading { delivery: delivery @ None, .. } => *delivery = Some(next),
            phase => panic!("a second batch is on its way: {next:?} beside {phase:?}"),
        }
    }

    fn age_max(&self) -> Duration {
        self.slowdown.age_max(self.limits.age_max)
    }

    fn stop_if_drained(&mut self, effects: &mut Vec<Effect>) {
        let is_empty = match &self.phase {
            Phase::Rebuilding(_) => true,
            Phase::Reading { open, delivery } => {
                delivery.is_none() && open.as_ref().is_none_or(Gathering::is_empty)
            }
        };
        if self.draining && is_empty {
            effects.push(Effect::Stop);
        }
    }
}
