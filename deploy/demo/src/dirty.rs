//! Events as careless clients write them: other words for the same thing, and fields that cannot be read beside those that
//! count. The ledger knows what was meant.

use rand::RngExt as _;
use serde_json::{Map, Value, json};

use super::world::World;

/// Amounts of an event and of its items.
const AMOUNTS: [&str; 5] = ["value", "tax", "shipping", "discount", "price"];
/// Whole numbers that some clients send as text.
const NUMBERS: [&str; 7] =
    ["quantity", "viewport_width", "viewport_height", "duration_ms", "scroll_depth", "x", "y"];

/// What no value of serde's can be, and what stands for it until the event is a text.
const UNSPEAKABLE: [(&str, &str); 4] =
    [("\u{e000}", r"\ud83d"), ("\"\u{e001}\"", "NaN"), ("\"\u{e002}\"", "1e400"), ("\u{e003}", r"\u0000")];

impl World<'_> {
    /// The text of an event, now and then a careless client's.
    pub(super) fn text_of(&mut self, mut event: Map<String, Value>) -> String {
        if self.chance(self.scenario.dirty) {
            self.soil(&mut event);
        }
        let text = Value::Object(event).to_string();
        UNSPEAKABLE.iter().fold(text, |text, (stand_in, meant)| text.replace(stand_in, meant))
    }

    fn soil(&mut self, event: &mut Map<String, Value>) {
        self.soil_numbers(event);
        for name in ["order_id", "visitor_id", "currency"] {
            if let Some(Value::String(text)) = event.get_mut(name).filter(|_| self.chance(0.3)) {
                *text = format!(" {text}\t");
            }
        }
        if let Some(Value::String(currency)) = event.get_mut("currency").filter(|_| self.chance(0.5)) {
            *currency = currency.to_lowercase();
        }
        if let Some(Value::String(time)) = event.get_mut("timestamp")
            && let Some(utc) = time.strip_suffix('Z')
        {
            *time = format!("{utc}{}", self.one_of(&["+0000", "+00", ""]));
        }
        if let Some(Value::Array(items)) = event.get_mut("items") {
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                self.soil_numbers(item);
            }
            let items = std::mem::take(items);
            event.insert("items".into(), self.other_list(items));
        }
        if let Some(Value::String(title)) = event.get_mut("title") {
            title.push('\u{e000}');
        }
        let noise = match self.rng.random_range(0..6) {
            0 => ("label", "long ".repeat(2_000).into()),
            1 => ("category", json!({ "not": ["a", "text"] })),
            2 => ("properties", json!({ "note": "half\u{e000}", "zero": "\u{e003}", "score": "\u{e001}" })),
            3 => ("properties", json!({ "far": "\u{e002}", "nested": { "list": [1, [2, null]] } })),
            4 => ("language", 7.into()),
            _ => ("sent_by", json!([{ "nobody": "asked" }])),
        };
        event.entry(noise.0).or_insert(noise.1);
    }

    fn soil_numbers(&mut self, fields: &mut Map<String, Value>) {
        for name in NUMBERS {
            if let Some(value) = fields.get_mut(name).filter(|_| self.chance(0.3)) {
                *value = value.to_string().into();
            }
        }
        for name in AMOUNTS {
            if let Some(value) = fields.get_mut(name).filter(|value| value.is_number()) {
                *value = self.spelled(value);
            }
        }
    }

    /// An amount as shops print it.
    fn spelled(&mut self, amount: &Value) -> Value {
        let plain = amount.as_f64().map_or_else(String::new, |amount| format!("{amount:.2}"));
        let (whole, cents) = plain.split_once('.').unwrap_or((&plain, "00"));
        let grouped = |separator: &str| match whole.len() {
            4.. => format!("{}{separator}{}", &whole[..whole.len() - 3], &whole[whole.len() - 3..]),
            _ => whole.to_owned(),
        };
        match self.rng.random_range(0..7) {
            0 => plain.into(),
            1 => format!(" {plain} ").into(),
            2 => format!("{whole},{cents}").into(),
            3 => format!("${}.{cents}", grouped(",")).into(),
            4 => format!("{},{cents} \u{20ac}", grouped(".")).into(),
            5 => format!("{}.{cents}", grouped("\u{a0}")).into(),
            _ => amount.clone(),
        }
    }

    /// A list as PHP writes one with gaps, as JSON in a text, or with holes.
    fn other_list(&mut self, items: Vec<Value>) -> Value {
        match self.rng.random_range(0..4) {
            0 => {
                let numbered = items.into_iter().enumerate();
                Value::Object(numbered.map(|(index, item)| ((2 * index).to_string(), item)).collect())
            }
            1 => Value::Array(items).to_string().into(),
            2 => items.into_iter().flat_map(|item| [Value::Null, item]).collect(),
            _ => items.into(),
        }
    }
}
