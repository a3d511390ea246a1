//! Clicks for heatmaps: on things, beside things, in anger, and on things that do nothing.

use rand::RngExt as _;
use serde_json::json;

use super::world::{Page, Visit, Visitor, World};

const ELEMENTS: [(&str, &str); 6] = [
    ("#add-to-cart", "Add to cart"),
    ("nav > a:nth-child(2)", "Coffee"),
    (".gallery img", ""),
    ("button.buy", "Buy now"),
    ("button.buy", "Buy now – 10 % off"),
    ("", ""),
];

impl World<'_> {
    /// A few clicks on the page that is open.
    pub(super) fn click_around(&mut self, visitor: &Visitor, visit: &mut Visit, page: &Page) {
        for _ in 0..self.rng.random_range(0..4) {
            self.wait(visit, 300, 9_000);
            let width = visitor.viewport.0 as i64;
            let (x, y) = (self.rng.random_range(0..width), self.rng.random_range(0..3_000));
            let element = self.rng.random_range(0..ELEMENTS.len());
            if self.chance(0.06) {
                for _ in 0..self.rng.random_range(2..6) {
                    let (dx, dy) = (self.rng.random_range(0..22), self.rng.random_range(0..22));
                    self.click(visitor, visit, page, (x + dx, y + dy), element);
                    self.wait(visit, 80, 480);
                }
            } else {
                self.click(visitor, visit, page, (x, y), element);
            }
        }
    }

    /// One click.
    pub(super) fn click(
        &mut self,
        visitor: &Visitor,
        visit: &mut Visit,
        page: &Page,
        (x, y): (i64, i64),
        element: usize,
    ) {
        let (selector, text) = ELEMENTS[element];
        let mut fields = json!({ "type": "click", "url": page.url, "x": x, "y": y, "page_height": 4200 });
        if !self.chance(0.05) {
            fields["page_width"] = visitor.viewport.0.into();
        }
        if !selector.is_empty() {
            fields["selector"] = selector.into();
            fields["text"] = text.into();
        }
        match self.rng.random_range(0..20) {
            0 => fields["properties"] = json!({ "dead": true }),
            1 => fields["properties"] = json!({ "dead": false }),
            _ => {}
        }
        self.happen(visitor, visit, fields);
    }
}
