//! A driver whose connections are in memory, for what is in the same process: no network, no system call.
//!
//! It has one listener, whatever address that is given, and whoever has its [`PipeHub`] connects to it from any thread.
//! It connects to nobody itself, and its sockets do not move: it stands beside another driver, on the same thread, and
//! is looked at in that one's turns ([`PipeHub::wake_too`]). For the rest it keeps the contract.
//!
//! | file | what |
//! |---|---|
//! | `pipe` | one connection: two buffers and their ends |
//! | `peer` | the hub, and the other side |

#![forbid(unsafe_code)]

mod peer;
mod pipe;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, SendBatch, Slab, SlabKey};

pub use peer::{PipeHub, PipePeer};

use self::pipe::{Pipe, give, take};
use crate::{
    COMPLETIONS_MAX, Driver,
    address::{Address, PeerAddress},
    arena::Arena,
    options::{DriverConfig, FileOptions, ListenOptions, SocketOptions},
    probe::DriverKind,
    queue::{Queue, Ticket},
    types::{
        Accepted, Completion, Detached, FileKey, Lease, Op, OpKind, Outcome, Received, SocketKey, Token,
        next_instance,
    },
    wake::Waker,
};

/// Pieces that one socket receives in one wait.
const RECEIVES_A_TURN: usize = 4;

const INVALID: Fault = Fault::of(FaultKind::InvalidSocket);
const CANCELLED: Fault = Fault::of(FaultKind::Cancelled);
const RESET: Fault = Fault::of(FaultKind::PeerReset);

/// The driver. See the [module](self).
pub struct Pipes {
    hub: PipeHub,
    sockets: Slab<Socket>,
    sockets_max: usize,
    arena: Arena,
    finished: Queue,
    /// Sockets with something to do, each at most once.
    work: VecDeque<SlabKey>,
    /// Sockets with something to receive and no memory for it, in the order in which they ran dry.
    dry: VecDeque<SlabKey>,
    listener: Option<SlabKey>,
    /// The shortage of places was reported.
    short: bool,
    waker: Waker,
    bed: Arc<Bed>,
}

/// Where the driver sleeps.
#[derive(Default)]
struct Bed {
    woken: Mutex<bool>,
    changed: Condvar,
}

enum Socket {
    Listener(Option<Token>),
    Stream(Box<Stream>),
}

struct Stream {
    pipe: Arc<Pipe>,
    queued: bool,
    dry: bool,
    receive: Option<Token>,
    send: Option<(Token, Box<SendBatch>)>,
    shutdown: Option<Token>,
    shut: bool,
    receive_ends: Ticket,
    send_ends: Ticket,
    shutdown_ends: Ticket,
}

impl Pipes {
    /// A driver to which `hub` connects.
    pub fn new(hub: &PipeHub, config: DriverConfig) -> Self {
        let bed = Arc::<Bed>::default();
        let bedside = Arc::clone(&bed);
        let waker = Waker::new(move || {
            *bedside.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
            bedside.changed.notify_one();
            Ok(())
        });
        hub.wake(waker.clone());
        let sockets_max = config.sockets_max.min(u32::MAX - 1);
        Self {
            hub: hub.clone(),
            sockets: Slab::new(sockets_max),
            sockets_max: sockets_max as usize,
            arena: Arena::new(
                next_instance(),
                config.receive_buffer_bytes.max(1),
                config.receive_memory_bytes,
            ),
            finished: Queue::default(),
            work: VecDeque::new(),
            dry: VecDeque::new(),
            listener: None,
            short: false,
            waker,
            bed,
        }
    }

    /// True if a wait of no time would give something, or look at something.
    pub fn has_work(&self) -> bool {
        let door = self.hub.door();
        let comes = !door.backlog.is_empty() && self.listener.is_some() && !self.short;
        !self.finished.is_empty()
            || !self.work.is_empty()
            || comes
            || !door.ready.is_empty()
            || (!self.dry.is_empty() && self.arena.has_space())
    }

    fn finish(&mut self, token: Token, outcome: Outcome) -> Ticket {
        self.finished.push(token, outcome)
    }

    fn stream(&mut self, key: SlabKey) -> Option<&mut Stream> {
        match self.sockets.get_mut(key)? {
            Socket::Stream(stream) => Some(stream),
            Socket::Listener(_) => None,
        }
    }

    fn enqueue(&mut self, key: SlabKey) {
        if let Some(stream) = self.stream(key)
            && !std::mem::replace(&mut stream.queued, true)
        {
            self.work.push_back(key);
        }
    }

    /// Accepts what waits, while there are places.
    fn accept(&mut self, out: &mut Vec<Completion>, limit: usize) {
        let Some(Socket::Listener(Some(token))) = self.listener.and_then(|key| self.sockets.get(key)) else {
            return;
        };
        let token = *token;
        while out.len() < limit {
            let is_full = self.sockets.len() + self.sockets.retired() >= self.sockets_max;
            let mut door = self.hub.door();
            if is_full && !door.backlog.is_empty() {
                drop(door);
                if !std::mem::replace(&mut self.short, true) {
                    let fault = Fault::of(FaultKind::NoDescriptors);
                    out.push(Completion { token, outcome: Outcome::AcceptFaulted(fault) });
                }
                return;
            }
            let Some(pipe) = door.backlog.pop_front() else { return };
            drop(door);
            let stream = Stream {
                pipe: Arc::clone(&pipe),
                queued: false,
                dry: false,
                receive: None,
                send: None,
                shutdown: None,
                shut: false,
                receive_ends: Ticket::default(),
                send_ends: Ticket::default(),
                shutdown_ends: Ticket::default(),
            };
            let Ok(key) = self.sockets.insert(Socket::Stream(Box::new(stream))) else { return };
            pipe.lock().socket = Some(key);
            let accepted = Accepted { socket: SocketKey(key), peer: PeerAddress::Unix };
            out.push(Completion { token, outcome: Outcome::Accepted(accepted) });
        }
    }

    /// Gives a socket its turn.
    fn serve(&mut self, key: SlabKey, out: &mut Vec<Completion>) {
        let Some(stream) = self.stream(key) else { return };
        stream.queued = false;
        let pipe = Arc::clone(&stream.pipe);
        self.send_turn(key, &pipe, out);
        self.receive_turn(key, &pipe, out);
    }

    fn send_turn(&mut self, key: SlabKey, pipe: &Pipe, out: &mut Vec<Completion>) {
        let Some(stream) = self.stream(key) else { return };
        let mut state = pipe.lock();
        if let Some((token, mut batch)) = stream.send.take() {
            let dead = state.broken || state.peer_gone;
            while !dead && batch.remaining() > 0 {
                let piece = batch.slices().find(|piece| !piece.is_empty()).unwrap_or(&[]);
                match give(&mut state.outbound, piece) {
                    0 => break,
                    count => batch.advance(count),
                }
            }
            if dead {
                out.push(Completion { token, outcome: Outcome::Sent(batch, Err(RESET)) });
            } else if batch.remaining() == 0 {
                out.push(Completion { token, outcome: Outcome::Sent(batch, Ok(())) });
            } else {
                stream.send = Some((token, batch));
            }
        }
        if stream.send.is_none()
            && let Some(token) = stream.shutdown.take()
        {
            stream.shut = true;
            state.driver_ended = true;
            out.push(Completion { token, outcome: Outcome::ShutDown(Ok(())) });
        }
        drop(state);
        pipe.notify_peer();
    }

    fn receive_turn(&mut self, key: SlabKey, pipe: &Pipe, out: &mut Vec<Completion>) {
        for _ in 0..RECEIVES_A_TURN {
            let Some(Socket::Stream(stream)) = self.sockets.get_mut(key) else { return };
            let Some(token) = stream.receive else { return };
            let mut state = pipe.lock();
            if state.inbound.is_empty() {
                let end = if state.broken { Some(Received::Failed(RESET)) } else { None };
                let end = end.or_else(|| state.peer_ended.then_some(Received::EndOfStream));
                if let Some(end) = end {
                    stream.receive = None;
                    out.push(Completion { token, outcome: Outcome::Received(end) });
                }
                return;
            }
            let Some(space) = self.arena.space() else {
                if !std::mem::replace(&mut stream.dry, true) {
                    self.dry.push_back(key);
                }
                return;
            };
            let count = take(&mut state.inbound, space);
            drop(state);
            pipe.notify_peer();
            let lease = self.arena.take(count);
            out.push(Completion { token, outcome: Outcome::Received(Received::Data(lease)) });
        }
        self.enqueue(key);
    }

    /// All that can be done now.
    fn turn(&mut self, out: &mut Vec<Completion>, limit: usize) {
        self.finished.deliver(out, limit);
        let ready = std::mem::take(&mut self.hub.door().ready);
        for key in ready {
            if let Some(stream) = self.stream(key) {
                stream.pipe.lock().announced = false;
                self.enqueue(key);
            }
        }
        // The bounds are taken before: who comes back to a queue has had the turn of this wait.
        for _ in 0..self.dry.len() {
            if out.len() >= limit || !self.arena.has_space() {
                break;
            }
            let Some(key) = self.dry.pop_front() else { break };
            if let Some(stream) = self.stream(key) {
                stream.dry = false;
                let pipe = Arc::clone(&stream.pipe);
                self.receive_turn(key, &pipe, out);
            }
        }
        for _ in 0..self.work.len() {
            if out.len() + RECEIVES_A_TURN + 2 > limit {
                break;
            }
            let Some(key) = self.work.pop_front() else { break };
            self.serve(key, out);
        }
        self.accept(out, limit);
    }

    fn submit_close(&mut self, token: Token, key: SlabKey) {
        match self.sockets.remove(key) {
            None => {
                self.finish(token, Outcome::Closed(Err(INVALID)));
                return;
            }
            Some(Socket::Listener(accept)) => {
                self.listener = None;
                let mut door = self.hub.door();
                door.closed = true;
                let waiting = std::mem::take(&mut door.backlog);
                drop(door);
                for pipe in waiting {
                    break_pipe(&pipe);
                }
                if let Some(accept) = accept {
                    self.finish(accept, Outcome::AcceptEnded(CANCELLED));
                }
            }
            Some(Socket::Stream(stream)) => {
                let Stream { pipe, receive, send, shutdown, .. } = *stream;
                let mut state = pipe.lock();
                state.broken |= !state.inbound.is_empty() || send.is_some();
                state.driver_ended = true;
                state.driver_gone = true;
                drop(state);
                pipe.notify_peer();
                if let Some(receive) = receive {
                    self.finish(receive, Outcome::Received(Received::Failed(CANCELLED)));
                }
                if let Some((send, batch)) = send {
                    self.finish(send, Outcome::Sent(batch, Err(CANCELLED)));
                }
                if let Some(shutdown) = shutdown {
                    self.finish(shutdown, Outcome::ShutDown(Err(CANCELLED)));
                }
            }
        }
        self.short = false;
        self.finish(token, Outcome::Closed(Ok(())));
    }

    fn submit_receive(&mut self, token: Token, key: SlabKey) {
        let out = self.stream(key).map(|stream| (stream.receive.is_none(), stream.receive_ends));
        match out {
            Some((true, ends)) if self.finished.is_out(ends) => {
                self.stream(key).expect("looked up above").receive = Some(token);
                self.enqueue(key);
            }
            _ => {
                self.finish(token, Outcome::Received(Received::Failed(INVALID)));
            }
        }
    }

    fn submit_send(&mut self, token: Token, key: SlabKey, batch: Box<SendBatch>) {
        let state = self.stream(key).map(|stream| {
            // A shut-down that has not had its turn is before this, too.
            let shut = stream.shut || stream.shutdown.is_some();
            (stream.send.is_none(), stream.send_ends, shut)
        });
        match state {
            Some((true, ends, true)) if self.finished.is_out(ends) => {
                self.finish(token, Outcome::Sent(batch, Err(RESET)));
            }
            Some((true, ends, false)) if self.finished.is_out(ends) => {
                self.stream(key).expect("looked up above").send = Some((token, batch));
                self.enqueue(key);
            }
            _ => {
                self.finish(token, Outcome::Sent(batch, Err(INVALID)));
            }
        }
    }

    fn submit_shutdown(&mut self, token: Token, key: SlabKey) {
        let state = self.stream(key).map(|stream| (stream.shutdown.is_none(), stream.shutdown_ends));
        match state {
            Some((true, ends)) if self.finished.is_out(ends) => {
                self.stream(key).expect("looked up above").shutdown = Some(token);
                self.enqueue(key);
            }
            _ => {
                self.finish(token, Outcome::ShutDown(Err(INVALID)));
            }
        }
    }
}

/// The other end sees a reset.
fn break_pipe(pipe: &Pipe) {
    let mut state = pipe.lock();
    state.broken = true;
    state.driver_ended = true;
    state.driver_gone = true;
    drop(state);
    pipe.notify_peer();
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let mut door = self.hub.door();
        door.closed = true;
        let waiting = std::mem::take(&mut door.backlog);
        drop(door);
        for pipe in waiting {
            break_pipe(&pipe);
        }
        for (_, socket) in self.sockets.iter() {
            if let Socket::Stream(stream) = socket {
                break_pipe(&stream.pipe);
            }
        }
    }
}

impl Driver for Pipes {
    fn kind(&self) -> DriverKind {
        DriverKind::Pipes
    }

    fn listen(&mut self, address: &Address, _: &ListenOptions) -> io::Result<(SocketKey, Address)> {
        if self.listener.is_some() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let Ok(key) = self.sockets.insert(Socket::Listener(None)) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        self.listener = Some(key);
        self.hub.door().closed = false;
        Ok((SocketKey(key), address.clone()))
    }

    fn open(&mut self, _: &Address, _: &SocketOptions) -> Result<SocketKey, Fault> {
        Err(Fault::of(FaultKind::Refused))
    }

    fn open_file(&mut self, _: &Path, _: &FileOptions) -> io::Result<(FileKey, u64)> {
        let text =
            "a service without a network has no files: open them in another service, or with a log file";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Send { socket, batch } => self.submit_send(token, socket.0, batch),
            Op::Receive { socket } => self.submit_receive(token, socket.0),
            Op::Shutdown { socket } => self.submit_shutdown(token, socket.0),
            Op::Close { socket } => self.submit_close(token, socket.0),
            Op::Accept { listener } => match self.sockets.get_mut(listener.0) {
                Some(Socket::Listener(accept)) if accept.is_none() => *accept = Some(token),
                _ => {
                    self.finish(token, Outcome::AcceptEnded(INVALID));
                }
            },
            Op::Connect { .. } => {
                self.finish(token, Outcome::Connected(Err(INVALID)));
            }
            of_a_file => {
                self.finish(token, of_a_file.failed(INVALID));
            }
        }
    }

    fn cancel(&mut self, socket: SocketKey, kind: OpKind) {
        let Some(stream) = self.stream(socket.0) else { return };
        match kind {
            OpKind::Receive => {
                if let Some(token) = stream.receive.take() {
                    let ends = self.finish(token, Outcome::Received(Received::Failed(CANCELLED)));
                    self.stream(socket.0).expect("looked up above").receive_ends = ends;
                }
            }
            OpKind::Send => {
                if let Some((token, batch)) = stream.send.take() {
                    let ends = self.finish(token, Outcome::Sent(batch, Err(CANCELLED)));
                    self.stream(socket.0).expect("looked up above").send_ends = ends;
                    // A shut-down may have waited for it.
                    self.enqueue(socket.0);
                }
            }
            _ => {}
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let (start, limit) = (completions.len(), completions.len() + COMPLETIONS_MAX);
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            self.turn(completions, limit);
            let over = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if completions.len() > start || over || !self.waker.fall_asleep() {
                self.waker.awake();
                return Ok(());
            }
            let mut woken = self.bed.woken.lock().unwrap_or_else(PoisonError::into_inner);
            if !*woken {
                let left = deadline.map_or(Duration::from_hours(24), |deadline| {
                    deadline.saturating_duration_since(Instant::now())
                });
                woken = self.bed.changed.wait_timeout(woken, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            *woken = false;
            drop(woken);
            if self.waker.awake() {
                self.turn(completions, limit);
                return Ok(());
            }
        }
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.arena.bytes(lease)
    }

    fn recycle(&mut self, lease: Lease) {
        self.arena.recycle(lease);
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn detach(&mut self, _: SocketKey) -> Option<Detached> {
        None
    }

    fn adopt(&mut self, _: Detached) -> Option<SocketKey> {
        None
    }

    fn sockets(&self) -> usize {
        self.sockets.len()
    }

    fn files(&self) -> usize {
        0
    }

    fn leases_out(&self) -> usize {
        self.arena.leases_out()
    }
}
