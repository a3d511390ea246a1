//! Where a backlog is cut, so that one look takes no more rows than memory is for.
//!
//! Below its newest batch a lane is whole and stays so (see [`super::lanes`]), so it may be cut there at any offset: all
//! below is seen, and nothing of what is above. The newest batch is not cut: which of its rows are still to come nobody
//! knows. It has as many rows as one insert of the consumer's.

use clickhouse::Row;
use serde::Deserialize;

use super::lanes::{LaneKey, Source};
use crate::{
    clickhouse::{Warehouse, text},
    error::Result,
};

/// Stretches in which the rows of a lane are counted.
const STRETCHES: u64 = 1_024;

/// What waits in a lane: rows below its newest batch, and in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) whole_rows: u64,
    pub(super) newest_rows: u64,
}

impl Waiting {
    pub(super) fn rows(self) -> u64 {
        self.whole_rows.saturating_add(self.newest_rows)
    }
}

/// How many of its whole rows are taken of each lane; `None`: all there is. Each lane has an equal share, and what one
/// does not need is the others'.
pub(super) fn shares(lanes: &[Waiting], rows_max: u64) -> Vec<Option<u64>> {
    let mut order: Vec<usize> = (0..lanes.len()).collect();
    order.sort_by_key(|at| lanes[*at].rows());
    let mut shares = vec![None; lanes.len()];
    let (mut left, mut rest) = (rows_max, lanes.len() as u64);
    for at in order {
        let lane = lanes[at];
        let share = (left / rest).max(1);
        rest -= 1;
        let takes_all = lane.rows() <= share || lane.whole_rows == 0;
        if !takes_all {
            shares[at] = Some(share.min(lane.whole_rows));
        }
        left = left.saturating_sub(shares[at].unwrap_or(lane.rows()));
    }
    shares
}

#[derive(Row, Deserialize)]
struct Stretch {
    stretch: u64,
    rows: u64,
}

/// The offset below which a lane has about so many rows from `from` on, and at least one; at most `to`.
pub(super) async fn cut(
    warehouse: &Warehouse,
    source: &Source,
    (topic, partition): &LaneKey,
    from: u64,
    to: u64,
    rows: u64,
) -> Result<u64> {
    let (mut from, mut to) = (from, to);
    // Of an uneven lane one stretch may hold nearly everything: then that is cut in turn.
    loop {
        let width = to.saturating_sub(from).div_ceil(STRETCHES).max(1);
        let query = warehouse
            .query(&text::assemble(text::arrivals_counts))
            .param("table", source.table)
            .param("topic", topic)
            .param("partition", partition)
            .param("from", from)
            .param("to", to)
            .param("width", width);
        let stretches: Vec<Stretch> = warehouse.rows(query).await?;
        let Some(first) = stretches.first() else { return Ok(to) };
        if first.rows > rows && width > 1 {
            from += first.stretch * width;
            to = to.min(from.saturating_add(width));
            continue;
        }
        let mut taken = 0_u64;
        let mut last = first.stretch;
        for stretch in &stretches {
            taken = taken.saturating_add(stretch.rows);
            if taken > rows && stretch.stretch != first.stretch {
                break;
            }
            last = stretch.stretch;
        }
        return Ok(to.min(from.saturating_add((last + 1).saturating_mul(width))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(whole_rows: u64, newest_rows: u64) -> Waiting {
        Waiting { whole_rows, newest_rows }
    }

    #[test]
    fn lanes_share_a_slice_and_each_moves() {
        // What the small ones leave is the large one's.
        assert_eq!(shares(&[of(10, 5), of(900, 100), of(0, 20)], 100), [None, Some(65), None]);
        assert_eq!(shares(&[of(10, 5), of(20, 5)], 100), [None, None]);
        // The newest batch waits, when all below it fits.
        assert_eq!(shares(&[of(60, 100)], 100), [Some(60)]);
        // It is taken whole when nothing is below it.
        assert_eq!(shares(&[of(0, 1_000)], 100), [None]);
        // However many lanes there are.
        assert_eq!(shares(&vec![of(1_000, 1); 300], 100), vec![Some(1); 300]);
    }
}
