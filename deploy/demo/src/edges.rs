//! Small histories on the borders of the definitions: the last millisecond of a day, a gap of exactly 30 minutes, the
//! hour that comes twice, a refund that does not fit. Chance would hit them too seldom.

use jiff::{Timestamp, ToSpan as _, civil::Date};
use rand::RngExt as _;
use serde_json::{Value, json};

use super::{
    orders::Placed,
    shop::{BOTS, BROWSERS, Line},
    world::{Sender, TimeStyle, Visit, Visitor, World},
};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

impl World<'_> {
    /// All of them, as often as the days allow.
    pub(super) fn edges(&mut self) {
        let first = self.scenario.first_day;
        for number in 0..i64::from(self.scenario.days) {
            self.midnight(first + number.days());
            self.stock(first + number.days());
        }
        for at in self.clock_changes() {
            self.clock_change(at);
        }
        let day = first + (i64::from(self.scenario.days) / 3).days();
        self.gaps(day);
        self.long_sessions(day);
        self.odd_sessions(day);
        self.strange_orders(day);
        self.false_words(day);
        self.funnel_limits(day);
        self.rage(day);
    }

    fn plain(&mut self) -> Visitor {
        let sender = self.senders.len();
        let (agent, width, height) = self.one_of(&BROWSERS);
        self.senders.push(Sender {
            agent: agent.into(),
            is_server: false,
            is_bot: false,
            is_anonymous: false,
        });
        Visitor {
            sender,
            id: Some(self.identity("e-")),
            user: None,
            sends_sessions: false,
            sends_sequence: false,
            sends_page_view_ids: true,
            sends_clicks: false,
            times: TimeStyle::Zulu,
            dialect: 0,
            viewport: (width, height),
            currency: self.scenario.currency.clone(),
            is_bot: false,
        }
    }

    fn arrive_at(&mut self, visitor: &Visitor, day: Date, time: (i8, i8, i8, i16)) -> Visit {
        let at = self.local(day, time, false);
        self.arrive(visitor, at)
    }

    /// One visit over midnight, and an order that two days claim.
    fn midnight(&mut self, day: Date) {
        let before = day - 1.day();
        if before < self.scenario.first_day {
            return;
        }
        let visitor = self.plain();
        let mut visit = self.arrive_at(&visitor, before, (23, 59, 30, 0));
        let product = self.shop.pick(&mut self.rng);
        let path = self.shop.products[product].path();
        let page = self.show(&visitor, &mut visit, &path, "Product");
        visit.at = self.local(before, (23, 59, 59, 999), true);
        self.tell_of(&visitor, &mut visit, &page, "view_item", product);
        visit.at = self.local(day, (0, 0, 0, 0), false);
        self.tell_of(&visitor, &mut visit, &page, "add_to_cart", product);
        visit.at += 30_000;
        self.leave(&visitor, &mut visit, &page);

        // The browser reports on one day, the server on the next: the server is believed.
        let visitor = self.plain();
        let mut visit = self.arrive_at(&visitor, before, (23, 59, 57, 0));
        let page = self.show(&visitor, &mut visit, "/thanks", "Thank you");
        visit.at += 1_500;
        let line = Line { product, quantity: 2, discount: 0 };
        let fields = json!({
            "order_id": self.order_id(),
            "currency": visitor.currency,
            "items": [self.shop.item(&line, &visitor.currency)],
        });
        self.event(&visitor, &mut visit, &page, "purchase", fields.clone());
        let at = self.local(day, (0, 0, 3, 0), false);
        let whose = json!({ "visitor_id": visitor.id });
        self.server(at, "purchase", &whose, fields);
    }

    /// Levels of all products, told in the morning, and of some again in the evening.
    fn stock(&mut self, day: Date) {
        let products = 0..self.shop.products.len();
        for (hour, share) in [(6, 0.9), (18, 0.1)] {
            let at = self.local(day, (hour, 0, 0, 0), false);
            let mut items = Vec::new();
            for product in products.clone() {
                if self.chance(share) {
                    let level: u32 = self.rng.random_range(0..200);
                    items.push(json!({ "product_id": self.shop.products[product].id, "quantity": level }));
                }
            }
            for items in items.chunks(10) {
                self.server(at, "inventory_level", &json!({}), json!({ "items": items }));
            }
        }
    }

    /// When the clocks of the store are changed within the range.
    fn clock_changes(&self) -> Vec<Timestamp> {
        let from = self.local(self.scenario.first_day, (0, 0, 0, 0), false);
        let until = self.scenario.now;
        let Ok(from) = Timestamp::from_millisecond(from) else { return Vec::new() };
        self.scenario
            .time_zone
            .following(from)
            .map(|change| change.timestamp())
            .take_while(|at| *at < until)
            .take(4)
            .collect()
    }

    /// Every half hour around it, in a session of the client's, and in derived ones with gaps just below the limit.
    fn clock_change(&mut self, at: Timestamp) {
        let at = at.as_millisecond();
        for (sends_sessions, step_ms) in [(true, 30 * MINUTE_MS), (false, 30 * MINUTE_MS - 1)] {
            let visitor = Visitor { sends_sessions, times: TimeStyle::Local, ..self.plain() };
            let mut visit = self.arrive(&visitor, at - 3 * HOUR_MS);
            while visit.at < at + 3 * HOUR_MS {
                self.show(&visitor, &mut visit, "/news", "News");
                visit.at += step_ms;
            }
        }
        for offset in [-1, 0, 1] {
            let visitor = self.plain();
            let mut visit = self.arrive(&visitor, at + offset);
            self.show(&visitor, &mut visit, "/", "Home");
        }
    }

    /// Gaps around the limit of a session.
    fn gaps(&mut self, day: Date) {
        for gap_ms in [30 * MINUTE_MS - 1, 30 * MINUTE_MS, 30 * MINUTE_MS + 1] {
            let visitor = self.plain();
            let mut visit = self.arrive_at(&visitor, day, (10, 0, 0, 0));
            for _ in 0..3 {
                self.show(&visitor, &mut visit, "/", "Home");
                visit.at += gap_ms;
            }
        }
    }

    /// A screen that is never off, and a session that its client keeps for days.
    fn long_sessions(&mut self, day: Date) {
        let visitor = self.plain();
        let mut visit = self.arrive_at(&visitor, day, (9, 0, 0, 0));
        for _ in 0..60 {
            self.show(&visitor, &mut visit, "/screen", "Screen");
            visit.at += 25 * MINUTE_MS;
        }
        let visitor = Visitor { sends_sessions: true, ..self.plain() };
        let mut visit = self.arrive_at(&visitor, day, (20, 0, 0, 0));
        for _ in 0..3 {
            let page = self.show(&visitor, &mut visit, "/", "Home");
            visit.at += 5_000;
            self.leave(&visitor, &mut visit, &page);
            visit.at += 26 * HOUR_MS;
        }
    }

    /// Bounces that are none, and the other way round; a clock that is put back in the middle of a session.
    fn odd_sessions(&mut self, day: Date) {
        for (is_interactive, seen_ms) in [(false, 9_999), (false, 10_000), (true, 0)] {
            let visitor = self.plain();
            let mut visit = self.arrive_at(&visitor, day, (12, 0, 0, 0));
            let page = self.show(&visitor, &mut visit, "/", "Home");
            self.event(&visitor, &mut visit, &page, "hint", json!({ "interactive": is_interactive }));
            let fields = json!({
                "type": "page_view", "url": page.url, "page_view_id": page.id, "duration_ms": seen_ms,
            });
            self.happen(&visitor, &mut visit, fields);
        }
        // Sequence numbers say that the product came first, times say that it came last.
        let visitor = Visitor { sends_sessions: true, sends_sequence: true, ..self.plain() };
        let mut visit = self.arrive_at(&visitor, day, (13, 0, 20, 0));
        let path = self.shop.products[0].path();
        let page = self.show(&visitor, &mut visit, &path, "Product");
        self.tell_of(&visitor, &mut visit, &page, "view_item", 0);
        visit.at -= 5_000;
        self.show(&visitor, &mut visit, "/", "Home");
        visit.at -= 5_000;
        self.show(&visitor, &mut visit, "/about", "About us");
        // One name for the sessions of two visitors: two sessions.
        for _ in 0..2 {
            let visitor = self.plain();
            let mut visit = self.arrive_at(&visitor, day, (14, 0, 0, 0));
            visit.session = Some("session-1".into());
            self.show(&visitor, &mut visit, "/", "Home");
        }
        // Entered on a product's page, and gone.
        let visitor = self.plain();
        let mut visit = self.arrive_at(&visitor, day, (13, 30, 0, 0));
        let page = self.show(&visitor, &mut visit, &path, "Product");
        let item = json!([{ "product_id": self.shop.products[0].id }]);
        self.event(&visitor, &mut visit, &page, "view_item", json!({ "interactive": false, "items": item }));
    }

    /// Every way of giving money back, refunds without an order, and an order that only a bot reports.
    fn strange_orders(&mut self, day: Date) {
        let currency = self.scenario.currency.clone();
        for how in 0..5 {
            let visitor = self.plain();
            let mut visit = self.arrive_at(&visitor, day, (15, 0, 0, 0));
            let lines = [
                Line { product: 3, quantity: 2, discount: 50 },
                Line { product: 7, quantity: 1, discount: 0 },
            ];
            self.order(&visitor, &mut visit, &lines);
            let total = self.shop.sum(&lines, &currency);
            let id = format!("O-{:06}", self.orders);
            let order = Placed { id, at: visit.at, currency: currency.clone(), lines: lines.to_vec(), total };
            self.refund(&order, visit.at + HOUR_MS, how);
            if how == 0 {
                let foreign = Placed { currency: self.scenario.second_currency.clone(), ..order };
                self.refund(&foreign, visit.at + 2 * HOUR_MS, 1);
            }
        }
        let noon = self.local(day, (12, 0, 0, 0), false);
        let nobody = |value: Option<f64>| json!({ "order_id": "O-unknown", "refund_id": value.map(|_| "R-9"), "value": value, "currency": currency });
        for value in [Some(12.5), None] {
            let mut fields = nobody(value);
            if let Some(fields) = fields.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
            self.server(noon, "refund", &json!({}), fields);
        }

        let mut bot = self.plain();
        self.senders[bot.sender].agent = BOTS[0].into();
        self.senders[bot.sender].is_bot = true;
        bot.is_bot = true;
        let mut visit = self.arrive_at(&bot, day, (4, 0, 0, 0));
        let page = self.show(&bot, &mut visit, "/thanks", "Thank you");
        let fields = json!({ "order_id": self.order_id(), "value": 999, "currency": currency });
        self.event(&bot, &mut visit, &page, "purchase", fields);
        self.click(&bot, &mut visit, &page, (10, 10), 0);
    }

    /// What anybody can say with the key that stands in the page, beside what the shop's server says.
    fn false_words(&mut self, day: Date) {
        let currency = self.scenario.currency.clone();
        let visitor = self.plain();
        // Half a minute to either side is the same date in UTC: a copy lies on the same key.
        let noon = self.local(day, (12, 1, 30, 0), false);
        let whose = json!({ "visitor_id": visitor.id });
        for (value, copied_at, is_bot) in [(99.0, noon - 30_000, false), (45.5, noon + 30_000, true)] {
            let order_id = self.order_id();
            let fields = json!({ "order_id": order_id, "currency": currency, "value": value });
            self.server(noon, "purchase", &whose, fields);
            self.copy_of_last(&visitor, copied_at, json!({ "value": 0.01 }), is_bot);
            let mut visit = self.arrive(&visitor, noon + MINUTE_MS);
            let page = self.show(&visitor, &mut visit, "/thanks", "Thank you");
            let money_back =
                json!({ "order_id": order_id, "refund_id": "R-1", "currency": currency, "value": value });
            self.event(&visitor, &mut visit, &page, "refund", money_back);
        }
        // Orders that only browsers report: of copies the earliest counts, and refunds do.
        let mut visit = self.arrive(&visitor, noon);
        let page = self.show(&visitor, &mut visit, "/thanks", "Thank you");
        for copied_at in [noon - 15_000, noon + 15_000] {
            let order_id = self.order_id();
            let fields = json!({ "order_id": order_id, "currency": currency, "value": 20 });
            self.event(&visitor, &mut visit, &page, "purchase", fields);
            self.copy_of_last(&visitor, copied_at, json!({ "value": 30 }), false);
            let money_back = json!({ "order_id": order_id, "currency": currency, "value": 25 });
            self.event(&visitor, &mut visit, &page, "refund", money_back);
        }
        let nobodys = json!({ "order_id": "O-nobodys", "currency": currency, "value": 1_000 });
        self.event(&visitor, &mut visit, &page, "refund", nobodys);
        // Levels and ratings, of a product of which the server speaks, and of one of which it does not.
        let told = json!({ "value": 5, "items": [{ "product_id": self.shop.products[4].id }] });
        self.server(noon, "review", &json!({}), told);
        for product in [4, 5] {
            let items = json!([{ "product_id": self.shop.products[product].id, "quantity": 77_777 }]);
            for value in [1, 99] {
                let fields = json!({ "value": value, "items": items });
                self.event(&visitor, &mut visit, &page, "review", fields);
            }
            self.event(&visitor, &mut visit, &page, "inventory_level", json!({ "items": items }));
        }
        if self.scenario.has_copies {
            self.server(
                noon,
                "inventory_level",
                &whose,
                json!({ "items": [{ "product_id": "p-told", "quantity": 3 }] }),
            );
            let items = json!([{ "product_id": "p-told", "quantity": 0 }]);
            self.copy_of_last(&visitor, noon - 1_000, json!({ "items": items }), false);
        }
    }

    /// The last event once more, with another time and other fields, as a browser sends it: this one, or a bot that pretends
    /// to be.
    fn copy_of_last(&mut self, visitor: &Visitor, at: i64, fields: Value, is_bot: bool) {
        let Some(last) = self.made.last().filter(|_| self.scenario.has_copies) else { return };
        let mut json = last.json.clone();
        json.insert("timestamp".into(), at.into());
        if let Value::Object(fields) = fields {
            json.extend(fields);
        }
        let sender = if is_bot {
            self.senders.push(Sender {
                agent: BOTS[0].into(),
                is_server: false,
                is_bot: true,
                is_anonymous: false,
            });
            self.senders.len() - 1
        } else {
            visitor.sender
        };
        self.push(sender, at, json);
    }

    /// Steps at the very end of a window, and at the same time.
    fn funnel_limits(&mut self, day: Date) {
        for later_ms in [0, 2 * HOUR_MS, 2 * HOUR_MS + 1] {
            let visitor = Visitor { sends_sequence: true, ..self.plain() };
            let mut visit = self.arrive_at(&visitor, day, (16, 0, 0, 0));
            let page = self.show(&visitor, &mut visit, "/product/p-001", "Product");
            self.tell_of(&visitor, &mut visit, &page, "view_item", 0);
            visit.at += later_ms;
            self.tell_of(&visitor, &mut visit, &page, "view_item", 1);
            self.tell_of(&visitor, &mut visit, &page, "add_to_cart", 1);
        }
    }

    /// Clicks that are just quick and near enough, and clicks that are not.
    fn rage(&mut self, day: Date) {
        let cases: [[(i64, i64, i64); 3]; 5] = [
            [(0, 0, 0), (500, 18, 24), (1000, 30, 0)],
            [(0, 0, 0), (500, 18, 24), (1001, 30, 0)],
            [(0, 0, 0), (100, 19, 24), (200, 0, 0)],
            [(0, 0, 0), (100, 25, 0), (200, 50, 0)],
            [(0, 0, 0), (0, 0, 0), (0, 0, 0)],
        ];
        for case in cases {
            let visitor = self.plain();
            let mut visit = self.arrive_at(&visitor, day, (17, 0, 0, 0));
            let page = self.show(&visitor, &mut visit, "/contact?topic=order#form", "Contact");
            let start = visit.at;
            for (after_ms, dx, dy) in case {
                visit.at = start + after_ms;
                self.click(&visitor, &mut visit, &page, (300 + dx, 419 + dy), 3);
            }
            // Beside the page, on its last pixel, and on the border of two bins.
            let width = i64::from(visitor.viewport.0);
            for place in [(width + 40, 0), (width, 20), (width - 1, 19), (0, 40)] {
                visit.at += 5_000;
                self.click(&visitor, &mut visit, &page, place, 4);
            }
        }
    }
}
