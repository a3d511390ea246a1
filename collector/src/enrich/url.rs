//! Step `url`: addresses without what must not reach the log.
//!
//! * Of the parameters those on a list stay, in their order; all others go: sessions, tokens, names, whatever a form adds.
//! * `user:password@` goes, the fragment goes (unless it is the route of a single-page application), `;parameters` of path
//!   segments go.
//! * A path segment or value that holds an email address becomes `:email`; a path segment that can only be a token (a JWT,
//!   40 or more hexadecimal digits, or 32 or more letters of both cases with digits) becomes `:token`. Of a value that
//!   holds an address with parameters of its own, these go.
//!
//! What is left is left as it is: nothing is decoded, ordered or put into lower case. Done again, it changes nothing.

use std::borrow::Cow;

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

/// Shorter path segments are no tokens.
const TOKEN_BYTES_MIN: usize = 32;
/// From so many hexadecimal digits on: a UUID without hyphens has 32.
const DIGITS_MIN: usize = 40;

/// What stays of an address.
#[derive(Clone, Debug)]
pub(crate) struct UrlRules {
    /// In order, in lower case.
    names: Vec<Box<str>>,
    prefixes: Vec<Box<str>>,
    keeps_routes: bool,
}

impl UrlRules {
    /// Rules from a list of parameters' names, of which one that ends in `*` stands for all that begin so.
    pub(crate) fn new<'n>(parameters: impl IntoIterator<Item = &'n str>, keeps_routes: bool) -> Self {
        let mut rules = Self { names: Vec::new(), prefixes: Vec::new(), keeps_routes };
        for name in parameters {
            let name = name.trim().to_ascii_lowercase();
            match name.strip_suffix('*') {
                Some(prefix) => rules.prefixes.push(prefix.into()),
                None if name.is_empty() => {}
                None => rules.names.push(name.into()),
            }
        }
        rules.names.sort_unstable();
        rules
    }

    /// The address without what must not be kept.
    pub(crate) fn normalise<'u>(&self, url: &'u str) -> Cow<'u, str> {
        if is_plain(url) {
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
        self.push_path_and_query(&mut out, rest, scheme.is_some(), has_email);
        if let Some(route) = fragment.filter(|fragment| self.keeps_routes && is_route(fragment)) {
            out.push('#');
            self.push_path_and_query(&mut out, cut(route, b'#').0, true, has_email);
        }
        Cow::Owned(out)
    }

    /// The value of a property, if it is an address.
    pub(crate) fn normalise_value<'u>(&self, value: &'u str) -> Cow<'u, str> {
        let is =
            |scheme: &str| value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        if is("http://") || is("https://") || is("mailto:") {
            self.normalise(value)
        } else {
            Cow::Borrowed(value)
        }
    }

    fn push_path_and_query(
        &self,
        out: &mut String,
        text: &str,
        has_authority: bool,
        has_email: impl Fn(&str) -> bool + Copy,
    ) {
        let (path, query) = cut(text, b'?');
        for piece in path.split_inclusive(['/', '\\']) {
            let (segment, end) = match piece.strip_suffix(['/', '\\']) {
                Some(segment) => piece.split_at(segment.len()),
                None => (piece, ""),
            };
            // Of what has no authority nothing is cut that could leave one behind.
            let segment = if has_authority { cut(segment, b';').0 } else { segment };
            out.push_str(match segment {
                _ if has_email(segment) => EMAIL,
                _ if is_token(segment) => TOKEN,
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
                out.push_str(match value {
                    _ if has_email(value) => EMAIL,
                    _ if is_jwt(value) => TOKEN,
                    _ => value,
                });
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
            let lower = lower.get_mut(..name.len())?;
            lower.copy_from_slice(name.as_bytes());
            lower.make_ascii_lowercase();
            self.names.binary_search_by(|known| known.as_bytes().cmp(lower)).ok()
        };
        // A mistaken second `?` would bring another parameter in under the first one's name.
        let is_name =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'[' | b']');
        !name.is_empty()
            && (is_listed().is_some()
                || name.bytes().all(is_name) && self.prefixes.iter().any(|prefix| starts_with(prefix)))
    }
}

/// Whether there is nothing in an address that could have to go. Most are so, and are not copied.
fn is_plain(url: &str) -> bool {
    let mut segment = 0;
    url.bytes().all(|byte| {
        segment = if matches!(byte, b'/' | b'\\') { 0 } else { segment + 1 };
        segment < TOKEN_BYTES_MIN && !matches!(byte, b'?' | b'#' | b'@' | b'%' | b';')
    })
}

/// Where the authority of an address begins that has one.
fn scheme(url: &str) -> Option<usize> {
    // The first colon, or none: no scheme has one.
    let end = memchr::memchr(b':', url.as_bytes())?;
    let is_scheme = url.as_bytes().first()?.is_ascii_alphabetic()
        && url[..end].bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    (is_scheme && url[end..].starts_with("://")).then_some(end + 3)
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

/// Whether a path segment can only be a token.
fn is_token(segment: &str) -> bool {
    if segment.len() < TOKEN_BYTES_MIN {
        return false;
    }
    if is_jwt(segment) {
        return true;
    }
    let (mut upper, mut lower, mut digits, mut joints) = (0, 0, 0, 0);
    let mut is_hexadecimal = true;
    for byte in segment.bytes() {
        is_hexadecimal &= byte.is_ascii_hexdigit();
        match byte {
            b'A'..=b'Z' => upper += 1,
            b'a'..=b'z' => lower += 1,
            b'0'..=b'9' => digits += 1,
            b'-' | b'_' | b'=' => joints += 1,
            _ => return false,
        }
    }
    // Words that hyphens join are a page's name.
    let is_mixed = upper > 0 && lower > 0 && digits > 0 && joints * 16 <= segment.len();
    is_mixed || (is_hexadecimal && segment.len() >= DIGITS_MIN)
}

/// A JSON Web Token begins with `{"`, and has three parts.
fn is_jwt(text: &str) -> bool {
    text.starts_with("eyJ") && text.matches('.').count() == 2 && text.len() >= TOKEN_BYTES_MIN
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
