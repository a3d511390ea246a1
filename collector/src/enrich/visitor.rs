//! Step `visitor`: who stands for a person of whom no visitor was sent. It needs no cookie: a keyed hash of the store, the
//! truncated network and the user agent, which cannot be linked across the store's days, as each has its own salt, nor
//! computed without that salt.

use std::{cell::RefCell, net::IpAddr, ops::Range};

use sha2::{Digest as _, Sha256};

use super::ip::truncate;
use crate::validate::Request;

/// The visitors that a sender is: one on each of the store's days.
pub(super) struct Visitors {
    address: IpAddr,
    user_agent: String,
    /// The last that was asked for, and the day on which it is that.
    last: RefCell<(Range<i64>, String)>,
}

impl Visitors {
    pub(super) fn new(address: IpAddr, user_agent: String) -> Self {
        Self { address, user_agent, last: RefCell::new((0..0, String::new())) }
    }

    /// The visitor of an event of this time; empty where no salt is known. The salt is of the event's day, and once that is
    /// destroyed, of the day of receipt.
    pub(super) fn at(&self, happened: i64, request: &Request<'_>) -> String {
        let (day, visitor) = &mut *self.last.borrow_mut();
        if !day.contains(&happened) {
            let Request { salts, timezone, received_at, store_id, .. } = *request;
            let found = salts.of_day(timezone, happened).or_else(|| salts.of_day(timezone, received_at));
            let Some((salt, of_salt)) = found else { return String::new() };
            *day = if of_salt.contains(&happened) { of_salt } else { happened..happened + 1 };
            *visitor = derive(salt, store_id, self.address, &self.user_agent);
        }
        visitor.clone()
    }
}

/// The visitor of a day.
fn derive(salt: &[u8; 32], store_id: &str, client: IpAddr, user_agent: &str) -> String {
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
