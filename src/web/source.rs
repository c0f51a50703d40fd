//! Whose connections, requests and guesses are counted together.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Where something comes from, by its connection alone: anybody can write a header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// This machine: somebody who is signed in here already, a tunnel, or a proxy.
    Here,
    Address(IpAddr),
    /// The first 64 bits, which a network gives to one of its subscribers: whoever has them has all addresses below.
    Network(Ipv6Addr),
}

impl Source {
    /// Of a peer, by the address of this machine that it has reached. On the plant's own network 64 bits are not one
    /// subscriber but everybody, so that its machines count one by one.
    pub fn of(peer: IpAddr, reached: IpAddr) -> Self {
        match (peer.to_canonical(), reached.to_canonical()) {
            (peer, _) if peer.is_loopback() => Self::Here,
            (IpAddr::V6(peer), reached) if !is_near(peer, reached) => Self::Network(network(peer)),
            (peer, _) => Self::Address(peer),
        }
    }
}

fn network(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)
}

/// Whether it is a machine of this network: link-local, unique local (RFC 4193), or of the same 64 bits.
fn is_near(peer: Ipv6Addr, reached: IpAddr) -> bool {
    let shares = matches!(reached, IpAddr::V6(reached) if network(reached) == network(peer));
    peer.is_unicast_link_local() || peer.is_unique_local() || shares
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("loopback"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Network(network) => write!(f, "{network}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_the_network_of_one_subscriber() {
        let source =
            |peer: &str, reached: &str| Source::of(peer.parse().unwrap(), reached.parse().unwrap()).to_string();
        assert_eq!(source("192.0.2.1", "192.0.2.9"), "192.0.2.1");
        assert_eq!(source("::ffff:192.0.2.1", "::ffff:192.0.2.9"), "192.0.2.1");
        assert_eq!(source("2001:db8:1:2:3:4:5:6", "2001:db8:9::1"), "2001:db8:1:2::/64");
        assert_eq!(source("2001:db8:1:2:ffff::9", "192.0.2.9"), "2001:db8:1:2::/64");
        assert_ne!(source("2001:db8:1:3::1", "2001:db8:9::1"), source("2001:db8:1:2::1", "2001:db8:9::1"));
        for here in ["127.0.0.1", "127.8.1.2", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(source(here, here), "loopback");
        }
    }

    #[test]
    fn machines_of_the_plant_count_one_by_one() {
        let source =
            |peer: &str, reached: &str| Source::of(peer.parse().unwrap(), reached.parse().unwrap()).to_string();
        assert_eq!(source("2001:db8:1:2::7", "2001:db8:1:2::1"), "2001:db8:1:2::7");
        assert_eq!(source("fe80::7", "fe80::1"), "fe80::7");
        assert_eq!(source("fd00:1::7", "fd00:2::1"), "fd00:1::7");
    }
}
