//! Whether a user agent is a bot's.
//!
//! The list is short on purpose. What it should catch are programs that *run a page* and so the snippet in it: search
//! engines, previews, monitors, headless browsers. Nearly all call themselves one of the words below. HTTP libraries
//! are not on it: what they post to the collector, somebody meant to post.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

const MARKERS: &[&str] = &[
    "bot",
    "crawl",
    "spider",
    "slurp",
    "headless",
    "phantomjs",
    "selenium",
    "puppeteer",
    "lighthouse",
    "pagespeed",
    "gtmetrix",
    "pingdom",
    "uptime",
    "monitor",
    "scrapy",
    "facebookexternalhit",
    "preview",
    "archiver",
    "prerender",
    "httrack",
    "mediapartners",
    "bytespider",
    "validator",
    "fetcher",
    "scanner",
];

/// Brands in which a marker happens to stand.
const NOT_BOTS: &[&str] = &["cubot"];

static MATCHER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let patterns = NOT_BOTS.iter().chain(MARKERS);
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        // The longer brand wins over the marker inside it.
        .match_kind(aho_corasick::MatchKind::LeftmostFirst)
        .build(patterns)
        .ok()
});

/// Whether this user agent says that it is a program. An empty one says nothing, and passes for a person.
pub(crate) fn is_bot(user_agent: &str) -> bool {
    MATCHER.as_ref().is_some_and(|matcher| {
        matcher.find_iter(user_agent).any(|found| found.pattern().as_usize() >= NOT_BOTS.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_people() {
        for bot in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0)",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/120.0.0.0 Safari/537.36",
            "facebookexternalhit/1.1",
        ] {
            assert!(is_bot(bot), "{bot}");
        }
        for person in [
            "",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile Safari/604.1",
            "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36",
            "curl/8.5.0",
            "okhttp/4.12.0",
        ] {
            assert!(!is_bot(person), "{person}");
        }
    }
}
