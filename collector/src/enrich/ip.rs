//! Step `ip`: an address as the network it belongs to. Nothing finer leaves the memory of the request: no log, no metric,
//! no hash.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network of 24 bits (IPv4) or 48 bits (IPv6) that an address belongs to, as its first address.
pub(crate) fn truncate(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !0xff)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 80 << 80)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_lose_their_end() {
        for (address, network) in [
            ("192.0.2.201", "192.0.2.0"),
            ("::ffff:192.0.2.201", "192.0.2.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
            ("0.0.0.0", "0.0.0.0"),
        ] {
            assert_eq!(truncate(address.parse().unwrap()).to_string(), network);
        }
    }

    proptest! {
        #[test]
        fn what_was_cut_is_not_in_it(address in any::<u32>(), prefix in any::<u128>(), end in any::<u128>()) {
            let check = |address: IpAddr, other: IpAddr| {
                prop_assert_eq!(truncate(address), truncate(other));
                prop_assert_eq!(truncate(truncate(address)), truncate(address));
                Ok(())
            };
            let v4 = |bits| IpAddr::V4(Ipv4Addr::from_bits(bits));
            check(v4(address), v4(address ^ (end as u32 & 0xff)))?;
            // Outside of what maps to IPv4, where fewer bits are cut.
            let v6 = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits | 1 << 127));
            check(v6(prefix), v6(prefix ^ end >> 48))?;
        }
    }
}
