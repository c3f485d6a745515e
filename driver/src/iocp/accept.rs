//! Accepting and connecting: how sockets come into the driver.
//!
//! Several `AcceptEx` are posted ahead for each listener, each with a socket that becomes the connection. The socket
//! is complete only after `SO_UPDATE_ACCEPT_CONTEXT`. Whatever step fails, that socket is closed and another accept is
//! posted, so that a listener never has fewer than it wants but for a shortage (bug class R12).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use anyport_core::{Fault, FaultKind, SlabKey};
use socket2::{SockAddr, Socket as Handle};
use windows_sys::Win32::Networking::WinSock::SOCKADDR_STORAGE;

use super::{
    CANCELLED, INVALID, Iocp,
    errors::{fault_of, is_shortage, outcome},
    slots::Operation,
    socket::{Role, Socket},
    winsock::{self, Started},
};
use crate::{
    options::SocketOptions,
    posting::ACCEPTS_POSTED,
    types::{Accepted, Outcome, SocketKey, Token},
};

/// Where `AcceptEx` writes the local and the remote address, in a form of its own.
#[repr(C, align(8))]
pub(super) struct Addresses([u8; 2 * Self::EACH as usize]);

impl Addresses {
    /// Room for one: `AcceptEx` wants 16 bytes more than the address.
    pub(super) const EACH: u32 = size_of::<SOCKADDR_STORAGE>() as u32 + 16;

    pub(super) fn none() -> Self {
        Self([0; 2 * Self::EACH as usize])
    }
}

impl Iocp {
    // ---- accept ----

    pub(super) fn submit_accept(&mut self, token: Token, SocketKey(key): SocketKey) {
        match self.sockets.get_mut(key).and_then(Socket::listening) {
            Some(listening) if listening.posting.token.is_none() => {
                listening.posting.token = Some(token);
                self.short_of_accepts.push(key);
                self.top_up_accepts(true);
            }
            _ => {
                self.finished.push(token, Outcome::AcceptEnded(INVALID));
            }
        }
    }

    /// Posts one accept. The kernel has it when this gives `Ok`.
    fn post_accept(&mut self, key: SlabKey) -> Result<(), Fault> {
        let listener = self.sockets.get_mut(key).expect("accepts are posted for a listener that is there");
        let address = listener.listening().expect("accepts are posted for a listener that is open").address;
        let socket = winsock::open(address).map_err(|error| fault_of(&error))?;
        let (slot, overlapped) = self.slots.take(Operation::Accept(key, socket, Box::new(Addresses::none())));
        let Operation::Accept(_, socket, addresses) = self.slots.operation(slot) else {
            unreachable!("it was put there above")
        };
        let listener = self.sockets.get_mut(key).expect("looked up above");
        // SAFETY: the slot owns socket and addresses, and is released by the packet.
        let started =
            unsafe { self.extensions.accept(listener.handle(), socket, &raw mut **addresses, overlapped) };
        match started {
            // A listener's packets are not skipped: one comes in either case.
            Started::Pending | Started::Done(_) => {
                listener.listening().expect("looked up above").posting.posted += 1;
                self.posted += 1;
                Ok(())
            }
            Started::Failed(fault) => {
                self.slots.abandon(slot);
                Err(fault)
            }
        }
    }

    pub(super) fn accepted(&mut self, status: i32, key: SlabKey, socket: Handle, addresses: &Addresses) {
        self.posted -= 1;
        let listener = self.sockets.get_mut(key).expect("a listener outlives its accepts");
        let Role::Listener(listening) = &mut listener.role else { unreachable!("it is a listener") };
        listening.posting.posted -= 1;
        if listener.closing.is_some() {
            // Whoever came just now finds the door closed.
            drop(socket);
            return self.finish_close(key);
        }
        let token = listening.posting.token.expect("accepts are posted for a submitted accept");
        let accepted = outcome(status).and_then(|()| self.take_in(key, socket, addresses));
        match accepted {
            Ok(accepted) => {
                self.finished.push(token, Outcome::Accepted(accepted));
                if let Some(listening) = self.sockets.get_mut(key).and_then(Socket::listening) {
                    listening.failures = 0;
                    listening.posting.went_well();
                }
            }
            Err(fault) => {
                let listening =
                    self.sockets.get_mut(key).and_then(Socket::listening).expect("looked up above");
                listening.failures += 1;
                // A peer that went away in the backlog is passed over; if every accept fails, it is not the peers.
                if is_shortage(fault) || listening.failures > ACCEPTS_POSTED {
                    return self.rest(key, fault);
                }
            }
        }
        self.note_short(key);
        self.top_up_accepts(false);
    }

    /// Makes an accepted socket a full one and gives it a place.
    fn take_in(&mut self, key: SlabKey, socket: Handle, addresses: &Addresses) -> Result<Accepted, Fault> {
        let listener = self.sockets.get_mut(key).expect("a listener outlives its accepts");
        winsock::update_accept_context(&socket, listener.handle()).map_err(|error| fault_of(&error))?;
        let options = listener.listening().expect("it is an open listener").options;
        winsock::set_options(&socket, &options).map_err(|error| fault_of(&error))?;
        let peer = self.extensions.peer(addresses).ok_or(Fault::of(FaultKind::PeerReset))?;
        Ok(Accepted { socket: SocketKey(self.add(socket, true)?), peer: peer.into() })
    }

    fn note_short(&mut self, key: SlabKey) {
        if !self.short_of_accepts.contains(&key) {
            self.short_of_accepts.push(key);
        }
    }

    /// Holds accepts back for a while, and says so once.
    fn rest(&mut self, key: SlabKey, fault: Fault) {
        self.note_short(key);
        let Some(listening) = self.sockets.get_mut(key).and_then(Socket::listening) else { return };
        listening.failures = 0;
        if let Some(token) = listening.posting.rest(Instant::now()) {
            self.finished.push(token, Outcome::AcceptFaulted(fault));
        }
    }

    /// True if one more socket could be taken in, counting those that are on their way.
    pub(super) fn has_place(&self) -> bool {
        self.sockets.len() + self.sockets.retired() + self.posted < self.sockets_max
    }

    /// Posts the accepts that listeners lack, as far as there are places. `now` does not wait for the end of a
    /// rest: a socket has closed, so what was short may be there.
    pub(super) fn top_up_accepts(&mut self, now: bool) {
        if self.short_of_accepts.is_empty() {
            return;
        }
        for key in std::mem::take(&mut self.short_of_accepts) {
            let Some(listening) = self.sockets.get_mut(key).and_then(Socket::listening) else { continue };
            let posting = &mut listening.posting;
            if !now && posting.rests_until().is_some_and(|until| Instant::now() < until) {
                self.short_of_accepts.push(key);
                continue;
            }
            posting.take_up();
            let lacking = posting.lacking();
            for _ in 0..lacking {
                if !self.has_place() {
                    self.short_of_accepts.push(key);
                    let report = self.sockets.get_mut(key).and_then(Socket::listening);
                    if let Some(token) = report.and_then(|listening| listening.posting.no_place()) {
                        let fault = Fault::of(FaultKind::NoDescriptors);
                        self.finished.push(token, Outcome::AcceptFaulted(fault));
                    }
                    break;
                }
                if let Err(fault) = self.post_accept(key) {
                    self.rest(key, fault);
                    break;
                }
            }
        }
    }

    /// When the first listener that rests is to be taken up.
    pub(super) fn next_rest_end(&self) -> Option<Instant> {
        let rests = self.short_of_accepts.iter().filter_map(|&key| match &self.sockets.get(key)?.role {
            Role::Listener(listening) => listening.posting.rests_until(),
            Role::Stream | Role::Opened(_) | Role::Connecting(_) | Role::Failed => None,
        });
        rests.min()
    }

    // ---- connect ----

    pub(super) fn open_to_connect(
        &mut self,
        address: SocketAddr,
        options: &SocketOptions,
    ) -> Result<SocketKey, Fault> {
        if !self.has_place() {
            return Err(Fault::of(FaultKind::NoDescriptors));
        }
        let handle = self.ready_to_connect(address, options).map_err(|error| fault_of(&error))?;
        let socket = Socket { associated: true, ..Socket::new(handle, Role::Opened(Box::new(address))) };
        let added = self.sockets.insert(socket);
        added.map(SocketKey).map_err(|_closed_by_dropping_it| Fault::of(FaultKind::NoDescriptors))
    }

    fn ready_to_connect(&self, address: SocketAddr, options: &SocketOptions) -> io::Result<Handle> {
        let socket = winsock::open(address)?;
        winsock::set_options(&socket, options)?;
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        // ConnectEx wants a bound socket.
        socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
        self.port.associate(&socket)?;
        Ok(socket)
    }

    pub(super) fn submit_connect(&mut self, token: Token, SocketKey(key): SocketKey) {
        if let Err(fault) = self.start_connecting(token, key) {
            self.finished.push(token, Outcome::Connected(Err(fault)));
        }
    }

    fn start_connecting(&mut self, token: Token, key: SlabKey) -> Result<(), Fault> {
        let socket = self.sockets.get_mut(key).filter(|socket| socket.closing.is_none()).ok_or(INVALID)?;
        let Role::Opened(address) = &socket.role else { return Err(INVALID) };
        let address = **address;
        let (slot, overlapped) = self.slots.take(Operation::Connect(key));
        // SAFETY: the slot is released by the packet; the socket is kept until then.
        match unsafe { self.extensions.connect(socket.handle(), address, overlapped) } {
            // Packets are skipped only once it is connected: one comes in either case.
            Started::Pending | Started::Done(_) => {
                socket.role = Role::Connecting(token);
                Ok(())
            }
            Started::Failed(fault) => {
                self.slots.abandon(slot);
                socket.role = Role::Failed;
                Err(fault)
            }
        }
    }

    /// A connect's packet.
    pub(super) fn connected(&mut self, status: i32, key: SlabKey) {
        let socket = self.sockets.get_mut(key).expect("a socket outlives its operations");
        let Role::Connecting(token) = socket.role else {
            unreachable!("a packet of a connect that is not in flight")
        };
        let result = if socket.closing.is_some() {
            Err(CANCELLED)
        } else {
            outcome(status).and_then(|()| {
                winsock::update_connect_context(socket.handle()).map_err(|error| fault_of(&error))?;
                super::prepare(socket, self.may_skip).map_err(|error| fault_of(&error))
            })
        };
        socket.role = if result.is_ok() { Role::Stream } else { Role::Failed };
        self.finished.push(token, Outcome::Connected(result));
        self.finish_close(key);
    }
}
