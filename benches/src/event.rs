//! Requests as shops send them, rendered once and made fresh in place.
//!
//! A sender that rendered JSON for every request would cost more than the server that is measured. So a request is
//! rendered once, with fields of fixed width for everything that must differ, and a refresh writes only those: event
//! ids (UUIDv7), times, visitor, session, orders and page views.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

/// Where in a request something fresh is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patch {
    at: usize,
    field: FreshField,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FreshField {
    /// A UUIDv7.
    EventId,
    /// Epoch milliseconds; so many events before the last of the request.
    Time { before_last: i64 },
    /// 16 hexadecimal digits, the same for all events of a request, from a bounded set.
    Visitor,
    /// 16 hexadecimal digits, the same for all events of a request.
    Session,
    /// 16 hexadecimal digits that nothing else has.
    Unique,
}

/// What stands in a rendered event where a refresh writes, how wide it is, and what is written there.
const MARKS: [(&str, usize, FreshField); 5] = [
    ("@event_id", 36, FreshField::EventId),
    ("@time", 13, FreshField::Time { before_last: 0 }),
    ("@visitor", 16, FreshField::Visitor),
    ("@session", 16, FreshField::Session),
    ("@unique", 16, FreshField::Unique),
];

/// A rendered request body.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    patches: Vec<Patch>,
    events: usize,
}

impl Template {
    fn new(rendered: &str, events: usize) -> Self {
        let (mut bytes, mut patches) = (Vec::with_capacity(rendered.len() * 2), Vec::new());
        let (mut rest, mut before_last) = (rendered, events as i64);
        while let Some(at) = rest.find('@') {
            bytes.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at..];
            let mark = MARKS.iter().find(|(mark, ..)| rest.starts_with(mark));
            let Some((mark, width, field)) = mark else {
                // An "@" that marks nothing is text.
                bytes.push(b'@');
                rest = &rest[1..];
                continue;
            };
            let field = match field {
                FreshField::Time { .. } => {
                    before_last -= 1;
                    FreshField::Time { before_last }
                }
                other => *other,
            };
            patches.push(Patch { at: bytes.len(), field });
            bytes.resize(bytes.len() + width, b'0');
            rest = &rest[mark.len()..];
        }
        bytes.extend_from_slice(rest.as_bytes());
        Self { bytes, patches, events }
    }

    /// Bytes of the body.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Events in it.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Appends a fresh request whose last event happens at `at_ms` and the others each `apart_ms` before the next.
    pub fn append_to(&self, out: &mut Vec<u8>, fresh: &mut Fresh, at_ms: i64, apart_ms: i64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let visitor = mixed(fresh.next() % fresh.visitors);
        let session = fresh.next();
        for patch in &self.patches {
            let place = &mut out[start + patch.at..];
            match patch.field {
                FreshField::EventId => write_id(place, fresh, at_ms),
                FreshField::Time { before_last } => write_digits(place, at_ms - before_last * apart_ms),
                FreshField::Visitor => write_hex(place, visitor),
                FreshField::Session => write_hex(place, session),
                FreshField::Unique => write_hex(place, fresh.next()),
            }
        }
    }
}

/// Where fresh values come from: a sequence that its seed determines.
#[derive(Clone, Debug)]
pub struct Fresh {
    state: u64,
    visitors: u64,
}

impl Fresh {
    /// Values of a seed, with so many different visitors.
    pub fn new(seed: u64, visitors: u64) -> Self {
        Self { state: mixed(seed), visitors: visitors.max(1) }
    }

    /// SplitMix64: a few instructions, and every value comes once in 2⁶⁴.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.state)
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn write_id(place: &mut [u8], fresh: &mut Fresh, at_ms: i64) {
    let high = (at_ms as u64) << 16 | 0x7000 | (fresh.next() & 0x0fff);
    let low = 1 << 63 | fresh.next() >> 2;
    Uuid::from_u64_pair(high, low).hyphenated().encode_lower(place);
}

fn write_digits(place: &mut [u8], number: i64) {
    let mut number = number;
    for digit in place[..13].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn write_hex(place: &mut [u8], number: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (index, digit) in place[..16].iter_mut().enumerate() {
        *digit = DIGITS[(number >> (60 - 4 * index) & 15) as usize];
    }
}

/// What requests hold.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Events in a request, all of one visitor.
    pub events: usize,
    /// Clicks in a hundred events; the others are page views and named events.
    pub clicks_percent: u32,
}

/// Different requests that a seed determines.
pub fn templates(mix: Mix, count: usize, seed: u64) -> Vec<Template> {
    let mut shop = Shop { rng: StdRng::seed_from_u64(seed), clicks_percent: mix.clicks_percent };
    (0..count)
        .map(|_| {
            let events: Vec<String> = (0..mix.events.max(1)).map(|index| shop.event(index)).collect();
            // One event stands alone, as a page sends it; several are an array, as its queue does.
            let body = if events.len() == 1 { events[0].clone() } else { format!("[{}]", events.join(",")) };
            Template::new(&body, events.len())
        })
        .collect()
}

struct Shop {
    rng: StdRng,
    clicks_percent: u32,
}

const PRODUCTS: f64 = 5_000.0;
const ADJECTIVES: [&str; 8] =
    ["Trail", "Merino", "Alpine", "Classic", "Ultralight", "Organic", "Winter", "Café"];
const NOUNS: [&str; 8] = [
    "Running Shoe",
    "Base Layer",
    "Rain Jacket",
    "Daypack",
    "Water Bottle",
    "Sleeping Bag",
    "Headlamp",
    "Sock",
];
const BRANDS: [&str; 5] = ["Nordfjell", "Ridgeway", "Kestrel & Co", "Tidewater", "Solvei"];
const SOURCES: [&str; 4] = [
    "utm_source=newsletter&utm_medium=email&utm_campaign=autumn-sale",
    "utm_source=google&utm_medium=cpc&utm_campaign=brand&gclid=EAIaIQobChMI5Zu",
    "ref=category&position=14",
    "variant=blue-42",
];
const REFERRERS: [&str; 4] = [
    "https://www.google.com/",
    "https://shop.example/collections/outdoor?page=2&sort=price-ascending",
    "https://shop.example/",
    "https://news.example/reviews/best-gear-of-the-year",
];
const PLACES: [(&str, &str); 4] = [
    ("en-US", "America/New_York"),
    ("de-DE", "Europe/Berlin"),
    ("en-GB", "Europe/London"),
    ("ja-JP", "Asia/Tokyo"),
];
const SCREENS: [[u32; 4]; 4] =
    [[1440, 789, 1440, 900], [390, 664, 390, 844], [1905, 953, 1920, 1080], [412, 732, 412, 915]];

impl Shop {
    /// Weights as a shop has them: most are page views, few are orders.
    fn event(&mut self, index: usize) -> String {
        if self.rng.random_range(0..100) < self.clicks_percent {
            return self.click(index);
        }
        match self.rng.random_range(0..100) {
            0..50 => self.page_view(index),
            50..76 => self.named(index, "view_item", 1),
            76..86 => self.named(index, "add_to_cart", 1),
            86..89 => self.named(index, "begin_checkout", 2),
            89..91 => self.named(index, "purchase", 3),
            _ => self.search(index),
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())]
    }

    /// Few products are seen often, many seldom.
    fn product(&mut self) -> usize {
        (PRODUCTS * self.rng.random::<f64>().powi(3)) as usize
    }

    /// What every event begins with.
    fn head(&mut self, index: usize, kind: &str) -> String {
        let product = self.product();
        let (language, timezone) = self.pick(&PLACES);
        let [viewport_width, viewport_height, screen_width, screen_height] = self.pick(&SCREENS);
        let (adjective, noun) = (ADJECTIVES[product % 8], NOUNS[product / 8 % 8]);
        let slug = noun.to_lowercase().replace(' ', "-");
        format!(
            r#"{{"type":"{kind}","event_id":"@event_id","timestamp":@time,"visitor_id":"v-@visitor","session_id":"s-@session","sequence":{index},"url":"https://shop.example/products/{slug}-{product}?{}","title":"{adjective} {noun} {product} – Example Outdoor","referrer":"{}","language":"{language}","timezone":"{timezone}","viewport_width":{viewport_width},"viewport_height":{viewport_height},"screen_width":{screen_width},"screen_height":{screen_height}"#,
            self.pick(&SOURCES),
            self.pick(&REFERRERS),
        )
    }

    fn page_view(&mut self, index: usize) -> String {
        let head = self.head(index, "page_view");
        let (duration, scroll) = (self.rng.random_range(0..180_000), self.rng.random_range(0..=100));
        format!(
            r#"{head},"page_view_id":"p-@unique","duration_ms":{duration},"scroll_depth":{scroll},"properties":{{"theme":"dark","page_type":"product","experiment_checkout":"b","logged_in":{},"results":{}}}}}"#,
            scroll % 3 == 0,
            duration % 97,
        )
    }

    fn named(&mut self, index: usize, name: &str, items: usize) -> String {
        let head = self.head(index, "event");
        let items: Vec<String> = (0..items).map(|_| self.item()).collect();
        let order = match name {
            "purchase" => r#","order_id":"o-@unique","tax":8.25,"shipping":4.9,"coupon":"AUTUMN10""#,
            _ => "",
        };
        let value = self.rng.random_range(500..50_000);
        format!(
            r#"{head},"name":"{name}","currency":"USD","value":{}.{:02}{order},"items":[{}]}}"#,
            value / 100,
            value % 100,
            items.join(","),
        )
    }

    fn item(&mut self) -> String {
        let product = self.product();
        let (price, quantity) = (self.rng.random_range(500..30_000), self.rng.random_range(1..4));
        format!(
            r#"{{"product_id":"P-{product:05}","variant_id":"P-{product:05}-{}","name":"{} {}","brand":"{}","category":"outdoor","price":{}.{:02},"quantity":{quantity}}}"#,
            self.pick(&["S", "M", "L"]),
            ADJECTIVES[product % 8],
            NOUNS[product / 8 % 8],
            BRANDS[product % 5],
            price / 100,
            price % 100,
        )
    }

    fn search(&mut self, index: usize) -> String {
        let head = self.head(index, "event");
        format!(
            r#"{head},"name":"search","category":"navigation","action":"submit","label":"{}","value":{},"properties":{{"filter_color":"blue","filter_size":"42","sort":"price"}}}}"#,
            self.pick(&NOUNS).to_lowercase(),
            self.rng.random_range(0..200),
        )
    }

    fn click(&mut self, index: usize) -> String {
        let head = self.head(index, "click");
        let (x, y) = (self.rng.random_range(0..390), self.rng.random_range(0..6_000));
        format!(
            r#"{head},"page_view_id":"p-@session","x":{x},"y":{y},"page_width":1440,"page_height":6200,"selector":"main > section.product > form > button.add-to-cart","text":"Add to cart"}}"#,
        )
    }
}

#[cfg(test)]
mod tests {
    use millrace_collector::{chain, decode::Form};

    use super::*;
    use crate::rows::{enricher, sender};

    fn body(mix: Mix, fresh: &mut Fresh) -> Vec<u8> {
        let mut out = b"before".to_vec();
        templates(mix, 1, 7)[0].append_to(&mut out, fresh, 1_795_176_000_000, 250);
        out.split_off(6)
    }

    #[test]
    fn the_collector_accepts_every_event_and_each_is_new() {
        for events in [1, 50] {
            let mix = Mix { events, clicks_percent: 20 };
            let mut fresh = Fresh::new(1, 100);
            let (first, second) = (body(mix, &mut fresh), body(mix, &mut fresh));
            assert!(first != second);
            for body in [&first, &second] {
                let request = sender(1_795_176_000_100);
                let outcome =
                    chain::collect_body(body, Form::Json, &request, enricher(), &mut Default::default())
                        .unwrap();
                assert_eq!((outcome.accepted(), &outcome.rejected[..]), (events, &[][..]));
                assert_eq!(outcome.times_replaced + outcome.times_corrected, 0);
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_requests() {
        let mix = Mix { events: 5, clicks_percent: 10 };
        assert_eq!(body(mix, &mut Fresh::new(3, 10)), body(mix, &mut Fresh::new(3, 10)));
    }

    #[test]
    fn events_are_of_the_size_that_the_design_measured() {
        let all = templates(Mix { events: 50, clicks_percent: 0 }, 40, 1);
        let mean = all.iter().map(Template::len).sum::<usize>() / (40 * 50);
        assert!((650..=750).contains(&mean), "{mean}");
    }
}
