//! Where a service is, and who is at the other end: IP addresses and paths of Unix sockets.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

/// What stands before the path of a Unix socket in text.
pub const UNIX_PREFIX: &str = "unix:";

/// Where to listen, or where to connect to.
///
/// In text: `127.0.0.1:7000`, `[::1]:7000`, `unix:/run/server.sock`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Address {
    /// TCP. Port 0 lets the system choose.
    Ip(SocketAddr),
    /// A Unix stream socket with this path. Not on Windows. The system bounds its length: 107 bytes on Linux, 103
    /// elsewhere.
    Unix(PathBuf),
}

impl Address {
    /// The IP address and port, if it is TCP.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path, if it is a Unix socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// True for a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// What somebody who connects to it is told of it.
    pub fn as_peer(&self) -> PeerAddress {
        match self {
            Self::Ip(address) => PeerAddress::Ip(*address),
            Self::Unix(_) => PeerAddress::Unix,
        }
    }

    /// The path that `unix:PATH` names; `None` if the text does not begin so.
    pub fn unix_path(text: &str) -> Option<&Path> {
        text.strip_prefix(UNIX_PREFIX).map(Path::new)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl FromStr for Address {
    type Err = io::Error;

    /// No names: those are looked up where services are added.
    fn from_str(text: &str) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        match Self::unix_path(text) {
            Some(path) if path.as_os_str().is_empty() => Err(invalid("no path after `unix:`")),
            Some(path) if path.as_os_str().as_encoded_bytes().contains(&0) => {
                Err(invalid("a path cannot contain a zero byte"))
            }
            Some(path) => Ok(Self::Unix(path.to_owned())),
            None => text.parse().map(Self::Ip).map_err(|_| invalid("neither IP:PORT nor unix:PATH")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

/// Who is at the other end of a connection. Who connects to a Unix socket has no address of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerAddress {
    /// Somebody on an IP network.
    Ip(SocketAddr),
    /// Somebody on this machine.
    Unix,
}

impl PeerAddress {
    /// The IP address, if it has one.
    pub fn ip(self) -> Option<IpAddr> {
        self.socket().map(|address| address.ip())
    }

    /// The IP address and port, if it has them.
    pub fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix => None,
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl PartialEq<SocketAddr> for PeerAddress {
    fn eq(&self, other: &SocketAddr) -> bool {
        *self == Self::Ip(*other)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What a driver without Unix sockets says of one.
#[cfg(windows)]
pub(crate) fn no_unix_sockets(driver: crate::DriverKind) -> io::Error {
    let text = format!("Unix sockets are not supported by driver {driver}; use HOST:PORT");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_addresses_are_the_same_both_ways() {
        for text in ["127.0.0.1:7000", "[::1]:7000", "unix:/run/x.sock", "unix:relative.sock"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.is_unix(), text.starts_with(UNIX_PREFIX));
        }
        for wrong in ["", "unix:", "unix:a\0b", "/run/x.sock", "localhost:7000", "127.0.0.1"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_peer_costs_no_more_than_an_ip_address() {
        assert_eq!(size_of::<PeerAddress>(), size_of::<SocketAddr>());
        let ip: SocketAddr = "10.0.0.1:9".parse().unwrap();
        assert_eq!((PeerAddress::Ip(ip).ip(), PeerAddress::Unix.ip()), (Some(ip.ip()), None));
        assert!(PeerAddress::Ip(ip) == ip && PeerAddress::Unix != ip);
        assert_eq!(format!("{} {}", PeerAddress::Ip(ip), PeerAddress::Unix), "10.0.0.1:9 unix");
    }
}
