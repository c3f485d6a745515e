//! A socket of a relay: what it is, and what is in flight on it.

use anyport_core::{Fault, FaultKind};

use super::super::wire::receive_cancelled;
use crate::{
    SendBatch,
    types::{OpKind, Outcome, Received, Token},
};

/// Which operation of a socket.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Accept, connect or receive: a socket does one of them at a time.
    Stream,
    Send,
    Shutdown,
    Close,
}

pub(super) struct Socket {
    pub(super) role: Role,
    /// Bits of the operations in flight.
    pub(super) in_flight: u8,
    pub(super) tokens: [Token; 4],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Listener,
    /// Its part of the listener of this number.
    Door(u32),
    /// Not connected yet.
    Opened,
    Connecting,
    Stream,
    /// Its connect failed.
    Failed,
}

impl Place {
    /// Of the kinds that are of sockets.
    pub(super) fn of(kind: OpKind) -> Self {
        match kind {
            OpKind::Accept | OpKind::Connect | OpKind::Receive => Self::Stream,
            OpKind::Send => Self::Send,
            OpKind::Shutdown => Self::Shutdown,
            OpKind::Close => Self::Close,
            kind => unreachable!("{kind:?} is not of sockets"),
        }
    }

    pub(super) fn of_outcome(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Accepted(_)
            | Outcome::AcceptFaulted(_)
            | Outcome::AcceptEnded(_)
            | Outcome::Connected(_)
            | Outcome::Received(_) => Self::Stream,
            Outcome::Sent(..) => Self::Send,
            Outcome::ShutDown(_) => Self::Shutdown,
            Outcome::Closed(_) => Self::Close,
            Outcome::Appended(..) | Outcome::Synced(_) | Outcome::Rotated(_) | Outcome::FileClosed(_) => {
                unreachable!("files have news of their own")
            }
        }
    }
}

impl Socket {
    pub(super) fn new(role: Role) -> Self {
        Self { role, in_flight: 0, tokens: [Token(0); 4] }
    }

    pub(super) fn has(&self, place: Place) -> bool {
        self.in_flight & (1 << place as u8) != 0
    }

    pub(super) fn start(&mut self, place: Place, token: Token) {
        self.in_flight |= 1 << place as u8;
        self.tokens[place as usize] = token;
    }

    /// The token of an operation that is in flight.
    pub(super) fn token(&self, place: Place) -> Token {
        debug_assert!(self.has(place), "the other side answers what it was asked");
        self.tokens[place as usize]
    }

    pub(super) fn end(&mut self, place: Place) -> Option<Token> {
        let was_in_flight = self.has(place);
        self.in_flight &= !(1 << place as u8);
        was_in_flight.then_some(self.tokens[place as usize])
    }

    /// True if the operation may start (sentence 11).
    pub(super) fn allows(&self, kind: OpKind) -> bool {
        let right = match kind {
            OpKind::Accept => matches!(self.role, Role::Listener | Role::Door(_)),
            OpKind::Connect => self.role == Role::Opened,
            OpKind::Receive | OpKind::Send | OpKind::Shutdown => self.role == Role::Stream,
            OpKind::Close => true,
            _ => false,
        };
        right && !self.has(Place::Close) && !self.has(Place::of(kind))
    }
}

/// How what is in flight on a socket ends whose I/O side has gone.
pub(super) fn ends_of(socket: &Socket) -> Vec<Outcome> {
    let fault = Fault::of(FaultKind::Other);
    let mut ends = Vec::new();
    if socket.has(Place::Stream) {
        ends.push(match socket.role {
            Role::Listener | Role::Door(_) => Outcome::AcceptEnded(fault),
            Role::Opened | Role::Connecting => Outcome::Connected(Err(fault)),
            Role::Stream | Role::Failed if socket.has(Place::Close) => receive_cancelled(),
            Role::Stream | Role::Failed => Outcome::Received(Received::Failed(fault)),
        });
    }
    if socket.has(Place::Send) {
        // The batch itself is lost.
        ends.push(Outcome::Sent(SendBatch::of(&[]), Err(fault)));
    }
    if socket.has(Place::Shutdown) {
        ends.push(Outcome::ShutDown(Err(fault)));
    }
    if socket.has(Place::Close) {
        ends.push(Outcome::Closed(Ok(())));
    }
    ends
}
