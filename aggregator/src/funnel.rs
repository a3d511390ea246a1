//! Funnels as a store defines them, and their conditions as ClickHouse takes them: values only ever as parameters,
//! names of columns only from the list.

use millrace_schemas::{
    event::{PAGE_VIEW, canonical_name},
    row::{ColumnType, EventRow, Row as _},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, Row as _};

use crate::{error::Result, postgres::Answer as _};

/// Steps of a funnel, at most.
pub const STEPS_MAX: usize = 20;
/// Filters of a step, at most.
pub const FILTERS_MAX: usize = 20;
/// Bytes of a name, a key or a text value in a definition, at most.
pub const TEXT_BYTES_MAX: usize = 1024;

/// How the steps must follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderMode {
    /// In order, others between.
    #[default]
    Sequential,
    /// In order, nothing between.
    Strict,
    /// In any order.
    Any,
}

impl OrderMode {
    /// The name in `funnels`.
    pub const fn as_str(self) -> &'static str {
        match self {
            OrderMode::Sequential => "sequential",
            OrderMode::Strict => "strict",
            OrderMode::Any => "any",
        }
    }
}

/// How a filter compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Operator {
    Equals,
    NotEquals,
    Contains,
    StartsWith,
    EndsWith,
    GreaterThan,
    LessThan,
    Exists,
}

/// A condition on an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// A column, or `properties.` and a key.
    pub field: String,
    /// How it compares.
    pub operator: Operator,
    /// With what; `exists` takes `true` (also when left out) or `false`.
    #[serde(default)]
    pub value: Value,
}

/// A step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepDefinition {
    /// Its name.
    pub name: String,
    /// Canonical name of its events; `page_view`: page views.
    pub event: String,
    /// What else they must fulfil, all of it.
    pub filters: Vec<Filter>,
}

/// A funnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// How its steps must follow each other.
    pub order_mode: OrderMode,
    /// Seconds from the first step, inclusive.
    pub window_seconds: i64,
    /// Its steps.
    pub steps: Vec<StepDefinition>,
}

/// `funnel_steps.definition`.
#[derive(Serialize, Deserialize)]
pub struct StoredStep {
    /// Name of the events.
    pub event: String,
    /// Filters.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// A funnel's conditions in ClickHouse's terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// An expression: bit n is set where the row matches step n + 1.
    pub mask: String,
    /// Names of the rows that any step matches.
    pub names: Vec<String>,
    /// Parameters of the expression.
    pub params: Vec<(String, String)>,
}

impl Definition {
    /// The window in milliseconds.
    pub fn window_ms(&self) -> i64 {
        self.window_seconds.saturating_mul(1000)
    }

    /// All funnels of a store.
    pub async fn read_all(postgres: &mut PgConnection, store_id: &str) -> Result<Vec<Self>> {
        let rows = sqlx::query(
            "SELECT funnel_name, order_mode, window_seconds, step_name, definition
             FROM funnels JOIN funnel_steps USING (store_id, funnel_name)
             WHERE store_id = $1 ORDER BY funnel_name, step_order",
        )
        .bind(store_id)
        .fetch_all(postgres)
        .within()
        .await?;
        let mut all: Vec<Self> = Vec::new();
        for row in rows {
            let name: String = row.try_get("funnel_name")?;
            if all.last().is_none_or(|last| last.name != name) {
                let order_mode = serde_json::from_value(Value::String(row.try_get("order_mode")?))?;
                let window_seconds = row.try_get("window_seconds")?;
                all.push(Self { name, order_mode, window_seconds, steps: Vec::new() });
            }
            let stored: StoredStep = serde_json::from_value(row.try_get("definition")?)?;
            if let Some(last) = all.last_mut() {
                let name = row.try_get("step_name")?;
                last.steps.push(StepDefinition { name, event: stored.event, filters: stored.filters });
            }
        }
        Ok(all)
    }

    /// The conditions as ClickHouse takes them. Filters that cannot be compiled match nothing; [`check_filter`] has
    /// refused them before they were stored.
    pub fn compile(&self) -> Compiled {
        let mut compiled = Compiled::default();
        let mut bits = Vec::new();
        for (index, step) in self.steps.iter().enumerate() {
            let name = canonical_name(&step.event).to_owned();
            let kind = if name == PAGE_VIEW { PAGE_VIEW } else { "event" };
            let mut conditions = vec![format!("type = '{kind}'")];
            let param = compiled.param(&name);
            conditions.push(format!("name = {{{param}:String}}"));
            if !compiled.names.contains(&name) {
                compiled.names.push(name);
            }
            for filter in &step.filters {
                conditions.push(compiled.condition(filter).unwrap_or_else(|_| "0".into()));
            }
            bits.push(format!("bitShiftLeft(toUInt32({}), {index})", conditions.join(" AND ")));
        }
        compiled.mask = bits.join(" + ");
        compiled
    }
}

/// Says what is wrong with a filter, if anything.
pub fn check_filter(filter: &Filter) -> Result<(), &'static str> {
    Compiled::default().condition(filter).map(|_| ())
}

/// Fields that no filter sees: they are ours, not the event's.
const HIDDEN: [&str; 9] = [
    "store_id",
    "event_id",
    "key_date",
    "visitor_hash",
    "is_bot",
    "bot_reason",
    "bot_name",
    "bot_kind",
    "properties",
];

impl Compiled {
    fn param(&mut self, value: &str) -> String {
        let name = format!("f{}", self.params.len());
        self.params.push((name.clone(), value.to_owned()));
        name
    }

    fn condition(&mut self, filter: &Filter) -> Result<String, &'static str> {
        if let Some(key) = filter.field.strip_prefix("properties.") {
            if key.is_empty() || key.len() > TEXT_BYTES_MAX {
                return Err("a property's key is 1 to 1024 bytes long");
            }
            let key = self.param(key);
            let value = format!("properties[{{{key}:String}}]");
            let there = format!("mapContains(properties, {{{key}:String}})");
            return self.compare(filter, &value, &format!("toFloat64OrNull({value})"), &there);
        }
        let column = EventRow::COLUMNS
            .iter()
            .find(|column| column.name == filter.field && !HIDDEN.contains(&column.name))
            .ok_or("no such field; a property is `properties.<key>`")?;
        let name = format!("`{}`", column.name);
        let (text, number) = (format!("toString({name})"), format!("toFloat64({name})"));
        match column.ty {
            ColumnType::Symbol | ColumnType::Text => {
                self.compare(filter, &text, &format!("toFloat64OrNull({text})"), &format!("{name} != ''"))
            }
            ColumnType::U8 | ColumnType::U16 | ColumnType::U32 | ColumnType::U64 => {
                self.compare_number(filter, &number, &format!("{name} != 0"))
            }
            ColumnType::OptionU32 | ColumnType::OptionI64 | ColumnType::OptionF64 => {
                self.compare_number(filter, &number, &format!("isNotNull({name})"))
            }
            ColumnType::Texts => {
                let inner = self.compare(filter, "item", "toFloat64OrNull(item)", "item != ''")?;
                Ok(format!("arrayExists(item -> {inner}, {name})"))
            }
            ColumnType::Millionths | ColumnType::Thousandths => {
                let inner = self.compare_number(filter, "toFloat64(item)", "1")?;
                Ok(format!("arrayExists(item -> {inner}, {name})"))
            }
            ColumnType::Uuid
            | ColumnType::Instant
            | ColumnType::OptionInstant
            | ColumnType::Date
            | ColumnType::Map => Err("this field cannot be filtered by"),
        }
    }

    fn compare(
        &mut self,
        filter: &Filter,
        text: &str,
        number: &str,
        there: &str,
    ) -> Result<String, &'static str> {
        let function = match filter.operator {
            Operator::GreaterThan | Operator::LessThan | Operator::Exists => {
                return self.compare_number(filter, number, there);
            }
            Operator::Equals => "equals",
            Operator::NotEquals => "notEquals",
            Operator::Contains => "contains",
            Operator::StartsWith => "startsWith",
            Operator::EndsWith => "endsWith",
        };
        let value = match &filter.value {
            Value::String(text) if text.len() <= TEXT_BYTES_MAX => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return Err("the value must be a text of at most 1024 bytes, a number or a boolean"),
        };
        let value = self.param(&value);
        let holds = match function {
            "contains" => format!("position({text}, {{{value}:String}}) > 0"),
            _ => format!("{function}({text}, {{{value}:String}})"),
        };
        // An event without the field differs from every value, and fulfils nothing else.
        Ok(match filter.operator {
            Operator::NotEquals => format!("(NOT ({there}) OR {holds})"),
            _ => format!("({there} AND {holds})"),
        })
    }

    fn compare_number(&mut self, filter: &Filter, number: &str, there: &str) -> Result<String, &'static str> {
        let sign = match filter.operator {
            Operator::Exists => {
                return match filter.value {
                    Value::Null | Value::Bool(true) => Ok(format!("({there})")),
                    Value::Bool(false) => Ok(format!("(NOT ({there}))")),
                    _ => Err("the value of `exists` is true or false"),
                };
            }
            Operator::Equals => "=",
            Operator::NotEquals => "!=",
            Operator::GreaterThan => ">",
            Operator::LessThan => "<",
            Operator::Contains | Operator::StartsWith | Operator::EndsWith => {
                return Err("this operator is for texts");
            }
        };
        let value = match &filter.value {
            Value::Number(number) => number.as_f64(),
            Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let value = value.filter(|value| value.is_finite()).ok_or("the value must be a number")?;
        let value = self.param(&value.to_string());
        // A number that is not there is less and greater than none, and equal to none.
        let missing = if sign == "!=" { "1" } else { "0" };
        Ok(format!("ifNull({number} {sign} {{{value}:Float64}}, {missing})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(field: &str, operator: &str, value: Value) -> Filter {
        Filter {
            field: field.into(),
            operator: serde_json::from_value(Value::String(operator.into())).unwrap(),
            value,
        }
    }

    #[test]
    fn values_travel_as_parameters_only() {
        let hostile = "x' OR 1 = 1 --";
        let step = |event: &str, filters| StepDefinition { name: "n".into(), event: event.into(), filters };
        let definition = Definition {
            name: "f".into(),
            order_mode: OrderMode::Sequential,
            window_seconds: 60,
            steps: vec![
                step(hostile, vec![filter("properties.a'b", "equals", hostile.into())]),
                step("page_view", vec![filter("url", "contains", hostile.into())]),
            ],
        };
        let compiled = definition.compile();
        assert!(!compiled.mask.contains("OR 1") && !compiled.mask.contains("a'b"), "{}", compiled.mask);
        assert_eq!(compiled.params.iter().filter(|(_, value)| value == hostile).count(), 3);
        assert_eq!(compiled.names, [hostile, "page_view"]);
    }

    #[test]
    fn only_listed_fields_and_fitting_values_are_taken() {
        for (field, operator, value) in [
            ("store_id", "equals", "x".into()),
            ("url) OR (1", "equals", "x".into()),
            ("nothing", "exists", Value::Null),
            ("url", "equals", Value::Null),
            ("sequence", "contains", "1".into()),
            ("value", "greater_than", "much".into()),
            ("event_time", "exists", Value::Null),
            ("properties.", "exists", Value::Null),
        ] {
            assert!(check_filter(&filter(field, operator, value)).is_err(), "{field} {operator}");
        }
        for (field, operator, value) in [
            ("url", "starts_with", "https://".into()),
            ("value", "greater_than", 9.5.into()),
            ("properties.plan", "equals", true.into()),
            ("item_product_id", "equals", "sku".into()),
            ("properties.plan", "exists", false.into()),
            ("properties.seats", "less_than", 3.into()),
        ] {
            assert_eq!(check_filter(&filter(field, operator, value)), Ok(()), "{field} {operator}");
        }
    }
}
