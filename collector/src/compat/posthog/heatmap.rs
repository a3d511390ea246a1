//! posthog-js collects coordinates for some seconds and sends them together: `$heatmap_data: {url: [{x, y, type, …}]}`.
//!
//! The clicks of one collection have one time, and three in one place would seem to be rage. So they are set apart by half
//! a second each, backwards, unless posthog-js has seen rage there: its `rageclick` stands beside the click itself, and is
//! dropped. A dead click comes seconds after the same click, and counts as another one.

use serde_json::{Map, Value};

use crate::{
    compat::{event_id, put},
    time::parse_time,
};

/// Clicks that are made of one event. Nobody clicks as often in a few seconds.
const CLICKS_MAX: usize = 100;
/// With fields longer than this together, one click is made, and refused, instead of many.
const SHARED_BYTES_MAX: usize = 8 << 10;
/// Three clicks so far apart are no rage, which is three in one second.
const APART_MS: i64 = 501;
/// Clicks so near belong together.
const NEAR_PX: f64 = 30.0;

/// Adds the clicks in `data` to `events`. `shared` is what all of them have; `id` the id of the event that brought them.
pub(super) fn clicks(
    data: &Value,
    shared: &Map<String, Value>,
    id: Option<&str>,
    events: &mut Vec<Map<String, Value>>,
) {
    let Value::Object(pages) = data else {
        // Refused in its place: a click without a page.
        events.push(Map::from_iter([("type".to_owned(), Value::from("click"))]));
        return;
    };
    let shared_bytes: usize = shared.values().map(|value| value.as_str().map_or(8, str::len)).sum();
    let mut left = CLICKS_MAX;
    for (url, points) in pages {
        let points = points.as_array().map(Vec::as_slice).unwrap_or_default();
        if shared_bytes + url.len() > SHARED_BYTES_MAX {
            left = left.min(1);
        }
        let is =
            |point: &&Value, types: &[&str]| point["type"].as_str().is_some_and(|name| types.contains(&name));
        let rage: Vec<_> = points.iter().filter(|point| is(point, &["rageclick"])).take(CLICKS_MAX).collect();
        let clicks: Vec<_> =
            points.iter().filter(|point| is(point, &["click", "deadclick"])).take(left).collect();
        left -= clicks.len();
        // What comes after a click has pushed it back by so much.
        let mut back_ms = 0;
        let first = events.len();
        for (index, point) in clicks.iter().enumerate().rev() {
            let mut click = shared.clone();
            put(&mut click, "type", "click");
            put(&mut click, "url", url.as_str());
            for field in ["x", "y"] {
                put(&mut click, field, point[field].clone());
            }
            let mut properties = Map::new();
            if point["type"] == "deadclick" {
                put(&mut properties, "dead", true);
            }
            if point["target_fixed"] == true {
                put(&mut properties, "target_fixed", true);
            }
            put(&mut click, "properties", properties);
            if let Some(id) = id {
                put(&mut click, "event_id", event_id(&format!("{id} {index} {url}")));
            }
            move_back(&mut click, back_ms);
            if !rage.iter().any(|rage| is_near(rage, point)) {
                back_ms += APART_MS;
            }
            events.push(click);
        }
        events[first..].reverse();
    }
}

fn is_near(one: &Value, other: &Value) -> bool {
    let distance = |field: &str| Some(one[field].as_f64()? - other[field].as_f64()?);
    match (distance("x"), distance("y")) {
        (Some(x), Some(y)) => x.hypot(y) <= NEAR_PX,
        _ => false,
    }
}

fn move_back(click: &mut Map<String, Value>, ms: i64) {
    let time = match click.get("timestamp") {
        Some(Value::String(text)) => parse_time(text),
        Some(Value::Number(number)) => number.as_i64(),
        _ => None,
    };
    if let Some(time) = time {
        put(click, "timestamp", time.saturating_sub(ms));
    } else if let Some(age) = click.get("age_ms").and_then(Value::as_f64) {
        put(click, "age_ms", age + ms as f64);
    }
}
