//! Step `bot`: whether an event is a program's, why it is taken for one, what the program is for, and its name. The event is
//! kept and marked, and left out of every rollup; it is never dropped, as a verdict may be wrong.

/// Why something is taken for a bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BotReason {
    /// Its user agent says so.
    UserAgent,
    /// A browser that nobody looks at, or that a program drives.
    Headless,
    /// It comes from a network that the operator lists.
    DataCentre,
    /// It says that it comes from a site that makes up visits.
    ReferrerSpam,
    /// One visitor does more than a person can.
    Rate,
}

impl BotReason {
    /// Every one; each stands at its own index.
    pub const ALL: [BotReason; 5] = [
        BotReason::UserAgent,
        BotReason::Headless,
        BotReason::DataCentre,
        BotReason::ReferrerSpam,
        BotReason::Rate,
    ];

    /// As rows and metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            BotReason::UserAgent => "user_agent",
            BotReason::Headless => "headless",
            BotReason::DataCentre => "data_centre",
            BotReason::ReferrerSpam => "referrer_spam",
            BotReason::Rate => "rate",
        }
    }
}

/// What a bot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BotKind {
    /// It fills the index of a search engine.
    Search,
    /// It gathers texts from which models learn.
    AiTraining,
    /// It reads pages for a person who asks an assistant now.
    AiAssistant,
    /// It looks whether a site is up, fast or well made.
    Monitor,
    /// It shows what is behind a link that somebody posted.
    Preview,
    /// A library for requests, or a program that names itself alone: who runs it, and what for, is unknown.
    Library,
    /// It wants to be seen in reports.
    Spam,
    /// Anything else.
    Other,
}

impl BotKind {
    /// Every one.
    pub(crate) const ALL: [BotKind; 8] = [
        BotKind::Search,
        BotKind::AiTraining,
        BotKind::AiAssistant,
        BotKind::Monitor,
        BotKind::Preview,
        BotKind::Library,
        BotKind::Spam,
        BotKind::Other,
    ];

    /// As rows and the lists of data spell it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            BotKind::Search => "search",
            BotKind::AiTraining => "ai_training",
            BotKind::AiAssistant => "ai_assistant",
            BotKind::Monitor => "monitor",
            BotKind::Preview => "preview",
            BotKind::Library => "library",
            BotKind::Spam => "spam",
            BotKind::Other => "other",
        }
    }
}

/// What is said of a bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict<'a> {
    pub(crate) reason: BotReason,
    pub(crate) kind: BotKind,
    /// Empty where it has none.
    pub(crate) name: &'a str,
}

impl Verdict<'_> {
    /// Of one that says nothing of itself.
    pub(crate) const fn nameless(reason: BotReason) -> Self {
        Self { reason, kind: BotKind::Other, name: "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_indexes() {
        for (index, reason) in BotReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
