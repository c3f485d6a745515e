//! Socket addresses in the kernel's layout.

use std::{
    mem::MaybeUninit,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use crate::address::{Address, PeerAddress};

/// An address that the kernel reads or writes. Must stay in place while an operation uses it.
#[repr(C)]
pub(super) struct RawAddress {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) len: libc::socklen_t,
}

impl RawAddress {
    /// Room for an address that the kernel writes.
    pub(super) fn empty() -> Self {
        // SAFETY: `sockaddr_storage` is plain integers, for which zeros are valid.
        let storage = unsafe { MaybeUninit::<libc::sockaddr_storage>::zeroed().assume_init() };
        Self { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// Tells the kernel again how much room there is.
    pub(super) fn reset(&mut self) {
        self.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    }

    pub(super) fn of(address: &Address) -> Self {
        match address {
            Address::Ip(ip) => Self::of_ip(*ip),
            Address::Unix(path) => Self::of_path(path),
        }
    }

    /// The path fits: it was looked at when the socket was opened.
    fn of_path(path: &Path) -> Self {
        let mut raw = Self::empty();
        let bytes = path.as_os_str().as_bytes();
        let mut value =
            libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
        assert!(bytes.len() < value.sun_path.len(), "a path of {} bytes was let through", bytes.len());
        for (place, byte) in value.sun_path.iter_mut().zip(bytes) {
            *place = byte.cast_signed() as libc::c_char;
        }
        // SAFETY: `sockaddr_storage` is larger than `sockaddr_un` and aligned for any address.
        unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_un>().write(value) };
        // With the zero at the end.
        raw.len = (std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1) as libc::socklen_t;
        raw
    }

    fn of_ip(address: SocketAddr) -> Self {
        let mut raw = Self::empty();
        let at = &raw mut raw.storage;
        match address {
            SocketAddr::V4(v4) => {
                let value = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: `sockaddr_storage` is larger than `sockaddr_in` and aligned for any address.
                unsafe { at.cast::<libc::sockaddr_in>().write(value) };
                raw.len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                let value = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: `sockaddr_storage` is larger than `sockaddr_in6` and aligned for any address.
                unsafe { at.cast::<libc::sockaddr_in6>().write(value) };
                raw.len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        raw
    }

    /// What the kernel wrote, or the unspecified address for a family that is none of ours.
    pub(super) fn peer(&self) -> PeerAddress {
        if i32::from(self.storage.ss_family) == libc::AF_UNIX {
            return PeerAddress::Unix;
        }
        PeerAddress::Ip(self.address())
    }

    fn address(&self) -> SocketAddr {
        let at = &raw const self.storage;
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the storage is large enough and aligned, and any bits are a valid `sockaddr_in`.
                let value = unsafe { at.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(value.sin_addr.s_addr.to_ne_bytes());
                SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(value.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: the storage is large enough and aligned, and any bits are a valid `sockaddr_in6`.
                let value = unsafe { at.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(value.sin6_addr.s6_addr);
                let port = u16::from_be(value.sin6_port);
                SocketAddr::V6(SocketAddrV6::new(ip, port, value.sin6_flowinfo, value.sin6_scope_id))
            }
            _ => SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_zero_and_its_length() {
        let raw = RawAddress::of(&Address::Unix("/run/x.sock".into()));
        assert_eq!((raw.len, raw.peer()), (2 + 11 + 1, PeerAddress::Unix));
    }

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["127.0.0.1:7000", "255.1.2.3:65535", "[::1]:1", "[fe80::1%3]:80", "[::ffff:10.0.0.1]:9"]
        {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::of(&address.into()).peer(), address);
        }
    }
}
