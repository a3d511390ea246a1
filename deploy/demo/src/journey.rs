//! Visits as people make them: pages, products, carts, checkouts, orders, and what comes after.

use jiff::ToSpan as _;
use rand::RngExt as _;
use serde_json::{Value, json};

use super::{
    shop::{Line, amount},
    world::{Page, Visit, Visitor, World},
};

/// Hours of the day by how much happens in them.
const BUSY_HOURS: [i8; 30] = [
    0, 1, 6, 7, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 14, 15, 16, 17, 18, 18, 19, 19, 20, 20, 20, 21, 21, 22,
    22, 23,
];

impl World<'_> {
    /// Somebody's visits over the days.
    pub(super) fn come_and_go(&mut self) {
        let mut visitor = self.visitor();
        let is_anonymous = self.senders[visitor.sender].is_anonymous;
        let mut starts = vec![self.some_time()];
        // What names no visitor is one visitor for a day only.
        while !is_anonymous && self.chance(0.45) && starts.len() < 8 {
            starts.push(self.some_time());
        }
        starts.sort_unstable();
        for start in starts {
            let mut visit = self.arrive(&visitor, start);
            if visitor.is_bot {
                self.crawl(&visitor, &mut visit);
            } else {
                self.visit(&mut visitor, &mut visit);
            }
        }
    }

    fn some_time(&mut self) -> i64 {
        let day = self.scenario.first_day + self.rng.random_range(0..i64::from(self.scenario.days)).days();
        let hour = self.one_of(&BUSY_HOURS);
        let time = (
            hour,
            self.rng.random_range(0..60),
            self.rng.random_range(0..60),
            self.rng.random_range(0..1000),
        );
        let is_second = self.chance(0.5);
        self.local(day, time, is_second)
    }

    /// A bot reads many pages, quickly, and puts things into carts that it never buys.
    fn crawl(&mut self, visitor: &Visitor, visit: &mut Visit) {
        for _ in 0..self.rng.random_range(3..15) {
            let product = self.shop.pick(&mut self.rng);
            let path = self.shop.products[product].path();
            let page = self.show(visitor, visit, &path, "Product");
            self.tell_of(visitor, visit, &page, "view_item", product);
            if self.chance(0.1) {
                self.tell_of(visitor, visit, &page, "add_to_cart", product);
            }
            self.wait(visit, 200, 2_000);
        }
    }

    fn visit(&mut self, visitor: &mut Visitor, visit: &mut Visit) {
        let landing = self.rng.random_range(0..100);
        let campaign = self.one_of(&["", "?utm_source=news&utm_medium=email", "?gclid=abc123#top", ""]);
        if landing < 35 {
            let page = self.show(visitor, visit, &format!("/{campaign}"), "Home");
            self.look_around(visitor, visit, &page);
        } else if landing < 75 {
            self.product_page(visitor, visit, campaign);
        } else {
            self.category_page(visitor, visit, campaign);
        }
        if self.chance(0.3) {
            return;
        }
        for _ in 0..self.rng.random_range(1..9) {
            self.pause(visit);
            match self.rng.random_range(0..100) {
                0..55 => self.product_page(visitor, visit, ""),
                55..75 => self.category_page(visitor, visit, ""),
                75..85 => self.search(visitor, visit),
                85..92 => self.log_in(visitor, visit),
                _ => {
                    let page = self.show(visitor, visit, "/about", "About us");
                    self.look_around(visitor, visit, &page);
                }
            }
        }
        if !visit.cart.is_empty() && self.chance(0.6) {
            self.check_out(visitor, visit);
        }
    }

    /// Between two pages; now and then somebody goes for a walk, for about as long as a session lasts.
    fn pause(&mut self, visit: &mut Visit) {
        if self.chance(0.04) {
            self.wait(visit, 26 * 60_000, 34 * 60_000);
        } else {
            self.wait(visit, 300, 40_000);
        }
    }

    fn look_around(&mut self, visitor: &Visitor, visit: &mut Visit, page: &Page) {
        if visitor.sends_clicks {
            self.click_around(visitor, visit, page);
        }
        if self.chance(0.15) {
            self.wait(visit, 100, 4_000);
            self.event(
                visitor,
                visit,
                page,
                "banner_shown",
                json!({ "interactive": false, "category": "promo" }),
            );
        }
        self.wait(visit, 1_000, 90_000);
        if self.chance(0.6) {
            self.leave(visitor, visit, page);
        }
    }

    fn category_page(&mut self, visitor: &Visitor, visit: &mut Visit, campaign: &str) {
        let category = self.shop.products[self.rng.random_range(0..20)].category;
        let page = self.show(visitor, visit, &format!("/category/{category}{campaign}"), category);
        self.look_around(visitor, visit, &page);
    }

    fn search(&mut self, visitor: &Visitor, visit: &mut Visit) {
        let query = self.one_of(&["mug", "Moka pot", "decaf ☕", "gift", "grinder 2000"]);
        let page = self.show(visitor, visit, "/search?q=x", "Search");
        self.wait(visit, 5, 400);
        let results: u32 = self.rng.random_range(0..30);
        let properties = json!({ "query": query, "results": results, "voice": false });
        self.event(visitor, visit, &page, "search", json!({ "properties": properties, "label": query }));
        self.look_around(visitor, visit, &page);
    }

    fn log_in(&mut self, visitor: &mut Visitor, visit: &mut Visit) {
        if visitor.user.is_some() {
            return;
        }
        let page = self.show(visitor, visit, "/login", "Log in");
        self.wait(visit, 2_000, 20_000);
        // Somebody known on another device, or somebody new.
        visitor.user = Some(if !self.users.is_empty() && self.chance(0.2) {
            self.users[self.rng.random_range(0..self.users.len())].clone()
        } else {
            let user = self.identity("u-");
            self.users.push(user.clone());
            user
        });
        let method = self.one_of(&["password", "passkey"]);
        self.event(visitor, visit, &page, "login", json!({ "action": method }));
    }

    fn product_page(&mut self, visitor: &Visitor, visit: &mut Visit, campaign: &str) {
        let product = self.shop.pick(&mut self.rng);
        let path = self.shop.products[product].path();
        let query =
            if campaign.is_empty() { self.one_of(&["", "", "?color=oak", "#reviews"]) } else { campaign };
        let name = self.shop.products[product].name.clone();
        let page = self.show(visitor, visit, &format!("{path}{query}"), &name);
        self.wait(visit, 0, 900);
        self.tell_of(visitor, visit, &page, "view_item", product);
        if self.chance(0.22) {
            self.wait(visit, 1_500, 60_000);
            self.tell_of(visitor, visit, &page, "add_to_cart", product);
            let quantity = self.one_of(&[1, 1, 1, 2, 3]);
            let discount = if self.chance(0.15) {
                self.shop.products[product].price_in(&visitor.currency) / 10
            } else {
                0
            };
            visit.cart.push(Line { product, quantity, discount });
        } else if !visit.cart.is_empty() && self.chance(0.1) {
            let line = visit.cart.swap_remove(0);
            self.tell_of(visitor, visit, &page, "remove_from_cart", line.product);
        }
        if self.chance(0.03) {
            self.review(visitor, visit, &page, product);
        }
        self.look_around(visitor, visit, &page);
    }

    /// Something happens to one product.
    pub(super) fn tell_of(
        &mut self,
        visitor: &Visitor,
        visit: &mut Visit,
        page: &Page,
        name: &'static str,
        product: usize,
    ) {
        let line = Line { product, quantity: 1, discount: 0 };
        let item = self.shop.item(&line, &visitor.currency);
        let mut fields = json!({ "items": [item], "currency": visitor.currency });
        if name == "add_to_cart" {
            let placement = self.one_of(&["page", "page", "recommendation"]);
            fields["properties"] = json!({ "placement": placement, "position": 2, "ratio": 0.5 });
        }
        self.event(visitor, visit, page, name, fields);
    }

    fn review(&mut self, visitor: &Visitor, visit: &mut Visit, page: &Page, product: usize) {
        let rating: f64 = self.one_of(&[1.0, 3.0, 4.0, 4.5, 5.0, 5.0]);
        let id = self.shop.products[product].id.clone();
        self.wait(visit, 1_000, 100_000);
        let fields = json!({ "value": rating, "items": [{ "product_id": id }] });
        if self.chance(0.3) {
            let whose = visitor.user.as_ref().map_or(json!({}), |user| json!({ "user_id": user }));
            self.server(visit.at, "review", &whose, fields);
        } else {
            self.event(visitor, visit, page, "review", fields);
        }
    }

    fn check_out(&mut self, visitor: &Visitor, visit: &mut Visit) {
        self.pause(visit);
        let page = self.show(visitor, visit, "/checkout", "Checkout");
        self.wait(visit, 10, 800);
        let items: Vec<Value> =
            visit.cart.iter().map(|line| self.shop.item(line, &visitor.currency)).collect();
        let value = amount(self.shop.sum(&visit.cart, &visitor.currency), &visitor.currency);
        let fields = json!({ "items": items, "currency": visitor.currency, "value": value });
        self.event(visitor, visit, &page, "begin_checkout", fields);
        self.look_around(visitor, visit, &page);
        if self.chance(0.75) {
            let cart = std::mem::take(&mut visit.cart);
            self.order(visitor, visit, &cart);
        }
    }
}
