//! Positions on their way to the record: a batch's intent before it is sent, and the position beyond it afterwards.

use std::time::{Duration, Instant};

use super::{
    batch::{Batch, Origin},
    protocol::Effect,
    retry::Retry,
};

/// A process that stood still for so long between intent and insert may have had a successor.
const INTENT_AGE_MAX: Duration = Duration::from_secs(10);

/// The batch's range is being recorded; nobody has sent it.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    pub(super) batch: Batch,
    pub(super) retry: Retry,
}

/// The position beyond the batch is being recorded, and no other batch waits to be closed.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    pub(super) batch: Batch,
    pub(super) retry: Retry,
}

impl Recording {
    pub(super) fn begin(batch: Batch, effects: &mut Vec<Effect>) -> Self {
        let recording = Self { batch, retry: Retry::default() };
        recording.ask(effects);
        recording
    }

    pub(super) fn ask(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Record(self.batch.intent()));
    }

    pub(super) fn recorded(self, now: Instant) -> (Batch, Origin) {
        let is_old = now > self.batch.since + INTENT_AGE_MAX;
        (self.batch, if is_old { Origin::MaybeSent } else { Origin::Fresh })
    }
}

impl Moving {
    pub(super) fn begin(batch: Batch, effects: &mut Vec<Effect>) -> Self {
        let moving = Self { batch, retry: Retry::default() };
        moving.ask(effects);
        moving
    }

    pub(super) fn ask(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Record(self.batch.end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_that_was_long_on_its_way_may_have_had_a_successor() {
        let now = Instant::now();
        let batch = Batch::new(3, 5, 2, now);
        let mut effects = Vec::new();
        let recording = Recording::begin(batch, &mut effects);
        assert_eq!(effects, [Effect::Record(batch.intent())]);
        assert_eq!(recording.clone().recorded(now + INTENT_AGE_MAX), (batch, Origin::Fresh));
        let later = now + INTENT_AGE_MAX + Duration::from_millis(1);
        assert_eq!(recording.recorded(later), (batch, Origin::MaybeSent));
    }
}
