//! Step `visitor`: who stands for a person of whom no visitor was sent. It needs no cookie: a keyed hash of the store, the
//! truncated network and the user agent, which cannot be linked across days, as each has its own salt, nor computed
//! without that salt.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use super::ip::truncate;

/// The visitor of a day.
pub(crate) fn derive(salt: &[u8; 32], store_id: &str, client: IpAddr, user_agent: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(salt);
    // Lengths keep the parts apart.
    hash.update((store_id.len() as u64).to_le_bytes());
    hash.update(store_id);
    match truncate(client) {
        IpAddr::V4(address) => hash.update(address.octets()),
        IpAddr::V6(address) => hash.update(address.octets()),
    }
    hash.update(user_agent);
    hex::encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_differ_by_what_they_are_made_of_and_share_a_network() {
        let visitor =
            |salt, store, address: &str, agent| derive(&[salt; 32], store, address.parse().unwrap(), agent);
        let one = visitor(1, "demo", "192.0.2.1", "a");
        assert_eq!(one.len(), 32);
        assert_eq!(one, visitor(1, "demo", "192.0.2.200", "a"));
        assert_eq!(visitor(1, "demo", "2001:db8:1:2::1", "a"), visitor(1, "demo", "2001:db8:1:3::1", "a"));
        for other in [
            visitor(2, "demo", "192.0.2.1", "a"),
            visitor(1, "other", "192.0.2.1", "a"),
            visitor(1, "demo", "192.0.3.1", "a"),
            visitor(1, "demo", "192.0.2.1", "b"),
        ] {
            assert_ne!(one, other);
        }
    }
}
