//! Dead-letter records on their way to their table, before the position moves beyond them.

use super::{batch::Batch, protocol::Effect, retry::Retry};

/// All rows of the batch are stored or refused.
#[derive(Clone, Debug)]
pub(super) struct DeadLettering {
    pub(super) batch: Batch,
    pub(super) retry: Retry,
}

impl DeadLettering {
    pub(super) fn begin(batch: Batch, effects: &mut Vec<Effect>) -> Self {
        let phase = Self { batch, retry: Retry::default() };
        phase.ask(effects);
        phase
    }

    pub(super) fn ask(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::WriteDeadLetters);
    }

    pub(super) fn written(self, effects: &mut Vec<Effect>) -> Batch {
        effects.push(Effect::Release);
        self.batch
    }
}
