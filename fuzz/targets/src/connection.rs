//! The connection machine, against the rules at the top of `core/src/connection.rs`. The bytes decide what the handler
//! commands and what the system completes; only what is in flight can complete, in the ways that the driver contract
//! allows.

use std::sync::Arc;

use anyport_core::{
    Action, ChunkPool, CloseReason, Connection, Fault, FaultKind, Refusal, SendBatch, SendMarks, Sent, State,
    connection::ReceiveEnd,
};

use crate::input::Input;

/// Bytes that one input may queue.
const QUEUED_MAX: usize = 1 << 17;

/// The input is how the connection begins and its marks, then steps, each a command, a completion or a poll.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.byte();
    let queue_max_bytes = 1 + usize::from(input.u16()) % 20_000;
    let high_water_bytes = queue_max_bytes * usize::from(input.byte()) / 255;
    let low_water_bytes = high_water_bytes * usize::from(input.byte()) / 255;
    let marks = SendMarks { high_water_bytes, low_water_bytes, queue_max_bytes };
    let mut world = World::new(how & 1 == 1, how & 2 == 2, marks);
    while let Some(step) = input.next() {
        world.step(step, &mut input);
        world.check();
        if world.queued.len() > QUEUED_MAX {
            break;
        }
    }
    world.calm(how & 4 == 4);
}

/// What the driver holds.
#[derive(Default)]
struct InFlight {
    connect: bool,
    receive: bool,
    cancel_asked: bool,
    send: Option<Box<SendBatch>>,
    shutdown: bool,
    close: bool,
}

impl InFlight {
    /// Close joins: it completes after everything else.
    fn to_join(&self) -> bool {
        self.connect || self.receive || self.send.is_some() || self.shutdown
    }
}

/// What happened so far that the rules speak of.
#[derive(Default)]
struct Ledger {
    /// The first cause of the end.
    cause: Option<CloseReason>,
    /// It ends at once: nothing may be started but the close.
    cut_short: bool,
    /// The handler commanded the end, or the peer's end took effect: nothing new is queued.
    ending: bool,
    end_of_stream: bool,
    /// The peer's end waits for the handler to have had what came before.
    end_kept: bool,
    deadline_asked: bool,
    linger_asked: bool,
    shutdown_asked: bool,
    shut_down: bool,
    /// The deadline runs.
    timer: bool,
    close_asked: bool,
    closed: bool,
    finished: bool,
    paused: bool,
    pressure: bool,
}

struct World {
    connection: Connection,
    pool: ChunkPool,
    marks: SendMarks,
    pause_under_pressure: bool,
    in_flight: InFlight,
    ledger: Ledger,
    /// All that was accepted, and what of it the system took.
    queued: Vec<u8>,
    wire: Vec<u8>,
    /// What of it came back with its batch, or was dropped at the end.
    settled: usize,
}

impl World {
    fn new(connecting: bool, pause_under_pressure: bool, marks: SendMarks) -> Self {
        let begin = if connecting { Connection::connecting } else { Connection::open };
        Self {
            connection: begin(pause_under_pressure),
            pool: ChunkPool::new(),
            marks,
            pause_under_pressure,
            in_flight: InFlight { connect: connecting, ..InFlight::default() },
            ledger: Ledger::default(),
            queued: Vec::new(),
            wire: Vec::new(),
            settled: 0,
        }
    }

    fn step(&mut self, step: u8, input: &mut Input<'_>) {
        match step % 32 {
            0..=3 => self.send(size(input), false),
            4 | 5 => self.send(size(input), true),
            6 => self.pause(input.flag()),
            7 => self.drain(CloseReason::Drained, Connection::drain),
            8 if step < 192 => self.close(CloseReason::Kicked(u16::from(step)), Connection::close),
            8 => self.abort(CloseReason::Stopped),
            9..=15 => {
                for _ in 0..=step / 32 {
                    if !self.poll() {
                        break;
                    }
                }
            }
            16 | 17 => self.received(),
            18 => self.end_of_stream(input.flag()),
            19 => self.delivered(),
            20 => self.receive_failed(fault(input)),
            21 => self.receive_cancelled(),
            22 | 23 => self.progress(size(input)),
            24 | 25 => self.sent(),
            26 => self.send_failed(fault(input), size(input)),
            27 => self.shut_down(),
            28 => self.deadline(),
            29 => self.closed(),
            30 => self.connected(),
            _ => self.connect_failed(fault(input)),
        }
    }

    // ---- commands ----

    fn send(&mut self, size: usize, shared: bool) {
        let from = self.queued.len();
        let bytes: Vec<u8> = (from..from + size).map(|at| (at % 251) as u8).collect();
        let (before, open) = (self.connection.queued_bytes(), self.connection.is_open());
        let sent = if shared {
            self.connection.send_shared(Arc::from(&bytes[..]), &self.marks, &mut self.pool)
        } else {
            self.connection.send(size, &self.marks, &mut self.pool, |out| out.extend_from_slice(&bytes))
        };
        let after = before + size;
        if !open {
            assert_eq!(sent, Sent::Refused(Refusal::NotOpen));
        } else if after > self.marks.queue_max_bytes {
            assert_eq!(sent, Sent::Refused(Refusal::QueueFull), "{size} bytes on top of {before}");
            self.cut(CloseReason::SendQueueFull);
        } else {
            let high = after > self.marks.high_water_bytes;
            assert_eq!(sent, if high { Sent::High } else { Sent::Queued }, "{size} bytes on top of {before}");
            self.ledger.pressure |= high;
            self.queued.extend_from_slice(&bytes);
        }
    }

    fn pause(&mut self, paused: bool) {
        self.ledger.paused = paused;
        self.connection.pause(paused);
    }

    fn drain(&mut self, reason: CloseReason, command: impl FnOnce(&mut Connection, CloseReason)) {
        if self.connection.state() == State::Connecting {
            return self.close(reason, command);
        }
        self.ledger.cause.get_or_insert(reason);
        self.ledger.ending = true;
        command(&mut self.connection, reason);
    }

    fn close(&mut self, reason: CloseReason, command: impl FnOnce(&mut Connection, CloseReason)) {
        self.cut(reason);
        command(&mut self.connection, reason);
    }

    /// As a close, but a drain that it cuts short is not what ended it.
    fn abort(&mut self, reason: CloseReason) {
        if self.connection.state() == State::Draining && !self.ledger.shut_down {
            self.ledger.cause = Some(reason);
        }
        self.close(reason, Connection::abort);
    }

    /// It ends at once, for this reason unless there was one before.
    fn cut(&mut self, reason: CloseReason) {
        self.ledger.cause.get_or_insert(reason);
        self.ledger.cut_short |= !self.ledger.close_asked;
        self.ledger.ending = true;
    }

    // ---- completions; what is not in flight does not complete ----

    fn connected(&mut self) {
        if std::mem::take(&mut self.in_flight.connect) {
            self.connection.handle_connected();
        }
    }

    fn connect_failed(&mut self, fault: Fault) {
        if std::mem::take(&mut self.in_flight.connect) {
            let reason = CloseReason::ReceiveFailed(fault);
            self.cut(reason);
            self.connection.handle_connect_failed(reason);
        }
    }

    fn received(&mut self) {
        if self.in_flight.receive {
            let taken = self.connection.handle_received();
            assert_eq!(taken, !self.ledger.ending, "bytes are for the handler until it ends");
        }
    }

    fn end_of_stream(&mut self, kept: bool) {
        if std::mem::take(&mut self.in_flight.receive) {
            self.in_flight.cancel_asked = false;
            self.ledger.end_of_stream = true;
            self.ledger.end_kept = kept;
            if !kept {
                self.ledger.cause.get_or_insert(CloseReason::PeerClosed);
                self.ledger.ending = true;
            }
            self.connection.handle_receive_ended(ReceiveEnd::EndOfStream, kept);
        }
    }

    fn delivered(&mut self) {
        if std::mem::take(&mut self.ledger.end_kept) {
            self.ledger.cause.get_or_insert(CloseReason::PeerClosed);
            self.ledger.ending = true;
            self.connection.handle_delivered();
        }
    }

    fn receive_failed(&mut self, fault: Fault) {
        if std::mem::take(&mut self.in_flight.receive) {
            self.in_flight.cancel_asked = false;
            self.cut(CloseReason::from_receive(fault));
            self.connection.handle_receive_ended(ReceiveEnd::Failed(fault), false);
        }
    }

    fn receive_cancelled(&mut self) {
        if (self.in_flight.cancel_asked || self.in_flight.close)
            && std::mem::take(&mut self.in_flight.receive)
        {
            self.in_flight.cancel_asked = false;
            let end = ReceiveEnd::Failed(Fault::of(FaultKind::Cancelled));
            self.connection.handle_receive_ended(end, false);
        }
    }

    /// The system takes more of the batch: the bytes that were queued next.
    fn progress(&mut self, most: usize) {
        let Some(batch) = &mut self.in_flight.send else { return };
        let count = most.min(batch.remaining());
        let from = self.wire.len();
        for piece in batch.slices() {
            let left = count - (self.wire.len() - from);
            self.wire.extend_from_slice(&piece[..piece.len().min(left)]);
        }
        batch.advance(count);
        assert_eq!(self.wire[from..], self.queued[from..from + count], "other bytes than were queued next");
    }

    fn sent(&mut self) {
        self.progress(usize::MAX);
        self.settle(Ok(()));
    }

    fn send_failed(&mut self, fault: Fault, most: usize) {
        if self.in_flight.send.is_some() {
            self.progress(most);
            self.cut(CloseReason::from_send(fault));
            self.settle(Err(fault));
        }
    }

    fn settle(&mut self, result: Result<(), Fault>) {
        let Some(batch) = self.in_flight.send.take() else { return };
        self.settled += batch.len();
        let relieved = self.connection.handle_sent(batch, result, &self.marks, &mut self.pool);
        let over = self.ledger.pressure && self.connection.queued_bytes() <= self.marks.low_water_bytes;
        self.ledger.pressure &= !over;
        assert_eq!(
            relieved,
            over && !self.ledger.ending,
            "pressure is relieved at its low mark, and told once"
        );
    }

    fn shut_down(&mut self) {
        if std::mem::take(&mut self.in_flight.shutdown) {
            self.ledger.shut_down = true;
            self.connection.handle_shut_down();
        }
    }

    fn deadline(&mut self) {
        if std::mem::take(&mut self.ledger.timer) {
            if self.connection.state() == State::Draining {
                if !self.ledger.shut_down {
                    // The one that takes the place of the first cause: it names what the drain came to.
                    self.ledger.cause = Some(CloseReason::DrainDeadline);
                }
                self.ledger.cut_short = true;
            }
            self.connection.handle_deadline();
        }
    }

    fn closed(&mut self) {
        if self.in_flight.close && !self.in_flight.to_join() {
            self.in_flight.close = false;
            self.ledger.closed = true;
            self.connection.handle_closed();
        }
    }

    // ---- actions ----

    /// Takes one action and does it, if the rules allow it. False when there was none.
    fn poll(&mut self) -> bool {
        let Some(action) = self.connection.poll_action(&mut self.pool) else {
            self.check_at_rest();
            return false;
        };
        let Self { in_flight, ledger, .. } = self;
        assert!(!ledger.finished, "{action:?} after the end");
        let ends = matches!(action, Action::Close | Action::Finished(_));
        assert!(ends || !(ledger.cut_short || ledger.close_asked), "{action:?} while it closes");
        match action {
            Action::Receive => {
                assert!(!in_flight.receive, "two receives in flight");
                assert!(!ledger.end_of_stream, "a receive after the end of the stream");
                in_flight.receive = true;
            }
            Action::CancelReceive => {
                assert!(in_flight.receive && !in_flight.cancel_asked, "cancels nothing, or cancels again");
                in_flight.cancel_asked = true;
            }
            Action::Send(batch) => {
                assert!(in_flight.send.is_none(), "two sends in flight");
                assert!(batch.sent() == 0 && !batch.is_empty(), "{batch:?}");
                assert!(!ledger.shutdown_asked, "a send after our direction ended");
                in_flight.send = Some(batch);
            }
            Action::StartDeadline => {
                assert!(ledger.ending && !ledger.deadline_asked, "a second deadline, or too early");
                (ledger.deadline_asked, ledger.timer) = (true, true);
            }
            Action::Shutdown => {
                assert!(ledger.ending && !ledger.shutdown_asked, "a second shutdown, or too early");
                assert!(self.wire == self.queued && in_flight.send.is_none(), "shut down with bytes left");
                assert!(ledger.deadline_asked, "a wait for the peer without a deadline");
                (ledger.shutdown_asked, in_flight.shutdown) = (true, true);
            }
            Action::StartLinger => {
                assert!(ledger.shut_down && !ledger.linger_asked, "a second wait, or too early");
                (ledger.linger_asked, ledger.timer) = (true, true);
            }
            Action::Close => {
                assert!(!ledger.close_asked, "closed twice");
                let in_order = ledger.end_of_stream && self.wire == self.queued && !in_flight.shutdown;
                assert!(ledger.cut_short || in_order, "closed before it was drained");
                (ledger.close_asked, in_flight.close) = (true, true);
            }
            Action::Finished(reason) => {
                assert!(ledger.closed, "finished before it was closed");
                assert_eq!(Some(reason), ledger.cause, "not the first cause");
                ledger.finished = true;
            }
        }
        true
    }

    /// There is nothing more to do now: whatever should be under way is.
    fn check_at_rest(&self) {
        let Self { connection, in_flight, ledger, .. } = self;
        assert_eq!(connection.audit(), Ok(()), "by its own account");
        let waiting = connection.queued_bytes() > in_flight.send.as_ref().map_or(0, |batch| batch.len());
        match connection.state() {
            State::Connecting => assert!(in_flight.connect, "connects, and nothing is in flight"),
            State::Open | State::Draining => {
                let slow = ledger.paused || ledger.pressure && self.pause_under_pressure;
                let wanted = !ledger.end_of_stream && (ledger.ending || !slow);
                let receiving = in_flight.receive && !in_flight.cancel_asked;
                // One that was cancelled and is wanted again is armed when it has ended.
                assert!(receiving == wanted || wanted && in_flight.receive, "receiving: {receiving}");
                assert!(!waiting || in_flight.send.is_some(), "bytes wait for nothing");
                assert!(!ledger.ending || ledger.deadline_asked, "it drains without a deadline");
                assert!(!ledger.shut_down || ledger.linger_asked, "it waits for the peer without end");
            }
            State::Closing => assert!(ledger.close_asked, "it closes, and no close was asked for"),
            State::Closed => assert!(ledger.finished, "it is closed, and was not reported"),
            State::Handshaking => panic!("nothing leads here"),
        }
    }

    /// What holds between any two steps.
    fn check(&self) {
        let Self { connection, in_flight, ledger, .. } = self;
        assert_eq!(connection.reason(), ledger.cause);
        assert_eq!(connection.is_connect_in_flight(), in_flight.connect);
        assert_eq!(connection.under_pressure(), ledger.pressure);
        assert!(!connection.is_open() || !ledger.ending, "open, and it ends");
        let slow = ledger.paused || ledger.pressure && self.pause_under_pressure;
        assert_eq!(connection.wants_frames(), connection.is_open() && !slow);
        let queued = connection.queued_bytes();
        assert!(queued <= self.marks.queue_max_bytes, "{queued} bytes queued");
        // A close drops what was not in flight; until then every byte is accounted for.
        let dropped = matches!(connection.state(), State::Closing | State::Closed);
        let open = self.queued.len() - self.settled;
        assert!(queued == open || dropped && queued < open, "{queued} bytes queued of {open}");
        let batches = usize::from(in_flight.send.is_some()) + 1;
        assert!(self.pool.batches_out() <= batches, "more batches than one queued and one in flight");
        if connection.state() == State::Closed && !ledger.cut_short {
            assert!(self.wire == self.queued, "ended in order, and bytes are missing");
        }
    }

    /// Nothing fails any more and the system completes what is in flight: it comes to its end, once, and keeps nothing.
    fn calm(&mut self, close: bool) {
        if close {
            self.close(CloseReason::Stopped, Connection::close);
        } else {
            self.drain(CloseReason::Drained, Connection::drain);
        }
        for _ in 0..12 {
            while self.poll() {}
            self.check();
            self.connected();
            self.sent();
            self.shut_down();
            self.receive_cancelled();
            // The peer ends its stream when it has seen ours.
            if self.ledger.shut_down {
                self.end_of_stream(false);
            }
            self.closed();
        }
        assert!(self.ledger.finished, "no end in sight: {:?}", self.connection);
        self.send(1, false);
        self.drain(CloseReason::Drained, Connection::drain);
        self.close(CloseReason::Stopped, Connection::close);
        assert!(!self.poll() && !self.in_flight.to_join() && !self.in_flight.close);
        assert_eq!((self.pool.batches_out(), self.connection.queued_bytes()), (0, 0), "something is kept");
    }
}

fn size(input: &mut Input<'_>) -> usize {
    match input.byte() {
        small @ 0..192 => usize::from(small),
        large => usize::from(large - 191) * 200,
    }
}

fn fault(input: &mut Input<'_>) -> Fault {
    const KINDS: [FaultKind; 5] = [
        FaultKind::PeerReset,
        FaultKind::TimedOut,
        FaultKind::NoMemory,
        FaultKind::InvalidSocket,
        FaultKind::Other,
    ];
    let which = input.byte();
    Fault::new(KINDS[usize::from(which) % KINDS.len()], i32::from(which))
}
