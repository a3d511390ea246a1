//! Who sends: the client's address.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;
pub(crate) use millrace_service::serve::network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: the peer's, or what a trusted proxy says. Of a list of proxies the last address that is no
/// trusted proxy's counts; what stands before it anybody may have written.
pub(crate) fn address(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: IpAddr| trusted_proxies.iter().any(|network| network.contains(&address));
    if trusted_proxies.is_empty() || !is_trusted(peer) {
        return peer;
    }
    let mut client = peer;
    for header in headers.get_all(FORWARDED_FOR).iter().rev() {
        for part in header.to_str().unwrap_or_default().rsplit(',') {
            let Some(address) = parse_address(part.trim()) else { return client };
            client = address.to_canonical();
            if !is_trusted(client) {
                return client;
            }
        }
    }
    client
}

/// An address, with or without a port.
pub(crate) fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let check = |peer: &str, forwarded: &[&str], client: &str| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            assert_eq!(address(peer.parse().unwrap(), &headers, &trusted).to_string(), client);
        };
        check("192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("::ffff:10.0.0.1", &["203.0.113.9, 198.51.100.7, 10.1.1.1"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9", "198.51.100.7:4711", "10.1.1.1"], "198.51.100.7");
        check("10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1");
        check("10.0.0.1", &["unknown"], "10.0.0.1");
        check("10.0.0.1", &[], "10.0.0.1");
    }
}
