//! Referrers that bring nobody: where a customer pays and comes back from, and sites that make up visits to be seen.

use std::{collections::HashSet, path::Path, sync::LazyLock};

use aho_corasick::AhoCorasick;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use super::{
    file::{FileData, FileError},
    host::{domains, is_below},
};

type Hosts<T> = HashSet<T, Xxh3DefaultBuilder>;

/// Payment providers, and what the operator adds.
pub(crate) struct Ignored(Vec<String>);

impl Ignored {
    pub(crate) fn new(own: &[String]) -> Self {
        Self(own.iter().map(|host| host.to_ascii_lowercase()).collect())
    }

    pub(crate) fn contains(&self, host: &str) -> bool {
        static PROVIDERS: LazyLock<Hosts<&str>> =
            LazyLock::new(|| words(include_str!("data/payment_providers.txt")).collect());
        domains(host).any(|domain| PROVIDERS.contains(domain)) || self.0.iter().any(|own| is_below(host, own))
    }
}

/// Known referrer spam: what comes with the collector, and the operator's file.
pub(crate) struct Spam(Option<FileData<Sites>>);

/// Sites, and words that mark one in whose name they occur.
struct Sites {
    sites: Hosts<Box<str>>,
    words: AhoCorasick,
}

impl Spam {
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, FileError> {
        path.map(|path| FileData::open(path, Sites::read)).transpose().map(Self)
    }

    pub(crate) fn refresh(&self) {
        if let Some(file) = &self.0 {
            file.refresh();
        }
    }

    pub(crate) fn contains(&self, host: &str) -> bool {
        static BUILT_IN: LazyLock<Option<Sites>> =
            LazyLock::new(|| Sites::read(include_bytes!("data/referrer_spam.txt")).ok());
        let in_built_in = || BUILT_IN.as_ref().is_some_and(|sites| sites.contain(host));
        !host.is_empty() && (in_built_in() || self.0.as_ref().is_some_and(|file| file.load().contain(host)))
    }
}

impl Sites {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?.to_lowercase();
        let parts: Vec<&str> = words(&text).filter_map(|word| word.strip_prefix('*')).collect();
        let sites = words(&text).filter(|word| !word.starts_with('*')).map(Box::from).collect();
        let words = AhoCorasick::new(parts).map_err(|error| error.to_string())?;
        Ok(Self { sites, words })
    }

    fn contain(&self, host: &str) -> bool {
        domains(host).any(|domain| self.sites.contains(domain)) || self.words.is_match(host)
    }
}

/// Words between blanks; `#` begins a comment.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_paid_brings_nobody() {
        let ignored = Ignored::new(&["Pay.Example".into()]);
        for (host, is_ignored) in [
            ("paypal.com", true),
            ("checkout.stripe.com", true),
            ("pay.klarna.com", true),
            ("pay.example", true),
            ("a.pay.example", true),
            ("example", false),
            ("notpaypal.com", false),
            ("amazon.com", false),
            ("pay.amazon.com", true),
            ("", false),
        ] {
            assert_eq!(ignored.contains(host), is_ignored, "{host}");
        }
    }

    #[test]
    fn spam_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spammers.txt");
        std::fs::write(&path, "Spam.Example\n# another\n*sp4m\n").unwrap();
        let spam = Spam::open(Some(&path)).unwrap();
        for (host, is_spam) in [
            ("semalt.com", true),
            ("1.semalt.com", true),
            ("darodar.com", true),
            ("buttons-for-website.com", true),
            ("4webmasters.org", true),
            ("spam.example", true),
            ("a.sp4m.example", true),
            ("blog.example", false),
            ("com", false),
            ("", false),
        ] {
            assert_eq!(spam.contains(host), is_spam, "{host}");
        }
        assert!(!Spam::open(None).unwrap().contains("spam.example"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(Spam::open(Some(&path)).is_err());
    }
}
