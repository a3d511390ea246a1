//! Output formats, as far as streaming needs to know them.
//!
//! The engine's C API formats every fetched block as if it were a whole result. A format without a beginning
//! and an end can be passed on as it comes; one with a header only can when the header is cut from every
//! block but the first; any other (JSON, Parquet, Pretty, …) is only right when made from the whole result.

use bytes::{Buf, Bytes};

/// How a result in some format can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// Blocks one after another.
    Plain,
    /// Blocks one after another, each beginning with this header.
    Headed(Header),
    /// Only whole.
    Whole,
}

/// What stands at the beginning of each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A number of columns, then this many length-prefixed strings for each.
    Binary {
        /// 1 for names, 2 for names and types.
        strings_per_column: usize,
    },
    /// This many lines. Only formats that escape line ends inside names.
    Lines(usize),
}

/// How results in `format` can be sent.
pub fn streaming(format: &str) -> Streaming {
    let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(format));
    if is(&[
        "RowBinary",
        "Native",
        "TabSeparated",
        "TSV",
        "TabSeparatedRaw",
        "TSVRaw",
        "CSV",
        "JSONEachRow",
        "JSONLines",
        "NDJSON",
        "JSONStringsEachRow",
        "JSONCompactEachRow",
        "TSKV",
        "MsgPack",
        "Null",
    ]) {
        Streaming::Plain
    } else if is(&["RowBinaryWithNamesAndTypes"]) {
        Streaming::Headed(Header::Binary { strings_per_column: 2 })
    } else if is(&["RowBinaryWithNames"]) {
        Streaming::Headed(Header::Binary { strings_per_column: 1 })
    } else if is(&["TabSeparatedWithNames", "TSVWithNames", "JSONCompactEachRowWithNames"]) {
        Streaming::Headed(Header::Lines(1))
    } else if is(&[
        "TabSeparatedWithNamesAndTypes",
        "TSVWithNamesAndTypes",
        "JSONCompactEachRowWithNamesAndTypes",
    ]) {
        Streaming::Headed(Header::Lines(2))
    } else {
        Streaming::Whole
    }
}

impl Header {
    /// The length of the header a block begins with; `None` when it does not.
    pub fn length(self, block: &[u8]) -> Option<usize> {
        match self {
            Self::Binary { strings_per_column } => {
                let mut rest = block;
                let columns = varint(&mut rest)?;
                for _ in 0..columns.checked_mul(strings_per_column)? {
                    let length = varint(&mut rest)?;
                    rest = rest.get(length..)?;
                }
                Some(block.len() - rest.len())
            }
            Self::Lines(lines) => {
                let mut ends = block.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                ends.nth(lines.checked_sub(1)?).map(|(index, _)| index + 1)
            }
        }
    }

    /// The block without its header.
    pub fn strip(self, mut block: Bytes) -> Option<Bytes> {
        block.advance(self.length(&block)?);
        Some(block)
    }
}

/// LEB128, as ClickHouse's binary formats write lengths.
fn varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_cut_where_they_end() {
        let block = Bytes::from_static(b"\x02\x01a\x01b\x06UInt64\x06Stringrows");
        let Streaming::Headed(header) = streaming("rowbinarywithnamesandtypes") else { panic!("headed") };
        assert_eq!(header.strip(block).as_deref(), Some(b"rows".as_slice()));

        let Streaming::Headed(header) = streaming("TSVWithNamesAndTypes") else { panic!("headed") };
        assert_eq!(header.strip(Bytes::from_static(b"a\nUInt8\n1\n")).as_deref(), Some(b"1\n".as_slice()));
    }

    #[test]
    fn a_cut_off_header_is_not_one() {
        let header = Header::Binary { strings_per_column: 1 };
        assert_eq!(header.length(b"\x02\x01a\x05b"), None);
        assert_eq!(header.length(b""), None);
        assert_eq!(Header::Lines(2).length(b"a\n"), None);
    }

    #[test]
    fn formats_with_an_end_come_whole() {
        for format in ["JSON", "Parquet", "Pretty", "CSVWithNames", "Values", "Arrow"] {
            assert_eq!(streaming(format), Streaming::Whole, "{format}");
        }
    }
}
