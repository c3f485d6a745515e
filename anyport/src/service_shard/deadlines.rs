//! Deadlines for whole frames: the first one, each one, and how fast a cut one grows (R42).
//!
//! They are about completion and not about silence: whoever sends a byte now and then is not idle, and holds a session
//! all the same. Each has one entry in the wheel at most, moved lazily (R37); a session between two frames has none.

use anyport_core::{
    SlabKey, State,
    planted::{Bug, planted},
};

use super::ServiceShard;
use crate::{
    handler::Handler,
    session::{Deadline, Fired, Local, TimerEvent, Watch},
};

impl<H: Handler> ServiceShard<H> {
    /// Watches a session that opens, if the service asks for that.
    pub(super) fn begin_watch(&mut self, key: SlabKey) {
        if let Some(rules) = &self.rules {
            let watch = Watch::new(rules, self.local.tick);
            self.local.slot(key).watch = Some(Box::new(watch));
            self.set_deadlines(key);
        }
    }

    /// Sets the deadlines that have no entry in the wheel.
    pub(super) fn set_deadlines(&mut self, key: SlabKey) {
        let Local { sessions, wheel, .. } = &mut self.local;
        let Some(watch) = sessions.get_mut(key).and_then(|slot| slot.watch.as_mut()) else { return };
        while let Some((deadline, at)) = watch.next_without_entry() {
            watch.keep_entry(deadline, wheel.set(at, TimerEvent::Deadline(key, deadline)));
        }
    }

    /// Deadlines stand still while the session is not read from.
    pub(super) fn note_reading(&mut self, key: SlabKey) {
        let tick = self.local.tick;
        let Some(slot) = self.local.sessions.get_mut(key) else { return };
        let deaf = slot.connection.is_open() && !slot.connection.wants_frames();
        let Some(watch) = &mut slot.watch else { return };
        if !planted(Bug::DeadlineWhileDeaf) {
            watch.set_deaf(tick, deaf);
            if !deaf {
                self.set_deadlines(key);
            }
        }
    }

    /// A deadline's entry is due; the deadline itself may be later, or gone.
    pub(super) fn deadline_fired(&mut self, key: SlabKey, deadline: Deadline) {
        let (tick, grace_until) = (self.local.tick, self.grace_until);
        let Some(slot) = self.local.sessions.get_mut(key) else { return };
        if slot.connection.state() != State::Open {
            return;
        }
        let (Some(watch), Some(rules)) = (&mut slot.watch, &self.rules) else { return };
        match watch.fired(rules, deadline, tick, grace_until) {
            Fired::Nothing => {}
            Fired::Later(at) => {
                let entry = self.local.wheel.set(at, TimerEvent::Deadline(key, deadline));
                watch.keep_entry(deadline, entry);
            }
            Fired::Missed => {
                slot.connection.close(deadline.reason());
                self.local.mark(key);
            }
        }
    }
}
