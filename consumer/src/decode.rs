//! A message's value into rows: one JSON object per line, each line on its own, so that one bad line costs nobody else.

use millrace_schemas::{
    clickhouse::DEAD_LETTER_COLUMNS,
    money,
    row::{ClickRow, Column, EventRow, Row},
    topic,
};

use crate::native::{BlockBuilder, Source};

/// The table that a topic's rows belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Page views and named events.
    Events,
    /// Heatmap clicks.
    Clicks,
    /// What could not be stored.
    DeadLetters,
}

impl Table {
    /// The table of a topic's rows.
    pub fn of_topic(topic: &str) -> Option<Self> {
        match topic {
            topic::EVENTS => Some(Table::Events),
            topic::CLICKS => Some(Table::Clicks),
            _ => None,
        }
    }

    /// Its name, without the database.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Events => EventRow::TABLE,
            Table::Clicks => ClickRow::TABLE,
            Table::DeadLetters => "dead_letters",
        }
    }

    /// Its columns, without those that say where a row came from.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Table::Events => EventRow::COLUMNS,
            Table::Clicks => ClickRow::COLUMNS,
            Table::DeadLetters => &DEAD_LETTER_COLUMNS,
        }
    }
}

/// Why a line is not a row.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is not JSON, or not JSON of this table's types.
    #[error("{0}")]
    Json(#[from] simd_json::Error),
    /// It is JSON, but no object (a parser may take a list for a row's fields in their order).
    #[error("not an object")]
    NotAnObject,
    /// Its lists of items do not belong together: a reader that joins them would fail on every row beside it.
    #[error("lists of items have different lengths")]
    ItemLengths,
    /// Rows of this topic have no table.
    #[error("no table for these rows")]
    NoTable,
}

/// Decodes lines; keeps the parser's buffers from one line to the next.
#[derive(Default)]
pub struct Decoder {
    buffers: simd_json::Buffers,
    /// The parser writes into its input, and the line must stay as it was for a dead-letter record.
    scratch: Vec<u8>,
}

impl Decoder {
    /// Adds the row in `line` to the block, or leaves the block as it was.
    pub fn push(
        &mut self,
        table: Table,
        line: &[u8],
        source: Source<'_>,
        block: &mut BlockBuilder,
    ) -> Result<(), DecodeError> {
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err(DecodeError::NotAnObject);
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(line);
        match table {
            Table::Events => {
                let mut row: EventRow<'_> =
                    simd_json::serde::from_slice_with_buffers(&mut self.scratch, &mut self.buffers)?;
                if memchr::memmem::find(line, FORMER_PRICE).is_some() {
                    add_former_prices(&mut row, line)?;
                }
                check_items(&row)?;
                block.push(&row, source);
            }
            Table::Clicks => {
                let row: ClickRow<'_> =
                    simd_json::serde::from_slice_with_buffers(&mut self.scratch, &mut self.buffers)?;
                block.push(&row, source);
            }
            Table::DeadLetters => return Err(DecodeError::NoTable),
        }
        Ok(())
    }
}

/// The lines of a value with their numbers; empty ones (a newline at the end) are nothing.
pub fn lines(value: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    (0_u32..).zip(value.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty())
}

/// The column of prices in rows of an earlier release, which may still stand in the log.
const FORMER_PRICE: &[u8] = b"\"item_price_minor\":";

/// Prices of an earlier release: minor units of the row's currency.
fn add_former_prices(row: &mut EventRow<'_>, line: &[u8]) -> Result<(), DecodeError> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Former {
        item_price_minor: Vec<i64>,
        item_discount_minor: Vec<i64>,
    }
    let former: Former = simd_json::serde::from_slice(&mut line.to_vec())?;
    // That release, too, took two where a store's own currency is none of ISO 4217.
    let decimals = money::exponent(row.currency).unwrap_or(2);
    let millionths = |minor: Vec<i64>| -> Vec<i64> {
        minor.into_iter().map(|minor| minor.saturating_mul(10_i64.pow(6 - decimals))).collect()
    };
    if row.item_price.is_empty() {
        row.item_price = millionths(former.item_price_minor);
        row.item_discount = millionths(former.item_discount_minor);
    }
    Ok(())
}

fn check_items(row: &EventRow<'_>) -> Result<(), DecodeError> {
    let items = row.item_product_id.len();
    let alike = [
        row.item_variant_id.len(),
        row.item_name.len(),
        row.item_brand.len(),
        row.item_category.len(),
        row.item_price.len(),
        row.item_quantity.len(),
        row.item_discount.len(),
        row.item_product_kind.len(),
    ];
    if alike.iter().all(|length| *length == items) { Ok(()) } else { Err(DecodeError::ItemLengths) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, decodes: bool) {
        let mut block = BlockBuilder::new(Table::Events.columns());
        let source = Source { topic: topic::EVENTS, partition: 0, offset: 0, row: 0 };
        let result = Decoder::default().push(Table::Events, line.as_bytes(), source, &mut block);
        assert_eq!(result.is_ok(), decodes, "{line}: {result:?}");
        assert_eq!(block.rows(), u32::from(decodes), "{line}");
    }

    #[test]
    fn rows_and_what_is_none() {
        check("{}", true);
        check(r#"{"store_id":"demo","x":1,"event_time":"2026-11-01 05:30:00.123"}"#, true);
        check(r#"{"item_product_id":["a"],"item_variant_id":["b"]}"#, false);
        check(r#"{"store_id":1}"#, false);
        check(r#"{"tax_minor":18446744073709551615}"#, false);
        check(r#"{"event_time":"yesterday"}"#, false);
        check(r#"{"store_id":"demo""#, false);
        check(r#"{"store_id":"a","store_id":"b"}"#, false);
        check("not json", false);
        check("[]", false);
        check("\u{0}", false);
        check(&"[".repeat(100_000), false);
        check(&format!("{}1", "{\"x\":".repeat(100_000)), false);
    }

    #[test]
    fn lines_keep_their_numbers() {
        let found: Vec<_> = lines(b"{}\n\n{}\r\n").collect();
        assert_eq!(found, [(0, &b"{}"[..]), (2, &b"{}\r"[..])]);
        assert_eq!(lines(b"").count(), 0);
    }
}
