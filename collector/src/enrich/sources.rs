//! Sources of traffic of which something is known: `data/sources.txt`, in whose head its form stands.

use std::{collections::HashMap, sync::LazyLock};

use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use super::host::{domains, name_anywhere};

/// What a source is known as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    Search,
    Social,
    Video,
    Shopping,
    /// It answers questions, and links to where it has the answer from.
    Assistant,
    Mail,
}

/// The kind of a source, in lower case: a name, or a host.
pub(crate) fn site(source: &str) -> Option<Site> {
    let source = source.strip_prefix("www.").unwrap_or(source);
    if source.contains(' ') {
        return SOURCES.named.get(source.replace(' ', "-").as_str()).copied().flatten();
    }
    domains(source).find_map(|domain| {
        // A name is no domain above a host.
        let is_known = domain.len() == source.len() || domain.contains('.');
        let named = SOURCES.named.get(domain).filter(|_| is_known).copied();
        // The list of public suffixes is asked of few.
        let anywhere = || {
            let site = SOURCES.anywhere.get(domain.split('.').next()?)?;
            name_anywhere(domain).map(|_| Some(*site))
        };
        named.or_else(anywhere)
    })?
}

type Names<T> = HashMap<&'static str, T, Xxh3DefaultBuilder>;

struct Sources {
    /// Names and hosts; without a kind those of a known site that are none.
    named: Names<Option<Site>>,
    /// Names whose sites stand under every public suffix.
    anywhere: Names<Site>,
}

static SOURCES: LazyLock<Sources> = LazyLock::new(|| {
    let mut sources = Sources { named: Names::default(), anywhere: Names::default() };
    for (site, form, name) in entries() {
        sources.named.insert(name, site);
        match (form, site) {
            // Made once, and kept as long as the process.
            (Form::WithCom, _) => drop(sources.named.insert(Box::leak(format!("{name}.com").into()), site)),
            (Form::Anywhere, Some(site)) => drop(sources.anywhere.insert(name, site)),
            _ => {}
        }
    }
    sources
});

#[derive(Clone, Copy, PartialEq)]
enum Form {
    AsItIs,
    WithCom,
    Anywhere,
}

fn entries() -> impl Iterator<Item = (Option<Site>, Form, &'static str)> {
    let lines = include_str!("data/sources.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(": ")).flat_map(|(kind, names)| {
        let site = match kind {
            "search" => Some(Site::Search),
            "social" => Some(Site::Social),
            "video" => Some(Site::Video),
            "shopping" => Some(Site::Shopping),
            "ai" => Some(Site::Assistant),
            "email" => Some(Site::Mail),
            _ => None,
        };
        let (form, names) = match names.split_once(' ') {
            Some((".com", names)) => (Form::WithCom, names),
            Some((".*", names)) => (Form::Anywhere, names),
            _ => (Form::AsItIs, names),
        };
        names.split_ascii_whitespace().map(move |name| (site, form, name))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use Site::{Assistant, Mail, Search, Shopping, Social, Video};

    #[test]
    fn sites_are_told_from_their_like() {
        for (source, expected) in [
            ("google", Some(Search)),
            ("www.google.de", Some(Search)),
            ("google.com.br", Some(Search)),
            ("lens.google.com", Some(Search)),
            ("news.google.com", Some(Search)),
            ("groups.google.com", Some(Social)),
            ("docs.google.com", None),
            ("google.evil.example", None),
            ("google.blogspot.com", Some(Social)),
            ("notgoogle.com", None),
            ("r.search.yahoo.com", Some(Search)),
            ("mail.yahoo.com", None),
            ("shopping.yahoo.com", Some(Shopping)),
            ("m.naver.com", Some(Search)),
            ("blog.naver.com", Some(Social)),
            ("pinterest.de", Some(Social)),
            ("in.pinterest.com", Some(Social)),
            ("old.reddit.com", Some(Social)),
            ("t.co", Some(Social)),
            ("x.com", Some(Social)),
            ("example.t.co", Some(Social)),
            ("music.youtube.com", Some(Video)),
            ("ebay.co.uk", Some(Shopping)),
            ("google shopping", Some(Shopping)),
            ("x.de", None),
            ("line.de", None),
            ("facebook.com.evil.example", None),
            ("chatgpt.com", Some(Assistant)),
            ("claude", Some(Assistant)),
            ("gemini.google.com", Some(Assistant)),
            ("copilot.microsoft.com", Some(Assistant)),
            ("com.linkedin.android", Some(Social)),
            ("com.google.android.gm", Some(Mail)),
            ("com.example.android", None),
            ("", None),
        ] {
            assert_eq!(site(source), expected, "{source}");
        }
    }

    #[test]
    fn no_source_stands_twice() {
        let mut places: BTreeMap<String, u32> = BTreeMap::new();
        for (_, form, name) in entries() {
            assert_eq!(name, name.to_lowercase());
            *places.entry(name.into()).or_default() += 1;
            if form == Form::WithCom {
                *places.entry(format!("{name}.com")).or_default() += 1;
            }
        }
        let twice: Vec<_> = places.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert!(places.len() > 900);
    }
}
