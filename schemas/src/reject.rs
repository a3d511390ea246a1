//! The closed list of reasons for which a request or an event is refused.
//!
//! One enum is the answer's `reason`, the metric's label and the dead letter's reason, so the three cannot drift apart.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal, $status:literal;)+) => {
        /// Why something was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The reason as answers, metrics and dead letters spell it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $text,)+ }
            }

            /// The HTTP status of a request that is refused whole for this reason.
            pub const fn status(self) -> u16 {
                match self { $(Reason::$variant => $status,)+ }
            }

            /// Whether the same request may be accepted later, with nothing changed.
            pub const fn is_worth_a_retry(self) -> bool {
                matches!(self.status(), 408 | 429 | 503)
            }

            /// What the reason means, for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => concat!($($doc, " ",)+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The body is not JSON at all.
    NotJson = "not_json", 400;
    /// The request holds no event.
    NoEvents = "no_events", 422;
    /// No key was sent, or nobody knows it.
    UnknownKey = "unknown_key", 401;
    /// The store does not list the page's origin.
    OriginNotAllowed = "origin_not_allowed", 403;
    /// The sender stopped in the middle of the body.
    BodyTimeout = "body_timeout", 408;
    /// The body, or what it inflates to, is larger than the limit.
    BodyTooLarge = "body_too_large", 413;
    /// More events than one request may hold.
    TooManyEvents = "too_many_events", 413;
    /// The event, as a row with all that was learned of it, is larger than the log takes.
    RowTooLarge = "row_too_large", 413;
    /// A content type other than JSON, plain text or newline-delimited JSON.
    UnsupportedType = "unsupported_type", 415;
    /// A content encoding other than gzip, deflate, br or zstd, or a body that does not decode as what it says.
    UnsupportedEncoding = "unsupported_encoding", 415;
    /// The store is over its events or bytes per second, or the client address over its requests.
    RateLimited = "rate_limited", 429;
    /// Too much of what the store sent waits to be stored; other stores go on.
    StoreOverShare = "store_over_share", 429;
    /// Durability cannot be promised now.
    Unavailable = "unavailable", 503;

    /// This element of the request is not valid JSON; its neighbours may be.
    MalformedJson = "malformed_json", 422;
    /// The event is not an object.
    NotAnObject = "not_an_object", 422;
    /// The list of events stands twice.
    DuplicateKey = "duplicate_key", 422;
    /// A field the event's type requires is absent or empty.
    MissingField = "missing_field", 422;
    /// `type` is none of page_view, event, click.
    UnknownType = "unknown_type", 422;
    /// A field that the event's type requires is of another type, or cannot be read; or the request's list is none.
    WrongType = "wrong_type", 422;
    /// A purchase or refund without an `order_id`, or with an empty one: it could not be told from the next.
    EmptyOrderId = "empty_order_id", 422;

    /// The log holds something that is not a row of its table (dead letters only).
    Undecodable = "undecodable", 500;
    /// ClickHouse refuses this row for good (dead letters only).
    RefusedByStore = "refused_by_store", 500;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One event that was refused, as the answer lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// Which field, and what was wrong with it; safe to show to the sender.
    pub detail: String,
}

impl Rejection {
    /// A rejection with its detail.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_distinct_and_documented() {
        let mut texts: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|reason| reason.meaning().ends_with('.')));
    }
}
