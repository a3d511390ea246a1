//! GA4's default channel groups of traffic that was tagged or referred, in the order in which Google asks for them: the
//! first rule that fits decides. Case does not matter.
//! ([Google's definitions](https://support.google.com/analytics/answer/9756891).)

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Nothing says where it came from.
pub(crate) const DIRECT: &str = "Direct";
const UNASSIGNED: &str = "Unassigned";

/// What a source is known as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Search,
    Social,
    Video,
    Shopping,
}

use Site::{Search, Shopping, Social, Video};

/// What the rules look at.
struct Visit<'a> {
    source: &'a str,
    medium: &'a str,
    campaign: &'a str,
    site: Option<Site>,
}

type Rule = (&'static str, fn(&Visit<'_>) -> bool);

const RULES: &[Rule] = &[
    (DIRECT, |visit| visit.source == "(direct)" && matches!(visit.medium, "(not set)" | "(none)")),
    ("Cross-network", |visit| visit.campaign.contains("cross-network")),
    ("Paid Shopping", |visit| (visit.is(Shopping) || is_shopping(visit.campaign)) && visit.is_paid()),
    ("Paid Search", |visit| visit.is(Search) && visit.is_paid()),
    ("Paid Social", |visit| visit.is(Social) && visit.is_paid()),
    ("Paid Video", |visit| visit.is(Video) && visit.is_paid()),
    ("Display", |visit| matches!(visit.medium, "display" | "banner" | "expandable" | "interstitial" | "cpm")),
    ("Paid Other", |visit| visit.is_paid()),
    ("Organic Shopping", |visit| visit.is(Shopping) || is_shopping(visit.campaign)),
    ("Organic Social", |visit| {
        visit.is(Social)
            || matches!(
                visit.medium,
                "social" | "social-network" | "social-media" | "sm" | "social network" | "social media"
            )
    }),
    ("Organic Video", |visit| visit.is(Video) || visit.medium.contains("video")),
    ("Organic Search", |visit| visit.is(Search) || visit.medium == "organic"),
    ("Referral", |visit| matches!(visit.medium, "referral" | "app" | "link")),
    ("Email", |visit| is_email(visit.source) || is_email(visit.medium)),
    ("Affiliates", |visit| visit.medium == "affiliate"),
    ("Audio", |visit| visit.medium == "audio"),
    ("SMS", |visit| visit.source == "sms" || visit.medium == "sms"),
    ("Mobile Push Notifications", |visit| {
        visit.medium.ends_with("push")
            || visit.medium.contains("mobile")
            || visit.medium.contains("notification")
            || visit.source == "firebase"
    }),
];

/// The channel of a visit with this source, medium and campaign.
pub(crate) fn of(source: &str, medium: &str, campaign: &str) -> &'static str {
    let [source, medium, campaign] = [source, medium, campaign].map(|text| lowercase(text.trim()));
    let visit = Visit { source: &source, medium: &medium, campaign: &campaign, site: site(&source) };
    RULES.iter().find(|(_, fits)| fits(&visit)).map_or(UNASSIGNED, |(channel, _)| channel)
}

/// Most are written so.
fn lowercase(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase() || byte >= 0x80) {
        text.to_lowercase().into()
    } else {
        text.into()
    }
}

impl Visit<'_> {
    fn is(&self, site: Site) -> bool {
        self.site == Some(site)
    }

    /// `^(.*cp.*|ppc|retargeting|paid.*)$`
    fn is_paid(&self) -> bool {
        self.medium.contains("cp")
            || matches!(self.medium, "ppc" | "retargeting")
            || self.medium.starts_with("paid")
    }
}

/// `^(.*(([^a-df-z]|^)shop|shopping).*)$`: `shop` at the beginning of a word, or behind an `e`.
fn is_shopping(campaign: &str) -> bool {
    campaign.contains("shopping")
        || campaign.match_indices("shop").any(|(at, _)| {
            campaign[..at].chars().next_back().is_none_or(|before| !matches!(before, 'a'..='d' | 'f'..='z'))
        })
}

fn is_email(text: &str) -> bool {
    matches!(text, "email" | "e-mail" | "e_mail" | "e mail")
}

/// Sources of a known kind: a name is that source itself and, of searches and shops, its site under any country's domain; a
/// domain is that site and all below it.
const SITES: &[(Site, &[&str])] = &[
    (
        Search,
        &[
            "google",
            "bing",
            "yahoo",
            "duckduckgo",
            "ecosia",
            "qwant",
            "startpage",
            "yandex",
            "baidu",
            "naver",
            "daum",
            "seznam",
            "sogou",
            "ask",
            "aol",
            "lycos",
            "brave",
            "mojeek",
            "swisscows",
            "presearch",
            "kagi",
            "rambler",
            "dogpile",
            "metager",
            "virgilio",
            "onet",
            "centrum",
            "najdi",
            "exalead",
            "search.yahoo.com",
            "search.brave.com",
            "search.aol.com",
            "search.marginalia.nu",
            "ecosia.org",
            "so.com",
            "coccoc.com",
            "ya.ru",
            "go.mail.ru",
            "m.baidu.com",
            "search.naver.com",
            "search.seznam.cz",
            "cn.bing.com",
            "metager.org",
            "com.google.android.googlequicksearchbox",
            "html.duckduckgo.com",
            "lite.qwant.com",
            "you.com",
        ],
    ),
    (
        Social,
        &[
            "facebook",
            "instagram",
            "twitter",
            "x",
            "linkedin",
            "pinterest",
            "reddit",
            "tiktok",
            "snapchat",
            "tumblr",
            "quora",
            "threads",
            "mastodon",
            "bluesky",
            "whatsapp",
            "telegram",
            "discord",
            "vk",
            "vkontakte",
            "weibo",
            "wechat",
            "line",
            "kakao",
            "messenger",
            "nextdoor",
            "flickr",
            "fb",
            "ig",
            "facebook.com",
            "fb.com",
            "fb.me",
            "instagram.com",
            "twitter.com",
            "t.co",
            "x.com",
            "linkedin.com",
            "lnkd.in",
            "pinterest.com",
            "pin.it",
            "reddit.com",
            "redd.it",
            "tiktok.com",
            "snapchat.com",
            "tumblr.com",
            "quora.com",
            "threads.net",
            "threads.com",
            "mastodon.social",
            "bsky.app",
            "whatsapp.com",
            "wa.me",
            "t.me",
            "telegram.org",
            "discord.com",
            "discordapp.com",
            "vk.com",
            "ok.ru",
            "weibo.com",
            "douban.com",
            "zhihu.com",
            "xing.com",
            "meetup.com",
            "medium.com",
            "livejournal.com",
            "disqus.com",
            "stackoverflow.com",
            "stackexchange.com",
            "news.ycombinator.com",
            "nextdoor.com",
            "flickr.com",
            "goodreads.com",
            "ask.fm",
            "tripadvisor.com",
            "yelp.com",
            "com.facebook.katana",
            "com.instagram.android",
            "com.linkedin.android",
            "com.pinterest",
            "com.reddit.frontpage",
            "com.twitter.android",
        ],
    ),
    (
        Video,
        &[
            "youtube",
            "vimeo",
            "dailymotion",
            "twitch",
            "netflix",
            "hulu",
            "disneyplus",
            "bilibili",
            "rumble",
            "wistia",
            "youtube.com",
            "youtu.be",
            "vimeo.com",
            "dailymotion.com",
            "twitch.tv",
            "netflix.com",
            "hulu.com",
            "disneyplus.com",
            "bilibili.com",
            "rumble.com",
            "wistia.com",
            "ted.com",
            "crackle.com",
            "iqiyi.com",
            "youku.com",
            "com.google.android.youtube",
        ],
    ),
    (
        Shopping,
        &[
            "amazon",
            "ebay",
            "etsy",
            "walmart",
            "alibaba",
            "aliexpress",
            "shopify",
            "mercadolibre",
            "mercadolivre",
            "rakuten",
            "igshopping",
            "google shopping",
            "shopping",
            "idealo",
            "kelkoo",
            "pricerunner",
            "shopzilla",
            "amazon.com",
            "ebay.com",
            "etsy.com",
            "walmart.com",
            "alibaba.com",
            "aliexpress.com",
            "shopping.google.com",
            "shop.app",
            "mercadolibre.com",
            "shopping.yahoo.co.jp",
            "rakuten.co.jp",
            "wish.com",
            "temu.com",
            "pricespy.co.uk",
            "nextag.com",
        ],
    ),
];

static BY_NAME: LazyLock<HashMap<&'static str, Site, Xxh3DefaultBuilder>> = LazyLock::new(|| {
    SITES.iter().flat_map(|(site, names)| names.iter().map(|name| (*name, *site))).collect()
});

/// The kind of a source, in lower case: a name, or a host.
fn site(source: &str) -> Option<Site> {
    let source = source.strip_prefix("www.").unwrap_or(source);
    if let Some(site) = BY_NAME.get(source) {
        return Some(*site);
    }
    // The domains above it, outermost last.
    let above =
        source.match_indices('.').map(|(at, _)| &source[at + 1..]).filter(|domain| domain.contains('.'));
    if let Some(site) = above.filter_map(|domain| BY_NAME.get(domain)).next() {
        return Some(*site);
    }
    // `google.co.uk`: a name under a country's domain.
    let (name, domain) = source.split_once('.')?;
    let is_top =
        domain.split('.').count() <= 2 && domain.split('.').all(|label| (2..=3).contains(&label.len()));
    BY_NAME.get(name).copied().filter(|site| is_top && matches!(site, Search | Shopping))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line a rule of Google's page, and what is near it.
    #[test]
    fn each_of_googles_rules_decides_what_it_should() {
        for (source, medium, campaign, channel) in [
            ("(direct)", "(none)", "", "Direct"),
            ("(direct)", "(not set)", "", "Direct"),
            ("(direct)", "email", "", "Email"),
            ("google", "cpc", "a Cross-network one", "Cross-network"),
            ("amazon", "cpc", "", "Paid Shopping"),
            ("google", "cpc", "summer shop", "Paid Shopping"),
            ("google", "cpc", "eshop", "Paid Shopping"),
            ("google", "cpc", "workshop", "Paid Search"),
            ("google", "cpc", "", "Paid Search"),
            ("google", "ppc", "", "Paid Search"),
            ("bing", "paidsearch", "", "Paid Search"),
            ("duckduckgo.com", "retargeting", "", "Paid Search"),
            ("facebook", "cpm", "", "Paid Social"),
            ("instagram.com", "paid-social", "", "Paid Social"),
            ("youtube", "cpv cpc", "", "Paid Video"),
            ("adserver", "display", "", "Display"),
            ("adserver", "banner", "", "Display"),
            ("adserver", "interstitial", "", "Display"),
            ("adserver", "expandable", "", "Display"),
            ("adserver", "cpm", "", "Display"),
            ("adserver", "cpa", "", "Paid Other"),
            ("adserver", "paid", "", "Paid Other"),
            ("etsy", "referral", "", "Organic Shopping"),
            ("newsletter", "email", "Shopping days", "Organic Shopping"),
            ("l.facebook.com", "referral", "", "Organic Social"),
            ("anything", "Social-Media", "", "Organic Social"),
            ("anything", "sm", "", "Organic Social"),
            ("m.youtube.com", "referral", "", "Organic Video"),
            ("anything", "in-video", "", "Organic Video"),
            ("google.co.uk", "referral", "", "Organic Search"),
            ("anything", "organic", "", "Organic Search"),
            ("blog.example", "referral", "", "Referral"),
            ("blog.example", "app", "", "Referral"),
            ("blog.example", "link", "", "Referral"),
            ("email", "anything", "", "Email"),
            ("anything", "e-mail", "", "Email"),
            ("anything", "e_mail", "", "Email"),
            ("anything", "E MAIL", "", "Email"),
            ("partner", "affiliate", "", "Affiliates"),
            ("podcast", "audio", "", "Audio"),
            ("sms", "anything", "", "SMS"),
            ("anything", "sms", "", "SMS"),
            ("anything", "web push", "", "Mobile Push Notifications"),
            ("anything", "mobile app", "", "Mobile Push Notifications"),
            ("anything", "notification", "", "Mobile Push Notifications"),
            ("firebase", "anything", "", "Mobile Push Notifications"),
            ("anything", "anything", "", "Unassigned"),
            ("newsletter", "", "", "Unassigned"),
        ] {
            assert_eq!(of(source, medium, campaign), channel, "{source} / {medium} / {campaign}");
        }
    }

    #[test]
    fn sites_are_told_from_their_like() {
        for (source, expected) in [
            ("www.google.de", Some(Search)),
            ("google.com.br", Some(Search)),
            ("mail.google.com", None),
            ("google.evil.example", None),
            ("notgoogle.com", None),
            ("r.search.yahoo.com", Some(Search)),
            ("mail.yahoo.com", None),
            ("old.reddit.com", Some(Social)),
            ("t.co", Some(Social)),
            ("x.com", Some(Social)),
            ("example.t.co", Some(Social)),
            ("ebay.co.uk", Some(Shopping)),
            ("x.de", None),
            ("facebook.com.evil.example", None),
            ("", None),
        ] {
            assert_eq!(site(source), expected, "{source}");
        }
    }

    #[test]
    fn no_source_is_of_two_kinds() {
        assert_eq!(BY_NAME.len(), SITES.iter().map(|(_, names)| names.len()).sum::<usize>());
    }
}
