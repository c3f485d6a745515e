//! The other side of the connections: writes streams, reads what comes, and judges it at the end.

use anyport::{CloseReason, sim::SimPeer};

use super::{
    handler::{Ledger, Record},
    wire::Wire,
};

pub(super) struct Peer {
    /// `None` once it has closed or reset.
    end: Option<SimPeer>,
    /// True if it connected to the engine's server, false if the engine's client connected to it.
    to_server: bool,
    /// What it has to say, and how much of it the network took.
    stream: Vec<u8>,
    written: usize,
    read: Vec<u8>,
    ended: bool,
}

impl Peer {
    pub(super) fn new(peer: SimPeer, to_server: bool) -> Self {
        Self { end: Some(peer), to_server, stream: Vec::new(), written: 0, read: Vec::new(), ended: false }
    }

    /// Adds a message to what it has to say, and says what it can.
    pub(super) fn say(&mut self, wire: Wire, what: u8, kind: u16, size: usize) {
        let start = self.stream.len();
        let body: Vec<u8> =
            (0..size).map(|at| if at == 0 { what } else { b'A' + ((start + at) % 23) as u8 }).collect();
        wire.encode(kind, &body, &mut self.stream);
        self.write();
    }

    /// Adds bytes that may be no message.
    pub(super) fn babble(&mut self, bytes: &[u8]) {
        self.stream.extend_from_slice(bytes);
        self.write();
    }

    pub(super) fn write(&mut self) {
        if let Some(peer) = &mut self.end
            && !self.ended
        {
            self.written += peer.write(&self.stream[self.written..]);
        }
    }

    pub(super) fn read(&mut self, most: usize, ledger: &Ledger) {
        let Some(peer) = &mut self.end else { return };
        if peer.read_at_most(most, &mut self.read) > 0 {
            let record = self.session(ledger).expect("it hears of a session that did not open");
            assert!(record.sent.starts_with(&self.read), "it hears what was not sent, or in another order");
        }
    }

    pub(super) fn shut_down(&mut self) {
        self.write();
        self.ended = true;
        if let Some(peer) = &mut self.end {
            peer.shutdown_write();
        }
    }

    pub(super) fn close(&mut self) {
        if let Some(peer) = self.end.take() {
            peer.close();
        }
    }

    pub(super) fn reset(&mut self) {
        if let Some(peer) = self.end.take() {
            peer.reset();
        }
    }

    /// Says what is left, reads everything, and ends its stream when the other side has.
    pub(super) fn finish(&mut self, ledger: &Ledger) {
        self.write();
        self.read(usize::MAX, ledger);
        if !self.ended && self.end.as_ref().is_some_and(SimPeer::is_end_of_stream) {
            self.shut_down();
        }
    }

    /// Bytes that it has read, and that the network took from it.
    pub(super) fn bytes_moved(&self) -> usize {
        self.read.len() + self.written
    }

    /// True once it has heard of its session.
    pub(super) fn was_served(&self) -> bool {
        !self.read.is_empty()
    }

    /// The session at the other end, as soon as its first byte was read.
    fn session<'a>(&self, ledger: &'a Ledger) -> Option<&'a Record> {
        ledger.sessions.get(usize::from(*self.read.first()?))
    }

    /// Nothing is under way any more: everything has arrived at both ends, if they are there and listen.
    pub(super) fn judge_alive(&self, wire: Wire, ledger: &Ledger) {
        let (Some(peer), Some(record)) = (&self.end, self.session(ledger)) else { return };
        if record.closed.is_none() && record.listens() && !peer.is_reset() {
            wire.check_received(&record.received, &self.stream[..self.written], true);
            assert_eq!(self.read.len(), record.sent.len(), "something did not arrive at the peer");
        }
    }

    /// `orderly` tells that no send or receive failed by itself and nothing was aborted.
    pub(super) fn judge(&self, wire: Wire, ledger: &Ledger, orderly: bool) {
        let Some(record) = self.session(ledger) else { return };
        let reason = record.closed.expect("its session has ended");
        let stream = &self.stream[..self.written];
        let wrong = matches!(reason, CloseReason::MalformedFrame | CloseReason::FrameTooLarge);
        // Both ends come after everything before them was delivered.
        wire.check_received(&record.received, stream, wrong || reason == CloseReason::PeerClosed);
        assert!(!wrong || wire.is_wrong(stream), "{reason:?}, and every frame was right");
        let Some(peer) = &self.end else { return };
        assert!(!self.to_server || record.peer == peer.local_address(), "it talks to another's session");
        let in_order = matches!(reason, CloseReason::PeerClosed | CloseReason::Drained) && !record.cut;
        if orderly && in_order && peer.is_end_of_stream() && !peer.is_reset() {
            assert_eq!(self.read.len(), record.sent.len(), "{reason:?}, and not all arrived");
        }
    }
}
