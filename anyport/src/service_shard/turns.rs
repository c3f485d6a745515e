//! What a session may have of a turn and of a second: frames and bytes. What is over waits, and others come first.
//!
//! A session that has had its part is held: it is not read from, and what had arrived stays in its backlog. Either the
//! next turn goes on with it, after everybody else's input, or a timer does when its rates allow it.

use anyport_core::{
    CloseReason, Limits, OnExcess, SlabKey,
    planted::{Bug, planted},
};

use super::ServiceShard;
use crate::{
    handler::Handler,
    session::{Local, Rules, Slot, Spent, TimerEvent},
};

/// Sessions that waited for their turn and have one, in each of the shard's.
const READY_MAX: usize = 1024;

/// What a session may still have of this turn.
pub(super) struct Allowance {
    pub(super) frames: u32,
    pub(super) bytes: usize,
}

impl Allowance {
    /// What the session may still have of this turn, and of its rates.
    #[inline]
    pub(super) fn of<H: Handler>(
        slot: &mut Slot<H>,
        limits: &Limits,
        rules: Option<&Rules>,
        turn: u16,
        tick: u64,
    ) -> Self {
        if slot.spent.turn != turn {
            slot.spent = Spent { turn, frames: 0, bytes: 0 };
        }
        if planted(Bug::TurnWithoutEnd) {
            return Self { frames: u32::MAX, bytes: usize::MAX };
        }
        let Spent { frames, bytes, .. } = slot.spent;
        let mut allowed = Self {
            frames: limits.turn_frames_max.saturating_sub(usize::from(frames)) as u32,
            bytes: limits.turn_bytes_max.saturating_sub(bytes as usize),
        };
        if let (Some(watch), Some(rules)) = (&mut slot.watch, rules) {
            allowed.frames = allowed.frames.min(watch.frames_allowed(rules, tick));
        }
        allowed
    }
}

impl<H: Handler> ServiceShard<H> {
    /// The session has had so many frames, as far as its rates and deadlines are concerned.
    pub(super) fn spend_of_rules(&mut self, key: SlabKey, frames: u32) {
        let tick = self.local.tick;
        let slot = self.local.slot(key);
        if let (Some(watch), Some(rules)) = (&mut slot.watch, &self.rules) {
            let cut = slot.reassembly.buffered();
            watch.delivered(rules, tick, frames, cut);
            self.set_deadlines(key);
        }
    }

    /// Holds the session if it has had its part; `left` says that something waits for it.
    #[inline]
    pub(super) fn settle(&mut self, key: SlabKey, left: bool) {
        if left || self.rules.is_some() {
            self.hold(key, left);
        }
    }

    fn hold(&mut self, key: SlabKey, left: bool) {
        let Local { sessions, wheel, counters, tick, .. } = &mut self.local;
        let tick = *tick;
        let slot = sessions.get_mut(key).expect("only a session that is there is held");
        // Whoever is paused, choked, held or ending is not read from anyway.
        if !slot.connection.wants_frames() {
            return;
        }
        if let (Some(watch), Some(rules)) = (&mut slot.watch, &self.rules) {
            let ticks = watch.ticks_to_wait(rules, tick, left);
            if ticks > 0 {
                if rules.on_excess() == OnExcess::Close {
                    return slot.connection.close(CloseReason::RateExceeded);
                }
                slot.connection.hold(true);
                watch.rate_held = true;
                counters.rate_pauses += 1;
                if !planted(Bug::RatePauseForEver) {
                    let resume = tick.saturating_add(ticks);
                    watch.rate_resume = Some(wheel.set(resume, TimerEvent::RateResume(key)));
                }
                return;
            }
        }
        if left {
            slot.connection.hold(true);
            counters.held_back += 1;
            if !planted(Bug::HeldBackForgotten) {
                self.ready.push_back(key);
            }
        }
    }

    /// Sessions that the last turn held back have their turn.
    pub(super) fn release_ready(&mut self) {
        for _ in 0..self.ready.len().min(READY_MAX) {
            let Some(key) = self.ready.pop_front() else { return };
            self.release(key);
        }
    }

    /// The rates of a session allow more again.
    pub(super) fn rate_allows(&mut self, key: SlabKey) {
        if let Some(watch) = self.local.sessions.get_mut(key).and_then(|slot| slot.watch.as_mut()) {
            watch.rate_held = false;
            watch.rate_resume = None;
            self.release(key);
        }
    }

    fn release(&mut self, key: SlabKey) {
        if let Some(slot) = self.local.sessions.get_mut(key) {
            slot.connection.hold(false);
            self.local.mark(key);
        }
    }
}
