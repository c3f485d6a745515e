//! The readiness driver: epoll on Linux, kqueue on macOS and the BSDs, by the same code.
//!
//! Sockets are registered once and edge-triggered. A call is tried when an edge, or the submitter, gives reason
//! to think that it will do something; what the last edge said is remembered with the socket, so that an
//! operation which is submitted later needs no further edge. Sends are made inside submit, and only their
//! completions wait. Receives and accepts are made inside wait, which
//! 1. delivers what finished inside submit, and leaves it at that, but not twice in a row;
//! 2. asks the system for edges, without blocking if there is anything to do, and notes them;
//! 3. serves the queue of sockets that have something to do, each for a bounded turn; those that are left when much
//!    has been received have theirs in the next wait, which does not ask the system again before.
//!
//! | file | what |
//! |---|---|
//! | `socket` | what is known of one socket |
//! | `accept`, `connect`, `transfer` | the operations |
//!
//! Why mio, and not `polling` or epoll by hand. `polling` disarms a socket at each event, which costs a system
//! call to arm it again for each message, and takes a lock for each. Epoll by hand would save nothing that can
//! be measured, and kqueue by hand would be a second implementation that needs unsafe code. Mio is the thinnest
//! layer that registers once and edge-triggered on both, with nothing of its own in the path of an event.

#![forbid(unsafe_code)]

mod accept;
mod connect;
mod socket;
#[cfg(test)]
mod tests;
mod transfer;

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, Slab, SlabKey};
use mio::{Events, Interest, Poll};
use rustix::io::Errno;

use self::socket::{INDEX_BITS, Listener, Role, Socket, WAKE, index_of, token_of};
use crate::{
    Address, COMPLETIONS_MAX, Driver, DriverConfig, DriverKind, FileOptions, ListenOptions, SocketOptions,
    Waker,
    arena::Arena,
    files::Files,
    queue::Queue,
    spin::Spin,
    types::{
        Completion, Detached, DetachedSocket, FileKey, Lease, Op, OpKind, Outcome, Received, SocketKey,
        Token, next_instance,
    },
    unix::{
        errno::fault,
        socket::{Mode, errno_of},
    },
};

/// Edges taken with one system call.
const EVENTS_MAX: usize = 1024;
/// A wait that has received so much leaves it at that. What is received lies in the processor's nearest cache then until
/// it has been answered, and the memory for it is the same the next time.
const RECEIVE_WAIT_BYTES: usize = 32 << 10;
/// The longest single sleep; longer time-outs are made of several. Keeps every unit of every system in range.
const SLEEP_MAX: Duration = Duration::from_hours(24);

/// The driver for systems that say when a socket is ready: epoll or kqueue.
///
/// See the [crate's docs](crate) for what it promises. Dropping it closes its sockets; the system holds no
/// memory of this driver beyond a call, so there is nothing to wait for.
pub struct Readiness {
    poll: Poll,
    events: Events,
    waker: Waker,
    sockets: Slab<Socket>,
    sockets_max: usize,
    arena: Arena,
    finished: Queue,
    files: Files,
    /// Sockets with something to do, each at most once.
    ready: VecDeque<SlabKey>,
    /// How many of these, from the front, have had no turn since the system was last asked.
    unserved: usize,
    /// What this wait has received.
    received_bytes: usize,
    /// Sockets with something to receive and no memory for it, in the order in which they ran dry.
    wanting_memory: VecDeque<SlabKey>,
    /// Listeners that wait out a shortage.
    resting: Vec<SlabKey>,
    /// The last wait delivered without asking the system.
    system_skipped: bool,
    spin: Spin,
}

impl Readiness {
    /// A driver without sockets.
    ///
    /// # Errors
    /// If the system gives no epoll or kqueue (descriptors are short), or a size of `config` cannot be used: no
    /// receive buffer at all, or one of 4 GiB and more.
    pub fn new(config: DriverConfig) -> io::Result<Self> {
        let buffer_bytes = config.receive_buffer_bytes;
        if buffer_bytes == 0 || u32::try_from(buffer_bytes).is_err() {
            let text = format!("a receive buffer of {buffer_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let poll = Poll::new()?;
        let signal = mio::Waker::new(poll.registry(), WAKE)?;
        // The highest index belongs to the waker.
        let sockets_max = config.sockets_max.min(((1_u64 << INDEX_BITS) - 2) as u32);
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker: Waker::new(move || signal.wake()),
            sockets: Slab::new(sockets_max),
            sockets_max: sockets_max as usize,
            arena: Arena::new(next_instance(), buffer_bytes, config.receive_memory_bytes),
            finished: Queue::default(),
            files: Files::new(),
            ready: VecDeque::new(),
            unserved: 0,
            received_bytes: 0,
            wanting_memory: VecDeque::new(),
            resting: Vec::new(),
            system_skipped: false,
            spin: Spin::new(&config),
        })
    }

    /// Asks the system for edges and notes them. True if a waker ended this.
    fn poll_edges(&mut self, pause: Option<Duration>) -> io::Result<bool> {
        let asleep = pause != Some(Duration::ZERO) && self.waker.fall_asleep();
        let pause = if asleep { pause } else { Some(Duration::ZERO) };
        let polled = self.poll.poll(&mut self.events, pause);
        let woken = self.take_wake(asleep);
        match polled {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(woken),
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let token = event.token();
            if token == WAKE {
                continue;
            }
            // An edge of a socket that has closed since may name a slot that has a new owner (bug class R16).
            if let Some((key, socket)) = self.sockets.at_mut(index_of(token))
                && token_of(key) == token
            {
                socket.note(event);
                if !socket.queued && socket.has_work() {
                    socket.queued = true;
                    self.ready.push_back(key);
                }
            }
        }
        Ok(woken)
    }

    /// Consumes a wake: this wait is about to return, and what was posted before will be seen.
    fn take_wake(&self, asleep: bool) -> bool {
        (asleep || self.waker.is_notified()) && self.waker.awake()
    }

    /// How long the system may block; `None` is without bound.
    fn pause(&self, deadline: Option<Instant>) -> Option<Duration> {
        let end = match (deadline, self.next_rest_end()) {
            (Some(deadline), Some(rest_end)) => deadline.min(rest_end),
            (deadline, rest_end) => deadline.or(rest_end)?,
        };
        Some(end.saturating_duration_since(Instant::now()).min(SLEEP_MAX))
    }

    /// True if something can be done without a further edge.
    fn has_work(&self) -> bool {
        !self.ready.is_empty() || (!self.wanting_memory.is_empty() && self.arena.has_space())
    }

    /// Gives every socket that has something to do its turn, until there is enough for one wait.
    fn serve_all(&mut self, out: &mut Vec<Completion>, limit: usize) {
        self.received_bytes = 0;
        // The bounds are taken before: who comes back to a queue has had the turn of this wait.
        for _ in 0..self.wanting_memory.len() {
            if self.is_enough(out, limit) || !self.arena.has_space() {
                break;
            }
            let Some(key) = self.wanting_memory.pop_front() else { break };
            if let Some(socket) = self.sockets.get_mut(key) {
                socket.wants_memory = false;
                self.receive_turn(key, out, limit);
            }
        }
        while self.unserved > 0 && !self.is_enough(out, limit) {
            self.unserved -= 1;
            let Some(key) = self.ready.pop_front() else { break };
            self.serve(key, out, limit);
        }
    }

    /// True if this wait leaves it at what it has.
    #[inline]
    fn is_enough(&self, out: &[Completion], limit: usize) -> bool {
        out.len() >= limit || self.received_bytes >= RECEIVE_WAIT_BYTES
    }

    fn serve(&mut self, key: SlabKey, out: &mut Vec<Completion>, limit: usize) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.queued = false;
        match socket.role {
            Role::Stream => {
                let receive = socket.readable && socket.receive.is_some() && !socket.wants_memory;
                if socket.writable && socket.send.is_some() {
                    self.send_again(key, out);
                }
                if receive && self.wanting_memory.is_empty() {
                    self.receive_turn(key, out, limit);
                } else if receive {
                    // Others ran dry before.
                    self.want_memory(key);
                }
            }
            Role::Listener(_) => self.accept_turn(key, out, limit),
            Role::Connecting(_) => self.finish_connecting(key, out),
            Role::Opened(_) | Role::Failed => {}
        }
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

    /// True if there is room for one more socket.
    fn has_slot(&self) -> bool {
        self.sockets.len() + self.sockets.retired() < self.sockets_max
    }

    /// Takes a descriptor in.
    fn insert(&mut self, fd: OwnedFd, role: Role) -> Result<SlabKey, Fault> {
        #[cfg(target_vendor = "apple")]
        rustix::net::sockopt::set_socket_nosigpipe(&fd, true).map_err(fault)?;
        self.sockets
            .insert(Socket::new(fd, role))
            .map_err(|_closed_by_dropping_it| Fault::of(FaultKind::NoDescriptors))
    }

    /// Takes a descriptor in and watches it.
    fn add(&mut self, fd: OwnedFd, role: Role, interest: Interest) -> Result<SlabKey, Fault> {
        let key = self.insert(fd, role)?;
        let watched = match self.sockets.get_mut(key) {
            Some(socket) => socket.watch(self.poll.registry(), key, interest),
            None => unreachable!("it was put there above"),
        };
        if let Err(error) = watched {
            self.sockets.remove(key);
            return Err(fault(errno_of(&error)));
        }
        Ok(key)
    }

    /// As [`add`](Self::add), for a connection that may still move to another driver.
    fn add_movable(&mut self, fd: OwnedFd) -> Result<SlabKey, Fault> {
        let key = self.add(fd, Role::Stream, Interest::READABLE)?;
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.movable = true;
        }
        Ok(key)
    }

    /// Frees a socket's slot. What is short may be there now.
    fn remove(&mut self, key: SlabKey) -> Option<Socket> {
        let socket = self.sockets.remove(key)?;
        self.end_all_rests();
        Some(socket)
    }

    /// Closes at once: a call of this driver never waits inside the system, so everything in flight can be
    /// ended here. The completions come in the order of sentence 10.
    fn submit_close(&mut self, token: Token, SocketKey(key): SocketKey) {
        let Some(socket) = self.remove(key) else {
            let result = Err(Fault::of(FaultKind::InvalidSocket));
            self.finished.push(token, Outcome::Closed(result));
            return;
        };
        let cancelled = Fault::of(FaultKind::Cancelled);
        if let Role::Connecting(connect) = socket.role {
            self.finished.push(connect, Outcome::Connected(Err(cancelled)));
        }
        if let Role::Listener(listener) = &socket.role
            && let Some(accept) = listener.accept
        {
            self.finished.push(accept, Outcome::AcceptEnded(cancelled));
        }
        if let Some(receive) = socket.receive {
            self.finished.push(receive, Outcome::Received(Received::Failed(cancelled)));
        }
        if let Some((send, batch)) = socket.send {
            self.finished.push(send, Outcome::Sent(batch, Err(cancelled)));
        }
        if let Some(shutdown) = socket.shutdown {
            self.finished.push(*shutdown, Outcome::ShutDown(Err(cancelled)));
        }
        // The file of a Unix socket goes before its listener: see `unix/local.rs`.
        drop(socket.role);
        drop(socket.fd);
        self.finished.push(token, Outcome::Closed(Ok(())));
    }
}

impl Driver for Readiness {
    fn kind(&self) -> DriverKind {
        DriverKind::Readiness
    }

    fn listen(&mut self, address: &Address, options: &ListenOptions) -> io::Result<(SocketKey, Address)> {
        if !self.has_slot() {
            return Err(Errno::MFILE.into());
        }
        let listening = crate::unix::socket::listen(address, options, Mode::NonBlocking)?;
        let crate::unix::socket::Listening { socket, bound, file } = listening;
        let role = Role::Listener(Box::new(Listener { file, ..Listener::default() }));
        let key = self.add(socket, role, Interest::READABLE).map_err(|fault| match fault.code {
            0 => Errno::MFILE.into(),
            code => io::Error::from_raw_os_error(code),
        })?;
        Ok((SocketKey(key), bound))
    }

    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<SocketKey, Fault> {
        self.open_to_connect(address, options)
    }

    fn open_file(&mut self, path: &Path, options: &FileOptions) -> io::Result<(FileKey, u64)> {
        self.files.open(path, *options, &self.waker)
    }

    #[inline]
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
        if self.finished.is_urgent() || self.unserved > 0 {
            self.finished.deliver(completions, limit);
        }
        if self.unserved > 0 {
            self.serve_all(completions, limit);
            self.finished.deliver(completions, limit);
            if completions.len() > start {
                self.take_wake(false);
                self.spin.note(true);
                return Ok(());
            }
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
            self.end_due_rests();
            let blocks = completions.len() == start && !self.has_work();
            // The clock is read only by a wait that may block.
            let pause = if blocks { self.pause(deadline) } else { Some(Duration::ZERO) };
            let looks = pause != Some(Duration::ZERO) && self.spin.goes_on(pause);
            let woken = self.poll_edges(if looks { Some(Duration::ZERO) } else { pause })?;
            self.unserved = self.ready.len();
            // First: their memory is used again for what is answered to the others.
            self.finished.deliver(completions, limit);
            self.serve_all(completions, limit);
            self.files.collect(&mut self.finished);
            self.finished.deliver(completions, limit);
            if completions.len() > start || woken {
                self.spin.note(true);
                return Ok(());
            }
            // Nothing to report: an edge of no interest, a signal, or a send that goes on.
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(());
            }
        }
    }

    #[inline]
    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.arena.bytes(lease)
    }

    #[inline]
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
        self.sockets.get(key).filter(|socket| socket.movable)?;
        let socket = self.remove(key)?;
        // It cannot fail; if it did, the edges that still come name a dead key.
        let _ = socket.unwatch(self.poll.registry());
        Some(Detached(DetachedSocket::Descriptor(socket.fd)))
    }

    fn adopt(&mut self, detached: Detached) -> Option<SocketKey> {
        match detached.0 {
            // What arrived meanwhile needs no memory of ours: watching begins with what is ready.
            DetachedSocket::Descriptor(fd) => self.add_movable(fd).ok().map(SocketKey),
            DetachedSocket::Sim(_) => None,
            #[cfg(loom)]
            DetachedSocket::Model(_) => None,
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
