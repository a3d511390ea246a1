//! Clicks, rage and bins.

use super::*;

fn click(visitor: &str, x: i64, y: i64) -> Json {
    json!({ "type": "click", "visitor_id": visitor, "url": "https://shop.example/a?b#c", "x": x, "y": y,
            "page_width": 1000, "viewport_width": 1024, "selector": "#buy" })
}

#[test]
fn rage_needs_three_quick_clicks_near_each_other() {
    let rage = |clicks: &[(f64, i64, i64)]| {
        let events: Vec<_> = clicks.iter().map(|(at, x, y)| (*at, click("a", *x, *y))).collect();
        let key = [DAY, "https://shop.example/a", "desktop", "#buy"];
        cells(&count(&events), "heatmap_elements", &key, &["rage_clicks"])[0].clone()
    };
    assert_eq!(rage(&[(0.0, 0, 0), (0.5, 18, 24), (1.0, 30, 0)]), "3");
    assert_eq!(rage(&[(0.0, 0, 0), (0.5, 18, 24), (1.001, 30, 0)]), "0");
    assert_eq!(rage(&[(0.0, 0, 0), (0.5, 19, 24), (1.0, 30, 0)]), "0");
    assert_eq!(rage(&[(0.0, 0, 0), (0.5, 0, 0)]), "0");
    // The first three are, the next three are not, because they begin elsewhere; the last three are again.
    assert_eq!(rage(&[(0.0, 0, 0), (0.4, 0, 0), (0.8, 30, 0), (1.2, 60, 0), (1.6, 50, 0)]), "5");
    assert_eq!(rage(&[(0.0, 0, 0), (0.4, 0, 0), (0.8, 30, 0), (1.2, 61, 0), (1.6, 61, 0)]), "3");
}

#[test]
fn clicks_fall_into_bins() {
    let dead = json!({ "properties": { "dead": true } });
    let narrow = json!({ "viewport_width": 767, "page_width": 0, "text": "later" });
    let tables = count(&[
        (5.0, with(click("a", 999, 39), json!({ "text": "Buy!" }))),
        (0.0, with(click("b", 2_000, 20), json!({ "text": "Buy" }))),
        (9.0, with(click("a", 0, 40), dead)),
        (0.0, with(click("a", 5, 40), narrow)),
        (0.0, with(click("c", 5, 40), json!({ "bot": true }))),
        (0.0, with(click("a", 5, 40), json!({ "selector": "", "viewport_width": 1023 }))),
    ]);
    let page = "https://shop.example/a";
    let columns = ["clicks", "rage_clicks", "dead_clicks"];
    let bin = |class: &str, percent: &str, top: &str| {
        cells(&tables, "heatmap_data", &[DAY, page, class, percent, top], &columns).join(" ")
    };
    assert_eq!(bin("desktop", "99", "20"), "2 0 0");
    assert_eq!(bin("desktop", "0", "40"), "1 0 1");
    assert_eq!(bin("mobile", "null", "40"), "1 0 0");
    assert_eq!(bin("tablet", "0", "40"), "1 0 0");
    assert_eq!(tables["heatmap_data"].rows.len(), 4);
    let element =
        cells(&tables, "heatmap_elements", &[DAY, page, "desktop", "#buy"], &["clicks", "element_text"]);
    assert_eq!(element, ["3", "Buy"]);
    assert_eq!(tables["heatmap_elements"].rows.len(), 2);
}
