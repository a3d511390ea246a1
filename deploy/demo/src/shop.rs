//! The shop that the traffic visits: what it sells, where its pages are, and who comes with which browser.

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use serde_json::{Value, json};

/// Where the shop's pages are.
pub(super) const ORIGIN: &str = "https://shop.example";

/// Browsers of persons, each with the viewport it is used in. Widths lie on both sides of the classes' borders.
pub(super) const BROWSERS: [(&str, u32, u32); 9] = [
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        1920,
        969,
    ),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0", 1536, 730),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
        1440,
        790,
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
        1024,
        640,
    ),
    (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
        1023,
        700,
    ),
    (
        "Mozilla/5.0 (iPad; CPU OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
        768,
        954,
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
        390,
        664,
    ),
    (
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
        412,
        785,
    ),
    (
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
        767,
        900,
    ),
];

/// User agents that say of themselves that they are no persons.
pub(super) const BOTS: [&str; 3] = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
];

/// User agent of the shop's own server.
pub(super) const SERVER: &str = "shop-backend/2.4";

const CATEGORIES: [(&str, [&str; 4]); 5] = [
    ("coffee", ["House Blend", "Night Shift", "Single Origin", "Decaf"]),
    ("tea", ["Sencha", "Earl Grey", "Rooibos", "Pu-erh"]),
    ("brewers", ["Pour-Over Cone", "Moka Pot", "French Press", "Kettle"]),
    ("grinders", ["Hand Mill", "Flat Burr", "Travel Mill", "Electric Mill"]),
    ("mugs", ["Enamel Mug", "Glass Cup", "Travel Mug", "Espresso Pair"]),
];
const BRANDS: [&str; 4] = ["Millrace", "Weir & Sons", "Oak Hollow", "Tailwater"];

/// Something the shop sells.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) brand: &'static str,
    pub(super) category: &'static str,
    pub(super) kind: &'static str,
    /// In hundredths of a dollar.
    pub(super) price: i64,
}

/// The catalogue: the popularity of the product of rank r goes with 1/r.
#[derive(Clone, Debug)]
pub(super) struct Shop {
    pub(super) products: Vec<Product>,
    /// Sum of the popularities up to and including each product.
    weights: Vec<f64>,
}

impl Shop {
    pub(super) fn new(rng: &mut ChaCha8Rng) -> Self {
        let mut products = Vec::new();
        for round in 0..3 {
            for (category, names) in CATEGORIES {
                for name in names {
                    let number = products.len() + 1;
                    products.push(Product {
                        id: format!("P-{number:03}"),
                        name: match round {
                            0 => name.to_string(),
                            _ => format!("{name} No. {}", round + 1),
                        },
                        brand: BRANDS[number % BRANDS.len()],
                        category,
                        kind: ["retail", "retail", "wholesale"][number % 3],
                        price: rng.random_range(4..120) * 100 + [0, 49, 50, 90, 95, 99][number % 6],
                    });
                }
            }
        }
        let mut sum = 0.0;
        let weights = (1..=products.len())
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Self { products, weights }
    }

    /// Some product, popular ones more often.
    pub(super) fn pick(&self, rng: &mut ChaCha8Rng) -> usize {
        let all = self.weights.last().copied().unwrap_or(0.0);
        let at = rng.random_range(0.0..all);
        self.weights.partition_point(|sum| *sum <= at).min(self.products.len() - 1)
    }
}

impl Product {
    /// Its page, without query.
    pub(super) fn path(&self) -> String {
        format!("/product/{}", self.id.to_lowercase())
    }

    /// What it costs in minor units of a currency. A shop sets round prices; no exchange rate is in them.
    pub(super) fn price_in(&self, currency: &str) -> i64 {
        match decimals(currency) {
            0 => self.price / 100 * 150,
            3 => self.price * 3,
            _ => self.price,
        }
    }
}

/// A product in a cart or an order.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) product: usize,
    pub(super) quantity: i64,
    /// Taken off the price of one, minor units.
    pub(super) discount: i64,
}

impl Shop {
    /// A line as `items` has it.
    pub(super) fn item(&self, line: &Line, currency: &str) -> Value {
        let product = &self.products[line.product];
        let mut item = json!({
            "product_id": product.id,
            "name": product.name,
            "brand": product.brand,
            "category": product.category,
            "price": amount(product.price_in(currency), currency),
            "product_kind": product.kind,
        });
        // One is the default, and most senders leave it out.
        if line.quantity != 1 || line.product.is_multiple_of(2) {
            item["quantity"] = line.quantity.into();
        }
        if line.discount > 0 {
            item["discount"] = amount(line.discount, currency);
        }
        if line.product.is_multiple_of(5) {
            item["variant_id"] = format!("{}-L", product.id).into();
        }
        item
    }

    /// What the lines cost together, minor units.
    pub(super) fn sum(&self, lines: &[Line], currency: &str) -> i64 {
        lines
            .iter()
            .map(|line| (self.products[line.product].price_in(currency) - line.discount) * line.quantity)
            .sum()
    }
}

fn decimals(currency: &str) -> u32 {
    millrace_schemas::money::exponent(currency).unwrap_or(2)
}

/// Minor units as the decimal number that a sender writes.
pub(super) fn amount(minor: i64, currency: &str) -> Value {
    match decimals(currency) {
        0 => minor.into(),
        decimals => (minor as f64 / f64::from(10_u32.pow(decimals))).into(),
    }
}
