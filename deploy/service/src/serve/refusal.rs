//! Requests that name their host in more than one way, or not at all.

use hyper::{Request, Version, header::HOST};

/// Why a request is refused with 400, if it is. HTTP/1.0 knows no `Host`, and may leave it out.
pub(super) fn refusal<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.as_bytes(),
        (None, _) if request.version() < Version::HTTP_11 => return None,
        _ => return Some("a request has exactly one Host header"),
    };
    if !host.iter().copied().all(is_of_a_host) {
        return Some("the Host header is a name or an address, with or without a port");
    }
    match request.uri().authority() {
        Some(authority) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host) => {
            Some("the request's target names another host than its Host header")
        }
        _ => None,
    }
}

/// Whether a byte may stand in a host and port (RFC 3986, 3.2.2 and 3.2.3).
const fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
                | b':'
                | b'['
                | b']'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_host() {
        let is_refused = |version, target: &str, hosts: &[&str]| {
            let mut request = Request::builder().version(version).uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            refusal(&request.body(()).unwrap()).is_some()
        };
        for (target, hosts, refused) in [
            ("/", &["a"][..], false),
            ("/", &["a.example:8080"], false),
            ("/", &["[::1]:80"], false),
            ("/", &[""], false),
            ("http://A.example/", &["a.example"], false),
            ("/", &[], true),
            ("/", &["a", "a"], true),
            ("/", &["a, b"], true),
            ("/", &["user@a"], true),
            ("/", &["a/b"], true),
            ("/", &["a\tb"], true),
            ("http://b/", &["a"], true),
            ("http://user@a/", &["a"], true),
        ] {
            assert_eq!(is_refused(Version::HTTP_11, target, hosts), refused, "{target} {hosts:?}");
        }
        assert!(!is_refused(Version::HTTP_10, "/", &[]));
        assert!(is_refused(Version::HTTP_10, "/", &["a", "a"]));
    }
}
