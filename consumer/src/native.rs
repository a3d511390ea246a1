//! Rows as one block of ClickHouse's `Native` format, built column by column while rows are decoded.
//!
//! What goes over HTTP for one block (no block info and no serialization kinds: those belong to clients that name a
//! protocol revision):
//!
//! ```text
//! columns: varint, rows: varint, then for each column: name: string, type: string, data
//!   string                  length: varint, bytes
//!   fixed-size numbers      little endian, one after the other (UUID: its two halves, high first, each little endian)
//!   String                  strings, one after the other
//!   Nullable(T)             one byte per row (1: null), then T with a default where it is null
//!   Array(T)                end of each row's list as u64, then all T
//!   Map(String, String)     end of each row's map as u64, then all keys, then all values
//!   LowCardinality(String)  version 1: u64; index width | has keys | dictionary is new: u64;
//!                           number of keys: u64, keys as String; number of rows: u64, indexes
//! ```
//!
//! A block is sent as it stands and kept until it is acknowledged, because only whole bodies are tried again.

use std::hash::BuildHasher as _;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use millrace_schemas::{
    clickhouse::SOURCE_COLUMNS,
    row::{Cell, Column, ColumnType, Row},
};

/// Where in the log a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: u32,
    /// Its message's offset.
    pub offset: u64,
    /// Its line in the message.
    pub row: u32,
}

/// An encoded block, in pieces that together are one insert's body.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The pieces.
    pub pieces: Vec<Bytes>,
    /// Rows in it.
    pub rows: u32,
}

/// A block that is being built.
pub struct BlockBuilder {
    columns: Vec<ColumnBuilder>,
    rows: u32,
    /// Offset of the first row: a partition's blocks follow each other, so all below it is stored when this one is sent.
    batch: Option<u64>,
}

struct ColumnBuilder {
    column: Column,
    /// Numbers, strings, or the values of lists; keys of maps.
    values: Vec<u8>,
    /// Null flags, ends of lists.
    shape: Vec<u8>,
    /// Values of maps.
    map_values: Vec<u8>,
    /// Elements of lists and maps so far.
    elements: u64,
    dictionary: Dictionary,
}

/// The different values of a column and, for each row, which one it is.
#[derive(Default)]
struct Dictionary {
    table: HashTable<Entry>,
    hasher: DefaultHashBuilder,
    keys: Vec<u8>,
    indexes: Vec<u32>,
    /// The entry of the row before: neighbours are often alike.
    last: Option<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    index: u32,
    start: u32,
    length: u32,
}

/// Columns smaller than this are sent together: a chunk of HTTP for a few bytes is a waste.
const PIECE_BYTES_MIN: usize = 128 << 10;

const DICTIONARY_VERSION: u64 = 1;
const DICTIONARY_HAS_KEYS: u64 = 1 << 9;
const DICTIONARY_IS_NEW: u64 = 1 << 10;

impl BlockBuilder {
    /// An empty block with these columns followed by [`SOURCE_COLUMNS`].
    pub fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.iter().chain(&SOURCE_COLUMNS).copied().map(ColumnBuilder::new).collect(),
            rows: 0,
            batch: None,
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(ColumnBuilder::bytes).sum()
    }

    /// Adds a row of the table whose columns were given.
    pub fn push(&mut self, row: &impl Row, source: Source<'_>) {
        let own = self.columns.len() - SOURCE_COLUMNS.len();
        let (columns, sources) = self.columns.split_at_mut(own);
        row.for_each_cell(|index, cell| columns[index].push(cell));
        self.rows += 1;
        push_source(sources, source, *self.batch.get_or_insert(source.offset));
    }

    /// Adds a row that is a list of cells and then, in text columns, raw bytes, which need not be UTF-8.
    pub fn push_cells(&mut self, cells: &[Cell<'_>], raw: &[&[u8]], source: Source<'_>) {
        let own = self.columns.len() - SOURCE_COLUMNS.len();
        let (columns, sources) = self.columns.split_at_mut(own);
        let (cell_columns, raw_columns) = columns.split_at_mut(cells.len());
        cell_columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(*cell));
        raw_columns.iter_mut().zip(raw).for_each(|(column, bytes)| put_bytes(&mut column.values, bytes));
        self.rows += 1;
        push_source(sources, source, *self.batch.get_or_insert(source.offset));
    }

    /// The greatest instant in the column of this name, epoch milliseconds.
    pub fn newest(&self, column: &str) -> Option<i64> {
        let column = self.columns.iter().find(|builder| builder.column.name == column)?;
        let (instants, _) = column.values.as_chunks::<8>();
        instants.iter().map(|bytes| i64::from_le_bytes(*bytes)).max()
    }

    /// The values so far of a column of fixed size, as they stand in the block.
    ///
    /// # Panics
    ///
    /// When the block has no such column.
    pub fn fixed(&self, column: &str) -> &[u8] {
        match self.columns.iter().find(|builder| builder.column.name == column) {
            Some(builder) => &builder.values,
            None => panic!("no column {column}"),
        }
    }

    /// The block as it is sent.
    pub fn finish(self) -> Block {
        let rows = self.rows;
        let mut body = Body::default();
        put_varint(&mut body.small, self.columns.len() as u64);
        put_varint(&mut body.small, u64::from(rows));
        for column in self.columns {
            column.write(&mut body);
        }
        Block { pieces: body.finish(), rows }
    }
}

#[inline]
fn push_source(columns: &mut [ColumnBuilder], source: Source<'_>, batch: u64) {
    let cells = [
        Cell::Symbol(source.topic),
        Cell::U32(source.partition),
        Cell::U64(source.offset),
        Cell::U32(source.row),
        Cell::U64(batch),
    ];
    for (column, cell) in columns.iter_mut().zip(cells) {
        column.push(cell);
    }
}

impl ColumnBuilder {
    fn new(column: Column) -> Self {
        Self {
            column,
            values: Vec::new(),
            shape: Vec::new(),
            map_values: Vec::new(),
            elements: 0,
            dictionary: Dictionary::default(),
        }
    }

    fn bytes(&self) -> usize {
        let Dictionary { table, keys, indexes, .. } = &self.dictionary;
        self.values.capacity()
            + self.shape.capacity()
            + self.map_values.capacity()
            + keys.capacity()
            + indexes.capacity() * size_of::<u32>()
            + table.capacity() * size_of::<Entry>()
    }

    /// Always inlined: `for_each_cell` calls it with a known kind of cell, and the match disappears.
    #[inline(always)]
    fn push(&mut self, cell: Cell<'_>) {
        match cell {
            Cell::Symbol(text) => self.dictionary.push(text),
            Cell::Text(text) => put_string(&mut self.values, text),
            Cell::Uuid(id) => {
                let (high, low) = id.as_u64_pair();
                self.values.extend_from_slice(&high.to_le_bytes());
                self.values.extend_from_slice(&low.to_le_bytes());
            }
            Cell::U8(number) => self.values.push(number),
            Cell::U16(number) | Cell::Date(number) => self.values.extend_from_slice(&number.to_le_bytes()),
            Cell::U32(number) => self.values.extend_from_slice(&number.to_le_bytes()),
            Cell::U64(number) => self.values.extend_from_slice(&number.to_le_bytes()),
            Cell::Instant(number) => self.values.extend_from_slice(&number.to_le_bytes()),
            Cell::OptionU32(number) => self.push_option(number.map(u32::to_le_bytes)),
            Cell::OptionI64(number) | Cell::OptionInstant(number) => {
                self.push_option(number.map(i64::to_le_bytes));
            }
            Cell::OptionF64(number) => self.push_option(number.map(f64::to_le_bytes)),
            Cell::Texts(list) => {
                list.iter().for_each(|text| put_string(&mut self.values, text));
                self.end_list(list.len());
            }
            Cell::Millionths(list) | Cell::Thousandths(list) => {
                list.iter().for_each(|number| self.values.extend_from_slice(&number.to_le_bytes()));
                self.end_list(list.len());
            }
            Cell::Map(map) => {
                for (key, value) in map {
                    put_string(&mut self.values, key);
                    put_string(&mut self.map_values, value);
                }
                self.end_list(map.len());
            }
        }
    }

    #[inline(always)]
    fn push_option<const N: usize>(&mut self, value: Option<[u8; N]>) {
        self.shape.push(u8::from(value.is_none()));
        self.values.extend_from_slice(&value.unwrap_or([0; N]));
    }

    #[inline(always)]
    fn end_list(&mut self, length: usize) {
        self.elements += length as u64;
        self.shape.extend_from_slice(&self.elements.to_le_bytes());
    }

    fn write(self, body: &mut Body) {
        put_string(&mut body.small, self.column.name);
        put_string(&mut body.small, self.column.ty.clickhouse());
        if self.column.ty == ColumnType::Symbol {
            self.dictionary.write(body);
        } else {
            body.push(self.shape);
            body.push(self.values);
            body.push(self.map_values);
        }
    }
}

impl Dictionary {
    #[inline]
    fn push(&mut self, text: &str) {
        if let Some(last) = self.last
            && key(&self.keys, last) == text.as_bytes()
        {
            self.indexes.push(last.index);
            return;
        }
        let hash = self.hasher.hash_one(text.as_bytes());
        let keys = &mut self.keys;
        let entry = match self.table.find(hash, |entry| key(keys, *entry) == text.as_bytes()) {
            Some(entry) => *entry,
            None => {
                put_string(keys, text);
                // A batch is far below 4 GiB, so offsets into its keys fit.
                let length = text.len() as u32;
                let entry =
                    Entry { index: self.table.len() as u32, start: keys.len() as u32 - length, length };
                let hasher = &self.hasher;
                self.table.insert_unique(hash, entry, |entry| hasher.hash_one(key(keys, *entry)));
                entry
            }
        };
        self.indexes.push(entry.index);
        self.last = Some(entry);
    }

    fn write(self, body: &mut Body) {
        let keys = self.table.len();
        let width: u64 = match keys {
            0..=0x100 => 0,
            0x101..=0x1_0000 => 1,
            _ => 2,
        };
        for number in [DICTIONARY_VERSION, width | DICTIONARY_HAS_KEYS | DICTIONARY_IS_NEW, keys as u64] {
            body.small.extend_from_slice(&number.to_le_bytes());
        }
        body.push(self.keys);
        body.small.extend_from_slice(&(self.indexes.len() as u64).to_le_bytes());
        body.push(match width {
            0 => self.indexes.iter().map(|index| *index as u8).collect(),
            1 => self.indexes.iter().flat_map(|index| (*index as u16).to_le_bytes()).collect(),
            _ => self.indexes.iter().flat_map(|index| index.to_le_bytes()).collect(),
        });
    }
}

#[inline]
fn key(keys: &[u8], entry: Entry) -> &[u8] {
    &keys[entry.start as usize..][..entry.length as usize]
}

/// The pieces of a body: large columns as they are, small ones copied together.
#[derive(Default)]
struct Body {
    pieces: Vec<Bytes>,
    small: Vec<u8>,
}

impl Body {
    fn push(&mut self, column: Vec<u8>) {
        if column.len() < PIECE_BYTES_MIN {
            self.small.extend_from_slice(&column);
            if self.small.len() >= 2 * PIECE_BYTES_MIN {
                self.flush();
            }
        } else {
            self.flush();
            self.pieces.push(column.into());
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(std::mem::take(&mut self.small).into());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.pieces
    }
}

impl Block {
    /// Bytes of the body.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

#[inline]
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[inline]
fn put_string(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

#[inline]
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMN: Column = Column { name: "s", ty: ColumnType::Symbol, doc: "" };

    fn body(texts: &[&str]) -> Vec<u8> {
        let mut builder = BlockBuilder::new(&[COLUMN]);
        for (offset, text) in texts.iter().enumerate() {
            let source = Source { topic: "t", partition: 0, offset: offset as u64, row: 0 };
            builder.push_cells(&[Cell::Symbol(text)], &[], source);
        }
        assert!(builder.bytes() > 0);
        builder.finish().pieces.concat()
    }

    #[test]
    fn a_dictionary_holds_each_value_once() {
        let bytes = body(&["b", "a", "b", "b", ""]);
        let mut expected = vec![6, 5, 1, b's', 22];
        expected.extend_from_slice(b"LowCardinality(String)");
        expected.extend_from_slice(&1_u64.to_le_bytes());
        expected.extend_from_slice(&0x600_u64.to_le_bytes());
        expected.extend_from_slice(&3_u64.to_le_bytes());
        expected.extend_from_slice(&[1, b'b', 1, b'a', 0]);
        expected.extend_from_slice(&5_u64.to_le_bytes());
        expected.extend_from_slice(&[0, 1, 0, 0, 2]);
        assert_eq!(bytes[..expected.len()], expected);
    }

    #[test]
    fn indexes_widen_with_the_dictionary() {
        let texts: Vec<String> = (0..257).map(|number| number.to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        // One byte counts columns, one or two rows; two name the column, 23 its type; eight are the version.
        let width = |bytes: &[u8], header: usize| bytes[header + 2 + 23 + 8];
        assert_eq!(width(&body(&texts[..100]), 2), 0);
        assert_eq!(width(&body(&texts[..256]), 3), 0);
        assert_eq!(width(&body(&texts), 3), 1);
    }

    #[test]
    fn long_strings_have_long_lengths() {
        let mut out = Vec::new();
        put_string(&mut out, &"x".repeat(300));
        assert_eq!(out[..2], [0xac, 2]);
        assert_eq!(out.len(), 302);
    }
}
