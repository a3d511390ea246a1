//! A line as Kafka may carry it to a row of a block, by the consumer. Whatever the bytes are,
//!
//! * a line is a row, or the block stays as it was;
//! * a row that was read, written as the collector writes it, and read again is the same row;
//! * a message's lines are read one by one: each has the number of the newlines before it, and none costs another.

use millrace_consumer::{
    decode::{Decoder, Table, lines},
    native::{BlockBuilder, Source},
};
use millrace_schemas::{
    row::{ClickRow, EventRow, Row as _},
    topic,
};

const FORMER_PRICE: &[u8] = b"\"item_price_minor\":";

const GOOD: &[u8] = br#"{"store_id":"demo","name":"test"}"#;

/// See the module. The first byte chooses the table.
pub fn check(input: &[u8]) {
    let Some((choice, message)) = input.split_first() else { return };
    let table = if choice & 1 == 0 { Table::Events } else { Table::Clicks };
    let mut decoder = Decoder::default();
    let mut together = BlockBuilder::new(table.columns());
    let mut rows = 0;
    for (number, line) in lines(message) {
        let before = message.split(|byte| *byte == b'\n').nth(number as usize);
        assert_eq!(before, Some(line));
        let is_row = check_line(table, line, &mut decoder);
        let pushed = decoder.push(table, line, source(number), &mut together);
        assert_eq!(pushed.is_ok(), is_row, "a decoder with a past decides otherwise");
        rows += u32::from(is_row);
    }
    assert_eq!(together.rows(), rows);
    assert_eq!(together.finish().rows, rows);
}

fn check_line(table: Table, line: &[u8], decoder: &mut Decoder) -> bool {
    let block = |decoder: &mut Decoder, lines: &[&[u8]]| {
        let mut builder = BlockBuilder::new(table.columns());
        let read: Vec<bool> =
            lines.iter().map(|line| decoder.push(table, line, source(0), &mut builder).is_ok()).collect();
        (read, builder.finish().pieces.concat())
    };
    let (read, bytes) = block(decoder, &[GOOD, line]);
    assert!(read[0]);
    if !read[1] {
        assert_eq!(bytes, block(decoder, &[GOOD]).1, "a line that is no row left something behind");
        return false;
    }
    // Prices of an earlier release are the decoder's alone to understand.
    if line.windows(FORMER_PRICE.len()).any(|name| name == FORMER_PRICE) {
        return true;
    }
    let again = written_again(table, line).unwrap_or_else(|| panic!("serde reads it otherwise"));
    let (read, bytes_again) = block(decoder, &[GOOD, &again]);
    assert!(read[1] && bytes == bytes_again, "written again: {}", String::from_utf8_lossy(&again));
    // Once it is written as the collector writes it, it stays so.
    assert_eq!(written_again(table, &again).as_ref(), Some(&again));
    true
}

/// The row that the line is, as the collector writes it.
pub fn written_again(table: Table, line: &[u8]) -> Option<Vec<u8>> {
    let mut builder = BlockBuilder::new(table.columns());
    Decoder::default().push(table, line, source(0), &mut builder).ok()?;
    let (mut line, mut out) = (line.to_owned(), Vec::new());
    match table {
        Table::Events => simd_json::from_slice::<EventRow<'_>>(&mut line).ok()?.write_json(&mut out),
        Table::Clicks => simd_json::from_slice::<ClickRow<'_>>(&mut line).ok()?.write_json(&mut out),
        Table::DeadLetters => return None,
    }
    Some(out)
}

fn source(row: u32) -> Source<'static> {
    Source { topic: topic::EVENTS, partition: 0, offset: 0, row }
}
