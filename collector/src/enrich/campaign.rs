//! Step `campaign`: what brought a visitor to a page: UTM parameters, an advertiser's click id, the referrer's host. It reads
//! the addresses as they were sent, before parameters go from them.

use std::borrow::Cow;

use millrace_schemas::row::Properties;

use super::{
    channel,
    host::{host, is_same_site},
    url::{EMAIL, has_email},
};

/// What an address says of its campaign, and what a referrer adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Campaign<'t> {
    pub(crate) source: Cow<'t, str>,
    pub(crate) medium: Cow<'t, str>,
    pub(crate) name: Cow<'t, str>,
    pub(crate) term: Cow<'t, str>,
    pub(crate) content: Cow<'t, str>,
    pub(crate) id: Cow<'t, str>,
    pub(crate) click_id_kind: &'static str,
    pub(crate) click_id: Cow<'t, str>,
    /// Empty for the shop's own.
    pub(crate) referrer_host: Cow<'t, str>,
    pub(crate) channel: &'static str,
    /// Google Ads marks its links with it; where a browser takes the click id off, it stays.
    is_google_ad: bool,
}

/// An advertiser's click id: the parameter it comes in, and the source and medium of a click that says nothing else.
struct ClickId {
    parameter: &'static str,
    source: &'static str,
    medium: &'static str,
}

macro_rules! click_ids {
    ($($parameter:literal is $source:literal, $medium:literal;)+) => {
        &[$(ClickId { parameter: $parameter, source: $source, medium: $medium },)+]
    };
}

/// Facebook adds its id to every link that leaves it, so that one says nothing of money.
const CLICK_IDS: &[ClickId] = click_ids! {
    "gclid" is "google", "cpc";
    "gbraid" is "google", "cpc";
    "wbraid" is "google", "cpc";
    "dclid" is "google", "display";
    "msclkid" is "bing", "cpc";
    "yclid" is "yandex", "cpc";
    "ttclid" is "tiktok", "paid";
    "twclid" is "twitter", "paid";
    "li_fat_id" is "linkedin", "paid";
    "epik" is "pinterest", "paid";
    "rdt_cid" is "reddit", "paid";
    "sccid" is "snapchat", "paid";
    "irclickid" is "impact", "affiliate";
    "awc" is "awin", "affiliate";
    "fbclid" is "facebook", "referral";
};

impl<'t> Campaign<'t> {
    /// Reads the addresses of a page and of the one before. Where the address has no UTM parameters, properties of their
    /// names are taken for them. Only of a page view it means something that there is neither campaign nor referrer.
    pub(crate) fn read(
        url: &'t str,
        referrer: &'t str,
        properties: &Properties<'t>,
        is_page_view: bool,
        is_ignored: impl Fn(&str) -> bool,
    ) -> Self {
        let mut campaign = Self::default();
        let mut rest = memchr::memchr2(b'?', b'#', url.as_bytes()).map(|at| &url[at + 1..]);
        while let Some(text) = rest {
            let end = memchr::memchr3(b'?', b'#', b'&', text.as_bytes());
            campaign.take(&text[..end.unwrap_or(text.len())]);
            rest = end.map(|end| &text[end + 1..]);
        }
        for (name, value) in properties {
            if is_campaign(name) {
                campaign.set(name, value.clone());
            }
        }
        let host = host(referrer);
        let is_own = !host.is_empty() && (is_same_site(&host, &self::host(url)) || is_ignored(&host));
        let foreign = if is_own { "" } else { &*host };
        campaign.channel = campaign.channel(foreign, is_page_view && referrer.is_empty());
        if !is_own {
            campaign.referrer_host = host;
        }
        campaign
    }

    fn take(&mut self, parameter: &'t str) {
        // `&amp;`: an address as HTML writes it.
        let parameter = parameter.strip_prefix("amp;").unwrap_or(parameter);
        // Of most parameters the name alone is looked at.
        let is_utm = parameter.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("utm_"));
        let name = &parameter[..memchr::memchr(b'=', parameter.as_bytes()).unwrap_or(parameter.len())];
        let click_id = || CLICK_IDS.iter().find(|click_id| click_id.parameter.eq_ignore_ascii_case(name));
        if is_utm {
            if let Some((_, value)) = form_urlencoded::parse(parameter.as_bytes()).next() {
                self.set(name, decoded_again(value));
            }
        } else if name.eq_ignore_ascii_case("gad_source") {
            self.is_google_ad = true;
        } else if let Some(click_id) = click_id()
            && self.click_id_kind.is_empty()
            && let Some((_, value)) = form_urlencoded::parse(parameter.as_bytes()).next()
            && !value.is_empty()
        {
            self.click_id_kind = click_id.parameter;
            self.click_id = without_email(value);
        }
    }

    /// Of parameters that stand twice the first is meant.
    fn set(&mut self, name: &str, value: Cow<'t, str>) {
        let is = |known: &str, of_google: &str| name.eq_ignore_ascii_case(known) || name == of_google;
        let place = match () {
            () if is("utm_source", "campaign_source") => &mut self.source,
            () if is("utm_medium", "campaign_medium") => &mut self.medium,
            () if is("utm_campaign", "campaign_name") => &mut self.name,
            () if is("utm_term", "campaign_term") => &mut self.term,
            () if is("utm_content", "campaign_content") => &mut self.content,
            () if is("utm_id", "campaign_id") => &mut self.id,
            () => return,
        };
        if place.is_empty() {
            *place = without_email(value);
        }
    }

    /// UTM parameters were written by the shop, so they go before click ids, and these before the referrer. A campaign
    /// without source and medium has those of what is next.
    fn channel(&self, foreign_host: &str, is_direct: bool) -> &'static str {
        let kind =
            if self.is_google_ad && self.click_id_kind.is_empty() { "gclid" } else { self.click_id_kind };
        let click_id = CLICK_IDS.iter().find(|click_id| click_id.parameter == kind);
        let (source, medium) = match click_id {
            _ if !self.source.is_empty() && !self.medium.is_empty() => (&*self.source, &*self.medium),
            Some(click_id) => (
                if self.source.is_empty() { click_id.source } else { &self.source },
                if self.medium.is_empty() { click_id.medium } else { &self.medium },
            ),
            None if !self.source.is_empty() || !self.medium.is_empty() => (&*self.source, &*self.medium),
            None if !foreign_host.is_empty() => (foreign_host, "referral"),
            None if !self.name.is_empty() => ("", ""),
            None if is_direct => return channel::DIRECT,
            // A page that another of the shop's led to, or an event that does not say what led to it.
            None => return "",
        };
        channel::of(source, medium, &self.name)
    }
}

/// The names under which a campaign comes as a property: of its parameter, or Google's.
fn is_campaign(property: &str) -> bool {
    property.starts_with("utm_") || property.starts_with("campaign_")
}

/// A value that was encoded twice on its way: `summer%2520sale`.
fn decoded_again(value: Cow<'_, str>) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    let code = |at: usize| u8::from_str_radix(std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?, 16).ok();
    if !memchr::memchr_iter(b'%', bytes).any(|at| code(at).is_some()) {
        return value;
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = Some(bytes[at]).filter(|byte| *byte == b'%').and_then(|_| code(at));
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    // What is no text then was meant as it stands.
    String::from_utf8(decoded).map_or(value.clone(), Cow::Owned)
}

/// Newsletters put the reader's address there.
fn without_email(value: Cow<'_, str>) -> Cow<'_, str> {
    if has_email(&value) { EMAIL.into() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'t>(url: &'t str, referrer: &'t str) -> Campaign<'t> {
        Campaign::read(url, referrer, &Vec::new(), true, |host| is_same_site(host, "pay.example"))
    }

    fn check(url: &str, referrer: &str, channel: &str, referrer_host: &str) {
        let campaign = read(url, referrer);
        assert_eq!(
            (campaign.channel, &*campaign.referrer_host),
            (channel, referrer_host),
            "{url} from {referrer}"
        );
    }

    #[test]
    fn parameters_are_read_as_they_are_meant() {
        let campaign = read(
            "https://shop.example/a?utm_source=News+letter&UTM_MEDIUM=e%2Dmail&utm_campaign=%C3%A4&utm_term=t&utm_content=jo@mail.example&utm_id=7&utm_source=again&gclid=&fbclid=F&gclid=G",
            "",
        );
        assert_eq!(
            campaign,
            Campaign {
                source: "News letter".into(),
                medium: "e-mail".into(),
                name: "ä".into(),
                term: "t".into(),
                content: ":email".into(),
                id: "7".into(),
                click_id_kind: "fbclid",
                click_id: "F".into(),
                referrer_host: "".into(),
                channel: "Email",
                is_google_ad: false,
            }
        );
        assert_eq!(read("https://a.example/#/shop?utm_source=x", "").source, "x");
        assert_eq!(read("https://a.example/#utm_source=x", "").source, "x");
        let properties = vec![("utm_source", "app".into()), ("utm_other", "x".into())];
        let from = |url| Campaign::read(url, "", &properties, true, |_| false).source.into_owned();
        assert_eq!((from(""), from("https://a.example/?utm_source=x")), ("app".into(), "x".into()));
    }

    #[test]
    fn visits_are_told_by_what_led_to_them() {
        let page = "https://shop.example/";
        check(page, "", "Direct", "");
        check(page, "https://www.shop.example/other", "", "");
        check("https://www.shop.example/", "https://checkout.shop.example/", "", "");
        check(page, "https://pay.example/done", "", "");
        check(page, "https://notshop.example/", "Referral", "notshop.example");
        check(page, "https://www.Google.co.uk/", "Organic Search", "google.co.uk");
        check(
            page,
            "android-app://com.google.android.googlequicksearchbox/",
            "Organic Search",
            "com.google.android.googlequicksearchbox",
        );
        check(page, "https://l.instagram.com/", "Organic Social", "l.instagram.com");
        check(page, "https://blog.example:8080/a", "Referral", "blog.example");
        check("https://shop.example/?gclid=1", "https://www.google.com/", "Paid Search", "google.com");
        check("https://shop.example/?gclid=1", "", "Paid Search", "");
        check("https://shop.example/?fbclid=1", "", "Organic Social", "");
        check("https://shop.example/?fbclid=1&utm_source=facebook&utm_medium=cpc", "", "Paid Social", "");
        check("https://shop.example/?ttclid=1", "", "Paid Social", "");
        check("https://shop.example/?msclkid=1&utm_source=bing", "", "Paid Search", "");
        check("https://shop.example/?dclid=1", "", "Display", "");
        check("https://shop.example/?awc=1", "", "Affiliates", "");
        // What the shop wrote itself beats where the browser came from.
        check(
            "https://shop.example/?utm_source=mail&utm_medium=email",
            "https://mail.google.com/",
            "Email",
            "mail.google.com",
        );
        check("https://shop.example/?utm_source=anything", "https://shop.example/", "Unassigned", "");
        check("https://shop.example/?utm_campaign=alone", "", "Unassigned", "");
        check("https://shop.example/?utm_campaign=Cross-network", "", "Cross-network", "");
        check(
            "https://shop.example/?utm_campaign=alone",
            "https://www.bing.com/",
            "Organic Search",
            "bing.com",
        );
    }

    #[test]
    fn sites_are_found_as_googles_list_has_them() {
        let page = "https://shop.example/";
        for (referrer, channel) in [
            ("https://www.pinterest.de/", "Organic Social"),
            ("https://lens.google.com/", "Organic Search"),
            ("https://news.google.com/", "Organic Search"),
            ("https://shopping.yahoo.com/", "Organic Shopping"),
            ("https://m.naver.com/", "Organic Search"),
            ("android-app://com.google.android.gm/", "Email"),
            ("android-app://com.linkedin.android", "Organic Social"),
            ("ios-app://389801252/https/instagram.com", "Organic Social"),
            ("https://chatgpt.com/", "AI Assistants"),
            ("https://www.perplexity.ai/search", "AI Assistants"),
            ("https://gemini.google.com/app", "AI Assistants"),
        ] {
            assert_eq!(read(page, referrer).channel, channel, "{referrer}");
        }
        assert_eq!(read("https://shop.example/?utm_source=chatgpt.com", "").channel, "AI Assistants");
    }

    #[test]
    fn addresses_of_ones_own_are_no_source() {
        check("https://shop.brand.com/", "https://blog.brand.com/", "", "");
        check("https://shop.brand.co.uk/", "https://www.brand.co.uk/", "", "");
        check("https://shop.co.uk/", "https://other.co.uk/", "Referral", "other.co.uk");
        check("https://one.myshopify.com/", "https://two.myshopify.com/", "Referral", "two.myshopify.com");
    }

    #[test]
    fn an_event_without_referrer_says_nothing() {
        let channel = |url, referrer| Campaign::read(url, referrer, &Vec::new(), false, |_| false).channel;
        assert_eq!(channel("https://shop.example/thanks", ""), "");
        assert_eq!(channel("", ""), "");
        assert_eq!(channel("https://shop.example/thanks", "https://www.google.com/"), "Organic Search");
        assert_eq!(channel("https://shop.example/?utm_source=news&utm_medium=email", ""), "Email");
    }

    #[test]
    fn campaigns_beside_the_address_count_like_those_in_it() {
        for (source, medium, name) in [
            ("utm_source", "utm_medium", "utm_campaign"),
            ("campaign_source", "campaign_medium", "campaign_name"),
        ] {
            let told = vec![(source, "newsletter".into()), (medium, "email".into()), (name, "Autumn".into())];
            for url in ["", "https://shop.example/"] {
                let campaign = Campaign::read(url, "", &told, true, |_| false);
                assert_eq!(
                    (campaign.channel, &*campaign.source, &*campaign.name),
                    ("Email", "newsletter", "Autumn")
                );
            }
        }
    }

    #[test]
    fn addresses_that_were_escaped_on_their_way_are_read() {
        let page = "https://shop.example/?a=1&amp;utm_source=news&amp;utm_medium=email&amp;utm_campaign=Summer%2520sale%252B";
        let campaign = read(page, "");
        assert_eq!(
            (&*campaign.source, &*campaign.medium, &*campaign.name),
            ("news", "email", "Summer sale+")
        );
        for (sent, kept) in
            [("100%25+wool", "100% wool"), ("%25zz", "%zz"), ("a%25FF", "a%FF"), ("%25C3%25A4", "ä")]
        {
            assert_eq!(read(&format!("https://shop.example/?utm_term={sent}"), "").term, kept);
        }
        check("https://shop.example/?gad_source=1", "https://www.google.com/", "Paid Search", "google.com");
        check("https://shop.example/?gad_source=1&utm_source=news&utm_medium=email", "", "Email", "");
        assert_eq!(read("https://shop.example/?gad_source=1&gclid=G", "").click_id_kind, "gclid");
    }
}
