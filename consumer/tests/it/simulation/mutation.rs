//! Rules broken on purpose, between the partition and its hands: each must be noticed.

use millrace_consumer::partition::{Effect, Input};
use millrace_schemas::spool::Position;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// The range is not recorded before the insert.
    SkipTheIntent,
    /// The position moves before the insert.
    MoveThePositionFirst,
    /// Every attempt carries a token of its own.
    DropTheToken,
    /// The token says which range it is and not what is in it.
    TokenWithoutContent,
    /// Rows are sent under a token that was acknowledged without them.
    KeepTheToken,
    /// No insert has a token.
    NeverAToken,
    /// A recorded range is not rebuilt: the next batch is cut as it comes.
    ForgetTheRange,
    /// A recorded range is rebuilt with other rows than it had.
    RebuildOtherRows,
    /// Ranges have gaps: a message is passed over.
    PassOverAMessage,
    /// An insert that failed is taken for one that went well.
    TakeFailureForSuccess,
    /// A row that is refused takes its batch with it.
    DeadLetterTheBatch,
    /// The position moves without the dead-letter records being stored.
    SkipTheDeadLetters,
    /// Rows are sent again without a look at the store.
    SkipReadingBack,
    /// A part of the rows is taken as proof of all.
    TakePartForAll,
    /// A store that does not answer is taken for one that holds nothing.
    TakeSilenceForAbsence,
    /// A consumer that has lost its partition still moves the position.
    NoFence,
}

impl Mutation {
    pub(super) const ALL: [Self; 16] = [
        Self::SkipTheIntent,
        Self::MoveThePositionFirst,
        Self::DropTheToken,
        Self::TokenWithoutContent,
        Self::KeepTheToken,
        Self::NeverAToken,
        Self::ForgetTheRange,
        Self::RebuildOtherRows,
        Self::PassOverAMessage,
        Self::TakeFailureForSuccess,
        Self::DeadLetterTheBatch,
        Self::SkipTheDeadLetters,
        Self::SkipReadingBack,
        Self::TakePartForAll,
        Self::TakeSilenceForAbsence,
        Self::NoFence,
    ];

    /// What is done instead of an effect, and what the partition is told at once.
    pub(super) fn alter(self, effect: Effect) -> (Option<Effect>, Option<Input>) {
        match (self, effect) {
            (Self::SkipTheIntent, Effect::Record(Position { pending_next: Some(_), .. })) => {
                (None, Some(Input::Recorded))
            }
            (Self::MoveThePositionFirst, Effect::Record(Position { pending_next: Some(next), .. })) => {
                (Some(Effect::Record(Position { next, pending_next: None })), None)
            }
            (Self::SkipTheDeadLetters, Effect::WriteDeadLetters) => (None, Some(Input::DeadLettersWritten)),
            (Self::SkipReadingBack, Effect::ReadBack { .. }) => (None, Some(Input::ReadBack { all: false })),
            (Self::KeepTheToken, Effect::Insert { rows, whole, .. }) => {
                (Some(Effect::Insert { rows, whole, with_token: true }), None)
            }
            (Self::NeverAToken, Effect::Insert { rows, whole, .. }) => {
                (Some(Effect::Insert { rows, whole, with_token: false }), None)
            }
            (_, effect) => (Some(effect), None),
        }
    }

    /// What the partition is told instead of what happened.
    pub(super) fn alter_input(self, input: Input) -> Input {
        match (self, input) {
            (Self::TakeFailureForSuccess, Input::InsertFailed { .. }) => Input::Inserted,
            (Self::TakeSilenceForAbsence, Input::Unanswered { .. }) => Input::ReadBack { all: false },
            (_, input) => input,
        }
    }

    /// Whether the hands leave a message out of the batch.
    pub(super) fn passes_over(self, offset: u64, rebuilds: bool) -> bool {
        match self {
            Self::PassOverAMessage => offset % 7 == 3,
            Self::RebuildOtherRows => rebuilds && offset.is_multiple_of(2),
            _ => false,
        }
    }
}
