//! Which simulated address is whose.
//!
//! Every address belongs to the one simulated machine, except those reserved for documentation: they are
//! nobody's, so that tests have somewhere that cannot be bound or reached.
//!
//! A path stands in the network as an address that no IP service can have, so that listeners, connections and chance
//! know nothing of paths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What stands for paths: `100::/64`, which discards what is sent to it.
const PATHS: [u16; 4] = [0x100, 0, 0, 0];

/// The address that stands for the path of this number.
pub(super) fn of_path(number: usize) -> SocketAddr {
    let ip = Ipv6Addr::from(u128::from(PATHS[0]) << 112 | number as u128);
    SocketAddr::new(ip.into(), 1)
}

/// The number of the path that this stands for, on either side of a connection.
pub(super) fn path_of(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V6(ip) if ip.segments()[..4] == PATHS => Some(u128::from(ip) as u64 as usize),
        _ => None,
    }
}

/// True for addresses that no simulated machine has.
pub(super) fn is_nobodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_documentation(),
        IpAddr::V6(address) => address.segments()[..2] == [0x2001, 0xdb8],
    }
}

/// Where a connection to `address` goes: the unspecified address means this machine.
pub(super) fn destination(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// How well a listener at `bound` fits a connection to `to`: `None` if not at all, more for a nearer match.
pub(super) fn match_score(bound: SocketAddr, to: SocketAddr) -> Option<u32> {
    if bound.port() != to.port() || path_of(bound).is_some() != path_of(to).is_some() {
        None
    } else if bound.ip() == to.ip() {
        Some(2)
    } else if bound.ip().is_unspecified() && (bound.is_ipv6() || to.is_ipv4()) {
        // A listener at `[::]` takes IPv4 as well.
        Some(u32::from(bound.is_ipv6() == to.is_ipv6()))
    } else {
        None
    }
}

/// True if two listeners at these addresses would compete for some connection.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    match_score(one, other).or(match_score(other, one)).is_some()
}

/// How a listener at `bound` sees `peer`: an IPv4 peer of an IPv6 listener has a mapped address.
pub(super) fn seen_by(bound: SocketAddr, peer: SocketAddr) -> SocketAddr {
    match peer.ip() {
        IpAddr::V4(ip) if bound.is_ipv6() => SocketAddr::new(ip.to_ipv6_mapped().into(), peer.port()),
        _ => peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_addresses_of_their_own() {
        for number in [0, 1, 70_000] {
            assert_eq!(path_of(of_path(number)), Some(number));
        }
        assert_eq!(path_of("[::1]:1".parse().unwrap()), None);
        assert_eq!(match_score(of_path(1), of_path(2)), None);
        assert_eq!(match_score(of_path(1), of_path(1)), Some(2));
        assert!(
            !overlap("[::]:1".parse().unwrap(), of_path(1)),
            "a listener at every address is not at a path"
        );
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn the_nearest_listener_matches_best() {
        assert_eq!(match_score(at("127.0.0.1:7"), at("127.0.0.1:7")), Some(2));
        assert_eq!(match_score(at("0.0.0.0:7"), at("127.0.0.1:7")), Some(1));
        assert_eq!(match_score(at("[::]:7"), at("127.0.0.1:7")), Some(0));
        assert_eq!(match_score(at("[::]:7"), at("[::1]:7")), Some(1));
        assert_eq!(match_score(at("0.0.0.0:7"), at("[::1]:7")), None);
        assert_eq!(match_score(at("127.0.0.2:7"), at("127.0.0.1:7")), None);
        assert_eq!(match_score(at("127.0.0.1:8"), at("127.0.0.1:7")), None);
    }

    #[test]
    fn wildcards_overlap_with_what_they_cover() {
        assert!(overlap(at("127.0.0.1:7"), at("0.0.0.0:7")) && overlap(at("[::]:7"), at("0.0.0.0:7")));
        assert!(!overlap(at("127.0.0.1:7"), at("127.0.0.2:7")) && !overlap(at("[::1]:7"), at("0.0.0.0:7")));
    }
}
