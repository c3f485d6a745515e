//! Connections that are opened: the first time, again, and when somebody asks for one.

use anyport_core::{
    CloseReason, Connection, Fault, FaultKind, SlabKey, State,
    planted::{Bug, planted},
};
use anyport_driver::{Driver, Op};

use super::{ServiceShard, token};
use crate::{
    dialing::{Dialing, SeatKey, SeatState},
    handler::{ConnectFailure, Handler, Reconnect},
    session::TimerEvent,
};

impl<H: Handler> ServiceShard<H> {
    /// Opens the connections whose time has come.
    #[inline]
    pub(super) fn dial<D: Driver>(&mut self, io: &mut D) {
        if let Some(dialing) = &mut self.local.dialing
            && dialing.is_due()
        {
            for seat in dialing.take_due() {
                self.dial_seat(io, seat);
            }
        }
    }

    fn dialing(&mut self) -> &mut Dialing<H::State> {
        self.local.dialing.as_deref_mut().expect("only a client has seats")
    }

    fn dial_seat<D: Driver>(&mut self, io: &mut D, seat: SeatKey) {
        if !self.dialing().take_place(seat) {
            return self.not_opened(seat, Fault::of(FaultKind::AtCapacity));
        }
        let (to, options) = (self.dialing().to(seat).clone(), self.dialing().orders.options);
        let socket = match io.open(&to, &options) {
            Ok(socket) => socket,
            Err(fault) => {
                self.live.leave();
                return self.not_opened(seat, fault);
            }
        };
        let connection = Connection::connecting(self.local.limits.pause_reading_under_pressure);
        let mut slot = self.slot(connection, socket, to.as_peer());
        slot.state = self.dialing().user(seat).take().unwrap_or_default();
        let Some(key) = self.local.sessions.insert_with(|_| slot) else {
            io.submit(self.listener_token(), Op::Close { socket });
            self.live.leave();
            return self.not_opened(seat, Fault::of(FaultKind::AtCapacity));
        };
        let deadline = self.local.deadline(self.local.limits.connect_timeout);
        let limit = self.local.wheel.set(deadline, TimerEvent::ConnectTimeout(seat));
        self.dialing().connecting(seat, key, limit);
        io.submit(token(self.local.service, key), Op::Connect { socket });
    }

    /// An attempt failed before it had a session.
    fn not_opened(&mut self, seat: SeatKey, fault: Fault) {
        let next = self.tell_failure(seat, fault);
        self.follow(seat, next);
    }

    /// The connection of a session is there.
    pub(super) fn seat_opened(&mut self, key: SlabKey) {
        let now = self.local.now;
        if let Some(dialing) = &mut self.local.dialing
            && let Some(seat) = dialing.seat_of(key)
            && let Some(limit) = dialing.opened(seat, key, now)
        {
            self.local.wheel.cancel(limit);
        }
    }

    /// The connection of a session could not be opened; the session closes, and then what is decided now follows.
    pub(super) fn seat_failed(&mut self, key: SlabKey, fault: Fault) {
        let Some(seat) = self.local.dialing.as_ref().and_then(|dialing| dialing.seat_of(key)) else { return };
        if let Some(limit) = self.dialing().take_timer(seat) {
            self.local.wheel.cancel(limit);
        }
        let fault = if self.dialing().timed_out(seat) { Fault::of(FaultKind::TimedOut) } else { fault };
        let next = self.tell_failure(seat, fault);
        self.dialing().decided(seat, key, next);
    }

    /// A session has ended, and its slot is still there.
    pub(super) fn seat_ends(&mut self, key: SlabKey) -> Option<SeatKey> {
        let seat = self.local.dialing.as_ref()?.seat_of(key)?;
        if matches!(self.dialing().state(seat), SeatState::Connecting(_) | SeatState::Failed(..)) {
            // It never opened: what it was to begin with is for the next attempt.
            let user = std::mem::take(&mut self.local.slot(key).state);
            *self.dialing().user(seat) = Some(user);
        }
        Some(seat)
    }

    /// The slot of a session that had this seat is free: what follows?
    pub(super) fn seat_is_free(&mut self, seat: SeatKey) {
        let now = self.local.now;
        let next = match self.dialing().state(seat) {
            SeatState::Failed(_, next) => next,
            SeatState::Open(_) => self.dialing().ended(seat, now),
            // It connected at the moment at which it was given up, and nobody was told of either.
            SeatState::Connecting(_) if self.dialing().timed_out(seat) => {
                self.tell_failure(seat, Fault::of(FaultKind::TimedOut))
            }
            _ => None,
        };
        self.follow(seat, next);
    }

    fn follow(&mut self, seat: SeatKey, next: Option<std::time::Duration>) {
        if let Some(wait) = next.filter(|_| !self.ending) {
            let wait = if planted(Bug::ReconnectWithoutWait) { std::time::Duration::ZERO } else { wait };
            let deadline = self.local.deadline(wait);
            let timer = self.local.wheel.set(deadline, TimerEvent::Dial(seat));
            return self.dialing().wait(seat, timer);
        }
        if let Some(limit) = self.dialing().take_timer(seat) {
            self.local.wheel.cancel(limit);
        }
        self.dialing().free(seat);
    }

    /// Tells the handler, which decides what follows.
    fn tell_failure(&mut self, seat: SeatKey, fault: Fault) -> Option<std::time::Duration> {
        self.local.counters.connect_failed += 1;
        if self.ending {
            return None;
        }
        let dialing = self.dialing();
        let to = dialing.to(seat).clone();
        let (attempt, next) = dialing.failed(seat);
        let failure = ConnectFailure { connection: dialing.index(seat), to, fault, attempt, next };
        let mut decision = Reconnect::AsConfigured;
        self.call_shard(|handler, shard| decision = handler.on_connect_failed(shard, &failure));
        match decision {
            Reconnect::AsConfigured => next,
            Reconnect::After(wait) => Some(wait),
            Reconnect::Never => None,
        }
    }

    /// A connect takes longer than is allowed: it is given up.
    pub(super) fn connect_timed_out(&mut self, seat: SeatKey) {
        let Some(dialing) = &mut self.local.dialing else { return };
        let SeatState::Connecting(key) = dialing.state(seat) else { return };
        dialing.time_out(seat);
        let connection = &mut self.local.slot(key).connection;
        if connection.state() == State::Connecting {
            connection.close(CloseReason::ReceiveFailed(Fault::of(FaultKind::TimedOut)));
            self.local.mark(key);
        }
    }

    /// A wait is over.
    pub(super) fn dial_due(&mut self, seat: SeatKey) {
        if let Some(dialing) = &mut self.local.dialing {
            dialing.wait_over(seat);
        }
    }

    /// No attempt begins any more.
    pub(super) fn stop_dialing(&mut self) {
        let timers = self.local.dialing.as_mut().map(|dialing| dialing.end()).unwrap_or_default();
        for timer in timers {
            self.local.wheel.cancel(timer);
        }
    }
}
