//! Every feature once: names, persons, fields, clicks, reports of left pages, consent.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Stored, assert_has, happened, is_report, list, named, sorted, text, visits::check_visits};

/// Checks every run; says how many sessions they were.
pub(super) async fn check_features(stored: &Stored<'_>, ledger: &Value) -> i64 {
    let mut runs = BTreeMap::new();
    for (run, done) in ledger.as_object().unwrap() {
        if done["names"].is_array() {
            runs.insert(run.as_str(), check_run(stored, run, done).await);
        }
    }
    check_shop(&runs["full"]);
    for run in ["full", "module"] {
        check_clicks(stored, run, &ledger[run]).await;
    }
    check_persons(stored, ledger, |run| runs[run].clone()).await;
    check_visits(ledger, |run| runs[run].clone());
    // Where no session was sent, the visitor's events are one.
    let all = runs.values().flatten().map(|row| (text(row, "visitor_id"), text(row, "session_id")));
    i64::try_from(all.collect::<BTreeSet<_>>().len()).unwrap()
}

/// Every run: names, persons, ids, reports of left pages.
async fn check_run(stored: &Stored<'_>, run: &str, done: &Value) -> Vec<Value> {
    let wanted = sorted(list(&done["names"]));
    let left = done["left"].as_array().unwrap();
    // A page that was hidden twice has been reported twice: the last report is the longest.
    let is_last = |row: &Value, page: &Value| {
        is_report(row) && is_of(row, run, page) && row["duration_ms"].as_u64() >= page["ms_min"].as_u64()
    };
    let rows = stored
        .until("events", run, |rows| {
            happened(rows).len() >= wanted.len()
                && left.iter().all(|page| rows.iter().any(|row| is_last(row, page)))
        })
        .await;
    let names = happened(&rows).iter().map(|row| text(row, "name")).collect();
    assert_eq!(sorted(names), wanted, "{run}: {rows:#?}");
    for row in &rows {
        assert_eq!(&text(row, "event_id")[14..15], "7", "{row:#}");
        assert_has(row, &json!({"is_bot": 0, "language": "de-CH", "timezone": "Europe/Zurich"}));
        let window = json!({"screen_width": 1600, "screen_height": 1000, "viewport_width": 1200, "viewport_height": 800});
        assert_has(row, if done["device"].is_null() { &window } else { &done["device"] });
        assert!(!text(row, "page_view_id").is_empty());
        assert!(
            !row.to_string().contains("someone@shop.example"),
            "what was typed is nobody's business: {row:#}"
        );
        if !done["visitor"].is_null() {
            assert_has(row, &json!({"visitor_id": done["visitor"], "session_id": done["session"]}));
            assert!(row["sequence"].is_u64(), "{row:#}");
        }
    }
    for page in left {
        let reports: Vec<_> = rows.iter().filter(|row| is_report(row) && is_of(row, run, page)).collect();
        let number = |row: &Value, field: &str| row[field].as_u64().unwrap();
        let longest = reports.iter().map(|row| number(row, "duration_ms")).max().unwrap();
        assert!(longest >= number(page, "ms_min"), "{page}: {longest} ms");
        assert!(page["ms_max"].as_u64().is_none_or(|most| longest <= most), "{page}: {longest} ms");
        let deepest = reports.iter().map(|row| number(row, "scroll_depth")).max().unwrap();
        assert!(
            (number(page, "depth_min")..=number(page, "depth_max")).contains(&deepest),
            "{page}: {deepest} %"
        );
        for report in reports {
            let is_first = |row: &&Value| row["page_view_id"] == report["page_view_id"] && !is_report(row);
            let first = rows.iter().filter(|row| row["name"] == "page_view").find(is_first).unwrap();
            assert_eq!(
                (&first["event_time"], &first["sequence"]),
                (&report["event_time"], &report["sequence"])
            );
        }
    }
    rows
}

fn is_of(row: &Value, run: &str, page: &Value) -> bool {
    row["name"] == "page_view"
        && text(row, "url").ends_with(&format!("/{run}/{}", page["page"].as_str().unwrap()))
}

/// The fields of events that pages and markup sent.
fn check_shop(rows: &[Value]) {
    let order: Vec<_> = happened(rows)
        .iter()
        .map(|row| text(row, "name"))
        .filter(|name| !matches!(*name, "before_the_script" | "page_view" | "view_item"))
        .collect();
    let wanted = [
        "click",
        "file_download",
        "add_to_wishlist",
        "form_submit",
        "exception",
        "exception",
        "search",
        "add_to_cart",
        "begin_checkout",
        "purchase",
    ];
    assert_eq!(order, wanted, "by sequence");
    assert_has(
        named(rows, "purchase"),
        &json!({"order_id": "/full/mug", "total_minor": 3000, "tax_minor": 200, "shipping_minor": 300,
                "currency": "USD", "user_id": "user-7", "item_product_id": ["mug"], "item_name": ["Mug"],
                "item_category": ["Cups"], "item_price": [12.5], "item_quantity": [2],
                "properties": {"gift": "true"}}),
    );
    assert_has(named(rows, "view_item"), &json!({"item_product_id": ["mug"], "item_quantity": [1]}));
    assert_has(
        named(rows, "add_to_wishlist"),
        &json!({"item_product_id": ["tea"], "item_price": [4.5], "currency": "USD",
                "properties": {"colour": "green"}}),
    );
    assert_has(
        named(rows, "search"),
        &json!({"label": "mug", "user_id": "user-7", "properties": {"results": "3", "exact": "true"}}),
    );
    assert_has(
        named(rows, "click"),
        &json!({"properties": {"outbound": "true", "link_domain": "elsewhere.example", "link_text": "Elsewhere",
                               "link_url": "https://elsewhere.example/x/y-1"}}),
    );
    assert_has(
        named(rows, "file_download"),
        &json!({"properties": {"file_extension": "pdf", "file_name": "/files/prices.pdf", "link_text": "Prices"}}),
    );
    assert_has(
        named(rows, "form_submit"),
        &json!({"properties": {"form_id": "newsletter", "form_name": "news"}}),
    );
    let errors: Vec<_> = rows.iter().filter(|row| row["name"] == "exception").collect();
    for (row, (kind, message)) in errors.iter().zip([("RangeError", "no tea"), ("TypeError", "no cup")]) {
        assert_has(row, &json!({"non_interactive": 1, "properties": {"type": kind, "message": message}}));
        assert!(
            !text(&row["properties"], "line").is_empty() && !text(&row["properties"], "source").is_empty()
        );
    }
    let vitals: Vec<_> = rows
        .iter()
        .filter(|row| row["name"] == "web_vitals" && text(row, "url").ends_with("/home"))
        .collect();
    let labels = sorted(vitals.iter().map(|row| text(row, "label")).collect());
    assert_eq!(labels, ["CLS", "FCP", "INP", "LCP", "TTFB"]);
    for vital in vitals {
        assert!(vital["value"].as_f64().is_some_and(|value| (0.0..60_000.0).contains(&value)), "{vital:#}");
        assert_eq!(vital["non_interactive"], 1);
    }
}

async fn check_clicks(stored: &Stored<'_>, run: &str, done: &Value) {
    let wanted = done["clicks"].as_array().unwrap();
    let mut clicks = stored.until("clicks", run, |rows| rows.len() >= wanted.len()).await;
    clicks.sort_by_key(|row| text(row, "event_time").to_owned());
    assert_eq!(clicks.len(), wanted.len(), "{clicks:#?}");
    for (click, wanted) in clicks.iter().zip(wanted) {
        for field in ["x", "y", "selector", "text"] {
            assert!(wanted[field].is_null() || click[field] == wanted[field], "{field}: {wanted}, {click:#}");
        }
        let dead = if wanted["dead"] == true { "true" } else { "" };
        assert_eq!(text(&click["properties"], "dead"), dead, "{click:#}");
        assert_has(
            click,
            &json!({"page_width": 1200, "viewport_width": 1200, "visitor_id": done["visitor"]}),
        );
        assert!(click["page_height"].as_u64().unwrap() > 3000);
    }
}

/// Consent, objection, other people at the device, builds that do less.
async fn check_persons(stored: &Stored<'_>, ledger: &Value, rows: impl Fn(&str) -> Vec<Value>) {
    for run in ["objecting", "tracked_not"] {
        assert_has(&ledger[run], &json!({"requests": 0, "stored": 0}));
    }
    assert_has(&ledger["asked"], &json!({"requests_before": 0, "stored_before": 0, "stored": 0}));
    assert_eq!(ledger["cookieless"]["stored"], 0);
    let derived: BTreeSet<_> =
        rows("cookieless").iter().map(|row| text(row, "visitor_id").to_owned()).collect();
    assert_eq!(derived.len(), 1, "one visitor, whom the collector derives");
    assert!(!derived.contains(""));
    for row in rows("cookieless") {
        assert_has(&row, &json!({"session_id": "", "sequence": null}));
    }
    let reset = rows("reset");
    let person = |person: &Value, user: &str| json!({"visitor_id": person["visitor"], "session_id": person["session"], "user_id": user});
    assert_has(named(&reset, "hers"), &person(&ledger["reset"]["first"], "user-1"));
    assert_has(named(&reset, "his"), &person(&ledger["reset"]["second"], ""));
    assert_ne!(ledger["reset"]["first"]["visitor"], ledger["reset"]["second"]["visitor"]);
    for run in ["quiet", "core"] {
        assert!(rows(run).iter().all(|row| row["name"] != "web_vitals"));
        assert_eq!(stored.rows("clicks", run).await, Vec::<Value>::new());
    }
    let single = rows("single");
    let titles: Vec<_> = happened(&single)
        .into_iter()
        .filter(|row| row["name"] == "page_view")
        .map(|row| text(row, "title"))
        .collect();
    assert_eq!(titles, list(&ledger["single"]["titles"]));
}
