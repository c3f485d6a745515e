//! The driver of Windows: a completion port (mission rows A1, A5, B2, B3).
//!
//! One port a shard, and one thread that takes packets from it, many with one call. What the old engines' names
//! became is told in `docs/iocp.md`. A wait
//! 1. delivers what finished inside submit, and leaves it at that, but not twice in a row;
//! 2. takes packets, without blocking if there is anything to do;
//! 3. serves the queue of sockets that have something to do, each for a bounded turn.
//!
//! | file | what |
//! |---|---|
//! | `port` | the port: packets out, wakes in |
//! | `slots` | operation slots: what the kernel may touch, and until when |
//! | `winsock` | setting sockets up, and the calls that only Windows has |
//! | `socket` | what is known of one socket |
//! | `accept` | accepting and connecting |
//! | `transfer` | receiving, sending, shutting down |
//! | `errors` | codes of Windows in our classes |
//! | `packets` | a port without sockets: the completion port that users are given |
//! | `system`, `console` | what Windows says of the machine, and how it asks a program to end |
//!
//! Sockets are never reused (`DisconnectEx`, `TF_REUSE_SOCKET`): a new one costs little beside the connection, and
//! an old one may bring something along.

#![allow(unsafe_code, reason = "operations are shared with the kernel; each block says why it may")]

mod accept;
pub(crate) mod console;
pub(crate) mod errors;
pub(crate) mod packets;
mod port;
mod slots;
mod socket;
pub(crate) mod system;
#[cfg(test)]
mod tests;
mod transfer;
mod winsock;

use std::{
    collections::VecDeque,
    io,
    net::Ipv4Addr,
    os::windows::io::OwnedSocket,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, Slab, SlabKey};
use socket2::Socket as Handle;
use windows_sys::Win32::Networking::WinSock::WSAEMFILE;

use self::{
    errors::fault_of,
    port::{Packets, Port},
    slots::{Ended, Operation, Slots},
    socket::{Listening, Role, Sending, Socket},
    winsock::Extensions,
};
use crate::{
    Address, COMPLETIONS_MAX, Driver, DriverConfig, DriverKind, FileOptions, ListenOptions, SocketOptions,
    Waker,
    address::no_unix_sockets,
    arena::Arena,
    files::Files,
    posting::Posting,
    queue::Queue,
    spin::Spin,
    types::{
        Completion, Detached, DetachedSocket, FileKey, Lease, Op, OpKind, Outcome, Received, SocketKey,
        Token, next_instance,
    },
};

/// How long a dropped driver waits for the kernel to give anything back; beyond it memory is leaked instead.
const JOIN_WAIT: Duration = Duration::from_secs(10);
/// The longest sleep while a cancelled send has not ended.
const CANCEL_AGAIN: Duration = Duration::from_millis(1);

const INVALID: Fault = Fault::of(FaultKind::InvalidSocket);
const CANCELLED: Fault = Fault::of(FaultKind::Cancelled);

/// The driver of Windows.
///
/// See the [crate's docs](crate) for what it promises. Time-outs have the resolution of the system's clock tick,
/// up to 15.6 ms.
pub struct Iocp {
    port: Arc<Port>,
    packets: Packets,
    waker: Waker,
    slots: Slots,
    sockets: Slab<Socket>,
    sockets_max: usize,
    extensions: Extensions,
    /// Sockets are real handles: successes at once may go without a packet.
    may_skip: bool,
    arena: Arena,
    finished: Queue,
    files: Files,
    /// Sockets with something to do, each at most once.
    ready: VecDeque<SlabKey>,
    /// Sockets with something to receive and no memory for it, in the order in which they ran dry.
    wanting_memory: VecDeque<SlabKey>,
    /// Listeners that have fewer accepts posted than they want.
    short_of_accepts: Vec<SlabKey>,
    /// Accepts that the kernel has, over all listeners: each will need a place.
    posted: usize,
    /// Sockets with a send that was cancelled and is still the kernel's.
    ending: Vec<SlabKey>,
    /// The last wait delivered without asking the system.
    system_skipped: bool,
    spin: Spin,
}

impl Iocp {
    /// A driver without sockets.
    ///
    /// # Errors
    /// If the system gives no port or no socket, the provider of TCP has no `AcceptEx` and `ConnectEx`, or a size of
    /// `config` cannot be used: no receive buffer at all, or one of 4 GiB and more.
    pub fn new(config: DriverConfig) -> io::Result<Self> {
        let buffer_bytes = config.receive_buffer_bytes;
        if buffer_bytes == 0 || u32::try_from(buffer_bytes).is_err() {
            let text = format!("a receive buffer of {buffer_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let port = Arc::new(Port::new()?);
        let signal = Arc::clone(&port);
        let any_socket = winsock::open((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            port,
            packets: Packets::new(),
            waker: Waker::new(move || signal.post_wake()),
            slots: Slots::new(),
            sockets: Slab::new(config.sockets_max),
            sockets_max: config.sockets_max as usize,
            extensions: Extensions::load(&any_socket)?,
            may_skip: winsock::is_real_handle(&any_socket),
            arena: Arena::new(next_instance(), buffer_bytes, config.receive_memory_bytes),
            finished: Queue::default(),
            files: Files::new(),
            ready: VecDeque::new(),
            wanting_memory: VecDeque::new(),
            short_of_accepts: Vec::new(),
            posted: 0,
            ending: Vec::new(),
            system_skipped: false,
            spin: Spin::new(&config),
        })
    }

    // ---- sockets ----

    /// Gives a connection a place.
    fn add(&mut self, handle: Handle, movable: bool) -> Result<SlabKey, Fault> {
        let socket = Socket { movable, ..Socket::new(handle, Role::Stream) };
        self.sockets.insert(socket).map_err(|_closed_by_dropping_it| Fault::of(FaultKind::NoDescriptors))
    }

    /// Makes a socket report here, at the first operation on it: Windows associates a socket once and for ever, and
    /// until then it can move (sentence 13).
    fn ready_for_use(&mut self, key: SlabKey) -> Result<(), Fault> {
        let socket = self.sockets.get_mut(key).expect("an operation is on a socket that is there");
        socket.movable = false;
        if socket.associated {
            return Ok(());
        }
        let done = self.port.associate(socket.handle());
        socket.associated = done.is_ok();
        let prepared = done.and_then(|()| prepare(socket, self.may_skip));
        prepared.map_err(|error| {
            // Half prepared, a read could wait inside the system: it can only be closed.
            socket.role = Role::Failed;
            fault_of(&error)
        })
    }

    /// Queues a socket for its turn, if there is anything to do for it.
    fn enqueue_if_work(&mut self, key: SlabKey) {
        if let Some(socket) = self.sockets.get_mut(key)
            && !socket.queued
            && socket.has_work()
        {
            socket.queued = true;
            self.ready.push_back(key);
        }
    }

    // ---- the turn ----

    /// Takes packets, and what becomes of them.
    fn take_packets(&mut self, pause: Option<Duration>) -> io::Result<bool> {
        let asleep = pause != Some(Duration::ZERO) && self.waker.fall_asleep();
        let pause = if asleep { pause } else { Some(Duration::ZERO) };
        let taken = self.port.take(pause, &mut self.packets);
        let woken = self.take_wake(asleep);
        taken?;
        let packets = std::mem::replace(&mut self.packets, Packets::none());
        for packet in packets.operations() {
            let ended = self.slots.end(packet);
            self.dispatch(ended);
        }
        self.packets = packets;
        Ok(woken)
    }

    fn dispatch(&mut self, ended: Ended) {
        let Ended { operation, status, bytes } = ended;
        match operation {
            Operation::PreReceive(key) => self.pre_received(status, key),
            Operation::Send(key, batch) => self.sent(status, bytes, key, batch),
            Operation::Accept(key, socket, addresses) => self.accepted(status, key, socket, &addresses),
            Operation::Connect(key) => self.connected(status, key),
        }
    }

    /// Consumes a wake: this wait is about to return, and what was posted before will be seen.
    fn take_wake(&self, asleep: bool) -> bool {
        (asleep || self.waker.is_notified()) && self.waker.awake()
    }

    /// How long the system may block; `None` is without bound.
    fn pause(&self, deadline: Option<Instant>) -> Option<Duration> {
        if !self.ending.is_empty() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            return Some(left.map_or(CANCEL_AGAIN, |left| left.min(CANCEL_AGAIN)));
        }
        let end = match (deadline, self.next_rest_end()) {
            (Some(deadline), Some(rest_end)) => deadline.min(rest_end),
            (deadline, rest_end) => deadline.or(rest_end)?,
        };
        Some(end.saturating_duration_since(Instant::now()))
    }

    /// True if something can be done without a further packet.
    fn has_work(&self) -> bool {
        !self.ready.is_empty() || (!self.wanting_memory.is_empty() && self.arena.has_space())
    }

    /// Gives every socket that has something to do its turn.
    fn serve_all(&mut self, out: &mut Vec<Completion>, limit: usize) {
        // The bounds are taken before: who comes back to a queue has had the turn of this wait.
        for _ in 0..self.wanting_memory.len() {
            if out.len() >= limit || !self.arena.has_space() {
                break;
            }
            let Some(key) = self.wanting_memory.pop_front() else { break };
            if let Some(socket) = self.sockets.get_mut(key) {
                socket.wants_memory = false;
                self.receive_turn(key, out, limit);
            }
        }
        for _ in 0..self.ready.len() {
            if out.len() >= limit {
                break;
            }
            let Some(key) = self.ready.pop_front() else { break };
            let Some(socket) = self.sockets.get_mut(key) else { continue };
            socket.queued = false;
            self.send_again(key);
            let receives = self.sockets.get(key).is_some_and(Socket::wants_to_read);
            if receives && self.wanting_memory.is_empty() {
                self.receive_turn(key, out, limit);
            } else if receives {
                // Others ran dry before.
                self.want_memory(key);
            }
        }
    }

    // ---- close ----

    fn submit_close(&mut self, token: Token, SocketKey(key): SocketKey) {
        let Some(socket) = self.sockets.get_mut(key).filter(|socket| socket.closing.is_none()) else {
            self.finished.push(token, Outcome::Closed(Err(INVALID)));
            return;
        };
        socket.closing = Some(token);
        if socket.is_busy() {
            // Before the handle goes: what was not cancelled could still send when the handle's number has a
            // new owner.
            winsock::cancel(socket.handle(), std::ptr::null());
        }
        drop(socket.handle.take());
        if let Some(receive) = socket.receive.take() {
            self.finished.push(receive, Outcome::Received(Received::Failed(CANCELLED)));
        }
        if let Some(shutdown) = socket.shutdown.take() {
            self.finished.push(shutdown, Outcome::ShutDown(Err(CANCELLED)));
        }
        match socket.send.take() {
            Some(Sending::TurnOver(token, batch)) => {
                self.finished.push(token, Outcome::Sent(batch, Err(CANCELLED)));
            }
            other => socket.send = other,
        }
        self.finish_close(key);
    }

    /// Frees a closing socket once the kernel has nothing of it.
    fn finish_close(&mut self, key: SlabKey) {
        let Some(socket) = self.sockets.get(key) else { return };
        let Some(token) = socket.closing.filter(|_| !socket.is_busy()) else { return };
        let socket = self.sockets.remove(key).expect("looked up above");
        if let Role::Listener(listening) = &socket.role
            && let Some(accept) = listening.posting.token
        {
            self.finished.push(accept, Outcome::AcceptEnded(CANCELLED));
        }
        self.finished.push(token, Outcome::Closed(Ok(())));
        // A place is free now: listeners that ran short try again.
        self.top_up_accepts(true);
    }
}

/// Sets a connection up for this driver: reads do not wait, and what succeeds at once has no packet.
fn prepare(socket: &mut Socket, may_skip: bool) -> io::Result<()> {
    socket.handle().set_nonblocking(true)?;
    socket.skips_packets = may_skip && port::skip_packets_on_success(socket.handle());
    Ok(())
}

impl Drop for Iocp {
    /// Cancels everything and waits until the kernel has given every buffer back.
    fn drop(&mut self) {
        let keys: Vec<_> = self.sockets.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.submit_close(Token(0), SocketKey(key));
        }
        while self.slots.in_flight() > 0 {
            if self.port.take(Some(JOIN_WAIT), &mut self.packets).is_err() {
                break;
            }
            if self.packets.is_empty() {
                break;
            }
            for packet in self.packets.operations() {
                // What it held is freed: the kernel has let go.
                drop(self.slots.end(packet));
            }
        }
        if self.slots.in_flight() > 0 {
            // The kernel may still write: memory that is never freed is the lesser evil.
            self.slots.leak();
        }
    }
}

impl Driver for Iocp {
    fn kind(&self) -> DriverKind {
        DriverKind::Iocp
    }

    fn listen(&mut self, address: &Address, options: &ListenOptions) -> io::Result<(SocketKey, Address)> {
        let Address::Ip(address) = *address else { return Err(no_unix_sockets(self.kind())) };
        if !self.has_place() {
            return Err(io::Error::from_raw_os_error(WSAEMFILE));
        }
        let (handle, bound) = winsock::listen(address, options)?;
        self.port.associate(&handle)?;
        let listening =
            Listening { posting: Posting::new(), options: options.socket, address: bound, failures: 0 };
        let socket = Socket { associated: true, ..Socket::new(handle, Role::Listener(Box::new(listening))) };
        match self.sockets.insert(socket) {
            Ok(key) => Ok((SocketKey(key), bound.into())),
            Err(_closed_by_dropping_it) => Err(io::Error::from_raw_os_error(WSAEMFILE)),
        }
    }

    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<SocketKey, Fault> {
        let Address::Ip(address) = *address else { return Err(Fault::of(FaultKind::AddressNotAvailable)) };
        self.open_to_connect(address, options)
    }

    fn open_file(&mut self, path: &Path, options: &FileOptions) -> io::Result<(FileKey, u64)> {
        self.files.open(path, *options, &self.waker)
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Send { socket, batch } => self.submit_send(token, socket, batch),
            Op::Receive { socket } => self.submit_receive(token, socket),
            Op::Accept { listener } => self.submit_accept(token, listener),
            Op::Connect { socket } => self.submit_connect(token, socket),
            Op::Shutdown { socket } => self.submit_shutdown(token, socket),
            Op::Close { socket } => self.submit_close(token, socket),
            Op::Append { .. } | Op::Sync { .. } | Op::Rotate { .. } | Op::CloseFile { .. } => {
                self.files.submit(token, op, &mut self.finished);
            }
        }
    }

    fn cancel(&mut self, socket: SocketKey, kind: OpKind) {
        match kind {
            OpKind::Receive => self.cancel_receive(socket),
            OpKind::Send => self.cancel_send(socket),
            _ => {}
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        // Beyond what the clock can say is without bound.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.wait_until(deadline, completions)
    }

    fn wait_until(&mut self, deadline: Option<Instant>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let start = completions.len();
        let limit = start + COMPLETIONS_MAX;
        self.files.collect(&mut self.finished);
        // Ends of sends that nobody waits for come with what else there is.
        if self.finished.is_urgent() {
            self.finished.deliver(completions, limit);
        }
        // What is sent in answer to what this delivers leaves before the system is asked for more: one call
        // to it a turn. Not twice in a row, or a caller that always sends would never receive.
        self.system_skipped = completions.len() > start && !self.system_skipped;
        if self.system_skipped {
            self.take_wake(false);
            self.spin.note(true);
            return Ok(());
        }
        loop {
            self.top_up_accepts(false);
            self.cancel_again();
            if self.finished.is_urgent() {
                self.finished.deliver(completions, limit);
            }
            let blocks = completions.len() == start && !self.has_work();
            // The clock is read only by a wait that may block.
            let pause = if blocks { self.pause(deadline) } else { Some(Duration::ZERO) };
            let looks = pause != Some(Duration::ZERO) && self.spin.goes_on(pause);
            let woken = self.take_packets(if looks { Some(Duration::ZERO) } else { pause })?;
            self.files.collect(&mut self.finished);
            self.finished.deliver(completions, limit);
            self.serve_all(completions, limit);
            self.finished.deliver(completions, limit);
            if completions.len() > start || woken {
                self.spin.note(true);
                return Ok(());
            }
            // Nothing to report: a receive that was cancelled, a send that goes on, a packet that only woke us.
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
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

    fn detach(&mut self, SocketKey(key): SocketKey) -> Option<Detached> {
        self.sockets.get(key).filter(|socket| socket.movable && socket.is_stream())?;
        let socket = self.sockets.remove(key)?;
        self.top_up_accepts(true);
        Some(Detached(DetachedSocket::Handle(OwnedSocket::from(socket.handle?))))
    }

    fn adopt(&mut self, detached: Detached) -> Option<SocketKey> {
        match detached.0 {
            DetachedSocket::Handle(handle) => self.add(handle.into(), true).ok().map(SocketKey),
            DetachedSocket::Sim(_) => None,
        }
    }

    fn sockets(&self) -> usize {
        self.sockets.len()
    }

    fn files(&self) -> usize {
        self.files.len()
    }

    fn leases_out(&self) -> usize {
        self.arena.leases_out()
    }
}
