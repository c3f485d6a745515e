//! The other side of connections, for test code: never blocks, tells what it sees.

use std::{cell::RefCell, fmt, net::SocketAddr, rc::Rc};

use anyport_core::{Fault, SlabKey};

use super::net::{Net, Owner};

/// One end of a connection, in the hands of test code. Dropping it closes it.
pub struct SimPeer {
    net: Rc<RefCell<Net>>,
    /// `None` once it is closed.
    end: Option<SlabKey>,
}

impl SimPeer {
    pub(super) fn new(net: Rc<RefCell<Net>>, end: SlabKey) -> Self {
        Self { net, end: Some(end) }
    }

    fn key(&self) -> SlabKey {
        self.end.expect("only close, reset and drop take the end, and they consume the peer")
    }

    /// Writes what fits into the send buffer, and says how much. Nothing fits after a reset or after
    /// [`shutdown_write`](Self::shutdown_write).
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.net.borrow_mut().write(self.key(), bytes)
    }

    /// Appends all that has arrived to `received`, and says how much that was.
    pub fn read(&mut self, received: &mut Vec<u8>) -> usize {
        self.read_at_most(usize::MAX, received)
    }

    /// Appends at most `most` bytes of what has arrived to `received`.
    pub fn read_at_most(&mut self, most: usize, received: &mut Vec<u8>) -> usize {
        let mut net = self.net.borrow_mut();
        let count = net.end(self.key()).inbox.len().min(most);
        let before = received.len();
        received.resize(before + count, 0);
        net.read(self.key(), &mut received[before..])
    }

    /// Ends our direction after what was written; reading goes on.
    pub fn shutdown_write(&mut self) {
        self.net.borrow_mut().end_writing(self.key());
    }

    /// True if the other side ended its stream and everything before was read.
    pub fn is_end_of_stream(&self) -> bool {
        let net = self.net.borrow();
        let end = net.end(self.key());
        end.read_ended && end.inbox.is_empty()
    }

    /// True if the connection was reset, or given up. What had arrived before can still be read.
    pub fn is_reset(&self) -> bool {
        self.net.borrow().end(self.key()).broken.is_some()
    }

    /// Why the connection is over, if it is: a reset, or that the other side fell silent.
    pub fn fault(&self) -> Option<Fault> {
        self.net.borrow().end(self.key()).broken
    }

    /// Our address; for a Unix socket, one that stands for its path.
    pub fn local_address(&self) -> SocketAddr {
        self.net.borrow().end(self.key()).local
    }

    /// The other side's address; for a Unix socket, one that stands for its path.
    pub fn peer_address(&self) -> SocketAddr {
        self.net.borrow().end(self.key()).remote
    }

    /// Closes in order if everything that arrived was read, with a reset otherwise.
    pub fn close(mut self) {
        self.close_end();
    }

    /// Throws away what was not sent yet and resets the connection.
    pub fn reset(mut self) {
        if let Some(end) = self.end.take() {
            self.net.borrow_mut().abort(end);
        }
    }

    fn close_end(&mut self) {
        if let Some(end) = self.end.take() {
            self.net.borrow_mut().close(end);
        }
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        self.close_end();
    }
}

impl fmt::Debug for SimPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPeer").field("end", &self.end).finish_non_exhaustive()
    }
}

/// A listener outside every driver. Dropping it closes it.
pub struct SimPeerListener {
    net: Rc<RefCell<Net>>,
    listener: SlabKey,
}

impl SimPeerListener {
    pub(super) fn new(net: Rc<RefCell<Net>>, listener: SlabKey) -> Self {
        Self { net, listener }
    }

    /// The oldest connection that waits to be accepted.
    pub fn accept(&mut self) -> Option<SimPeer> {
        let end = self.net.borrow_mut().accept(self.listener, Owner::Outside)?;
        Some(SimPeer::new(self.net.clone(), end))
    }

    /// The address it listens at.
    pub fn local_address(&self) -> SocketAddr {
        self.net.borrow().listener(self.listener).address
    }
}

impl Drop for SimPeerListener {
    fn drop(&mut self) {
        self.net.borrow_mut().close_listener(self.listener);
    }
}

impl fmt::Debug for SimPeerListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPeerListener").field("listener", &self.listener).finish_non_exhaustive()
    }
}
