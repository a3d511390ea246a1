//! Networks of data centres: whether an address is in one of a list.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use ipnet::IpNet;

use super::file::{FileData, FileError};

/// A list of networks from a file: one a line, `#` begins a comment.
pub(crate) struct Networks(FileData<Ranges>);

/// First and last addresses, apart and in order. IPv4 has its place inside IPv6.
#[derive(Debug, Default)]
struct Ranges(Vec<(u128, u128)>);

impl Networks {
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        FileData::open(path, read).map(Self)
    }

    pub(crate) fn refresh(&self) {
        self.0.refresh();
    }

    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        self.0.load().contain(address)
    }
}

impl Ranges {
    fn contain(&self, address: IpAddr) -> bool {
        let number = number(address);
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).is_some_and(|index| number <= self.0[index].1)
    }
}

fn read(bytes: &[u8]) -> Result<Ranges, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let mut networks = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let network =
            line.parse::<IpNet>().or_else(|error| line.parse::<IpAddr>().map(IpNet::from).or(Err(error)));
        networks.push(network.map_err(|_| format!("line {}: `{line}` is no network", index + 1))?);
    }
    let merged = IpNet::aggregate(&networks);
    let mut ranges: Vec<_> =
        merged.iter().map(|network| (number(network.network()), number(network.broadcast()))).collect();
    ranges.sort_unstable();
    Ok(Ranges(ranges))
}

fn number(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read() {
        let ranges =
            read(b"# cloud\n203.0.113.0/24\n 203.0.113.128/25 # inside\n\n198.51.100.7\n2001:db8::/32\n")
                .unwrap();
        for (address, is_in) in [
            ("203.0.113.0", true),
            ("203.0.113.255", true),
            ("::ffff:203.0.113.9", true),
            ("203.0.114.0", false),
            ("203.0.112.255", false),
            ("198.51.100.7", true),
            ("198.51.100.8", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::", false),
        ] {
            assert_eq!(ranges.contain(address.parse().unwrap()), is_in, "{address}");
        }
        assert_eq!(read(b"1.2.3.0/24\nnonsense").unwrap_err(), "line 2: `nonsense` is no network");
        assert!(!read(b"").unwrap().contain("1.2.3.4".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn lookups_agree_with_asking_each(
            networks in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..20),
            addresses in proptest::collection::vec(any::<u32>(), 20),
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(bits, length)| IpNet::new(std::net::Ipv4Addr::from_bits(bits).into(), length).unwrap())
                .collect();
            let text: Vec<String> = networks.iter().map(IpNet::to_string).collect();
            let ranges = read(text.join("\n").as_bytes()).unwrap();
            for bits in addresses {
                let address = IpAddr::from(std::net::Ipv4Addr::from_bits(bits));
                prop_assert_eq!(ranges.contain(address), networks.iter().any(|network| network.contains(&address)));
            }
        }
    }
}
