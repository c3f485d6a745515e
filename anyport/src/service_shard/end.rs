//! Sessions go: reported once, counted, logged.

use anyport_core::{
    CloseReason, SlabKey,
    planted::{Bug, planted},
    reason::Blame,
};

use anyport_driver::PeerAddress;

use super::ServiceShard;
use crate::{handler::Handler, info::SessionInfo, recent::Closed};

impl<H: Handler> ServiceShard<H> {
    /// The end of a session: reported once, then its slot is free.
    pub(super) fn finish(&mut self, key: SlabKey, reason: CloseReason) {
        let slot = self.local.slot(key);
        let (opened, peer) = (slot.opened, slot.peer);
        // Before the handler is told: who hears of the end may take the place.
        if !(planted(Bug::PlaceLost) && reason == CloseReason::PeerReset) {
            self.left(peer);
        }
        if opened && !(planted(Bug::EndNotTold) && reason == CloseReason::PeerReset) {
            self.count_closed(reason);
            self.local.counters.sessions -= 1;
            self.call(key, |handler, session| handler.on_close(session, reason));
            if planted(Bug::EndToldTwice) {
                self.call(key, |handler, session| handler.on_close(session, reason));
            }
            self.keep_closed(key, reason);
            self.log_closed(key, peer, reason);
        }
        self.local.leave_all(key);
        let seat = self.seat_ends(key);
        if planted(Bug::SlotNotFreed) && reason == CloseReason::Drained {
            return;
        }
        if let Some(mut slot) = self.local.sessions.remove(key) {
            slot.reassembly.release(&mut self.local.pool);
            if let Some(due) = slot.due.take() {
                self.local.wheel.cancel(due);
            }
            if let Some(mut watch) = slot.watch.take() {
                watch.clear(&mut self.local.wheel);
            }
            self.local.offloads.forget(key);
            if let Some(mut timers) = slot.timers.take() {
                timers.clear(&mut self.local.wheel);
            }
        }
        if let Some(seat) = seat {
            self.seat_is_free(seat);
        }
    }

    /// Keeps what is left of a session, for whoever looks.
    fn keep_closed(&mut self, key: SlabKey, reason: CloseReason) {
        let SessionInfo { id, peer, age, traffic, .. } = self.local.info(key);
        self.recent.keep(Closed { id, peer, reason, at: self.local.now, lasted: age, traffic });
    }

    pub(super) fn log_closed(&mut self, key: SlabKey, peer: PeerAddress, reason: CloseReason) {
        let id = self.local.id(key);

        if matches!(reason.blame(), Blame::Peer | Blame::Application) {
            log::debug!("session {id} with {peer} closed: {reason}");
        } else {
            self.log_limit.note(self.local.now, || format!("session {id} with {peer} closed: {reason}"));
        }
    }

    pub(super) fn count_closed(&mut self, reason: CloseReason) {
        self.local.counters.closed[reason.index()] += 1;
        self.closed_changed = true;
    }
}
