//! What the callbacks of one service on one shard may touch.

use std::time::{Duration, Instant};

use anyport_core::{ChunkPool, Limits, SessionId, Slab, SlabKey, TimerWheel, wheel};

use super::{
    slot::Slot,
    timers::{Owner, TimerTable},
};
use crate::{
    counters::Counters,
    handler::{Handler, TimerKey},
    stop::Stop,
};

/// What the wheel of a service on a shard holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TimerEvent {
    Idle(SlabKey),
    DrainDeadline(SlabKey),
    /// One that the handler set, and which setting it was.
    User {
        owner: Owner,
        key: TimerKey,
        nth: u32,
    },
}

/// Everything of one service on one shard that a callback may touch. Holds no driver.
pub(crate) struct Local<H: Handler> {
    pub(crate) sessions: Slab<Slot<H>>,
    /// Sessions with something to do at the end of the turn.
    pub(crate) dirty: Vec<SlabKey>,
    pub(crate) pool: ChunkPool,
    /// Where typed messages are encoded before they are framed.
    pub(crate) scratch: Vec<u8>,
    pub(crate) wheel: TimerWheel<TimerEvent>,
    /// Those of the shard.
    pub(crate) timers: TimerTable,
    /// Timers that were ever set: a number for each.
    pub(crate) timers_set: u32,
    pub(crate) limits: Limits,
    pub(crate) codec: H::Codec,
    pub(crate) counters: Counters,
    pub(crate) started: Instant,
    pub(crate) now: Instant,
    pub(crate) tick: u64,
    pub(crate) shard: u8,
    pub(crate) service: u8,
    pub(crate) stop: Stop,
}

impl<H: Handler> Local<H> {
    /// Takes the time of a turn.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
        self.tick = wheel::ticks_down(now.saturating_duration_since(self.started));
    }

    /// The tick at which something set now is due after `after`.
    pub(crate) fn deadline(&self, after: Duration) -> u64 {
        if after.is_zero() {
            // Rounding up would wait for the next tick: whoever asks for zero wants the next turn.
            return self.tick;
        }
        let since_start = self.now.saturating_duration_since(self.started);
        wheel::ticks_up(since_start.saturating_add(after))
    }

    #[inline]
    pub(crate) fn mark(&mut self, key: SlabKey) {
        if let Some(slot) = self.sessions.get_mut(key)
            && !std::mem::replace(&mut slot.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    #[inline]
    pub(crate) fn slot(&mut self, key: SlabKey) -> &mut Slot<H> {
        self.sessions.get_mut(key).expect("a session's view does not outlive its slot")
    }

    pub(crate) fn id(&self, key: SlabKey) -> SessionId {
        SessionId::new(self.shard, self.service, key)
    }
}
