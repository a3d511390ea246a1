//! The store that one machine starts with. Its keys are in the documentation, so everybody knows them: they hold only where
//! nobody else can send anything.

use std::net::SocketAddr;

/// The store's id.
pub const STORE: &str = "demo";
/// Its write key.
pub const WRITE_KEY: &str = "demo-write-key";
/// Its secret key.
pub const SECRET_KEY: &str = "demo-secret-key";
/// Its API token.
pub const API_TOKEN: &str = "demo-api-token";

/// The keys that everybody knows.
pub const KNOWN_KEYS: [&str; 3] = [WRITE_KEY, SECRET_KEY, API_TOKEN];

/// The first listener that can be reached from another machine, if any can.
pub fn reachable(listeners: &[SocketAddr]) -> Option<SocketAddr> {
    listeners.iter().find(|address| !address.ip().to_canonical().is_loopback()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_out_of_reach() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for local in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(reachable(&[address(local)]), None, "{local}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "192.168.1.2:1", "[fe80::1]:1"] {
            assert_eq!(reachable(&[address("127.0.0.1:1"), address(open)]), Some(address(open)));
        }
    }
}
