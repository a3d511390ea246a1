//! The queue of a batch's parts: whole at first, halved where a part is refused, in the order of the rows.

use std::ops::Range;

/// Parts that are not stored yet; there is always one to go on with, and none is empty.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    current: Range<u32>,
    /// The last of them comes next.
    rest: Vec<Range<u32>>,
}

/// What a part that was refused is divided into.
pub(super) enum Halves {
    /// Its halves, the first of which is the current part now.
    Two(Parts),
    /// It is a single row.
    Row(Parts),
}

impl Parts {
    /// All rows as one part; nothing when there are none.
    pub(super) fn whole(rows: u32) -> Option<Self> {
        (rows > 0).then(|| Self { current: 0..rows, rest: Vec::new() })
    }

    pub(super) fn current(&self) -> Range<u32> {
        self.current.clone()
    }

    /// The current part, which is a single row.
    pub(super) fn row(&self) -> u32 {
        assert_eq!(self.current.len(), 1, "rows {:?} are taken for one", self.current);
        self.current.start
    }

    /// The current part is done. Nothing when it was the last.
    pub(super) fn next(mut self) -> Option<Self> {
        let current = self.rest.pop()?;
        debug_assert_eq!(self.current.end, current.start, "parts follow each other");
        Some(Self { current, rest: self.rest })
    }

    pub(super) fn halve(mut self) -> Halves {
        let Range { start, end } = self.current;
        assert!(start < end, "no rows are refused");
        let middle = start + (end - start) / 2;
        if middle == start {
            return Halves::Row(self);
        }
        self.rest.push(middle..end);
        Halves::Two(Self { current: start..middle, rest: self.rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches for the rows at fault as an insert does; returns them, and the parts that went well.
    fn search(rows: u32, is_bad: impl Fn(u32) -> bool) -> (Vec<u32>, Vec<Range<u32>>) {
        let (mut bad, mut good) = (Vec::new(), Vec::new());
        let mut parts = Parts::whole(rows);
        while let Some(now) = parts.take() {
            parts = if now.current().any(&is_bad) {
                match now.halve() {
                    Halves::Two(parts) => Some(parts),
                    Halves::Row(parts) => {
                        bad.push(parts.row());
                        parts.next()
                    }
                }
            } else {
                good.push(now.current());
                now.next()
            };
        }
        (bad, good)
    }

    #[test]
    fn every_row_is_in_one_part_in_its_order() {
        for rows in 0..40 {
            for step in 1..9 {
                let (bad, good) = search(rows, |row| row % step == 2 % step);
                let all: Vec<u32> = (0..rows).filter(|row| row % step == 2 % step).collect();
                assert_eq!(bad, all);
                let mut found: Vec<u32> = bad.into_iter().chain(good.iter().cloned().flatten()).collect();
                found.sort_unstable();
                assert_eq!(found, (0..rows).collect::<Vec<_>>());
                assert!(good.is_sorted_by_key(|part| part.start));
            }
        }
    }

    #[test]
    fn no_rows_are_no_part() {
        assert!(Parts::whole(0).is_none());
        let (bad, good) = search(5, |_| false);
        assert_eq!((bad, good), (vec![], vec![Range { start: 0, end: 5 }]));
    }
}
