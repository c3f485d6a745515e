//! The connections of a client on a shard: which are open, which are tried, which wait.
//!
//! Each connection has a seat, and keeps it over all its attempts, so that a handler can tell which of its connections
//! came back. A seat has one session at most at a time: the next attempt begins when the last one is closed. Nothing
//! here touches a driver (`service_shard/dial.rs` does) or calls a handler.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyport_core::{SlabKey, TimerHandle};
use anyport_driver::{Address, SocketOptions, pipes::PipeHub};

use crate::{
    admission::Live,
    backoff::{Attempts, Backoff, Random},
    handler::Reconnect,
    service::{Client, ServiceKind},
};

/// What a client is told to do, on all shards or on one.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// At least one.
    pub(crate) targets: Arc<[Address]>,
    pub(crate) options: SocketOptions,
    /// Connections to open at the start.
    pub(crate) connections: usize,
    pub(crate) manual: bool,
    pub(crate) backoff: Option<Backoff>,
}

impl Orders {
    pub(crate) fn of<C>(client: &Client<C>, targets: Vec<Address>) -> Self {
        Self {
            targets: targets.into(),
            options: client.options,
            connections: if client.manual { 0 } else { client.connections },
            manual: client.manual,
            backoff: client.backoff,
        }
    }

    pub(crate) fn kind(&self) -> ServiceKind {
        match (self.manual, self.backoff) {
            (true, _) => ServiceKind::ClientManual,
            (false, Some(_)) => ServiceKind::ClientAutoReconnect,
            (false, None) => ServiceKind::Client,
        }
    }
}

/// Why a connection was not asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The service is none that is told when to connect.
    NotManual {
        /// What it is.
        kind: ServiceKind,
    },
    /// The service is none without a network.
    NotOffline {
        /// What it is.
        kind: ServiceKind,
    },
    /// It has as many sessions as its limits allow.
    AtCapacity {
        /// The limit.
        sessions_max: usize,
    },
    /// The text is no address.
    Address(crate::Error),
    /// The shard has as many jobs, or offline sessions to be accepted, waiting as it may: ask again later.
    Full,
    /// The engine has ended, or is ending.
    Ended,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotManual { kind } => {
                write!(f, "a {kind:?} is not told when to connect: add `.manual()` to the client")
            }
            Self::NotOffline { kind } => {
                write!(f, "a {kind:?} has no offline sessions: make it with `Server::offline`")
            }
            Self::AtCapacity { sessions_max } => {
                write!(
                    f,
                    "the service has {sessions_max} sessions already: raise sessions_max, or close some"
                )
            }
            Self::Address(error) => error.fmt(f),
            Self::Full => {
                f.write_str("as much waits for the shard as may: ask again later, or raise mailbox_max_jobs")
            }
            Self::Ended => f.write_str("the engine has ended, or is ending: nothing is connected any more"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Where connections that somebody asks for have room. Shared by all shards and every `Remote`.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) kind: ServiceKind,
    pub(crate) sessions_max: usize,
    pub(crate) live: Arc<Live>,
    /// Where sessions of an offline service are opened, one for each shard; none for others.
    pub(crate) hubs: Vec<PipeHub>,
    /// The shard that gets the next connection, modulo their number.
    next_shard: AtomicUsize,
}

impl Places {
    pub(crate) fn new(kind: ServiceKind, sessions_max: usize, live: Arc<Live>, shards: usize) -> Self {
        let hubs = if kind == ServiceKind::Offline { shards } else { 0 };
        let hubs = std::iter::repeat_with(PipeHub::new).take(hubs).collect();
        Self { kind, sessions_max, live, hubs, next_shard: AtomicUsize::new(0) }
    }

    /// Takes a place for a connection that somebody asks for.
    pub(crate) fn take(&self) -> Result<(), ConnectError> {
        let (kind, sessions_max) = (self.kind, self.sessions_max);
        if kind != ServiceKind::ClientManual {
            return Err(ConnectError::NotManual { kind });
        }
        if self.live.admit(sessions_max) { Ok(()) } else { Err(ConnectError::AtCapacity { sessions_max }) }
    }

    /// The shard whose turn it is.
    pub(crate) fn next_shard(&self, shards: usize) -> usize {
        self.next_shard.fetch_add(1, Ordering::Relaxed) % shards
    }
}

/// Names a seat on its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SeatKey(u32);

/// What a seat is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SeatState {
    /// Nobody has it.
    Free,
    /// To be opened at the end of this turn.
    Due,
    /// To be opened at a time.
    Waiting,
    /// Being opened, by this slot.
    Connecting(SlabKey),
    /// It could not be opened; its slot is closing. What follows is decided.
    Failed(SlabKey, Option<Duration>),
    /// Open, or closing after it was.
    Open(SlabKey),
}

struct Seat<S> {
    state: SeatState,
    /// Where to, if it is none of the targets.
    to: Option<Address>,
    /// Which of the targets is next, modulo their number.
    target: usize,
    /// Targets that failed since somebody asked for the connection.
    tried: usize,
    attempts: Attempts,
    opened_at: Instant,
    /// What follows its end, as the handler decided.
    follows: Reconnect,
    timed_out: bool,
    /// It has a place among the service's sessions that nobody released yet.
    has_place: bool,
    /// The wait, or the limit of the connect.
    timer: Option<TimerHandle>,
    /// What its session will have.
    user: Option<S>,
}

/// The connections of a client on one shard. `S` is what sessions carry for the user.
pub(crate) struct Dialing<S> {
    pub(crate) orders: Orders,
    pub(crate) places: Arc<Places>,
    random: Random,
    shard: usize,
    shards: usize,
    seats: Vec<Seat<S>>,
    free: Vec<SeatKey>,
    /// By slot: whose session it is.
    seat_of_slot: Vec<Option<SeatKey>>,
    due: Vec<SeatKey>,
    ending: bool,
}

impl<S> Dialing<S> {
    pub(crate) fn new(
        orders: Orders,
        places: Arc<Places>,
        (shard, shards): (usize, usize),
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut dialing = Self {
            random: Random::new(seed),
            shard,
            shards,
            seats: Vec::new(),
            free: Vec::new(),
            seat_of_slot: Vec::new(),
            due: Vec::new(),
            ending: false,
            places,
            orders,
        };
        for _ in 0..dialing.orders.connections {
            dialing.sit_down(None, None, now, false);
        }
        dialing
    }

    /// Gives a seat to a connection that is to be opened at the end of this turn.
    fn sit_down(&mut self, to: Option<Address>, user: Option<S>, now: Instant, has_place: bool) -> SeatKey {
        let key = self.free.pop().unwrap_or(SeatKey(self.seats.len() as u32));
        let seat = Seat {
            state: SeatState::Due,
            to,
            // Connections begin with different targets.
            target: self.index(key),
            tried: 0,
            attempts: Attempts::default(),
            opened_at: now,
            follows: Reconnect::AsConfigured,
            timed_out: false,
            has_place,
            timer: None,
            user,
        };
        match self.seats.get_mut(key.0 as usize) {
            Some(free) => *free = seat,
            None => self.seats.push(seat),
        }
        self.due.push(key);
        key
    }

    fn seat(&mut self, key: SeatKey) -> &mut Seat<S> {
        &mut self.seats[key.0 as usize]
    }

    // ---- asked for ----

    /// A connection that somebody asks for, with a place that was taken for it. Gives its index.
    pub(crate) fn ask(&mut self, to: Option<Address>, user: S, now: Instant) -> Result<usize, ConnectError> {
        if self.ending {
            self.places.live.leave();
            return Err(ConnectError::Ended);
        }
        let seat = self.sit_down(to, Some(user), now, true);
        Ok(self.index(seat))
    }

    /// Everybody who waits waits no longer. Gives the timers that are not needed any more.
    pub(crate) fn hurry(&mut self) -> Vec<TimerHandle> {
        let mut timers = Vec::new();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            if seat.state == SeatState::Waiting {
                seat.state = SeatState::Due;
                timers.extend(seat.timer.take());
                self.due.push(SeatKey(at as u32));
            }
        }
        timers
    }

    // ---- looked at ----

    /// The number of a connection, the same over all its attempts: shards take turns.
    pub(crate) fn index(&self, seat: SeatKey) -> usize {
        self.shard + seat.0 as usize * self.shards
    }

    /// The seat of that number, if it is on this shard and taken.
    pub(crate) fn seat_at(&self, index: usize) -> Option<SeatKey> {
        let at = index.checked_sub(self.shard)?;
        let seat = self.seats.get(at / self.shards)?;
        let taken = at.is_multiple_of(self.shards) && seat.state != SeatState::Free;
        taken.then_some(SeatKey((at / self.shards) as u32))
    }

    /// Whose session a slot is.
    pub(crate) fn seat_of(&self, slot: SlabKey) -> Option<SeatKey> {
        let seat = (*self.seat_of_slot.get(slot.index as usize)?)?;
        let state = self.seats[seat.0 as usize].state;
        let is_its = matches!(
            state,
            SeatState::Connecting(key) | SeatState::Failed(key, _) | SeatState::Open(key) if key == slot
        );
        is_its.then_some(seat)
    }

    pub(crate) fn state(&self, seat: SeatKey) -> SeatState {
        self.seats[seat.0 as usize].state
    }

    pub(crate) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// What the session of a seat will have, while it has no session.
    pub(crate) fn user(&mut self, seat: SeatKey) -> &mut Option<S> {
        &mut self.seat(seat).user
    }

    /// Where a seat's next attempt goes, or the one that is under way.
    pub(crate) fn to(&self, seat: SeatKey) -> &Address {
        let seat = &self.seats[seat.0 as usize];
        seat.to.as_ref().unwrap_or(&self.orders.targets[seat.target % self.orders.targets.len()])
    }

    pub(crate) fn set_follows(&mut self, seat: SeatKey, follows: Reconnect) {
        self.seat(seat).follows = follows;
    }

    // ---- life ----

    pub(crate) fn take_due(&mut self) -> Vec<SeatKey> {
        std::mem::take(&mut self.due)
    }

    /// True if the seat has a place among the service's sessions for its next attempt.
    pub(crate) fn take_place(&mut self, seat: SeatKey) -> bool {
        if self.orders.manual {
            return std::mem::take(&mut self.seat(seat).has_place)
                || self.places.live.admit(self.places.sessions_max);
        }
        // One session for each connection at most, and the limits allow as many as there are connections.
        self.places.live.count();
        true
    }

    pub(crate) fn connecting(&mut self, seat: SeatKey, slot: SlabKey, limit: TimerHandle) {
        let at = slot.index as usize;
        if self.seat_of_slot.len() <= at {
            self.seat_of_slot.resize(at + 1, None);
        }
        self.seat_of_slot[at] = Some(seat);
        let state = self.seat(seat);
        state.state = SeatState::Connecting(slot);
        state.timer = Some(limit);
        state.timed_out = false;
    }

    /// It is open. Gives the timer that is not needed any more.
    pub(crate) fn opened(&mut self, seat: SeatKey, slot: SlabKey, now: Instant) -> Option<TimerHandle> {
        let has_backoff = self.orders.backoff.is_some();
        let seat = self.seat(seat);
        seat.state = SeatState::Open(slot);
        seat.opened_at = now;
        if !has_backoff {
            // Nobody said when a connection is a stable one: each is.
            seat.attempts.reset();
        }
        seat.tried = 0;
        seat.follows = Reconnect::AsConfigured;
        seat.timer.take()
    }

    pub(crate) fn time_out(&mut self, seat: SeatKey) {
        let seat = self.seat(seat);
        seat.timed_out = true;
        seat.timer = None;
    }

    pub(crate) fn timed_out(&self, seat: SeatKey) -> bool {
        self.seats[seat.0 as usize].timed_out
    }

    pub(crate) fn take_timer(&mut self, seat: SeatKey) -> Option<TimerHandle> {
        self.seat(seat).timer.take()
    }

    /// An attempt failed: which it was in a row, and when the next one is as configured. Goes on to the next target.
    pub(crate) fn failed(&mut self, key: SeatKey) -> (u32, Option<Duration>) {
        let (targets, backoff) = (self.orders.targets.len(), self.orders.backoff);
        let seat = &mut self.seats[key.0 as usize];
        seat.attempts.count();
        seat.target += 1;
        seat.tried += 1;
        let next = match &backoff {
            Some(backoff) => seat.attempts.wait(backoff, &mut self.random),
            // Each target once, without a pause.
            None => (seat.to.is_none() && seat.tried < targets).then_some(Duration::ZERO),
        };
        (seat.attempts.failed(), next)
    }

    pub(crate) fn decided(&mut self, seat: SeatKey, slot: SlabKey, next: Option<Duration>) {
        self.seat(seat).state = SeatState::Failed(slot, next);
    }

    /// A connection that was open ended: when the next one is.
    pub(crate) fn ended(&mut self, key: SeatKey, now: Instant) -> Option<Duration> {
        let backoff = self.orders.backoff;
        let seat = &mut self.seats[key.0 as usize];
        let configured = backoff.and_then(|backoff| {
            if now.saturating_duration_since(seat.opened_at) >= backoff.stable_after {
                // Its end is no attempt that failed.
                seat.attempts.reset();
            } else {
                seat.attempts.count();
            }
            seat.attempts.wait(&backoff, &mut self.random)
        });
        match seat.follows {
            Reconnect::AsConfigured => configured,
            Reconnect::After(wait) => Some(wait),
            Reconnect::Never => None,
        }
    }

    pub(crate) fn wait(&mut self, seat: SeatKey, timer: TimerHandle) {
        let seat = self.seat(seat);
        seat.state = SeatState::Waiting;
        seat.timer = Some(timer);
    }

    /// Its wait is over. False if it does not wait any more.
    pub(crate) fn wait_over(&mut self, key: SeatKey) -> bool {
        let waits = self.state(key) == SeatState::Waiting;
        if waits {
            let seat = self.seat(key);
            seat.state = SeatState::Due;
            seat.timer = None;
            self.due.push(key);
        }
        waits
    }

    /// Nothing follows. A seat that somebody asked for is free for others.
    pub(crate) fn free(&mut self, key: SeatKey) {
        let manual = self.orders.manual;
        let seat = self.seat(key);
        seat.state = SeatState::Free;
        seat.user = None;
        if manual {
            self.free.push(key);
        }
    }

    /// No attempt begins from now on. Gives the timers that are not needed any more.
    pub(crate) fn end(&mut self) -> Vec<TimerHandle> {
        self.ending = true;
        self.due.clear();
        let mut timers = Vec::new();
        for seat in &mut self.seats {
            if matches!(seat.state, SeatState::Due | SeatState::Waiting) {
                seat.state = SeatState::Free;
                timers.extend(seat.timer.take());
                if std::mem::take(&mut seat.has_place) {
                    self.places.live.leave();
                }
            }
        }
        timers
    }
}
