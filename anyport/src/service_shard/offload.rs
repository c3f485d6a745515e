//! Sessions that wait for results of the pool while the engine drains: they drain when they have them.

use anyport_core::{CloseReason, SlabKey};

use super::ServiceShard;
use crate::handler::Handler;

impl<H: Handler> ServiceShard<H> {
    /// True if the session waits for results: nothing more is read from it, and it drains when they have come
    /// (`Local::result_told`), or at the deadline that begins now.
    pub(super) fn puts_off_drain(&mut self, key: SlabKey) -> bool {
        let is_open = self.local.slot(key).connection.is_open();
        if !is_open || !self.local.offloads.put_off_drain(key) {
            return false;
        }
        self.local.slot(key).connection.pause(true);
        self.local.mark(key);
        self.set_deadline(key, self.local.limits.drain_deadline);
        true
    }

    /// The deadline of a session has passed. If its drain was put off, it is begun here, and ends at once.
    pub(super) fn end_put_off_drain(&mut self, key: SlabKey) {
        if self.local.offloads.drain_is_due(key)
            && let Some(slot) = self.local.sessions.get_mut(key)
        {
            slot.connection.drain(CloseReason::Drained);
        }
    }
}
