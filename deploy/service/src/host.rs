//! Which names a listener answers to.
//!
//! A web page can have its own name resolve to this machine (DNS rebinding). Its requests are then same-origin for the
//! browser: no preflight, no `Origin`. Only the `Host` header still tells the name under which the page reached us. So a
//! listener that is not meant for web pages answers to an address, which no name can be rebound to, to a loopback name, and
//! to names that its operator has set; anything else is refused with 421.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::Next,
    response::Response,
};

/// The names that an operator has set, as a service's settings have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct HostConfig {
    /// Host names under which the API and the metrics may be asked for, separated by commas; `*.` before a name stands for
    /// all names below it. Addresses and localhost always are. A web page could reach a listener that answers to any name.
    #[arg(
        long = "allowed-hosts",
        env = "MILLRACE_ALLOWED_HOSTS",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub allowed_hosts: Vec<String>,
}

/// Names that are answered.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    names: Arc<[String]>,
}

impl Hosts {
    /// Addresses, loopback names, and these.
    pub fn new(config: &HostConfig) -> Self {
        let names = config.allowed_hosts.iter().map(|name| name.trim().to_ascii_lowercase());
        Self { names: names.filter(|name| !name.is_empty()).collect() }
    }

    /// Whether a request for this `Host` (a name or an address, with or without a port) is answered.
    pub fn admits(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        if let Some(inner) = name.strip_prefix('[') {
            return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
        }
        if name.parse::<Ipv4Addr>().is_ok() {
            return true;
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name == "localhost"
            || name.ends_with(".localhost")
            || self.names.iter().any(|known| match known.strip_prefix("*.") {
                Some(parent) => name.strip_suffix(parent).is_some_and(|child| child.ends_with('.')),
                None => name == *known,
            })
    }

    /// Why a request is refused, if it is: it names no host, more than one, or one that is not answered.
    pub fn refusal(&self, uri: &Uri, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        let mut values = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (values.next(), values.next()) else {
            return Some((StatusCode::BAD_REQUEST, "a request has exactly one Host header"));
        };
        let admitted = host.to_str().is_ok_and(|host| self.admits(host))
            // A target with an authority of its own overrules the header.
            && uri.authority().is_none_or(|authority| self.admits(authority.as_str()));
        (!admitted).then_some((
            StatusCode::MISDIRECTED_REQUEST,
            "this name is not answered here: use an address or localhost, or set MILLRACE_ALLOWED_HOSTS",
        ))
    }
}

/// The host without its port; `None` where that is no number.
fn name_of(host: &str) -> Option<&str> {
    let after_bracket = host.rfind(']').map_or(0, |at| at + 1);
    match host[after_bracket..].rfind(':') {
        None => Some(host),
        Some(colon) => {
            let (name, port) = host.split_at(after_bracket + colon);
            port[1..].bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
        }
    }
}

/// Middleware that refuses requests for names that are not answered.
pub async fn known_hosts_only(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    match hosts.refusal(request.uri(), request.headers()) {
        None => next.run(request).await,
        Some((status, message)) => crate::serve::error(status, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Hosts {
        Hosts::new(&HostConfig { allowed_hosts: names.iter().map(|name| (*name).to_owned()).collect() })
    }

    #[test]
    fn addresses_and_loopback_names_are_answered() {
        for host in
            ["127.0.0.1", "127.0.0.1:8123", "10.1.2.3:80", "[::1]", "[::1]:8123", "localhost", "LocalHost:1"]
        {
            assert!(hosts(&[]).admits(host), "{host}");
        }
        for host in ["metrics.localhost", "localhost."] {
            assert!(hosts(&[]).admits(host), "{host}");
        }
    }

    #[test]
    fn other_names_are_not() {
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:8123",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evillocalhost",
            "127.0.0.1:80.evil.example",
            "127.0.0.1@evil.example",
            "[::1",
            "[::1].evil.example",
            "[evil.example]",
            "2130706433",
            "0x7f.1",
            "localhost..",
        ] {
            assert!(!hosts(&[]).admits(host), "{host}");
        }
    }

    #[test]
    fn set_names_are_answered() {
        let hosts = hosts(&["Metrics.example", "*.internal"]);
        for host in ["metrics.example", "METRICS.example:9100", "a.internal", "a.b.internal."] {
            assert!(hosts.admits(host), "{host}");
        }
        for host in ["example", "x.metrics.example", "internal", "evilinternal"] {
            assert!(!hosts.admits(host), "{host}");
        }
    }

    #[test]
    fn a_request_has_one_host() {
        let refused = |uri: &str, values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::HOST, value.parse().unwrap());
            }
            hosts(&[]).refusal(&uri.parse().unwrap(), &headers).map(|(status, _)| status.as_u16())
        };
        assert_eq!(refused("/", &["localhost"]), None);
        assert_eq!(refused("/", &[]), Some(400));
        assert_eq!(refused("/", &["localhost", "localhost"]), Some(400));
        assert_eq!(refused("/", &["evil.example"]), Some(421));
        assert_eq!(refused("http://evil.example/", &["localhost"]), Some(421));
        assert_eq!(refused("http://localhost/", &["localhost"]), None);
    }
}
