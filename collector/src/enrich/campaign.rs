//! Step `campaign`: what brought a visitor to a page: UTM parameters, an advertiser's click id, the referrer's host. It reads
//! the addresses as they were sent, before parameters go from them.

use std::borrow::Cow;

use millrace_schemas::row::Properties;

use super::{
    channel,
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
    /// names are taken for them.
    pub(crate) fn read(
        url: &'t str,
        referrer: &'t str,
        properties: &Properties<'t>,
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
            if name.starts_with("utm_") {
                campaign.set(name, value.clone());
            }
        }
        let host = host(referrer);
        let page_host = self::host(url);
        let is_own = is_same_site(&host, &page_host) || is_ignored(&host);
        if !url.is_empty() || !referrer.is_empty() {
            let foreign = if is_own { "" } else { &*host };
            campaign.channel = campaign.channel(foreign, !referrer.is_empty());
        }
        if !is_own {
            campaign.referrer_host = host;
        }
        campaign
    }

    fn take(&mut self, parameter: &'t str) {
        // Of most parameters the name alone is looked at.
        let is_utm = parameter.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("utm_"));
        let name = &parameter[..memchr::memchr(b'=', parameter.as_bytes()).unwrap_or(parameter.len())];
        let click_id = || CLICK_IDS.iter().find(|click_id| click_id.parameter.eq_ignore_ascii_case(name));
        if is_utm {
            if let Some((_, value)) = form_urlencoded::parse(parameter.as_bytes()).next() {
                self.set(name, value);
            }
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
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let place = match () {
            () if is("utm_source") => &mut self.source,
            () if is("utm_medium") => &mut self.medium,
            () if is("utm_campaign") => &mut self.name,
            () if is("utm_term") => &mut self.term,
            () if is("utm_content") => &mut self.content,
            () if is("utm_id") => &mut self.id,
            () => return,
        };
        if place.is_empty() {
            *place = without_email(value);
        }
    }

    /// UTM parameters were written by the shop, so they go before click ids, and these before the referrer.
    fn channel(&self, foreign_host: &str, has_referrer: bool) -> &'static str {
        let click_id = CLICK_IDS.iter().find(|click_id| click_id.parameter == self.click_id_kind);
        let (source, medium) = match click_id {
            _ if !self.source.is_empty() && !self.medium.is_empty() => (&*self.source, &*self.medium),
            Some(click_id) => (
                if self.source.is_empty() { click_id.source } else { &self.source },
                if self.medium.is_empty() { click_id.medium } else { &self.medium },
            ),
            None if !self.source.is_empty() || !self.medium.is_empty() => (&*self.source, &*self.medium),
            None if !foreign_host.is_empty() => (foreign_host, "referral"),
            // A page that another of the shop's led to.
            None if has_referrer => return "",
            None => return channel::DIRECT,
        };
        channel::of(source, medium, &self.name)
    }
}

/// Newsletters put the reader's address there.
fn without_email(value: Cow<'_, str>) -> Cow<'_, str> {
    if has_email(&value) { EMAIL.into() } else { value }
}

/// The host of an address, in lower case, without `www.` and the port.
pub(crate) fn host(url: &str) -> Cow<'_, str> {
    let Some((_, rest)) = url.split_once("://") else { return "".into() };
    let end = rest.bytes().position(|byte| matches!(byte, b'/' | b'?' | b'#' | b'\\')).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = memchr::memrchr(b'@', authority.as_bytes()).map_or(authority, |at| &authority[at + 1..]);
    let host = match host.rsplit_once(':') {
        // An IPv6 address has colons of its own, in brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_www = host.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("www."));
    let host = if is_www { &host[4..] } else { host };
    if has_email(host) {
        EMAIL.into()
    } else if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        host.to_ascii_lowercase().into()
    } else {
        host.into()
    }
}

/// Whether one host is the other, or below it.
pub(crate) fn is_same_site(one: &str, other: &str) -> bool {
    let is_below = |inner: &str, outer: &str| {
        inner.strip_suffix(outer).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !one.is_empty() && !other.is_empty() && (is_below(one, other) || is_below(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'t>(url: &'t str, referrer: &'t str) -> Campaign<'t> {
        Campaign::read(url, referrer, &Vec::new(), |host| is_same_site(host, "pay.example"))
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
            }
        );
        assert_eq!(read("https://a.example/#/shop?utm_source=x", "").source, "x");
        assert_eq!(read("https://a.example/#utm_source=x", "").source, "x");
        let properties = vec![("utm_source", "app".into()), ("utm_other", "x".into())];
        let from = |url| Campaign::read(url, "", &properties, |_| false).source.into_owned();
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
        check("https://shop.example/?utm_campaign=alone", "", "Direct", "");
        check("", "", "", "");
    }

    #[test]
    fn hosts_are_found() {
        for (url, expected) in [
            ("https://WWW.Shop.example:8443/a", "shop.example"),
            ("https://jo@shop.example?x", "shop.example"),
            ("https://[2001:db8::1]:80/", "[2001:db8::1]"),
            ("https://[2001:db8::1]/", "[2001:db8::1]"),
            ("/relative", ""),
            ("https://", ""),
        ] {
            assert_eq!(host(url), expected);
        }
    }
}
