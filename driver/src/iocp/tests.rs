//! What only this driver shows: what the kernel holds, and that it lets go of it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use anyport_core::SendBatch;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessHandleCount};

use super::*;
use crate::{
    SocketOptions,
    posting::ACCEPTS_POSTED,
    types::{Accepted, Received},
};

const ACCEPT: Token = Token(1);
const RECEIVE: Token = Token(2);
const SEND: Token = Token(3);
const CLOSE: Token = Token(4);
const CONNECT: Token = Token(5);

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> DriverConfig {
    DriverConfig {
        sockets_max: 256,
        receive_memory_bytes: 1 << 20,
        receive_buffer_bytes: 16 << 10,
        ..DriverConfig::DEFAULT
    }
}

struct Bench {
    driver: Iocp,
    listener: SocketKey,
    address: SocketAddr,
    /// Delivered, not yet looked at.
    inbox: VecDeque<Completion>,
}

impl Bench {
    fn new() -> Self {
        Self::on(Iocp::new(config()).unwrap())
    }

    fn on(mut driver: Iocp) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (listener, address) = driver.listen(&any.into(), &ListenOptions::default()).unwrap();
        let address = address.ip().unwrap();
        driver.submit(ACCEPT, Op::Accept { listener });
        Self { driver, listener, address, inbox: VecDeque::new() }
    }

    fn wait(&mut self, timeout: Duration) {
        let mut out = Vec::new();
        self.driver.wait(Some(timeout), &mut out).unwrap();
        self.inbox.extend(out);
    }

    /// The next completion, whatever it is.
    fn next(&mut self) -> Outcome {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.inbox.pop_front() {
                return completion.outcome;
            }
            assert!(Instant::now() < end, "nothing completed");
            self.wait(PATIENCE);
        }
    }

    fn pair(&mut self) -> (SocketKey, TcpStream) {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        match self.next() {
            Outcome::Accepted(Accepted { socket, .. }) => (socket, client),
            other => panic!("{other:?} instead of a connection"),
        }
    }

    fn send(&mut self, socket: SocketKey, bytes: &[u8]) {
        self.driver.submit(SEND, Op::Send { socket, batch: SendBatch::of(bytes) });
    }

    /// The bytes of the next completion, which must be a receive's.
    fn data(&mut self) -> Vec<u8> {
        match self.next() {
            Outcome::Received(Received::Data(lease)) => {
                let bytes = self.driver.bytes(&lease).to_vec();
                self.driver.recycle(lease);
                bytes
            }
            other => panic!("{other:?} instead of data"),
        }
    }

    fn close(&mut self, socket: SocketKey) {
        self.driver.submit(CLOSE, Op::Close { socket });
    }
}

/// Handles that this process has open.
fn handles() -> u32 {
    let mut count = 0;
    // SAFETY: the pseudo handle of this process is always valid.
    let this = unsafe { GetCurrentProcess() };
    // SAFETY: the count is written to a variable of ours.
    assert_ne!(unsafe { GetProcessHandleCount(this, &raw mut count) }, 0);
    count
}

#[test]
fn a_listener_has_its_accepts_posted_and_each_that_is_used_is_replaced() {
    let mut bench = Bench::new();
    assert_eq!((bench.driver.posted, bench.driver.slots.in_flight()), (ACCEPTS_POSTED, ACCEPTS_POSTED));
    let _pairs: Vec<_> = (0..3 * ACCEPTS_POSTED).map(|_| bench.pair()).collect();
    assert_eq!(bench.driver.posted, ACCEPTS_POSTED);
    let listener = bench.listener;
    bench.close(listener);
    assert!(matches!(bench.next(), Outcome::AcceptEnded(_)));
    assert!(matches!(bench.next(), Outcome::Closed(Ok(()))));
    assert_eq!((bench.driver.posted, bench.driver.slots.in_flight()), (0, 0));
}

#[test]
fn an_idle_session_holds_one_slot_and_no_memory() {
    let mut bench = Bench::new();
    let pairs: Vec<_> = (0..100).map(|_| bench.pair()).collect();
    for &(socket, _) in &pairs {
        bench.driver.submit(RECEIVE, Op::Receive { socket });
    }
    assert_eq!(bench.driver.slots.in_flight(), ACCEPTS_POSTED + pairs.len());
    assert_eq!(bench.driver.leases_out(), 0);
}

#[test]
fn a_cancelled_receive_leaves_the_wait_for_data_to_the_next_one() {
    let mut bench = Bench::new();
    let (socket, mut client) = bench.pair();
    for _ in 0..10 {
        bench.driver.submit(RECEIVE, Op::Receive { socket });
        assert_eq!(bench.driver.slots.in_flight(), ACCEPTS_POSTED + 1);
        bench.driver.cancel(socket, OpKind::Receive);
        assert!(matches!(bench.next(), Outcome::Received(Received::Failed(CANCELLED))));
    }
    // What comes while nobody receives is kept, and the packet of it does not end a wait for nothing.
    client.write_all(b"late").unwrap();
    let in_flight = |bench: &Bench| bench.driver.slots.in_flight();
    let end = Instant::now() + PATIENCE;
    while in_flight(&bench) > ACCEPTS_POSTED {
        assert!(Instant::now() < end, "no packet");
        bench.wait(Duration::from_millis(50));
    }
    assert!(bench.inbox.is_empty());
    bench.driver.submit(RECEIVE, Op::Receive { socket });
    assert_eq!(bench.data(), b"late");
}

#[test]
fn echoes_with_a_packet_for_every_operation_too() {
    // As on a machine whose provider of TCP is not the system's own.
    let mut driver = Iocp::new(config()).unwrap();
    driver.may_skip = false;
    let mut bench = Bench::on(driver);
    let (socket, mut client) = bench.pair();
    bench.driver.submit(RECEIVE, Op::Receive { socket });
    for round in 0..100_u32 {
        let ping = round.to_le_bytes().repeat(round as usize + 1);
        client.write_all(&ping).unwrap();
        let mut received = Vec::new();
        while received.len() < ping.len() {
            received.extend(bench.data());
        }
        bench.send(socket, &received);
        assert!(matches!(bench.next(), Outcome::Sent(_, Ok(()))));
        let mut echo = vec![0; ping.len()];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(echo, ping);
    }
    // 16 MiB: more than any buffer of the system, so that sends wait and go on.
    let large: Vec<u8> = (0..4_u32 << 20).flat_map(u32::to_le_bytes).collect();
    bench.send(socket, &large);
    let reader = std::thread::spawn(move || {
        let mut read = vec![0; 16 << 20];
        client.read_exact(&mut read).unwrap();
        (client, read)
    });
    assert!(matches!(bench.next(), Outcome::Sent(_, Ok(()))));
    // The client stays: its end would be another packet.
    let (_client, read) = reader.join().unwrap();
    assert!(read == large);
    assert_eq!(bench.driver.slots.in_flight(), ACCEPTS_POSTED + 1);
}

#[test]
fn an_accept_that_fails_is_replaced_without_a_word() {
    let mut bench = Bench::new();
    let key = bench.listener.0;
    // As many failures as there are accepts: what a wave of resets in the backlog looks like.
    for _ in 0..ACCEPTS_POSTED {
        bench.driver.accepted(STATUS_CONNECTION_RESET, key, spare(), &accept::Addresses::none());
    }
    bench.wait(Duration::ZERO);
    assert!(bench.inbox.is_empty(), "{:?}", bench.inbox);
    // The kernel has those that failed only here, and one more for each of them.
    assert_eq!((bench.driver.posted, bench.driver.slots.in_flight()), (ACCEPTS_POSTED, 2 * ACCEPTS_POSTED));
    bench.pair();
}

#[test]
fn accepts_that_all_fail_rest_and_say_so_once() {
    let mut bench = Bench::new();
    let key = bench.listener.0;
    for _ in 0..=ACCEPTS_POSTED {
        bench.driver.accepted(STATUS_CONNECTION_RESET, key, spare(), &accept::Addresses::none());
    }
    let fault = bench.next();
    assert!(
        matches!(fault, Outcome::AcceptFaulted(fault) if fault.kind == FaultKind::PeerReset),
        "{fault:?}"
    );
    assert!(bench.inbox.is_empty());
    assert!(bench.driver.next_rest_end().is_some());
    bench.pair();
}

const STATUS_CONNECTION_RESET: i32 = 0xC000_020D_u32.cast_signed();

/// A socket that an accept could have been posted with.
fn spare() -> Handle {
    winsock::open((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

#[test]
fn a_driver_that_goes_gives_every_handle_back() {
    let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let round = || {
        let mut bench = Bench::new();
        let pairs: Vec<_> = (0..20).map(|_| bench.pair()).collect();
        for (at, (socket, _)) in pairs.iter().enumerate() {
            let socket = *socket;
            match at % 3 {
                0 => bench.driver.submit(RECEIVE, Op::Receive { socket }),
                // More than the buffers of the system hold: it stays in flight.
                1 => bench.send(socket, &vec![0; 8 << 20]),
                _ => {}
            }
        }
        let address = outside.local_addr().unwrap();
        for _ in 0..5 {
            let socket = bench.driver.open(&address.into(), &SocketOptions::default()).unwrap();
            bench.driver.submit(CONNECT, Op::Connect { socket });
        }
        assert!(bench.driver.slots.in_flight() > ACCEPTS_POSTED);
        // Pairs go first: their sockets are the test's own.
        drop(pairs);
        drop(bench);
        outside.set_nonblocking(true).unwrap();
        while outside.accept().is_ok() {}
    };
    round();
    let before = handles();
    for _ in 0..5 {
        round();
    }
    // Other tests of this process come and go beside this one: a leak of these rounds would be hundreds.
    let after = handles();
    assert!(after < before + 200, "{before} handles before, {after} after");
}

#[test]
fn slots_are_as_many_as_were_in_flight_at_once_and_no_more() {
    let mut bench = Bench::new();
    let (socket, mut client) = bench.pair();
    bench.driver.submit(RECEIVE, Op::Receive { socket });
    for _ in 0..1_000 {
        client.write_all(b"ping").unwrap();
        assert_eq!(bench.data(), b"ping");
        bench.send(socket, b"pong");
        assert!(matches!(bench.next(), Outcome::Sent(_, Ok(()))));
        let mut pong = [0; 4];
        client.read_exact(&mut pong).unwrap();
    }
    assert_eq!(bench.driver.slots.made(), 64);
}
