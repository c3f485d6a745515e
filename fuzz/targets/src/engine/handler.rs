//! The handler under the engine's target: does what its peer's messages say, and writes down all that happens to it.

use std::{
    marker::PhantomData,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyport::{
    CloseReason, Codec, ConnectFailure, FaultKind, Frame, Handler, Limits, Pressure, Reconnect, Refusal,
    Sent, Session, SessionId, Shard, TimerKey,
};

use anyport_core::wheel;

use super::wire::{FRAME_SIZE_MAX, Wire};

/// What happened to one session.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: SessionId,
    pub(super) peer: SocketAddr,
    pub(super) received: Vec<(u16, Vec<u8>)>,
    /// Bytes that were queued, as they must arrive.
    pub(super) sent: Vec<u8>,
    /// The end that the handler asked for first, while the session was open.
    asked: Option<CloseReason>,
    /// Somebody asked for its end at once, which may cut a drain short.
    pub(super) cut: bool,
    pub(super) closed: Option<CloseReason>,
    pressure: bool,
    paused: bool,
    /// When it opened, or a frame arrived last; `None` once frames may have waited for the handler.
    heard_at: Option<Instant>,
}

impl Record {
    /// True unless its handler paused it, or its peer does not read.
    pub(super) fn listens(&self) -> bool {
        !self.paused && !self.pressure
    }
}

/// All that happened. An engine contains panics of handlers, so that an assertion in one would go unnoticed: what is
/// wrong is written down here.
#[derive(Default, Debug)]
pub(super) struct Ledger {
    pub(super) sessions: Vec<Record>,
    pub(super) breach: Option<String>,
    /// Timers that were set: on which shard, which, and when they are due at the earliest.
    timers: Vec<(usize, TimerKey, Instant)>,
    pub(super) jobs_posted: usize,
    pub(super) jobs_ran: usize,
}

impl Ledger {
    pub(super) fn ensure(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.breach.is_none() {
            self.breach = Some(what());
        }
    }
}

/// The handler of one shard. All of an engine share a ledger.
pub(super) struct Recorder<C> {
    ledger: Arc<Mutex<Ledger>>,
    wire: Wire,
    limits: Limits,
    codec: PhantomData<fn() -> C>,
}

impl<C: Codec> Recorder<C> {
    pub(super) fn new(ledger: Arc<Mutex<Ledger>>, wire: Wire, limits: Limits) -> Self {
        Self { ledger, wire, limits, codec: PhantomData }
    }

    /// Reads again, if it was paused.
    pub(super) fn resume(&self, session: &mut Session<'_, Self>) {
        self.record(session, |record| record.paused = false);
        session.resume();
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        open(&self.ledger)
    }

    /// What a message, or a job, makes the session do.
    pub(super) fn act(&mut self, session: &mut Session<'_, Self>, what: u8, kind: u16, body: &[u8]) {
        match what {
            b'q' => {
                self.ask(session, CloseReason::Drained);
                session.drain();
            }
            b'k' => {
                self.ask(session, CloseReason::Kicked(kind));
                session.kick(kind);
            }
            b'p' | b'r' => {
                let pause = what == b'p';
                self.record(session, |record| {
                    record.paused = pause;
                    record.heard_at = None;
                });
                if pause { session.pause() } else { session.resume() }
            }
            b'n' => {}
            b's' => self.send_shared(session, &Arc::from(vec![b's'; 50 + body.len() * 20])),
            b'b' => {
                for _ in 0..body.len() {
                    self.send(session, kind, &[b'b'; 150]);
                }
            }
            b'l' => {
                let sent = session.send_kind(kind, &[0; FRAME_SIZE_MAX + 1]);
                let refused = self.wire == Wire::Raw || sent == Sent::Refused(Refusal::FrameTooLarge);
                self.ledger().ensure(refused, || "a frame above the limit was queued".into());
                self.sent(session, sent, kind, &[0; FRAME_SIZE_MAX + 1]);
            }
            b't' => {
                let (after, mut shard) = (Duration::from_millis(body.len() as u64), session.shard());
                self.ledger().timers.push((shard.index(), TimerKey(kind), shard.now() + after));
                shard.set_timer(TimerKey(kind), after);
            }
            b'x' => {
                self.ask(session, CloseReason::HandlerPanicked);
                // Without the hook, which a fuzzer takes for a crash.
                std::panic::resume_unwind(Box::new("a handler's bug"));
            }
            _ => self.send(session, kind, body),
        }
    }

    fn record<R>(&self, session: &mut Session<'_, Self>, change: impl FnOnce(&mut Record) -> R) -> Option<R> {
        let at = *session.state();
        let mut ledger = self.ledger();
        let record = at.and_then(|at| ledger.sessions.get_mut(at)).map(change);
        ledger.ensure(record.is_some(), || "a session that did not open".into());
        record
    }

    fn ask(&self, session: &mut Session<'_, Self>, reason: CloseReason) {
        let is_open = session.is_open();
        self.record(session, |record| {
            if is_open {
                record.asked.get_or_insert(reason);
            }
            record.cut |= reason != CloseReason::Drained;
        });
    }

    fn send(&self, session: &mut Session<'_, Self>, kind: u16, body: &[u8]) {
        let sent = session.send_kind(kind, body);
        self.sent(session, sent, kind, body);
    }

    fn sent(&self, session: &mut Session<'_, Self>, sent: Sent, kind: u16, body: &[u8]) {
        if !matches!(sent, Sent::Refused(_)) {
            let wire = self.wire;
            self.record(session, |record| wire.encode(kind, body, &mut record.sent));
        }
    }

    fn send_shared(&self, session: &mut Session<'_, Self>, bytes: &Arc<[u8]>) {
        if !matches!(session.send_shared(bytes.clone()), Sent::Refused(_)) {
            self.record(session, |record| record.sent.extend_from_slice(bytes));
        }
    }
}

impl<C: Codec> Handler for Recorder<C> {
    /// Where the ledger has the session.
    type State = Option<usize>;
    type Codec = C;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let (id, peer, is_open) = (session.id(), session.peer_address(), session.is_open());
        let heard_at = session.shard().now();
        let mut ledger = self.ledger();
        let place = ledger.sessions.len();
        let opened_before = session.state().replace(place).is_some();
        ledger.ensure(!opened_before, || format!("{id} opened twice"));
        let known = ledger.sessions.iter().any(|record| record.id == id);
        ledger.ensure(!known, || format!("{id} was used before"));
        ledger.ensure(is_open, || format!("{id} opened, and is not open"));
        let same = |record: &&Record| record.id.service() == id.service() && record.closed.is_none();
        let open = ledger.sessions.iter().filter(same).count();
        ledger.ensure(open < self.limits.sessions_max, || format!("{id} is one session too many"));
        ledger.sessions.push(Record {
            id,
            peer: peer.socket().expect("it came by IP"),
            received: Vec::new(),
            sent: Vec::new(),
            asked: None,
            cut: false,
            closed: None,
            pressure: false,
            paused: false,
            heard_at: Some(heard_at),
        });
        drop(ledger);
        // The peer learns by it whom it talks to.
        self.send_shared(session, &Arc::from([place as u8]));
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let (is_open, queued, now) = (session.is_open(), session.queued_bytes(), session.shard().now());
        let wanted = self.record(session, |record| {
            record.received.push((frame.kind, frame.to_vec()));
            record.heard_at = record.heard_at.and(Some(now));
            record.closed.is_none() && !record.paused
        });
        self.ledger().ensure(is_open && wanted == Some(true), || "a frame after a pause, or its end".into());
        let slow = self.limits.pause_reading_under_pressure && queued > self.limits.send.high_water_bytes;
        self.ledger().ensure(!slow, || format!("a frame while {queued} bytes wait for the peer"));
        self.act(session, frame.first().copied().unwrap_or(0), frame.kind, frame.body);
    }

    fn on_pressure(&mut self, session: &mut Session<Self>, pressure: Pressure) {
        let (high, queued) = (pressure == Pressure::High, session.queued_bytes());
        let relieved = queued <= self.limits.send.low_water_bytes;
        self.ledger().ensure(high || relieved, || format!("relieved with {queued} bytes queued"));
        let before = self.record(session, |record| {
            record.heard_at = None;
            std::mem::replace(&mut record.pressure, high)
        });
        self.ledger().ensure(before == Some(!high), || format!("{pressure:?} told twice"));
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        let late = session.send(b"late");
        let now = session.shard().now();
        let told = self.record(session, |record| {
            (record.closed.replace(reason), record.asked, record.id, record.heard_at)
        });
        let Some((before, asked, id, heard_at)) = told else { return };
        let mut ledger = self.ledger();
        ledger.ensure(before.is_none(), || format!("{id} closed twice: {before:?}, then {reason:?}"));
        ledger.ensure(late == Sent::Refused(Refusal::NotOpen), || {
            format!("{id} sends after its end: {late:?}")
        });
        // A drain that is cut short names what cut it.
        let cut_short = matches!(reason, CloseReason::DrainDeadline | CloseReason::Stopped);
        let cut_short = cut_short && asked == Some(CloseReason::Drained);
        let first = asked.is_none_or(|asked| asked == reason) || cut_short;
        let least = self.limits.idle_timeout.filter(|_| reason == CloseReason::IdleTimeout);
        if let (Some(least), Some(heard_at)) = (least, heard_at) {
            // A tick is as exactly as an idle time-out is kept.
            let idle = now.saturating_duration_since(heard_at);
            ledger.ensure(idle + wheel::TICK >= least, || format!("{id} was closed as idle after {idle:?}"));
        }
        if let CloseReason::ReceiveFailed(fault) | CloseReason::SendFailed(fault) = reason {
            let ours = matches!(fault.kind, FaultKind::Cancelled | FaultKind::InvalidSocket);
            ledger.ensure(!ours, || format!("{id} ended by an operation of our own: {fault:?}"));
        }
        ledger.ensure(first, || format!("{id} was asked to end as {asked:?}, and ended as {reason:?}"));
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, timer: TimerKey) {
        let (index, now) = (shard.index(), shard.now());
        let mut ledger = self.ledger();
        let is_due = |set: &(usize, TimerKey, Instant)| (set.0, set.1) == (index, timer) && set.2 <= now;
        let due = ledger.timers.iter().position(is_due).map(|at| ledger.timers.swap_remove(at));
        ledger.ensure(due.is_some(), || format!("{timer:?} is early, or nobody set it"));
    }

    fn on_connect_failed(&mut self, shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        let sane = failure.to.ip().is_some_and(|to| to.port() == super::OUTSIDE_PORT) && shard.index() < 2;
        self.ledger().ensure(sane, || format!("{failure:?}"));
        Reconnect::AsConfigured
    }
}

/// The ledger, whatever panicked while it was locked: that is part of what is tested.
pub(super) fn open(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
