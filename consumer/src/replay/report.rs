//! What came of a replay.

use std::{collections::BTreeMap, fmt};

/// Why a letter is still one.
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
    /// Letters that were tried, or would be.
    pub letters: u64,
    /// Letters whose rows are stored, and that are no letters any more.
    pub stored: u64,
    /// Their rows.
    pub rows: u64,
    is_dry: bool,
    left: BTreeMap<Why, (u64, String)>,
}

impl Report {
    /// Letters that stayed as they were.
    pub fn left(&self) -> u64 {
        self.left.values().map(|(count, _)| count).sum()
    }

    pub(super) fn new(is_dry: bool) -> Self {
        Self { is_dry, ..Self::default() }
    }

    /// The letter at this place stays as it was.
    pub(super) fn leave(&mut self, place: &str, why: Why, detail: &str) {
        let (count, _) = self.left.entry(why).or_insert_with(|| (0, format!("{place}: {detail}")));
        *count += 1;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { letters, stored, rows, is_dry, left } = self;
        if *is_dry {
            write!(
                f,
                "{letters} dead letters: {} can be read, {} cannot",
                letters - self.left(),
                self.left()
            )?;
        } else {
            let left = self.left();
            write!(f, "{letters} dead letters: {stored} stored ({rows} rows), {left} left as they were")?;
        }
        for (why, (count, example)) in left {
            write!(f, "\n  {count} {why}, for example {example}")?;
        }
        Ok(())
    }
}
