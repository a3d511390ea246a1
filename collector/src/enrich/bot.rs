//! Step `bot`: whether an event is a program's. It is kept and marked, and left out of every rollup; it is never dropped,
//! as a verdict may be wrong.
//!
//! The list of user agents is short on purpose. What it should catch are programs that *run a page* and so the snippet in
//! it: search engines, previews, monitors, headless browsers. Nearly all call themselves one of the words below. HTTP
//! libraries are not on it: what they post to the collector, somebody meant to post.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

/// Why something is taken for a bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BotReason {
    /// Its user agent says so.
    UserAgent,
    /// A browser that nobody looks at, or that a program drives.
    Headless,
    /// It comes from a network that the operator lists.
    DataCentre,
    /// One visitor does more than a person can.
    Rate,
}

impl BotReason {
    /// Every one; each stands at its own index.
    pub const ALL: [BotReason; 4] =
        [BotReason::UserAgent, BotReason::Headless, BotReason::DataCentre, BotReason::Rate];

    /// As rows and metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            BotReason::UserAgent => "user_agent",
            BotReason::Headless => "headless",
            BotReason::DataCentre => "data_centre",
            BotReason::Rate => "rate",
        }
    }
}

/// Brands in which a marker happens to stand.
const NOT_BOTS: &[&str] = &["cubot"];

/// Browsers without a window.
const HEADLESS: &[&str] = &["headless", "phantomjs", "selenium", "puppeteer", "playwright"];

const MARKERS: &[&str] = &[
    "bot",
    "crawl",
    "spider",
    "slurp",
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

static MATCHER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let patterns = NOT_BOTS.iter().chain(HEADLESS).chain(MARKERS);
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        // The longer brand wins over the marker inside it.
        .match_kind(aho_corasick::MatchKind::LeftmostFirst)
        .build(patterns)
        .ok()
});

/// Whether this user agent says that it is a program. An empty one says nothing, and passes for a person.
pub(crate) fn of_user_agent(user_agent: &str) -> Option<BotReason> {
    let mut verdict = None;
    for found in MATCHER.as_ref()?.find_iter(user_agent) {
        let pattern = found.pattern().as_usize();
        if pattern >= NOT_BOTS.len() + HEADLESS.len() {
            return Some(BotReason::UserAgent);
        }
        if pattern >= NOT_BOTS.len() {
            verdict = Some(BotReason::Headless);
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_people() {
        for (bot, reason) in [
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                BotReason::UserAgent,
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0)",
                BotReason::UserAgent,
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/120.0.0.0 Safari/537.36",
                BotReason::Headless,
            ),
            ("HeadlessChrome/120.0.0.0 Somebot/1", BotReason::UserAgent),
            ("facebookexternalhit/1.1", BotReason::UserAgent),
        ] {
            assert_eq!(of_user_agent(bot), Some(reason), "{bot}");
        }
        for person in [
            "",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile Safari/604.1",
            "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36",
            "curl/8.5.0",
            "okhttp/4.12.0",
        ] {
            assert_eq!(of_user_agent(person), None, "{person}");
        }
    }

    #[test]
    fn reasons_are_indexes() {
        for (index, reason) in BotReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
