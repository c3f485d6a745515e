//! Opening sockets: what has to be set before they are used.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{self, AddressFamily, Protocol, SocketFlags, SocketType, ipproto, sockopt},
};

use super::local::{self, SocketFile};
use crate::{
    address::Address,
    options::{KeepAlive, ListenOptions, PortSharing, SocketOptions},
};

/// Whether calls on the socket wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They wait. io_uring needs this: on a non-blocking socket its operations fail instead of waiting.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only io_uring asks for it"))]
    Blocking,
    /// They fail with `EAGAIN`.
    NonBlocking,
}

fn family_of(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn open(address: SocketAddr, mode: Mode) -> io::Result<OwnedFd> {
    open_family(family_of(address), Some(ipproto::TCP), mode)
}

/// A stream socket, closed on exec.
pub(super) fn open_family(
    family: AddressFamily,
    protocol: Option<Protocol>,
    mode: Mode,
) -> io::Result<OwnedFd> {
    #[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
    let socket = {
        let non_blocking = match mode {
            Mode::Blocking => SocketFlags::empty(),
            Mode::NonBlocking => SocketFlags::NONBLOCK,
        };
        let flags = SocketFlags::CLOEXEC | non_blocking;
        net::socket_with(family, SocketType::STREAM, flags, protocol)?
    };
    #[cfg(not(any(
        target_os = "linux",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd"
    )))]
    let socket = {
        let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::empty(), protocol)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, mode == Mode::NonBlocking)?;
        socket
    };
    Ok(socket)
}

fn set_options(socket: &OwnedFd, family: AddressFamily, options: &SocketOptions) -> io::Result<()> {
    if options.no_delay {
        sockopt::set_tcp_nodelay(socket, true)?;
    }
    if let Some(KeepAlive { idle, interval, probes }) = options.keep_alive {
        sockopt::set_socket_keepalive(socket, true)?;
        #[cfg(not(target_os = "openbsd"))]
        {
            sockopt::set_tcp_keepidle(socket, whole_seconds(idle))?;
            sockopt::set_tcp_keepintvl(socket, whole_seconds(interval))?;
            sockopt::set_tcp_keepcnt(socket, probes)?;
        }
        // Its times are the system's.
        #[cfg(target_os = "openbsd")]
        let _ = (idle, interval, probes);
    }
    #[cfg(target_os = "linux")]
    if let Some(time) = options.user_timeout {
        sockopt::set_tcp_user_timeout(socket, u32::try_from(time.as_millis()).unwrap_or(u32::MAX))?;
    }
    if options.reset_on_close {
        sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
    }
    if let Some(byte) = options.type_of_service {
        if family == AddressFamily::INET6 {
            sockopt::set_ipv6_tclass(socket, byte.into())?;
        } else {
            sockopt::set_ip_tos(socket, byte)?;
        }
    }
    set_buffers(socket, options)
}

/// The system's own unit, at least one.
#[cfg(not(target_os = "openbsd"))]
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}

/// The options that Unix sockets have as well.
pub(super) fn set_buffers(socket: &OwnedFd, options: &SocketOptions) -> io::Result<()> {
    if let Some(bytes) = options.receive_buffer_bytes {
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        sockopt::set_socket_send_buffer_size(socket, bytes)?;
    }
    Ok(())
}

/// A listening socket.
pub(crate) struct Listening {
    pub(crate) socket: OwnedFd,
    /// The address it is bound to.
    pub(crate) bound: Address,
    /// The file that goes with it, if it is a Unix socket.
    pub(crate) file: Option<SocketFile>,
}

/// A listening socket, closed on exec.
pub(crate) fn listen(address: &Address, options: &ListenOptions, mode: Mode) -> io::Result<Listening> {
    match address {
        Address::Ip(ip) => {
            let (socket, bound) = listen_ip(*ip, options, mode)?;
            Ok(Listening { socket, bound: bound.into(), file: None })
        }
        Address::Unix(path) => {
            let (socket, file) = local::listen(path, options, mode)?;
            Ok(Listening { socket, bound: address.clone(), file: Some(file) })
        }
    }
}

fn listen_ip(address: SocketAddr, options: &ListenOptions, mode: Mode) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = open(address, mode)?;
    sockopt::set_socket_reuseaddr(&socket, options.reuse_address)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, options.ipv6_only)?;
    }
    set_options(&socket, family_of(address), &options.socket)?;
    if options.port == PortSharing::Further {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    if options.port == PortSharing::First {
        // Only after the bind: so it fails if another process holds the port, sharing or not.
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    net::listen(&socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    let bound = net::getsockname(&socket)?;
    let bound = SocketAddr::try_from(bound).map_err(|_| Errno::AFNOSUPPORT)?;
    Ok((socket, bound))
}

/// A socket that is ready to connect, closed on exec.
pub(crate) fn for_connect(address: &Address, options: &SocketOptions, mode: Mode) -> io::Result<OwnedFd> {
    match address {
        Address::Ip(ip) => {
            let socket = open(*ip, mode)?;
            set_options(&socket, family_of(*ip), options)?;
            Ok(socket)
        }
        Address::Unix(path) => {
            local::address(path)?;
            let socket = open_family(AddressFamily::UNIX, None, mode)?;
            set_buffers(&socket, options)?;
            Ok(socket)
        }
    }
}

/// The code of a failed set-up call.
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn asked() -> SocketOptions {
        SocketOptions {
            no_delay: true,
            keep_alive: Some(KeepAlive {
                idle: Duration::from_secs(33),
                interval: Duration::from_secs(7),
                probes: 4,
            }),
            user_timeout: Some(Duration::from_millis(12_345)),
            reset_on_close: true,
            receive_buffer_bytes: Some(20_000),
            send_buffer_bytes: Some(30_000),
            type_of_service: Some(46 << 2),
        }
    }

    /// What the system says of a socket is what was asked of it.
    fn assert_set(socket: &OwnedFd, v6: bool) {
        assert!(sockopt::tcp_nodelay(socket).unwrap() && sockopt::socket_keepalive(socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(socket).unwrap(), Duration::from_secs(33));
        assert_eq!(sockopt::tcp_keepintvl(socket).unwrap(), Duration::from_secs(7));
        assert_eq!(sockopt::tcp_keepcnt(socket).unwrap(), 4);
        assert_eq!(sockopt::tcp_user_timeout(socket).unwrap(), 12_345);
        assert_eq!(sockopt::socket_linger(socket).unwrap(), Some(Duration::ZERO));
        // Linux doubles what is asked for.
        assert_eq!(sockopt::socket_recv_buffer_size(socket).unwrap(), 40_000);
        assert_eq!(sockopt::socket_send_buffer_size(socket).unwrap(), 60_000);
        if v6 {
            assert_eq!(sockopt::ipv6_tclass(socket).unwrap(), 46 << 2);
        } else {
            assert_eq!(sockopt::ip_tos(socket).unwrap(), 46 << 2);
        }
    }

    #[test]
    fn every_option_reaches_the_connecting_socket() {
        for to in ["127.0.0.1:1", "[::1]:1"] {
            let to: Address = to.parse().unwrap();
            let socket = for_connect(&to, &asked(), Mode::NonBlocking).unwrap();
            assert_set(&socket, to.ip().unwrap().is_ipv6());
        }
    }

    #[test]
    fn every_option_reaches_accepted_sockets() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let at: Address = at.parse().unwrap();
            let options = ListenOptions { socket: asked(), ..ListenOptions::default() };
            let listening = listen(&at, &options, Mode::Blocking).unwrap();
            let _peer = std::net::TcpStream::connect(listening.bound.ip().unwrap()).unwrap();
            let accepted = net::accept(&listening.socket).unwrap();
            assert_set(&accepted, at.ip().unwrap().is_ipv6());
        }
    }

    #[test]
    fn a_listener_has_its_own_options() {
        for on in [false, true] {
            let options = ListenOptions { reuse_address: on, ipv6_only: on, ..ListenOptions::default() };
            let listening = listen(&"[::]:0".parse().unwrap(), &options, Mode::Blocking).unwrap();
            assert_eq!(sockopt::socket_reuseaddr(&listening.socket).unwrap(), on);
            assert_eq!(sockopt::ipv6_v6only(&listening.socket).unwrap(), on);
        }
    }

    #[test]
    fn a_unix_socket_takes_the_sizes_and_leaves_the_rest_out() {
        let to: Address = "unix:/nobody/there.sock".parse().unwrap();
        let socket = for_connect(&to, &asked(), Mode::NonBlocking).unwrap();
        assert_eq!(sockopt::socket_send_buffer_size(&socket).unwrap(), 60_000);
        assert_eq!(sockopt::socket_linger(&socket).unwrap(), None);
    }
}
