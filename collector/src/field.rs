//! The fields of an event that the collector knows; every other key of an event is ignored, so that senders may be
//! newer than the collector.

macro_rules! fields {
    ($($variant:ident = $name:literal,)+) => {
        /// A field of an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Field { $($variant,)+ }

        impl Field {
            /// Every field.
            pub(crate) const ALL: &'static [Field] = &[$(Field::$variant,)+];

            /// The field's name in JSON.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Field::$variant => $name,)+ }
            }
        }
    };
}

fields! {
    Type = "type",
    EventId = "event_id",
    Timestamp = "timestamp",
    AgeMs = "age_ms",
    SentAt = "sent_at",
    VisitorId = "visitor_id",
    SessionId = "session_id",
    UserId = "user_id",
    Sequence = "sequence",
    Interactive = "interactive",
    Url = "url",
    Title = "title",
    Referrer = "referrer",
    Language = "language",
    Timezone = "timezone",
    ViewportWidth = "viewport_width",
    ViewportHeight = "viewport_height",
    ScreenWidth = "screen_width",
    ScreenHeight = "screen_height",
    PageViewId = "page_view_id",
    DurationMs = "duration_ms",
    ScrollDepth = "scroll_depth",
    Name = "name",
    Category = "category",
    Action = "action",
    Label = "label",
    Value = "value",
    X = "x",
    Y = "y",
    PageWidth = "page_width",
    PageHeight = "page_height",
    Selector = "selector",
    Text = "text",
    Currency = "currency",
    Tax = "tax",
    Shipping = "shipping",
    Discount = "discount",
    OrderId = "order_id",
    TransactionId = "transaction_id",
    RefundId = "refund_id",
    Coupon = "coupon",
    Items = "items",
    Ecommerce = "ecommerce",
    Properties = "properties",
    Ip = "ip",
    UserAgent = "user_agent",
    Webdriver = "webdriver",
    WriteKey = "write_key",
    Context = "context",
    Events = "events",
}

/// Fields that may also stand together in the object `ecommerce`, as GA4's data layer has them.
pub(crate) const COMMERCE: [Field; 10] = [
    Field::Value,
    Field::Currency,
    Field::Tax,
    Field::Shipping,
    Field::Discount,
    Field::OrderId,
    Field::TransactionId,
    Field::RefundId,
    Field::Coupon,
    Field::Items,
];

/// Number of fields.
pub(crate) const COUNT: usize = Field::ALL.len();

impl Field {
    /// The field with this name. A lookup is one table access and one comparison: it runs for every key of every
    /// event.
    #[inline]
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let name = name.as_bytes();
        if name.is_empty() {
            return None;
        }
        let field = *Field::ALL.get(usize::from(TABLE[slot(name)]))?;
        (field.name().as_bytes() == name).then_some(field)
    }
}

const SLOTS: usize = 512;
const NONE: u8 = u8::MAX;

/// A perfect hash over the names above; that it is one is checked when this is compiled.
const TABLE: [u8; SLOTS] = {
    let mut table = [NONE; SLOTS];
    let mut index = 0;
    while index < COUNT {
        let slot = slot(Field::ALL[index].name().as_bytes());
        assert!(table[slot] == NONE, "two field names share a slot: change `slot`");
        table[slot] = index as u8;
        index += 1;
    }
    table
};

#[inline]
const fn slot(name: &[u8]) -> usize {
    let length = name.len();
    let letters = name[0] as usize * 305
        + name[length - 1] as usize * 162
        + name[length / 2] as usize * 426
        + name[length / 3] as usize * 258;
    (letters + length * 133) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        for field in Field::ALL {
            assert_eq!(Field::parse(field.name()), Some(*field));
        }
        assert_eq!(Field::parse(""), None);
        assert_eq!(Field::parse("urls"), None);
    }

    #[test]
    fn what_becomes_of_every_field_is_documented() {
        let documented = include_str!("../../docs/fields.md");
        for field in Field::ALL {
            assert!(documented.contains(&format!("`{}`", field.name())), "{}", field.name());
        }
        for repair in millrace_schemas::repair::Repair::ALL {
            assert!(documented.contains(&format!("| `{repair}` |")), "{repair}");
        }
    }

    /// `transaction_id` is GA4's name of `order_id`; the other three stand around events, not in them.
    #[test]
    fn every_field_is_described() {
        let openapi: serde_json::Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
        let described = openapi["components"]["schemas"]["Fields"]["properties"].as_object().unwrap();
        let undescribed = [Field::TransactionId, Field::WriteKey, Field::Context, Field::Events];
        for field in Field::ALL.iter().filter(|field| !undescribed.contains(field)) {
            assert!(described.contains_key(field.name()), "{}", field.name());
        }
        assert_eq!(described.len(), COUNT - undescribed.len());
    }
}
