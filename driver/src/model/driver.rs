//! A driver for the concurrency models of the engine: it keeps the contract with sockets that are only entries of a
//! table, and sleeps until its [`Waker`] ends that.
//!
//! Its peers send nothing, take everything, and answer the end of our stream with the end of theirs. It sleeps as the
//! real drivers do ([`Notice`]); nothing that they ask of a kernel is modelled.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, SendBatch, Slab};
use loom::sync::Notify;

use crate::{
    Accepted, Address, Completion, Detached, Driver, DriverKind, FileKey, FileOptions, Lease, ListenOptions,
    Op, OpKind, Outcome, Received, SocketKey, SocketOptions, Token, Waker, types::DetachedSocket,
};

/// How a driver notices, after its system call, that it was woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// It always says that it is awake: io_uring.
    Always,
    /// Only if it meant to sleep, or sees a wake: readiness and IOCP.
    IfAny,
}

/// Connections of a model: how many are open now, and how many were.
#[derive(Clone, Default, Debug)]
pub struct Connections {
    counts: Arc<Counts>,
}

#[derive(Default, Debug)]
struct Counts {
    opened: AtomicUsize,
    closed: AtomicUsize,
}

impl Connections {
    /// How many there were, and how many of them are closed.
    pub fn counts(&self) -> (usize, usize) {
        (self.counts.opened.load(Ordering::Relaxed), self.counts.closed.load(Ordering::Relaxed))
    }

    fn open(&self) -> Connection {
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        Connection { counts: Arc::clone(&self.counts) }
    }
}

/// One connection, wherever it is. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    counts: Arc<Counts>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counts.closed.fetch_add(1, Ordering::Relaxed);
    }
}

enum Socket {
    Listener { accept: Option<Token> },
    Stream(Stream),
}

struct Stream {
    connection: Connection,
    receive: Option<Token>,
    /// Something was submitted: it stays here (sentence 13).
    settled: bool,
}

type Look = Box<dyn FnMut(&SendBatch)>;

/// The driver of a model.
pub struct ModelDriver {
    waker: Waker,
    signal: Arc<Notify>,
    notice: Notice,
    sockets: Slab<Socket>,
    /// Peers that connect; the second only when no connection is open any more.
    at_once: usize,
    then: usize,
    connections: Connections,
    ready: VecDeque<Completion>,
    look: Option<Look>,
    now: Instant,
}

impl ModelDriver {
    /// A driver that `at_once` peers connect to, and then, each time that none is connected, one of `then`.
    pub fn new(notice: Notice, connections: &Connections, at_once: usize, then: usize) -> Self {
        let signal = Arc::new(Notify::new());
        let raised = Arc::clone(&signal);
        let raise = move || {
            raised.notify();
            Ok(())
        };
        Self {
            waker: Waker::new(raise),
            signal,
            notice,
            sockets: Slab::new(1 << 20),
            at_once,
            then,
            connections: connections.clone(),
            ready: VecDeque::new(),
            look: None,
            now: Instant::now(),
        }
    }

    /// Calls `look` with each batch at the moment when a kernel would take its bytes.
    pub fn on_send(&mut self, look: impl FnMut(&SendBatch) + 'static) {
        self.look = Some(Box::new(look));
    }

    fn streams(&self) -> usize {
        self.sockets.iter().filter(|(_, socket)| matches!(socket, Socket::Stream(_))).count()
    }

    fn stream(&mut self, key: SocketKey) -> Option<&mut Stream> {
        match self.sockets.get_mut(key.0)? {
            Socket::Stream(stream) => Some(stream),
            Socket::Listener { .. } => None,
        }
    }

    /// Delivers the peers that connect now.
    fn accept(&mut self) {
        let accepting = self.sockets.iter().find_map(|(_, socket)| match socket {
            Socket::Listener { accept } => *accept,
            Socket::Stream(_) => None,
        });
        let Some(token) = accepting else { return };
        // Once the engine has heard of the end of the one before.
        if self.at_once == 0 && self.then > 0 && self.streams() == 0 && self.ready.is_empty() {
            self.then -= 1;
            self.at_once = 1;
        }
        while self.at_once > 0 {
            self.at_once -= 1;
            let connection = self.connections.open();
            let socket = self.add(connection);
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into();
            self.ready.push_back(Completion { token, outcome: Outcome::Accepted(Accepted { socket, peer }) });
        }
    }

    fn add(&mut self, connection: Connection) -> SocketKey {
        let stream = Stream { connection, receive: None, settled: false };
        SocketKey(self.sockets.insert(Socket::Stream(stream)).ok().expect("a model has few sockets"))
    }

    /// As the real drivers: no sleep while something is complete, none without saying so, and the wake is consumed
    /// before the caller looks for what was posted.
    fn sleep(&mut self, timeout: Option<Duration>) {
        let may_sleep = self.ready.is_empty() && timeout != Some(Duration::ZERO);
        let asleep = may_sleep && self.waker.fall_asleep();
        match timeout {
            _ if !asleep => {}
            // Nothing else happens in a model until the time has come.
            Some(timeout) => self.now += timeout,
            None => self.signal.wait(),
        }
        match self.notice {
            Notice::Always => self.waker.awake(),
            Notice::IfAny => (asleep || self.waker.is_notified()) && self.waker.awake(),
        };
    }

    fn end_receive(&mut self, key: SocketKey, received: Received) {
        if let Some(token) = self.stream(key).and_then(|stream| stream.receive.take()) {
            self.ready.push_back(Completion { token, outcome: Outcome::Received(received) });
        }
    }

    fn close(&mut self, token: Token, key: SocketKey) {
        self.end_receive(key, Received::Failed(Fault::of(FaultKind::Cancelled)));
        match self.sockets.remove(key.0) {
            Some(Socket::Listener { accept: Some(accept) }) => {
                let ended = Outcome::AcceptEnded(Fault::of(FaultKind::Cancelled));
                self.ready.push_back(Completion { token: accept, outcome: ended });
            }
            Some(_) => {}
            None => panic!("the engine closed a socket twice"),
        }
        self.ready.push_back(Completion { token, outcome: Outcome::Closed(Ok(())) });
    }
}

impl Driver for ModelDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }

    fn listen(&mut self, address: &Address, _: &ListenOptions) -> io::Result<(SocketKey, Address)> {
        let key =
            self.sockets.insert(Socket::Listener { accept: None }).ok().expect("a model has few sockets");
        Ok((SocketKey(key), address.clone()))
    }

    fn open(&mut self, _: &Address, _: &SocketOptions) -> Result<SocketKey, Fault> {
        Err(Fault::of(FaultKind::Refused))
    }

    fn open_file(&mut self, _: &Path, _: &FileOptions) -> io::Result<(FileKey, u64)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept { listener } => match self.sockets.get_mut(listener.0) {
                Some(Socket::Listener { accept }) => *accept = Some(token),
                _ => panic!("the engine accepts on what is no listener"),
            },
            Op::Receive { socket } => {
                let stream = self.stream(socket).expect("the engine receives from an open socket");
                stream.settled = true;
                assert!(stream.receive.replace(token).is_none(), "a second receive in flight");
            }
            Op::Send { socket, mut batch } => {
                self.stream(socket).expect("the engine sends to an open socket").settled = true;
                if let Some(look) = &mut self.look {
                    look(&batch);
                }
                batch.advance(batch.remaining());
                self.ready.push_back(Completion { token, outcome: Outcome::Sent(batch, Ok(())) });
            }
            Op::Shutdown { socket } => {
                self.ready.push_back(Completion { token, outcome: Outcome::ShutDown(Ok(())) });
                self.end_receive(socket, Received::EndOfStream);
            }
            Op::Close { socket } => self.close(token, socket),
            Op::Connect { .. }
            | Op::Append { .. }
            | Op::Sync { .. }
            | Op::Rotate { .. }
            | Op::CloseFile { .. } => unreachable!("nothing is opened here"),
        }
    }

    fn cancel(&mut self, socket: SocketKey, kind: OpKind) {
        if kind == OpKind::Receive {
            self.end_receive(socket, Received::Failed(Fault::of(FaultKind::Cancelled)));
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.accept();
        self.sleep(timeout);
        completions.extend(self.ready.drain(..));
        Ok(())
    }

    fn bytes(&self, _: &Lease) -> &[u8] {
        unreachable!("the peers of a model send nothing")
    }

    fn recycle(&mut self, _: Lease) {
        unreachable!("the peers of a model send nothing")
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn detach(&mut self, socket: SocketKey) -> Option<Detached> {
        if self.stream(socket)?.settled {
            return None;
        }
        match self.sockets.remove(socket.0)? {
            Socket::Stream(stream) => Some(Detached(DetachedSocket::Model(stream.connection))),
            Socket::Listener { .. } => unreachable!("looked at above"),
        }
    }

    fn adopt(&mut self, detached: Detached) -> Option<SocketKey> {
        match detached.0 {
            DetachedSocket::Model(connection) => Some(self.add(connection)),
            _ => None,
        }
    }

    fn sockets(&self) -> usize {
        self.sockets.len()
    }

    fn files(&self) -> usize {
        0
    }

    fn leases_out(&self) -> usize {
        0
    }
}
