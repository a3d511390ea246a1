//! GA4's default channel groups of traffic that was tagged or referred, and AI Assistants beside them, in the order in which
//! Google asks for them: the first rule that fits decides. Case does not matter.
//! ([Google's definitions](https://support.google.com/analytics/answer/9756891).)

use std::borrow::Cow;

use super::sources::{
    Site::{self, Assistant, Mail, Search, Shopping, Social, Video},
    site,
};

/// Nothing says where it came from.
pub(crate) const DIRECT: &str = "Direct";
const UNASSIGNED: &str = "Unassigned";

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
    // Newer than Google's groups, and before those of what is not paid for.
    ("AI Assistants", |visit| visit.is(Assistant)),
    ("Email", |visit| visit.is(Mail)),
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
            ("ChatGPT.com", "", "", "AI Assistants"),
            ("perplexity", "referral", "", "AI Assistants"),
            ("chatgpt", "cpc", "", "Paid Other"),
            ("com.google.android.gm", "referral", "", "Email"),
            ("Google Shopping", "cpc", "", "Paid Shopping"),
            ("", "", "cross-network", "Cross-network"),
            ("", "", "summer", "Unassigned"),
            ("anything", "anything", "", "Unassigned"),
            ("newsletter", "", "", "Unassigned"),
        ] {
            assert_eq!(of(source, medium, campaign), channel, "{source} / {medium} / {campaign}");
        }
    }
}
