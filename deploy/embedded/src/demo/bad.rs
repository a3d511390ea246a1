//! What the collector must refuse, each with the reason that it must give.

use millrace_schemas::reject::Reason;

/// An event that is refused.
#[derive(Clone, Debug)]
pub(super) struct Bad {
    pub(super) text: String,
    pub(super) reason: Reason,
}

/// All kinds of refused events. The time and visitor of each are good.
pub(super) fn bad_events(timestamp_ms: i64) -> Vec<Bad> {
    let common = format!(r#""visitor_id":"v-bad","timestamp":{timestamp_ms}"#);
    let event = |fields: &str| format!(r#"{{"type":"event","name":"test",{common},{fields}}}"#);
    let of_type = |kind: &str, fields: &str| format!(r#"{{"type":"{kind}",{common}{fields}}}"#);
    let purchase = |fields: &str| format!(r#"{{"type":"event","name":"purchase",{common},{fields}}}"#);
    let long = "x".repeat(7_000);
    let large: Vec<_> = (0..10).map(|number| format!(r#""p{number}":"{long}""#)).collect();
    let many: Vec<_> = (0..101).map(|number| format!(r#""p{number}":1"#)).collect();
    let deep = format!("{}{}", "[".repeat(20), "]".repeat(20));

    [
        (Reason::MalformedJson, r#"{"type":"event","name":"#.to_string()),
        (Reason::MalformedJson, r#"{"type":"event","name":"test","value":NaN}"#.to_string()),
        (Reason::NotAnObject, "42".into()),
        (Reason::NotAnObject, r#""page_view""#.into()),
        (Reason::EventTooLarge, event(&format!(r#""properties":{{{}}}"#, large.join(",")))),
        (Reason::TooDeep, event(&format!(r#""extra":{deep}"#))),
        (Reason::DuplicateKey, event(r#""label":"a","label":"b""#)),
        (Reason::MissingField, of_type("page_view", "")),
        (Reason::MissingField, of_type("event", "")),
        (Reason::MissingField, of_type("event", r#","name":"""#)),
        (Reason::MissingField, of_type("click", r#","url":"https://shop.example/","y":4"#)),
        (Reason::UnknownType, of_type("pageview", r#","url":"https://shop.example/""#)),
        (Reason::WrongType, of_type("event", r#","name":7"#)),
        (Reason::WrongType, event(r#""items":{}"#)),
        (Reason::WrongType, event(r#""properties":[1]"#)),
        (Reason::WrongType, event(r#""viewport_width":true"#)),
        (Reason::OutOfRange, event(r#""sequence":4294967296"#)),
        (Reason::OutOfRange, event(r#""items":[{"product_id":"P-001","quantity":4294967296}]"#)),
        (Reason::TooLong, event(&format!(r#""label":"{}""#, "y".repeat(9_000)))),
        (Reason::TooMany, event(&format!(r#""properties":{{{}}}"#, many.join(",")))),
        (Reason::InvalidEventId, event(r#""event_id":"not-a-uuid""#)),
        (Reason::InvalidTimestamp, r#"{"type":"event","name":"test","timestamp":"yesterday"}"#.to_string()),
        (Reason::InvalidUrl, of_type("page_view", r#","url":"/relative""#)),
        (Reason::InvalidUrl, of_type("page_view", r#","url":"javascript:alert(1)""#)),
        (Reason::NegativeAmount, event(r#""currency":"USD","items":[{"product_id":"P-001","price":-1}]"#)),
        (Reason::NegativeAmount, purchase(r#""order_id":"O-bad","currency":"USD","value":-5"#)),
        (Reason::UnknownCurrency, purchase(r#""order_id":"O-bad","currency":"ZZZ","value":5"#)),
        (Reason::EmptyOrderId, purchase(r#""order_id":"","currency":"USD","value":5"#)),
        (Reason::EmptyOrderId, purchase(r#""currency":"USD","value":5"#)),
        (
            Reason::EmptyOrderId,
            format!(r#"{{"type":"event","name":"refund",{common},"currency":"USD","value":5}}"#),
        ),
    ]
    .into_iter()
    .map(|(reason, text)| Bad { text, reason })
    .collect()
}

impl Bad {
    /// A body that is only this has this reason; of others it is not an event at all that is refused.
    pub(super) fn can_stand_alone(&self) -> bool {
        !matches!(self.reason, Reason::MalformedJson | Reason::NotAnObject)
    }
}
