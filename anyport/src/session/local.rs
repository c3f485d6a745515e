//! What the callbacks of one service on one shard may touch.

use std::time::{Duration, Instant};

use anyport_core::{ChunkPool, CloseReason, Limits, SessionId, Slab, SlabKey, State, TimerWheel, wheel};

use super::{
    slot::Slot,
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
    /// Work that was handed to the pool.
    pub(crate) offloads: Offloads,
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

    /// Puts the one thing that a session waits for by itself into the wheel. What it waited for while it was open does
    /// not matter once it drains; of the deadlines of a drain the earliest counts.
    pub(crate) fn set_due(&mut self, key: SlabKey, tick: u64, event: TimerEvent) {
        let Self { sessions, wheel, .. } = self;
        let slot = sessions.get_mut(key).expect("only a session that is there waits");
        let drains = matches!(event, TimerEvent::DrainDeadline(_));
        if let Some(before) = slot.due {
            let stays = drains && slot.due_is_of_drain;
            if stays && wheel.deadline(before).is_some_and(|deadline| deadline <= tick) {
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
        if self.try_raise(bytes) {
            return true;
        }
        let short = self.purse.short_of(self.pool.bytes_out().saturating_add(bytes));
        // What the system has comes back later, when the socket has closed; what waits behind it is free at once.
        let waiting = |(key, slot): (SlabKey, &Slot<H>)| {
            let connection = &slot.connection;
            let fat = connection.is_open() && connection.queued_bytes() > spared;
            fat.then(|| (connection.waiting_bytes(), connection.queued_bytes(), key))
        };
        let mut fattest: Vec<_> = self.sessions.iter().filter_map(waiting).collect();
        if fattest.iter().map(|(waiting, ..)| waiting).sum::<usize>() < short {
            self.shed_for_later(
                short,
                fattest.iter().max_by_key(|(_, queued, _)| queued).map(|(.., key)| *key),
            );
            return false;
        }
        fattest.sort_unstable_by_key(|&(waiting, ..)| std::cmp::Reverse(waiting));
        for (.., key) in fattest {
            self.shed(key);
            if self.try_raise(bytes) {
                return true;
            }
        }
        false
    }

    /// Closing sessions gives no room now. Closes one, so that those who come later have some; unless what others that
    /// close still hold is enough for them.
    fn shed_for_later(&mut self, short: usize, fattest: Option<SlabKey>) {
        let closing = |slot: &Slot<H>| slot.connection.state() == State::Closing;
        let closing = self.sessions.iter().filter(|(_, slot)| closing(slot));
        let coming: usize = closing.map(|(_, slot)| slot.connection.queued_bytes()).sum();
        if coming < short
            && let Some(key) = fattest
        {
            self.shed(key);
        }
    }

    fn shed(&mut self, key: SlabKey) {
        let Self { sessions, pool, .. } = &mut *self;
        let slot = sessions.get_mut(key).expect("it was just seen");
        slot.connection.shed(CloseReason::SendBudget, pool);
        self.mark(key);
    }

    /// Takes what is missing from the budgets.
    fn try_raise(&mut self, bytes: usize) -> bool {
        let wanted = self.pool.bytes_out().saturating_add(bytes);
        let raised = self.purse.raise(wanted);
        self.pool.set_allowance(self.purse.allowance());
        raised
    }

    /// Gives the budgets back what is no longer needed.
    pub(crate) fn lower_allowance(&mut self) {
        if self.purse.lower(self.pool.bytes_out()) {
            self.pool.set_allowance(self.purse.allowance());
        }
    }
}
