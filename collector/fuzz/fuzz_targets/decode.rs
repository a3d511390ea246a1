//! Any bytes to log rows: decode → validate → encode must neither panic nor write a line that the consumer cannot read.
//!
//! With `cargo fuzz run decode`, or on stable without it as `coverage.toml` says; `cargo run` alone fuzzes blindly.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_collector::{
    chain::collect_body,
    decode::{Form, Scratch},
    encode::Topic,
    validate::Request,
};
use millrace_schemas::{
    limits::Limits,
    row::{ClickRow, EventRow},
};

fuzz_target!(|input: &[u8]| {
    // The first byte chooses the form and the limits, so that both sides of each are reached by short inputs.
    let Some((choice, body)) = input.split_first() else { return };
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
        bot_reason: "",
        derived_visitor: "derived",
        id_seed: 7,
        limits,
    };
    let mut scratch = Scratch::default();
    let Ok(outcome) = collect_body(body, form, &request, &mut scratch) else { return };
    let mut rows = 0;
    for message in &outcome.messages {
        assert!(message.key.starts_with(b"demo:"));
        for line in message.value.split(|byte| *byte == b'\n') {
            let mut line = line.to_vec();
            match message.topic {
                Topic::Events => {
                    assert!(!simd_json::from_slice::<EventRow<'_>>(&mut line).unwrap().name.is_empty())
                }
                Topic::Clicks => {
                    assert!(!simd_json::from_slice::<ClickRow<'_>>(&mut line).unwrap().url.is_empty())
                }
            }
            rows += 1;
        }
    }
    assert_eq!(rows, outcome.accepted());
    assert!(outcome.accepted() + outcome.rejected.len() <= limits.events_max);
    // The same bytes become the same rows, also in memory that was used before.
    let again = collect_body(body, form, &request, &mut scratch).unwrap();
    assert_eq!(again.messages, outcome.messages);
});
