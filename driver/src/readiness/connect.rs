//! Connecting: start it, and ask what became of it when the socket can be written to.

use std::net::SocketAddr;

use anyport_core::{Fault, FaultKind, SlabKey};
use mio::Interest;
use rustix::{
    io::Errno,
    net::{self, sockopt},
};

use super::{Readiness, socket::Role};
use crate::{
    options::SocketOptions,
    types::{Completion, Outcome, SocketKey, Token},
    unix::{
        errno::fault,
        socket::{errno_of, for_connect},
    },
};

impl Readiness {
    pub(super) fn submit_connect(&mut self, token: Token, address: SocketAddr, options: &SocketOptions) {
        match self.start_connecting(token, address, options) {
            Ok(None) => {}
            Ok(Some(key)) => {
                self.finished.push(token, Outcome::Connected(Ok(SocketKey(key))));
            }
            Err(fault) => {
                self.finished.push(token, Outcome::Connected(Err(fault)));
            }
        }
    }

    /// The key if the connection is there at once.
    fn start_connecting(
        &mut self,
        token: Token,
        address: SocketAddr,
        options: &SocketOptions,
    ) -> Result<Option<SlabKey>, Fault> {
        if !self.has_slot() {
            return Err(Fault::of(FaultKind::NoDescriptors));
        }
        let fd = for_connect(address, options, crate::unix::socket::Mode::NonBlocking)
            .map_err(|error| fault(errno_of(&error)))?;
        match net::connect(&fd, &address) {
            Ok(()) => self.add(fd, Role::Stream, Interest::READABLE).map(Some),
            // An interrupted call goes on in the background as well. Watched only now: a socket that was
            // never told to connect reports a hang-up.
            Err(Errno::INPROGRESS | Errno::INTR) => {
                let both = Interest::READABLE | Interest::WRITABLE;
                self.add(fd, Role::Connecting(token), both).map(|_| None)
            }
            Err(errno) => Err(fault(errno)),
        }
    }

    /// Reports a connection that was made or refused.
    pub(super) fn finish_connecting(&mut self, key: SlabKey, out: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let Role::Connecting(token) = socket.role else { return };
        socket.writable = false;
        let made = sockopt::socket_error(&socket.fd).and_then(|error| error);
        let outcome = match made.and_then(|()| net::getpeername(&socket.fd)) {
            Ok(_) => {
                socket.role = Role::Stream;
                Ok(SocketKey(key))
            }
            // Not failed and not connected: a spurious event.
            Err(Errno::NOTCONN) => return,
            Err(errno) => {
                self.remove(key);
                Err(fault(errno))
            }
        };
        out.push(Completion { token, outcome: Outcome::Connected(outcome) });
    }
}
