//! Hosts: those of addresses, and which of them are one site.

use std::borrow::Cow;

use super::url::{EMAIL, has_email};

/// The host of an address, in lower case, without `www.` and the port.
pub(crate) fn host(url: &str) -> Cow<'_, str> {
    let bytes = url.as_bytes();
    let scheme = memchr::memchr_iter(b':', bytes).find(|at| bytes[at + 1..].starts_with(b"//"));
    let Some(rest) = scheme.map(|at| &url[at + 3..]) else { return "".into() };
    let end = rest.bytes().position(|byte| matches!(byte, b'/' | b'?' | b'#' | b'\\')).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = memchr::memrchr(b'@', authority.as_bytes()).map_or(authority, |at| &authority[at + 1..]);
    let host = match memchr::memrchr(b':', host.as_bytes()) {
        // An IPv6 address has colons of its own, in brackets.
        Some(at) if host[at + 1..].bytes().all(|byte| byte.is_ascii_digit()) => &host[..at],
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

/// A host and the domains above it, outermost last.
pub(crate) fn domains(host: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(host), |domain| domain.split_once('.').map(|(_, above)| above))
}

/// Whether a host is a domain, or below it.
pub(crate) fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether two hosts are one's own: they share the domain that somebody registered, or one is below the other.
pub(crate) fn is_same_site(one: &str, other: &str) -> bool {
    if one.is_empty() || other.is_empty() {
        return false;
    }
    // What somebody registers has two names at least: most hosts differ in them already.
    let last_two = |host: &str| memchr::memrchr_iter(b'.', host.as_bytes()).nth(1).map_or(0, |at| at + 1);
    is_below(one, other)
        || is_below(other, one)
        || one.get(last_two(one)..) == other.get(last_two(other)..)
            && registered(one)
                .is_some_and(|(domain, _)| registered(other).is_some_and(|(own, _)| own == domain))
}

/// The domain that somebody registered, of the public suffix list, and its name without the suffix.
pub(crate) fn registered(host: &str) -> Option<(&str, &str)> {
    let is_address = host.ends_with(']') || host.ends_with(|last: char| last.is_ascii_digit());
    let domain = psl::domain(host.as_bytes()).filter(|domain| !is_address && domain.suffix().is_known())?;
    let whole = std::str::from_utf8(domain.as_bytes()).ok()?;
    let name = whole.get(..whole.len().checked_sub(domain.suffix().as_bytes().len() + 1)?)?;
    Some((whole, name))
}

/// Of a site under a public suffix that no company gives out: its name. `google` of `lens.google.co.uk`.
pub(crate) fn name_anywhere(domain: &str) -> Option<&str> {
    let is_public = psl::suffix(domain.as_bytes())
        .is_some_and(|suffix| suffix.is_known() && suffix.typ() == Some(psl::Type::Icann));
    registered(domain).filter(|(whole, _)| is_public && *whole == domain).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn sites_are_what_somebody_registered() {
        for (one, other, is_same) in [
            ("shop.brand.com", "blog.brand.com", true),
            ("shop.brand.co.uk", "brand.co.uk", true),
            ("shop.co.uk", "other.co.uk", false),
            ("one.myshopify.com", "two.myshopify.com", false),
            ("checkout.one.myshopify.com", "one.myshopify.com", true),
            ("notbrand.com", "brand.com", false),
            ("192.0.2.1", "198.51.2.1", false),
            ("localhost", "localhost", true),
            ("a.internal.invalid", "b.internal.invalid", false),
            ("", "", false),
        ] {
            assert_eq!(is_same_site(one, other), is_same, "{one} {other}");
        }
    }

    #[test]
    fn names_stand_under_any_public_suffix() {
        assert_eq!(name_anywhere("google.co.uk"), Some("google"));
        assert_eq!(name_anywhere("lens.google.co.uk"), None);
        assert_eq!(name_anywhere("google.blogspot.com"), None);
        assert_eq!(name_anywhere("google"), None);
    }
}
