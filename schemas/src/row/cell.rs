//! The values of a row and the types of its columns.

use std::borrow::Cow;

use uuid::Uuid;

/// One value of a row, as its column takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// A string of which few different ones exist.
    Symbol(&'a str),
    /// Any string.
    Text(&'a str),
    /// A UUID.
    Uuid(Uuid),
    /// A flag or a small number.
    U8(u8),
    /// A number up to 65,535.
    U16(u16),
    /// A number up to 2³² − 1.
    U32(u32),
    /// A number up to 2⁶⁴ − 1.
    U64(u64),
    /// An optional number.
    OptionU32(Option<u32>),
    /// An optional signed number: money in minor units.
    OptionI64(Option<i64>),
    /// An optional float.
    OptionF64(Option<f64>),
    /// An instant, epoch milliseconds.
    Instant(i64),
    /// An optional instant, epoch milliseconds.
    OptionInstant(Option<i64>),
    /// A date, days since 1970-01-01.
    Date(u16),
    /// A list of strings.
    Texts(&'a [&'a str]),
    /// A list of decimals: millionths.
    Millionths(&'a [i64]),
    /// A list of decimals: thousandths.
    Thousandths(&'a [i64]),
    /// String keys with string values.
    Map(&'a [(&'a str, Cow<'a, str>)]),
}

/// The type of a column; each is the type of the [`Cell`] of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ColumnType {
    Symbol,
    Text,
    Uuid,
    U8,
    U16,
    U32,
    U64,
    OptionU32,
    OptionI64,
    OptionF64,
    Instant,
    OptionInstant,
    Date,
    Texts,
    Millionths,
    Thousandths,
    Map,
}

impl ColumnType {
    /// The type as ClickHouse spells it.
    pub const fn clickhouse(self) -> &'static str {
        match self {
            ColumnType::Symbol => "LowCardinality(String)",
            ColumnType::Text => "String",
            ColumnType::Uuid => "UUID",
            ColumnType::U8 => "UInt8",
            ColumnType::U16 => "UInt16",
            ColumnType::U32 => "UInt32",
            ColumnType::U64 => "UInt64",
            ColumnType::OptionU32 => "Nullable(UInt32)",
            ColumnType::OptionI64 => "Nullable(Int64)",
            ColumnType::OptionF64 => "Nullable(Float64)",
            ColumnType::Instant => "DateTime64(3, 'UTC')",
            ColumnType::OptionInstant => "Nullable(DateTime64(3, 'UTC'))",
            ColumnType::Date => "Date",
            ColumnType::Texts => "Array(String)",
            ColumnType::Millionths => "Array(Decimal(18, 6))",
            ColumnType::Thousandths => "Array(Decimal(18, 3))",
            ColumnType::Map => "Map(String, String)",
        }
    }
}

impl Cell<'_> {
    /// Whether the cell holds its column's default, which JSON leaves out.
    #[inline]
    pub fn is_default(&self) -> bool {
        match *self {
            Cell::Symbol(text) | Cell::Text(text) => text.is_empty(),
            Cell::Uuid(id) => id.is_nil(),
            Cell::U8(number) => number == 0,
            Cell::U16(number) => number == 0,
            Cell::Date(days) => days == 0,
            Cell::U32(number) => number == 0,
            Cell::U64(number) => number == 0,
            Cell::Instant(number) => number == 0,
            Cell::OptionU32(number) => number.is_none(),
            Cell::OptionI64(number) | Cell::OptionInstant(number) => number.is_none(),
            Cell::OptionF64(number) => number.is_none(),
            Cell::Texts(list) => list.is_empty(),
            Cell::Millionths(list) | Cell::Thousandths(list) => list.is_empty(),
            Cell::Map(map) => map.is_empty(),
        }
    }
}
