//! One service on one shard: completions in, handler calls, actions out.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_core::{
    Action, ChunkPool, CloseReason, Codec, Connection, Fault, FaultKind, FrameError, Limits, Reassembly,
    SessionId, Slab, SlabKey, State, TimerWheel,
    connection::ReceiveEnd,
    planted::{Bug, planted},
    reason::Blame,
    wheel,
};
use anyport_driver::{
    Accepted, Completion, Detached, Driver, Lease, Op, OpKind, Outcome, Received, SendBatch, SocketKey, Token,
};

use crate::{
    audit::Audit,
    counters::{Counters, Live, Published},
    error::{Error, Result},
    handler::{ConnectFailure, Handler, Pressure},
    log_limit::LogLimit,
    remote::{Job, Mail},
    service::Role,
    session::{Local, Session, Shard, Slot, TimerEvent},
    stop::Stop,
    sync::mpsc::Receiver,
};

/// Jobs that one turn takes from a mailbox.
const JOBS_MAX: usize = 1024;
/// Most bytes of a backlog given to the decoder at a time.
const BACKLOG_PIECE_BYTES: usize = 64 << 10;
/// What sessions that were due in a stall are given to be heard after it. 1 s.
const GRACE_TICKS: u64 = (Duration::from_secs(1).as_nanos() / wheel::TICK.as_nanos()) as u64;
/// Slot index in the token of a listener: no session has it.
const LISTENER_INDEX: u32 = (1 << 24) - 1;

/// Service in the top byte, then slot index and generation: enough to find the session of a completion.
fn token(service: u8, key: SlabKey) -> Token {
    Token(u64::from(service) << 56 | u64::from(key.index) << 32 | u64::from(key.generation))
}

/// The service that a completion is for.
pub(crate) fn service_of(token: Token) -> usize {
    (token.0 >> 56) as usize
}

fn slot_of(token: Token) -> SlabKey {
    SlabKey { index: (token.0 >> 32) as u32 & LISTENER_INDEX, generation: token.0 as u32 }
}

/// When a session is idle from which bytes last arrived in the tick `received_at`: at its very end, perhaps.
fn idle_due(received_at: u64, idle_ticks: u64) -> u64 {
    received_at.saturating_add(idle_ticks).saturating_add(1)
}

/// A service on a shard, for the shard's loop: one virtual call per event enters here, below it everything is
/// concrete.
pub(crate) trait ServiceOnShard<D: Driver> {
    fn start(&mut self, io: &mut D) -> Result<Option<SocketAddr>>;
    fn set_now(&mut self, now: Instant);
    fn complete(&mut self, io: &mut D, completion: Completion);
    /// True if more jobs are waiting than one turn takes.
    fn run_jobs(&mut self, io: &mut D) -> bool;
    /// `stalled` tells that the shard could have no turn for a while.
    fn fire_timers(&mut self, stalled: bool);
    fn flush(&mut self, io: &mut D);
    fn next_timer(&self) -> Option<Duration>;
    fn drain(&mut self, io: &mut D);
    fn abort(&mut self);
    fn is_finished(&self) -> bool;
    fn publish(&mut self);
    fn audit(&self) -> Audit;
}

/// What a service needs to come to life on a shard.
pub(crate) struct Birth<H: Handler> {
    pub(crate) handler: H,
    pub(crate) codec: H::Codec,
    pub(crate) limits: Limits,
    pub(crate) role: Role,
    pub(crate) shard: u8,
    pub(crate) service: u8,
    pub(crate) stop: Stop,
    pub(crate) jobs: Receiver<Job<H>>,
    /// Shards that this one hands accepted connections to; empty if each shard accepts its own.
    pub(crate) hand_to: Vec<Mail<H>>,
    pub(crate) live: Arc<Live>,
    pub(crate) published: Arc<Published>,
    pub(crate) now: Instant,
}

pub(crate) struct ServiceShard<H: Handler> {
    handler: H,
    local: Local<H>,
    role: Role,
    listener: Option<SocketKey>,
    jobs: Receiver<Job<H>>,
    hand_to: Vec<Mail<H>>,
    next_hand: usize,
    /// Sessions of the service over all shards.
    live: Arc<Live>,
    fired: Vec<TimerEvent>,
    frame_size_max: usize,
    idle_ticks: u64,
    ending: bool,
    closed_changed: bool,
    log_limit: LogLimit,
    published: Arc<Published>,
}

impl<H: Handler> ServiceShard<H> {
    pub(crate) fn new(birth: Birth<H>) -> Self {
        let Birth { handler, codec, limits, role, shard, service, stop, jobs, hand_to, live, published, now } =
            birth;
        Self {
            handler,
            frame_size_max: codec.frame_size_max(),
            idle_ticks: limits.idle_timeout.map_or(0, wheel::ticks_up),
            local: Local {
                sessions: Slab::new(SessionId::INDEX_MAX),
                dirty: Vec::new(),
                pool: ChunkPool::new(),
                wheel: TimerWheel::new(),
                limits,
                codec,
                counters: Counters::default(),
                started: now,
                now,
                tick: 0,
                shard,
                service,
                stop,
            },
            role,
            listener: None,
            jobs,
            hand_to,
            next_hand: 0,
            live,
            fired: Vec::new(),
            ending: false,
            closed_changed: true,
            log_limit: LogLimit::default(),
            published,
        }
    }

    fn listener_token(&self) -> Token {
        token(self.local.service, SlabKey { index: LISTENER_INDEX, generation: 0 })
    }

    // ---- calling the handler ----

    /// Calls the handler about a session. A panic costs that session, and nothing else.
    #[inline]
    fn call(&mut self, key: SlabKey, event: impl FnOnce(&mut H, &mut Session<'_, H>)) {
        let Self { handler, local, .. } = self;
        let result =
            catch_unwind(AssertUnwindSafe(|| event(handler, &mut Session { key, local: &mut *local })));
        if result.is_err() {
            self.handler_panicked(key);
        }
    }

    #[cold]
    fn handler_panicked(&mut self, key: SlabKey) {
        log::error!("a handler panicked in an event of session {}; it is closed", self.local.id(key));
        if !planted(Bug::PanicForgiven) {
            self.local.slot(key).connection.close(CloseReason::HandlerPanicked);
        }
        self.local.mark(key);
    }

    /// Calls the handler about the shard.
    fn call_shard(&mut self, event: impl FnOnce(&mut H, &mut Shard<'_, H>)) {
        let Self { handler, local, .. } = self;
        if catch_unwind(AssertUnwindSafe(|| event(handler, &mut Shard { local }))).is_err() {
            log::error!("a handler panicked in an event of shard {}", self.local.shard);
        }
    }

    // ---- sessions come ----

    fn accepted<D: Driver>(&mut self, io: &mut D, accepted: Accepted) {
        let Accepted { socket, peer } = accepted;
        if !self.hand_to.is_empty() {
            let to = self.next_hand % self.hand_to.len();
            self.next_hand = self.next_hand.wrapping_add(1);
            if to != self.local.shard as usize
                && let Some(detached) = io.detach(socket)
            {
                self.hand_to[to].send(Job::Adopt(detached, peer));
                return;
            }
        }
        self.open(io, socket, peer);
    }

    fn adopted<D: Driver>(&mut self, io: &mut D, detached: Detached, peer: SocketAddr) {
        if planted(Bug::HandedOverLost) {
            return;
        }
        if let Some(socket) = io.adopt(detached) {
            self.open(io, socket, peer);
        }
    }

    /// Gives a connected socket a session.
    fn open<D: Driver>(&mut self, io: &mut D, socket: SocketKey, peer: SocketAddr) {
        self.local.counters.accepted += 1;
        if self.ending && !planted(Bug::AcceptedWhileEnding) {
            return self.refuse(io, socket, peer, CloseReason::Stopped);
        }
        let more = usize::from(planted(Bug::OneSessionTooMany));
        if self.live.admit(self.local.limits.sessions_max + more) {
            let connection = Connection::open(self.local.limits.pause_reading_under_pressure);
            let slot = self.slot(connection, socket, peer);
            if let Some(key) = self.local.sessions.insert_with(|_| slot) {
                return self.opened(key);
            }
            self.live.leave();
        }
        if planted(Bug::RefusalTakesPlace) {
            self.live.count();
        }
        self.refuse(io, socket, peer, CloseReason::AtCapacity);
    }

    fn refuse<D: Driver>(&mut self, io: &mut D, socket: SocketKey, peer: SocketAddr, reason: CloseReason) {
        io.submit(self.listener_token(), Op::Close { socket });
        self.count_closed(reason);
        self.log_limit.note(self.local.now, || format!("connection from {peer} refused: {reason}"));
    }

    fn slot(&self, connection: Connection, socket: SocketKey, peer: SocketAddr) -> Slot<H> {
        let (decoder, encoder) = self.local.codec.split();
        Slot {
            connection,
            socket,
            decoder: Some(decoder),
            encoder,
            reassembly: Reassembly::default(),
            backlog: None,
            received_at: self.local.tick,
            peer,
            dirty: false,
            opened: false,
            pressure_rose: false,
            pressure_told: false,
            state: H::State::default(),
        }
    }

    fn opened(&mut self, key: SlabKey) {
        self.local.counters.sessions += 1;
        let slot = self.local.slot(key);
        slot.opened = true;
        if self.idle_ticks > 0 {
            let deadline = idle_due(self.local.tick, self.idle_ticks);
            self.local.wheel.set(deadline, TimerEvent::Idle(key));
        }
        self.local.mark(key);
        self.call(key, Handler::on_open);
    }

    fn connect<D: Driver>(
        &mut self,
        io: &mut D,
        address: SocketAddr,
        options: anyport_driver::SocketOptions,
    ) {
        let socket = match io.open(address, &options) {
            Ok(socket) => socket,
            Err(fault) => return self.connect_failed(address, fault),
        };
        let connection = Connection::connecting(self.local.limits.pause_reading_under_pressure);
        let slot = self.slot(connection, socket, address);
        let Some(key) = self.local.sessions.insert_with(|_| slot) else {
            return io.submit(self.listener_token(), Op::Close { socket });
        };
        self.live.count();
        io.submit(token(self.local.service, key), Op::Connect { socket });
    }

    fn connected(&mut self, key: SlabKey, result: std::result::Result<(), Fault>) {
        let tick = self.local.tick;
        let slot = self.local.slot(key);
        match result {
            Ok(()) => {
                slot.connection.handle_connected();
                // Closed meanwhile: it never opened for the handler.
                let open = slot.connection.is_open() || planted(Bug::OpenedWhileClosing);
                slot.received_at = tick;
                self.local.counters.connected += 1;
                if open {
                    self.opened(key);
                }
            }
            Err(fault) => {
                slot.connection.handle_connect_failed(CloseReason::ReceiveFailed(fault));
                let to = slot.peer;
                if !planted(Bug::FailedConnectKept) {
                    self.local.mark(key);
                }
                self.connect_failed(to, fault);
            }
        }
    }

    fn connect_failed(&mut self, to: SocketAddr, fault: Fault) {
        self.local.counters.connect_failed += 1;
        if !self.ending {
            let failure = ConnectFailure { to, fault };
            self.call_shard(|handler, shard| handler.on_connect_failed(shard, &failure));
        }
    }

    // ---- sessions live ----

    fn received<D: Driver>(&mut self, io: &mut D, key: SlabKey, lease: Lease) {
        self.local.counters.bytes_received += lease.len() as u64;
        let tick = self.local.tick;
        let slot = self.local.slot(key);
        slot.received_at = tick;
        if slot.connection.handle_received() {
            let bytes = io.bytes(&lease);
            let taken = if slot.connection.wants_frames() && slot.backlog.is_none() {
                self.deliver(key, bytes)
            } else {
                0
            };
            if !planted(Bug::BacklogDropped) {
                self.keep(key, &bytes[taken..]);
            }
            self.local.mark(key);
        }
        if !planted(Bug::BufferNotGivenBack) {
            io.recycle(lease);
        }
    }

    /// Gives the frames of a chunk to the handler while it takes them. Gives how far it came.
    #[inline]
    fn deliver(&mut self, key: SlabKey, chunk: &[u8]) -> usize {
        let slot = self.local.slot(key);
        let mut decoder = slot.decoder.take().expect("the decoder is out only during this call");
        let mut reassembly = std::mem::take(&mut slot.reassembly);
        let Self { handler, local, frame_size_max, .. } = self;
        let frame_size_max = *frame_size_max;
        let mut at = 0;
        let result = catch_unwind(AssertUnwindSafe(|| -> std::result::Result<(), FrameError> {
            while let Some(frame) = reassembly.next(&mut decoder, chunk, &mut at, frame_size_max)? {
                local.counters.frames_received += 1;
                handler.on_frame(&mut Session { key, local: &mut *local }, frame);
                if !local.slot(key).connection.wants_frames() && !planted(Bug::FramesAfterEnd) {
                    return Ok(());
                }
            }
            reassembly.finish(chunk, at, frame_size_max, &mut local.pool)?;
            at = chunk.len();
            Ok(())
        }));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let id = self.local.id(key);
                self.log_limit.note(self.local.now, || format!("session {id}: {error}"));
                self.local.slot(key).connection.close(CloseReason::from(error));
            }
            Err(_) => self.handler_panicked(key),
        }
        let slot = self.local.slot(key);
        slot.decoder = Some(decoder);
        if !planted(Bug::CutFrameForgotten) {
            slot.reassembly = reassembly;
        }
        at
    }

    /// Keeps bytes that the handler does not take now.
    #[inline]
    fn keep(&mut self, key: SlabKey, bytes: &[u8]) {
        let slot = self.local.slot(key);
        if !bytes.is_empty() && slot.connection.is_open() {
            slot.backlog.get_or_insert_default().bytes.extend_from_slice(bytes);
        }
    }

    /// Gives what was kept to the handler, as far as it takes it now; in pieces as they come from a driver, so
    /// that what the handler answers to one of them stays within the limits of the send queue.
    fn deliver_backlog(&mut self, key: SlabKey) {
        let slot = self.local.slot(key);
        if !slot.connection.wants_frames() {
            return;
        }
        let Some(mut backlog) = slot.backlog.take() else { return };
        while backlog.delivered < backlog.bytes.len() && self.local.slot(key).connection.wants_frames() {
            let end = backlog.bytes.len().min(backlog.delivered + BACKLOG_PIECE_BYTES);
            backlog.delivered += self.deliver(key, &backlog.bytes[backlog.delivered..end]);
        }
        let slot = self.local.slot(key);
        if backlog.delivered < backlog.bytes.len() && slot.connection.is_open() {
            slot.backlog = Some(backlog);
        } else {
            slot.connection.handle_delivered();
        }
    }

    fn receive_ended(&mut self, key: SlabKey, end: ReceiveEnd) {
        let slot = self.local.slot(key);
        slot.connection.handle_receive_ended(end, slot.backlog.is_some());
        self.local.mark(key);
    }

    #[inline]
    fn sent(&mut self, key: SlabKey, batch: Box<SendBatch>, result: std::result::Result<(), Fault>) {
        self.local.counters.bytes_sent += batch.sent() as u64;
        let Local { sessions, limits, pool, .. } = &mut self.local;
        let slot = sessions.get_mut(key).expect("a slot is not freed while a send is in flight");
        let relieved = slot.connection.handle_sent(batch, result, &limits.send, pool);
        if relieved && std::mem::take(&mut slot.pressure_told) && !planted(Bug::ReliefNotTold) {
            self.call(key, |handler, session| handler.on_pressure(session, Pressure::Relieved));
        }
        self.local.mark(key);
    }

    // ---- sessions go ----

    /// Carries out what a session's machine asks for.
    fn flush_session<D: Driver>(&mut self, io: &mut D, key: SlabKey) {
        let Some(slot) = self.local.sessions.get_mut(key) else { return };
        slot.dirty = false;
        // What rose and fell in one turn is not told: nobody would hear of its relief.
        if std::mem::take(&mut slot.pressure_rose)
            && slot.connection.under_pressure()
            && (!std::mem::replace(&mut slot.pressure_told, true) || planted(Bug::PressureToldTwice))
        {
            self.call(key, |handler, session| handler.on_pressure(session, Pressure::High));
        }
        self.deliver_backlog(key);
        let token = token(self.local.service, key);
        loop {
            let Local { sessions, pool, .. } = &mut self.local;
            let slot = sessions.get_mut(key).expect("freed only below");
            let Some(action) = slot.connection.poll_action(pool) else { return };
            if let Action::Finished(reason) = action {
                return self.finish(key, reason);
            }
            let socket = slot.socket;
            match action {
                Action::Receive => io.submit(token, Op::Receive { socket }),
                Action::CancelReceive => io.cancel(socket, OpKind::Receive),
                Action::Send(batch) => io.submit(token, Op::Send { socket, batch }),
                Action::Shutdown => io.submit(token, Op::Shutdown { socket }),
                Action::Close => io.submit(token, Op::Close { socket }),
                Action::StartDeadline => self.set_deadline(key, self.local.limits.drain_deadline),
                Action::StartLinger => self.set_deadline(key, self.local.limits.linger),
                Action::Finished(_) => unreachable!("returned above"),
            }
        }
    }

    fn set_deadline(&mut self, key: SlabKey, after: Duration) {
        if planted(Bug::NoDrainDeadline) {
            return;
        }
        let deadline = self.local.deadline(after);
        self.local.wheel.set(deadline, TimerEvent::DrainDeadline(key));
    }

    /// The end of a session: reported once, then its slot is free.
    fn finish(&mut self, key: SlabKey, reason: CloseReason) {
        let slot = self.local.slot(key);
        let (opened, peer) = (slot.opened, slot.peer);
        // Before the handler is told: who hears of the end may take the place.
        if !(planted(Bug::PlaceLost) && reason == CloseReason::PeerReset) {
            self.live.leave();
        }
        if opened && !(planted(Bug::EndNotTold) && reason == CloseReason::PeerReset) {
            self.count_closed(reason);
            self.local.counters.sessions -= 1;
            self.call(key, |handler, session| handler.on_close(session, reason));
            if planted(Bug::EndToldTwice) {
                self.call(key, |handler, session| handler.on_close(session, reason));
            }
            self.log_closed(key, peer, reason);
        }
        if planted(Bug::SlotNotFreed) && reason == CloseReason::Drained {
            return;
        }
        if let Some(mut slot) = self.local.sessions.remove(key) {
            slot.reassembly.release(&mut self.local.pool);
        }
    }

    fn log_closed(&mut self, key: SlabKey, peer: SocketAddr, reason: CloseReason) {
        let id = self.local.id(key);

        if matches!(reason.blame(), Blame::Peer | Blame::Application) {
            log::debug!("session {id} with {peer} closed: {reason}");
        } else {
            self.log_limit.note(self.local.now, || format!("session {id} with {peer} closed: {reason}"));
        }
    }

    fn count_closed(&mut self, reason: CloseReason) {
        self.local.counters.closed[reason.index()] += 1;
        self.closed_changed = true;
    }

    /// True if the id names a session of this service on this shard that has opened and not gone.
    fn is_ours(&self, id: SessionId) -> bool {
        id.shard() == self.local.shard
            && id.service() == self.local.service
            && self.local.sessions.get(id.slot()).is_some_and(|slot| slot.opened)
    }

    fn for_each_key(&mut self, mut each: impl FnMut(&mut Self, SlabKey)) {
        for index in 0..self.local.sessions.index_end() {
            if let Some((key, _)) = self.local.sessions.at_mut(index) {
                each(self, key);
            }
        }
    }
}

impl<D: Driver, H: Handler> ServiceOnShard<D> for ServiceShard<H> {
    fn start(&mut self, io: &mut D) -> Result<Option<SocketAddr>> {
        self.call_shard(Handler::on_start);
        match self.role {
            Role::Server { address, listen } => {
                if !self.accepts() {
                    return Ok(None);
                }
                let fail = |source| Error::Listen { address, source };
                let (listener, bound) = io.listen(address, &listen).map_err(fail)?;
                self.listener = Some(listener);
                io.submit(self.listener_token(), Op::Accept { listener });
                Ok(Some(bound))
            }
            Role::Client { address, options, connections } => {
                for _ in 0..connections {
                    self.connect(io, address, options);
                }
                Ok(None)
            }
        }
    }

    fn set_now(&mut self, now: Instant) {
        self.local.set_now(now);
    }

    fn complete(&mut self, io: &mut D, Completion { token, outcome }: Completion) {
        let key = slot_of(token);
        match outcome {
            Outcome::Received(Received::Data(lease)) => self.received(io, key, lease),
            Outcome::Sent(batch, result) => self.sent(key, batch, result),
            Outcome::Received(Received::EndOfStream) => self.receive_ended(key, ReceiveEnd::EndOfStream),
            Outcome::Received(Received::Failed(fault)) => self.receive_ended(key, ReceiveEnd::Failed(fault)),
            Outcome::Accepted(accepted) => self.accepted(io, accepted),
            Outcome::Connected(result) => self.connected(key, result),
            Outcome::AcceptFaulted(fault) => {
                self.local.counters.accept_faults += 1;
                if planted(Bug::DeafAfterEarlyReset) && fault.kind == FaultKind::PeerReset {
                    self.listener = None;
                }
                let text = || format!("cannot accept for the moment: {fault}");
                self.log_limit.note(self.local.now, text);
            }
            Outcome::ShutDown(Err(_)) if planted(Bug::ShutdownFaultDropped) => {}
            Outcome::ShutDown(_) => {
                self.local.slot(key).connection.handle_shut_down();
                self.local.mark(key);
            }
            Outcome::Closed(_) if key.index == LISTENER_INDEX => {}
            Outcome::Closed(_) => {
                self.local.slot(key).connection.handle_closed();
                self.local.mark(key);
            }
            Outcome::AcceptEnded(_) => self.listener = None,
        }
    }

    fn run_jobs(&mut self, io: &mut D) -> bool {
        let jobs_max = if planted(Bug::JobsLeft) { 1 } else { JOBS_MAX };
        for _ in 0..jobs_max {
            let Ok(job) = self.jobs.try_recv() else { return false };
            match job {
                Job::Session(id, job) => {
                    let id = if planted(Bug::JobForAnother) { self.tenant_of(id) } else { id };
                    if self.is_ours(id) {
                        self.call(id.slot(), job);
                        self.local.mark(id.slot());
                    }
                }
                Job::Shard(job) => self.call_shard(job),
                Job::Adopt(detached, peer) => self.adopted(io, detached, peer),
            }
        }
        !planted(Bug::JobsLeft)
    }

    fn fire_timers(&mut self, stalled: bool) {
        if self.local.wheel.is_empty() {
            return;
        }
        let mut fired = std::mem::take(&mut self.fired);
        self.local.wheel.advance(self.local.tick, &mut fired);
        for event in fired.drain(..) {
            match event {
                TimerEvent::Shard(timer) => self.call_shard(|handler, shard| handler.on_timer(shard, timer)),
                TimerEvent::DrainDeadline(key) => {
                    if let Some(slot) = self.local.sessions.get_mut(key) {
                        slot.connection.handle_deadline();
                        self.local.mark(key);
                    }
                }
                TimerEvent::Idle(key) => self.idle(key, stalled),
            }
        }
        self.fired = fired;
    }

    fn flush(&mut self, io: &mut D) {
        // A handler's `on_close` may touch other sessions: they are flushed in the same turn.
        while !self.local.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.local.dirty);
            for key in dirty.drain(..) {
                self.flush_session(io, key);
            }
            if self.local.dirty.is_empty() {
                self.local.dirty = dirty;
            }
        }
    }

    fn next_timer(&self) -> Option<Duration> {
        let tick = self.local.wheel.next_tick()?;
        let due = wheel::TICK
            .saturating_mul(u32::try_from(tick.saturating_sub(self.local.tick)).unwrap_or(u32::MAX));
        // The tick itself has begun already: subtract what has passed of it.
        let since_start = self.local.now.saturating_duration_since(self.local.started);
        let into_tick = since_start.as_nanos() % wheel::TICK.as_nanos();
        Some(due.saturating_sub(Duration::from_nanos(into_tick as u64)))
    }

    fn drain(&mut self, io: &mut D) {
        self.ending = true;
        if let Some(socket) = self.listener {
            io.submit(self.listener_token(), Op::Close { socket });
        }
        self.for_each_key(|this, key| {
            this.local.slot(key).connection.drain(CloseReason::Drained);
            if !planted(Bug::DrainNotFlushed) {
                this.local.mark(key);
            }
        });
    }

    fn abort(&mut self) {
        self.for_each_key(|this, key| {
            this.local.slot(key).connection.abort(CloseReason::Stopped);
            this.local.mark(key);
        });
    }

    fn is_finished(&self) -> bool {
        self.ending && self.listener.is_none() && self.local.sessions.is_empty()
    }

    fn publish(&mut self) {
        self.local.counters.turns += 1;
        self.published.publish(&self.local.counters, std::mem::take(&mut self.closed_changed));
    }

    fn audit(&self) -> Audit {
        Audit::of(&self.local, self.listener.is_some() || self.ending || !self.accepts())
    }
}

impl<H: Handler> ServiceShard<H> {
    /// True if this shard is one that listens.
    fn accepts(&self) -> bool {
        matches!(self.role, Role::Server { .. }) && (self.hand_to.is_empty() || self.local.shard == 0)
    }

    /// Whoever has the slot now.
    fn tenant_of(&mut self, id: SessionId) -> SessionId {
        let tenant = self.local.sessions.at_mut(id.slot().index).map(|(key, _)| key);
        tenant.map_or(id, |key| self.local.id(key))
    }

    /// The idle timer of a session: due, or moved on by what has arrived since. After a stall that may lie in the
    /// system still, because one turn takes only so much; so nobody is idle at once then (R40).
    fn idle(&mut self, key: SlabKey, stalled: bool) {
        let Some(slot) = self.local.sessions.get_mut(key) else { return };
        if slot.connection.state() != State::Open {
            return;
        }
        let due = idle_due(slot.received_at, self.idle_ticks);
        if due <= self.local.tick && stalled {
            self.local.wheel.set(self.local.tick + GRACE_TICKS, TimerEvent::Idle(key));
        } else if due <= self.local.tick || planted(Bug::IdleWhileBusy) {
            slot.connection.close(CloseReason::IdleTimeout);
            self.local.mark(key);
        } else if !planted(Bug::IdleLookedAtOnce) {
            self.local.wheel.set(due, TimerEvent::Idle(key));
        }
    }
}
