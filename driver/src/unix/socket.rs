//! Opening sockets: what has to be set before they are used.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{self, AddressFamily, Protocol, SocketFlags, SocketType, ipproto, sockopt},
};

use super::local::{self, SocketFile};
use crate::{
    address::Address,
    options::{ListenOptions, PortSharing, SocketOptions},
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

/// Probes that may stay unanswered before a peer is taken for dead.
const KEEP_ALIVE_PROBES: u32 = 6;

fn open(address: SocketAddr, mode: Mode) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    open_family(family, Some(ipproto::TCP), mode)
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

fn set_options(socket: &OwnedFd, options: &SocketOptions) -> io::Result<()> {
    if options.no_delay {
        sockopt::set_tcp_nodelay(socket, true)?;
    }
    if let Some(idle) = options.keep_alive {
        sockopt::set_socket_keepalive(socket, true)?;
        // Whole seconds, at least one: the system's own unit.
        let idle = idle.max(Duration::from_secs(1));
        let interval = (idle / KEEP_ALIVE_PROBES).max(Duration::from_secs(1));
        #[cfg(not(target_os = "openbsd"))]
        {
            sockopt::set_tcp_keepidle(socket, idle)?;
            sockopt::set_tcp_keepintvl(socket, interval)?;
            sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_PROBES)?;
        }
    }
    set_buffers(socket, options)
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
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    set_options(&socket, &options.socket)?;
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
            set_options(&socket, options)?;
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
