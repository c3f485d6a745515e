//! What the callbacks of one service on one shard may touch.

use std::time::{Duration, Instant};

use anyport_core::{ChunkPool, CloseReason, Limits, SessionId, Slab, SlabKey, State, TimerWheel, wheel};

use super::{
    slot::{Backlogs, Slot},
    timers::{Owner, TimerTable},
    watch::Deadline,
};
use crate::{
    append_file::Files,
    budget::Purse,
    counters::Counters,
    dialing::{Dialing, SeatKey},
    group::GroupTable,
    handler::{Handler, TimerKey},
    info::SessionInfo,
    offload::Offloads,
    remote::Mail,
    stop::Stop,
};

/// What the wheel of a service on a shard holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TimerEvent {
    Idle(SlabKey),
    DrainDeadline(SlabKey),
    /// A connect has taken as long as it may.
    ConnectTimeout(SeatKey),
    /// A connection is to be opened again.
    Dial(SeatKey),
    /// The sessions of a service that ends were told, and have had the time to say what they want.
    GraceOver,
    /// The files of a service that ends had their time.
    FilesDeadline,
    /// One that the handler set, and which setting it was.
    User {
        owner: Owner,
        key: TimerKey,
        nth: u32,
    },
    /// One of the deadlines for whole frames.
    Deadline(SlabKey, Deadline),
    /// The rates of a session allow more again.
    RateResume(SlabKey),
}

/// Everything of one service on one shard that a callback may touch. Holds no driver.
pub(crate) struct Local<H: Handler> {
    pub(crate) sessions: Slab<Slot<H>>,
    /// Sessions with something to do at the end of the turn.
    pub(crate) dirty: Vec<SlabKey>,
    pub(crate) pool: ChunkPool,
    /// Where typed messages are encoded before they are framed.
    pub(crate) scratch: Vec<u8>,
    pub(crate) backlogs: Backlogs,
    pub(crate) wheel: TimerWheel<TimerEvent>,
    /// Those of the shard.
    pub(crate) timers: TimerTable,
    /// Timers that were ever set: a number for each.
    pub(crate) timers_set: u32,
    pub(crate) files: Files,
    pub(crate) limits: Limits,
    pub(crate) codec: H::Codec,
    pub(crate) counters: Counters,
    /// What a client knows of its connections; a server has none.
    pub(crate) dialing: Option<Box<Dialing<H::State>>>,
    pub(crate) started: Instant,
    pub(crate) now: Instant,
    pub(crate) tick: u64,
    pub(crate) shard: u8,
    pub(crate) service: u8,
    pub(crate) stop: Stop,
    pub(crate) groups: GroupTable<H>,
    /// Every shard's mailbox, its own included.
    pub(crate) mails: Vec<Mail<H>>,
    pub(crate) purse: Purse,
    /// Once the budgets were used up in this turn: open sessions by what they hold, the most last.
    pub(crate) fattest: Option<Vec<(usize, SlabKey)>>,
    /// Work that was handed to the pool.
    pub(crate) offloads: Offloads<H>,
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

    /// As [`mark`](Self::mark), of a session that is there, if there is something to do for it.
    #[inline]
    pub(crate) fn mark_if_work(&mut self, key: SlabKey) {
        let Self { sessions, dirty, .. } = self;
        let slot = sessions.get_mut(key).expect("the caller has just seen it");
        if !slot.dirty && slot.has_work() {
            slot.dirty = true;
            dirty.push(key);
        }
    }

    #[inline]
    pub(crate) fn slot(&mut self, key: SlabKey) -> &mut Slot<H> {
        self.sessions.get_mut(key).expect("a session's view does not outlive its slot")
    }

    /// What can be seen of a session from outside.
    pub(crate) fn info(&self, key: SlabKey) -> SessionInfo {
        let slot = self.sessions.get(key).expect("the caller has just seen it");
        SessionInfo {
            id: self.id(key),
            peer: slot.peer,
            age: wheel::duration_of(self.tick.saturating_sub(slot.opened_at)),
            state: slot.connection.state(),
            traffic: slot.traffic,
            queued_bytes: slot.connection.queued_bytes(),
        }
    }

    /// Puts the one thing that a session waits for by itself into the wheel. What it waits for while it is open does not
    /// matter once it drains; of the deadlines of a drain the earliest counts.
    pub(crate) fn set_due(&mut self, key: SlabKey, tick: u64, event: TimerEvent) {
        let Self { sessions, wheel, .. } = self;
        let slot = sessions.get_mut(key).expect("only a session that is there waits");
        let drains = matches!(event, TimerEvent::DrainDeadline(_));
        if let Some(before) = slot.due {
            let stays = |deadline| slot.due_is_of_drain && (!drains || deadline <= tick);
            if wheel.deadline(before).is_some_and(stays) {
                return;
            }
            wheel.cancel(before);
        }
        slot.due = Some(wheel.set(tick, event));
        slot.due_is_of_drain = drains;
    }

    pub(crate) fn id(&self, key: SlabKey) -> SessionId {
        SessionId::new(self.shard, self.service, key)
    }

    /// Sees to it that `bytes` more may be queued: takes them from the budgets; and if those are used up, closes the
    /// sessions whose peers read least, as long as they hold more than `spared` bytes each. False if that is not enough.
    #[inline]
    pub(crate) fn ensure_allowance(&mut self, bytes: usize, spared: usize) -> bool {
        self.pool.bytes_out().saturating_add(bytes) <= self.pool.allowance()
            || self.raise_allowance(bytes, spared)
    }

    /// As [`ensure_allowance`](Self::ensure_allowance), at nobody's cost.
    pub(crate) fn has_allowance(&mut self, bytes: usize) -> bool {
        self.pool.bytes_out().saturating_add(bytes) <= self.pool.allowance() || self.try_raise(bytes)
    }

    #[cold]
    fn raise_allowance(&mut self, bytes: usize, spared: usize) -> bool {
        loop {
            if self.try_raise(bytes) {
                return true;
            }
            let Some(fattest) = &mut self.fattest else {
                self.find_fattest();
                continue;
            };
            let Some((_, key)) = fattest.pop_if(|(queued, _)| *queued > spared) else { return false };
            let Self { sessions, pool, .. } = &mut *self;
            let Some(Slot { connection, .. }) = sessions.get_mut(key) else { continue };
            match connection.state() {
                State::Closing => connection.give_up(pool),
                State::Open if connection.queued_bytes() > spared => {
                    connection.shed(CloseReason::SendBudget, pool);
                    self.mark(key);
                }
                _ => {}
            }
        }
    }

    /// Finds, once in a turn, who holds what; and those that are closing already make room before anybody else.
    fn find_fattest(&mut self) {
        let Self { sessions, pool, .. } = &mut *self;
        let mut fattest = Vec::new();
        for index in 0..sessions.index_end() {
            let Some((key, Slot { connection, .. })) = sessions.at_mut(index) else { continue };
            match connection.state() {
                State::Closing => connection.give_up(pool),
                State::Open if connection.queued_bytes() > 0 => {
                    fattest.push((connection.queued_bytes(), key));
                }
                _ => {}
            }
        }
        fattest.sort_unstable_by_key(|&(queued, _)| queued);
        self.fattest = Some(fattest);
    }

    /// Takes what is missing from the budgets.
    fn try_raise(&mut self, bytes: usize) -> bool {
        let wanted = self.pool.bytes_out().saturating_add(bytes);
        let raised = self.purse.raise(wanted);
        self.pool.set_allowance(self.purse.allowance());
        raised
    }

    /// At the end of a turn, gives the budgets back what is no longer needed.
    pub(crate) fn lower_allowance(&mut self) {
        self.fattest = None;
        if self.purse.lower(self.pool.bytes_out()) {
            self.pool.set_allowance(self.purse.allowance());
        }
    }
}
