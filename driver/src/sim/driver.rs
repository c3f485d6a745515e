//! The contract on top of the simulated network.
//!
//! A submitted operation is put down in its socket, and the socket gets a turn at a random time soon. In its
//! turn it makes one step of what it can: one lease, one part of a send, one connection accepted, one
//! operation joined. Whatever may let it go further gives it another turn. So completions of one socket keep
//! their order, and those of different sockets come in any.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, SendBatch, Slab, SlabKey};

use super::{
    SimEnd, io_error,
    net::{Net, Opening, Owner},
};
use crate::{
    COMPLETIONS_MAX, Driver,
    options::{DriverConfig, ListenOptions, SocketOptions},
    probe::DriverKind,
    types::{
        Accepted, Completion, Detached, DetachedSocket, Lease, Op, OpKind, Outcome, Received, SocketKey,
        Token, next_instance,
    },
    wake::Waker,
};

/// Longest wait. A longer time-out is cut, so that the clock cannot overflow.
const WAIT_MAX: Duration = Duration::from_hours(24 * 366 * 10);

const CANCELLED: Fault = Fault::of(FaultKind::Cancelled);
const INVALID: Fault = Fault::of(FaultKind::InvalidSocket);

/// A driver whose sockets are in memory. Made by [`SimNet::driver`](super::SimNet::driver).
pub struct Sim {
    net: Rc<RefCell<Net>>,
    /// This driver's number in the net.
    number: usize,
    sockets: Slab<Socket>,
    buffers: Buffers,
    /// Receives that found data and no buffer, in that order.
    dry: VecDeque<SlabKey>,
    /// Listeners that found a connection and no room for another socket.
    short: Vec<SlabKey>,
    ready: VecDeque<Completion>,
    waker: Waker,
}

#[derive(Debug)]
enum Socket {
    Listener(Listener),
    Opening(Connect),
    Stream(Stream),
}

/// A socket that is to connect, or has failed to.
#[derive(Debug)]
struct Connect {
    end: SlabKey,
    /// The connect was submitted, and is in flight while there is a token.
    tried: bool,
    token: Option<Token>,
    close: Option<Token>,
}

#[derive(Debug)]
struct Listener {
    listening: SlabKey,
    accept: Option<Token>,
    close: Option<Token>,
    /// The shortage that goes on now was reported.
    shortage_reported: bool,
}

#[derive(Debug)]
struct Stream {
    end: SlabKey,
    /// Nothing was submitted on it since it was accepted (sentence 13).
    movable: bool,
    receive: Option<Receive>,
    /// The receive found data and no buffer: it is in the queue of those.
    dry: bool,
    send: Option<Send>,
    shutdown: Option<Token>,
    close: Option<Token>,
}

#[derive(Debug)]
struct Receive {
    token: Token,
    cancelled: bool,
}

#[derive(Debug)]
struct Send {
    token: Token,
    batch: Box<SendBatch>,
    cancelled: bool,
}

impl Stream {
    fn new(end: SlabKey, movable: bool) -> Self {
        Self { end, movable, receive: None, dry: false, send: None, shutdown: None, close: None }
    }

    fn is_idle(&self) -> bool {
        self.receive.is_none() && self.send.is_none() && self.shutdown.is_none()
    }
}

/// The receive buffers: each is free, or out as a lease.
#[derive(Debug)]
struct Buffers {
    instance: u32,
    size: usize,
    /// Empty until first used.
    memory: Vec<Vec<u8>>,
    free: Vec<u32>,
}

impl Buffers {
    fn new(config: &DriverConfig) -> Self {
        let size = config.receive_buffer_bytes.clamp(1, u32::MAX as usize);
        let count = (config.receive_memory_bytes / size).clamp(1, u32::MAX as usize - 1);
        Self {
            instance: next_instance(),
            size,
            memory: vec![Vec::new(); count],
            free: (0..count as u32).rev().collect(),
        }
    }

    fn out(&self) -> usize {
        self.memory.len() - self.free.len()
    }

    fn memory_of(&self, lease: &Lease) -> &[u8] {
        assert_eq!(lease.driver, self.instance, "a lease of another driver");
        let start = lease.offset as usize;
        &self.memory[lease.buffer as usize][start..start + lease.len as usize]
    }

    fn take_back(&mut self, lease: &Lease) {
        assert_eq!(lease.driver, self.instance, "a lease of another driver");
        // What was received is gone: a later look at it would show.
        self.memory[lease.buffer as usize][..lease.len as usize].fill(0xdd);
        self.free.push(lease.buffer);
        assert!(self.free.len() <= self.memory.len(), "a buffer came back twice");
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
            // The driver never blocks: whoever wakes it has nothing to signal.
            waker: Waker::new(|| Ok(())),
        }
    }

    fn owner(&self, socket: SlabKey) -> Owner {
        Owner::Driver { driver: self.number, socket }
    }

    fn complete(&mut self, token: Token, outcome: Outcome) {
        self.ready.push_back(Completion { token, outcome });
    }

    fn stream(&mut self, socket: SocketKey) -> Option<&mut Stream> {
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
            _ => self.complete(token, Outcome::AcceptEnded(INVALID)),
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
            _ => self.complete(token, Outcome::Connected(Err(INVALID))),
        }
    }

    fn submit_receive(&mut self, token: Token, socket: SocketKey) {
        match self.open_stream(socket) {
            Some(stream) if stream.receive.is_none() => {
                stream.movable = false;
                stream.receive = Some(Receive { token, cancelled: false });
                let end = stream.end;
                self.net.borrow_mut().notify(end);
            }
            _ => self.complete(token, Outcome::Received(Received::Failed(INVALID))),
        }
    }

    fn submit_send(&mut self, token: Token, socket: SocketKey, batch: Box<SendBatch>) {
        match self.open_stream(socket) {
            Some(stream) if stream.send.is_none() => {
                stream.movable = false;
                stream.send = Some(Send { token, batch, cancelled: false });
                let end = stream.end;
                self.net.borrow_mut().notify(end);
            }
            _ => self.complete(token, Outcome::Sent(batch, Err(INVALID))),
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
            _ => self.complete(token, Outcome::ShutDown(Err(INVALID))),
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
                let end = stream.end;
                self.net.borrow_mut().notify(end);
            }
            Some(Socket::Opening(connect)) if connect.close.is_none() => {
                connect.close = Some(token);
                let end = connect.end;
                self.net.borrow_mut().notify(end);
            }
            _ => self.complete(token, Outcome::Closed(Err(INVALID))),
        }
    }

    // Turns.

    fn turn(&mut self, key: SlabKey) {
        match self.sockets.get(key) {
            Some(Socket::Listener(_)) => self.turn_of_listener(key),
            Some(Socket::Opening(_)) => self.turn_of_opening(key),
            Some(Socket::Stream(_)) => self.turn_of_stream(key),
            // It left the driver since.
            None => {}
        }
    }

    fn turn_of_listener(&mut self, key: SlabKey) {
        let Some(Socket::Listener(state)) = self.sockets.get_mut(key) else { return };
        let listener = state.listening;
        self.net.borrow_mut().listener_turn_taken(listener);
        if let Some(close) = state.close {
            let accept = state.accept;
            if let Some(token) = accept {
                self.complete(token, Outcome::AcceptEnded(CANCELLED));
            }
            self.net.borrow_mut().close_listener(listener);
            self.remove(key);
            self.complete(close, Outcome::Closed(Ok(())));
            return;
        }
        let Some(token) = state.accept else { return };
        if self.net.borrow().listener(listener).backlog.is_empty() {
            return;
        }
        let accepted = self.accept_one(listener);
        let Some(Socket::Listener(state)) = self.sockets.get_mut(key) else { return };
        let is_short = matches!(accepted, Err(fault) if fault.is_shortage());
        let was_reported = std::mem::replace(&mut state.shortage_reported, is_short);
        match accepted {
            Ok(accepted) => self.complete(token, Outcome::Accepted(accepted)),
            Err(fault) if is_short && was_reported => {
                assert_eq!(fault.kind, FaultKind::NoDescriptors, "the only shortage here");
            }
            Err(fault) => self.complete(token, Outcome::AcceptFaulted(fault)),
        }
        if is_short {
            self.short.push(key);
        } else {
            self.net.borrow_mut().notify_listener(listener);
        }
    }

    /// Accepts the oldest connection of a backlog that has one.
    fn accept_one(&mut self, listener: SlabKey) -> Result<Accepted, Fault> {
        let mut net = self.net.borrow_mut();
        let end = net.listener(listener).backlog[0];
        // Systems differ in whether a connection that was reset in the backlog is still accepted.
        if net.end(end).reset && net.random.one_in(2) {
            net.accept(listener, Owner::Outside);
            net.close(end);
            return Err(Fault::of(FaultKind::PeerReset));
        }
        let peer = net.end(end).remote;
        let key = self
            .sockets
            .insert(Socket::Stream(Stream::new(end, true)))
            .map_err(|_| Fault::of(FaultKind::NoDescriptors))?;
        let owner = Owner::Driver { driver: self.number, socket: key };
        assert_eq!(net.accept(listener, owner), Some(end), "the oldest is still the oldest");
        Ok(Accepted { socket: SocketKey(key), peer })
    }

    fn turn_of_opening(&mut self, key: SlabKey) {
        let Some(Socket::Opening(connect)) = self.sockets.get_mut(key) else { return };
        let end = connect.end;
        self.net.borrow_mut().turn_taken(end);
        if let Some(close) = connect.close {
            if let Some(token) = connect.token.take() {
                self.complete(token, Outcome::Connected(Err(CANCELLED)));
            }
            self.net.borrow_mut().close(end);
            self.remove(key);
            return self.complete(close, Outcome::Closed(Ok(())));
        }
        let result = match self.net.borrow().end(end).opening {
            Opening::Attempts(_) => return,
            Opening::Done => Ok(()),
            Opening::Failed(kind) => Err(Fault::of(kind)),
        };
        let Some(token) = connect.token.take() else { return };
        if result.is_ok() {
            *self.sockets.get_mut(key).expect("it has its turn") = Socket::Stream(Stream::new(end, false));
        }
        self.complete(token, Outcome::Connected(result));
    }

    fn turn_of_stream(&mut self, key: SlabKey) {
        let Some(stream) = self.stream(SocketKey(key)) else { return };
        let (end, receives, sends) = (stream.end, stream.receive.is_some(), stream.send.is_some());
        self.net.borrow_mut().turn_taken(end);
        // Both directions are independent: either may come first, or wait for another turn.
        let order = self.net.borrow_mut().random.up_to(3);
        let mut again = match order {
            0 => self.step_receive(key) | self.step_send(key),
            1 => self.step_send(key) | self.step_receive(key),
            2 => self.step_receive(key) | sends,
            _ => self.step_send(key) | receives,
        };
        again |= self.step_shutdown(key);
        let Some(stream) = self.stream(SocketKey(key)) else { return };
        if let Some(token) = stream.close
            && stream.is_idle()
        {
            self.net.borrow_mut().close(end);
            self.remove(key);
            self.complete(token, Outcome::Closed(Ok(())));
        } else if again && !(stream.is_idle() && stream.close.is_none()) {
            self.net.borrow_mut().notify(end);
        }
    }

    /// One step of receiving. True if there may be another at once.
    fn step_receive(&mut self, key: SlabKey) -> bool {
        let Some(stream) = self.stream(SocketKey(key)) else { return false };
        let (end, closing) = (stream.end, stream.close.is_some());
        let Some(Receive { token, cancelled }) = stream.receive else { return false };
        let cancelled = cancelled || closing;
        // What had happened when the cancel came is reported first.
        let looks = !cancelled || self.net.borrow_mut().random.one_in(2);
        let seen = if looks { self.look(key, end) } else { Look::Nothing };
        let last = match seen {
            Look::Data(lease) => {
                self.complete(token, Outcome::Received(Received::Data(lease)));
                None
            }
            Look::End(received) => Some(received),
            Look::Nothing => None,
        };
        let more = looks && last.is_none() && !self.net.borrow().end(end).inbox.is_empty();
        let last = last.or(cancelled.then_some(Received::Failed(CANCELLED)));
        let Some(last) = last else {
            let dry = self.stream(SocketKey(key)).expect("it has its turn").dry;
            return (more && !dry) || self.has_ended(end);
        };
        self.leave_dry(key);
        self.stream(SocketKey(key)).expect("it has its turn").receive = None;
        self.complete(token, Outcome::Received(last));
        closing
    }

    /// True if only the end of the stream is left to report.
    fn has_ended(&self, end: SlabKey) -> bool {
        let net = self.net.borrow();
        let end = net.end(end);
        end.inbox.is_empty() && (end.read_ended || end.reset)
    }

    /// What there is to receive.
    fn look(&mut self, key: SlabKey, end: SlabKey) -> Look {
        let (waiting, reset, read_ended) = {
            let net = self.net.borrow();
            let end = net.end(end);
            (end.inbox.len(), end.reset, end.read_ended)
        };
        if waiting == 0 {
            return if reset {
                Look::End(Received::Failed(Fault::of(FaultKind::PeerReset)))
            } else if read_ended {
                Look::End(Received::EndOfStream)
            } else {
                Look::Nothing
            };
        }
        let Some(buffer) = self.take_buffer(key) else { return Look::Nothing };
        let mut net = self.net.borrow_mut();
        let len = net.part_of(waiting.min(self.buffers.size));
        let memory = &mut self.buffers.memory[buffer as usize];
        memory.resize(self.buffers.size, 0);
        let read = net.read(end, &mut memory[..len]);
        assert_eq!(read, len, "what waits can be read");
        Look::Data(Lease { driver: self.buffers.instance, buffer, offset: 0, len: len as u32 })
    }

    /// A buffer for a socket that has data, unless sockets that ran dry before it are to have them all. It
    /// then joins their queue.
    fn take_buffer(&mut self, key: SlabKey) -> Option<u32> {
        let free = self.buffers.free.len();
        let stream = stream_of(&mut self.sockets, key).expect("it has its turn");
        if !stream.dry {
            stream.dry = self.dry.len() >= free;
            if stream.dry {
                self.dry.push_back(key);
                return None;
            }
        } else if let Some(place) = self.dry.iter().take(free).position(|other| *other == key) {
            stream.dry = false;
            self.dry.remove(place);
        } else {
            return None;
        }
        self.buffers.free.pop()
    }

    fn leave_dry(&mut self, key: SlabKey) {
        if let Some(stream) = stream_of(&mut self.sockets, key)
            && std::mem::take(&mut stream.dry)
        {
            self.dry.retain(|other| *other != key);
            self.grant_buffers();
        }
    }

    /// Gives a turn to the sockets that free buffers are meant for.
    fn grant_buffers(&mut self) {
        for key in self.dry.iter().take(self.buffers.free.len()) {
            match self.sockets.get(*key) {
                Some(Socket::Stream(stream)) => self.net.borrow_mut().notify(stream.end),
                _ => unreachable!("what leaves the driver leaves the queue"),
            }
        }
    }

    /// One step of sending. True if there may be another at once.
    fn step_send(&mut self, key: SlabKey) -> bool {
        let Some(stream) = self.stream(SocketKey(key)) else { return false };
        let (end, closing) = (stream.end, stream.close.is_some());
        let Some(mut send) = stream.send.take() else { return false };
        let cancelled = send.cancelled || closing;
        let mut net = self.net.borrow_mut();
        let goes_on = !cancelled || net.random.one_in(2);
        let room = net.end(end).outbox.room();
        let dead = net.end(end).is_write_dead();
        if goes_on && !dead && room > 0 && send.batch.remaining() > 0 {
            let part = net.part_of(room.min(send.batch.remaining()));
            write_front(&mut net, end, &mut send.batch, part);
        }
        let room = net.end(end).outbox.room();
        drop(net);
        let result = if goes_on && dead {
            Err(Fault::of(FaultKind::PeerReset))
        } else if goes_on && send.batch.remaining() == 0 {
            Ok(())
        } else if cancelled {
            Err(CANCELLED)
        } else {
            self.stream(SocketKey(key)).expect("it has its turn").send = Some(send);
            return room > 0;
        };
        self.complete(send.token, Outcome::Sent(send.batch, result));
        true
    }

    /// Shuts down once nothing is being sent. True if closing can go on.
    fn step_shutdown(&mut self, key: SlabKey) -> bool {
        let Some(stream) = self.stream(SocketKey(key)) else { return false };
        if stream.send.is_some() {
            return false;
        }
        let (end, closing) = (stream.end, stream.close.is_some());
        let Some(token) = stream.shutdown.take() else { return false };
        let mut net = self.net.borrow_mut();
        let result = if net.end(end).reset {
            Err(Fault::of(FaultKind::PeerReset))
        } else if closing && net.random.one_in(2) {
            Err(CANCELLED)
        } else {
            net.end_writing(end);
            Ok(())
        };
        drop(net);
        self.complete(token, Outcome::ShutDown(result));
        true
    }

    /// Frees the slot of a socket whose end or listener is in other hands by now.
    fn remove(&mut self, key: SlabKey) {
        self.leave_dry(key);
        self.short.retain(|other| *other != key);
        self.sockets.remove(key).expect("a socket is removed once");
        // There is room for another socket.
        for key in std::mem::take(&mut self.short) {
            let Some(Socket::Listener(state)) = self.sockets.get(key) else {
                unreachable!("what leaves the driver leaves the list")
            };
            self.net.borrow_mut().notify_listener(state.listening);
        }
    }

    fn check(&self) {
        let net = self.net.borrow();
        assert!(self.dry.len() <= self.sockets.len(), "a socket is dry once");
        assert!(self.short.len() <= self.sockets.len(), "a listener is short once");
        assert!(net.next_event().is_none_or(|at| at >= net.elapsed()), "what is due has happened");
    }
}

enum Look {
    Nothing,
    Data(Lease),
    End(Received),
}

fn stream_of(sockets: &mut Slab<Socket>, key: SlabKey) -> Option<&mut Stream> {
    match sockets.get_mut(key)? {
        Socket::Stream(stream) => Some(stream),
        Socket::Listener(_) | Socket::Opening(_) => None,
    }
}

/// Writes the next `count` bytes of a batch, which fit.
fn write_front(net: &mut Net, end: SlabKey, batch: &mut SendBatch, count: usize) {
    let mut left = count;
    for piece in batch.slices() {
        let run = left.min(piece.len());
        let written = net.write(end, &piece[..run]);
        assert_eq!(written, run, "it fits");
        left -= run;
        if left == 0 {
            break;
        }
    }
    batch.advance(count);
}

impl Driver for Sim {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }

    fn listen(
        &mut self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(SocketKey, SocketAddr)> {
        let mut net = self.net.borrow_mut();
        let listener = net.listen(address, options, Owner::Outside).map_err(io_error)?;
        let state = Listener { listening: listener, accept: None, close: None, shortage_reported: false };
        let Ok(key) = self.sockets.insert(Socket::Listener(state)) else {
            net.close_listener(listener);
            return Err(io_error(FaultKind::NoDescriptors));
        };
        net.set_listener_owner(listener, Owner::Driver { driver: self.number, socket: key });
        Ok((SocketKey(key), net.listener(listener).address))
    }

    fn open(&mut self, address: SocketAddr, options: &SocketOptions) -> Result<SocketKey, Fault> {
        let opened = self.net.borrow_mut().open(address, options, Owner::Outside);
        let end = opened.map_err(Fault::of)?;
        let connect = Connect { end, tried: false, token: None, close: None };
        let Ok(key) = self.sockets.insert(Socket::Opening(connect)) else {
            self.net.borrow_mut().close(end);
            return Err(Fault::of(FaultKind::NoDescriptors));
        };
        let owner = self.owner(key);
        self.net.borrow_mut().set_owner(end, owner);
        Ok(SocketKey(key))
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept { listener } => self.submit_accept(token, listener),
            Op::Connect { socket } => self.submit_connect(token, socket),
            Op::Receive { socket } => self.submit_receive(token, socket),
            Op::Send { socket, batch } => self.submit_send(token, socket, batch),
            Op::Shutdown { socket } => self.submit_shutdown(token, socket),
            Op::Close { socket } => self.submit_close(token, socket),
        }
    }

    fn cancel(&mut self, socket: SocketKey, kind: OpKind) {
        let Some(stream) = self.stream(socket) else { return };
        let cancelled = match kind {
            OpKind::Receive => stream.receive.as_mut().map(|receive| &mut receive.cancelled),
            OpKind::Send => stream.send.as_mut().map(|send| &mut send.cancelled),
            OpKind::Accept | OpKind::Connect | OpKind::Shutdown | OpKind::Close => None,
        };
        if let Some(cancelled) = cancelled {
            *cancelled = true;
            let end = stream.end;
            self.net.borrow_mut().notify(end);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let may_sleep = self.waker.fall_asleep();
        let start = self.net.borrow().elapsed();
        let deadline = timeout.map(|timeout| start + timeout.min(WAIT_MAX));
        loop {
            self.net.borrow_mut().run_due();
            while self.ready.len() < COMPLETIONS_MAX {
                let due = self.net.borrow_mut().next_due(self.number);
                let Some(key) = due else { break };
                self.turn(key);
            }
            let mut net = self.net.borrow_mut();
            let woken = !may_sleep || self.waker.is_notified();
            let moment = start.saturating_add(net.delay_max());
            let bound = match deadline {
                // Even a driver that is woken all the time sees time pass.
                Some(deadline) if woken => Some(deadline.min(moment)),
                None if woken => Some(moment),
                deadline => deadline,
            };
            let upcoming = net.next_event();
            if !self.ready.is_empty() {
                break;
            } else if let Some(at) = upcoming.filter(|at| bound.is_none_or(|bound| *at <= bound)) {
                net.advance_to(at);
            } else {
                if let Some(bound) = bound {
                    net.advance_to(bound);
                }
                break;
            }
        }
        self.waker.awake();
        let count = self.ready.len().min(COMPLETIONS_MAX);
        completions.extend(self.ready.drain(..count));
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

    fn leases_out(&self) -> usize {
        self.buffers.out()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let mut net = self.net.borrow_mut();
        net.remove_driver(self.number);
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
