//! Step `url`: addresses without what must not reach the log.
//!
//! * Of the parameters those on a list stay, in their order; all others go: sessions, tokens, names, whatever a form adds.
//! * `user:password@` goes, the fragment goes (unless it is the route of a single-page application), `;parameters` of path
//!   segments go.
//! * A path segment or value that holds an email address becomes `:email`; a path segment that can only be a secret
//!   ([`super::secret`] says which) becomes `:token`, and so does such a part of a value, unless it is a campaign's. Of a
//!   value that holds an address with parameters of its own, these go.
//!
//! What is left is left as it is: nothing is decoded, ordered or put into lower case. Done again, it changes nothing. It
//! is a function of the text alone, so an event that is sent again says the same.

use std::{borrow::Cow, collections::HashSet};

use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use super::secret::{Context, Judge, TOKEN_BYTES_MIN, is_jwt, is_token, segments};

/// Parameters that stay, unless a setting says otherwise: campaigns and click ids; what a page shows, as page numbers,
/// searches, filters and sorting; and ids by which shops without speaking addresses name their pages.
pub(crate) const PARAMETERS: &str = "utm_*,gclid,gbraid,wbraid,dclid,gad_source,gad_campaignid,fbclid,msclkid,ttclid,twclid,\
    li_fat_id,yclid,epik,rdt_cid,sccid,irclickid,awc,srsltid,ref,source,page,paged,p,offset,per_page,q,query,s,search,\
    search_query,keyword,keywords,sort,sort_by,order_by,orderby,dir,view,filter,filter.*,category,category_id,cat,\
    collection,brand,color,colour,size,variant,variation,sku,product,product_id,item_id,id,page_id,post,route,path,tab,\
    lang,language,locale,country,currency";

/// Stands for an email address.
pub(crate) const EMAIL: &str = ":email";
/// Stands for a token.
const TOKEN: &str = ":token";

/// A longer name stays only if its beginning is listed.
const NAME_BYTES_MAX: usize = 64;

/// Parameters of campaigns that bring long random texts by their nature, which say who sent a visitor and open nothing.
const CAMPAIGNS: [&str; 21] = [
    "awc",
    "dclid",
    "epik",
    "fbclid",
    "gad_campaignid",
    "gad_source",
    "gbraid",
    "gclid",
    "irclickid",
    "li_fat_id",
    "msclkid",
    "rdt_cid",
    "sccid",
    "srsltid",
    "ttclid",
    "twclid",
    "utm_campaign",
    "utm_content",
    "utm_id",
    "wbraid",
    "yclid",
];

/// What stays of an address.
#[derive(Clone, Debug)]
pub(crate) struct UrlRules {
    /// In lower case.
    names: HashSet<Box<[u8]>, Xxh3DefaultBuilder>,
    prefixes: Vec<Box<str>>,
    keeps_routes: bool,
}

impl UrlRules {
    /// Rules from a list of parameters' names, of which one that ends in `*` stands for all that begin so.
    pub(crate) fn new<'n>(parameters: impl IntoIterator<Item = &'n str>, keeps_routes: bool) -> Self {
        let mut rules = Self { names: HashSet::default(), prefixes: Vec::new(), keeps_routes };
        for name in parameters {
            let name = name.trim().to_ascii_lowercase();
            match name.strip_suffix('*') {
                Some(prefix) => rules.prefixes.push(prefix.into()),
                None if name.is_empty() => {}
                None => drop(rules.names.insert(name.into_bytes().into())),
            }
        }
        rules
    }

    /// The address without what must not be kept.
    pub(crate) fn normalise<'u>(&self, url: &'u str) -> Cow<'u, str> {
        let Look { is_path, may_hide } = Look::at(url);
        if is_path && !(may_hide && has_secret(path(url))) {
            return Cow::Borrowed(url);
        }
        let mut out = String::with_capacity(url.len());
        // Looked for once: of most addresses no part is then looked at again.
        let may_have_email = memchr::memchr2(b'@', b'%', url.as_bytes()).is_some();
        let has_email = |text: &str| may_have_email && has_email(text);
        let scheme = scheme(url);
        let rest = match scheme {
            None => url,
            Some(end) => {
                let (start, rest) = url.split_at(end);
                out.push_str(start);
                let authority_end = rest.bytes().position(|byte| matches!(byte, b'/' | b'\\' | b'?' | b'#'));
                let (authority, rest) = rest.split_at(authority_end.unwrap_or(rest.len()));
                let host = authority.rsplit('@').next().unwrap_or_default();
                out.push_str(if has_email(host) { EMAIL } else { host });
                rest
            }
        };
        let (rest, fragment) = cut(rest, b'#');
        self.push_path_and_query(&mut out, rest, scheme.is_some(), may_hide, has_email);
        if let Some(route) = fragment.filter(|fragment| self.keeps_routes && is_route(fragment)) {
            out.push('#');
            self.push_path_and_query(&mut out, cut(route, b'#').0, true, may_hide, has_email);
        }
        // What stood before a part that went; the whole has no blanks around it, either.
        out.truncate(out.trim_end().len());
        Cow::Owned(out)
    }

    /// The value of a property: an address, or a text with addresses in it, such as the stack of an error.
    pub(crate) fn normalise_value<'u>(&self, value: &'u str) -> Cow<'u, str> {
        if is_address(value) { self.normalise(value) } else { self.normalise_within(value) }
    }

    /// A text with its addresses normalised, and all that stands around them as it was.
    fn normalise_within<'u>(&self, text: &'u str) -> Cow<'u, str> {
        let mut out = String::new();
        let (mut copied, mut seen) = (0, 0);
        for mark in memchr::memmem::find_iter(text.as_bytes(), "://") {
            if mark < seen {
                continue;
            }
            let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
            let scheme = text.as_bytes()[seen..mark].iter().rev().take_while(|byte| is_scheme(byte)).count();
            let start = mark - scheme;
            let is_end = |at: char| at.is_whitespace() || at.is_control() || "()<>[]{}\"'`|".contains(at);
            let end = text[mark..].find(is_end).map_or(text.len(), |length| mark + length);
            // Each byte is looked at once: an address ends before the next may begin.
            seen = end;
            if let Cow::Owned(clean) = self.normalise(&text[start..end]) {
                out.push_str(&text[copied..start]);
                out.push_str(&clean);
                copied = end;
            }
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[copied..]);
        Cow::Owned(out)
    }

    /// A text for people, such as a title, without the emails, secrets and addresses that stand between its blanks.
    pub(crate) fn normalise_text<'u>(&self, text: &'u str) -> Cow<'u, str> {
        let clean = |word: &'u str| match word {
            _ if is_address(word) => self.normalise(word),
            _ if has_email(word) => Cow::Borrowed(EMAIL),
            _ if is_token(word) => Cow::Borrowed(TOKEN),
            _ => Cow::Borrowed(word),
        };
        let bytes = text.as_bytes();
        let may_hold = memchr::memchr3(b'@', b'%', b'/', bytes).is_some() || has_long_word(bytes);
        if !may_hold || text.split(' ').all(|word| matches!(clean(word), Cow::Borrowed(same) if same == word))
        {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        for (number, word) in text.split(' ').enumerate() {
            if number > 0 {
                out.push(' ');
            }
            out.push_str(&clean(word));
        }
        Cow::Owned(out)
    }

    fn push_path_and_query(
        &self,
        out: &mut String,
        text: &str,
        has_authority: bool,
        may_hide: bool,
        has_email: impl Fn(&str) -> bool + Copy,
    ) {
        let (path, query) = cut(text, b'?');
        let mut judge = Judge::new(path);
        for (start, segment, end) in segments(path) {
            // Of what has no authority nothing is cut that could leave one behind.
            let segment = if has_authority { cut(segment, b';').0 } else { segment };
            out.push_str(match segment {
                _ if has_email(segment) => EMAIL,
                _ if may_hide && judge.is_secret(start, segment) => TOKEN,
                _ => segment,
            });
            out.push_str(end);
        }
        let mut separator = '?';
        for parameter in query.unwrap_or_default().split('&') {
            let (name, value) = cut(parameter, b'=');
            if !self.allows(name) || has_email(name) {
                continue;
            }
            out.push(separator);
            separator = '&';
            out.push_str(name);
            if let Some(value) = value.map(without_query) {
                out.push('=');
                match value {
                    _ if has_email(value) => out.push_str(EMAIL),
                    _ if !may_hide => out.push_str(value),
                    _ if is_jwt(value) => out.push_str(TOKEN),
                    _ if is_campaign(name) => out.push_str(value),
                    _ => push_value(out, value, judge.context_at(path.len())),
                }
            }
        }
    }

    fn allows(&self, name: &str) -> bool {
        let starts_with = |prefix: &str| {
            name.as_bytes()
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        let is_listed = || {
            let mut lower = [0; NAME_BYTES_MAX];
            lower.get_mut(..name.len()).is_some_and(|lower| {
                lower.copy_from_slice(name.as_bytes());
                lower.make_ascii_lowercase();
                self.names.contains(&*lower)
            })
        };
        // A mistaken second `?` would bring another parameter in under the first one's name.
        let is_name =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'[' | b']');
        !name.is_empty()
            && (is_listed()
                || name.bytes().all(is_name) && self.prefixes.iter().any(|prefix| starts_with(prefix)))
    }
}

/// What a first look at an address finds. Most have a path alone, and nothing in it that could have to go: they are not
/// copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// No parameters, fragment or user, and nothing that is encoded.
    is_path: bool,
    /// Letters and digits somewhere that may be a secret.
    may_hide: bool,
}

const LOWER: u8 = 1;
const UPPER: u8 = 2;
const DIGIT: u8 = 4;
const SEPARATOR: u8 = 8;
const SPECIAL: u8 = 16;
const AMPERSAND: u8 = 32;

/// Of each byte, what it is to the first look.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        kinds[byte as usize] = match byte {
            b'a'..=b'z' => LOWER,
            b'A'..=b'Z' => UPPER,
            b'0'..=b'9' => DIGIT,
            b'/' | b'\\' => SEPARATOR,
            b'&' => AMPERSAND,
            b'?' | b'#' | b'@' | b'%' | b';' => SPECIAL,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

impl Look {
    /// Sees more secrets than there are, and misses none: letters and digits in one run, two capitals, long runs and
    /// long segments.
    #[inline]
    fn at(text: &str) -> Self {
        let (mut segment, mut run, mut kinds, mut capitals) = (0_usize, 0_usize, 0_u8, 0_usize);
        let (mut may_hide, mut is_path) = (false, true);
        for byte in text.bytes() {
            let kind = KINDS[byte as usize];
            segment += 1;
            if kind & (LOWER | UPPER | DIGIT) != 0 {
                run += 1;
                kinds |= kind;
                capitals += usize::from(kind == UPPER);
                continue;
            }
            may_hide |= is_striking(run, kinds, capitals);
            (run, kinds, capitals) = (0, 0, 0);
            is_path &= kind != SPECIAL;
            // Behind these another segment begins, or another parameter.
            let is_end = match kind {
                SEPARATOR => true,
                SPECIAL => matches!(byte, b'?' | b'#'),
                AMPERSAND => !is_path,
                _ => false,
            };
            if is_end {
                may_hide |= segment > TOKEN_BYTES_MIN;
                segment = 0;
            }
        }
        may_hide |= is_striking(run, kinds, capitals) || segment >= TOKEN_BYTES_MIN;
        Self { is_path, may_hide }
    }
}

#[inline]
fn is_striking(run: usize, kinds: u8, capitals: usize) -> bool {
    const LONG: usize = 28;
    (run >= 4 && kinds & DIGIT != 0 && kinds & (LOWER | UPPER) != 0) || capitals > 1 || run >= LONG
}

/// Whether words stand in a text that are as long as tokens.
fn has_long_word(text: &[u8]) -> bool {
    let mut word = 0;
    text.iter().any(|byte| {
        word = if *byte == b' ' { 0 } else { word + 1 };
        word >= TOKEN_BYTES_MIN
    })
}

/// The path of an address that has nothing behind it.
fn path(url: &str) -> &str {
    let Some(start) = scheme(url) else { return url };
    let rest = &url[start..];
    memchr::memchr2(b'/', b'\\', rest.as_bytes()).map_or("", |at| &rest[at..])
}

fn has_secret(path: &str) -> bool {
    let mut judge = Judge::new(path);
    segments(path).any(|(start, segment, _)| judge.is_secret(start, segment))
}

/// Whether a parameter's value is what an advertiser made of it.
fn is_campaign(name: &str) -> bool {
    name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("utm_"))
        || CAMPAIGNS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// A value, which may be a path.
fn push_value(out: &mut String, value: &str, context: Context) {
    let mut judge = Judge::within(value, context);
    for (start, segment, end) in segments(value) {
        out.push_str(if judge.is_secret(start, segment) { TOKEN } else { segment });
        out.push_str(end);
    }
}

/// Where the authority of an address begins that has one.
fn scheme(url: &str) -> Option<usize> {
    // The first colon, or none: no scheme has one.
    let end = memchr::memchr(b':', url.as_bytes())?;
    let is_scheme = url.as_bytes().first()?.is_ascii_alphabetic()
        && url[..end].bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    (is_scheme && url[end..].starts_with("://")).then_some(end + 3)
}

/// Whether a text is an address: with a scheme, or from the root of its site.
fn is_address(text: &str) -> bool {
    let is = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    match text.as_bytes().first() {
        Some(b'/') => memchr::memchr(b' ', text.as_bytes()).is_none(),
        Some(b'h' | b'H') => is("http://") || is("https://"),
        Some(b'm' | b'M') => is("mailto:"),
        _ => false,
    }
}

/// Whether a fragment is the route of a single-page application.
fn is_route(fragment: &str) -> bool {
    fragment.starts_with('/') || fragment.starts_with("!/")
}

/// A text before and behind the first of an ASCII character.
fn cut(text: &str, at: u8) -> (&str, Option<&str>) {
    memchr::memchr(at, text.as_bytes()).map_or((text, None), |end| (&text[..end], Some(&text[end + 1..])))
}

/// A value without the parameters of an address inside it.
fn without_query(value: &str) -> &str {
    let bytes = value.as_bytes();
    let end = memchr::memchr2_iter(b'?', b'%', bytes).find(|at| {
        bytes[*at] == b'?' || bytes[at + 1..].get(..2).is_some_and(|code| code.eq_ignore_ascii_case(b"3f"))
    });
    end.map_or(value, |end| &value[..end])
}

/// Whether an email address stands in a text, also in one that is percent-encoded, once or more.
pub(crate) fn has_email(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr2_iter(b'@', b'%', bytes).any(|at| {
        let after = if bytes[at] == b'@' {
            Some(&bytes[at + 1..])
        } else {
            let mut rest = &bytes[at + 1..];
            while let Some(inner) = rest.strip_prefix(b"25") {
                rest = inner;
            }
            rest.strip_prefix(b"40")
        };
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'-' | b'.');
        let Some(after) = after else { return false };
        let is_named = at > 0 && (is_part(bytes[at - 1]) || b"_+~'!$*^`{|}".contains(&bytes[at - 1]));
        let end = after.iter().position(|byte| !is_part(*byte)).unwrap_or(after.len());
        // A dot with two letters behind it: of `a@1.2.3` nothing is.
        let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte >= 0x80;
        is_named && after[..end].windows(3).any(|part| part[0] == b'.' && part[1..].iter().all(is_letter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> UrlRules {
        UrlRules::new(PARAMETERS.split(','), false)
    }

    fn with_routes() -> UrlRules {
        UrlRules::new(PARAMETERS.split(','), true)
    }

    #[test]
    fn what_must_not_be_kept_goes() {
        let token = "aB3".repeat(12);
        for (url, expected) in [
            ("https://shop.example/a/b", "https://shop.example/a/b"),
            (
                "https://shop.example/a?utm_source=x&session=1&q=b+c&PAGE=2",
                "https://shop.example/a?utm_source=x&q=b+c&PAGE=2",
            ),
            ("https://shop.example/a?token=1", "https://shop.example/a"),
            ("https://shop.example/a?&&q&sid=1", "https://shop.example/a?q"),
            ("https://shop.example/a?utm_source?token=1&page=2", "https://shop.example/a?page=2"),
            ("https://jo:secret@shop.example:8443/a", "https://shop.example:8443/a"),
            ("https://jo@shop.example", "https://shop.example"),
            ("https://shop.example/u/jo.doe+x@mail.example/orders", "https://shop.example/u/:email/orders"),
            ("https://shop.example/u/jo%40mail.example", "https://shop.example/u/:email"),
            ("https://shop.example/u/jo%2540mail.example", "https://shop.example/u/:email"),
            ("https://shop.example/?q=jo@mail.example&page=2", "https://shop.example/?q=:email&page=2"),
            ("https://shop.example/@jo/list", "https://shop.example/@jo/list"),
            ("https://shop.example/react@18.2.0", "https://shop.example/react@18.2.0"),
            ("https://shop.example/a;jsessionid=12/b;c=d?q=1;2", "https://shop.example/a/b?q=1;2"),
            (
                "https://shop.example/?route=%2Fa%3ftoken=1&path=/b?token=1&q=what?",
                "https://shop.example/?route=%2Fa&path=/b&q=what",
            ),
            ("https://shop.example/a#access_token=1", "https://shop.example/a"),
            ("https://shop.example/a#/cart?token=1", "https://shop.example/a"),
            (
                "https://shop.example/my-very-long-name-of-a-product-with-2-sizes-and-more",
                "https://shop.example/my-very-long-name-of-a-product-with-2-sizes-and-more",
            ),
            (
                "https://shop.example/0190b8f0-7b6a-7cc0-98d5-000000000000",
                "https://shop.example/0190b8f0-7b6a-7cc0-98d5-000000000000",
            ),
            (
                "https://shop.example/?gclid=aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3",
                "https://shop.example/?gclid=aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3",
            ),
            (&format!("https://shop.example/reset/{token}"), "https://shop.example/reset/:token"),
            (&format!("https://shop.example/{}", "0af9".repeat(10)), "https://shop.example/:token"),
            (&format!("https://shop.example/?q=eyJ{token}.b.c"), "https://shop.example/?q=:token"),
            ("android-app://com.example/", "android-app://com.example/"),
            ("mailto:jo@mail.example", ":email"),
            ("jo@mail.example", ":email"),
            ("", ""),
        ] {
            assert_eq!(rules().normalise(url), expected, "{url}");
        }
    }

    #[test]
    fn secrets_in_the_links_of_many_systems_go() {
        let (mut systems, mut wrong) = (0, Vec::new());
        for line in include_str!("data/secret_links.tsv").lines().filter(|line| !line.starts_with('#')) {
            let [system, link, kept] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let found = rules().normalise(link);
            if found != kept {
                wrong.push(format!("{system}: {found}, not {kept}"));
                continue;
            }
            let referrer = rules().normalise_value(link);
            assert_eq!(referrer, kept, "{system}, as a property");
            let title = format!("{link} – Shop");
            assert_eq!(rules().normalise_text(&title), format!("{kept} – Shop"), "{system}, in a title");
            // The same as a route of a single-page application.
            let host = link
                .find("//")
                .and_then(|at| link[at + 2..].find(['/', '\\']).map(|end| at + 2 + end))
                .unwrap();
            if !link.contains('#') && link[host..].starts_with('/') {
                let route = |text: &str| format!("https://app.example/#{}", &text[host..]);
                assert_eq!(with_routes().normalise(&route(link)), route(kept), "{system}, as a route");
            }
            systems += 1;
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(systems >= 80, "{systems}");
    }

    #[test]
    fn ordinary_addresses_stay() {
        let mut addresses = 0;
        for line in include_str!("data/ordinary_addresses.txt").lines().filter(|line| !line.starts_with('#'))
        {
            let address = format!("https://shop.example{line}");
            assert_eq!(rules().normalise(&address), address);
            addresses += 1;
        }
        assert!(addresses >= 80, "{addresses}");
    }

    #[test]
    fn texts_keep_their_words() {
        let token = "0f2d1c3b".repeat(4);
        for (text, expected) in [
            ("Order 1001 – Shop", "Order 1001 – Shop"),
            ("50% off / today  only @ Shop", "50% off / today  only @ Shop"),
            ("Inbox (3) - jo@mail.example - Mail", "Inbox (3) - :email - Mail"),
            ("https://shop.example/reset/a8f3k2?x=1", "https://shop.example/reset/:token"),
            (&format!("Invoice {token} paid"), "Invoice :token paid"),
            (&format!("/orders/{token}"), "/orders/:token"),
            (&"word-".repeat(20), &"word-".repeat(20)),
            ("", ""),
        ] {
            assert_eq!(rules().normalise_text(text), expected);
        }
    }

    /// A hostile address of many segments costs what its length costs.
    #[test]
    fn every_segment_is_read_once_as_a_word() {
        let url = format!("https://a.example{}", "/a1b2c3".repeat(100_000));
        assert_eq!(rules().normalise(&url), url);
    }

    #[test]
    fn routes_stay_where_they_are_wanted() {
        for (url, expected) in [
            ("https://a.example/#/cart?token=1&q=2", "https://a.example/#/cart?q=2"),
            ("https://a.example/?sid=1#!/u/jo@mail.example#x", "https://a.example/#!/u/:email"),
            ("https://a.example/#top", "https://a.example/"),
        ] {
            assert_eq!(with_routes().normalise(url), expected);
        }
    }

    #[test]
    fn what_needs_no_change_is_not_copied() {
        assert!(matches!(rules().normalise("https://shop.example/product/blue-shirt"), Cow::Borrowed(_)));
    }

    #[test]
    fn properties_that_are_addresses_are_addresses() {
        assert_eq!(rules().normalise_value("https://a.example/?token=1"), "https://a.example/");
        assert_eq!(rules().normalise_value("MAILTO:jo@mail.example"), ":email");
        assert_eq!(rules().normalise_value("a?token=1"), "a?token=1");
    }

    #[test]
    fn addresses_inside_properties_are_addresses() {
        let stack = "Error: no (https://shop.example/reset/MQ/5xy-1a2b3c4d5e6f7a8b9c0d/?utm_source=a)\n    \
                     at f (https://jo:pw@shop.example/app.js?token=1:10:5)\n    at webpack://./src/a.ts:3:1\n://";
        let clean = rules().normalise_value(stack).into_owned();
        for gone in ["5xy", "jo:pw", "token=1"] {
            assert!(!clean.contains(gone), "{gone} in {clean}");
        }
        for kept in [
            "Error: no (https://shop.example/reset/",
            ")\n    at f (https://shop.example/app.js",
            "webpack://./src/a.ts:3:1\n://",
        ] {
            assert!(clean.contains(kept), "{kept} not in {clean}");
        }
        // Whatever looked at the rest anew for each mark would take minutes here.
        let marks = format!("x {}", "a://".repeat(1 << 16));
        assert!(rules().normalise_value(&marks).len() <= marks.len());
        let plain = "no address: a://, ://b and 1 / 2";
        assert!(matches!(rules().normalise_value(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn the_list_is_the_operators() {
        let own = UrlRules::new(["Keep", " x_* ", ""], false);
        assert_eq!(
            own.normalise("https://a.example/?keep=1&X_y=2&q=3&=4"),
            "https://a.example/?keep=1&X_y=2"
        );
        let all = UrlRules::new(["*"], false);
        assert_eq!(all.normalise("https://a.example/?a=1&b=c@d.example"), "https://a.example/?a=1&b=:email");
        assert_eq!(UrlRules::new([""], false).normalise("https://a.example/?q=1"), "https://a.example/");
    }

    /// An address with what must not be kept at places where it may stand.
    fn dirty_url() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            "[a-z0-9]{0,6}",
            Just("jo.doe@mail.example".to_owned()),
            Just("jo%40mail.example".to_owned()),
            Just("q=1".to_owned()),
            Just("/orders/".to_owned()),
            Just("reset".to_owned()),
            Just("product/".to_owned()),
            Just("0f2d1c3b".repeat(4)),
            Just("%2F".to_owned()),
            "[A-Za-z0-9_-]{12,40}",
            Just("secret_token=s3cr3t".to_owned()),
            "[/?#&=;@%:\\\\.]{1,2}",
            "\\PC{0,3}",
        ];
        proptest::collection::vec(part, 0..12)
            .prop_map(|parts| format!("https://shop.example/{}", parts.concat()))
    }

    proptest! {
        #[test]
        fn done_again_it_changes_nothing(url in prop_oneof![dirty_url(), "\\PC{0,60}"]) {
            for rules in [rules(), with_routes(), UrlRules::new(["*"], true)] {
                let once = rules.normalise(&url).into_owned();
                prop_assert_eq!(&rules.normalise(&once), &once);
                let text = rules.normalise_text(&url).into_owned();
                prop_assert_eq!(&rules.normalise_text(&text), &text);
            }
        }

        /// A first look sees whatever a second would change.
        #[test]
        fn nothing_is_missed_at_first_sight(path in "(/(reset|orders|product|[a-zA-Z0-9._-]{1,40})){1,4}") {
            if !Look::at(&path).may_hide {
                prop_assert!(!has_secret(&path), "{}", path);
            }
        }

        /// Nor anywhere in an address.
        #[test]
        fn a_first_look_changes_nothing(url in dirty_url()) {
            for rules in [rules(), with_routes(), UrlRules::new(["*"], true)] {
                // What is striking at its end is looked at whole.
                let looked_at = format!("{url}#a1B2");
                let clean = rules.normalise(&url);
                let expected = rules.normalise(&looked_at);
                if !url.contains('#') {
                    prop_assert_eq!(clean, expected);
                }
            }
        }

        #[test]
        fn neither_addresses_nor_parameters_are_left(url in dirty_url()) {
            for rules in [rules(), with_routes()] {
                let clean = rules.normalise(&url);
                prop_assert!(!has_email(&clean), "{}", clean);
                let parameters = clean.split(['?', '#']).skip(1).flat_map(|query| query.split('&'));
                prop_assert!(parameters.clone().all(|parameter| !parameter.starts_with("secret_token")), "{}", clean);
            }
        }
    }
}
