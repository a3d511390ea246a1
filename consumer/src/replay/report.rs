//! What came of a replay.

use std::{collections::BTreeMap, fmt};

/// Why a dead-letter record is left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// No table takes its topic's rows.
    NoTable,
    /// It must be said that its version is known now.
    UnknownVersion,
    /// It cannot be read.
    Undecodable,
    /// ClickHouse refuses it, with this code.
    Refused(Option<u32>),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoTable => f.write_str("of a topic without a table"),
            Why::UnknownVersion => f.write_str("of an unknown version (see --unknown-version)"),
            Why::Undecodable => f.write_str("not readable"),
            Why::Refused(Some(code)) => write!(f, "refused by ClickHouse (code {code})"),
            Why::Refused(None) => f.write_str("refused by ClickHouse"),
        }
    }
}

/// What came of a run. Its text is what the command prints.
#[derive(Debug, Default)]
pub struct Report {
    /// Dead-letter records that were tried, or would be.
    pub records: u64,
    /// Records whose rows are stored now, and that are removed.
    pub stored: u64,
    /// Their rows.
    pub rows: u64,
    is_dry: bool,
    left: BTreeMap<Why, (u64, String)>,
}

impl Report {
    /// Records that stayed as they were.
    pub fn left(&self) -> u64 {
        self.left.values().map(|(count, _)| count).sum()
    }

    pub(super) fn new(is_dry: bool) -> Self {
        Self { is_dry, ..Self::default() }
    }

    /// The record at this place stays as it was.
    pub(super) fn leave(&mut self, place: &str, why: Why, detail: &str) {
        let (count, _) = self.left.entry(why).or_insert_with(|| (0, format!("{place}: {detail}")));
        *count += 1;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, stored, rows, is_dry, left } = self;
        if *is_dry {
            write!(
                f,
                "{records} dead letters: {} can be read, {} cannot",
                records - self.left(),
                self.left()
            )?;
        } else {
            let left = self.left();
            write!(f, "{records} dead letters: {stored} stored ({rows} rows), {left} left as they were")?;
        }
        for (why, (count, example)) in left {
            write!(f, "\n  {count} {why}, for example {example}")?;
        }
        Ok(())
    }
}
