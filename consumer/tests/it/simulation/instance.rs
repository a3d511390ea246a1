//! One consumer: the real partition with hands of the simulation's, which act on the [`World`] when the schedule says so.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    ops::Range,
    time::{Duration, Instant},
};

use millrace_consumer::{
    backoff::Backoff,
    partition::{Effect, Failure, Input, Limits, Partition},
};
use millrace_schemas::spool::Position;

use super::{
    Random,
    mutation::Mutation,
    world::{Checked, Content, Line, Part, Request, Token, World},
};

pub(super) struct Instance {
    pub(super) id: u32,
    partition: Partition,
    mutation: Option<Mutation>,
    cursor: u64,
    epoch: u32,
    open: Batch,
    closed: Option<Closed>,
    pub(super) work: Option<Work>,
    pub(super) stopped: bool,
    /// Rows that the store was just asked for, and did not show.
    asked: Option<Range<u32>>,
    /// The part that was acknowledged last, and was not seen when it was looked for afterwards.
    acknowledged: Option<Part>,
    unseen: Option<Part>,
    /// What this instance sent, and how much was sent before it began.
    sent: HashSet<Part>,
    sendings_before: u64,
    last_failure: Failure,
    rebuilt_to: Option<u64>,
    attempts: u64,
}

#[derive(Clone, Default)]
struct Batch {
    rows: Vec<Line>,
    dead: Vec<Line>,
}

struct Closed {
    first: u64,
    next: u64,
    batch: Batch,
}

/// The one thing that is on its way.
pub(super) enum Work {
    Record(Position),
    ReadBack(Range<u32>),
    Insert(Request),
    WriteDeadLetters,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It happens and is acknowledged.
    Well,
    /// It happens, and a failure is returned.
    AcknowledgementLost,
    /// A failure is returned and nothing happens.
    Fails,
    /// A failure is returned, and a part of it has happened.
    Partly,
    /// A failure is returned, and it may happen later.
    Later,
    /// A failure is returned, and an insert's token was written down before the store died.
    TokenAlone,
}

impl Instance {
    pub(super) fn start(
        world: &mut World,
        now: Instant,
        id: u32,
        rows_max: u32,
        mutation: Option<Mutation>,
    ) -> Self {
        let limits = Limits {
            rows_max,
            bytes_max: usize::MAX,
            age_max: Duration::from_millis(100),
            backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_millis(80) },
            unknown_attempts_max: 1 + id % 2,
        };
        let position = match mutation {
            Some(Mutation::ForgetTheRange) => {
                world.recorded.map(|Position { next, .. }| Position { next, pending_next: None })
            }
            _ => world.recorded,
        };
        let partition = Partition::new(limits, position, now);
        if partition.must_read_to().is_some() {
            world.note("a range is rebuilt");
        }
        Self {
            id,
            rebuilt_to: partition.must_read_to(),
            partition,
            mutation,
            cursor: world.begin(),
            epoch: world.epoch,
            open: Batch::default(),
            closed: None,
            work: None,
            stopped: false,
            asked: None,
            acknowledged: None,
            unseen: None,
            sent: HashSet::new(),
            sendings_before: world.sendings,
            last_failure: Failure::Passing,
            attempts: 0,
        }
    }

    /// The next message of the log is offered.
    pub(super) fn offer(&mut self, world: &mut World, now: Instant) -> Checked {
        let Some(message) = world.message_from(self.cursor) else { return Ok(()) };
        let (offset, lines) = (message.offset, message.lines.clone());
        let mut effects = Vec::new();
        self.partition.step(now, Input::Offered { offset }, &mut effects);
        let take = effects.last() == Some(&Effect::Take);
        if take {
            effects.pop();
        }
        self.perform(world, now, effects)?;
        if !take {
            return Ok(());
        }
        self.cursor = offset + 1;
        let count = lines.len() as u32;
        let rebuilds = self.rebuilt_to.is_some_and(|next| offset < next);
        if !self.mutation.is_some_and(|mutation| mutation.passes_over(offset, rebuilds)) {
            for line in lines {
                let undecodable = line.content == Content::Undecodable;
                let to = if undecodable { &mut self.open.dead } else { &mut self.open.rows };
                to.push(line);
            }
        }
        let open_rows = self.open.rows.len() as u32;
        self.input(world, now, Input::Taken { offset, lines: count, open_rows, open_bytes: 0 })
    }

    /// Something happens to the partition.
    pub(super) fn input(&mut self, world: &mut World, now: Instant, input: Input) -> Checked {
        let mut effects = Vec::new();
        self.partition.step(now, input, &mut effects);
        self.perform(world, now, effects)
    }

    fn perform(&mut self, world: &mut World, now: Instant, effects: Vec<Effect>) -> Checked {
        for effect in effects {
            // A mutation may do something else, and answer for it.
            let (effect, answer) = match self.mutation {
                Some(mutation) => mutation.alter(effect),
                None => (Some(effect), None),
            };
            if let Some(effect) = effect {
                self.perform_one(world, effect)?;
            }
            if let Some(input) = answer {
                self.input(world, now, input)?;
            }
        }
        Ok(())
    }

    fn perform_one(&mut self, world: &mut World, effect: Effect) -> Checked {
        match effect {
            Effect::Take => return Err("a message is taken that was not offered".into()),
            Effect::Close { first, next } => {
                self.rebuilt_to = None;
                let batch = std::mem::take(&mut self.open);
                if self.closed.replace(Closed { first, next, batch }).is_some() {
                    return Err("two batches are on their way".into());
                }
            }
            Effect::Record(position) => return self.begin(Work::Record(position)),
            Effect::ReadBack { rows } => return self.begin(Work::ReadBack(rows)),
            Effect::Insert { rows, whole, with_token } => {
                let request = self.request(&rows, with_token)?;
                let all = self.closed.as_ref().is_some_and(|closed| closed.batch.rows.len() == rows.len());
                if whole != all {
                    return Err(format!("{:?} is whole or not", request.part));
                }
                let before =
                    world.sent.get(&request.part).is_some_and(|number| *number <= self.sendings_before);
                let asked = self.asked.take() == Some(rows);
                if (before || self.sent.contains(&request.part)) && !asked {
                    return Err(format!("{:?} is sent again without having been asked for", request.part));
                }
                world.check_request(self.id, &request)?;
                if !with_token && self.unseen != Some(request.part) {
                    return Err(format!("{:?} is sent without its token for no reason", request.part));
                }
                self.sent.insert(request.part);
                return self.begin(Work::Insert(request));
            }
            Effect::Refuse { row } => return self.refuse(world, row),
            Effect::WriteDeadLetters => return self.begin(Work::WriteDeadLetters),
            Effect::Release => self.closed = None,
            Effect::Reread { first, next } => {
                world.note("a batch is searched");
                (self.closed, self.open, self.cursor) = (None, Batch::default(), first);
                self.rebuilt_to = Some(next);
            }
            Effect::Stop => self.stopped = true,
        }
        Ok(())
    }

    fn refuse(&mut self, world: &mut World, row: u32) -> Checked {
        if self.asked.take() != Some(row..row + 1) {
            return Err(format!("row {row} is refused without having been asked for"));
        }
        let unknown = self.last_failure == Failure::Unknown;
        let Some(closed) = &mut self.closed else { return Err("a row of no batch is refused".into()) };
        let rows = &closed.batch.rows;
        let refused = match self.mutation {
            Some(Mutation::DeadLetterTheBatch) => rows.clone(),
            _ => rows.get(row as usize).copied().into_iter().collect(),
        };
        if let [row] = refused.as_slice()
            && world.count_held(&[*row]) == 1
        {
            return Err(format!("{:?} is refused, and is stored", row.id));
        }
        if unknown && refused.len() == 1 {
            world.unsure.extend(refused.iter().map(|row| row.id));
        }
        closed.batch.dead.extend(refused);
        Ok(())
    }

    fn begin(&mut self, work: Work) -> Checked {
        match self.work.replace(work) {
            Some(_) => Err("two things are on their way".into()),
            None => Ok(()),
        }
    }

    fn request(&mut self, rows: &Range<u32>, with_token: bool) -> Checked<Request> {
        let Some(Closed { first, next, batch }) = &self.closed else {
            return Err("nothing to insert".into());
        };
        let (first, next, epoch) = (*first, *next, self.epoch);
        let lines = batch.rows.get(rows.start as usize..rows.end as usize).ok_or("rows that are none")?;
        let content: Vec<_> = lines.iter().map(|line| (line.event, line.id.1, line.id.2)).collect();
        let mut digest = BuildHasherDefault::<DefaultHasher>::default().hash_one(content);
        self.attempts += 1;
        let mut attempt = 0;
        match self.mutation {
            Some(Mutation::DropTheToken) => attempt = self.attempts | u64::from(self.id) << 32,
            Some(Mutation::TokenWithoutContent) => digest = 0,
            _ => {}
        }
        let (start, end) = (rows.start, rows.end);
        Ok(Request {
            part: Part { epoch, first, next, start, end },
            token: with_token.then_some(Token { first, next, start, end, digest, attempt }),
            rows: lines.to_vec(),
        })
    }

    /// What is on its way comes to its end.
    pub(super) fn finish(
        &mut self,
        world: &mut World,
        now: Instant,
        random: &mut Random,
        fate: Fate,
        unknown_percent: u64,
    ) -> Checked {
        let Some(work) = self.work.take() else { return Ok(()) };
        let jitter = random.below(100) as f64 / 100.0;
        let well = fate == Fate::Well;
        let happens = well || fate == Fate::AcknowledgementLost;
        let input = match work {
            Work::Record(position) => {
                let fenced = self.mutation != Some(Mutation::NoFence);
                let recorded = happens && world.record(self.id, position, fenced)?;
                if recorded && well { Input::Recorded } else { Input::RecordFailed { jitter } }
            }
            Work::ReadBack(rows) => {
                let sought = self.closed.as_ref().map_or(&[][..], |closed| &closed.batch.rows);
                let sought = &sought[rows.start as usize..rows.end as usize];
                let held = world.count_held(sought);
                let partly = self.mutation == Some(Mutation::TakePartForAll) && held > 0;
                let all = well && (held == sought.len() || partly);
                self.asked = (!all).then_some(rows);
                if !all && let Some(part) = self.acknowledged.take() {
                    self.unseen = Some(part);
                }
                world.note(match (well, all) {
                    (true, true) => "an insert is spared",
                    (true, false) => "rows are not all there",
                    (false, _) => "the store does not say what it holds",
                });
                if well { Input::ReadBack { all } } else { Input::Unanswered { jitter } }
            }
            Work::Insert(request) => match self.insert(world, random, request.clone(), fate)? {
                None => {
                    self.acknowledged = Some(request.part);
                    Input::Inserted
                }
                Some(failure) => {
                    let unknown = failure == Failure::Passing && random.percent(unknown_percent);
                    let failure = if unknown { Failure::Unknown } else { failure };
                    self.last_failure = failure;
                    Input::InsertFailed { failure, jitter }
                }
            },
            Work::WriteDeadLetters => {
                let dead = self.closed.as_ref().map_or(&[][..], |closed| &closed.batch.dead);
                if happens {
                    world.dead_letter(dead)?;
                }
                if well { Input::DeadLettersWritten } else { Input::DeadLettersFailed { jitter } }
            }
        };
        let input = self.mutation.map_or(input, |mutation| mutation.alter_input(input));
        self.input(world, now, input)
    }

    fn insert(
        &self,
        world: &mut World,
        random: &mut Random,
        request: Request,
        fate: Fate,
    ) -> Checked<Option<Failure>> {
        let refused = request.is_refused();
        match fate {
            Fate::Well | Fate::AcknowledgementLost if !refused => world.insert(&request, |_| true)?,
            // Parts, or shards, that hold nothing to refuse.
            Fate::Partly => {
                let poisoned = |month| {
                    request.rows.iter().any(|row| row.month == month && row.content == Content::Poison)
                };
                let one = random.below(2) as u8;
                world.insert(&request, |month| month == one && !poisoned(month))?;
                world.note("an insert is applied in part");
            }
            Fate::Later if !refused => world.late.push(request),
            Fate::TokenAlone if !refused => world.write_token_down(&request),
            _ => {}
        }
        if fate == Fate::Well && !refused {
            return Ok(None);
        }
        Ok(Some(match random.below(10) {
            _ if refused && matches!(fate, Fate::Well | Fate::Partly) => Failure::Refused,
            0..=7 => Failure::Passing,
            _ => Failure::Overloaded,
        }))
    }

    /// It ends wherever it is; its insert may be on the way all the same.
    pub(super) fn crash(self, world: &mut World, random: &mut Random) -> Checked {
        match self.work {
            Some(Work::Insert(request)) if !request.is_refused() => match random.below(5) {
                0 => world.insert(&request, |_| true),
                1 => world.insert(&request, |month| month == 0),
                2 => {
                    world.late.push(request);
                    Ok(())
                }
                3 => {
                    world.write_token_down(&request);
                    Ok(())
                }
                _ => Ok(()),
            },
            Some(Work::Record(position)) if random.percent(50) => {
                world.record(self.id, position, true).map(|_| ())
            }
            Some(Work::WriteDeadLetters) if random.percent(50) => {
                world.dead_letter(self.closed.as_ref().map_or(&[], |closed| &closed.batch.dead))
            }
            _ => Ok(()),
        }
    }
}
