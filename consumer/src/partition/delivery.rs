//! A closed batch on its way: by what is on its way for it, what an answer leads to. One thing at a time.

use std::time::Instant;

use super::{
    batch::{Batch, Origin},
    dead_lettering::DeadLettering,
    inserting::{Inserting, Step},
    protocol::{Effect, Input, Limits},
    recording::{Moving, Recording},
    retry::{Retry, Slowdown},
};

/// The phases of a closed batch, in their order.
#[derive(Clone, Debug)]
pub(super) enum Delivery {
    Recording(Recording),
    Inserting(Inserting),
    DeadLettering(DeadLettering),
    Moving(Moving),
}

/// What an answer leads to.
pub(super) enum Outcome {
    OnItsWay(Delivery),
    /// All of the batch is stored or dead-lettered; the position has to move beyond it.
    Stored(Batch),
    /// The position has moved beyond the batch.
    Moved,
    /// The batch is refused as a whole, and has to be rebuilt to be searched.
    Refused(Batch),
}

impl Delivery {
    /// A batch whose intent is on record.
    pub(super) fn of_recorded(batch: Batch, origin: Origin, effects: &mut Vec<Effect>) -> Self {
        match Inserting::begin(batch, origin, effects) {
            Step::OnItsWay(inserting) => Self::Inserting(inserting),
            Step::Done(batch) => Self::DeadLettering(DeadLettering::begin(batch, effects)),
            Step::Refused(_) => panic!("{batch:?} is refused before it is sent"),
        }
    }

    pub(super) fn since(&self) -> Instant {
        self.batch().since
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry().at()
    }

    /// Asks once more for what failed, if it is time to.
    pub(super) fn retry_if_due(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.retry_mut().is_due(now) {
            self.ask(effects);
        }
    }

    pub(super) fn answered(
        self,
        now: Instant,
        answer: Input,
        limits: &Limits,
        slowdown: &mut Slowdown,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        assert!(!self.retry().pauses(), "{answer:?} comes while {self:?} pauses");
        let next = match (self, answer) {
            (Self::Recording(phase), Input::Recorded) => {
                let (batch, origin) = phase.recorded(now);
                Self::of_recorded(batch, origin, effects)
            }
            (Self::Recording(mut phase), Input::RecordFailed { jitter }) => {
                phase.retry.pause(now, &limits.backoff, jitter);
                Self::Recording(phase)
            }
            (Self::DeadLettering(phase), Input::DeadLettersWritten) => {
                return Outcome::Stored(phase.written(effects));
            }
            (Self::DeadLettering(mut phase), Input::DeadLettersFailed { jitter }) => {
                phase.retry.pause(now, &limits.backoff, jitter);
                Self::DeadLettering(phase)
            }
            (Self::Moving(_), Input::Recorded) => return Outcome::Moved,
            (Self::Moving(mut phase), Input::RecordFailed { jitter }) => {
                phase.retry.pause(now, &limits.backoff, jitter);
                Self::Moving(phase)
            }
            (Self::Inserting(phase), answer) => {
                match phase.answered(now, answer, limits, slowdown, effects) {
                    Step::OnItsWay(phase) => Self::Inserting(phase),
                    Step::Done(batch) => Self::DeadLettering(DeadLettering::begin(batch, effects)),
                    Step::Refused(batch) => return Outcome::Refused(batch),
                }
            }
            (phase, answer) => panic!("{answer:?} comes to {phase:?}"),
        };
        Outcome::OnItsWay(next)
    }

    fn ask(&self, effects: &mut Vec<Effect>) {
        match self {
            Self::Recording(phase) => phase.ask(effects),
            Self::Inserting(phase) => phase.ask(effects),
            Self::DeadLettering(phase) => phase.ask(effects),
            Self::Moving(phase) => phase.ask(effects),
        }
    }

    fn batch(&self) -> &Batch {
        match self {
            Self::Recording(Recording { batch, .. })
            | Self::DeadLettering(DeadLettering { batch, .. })
            | Self::Moving(Moving { batch, .. }) => batch,
            Self::Inserting(inserting) => inserting.batch(),
        }
    }

    fn retry(&self) -> &Retry {
        match self {
            Self::Recording(Recording { retry, .. })
            | Self::DeadLettering(DeadLettering { retry, .. })
            | Self::Moving(Moving { retry, .. }) => retry,
            Self::Inserting(inserting) => inserting.retry(),
        }
    }

    fn retry_mut(&mut self) -> &mut Retry {
        match self {
            Self::Recording(Recording { retry, .. })
            | Self::DeadLettering(DeadLettering { retry, .. })
            | Self::Moving(Moving { retry, .. }) => retry,
            Self::Inserting(inserting) => inserting.retry_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backoff::Backoff;

    fn answer(delivery: Delivery, answer: Input, effects: &mut Vec<Effect>) -> Delivery {
        let limits = Limits {
            rows_max: 1,
            bytes_max: 1,
            age_max: Duration::ZERO,
            backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_millis(80) },
            unknown_attempts_max: 1,
        };
        match delivery.answered(Instant::now(), answer, &limits, &mut Slowdown::default(), effects) {
            Outcome::OnItsWay(delivery) => delivery,
            Outcome::Stored(_) | Outcome::Moved | Outcome::Refused(_) => panic!("it is over"),
        }
    }

    fn recording() -> Delivery {
        let batch = Batch::new(0, 4, 3, Instant::now());
        Delivery::Recording(Recording::begin(batch, &mut Vec::new()))
    }

    #[test]
    fn what_failed_is_asked_for_again_after_its_pause_and_once() {
        let mut effects = Vec::new();
        let mut delivery = answer(recording(), Input::RecordFailed { jitter: 1.0 }, &mut effects);
        let at = delivery.retry_at().unwrap();
        delivery.retry_if_due(at - Duration::from_millis(1), &mut effects);
        assert_eq!(effects, [], "too early");
        delivery.retry_if_due(at, &mut effects);
        delivery.retry_if_due(at, &mut effects);
        assert_eq!(effects.len(), 1);
        assert_eq!(delivery.retry_at(), None);
    }

    #[test]
    #[should_panic(expected = "Inserted comes to Recording")]
    fn nothing_is_inserted_before_its_intent_is_on_record() {
        answer(recording(), Input::Inserted, &mut Vec::new());
    }

    #[test]
    #[should_panic(expected = "Recorded comes while Recording")]
    fn nothing_answers_during_a_pause() {
        let failed = answer(recording(), Input::RecordFailed { jitter: 1.0 }, &mut Vec::new());
        answer(failed, Input::Recorded, &mut Vec::new());
    }
}
