//! A body to rows: decode → validate → enrich → encode. Whatever the bytes are,
//!
//! * every element of a list is accepted or rejected, and no more of them than the limit;
//! * every row that is written is one that the consumer reads, and reading and writing it again gives the same bytes;
//! * the same bytes become the same rows, also in memory that was used before.

use std::sync::LazyLock;

use millrace_collector::{
    EnrichConfig,
    chain::collect_body,
    decode::{Form, Scratch},
    encode::{Message, Topic},
    enrich::Enricher,
    salts::{Salts, UTC},
    validate::Request,
};
use millrace_consumer::decode::{Table, lines};
use millrace_schemas::limits::Limits;
use serde_json::Value;

use crate::row;

static SALTS: LazyLock<Salts> = LazyLock::new(|| Salts::same([7; 32], 1_793_511_000_123));

/// Every step but the rate, which knows what was before: the same bytes must become the same rows.
pub static ENRICHER: LazyLock<Enricher> = LazyLock::new(|| {
    let config = EnrichConfig { bot_events_per_minute: 0, ..EnrichConfig::default() };
    Enricher::new(&config).expect("it reads no file")
});

/// The form and the request that the first byte chooses, so that short inputs reach both sides of each limit.
pub fn request(choice: u8) -> (Form, Request<'static>) {
    let form = if choice & 1 == 0 { Form::Json } else { Form::Lines };
    let limits = if choice & 2 == 0 {
        Limits::default()
    } else {
        Limits { event_bytes_max: 200, events_max: 3, properties_max: 2, items_max: 2, ..Limits::default() }
    };
    let request = Request {
        store_id: "demo",
        currency: "USD",
        event_age_max_days: 30,
        trusted: choice & 4 != 0,
        received_at: 1_793_511_000_123,
        user_agent: "agent",
        address: Some([192, 0, 2, 7].into()),
        salts: &SALTS,
        timezone: &UTC,
        id_seed: 7,
        limits,
    };
    (form, request)
}

/// See the module.
pub fn check(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let (form, request) = request(*choice);
    let mut scratch = Scratch::default();
    let Ok(outcome) = collect_body(body, form, &request, &ENRICHER, &mut scratch) else { return };
    let events = outcome.accepted() + outcome.rejected.len();
    assert!(events <= request.limits.events_max, "{events} events");
    if form == Form::Json
        && let Ok(Value::Array(elements)) = serde_json::from_slice(body)
    {
        assert_eq!(events, elements.len(), "every element has its answer");
    }
    assert_eq!(rows(&outcome.messages), outcome.accepted());
    let again = collect_body(body, form, &request, &ENRICHER, &mut scratch).map(|again| again.messages);
    assert!(again.is_ok_and(|again| again == outcome.messages), "the same bytes, other rows");
}

/// How many rows there are in messages, each checked.
pub(crate) fn rows(messages: &[Message]) -> usize {
    let mut rows = 0;
    for message in messages {
        assert!(message.key.starts_with(b"demo:"));
        let table = match message.topic {
            Topic::Events => Table::Events,
            Topic::Clicks => Table::Clicks,
        };
        for (_, line) in lines(&message.value) {
            let again = row::written_again(table, line);
            assert_eq!(again.as_deref(), Some(line), "{}", String::from_utf8_lossy(line));
            rows += 1;
        }
        assert_eq!(message.value.split(|byte| *byte == b'\n').count(), lines(&message.value).count());
    }
    rows
}
