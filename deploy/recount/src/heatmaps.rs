//! Heatmaps: clicks on a grid, and on elements; rage and dead clicks.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;

use super::{
    event::Event,
    table::{Row, Table, Value},
};

/// Height of a bin in CSS pixels.
const BIN_PX: i64 = 20;
/// Three clicks within this time may be rage.
const RAGE_MS: i64 = 1000;
/// If they lie this close to the first of the three.
const RAGE_PX: i64 = 30;

/// The page of a click: its address without query and fragment.
fn page(click: &Event) -> &str {
    let url = click.texts.get("url").map_or("", String::as_str);
    &url[..url.find(['?', '#']).unwrap_or(url.len())]
}

/// A viewport of unknown width counts as wide.
fn viewport_class(click: &Event) -> &'static str {
    match click.viewport_width {
        1..768 => "mobile",
        768..1024 => "tablet",
        _ => "desktop",
    }
}

/// Identities of the rage clicks.
fn rage_clicks(clicks: &[Event]) -> BTreeSet<&str> {
    let mut places: BTreeMap<(&str, &str, Date), Vec<&Event>> = BTreeMap::new();
    for click in clicks {
        if let Some(visitor) = &click.visitor {
            places.entry((visitor, page(click), click.day)).or_default().push(click);
        }
    }
    let mut rage = BTreeSet::new();
    for clicks in places.values_mut() {
        clicks.sort_by_key(|click| click.order());
        for three in clicks.windows(3) {
            let is_quick = three[2].at - three[0].at <= RAGE_MS;
            let is_near = three
                .iter()
                .all(|click| (click.x - three[0].x).pow(2) + (click.y - three[0].y).pow(2) <= RAGE_PX.pow(2));
            if is_quick && is_near {
                rage.extend(three.iter().map(|click| click.id.as_str()));
            }
        }
    }
    rage
}

#[derive(Default)]
struct Counts {
    clicks: i64,
    rage: i64,
    dead: i64,
}

impl Counts {
    fn add(&mut self, click: &Event, rage: &BTreeSet<&str>) {
        self.clicks += 1;
        self.rage += i64::from(rage.contains(click.id.as_str()));
        self.dead += i64::from(click.properties.get("dead").is_some_and(|dead| dead == "true"));
    }

    fn columns(&self) -> [(&'static str, Value); 3] {
        [("clicks", self.clicks.into()), ("rage_clicks", self.rage.into()), ("dead_clicks", self.dead.into())]
    }
}

/// `heatmap_data` and `heatmap_elements`.
pub(super) fn heatmaps(clicks: &[Event]) -> [Table; 2] {
    let rage = rage_clicks(clicks);

    let mut bins: BTreeMap<_, Counts> = BTreeMap::new();
    let mut elements: BTreeMap<_, (Counts, Vec<&Event>)> = BTreeMap::new();
    for click in clicks {
        let percent = (click.page_width > 0).then(|| (100 * click.x / click.page_width).min(99));
        let top = click.y / BIN_PX * BIN_PX;
        bins.entry((click.day, page(click), viewport_class(click), percent, top))
            .or_default()
            .add(click, &rage);
        if let Some(selector) = click.texts.get("selector") {
            let (counts, clicks) =
                elements.entry((click.day, page(click), viewport_class(click), selector)).or_default();
            counts.add(click, &rage);
            clicks.push(click);
        }
    }

    let mut data =
        Table::new("heatmap_data", &["date", "url", "viewport_class", "click_x_percent", "click_y"]);
    for ((day, url, class, percent, top), counts) in bins {
        let mut row = Row::from([
            ("date", day.into()),
            ("url", url.into()),
            ("viewport_class", class.into()),
            ("click_x_percent", percent.into()),
            ("click_y", top.into()),
        ]);
        row.extend(counts.columns());
        data.add(row);
    }
    let mut by_element =
        Table::new("heatmap_elements", &["date", "url", "viewport_class", "element_selector"]);
    for ((day, url, class, selector), (counts, mut clicks)) in elements {
        clicks.sort_by_key(|click| click.order());
        let text = clicks[0].texts.get("text").map_or("", String::as_str);
        let mut row = Row::from([
            ("date", day.into()),
            ("url", url.into()),
            ("viewport_class", class.into()),
            ("element_selector", selector.as_str().into()),
            ("element_text", text.into()),
        ]);
        row.extend(counts.columns());
        by_element.add(row);
    }
    [data, by_element]
}
