//! The handler under the engine's target: does what its peer's messages say, and writes down all that happens to it.

use std::{
    marker::PhantomData,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyport::{
    CloseReason, Codec, ConnectFailure, Frame, Handler, Pressure, Refusal, Sent, Session, SessionId, Shard,
    TimerKey,
};

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
}

/// All that happened. An engine contains panics of handlers, so that an assertion in one would go unnoticed: what is
/// wrong is written down here.
#[derive(Default, Debug)]
pub(super) struct Ledger {
    pub(super) sessions: Vec<Record>,
    pub(super) breach: Option<String>,
    timers_set: usize,
    timers_fired: usize,
}

impl Ledger {
    fn ensure(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.breach.is_none() {
            self.breach = Some(what());
        }
    }
}

/// The handler of one shard. All of an engine share a ledger.
pub(super) struct Recorder<C> {
    ledger: Arc<Mutex<Ledger>>,
    wire: Wire,
    codec: PhantomData<fn() -> C>,
}

impl<C: Codec> Recorder<C> {
    pub(super) fn new(ledger: Arc<Mutex<Ledger>>, wire: Wire) -> Self {
        Self { ledger, wire, codec: PhantomData }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
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
            b'p' => session.pause(),
            b'r' => session.resume(),
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
                self.ledger().timers_set += 1;
                session.shard().set_timer(TimerKey(kind), Duration::from_millis(body.len() as u64));
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
        let (id, peer) = (session.id(), session.peer_address());
        let mut ledger = self.ledger();
        let place = ledger.sessions.len();
        let opened_before = session.state().replace(place).is_some();
        ledger.ensure(!opened_before, || format!("{id} opened twice"));
        let known = ledger.sessions.iter().any(|record| record.id == id);
        ledger.ensure(!known, || format!("{id} was used before"));
        let (received, sent) = (Vec::new(), Vec::new());
        let record =
            Record { id, peer, received, sent, asked: None, cut: false, closed: None, pressure: false };
        ledger.sessions.push(record);
        drop(ledger);
        // The peer learns by it whom it talks to.
        self.send_shared(session, &Arc::from([place as u8]));
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let is_open = session.is_open();
        let closed = self.record(session, |record| {
            record.received.push((frame.kind, frame.to_vec()));
            record.closed.is_some()
        });
        self.ledger().ensure(is_open && closed == Some(false), || "a frame after its end".into());
        self.act(session, frame.first().copied().unwrap_or(0), frame.kind, frame.body);
    }

    fn on_pressure(&mut self, session: &mut Session<Self>, pressure: Pressure) {
        let high = pressure == Pressure::High;
        let before = self.record(session, |record| std::mem::replace(&mut record.pressure, high));
        self.ledger().ensure(before == Some(!high), || format!("{pressure:?} told twice"));
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        let late = session.send(b"late");
        let told = self.record(session, |record| (record.closed.replace(reason), record.asked, record.id));
        let Some((before, asked, id)) = told else { return };
        let mut ledger = self.ledger();
        ledger.ensure(before.is_none(), || format!("{id} closed twice: {before:?}, then {reason:?}"));
        ledger.ensure(late == Sent::Refused(Refusal::NotOpen), || {
            format!("{id} sends after its end: {late:?}")
        });
        let overdue = asked == Some(CloseReason::Drained) && reason == CloseReason::DrainDeadline;
        let first = asked.is_none_or(|asked| asked == reason) || overdue;
        ledger.ensure(first, || format!("{id} was asked to end as {asked:?}, and ended as {reason:?}"));
    }

    fn on_timer(&mut self, _: &mut Shard<Self>, _: TimerKey) {
        let mut ledger = self.ledger();
        ledger.timers_fired += 1;
        let asked_for = ledger.timers_fired <= ledger.timers_set;
        ledger.ensure(asked_for, || "a timer that nobody set".into());
    }

    fn on_connect_failed(&mut self, shard: &mut Shard<Self>, failure: &ConnectFailure) {
        let sane = failure.to.port() == super::OUTSIDE_PORT && shard.index() < 2;
        self.ledger().ensure(sane, || format!("{failure:?}"));
    }
}

/// The ledger, whatever panicked while it was locked: that is part of what is tested.
pub(super) fn open(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
