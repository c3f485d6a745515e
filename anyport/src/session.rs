//! What a handler sees: the session that an event is about, and the shard around it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_core::{
    ChunkPool, CloseReason, Codec, Connection, Encode, Frame, Limits, Reassembly, Refusal, Sent, SessionId,
    Slab, SlabKey, State, TimerWheel, wheel,
};
use anyport_driver::SocketKey;

use crate::{
    counters::Counters,
    handler::{Handler, TimerKey},
    stop::Stop,
};

type DecoderOf<H> = <<H as Handler>::Codec as Codec>::Decoder;
type EncoderOf<H> = <<H as Handler>::Codec as Codec>::Encoder;

/// One session in its shard's slab.
pub(crate) struct Slot<H: Handler> {
    pub(crate) connection: Connection,
    pub(crate) socket: SocketKey,
    /// Out of the slot while a chunk is decoded: the handler may send meanwhile.
    pub(crate) decoder: Option<DecoderOf<H>>,
    pub(crate) encoder: EncoderOf<H>,
    pub(crate) reassembly: Reassembly,
    /// Bytes that arrived while the session was paused, or under pressure: they wait for the handler. Bounded
    /// by what the driver had received before receiving was cancelled.
    pub(crate) backlog: Option<Box<Backlog>>,
    /// Tick at which bytes last arrived.
    pub(crate) received_at: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) dirty: bool,
    /// `on_open` was called, so `on_close` is owed.
    pub(crate) opened: bool,
    /// Pressure rose and the handler has not been told.
    pub(crate) pressure_rose: bool,
    /// The handler was told that it rose, and is owed the relief.
    pub(crate) pressure_told: bool,
    pub(crate) state: H::State,
}

/// Bytes that wait for the handler.
#[derive(Default)]
pub(crate) struct Backlog {
    pub(crate) bytes: Vec<u8>,
    /// How many of them the handler has had.
    pub(crate) delivered: usize,
}

/// What the wheel of a service on a shard holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TimerEvent {
    Idle(SlabKey),
    DrainDeadline(SlabKey),
    Shard(TimerKey),
}

/// Everything of one service on one shard that a callback may touch. Holds no driver.
pub(crate) struct Local<H: Handler> {
    pub(crate) sessions: Slab<Slot<H>>,
    /// Sessions with something to do at the end of the turn.
    pub(crate) dirty: Vec<SlabKey>,
    pub(crate) pool: ChunkPool,
    pub(crate) wheel: TimerWheel<TimerEvent>,
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

/// The shard that an event happens on: the sessions of your service that live on it.
pub struct Shard<'a, H: Handler> {
    pub(crate) local: &'a mut Local<H>,
}

impl<H: Handler> Shard<'_, H> {
    /// Which shard it is, from 0.
    pub fn index(&self) -> usize {
        self.local.shard as usize
    }

    /// The time of this turn; one reading for all its events.
    pub fn now(&self) -> Instant {
        self.local.now
    }

    /// Sessions of this service on this shard, closing ones included.
    pub fn sessions(&self) -> usize {
        self.local.sessions.len()
    }

    /// The session with this id, or `None` if it has gone or lives on another shard.
    pub fn session(&mut self, id: SessionId) -> Option<Session<'_, H>> {
        if id.shard() != self.local.shard || id.service() != self.local.service {
            return None;
        }
        let key = id.slot();
        self.local.sessions.get(key)?;
        Some(Session { key, local: self.local })
    }

    /// Calls `each` for every open session of this service on this shard.
    pub fn for_each(&mut self, mut each: impl FnMut(&mut Session<'_, H>)) {
        for index in 0..self.local.sessions.index_end() {
            if let Some((key, slot)) = self.local.sessions.at_mut(index)
                && slot.connection.is_open()
            {
                each(&mut Session { key, local: self.local });
            }
        }
    }

    /// Calls [`on_timer`](Handler::on_timer) once, not before `after` has passed and about 65 µs at most after
    /// the shard is free. Zero is the next turn.
    pub fn set_timer(&mut self, timer: TimerKey, after: Duration) {
        let deadline = self.local.deadline(after);
        self.local.wheel.set(deadline, TimerEvent::Shard(timer));
    }

    /// Drains and stops the whole engine, as a termination signal does.
    pub fn stop_engine(&self) {
        self.local.stop.drain();
    }
}

/// The session that an event is about.
pub struct Session<'a, H: Handler> {
    pub(crate) key: SlabKey,
    pub(crate) local: &'a mut Local<H>,
}

impl<H: Handler> Session<'_, H> {
    /// Its id, never used again for another.
    pub fn id(&self) -> SessionId {
        self.local.id(self.key)
    }

    /// Your data in this session.
    pub fn state(&mut self) -> &mut H::State {
        &mut self.local.slot(self.key).state
    }

    /// The other end.
    pub fn peer_address(&mut self) -> SocketAddr {
        self.local.slot(self.key).peer
    }

    /// True until it drains or closes.
    pub fn is_open(&mut self) -> bool {
        self.local.slot(self.key).connection.is_open()
    }

    /// The shard around it.
    pub fn shard(&mut self) -> Shard<'_, H> {
        Shard { local: self.local }
    }

    /// Queues a message. It leaves at the end of the turn, together with all that was queued before.
    #[inline]
    pub fn send(&mut self, body: &[u8]) -> Sent {
        self.send_frame(Frame { kind: 0, body })
    }

    /// Queues a message of a kind, for codecs that carry one.
    #[inline]
    pub fn send_kind(&mut self, kind: u16, body: &[u8]) -> Sent {
        self.send_frame(Frame { kind, body })
    }

    /// Queues a frame.
    #[inline]
    pub fn send_frame(&mut self, frame: Frame) -> Sent {
        let Local { sessions, pool, limits, dirty, counters, .. } = &mut *self.local;
        let slot = sessions.get_mut(self.key).expect("a session's view does not outlive its slot");
        let Slot { connection, encoder, .. } = slot;
        let sent = match encoder.encoded_size(&frame) {
            Ok(size) => connection.send(size, &limits.send, pool, |out| encoder.encode(&frame, out)),
            Err(_) => Sent::Refused(Refusal::FrameTooLarge),
        };
        Self::account(self.key, slot, dirty, counters, sent)
    }

    /// Queues bytes that are encoded already and may be shared with other sessions, without a copy.
    pub fn send_shared(&mut self, bytes: Arc<[u8]>) -> Sent {
        let Local { sessions, pool, limits, dirty, counters, .. } = &mut *self.local;
        let slot = sessions.get_mut(self.key).expect("a session's view does not outlive its slot");
        let sent = slot.connection.send_shared(bytes, &limits.send, pool);
        Self::account(self.key, slot, dirty, counters, sent)
    }

    #[inline]
    fn account(
        key: SlabKey,
        slot: &mut Slot<H>,
        dirty: &mut Vec<SlabKey>,
        counters: &mut Counters,
        sent: Sent,
    ) -> Sent {
        match sent {
            Sent::Queued => counters.frames_sent += 1,
            Sent::High => {
                counters.frames_sent += 1;
                slot.pressure_rose = true;
            }
            Sent::Refused(_) => counters.frames_refused += 1,
        }
        if !std::mem::replace(&mut slot.dirty, true) {
            dirty.push(key);
        }
        sent
    }

    /// Bytes queued that the system has not taken yet.
    pub fn queued_bytes(&mut self) -> usize {
        self.local.slot(self.key).connection.queued_bytes()
    }

    /// Stops reading from the peer: no frame is given to the handler until [`resume`](Self::resume).
    pub fn pause(&mut self) {
        self.local.slot(self.key).connection.pause(true);
        self.local.mark(self.key);
    }

    /// Reads again after [`pause`](Self::pause).
    pub fn resume(&mut self) {
        self.local.slot(self.key).connection.pause(false);
        self.local.mark(self.key);
    }

    /// Ends it gracefully: what is queued goes out, then our direction of the stream ends, then the peer's; the
    /// drain deadline bounds both.
    pub fn drain(&mut self) {
        self.local.slot(self.key).connection.drain(CloseReason::Drained);
        self.local.mark(self.key);
    }

    /// Throws the peer out at once, with a number of the application's own. What is queued is dropped.
    pub fn kick(&mut self, number: u16) {
        self.close(CloseReason::Kicked(number));
    }

    /// Ends it at once for `reason`, unless it is ending already: the first cause stays.
    pub fn close(&mut self, reason: CloseReason) {
        self.local.slot(self.key).connection.close(reason);
        self.local.mark(self.key);
    }

    /// Where it is in its life.
    pub fn connection_state(&mut self) -> State {
        self.local.slot(self.key).connection.state()
    }
}
