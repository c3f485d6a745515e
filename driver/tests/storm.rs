//! A storm of closes: sessions die in thousands while the kernel receives for them and sends for them, with guard pages.
//! What the kernel is given too long ends as `EFAULT`, which panics.
//!
//! `ANYPORT_STORM_KILLS=1000000` makes it longer; it says how many are killed on each driver. `ANYPORT_SEED` names
//! another storm. Threads of the system are not ours to order, so a seed does not repeat what happened exactly.

#![cfg(all(guard_pages, target_os = "linux"))]

use std::{
    collections::{HashMap, VecDeque},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyport_core::ChunkPool;
use anyport_driver::{
    Completion, Driver, DriverConfig, Lease, ListenOptions, Op, OpKind, Outcome, Received, SendBatch,
    SocketKey, SocketOptions, Token, io_uring::IoUring, readiness::Readiness,
};
use anyport_guard::{Guarding, counts};
use socket2::{Domain, SockRef, Socket, Type};

#[global_allocator]
static GUARD: Guarding = Guarding;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const KILLS: u64 = 6_000;
/// A long storm tells how far it is each time so many are killed.
const TOLD_EACH: u64 = 20_000;
/// Sessions at one time: more than there are buffers, so that some run dry.
const SESSIONS: usize = 48;
const CONFIG: DriverConfig = DriverConfig {
    sockets_max: 256,
    receive_memory_bytes: 256 << 10,
    receive_buffer_bytes: 8 << 10,
    ..DriverConfig::DEFAULT
};
/// Leases kept beyond the end of their sessions.
const HELD_MAX: usize = 24;
/// Waits of a millisecond after which what has not come never will.
const WAITS_MAX: usize = 20_000;

/// What a token is about: the session's index above it.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const CLOSE: u64 = 3;

/// Numbers from a seed (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

#[derive(Debug)]
/// One connection. The peer sends its byte over and over, and gets the complement.
struct Session {
    peer: Option<TcpStream>,
    byte: u8,
    socket: Option<SocketKey>,
    receiving: bool,
    sending: bool,
    closed: bool,
}

/// How much was in flight when it was closed, and what became of it.
#[derive(Default, Debug)]
struct Tally {
    killed: u64,
    receiving: u64,
    sending: u64,
    sent_in_part: u64,
    leases: u64,
}

struct Storm<D> {
    driver: D,
    address: SocketAddr,
    chance: Chance,
    connected: u32,
    pool: ChunkPool,
    sessions: Vec<Session>,
    by_peer: HashMap<SocketAddr, usize>,
    held: VecDeque<(Lease, u8)>,
    completions: Vec<Completion>,
    tally: Tally,
}

impl<D: Driver> Storm<D> {
    fn new(mut driver: D, seed: u64) -> Self {
        let socket = SocketOptions { send_buffer_bytes: Some(4 << 10), ..SocketOptions::default() };
        let options = ListenOptions { socket, ..ListenOptions::default() };
        let (listener, address) = driver.listen(&SocketAddr::new(V4, 0).into(), &options).unwrap();
        let address = address.ip().unwrap();
        driver.submit(Token(ACCEPT), Op::Accept { listener });
        Self {
            driver,
            address,
            chance: Chance(seed),
            connected: 0,
            pool: ChunkPool::new(),
            sessions: Vec::new(),
            by_peer: HashMap::new(),
            held: VecDeque::new(),
            completions: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Opens sessions, lets them work, and kills every one.
    fn round(&mut self) {
        self.sessions.clear();
        for _ in 0..SESSIONS {
            self.connect();
        }
        self.until("all are accepted", |storm| storm.sessions.iter().all(|session| session.socket.is_some()));
        for index in 0..SESSIONS {
            self.begin(index);
            self.perhaps_step();
        }
        let mut order: Vec<_> = (0..SESSIONS).collect();
        while !order.is_empty() {
            let index = order.swap_remove(self.chance.below(order.len()));
            self.kill(index);
            self.perhaps_step();
        }
        self.until("all are closed", |storm| storm.sessions.iter().all(|session| session.closed));
    }

    fn connect(&mut self) {
        // From an address of its own, because each has so many ports only.
        self.connected = self.connected % 0x00FF_0000 + 1;
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x7F00_0001 + self.connected)), 0);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&SocketAddr::new(V4, self.address.port()).into()).unwrap();
        let mut peer = TcpStream::from(socket);
        peer.set_nonblocking(true).unwrap();
        let byte = self.chance.next() as u8;
        // Some have written before they are accepted.
        if self.chance.one_in(2) {
            feed(&mut peer, byte, self.chance.below(9_000));
        }
        self.by_peer.insert(peer.local_addr().unwrap(), self.sessions.len());
        let peer = Some(peer);
        self.sessions.push(Session {
            peer,
            byte,
            socket: None,
            receiving: false,
            sending: false,
            closed: false,
        });
    }

    /// Something to do for the kernel.
    fn begin(&mut self, index: usize) {
        let socket = self.sessions[index].socket.expect("it was accepted");
        if !self.chance.one_in(10) {
            self.sessions[index].receiving = true;
            self.driver.submit(token(index, RECEIVE), Op::Receive { socket });
        }
        if !self.chance.one_in(10) {
            let batch = self.batch(!self.sessions[index].byte);
            self.sessions[index].sending = true;
            self.driver.submit(token(index, SEND), Op::Send { socket, batch });
        }
        let (much, some) = (self.chance.below(40_000), self.chance.below(300));
        let len = if self.chance.one_in(3) { much } else { some };
        let session = &mut self.sessions[index];
        if let Some(peer) = &mut session.peer {
            feed(peer, session.byte, len);
        }
    }

    /// A batch of one small piece, one large, or several.
    #[expect(clippy::unnecessary_box_returns, reason = "batches move as boxes")]
    fn batch(&mut self, byte: u8) -> Box<SendBatch> {
        let mut batch = self.pool.take();
        let sizes = match self.chance.below(4) {
            0 => vec![self.chance.below(1_000) + 1],
            1 => vec![300_000],
            2 => (0..4).map(|_| self.chance.below(90_000) + 1_100).collect(),
            _ => (0..9).map(|_| self.chance.below(3_000) + 1).collect(),
        };
        for size in sizes {
            if self.chance.one_in(2) {
                batch.append_shared(vec![byte; size].into(), &mut self.pool);
            } else {
                batch.append(size, &mut self.pool, |out| out.resize(out.len() + size, byte));
            }
        }
        batch
    }

    fn kill(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let socket = session.socket.expect("it was accepted");
        self.tally.killed += 1;
        self.tally.receiving += u64::from(session.receiving);
        self.tally.sending += u64::from(session.sending);
        match self.chance.below(6) {
            0 => reset(session.peer.take()),
            1 => session.peer = None,
            2 => self.driver.cancel(socket, OpKind::Send),
            3 => self.driver.cancel(socket, OpKind::Receive),
            _ => look(session),
        }
        self.driver.submit(token(index, CLOSE), Op::Close { socket });
        // What comes now comes too late.
        let session = &mut self.sessions[index];
        match (self.chance.below(4), &mut session.peer) {
            (0, Some(peer)) => feed(peer, session.byte, 500),
            (1, Some(_)) => look(session),
            (2, _) => reset(session.peer.take()),
            _ => {}
        }
    }

    fn perhaps_step(&mut self) {
        if self.chance.one_in(4) {
            self.step(Duration::ZERO);
        }
        while self.held.len() > HELD_MAX || (!self.held.is_empty() && self.chance.one_in(2)) {
            self.give_back_one();
        }
    }

    /// The oldest lease or the newest: both ends of a buffer.
    fn give_back_one(&mut self) {
        let newest = self.chance.one_in(3);
        let held = if newest { self.held.pop_back() } else { self.held.pop_front() };
        let (lease, byte) = held.expect("there is one");
        assert!(all_are(self.driver.bytes(&lease), byte), "a lease did not keep its bytes");
        self.driver.recycle(lease);
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..WAITS_MAX {
            if done(self) {
                return;
            }
            // Those that ran dry need a buffer.
            if !self.held.is_empty() {
                self.give_back_one();
            }
            self.step(Duration::from_millis(1));
        }
        let left: Vec<_> = self.sessions.iter().enumerate().filter(|(_, session)| !session.closed).collect();
        panic!("not in time: {what}; {:?}; {left:?}", self.tally);
    }

    fn step(&mut self, timeout: Duration) {
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.wait(Some(timeout), &mut completions).unwrap();
        for Completion { token, outcome } in completions.drain(..) {
            self.complete(token, outcome);
        }
        self.completions = completions;
    }

    fn complete(&mut self, token: Token, outcome: Outcome) {
        let index = (token.0 >> 8) as usize;
        match outcome {
            Outcome::Accepted(accepted) => {
                let index = self.by_peer.remove(&accepted.peer.socket().unwrap()).expect("one of our peers");
                self.sessions[index].socket = Some(accepted.socket);
            }
            Outcome::Received(Received::Data(lease)) => {
                self.tally.leases += 1;
                let byte = self.sessions[index].byte;
                assert!(all_are(self.driver.bytes(&lease), byte), "bytes of someone else");
                self.held.push_back((lease, byte));
            }
            Outcome::Received(_) => self.sessions[index].receiving = false,
            Outcome::Sent(batch, _) => {
                self.sessions[index].sending = false;
                self.tally.sent_in_part += u64::from(batch.sent() > 0 && batch.remaining() > 0);
                self.pool.give(batch);
            }
            Outcome::Closed(result) => {
                let session = &mut self.sessions[index];
                assert_eq!((result, session.receiving, session.sending), (Ok(()), false, false));
                look(session);
                session.closed = true;
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }
}

fn token(index: usize, kind: u64) -> Token {
    Token((index as u64) << 8 | kind)
}

fn all_are(bytes: &[u8], byte: u8) -> bool {
    // The first is right, and each is as the one before it: whole comparisons in memory.
    bytes.first() == Some(&byte) && bytes[1..] == bytes[..bytes.len() - 1]
}

/// Writes as much of `len` as there is room for. The other side may be gone.
fn feed(peer: &mut TcpStream, byte: u8, len: usize) {
    match peer.write(&vec![byte; len]) {
        Ok(written) => assert!(written <= len),
        Err(error) => assert!(is_of_a_dead_session(error.kind()), "{error}"),
    }
}

/// Reads what is there, and looks at it.
fn look(session: &mut Session) {
    let Some(peer) = &mut session.peer else { return };
    let mut bytes = vec![0; 64 << 10];
    match peer.read(&mut bytes) {
        Ok(0) => {}
        Ok(count) => {
            assert!(all_are(&bytes[..count], !session.byte), "the peer got other bytes than were sent");
        }
        Err(error) => assert!(is_of_a_dead_session(error.kind()), "{error}"),
    }
}

fn is_of_a_dead_session(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn reset(peer: Option<TcpStream>) {
    if let Some(peer) = peer {
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn storm(driver: impl Driver) {
    let kills = number("ANYPORT_STORM_KILLS", KILLS);
    let kind = driver.kind();
    let mut storm = Storm::new(driver, number("ANYPORT_SEED", 1));
    while storm.tally.killed < kills {
        storm.round();
        if storm.tally.killed % TOLD_EACH < SESSIONS as u64 {
            println!("{kind:?}: {:?}", storm.tally);
        }
    }
    while !storm.held.is_empty() {
        storm.give_back_one();
    }
    println!("{kind:?}: {:?}; {:?}", storm.tally, counts());
    assert_eq!((storm.driver.sockets(), storm.driver.leases_out()), (1, 0));
    // It was a storm: most were busy when they were killed.
    assert!(storm.tally.receiving > kills / 4 && storm.tally.sending > kills / 20, "{:?}", storm.tally);
    assert!(storm.tally.sent_in_part > 0 && storm.tally.leases > kills / 4, "{:?}", storm.tally);
    assert_eq!(counts().unguarded, 0);
    assert!(counts().guarded as u64 > kills);
}

#[test]
fn io_uring_uses_nothing_that_was_freed() {
    storm(IoUring::new(CONFIG).unwrap());
}

#[test]
fn readiness_uses_nothing_that_was_freed() {
    storm(Readiness::new(CONFIG).unwrap());
}
