//! The connection machine: what a session may do next, decided without doing it.
//!
//! | kind | functions |
//! |---|---|
//! | commands (from the handler) | [`send`](Connection::send), [`pause`](Connection::pause), [`hold`](Connection::hold), [`drain`](Connection::drain), [`close`](Connection::close), [`abort`](Connection::abort) |
//! | inputs (completions) | `handle_connected`, `handle_received`, `handle_receive_ended`, `handle_sent`, `handle_shut_down`, `handle_closed`, `handle_deadline` |
//! | output | [`poll_action`](Connection::poll_action), until it gives `None` |
//!
//! The rules it keeps, asserted at every input:
//! - at most one receive and one send in flight;
//! - a close is asked for once, and reported once, after everything in flight has come back;
//! - the first cause sets the reason; what completes afterwards never overwrites it (only a drain that is cut short, by
//!   its deadline or an abort, says so instead);
//! - bytes leave in the order in which they were queued, or the session only closes.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use crate::{
    fault::{Fault, FaultKind},
    limits::SendMarks,
    overflow::{LooseQueue, Losses, Overflow},
    planted::{Bug, planted},
    reason::CloseReason,
    send::{ChunkPool, Edition, Refusal, SendBatch, Sent},
};

/// Dead bytes of a queue, with what it takes to remember them, above which they are taken out at once, if they are most
/// of it; else when it is sent.
const DEAD_KEPT_BYTES: usize = 64 << 10;

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The connect operation is under way.
    Connecting,
    /// The secure layer shakes hands; no frame has been seen.
    Handshaking,
    /// Frames go both ways.
    Open,
    /// Queued bytes still go out; nothing new is accepted. Ends with the peer's end of stream.
    Draining,
    /// Everything in flight is being joined.
    Closing,
    /// The driver holds nothing of it any more.
    Closed,
}

/// What to do next. Each is given out once.
#[derive(Debug)]
pub enum Action {
    /// Arm receiving.
    Receive,
    /// Disarm receiving; its terminal completion follows.
    CancelReceive,
    /// Send the batch; it comes back with [`Connection::handle_sent`].
    Send(Box<SendBatch>),
    /// Start the drain deadline: [`Connection::handle_deadline`] when it passes.
    StartDeadline,
    /// All is sent and our direction has ended: start the wait for the peer's end, which is shorter. Also ends
    /// with [`Connection::handle_deadline`].
    StartLinger,
    /// End our direction of the stream.
    Shutdown,
    /// Close the socket; the driver joins what is in flight first.
    Close,
    /// Report the end, once. Nothing follows.
    Finished(CloseReason),
}

/// How receiving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiveEnd {
    /// The peer ended its stream.
    EndOfStream,
    /// The system failed it, or we cancelled it ([`FaultKind::Cancelled`]).
    Failed(Fault),
}

/// What few sessions need of their queue.
#[derive(Debug, Default)]
struct Extras {
    loose: LooseQueue,
    /// Who wants to know when what is queued, and what is in flight, was taken.
    queued_tokens: Vec<u64>,
    sent_tokens: VecDeque<u64>,
}

/// The machine of one connection. About 80 bytes; no buffer while nothing is queued.
#[derive(Debug)]
pub struct Connection {
    pending: Option<Box<SendBatch>>,
    extras: Option<Box<Extras>>,
    in_flight_bytes: usize,
    reason: Option<CloseReason>,
    state: State,
    connect_in_flight: bool,
    receive_armed: bool,
    receive_cancel_asked: bool,
    send_in_flight: bool,
    shutdown_in_flight: bool,
    shutdown_done: bool,
    deadline_started: bool,
    linger_started: bool,
    close_in_flight: bool,
    finished: bool,
    end_of_stream: bool,
    paused: bool,
    held: bool,
    /// Nobody waited for the end of the last send when it was handed out.
    lazy: bool,
    pressure: bool,
    pause_under_pressure: bool,
}

impl Extras {
    /// The batch goes: leaves out what is dead, and forgets what may be lost of it.
    fn gathered(&mut self, pending: &mut Box<SendBatch>, pool: &mut ChunkPool) {
        self.sent_tokens.extend(self.queued_tokens.drain(..));
        if self.loose.dead_bytes() > 0 {
            SendBatch::remove(pending, self.loose.dead(), pool);
        }
        self.loose.clear();
    }
}

impl Connection {
    /// A connection that is open already: an accepted one.
    pub fn open(pause_under_pressure: bool) -> Self {
        Self::in_state(State::Open, pause_under_pressure)
    }

    /// A connection whose connect operation is under way.
    pub fn connecting(pause_under_pressure: bool) -> Self {
        Self::in_state(State::Connecting, pause_under_pressure)
    }

    fn in_state(state: State, pause_under_pressure: bool) -> Self {
        Self {
            pending: None,
            extras: None,
            in_flight_bytes: 0,
            reason: None,
            state,
            connect_in_flight: state == State::Connecting,
            receive_armed: false,
            receive_cancel_asked: false,
            send_in_flight: false,
            shutdown_in_flight: false,
            shutdown_done: false,
            deadline_started: false,
            linger_started: false,
            close_in_flight: false,
            finished: false,
            end_of_stream: false,
            paused: false,
            held: false,
            lazy: false,
            pressure: false,
            pause_under_pressure,
        }
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// True from the start of a connect operation to its end, whatever the state.
    pub fn is_connect_in_flight(&self) -> bool {
        self.connect_in_flight
    }

    /// True while frames are given to the handler.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// True while the handler takes frames: open, not paused, not held, and not under pressure if that pauses reading.
    #[inline]
    pub fn wants_frames(&self) -> bool {
        self.state == State::Open && !(self.paused || self.held || self.is_choked())
    }

    /// True if it is open, reads, and has nothing queued: [`poll_action`](Self::poll_action) would give nothing.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.pending.is_none() && self.receive_armed && self.wants_frames()
    }

    /// True while it is not read from because its peer does not read: under pressure, if that pauses reading.
    #[inline]
    pub fn is_choked(&self) -> bool {
        self.pressure && self.pause_under_pressure
    }

    /// True while it is not read from by our own choice: [`pause`](Self::pause), [`hold`](Self::hold).
    pub fn is_withheld(&self) -> bool {
        self.paused || self.held
    }

    /// True while it is held.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The first cause of its end, once there is one.
    pub fn reason(&self) -> Option<CloseReason> {
        self.reason
    }

    /// True once all is sent and our direction has ended: it waits for the peer's end.
    pub fn is_lingering(&self) -> bool {
        self.linger_started
    }

    /// Bytes queued and not yet taken by the system. None of a connection that has given them up.
    #[inline]
    pub fn queued_bytes(&self) -> usize {
        let dead = self.extras.as_ref().map_or(0, |extras| extras.loose.dead_bytes());
        self.in_flight_bytes + self.pending.as_ref().map_or(0, |batch| batch.len()) - dead
    }

    /// Messages that it was not sent.
    pub fn losses(&self) -> Losses {
        self.extras.as_ref().map_or_else(Losses::default, |extras| extras.loose.losses)
    }

    /// True while the queue is above its high mark and has not fallen to the low one.
    pub fn under_pressure(&self) -> bool {
        self.pressure
    }

    /// Batches that it has taken out of its pool: queued, and in flight.
    pub fn batches(&self) -> usize {
        usize::from(self.pending.is_some()) + usize::from(self.send_in_flight)
    }

    /// What must hold once every action was polled: whatever it waits for is under way.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn audit(&self) -> Result<(), &'static str> {
        let flows = matches!(self.state, State::Open | State::Draining);
        let wants = self.state == State::Draining || self.wants_frames();
        let rules = [
            (
                self.state != State::Connecting || self.connect_in_flight,
                "it connects, and no connect is in flight",
            ),
            (
                self.state != State::Closing || self.close_in_flight,
                "it is closing, and no close is in flight",
            ),
            (self.state != State::Closed || self.finished, "it is closed, and was not reported"),
            (
                !flows || self.pending.is_none() || self.send_in_flight,
                "bytes are queued, and nothing is sent",
            ),
            (
                !flows || !wants || self.end_of_stream || self.receive_armed,
                "it waits for bytes, and does not receive",
            ),
            (
                !flows || wants || !self.receive_armed || self.receive_cancel_asked,
                "it wants no bytes, and still receives",
            ),
            (self.state != State::Draining || self.deadline_started, "it drains without a deadline"),
            (
                self.reason.is_some() || !matches!(self.state, State::Closing | State::Closed),
                "it ends without a reason",
            ),
            (self.send_in_flight || self.in_flight_bytes == 0, "bytes are in flight without a send"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
    }

    // ---- commands ----

    /// Queues `size` bytes that `write` appends. Above `queue_max_bytes` the connection closes.
    #[inline]
    pub fn send(
        &mut self,
        size: usize,
        marks: &SendMarks,
        pool: &mut ChunkPool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Sent {
        if let Err(refusal) = self.admit(size, marks, pool) {
            return Sent::Refused(refusal);
        }
        let pending = self.pending.get_or_insert_with(|| pool.take());
        pending.append(size, pool, write);
        self.mark_pressure(marks)
    }

    /// Queues bytes that other connections may share; only small ones are copied.
    pub fn send_shared(&mut self, bytes: Arc<[u8]>, marks: &SendMarks, pool: &mut ChunkPool) -> Sent {
        if let Err(refusal) = self.admit(bytes.len(), marks, pool) {
            return Sent::Refused(refusal);
        }
        self.pending.get_or_insert_with(|| pool.take()).append_shared(bytes, pool);
        self.mark_pressure(marks)
    }

    /// Queues a part of an edition, which other connections share.
    #[inline]
    pub fn send_part(
        &mut self,
        edition: &Edition,
        range: Range<usize>,
        marks: &SendMarks,
        pool: &mut ChunkPool,
    ) -> Sent {
        if let Err(refusal) = self.admit(range.len(), marks, pool) {
            return Sent::Refused(refusal);
        }
        self.pending.get_or_insert_with(|| pool.take()).append_part(edition, range, pool);
        self.mark_pressure(marks)
    }

    /// A message for it was replaced by a newer one before it was queued. False if it was not for it any more.
    #[cold]
    pub fn count_conflated(&mut self) -> bool {
        let open = self.state == State::Open;
        if open {
            self.extras.get_or_insert_default().loose.losses.conflated += 1;
        }
        open
    }

    /// A group of whose queued messages some were lost since this was last asked, and how many.
    #[inline]
    pub fn next_lost(&mut self) -> Option<(u32, Losses)> {
        self.extras.as_mut()?.loose.next_lost()
    }

    /// Makes room for a message that may be lost, as `overflow` says; if there is room, `append` queues its `size`
    /// bytes. If the message is lost later, [`next_lost`](Self::next_lost) tells its `group`, unless that is 0.
    pub fn send_loose(
        &mut self,
        size: usize,
        overflow: Overflow,
        group: u32,
        marks: &SendMarks,
        pool: &mut ChunkPool,
        append: impl FnOnce(&mut SendBatch, &mut ChunkPool),
    ) -> Sent {
        if self.state != State::Open {
            return Sent::Refused(Refusal::NotOpen);
        }
        let Self { extras, pending, in_flight_bytes, .. } = self;
        // Borrowed, not taken out: should `append` panic, what it holds stays.
        let loose = &mut extras.get_or_insert_default().loose;
        let all = *in_flight_bytes + pending.as_ref().map_or(0, |batch| batch.len());
        let sent = make_room(loose, all, size, overflow, marks, pool);
        if sent == Sent::Queued {
            if is_over_budget(size, pool) {
                // There is room once the bytes of those that it replaces are given back.
                remove_dead(loose, pending, pool);
            }
            let pending = pending.get_or_insert_with(|| pool.take());
            let start = pending.len();
            append(pending, pool);
            let key = if let Overflow::Conflate { key } = overflow { Some(key) } else { None };
            loose.push(start, pending.len() - start, key, group);
        } else if !planted(Bug::SkipNotCounted) {
            loose.losses.skipped += 1;
        }
        let alive = pending.as_ref().map_or(0, |batch| batch.len() - loose.dead_bytes());
        if loose.dead_cost() > DEAD_KEPT_BYTES.max(alive) {
            remove_dead(loose, pending, pool);
        }
        if sent == Sent::Queued { self.mark_pressure(marks) } else { sent }
    }

    /// Remembers `token` for whoever wants to know when all that is queued until now was taken by the system: it comes
    /// out of [`next_sent_token`](Self::next_sent_token) then.
    pub fn notify(&mut self, token: u64) {
        self.extras.get_or_insert_default().queued_tokens.push(token);
    }

    /// True if [`next_sent_token`](Self::next_sent_token) would give one.
    #[inline]
    pub fn has_sent_token(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| !self.send_in_flight && !extras.sent_tokens.is_empty())
    }

    /// A token whose bytes were taken, in the order in which they were given.
    #[inline]
    pub fn next_sent_token(&mut self) -> Option<u64> {
        let extras = self.extras.as_mut()?;
        if self.send_in_flight { None } else { extras.sent_tokens.pop_front() }
    }

    /// What is gathered, without what is not to be sent.
    #[inline]
    fn take_pending(&mut self, pool: &mut ChunkPool) -> Option<Box<SendBatch>> {
        let mut pending = self.pending.take()?;
        if let Some(extras) = &mut self.extras {
            extras.gathered(&mut pending, pool);
        }
        Some(pending)
    }

    /// For a connection that is closing: what is gathered is not sent at all, and what is in flight comes back with the
    /// close. Both make room for others from now on.
    pub fn give_up(&mut self, pool: &mut ChunkPool) {
        self.drop_pending(pool);
        pool.discount(std::mem::take(&mut self.in_flight_bytes));
    }

    /// What is gathered is not sent at all.
    fn drop_pending(&mut self, pool: &mut ChunkPool) {
        if let Some(batch) = self.pending.take() {
            pool.give(batch);
        }
        if let Some(extras) = &mut self.extras {
            extras.loose.clear();
            extras.queued_tokens.clear();
        }
    }

    #[inline]
    fn admit(&mut self, size: usize, marks: &SendMarks, pool: &ChunkPool) -> Result<(), Refusal> {
        if self.state != State::Open {
            return Err(Refusal::NotOpen);
        }
        let room = marks.queue_max_bytes.saturating_sub(self.queued_bytes());
        if size > room && !planted(Bug::QueueWithoutLimit) {
            self.close(CloseReason::SendQueueFull);
            return Err(Refusal::QueueFull);
        }
        if is_over_budget(size, pool) {
            self.close(CloseReason::SendBudget);
            return Err(Refusal::OverBudget);
        }
        Ok(())
    }

    #[inline]
    fn mark_pressure(&mut self, marks: &SendMarks) -> Sent {
        if self.queued_bytes() > marks.high_water_bytes {
            self.pressure = !planted(Bug::PressureUnnoticed);
            Sent::High
        } else {
            Sent::Queued
        }
    }

    /// Stops or resumes reading.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused && !planted(Bug::PauseIgnored);
    }

    /// Stops or resumes reading for the engine, whatever the handler wants: its turn is over, or a rate exceeded.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Ends gracefully: what is queued goes out, then our direction ends, then the peer's.
    pub fn drain(&mut self, reason: CloseReason) {
        match self.state {
            State::Open | State::Handshaking => {
                self.state = State::Draining;
                self.reason.get_or_insert(reason);
            }
            State::Connecting => self.close(reason),
            State::Draining | State::Closing | State::Closed => {}
        }
    }

    /// Ends at once: what is queued and not in flight is dropped.
    pub fn close(&mut self, reason: CloseReason) {
        if planted(Bug::ReasonOverwritten) {
            self.reason = Some(reason);
        }
        if !matches!(self.state, State::Closing | State::Closed) {
            self.state = State::Closing;
            self.reason.get_or_insert(reason);
        }
    }

    /// As [`close`](Self::close), and [`give_up`](Self::give_up) at once: others need the room.
    pub fn shed(&mut self, reason: CloseReason, pool: &mut ChunkPool) {
        self.close(reason);
        self.give_up(pool);
    }

    /// As [`close`](Self::close), for a stop that does not wait: a drain that it cuts short was none.
    pub fn abort(&mut self, reason: CloseReason) {
        if self.state == State::Draining && !self.shutdown_done {
            self.reason = Some(reason);
        }
        self.close(reason);
    }

    // ---- inputs ----

    /// The connect operation succeeded.
    ///
    /// # Panics
    /// Unless it was connecting, or has been closed since.
    pub fn handle_connected(&mut self) {
        assert!(self.connect_in_flight, "connected without a connect in flight");
        self.connect_in_flight = false;
        if self.state == State::Connecting {
            self.state = State::Open;
        }
    }

    /// Bytes arrived. True unless they are to be discarded: when frames are wanted
    /// ([`wants_frames`](Self::wants_frames)) they go to the handler, else they are kept until then.
    #[inline]
    pub fn handle_received(&mut self) -> bool {
        assert!(self.receive_armed, "bytes without a receive in flight");
        self.state == State::Open
    }

    /// The receive operation came to its end. `undelivered` tells that bytes received before it are still kept:
    /// the peer's end of stream then takes effect with [`handle_delivered`](Self::handle_delivered).
    pub fn handle_receive_ended(&mut self, end: ReceiveEnd, undelivered: bool) {
        assert!(self.receive_armed, "a receive ended that was not in flight");
        self.receive_armed = false;
        self.receive_cancel_asked = false;
        match end {
            ReceiveEnd::EndOfStream => {
                self.end_of_stream = true;
                if !undelivered || planted(Bug::EndBeforeBacklog) {
                    self.handle_delivered();
                }
            }
            ReceiveEnd::Failed(fault)
                if fault.kind == FaultKind::Cancelled && !planted(Bug::CancelTakenForFailure) => {}
            // While draining, a peer that goes away in any manner has ended its stream.
            ReceiveEnd::Failed(fault) => self.close(CloseReason::from_receive(fault)),
        }
    }

    /// Nothing that was received is kept any more.
    pub fn handle_delivered(&mut self) {
        if self.end_of_stream && planted(Bug::EndTakenForDeath) {
            self.close(CloseReason::PeerClosed);
        } else if self.end_of_stream && !planted(Bug::EndIgnored) {
            // The peer may have sent a request and its end in one go: the answer still goes out.
            self.drain(CloseReason::PeerClosed);
        }
    }

    /// The batch came back. True when the pressure was relieved by it.
    #[inline]
    pub fn handle_sent(
        &mut self,
        batch: Box<SendBatch>,
        result: Result<(), Fault>,
        marks: &SendMarks,
        pool: &mut ChunkPool,
    ) -> bool {
        assert!(self.send_in_flight, "a send ended that was not in flight");
        self.send_in_flight = false;
        if std::mem::take(&mut self.in_flight_bytes) == 0 {
            // It was given up; the pool takes off what comes back.
            pool.recount(batch.len());
        }
        let whole = batch.remaining() == 0;
        if whole || !planted(Bug::FailedBatchLeaks) {
            pool.give(batch);
        }
        match result {
            Ok(()) => assert!(whole, "a send ended in success with bytes left"),
            Err(_) if planted(Bug::SendAfterFailedSend) => {}
            // The peer has some prefix of the batch: nothing may follow it, the session only closes.
            Err(fault) => {
                self.close(CloseReason::from_send(fault));
                if let Some(extras) = &mut self.extras {
                    extras.sent_tokens.clear();
                }
            }
        }
        let low_water_bytes = if planted(Bug::ReliefTooEarly) { usize::MAX } else { marks.low_water_bytes };
        if self.pressure && self.queued_bytes() <= low_water_bytes && !planted(Bug::ReliefForgotten) {
            self.pressure = false;
            return self.state == State::Open;
        }
        false
    }

    /// Our direction of the stream has ended.
    pub fn handle_shut_down(&mut self) {
        assert!(self.shutdown_in_flight, "a shutdown ended that was not in flight");
        self.shutdown_in_flight = false;
        self.shutdown_done = true;
    }

    /// The drain deadline has passed.
    pub fn handle_deadline(&mut self) {
        if self.state == State::Draining {
            // All that was queued went out and only the peer's end is missing: that is no one's fault.
            let flushed = self.shutdown_done;
            if !flushed {
                self.reason = Some(CloseReason::DrainDeadline);
            }
            if planted(Bug::DeadlineIgnored) {
                return;
            }
            self.state = State::Closing;
        }
    }

    /// The socket is closed; everything that was in flight came back before.
    pub fn handle_closed(&mut self) {
        assert!(self.close_in_flight, "closed without a close in flight");
        let joined =
            !(self.receive_armed || self.send_in_flight || self.shutdown_in_flight || self.connect_in_flight);
        assert!(joined, "closed with an operation in flight");
        self.close_in_flight = false;
        self.state = State::Closed;
    }

    /// The connect operation failed: the socket is to be closed.
    pub fn handle_connect_failed(&mut self, reason: CloseReason) {
        assert!(self.connect_in_flight, "a connect failed that was not in flight");
        self.connect_in_flight = false;
        self.close(reason);
    }

    // ---- output ----

    /// The next thing to do, or `None` until the next input or command.
    #[inline]
    pub fn poll_action(&mut self, pool: &mut ChunkPool) -> Option<Action> {
        match self.state {
            State::Open | State::Draining => self.poll_receive().or_else(|| self.poll_send(pool)),
            State::Closing => {
                self.give_up(pool);
                if self.close_in_flight {
                    return None;
                }
                // A connect that is still in flight is cancelled by it.
                self.close_in_flight = true;
                Some(Action::Close)
            }
            State::Closed if !self.finished => {
                self.finished = true;
                self.drop_pending(pool);
                Some(Action::Finished(self.reason.expect("a closed connection has a reason")))
            }
            State::Connecting | State::Handshaking | State::Closed => None,
        }
    }

    #[inline]
    fn poll_receive(&mut self) -> Option<Action> {
        let wanted = match self.state {
            State::Open => self.wants_frames(),
            // The peer's end of stream ends the drain; what it still sends is discarded.
            _ => true,
        } && !self.end_of_stream;
        if planted(Bug::ReceiveNotRearmed) && self.paused {
            self.end_of_stream = true;
        }
        if wanted && !self.receive_armed {
            self.receive_armed = true;
            return Some(Action::Receive);
        }
        if !wanted && self.receive_armed && !self.receive_cancel_asked {
            self.receive_cancel_asked = true;
            return Some(Action::CancelReceive);
        }
        None
    }

    #[inline]
    fn poll_send(&mut self, pool: &mut ChunkPool) -> Option<Action> {
        if (!self.send_in_flight || planted(Bug::TwoSends))
            && let Some(mut batch) = self.take_pending(pool)
        {
            if batch.is_empty() {
                // Only empty messages were queued: there is nothing to send, and an idle session holds no buffer.
                pool.give(batch);
            } else {
                self.send_in_flight = true;
                self.in_flight_bytes = batch.len();
                self.lazy = !self.awaits_sent();
                batch.set_lazy(self.lazy);
                return Some(Action::Send(batch));
            }
        }
        if self.state == State::Draining { self.poll_drain() } else { None }
    }

    /// True if the end of a send lets something else happen.
    #[inline]
    fn awaits_sent(&self) -> bool {
        self.state != State::Open
            || self.pending.is_some()
            || self.pressure
            || self.extras.as_ref().is_some_and(|extras| !extras.sent_tokens.is_empty())
    }

    /// True if a send is in flight that nobody waited for when it was handed out: its bytes count as sent.
    #[inline]
    pub fn is_lazy(&self) -> bool {
        self.lazy && self.send_in_flight
    }

    /// True if somebody waits by now for such a send: its end must not be left for later.
    #[inline]
    pub fn is_held_up(&self) -> bool {
        self.is_lazy() && self.awaits_sent()
    }

    fn poll_drain(&mut self) -> Option<Action> {
        let flushed = self.queued_bytes() == 0 || planted(Bug::DrainDoesNotFlush);
        if flushed && self.end_of_stream && !self.shutdown_in_flight {
            self.state = State::Closing;
            self.close_in_flight = true;
            return Some(Action::Close);
        }
        if !self.deadline_started {
            self.deadline_started = true;
            return Some(Action::StartDeadline);
        }
        if flushed && !self.end_of_stream && !self.shutdown_in_flight && !self.shutdown_done {
            self.shutdown_in_flight = true;
            return Some(Action::Shutdown);
        }
        if self.shutdown_done && !self.linger_started {
            self.linger_started = true;
            return Some(Action::StartLinger);
        }
        None
    }
}

fn is_over_budget(size: usize, pool: &ChunkPool) -> bool {
    pool.bytes_out().saturating_add(size) > pool.allowance()
}

/// Takes out of a queue what is not to be sent.
fn remove_dead(loose: &mut LooseQueue, pending: &mut Option<Box<SendBatch>>, pool: &mut ChunkPool) {
    if let Some(pending) = pending {
        SendBatch::remove(pending, loose.dead(), pool);
        loose.forget_dead();
    }
}

/// Makes room, as `overflow` says, in a queue of `all` bytes, those in flight and dead ones included. `Queued` if there
/// is room then, else `Skipped`.
fn make_room(
    loose: &mut LooseQueue,
    all: usize,
    size: usize,
    overflow: Overflow,
    marks: &SendMarks,
    pool: &ChunkPool,
) -> Sent {
    let replaced = if let Overflow::Conflate { key } = overflow { loose.of_key(key) } else { None };
    let (number, replaced_bytes) = replaced.unzip();
    let replaced_bytes = replaced_bytes.unwrap_or(0);
    // A newer value has the room of the one that it replaces, of the budgets as well.
    let given_back = if number.is_some() { loose.dead_bytes() + replaced_bytes } else { 0 };
    if size > marks.queue_max_bytes || is_over_budget(size.saturating_sub(given_back), pool) {
        return Sent::Skipped;
    }
    // And in the queue, however much came behind it.
    let limit = if number.is_some() {
        marks.high_water_bytes.max(all - loose.dead_bytes())
    } else {
        marks.high_water_bytes
    };
    loop {
        let others = all - loose.dead_bytes() - replaced_bytes;
        if others == 0 || others.saturating_add(size) <= limit || planted(Bug::LooseWithoutLimit) {
            break;
        }
        let droppable = if overflow == Overflow::Skip { None } else { loose.oldest(number) };
        let Some(oldest) = droppable else {
            // It is larger, and only what must arrive is left: else the older value would be sent, and this one not.
            if number.is_some() && others.saturating_add(size) <= marks.queue_max_bytes {
                break;
            }
            return Sent::Skipped;
        };
        loose.lose(oldest, |losses| &mut losses.dropped);
    }
    if let Some(number) = number
        && !planted(Bug::ConflatedKept)
    {
        loose.lose(number, |losses| &mut losses.conflated);
    }
    Sent::Queued
}
