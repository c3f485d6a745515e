//! The half of a link on an I/O shard.

use std::collections::VecDeque;

use anyport_core::{Fault, FaultKind};

use super::{
    EndSeat,
    lane::{Receiver, Sender},
    wire::{Call, News, Order, moved_to, receive_cancelled},
};
use crate::{
    Address, Driver, DriverConfig, Waker,
    types::{Accepted, Completion, FileKey, Op, OpKind, Outcome, Received, SocketKey, Token},
};

/// A buffer that crosses holds the bytes of one turn, up to about so many.
const BUFFER_BYTES: usize = 64 << 10;
/// Buffers that are kept for reuse; more are freed.
const BUFFERS_KEPT: usize = 64;
/// Bytes that may be kept however little the memory is: one chunk is no reason to stop everybody.
const KEPT_MIN_BYTES: usize = 64 << 10;
/// In the token of the close of a connection that nobody named.
const NAMELESS: u32 = u32::MAX;

/// Carries out on a driver what one [`Relay`](super::Relay) asks for. Its owner turns it, in the turn of the driver:
/// [`complete`](Self::complete) with each completion that bears its token, then [`take_orders`](Self::take_orders),
/// then [`flush`](Self::flush).
pub struct RelayEnd {
    orders: Receiver<Order>,
    inbox: VecDeque<Order>,
    news_out: Sender<News>,
    news: VecDeque<News>,
    /// By name.
    sockets: Vec<Option<EndSocket>>,
    live: usize,
    /// Accepted connections that have no name yet, as they came.
    nameless: VecDeque<SocketKey>,
    /// Of those that will have none, and of files that the relay left open: closes in flight.
    closes: usize,
    files: Vec<FileKey>,
    /// Operations in flight on files.
    file_ops: usize,
    prefix: u64,
    memory: Memory,
    /// Sockets that wait for credit, with bytes or stopped, in the order in which they ran dry.
    dry: VecDeque<u32>,
    /// Too much is kept: every receive was cancelled or is about to end, and none begins.
    stopped: bool,
    door: Option<Door>,
    gone: bool,
}

/// The bytes that are under way to the logic thread.
struct Memory {
    /// Most bytes of one lease; so much credit must be left before any are sent.
    piece_bytes: usize,
    credit: usize,
    /// Where the buffer that is being filled stands in the news.
    filling: Option<usize>,
    buffer: Vec<u8>,
    pieces: u32,
    spare: Vec<Vec<u8>>,
    /// The relay knows that credit is short.
    starving: bool,
    /// Bytes that sockets keep, and how many may be before all of them stop.
    kept: usize,
    kept_max: usize,
}

struct EndSocket {
    key: Key,
    /// The relay's receive is in flight.
    wanted: bool,
    /// The driver's receive is in flight.
    armed: bool,
    /// We cancelled it, for want of credit.
    pausing: bool,
    /// The relay cancelled it.
    cancelled: bool,
    closing: bool,
    /// It is among the dry ones.
    queued: bool,
    kept: Option<Box<Kept>>,
}

#[derive(Clone, Copy)]
enum Key {
    Open(SocketKey),
    /// It could not be opened; its connect says so.
    Failed(Fault),
    Door,
}

/// What arrived when there was no credit.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// How many of them have gone to the relay.
    at: usize,
    /// How the stream ended behind them.
    end: Option<Received>,
}

/// A listener that is not this end's own: its owner gives us some of what it accepts.
struct Door {
    name: u32,
    accepting: bool,
}

impl EndSocket {
    fn new(key: Key) -> Self {
        Self {
            key,
            wanted: false,
            armed: false,
            pausing: false,
            cancelled: false,
            closing: false,
            queued: false,
            kept: None,
        }
    }
}

impl RelayEnd {
    /// The end of a link on a driver with this waker. Its tokens have `prefix` in the upper 32 bits, and the lower
    /// ones are its own; so many bytes as `config` gives to receiving may be under way on the link.
    pub fn new(seat: EndSeat, config: DriverConfig, prefix: u32, waker: Waker) -> Self {
        let EndSeat { orders, news } = seat;
        orders.open(waker);
        let credit = config.receive_memory_bytes.max(config.receive_buffer_bytes);
        Self {
            orders,
            inbox: VecDeque::new(),
            news_out: news,
            news: VecDeque::new(),
            sockets: Vec::new(),
            live: 0,
            nameless: VecDeque::new(),
            closes: 0,
            files: Vec::new(),
            file_ops: 0,
            prefix: u64::from(prefix) << 32,
            memory: Memory {
                piece_bytes: config.receive_buffer_bytes,
                credit,
                filling: None,
                buffer: Vec::new(),
                pieces: 0,
                spare: Vec::new(),
                starving: false,
                kept: 0,
                kept_max: credit.saturating_mul(2).max(KEPT_MIN_BYTES),
            },
            dry: VecDeque::new(),
            stopped: false,
            door: None,
            gone: false,
        }
    }

    /// True once the relay has gone and everything that it held is closed.
    pub fn is_finished(&self) -> bool {
        self.gone && self.live + self.closes + self.file_ops == 0
    }

    /// True once the relay has gone.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Bytes that wait for credit here.
    #[cfg(all(test, not(loom)))]
    pub(super) fn kept(&self) -> usize {
        let kept = self.sockets.iter().flatten().filter_map(|socket| socket.kept.as_ref());
        assert_eq!(kept.map(|kept| kept.bytes.len()).sum::<usize>(), self.memory.kept, "it counts right");
        self.memory.kept
    }

    // ---- a listener of somebody else ----

    /// Tells the relay that there is a listener at `address` whose owner will hand connections over
    /// ([`accepted`](Self::accepted)): `listen` there claims it.
    pub fn announce(&mut self, address: Address) {
        self.news.push_back(News::Door { address: Box::new(address) });
    }

    /// True while the relay accepts at the listener that was announced.
    pub fn is_accepting(&self) -> bool {
        !self.gone && self.door.as_ref().is_some_and(|door| door.accepting)
    }

    /// Hands over a connection that was accepted elsewhere, on which nothing was submitted.
    ///
    /// # Panics
    /// If the relay does not accept ([`is_accepting`](Self::is_accepting)).
    pub fn accepted(&mut self, accepted: Accepted) {
        let door = self.door.as_ref().filter(|door| door.accepting).expect("asked before");
        self.news.push_back(News::Accepted { listener: door.name, peer: accepted.peer });
        self.nameless.push_back(accepted.socket);
    }

    /// Reports that accepting fails for the moment.
    pub fn accept_faulted(&mut self, fault: Fault) {
        if let Some(door) = self.door.as_ref().filter(|door| door.accepting) {
            self.news.push_back(News::Outcome { socket: door.name, outcome: Outcome::AcceptFaulted(fault) });
        }
    }

    // ---- the turn ----

    /// Takes in a completion whose token has this end's prefix.
    pub fn complete<D: Driver>(&mut self, io: &mut D, Completion { token, outcome }: Completion) {
        let name = token.0 as u32;
        if name == NAMELESS {
            self.closes -= 1;
            return;
        }
        match outcome {
            Outcome::Received(Received::Data(lease)) => {
                let pause = self.received(name, io.bytes(&lease));
                io.recycle(lease);
                if let Some(key) = pause {
                    io.cancel(key, OpKind::Receive);
                }
                if self.memory.kept > self.memory.kept_max && !self.stopped {
                    self.stop_receiving(io);
                }
            }
            Outcome::Received(end) => self.receive_ended(io, name, end),
            Outcome::Accepted(accepted) if self.gone => self.close_nameless(io, accepted.socket),
            Outcome::Accepted(accepted) => {
                self.news.push_back(News::Accepted { listener: name, peer: accepted.peer });
                self.nameless.push_back(accepted.socket);
            }
            Outcome::Closed(result) => {
                self.sockets[name as usize] = None;
                self.live -= 1;
                self.say(name, Outcome::Closed(result));
            }
            outcome @ (Outcome::Appended(..)
            | Outcome::Synced(_)
            | Outcome::Rotated(_)
            | Outcome::FileClosed(_)) => {
                self.file_ops -= 1;
                self.news.push_back(News::File { number: name, outcome });
            }
            outcome => self.say(name, outcome),
        }
    }

    /// Carries out what the relay has asked for.
    pub fn take_orders<D: Driver>(&mut self, io: &mut D) {
        if self.gone {
            return;
        }
        let goes_on = self.orders.take(&mut self.inbox);
        while let Some(order) = self.inbox.pop_front() {
            self.carry_out(io, order);
        }
        if goes_on {
            self.serve_dry(io);
        } else {
            self.close_all(io);
        }
    }

    /// Hands over what has become of it.
    pub fn flush(&mut self) {
        self.memory.seal(&mut self.news);
        self.news_out.push(&mut self.news);
        // Nobody takes it any more.
        self.news.clear();
    }

    // ---- orders ----

    fn carry_out<D: Driver>(&mut self, io: &mut D, order: Order) {
        match order {
            Order::Submit { socket, op } => self.submit(io, socket, op),
            Order::Return(buffer) => self.memory.take_back(buffer),
            Order::Name { socket } => {
                let key = self.nameless.pop_front().expect("the relay names what it was told of");
                self.put(socket, Key::Open(key));
            }
            Order::Refuse => {
                let key = self.nameless.pop_front().expect("the relay refuses what it was told of");
                self.close_nameless(io, key);
            }
            Order::Cancel { socket, kind: OpKind::Receive } => self.cancel_receive(io, socket),
            Order::Cancel { socket, kind } => {
                if let Key::Open(key) = self.socket(socket).key {
                    io.cancel(key, kind);
                }
            }
            Order::Open { socket, to } => {
                let (address, options) = *to;
                let key = io.open(&address, &options).map_or_else(Key::Failed, Key::Open);
                self.put(socket, key);
            }
            Order::Claim { socket } => {
                self.put(socket, Key::Door);
                self.door = Some(Door { name: socket, accepting: false });
            }
            Order::File { number, op } => {
                if let Op::CloseFile { file } = op {
                    self.files.retain(|&open| open != file);
                }
                self.file_ops += 1;
                io.submit(self.token(number), op);
            }
            Order::Call(call) => self.answer(io, *call),
        }
    }

    fn answer<D: Driver>(&mut self, io: &mut D, call: Call) {
        // Whoever asked waits for it; if it has gone, its end closes everything.
        match call {
            Call::Listen { socket, address, options, answer } => {
                let listened = io.listen(&address, &options).map(|(key, bound)| {
                    self.put(socket, Key::Open(key));
                    bound
                });
                let _ = answer.send(listened);
            }
            Call::OpenFile { path, options, answer } => {
                let opened = io.open_file(&path, &options);
                self.files.extend(opened.iter().map(|(file, _)| *file));
                let _ = answer.send(opened);
            }
            Call::Detach { socket, answer } => {
                let detached = match self.socket(socket).key {
                    Key::Open(key) => io.detach(key),
                    Key::Failed(_) | Key::Door => None,
                };
                if detached.is_some() {
                    self.sockets[socket as usize] = None;
                    self.live -= 1;
                }
                let _ = answer.send(detached);
            }
            Call::Adopt { socket, detached, answer } => {
                let key = io.adopt(detached);
                if let Some(key) = key {
                    self.put(socket, Key::Open(key));
                }
                let _ = answer.send(key.is_some());
            }
        }
        self.news_out.wake();
    }

    fn submit<D: Driver>(&mut self, io: &mut D, name: u32, op: Op) {
        let token = self.token(name);
        let socket = self.sockets[name as usize].as_mut().expect("the relay names what there is");
        let key = match socket.key {
            Key::Open(key) => key,
            Key::Failed(fault) => return self.submit_to_failed(name, op, fault),
            Key::Door => return self.submit_to_door(name, &op),
        };
        match op {
            Op::Receive { .. } => {
                socket.wanted = true;
                if self.stopped || socket.kept.is_some() {
                    self.run_dry(name);
                    return;
                }
                socket.armed = true;
            }
            Op::Close { .. } => {
                socket.closing = true;
                self.memory.free(socket.kept.take());
                if std::mem::take(&mut socket.queued) {
                    self.dry.retain(|&dry| dry != name);
                }
                let socket = self.socket(name);
                if socket.wanted && !socket.armed {
                    socket.wanted = false;
                    self.say(name, receive_cancelled());
                }
            }
            _ => {}
        }
        io.submit(token, moved_to(op, key));
    }

    /// It was never opened: what is asked of it ends in the fault, but closing.
    fn submit_to_failed(&mut self, name: u32, op: Op, fault: Fault) {
        let outcome = if let Op::Close { .. } = op {
            self.sockets[name as usize] = None;
            self.live -= 1;
            Outcome::Closed(Ok(()))
        } else {
            op.failed(fault)
        };
        self.say(name, outcome);
    }

    fn submit_to_door(&mut self, name: u32, op: &Op) {
        let door = self.door.as_mut().expect("it was claimed");
        match op {
            Op::Accept { .. } => door.accepting = true,
            Op::Close { .. } => {
                let was_accepting = door.accepting;
                self.door = None;
                self.sockets[name as usize] = None;
                self.live -= 1;
                if was_accepting {
                    let cancelled = Fault::of(FaultKind::Cancelled);
                    self.say(name, Outcome::AcceptEnded(cancelled));
                }
                self.say(name, Outcome::Closed(Ok(())));
            }
            _ => unreachable!("the relay refuses what is not for listeners"),
        }
    }

    // ---- receiving ----

    /// Sends bytes on, or keeps them. Gives the driver's key of a socket whose receive is to be cancelled.
    fn received(&mut self, name: u32, bytes: &[u8]) -> Option<SocketKey> {
        let memory = &mut self.memory;
        let socket = self.sockets[name as usize].as_mut().expect("it is closed only later");
        if socket.closing || self.gone {
            return None;
        }
        if self.dry.is_empty() && memory.has_credit() {
            memory.send(name, bytes, &mut self.news);
            return None;
        }
        socket.kept.get_or_insert_default().bytes.extend_from_slice(bytes);
        memory.kept += bytes.len();
        let pauses = !std::mem::replace(&mut socket.pausing, true);
        let key = match socket.key {
            Key::Open(key) if pauses => Some(key),
            _ => None,
        };
        self.run_dry(name);
        key
    }

    fn receive_ended<D: Driver>(&mut self, io: &mut D, name: u32, end: Received) {
        let token = self.token(name);
        let socket = self.sockets[name as usize].as_mut().expect("it is closed only later");
        socket.armed = false;
        let pausing = std::mem::take(&mut socket.pausing);
        let cancelled = std::mem::take(&mut socket.cancelled);
        let is_cancel =
            matches!(end, Received::Failed(Fault { kind: FaultKind::Cancelled, .. })) && !socket.closing;
        let outcome = match &mut socket.kept {
            None if is_cancel && pausing && !cancelled => {
                if self.stopped || socket.queued {
                    // It goes on when its turn comes.
                    return self.run_dry(name);
                }
                // What was kept has gone on meanwhile.
                socket.armed = true;
                if let Key::Open(socket) = socket.key {
                    io.submit(token, Op::Receive { socket });
                }
                return;
            }
            None => Outcome::Received(end),
            Some(kept) => {
                if !is_cancel {
                    kept.end = Some(end);
                }
                if !cancelled {
                    return;
                }
                receive_cancelled()
            }
        };
        socket.wanted = false;
        self.say(name, outcome);
    }

    fn cancel_receive<D: Driver>(&mut self, io: &mut D, name: u32) {
        let socket = self.socket(name);
        if !socket.wanted {
            return;
        }
        if !socket.armed {
            // It waits among the dry ones, which pass over whoever wants nothing. What was kept is for the next
            // receive.
            socket.wanted = false;
            return self.say(name, receive_cancelled());
        }
        socket.cancelled = true;
        if let (Key::Open(key), false) = (socket.key, socket.pausing) {
            io.cancel(key, OpKind::Receive);
        }
    }

    /// Cancels every receive: without it, each socket would keep what it receives before it is found to be dry.
    #[cold]
    fn stop_receiving<D: Driver>(&mut self, io: &mut D) {
        self.stopped = true;
        for name in 0..self.sockets.len() {
            let Some(socket) = &mut self.sockets[name] else { continue };
            let goes_on = socket.armed && !socket.pausing && !socket.cancelled && !socket.closing;
            if let (Key::Open(key), true) = (socket.key, goes_on) {
                socket.pausing = true;
                io.cancel(key, OpKind::Receive);
                self.run_dry(name as u32);
            }
        }
    }

    fn run_dry(&mut self, name: u32) {
        if !std::mem::replace(&mut self.socket(name).queued, true) {
            self.dry.push_back(name);
        }
    }

    /// Sends on what was kept, as far as the credit goes: each socket a piece, in turn. Then those go on that were
    /// stopped before they had anything.
    fn serve_dry<D: Driver>(&mut self, io: &mut D) {
        while let Some(&name) = self.dry.front() {
            let token = self.token(name);
            let Self { sockets, memory, news, dry, .. } = self;
            let socket = sockets[name as usize].as_mut().expect("a socket that closes is taken out");
            if !socket.wanted {
                socket.queued = false;
                dry.pop_front();
                continue;
            }
            let left = socket.kept.as_ref().map_or(&[][..], |kept| &kept.bytes[kept.at..]);
            let only_ends = left.is_empty() && socket.kept.is_some();
            if !only_ends && !memory.has_credit() {
                memory.say_starving(news);
                return;
            }
            let Some(kept) = &mut socket.kept else {
                self.stopped = false;
                socket.queued = false;
                dry.pop_front();
                // Else it goes on when the end of the cancelled one comes.
                if let (Key::Open(key), false) = (socket.key, socket.armed) {
                    socket.armed = true;
                    io.submit(token, Op::Receive { socket: key });
                }
                continue;
            };
            let left = &kept.bytes[kept.at..];
            let piece = &left[..left.len().min(memory.piece_bytes)];
            if !piece.is_empty() {
                memory.send(name, piece, news);
                kept.at += piece.len();
            }
            dry.pop_front();
            if kept.at < kept.bytes.len() {
                dry.push_back(name);
                continue;
            }
            let end = kept.end.take();
            memory.free(socket.kept.take());
            if end.is_none() && self.stopped {
                // Behind those that were stopped.
                dry.push_back(name);
                continue;
            }
            socket.queued = false;
            if let Some(end) = end {
                socket.wanted = false;
                self.say(name, Outcome::Received(end));
            } else if let (Key::Open(key), false) = (socket.key, socket.armed) {
                socket.armed = true;
                io.submit(token, Op::Receive { socket: key });
            }
        }
        self.stopped = false;
    }

    // ---- the end ----

    /// The relay has gone: everything that it held is closed.
    fn close_all<D: Driver>(&mut self, io: &mut D) {
        self.gone = true;
        self.door = None;
        self.dry.clear();
        while let Some(key) = self.nameless.pop_front() {
            self.close_nameless(io, key);
        }
        for file in std::mem::take(&mut self.files) {
            self.closes += 1;
            io.submit(self.token(NAMELESS), Op::CloseFile { file });
        }
        for name in 0..self.sockets.len() {
            let token = self.token(name as u32);
            let Some(socket) = &mut self.sockets[name] else { continue };
            match socket.key {
                Key::Open(socket_key) if !std::mem::replace(&mut socket.closing, true) => {
                    self.memory.free(socket.kept.take());
                    io.submit(token, Op::Close { socket: socket_key });
                }
                Key::Open(_) => {}
                Key::Failed(_) | Key::Door => {
                    self.sockets[name] = None;
                    self.live -= 1;
                }
            }
        }
    }

    fn close_nameless<D: Driver>(&mut self, io: &mut D, socket: SocketKey) {
        self.closes += 1;
        io.submit(self.token(NAMELESS), Op::Close { socket });
    }

    // ---- helpers ----

    fn token(&self, name: u32) -> Token {
        Token(self.prefix | u64::from(name))
    }

    fn socket(&mut self, name: u32) -> &mut EndSocket {
        self.sockets[name as usize].as_mut().expect("the relay names what there is")
    }

    fn put(&mut self, name: u32, key: Key) {
        let at = name as usize;
        if self.sockets.len() <= at {
            self.sockets.resize_with(at + 1, || None);
        }
        debug_assert!(self.sockets[at].is_none(), "a name is free once its socket is closed");
        self.sockets[at] = Some(EndSocket::new(key));
        self.live += 1;
    }

    fn say(&mut self, socket: u32, outcome: Outcome) {
        self.news.push_back(News::Outcome { socket, outcome });
    }
}

impl Memory {
    fn has_credit(&self) -> bool {
        self.credit >= self.piece_bytes
    }

    /// Puts bytes into the buffer that is being filled.
    fn send(&mut self, socket: u32, bytes: &[u8], news: &mut VecDeque<News>) {
        if self.filling.is_some() && self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.seal(news);
        }
        if self.filling.is_none() {
            self.filling = Some(news.len());
            self.buffer = self.spare.pop().unwrap_or_default();
            news.push_back(News::Buffer { bytes: Vec::new(), pieces: 0 });
        }
        self.buffer.extend_from_slice(bytes);
        self.pieces += 1;
        self.credit -= bytes.len();
        news.push_back(News::Data { socket, len: bytes.len() as u32 });
    }

    /// Puts the buffer to its place in the news: nothing more comes into it.
    fn seal(&mut self, news: &mut VecDeque<News>) {
        if let Some(at) = self.filling.take() {
            let pieces = std::mem::take(&mut self.pieces);
            news[at] = News::Buffer { bytes: std::mem::take(&mut self.buffer), pieces };
        }
    }

    fn take_back(&mut self, mut buffer: Vec<u8>) {
        self.credit += buffer.len();
        self.starving = false;
        if self.spare.len() < BUFFERS_KEPT {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// What a socket kept is gone.
    fn free(&mut self, kept: Option<Box<Kept>>) {
        self.kept -= kept.map_or(0, |kept| kept.bytes.len());
    }

    fn say_starving(&mut self, news: &mut VecDeque<News>) {
        if !std::mem::replace(&mut self.starving, true) {
            news.push_back(News::Starving);
        }
    }
}
