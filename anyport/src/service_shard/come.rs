//! Sessions come: accepted, handed over, connected.

use anyport_core::{
    CloseReason, Codec, Connection, Fault, Reassembly, SlabKey,
    planted::{Bug, planted},
};
use anyport_driver::{Accepted, Detached, Driver, Op, PeerAddress, SocketKey};

use super::{ServiceShard, timers::idle_due};
use crate::{
    admission::PlaceTaken,
    handler::Handler,
    info::Traffic,
    remote::Job,
    service::Role,
    session::{Local, Slot, Spent, TimerEvent},
};

impl<H: Handler> ServiceShard<H> {
    pub(super) fn accepted<D: Driver>(&mut self, io: &mut D, accepted: Accepted) {
        let Accepted { socket, peer } = accepted;
        // Before it is handed to another shard: what lies in the mail of one that is busy is within the limits, too.
        let Some(place) = self.admit(io, socket, peer) else { return };
        if !self.hand_to.is_empty() {
            let to = self.next_hand % self.hand_to.len();
            self.next_hand = self.next_hand.wrapping_add(1);
            if to != self.local.shard as usize
                && let Some(detached) = io.detach(socket)
            {
                if !self.hand_to[to].send(Job::Adopt(detached, peer, place)) {
                    self.local.counters.accepted += 1;
                    self.count_closed(CloseReason::Stopped);
                }
                return;
            }
        }
        self.open(io, socket, peer, place);
    }

    pub(super) fn adopted<D: Driver>(
        &mut self,
        io: &mut D,
        detached: Detached,
        peer: PeerAddress,
        place: PlaceTaken,
    ) {
        if planted(Bug::HandedOverLost) {
            return;
        }
        if let Some(socket) = io.adopt(detached) {
            self.open(io, socket, peer, place);
        }
    }

    fn takes_no_more(&self) -> bool {
        self.ending && !planted(Bug::AcceptedWhileEnding)
    }

    /// Takes a place for a connection, or closes it.
    fn admit<D: Driver>(&mut self, io: &mut D, socket: SocketKey, peer: PeerAddress) -> Option<PlaceTaken> {
        let Local { limits, now, .. } = &self.local;
        let admitted = if self.takes_no_more() {
            Err(CloseReason::Stopped)
        } else {
            self.live.take_place(peer.ip(), limits, *now)
        };
        let reason = match admitted {
            Ok(place) => return Some(place),
            Err(reason) => reason,
        };
        if planted(Bug::RefusalTakesPlace) && reason != CloseReason::Stopped {
            self.live.count();
        }
        self.local.counters.accepted += 1;
        self.refuse(io, socket, peer, reason);
        None
    }

    /// Gives a connected socket a session.
    fn open<D: Driver>(&mut self, io: &mut D, socket: SocketKey, peer: PeerAddress, place: PlaceTaken) {
        self.local.counters.accepted += 1;
        if self.takes_no_more() {
            return self.refuse(io, socket, peer, CloseReason::Stopped);
        }
        let connection = Connection::open(self.local.limits.pause_reading_under_pressure);
        let slot = self.slot(connection, socket, peer);
        if let Some(key) = self.local.sessions.insert_with(|_| slot) {
            place.keep();
            return self.opened(key);
        }
        self.refuse(io, socket, peer, CloseReason::AtCapacity);
    }

    /// Gives back the place of a session: that of its address as well, unless we opened the connection.
    pub(super) fn left(&mut self, peer: PeerAddress) {
        match self.role {
            Role::Server { .. } => self.live.leave_from(peer.ip(), &self.local.limits),
            Role::Client { .. } => self.live.leave(),
        }
    }

    pub(super) fn refuse<D: Driver>(
        &mut self,
        io: &mut D,
        socket: SocketKey,
        peer: PeerAddress,
        reason: CloseReason,
    ) {
        io.submit(self.listener_token(), Op::Close { socket });
        self.count_closed(reason);
        self.log_limit.note(self.local.now, || format!("connection from {peer} refused: {reason}"));
    }

    pub(super) fn slot(&self, connection: Connection, socket: SocketKey, peer: PeerAddress) -> Slot<H> {
        let (decoder, encoder) = self.local.codec.split();
        Slot {
            connection,
            socket,
            decoder: Some(decoder),
            encoder,
            reassembly: Reassembly::default(),
            backlog: None,
            timers: None,
            opened_at: self.local.tick,
            traffic: Traffic::default(),
            received_at: self.local.tick,
            watch: None,
            spent: Spent::default(),
            peer,
            dirty: false,
            opened: false,
            pressure_rose: false,
            pressure_told: false,
            due: None,
            due_is_of_drain: false,
            memberships: None,
            state: H::State::default(),
        }
    }

    pub(super) fn opened(&mut self, key: SlabKey) {
        self.local.counters.sessions += 1;
        let tick = self.local.tick;
        let slot = self.local.slot(key);
        slot.opened = true;
        slot.opened_at = tick;
        if self.idle_ticks > 0 {
            let deadline = idle_due(self.local.tick, self.idle_ticks);
            self.local.set_due(key, deadline, TimerEvent::Idle(key));
        }
        self.begin_watch(key);
        self.local.mark(key);
        self.call(key, Handler::on_open);
    }

    pub(super) fn connected(&mut self, key: SlabKey, result: Result<(), Fault>) {
        let tick = self.local.tick;
        let slot = self.local.slot(key);
        match result {
            Ok(()) => {
                slot.connection.handle_connected();
                // Closed meanwhile: it never opened for the handler.
                let open = slot.connection.is_open() || planted(Bug::OpenedWhileClosing);
                slot.received_at = tick;
                self.local.counters.connected += 1;
                if open {
                    self.seat_opened(key);
                    self.opened(key);
                }
            }
            Err(fault) => {
                slot.connection.handle_connect_failed(CloseReason::ReceiveFailed(fault));
                if !planted(Bug::FailedConnectKept) {
                    self.local.mark(key);
                }
                self.seat_failed(key, fault);
            }
        }
    }
}
