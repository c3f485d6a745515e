//! Connecting: start it, and ask what became of it when the socket can be written to.

use std::os::fd::OwnedFd;

use anyport_core::{Fault, FaultKind, SlabKey};
use mio::Interest;
use rustix::{
    io::Errno,
    net::{self, sockopt},
};

use super::{Readiness, socket::Role};
use crate::{
    address::Address,
    options::SocketOptions,
    types::{Completion, Outcome, SocketKey, Token},
    unix::{
        errno::{fault, fault_of_connect},
        local,
        socket::{errno_of, for_connect},
    },
};

fn connect(socket: &OwnedFd, to: &Address) -> Result<(), Errno> {
    match to {
        Address::Ip(ip) => net::connect(socket, ip),
        Address::Unix(path) => match net::connect(socket, &local::address(path).map_err(|e| errno_of(&e))?) {
            // Its backlog is full, and nothing would tell when it is not.
            Err(Errno::AGAIN) => Err(Errno::TIMEDOUT),
            result => result,
        },
    }
}

impl Readiness {
    pub(super) fn open_to_connect(
        &mut self,
        address: &Address,
        options: &SocketOptions,
    ) -> Result<SocketKey, Fault> {
        if !self.has_slot() {
            return Err(Fault::of(FaultKind::NoDescriptors));
        }
        let fd = for_connect(address, options, crate::unix::socket::Mode::NonBlocking)
            .map_err(|error| fault(errno_of(&error)))?;
        self.insert(fd, Role::Opened(Box::new(address.clone()))).map(SocketKey)
    }

    pub(super) fn submit_connect(&mut self, token: Token, SocketKey(key): SocketKey) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return self.connect_ends(token, Err(Fault::of(FaultKind::InvalidSocket)));
        };
        let Role::Opened(address) = &socket.role else {
            return self.connect_ends(token, Err(Fault::of(FaultKind::InvalidSocket)));
        };
        // Watched only once it was told to connect: before, it reports a hang-up.
        let (role, interest) = match connect(&socket.fd, address) {
            Ok(()) => (Role::Stream, Interest::READABLE),
            // An interrupted call goes on in the background as well.
            Err(Errno::INPROGRESS | Errno::INTR) => {
                (Role::Connecting(token), Interest::READABLE | Interest::WRITABLE)
            }
            Err(errno) => {
                socket.role = Role::Failed;
                return self.connect_ends(token, Err(fault_of_connect(errno)));
            }
        };
        socket.role = role;
        if let Err(error) = socket.watch(self.poll.registry(), key, interest) {
            socket.role = Role::Failed;
            return self.connect_ends(token, Err(fault(errno_of(&error))));
        }
        if socket.is_stream() {
            self.connect_ends(token, Ok(()));
        }
    }

    fn connect_ends(&mut self, token: Token, result: Result<(), Fault>) {
        self.finished.push(token, Outcome::Connected(result));
    }

    /// Reports a connection that was made or refused.
    pub(super) fn finish_connecting(&mut self, key: SlabKey, out: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let Role::Connecting(token) = socket.role else { return };
        socket.writable = false;
        let made = sockopt::socket_error(&socket.fd).and_then(|error| error);
        let result = match made.and_then(|()| net::getpeername(&socket.fd)) {
            Ok(_) => {
                socket.role = Role::Stream;
                Ok(())
            }
            // Not failed and not connected: a spurious event.
            Err(Errno::NOTCONN) => return,
            Err(errno) => {
                socket.role = Role::Failed;
                Err(fault(errno))
            }
        };
        out.push(Completion { token, outcome: Outcome::Connected(result) });
    }
}
