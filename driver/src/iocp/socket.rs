//! What the driver knows of one socket.

use std::net::SocketAddr;

use anyport_core::{Fault, SendBatch};
use socket2::Socket as Handle;

use crate::{posting::Posting, queue::Ticket, types::Token};

/// What a socket is used for.
pub(super) enum Role {
    /// Connected: by accept, connect or adopt.
    Stream,
    /// From `listen`.
    Listener(Box<Listening>),
    /// From `open`: it has not tried to connect yet.
    Opened(Box<SocketAddr>),
    /// The kernel has the connect.
    Connecting(Token),
    /// Connecting, or setting it up, failed: it can only be closed.
    Failed,
}

/// What accepting needs.
pub(super) struct Listening {
    pub(super) posting: Posting,
    /// Options of the connections.
    pub(super) options: crate::options::SocketOptions,
    /// The family of the sockets that are accepted into.
    pub(super) address: SocketAddr,
    /// Accepts that failed since one went well.
    pub(super) failures: usize,
}

/// Where the send in flight is.
pub(super) enum Sending {
    /// The kernel has it, in this slot.
    InKernel {
        token: Token,
        slot: u32,
        /// A cancel was asked for: what is not sent stays unsent.
        cancelled: bool,
    },
    /// It was sent in part, and has had its turn: the rest goes at the next wait.
    TurnOver(Token, Box<SendBatch>),
}

/// One socket.
pub(super) struct Socket {
    /// Gone once a close has let go of it; packets may still be on their way.
    pub(super) handle: Option<Handle>,
    pub(super) role: Role,
    /// It reports to this driver's port.
    pub(super) associated: bool,
    /// An operation that succeeds at once has no packet.
    pub(super) skips_packets: bool,
    /// Nothing was submitted on it since it was accepted (sentence 13).
    pub(super) movable: bool,
    /// A read may find something.
    pub(super) readable: bool,
    /// In the queue of sockets with something to do.
    pub(super) queued: bool,
    /// In the queue of sockets that want receive memory.
    pub(super) wants_memory: bool,
    /// What the zero-byte receive ended with: reported when all that came before was read.
    pub(super) failed: Option<Fault>,
    /// The zero-byte receive that the kernel has. It outlives a cancelled receive: it takes nothing.
    pub(super) pre_receive: Option<u32>,
    /// The receive in flight.
    pub(super) receive: Option<Token>,
    /// The send in flight.
    pub(super) send: Option<Sending>,
    /// A shut-down that waits for the send.
    pub(super) shutdown: Option<Token>,
    /// When the last receive's end is out.
    pub(super) receive_ends: Ticket,
    /// When the last send's end is out.
    pub(super) send_ends: Ticket,
    /// When the last shut-down's end is out.
    pub(super) shutdown_ends: Ticket,
    /// The close in flight.
    pub(super) closing: Option<Token>,
}

impl Socket {
    pub(super) fn new(handle: Handle, role: Role) -> Self {
        Self {
            handle: Some(handle),
            role,
            associated: false,
            skips_packets: false,
            movable: false,
            readable: false,
            queued: false,
            wants_memory: false,
            failed: None,
            pre_receive: None,
            receive: None,
            send: None,
            shutdown: None,
            receive_ends: Ticket::default(),
            send_ends: Ticket::default(),
            shutdown_ends: Ticket::default(),
            closing: None,
        }
    }

    /// The handle. Only a closing socket has none.
    pub(super) fn handle(&self) -> &Handle {
        self.handle.as_ref().expect("a socket that is not closing has its handle")
    }

    /// True for a connected socket that is not closing.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.role, Role::Stream) && self.closing.is_none()
    }

    /// Its listening side, for a listener that is not closing.
    pub(super) fn listening(&mut self) -> Option<&mut Listening> {
        match &mut self.role {
            Role::Listener(listening) if self.closing.is_none() => Some(listening),
            _ => None,
        }
    }

    /// True if the kernel has an operation on it.
    pub(super) fn is_busy(&self) -> bool {
        let of_role = match &self.role {
            Role::Listener(listening) => listening.posting.posted > 0,
            Role::Connecting(_) => true,
            Role::Stream | Role::Opened(_) | Role::Failed => false,
        };
        of_role || self.pre_receive.is_some() || matches!(self.send, Some(Sending::InKernel { .. }))
    }

    /// True if a read is worth trying, and memory for it was not asked for yet.
    pub(super) fn wants_to_read(&self) -> bool {
        self.readable && self.receive.is_some() && !self.wants_memory
    }

    /// True if there is something to do for it without a further packet.
    pub(super) fn has_work(&self) -> bool {
        self.wants_to_read() || matches!(self.send, Some(Sending::TurnOver(..)))
    }
}
