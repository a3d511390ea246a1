//! Rows as both sides can be written down: what is expected, and what Postgres says.

use std::{collections::BTreeMap, fmt};

use rust_decimal::Decimal;

/// What a column must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// This text; also dates.
    Text(String),
    /// This number, whatever its trailing zeros.
    Number(Decimal),
    /// Yes, no, or (`None`) either of them: the moment of the rollup decides.
    Flag(Option<bool>),
    /// Minor units by currency.
    Amounts(BTreeMap<String, i64>),
}

impl Value {
    /// Whether this is what Postgres shows as `found`.
    pub fn matches(&self, found: Option<&str>) -> bool {
        let Some(found) = found else { return *self == Value::Null };
        match self {
            Value::Null => false,
            Value::Text(text) => text == found,
            Value::Number(number) => found.parse() == Ok(*number),
            Value::Flag(None) => found == "true" || found == "false",
            Value::Flag(Some(flag)) => found == if *flag { "true" } else { "false" },
            Value::Amounts(amounts) => {
                serde_json::from_str::<BTreeMap<String, i64>>(found).is_ok_and(|found| found == *amounts)
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Text(text) => f.write_str(text),
            Value::Number(number) => number.fmt(f),
            Value::Flag(None) => f.write_str("true or false"),
            Value::Flag(Some(flag)) => flag.fmt(f),
            Value::Amounts(amounts) => write!(f, "{amounts:?}"),
        }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Number(number.into())
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Value::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Value::Number(number.into())
    }
}

impl From<Decimal> for Value {
    fn from(number: Decimal) -> Self {
        Value::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_string())
    }
}

impl From<jiff::civil::Date> for Value {
    fn from(date: jiff::civil::Date) -> Self {
        Value::Text(date.to_string())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// A row: columns with their values.
pub type Row = BTreeMap<&'static str, Value>;

/// The rows that a table must hold for one store, without `store_id`.
#[derive(Clone, Debug)]
pub struct Table {
    /// Name in Postgres.
    pub name: &'static str,
    /// The columns that tell its rows apart.
    pub key: &'static [&'static str],
    /// Rows by the text of their key.
    pub rows: BTreeMap<Vec<String>, Row>,
}

impl Table {
    pub(super) fn new(name: &'static str, key: &'static [&'static str]) -> Self {
        Self { name, key, rows: BTreeMap::new() }
    }

    /// Adds a row; two rows with one key would be a mistake of the recount.
    pub(super) fn add(&mut self, row: Row) {
        let key = self.key.iter().map(|column| row[column].to_string()).collect();
        let before = self.rows.insert(key, row);
        debug_assert!(before.is_none(), "two rows with one key in {}", self.name);
    }
}
