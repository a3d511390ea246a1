//! Arrivals are found whatever the order in which the parts of a batch are seen, and once.

use std::collections::VecDeque;

use millrace_aggregator::arrival::{self, Discovery, Looked};
use millrace_schemas::{
    clickhouse::{Layout, statements},
    row::EventRow,
};
use serde_json::json;

use crate::{
    equal::{Dice, HAND_MADE, assert_same, define, random_clicks, random_events, seeds},
    harness::{Bed, at, event},
};

impl Bed {
    /// One look at so many rows, more or less.
    pub(crate) async fn look_at_most(&self, rows: u64) -> Looked {
        arrival::look(&self.warehouse, &self.pool, &mut Discovery::new(rows)).await.unwrap().unwrap()
    }

    /// Days that one look touches.
    pub(crate) async fn look(&self) -> usize {
        arrival::look(&self.warehouse, &self.pool, &mut Discovery::default()).await.unwrap().unwrap().days
    }

    /// Page views by day.
    async fn page_views(&self) -> Vec<serde_json::Value> {
        self.rows(
            "SELECT date, page_views AS n FROM analytics_summary WHERE period_type = 'day' ORDER BY date",
        )
        .await
    }
}

/// A page view of a day, received at the end of October or the beginning of November.
fn view(number: u128, time: &str, received: &str) -> EventRow<'static> {
    EventRow { received_at: at(received), ..event(number, "page_view", time, "v", "") }
}

const OCTOBER: &str = "2026-10-31 23:59:59";
const NOVEMBER: &str = "2026-11-01 00:00:01";

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_batch_may_be_seen_before_its_beginning() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let rows = [
        view(1, "2026-10-20 10:00:00", OCTOBER),
        view(2, "2026-10-21 10:00:00", OCTOBER),
        view(3, "2026-10-22 10:00:00", NOVEMBER),
        view(4, "2026-10-23 10:00:00", NOVEMBER),
    ];
    let [first, second, third, fourth] = rows.each_ref();
    // November's part of the batch, which has the last rows, is there; October's failed and is tried again later.
    bed.insert_part(0, 0, &[(2, third), (3, fourth)]).await;
    bed.roll().await;
    let day = |date: &str| json!({"date": date, "n": 1});
    assert_eq!(bed.page_views().await, [day("2026-10-22"), day("2026-10-23")]);
    // A lane at rest touches nothing, however often one looks.
    assert_eq!((bed.look().await, bed.look().await), (0, 0));
    // The rest of the batch comes, and in the same moment the next batch; another lane has nothing to do with it.
    bed.insert_part(1, 70, &[(70, &view(7, "2026-10-24 10:00:00", NOVEMBER))]).await;
    bed.insert_part(0, 0, &[(0, first), (1, second)]).await;
    bed.insert_part(0, 4, &[(4, &view(5, "2026-10-25 10:00:00", NOVEMBER))]).await;
    bed.roll().await;
    let days = ["20", "21", "22", "23", "24", "25"].map(|number| day(&format!("2026-10-{number}")));
    assert_eq!(bed.page_views().await, days);
    assert_eq!((bed.look().await, bed.look().await), (0, 0));
    // Not the whole batch is looked at again when only the next one has come.
    bed.insert_part(0, 5, &[(5, &view(6, "2026-10-26 10:00:00", NOVEMBER))]).await;
    assert_eq!(bed.look().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_touches_days_once_and_no_more() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let row = view(1, "2026-10-20 10:00:00", OCTOBER);
    let again = EventRow { received_at: row.received_at + 60_000, ..row.clone() };
    bed.insert_part(0, 0, &[(0, &row), (1, &again), (2, &view(2, "2026-10-21 10:00:00", OCTOBER))]).await;
    bed.clickhouse("", "SYSTEM STOP MERGES").await;
    bed.roll().await;
    let before = bed.everything().await;
    assert_eq!(bed.look().await, 0);
    bed.clickhouse("", "SYSTEM START MERGES").await;
    bed.clickhouse("", "OPTIMIZE TABLE millrace.events FINAL").await;
    bed.roll().await;
    assert_eq!((bed.look().await, bed.look().await), (0, 0));
    assert_same(HAND_MADE, &before, &bed.everything().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_received_earlier_takes_its_event_to_another_day() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.clickhouse("", "SYSTEM STOP MERGES").await;
    // No time was sent: it is the receipt's. The first of the two lay in a spool while the second was stored.
    let second = view(1, "2026-10-21 00:00:01", "2026-10-21 00:00:01");
    let first = EventRow {
        event_time: at("2026-10-20 23:59:59"),
        received_at: at("2026-10-20 23:59:59"),
        ..second.clone()
    };
    let day = |date: &str| json!({"date": date, "n": 1});
    bed.insert_part(0, 0, &[(0, &second)]).await;
    bed.roll().await;
    assert_eq!(bed.page_views().await, [day("2026-10-21")]);
    bed.insert_part(1, 0, &[(0, &first)]).await;
    bed.roll().await;
    assert_eq!(bed.page_views().await, [day("2026-10-20")]);
    let rolled = bed.everything().await;
    bed.forget().await;
    bed.roll().await;
    assert_same(HAND_MADE, &rolled, &bed.everything().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_received_earlier_takes_its_event_out_of_a_chain() {
    let bed = Bed::with_store("s", "America/New_York", "USD").await;
    bed.clickhouse("", "SYSTEM STOP MERGES").await;
    // Around midnight in New York. Nobody sent a visitor; the first copy, which lay in a spool, came from another network.
    let of = |number, time, visitor| EventRow {
        visitor_id: visitor,
        visitor_hash: 0,
        ..event(number, "page_view", time, "", "")
    };
    let second = of(2, "2026-10-20 04:05:00", "v2");
    let first = EventRow { visitor_id: "v1", received_at: second.received_at - 500, ..second.clone() };
    // And one that turned out to be a bot's.
    let seen = EventRow { visitor_hash: 3, ..of(4, "2026-10-20 04:06:00", "v3") };
    let bot = EventRow { is_bot: 1, received_at: seen.received_at - 500, ..seen.clone() };
    bed.insert_part(
        0,
        0,
        &[
            (0, &of(1, "2026-10-20 03:50:00", "v2")),
            (1, &second),
            (2, &EventRow { visitor_hash: 3, ..of(3, "2026-10-20 03:51:00", "v3") }),
            (3, &seen),
        ],
    )
    .await;
    bed.roll().await;
    let day =
        "SELECT total_sessions AS s, avg_session_duration AS d, bounce_rate::text AS b FROM analytics_summary
               WHERE period_type = 'day' AND date = '2026-10-19'";
    assert_eq!(bed.rows(day).await, [json!({"s": 2, "d": 900, "b": "0.0000"})]);
    bed.insert_part(1, 0, &[(0, &first)]).await;
    bed.roll().await;
    assert_eq!(bed.rows(day).await, [json!({"s": 2, "d": 450, "b": "0.5000"})]);
    bed.insert_part(1, 1, &[(1, &bot)]).await;
    bed.roll().await;
    assert_eq!(bed.rows(day).await, [json!({"s": 2, "d": 0, "b": "1.0000"})]);
    let rolled = bed.everything().await;
    bed.forget().await;
    bed.roll().await;
    assert_same(HAND_MADE, &rolled, &bed.everything().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_earlier_build_stand_for_themselves() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    for table in ["events", "clicks", "dead_letters"] {
        bed.clickhouse("", &format!("ALTER TABLE millrace.{table} DROP COLUMN _batch")).await;
    }
    let (row, next) = (view(1, "2026-10-20 10:00:00", OCTOBER), view(2, "2026-10-21 10:00:00", OCTOBER));
    let mut line = Vec::new();
    millrace_schemas::row::Row::write_json(&row, &mut line);
    line.pop();
    line.extend_from_slice(br#","_topic":"millrace.events","_partition":0,"_offset":41,"_row":0}"#);
    let line = String::from_utf8(line).unwrap();
    bed.clickhouse("INSERT INTO millrace.events FORMAT JSONEachRow", &line).await;
    for statement in statements(&Layout::default()).iter().chain(&statements(&Layout::default())) {
        bed.clickhouse("", statement).await;
    }
    bed.roll().await;
    assert_eq!(bed.look().await, 0);
    bed.insert_part(0, 42, &[(42, &next)]).await;
    assert_eq!(bed.look().await, 1);
    bed.roll().await;
    let newest = "SELECT next_offset AS n, batch_offset AS b, batch_rows AS r FROM arrival_watermarks";
    assert_eq!(bed.rows(newest).await, [json!({"n": 43, "b": 42, "r": 1})]);
    assert_eq!(bed.page_views().await.len(), 2);
}

/// What a lane has still to insert: parts of batches, in an order that a lane may have.
fn parts(dice: &mut Dice, rows: Vec<EventRow<'static>>) -> VecDeque<(u64, Vec<(u64, EventRow<'static>)>)> {
    let mut lane = VecDeque::new();
    let mut rest: VecDeque<(u64, EventRow<'static>)> = (100_u64..).zip(rows).collect();
    while let Some((first, _)) = rest.front() {
        let first = *first;
        let size = (1 + dice.below(60) as usize).min(rest.len());
        // By month of receipt and by shard, as ClickHouse cuts a block.
        let mut cut: Vec<Vec<(u64, EventRow<'static>)>> = vec![Vec::new(); 4];
        for (offset, row) in rest.drain(..size) {
            let month = usize::from(row.received_at >= at("2026-11-01 00:00:00"));
            cut[2 * month + (row.event_id.as_u128() % 2) as usize].push((offset, row));
        }
        cut.retain(|part| !part.is_empty());
        // An attempt whose acknowledgement was lost, and all of it once more.
        if dice.one_in(4) {
            let lost = dice.below(cut.len() as u64) as usize;
            let again = cut[lost].clone();
            cut.push(again);
        }
        dice.shuffle(&mut cut);
        lane.extend(cut.into_iter().map(|part| (first, part)));
    }
    lane
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_in_any_order_and_any_cycle_end_like_a_rebuild() {
    let bed = Bed::start().await;
    for (index, seed) in seeds().into_iter().enumerate() {
        println!("seed {seed} (MILLRACE_SEED={seed} runs it alone)");
        let store: &'static str = Box::leak(format!("parts{seed}").into_boxed_str());
        bed.add_store(store, "America/New_York", "USD").await;
        define(&bed, store).await;
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
        bed.insert(&random_clicks(&mut dice, store)).await;
        let mut lanes: Vec<Vec<EventRow<'_>>> = vec![Vec::new(); 3];
        for row in random_events(&mut dice, store) {
            lanes[dice.below(3) as usize].push(row);
        }
        let partition = 3 * index as u32;
        let mut lanes: Vec<_> = (partition..)
            .zip(lanes.into_iter().map(|rows| parts(&mut dice, rows)).collect::<Vec<_>>())
            .collect();
        while !lanes.is_empty() {
            let at = dice.below(lanes.len() as u64) as usize;
            let (partition, lane) = &mut lanes[at];
            match lane.pop_front() {
                Some((batch, part)) => {
                    let part: Vec<_> = part.iter().map(|(offset, row)| (*offset, row)).collect();
                    bed.insert_part(*partition, batch, &part).await;
                }
                None => drop(lanes.swap_remove(at)),
            }
            // Often only a look: what was seen of a batch must not hide the rest, nor a slice what is beyond it.
            if dice.one_in(3) {
                bed.look().await;
            }
            if dice.one_in(2) {
                bed.look_at_most(1 + dice.below(80)).await;
            }
            if dice.one_in(8) {
                bed.roll().await;
            }
        }
        bed.roll().await;
        assert_eq!(bed.look().await, 0);
        let arrived = bed.everything().await;
        bed.forget().await;
        bed.roll().await;
        assert_same(seed, &arrived, &bed.everything().await);
    }
}
