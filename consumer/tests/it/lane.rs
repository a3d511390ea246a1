//! The lane's state machine against a small model: random logs, random schedules of arrivals, failures, lost
//! acknowledgements, crashes and stops. Whatever happens, everything is stored once or buried, ranges keep their
//! tokens, and the position never passes what is not stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::{Duration, Instant},
};

use millrace_consumer::{
    backoff::Backoff,
    lane::{Effect, Failure, Input, Lane, Limits},
};
use millrace_schemas::spool::Position;
use proptest::prelude::*;

type RowId = (u64, u32);

#[derive(Clone, Debug)]
struct Message {
    offset: u64,
    rows: u32,
    /// Lines that do not decode.
    undecodable: u32,
    /// Rows that the store refuses.
    poison: BTreeSet<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Offer,
    Wait(u16),
    /// The work succeeds.
    Succeed,
    /// It fails and nothing happened.
    Fail,
    /// It happened and the acknowledgement is lost.
    LoseAcknowledgement,
    MemoryFull,
    Drain,
    Crash,
}

#[derive(Clone, Debug, PartialEq)]
enum Work {
    Record(Position),
    Insert { rows: Range<u32>, whole: bool },
    Bury,
}

/// What survives a crash.
#[derive(Default)]
struct World {
    log: Vec<Message>,
    recorded: Option<Position>,
    inserted: BTreeMap<String, Vec<RowId>>,
    buried: BTreeSet<RowId>,
}

/// A lane with its hands, which do not.
struct Driver {
    lane: Lane,
    now: Instant,
    cursor: usize,
    open: Batch,
    closed: Option<(Range<u64>, Batch)>,
    work: Option<Work>,
    stopped: bool,
}

#[derive(Clone, Default)]
struct Batch {
    rows: Vec<RowId>,
    dead: Vec<RowId>,
}

impl Driver {
    fn new(world: &World, limits: Limits, now: Instant) -> Self {
        let from = world.recorded.map_or(0, |position| position.next);
        Self {
            lane: Lane::new(limits, world.recorded),
            now,
            cursor: world.log.partition_point(|message| message.offset < from),
            open: Batch::default(),
            closed: None,
            work: None,
            stopped: false,
        }
    }

    fn act(&mut self, world: &mut World, action: Action) {
        match action {
            Action::Offer => self.offer(world),
            Action::Wait(ms) => {
                self.now += Duration::from_millis(ms.into());
                self.step(world, Input::Timer);
            }
            Action::MemoryFull => self.step(world, Input::MemoryFull),
            Action::Drain => self.step(world, Input::Drain),
            Action::Crash => {}
            Action::Succeed | Action::Fail | Action::LoseAcknowledgement => self.work(world, action),
        }
    }

    fn offer(&mut self, world: &mut World) {
        let Some(message) = world.log.get(self.cursor).cloned() else { return };
        let mut effects = Vec::new();
        self.lane.step(self.now, Input::Offered { offset: message.offset }, &mut effects);
        let take = effects.last() == Some(&Effect::Take);
        effects.retain(|effect| *effect != Effect::Take);
        self.perform(world, effects);
        if take {
            self.cursor += 1;
            self.open.rows.extend((0..message.rows).map(|row| (message.offset, row)));
            let dead = message.rows..message.rows + message.undecodable;
            self.open.dead.extend(dead.map(|row| (message.offset, row)));
            let lines = message.rows + message.undecodable;
            let open_rows = self.open.rows.len() as u32;
            let input = Input::Taken { offset: message.offset, lines, open_rows, open_bytes: 0 };
            self.step(world, input);
        }
    }

    fn step(&mut self, world: &mut World, input: Input) {
        let mut effects = Vec::new();
        self.lane.step(self.now, input, &mut effects);
        self.perform(world, effects);
    }

    fn perform(&mut self, world: &mut World, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Take => unreachable!("only an offer is taken"),
                Effect::Close { first, next } => {
                    assert!(self.closed.is_none(), "one batch at a time");
                    self.closed = Some((first..next, std::mem::take(&mut self.open)));
                }
                Effect::Record(position) => {
                    world.check_stored_below(position.next);
                    self.begin(Work::Record(position));
                }
                Effect::Insert { rows, whole } => {
                    let (range, _) = self.closed.as_ref().expect("a closed batch");
                    let intent = Position { next: range.start, pending_next: Some(range.end) };
                    assert_eq!(world.recorded, Some(intent), "the intent is on record before the insert");
                    self.begin(Work::Insert { rows, whole });
                }
                Effect::Refuse { row } => {
                    let (_, batch) = self.closed.as_mut().unwrap();
                    batch.dead.push(batch.rows[row as usize]);
                }
                Effect::Bury => self.begin(Work::Bury),
                Effect::Release => self.closed = None,
                Effect::Reread { first, .. } => {
                    self.open = Batch::default();
                    self.closed = None;
                    self.cursor = world.log.partition_point(|message| message.offset < first);
                }
                Effect::Stop => self.stopped = true,
            }
        }
    }

    fn begin(&mut self, work: Work) {
        assert!(self.work.is_none(), "one thing at a time: {:?} and {work:?}", self.work);
        self.work = Some(work);
    }

    fn work(&mut self, world: &mut World, action: Action) {
        let Some(work) = self.work.take() else { return };
        let happens = !matches!(action, Action::Fail);
        let acknowledged = matches!(action, Action::Succeed);
        let jitter = 0.5;
        let input = match work {
            Work::Record(position) => {
                if happens {
                    world.recorded = Some(position);
                }
                if acknowledged { Input::Recorded } else { Input::RecordFailed { jitter } }
            }
            Work::Insert { rows, whole } => {
                let (range, batch) = self.closed.as_ref().unwrap();
                let part = &batch.rows[rows.start as usize..rows.end as usize];
                let suffix = if whole { String::new() } else { format!("/{}-{}", rows.start, rows.end) };
                let token = format!("{}-{}{suffix}", range.start, range.end);
                let refused = part.iter().any(|row| world.is_poison(*row));
                if happens && !refused {
                    let before = world.inserted.insert(token.clone(), part.to_vec());
                    assert!(before.is_none_or(|before| before == part), "{token} means two things");
                }
                match (happens, refused) {
                    (true, true) => Input::InsertFailed { failure: Failure::Refused, jitter },
                    _ if acknowledged => Input::Inserted,
                    _ => Input::InsertFailed { failure: Failure::Passing, jitter },
                }
            }
            Work::Bury => {
                if happens {
                    world.buried.extend(self.closed.as_ref().unwrap().1.dead.iter().copied());
                }
                if acknowledged { Input::Buried } else { Input::BuryFailed { jitter } }
            }
        };
        self.step(world, input);
    }
}

impl World {
    fn is_poison(&self, (offset, row): RowId) -> bool {
        self.log.iter().any(|message| message.offset == offset && message.poison.contains(&row))
    }

    fn check_stored_below(&self, next: u64) {
        let stored: BTreeSet<RowId> = self.inserted.values().flatten().copied().collect();
        for message in self.log.iter().filter(|message| message.offset < next) {
            for row in 0..message.rows + message.undecodable {
                let id = (message.offset, row);
                let dead = row >= message.rows || message.poison.contains(&row);
                assert_eq!(self.buried.contains(&id), dead, "{id:?} below {next}");
                assert_eq!(stored.contains(&id), !dead, "{id:?} below {next}");
            }
        }
    }
}

fn limits(rows_max: u32) -> Limits {
    Limits {
        rows_max,
        bytes_max: usize::MAX,
        age_max: Duration::from_millis(100),
        backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_millis(80) },
        unknown_attempts_max: 3,
    }
}

fn message() -> impl Strategy<Value = (u64, u32, u32, BTreeSet<u32>)> {
    let gap = prop_oneof![5 => Just(1_u64), 1 => 2..6_u64];
    let poison = prop_oneof![
        8 => Just(BTreeSet::new()),
        1 => proptest::collection::btree_set(0..4_u32, 1..3),
    ];
    (gap, 0..4_u32, prop_oneof![5 => Just(0), 1 => 1..3_u32], poison)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        10 => Just(Action::Offer),
        4 => (0..150_u16).prop_map(Action::Wait),
        10 => Just(Action::Succeed),
        2 => Just(Action::Fail),
        2 => Just(Action::LoseAcknowledgement),
        1 => Just(Action::MemoryFull),
        1 => Just(Action::Drain),
        1 => Just(Action::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_stored_once_or_buried(
        messages in proptest::collection::vec(message(), 0..40),
        actions in proptest::collection::vec(action(), 0..300),
        rows_max in 1..20_u32,
    ) {
        let mut offset = 0;
        let mut world = World::default();
        for (gap, rows, undecodable, mut poison) in messages {
            offset += gap;
            poison.retain(|row| *row < rows);
            world.log.push(Message { offset, rows, undecodable, poison });
        }
        let now = Instant::now();
        let mut driver = Driver::new(&world, limits(rows_max), now);
        for action in actions {
            driver.act(&mut world, action);
            if driver.stopped || matches!(action, Action::Crash) {
                // The next one may have other limits: ranges on record must not care.
                driver = Driver::new(&world, limits(rows_max + offset as u32 % 3), driver.now);
            }
        }
        // Nothing goes wrong any more, and one more message ends a range that ended in a gap.
        driver = Driver::new(&world, limits(rows_max), driver.now);
        let end = offset + 7;
        world.log.push(Message { offset: end, rows: 1, undecodable: 0, poison: BTreeSet::new() });
        for _ in 0..10_000 {
            driver.act(&mut world, Action::Offer);
            driver.act(&mut world, Action::Succeed);
            driver.act(&mut world, Action::Wait(100));
        }
        driver.act(&mut world, Action::Drain);
        prop_assert!(driver.stopped, "a lane with nothing to do stops");
        prop_assert_eq!(world.recorded, Some(Position { next: end + 1, pending_next: None }));
        world.check_stored_below(end + 1);
        let mut seen = BTreeSet::new();
        for (token, rows) in &world.inserted {
            for row in rows {
                prop_assert!(seen.insert(*row), "{row:?} is stored under {token} and another token");
            }
        }
    }
}

fn step(lane: &mut Lane, now: Instant, input: Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    lane.step(now, input, &mut effects);
    effects
}

fn offer(lane: &mut Lane, now: Instant, offset: u64, open_rows: u32) -> Vec<Effect> {
    let mut effects = step(lane, now, Input::Offered { offset });
    if effects.last() == Some(&Effect::Take) {
        effects.pop();
        effects.extend(step(lane, now, Input::Taken { offset, lines: 1, open_rows, open_bytes: 0 }));
    }
    effects
}

#[test]
fn a_full_batch_follows_with_one_record() {
    let now = Instant::now();
    let mut lane = Lane::new(limits(2), Some(Position { next: 5, pending_next: None }));
    assert_eq!(offer(&mut lane, now, 5, 1), []);
    let intent = |next, pending| Effect::Record(Position { next, pending_next: Some(pending) });
    assert_eq!(offer(&mut lane, now, 8, 2), [Effect::Close { first: 5, next: 9 }, intent(5, 9)]);
    assert_eq!(offer(&mut lane, now, 9, 1), []);
    assert_eq!(offer(&mut lane, now, 10, 2), [], "full, and waits for the batch before");
    assert_eq!(step(&mut lane, now, Input::Offered { offset: 11 }), [], "takes no more");
    assert_eq!(step(&mut lane, now, Input::Recorded), [Effect::Insert { rows: 0..2, whole: true }]);
    assert_eq!(step(&mut lane, now, Input::Inserted), [Effect::Bury]);
    let follow = [Effect::Release, Effect::Close { first: 9, next: 11 }, intent(9, 11)];
    assert_eq!(step(&mut lane, now, Input::Buried), follow);
}

#[test]
fn unknown_errors_are_tried_a_few_times_and_then_searched() {
    let now = Instant::now();
    let mut lane = Lane::new(limits(10), Some(Position { next: 0, pending_next: Some(1) }));
    assert_eq!(lane.must_read_to(), Some(1));
    let insert = Effect::Insert { rows: 0..1, whole: true };
    assert_eq!(offer(&mut lane, now, 0, 1), [Effect::Close { first: 0, next: 1 }, insert.clone()]);
    let failed = Input::InsertFailed { failure: Failure::Unknown, jitter: 1.0 };
    for _ in 0..2 {
        assert_eq!(step(&mut lane, now, failed), []);
        assert!(lane.deadline().is_some());
        let later = now + Duration::from_secs(1);
        assert_eq!(step(&mut lane, later, Input::Timer), std::slice::from_ref(&insert));
    }
    assert_eq!(step(&mut lane, now, failed), [Effect::Reread { first: 0, next: 1 }]);
    offer(&mut lane, now, 0, 1);
    let refused = Input::InsertFailed { failure: Failure::Refused, jitter: 1.0 };
    assert_eq!(step(&mut lane, now, refused), [Effect::Refuse { row: 0 }, Effect::Bury]);
}

#[test]
fn a_log_that_begins_again_below_is_read() {
    let now = Instant::now();
    let mut lane = Lane::new(limits(10), Some(Position { next: 100, pending_next: None }));
    offer(&mut lane, now, 100, 1);
    let closed = step(&mut lane, now, Input::Offered { offset: 3 });
    assert_eq!(closed[0], Effect::Close { first: 100, next: 101 });
    assert_eq!(closed.last(), Some(&Effect::Take));
    step(&mut lane, now, Input::Taken { offset: 3, lines: 1, open_rows: 1, open_bytes: 0 });
    step(&mut lane, now, Input::Recorded);
    step(&mut lane, now, Input::Inserted);
    let later = now + Duration::from_secs(1);
    let finished = step(&mut lane, later, Input::Buried);
    let end = Position { next: 101, pending_next: None };
    assert_eq!(finished, [Effect::Release, Effect::Record(end)]);
    let below = step(&mut lane, later, Input::Recorded);
    assert_eq!(below[0], Effect::Close { first: 3, next: 4 });
}
