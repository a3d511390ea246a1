//! Which user agents are programs', and whose.
//!
//! *Whether* one is a program is told by isbot's expressions (`data/bot_words.tsv`): words of crawlers, monitors, previews,
//! headless browsers, libraries. They match as words, and brands in which one happens to stand are skipped. *Whose* it is,
//! and what for, is told by crawler-user-agents' list (`data/bot_names.tsv`), of which the longest that fits is meant.
//!
//! * Words of every day (`news`, `scan`, `feed`) and mere shapes (`Name/1.2`) stand in people's apps too. Where a user agent
//!   names a telephone, a tablet, a television or a console, and none of the list's, they mark nobody.
//! * What a system's own stack for apps sends (okhttp, `CFNetwork`, Dalvik, Dart) is a person's app, whatever its name.
//! * Other libraries (`python-requests`, axios, curl) are bots of the kind `library`. What is done with that verdict stands
//!   at `Enricher::verdict`.
//!
//! Some microseconds; what was found is kept, as that of `user_agent` is.

use std::sync::{Arc, LazyLock};

use aho_corasick::AhoCorasick;
use quick_cache::sync::Cache;
use regex_automata::{Input, MatchKind, PatternSet, meta::Regex, util::syntax};

use super::bot::{BotKind, BotReason, Verdict};

const WORDS: &str = include_str!("data/bot_words.tsv");
const NAMES: &str = include_str!("data/bot_names.tsv");

/// What people's devices call themselves.
const DEVICES: &[&str] = &[
    "iphone",
    "ipad",
    "ipod",
    "android",
    "appletv",
    "roku/",
    "tizen",
    "web0s",
    "smart-tv",
    "smarttv",
    "playstation",
    "xbox",
    "nintendo",
];

/// What systems, and the libraries of analytics for apps, call themselves.
const APP_STACKS: &[&str] = &[
    "okhttp",
    "cfnetwork/",
    "dalvik/",
    "dart:io",
    "alamofire/",
    "posthog-ios",
    "posthog-android",
    "posthog-flutter",
    "posthog-react-native",
    "analytics-ios",
    "analytics-android",
    "analytics-kotlin",
    "analytics-swift",
    "analytics-react-native",
    "analytics-flutter",
];

/// User agents of which the answer is kept, the least asked for going first: some MiB.
const AGENTS_KEPT: usize = 8192;

/// A name of which no list knows is its sender's.
const NAME_BYTES_MAX: usize = 64;

static RULES: LazyLock<Option<Rules>> = LazyLock::new(Rules::read);

/// A program that a user agent names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crawler {
    pub(crate) reason: BotReason,
    pub(crate) kind: BotKind,
    pub(crate) name: Box<str>,
}

impl Crawler {
    pub(crate) fn verdict(&self) -> Verdict<'_> {
        Verdict { reason: self.reason, kind: self.kind, name: &self.name }
    }
}

/// What user agents say, as long as it is remembered.
pub(crate) struct Crawlers {
    kept: Cache<Box<str>, Option<Arc<Crawler>>>,
}

impl Crawlers {
    pub(crate) fn new() -> Self {
        Self { kept: Cache::new(AGENTS_KEPT) }
    }

    /// Makes ready what the first look would have to wait for.
    pub(crate) fn warm() {
        LazyLock::force(&RULES);
    }

    /// The program that this user agent says it is. An empty one says nothing, and passes for a person.
    pub(crate) fn find(&self, user_agent: &str) -> Option<Arc<Crawler>> {
        if let Some(known) = self.kept.get(user_agent) {
            return known;
        }
        let found = RULES.as_ref().and_then(|rules| rules.judge(user_agent)).map(Arc::new);
        self.kept.insert(user_agent.into(), found.clone());
        found
    }

    /// One that the rules for user agents know as a spider of this family. They look for parts of words, and find them in
    /// people's: that family, or a list, has to name a program.
    pub(crate) fn spider(user_agent: &str, family: &str) -> Option<Arc<Crawler>> {
        let rules = RULES.as_ref()?;
        if rules.speaks_of(&rules.app_stacks, user_agent) {
            return None;
        }
        let by_family = || Some((rules.mark(family).filter(|mark| mark.0 == Weight::Sure)?.1, family));
        let (kind, name) = rules.name(user_agent).or_else(by_family)?;
        Some(Arc::new(kind.crawler(name)))
    }
}

/// As the lists have it: a browser without a window is a reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Headless,
    Of(BotKind),
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "headless" => Some(Self::Headless),
            _ => BotKind::ALL.into_iter().find(|kind| kind.as_str() == text).map(Self::Of),
        }
    }

    fn crawler(self, name: &str) -> Crawler {
        let (reason, kind) = match self {
            Self::Headless => (BotReason::Headless, BotKind::Other),
            Self::Of(kind) => (BotReason::UserAgent, kind),
        };
        Crawler { reason, kind, name: name.into() }
    }
}

/// How much a word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// A brand in which one stands.
    Not,
    Sure,
    Hint,
}

/// A word that was found, and where.
type Mark = (Weight, Kind, std::ops::Range<usize>);

struct Rules {
    words: Regex,
    word_kinds: Vec<(Weight, Kind)>,
    /// They look at a whole user agent, where a word would be hidden.
    shapes: Regex,
    /// Texts, and the few that are more.
    texts: AhoCorasick,
    text_names: Vec<usize>,
    names: Regex,
    expression_names: Vec<usize>,
    /// Of which the lists know, the most exact first.
    known: Vec<(Kind, &'static str)>,
    devices: AhoCorasick,
    app_stacks: AhoCorasick,
}

impl Rules {
    fn read() -> Option<Self> {
        let mut words = Vec::new();
        let mut word_kinds = Vec::new();
        let mut shapes = Vec::new();
        for [weight, kind, pattern] in lines(WORDS) {
            let weight = match weight {
                "not" => Weight::Not,
                "sure" => Weight::Sure,
                "hint" => Weight::Hint,
                _ => {
                    shapes.push(pattern);
                    continue;
                }
            };
            words.push(pattern);
            word_kinds.push((weight, Kind::parse(kind)?));
        }
        let (mut texts, mut text_names, mut names, mut expression_names) = (vec![], vec![], vec![], vec![]);
        let mut known = Vec::new();
        for [kind, name, pattern] in lines(NAMES) {
            match pattern.split_at_checked(1)? {
                ("=", text) => {
                    texts.push(text);
                    text_names.push(known.len());
                }
                (_, expression) => {
                    names.push(as_word(expression));
                    expression_names.push(known.len());
                }
            }
            known.push((Kind::parse(kind)?, name));
        }
        let any_case = |words: &[&str]| AhoCorasick::builder().ascii_case_insensitive(true).build(words).ok();
        Some(Self {
            words: expressions(&words, true, MatchKind::LeftmostFirst)?,
            word_kinds,
            shapes: expressions(&shapes, true, MatchKind::LeftmostFirst)?,
            texts: AhoCorasick::new(texts).ok()?,
            text_names,
            names: expressions(&names, false, MatchKind::All)?,
            expression_names,
            known,
            devices: any_case(DEVICES)?,
            app_stacks: any_case(APP_STACKS)?,
        })
    }

    fn judge(&self, user_agent: &str) -> Option<Crawler> {
        if self.speaks_of(&self.app_stacks, user_agent) {
            return None;
        }
        let (weight, kind, place) = self.mark(user_agent)?;
        let name = self.name(user_agent);
        if weight == Weight::Hint && name.is_none() && self.speaks_of(&self.devices, user_agent) {
            return None;
        }
        let mut crawler = match name {
            Some((kind, name)) => kind.crawler(name),
            None => kind.crawler(own_name(user_agent, place)),
        };
        // A headless browser that calls itself a crawler is one.
        crawler.reason = kind.crawler("").reason;
        Some(crawler)
    }

    /// The word that says most, and where it stands.
    fn mark(&self, user_agent: &str) -> Option<Mark> {
        let mut best: Option<Mark> = None;
        for found in self.words.find_iter(user_agent) {
            let (weight, kind) = self.word_kinds[found.pattern().as_usize()];
            match (weight, kind) {
                (Weight::Not, _) => {}
                (Weight::Sure, Kind::Of(_)) => return Some((weight, kind, found.range())),
                (Weight::Sure, Kind::Headless) => best = Some((weight, kind, found.range())),
                (Weight::Hint, _) => best = best.or(Some((weight, kind, found.range()))),
            }
        }
        best.or_else(|| {
            let shape = self.shapes.find(user_agent)?;
            // Who is no browser says so by a shape of its own.
            let is_browser = user_agent.starts_with("Mozilla/");
            let kind = if is_browser { BotKind::Other } else { BotKind::Library };
            Some((Weight::Hint, Kind::Of(kind), shape.range()))
        })
    }

    /// The kind and name of which a list knows.
    fn name(&self, user_agent: &str) -> Option<(Kind, &'static str)> {
        let begins_word = |at: usize| at == 0 || !user_agent.as_bytes()[at - 1].is_ascii_alphanumeric();
        let texts = self.texts.find_overlapping_iter(user_agent).filter(|found| begins_word(found.start()));
        let by_text = texts.map(|found| self.text_names[found.pattern().as_usize()]).min();
        let mut found = PatternSet::new(self.expression_names.len());
        self.names.which_overlapping_matches(&Input::new(user_agent), &mut found);
        let by_expression = found.iter().map(|pattern| self.expression_names[pattern.as_usize()]).min();
        by_text.into_iter().chain(by_expression).min().map(|index| self.known[index])
    }

    fn speaks_of(&self, words: &AhoCorasick, user_agent: &str) -> bool {
        words.is_match(user_agent)
    }
}

/// Lines of three fields; `#` begins a comment.
fn lines(text: &'static str) -> impl Iterator<Item = [&'static str; 3]> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.splitn(3, '\t');
        Some([fields.next()?, fields.next()?, fields.next()?])
    })
}

/// A name begins where a word does.
fn as_word(pattern: &str) -> String {
    if pattern.starts_with('^') { pattern.to_owned() } else { format!("(?:^|[^A-Za-z0-9])(?:{pattern})") }
}

fn expressions(patterns: &[impl AsRef<str>], any_case: bool, match_kind: MatchKind) -> Option<Regex> {
    Regex::builder()
        .syntax(syntax::Config::new().case_insensitive(any_case).unicode(false).utf8(false))
        .configure(Regex::config().match_kind(match_kind).utf8_empty(false))
        .build_many(patterns)
        .ok()
}

/// What a program of which no list knows calls itself: its product, or the word that gave it away.
fn own_name(user_agent: &str, place: std::ops::Range<usize>) -> &str {
    let is_part = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_');
    let product = |text: &str| text.find(['/', ';', ',', '(', ')']).unwrap_or(text.len());
    let name = if !user_agent.starts_with("Mozilla/") {
        &user_agent[..product(user_agent)]
    } else if let Some((_, rest)) =
        user_agent.split_once("compatible; ").filter(|(_, rest)| !rest.starts_with("MSIE"))
    {
        &rest[..product(rest)]
    } else {
        // Expressions of bytes may end inside a character.
        let (start, end) =
            (user_agent.floor_char_boundary(place.start), user_agent.floor_char_boundary(place.end));
        let before = user_agent[..start].trim_end_matches(is_part).len();
        let after = user_agent.len() - user_agent[end..].trim_start_matches(is_part).len();
        user_agent[before..after].trim_matches(|character| !is_part(character))
    };
    let name = name.trim();
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(user_agent: &str) -> Option<Arc<Crawler>> {
        Crawlers::new().find(user_agent)
    }

    fn said_of(user_agent: &str) -> Option<(&'static str, &'static str, String)> {
        let crawler = find(user_agent)?;
        Some((crawler.reason.as_str(), crawler.kind.as_str(), crawler.name.to_string()))
    }

    fn agents(text: &'static str) -> Vec<&'static str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    fn percent_caught(agents: &[&str]) -> f64 {
        let crawlers = Crawlers::new();
        let caught = agents.iter().filter(|agent| crawlers.find(agent).is_some()).count();
        100.0 * caught as f64 / agents.len() as f64
    }

    #[test]
    fn the_lists_are_whole() {
        assert!(
            RULES.as_ref().is_some_and(|rules| rules.known.len() > 1_000 && rules.word_kinds.len() > 100)
        );
    }

    #[test]
    fn programs_have_a_reason_a_kind_and_a_name() {
        for (user_agent, reason, kind, name) in [
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                "user_agent",
                "search",
                "Googlebot",
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0)",
                "user_agent",
                "search",
                "bingbot",
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko); compatible; GPTBot/1.1; +https://openai.com/gptbot",
                "user_agent",
                "ai_training",
                "GPTBot",
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ClaudeBot/1.0; +claudebot@anthropic.com)",
                "user_agent",
                "ai_training",
                "ClaudeBot",
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko); compatible; ChatGPT-User/1.0; +https://openai.com/bot",
                "user_agent",
                "ai_assistant",
                "ChatGPT-User",
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Perplexity-User/1.0; +https://perplexity.ai/perplexity-user)",
                "user_agent",
                "ai_assistant",
                "Perplexity-User",
            ),
            (
                "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/534+ (KHTML, like Gecko) Chrome/98 Safari/537.4 (StatusCake)",
                "user_agent",
                "monitor",
                "StatusCake",
            ),
            (
                "Mozilla/5.0 (compatible; Google-InspectionTool/1.0)",
                "user_agent",
                "search",
                "Google-InspectionTool",
            ),
            (
                "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
                "user_agent",
                "preview",
                "facebookexternalhit",
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/120.0.0.0 Safari/537.36",
                "headless",
                "other",
                "HeadlessChrome",
            ),
            ("HeadlessChrome/120.0.0.0 Somebot/1", "user_agent", "other", "HeadlessChrome"),
            ("Mozilla/5.0 (compatible; Unheardofbot/1.0)", "user_agent", "other", "Unheardofbot"),
            (
                "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/120.0 Safari/537.36 my-crawler/2",
                "user_agent",
                "other",
                "my-crawler",
            ),
            ("curl/8.5.0", "user_agent", "library", "curl"),
            ("python-requests/2.31.0", "user_agent", "library", "python-requests"),
            ("Go-http-client/1.1", "user_agent", "library", "Go-http-client"),
            ("axios/1.6.8", "user_agent", "library", "axios"),
            ("node", "user_agent", "library", "node"),
            ("analytics-python/2.2.3", "user_agent", "library", "analytics-python"),
        ] {
            assert_eq!(said_of(user_agent), Some((reason, kind, name.to_owned())), "{user_agent}");
        }
    }

    #[test]
    fn people_are_nobodys_program() {
        for person in [
            "",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile Safari/604.1",
            "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36",
            "Mozilla/5.0 (Linux; Android 6.0; POWER BOT Build/MRA58K) AppleWebKit/537.36 Chrome/54.0.2840.85 Mobile Safari/537.36",
            "Mozilla/5.0 (Linux; Android 13; SM-G991B) AppleWebKit/537.36 Chrome/125 Mobile Safari/537.36 CamScanner/4.5",
            "Mozilla/5.0 (Linux; Android 13; SM-G991B) AppleWebKit/537.36 Chrome/125 Mobile Safari/537.36 OrangeBotswana/2.1",
            "fuboTV/4.75.0 (Linux; Android 12; en_US; AFTMM Build/NS6281)",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 NewsBreak/24.1",
            "Mozilla/5.0 (Linux; Android 13; SM-A515F) AppleWebKit/537.36 Chrome/120 Mobile Safari/537.36 Grab/5.200",
            "Mozilla/5.0 (Linux; Android 12; Pixel 6) AppleWebKit/537.36 Chrome/120 Mobile Safari/537.36 GSA/15.3",
            "okhttp/4.12.0",
            "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/UD1A)",
            "Dart/3.2 (dart:io)",
            "BBCNews/25339 CFNetwork/1399 Darwin/22.1.0",
            "posthog-ios/3.1.0",
        ] {
            assert_eq!(said_of(person), None, "{person}");
        }
    }

    #[test]
    fn crawlers_of_the_list_are_caught() {
        let agents = agents(include_str!("data/tests/crawlers.txt"));
        assert!(agents.len() > 2_000);
        let percent = percent_caught(&agents);
        assert!(percent >= 95.0, "{percent} %");
    }

    #[test]
    fn crawlers_of_another_list_are_caught() {
        let agents = agents(include_str!("data/tests/crawlers_unseen.txt"));
        assert!(agents.len() > 1_000);
        let percent = percent_caught(&agents);
        assert!(percent >= 85.0, "{percent} %");
    }

    #[test]
    fn browsers_are_not() {
        let agents = agents(include_str!("data/tests/browsers.txt"));
        assert!(agents.len() > 500);
        let crawlers = Crawlers::new();
        let taken: Vec<_> = agents.iter().filter(|agent| crawlers.find(agent).is_some()).collect();
        assert!(taken.len() <= 2, "{taken:#?}");
    }

    proptest! {
        #[test]
        fn no_user_agent_is_too_strange(user_agent in "(Mozilla/5\\.0 )?\\PC{0,40}(bot|http|compatible; |é|\\(\\))?\\PC{0,40}") {
            if let Some(crawler) = find(&user_agent) {
                prop_assert!(crawler.name.len() <= NAME_BYTES_MAX);
            }
        }
    }
}
