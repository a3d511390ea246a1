//! Erasure, export and retention: what is forgotten is gone from everything, and nothing else is.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use millrace_aggregator::privacy::{self, Finality, erasure, subject::Kind};
use millrace_schemas::{
    row::{ClickRow, EventRow, Row},
    time::date_of,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::Service,
    equal::{Dice, HAND_MADE, assert_same, define, random_clicks, random_events, seeds},
    harness::{ADMIN_TOKEN, Bed, at, click, event, eventually},
};

/// Where nothing is known of the log, and nothing is waited for.
fn at_once() -> Finality {
    Finality { spool_dir: None, settle: Duration::ZERO, horizon: Duration::ZERO }
}

impl Bed {
    async fn erase(&self, store: &str, kind: Kind, id: &str) -> String {
        let mut postgres = self.pool.acquire().await.unwrap();
        erasure::request(&mut postgres, store, kind, id).await.unwrap()
    }

    async fn receipt(&self, id: &str) -> Value {
        self.rows(&format!("SELECT * FROM erasures WHERE id = '{id}'")).await.remove(0)
    }

    /// Has every erasure looked at anew, as if its pause had passed. What a step that was cut off has locked is free once
    /// Postgres notices.
    async fn due(&self) {
        let sql = "UPDATE erasures SET next_at = now(), swept_at = NULL WHERE state <> 'final'";
        eventually("the row is free", async || sqlx::query(sql).execute(&self.pool).await.is_ok()).await;
    }

    /// Goes on with erasures and rollups until one is in a state. ClickHouse takes its time with files out of use.
    async fn until(&self, id: &str, state: &str, finality: &Finality) -> Value {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let next = "UPDATE erasures SET next_at = now() WHERE state <> 'final'";
            eventually("the row is free", async || sqlx::query(next).execute(&self.pool).await.is_ok()).await;
            privacy::step(&self.warehouse, &self.pool, finality).await.unwrap();
            self.roll().await;
            let receipt = self.receipt(id).await;
            if receipt["state"] == state && receipt["error"].is_null() {
                return receipt;
            }
            assert!(Instant::now() < deadline, "waited in vain for {state}: {receipt}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has ClickHouse remove what is out of use after a second rather than after 8 minutes.
    async fn clean_soon(&self) {
        for table in ["events", "clicks", "dead_letters", "orders", "refunds"] {
            let sql = format!("ALTER TABLE millrace.{table} MODIFY SETTING old_parts_lifetime = 1");
            self.clickhouse("", &sql).await;
        }
    }

    /// Ids of a store's events and clicks, each row one.
    async fn ids(&self, store: &str) -> Vec<String> {
        let sql = format!(
            "SELECT toString(event_id) FROM (SELECT event_id FROM events WHERE store_id = '{store}'
             UNION ALL SELECT event_id FROM clicks WHERE store_id = '{store}') ORDER BY event_id"
        );
        let text = self
            .clickhouse(
                "",
                &sql.replace("FROM events", "FROM millrace.events")
                    .replace("FROM clicks", "FROM millrace.clicks"),
            )
            .await;
        text.lines().map(str::to_owned).collect()
    }

    async fn letter(&self, offset: u64, raw: &str) {
        let raw = serde_json::to_string(raw).unwrap();
        let row = format!(
            r#"{{"reason":"refused_by_store","detail":"d","died_at":"2026-11-01 00:00:00.000","raw":{raw},
                "_topic":"millrace.events","_partition":0,"_offset":{offset},"_row":0,"_batch":{offset}}}"#
        )
        .replace('\n', "");
        self.clickhouse("INSERT INTO millrace.dead_letters FORMAT JSONEachRow", &row).await;
    }

    /// Rows of orders with this in them, copies and those of old versions counted.
    async fn orders_of(&self, rows: &str) -> u64 {
        let query = format!("SELECT count() FROM millrace.orders WHERE {rows}");
        self.clickhouse("", &query).await.trim().parse().unwrap()
    }

    /// What a rebuild from nothing makes of what is stored.
    async fn assert_like_a_rebuild(&self, seed: u64) {
        let found = self.everything().await;
        self.forget().await;
        self.roll().await;
        assert_same(seed, &found, &self.everything().await);
    }
}

fn sorted_ids(events: &[EventRow<'_>], clicks: &[ClickRow<'_>]) -> Vec<String> {
    let ids = events.iter().map(|row| row.event_id).chain(clicks.iter().map(|row| row.event_id));
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids.iter().map(ToString::to_string).collect()
}

/// A store with random events and clicks, rolled up.
async fn filled(
    bed: &Bed,
    dice: &mut Dice,
    store: &'static str,
) -> (Vec<EventRow<'static>>, Vec<ClickRow<'static>>) {
    bed.add_store(store, "America/New_York", "USD").await;
    define(bed, store).await;
    let (events, clicks) = (random_events(dice, store), random_clicks(dice, store));
    for piece in events.chunks(90) {
        bed.insert(piece).await;
    }
    bed.insert(&clicks).await;
    bed.roll().await;
    (events, clicks)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_rollups_are_those_of_everybody_else() {
    for seed in seeds() {
        println!("seed {seed} (MILLRACE_SEED={seed} runs it alone)");
        let bed = Bed::start().await;
        bed.clean_soon().await;
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (events, clicks) = filled(&bed, &mut dice, "s").await;
        let (other_events, other_clicks) = filled(&bed, &mut dice, "t").await;

        let id = bed.erase("s", Kind::Visitor, "v2").await;
        let receipt = bed.until(&id, "deleted", &at_once()).await;
        let left = |row: &&EventRow<'static>| row.visitor_id != "v2";
        let events: Vec<_> = events.iter().filter(left).cloned().collect();
        let clicks: Vec<_> = clicks.into_iter().filter(|row| row.visitor_id != "v2").collect();
        assert!(
            receipt["events"].as_u64().unwrap() > 20 && receipt["clicks"].as_u64().unwrap() > 5,
            "{receipt}"
        );
        assert!(receipt["days"].as_array().unwrap().len() > 3, "{receipt}");
        assert_eq!(distinct(bed.ids("s").await), distinct(sorted_ids(&events, &clicks)));
        assert_eq!(bed.orders_of("store_id = 's' AND visitor_id = 'v2'").await, 0);
        bed.assert_like_a_rebuild(seed).await;

        // A user: what names them, and what the visitors did without a name whom a server named with them alone.
        let id = bed.erase("s", Kind::User, "u1").await;
        bed.until(&id, "final", &at_once()).await;
        let told = |user: &str| -> BTreeSet<&str> {
            let rows = events.iter().filter(|row| row.trusted == 1 && row.user_id == user);
            rows.map(|row| row.visitor_id).filter(|id| !id.is_empty()).collect()
        };
        let known = &told("u1") - &told("u2");
        let left: Vec<_> = events
            .iter()
            .filter(|row| row.user_id != "u1" && !(row.user_id.is_empty() && known.contains(row.visitor_id)))
            .cloned()
            .collect();
        let clicks: Vec<_> = clicks.into_iter().filter(|row| !known.contains(row.visitor_id)).collect();
        assert!(left.iter().any(|row| row.user_id == "u2"));
        assert_eq!(distinct(bed.ids("s").await), distinct(sorted_ids(&left, &clicks)));
        assert_eq!(distinct(bed.ids("t").await), distinct(sorted_ids(&other_events, &other_clicks)));
        bed.assert_like_a_rebuild(seed).await;
        // Final: nobody is named, and no file holds what is gone.
        assert_eq!(bed.receipt(&id).await["visitors"], json!([]));
        let old = "SELECT count() FROM system.parts WHERE database = 'millrace' AND has_lightweight_delete";
        assert_eq!(bed.clickhouse("", old).await.trim(), "0");
    }
}

/// Merges drop copies whenever they like.
fn distinct(ids: Vec<String>) -> BTreeSet<String> {
    ids.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_is_cut_off_anywhere_is_finished_by_the_next() {
    let bed = Bed::start().await;
    let mut dice = Dice(4711);
    filled(&bed, &mut dice, "s").await;
    for (kind, subject) in [(Kind::Visitor, "v1"), (Kind::Visitor, "v3"), (Kind::User, "u2")] {
        let id = bed.erase("s", kind, subject).await;
        // Each attempt gets a little further; what is rolled up in between must not count what half is gone.
        for attempt in 0..40 {
            let finality = at_once();
            let step = privacy::step(&bed.warehouse, &bed.pool, &finality);
            drop(tokio::time::timeout(Duration::from_millis(dice.below(10 + 10 * attempt)), step).await);
            bed.due().await;
            if dice.one_in(4) {
                bed.roll().await;
            }
        }
        bed.until(&id, "deleted", &at_once()).await;
        bed.assert_like_a_rebuild(HAND_MADE).await;
    }
    let left = "SELECT count() FROM millrace.events WHERE visitor_id IN ('v1', 'v3') OR user_id = 'u2'";
    assert_eq!(bed.clickhouse("", left).await.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_up_late_is_removed_and_what_is_new_stays() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.clean_soon().await;
    let view = |number, time: &str, visitor| event(number, "page_view", time, visitor, "");
    bed.insert(&[view(1, "2026-10-01 10:00:00", "gone"), view(2, "2026-10-01 10:00:00", "stays")]).await;
    bed.roll().await;
    let id = bed.erase("s", Kind::Visitor, "gone").await;
    let horizon = Finality { horizon: Duration::from_secs(3600), ..at_once() };
    bed.until(&id, "deleted", &horizon).await;
    // Out of a spool; and one that was received after the request.
    let now = Timestamp::now().as_millisecond() + 60_000;
    let new = EventRow { received_at: now, ..view(4, "2026-10-03 10:00:00", "gone") };
    bed.insert(&[view(3, "2026-10-02 10:00:00", "gone"), new]).await;
    bed.roll().await;
    let views = async || {
        bed.rows(
            "SELECT date, page_views AS n FROM analytics_summary WHERE period_type = 'day' ORDER BY date",
        )
        .await
    };
    assert_eq!(views().await.len(), 3);
    bed.due().await;
    bed.until(&id, "removed", &horizon).await;
    let receipt = bed.until(&id, "deleted", &horizon).await;
    assert_eq!((&receipt["events"], &receipt["sweeps"]), (&json!(2), &json!(2)), "{receipt}");
    let expected = json!([{"date": "2026-10-01", "n": 1}, {"date": "2026-10-03", "n": 1}]);
    assert_eq!(Value::Array(views().await), expected);
    bed.until(&id, "final", &at_once()).await;
    assert_eq!(Value::Array(views().await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_with_long_names_are_erased_however_many_there_are() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.clickhouse("", "SYSTEM STOP MERGES").await;
    let names: Vec<String> = (100..200).map(|number| format!("{number}{}", "x".repeat(8_000))).collect();
    let named = |(number, name)| EventRow {
        visitor_hash: 0,
        ..event(number, name, "2026-10-01 10:00:00", "derived-1", "")
    };
    let first: Vec<EventRow<'_>> = (1..).zip(names.iter().map(String::as_str)).map(named).collect();
    let second: Vec<_> = first
        .iter()
        .map(|row| EventRow { visitor_id: "derived-2", received_at: row.received_at + 60_000, ..row.clone() })
        .collect();
    bed.insert(&first).await;
    bed.insert(&second).await;
    bed.clickhouse("", "SYSTEM START MERGES").await;
    let id = bed.erase("s", Kind::Visitor, "derived-1").await;
    let receipt = bed.until(&id, "deleted", &at_once()).await;
    assert_eq!(receipt["events"], 200, "{receipt}");
    assert_eq!(bed.clickhouse("", "SELECT count() FROM millrace.events").await.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_another_visitor_does_not_come_to_light() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.clickhouse("", "SYSTEM STOP MERGES").await;
    // An event without a visitor, sent twice: from the second network another visitor is derived.
    let first = EventRow { visitor_hash: 0, ..event(1, "page_view", "2026-10-01 10:00:00", "derived-1", "") };
    let second =
        EventRow { visitor_id: "derived-2", received_at: first.received_at + 60_000, ..first.clone() };
    let same_id = EventRow { visitor_id: "else", visitor_hash: 7, ..first.clone() };
    bed.insert(&[first]).await;
    bed.insert(&[second, same_id]).await;
    bed.clickhouse("", "SYSTEM START MERGES").await;
    bed.roll().await;
    let id = bed.erase("s", Kind::Visitor, "derived-1").await;
    let receipt = bed.until(&id, "deleted", &at_once()).await;
    assert_eq!(receipt["events"], 2, "{receipt}");
    let left = bed.clickhouse("", "SELECT visitor_id FROM millrace.events").await;
    assert_eq!(left.trim(), "else");
    let sql = "SELECT unique_visitors AS n FROM analytics_summary WHERE period_type = 'day'";
    assert_eq!(bed.rows(sql).await, [json!({"n": 1})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_counts_itself_stays() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.clickhouse("", "SYSTEM STOP MERGES").await;
    let first = EventRow { visitor_hash: 0, ..event(1, "page_view", "2026-10-01 10:00:00", "derived-1", "") };
    let second =
        EventRow { visitor_id: "derived-2", received_at: first.received_at + 60_000, ..first.clone() };
    // What a server told of a visitor, and what anybody sends under its id with a user of their own.
    let told = EventRow { trusted: 1, ..event(2, "search", "2026-10-01 10:00:00", "v", "") };
    let sent = EventRow { trusted: 0, user_id: "mallory", ..told.clone() };
    bed.insert(&[first]).await;
    bed.insert(&[second, told]).await;
    bed.insert(&[sent]).await;
    bed.clickhouse("", "SYSTEM START MERGES").await;
    for (kind, subject) in [(Kind::Visitor, "derived-2"), (Kind::User, "mallory")] {
        let id = bed.erase("s", kind, subject).await;
        bed.until(&id, "deleted", &at_once()).await;
    }
    let left = "SELECT concat(visitor_id, user_id) FROM millrace.events FINAL ORDER BY event_id";
    assert_eq!(bed.clickhouse("", left).await, "derived-1\nv\n");
}

/// Inserts an event each of many visitors, named `leftPad(number, width, '-')`, with these columns and their values.
async fn crowd(bed: &Bed, partition: u32, visitors: u32, width: u32, columns: &str, values: &str) {
    let sql = format!(
        "INSERT INTO millrace.events (store_id, event_id, type, name, event_time, received_at, key_date, visitor_id,
                                      visitor_hash, _topic, _partition, _offset, _row, _batch{columns})
         SELECT 's', reinterpretAsUUID(reverse(reinterpretAsFixedString(toUInt128(number + 1000000 * ({partition} + 1))))),
                'event', 'ping', toDateTime64('2026-10-01 00:00:00', 3, 'UTC') + number % 80000,
                toDateTime64('2026-10-02 00:00:00', 3, 'UTC') + number % 80000, toDate('2026-10-01'),
                leftPad(toString(number), {width}, '-'), number + 1, 'millrace.events', {partition}, number, 0, 0{values}
         FROM numbers({visitors})"
    );
    bed.clickhouse("", &sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hinders_an_erasure_or_takes_part_in_it_by_naming_its_user() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    // MILLRACE_TEST_VISITORS=100000: more than a short test should wait for.
    let crowd_size: u32 = std::env::var("MILLRACE_TEST_VISITORS").map_or(2_500, |n| n.parse().unwrap());
    // A visitor each who names jane, and what the same visitors did without a name.
    crowd(&bed, 1, crowd_size, 36, ", user_id", ", 'jane'").await;
    crowd(&bed, 2, crowd_size, 36, "", "").await;
    let view = |number, visitor| event(number, "page_view", "2026-10-01 10:00:00", visitor, "");
    let named = |number, visitor, user_id, trusted| EventRow { user_id, trusted, ..view(number, visitor) };
    bed.insert(&[
        // Hers, as her shop says; whoever says that it is bob's changes nothing.
        view(1, "hers"),
        named(2, "hers", "jane", 1),
        named(3, "hers", "bob", 0),
        // Of a browser that two persons share nobody knows whose the rest is.
        view(4, "shared"),
        named(5, "shared", "jane", 1),
        named(6, "shared", "bob", 1),
        // Somebody's, named with her by a page: before any other word, and after.
        view(7, "theirs"),
        EventRow { event_time: at("2026-10-01 08:00:00"), ..named(8, "theirs", "jane", 0) },
        named(9, "theirs", "jane", 0),
        named(10, "theirs", "carl", 1),
    ])
    .await;
    bed.insert(&[
        click(20, at("2026-10-01 10:00:00"), "hers", 1, 1),
        click(21, at("2026-10-01 10:00:00"), "theirs", 1, 1),
    ])
    .await;
    bed.roll().await;
    let service = Service::start(&bed).await;
    let export = format!("{}/api/v1/stores/s/users/jane/export", service.address);
    let answer = reqwest::Client::new().get(export).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    // hers: 1, 2 and the click; 5, 8, 9.
    assert_eq!(answer.text().await.unwrap().lines().count(), crowd_size as usize + 6);
    service.stop().await;

    let id = bed.erase("s", Kind::User, "jane").await;
    sqlx::query("UPDATE erasures SET slice_rows = 1000 WHERE $1 < 100000")
        .bind(i64::from(crowd_size))
        .execute(&bed.pool)
        .await
        .unwrap();
    let receipt = bed.until(&id, "deleted", &at_once()).await;
    assert_eq!((&receipt["events"], &receipt["clicks"]), (&json!(crowd_size + 5), &json!(1)), "{receipt}");
    assert!(receipt["sweeps"].as_i64().unwrap() > 2, "in slices: {receipt}");
    let left = "SELECT arrayStringConcat(arraySort(groupArray(toString(toUInt128(event_id)))), ' ')
                FROM millrace.events WHERE _partition = 0";
    assert_eq!(bed.clickhouse("", left).await.trim(), "10 3 4 6 7");
    let count = bed.clickhouse("", "SELECT count() FROM millrace.events WHERE _partition = 2").await;
    assert_eq!(count.trim(), crowd_size.to_string());
    assert_eq!(bed.clickhouse("", "SELECT visitor_id FROM millrace.clicks").await.trim(), "theirs");
    bed.assert_like_a_rebuild(HAND_MADE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_no_persons_is_erased_without_links() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    crowd(&bed, 1, 2_500, 36, ", user_id, trusted", ", 'guest', 1").await;
    crowd(&bed, 2, 2_500, 36, "", "").await;
    let id = bed.erase("s", Kind::User, "guest").await;
    let receipt = bed.until(&id, "deleted", &at_once()).await;
    assert_eq!((&receipt["events"], &receipt["links_ignored"]), (&json!(2_500), &json!(true)), "{receipt}");
    let left = bed.clickhouse("", "SELECT DISTINCT _partition FROM millrace.events").await;
    assert_eq!(left.trim(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_on_which_clickhouse_gives_up_is_halved() {
    let mut bed = Bed::with_store("s", "UTC", "USD").await;
    // 96 MB of ids, and less than that for a query.
    crowd(&bed, 1, 6_000, 8_000, ", user_id, session_id", ", 'jane', leftPad(toString(number), 8000, 's')")
        .await;
    bed.config.query_memory_bytes = 64 << 20;
    bed.warehouse = millrace_aggregator::clickhouse::Warehouse::new(&bed.config);
    let id = bed.erase("s", Kind::User, "jane").await;
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        sqlx::query("UPDATE erasures SET next_at = now()").execute(&bed.pool).await.unwrap();
        privacy::step(&bed.warehouse, &bed.pool, &at_once()).await.unwrap();
        sqlx::query("DELETE FROM touched_days").execute(&bed.pool).await.unwrap();
        let receipt = bed.receipt(&id).await;
        if receipt["state"] == "deleted" {
            assert!(receipt["slice_rows"].as_i64().unwrap() < 6_000, "{receipt}");
            assert_eq!(receipt["events"], 6_000, "{receipt}");
            break;
        }
        assert!(Instant::now() < deadline, "waited in vain: {receipt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_asks_for_so_many_erasures_at_a_time_and_holds_up_no_other() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.add_store("t", "UTC", "USD").await;
    sqlx::query(
        "INSERT INTO erasures (id, store_id, kind, salt, subject_sha256, requested_at)
         SELECT 'e' || n, 's', 'visitor', decode(repeat('00', 16), 'hex'), decode(repeat('00', 32), 'hex'), now()
         FROM generate_series(1, 500) AS n",
    )
    .execute(&bed.pool)
    .await
    .unwrap();
    let id = bed.erase("t", Kind::Visitor, "v").await;
    let mut steps = 0;
    while bed.receipt(&id).await["sweeps"] == 0 {
        privacy::step(&bed.warehouse, &bed.pool, &at_once()).await.unwrap();
        steps += 1;
        assert!(steps < 100, "one in two is the other store's");
    }
    let states = bed.rows("SELECT count(*) AS n FROM erasures WHERE state = 'requested'").await;
    assert!(states[0]["n"].as_i64().unwrap() > 400, "{states:?}");
    sqlx::query("UPDATE erasures SET state = 'requested' WHERE store_id = 's'")
        .execute(&bed.pool)
        .await
        .unwrap();
    let service = Service::start(&bed).await;
    let (status, told) = service.ask(Method::DELETE, "/api/v1/stores/s/visitors/w", ADMIN_TOKEN, None).await;
    assert_eq!(status, 429, "{told}");
    let (status, told) = service.ask(Method::DELETE, "/api/v1/stores/t/visitors/w", ADMIN_TOKEN, None).await;
    assert_eq!(status, 202, "{told}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_erased_by_what_stands_in_them() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    let line = |visitor: &str, store: &str| {
        let row = EventRow { store_id: store, ..event(1, "page_view", "2026-10-01 10:00:00", visitor, "") };
        let mut line = Vec::new();
        row.write_json(&mut line);
        String::from_utf8(line).unwrap()
    };
    let odd = r#"odd "id" \ é"#;
    bed.letter(1, &line(odd, "s")).await;
    bed.letter(2, &format!("{}\n{}", line(odd, "s"), line(odd, "s"))).await;
    // Cut off, as far as it goes.
    let whole = line(odd, "s");
    bed.letter(3, &whole[..whole.find("page_view\"").map_or(whole.len(), |_| whole.len() - 3)]).await;
    for (offset, (visitor, store)) in (4..).zip([("odd", "s"), (odd, "t"), ("v", "s")]) {
        bed.letter(offset, &line(visitor, store)).await;
    }
    let id = bed.erase("s", Kind::Visitor, odd).await;
    let receipt = bed.until(&id, "deleted", &at_once()).await;
    assert_eq!(receipt["dead_letters"], 3, "{receipt}");
    let left = bed
        .clickhouse(
            "",
            "SELECT groupArray(_offset) FROM (SELECT _offset FROM millrace.dead_letters ORDER BY 1)",
        )
        .await;
    assert_eq!(left.trim(), "[4,5,6]");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_erases_and_exports_for_the_operator_alone() {
    let mut bed = Bed::with_store("s", "UTC", "USD").await;
    bed.demo().await;
    bed.config.erasure_settle_seconds = 1;
    bed.config.erasure_horizon_seconds = 1;
    bed.clean_soon().await;
    let id = "a/b ö\"'";
    let path = "/api/v1/stores/s/visitors/a%2Fb%20%C3%B6%22%27";
    let rows = [
        event(1, "page_view", "2026-10-01 10:00:00", id, "x"),
        event(2, "page_view", "2026-10-01 10:00:00", "other", "y"),
        EventRow { user_id: "jane", trusted: 1, ..event(3, "search", "2026-10-01 11:00:00", id, "x") },
        EventRow { store_id: "demo", ..event(4, "page_view", "2026-10-01 10:00:00", id, "x") },
    ];
    bed.insert(&rows).await;
    bed.insert(&[click(9, at("2026-10-01 10:00:01"), id, 3, 4)]).await;
    let service = Service::start(&bed).await;
    let refused = [
        (Method::DELETE, path, "demo-api-token", 403),
        (Method::DELETE, path, "", 401),
        (Method::GET, "/api/v1/stores/s/users/jane/export", "demo-api-token", 403),
        (Method::GET, "/api/v1/stores/s/erasures", "demo-api-token", 403),
        (Method::DELETE, "/api/v1/stores/nowhere/visitors/v", ADMIN_TOKEN, 404),
        (Method::GET, "/api/v1/stores/s/erasures/none", ADMIN_TOKEN, 404),
    ];
    for (method, path, token, status) in refused {
        let answer = service.ask(method, path, token, None).await;
        assert_eq!(answer.0, status, "{path}: {}", answer.1);
    }
    let export = async |path: &str| {
        let url = format!("{}{path}/export", service.address);
        let answer = reqwest::Client::new().get(url).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        let text = answer.text().await.unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut all: Vec<(String, String)> = lines
            .iter()
            .map(|line| (line["table"].as_str().unwrap().into(), line["event_id"].as_str().unwrap().into()))
            .collect();
        all.sort();
        all
    };
    let row = |table: &str, number: u128| (table.to_owned(), crate::harness::id(number).to_string());
    let whole = [row("clicks", 9), row("events", 1), row("events", 3)];
    assert_eq!(export(path).await, whole);
    assert_eq!(export("/api/v1/stores/s/users/jane").await, whole);
    assert_eq!(export("/api/v1/stores/s/visitors/nobody").await, []);

    // Nobody by that name: a receipt with zeros.
    let (status, made) =
        service.ask(Method::DELETE, "/api/v1/stores/s/visitors/nobody", ADMIN_TOKEN, None).await;
    assert_eq!((status, &made["state"]), (202, &json!("requested")));
    let (status, erased) = service.ask(Method::DELETE, path, ADMIN_TOKEN, None).await;
    assert_eq!(status, 202);
    let receipt = async |made: &Value| {
        let at = format!("/api/v1/stores/s/erasures/{}", made["erasure_id"].as_str().unwrap());
        service.get(&at, ADMIN_TOKEN).await.1
    };
    eventually("both are final", async || {
        receipt(&made).await["state"] == "final" && receipt(&erased).await["state"] == "final"
    })
    .await;
    let counts = |receipt: &Value| json!([receipt["events"], receipt["clicks"], receipt["dead_letters"]]);
    let (nobody, gone) = (receipt(&made).await, receipt(&erased).await);
    assert_eq!((counts(&nobody), &nobody["days_rolled_up"]), (json!([0, 0, 0]), &json!([])));
    assert_eq!((counts(&gone), &gone["days_rolled_up"]), (json!([2, 1, 0]), &json!(["2026-10-01"])));
    assert_eq!((&gone["final_by"], &gone["days_kept"]), (&json!("horizon"), &json!([])));
    assert_eq!(export(path).await, []);
    assert_eq!(export("/api/v1/stores/s/visitors/other").await, [row("events", 2)]);
    assert_eq!(export("/api/v1/stores/demo/visitors/a%2Fb%20%C3%B6%22%27").await, [row("events", 4)]);
    let (_, list) = service.get("/api/v1/stores/s/erasures?limit=1", ADMIN_TOKEN).await;
    assert_eq!(list["data"][0]["erasure_id"], erased["erasure_id"]);
    let audit = bed.rows("SELECT detail::text || action AS a FROM admin_audit").await;
    assert!(audit.len() >= 4 && audit.iter().all(|row| !row.to_string().contains("jane")), "{audit:?}");
    service.stop().await;
}

/// A page view so many days ago, received a second later.
fn days_ago(number: u128, days: i64, visitor: &'static str) -> EventRow<'static> {
    let ms = Timestamp::now().as_millisecond() / 86_400_000 * 86_400_000 - days * 86_400_000 + 10 * 3_600_000;
    EventRow {
        event_time: ms,
        client_time: Some(ms),
        received_at: ms + 1000,
        key_date: date_of(ms),
        ..event(number, "page_view", "2026-10-01 10:00:00", visitor, "")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_old_events_and_leaves_their_rollups_alone() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.add_store("t", "UTC", "USD").await;
    let ages = [400, 300, 299, 150, 120, 60, 30, 1];
    let rows: Vec<_> = (1..)
        .zip(ages)
        .flat_map(|(number, days)| {
            [days_ago(number, days, "always"), days_ago(100 + number, days, ["a", "b"][number as usize % 2])]
        })
        .collect();
    let others: Vec<_> = rows.iter().map(|row| EventRow { store_id: "t", ..row.clone() }).collect();
    bed.insert(&rows).await;
    bed.insert(&others).await;
    bed.roll().await;
    let before = bed.everything().await;

    sqlx::query("UPDATE stores SET retention_days = 100 WHERE id = 's'").execute(&bed.pool).await.unwrap();
    while privacy::step(&bed.warehouse, &bed.pool, &at_once()).await.unwrap() {}
    assert_eq!((bed.ids("s").await.len(), bed.ids("t").await.len()), (6, 16));
    bed.roll().await;
    assert_same(HAND_MADE, &bed.everything().await, &before);

    // Whoever asks, a day whose events are gone is not computed again: a rebuild, a backfill, a late event.
    bed.forget().await;
    bed.roll().await;
    let days = |all: &[(String, Vec<Value>)], table: &str| {
        let rows = all.iter().find(|(name, _)| name == table).map(|(_, rows)| rows.clone()).unwrap();
        let rows: Vec<Value> = rows.iter().map(|row| row["rest"].clone()).collect();
        let own: Vec<Value> = rows.into_iter().filter(|row| row["store_id"] == "s").collect();
        assert!(!own.is_empty(), "{table}");
        own
    };
    let rebuilt = bed.everything().await;
    for table in ["analytics_summary", "summary_days"] {
        assert_eq!(days(&rebuilt, table), days(&before, table), "{table}");
    }
    let late = EventRow { received_at: Timestamp::now().as_millisecond(), ..days_ago(77, 150, "late") };
    bed.insert(&[late, days_ago(78, 30, "new")]).await;
    bed.roll().await;
    let after = bed.everything().await;
    let changed: BTreeSet<String> = days(&after, "summary_days")
        .into_iter()
        .filter(|row| !days(&before, "summary_days").contains(row))
        .map(|row| row["date"].as_str().unwrap().to_owned())
        .collect();
    let date = |days: i64| {
        let row = days_ago(0, days, "");
        Timestamp::from_millisecond(row.event_time).unwrap().strftime("%Y-%m-%d").to_string()
    };
    assert_eq!(changed, BTreeSet::from([date(30)]));
    // Cohorts from before the middle of what is left stay, too.
    let cohorts = |all: &[(String, Vec<Value>)]| {
        let kept = date(70);
        let mut rows = days(all, "cohort_analytics");
        rows.retain(|row| row["cohort_date"].as_str().unwrap() < kept.as_str());
        rows
    };
    assert_eq!(cohorts(&after), cohorts(&before));
    assert!(!cohorts(&before).is_empty());
}

/// Retention is no erasure: an order stays when its events go. It still holds who bought.
#[tokio::test(flavor = "multi_thread")]
async fn orders_outlive_their_events_and_are_erased_with_their_buyer() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    bed.clean_soon().await;
    let order = |number, days, visitor: &'static str, order_id| EventRow {
        r#type: "event",
        name: "purchase",
        order_id,
        currency: "USD",
        total_minor: Some(1_000),
        ..days_ago(number, days, visitor)
    };
    bed.insert(&[order(1, 200, "ann", "o1"), order(2, 200, "bob", "o2"), order(3, 1, "ann", "o3")]).await;
    bed.roll().await;
    let before = bed.everything().await;
    sqlx::query("UPDATE stores SET retention_days = 100").execute(&bed.pool).await.unwrap();
    while privacy::step(&bed.warehouse, &bed.pool, &at_once()).await.unwrap() {}
    assert_eq!(bed.ids("s").await.len(), 1);
    bed.forget().await;
    bed.roll().await;
    let standing = "SELECT order_id FROM millrace.orders FINAL ORDER BY order_id";
    assert_eq!(bed.clickhouse("", standing).await, "o1\no2\no3\n");

    let id = bed.erase("s", Kind::Visitor, "ann").await;
    bed.until(&id, "final", &at_once()).await;
    assert_eq!(bed.orders_of("visitor_id = 'ann'").await, 0);
    assert_eq!(bed.clickhouse("", standing).await, "o2\n");
    // What stands in the rollups of days whose events are gone is nobody's.
    let revenue = |all: &[(String, Vec<Value>)]| {
        let (_, rows) = all.iter().find(|(table, _)| table == "revenue_analytics").unwrap();
        rows.iter().map(|row| row["rest"]["orders_count"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((revenue(&before), revenue(&bed.everything().await)), (vec![2, 1], vec![2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_salts_go_without_any_collector_and_leave_nothing_on_the_disk() {
    let mut bed = Bed::start().await;
    let insert = "INSERT INTO visitor_salts
         SELECT date_trunc('hour', now()) - ago * interval '12 hours', decode(repeat(to_hex(160 + ago), 32), 'hex')
         FROM generate_series(-1, 8) AS ago";
    sqlx::query(insert).execute(&bed.pool).await.unwrap();
    privacy::retention::destroy_salts(&bed.pool).await.unwrap();
    let left =
        bed.rows("SELECT substr(encode(salt, 'hex'), 1, 2) AS salt FROM visitor_salts ORDER BY 1").await;
    let kept = ["9f", "a0", "a1", "a2", "a3"].map(|salt| json!({"salt": salt}));
    assert_eq!(left, kept, "those of 48 h ago are gone");
    let file: String = sqlx::query_scalar("SELECT pg_relation_filepath('visitor_salts')")
        .fetch_one(&bed.pool)
        .await
        .unwrap();
    // Its end writes everything.
    bed.postgres.stop().await.unwrap();
    let bytes = std::fs::read(bed.postgres.data_dir().join(file)).unwrap();
    let holds = |byte: u8| bytes.windows(32).any(|window| window.iter().all(|found| *found == byte));
    assert!(holds(160), "this hour's is there");
    assert!((164..=168).all(|byte| !holds(byte)), "destroyed ones are");
}

/// At a first start the consumer makes one table after the other, and the aggregator looks meanwhile.
#[tokio::test]
async fn tables_that_are_being_made_are_no_failure() {
    let bed = Bed::with_store("s", "UTC", "USD").await;
    for table in ["dead_letters", "clicks", "events"] {
        bed.clickhouse(&format!("DROP TABLE millrace.{table} SYNC"), "").await;
        assert!(!privacy::step(&bed.warehouse, &bed.pool, &at_once()).await.unwrap(), "without {table}");
    }
}
