//! Origins of pages, and the entries of a store's list that name them.
//!
//! An origin is `scheme://host[:port]` and nothing else. It is parsed whole before anything is compared: a `Origin` header
//! is whatever its sender makes of it, and a text that merely ends like a listed host (`https://evil.example/.shop.example`)
//! is none. `null`, which a browser says of sandboxed pages and files, is no origin and is in no list.

use std::net::Ipv6Addr;

/// Longest host name there is.
const HOST_BYTES_MAX: usize = 253;

/// A page's origin, as a browser sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    /// The scheme's own where none stands in the text.
    port: Option<u16>,
}

impl Origin {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = parse_scheme(scheme)?;
        let (host, port) = split_port(authority)?;
        let port = port.or_else(|| default_port(&scheme));
        Some(Self { host: parse_host(host)?, scheme, port })
    }
}

/// An entry of a store's list: an origin (`https://shop.example`), a host on any port and under any scheme
/// (`shop.example`), a host with its port, any of these with `*.` for all hosts below, or `*` for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Any,
    One {
        scheme: Option<String>,
        host: String,
        /// Of hosts below `host`, and not of itself.
        is_parent: bool,
        port: Option<u16>,
    },
    /// What is no entry names nobody.
    Nobody,
}

impl Entry {
    pub(crate) fn parse(text: &str) -> Self {
        let text = text.trim().trim_end_matches('/');
        if text == "*" {
            return Self::Any;
        }
        Self::parse_one(text).unwrap_or(Self::Nobody)
    }

    fn parse_one(text: &str) -> Option<Self> {
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme, authority)) => (Some(parse_scheme(scheme)?), authority),
            None => (None, text),
        };
        let (host, port) = split_port(authority)?;
        let (host, is_parent) = match host.strip_prefix("*.") {
            Some(parent) => (parent, true),
            None => (host, false),
        };
        // People write a name as they read it; browsers send it in ASCII.
        let host = match host.is_ascii() {
            true => parse_host(host)?,
            false => parse_host(&idna::domain_to_ascii(host).ok()?)?,
        };
        let port = port.or_else(|| default_port(scheme.as_deref()?));
        Some(Self::One { scheme, host, is_parent, port })
    }

    pub(crate) fn admits(&self, origin: &Origin) -> bool {
        match self {
            Self::Any => true,
            Self::Nobody => false,
            Self::One { scheme, host, is_parent, port } => {
                let is_host = match origin.host.strip_suffix(host.as_str()) {
                    Some(below) if *is_parent => below.len() > 1 && below.ends_with('.'),
                    Some(below) => below.is_empty(),
                    None => false,
                };
                let is_port = match port {
                    Some(_) => *port == origin.port,
                    // Under a scheme that has no port of its own, none is one.
                    None => scheme.is_none() || origin.port.is_none(),
                };
                is_host && is_port && scheme.as_ref().is_none_or(|scheme| *scheme == origin.scheme)
            }
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn parse_scheme(text: &str) -> Option<String> {
    let is_scheme = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then(|| text.to_ascii_lowercase())
}

/// A host and its port, of a text that is nothing but these.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority[after_bracket..].find(':') else { return Some((authority, None)) };
    let (host, port) = authority.split_at(after_bracket + colon);
    let port = &port[1..];
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    Some((host, Some(port.parse().ok().filter(|_| is_number)?)))
}

/// A host name or an address, in lower case and without the dot that ends a name's root.
fn parse_host(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_name = name.len() <= HOST_BYTES_MAX
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        });
    is_name.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn admits(entry: &str, origin: &str) -> bool {
        Origin::parse(origin).is_some_and(|origin| Entry::parse(entry).admits(&origin))
    }

    #[test]
    fn origins_are_compared_whole() {
        for (entry, origin) in [
            ("https://shop.example", "https://shop.example"),
            ("https://shop.example/", "https://shop.example"),
            ("https://SHOP.example", "HTTPS://shop.EXAMPLE"),
            ("https://shop.example:443", "https://shop.example"),
            ("https://shop.example", "https://shop.example:443"),
            ("https://shop.example.", "https://shop.example"),
            ("https://shop.example", "https://shop.example."),
            ("shop.example", "http://shop.example:8080"),
            ("shop.example:8080", "http://shop.example:8080"),
            ("https://*.shop.example", "https://www.shop.example"),
            ("*.shop.example", "http://a.b.shop.example"),
            ("*.shop.example:8443", "https://a.shop.example:8443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("https://müller.example", "https://xn--mller-kva.example"),
            ("*.MÜLLER.example", "https://www.xn--mller-kva.example"),
            ("http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("*", "https://any.example"),
        ] {
            assert!(admits(entry, origin), "{entry} {origin}");
        }
        for (entry, origin) in [
            ("https://shop.example", "http://shop.example"),
            ("https://shop.example", "https://shop.example.evil.example"),
            ("https://shop.example", "https://evilshop.example"),
            ("https://shop.example", "https://shop.example:444"),
            ("shop.example:8080", "http://shop.example"),
            ("*.shop.example", "https://shop.example"),
            ("*.shop.example", "https://.shop.example"),
            ("*.shop.example", "https://evilshop.example"),
            ("capacitor://localhost", "capacitor://localhost:1"),
            ("shop.example", "null"),
            ("*", "null"),
            ("null", "null"),
            ("", "https://shop.example"),
            ("shop example", "https://shop"),
        ] {
            assert!(!admits(entry, origin), "{entry} {origin}");
        }
    }

    /// Texts that end, begin or decode like a listed host and are the origin of no page below it.
    #[test]
    fn what_is_more_than_an_origin_is_none() {
        for origin in [
            "https://evil/.shop.example",
            "https://evil.example/.shop.example",
            "https://evil.example/https://www.shop.example",
            "https://evil.example?.shop.example",
            "https://evil.example#.shop.example",
            "https://evil.example\\.shop.example",
            "https://evil.example@www.shop.example",
            "https://www.shop.example@evil.example",
            "https://evil.example:80.shop.example",
            "https://evil.example:80/.shop.example",
            "https://evil.example%2f.shop.example",
            "https://evil.example%00.shop.example",
            "https://evil.example\0.shop.example",
            "https://evil.example .shop.example",
            "https://evil.example\t.shop.example",
            "https://evil.example,.shop.example",
            "https://evil.example, https://www.shop.example",
            "https://evil.example https://www.shop.example",
            "https://[evil.example].shop.example",
            "https://[::1].shop.example",
            "https://www..shop.example",
            "https://www.shop.example..",
            "https://www.shop.example/",
            "https://www.shop.example:",
            "https://www.shop.example:+443",
            "https://www.shop.example:0443",
            "https://www.shop.example:65536",
            "https://www.shop.example:443:443",
            "https:// www.shop.example",
            "https:/www.shop.example",
            "//www.shop.example",
            "www.shop.example",
            "://www.shop.example",
            "1https://www.shop.example",
            "https://evil。shop.example",
            "",
        ] {
            for entry in ["*.shop.example", "https://*.shop.example", "www.shop.example"] {
                assert!(!admits(entry, origin), "{entry} {origin}");
            }
        }
    }

    proptest! {
        #[test]
        fn only_hosts_below_are_below(start in "[a-z:/@?#.\\[\\]%\\\\ -]{0,12}") {
            let origin = format!("https://{start}.shop.example");
            let is_name = start.split('.').all(|label| {
                !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            });
            prop_assert_eq!(admits("*.shop.example", &origin), is_name, "{}", origin);
        }
    }
}
