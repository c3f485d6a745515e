//! The bed that every case lies in: one driver, its peers, and what was seen of both.
//!
//! The bed holds every driver to sentences 2 and 3 in passing: a completion must carry the token of an
//! operation that is in flight, be of its kind, and be its last if it is terminal.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    time::{Duration, Instant},
};

use anyport_driver::{
    Accepted, COMPLETIONS_MAX, Completion, Driver, DriverConfig, Fault, FaultKind, Lease, ListenOptions, Op,
    OpKind, Outcome, Received, SendBatch, SocketKey, SocketOptions, Token,
};

pub(crate) const V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(crate) const V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

/// What cases use unless they are about sizes.
pub(crate) const CONFIG: DriverConfig = DriverConfig {
    sockets_max: 1_024,
    receive_memory_bytes: 1 << 20,
    receive_buffer_bytes: 16 << 10,
    ..DriverConfig::DEFAULT
};

/// Two small receive buffers.
pub(crate) const TWO_BUFFERS: DriverConfig = DriverConfig {
    sockets_max: 1_024,
    receive_memory_bytes: 8 << 10,
    receive_buffer_bytes: 4 << 10,
    ..DriverConfig::DEFAULT
};

/// A step of `until`: the longest that a single wait takes.
const STEP: Duration = Duration::from_millis(1);
/// Steps after which what has not happened is taken never to.
const SETTLED_AFTER: usize = 25;
/// Log entries that a failed case shows.
const SHOWN: usize = 40;

/// A kind of driver, and the peers that can reach it.
pub(crate) trait World: Clone {
    type Driver: Driver;
    type Peer: Peer;
    type PeerListener: PeerListener<Peer = Self::Peer>;
    /// The driver, without what stands in front of it.
    const NAME: &'static str;
    /// A case runs once with each.
    const SEEDS: Range<u64>;
    /// Twice what the two ends of a connection buffer, and more.
    const HUGE: usize;

    /// The module that the suite is instantiated in.
    fn module() -> String {
        Self::NAME.to_owned()
    }
    fn new(seed: u64) -> Self;
    fn driver(&self, config: DriverConfig) -> Self::Driver;
    fn connect(&self, address: SocketAddr) -> std::io::Result<Self::Peer>;
    fn listen(&self, address: SocketAddr) -> Self::PeerListener;
    /// An address where connecting is refused, for as long as what comes with it is held.
    fn nobody(&self) -> (SocketAddr, Box<dyn Any>) {
        (self.listen(V4).local_address(), Box::new(()))
    }
    /// Lets the peers' side get on without a driver.
    fn pass_time(&self);
    /// Waits until what was submitted has come to the system, where that is another thread's work.
    fn come_through(_driver: &mut Self::Driver) {}
    /// True if a case that started at `started` and made `steps` steps has taken too long.
    fn is_overdue(started: Instant, steps: usize) -> bool;
}

/// How a peer saw its stream end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    EndOfStream,
    Reset,
}

/// The other side of a connection. Never blocks.
pub(crate) trait Peer {
    /// Writes what fits now; 0 also if nothing can be written any more.
    fn write(&mut self, bytes: &[u8]) -> usize;
    /// Appends at most `most` bytes that are there now.
    fn read(&mut self, most: usize, into: &mut Vec<u8>) -> Option<End>;
    fn shutdown_write(&mut self);
    fn close(self);
    fn reset(self);
    fn local_address(&self) -> SocketAddr;
}

/// A listener outside the driver. Never blocks.
pub(crate) trait PeerListener {
    type Peer;
    fn accept(&mut self) -> Option<Self::Peer>;
    fn local_address(&self) -> SocketAddr;
}

/// A peer with what it has still to write and what it has read.
pub(crate) struct Client<W: World> {
    pub(crate) peer: W::Peer,
    pub(crate) received: Vec<u8>,
    pub(crate) end: Option<End>,
    unwritten: Vec<u8>,
    written: usize,
}

impl<W: World> Client<W> {
    pub(crate) fn new(peer: W::Peer) -> Self {
        Self { peer, received: Vec::new(), end: None, unwritten: Vec::new(), written: 0 }
    }

    /// Gives it bytes to write in `push`.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.unwritten.drain(..std::mem::take(&mut self.written));
        self.unwritten.extend_from_slice(bytes);
        self.push();
    }

    /// Writes what it can. True once all that was fed is written.
    pub(crate) fn push(&mut self) -> bool {
        while self.written < self.unwritten.len() {
            let count = self.peer.write(&self.unwritten[self.written..]);
            if count == 0 {
                return false;
            }
            self.written += count;
        }
        true
    }

    /// Reads what is there.
    pub(crate) fn pull(&mut self) {
        self.pull_at_most(usize::MAX);
    }

    /// Reads at most `most` bytes.
    pub(crate) fn pull_at_most(&mut self, most: usize) {
        if self.end.is_none() && most > 0 {
            self.end = self.peer.read(most, &mut self.received);
        }
    }

    /// `push` and `pull`.
    pub(crate) fn pump(&mut self) {
        self.push();
        self.pull();
    }

    pub(crate) fn has_received(&mut self, bytes: &[u8]) -> bool {
        self.pull();
        assert!(bytes.starts_with(&self.received) || self.received == bytes, "other bytes than were sent");
        self.received.len() == bytes.len()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.pull();
        self.end.is_some()
    }

    pub(crate) fn close(self) {
        self.peer.close();
    }

    pub(crate) fn reset(self) {
        self.peer.reset();
    }
}

/// A completion, without what had to be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Accepted(Accepted),
    AcceptFaulted(FaultKind),
    AcceptEnded(FaultKind),
    Connected(Result<(), FaultKind>),
    Data(usize),
    EndOfStream,
    ReceiveFailed(FaultKind),
    Sent { of: usize, sent: usize, result: Result<(), FaultKind> },
    ShutDown(Result<(), FaultKind>),
    Closed(Result<(), FaultKind>),
    Appended { of: usize, taken: usize, result: Result<(), FaultKind> },
    Synced(Result<(), FaultKind>),
    Rotated(Result<(), FaultKind>),
    FileClosed(Result<(), FaultKind>),
}

impl Seen {
    fn kind(self) -> OpKind {
        match self {
            Self::Accepted(_) | Self::AcceptFaulted(_) | Self::AcceptEnded(_) => OpKind::Accept,
            Self::Connected(_) => OpKind::Connect,
            Self::Data(_) | Self::EndOfStream | Self::ReceiveFailed(_) => OpKind::Receive,
            Self::Sent { .. } => OpKind::Send,
            Self::ShutDown(_) => OpKind::Shutdown,
            Self::Closed(_) => OpKind::Close,
            Self::Appended { .. } => OpKind::Append,
            Self::Synced(_) => OpKind::Sync,
            Self::Rotated(_) => OpKind::Rotate,
            Self::FileClosed(_) => OpKind::CloseFile,
        }
    }

    /// A successful send of `of` bytes.
    pub(crate) fn sent(of: usize) -> Self {
        Self::Sent { of, sent: of, result: Ok(()) }
    }
}

pub(crate) const CANCELLED: Seen = Seen::ReceiveFailed(FaultKind::Cancelled);
pub(crate) const CLOSED: Seen = Seen::Closed(Ok(()));
pub(crate) const RESET: Seen = Seen::ReceiveFailed(FaultKind::PeerReset);

/// A listener that accepts.
#[derive(Clone, Copy)]
pub(crate) struct Door {
    pub(crate) key: SocketKey,
    pub(crate) address: SocketAddr,
    pub(crate) accept: u64,
}

/// One driver under test.
pub(crate) struct Bed<W: World> {
    pub(crate) world: W,
    pub(crate) config: DriverConfig,
    pub(crate) seed: u64,
    /// Leases are kept in `leases` instead of being given back at once.
    pub(crate) holds: bool,
    pub(crate) leases: Vec<(u64, Lease)>,
    /// Batches that came back.
    #[expect(clippy::vec_box, reason = "as they came: the driver hands batches over in boxes")]
    pub(crate) batches: Vec<Box<SendBatch>>,
    /// All that was seen, with its token, in order.
    pub(crate) log: Vec<(u64, Seen)>,
    driver: Option<W::Driver>,
    in_flight: BTreeMap<u64, OpKind>,
    ends: BTreeMap<u64, Seen>,
    received: BTreeMap<u64, Vec<u8>>,
    accepted: BTreeMap<u64, Vec<Accepted>>,
    completions: Vec<Completion>,
    token_next: u64,
    door: Option<Door>,
}

impl<W: World> Bed<W> {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, CONFIG)
    }

    pub(crate) fn with(seed: u64, config: DriverConfig) -> Self {
        Self::on(W::new(seed), seed, config)
    }

    /// A driver in the same world as other beds.
    pub(crate) fn on(world: W, seed: u64, config: DriverConfig) -> Self {
        let driver = Some(world.driver(config));
        Self {
            world,
            config,
            seed,
            holds: false,
            leases: Vec::new(),
            batches: Vec::new(),
            log: Vec::new(),
            driver,
            in_flight: BTreeMap::new(),
            ends: BTreeMap::new(),
            received: BTreeMap::new(),
            accepted: BTreeMap::new(),
            completions: Vec::new(),
            token_next: 1,
            door: None,
        }
    }

    pub(crate) fn driver(&mut self) -> &mut W::Driver {
        self.driver.as_mut().expect("the case did not drop it")
    }

    /// Drops the driver with whatever is in flight.
    pub(crate) fn drop_driver(&mut self) {
        self.driver = None;
    }

    // Starting operations.

    pub(crate) fn submit(&mut self, op: Op) -> u64 {
        let token = self.token_next;
        self.token_next += 1;
        self.submit_as(token, op);
        token
    }

    pub(crate) fn submit_as(&mut self, token: u64, op: Op) {
        assert!(self.in_flight.insert(token, op.kind()).is_none(), "the case uses a token twice");
        self.driver().submit(Token(token), op);
    }

    pub(crate) fn listen_at(&mut self, address: SocketAddr) -> Door {
        self.listen_with(address, &ListenOptions::default()).unwrap()
    }

    pub(crate) fn listen_with(
        &mut self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> std::io::Result<Door> {
        let (listener, address) = self.listen_only(address, options)?;
        let accept = self.submit(Op::Accept { listener });
        Ok(Door { key: listener, address, accept })
    }

    /// A listener that does not accept yet.
    pub(crate) fn listen_only(
        &mut self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> std::io::Result<(SocketKey, SocketAddr)> {
        let (listener, bound) = self.driver().listen(&address.into(), options)?;
        Ok((listener, bound.ip().expect("it listens where it was told to")))
    }

    /// A socket of the driver that is to connect.
    pub(crate) fn open(&mut self, address: SocketAddr, options: &SocketOptions) -> Result<SocketKey, Fault> {
        self.driver().open(&address.into(), options)
    }

    /// A socket of the driver that tries to connect, and the token of the connect.
    pub(crate) fn connect(&mut self, address: SocketAddr) -> (SocketKey, u64) {
        let socket = self.open(address, &SocketOptions::default()).unwrap();
        (socket, self.submit(Op::Connect { socket }))
    }

    pub(crate) fn receive(&mut self, socket: SocketKey) -> u64 {
        self.submit(Op::Receive { socket })
    }

    pub(crate) fn send(&mut self, socket: SocketKey, bytes: &[u8]) -> u64 {
        self.submit(Op::Send { socket, batch: SendBatch::of(bytes) })
    }

    pub(crate) fn shutdown(&mut self, socket: SocketKey) -> u64 {
        self.submit(Op::Shutdown { socket })
    }

    pub(crate) fn close(&mut self, socket: SocketKey) -> u64 {
        self.submit(Op::Close { socket })
    }

    pub(crate) fn cancel(&mut self, socket: SocketKey, kind: OpKind) {
        self.driver().cancel(socket, kind);
    }

    // Getting on.

    /// One wait, of at most `timeout`.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) {
        self.wait_by(|driver, completions| driver.wait(timeout, completions));
    }

    /// One wait, until `deadline` at most.
    pub(crate) fn wait_until(&mut self, deadline: Instant) {
        self.wait_by(|driver, completions| driver.wait_until(Some(deadline), completions));
    }

    fn wait_by(&mut self, wait: impl FnOnce(&mut W::Driver, &mut Vec<Completion>) -> std::io::Result<()>) {
        let mut completions = std::mem::take(&mut self.completions);
        let waited = wait(self.driver(), &mut completions);
        waited.unwrap_or_else(|error| self.fail(&format!("the driver gave up: {error}")));
        if completions.len() > COMPLETIONS_MAX {
            self.fail("s08: more completions in one wait than the bound");
        }
        for completion in completions.drain(..) {
            self.see(completion);
        }
        self.completions = completions;
    }

    /// One short wait, or some time if there is no driver any more.
    pub(crate) fn step(&mut self) {
        if self.driver.is_some() {
            self.wait(Some(STEP));
        } else {
            self.world.pass_time();
        }
    }

    /// Steps until `done`, which also does the peers' part.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        let mut steps = 0;
        while !done(self) {
            if W::is_overdue(started, steps) {
                self.fail(&format!("waited in vain for: {what}"));
            }
            self.step();
            steps += 1;
        }
    }

    /// Steps long enough for whatever is going to happen by itself.
    pub(crate) fn settle(&mut self) {
        W::come_through(self.driver());
        for _ in 0..SETTLED_AFTER {
            self.step();
        }
    }

    /// The terminal completion of an operation, awaited.
    pub(crate) fn end(&mut self, token: u64) -> Seen {
        self.until(&format!("the end of operation {token}"), |bed| bed.end_of(token).is_some());
        self.ends[&token]
    }

    /// Sends `bytes` and lets the peer read them.
    pub(crate) fn send_to(&mut self, socket: SocketKey, client: &mut Client<W>, bytes: &[u8]) {
        let before = client.received.len();
        let token = self.send(socket, bytes);
        self.until("bytes at the peer", |_| {
            client.pull();
            client.received.len() >= before + bytes.len()
        });
        assert_eq!(client.received[before..], *bytes);
        assert_eq!(self.end(token), Seen::sent(bytes.len()));
    }

    /// Lets the peer write `bytes`, and awaits them at the receive `token`.
    pub(crate) fn receive_from(&mut self, token: u64, client: &mut Client<W>, bytes: &[u8]) {
        let before = self.received(token).len();
        client.feed(bytes);
        self.until("bytes from the peer", |bed| {
            client.push();
            bed.received(token).len() >= before + bytes.len()
        });
        assert_eq!(self.received(token)[before..], *bytes);
    }

    /// The listener of `pair`.
    pub(crate) fn door(&mut self) -> Door {
        if let Some(door) = self.door {
            return door;
        }
        let door = self.listen_at(V4);
        self.door = Some(door);
        door
    }

    /// A connection from a peer, accepted.
    pub(crate) fn pair(&mut self) -> (SocketKey, Client<W>) {
        let door = self.door();
        self.pair_at(door)
    }

    pub(crate) fn pair_at(&mut self, door: Door) -> (SocketKey, Client<W>) {
        let before = self.accepted(door.accept).len();
        let client = self.client(door.address);
        self.until("an accepted connection", |bed| bed.accepted(door.accept).len() > before);
        (self.accepted(door.accept)[before].socket, client)
    }

    pub(crate) fn pairs(&mut self, count: usize) -> Vec<(SocketKey, Client<W>)> {
        (0..count).map(|_| self.pair()).collect()
    }

    /// A peer that connects to `address`.
    pub(crate) fn client(&mut self, address: SocketAddr) -> Client<W> {
        Client::new(self.world.connect(address).unwrap())
    }

    // What was seen.

    /// The terminal completion of an operation, if it came.
    pub(crate) fn end_of(&self, token: u64) -> Option<Seen> {
        self.ends.get(&token).copied()
    }

    /// What a receive has given.
    pub(crate) fn received(&self, token: u64) -> &[u8] {
        self.received.get(&token).map_or(&[], Vec::as_slice)
    }

    /// What an accept has given.
    pub(crate) fn accepted(&self, token: u64) -> &[Accepted] {
        self.accepted.get(&token).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn operations_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How often `seen` came for `token`.
    pub(crate) fn count(&self, token: u64, is: impl Fn(Seen) -> bool) -> usize {
        self.log.iter().filter(|(of, seen)| *of == token && is(*seen)).count()
    }

    /// Where in the log the terminal completion of `token` is.
    pub(crate) fn place_of_end(&self, token: u64) -> usize {
        let end = self.ends[&token];
        self.log.iter().rposition(|entry| *entry == (token, end)).expect("what ended is in the log")
    }

    /// Gives back every lease that is held.
    pub(crate) fn recycle_all(&mut self) {
        for (_, lease) in std::mem::take(&mut self.leases) {
            self.driver().recycle(lease);
        }
    }

    pub(crate) fn fail(&self, why: &str) -> ! {
        let mut text = format!(
            "{why}\nseed {}, driver {}; in flight: {:?}; seen last:\n",
            self.seed,
            W::module(),
            self.in_flight
        );
        for (token, seen) in &self.log[self.log.len().saturating_sub(SHOWN)..] {
            writeln!(text, "  {token}: {seen:?}").expect("a string takes all");
        }
        panic!("{text}");
    }

    fn see(&mut self, completion: Completion) {
        let token = completion.token.0;
        let is_terminal = completion.outcome.is_terminal();
        let seen = self.take_apart(token, completion.outcome);
        self.log.push((token, seen));
        if self.in_flight.get(&token) != Some(&seen.kind()) {
            self.fail(&format!("s03: {seen:?} for {token}, which is not in flight or of another kind"));
        }
        if is_terminal {
            self.in_flight.remove(&token);
            self.ends.insert(token, seen);
        }
    }

    fn take_apart(&mut self, token: u64, outcome: Outcome) -> Seen {
        match outcome {
            Outcome::Accepted(accepted) => {
                self.accepted.entry(token).or_default().push(accepted);
                Seen::Accepted(accepted)
            }
            Outcome::AcceptFaulted(fault) => Seen::AcceptFaulted(fault.kind),
            Outcome::AcceptEnded(fault) => Seen::AcceptEnded(fault.kind),
            Outcome::Connected(result) => Seen::Connected(result.map_err(|fault| fault.kind)),
            Outcome::Received(Received::Data(lease)) => Seen::Data(self.see_data(token, lease)),
            Outcome::Received(Received::EndOfStream) => Seen::EndOfStream,
            Outcome::Received(Received::Failed(fault)) => Seen::ReceiveFailed(fault.kind),
            Outcome::Sent(batch, result) => {
                let (of, sent) = (batch.len(), batch.sent());
                if result.is_ok() && sent != of {
                    self.fail("s05: a send ended in success before all was taken");
                }
                self.batches.push(batch);
                Seen::Sent { of, sent, result: result.map_err(|fault| fault.kind) }
            }
            Outcome::ShutDown(result) => Seen::ShutDown(result.map_err(|fault| fault.kind)),
            Outcome::Closed(result) => Seen::Closed(result.map_err(|fault| fault.kind)),
            Outcome::Appended(batch, result) => {
                let (of, taken) = (batch.len(), batch.sent());
                if result.is_ok() && taken != of {
                    self.fail("s14: an append ended in success before all was taken");
                }
                self.batches.push(batch);
                Seen::Appended { of, taken, result: result.map_err(|fault| fault.kind) }
            }
            Outcome::Synced(result) => Seen::Synced(result.map_err(|fault| fault.kind)),
            Outcome::Rotated(result) => Seen::Rotated(result.map_err(|fault| fault.kind)),
            Outcome::FileClosed(result) => Seen::FileClosed(result.map_err(|fault| fault.kind)),
        }
    }

    fn see_data(&mut self, token: u64, lease: Lease) -> usize {
        let driver = self.driver.as_mut().expect("it has just waited");
        let bytes = driver.bytes(&lease);
        let len = bytes.len();
        let fits = len > 0 && len == lease.len() && len <= self.config.receive_buffer_bytes;
        self.received.entry(token).or_default().extend_from_slice(bytes);
        if self.holds {
            self.leases.push((token, lease));
        } else {
            driver.recycle(lease);
        }
        if !fits {
            self.fail(&format!("s04: a lease of {len} bytes"));
        }
        len
    }
}

/// Bytes that tell their position: any lost, repeated or swapped piece shows.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut chance = Chance::new(seed);
    while bytes.len() < len {
        bytes.extend_from_slice(&chance.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Numbers from a seed (`xorshift64*`), for sizes and choices of a case.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from `range`.
    pub(crate) fn of(&mut self, range: Range<usize>) -> usize {
        range.start + (self.next() >> 16) as usize % range.len()
    }
}

/// Names the seed if the case fails.
struct SeedNote(u64, String);

impl Drop for SeedNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with ANYPORT_SEED={} on driver {}", self.0, self.1);
        }
    }
}

/// Runs a case with every seed of its world, or with the one in `ANYPORT_SEED`.
pub(crate) fn run<W: World>(case: fn(u64)) {
    // The harness names threads after cases; the first thread, which runs them if there is but one, has its own name.
    if let Some(name) = std::thread::current().name().filter(|name| *name != "main") {
        assert!(name.starts_with(&format!("{}::", W::module())), "{name} is not in {}", W::module());
    }
    // As an engine does: one case opens as many files as the usual limit, while others run.
    anyport_driver::machine::raise_open_files();
    let seeds = match std::env::var("ANYPORT_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("ANYPORT_SEED is a number");
            seed..seed + 1
        }
        Err(_) => W::SEEDS,
    };
    for seed in seeds {
        let _note = SeedNote(seed, W::module());
        case(seed);
        #[cfg(all(guard_pages, target_os = "linux"))]
        assert_eq!(anyport_guard::counts().unguarded, 0, "a case needs more allocations than can be guarded");
    }
}
