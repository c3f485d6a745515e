//! A handler that does everything: each call of the API in each callback, panics included. What it does follows from
//! the seed, the session and how often that was called; so it stays the same when other sessions go.

mod dial;
mod files;
mod mood;
mod more;

use std::{
    collections::HashMap,
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyport::{
    CloseReason, ConnectFailure, Encode, FileEvent, FileId, Frame, Handler, Limits, Overflow, Pressure,
    Reconnect, Refusal, Sent, Session, Shard, TimerKey,
};

use crate::{
    chance::Chance,
    ledger::{GROUPS, Ledger},
    plan::{Config, Dial},
    stream::{Messages, Wire, WireStream, label_of},
};

pub(crate) use dial::Next;
pub use mood::{Call, Mood};

/// Names of the groups of each service.
pub(crate) const GROUP_NAMES: [&str; GROUPS] = ["red", "green", "blue"];
/// Timers that a session has.
const SESSION_TIMERS: u64 = 4;
/// Frames of a session that the handler answers in good weather.
const ANSWERS_IN_CALM: u32 = 16;

/// How a message of a session's own stream is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    Alone,
    Shared,
    InParts,
    Notified,
    /// And drains the session.
    LastWord,
}

/// What becomes of a message that may be lost.
fn overflow(chance: &mut Chance) -> Overflow {
    match chance.below(4) {
        0 => Overflow::Skip,
        1 => Overflow::DropOldest,
        _ => Overflow::Conflate { key: chance.below(3) },
    }
}

/// True if it is open once it has what was published to it in this turn, which may be more than its queue takes.
fn is_open<C: Wire>(session: &mut Session<Everything<C>>) -> bool {
    session.queued_bytes();
    session.is_open()
}

/// What the handlers of all shards share with the world.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) seed: u64,
    pub(crate) mood: Mood,
    pub(crate) limits: Limits,
    pub(crate) dial: Dial,
    /// Shards of the engine: those of the client service.
    pub(crate) shards: usize,
    pub(crate) messages: Messages,
    ledger: Mutex<Ledger>,
}

impl Shared {
    pub(crate) fn new(seed: u64, config: &Config, messages: Messages, ledger: Ledger) -> Self {
        let Config { mood, limits, dial, shards, .. } = config;
        let (mood, limits, dial) = (mood.clone(), *limits, *dial);
        Self { seed, mood, limits, dial, shards: *shards, messages, ledger: Mutex::new(ledger) }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A failed assertion may have been thrown while it was locked: what it says is still wanted.
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One session, as the handler keeps it.
#[derive(Default, Debug)]
pub(crate) struct Mine {
    /// Its place in the ledger.
    pub(crate) record: Option<usize>,
    /// How often the handler was called about it.
    calls: u64,
    /// Frames that were answered in good weather.
    answers: u32,
    /// What it was asked for with, if somebody asked for it.
    pub(crate) wanted: Option<u64>,
    /// What follows its end, if the handler said so.
    follows: Option<Reconnect>,
    incoming: Option<WireStream>,
    /// The first bytes of a stream without frames, until they name it.
    first: Vec<u8>,
}

impl Mine {
    /// That of a connection that somebody asked for.
    pub(crate) fn wanted(wanted: u64) -> Self {
        Self { wanted: Some(wanted), ..Self::default() }
    }
}

pub(crate) struct Everything<C: Wire> {
    pub(crate) shard: usize,
    pub(crate) codec: C,
    pub(crate) shared: Arc<Shared>,
    timers: HashMap<u16, Instant>,
    timers_set: u16,
    calls: u64,
    /// Strays that this handler has published.
    published: u32,
    /// Which service it is of, as a part of its file's name.
    number: usize,
    records: files::Records,
    /// It was told that the engine ends.
    is_ending: bool,
    /// Connections that it let be opened again in good weather.
    again_in_calm: u32,
}

impl<C: Wire> Everything<C> {
    pub(crate) fn new(number: usize, shard: usize, codec: C, shared: Arc<Shared>) -> Self {
        Self {
            shard,
            codec,
            shared,
            timers: HashMap::new(),
            timers_set: 0,
            calls: 0,
            published: 0,
            number,
            records: files::Records::default(),
            is_ending: false,
            again_in_calm: 0,
        }
    }

    // ---- calls about a session ----

    /// Does what the seed says, in which callback that is.
    fn act(&mut self, session: &mut Session<Self>, callback: u64) {
        let shared = Arc::clone(&self.shared);
        let address = session.peer_address().socket().expect("it came by IP");
        let connection = {
            let ledger = shared.ledger();
            if ledger.calm {
                return;
            }
            ledger.connections.get(&address).copied().unwrap_or_else(|| session.id().bits())
        };
        let mine = session.state();
        mine.calls += 1;
        let key = (connection << 32) ^ (mine.calls << 4) ^ callback;
        let mut chance = Chance::new(shared.seed ^ 0xac7, key);
        let calls = chance.below(u64::from(shared.mood.eagerness) + 1) / 4;
        for _ in 0..calls {
            let Some(call) = shared.mood.pick(&mut chance) else { return };
            self.call(session, call, &mut chance);
        }
    }

    fn call(&mut self, session: &mut Session<Self>, call: Call, chance: &mut Chance) {
        match call {
            Call::Send => self.send(session, How::Alone),
            Call::SendShared => self.send(session, How::Shared),
            Call::SendNotify => self.send(session, How::Notified),
            Call::SendVectored => self.send(session, How::InParts),
            Call::Burst => {
                for _ in 0..chance.size(2, 200) {
                    self.send(session, How::Alone);
                }
            }
            Call::SendTooLarge => self.send_too_large(session),
            Call::Pause => self.pause(session, true),
            Call::Resume => self.pause(session, false),
            Call::DrainWith => self.send(session, How::LastWord),
            Call::Drain => {
                let drain = |session: &mut Session<Self>| session.drain();
                self.end(session, CloseReason::Drained, drain);
            }
            Call::Kick => {
                let number = chance.next() as u16;
                self.end(session, CloseReason::Kicked(number), |session| session.kick(number));
            }
            Call::Close => {
                self.end(session, CloseReason::Stopped, |session| session.close(CloseReason::Stopped));
            }
            Call::SetTimer => self.set_timer(&mut session.shard(), chance),
            Call::ForEach => self.for_each(&mut session.shard()),
            Call::Other => {
                let id = {
                    let ledger = self.shared.ledger();
                    let pick = chance.below(ledger.records.len().max(1) as u64) as usize;
                    ledger.records.get(pick).map(|record| record.id)
                };
                let call = chance.pick(&[
                    Call::Send,
                    Call::Send,
                    Call::Kick,
                    Call::Drain,
                    Call::Pause,
                    Call::Resume,
                ]);
                let mut shard = session.shard();
                if self.shared.mood.calls.contains(&call)
                    && let Some(mut other) = id.and_then(|id| shard.session(id))
                {
                    self.call(&mut other, call, chance);
                }
            }
            Call::Join | Call::Leave => self.join(session, call == Call::Join, chance),
            Call::Publish | Call::PublishExcept | Call::PublishLoose => {
                let id = session.id();
                let (service, except) = (id.service(), (call == Call::PublishExcept).then_some(id));
                let overflow = if call == Call::PublishLoose { overflow(chance) } else { Overflow::Close };
                let group = chance.below(GROUPS as u64) as usize;
                self.publish(&mut session.shard(), service, group, except, overflow);
            }
            Call::Offload => self.offload(session, chance),
            Call::OffloadForShard => Self::offload_for_shard(&mut session.shard()),
            Call::Connect => self.connect(&mut session.shard()),
            Call::ReconnectNow => self.reconnect_now(&mut session.shard()),
            Call::SetReconnect => self.set_reconnect(session, chance),
            Call::Append | Call::SyncFile | Call::RotateFile | Call::CloseFile => {
                self.use_file(&mut session.shard(), call);
            }
            Call::SendLoose => self.send_loose(session, overflow(chance)),
            Call::SetSessionTimer => self.set_session_timer(session, chance),
            Call::CancelSessionTimer => {
                self.cancel_session_timer(session, chance.below(SESSION_TIMERS) as u16);
            }
            Call::StopEngine => {
                self.shared.ledger().stopping.get_or_insert(CloseReason::Drained);
                session.shard().stop_engine();
            }
            Call::StopEngineWithin => self.stop_within(&mut session.shard(), chance),
            Call::Panic => {
                let was_open = is_open(session);
                if let Some(at) = session.state().record {
                    self.shared.ledger().ended_by_us(at, CloseReason::HandlerPanicked, was_open);
                }
                // Without the hook that prints it: it is meant.
                resume_unwind(Box::new("on purpose"));
            }
        }
    }

    /// Sends the next message of the session's stream, and knows what `send` must answer.
    pub(crate) fn send(&mut self, session: &mut Session<Self>, how: How) {
        let Some(at) = session.state().record else { return };
        let id = session.id();
        let (was_open, before) = (is_open(session), session.queued_bytes());
        let shared = Arc::clone(&self.shared);
        let number = shared.ledger().records[at].sent;
        let (kind, body) = shared.messages.message(id.bits(), number);
        let frame = Frame { kind: if C::KINDS { kind } else { 0 }, body: &body };
        let mut encoder = self.codec.split().1;
        let size = encoder.encoded_size(&frame).expect("bodies are small enough");
        let sent = match how {
            How::Alone => session.send_frame(frame),
            How::Shared => {
                let mut wire = Vec::new();
                encoder.encode(&frame, &mut wire);
                session.send_shared(wire.into())
            }
            How::InParts => {
                let (front, back) = body.split_at(body.len() / 3);
                session.send_vectored(frame.kind, &[front, &[], back])
            }
            How::Notified => session.send_notify(frame, number),
            How::LastWord => session.drain_with(frame),
        };
        let marks = shared.limits.send;
        let (after, still_open) = (session.queued_bytes(), session.is_open());
        let fits = before + size <= marks.queue_max_bytes;
        let expected = match (was_open, fits) {
            (false, _) => Sent::Refused(Refusal::NotOpen),
            (true, false) => Sent::Refused(Refusal::QueueFull),
            (true, true) if before + size > marks.high_water_bytes => Sent::High,
            (true, true) => Sent::Queued,
        };
        let ledger = &mut *shared.ledger();
        // When everybody has gone the queues are empty, and so are the budgets.
        let over_budget = was_open
            && !ledger.leaving
            && shared.limits.service_queue_max_bytes.is_some()
            && sent == Sent::Refused(Refusal::OverBudget);
        ledger.ensure(sent == expected || over_budget, || {
            format!(
                "session {id}: send of {size} bytes with {before} queued answered {sent:?}, not {expected:?}"
            )
        });
        match sent {
            Sent::Queued | Sent::High => {
                ledger.ensure(after == before + size, || {
                    format!(
                        "session {id}: {size} bytes were queued, and the queue grew from {before} to {after}"
                    )
                });
                let record = &mut ledger.records[at];
                if how == How::Notified {
                    record.tokens.push_back(number);
                }
                record.sent += 1;
                record.sent_bytes += size as u64;
                record.held_back |= sent == Sent::High;
            }
            Sent::Refused(Refusal::QueueFull) => ledger.ended_by_us(at, CloseReason::SendQueueFull, was_open),
            Sent::Refused(Refusal::OverBudget) => ledger.ended_by_us(at, CloseReason::SendBudget, was_open),
            Sent::Skipped => ledger.fail(|| format!("session {id}: what may not be lost was skipped")),
            Sent::Refused(_) => {}
        }
        if how == How::LastWord {
            // What ended it before stays its reason.
            ledger.ended_by_us(at, CloseReason::Drained, was_open);
            ledger.ensure(!still_open, || format!("session {id} is open after its last word"));
        }
    }

    fn send_too_large(&mut self, session: &mut Session<Self>) {
        if !C::FRAMED {
            return;
        }
        let (id, was_open) = (session.id(), is_open(session));
        let sent = session.send(&vec![b'x'; self.codec.frame_size_max() + 1]);
        self.shared.ledger().ensure(matches!(sent, Sent::Refused(_)), || {
            format!("session {id}: a frame above the codec's limit was answered {sent:?}")
        });
        let still_open = session.is_open();
        self.shared
            .ledger()
            .ensure(was_open == still_open, || format!("session {id}: a refused frame changed its state"));
    }

    pub(crate) fn pause(&mut self, session: &mut Session<Self>, paused: bool) {
        if paused {
            session.pause();
        } else {
            session.resume();
        }
        if let Some(at) = session.state().record {
            let record = &mut self.shared.ledger().records[at];
            record.paused = paused;
            record.held_back |= paused;
        }
    }

    fn end(
        &mut self,
        session: &mut Session<Self>,
        reason: CloseReason,
        how: impl FnOnce(&mut Session<Self>),
    ) {
        let was_open = is_open(session);
        how(session);
        let (id, open) = (session.id(), session.is_open());
        let Some(at) = session.state().record else { return };
        let mut ledger = self.shared.ledger();
        ledger.ended_by_us(at, reason, was_open);
        ledger.ensure(!open, || format!("session {id} is open after it was ended as {reason:?}"));
    }

    /// In a job for the session.
    pub(crate) fn posted(&mut self, session: &mut Session<Self>) {
        self.act(session, 5);
    }

    /// In a job for the shard.
    pub(crate) fn posted_to_shard(&mut self, shard: &mut Shard<Self>) {
        self.act_on_shard(shard, 4);
    }

    // ---- calls about a shard ----

    fn act_on_shard(&mut self, shard: &mut Shard<Self>, callback: u64) {
        let shared = Arc::clone(&self.shared);
        if shared.ledger().calm {
            return;
        }
        self.calls += 1;
        let mut chance =
            Chance::new(shared.seed ^ 0x54a, self.calls << 8 | callback << 4 | self.shard as u64);
        if !chance.one_in(3) {
            return;
        }
        match shared.mood.pick(&mut chance) {
            Some(Call::SetTimer) => self.set_timer(shard, &mut chance),
            Some(Call::ForEach) => self.for_each(shard),
            Some(Call::Panic) => resume_unwind(Box::new("on purpose")),
            Some(Call::Resume) => {
                let mut ids = Vec::new();
                shard.for_each(|session| ids.push(session.id()));
                for id in ids {
                    if let Some(mut session) = shard.session(id) {
                        self.pause(&mut session, false);
                    }
                }
            }
            Some(Call::StopEngine) => {
                shared.ledger().stopping.get_or_insert(CloseReason::Drained);
                shard.stop_engine();
            }
            Some(Call::StopEngineWithin) => self.stop_within(shard, &mut chance),
            Some(Call::Publish | Call::PublishLoose) => {
                let (service, group) = (self.number as u8, chance.below(GROUPS as u64) as usize);
                let overflow = overflow(&mut chance);
                self.publish(shard, service, group, None, overflow);
            }
            Some(Call::OffloadForShard) => Self::offload_for_shard(shard),
            Some(call @ (Call::Append | Call::SyncFile | Call::RotateFile | Call::CloseFile)) => {
                self.use_file(shard, call);
            }
            Some(Call::Connect) => self.connect(shard),
            Some(Call::ReconnectNow) => self.reconnect_now(shard),
            _ => {}
        }
    }

    fn set_timer(&mut self, shard: &mut Shard<Self>, chance: &mut Chance) {
        // Few enough that none is overwritten.
        if self.timers.len() > 1_000 {
            return;
        }
        while self.timers.contains_key(&self.timers_set) {
            self.timers_set = self.timers_set.wrapping_add(1);
        }
        let longest = chance.pick(&[0, 1_000, 1_000_000, 1_000_000_000, 100_000_000_000]);
        let after = Duration::from_nanos(chance.below(longest + 1));
        self.timers.insert(self.timers_set, shard.now() + after);
        shard.set_timer(TimerKey(self.timers_set), after);
    }

    fn for_each(&mut self, shard: &mut Shard<Self>) {
        let mut ids = Vec::new();
        let shared = Arc::clone(&self.shared);
        shard.for_each(|session| {
            let (id, open) = (session.id(), session.is_open());
            shared.ledger().ensure(open, || format!("for_each gave session {id}, which is not open"));
            ids.push(id);
        });
        for id in ids {
            if let Some(mut session) = shard.session(id) {
                self.send(&mut session, How::Shared);
            }
        }
    }

    // ---- what comes in ----

    fn receive(&mut self, session: &mut Session<Self>, frame: Frame) {
        let Some(at) = session.state().record else {
            let id = session.id();
            return self.shared.ledger().fail(|| format!("session {id} got a frame before it opened"));
        };
        let now = session.shard().now();
        let id = session.id();
        let shared = Arc::clone(&self.shared);
        shared.ledger().may_hear(at, "a frame");
        let (queued, limits) = (session.queued_bytes(), &shared.limits);
        // What was published in this turn weighs from its end on.
        let pressed = limits.pause_reading_under_pressure
            && queued > limits.send.high_water_bytes
            && session.groups().is_empty();
        shared
            .ledger()
            .ensure(!pressed, || format!("session {id} was given a frame with {queued} bytes queued"));
        let mine = session.state();
        let wrong = if C::FRAMED {
            Self::receive_message(&shared, at, frame)
        } else {
            Self::receive_bytes(&shared, &self.codec, at, mine, frame.body)
        };
        let mut ledger = shared.ledger();
        ledger.records[at].received_at = now;
        if let Some(wrong) = wrong {
            ledger.fail(|| format!("session {id}: {wrong}"));
        }
    }

    fn receive_message(shared: &Shared, at: usize, frame: Frame) -> Option<String> {
        let mut ledger = shared.ledger();
        let record = &mut ledger.records[at];
        let number = record.received;
        record.received += 1;
        if number == 0 {
            record.incoming = label_of(frame.body);
        }
        let Some(label) = record.incoming else {
            return Some(format!("its first message names no stream: {} bytes", frame.body.len()));
        };
        drop(ledger);
        let (kind, body) = shared.messages.message(label, number);
        let kind = if C::KINDS { kind } else { 0 };
        (kind != frame.kind || *body != *frame.body).then(|| {
            format!(
                "message {number} of stream {label:x} should have {} bytes of kind {kind}, and {} bytes of kind {} came \
                 that differ",
                body.len(),
                frame.body.len(),
                frame.kind
            )
        })
    }

    fn receive_bytes(shared: &Shared, codec: &C, at: usize, mine: &mut Mine, bytes: &[u8]) -> Option<String> {
        let number = {
            let mut ledger = shared.ledger();
            let record = &mut ledger.records[at];
            record.received += bytes.len() as u64;
            record.received - bytes.len() as u64
        };
        let held;
        let bytes = if let Some(incoming) = &mut mine.incoming {
            return incoming
                .expect(&shared.messages, codec, bytes)
                .err()
                .map(|differs| format!("byte {} is not what the peer wrote", number + differs as u64));
        } else {
            mine.first.extend_from_slice(bytes);
            let label = label_of(&mine.first)?;
            shared.ledger().records[at].incoming = Some(label);
            mine.incoming = Some(WireStream::new(label));
            held = std::mem::take(&mut mine.first);
            &held[..]
        };
        let incoming = mine.incoming.as_mut().expect("just made");
        incoming
            .expect(&shared.messages, codec, bytes)
            .err()
            .map(|differs| format!("byte {differs} is not what the peer wrote"))
    }
}

/// A session whose end is being told.
struct Gone {
    at: usize,
    shared: Arc<Shared>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.shared.ledger().gone(self.at);
    }
}

impl<C: Wire> Handler for Everything<C> {
    type State = Mine;
    type Codec = C;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        self.act_on_shard(shard, 1);
    }

    fn on_open(&mut self, session: &mut Session<Self>) {
        let (id, peer) = (session.id(), session.peer_address());
        let address = peer.socket().expect("it came by IP");
        let now = session.shard().now();
        let (is_open, sessions_max) = (session.is_open(), self.shared.limits.sessions_max);
        let is_ending = self.is_ending;
        self.shared
            .ledger()
            .ensure(!is_ending, || format!("session {id} opened after the engine began to end"));
        let at = {
            let mut ledger = self.shared.ledger();
            let at = ledger.opened(id, address, now);
            let limits = &self.shared.limits;
            let record = &mut ledger.records[at];
            let possible = [
                // Whoever reads less than others makes room for them.
                (limits.service_queue_max_bytes.is_some(), CloseReason::SendBudget),
                (limits.handshake_timeout.is_some(), CloseReason::HandshakeTimeout),
                (limits.frame_timeout.is_some(), CloseReason::FrameTimeout),
            ];
            record
                .possible
                .extend(possible.into_iter().filter_map(|(may_be, reason)| may_be.then_some(reason)));
            let all = Limits::default();
            record.held_back = limits.rates.are_set()
                || limits.turn_frames_max < all.turn_frames_max
                || limits.turn_bytes_max < all.turn_bytes_max;
            ledger.ensure(is_open, || format!("session {id} was told to be open, and is not"));
            let open = ledger.open[id.service() as usize];
            ledger.ensure(open <= sessions_max, || {
                format!("{open} sessions are open, and {sessions_max} may be")
            });
            at
        };
        session.state().record = Some(at);
        self.seat_opened(session);
        // The label of what we send comes first.
        self.send(session, How::Alone);
        self.act(session, 1);
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.receive(session, frame);
        let calm = self.shared.ledger().calm;
        // Answers flow as well, but not so many that they never end.
        if calm && session.state().answers < ANSWERS_IN_CALM {
            session.state().answers += 1;
            self.send(session, How::Alone);
        }
        self.act(session, 2);
    }

    fn on_pressure(&mut self, session: &mut Session<Self>, pressure: Pressure) {
        let (id, queued) = (session.id(), session.queued_bytes());
        let low = self.shared.limits.send.low_water_bytes;
        let in_group = !session.groups().is_empty();
        if let Some(at) = session.state().record {
            let mut ledger = self.shared.ledger();
            ledger.may_hear(at, "pressure");
            let high = pressure == Pressure::High;
            let before = std::mem::replace(&mut ledger.records[at].told_high, high);
            ledger.ensure(before != high, || format!("session {id} was told {pressure:?} twice"));
            ledger.ensure(high || queued <= low || in_group, || {
                format!(
                    "session {id} was told of relief with {queued} bytes queued, and its low mark is {low}"
                )
            });
        }
        self.act(session, 3);
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        let id = session.id();
        let now = session.shard().now();
        let at = session.state().record;
        {
            let mut ledger = self.shared.ledger();
            ledger.closed(at, id, reason, now);
            if reason == CloseReason::IdleTimeout
                && let Some(at) = at
            {
                let idle = now.saturating_duration_since(ledger.records[at].received_at);
                let limit = self.shared.limits.idle_timeout;
                let held_back = ledger.records[at].held_back;
                ledger.ensure(limit.is_some_and(|limit| idle >= limit || held_back), || {
                    format!("session {id} was closed as idle after {idle:?}, and the limit is {limit:?}")
                });
            }
        }
        self.seat_ended(session);
        // Also if the handler panics.
        let _gone = at.map(|at| Gone { at, shared: Arc::clone(&self.shared) });
        self.act(session, 4);
    }

    fn on_sent(&mut self, session: &mut Session<Self>, token: u64) {
        if let Some(at) = session.state().record {
            self.shared.ledger().token_came(at, token);
        }
        self.act(session, 6);
    }

    fn on_session_timer(&mut self, session: &mut Session<Self>, timer: TimerKey) {
        let now = session.shard().now();
        let Some(at) = session.state().record else { return };
        let calm = {
            let mut ledger = self.shared.ledger();
            ledger.alarm_came(at, timer.0, now);
            ledger.calm
        };
        if calm {
            // What repeats would never come to rest.
            self.cancel_session_timer(session, timer.0);
        }
        self.act(session, 7);
    }

    fn on_drain(&mut self, shard: &mut Shard<Self>) {
        let mut ledger = self.shared.ledger();
        self.is_ending = true;
        let stopping = ledger.stopping.is_some();
        ledger.ensure(stopping, || "a shard was told that the engine ends, and it does not".to_owned());
        drop(ledger);
        self.act_on_shard(shard, 6);
    }

    fn on_session_drain(&mut self, session: &mut Session<Self>) {
        let (id, is_open) = (session.id(), session.is_open());
        if let Some(at) = session.state().record {
            let mut ledger = self.shared.ledger();
            let before = std::mem::replace(&mut ledger.records[at].told_drain, true);
            let stopping = ledger.stopping.is_some();
            ledger.ensure(stopping && is_open && !before, || {
                format!("session {id} was told that the engine ends: twice or too early or too late")
            });
        }
        self.act(session, 9);
    }

    fn on_file(&mut self, shard: &mut Shard<Self>, file: FileId, event: FileEvent) {
        self.file_event(file, event);
        self.act_on_shard(shard, 7);
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, timer: TimerKey) {
        let now = shard.now();
        match self.timers.remove(&timer.0) {
            Some(due) => self.shared.ledger().timer(due, now),
            None => self.shared.ledger().fail(|| format!("{timer:?} came and was not set")),
        }
        self.act_on_shard(shard, 2);
    }

    fn on_connect_failed(&mut self, shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        self.connect_failed(shard, failure)
    }
}
