//! What the driver knows of one socket.

use std::{
    io,
    os::fd::AsRawFd,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyport_core::{SendBatch, SlabKey};
use mio::{Interest, Registry, event::Event, unix::SourceFd};

use crate::{address::Address, queue::Ticket, types::Token, unix::local::SocketFile};

/// Slots per driver: as many as an event's token can name beside the generation.
pub(super) const INDEX_BITS: u32 = if usize::BITS >= 64 { 32 } else { 20 };
/// The waker's event. No slot has this index: slots end one below.
pub(super) const WAKE: mio::Token = mio::Token(usize::MAX);

/// What a socket is used for.
pub(super) enum Role {
    /// Connected: by accept, connect or adopt.
    Stream,
    /// From `listen`.
    Listener(Box<Listener>),
    /// From `open`: it has not tried to connect yet.
    Opened(Box<Address>),
    /// Connecting.
    Connecting(Token),
    /// Connecting failed: it can only be closed.
    Failed,
}

/// What accepting needs.
#[derive(Default)]
pub(super) struct Listener {
    /// The accept in flight.
    pub(super) accept: Option<Token>,
    /// Set at the first shortage, cleared when the backlog was found empty.
    pub(super) back_off: Option<BackOff>,
    /// Accepting rests until the back-off's time, or until a socket closes.
    pub(super) resting: bool,
    /// The file that goes with it, if it is a Unix socket.
    pub(super) file: Option<SocketFile>,
}

/// How long to leave the backlog alone when there is nothing to accept with.
#[derive(Clone, Copy)]
pub(super) struct BackOff {
    /// The period, which doubles.
    pub(super) delay: Duration,
    /// Its end.
    pub(super) until: Instant,
}

/// One socket. Dropping it closes the descriptor, which also takes it out of epoll and kqueue.
pub(super) struct Socket {
    /// Dropped before the descriptor: the file of a Unix socket goes before its listener.
    pub(super) role: Role,
    pub(super) fd: OwnedFd,
    /// Nothing was submitted on it since it was accepted (sentence 13).
    pub(super) movable: bool,
    /// The last edge said that there is something to read, and no read has shown otherwise.
    pub(super) readable: bool,
    /// The end of the stream or an error is behind what is readable: a short read does not mean that there is
    /// nothing more to see, and there will be no further edge.
    pub(super) read_closed: bool,
    /// The last edge said that there is room to send, and no send has shown otherwise.
    pub(super) writable: bool,
    /// Edges for writing are asked for when a send first finds no room: most sockets never need them.
    pub(super) watches_writing: bool,
    /// In the queue of sockets with something to do.
    pub(super) queued: bool,
    /// In the queue of sockets that want receive memory.
    pub(super) wants_memory: bool,
    /// The receive in flight.
    pub(super) receive: Option<Token>,
    /// The send in flight: the system took not all of it yet.
    pub(super) send: Option<(Token, Box<SendBatch>)>,
    /// A shut-down that waits for the send. Rare: boxed.
    pub(super) shutdown: Option<Box<Token>>,
    /// When the last receive's end is out.
    pub(super) receive_ends: Ticket,
    /// When the last send's end is out.
    pub(super) send_ends: Ticket,
    /// When the last shut-down's end is out.
    pub(super) shutdown_ends: Ticket,
}

/// Each idle session pays for it; `docs/measurements.md` says what one takes in all.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Socket>() <= 96, "what is rare goes in a box");

impl Socket {
    /// A socket of which no edge was seen yet.
    pub(super) fn new(fd: OwnedFd, role: Role) -> Self {
        Self {
            fd,
            role,
            movable: false,
            readable: false,
            read_closed: false,
            writable: false,
            watches_writing: false,
            queued: false,
            wants_memory: false,
            receive: None,
            send: None,
            shutdown: None,
            receive_ends: Ticket::default(),
            send_ends: Ticket::default(),
            shutdown_ends: Ticket::default(),
        }
    }

    /// Asks for edges, for the first time. The system reports at once what is ready already.
    pub(super) fn watch(&mut self, registry: &Registry, key: SlabKey, interest: Interest) -> io::Result<()> {
        self.watches_writing = interest.is_writable();
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token_of(key), interest)
    }

    /// Asks for edges of writing as well. The system reports at once what is ready already.
    pub(super) fn watch_writing(&mut self, registry: &Registry, key: SlabKey) -> io::Result<()> {
        if self.watches_writing {
            return Ok(());
        }
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.reregister(&mut SourceFd(&self.fd.as_raw_fd()), token_of(key), both)?;
        self.watches_writing = true;
        Ok(())
    }

    /// Asks for no more edges.
    pub(super) fn unwatch(&self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }

    /// Keeps what an edge says. An error makes everything worth trying: the call then says what it is.
    #[inline]
    pub(super) fn note(&mut self, event: &Event) {
        let error = event.is_error();
        let closed = error || event.is_read_closed();
        self.readable |= closed || event.is_readable();
        self.read_closed |= closed;
        self.writable |= error || event.is_writable() || event.is_write_closed();
    }

    /// True if an operation in flight can be tried.
    #[inline]
    pub(super) fn has_work(&self) -> bool {
        match &self.role {
            Role::Stream => {
                (self.readable && self.receive.is_some() && !self.wants_memory)
                    || (self.writable && self.send.is_some())
            }
            Role::Listener(listener) => self.readable && listener.accept.is_some() && !listener.resting,
            Role::Connecting(_) => self.writable,
            Role::Opened(_) | Role::Failed => false,
        }
    }

    /// True for a connected socket.
    #[inline]
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.role, Role::Stream)
    }
}

/// The event token of a key: the slot, and of the generation what fits beside it. 64-bit machines hold all.
#[inline]
pub(super) fn token_of(key: SlabKey) -> mio::Token {
    mio::Token(((key.generation as usize) << INDEX_BITS) | key.index as usize)
}

/// The slot of an event token.
#[inline]
pub(super) fn index_of(token: mio::Token) -> u32 {
    (token.0 & ((1 << INDEX_BITS) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_slots_and_generations_apart() {
        let key = |index, generation| SlabKey { index, generation };
        let tokens = [key(0, 1), key(1, 1), key(0, 2), key(70_000, 1), key((1 << 20) - 2, 3)].map(token_of);
        for (at, token) in tokens.iter().enumerate() {
            assert!(!tokens[..at].contains(token) && *token != WAKE);
        }
        assert_eq!(tokens.map(index_of), [0, 1, 0, 70_000, (1 << 20) - 2]);
    }
}
