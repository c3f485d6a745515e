//! What the wheel says is due.

use std::time::{Duration, Instant};

use anyport_core::{
    CloseReason, SlabKey, State,
    planted::{Bug, planted},
    wheel,
};

use super::ServiceShard;
use crate::{
    handler::{Handler, TimerKey},
    session::{Owner, TimerEvent},
};

/// What sessions that were due in a stall are given to be heard after it. 1 s.
const GRACE_TICKS: u64 = (Duration::from_secs(1).as_nanos() / wheel::TICK.as_nanos()) as u64;

/// When a session is idle from which bytes last arrived in the tick `received_at`: at its very end, perhaps.
pub(super) fn idle_due(received_at: u64, idle_ticks: u64) -> u64 {
    received_at.saturating_add(idle_ticks).saturating_add(1)
}

impl<H: Handler> ServiceShard<H> {
    /// After a stall, what came in it may lie in the system still, because one turn takes only so much: nobody misses
    /// a deadline at once then (R40).
    ///
    /// A grace is followed by as long a time without: a shard whose every turn is long would never close anybody.
    pub(super) fn begin_grace(&mut self) {
        let tick = self.local.tick;
        if self.no_grace_until <= tick {
            self.grace_until = tick.saturating_add(GRACE_TICKS);
            self.no_grace_until = self.grace_until.saturating_add(GRACE_TICKS);
        }
    }

    pub(super) fn advance_wheel(&mut self) {
        self.local.wheel.advance(self.local.tick, &mut self.fired);
        if !self.fired.is_empty() {
            self.tell_fired();
        }
    }

    fn tell_fired(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        for event in fired.drain(..) {
            match event {
                TimerEvent::User { owner, key, nth } => self.user_timer(owner, key, nth),
                TimerEvent::DrainDeadline(key) => {
                    self.end_put_off_drain(key);
                    if let Some(slot) = self.local.sessions.get_mut(key) {
                        slot.connection.handle_deadline();
                        self.local.mark(key);
                    }
                }
                TimerEvent::ConnectTimeout(seat) => self.connect_timed_out(seat),
                TimerEvent::Dial(seat) => self.dial_due(seat),
                TimerEvent::GraceOver => self.drain_sessions(),
                TimerEvent::FilesDeadline => self.give_files_up(),
                TimerEvent::Idle(key) => self.idle(key),
                TimerEvent::Deadline(key, deadline) => self.deadline_fired(key, deadline),
                TimerEvent::RateResume(key) => self.rate_allows(key),
            }
        }
        self.fired = fired;
    }

    /// A timer of the handler's own came out of the wheel.
    fn user_timer(&mut self, owner: Owner, timer: TimerKey, nth: u32) {
        if !self.local.timer_falls_due(owner, timer, nth) {
            return;
        }
        for _ in 0..=usize::from(planted(Bug::TimerTwice)) {
            match owner {
                Owner::Shard => self.call_shard(|handler, shard| handler.on_timer(shard, timer)),
                Owner::Session(key) => {
                    self.call(key, |handler, session| handler.on_session_timer(session, timer));
                    self.local.mark(key);
                }
            }
        }
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        let is_due = self.local.dialing.as_ref().is_some_and(|dialing| dialing.is_due());
        let has_files_to_flush = !self.local.files.dirty.is_empty();
        if is_due
            || self.held_up
            || !self.ready.is_empty()
            || self.local.offloads.has_refused()
            || has_files_to_flush
        {
            return Some(self.local.now);
        }
        let tick = self.local.wheel.next_tick()?;
        // What is farther is looked at once more then: no time of it overflows.
        let ahead = tick.saturating_sub(self.local.tick).min(u64::from(u32::MAX));
        Some(self.local.started + wheel::duration_of(self.local.tick + ahead))
    }

    /// The idle timer of a session: due, or moved on by what has arrived since.
    pub(super) fn idle(&mut self, key: SlabKey) {
        let Some(slot) = self.local.sessions.get_mut(key) else { return };
        if slot.connection.state() != State::Open {
            return;
        }
        let due = idle_due(slot.received_at, self.idle_ticks);
        if slot.connection.is_withheld() && !planted(Bug::IdleWhilePaused) {
            // It is silent because we do not listen. When we do again its time begins anew, after this look.
            let look = idle_due(self.local.tick, self.idle_ticks);
            self.local.set_due(key, look, TimerEvent::Idle(key));
        } else if due <= self.local.tick && self.local.tick < self.grace_until {
            self.local.set_due(key, self.grace_until, TimerEvent::Idle(key));
        } else if due <= self.local.tick || planted(Bug::IdleWhileBusy) {
            slot.connection.close(CloseReason::IdleTimeout);
            self.local.mark(key);
        } else if !planted(Bug::IdleLookedAtOnce) {
            self.local.set_due(key, due, TimerEvent::Idle(key));
        }
    }
}
