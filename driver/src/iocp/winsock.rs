//! Sockets of Windows: setting them up, and the calls that only Windows has.

use std::{io, net::SocketAddr, os::windows::io::AsRawSocket, ptr, time::Duration};

use anyport_core::{Fault, SendBatch};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use windows_sys::{
    Win32::{
        Networking::WinSock::{
            LPFN_ACCEPTEX, LPFN_CONNECTEX, LPFN_GETACCEPTEXSOCKADDRS, SIO_GET_EXTENSION_FUNCTION_POINTER,
            SO_EXCLUSIVEADDRUSE, SO_PROTOCOL_INFOW, SO_UPDATE_ACCEPT_CONTEXT, SO_UPDATE_CONNECT_CONTEXT,
            SOCKET, SOL_SOCKET, WSA_IO_PENDING, WSABUF, WSAID_ACCEPTEX, WSAID_CONNECTEX,
            WSAID_GETACCEPTEXSOCKADDRS, WSAIoctl, WSAPROTOCOL_INFOW, WSARecv, WSASend, XP1_IFS_HANDLES,
            getsockopt, setsockopt,
        },
        System::IO::{CancelIoEx, OVERLAPPED},
    },
    core::GUID,
};

use super::{accept::Addresses, errors::last_fault};
use crate::options::{KeepAlive, ListenOptions, PortSharing, SocketOptions};

/// Most pieces in one gathered send: far below what every provider takes.
const PIECES_MAX: usize = 64;
/// Most bytes in one send call: they stay locked in memory until it completes.
const SEND_CALL_BYTES: usize = 1 << 20;

// ---- setting up ----

/// An overlapped TCP socket that child processes do not inherit.
pub(super) fn open(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

pub(super) fn set_options(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    if options.no_delay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(KeepAlive { idle, interval, .. }) = options.keep_alive {
        // SIO_KEEPALIVE_VALS, in milliseconds. The number of probes cannot be set on every version: it is ten.
        let probes = TcpKeepalive::new().with_time(idle).with_interval(interval);
        socket.set_tcp_keepalive(&probes)?;
    }
    if options.reset_on_close {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

/// A listening socket, and the address it is bound to.
pub(super) fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<(Socket, SocketAddr)> {
    if options.port != PortSharing::Alone {
        let text = "Windows does not share a port among listeners: listen once and hand connections over";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let socket = open(address)?;
    // Without it another program could bind the same port and take our connections.
    set_flag(&socket, SO_EXCLUSIVEADDRUSE)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.ipv6_only)?;
    }
    set_options(&socket, &options.socket)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(backlog(options.backlog))?;
    let bound = socket.local_addr()?.as_socket().expect("it was bound to an address of IP");
    Ok((socket, bound))
}

/// A plain number of more than 200 is cut to 200; `SOMAXCONN_HINT` takes up to 65,535.
fn backlog(wanted: u32) -> i32 {
    const PLAIN_MAX: u32 = 200;
    match i32::from(u16::try_from(wanted).unwrap_or(u16::MAX)) {
        plain if wanted <= PLAIN_MAX => plain,
        hinted => -hinted,
    }
}

fn set_flag(socket: &Socket, option: i32) -> io::Result<()> {
    let yes = 1_i32;
    // SAFETY: the handle is borrowed and open, and the value is as long as is said.
    let failed =
        unsafe { setsockopt(raw(socket), SOL_SOCKET, option, (&raw const yes).cast(), len_of::<i32>()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// True if the socket is a real handle of the system, and no layer stands in between: then an operation that
/// succeeds at once may go without a packet.
pub(super) fn is_real_handle(socket: &Socket) -> bool {
    // SAFETY: the structure is integers, for which zeros are valid.
    let mut info: WSAPROTOCOL_INFOW = unsafe { std::mem::zeroed() };
    let mut len = len_of::<WSAPROTOCOL_INFOW>();
    // SAFETY: the handle is borrowed and open, and the buffer is as long as is said.
    let failed = unsafe {
        getsockopt(raw(socket), SOL_SOCKET, SO_PROTOCOL_INFOW, (&raw mut info).cast(), &raw mut len)
    };
    failed == 0 && info.dwServiceFlags1 & XP1_IFS_HANDLES != 0
}

/// A length as Winsock wants it.
fn len_of<T>() -> i32 {
    (size_of::<T>() as u32).cast_signed()
}

fn raw(socket: &Socket) -> SOCKET {
    socket.as_raw_socket() as SOCKET
}

// ---- operations ----

/// What a call said of an operation.
pub(super) enum Started {
    /// A packet will tell.
    Pending,
    /// It is done, of so many bytes. There is a packet all the same unless it is skipped for this socket.
    Done(u32),
    /// It failed, and there is no packet.
    Failed(Fault),
}

impl Started {
    fn of_winsock(result: i32, bytes: u32) -> Self {
        if result == 0 { Self::Done(bytes) } else { Self::of_failure() }
    }

    fn of_extension(done: i32) -> Self {
        if done != 0 { Self::Done(0) } else { Self::of_failure() }
    }

    fn of_failure() -> Self {
        match last_fault() {
            fault if fault.code == WSA_IO_PENDING => Self::Pending,
            fault => Self::Failed(fault),
        }
    }
}

/// Starts a receive of no bytes: it completes when there is something to read, and takes nothing.
///
/// # Safety
/// `overlapped` is a slot's, which is kept until the operation's packet.
pub(super) unsafe fn pre_receive(socket: &Socket, overlapped: *mut OVERLAPPED) -> Started {
    let none = WSABUF { len: 0, buf: ptr::NonNull::dangling().as_ptr() };
    let (mut bytes, mut flags) = (0, 0);
    // SAFETY: the buffer is empty; Windows copies the WSABUF within the call; the caller keeps the slot.
    let result =
        unsafe { WSARecv(raw(socket), &raw const none, 1, &raw mut bytes, &raw mut flags, overlapped, None) };
    Started::of_winsock(result, bytes)
}

/// Starts a send of what remains of `batch`, or of its front if that is long.
///
/// # Safety
/// `overlapped` is a slot's that owns the batch, both of which are kept until the operation's packet.
pub(super) unsafe fn send(socket: &Socket, batch: &SendBatch, overlapped: *mut OVERLAPPED) -> Started {
    let mut pieces = [WSABUF { len: 0, buf: ptr::null_mut() }; PIECES_MAX];
    let (mut count, mut room) = (0, SEND_CALL_BYTES);
    for (piece, slice) in pieces.iter_mut().zip(batch.slices()) {
        let slice = &slice[..slice.len().min(room)];
        *piece = WSABUF { len: slice.len() as u32, buf: slice.as_ptr().cast_mut() };
        count += 1;
        room -= slice.len();
        if room == 0 {
            break;
        }
    }
    let mut bytes = 0;
    // SAFETY: Windows copies the WSABUFs within the call and only reads what they point at: pieces of the batch,
    // which the caller keeps with the slot.
    let result = unsafe { WSASend(raw(socket), pieces.as_ptr(), count, &raw mut bytes, 0, overlapped, None) };
    Started::of_winsock(result, bytes)
}

/// Asks for the end of one operation, or of all on this socket for null. Each has its packet as before.
pub(super) fn cancel(socket: &Socket, overlapped: *const OVERLAPPED) {
    // It fails if nothing is in flight: then there is nothing to end.
    // SAFETY: the handle is borrowed and open; the pointer only names an operation.
    unsafe { CancelIoEx(raw(socket) as _, overlapped) };
}

/// The calls of `mswsock` that a provider is asked for: the old engines' `AcceptEx` and `ConnectEx`.
pub(super) struct Extensions {
    accept: LPFN_ACCEPTEX,
    connect: LPFN_CONNECTEX,
    addresses: LPFN_GETACCEPTEXSOCKADDRS,
}

impl Extensions {
    /// Asks the provider of this socket.
    pub(super) fn load(socket: &Socket) -> io::Result<Self> {
        // SAFETY: this GUID names a function of this type.
        let accept = unsafe { extension::<LPFN_ACCEPTEX>(socket, WSAID_ACCEPTEX) }?;
        // SAFETY: this GUID names a function of this type.
        let connect = unsafe { extension::<LPFN_CONNECTEX>(socket, WSAID_CONNECTEX) }?;
        // SAFETY: this GUID names a function of this type.
        let addresses =
            unsafe { extension::<LPFN_GETACCEPTEXSOCKADDRS>(socket, WSAID_GETACCEPTEXSOCKADDRS) }?;
        if accept.is_none() || connect.is_none() || addresses.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the provider has no AcceptEx or ConnectEx",
            ));
        }
        Ok(Self { accept, connect, addresses })
    }

    /// Starts an accept into `socket`. No byte is received with it: a client that connects and says nothing would
    /// hold the accept for ever.
    ///
    /// # Safety
    /// `overlapped` is a slot's that owns `socket` and `addresses`, which are kept until the operation's packet.
    pub(super) unsafe fn accept(
        &self,
        listener: &Socket,
        socket: &Socket,
        addresses: *mut Addresses,
        overlapped: *mut OVERLAPPED,
    ) -> Started {
        let accept = self.accept.expect("loaded");
        let (each, mut bytes) = (Addresses::EACH, 0);
        // SAFETY: the addresses' memory has room for two of what is said; the caller keeps all with the slot.
        let done = unsafe {
            accept(raw(listener), raw(socket), addresses.cast(), 0, each, each, &raw mut bytes, overlapped)
        };
        Started::of_extension(done)
    }

    /// Who connected, from what an accept has written.
    pub(super) fn peer(&self, addresses: &Addresses) -> Option<SocketAddr> {
        let find = self.addresses.expect("loaded");
        let (mut local, mut peer) = (ptr::null_mut(), ptr::null_mut());
        let (mut local_len, mut peer_len) = (0, 0);
        let each = Addresses::EACH;
        // SAFETY: the memory is laid out as it was for the accept; the four results are variables of ours.
        unsafe {
            find(
                (&raw const *addresses).cast(),
                0,
                each,
                each,
                &raw mut local,
                &raw mut local_len,
                &raw mut peer,
                &raw mut peer_len,
            );
        }
        let len = usize::try_from(peer_len).ok().filter(|&len| !peer.is_null() && len <= each as usize)?;
        let copy = |storage: *mut socket2::SockAddrStorage, storage_len: *mut i32| {
            assert!(len <= size_of::<socket2::SockAddrStorage>(), "an address longer than any");
            // SAFETY: the address lies in `addresses` and is no longer than the storage.
            unsafe { ptr::copy_nonoverlapping(peer.cast::<u8>(), storage.cast::<u8>(), len) };
            // SAFETY: the length is where the caller says.
            unsafe { storage_len.write(peer_len) };
            Ok(())
        };
        // SAFETY: the storage was zeroed, and is now an address of the length that was written.
        let address = unsafe { SockAddr::try_init(copy) };
        address.ok()?.1.as_socket()
    }

    /// Starts a connect of a socket that is bound.
    ///
    /// # Safety
    /// `overlapped` is a slot's, which is kept until the operation's packet.
    pub(super) unsafe fn connect(
        &self,
        socket: &Socket,
        to: SocketAddr,
        overlapped: *mut OVERLAPPED,
    ) -> Started {
        let connect = self.connect.expect("loaded");
        let (address, mut bytes) = (SockAddr::from(to), 0);
        // SAFETY: Windows copies the address within the call; the caller keeps the slot.
        let done = unsafe {
            connect(
                raw(socket),
                address.as_ptr().cast(),
                address.len(),
                ptr::null(),
                0,
                &raw mut bytes,
                overlapped,
            )
        };
        Started::of_extension(done)
    }
}

/// Asks a socket's provider for a function.
///
/// # Safety
/// `F` is a nullable function pointer of the type that `which` names.
unsafe fn extension<F: Default>(socket: &Socket, which: GUID) -> io::Result<F> {
    let (mut function, mut bytes) = (F::default(), 0);
    // SAFETY: input and output are variables of ours, as long as is said; the caller vouches for the type.
    let failed = unsafe {
        WSAIoctl(
            raw(socket),
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            (&raw const which).cast(),
            size_of::<GUID>() as u32,
            (&raw mut function).cast(),
            size_of::<F>() as u32,
            &raw mut bytes,
            ptr::null_mut(),
            None,
        )
    };
    if failed == 0 { Ok(function) } else { Err(io::Error::last_os_error()) }
}

/// Makes an accepted socket a full one: without it `shutdown` and asking for its addresses fail.
pub(super) fn update_accept_context(socket: &Socket, listener: &Socket) -> io::Result<()> {
    let listener = raw(listener);
    // SAFETY: the handle is borrowed and open, and the value is as long as is said.
    let failed = unsafe {
        setsockopt(
            raw(socket),
            SOL_SOCKET,
            SO_UPDATE_ACCEPT_CONTEXT,
            (&raw const listener).cast(),
            len_of::<SOCKET>(),
        )
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a connected socket a full one, as [`update_accept_context`] does.
pub(super) fn update_connect_context(socket: &Socket) -> io::Result<()> {
    // SAFETY: the handle is borrowed and open, and there is no value.
    let failed = unsafe { setsockopt(raw(socket), SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, ptr::null(), 0) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_backlog_is_given_as_a_hint() {
        assert_eq!(
            [0, 1, 200, 201, 4096, 65_535, 1 << 20].map(backlog),
            [0, 1, 200, -201, -4096, -65_535, -65_535]
        );
    }

    #[test]
    fn the_provider_has_what_is_needed() {
        let socket = open("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(Extensions::load(&socket).is_ok() && is_real_handle(&socket));
    }
}
