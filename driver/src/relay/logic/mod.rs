//! The half of the links on a logic thread: a driver whose sockets live on I/O shards.

mod buffers;
mod files;
mod socket;
mod tell;
#[cfg(all(test, not(loom)))]
mod tests;

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::mpsc::{self, TryRecvError},
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, Slab, SlabKey};

use self::{
    buffers::Buffers,
    files::{FILE_OPS_MAX, FILES},
    socket::{Place, Role, Socket},
};
use super::{
    Pump, RelaySeat,
    lane::{Receiver, Sender},
    pump::cannot_wait,
    wire::{Call, News, Order, socket_of},
};
use crate::{
    Address, COMPLETIONS_MAX, Driver, DriverConfig, DriverKind, FileOptions, ListenOptions, SocketOptions,
    Waker,
    spin::Spin,
    types::{Completion, Detached, FileKey, Lease, Op, OpKind, Outcome, SocketKey, Token, next_instance},
};

/// Buffers that come back together at the latest, though there are no orders to take them along.
const OWED_MAX: usize = 8;

fn shard_ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the I/O shard of this link has ended")
}

/// A driver on a thread that does no I/O: its sockets live on the I/O shards that it has links to.
///
/// It keeps the [crate's contract](crate). Connections that it opens are spread over its links in turn; a listener is
/// on the first, unless the shards have one for it ([`RelayEnd::announce`](super::RelayEnd::announce)): then it gets
/// its part of what all of them accept. A socket that cannot be opened says so when it is to connect.
pub struct Relay {
    // Before the pump: what the pump owns may wait for the other side, which waits for these to go.
    links: Vec<Link>,
    doors: Vec<Door>,
    sockets: usize,
    sockets_max: usize,
    memory_bytes: usize,
    buffers: Buffers,
    files: usize,
    /// Operations on files that are in flight.
    file_ops: Slab<(Token, OpKind)>,
    /// What needs no other side to be known.
    finished: VecDeque<Completion>,
    /// The link that the next wait begins with.
    turn: usize,
    /// The link that the next connection is opened on.
    next_open: usize,
    /// What users of the driver wake. It wakes the pump, so that news and wakes are told apart.
    waker: Waker,
    pump_waker: Waker,
    pump: Box<dyn Pump>,
    spin: Spin,
}

/// A link to an I/O shard.
struct Link {
    orders_out: Sender<Order>,
    orders: VecDeque<Order>,
    news: Receiver<News>,
    arrived: VecDeque<News>,
    /// The I/O side has gone. What had arrived from it is delivered first, then everything ends.
    gone: Gone,
    /// By name: index and generation are in the keys that users have.
    sockets: Slab<Socket>,
    /// The buffer that the next data is in, and where.
    reading: (u32, u32),
    /// Buffers that are to go back.
    owed: Vec<Vec<u8>>,
    owed_bytes: usize,
    starving: bool,
    /// Listeners that can be claimed.
    announced: Vec<Address>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    No,
    /// Nothing more arrives.
    Ending,
    /// Everything on the link has ended.
    Ended,
}

/// A listener with a part on each of several shards. The first part's socket is the one that users know.
struct Door {
    parts: Vec<(usize, SlabKey)>,
    ended: usize,
    closed: usize,
}

impl Link {
    fn new(seat: RelaySeat, sockets_max: u32, waker: Waker) -> Self {
        let RelaySeat { orders, news } = seat;
        news.open(waker);
        Self {
            orders_out: orders,
            orders: VecDeque::new(),
            news,
            arrived: VecDeque::new(),
            gone: Gone::No,
            sockets: Slab::new(sockets_max),
            reading: (0, 0),
            owed: Vec::new(),
            owed_bytes: 0,
            starving: false,
            announced: Vec::new(),
        }
    }

    fn take_news(&mut self) {
        if self.gone == Gone::No && !self.news.take(&mut self.arrived) {
            self.gone = Gone::Ending;
        }
    }

    /// Hands over what was ordered. Buffers go back with it, or alone when they are many or wanted.
    fn flush(&mut self, memory_bytes: usize) {
        if self.gone == Gone::Ended {
            // There is nobody to take it: kept, it would be work for ever.
            self.orders.clear();
            self.owed.clear();
            (self.owed_bytes, self.starving) = (0, false);
            return;
        }
        let many = self.owed.len() >= OWED_MAX || self.owed_bytes >= memory_bytes / 2;
        if !self.owed.is_empty() && (!self.orders.is_empty() || many || self.starving) {
            self.orders.extend(self.owed.drain(..).map(Order::Return));
            self.owed_bytes = 0;
            self.starving = false;
        }
        self.orders_out.push(&mut self.orders);
    }
}

impl Relay {
    /// A relay on these links, at least one, that gets on by `pump`. `config` is that of the I/O shards' drivers, and
    /// bounds each link.
    ///
    /// # Panics
    /// If there is no link.
    pub fn new(seats: Vec<RelaySeat>, config: DriverConfig, pump: Box<dyn Pump>) -> Self {
        assert!(!seats.is_empty(), "a relay needs a link");
        let pump_waker = pump.waker();
        // Who is stepped has all time between two steps.
        let spin = if pump.may_block() { Spin::new(&config) } else { Spin::never() };
        // So that the last key of the last link is one still.
        let names_max = (u32::MAX - 1) / seats.len() as u32;
        let to_link = |seat| Link::new(seat, names_max, pump_waker.clone());
        let links: Vec<_> = seats.into_iter().map(to_link).collect();
        let inner = pump_waker.clone();
        // What was announced, or said by whoever has gone already, is seen at the first look.
        pump_waker.wake();
        Self {
            sockets_max: links.len().saturating_mul(config.sockets_max as usize),
            links,
            doors: Vec::new(),
            sockets: 0,
            memory_bytes: config.receive_memory_bytes.max(config.receive_buffer_bytes),
            buffers: Buffers::new(next_instance()),
            files: 0,
            file_ops: Slab::new(FILE_OPS_MAX),
            finished: VecDeque::new(),
            turn: 0,
            next_open: 0,
            waker: Waker::new(move || {
                inner.wake();
                Ok(())
            }),
            pump_waker,
            pump,
            spin,
        }
    }

    /// True if a wait of no time might give something, or hand something over.
    pub fn has_work(&self) -> bool {
        let busy = |link: &Link| !link.orders.is_empty() || (link.starving && !link.owed.is_empty());
        self.waker.is_notified() || self.has_news() || self.links.iter().any(busy)
    }

    // ---- keys: the link and the place on it ----

    fn key_of(&self, link: usize, SlabKey { index, generation }: SlabKey) -> SocketKey {
        let links = self.links.len() as u32;
        SocketKey(SlabKey { index: index * links + link as u32, generation })
    }

    fn place_of(&self, SocketKey(SlabKey { index, generation }): SocketKey) -> (usize, SlabKey) {
        let links = self.links.len() as u32;
        ((index % links) as usize, SlabKey { index: index / links, generation })
    }

    fn socket(&mut self, key: SocketKey) -> Option<&mut Socket> {
        let (link, at) = self.place_of(key);
        self.links[link].sockets.get_mut(at)
    }

    fn insert(&mut self, link: usize, role: Role) -> Option<SlabKey> {
        let key = self.links[link].sockets.insert_with(|_| Socket::new(role))?;
        self.sockets += 1;
        Some(key)
    }

    fn remove(&mut self, link: usize, key: SlabKey) {
        if self.links[link].sockets.remove(key).is_some() {
            self.sockets -= 1;
        }
    }

    /// The next link in turn whose other side is there.
    fn next_link(&mut self) -> Option<usize> {
        let links = self.links.len();
        let alive =
            (0..links).map(|by| (self.next_open + by) % links).find(|&at| self.links[at].gone == Gone::No)?;
        self.next_open = (alive + 1) % links;
        Some(alive)
    }

    fn order(&mut self, link: usize, order: Order) {
        self.links[link].orders.push_back(order);
    }

    // ---- calls ----

    /// Asks the other side of a link, and waits for the answer. `None` if it has gone. Where nobody can wait, nothing is
    /// asked: the other side would do what nobody learns of.
    fn call<T>(&mut self, link: usize, make: impl FnOnce(mpsc::Sender<T>) -> Call) -> io::Result<Option<T>> {
        if self.links[link].gone != Gone::No {
            return Ok(None);
        }
        if !self.pump.may_block() {
            return Err(cannot_wait());
        }
        let (answer, answered) = mpsc::channel();
        self.order(link, Order::Call(Box::new(make(answer))));
        loop {
            self.flush();
            // After this look, the answer wakes us.
            match answered.try_recv() {
                Ok(answer) => return Ok(Some(answer)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            self.take_news();
            if self.links[link].gone != Gone::No {
                // It may have answered before it went.
                return Ok(answered.try_recv().ok());
            }
            self.pump.pump(None)?;
        }
    }

    /// Claims the listener that was announced for `address`, on every link that has it.
    fn claim(&mut self, address: &Address) -> Option<SocketKey> {
        self.take_news();
        for link in &mut self.links {
            while let Some(News::Door { .. }) = link.arrived.front() {
                if let Some(News::Door { address }) = link.arrived.pop_front() {
                    link.announced.push(*address);
                }
            }
        }
        let number = self.doors.len() as u32;
        let mut parts = Vec::new();
        for at in 0..self.links.len() {
            let announced = &mut self.links[at].announced;
            let Some(found) = announced.iter().position(|there| there == address) else { continue };
            announced.swap_remove(found);
            let key = self.insert(at, Role::Door(number))?;
            self.order(at, Order::Claim { socket: key.index });
            parts.push((at, key));
        }
        let &(link, key) = parts.first()?;
        self.doors.push(Door { parts, ended: 0, closed: 0 });
        Some(self.key_of(link, key))
    }

    // ---- handing over and taking ----

    fn flush(&mut self) {
        for link in &mut self.links {
            link.flush(self.memory_bytes);
        }
    }

    /// True if there is something to deliver, or something was pushed.
    fn has_news(&self) -> bool {
        !self.finished.is_empty()
            || self.pump_waker.is_notified()
            || self.links.iter().any(|link| !link.arrived.is_empty() || link.gone == Gone::Ending)
    }

    /// Looks for a while, before this sleeps for `timeout`.
    fn look_around(&mut self, timeout: Option<Duration>, deadline: &mut Option<Instant>) {
        if self.has_news() || self.waker.is_notified() || !self.spin.goes_on(timeout) {
            return;
        }
        if deadline.is_none() {
            *deadline = timeout.and_then(|timeout| self.pump.now().checked_add(timeout));
        }
        while !self.has_news() && !self.waker.is_notified() && self.spin.goes_on(timeout) {}
    }

    /// Consumes a wake of a user: this wait is about to return, and what was posted before will be seen.
    fn take_wake(&self, asleep: bool) -> bool {
        (asleep || self.waker.is_notified()) && self.waker.awake()
    }

    fn take_news(&mut self) {
        for link in &mut self.links {
            link.take_news();
        }
    }

    /// An operation on a socket whose I/O side has gone.
    #[cold]
    fn finish_without(&mut self, token: Token, key: SocketKey, op: Op) {
        let outcome = match op {
            Op::Close { .. } => {
                let (link, at) = self.place_of(key);
                self.remove(link, at);
                Outcome::Closed(Ok(()))
            }
            op => op.failed(Fault::of(FaultKind::Other)),
        };
        self.finished.push_back(Completion { token, outcome });
    }

    fn submit_to_door(&mut self, number: u32, socket: SocketKey, op: &Op) {
        for (link, key) in self.doors[number as usize].parts.clone() {
            let (op, end) = match op {
                Op::Accept { .. } => {
                    (Op::Accept { listener: socket }, Outcome::AcceptEnded(Fault::of(FaultKind::Other)))
                }
                _ => (Op::Close { socket }, Outcome::Closed(Ok(()))),
            };
            if self.links[link].gone == Gone::Ended {
                let mut out = Vec::new();
                self.tell_of_door(number, end, &mut out);
                self.finished.extend(out);
            } else {
                self.order(link, Order::Submit { socket: key.index, op });
            }
        }
    }
}

impl Driver for Relay {
    fn kind(&self) -> DriverKind {
        DriverKind::Relay
    }

    fn listen(&mut self, address: &Address, options: &ListenOptions) -> io::Result<(SocketKey, Address)> {
        if let Some(key) = self.claim(address) {
            return Ok((key, address.clone()));
        }
        let key = self.insert(0, Role::Listener).expect("there are more names than sockets");
        let (socket, address, options) = (key.index, address.clone(), *options);
        let listened = self.call(0, |answer| Call::Listen { socket, address, options, answer });
        match listened.and_then(|listened| listened.unwrap_or_else(|| Err(shard_ended()))) {
            Ok(bound) => Ok((self.key_of(0, key), bound)),
            Err(error) => {
                self.remove(0, key);
                Err(error)
            }
        }
    }

    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<SocketKey, Fault> {
        let short = Fault::of(FaultKind::NoDescriptors);
        if self.sockets >= self.sockets_max {
            return Err(short);
        }
        let link = self.next_link().ok_or(Fault::of(FaultKind::Other))?;
        let key = self.insert(link, Role::Opened).ok_or(short)?;
        self.order(link, Order::Open { socket: key.index, to: Box::new((address.clone(), *options)) });
        Ok(self.key_of(link, key))
    }

    fn open_file(&mut self, path: &Path, options: &FileOptions) -> io::Result<(FileKey, u64)> {
        let (path, options) = (path.to_owned(), *options);
        let opened = self.call(FILES, |answer| Call::OpenFile { path, options, answer })?;
        let opened = opened.unwrap_or_else(|| Err(shard_ended()))?;
        self.files += 1;
        Ok(opened)
    }

    #[inline]
    fn submit(&mut self, token: Token, op: Op) {
        let Some(key) = socket_of(&op) else { return self.submit_on_file(token, op) };
        let (link, at) = self.place_of(key);
        let kind = op.kind();
        let Link { sockets, orders, gone, .. } = &mut self.links[link];
        let Some(socket) = sockets.get_mut(at).filter(|socket| socket.allows(kind)) else {
            let outcome = op.failed(Fault::of(FaultKind::InvalidSocket));
            return self.finished.push_back(Completion { token, outcome });
        };
        if let Role::Door(number) = socket.role {
            socket.start(Place::of(kind), token);
            return self.submit_to_door(number, key, &op);
        }
        if *gone == Gone::Ended {
            return self.finish_without(token, key, op);
        }
        socket.start(Place::of(kind), token);
        if kind == OpKind::Connect {
            socket.role = Role::Connecting;
        }
        orders.push_back(Order::Submit { socket: at.index, op });
    }

    fn cancel(&mut self, key: SocketKey, kind: OpKind) {
        let (link, at) = self.place_of(key);
        // Closing ends it in any case, and once the socket is closed over there, its name says nothing there.
        let is_in_flight = |socket: &mut Socket| {
            socket.role == Role::Stream && socket.has(Place::of(kind)) && !socket.has(Place::Close)
        };
        if matches!(kind, OpKind::Receive | OpKind::Send)
            && self.links[link].gone != Gone::Ended
            && self.socket(key).is_some_and(is_in_flight)
        {
            self.order(link, Order::Cancel { socket: at.index, kind });
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let start = completions.len();
        let limit = start + COMPLETIONS_MAX;
        // The clock is read only by a wait that may block.
        let mut deadline = None;
        let mut woken = false;
        loop {
            // What the last look told of starving links is answered here, before this sleeps.
            self.flush();
            if timeout != Some(Duration::ZERO) {
                self.look_around(timeout, &mut deadline);
            }
            let ready = self.has_news();
            woken |= self.take_wake(false);
            if woken && !ready {
                // The other side is to see a wake too: in simulated time, one takes some.
                self.pump_waker.wake();
            }
            let may_block = !ready && timeout != Some(Duration::ZERO);
            let asleep = may_block && (woken || self.waker.fall_asleep());
            let pause = match timeout {
                _ if !asleep => Some(Duration::ZERO),
                None => None,
                Some(timeout) => {
                    let now = self.pump.now();
                    if deadline.is_none() {
                        deadline = now.checked_add(timeout);
                    }
                    deadline.map(|deadline| deadline.saturating_duration_since(now))
                }
            };
            let pumped = self.pump.pump(pause);
            woken |= self.take_wake(asleep);
            pumped?;
            // Whoever pushed has notified the pump: what this does not see ends the next pause at once.
            self.take_news();
            self.deliver(completions, limit);
            let over = deadline.is_some_and(|deadline| deadline <= self.pump.now());
            let something = woken || completions.len() > start;
            if something || over || timeout == Some(Duration::ZERO) {
                self.spin.note(something);
                self.turn = (self.turn + 1) % self.links.len();
                return Ok(());
            }
        }
    }

    #[inline]
    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.buffers.bytes(lease)
    }

    #[inline]
    fn recycle(&mut self, lease: Lease) {
        if let Some((link, buffer)) = self.buffers.recycle(lease) {
            let link = &mut self.links[link];
            link.owed_bytes += buffer.len();
            link.owed.push(buffer);
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn now(&self) -> Instant {
        self.pump.now()
    }

    fn detach(&mut self, key: SocketKey) -> Option<Detached> {
        let socket = self.socket(key)?;
        if socket.role != Role::Stream || socket.in_flight != 0 {
            return None;
        }
        let (link, at) = self.place_of(key);
        let socket = at.index;
        let detached = self.call(link, |answer| Call::Detach { socket, answer }).ok()???;
        self.remove(link, at);
        Some(detached)
    }

    fn adopt(&mut self, detached: Detached) -> Option<SocketKey> {
        let link = self.next_link()?;
        let key = self.insert(link, Role::Stream)?;
        let socket = key.index;
        let adopted = self.call(link, |answer| Call::Adopt { socket, detached, answer });
        if adopted.ok().flatten() == Some(true) {
            return Some(self.key_of(link, key));
        }
        self.remove(link, key);
        None
    }

    fn sockets(&self) -> usize {
        self.sockets
    }

    fn files(&self) -> usize {
        self.files
    }

    fn leases_out(&self) -> usize {
        self.buffers.leases_out()
    }
}
