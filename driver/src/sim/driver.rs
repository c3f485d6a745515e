//! The contract on top of the simulated network.
//!
//! A submitted operation is put down in its socket, and the socket gets a turn at a random time soon. In its
//! turn (see `turns`) it makes one step of what it can: one lease, one part of a send, one connection accepted, one
//! operation joined. Whatever may let it go further gives it another turn. So completions of one socket keep
//! their order, and those of different sockets come in any.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt, io,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_core::{
    Fault, FaultKind, SendBatch, Slab, SlabKey,
    planted::{Bug, planted},
};

use super::{
    SimEnd,
    buffers::Buffers,
    chance::nanos,
    files::SimFile,
    io_error,
    net::{Net, Owner},
};
use crate::{
    COMPLETIONS_MAX, Driver, FILES_MAX,
    address::Address,
    options::{DriverConfig, FileOptions, ListenOptions, SocketOptions},
    probe::DriverKind,
    types::{
        Completion, Detached, DetachedSocket, FileKey, Lease, Op, OpKind, Outcome, Received, SocketKey, Token,
    },
    wake::Waker,
};

/// Longest wait. A longer time-out is cut, so that the clock cannot overflow.
const WAIT_MAX: Duration = Duration::from_hours(24 * 366 * 10);

pub(super) const CANCELLED: Fault = Fault::of(FaultKind::Cancelled);
const INVALID: Fault = Fault::of(FaultKind::InvalidSocket);

/// A driver whose sockets are in memory. Made by [`SimNet::driver`](super::SimNet::driver).
pub struct Sim {
    pub(super) net: Rc<RefCell<Net>>,
    /// This driver's number in the net.
    pub(super) number: usize,
    pub(super) sockets: Slab<Socket>,
    pub(super) buffers: Buffers,
    /// Receives that found data and no buffer, in that order.
    pub(super) dry: VecDeque<SlabKey>,
    /// Listeners that found a connection and no room for another socket.
    pub(super) short: Vec<SlabKey>,
    ready: VecDeque<Completion>,
    /// Sockets with a send that nobody waits for, if it ends by the next wait.
    lazy: Vec<SlabKey>,
    waker: Waker,
    invalid_submissions: u64,
    pub(super) files: Slab<SimFile>,
}

#[derive(Debug)]
pub(super) enum Socket {
    Listener(Listener),
    Opening(Connect),
    Stream(Stream),
}

/// A socket that is to connect, or has failed to.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) end: SlabKey,
    /// The connect was submitted, and is in flight while there is a token.
    pub(super) tried: bool,
    pub(super) token: Option<Token>,
    pub(super) close: Option<Token>,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) listening: SlabKey,
    pub(super) accept: Option<Token>,
    pub(super) close: Option<Token>,
    /// The shortage that goes on now was reported.
    pub(super) shortage_reported: bool,
    /// Accepting rests before, after a fault.
    pub(super) rests_until: u64,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) end: SlabKey,
    /// Nothing was submitted on it since it was accepted (sentence 13).
    pub(super) movable: bool,
    pub(super) receive: Option<Receive>,
    /// The receive found data and no buffer: it is in the queue of those.
    pub(super) dry: bool,
    pub(super) send: Option<Send>,
    pub(super) shutdown: Option<Token>,
    pub(super) close: Option<Token>,
    /// When the close, if there is one, cancels what is in flight.
    pub(super) joins_at: u64,
    /// When the close ends, once that is decided.
    pub(super) closes_at: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Receive {
    pub(super) token: Token,
    /// When the cancel, if there was one, takes effect.
    pub(super) cancelled_at: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Send {
    pub(super) token: Token,
    pub(super) batch: Box<SendBatch>,
    /// When the cancel, if there was one, takes effect.
    pub(super) cancelled_at: Option<u64>,
}

impl Stream {
    pub(super) fn new(end: SlabKey, movable: bool) -> Self {
        Self {
            end,
            movable,
            receive: None,
            dry: false,
            send: None,
            shutdown: None,
            close: None,
            joins_at: 0,
            closes_at: None,
        }
    }

    /// True if a close cancels what is in flight.
    pub(super) fn is_joined(&self, now: u64) -> bool {
        self.close.is_some() && self.joins_at <= now
    }

    pub(super) fn is_idle(&self) -> bool {
        self.receive.is_none() && self.send.is_none() && self.shutdown.is_none()
    }
}

impl Sim {
    pub(super) fn new(net: Rc<RefCell<Net>>, config: DriverConfig) -> Self {
        let number = net.borrow_mut().add_driver();
        Self {
            net,
            number,
            sockets: Slab::new(config.sockets_max.min(u32::MAX - 1)),
            buffers: Buffers::new(&config),
            dry: VecDeque::new(),
            short: Vec::new(),
            ready: VecDeque::new(),
            lazy: Vec::new(),
            // The driver never blocks: whoever wakes it has nothing to signal.
            waker: Waker::new(|| Ok(())),
            invalid_submissions: 0,
            files: Slab::new(FILES_MAX),
        }
    }

    fn owner(&self, socket: SlabKey) -> Owner {
        Owner::Driver { driver: self.number, socket }
    }

    pub(super) fn complete(&mut self, token: Token, outcome: Outcome) {
        let completion = Completion { token, outcome };
        if planted(Bug::CompletionsOverflow) && self.ready.len() >= 12 {
            return;
        }
        if planted(Bug::CompletionsReordered) && self.ready.len() > 1 {
            return self.ready.push_front(completion);
        }
        self.ready.push_back(completion);
    }

    /// Ends an operation that must not be (sentence 11).
    pub(super) fn refuse(&mut self, token: Token, outcome: Outcome) {
        self.invalid_submissions += 1;
        self.net.borrow_mut().invalid_submissions += 1;
        self.complete(token, outcome);
    }

    /// Submissions that ended as [`FaultKind::InvalidSocket`]: a correct user of the driver makes none.
    pub fn invalid_submissions(&self) -> u64 {
        self.invalid_submissions
    }

    /// True if a wait of no time might give something, or let something happen: somebody woke this driver, or
    /// something is due or complete. If it is false, nothing happens here before
    /// [`SimNet::next_event_in`](super::SimNet::next_event_in).
    pub fn has_work(&self) -> bool {
        self.has_urgent() || self.waker.is_notified() || self.net.borrow().has_due(self.number)
    }

    /// True if something is complete that ends a wait: not only sends that nobody waits for.
    fn has_urgent(&self) -> bool {
        self.ready.iter().any(|ready| !ready.outcome.is_lazy())
    }

    /// Receive buffers with bytes that no wait has delivered yet. What is out besides them
    /// ([`leases_out`](Driver::leases_out)) is with the driver's user.
    pub fn leases_ready(&self) -> usize {
        self.ready_with(|outcome| matches!(outcome, Outcome::Received(Received::Data(_))))
    }

    /// Sockets that are closed, and no wait has said so yet.
    pub fn closes_ready(&self) -> usize {
        self.ready_with(|outcome| matches!(outcome, Outcome::Closed(_)))
    }

    fn ready_with(&self, is_it: impl Fn(&Outcome) -> bool) -> usize {
        self.ready.iter().filter(|ready| is_it(&ready.outcome)).count()
    }

    pub(super) fn stream(&mut self, socket: SocketKey) -> Option<&mut Stream> {
        stream_of(&mut self.sockets, socket.0)
    }

    /// A stream on which operations may still start.
    fn open_stream(&mut self, socket: SocketKey) -> Option<&mut Stream> {
        self.stream(socket).filter(|stream| stream.close.is_none())
    }

    // Submitting.

    fn submit_accept(&mut self, token: Token, listener: SocketKey) {
        match self.sockets.get_mut(listener.0) {
            Some(Socket::Listener(state)) if state.accept.is_none() && state.close.is_none() => {
                state.accept = Some(token);
                let listener = state.listening;
                self.net.borrow_mut().notify_listener(listener);
            }
            _ => self.refuse(token, Outcome::AcceptEnded(INVALID)),
        }
    }

    fn submit_connect(&mut self, token: Token, socket: SocketKey) {
        match self.sockets.get_mut(socket.0) {
            Some(Socket::Opening(connect)) if !connect.tried && connect.close.is_none() => {
                connect.tried = true;
                connect.token = Some(token);
                let end = connect.end;
                self.net.borrow_mut().attempt_soon(end);
            }
            _ => self.refuse(token, Outcome::Connected(Err(INVALID))),
        }
    }

    fn submit_receive(&mut self, token: Token, socket: SocketKey) {
        match self.open_stream(socket) {
            Some(stream) if stream.receive.is_none() => {
                stream.movable = false;
                stream.receive = Some(Receive { token, cancelled_at: None });
                let end = stream.end;
                self.net.borrow_mut().notify(end);
            }
            _ => self.refuse(token, Outcome::Received(Received::Failed(INVALID))),
        }
    }

    fn submit_send(&mut self, token: Token, socket: SocketKey, batch: Box<SendBatch>) {
        if batch.is_lazy() {
            self.lazy.push(socket.0);
        }
        match self.open_stream(socket) {
            Some(stream) if stream.send.is_none() => {
                stream.movable = false;
                stream.send = Some(Send { token, batch, cancelled_at: None });
                let end = stream.end;
                self.net.borrow_mut().notify(end);
            }
            _ => self.refuse(token, Outcome::Sent(batch, Err(INVALID))),
        }
    }

    fn submit_shutdown(&mut self, token: Token, socket: SocketKey) {
        match self.open_stream(socket) {
            Some(stream) if stream.shutdown.is_none() => {
                stream.movable = false;
                stream.shutdown = Some(token);
                let end = stream.end;
                self.net.borrow_mut().notify(end);
            }
            _ => self.refuse(token, Outcome::ShutDown(Err(INVALID))),
        }
    }

    fn submit_close(&mut self, token: Token, socket: SocketKey) {
        match self.sockets.get_mut(socket.0) {
            Some(Socket::Listener(state)) if state.close.is_none() => {
                state.close = Some(token);
                let listener = state.listening;
                self.net.borrow_mut().notify_listener(listener);
            }
            Some(Socket::Stream(stream)) if stream.close.is_none() => {
                stream.close = Some(token);
                let mut net = self.net.borrow_mut();
                stream.joins_at = net.now;
                if !stream.is_idle()
                    && let Some(at) = net.cancel_is_late(stream.end, OpKind::Close)
                {
                    stream.joins_at = at;
                    net.turn_at(at, self.number, socket.0);
                }
                net.notify(stream.end);
            }
            Some(Socket::Opening(connect)) if connect.close.is_none() => {
                connect.close = Some(token);
                let end = connect.end;
                self.net.borrow_mut().notify(end);
            }
            _ => self.refuse(token, Outcome::Closed(Err(INVALID))),
        }
    }

    fn check(&self) {
        let net = self.net.borrow();
        assert!(self.dry.len() <= self.sockets.len(), "a socket is dry once");
        assert!(self.short.len() <= self.sockets.len(), "a listener is short once");
        assert!(net.next_event().is_none_or(|at| at >= net.now), "what is due has happened");
    }
}

pub(super) fn stream_of(sockets: &mut Slab<Socket>, key: SlabKey) -> Option<&mut Stream> {
    match sockets.get_mut(key)? {
        Socket::Stream(stream) => Some(stream),
        Socket::Listener(_) | Socket::Opening(_) => None,
    }
}

impl Driver for Sim {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }

    fn listen(&mut self, address: &Address, options: &ListenOptions) -> io::Result<(SocketKey, Address)> {
        let mut net = self.net.borrow_mut();
        let at = net.place_of(address);
        let listener = net.listen(at, options, true).map_err(io_error)?;
        let state = Listener {
            listening: listener,
            accept: None,
            close: None,
            shortage_reported: false,
            rests_until: 0,
        };
        let Ok(key) = self.sockets.insert(Socket::Listener(state)) else {
            net.close_listener(listener);
            return Err(io_error(Fault::of(FaultKind::NoDescriptors)));
        };
        net.set_listener_owner(listener, Owner::Driver { driver: self.number, socket: key });
        Ok((SocketKey(key), net.address_at(net.listener(listener).address)))
    }

    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<SocketKey, Fault> {
        let mut net = self.net.borrow_mut();
        let to = net.place_of(address);
        let end = net.open_by_driver(self.number, to, options)?;
        drop(net);
        let connect = Connect { end, tried: false, token: None, close: None };
        let Ok(key) = self.sockets.insert(Socket::Opening(connect)) else {
            self.net.borrow_mut().close(end);
            return Err(Fault::of(FaultKind::NoDescriptors));
        };
        let owner = self.owner(key);
        self.net.borrow_mut().set_owner(end, owner);
        Ok(SocketKey(key))
    }

    fn open_file(&mut self, path: &Path, _: &FileOptions) -> io::Result<(FileKey, u64)> {
        self.open_to_append(path)
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept { listener } => self.submit_accept(token, listener),
            Op::Connect { socket } => self.submit_connect(token, socket),
            Op::Receive { socket } => self.submit_receive(token, socket),
            Op::Send { socket, batch } => self.submit_send(token, socket, batch),
            Op::Shutdown { socket } => self.submit_shutdown(token, socket),
            Op::Close { socket } => self.submit_close(token, socket),
            Op::Append { .. } | Op::Sync { .. } | Op::Rotate { .. } | Op::CloseFile { .. } => {
                self.submit_on_file(token, op);
            }
        }
    }

    fn cancel(&mut self, socket: SocketKey, kind: OpKind) {
        let number = self.number;
        let Some(stream) = stream_of(&mut self.sockets, socket.0) else { return };
        let cancelled_at = match kind {
            OpKind::Receive => stream.receive.as_mut().map(|receive| &mut receive.cancelled_at),
            OpKind::Send => stream.send.as_mut().map(|send| &mut send.cancelled_at),
            _ => None,
        };
        if let Some(cancelled_at) = cancelled_at {
            let mut net = self.net.borrow_mut();
            let late = net.cancel_is_late(stream.end, kind);
            let at = late.unwrap_or(net.now);
            *cancelled_at = Some(cancelled_at.map_or(at, |before| before.min(at)));
            if late.is_some() {
                net.turn_at(at, number, socket.0);
            }
            net.notify(stream.end);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let may_sleep = self.waker.fall_asleep();
        let (deadline, moment) = {
            let net = self.net.borrow();
            (timeout.map(|timeout| net.later(nanos(timeout.min(WAIT_MAX)))), net.in_a_moment())
        };
        let mut spurious = false;
        let mut ends = true;
        loop {
            let rained = {
                let mut net = self.net.borrow_mut();
                net.run_due();
                spurious |= net.takes_wake(self.number);
                net.has_rained(self.number)
            };
            if rained {
                self.grant_buffers();
            }
            while self.ready.len() < COMPLETIONS_MAX {
                let due = self.net.borrow_mut().next_due(self.number);
                let Some(key) = due else { break };
                self.turn(key);
            }
            while self.ready.len() < COMPLETIONS_MAX {
                let due = self.net.borrow_mut().next_due_file(self.number);
                let Some(key) = due else { break };
                self.turn_of_file(key);
            }
            let mut net = self.net.borrow_mut();
            let woken = spurious || !may_sleep || self.waker.is_notified();
            let bound = match deadline {
                // Even a driver that is woken all the time sees time pass.
                Some(deadline) if woken => Some(deadline.min(moment)),
                None if woken => Some(moment),
                deadline => deadline,
            };
            let upcoming = net.next_event();
            if self.has_urgent() {
                break;
            } else if let Some(at) = upcoming.filter(|at| bound.is_none_or(|bound| *at <= bound)) {
                net.advance_to(at);
            } else {
                // Without a bound a real driver would sleep on, whatever lazy ends it knows of.
                ends = bound.is_some();
                if let Some(bound) = bound {
                    // A wake may have come later than its moment.
                    let at = bound.max(net.now);
                    net.advance_to(at);
                }
                break;
            }
        }
        self.waker.awake();
        // What has not ended by now is waited for as anything else.
        while let Some(socket) = self.lazy.pop() {
            if let Some(Socket::Stream(stream)) = self.sockets.get_mut(socket)
                && let Some(send) = &mut stream.send
            {
                send.batch.set_lazy(false);
            }
        }
        let mut count = if ends { self.ready.len().min(COMPLETIONS_MAX) } else { 0 };
        if count > 0 {
            count = self.net.borrow_mut().batch_of(self.number, count);
        }
        let before = completions.len();
        completions.extend(self.ready.drain(..count));
        let mut net = self.net.borrow_mut();
        for completion in &completions[before..] {
            net.digest.add_outcome(&completion.outcome);
        }
        drop(net);
        self.check();
        Ok(())
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.buffers.memory_of(lease)
    }

    fn recycle(&mut self, lease: Lease) {
        self.buffers.take_back(&lease);
        self.grant_buffers();
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn now(&self) -> Instant {
        self.net.borrow().now()
    }

    fn detach(&mut self, socket: SocketKey) -> Option<Detached> {
        let stream = self.open_stream(socket).filter(|stream| stream.movable)?;
        let (end, alive) = (stream.end, Arc::new(()));
        let mut net = self.net.borrow_mut();
        net.detach(end, &alive);
        let detached = SimEnd { net: net.instance(), end, alive };
        drop(net);
        self.remove(socket.0);
        Some(Detached(DetachedSocket::Sim(detached)))
    }

    fn adopt(&mut self, detached: Detached) -> Option<SocketKey> {
        let end = match detached.0 {
            DetachedSocket::Sim(end) => end,
            #[cfg(unix)]
            DetachedSocket::Descriptor(_) => return None,
            #[cfg(windows)]
            DetachedSocket::Handle(_) => return None,
            #[cfg(loom)]
            DetachedSocket::Model(_) => return None,
        };
        if end.net != self.net.borrow().instance() {
            return None;
        }
        let key = self.sockets.insert(Socket::Stream(Stream::new(end.end, true))).ok()?;
        let owner = self.owner(key);
        self.net.borrow_mut().adopt(end.end, owner);
        // Only now: the net closes a detached end whose mark is gone.
        drop(end.alive);
        Some(SocketKey(key))
    }

    fn sockets(&self) -> usize {
        self.sockets.len()
    }

    fn files(&self) -> usize {
        self.files.len()
    }

    fn leases_out(&self) -> usize {
        self.buffers.out()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let mut net = self.net.borrow_mut();
        net.remove_driver(self.number);
        for (_, file) in self.files.iter() {
            net.disk.close(file.content());
        }
        for (_, socket) in self.sockets.iter() {
            match socket {
                Socket::Listener(state) => net.close_listener(state.listening),
                Socket::Opening(Connect { end, .. }) | Socket::Stream(Stream { end, .. }) => net.close(*end),
            }
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("number", &self.number)
            .field("sockets", &self.sockets.len())
            .field("leases_out", &self.buffers.out())
            .field("dry", &self.dry.len())
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}
