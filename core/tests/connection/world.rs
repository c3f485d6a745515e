//! One connection between a made-up driver and an oracle that knows what each step must do.
//!
//! The driver side keeps what is in flight and completes it only in ways that the driver contract allows.
//! The oracle side says which actions are right at every poll, and why the connection may end.

use std::sync::Arc;

use anyport_core::{
    Action, ChunkPool, CloseReason, Connection, Fault, FaultKind, Refusal, SendBatch, SendMarks, Sent, State,
    connection::ReceiveEnd,
};

/// One thing that may happen. A step that is not possible now does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Connected,
    ConnectFailed,
    Send(usize),
    SendShared(usize),
    Pause(bool),
    Hold(bool),
    Drain,
    Close(u16),
    /// Bytes arrive.
    Received,
    EndOfStream,
    /// The peer's end, while bytes from before it are still kept for the handler.
    EndOfStreamKept,
    /// The handler has had the bytes that were kept.
    Delivered,
    ReceiveFailed(FaultKind),
    /// The terminal completion of a receive that was cancelled, or whose socket is being closed.
    ReceiveCancelled,
    /// The system takes some of the batch.
    Progress(usize),
    Sent,
    /// The send fails after some more bytes were taken.
    SendFailed(FaultKind, usize),
    ShutDown,
    Deadline,
    Closed,
    /// Up to this many actions are polled.
    Poll(usize),
}

/// What the made-up driver has in flight.
#[derive(Default)]
struct InFlight {
    connect: bool,
    receive: bool,
    receive_cancel: bool,
    send: Option<Box<SendBatch>>,
    shutdown: bool,
    close: bool,
    deadline: bool,
}

/// What must be true of the connection, said apart from its own code.
struct Oracle {
    state: State,
    cause: Option<CloseReason>,
    paused: bool,
    held: bool,
    pressure: bool,
    end_of_stream: bool,
    shutdown_done: bool,
    deadline_started: bool,
    linger_started: bool,
    close_asked: bool,
    finished: bool,
    /// Bytes queued and not yet in a batch of the driver.
    pending: usize,
    /// A fault, a deadline or a close came before the queue was flushed.
    cut_short: bool,
}

pub(crate) struct World {
    connection: Connection,
    pool: ChunkPool,
    marks: SendMarks,
    pause_under_pressure: bool,
    in_flight: InFlight,
    oracle: Oracle,
    /// Everything that was accepted, and what of it the system took.
    queued: Vec<u8>,
    wire: Vec<u8>,
}

const DRAIN_REASON: CloseReason = CloseReason::Drained;

impl World {
    pub(crate) fn new(connecting: bool, pause_under_pressure: bool, marks: SendMarks) -> Self {
        let connection = if connecting {
            Connection::connecting(pause_under_pressure)
        } else {
            Connection::open(pause_under_pressure)
        };
        Self {
            oracle: Oracle {
                state: connection.state(),
                cause: None,
                paused: false,
                held: false,
                pressure: false,
                end_of_stream: false,
                shutdown_done: false,
                deadline_started: false,
                linger_started: false,
                close_asked: false,
                finished: false,
                pending: 0,
                cut_short: false,
            },
            connection,
            pool: ChunkPool::new(),
            marks,
            pause_under_pressure,
            in_flight: InFlight { connect: connecting, ..InFlight::default() },
            queued: Vec::new(),
            wire: Vec::new(),
        }
    }

    /// Everything that decides what may happen next. Bytes on the wire do not.
    pub(crate) fn key(&self) -> String {
        let Self { connection, in_flight: f, oracle: o, .. } = self;
        let send = f.send.as_ref().map(|batch| (batch.len(), batch.sent()));
        let flags = [f.connect, f.receive, f.receive_cancel, f.shutdown, f.close, f.deadline, o.cut_short];
        format!("{connection:?} {send:?} {flags:?} {:?} {} {}", o.cause, o.pending, o.finished)
    }

    pub(crate) fn finished(&self) -> bool {
        self.oracle.finished
    }

    /// Does one step and checks everything. False when the step is not possible now.
    pub(crate) fn step(&mut self, step: Step) -> bool {
        let possible = self.apply(step);
        self.check();
        possible
    }

    fn apply(&mut self, step: Step) -> bool {
        match step {
            Step::Send(_)
            | Step::SendShared(_)
            | Step::Pause(_)
            | Step::Hold(_)
            | Step::Drain
            | Step::Close(_) => {
                self.command(step);
                true
            }
            Step::Connected | Step::ConnectFailed => self.complete_connect(step == Step::Connected),
            Step::Received
            | Step::EndOfStream
            | Step::EndOfStreamKept
            | Step::ReceiveFailed(_)
            | Step::ReceiveCancelled => self.in_flight.receive && self.complete_receive(step),
            Step::Delivered => {
                if self.oracle.end_of_stream {
                    self.drain(CloseReason::PeerClosed);
                }
                self.connection.handle_delivered();
                self.oracle.end_of_stream
            }
            Step::Progress(_) | Step::Sent | Step::SendFailed(..) => match self.in_flight.send.take() {
                Some(batch) => {
                    self.complete_send(batch, step);
                    true
                }
                None => false,
            },
            Step::ShutDown if self.in_flight.shutdown => {
                self.in_flight.shutdown = false;
                self.oracle.shutdown_done = true;
                self.connection.handle_shut_down();
                true
            }
            Step::Deadline if self.in_flight.deadline => {
                self.deadline();
                true
            }
            Step::Closed if self.in_flight.close && !self.joining() => {
                self.in_flight.close = false;
                self.oracle.state = State::Closed;
                self.connection.handle_closed();
                true
            }
            Step::Poll(most) => {
                let mut polled = 0;
                while polled < most && self.poll() {
                    polled += 1;
                }
                polled > 0
            }
            Step::ShutDown | Step::Deadline | Step::Closed => false,
        }
    }

    fn joining(&self) -> bool {
        let InFlight { connect, receive, send, shutdown, .. } = &self.in_flight;
        *connect || *receive || send.is_some() || *shutdown
    }

    // ---- commands ----

    fn command(&mut self, step: Step) {
        match step {
            Step::Send(size) | Step::SendShared(size) => self.send(size, matches!(step, Step::SendShared(_))),
            Step::Pause(paused) => {
                self.oracle.paused = paused;
                self.connection.pause(paused);
            }
            Step::Hold(held) => {
                self.oracle.held = held;
                self.connection.hold(held);
            }
            Step::Drain => {
                self.drain(DRAIN_REASON);
                self.connection.drain(DRAIN_REASON);
            }
            Step::Close(number) => {
                self.close(CloseReason::Kicked(number));
                self.connection.close(CloseReason::Kicked(number));
            }
            _ => unreachable!("{step:?} is no command"),
        }
    }

    fn send(&mut self, size: usize, shared: bool) {
        let from = self.queued.len();
        let bytes: Vec<u8> = (from..from + size).map(|at| (at % 251) as u8).collect();
        let before = self.oracle_queued();
        let sent = if shared {
            let bytes: Arc<[u8]> = bytes.clone().into();
            self.connection.send_shared(bytes, &self.marks, &mut self.pool)
        } else {
            let write = |out: &mut Vec<u8>| out.extend_from_slice(&bytes);
            self.connection.send(size, &self.marks, &mut self.pool, write)
        };
        let expected = if self.oracle.state != State::Open {
            Sent::Refused(Refusal::NotOpen)
        } else if before + size > self.marks.queue_max_bytes {
            self.close(CloseReason::SendQueueFull);
            Sent::Refused(Refusal::QueueFull)
        } else {
            self.oracle.pending += size;
            self.queued.extend_from_slice(&bytes);
            if before + size > self.marks.high_water_bytes {
                self.oracle.pressure = true;
                Sent::High
            } else {
                Sent::Queued
            }
        };
        assert_eq!(sent, expected, "{size} bytes on top of {before}");
    }

    // ---- completions ----

    fn complete_connect(&mut self, success: bool) -> bool {
        if !self.in_flight.connect {
            return false;
        }
        self.in_flight.connect = false;
        if success {
            if self.oracle.state == State::Connecting {
                self.oracle.state = State::Open;
            }
            self.connection.handle_connected();
        } else {
            let reason = CloseReason::ReceiveFailed(Fault::of(FaultKind::Refused));
            self.oracle.cause.get_or_insert(reason);
            self.oracle.state = State::Closing;
            self.connection.handle_connect_failed(reason);
        }
        true
    }

    fn complete_receive(&mut self, step: Step) -> bool {
        if step == Step::Received {
            assert_eq!(self.connection.handle_received(), self.oracle.state == State::Open);
            return true;
        }
        let end = match step {
            Step::EndOfStream => {
                self.oracle.end_of_stream = true;
                self.drain(CloseReason::PeerClosed);
                ReceiveEnd::EndOfStream
            }
            Step::EndOfStreamKept => {
                self.oracle.end_of_stream = true;
                ReceiveEnd::EndOfStream
            }
            Step::ReceiveFailed(kind) => {
                let fault = Fault::new(kind, 7);
                self.close(CloseReason::from_receive(fault));
                ReceiveEnd::Failed(fault)
            }
            // A driver cancels only what it was asked to cancel, or to close.
            _ if self.in_flight.receive_cancel || self.in_flight.close => {
                ReceiveEnd::Failed(Fault::of(FaultKind::Cancelled))
            }
            _ => return false,
        };
        self.in_flight.receive = false;
        self.in_flight.receive_cancel = false;
        self.connection.handle_receive_ended(end, step == Step::EndOfStreamKept);
        true
    }

    fn complete_send(&mut self, mut batch: Box<SendBatch>, step: Step) {
        let (Step::Progress(most) | Step::SendFailed(_, most)) = step else {
            let rest = batch.remaining();
            self.take_off(&mut batch, rest);
            self.sent(batch, Ok(()));
            return;
        };
        let taken = most.min(batch.remaining());
        self.take_off(&mut batch, taken);
        match step {
            Step::SendFailed(kind, _) => {
                let fault = Fault::new(kind, 9);
                self.close(CloseReason::from_send(fault));
                self.sent(batch, Err(fault));
            }
            _ => self.in_flight.send = Some(batch),
        }
    }

    /// The system takes `count` bytes: they must be the next ones of all that was queued.
    fn take_off(&mut self, batch: &mut SendBatch, count: usize) {
        let mut left = count;
        for piece in batch.slices() {
            assert!(!piece.is_empty(), "an empty piece in a gathered send");
            let take = left.min(piece.len());
            self.wire.extend_from_slice(&piece[..take]);
            left -= take;
        }
        assert_eq!(left, 0, "the pieces hold fewer bytes than the batch says");
        batch.advance(count);
    }

    fn sent(&mut self, batch: Box<SendBatch>, result: Result<(), Fault>) {
        let relieved = self.connection.handle_sent(batch, result, &self.marks, &mut self.pool);
        let over = self.oracle.pressure && self.oracle.pending <= self.marks.low_water_bytes;
        self.oracle.pressure &= !over;
        assert_eq!(relieved, over && self.oracle.state == State::Open, "pressure relieved");
    }

    fn deadline(&mut self) {
        self.in_flight.deadline = false;
        if self.oracle.state == State::Draining {
            if !self.oracle.shutdown_done {
                self.oracle.cause = Some(CloseReason::DrainDeadline);
            }
            self.oracle.state = State::Closing;
            self.oracle.cut_short |= self.oracle_queued() > 0;
        }
        self.connection.handle_deadline();
    }

    // ---- the oracle ----

    fn drain(&mut self, reason: CloseReason) {
        match self.oracle.state {
            State::Open => {
                self.oracle.state = State::Draining;
                self.oracle.cause = Some(reason);
            }
            State::Connecting => self.close(reason),
            _ => {}
        }
    }

    fn close(&mut self, reason: CloseReason) {
        if !matches!(self.oracle.state, State::Closing | State::Closed) {
            self.oracle.state = State::Closing;
            self.oracle.cause.get_or_insert(reason);
            self.oracle.cut_short = true;
        }
    }

    fn oracle_queued(&self) -> usize {
        // What is in flight when the close is asked for comes back with it, and is nobody's queue any more.
        let in_flight = self.in_flight.send.as_ref().filter(|_| !self.oracle.close_asked);
        self.oracle.pending + in_flight.map_or(0, |batch| batch.len())
    }

    fn receive_wanted(&self) -> bool {
        let Oracle { paused, held, pressure, end_of_stream, state, .. } = self.oracle;
        match state {
            State::Open => !(end_of_stream || paused || held || pressure && self.pause_under_pressure),
            State::Draining => !end_of_stream,
            _ => false,
        }
    }

    /// Polls one action and checks that it is right now. False when there was none.
    fn poll(&mut self) -> bool {
        let state = self.oracle.state;
        let sending = matches!(state, State::Open | State::Draining);
        if matches!(state, State::Closing | State::Closed) {
            self.oracle.pending = 0;
        }
        let Some(action) = self.connection.poll_action(&mut self.pool) else {
            self.check_at_rest();
            return false;
        };
        assert!(!self.oracle.finished, "{action:?} after the end");
        match action {
            Action::Receive => {
                assert!(self.receive_wanted() && !self.in_flight.receive, "receive in {state:?}");
                self.in_flight.receive = true;
            }
            Action::CancelReceive => {
                assert!(!self.receive_wanted() && self.in_flight.receive, "cancel in {state:?}");
                assert!(!self.in_flight.receive_cancel, "cancelled twice");
                self.in_flight.receive_cancel = true;
            }
            Action::Send(batch) => {
                assert!(sending && self.in_flight.send.is_none(), "send in {state:?}");
                assert_eq!((batch.len(), batch.sent()), (self.oracle.pending, 0));
                assert!(!batch.is_empty(), "an empty batch");
                self.oracle.pending = 0;
                self.in_flight.send = Some(batch);
            }
            Action::StartDeadline => {
                assert!(state == State::Draining && !self.oracle.deadline_started, "deadline in {state:?}");
                self.oracle.deadline_started = true;
                self.in_flight.deadline = true;
            }
            Action::StartLinger => {
                assert!(state == State::Draining && self.oracle.shutdown_done, "linger in {state:?}");
                assert!(!self.oracle.linger_started, "two waits for the peer's end");
                self.oracle.linger_started = true;
                self.in_flight.deadline = true;
            }
            Action::Shutdown => {
                assert!(state == State::Draining && !self.oracle.shutdown_done && !self.in_flight.shutdown);
                assert_eq!(self.wire, self.queued, "shut down with bytes left");
                assert!(self.oracle.deadline_started, "a wait without a deadline");
                self.in_flight.shutdown = true;
            }
            Action::Close => {
                assert!(!self.oracle.close_asked, "closed twice");
                if state == State::Draining {
                    assert!(self.oracle.end_of_stream && self.oracle_queued() == 0, "closed too early");
                    assert!(!self.in_flight.shutdown, "closed before our own end went out");
                    self.oracle.state = State::Closing;
                } else {
                    assert_eq!(state, State::Closing);
                }
                self.oracle.close_asked = true;
                self.in_flight.close = true;
            }
            Action::Finished(reason) => {
                assert_eq!(state, State::Closed);
                assert_eq!(Some(reason), self.oracle.cause, "not the first cause");
                self.oracle.finished = true;
            }
        }
        true
    }

    /// Nothing more to do: then everything that should be under way must be.
    fn check_at_rest(&self) {
        let Self { in_flight, oracle, .. } = self;
        match oracle.state {
            State::Open | State::Draining => {
                let receiving = in_flight.receive && !in_flight.receive_cancel;
                if self.receive_wanted() {
                    assert!(in_flight.receive, "not receiving in {:?}", oracle.state);
                } else {
                    assert!(!receiving, "still receiving while paused, held, under pressure or at the end");
                }
                assert!(oracle.pending == 0 || in_flight.send.is_some(), "bytes wait for nothing");
                if oracle.state == State::Draining {
                    assert!(oracle.deadline_started, "draining without a deadline");
                    assert!(oracle.linger_started == oracle.shutdown_done, "no wait for the peer's end");
                    let waits = in_flight.receive || in_flight.send.is_some() || in_flight.shutdown;
                    assert!(waits, "draining, and nothing can end it but the deadline");
                }
            }
            State::Closing => assert!(oracle.close_asked),
            State::Closed => assert!(oracle.finished),
            State::Connecting => assert!(in_flight.connect),
            State::Handshaking => panic!("no step leads here"),
        }
    }

    fn check(&self) {
        let Self { connection, oracle, .. } = self;
        assert_eq!(connection.state(), oracle.state);
        assert_eq!(connection.is_open(), oracle.state == State::Open);
        assert_eq!(connection.reason(), oracle.cause);
        assert_eq!(connection.is_connect_in_flight(), self.in_flight.connect);
        assert_eq!(connection.under_pressure(), oracle.pressure);
        let queued = connection.queued_bytes();
        assert_eq!(queued, self.oracle_queued());
        assert_eq!(self.pool.bytes_out(), queued, "what the pool counts");
        assert!(queued <= self.marks.queue_max_bytes, "{queued} bytes queued");
        assert!(oracle.state != State::Open || queued <= self.marks.high_water_bytes || oracle.pressure);
        assert!(self.queued.starts_with(&self.wire), "the wire has what was not queued in this order");
        if !oracle.cut_short && matches!(oracle.state, State::Closing | State::Closed) {
            assert_eq!(self.wire, self.queued, "ended in order, and bytes are missing");
        }
        let in_flight = usize::from(self.in_flight.send.is_some());
        assert!(self.pool.batches_out() <= in_flight + 1, "more batches than one queued and one in flight");
    }

    /// Faults stop and the driver completes what is in flight: the connection must come to its end.
    pub(crate) fn run_to_the_end(&mut self, close: bool) {
        self.step(if close { Step::Close(99) } else { Step::Drain });
        // The peer ends its stream when it has seen ours, or at once when ours cannot end.
        let completions = [Step::Connected, Step::Sent, Step::ShutDown, Step::ReceiveCancelled, Step::Closed];
        for _round in 0..12 {
            self.step(Step::Poll(usize::MAX));
            for step in completions {
                self.step(step);
            }
            if self.oracle.shutdown_done && self.in_flight.receive {
                self.step(Step::EndOfStream);
            }
        }
        assert!(self.finished(), "no end in sight: {:?}", self.connection);
        for step in [Step::Poll(usize::MAX), Step::Send(1), Step::SendShared(1), Step::Pause(true)] {
            self.step(step);
        }
        for step in [Step::Drain, Step::Close(1), Step::Deadline, Step::Poll(usize::MAX)] {
            self.step(step);
        }
        assert!(!self.joining() && !self.in_flight.close);
        assert_eq!(self.pool.batches_out(), 0, "a batch was lost");
        assert_eq!(self.connection.queued_bytes(), 0);
    }
}
