//! Rows on their way to the store, part by part. What may have been sent before is looked for first, and again once it is
//! acknowledged; a part that is refused is halved until the row at fault is alone, and that row is dead-lettered once the
//! store says that it is not there.

use std::time::Instant;

use super::{
    batch::{Batch, Origin},
    parts::{Halves, Parts},
    protocol::{Effect, Failure, Input, Limits},
    retry::{Retry, Slowdown},
};

/// An insert, by what is on its way for its current part.
#[derive(Clone, Debug)]
pub(super) enum Inserting {
    LookingUp(LookingUp),
    Sending(Sending),
    Verifying(Verifying),
    Confirming(Confirming),
}

/// What an answer leads to.
#[derive(Debug)]
pub(super) enum Step {
    OnItsWay(Inserting),
    /// Every row is stored or refused.
    Done(Batch),
    /// The batch was refused as a whole; its rows have to be searched.
    Refused(Batch),
}

/// The part may have been sent before, and the store is asked for it.
#[derive(Clone, Debug)]
pub(super) struct LookingUp(Insert);

/// The part is being inserted.
#[derive(Clone, Debug)]
pub(super) struct Sending(Insert);

/// The part was acknowledged under a token that may have been used before, and the store is asked whether it is there.
#[derive(Clone, Debug)]
pub(super) struct Verifying {
    insert: Insert,
    /// How often the store has not said.
    unanswered: u32,
}

/// Answers that are waited for before the part is sent without a token: each such sending may be a copy.
const UNANSWERED_MAX: u32 = 3;

/// The part is a single row that was refused, and the store is asked whether it is there all the same.
#[derive(Clone, Debug)]
pub(super) struct Confirming(Insert);

/// What the phases have in common.
#[derive(Clone, Debug)]
struct Insert {
    batch: Batch,
    origin: Origin,
    parts: Parts,
    token: Token,
    /// The store was overloaded by this batch, which slows it down once.
    overloaded: bool,
    /// Failures of the part in a row that nobody could explain.
    unknown_attempts: u32,
    retry: Retry,
}

/// What is known of the token of the current part, and so what an acknowledgement proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// Nobody has sent it. What is acknowledged is stored.
    Unused,
    /// Somebody may have. What is acknowledged is stored or dropped as a repetition, and ClickHouse writes a token down
    /// before the rows: killed in between, it knows the token of rows that it has not.
    MaybeUsed,
    /// It was acknowledged, and the rows are not all there, or nobody says: they are sent without it.
    Spent,
}

impl Inserting {
    /// A batch whose intent is on record.
    pub(super) fn begin(batch: Batch, origin: Origin, effects: &mut Vec<Effect>) -> Step {
        let Some(parts) = Parts::whole(batch.rows) else { return Step::Done(batch) };
        let token = if origin == Origin::Fresh { Token::Unused } else { Token::MaybeUsed };
        let retry = Retry::default();
        let insert = Insert { batch, origin, parts, token, overloaded: false, unknown_attempts: 0, retry };
        match origin {
            Origin::Fresh => insert.send(effects),
            Origin::MaybeSent | Origin::Refused => insert.look_up(effects),
        }
    }

    pub(super) fn batch(&self) -> &Batch {
        &self.insert().batch
    }

    pub(super) fn retry(&self) -> &Retry {
        &self.insert().retry
    }

    pub(super) fn retry_mut(&mut self) -> &mut Retry {
        match self {
            Self::LookingUp(LookingUp(insert))
            | Self::Sending(Sending(insert))
            | Self::Verifying(Verifying { insert, .. })
            | Self::Confirming(Confirming(insert)) => &mut insert.retry,
        }
    }

    /// Asks once more, after a pause.
    pub(super) fn ask(&self, effects: &mut Vec<Effect>) {
        match self {
            Self::LookingUp(LookingUp(insert))
            | Self::Verifying(Verifying { insert, .. })
            | Self::Confirming(Confirming(insert)) => insert.ask(effects),
            Self::Sending(_) => panic!("what failed is looked for before it is sent again: {self:?}"),
        }
    }

    pub(super) fn answered(
        self,
        now: Instant,
        answer: Input,
        limits: &Limits,
        slowdown: &mut Slowdown,
        effects: &mut Vec<Effect>,
    ) -> Step {
        match (self, answer) {
            (Self::LookingUp(phase), Input::ReadBack { all }) => phase.read_back(all, effects),
            (Self::LookingUp(phase), Input::Unanswered { .. }) => phase.unanswered(effects),
            (Self::Sending(phase), Input::Inserted) => phase.inserted(slowdown, effects),
            (Self::Sending(phase), Input::InsertFailed { failure, jitter }) => {
                phase.failed(now, failure, jitter, limits, slowdown, effects)
            }
            (Self::Verifying(phase), Input::ReadBack { all }) => phase.read_back(all, effects),
            (Self::Verifying(phase), Input::Unanswered { jitter }) => {
                phase.unanswered(now, jitter, limits, effects)
            }
            (Self::Confirming(phase), Input::ReadBack { all }) => phase.read_back(all, effects),
            (Self::Confirming(phase), Input::Unanswered { jitter }) => phase.unanswered(now, jitter, limits),
            (phase, answer) => panic!("{answer:?} comes to {phase:?}"),
        }
    }

    fn insert(&self) -> &Insert {
        match self {
            Self::LookingUp(LookingUp(insert))
            | Self::Sending(Sending(insert))
            | Self::Verifying(Verifying { insert, .. })
            | Self::Confirming(Confirming(insert)) => insert,
        }
    }
}

impl LookingUp {
    fn read_back(self, all: bool, effects: &mut Vec<Effect>) -> Step {
        if all { self.0.next_part(effects) } else { self.0.send(effects) }
    }

    /// Sending again needs no proof.
    fn unanswered(self, effects: &mut Vec<Effect>) -> Step {
        self.0.send(effects)
    }
}

impl Sending {
    fn inserted(self, slowdown: &mut Slowdown, effects: &mut Vec<Effect>) -> Step {
        let Self(mut insert) = self;
        if !insert.overloaded {
            slowdown.ease();
        }
        match insert.token {
            Token::Unused | Token::Spent => insert.next_part(effects),
            Token::MaybeUsed => {
                (insert.unknown_attempts, insert.retry) = (0, Retry::default());
                insert.ask(effects);
                Step::OnItsWay(Inserting::Verifying(Verifying { insert, unanswered: 0 }))
            }
        }
    }

    /// Whatever was answered, the rows may be stored, all of them or some.
    fn failed(
        self,
        now: Instant,
        failure: Failure,
        jitter: f64,
        limits: &Limits,
        slowdown: &mut Slowdown,
        effects: &mut Vec<Effect>,
    ) -> Step {
        let Self(mut insert) = self;
        if insert.token == Token::Unused {
            insert.token = Token::MaybeUsed;
        }
        match failure {
            Failure::Passing => insert.retry.pause(now, &limits.backoff, jitter),
            Failure::Overloaded => {
                insert.retry.pause_for_long(now, &limits.backoff, jitter);
                if !std::mem::replace(&mut insert.overloaded, true) {
                    slowdown.grow();
                }
            }
            Failure::Unknown => {
                insert.unknown_attempts += 1;
                if insert.unknown_attempts >= limits.unknown_attempts_max {
                    return insert.refused(effects);
                }
                insert.retry.pause(now, &limits.backoff, jitter);
            }
            Failure::Refused => return insert.refused(effects),
        }
        Step::OnItsWay(Inserting::LookingUp(LookingUp(insert)))
    }
}

impl Verifying {
    fn read_back(self, all: bool, effects: &mut Vec<Effect>) -> Step {
        if all { self.insert.next_part(effects) } else { self.not_seen(effects) }
    }

    /// Sending again needs no proof, and may be a copy.
    fn unanswered(mut self, now: Instant, jitter: f64, limits: &Limits, effects: &mut Vec<Effect>) -> Step {
        self.unanswered += 1;
        if self.unanswered >= UNANSWERED_MAX {
            return self.not_seen(effects);
        }
        self.insert.retry.pause(now, &limits.backoff, jitter);
        Step::OnItsWay(Inserting::Verifying(self))
    }

    fn not_seen(self, effects: &mut Vec<Effect>) -> Step {
        let mut insert = self.insert;
        (insert.token, insert.retry) = (Token::Spent, Retry::default());
        insert.send(effects)
    }
}

impl Confirming {
    fn read_back(self, all: bool, effects: &mut Vec<Effect>) -> Step {
        if !all {
            effects.push(Effect::Refuse { row: self.0.parts.row() });
        }
        self.0.next_part(effects)
    }

    /// Sending again needs no proof. Dead-lettering does, of the opposite: the row may be stored.
    fn unanswered(mut self, now: Instant, jitter: f64, limits: &Limits) -> Step {
        self.0.retry.pause(now, &limits.backoff, jitter);
        Step::OnItsWay(Inserting::Confirming(self))
    }
}

impl Insert {
    fn look_up(self, effects: &mut Vec<Effect>) -> Step {
        self.ask(effects);
        Step::OnItsWay(Inserting::LookingUp(LookingUp(self)))
    }

    fn ask(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::ReadBack { rows: self.parts.current() });
    }

    fn send(self, effects: &mut Vec<Effect>) -> Step {
        let rows = self.parts.current();
        let whole = rows == (0..self.batch.rows);
        assert!(
            whole || self.origin == Origin::Refused,
            "rows {rows:?} of {self:?} are not kept to be sent alone"
        );
        effects.push(Effect::Insert { rows, whole, with_token: self.token != Token::Spent });
        Step::OnItsWay(Inserting::Sending(Sending(self)))
    }

    /// The part is stored or refused; a part that comes after it may have been sent in an earlier search.
    fn next_part(mut self, effects: &mut Vec<Effect>) -> Step {
        let Some(parts) = self.parts.next() else { return Step::Done(self.batch) };
        (self.parts, self.token) = (parts, Token::MaybeUsed);
        (self.unknown_attempts, self.retry) = (0, Retry::default());
        self.look_up(effects)
    }

    fn refused(mut self, effects: &mut Vec<Effect>) -> Step {
        if self.origin != Origin::Refused {
            return Step::Refused(self.batch);
        }
        (self.token, self.unknown_attempts, self.retry) = (Token::MaybeUsed, 0, Retry::default());
        match self.parts.halve() {
            Halves::Two(parts) => Self { parts, ..self }.look_up(effects),
            Halves::Row(parts) => {
                let insert = Self { parts, ..self };
                insert.ask(effects);
                Step::OnItsWay(Inserting::Confirming(Confirming(insert)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backoff::Backoff;

    const LIMITS: Limits = Limits {
        rows_max: 1,
        bytes_max: 1,
        age_max: Duration::ZERO,
        backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_millis(80) },
        unknown_attempts_max: 1,
    };
    const ABSENT: Input = Input::ReadBack { all: false };

    fn answer(step: Step, answer: Input) -> (Step, Vec<Effect>) {
        let mut effects = Vec::new();
        let Step::OnItsWay(phase) = step else { panic!("{answer:?} comes after the end") };
        let (now, mut slowdown) = (Instant::now(), Slowdown::default());
        (phase.answered(now, answer, &LIMITS, &mut slowdown, &mut effects), effects)
    }

    #[test]
    fn a_batch_without_rows_is_done_at_once() {
        let batch = Batch::new(0, 1, 0, Instant::now());
        let mut effects = Vec::new();
        assert!(matches!(Inserting::begin(batch, Origin::MaybeSent, &mut effects), Step::Done(_)));
        assert_eq!(effects, []);
    }

    #[test]
    fn a_refused_batch_is_searched_before_it_is_divided() {
        let batch = Batch::new(0, 4, 3, Instant::now());
        let refused = Input::InsertFailed { failure: Failure::Refused, jitter: 0.0 };
        let mut effects = Vec::new();
        let step = Inserting::begin(batch, Origin::Fresh, &mut effects);
        assert_eq!(effects, [Effect::Insert { rows: 0..3, whole: true, with_token: true }]);
        let (step, effects) = answer(step, refused);
        assert!(matches!(step, Step::Refused(of) if of == batch) && effects.is_empty());

        let step = Inserting::begin(batch, Origin::Refused, &mut Vec::new());
        let (step, _) = answer(step, ABSENT);
        let (step, effects) = answer(step, refused);
        assert_eq!(effects, [Effect::ReadBack { rows: 0..1 }], "the first half");
        let (step, effects) = answer(step, ABSENT);
        assert_eq!(effects, [Effect::Insert { rows: 0..1, whole: false, with_token: true }]);
        let (step, effects) = answer(step, refused);
        assert_eq!(effects, [Effect::ReadBack { rows: 0..1 }], "it may be there all the same");
        let (step, effects) = answer(step, ABSENT);
        assert_eq!(effects, [Effect::Refuse { row: 0 }, Effect::ReadBack { rows: 1..3 }]);
        let (step, effects) = answer(step, Input::ReadBack { all: true });
        assert!(matches!(step, Step::Done(of) if of == batch) && effects.is_empty());
    }

    /// A first insert that ended in nobody knows what, and was sent again and acknowledged.
    fn acknowledged_again() -> Step {
        let batch = Batch::new(0, 4, 3, Instant::now());
        let step = Inserting::begin(batch, Origin::MaybeSent, &mut Vec::new());
        let (step, effects) = answer(step, ABSENT);
        assert_eq!(effects, [Effect::Insert { rows: 0..3, whole: true, with_token: true }]);
        let (step, effects) = answer(step, Input::Inserted);
        assert_eq!(effects, [Effect::ReadBack { rows: 0..3 }], "the token may be all that is there");
        step
    }

    #[test]
    fn what_is_acknowledged_for_a_known_token_must_be_seen() {
        let (step, effects) = answer(acknowledged_again(), Input::ReadBack { all: true });
        assert!(matches!(step, Step::Done(_)) && effects.is_empty());
    }

    #[test]
    fn what_is_acknowledged_and_not_seen_is_sent_without_its_token() {
        let without_token = [Effect::Insert { rows: 0..3, whole: true, with_token: false }];
        let (step, effects) = answer(acknowledged_again(), ABSENT);
        assert_eq!(effects, without_token);
        let (step, effects) = answer(step, Input::Inserted);
        assert!(matches!(step, Step::Done(_)) && effects.is_empty(), "there is no token to drop it");

        let (step, _) = answer(acknowledged_again(), ABSENT);
        let (step, _) = answer(step, Input::InsertFailed { failure: Failure::Passing, jitter: 0.0 });
        let (_, effects) = answer(after_its_pause(step), ABSENT);
        assert_eq!(effects, without_token, "nor is it sent with it ever again");

        // A store that does not say is asked a few times.
        let mut step = acknowledged_again();
        for _ in 1..UNANSWERED_MAX {
            let (paused, effects) = answer(step, Input::Unanswered { jitter: 0.0 });
            assert_eq!(effects, []);
            step = after_its_pause(paused);
        }
        assert_eq!(answer(step, Input::Unanswered { jitter: 0.0 }).1, without_token);
    }

    fn after_its_pause(mut step: Step) -> Step {
        let Step::OnItsWay(phase) = &mut step else { panic!("it is over") };
        assert!(phase.retry_mut().is_due(Instant::now() + Duration::from_secs(1)));
        step
    }

    #[test]
    #[should_panic(expected = "Inserted comes to LookingUp")]
    fn no_insert_is_acknowledged_that_was_not_sent() {
        let batch = Batch::new(0, 4, 3, Instant::now());
        answer(Inserting::begin(batch, Origin::MaybeSent, &mut Vec::new()), Input::Inserted);
    }
}
