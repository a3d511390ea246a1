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
    let of_type = |kind: &str, fields: &str| format!(r#"{{"type":"{kind}",{common}{fields}}}"#);
    let purchase = |fields: &str| format!(r#"{{"type":"event","name":"purchase",{common},{fields}}}"#);

    [
        (Reason::MalformedJson, "oh".to_string()),
        (Reason::MalformedJson, r#""never ends"#.to_string()),
        (Reason::NotAnObject, "42".into()),
        (Reason::NotAnObject, r#""page_view""#.into()),
        (Reason::MissingField, of_type("page_view", "")),
        (Reason::MissingField, of_type("event", "")),
        (Reason::MissingField, of_type("event", r#","name":"""#)),
        (Reason::MissingField, of_type("click", r#","url":"https://shop.example/","y":4"#)),
        (Reason::UnknownType, of_type("pageview", r#","url":"https://shop.example/""#)),
        (Reason::WrongType, of_type("event", r#","name":{}"#)),
        (Reason::WrongType, of_type("page_view", r#","url":7"#)),
        (Reason::WrongType, of_type("page_view", r#","url":"javascript:alert(1)""#)),
        (Reason::WrongType, of_type("click", r#","url":"https://shop.example/","x":"left","y":4"#)),
        (Reason::EmptyOrderId, purchase(r#""order_id":"","currency":"USD","value":5"#)),
        (Reason::EmptyOrderId, purchase(r#""currency":"USD","value":5"#)),
        (Reason::EmptyOrderId, purchase(r#""order_id":[7],"currency":"USD","value":5"#)),
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
