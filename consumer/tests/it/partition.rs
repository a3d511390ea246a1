//! The partition's state machine, one rule at a time. All of them at once: the simulation.

use std::time::{Duration, Instant};

use millrace_consumer::{
    backoff::Backoff,
    partition::{Effect, Failure, Input, Limits, Partition},
};
use millrace_schemas::spool::Position;

fn limits(rows_max: u32) -> Limits {
    Limits {
        rows_max,
        bytes_max: usize::MAX,
        age_max: Duration::from_millis(100),
        backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_millis(80) },
        unknown_attempts_max: 3,
    }
}

fn step(partition: &mut Partition, now: Instant, input: Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    partition.step(now, input, &mut effects);
    effects
}

fn offer(partition: &mut Partition, now: Instant, offset: u64, open_rows: u32) -> Vec<Effect> {
    let mut effects = step(partition, now, Input::Offered { offset });
    if effects.last() == Some(&Effect::Take) {
        effects.pop();
        effects.extend(step(partition, now, Input::Taken { offset, lines: 1, open_rows, open_bytes: 0 }));
    }
    effects
}

#[test]
fn a_full_batch_follows_with_one_record() {
    let now = Instant::now();
    let mut partition = Partition::new(limits(2), Some(Position { next: 5, pending_next: None }), now);
    assert_eq!(offer(&mut partition, now, 5, 1), []);
    let intent = |next, pending| Effect::Record(Position { next, pending_next: Some(pending) });
    assert_eq!(offer(&mut partition, now, 8, 2), [Effect::Close { first: 5, next: 9 }, intent(5, 9)]);
    assert_eq!(offer(&mut partition, now, 9, 1), []);
    assert_eq!(offer(&mut partition, now, 10, 2), [], "full, and waits for the batch before");
    assert_eq!(step(&mut partition, now, Input::Offered { offset: 11 }), [], "takes no more");
    assert_eq!(
        step(&mut partition, now, Input::Recorded),
        [Effect::Insert { rows: 0..2, whole: true, with_token: true }]
    );
    assert_eq!(step(&mut partition, now, Input::Inserted), [Effect::WriteDeadLetters]);
    let follow = [Effect::Release, Effect::Close { first: 9, next: 11 }, intent(9, 11)];
    assert_eq!(step(&mut partition, now, Input::DeadLettersWritten), follow);
}

const INSERT: Effect = Effect::Insert { rows: 0..1, whole: true, with_token: true };
const READ_BACK: Effect = Effect::ReadBack { rows: 0..1 };
const ABSENT: Input = Input::ReadBack { all: false };

fn failed(failure: Failure) -> Input {
    Input::InsertFailed { failure, jitter: 1.0 }
}

#[test]
fn what_may_have_been_sent_is_asked_for() {
    let now = Instant::now();
    let mut partition = Partition::new(limits(10), Some(Position { next: 0, pending_next: Some(1) }), now);
    assert_eq!(partition.must_read_to(), Some(1));
    assert_eq!(offer(&mut partition, now, 0, 1), [Effect::Close { first: 0, next: 1 }, READ_BACK]);
    assert_eq!(step(&mut partition, now, ABSENT), [INSERT]);
    assert_eq!(step(&mut partition, now, failed(Failure::Passing)), []);
    let later = now + Duration::from_secs(1);
    assert_eq!(step(&mut partition, later, Input::Timer), [READ_BACK]);
    assert_eq!(
        step(&mut partition, later, Input::ReadBack { all: true }),
        [Effect::WriteDeadLetters],
        "spared"
    );
}

#[test]
fn a_range_that_was_long_on_its_way_is_asked_for() {
    for (seconds, then) in [(1, INSERT), (60, READ_BACK)] {
        let now = Instant::now();
        let mut partition = Partition::new(limits(1), None, now);
        offer(&mut partition, now, 0, 1);
        assert_eq!(step(&mut partition, now + Duration::from_secs(seconds), Input::Recorded), [then]);
    }
}

#[test]
fn a_recorded_range_whose_head_is_gone_is_finished_with_its_rest() {
    let now = Instant::now();
    let position = Some(Position { next: 0, pending_next: Some(20) });
    let close = Effect::Close { first: 0, next: 20 };
    let mut partition = Partition::new(limits(10), position, now);
    assert_eq!(offer(&mut partition, now, 18, 1), []);
    assert_eq!(offer(&mut partition, now, 19, 2), [close.clone(), Effect::ReadBack { rows: 0..2 }]);

    let mut partition = Partition::new(limits(10), position, now);
    assert_eq!(offer(&mut partition, now, 30, 1), [close, Effect::WriteDeadLetters], "nothing of it is left");
    let end = Position { next: 20, pending_next: None };
    assert_eq!(step(&mut partition, now, Input::DeadLettersWritten), [Effect::Release, Effect::Record(end)]);
}

#[test]
fn unknown_errors_are_tried_a_few_times_and_then_searched() {
    let now = Instant::now();
    let mut partition = Partition::new(limits(10), Some(Position { next: 0, pending_next: Some(1) }), now);
    offer(&mut partition, now, 0, 1);
    assert_eq!(step(&mut partition, now, ABSENT), [INSERT]);
    for _ in 0..2 {
        assert_eq!(step(&mut partition, now, failed(Failure::Unknown)), []);
        assert!(partition.deadline().is_some());
        assert_eq!(step(&mut partition, now + Duration::from_secs(1), Input::Timer), [READ_BACK]);
        assert_eq!(step(&mut partition, now, ABSENT), [INSERT]);
    }
    assert_eq!(step(&mut partition, now, failed(Failure::Unknown)), [Effect::Reread { first: 0, next: 1 }]);
    offer(&mut partition, now, 0, 1);
    assert_eq!(step(&mut partition, now, ABSENT), [INSERT]);
    assert_eq!(
        step(&mut partition, now, failed(Failure::Refused)),
        [READ_BACK],
        "it may be there all the same"
    );
    assert_eq!(step(&mut partition, now, ABSENT), [Effect::Refuse { row: 0 }, Effect::WriteDeadLetters]);
}

#[test]
fn a_refused_row_is_not_dead_lettered_before_the_store_has_answered() {
    let now = Instant::now();
    let mut partition = Partition::new(limits(10), Some(Position { next: 0, pending_next: Some(1) }), now);
    offer(&mut partition, now, 0, 1);
    let unanswered = Input::Unanswered { jitter: 1.0 };
    assert_eq!(step(&mut partition, now, unanswered), [INSERT], "sent again without an answer");
    assert_eq!(step(&mut partition, now, failed(Failure::Refused)), [Effect::Reread { first: 0, next: 1 }]);
    offer(&mut partition, now, 0, 1);
    assert_eq!(step(&mut partition, now, unanswered), [INSERT]);
    assert_eq!(step(&mut partition, now, failed(Failure::Refused)), [READ_BACK]);
    let mut later = now;
    for _ in 0..20 {
        assert_eq!(step(&mut partition, later, unanswered), []);
        later = partition.deadline().expect("it is asked again");
        assert_eq!(step(&mut partition, later, Input::Timer), [READ_BACK]);
    }
    assert_eq!(
        step(&mut partition, later, Input::ReadBack { all: true }),
        [Effect::WriteDeadLetters],
        "and nothing in it"
    );
}

#[test]
fn an_overloaded_store_is_asked_less_often_for_a_while() {
    let mut now = Instant::now();
    let mut partition = Partition::new(limits(10), Some(Position { next: 0, pending_next: None }), now);
    let mut age_of_batch = |overloads: u32, offset: u64| {
        offer(&mut partition, now, offset, 1);
        let age = partition.deadline().unwrap() - now;
        now += age;
        step(&mut partition, now, Input::Timer);
        step(&mut partition, now, Input::Recorded);
        for attempt in 0..overloads {
            step(&mut partition, now, Input::InsertFailed { failure: Failure::Overloaded, jitter: 0.0 });
            let pause = partition.deadline().unwrap() - now;
            assert!(pause >= Duration::from_millis(20 << attempt.min(1)), "never at once: {pause:?}");
            now += pause;
            step(&mut partition, now, Input::Timer);
            step(&mut partition, now, ABSENT);
        }
        step(&mut partition, now, Input::Inserted);
        if overloads > 0 {
            step(&mut partition, now, Input::ReadBack { all: true });
        }
        step(&mut partition, now, Input::DeadLettersWritten);
        step(&mut partition, now, Input::Recorded);
        age.as_millis()
    };
    let overloads = [0, 3, 1, 0, 0, 0];
    let ages: Vec<_> = (0..6).map(|offset| age_of_batch(overloads[offset], offset as u64)).collect();
    assert_eq!(ages, [100, 100, 200, 400, 200, 100]);
}

#[test]
fn a_log_that_begins_again_below_is_read() {
    let now = Instant::now();
    let mut partition = Partition::new(limits(10), Some(Position { next: 100, pending_next: None }), now);
    offer(&mut partition, now, 100, 1);
    let closed = step(&mut partition, now, Input::Offered { offset: 3 });
    assert_eq!(closed[0], Effect::Close { first: 100, next: 101 });
    assert_eq!(closed.last(), Some(&Effect::Take));
    step(&mut partition, now, Input::Taken { offset: 3, lines: 1, open_rows: 1, open_bytes: 0 });
    step(&mut partition, now, Input::Recorded);
    step(&mut partition, now, Input::Inserted);
    let later = now + Duration::from_secs(1);
    let finished = step(&mut partition, later, Input::DeadLettersWritten);
    let end = Position { next: 101, pending_next: None };
    assert_eq!(finished, [Effect::Release, Effect::Record(end)]);
    let below = step(&mut partition, later, Input::Recorded);
    assert_eq!(below[0], Effect::Close { first: 3, next: 4 });
}

#[test]
fn a_position_that_waits_says_since_when() {
    let start = Instant::now();
    let later = |seconds| start + Duration::from_secs(seconds);
    let mut partition = Partition::new(limits(1), Some(Position { next: 0, pending_next: Some(1) }), start);
    assert_eq!(partition.stalled_since(), Some(start), "a range is rebuilt");
    offer(&mut partition, later(1), 0, 1);
    step(&mut partition, later(1), ABSENT);
    assert_eq!(
        step(&mut partition, later(2), failed(Failure::Refused)),
        [Effect::Reread { first: 0, next: 1 }]
    );
    assert_eq!(partition.stalled_since(), Some(start), "it is rebuilt again");
    offer(&mut partition, later(3), 0, 1);
    step(&mut partition, later(3), Input::ReadBack { all: true });
    step(&mut partition, later(3), Input::DeadLettersWritten);
    assert_eq!(partition.stalled_since(), Some(start), "its end is not on record");
    step(&mut partition, later(3), Input::Recorded);
    assert_eq!(partition.stalled_since(), None);
    offer(&mut partition, later(4), 1, 1);
    assert_eq!(partition.stalled_since(), Some(later(4)), "the next one waits since it was closed");
}
