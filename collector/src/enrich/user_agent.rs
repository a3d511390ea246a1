//! Step `user_agent`: a user agent to browser, operating system and kind of device, by uap-core's rules.
//!
//! Some two thousand regular expressions are asked, those alone of which a literal part occurs; that takes tens of
//! microseconds, so what was found is kept, for as many user agents as a day's traffic of a shop has.

use std::{
    borrow::Cow,
    path::Path,
    sync::{Arc, LazyLock},
};

use quick_cache::sync::Cache;
use ua_parser::{Extractor, Regexes};

use super::file::{FileData, FileError};

/// The rules that come with the collector. See `data/README.md`.
const RULES: &str = include_str!("data/regexes.yaml");

/// User agents of which the answer is kept, the least asked for going first: a few MiB.
const AGENTS_KEPT: usize = 8192;

/// Longer values are cut: no name of a browser is, but a rule may take what a sender made up.
const VALUE_BYTES_MAX: usize = 64;

/// One for all collectors of a process: its expressions take some 30 MiB and a fifth of a second.
static BUILT_IN: LazyLock<Option<Agents>> = LazyLock::new(|| Agents::read(RULES.as_bytes()).ok());

/// What a user agent says of itself; what it does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) browser: Box<str>,
    /// Its first number.
    pub(crate) browser_version: Box<str>,
    pub(crate) os: Box<str>,
    /// Two numbers at most.
    pub(crate) os_version: Box<str>,
    /// One of a closed list.
    pub(crate) device: &'static str,
}

/// Where the rules come from.
pub(crate) enum UserAgents {
    BuiltIn,
    File(FileData<Agents>),
}

impl UserAgents {
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, FileError> {
        path.map_or(Ok(Self::BuiltIn), |path| FileData::open(path, Agents::read).map(Self::File))
    }

    /// Makes ready what the first look would have to wait for.
    pub(crate) fn warm(&self) {
        if let Self::BuiltIn = self {
            LazyLock::force(&BUILT_IN);
        }
    }

    pub(crate) fn refresh(&self) {
        if let Self::File(file) = self {
            file.refresh();
        }
    }

    /// What is known of a user agent.
    pub(crate) fn find(&self, user_agent: &str) -> Arc<Agent> {
        match self {
            Self::BuiltIn => BUILT_IN.as_ref().map(|agents| agents.find(user_agent)).unwrap_or_default(),
            Self::File(file) => file.load().find(user_agent),
        }
    }
}

/// Rules, and what they said.
pub(crate) struct Agents {
    extractor: Extractor<'static>,
    kept: Cache<Box<str>, Arc<Agent>>,
}

impl Agents {
    fn read(yaml: &[u8]) -> Result<Self, String> {
        let yaml = std::str::from_utf8(yaml).map_err(|_| "it is no text".to_owned())?;
        let regexes: Regexes<'static> = serde_saphyr::from_str(yaml)
            .map_err(|error| format!("not as uap-core's regexes.yaml: {error}"))?;
        let extractor =
            Extractor::try_from(regexes).map_err(|error| format!("a rule cannot be used: {error}"))?;
        Ok(Self { extractor, kept: Cache::new(AGENTS_KEPT) })
    }

    fn find(&self, user_agent: &str) -> Arc<Agent> {
        if let Some(agent) = self.kept.get(user_agent) {
            return agent;
        }
        let agent = Arc::new(self.read_agent(user_agent));
        self.kept.insert(user_agent.into(), Arc::clone(&agent));
        agent
    }

    fn read_agent(&self, user_agent: &str) -> Agent {
        let (browser, os, device) = self.extractor.extract(user_agent);
        let mut agent = Agent::default();
        let mut is_spider = false;
        let mut brand = "";
        if let Some(device) = &device {
            is_spider = device.device == "Spider";
            brand = device.brand.as_deref().unwrap_or_default();
        }
        if let Some(browser) = &browser {
            agent.browser = cut(&browser.family).into();
            agent.browser_version = cut(browser.major.unwrap_or_default()).into();
        }
        if let Some(os) = &os {
            agent.os = cut(&os.os).into();
            let version = match (os.major.as_deref(), os.minor.as_deref()) {
                (Some(major), Some(minor)) => Cow::Owned(format!("{major}.{minor}")),
                (major, _) => Cow::Borrowed(major.unwrap_or_default()),
            };
            agent.os_version = cut(&version).into();
        }
        agent.device = if is_spider { "bot" } else { device_class(user_agent, &agent.os, brand) };
        agent
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(VALUE_BYTES_MAX)]
}

/// What stands in user agents of which kind of device; the first that is found decides.
const DEVICES: &[(&str, &[&str])] = &[
    ("console", &["PlayStation", "Xbox", "Nintendo"]),
    (
        "tv",
        &[
            "SmartTV",
            "SMART-TV",
            "Smart-TV",
            "Smart TV",
            "AppleTV",
            "Apple TV",
            "GoogleTV",
            "Android TV",
            "BRAVIA",
            "HbbTV",
            "NetCast",
            "Web0S",
            "webOS.TV",
            "Tizen TV",
            "VIDAA",
            "CrKey",
            "Roku/",
            "AFTS",
            "AFTM",
            "AFTT",
            "AFTB",
            "AFTN",
            "AFTK",
            "MiTV",
        ],
    ),
    ("wearable", &["Apple Watch", "watchOS", "Watch OS", "SM-R8", "SM-R9"]),
    ("tablet", &["iPad", "Tablet", "PlayBook", "Kindle", "Silk-Accelerated", "KFAPWI", "KFTT"]),
    ("mobile", &["iPhone", "iPod", "Mobi", "Windows Phone", "BlackBerry", "BB10", "Opera Mini", "KaiOS"]),
    // An Android that does not call itself mobile is a tablet: so its makers say.
    ("tablet", &["Android"]),
    ("desktop", &["Windows NT", "Macintosh", "X11", "CrOS", "Linux x86_64", "Windows 9"]),
];

fn device_class(user_agent: &str, os: &str, brand: &str) -> &'static str {
    let found = DEVICES.iter().find(|(_, signs)| signs.iter().any(|sign| user_agent.contains(sign)));
    match found {
        // Some makers' tablets call themselves mobile; the rules know their names.
        Some(("mobile", _)) if brand == "Generic_Android_Tablet" => "tablet",
        Some((device, _)) => device,
        // Programs of a system, as an app that names it.
        None => match os {
            "iOS" | "Android" => "mobile",
            "Windows" | "Mac OS X" | "Chrome OS" => "desktop",
            "tvOS" => "tv",
            "watchOS" => "wearable",
            _ => "",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(user_agent: &str, expected: [&str; 5]) {
        let agent = UserAgents::BuiltIn.find(user_agent);
        let found = [&*agent.browser, &*agent.browser_version, &*agent.os, &*agent.os_version, agent.device];
        assert_eq!(found, expected, "{user_agent}");
    }

    #[test]
    fn browsers_are_known() {
        for (user_agent, expected) in [
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
                ["Chrome", "142", "Linux", "", "desktop"],
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:120.0) Gecko/20100101 Firefox/120.0",
                ["Firefox", "120", "Windows", "10", "desktop"],
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.2210.91",
                ["Edge", "120", "Windows", "10", "desktop"],
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 Safari/605.1.15",
                ["Safari", "17", "Mac OS X", "10.15", "desktop"],
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1",
                ["Mobile Safari", "17", "iOS", "17.0", "mobile"],
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 Safari/604.1",
                ["Mobile Safari", "16", "iOS", "16.6", "tablet"],
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36",
                ["Chrome Mobile", "120", "Android", "10", "mobile"],
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-X200) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                ["Chrome", "120", "Android", "13", "tablet"],
            ),
            (
                "Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/2.2 Chrome/63.0.3239.84 TV Safari/537.36",
                ["Samsung Internet", "2", "Tizen", "6.0", "tv"],
            ),
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                ["Googlebot", "2", "", "", "bot"],
            ),
            ("", ["", "", "", "", ""]),
        ] {
            check(user_agent, expected);
        }
    }

    #[test]
    fn an_operators_rules_are_used_and_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("regexes.yaml");
        let rules = "user_agent_parsers:\n  - regex: '(Ourapp)/(\\d+)'\nos_parsers: []\ndevice_parsers: []\n";
        std::fs::write(&path, rules).unwrap();
        let own = UserAgents::open(Some(&path)).unwrap();
        assert_eq!((&*own.find("Ourapp/7").browser, &*own.find("Ourapp/7").browser_version), ("Ourapp", "7"));
        assert_eq!(own.find("Mozilla/5.0 Firefox/120.0").browser.as_ref(), "");
        std::fs::write(&path, "user_agent_parsers: 1").unwrap();
        assert!(UserAgents::open(Some(&path)).err().unwrap().to_string().contains("regexes.yaml"));
        own.refresh();
        assert_eq!(&*own.find("Ourapp/7").browser, "Ourapp", "what cannot be used changes nothing");
    }

    proptest! {
        #[test]
        fn no_user_agent_is_too_strange(
            user_agent in "(Mozilla/5\\.0 \\()?\\PC{0,60}(Windows NT|Android|iPhone|bot|Chrome/|;|\\))\\PC{0,60}",
        ) {
            let agent = UserAgents::BuiltIn.find(&user_agent);
            for value in [&agent.browser, &agent.browser_version, &agent.os, &agent.os_version] {
                prop_assert!(value.len() <= VALUE_BYTES_MAX);
            }
        }
    }
}
