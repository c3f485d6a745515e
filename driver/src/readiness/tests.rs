//! The driver on real loopback sockets; the other ends are plain blocking sockets of the standard library.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyport_core::SendBatch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::{SocketOptions, types::Accepted};

const ACCEPT: Token = Token(1);
const RECEIVE: Token = Token(2);
const SEND: Token = Token(3);
const CLOSE: Token = Token(4);
const SHUTDOWN: Token = Token(5);
const CONNECT: Token = Token(6);

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must happen.
const QUIET: Duration = Duration::from_millis(30);

/// The peer's end has arrived.
#[cfg(target_os = "linux")]
const ENDED: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const ENDED: PollFlags = PollFlags::HUP;

fn small() -> DriverConfig {
    DriverConfig {
        sockets_max: 64,
        receive_memory_bytes: 1 << 20,
        receive_buffer_bytes: 64 << 10,
        ..DriverConfig::DEFAULT
    }
}

struct Bench {
    driver: Readiness,
    listener: SocketKey,
    address: SocketAddr,
    /// Delivered, not yet looked at.
    inbox: VecDeque<Completion>,
}

impl Bench {
    fn new(config: DriverConfig) -> Self {
        Self::with_options(config, SocketOptions::default())
    }

    fn with_options(config: DriverConfig, socket: SocketOptions) -> Self {
        let mut driver = Readiness::new(config).unwrap();
        let options = ListenOptions { socket, ..ListenOptions::default() };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (listener, address) = driver.listen(&any.into(), &options).unwrap();
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
    fn next(&mut self) -> Completion {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.inbox.pop_front() {
                return completion;
            }
            assert!(Instant::now() < end, "nothing completed");
            self.wait(PATIENCE);
        }
    }

    /// Waits, beside the driver, until the system says this of the socket.
    fn await_system(&self, SocketKey(key): SocketKey, what: PollFlags) {
        let socket = self.driver.sockets.get(key).unwrap();
        let patience = Timespec::try_from(PATIENCE).unwrap();
        let ready = poll(&mut [PollFd::new(&socket.fd, what)], Some(&patience)).unwrap();
        assert_eq!(ready, 1, "the system never said {what:?}");
    }

    fn assert_quiet(&mut self) {
        let end = Instant::now() + QUIET;
        while Instant::now() < end {
            self.wait(QUIET);
        }
        assert!(self.inbox.is_empty(), "{:?}", self.inbox);
    }

    fn accepted(&mut self) -> SocketKey {
        match self.next() {
            Completion { token: ACCEPT, outcome: Outcome::Accepted(Accepted { socket, .. }) } => socket,
            other => panic!("{other:?}"),
        }
    }

    fn pair(&mut self) -> (SocketKey, TcpStream) {
        let peer = TcpStream::connect(self.address).unwrap();
        peer.set_nodelay(true).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        (self.accepted(), peer)
    }

    fn receive(&mut self, socket: SocketKey) {
        self.driver.submit(RECEIVE, Op::Receive { socket });
    }

    fn send(&mut self, socket: SocketKey, bytes: &[u8]) {
        self.driver.submit(SEND, Op::Send { socket, batch: SendBatch::of(bytes) });
    }

    fn close(&mut self, socket: SocketKey) {
        self.driver.submit(CLOSE, Op::Close { socket });
    }

    fn received(&mut self) -> Received {
        match self.next() {
            Completion { token: RECEIVE, outcome: Outcome::Received(received) } => received,
            other => panic!("{other:?}"),
        }
    }

    /// The bytes of the next data, whose lease goes back at once.
    fn data(&mut self) -> Vec<u8> {
        match self.received() {
            Received::Data(lease) => {
                let bytes = self.driver.bytes(&lease).to_vec();
                self.driver.recycle(lease);
                bytes
            }
            other => panic!("{other:?}"),
        }
    }

    fn data_in_all(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend(self.data());
        }
        bytes
    }

    fn sent(&mut self) -> (Box<SendBatch>, Result<(), Fault>) {
        match self.next() {
            Completion { token: SEND, outcome: Outcome::Sent(batch, result) } => (batch, result),
            other => panic!("{other:?}"),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[test]
fn echoes_every_byte_of_many_sessions() {
    const SESSIONS: usize = 8;
    const ROUNDS: usize = 200;
    let mut bench = Bench::new(small());
    let address = bench.address;
    let peers: Vec<_> = (0..SESSIONS)
        .map(|seed| {
            thread::spawn(move || {
                let mut peer = TcpStream::connect(address).unwrap();
                peer.set_read_timeout(Some(PATIENCE)).unwrap();
                for round in 0..ROUNDS {
                    let question = pattern(1 + (seed * 7_919 + round * 613) % 9_000);
                    let mut answer = vec![0; question.len()];
                    peer.write_all(&question).unwrap();
                    peer.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, question);
                }
            })
        })
        .collect();
    let mut closed = 0;
    let mut backlog: HashMap<SocketKey, VecDeque<Vec<u8>>> = HashMap::new();
    let mut keys = Vec::new();
    // Tokens carry the session's number: operations of several sessions are in flight.
    while closed < SESSIONS {
        let Completion { token, outcome } = bench.next();
        match outcome {
            Outcome::Accepted(Accepted { socket, .. }) => {
                bench.driver.submit(Token(keys.len() as u64), Op::Receive { socket });
                keys.push(socket);
                backlog.insert(socket, VecDeque::new());
            }
            Outcome::Received(Received::Data(lease)) => {
                let socket = keys[token.0 as usize];
                let bytes = bench.driver.bytes(&lease).to_vec();
                bench.driver.recycle(lease);
                let queue = backlog.get_mut(&socket).unwrap();
                if queue.is_empty() {
                    bench.driver.submit(token, Op::Send { socket, batch: SendBatch::of(&bytes) });
                }
                queue.push_back(bytes);
            }
            Outcome::Sent(batch, result) => {
                assert_eq!((result, batch.remaining()), (Ok(()), 0));
                let socket = keys[token.0 as usize];
                let queue = backlog.get_mut(&socket).unwrap();
                queue.pop_front();
                if let Some(bytes) = queue.front() {
                    bench.driver.submit(token, Op::Send { socket, batch: SendBatch::of(bytes) });
                }
            }
            Outcome::Received(Received::EndOfStream) => bench.close(keys[token.0 as usize]),
            Outcome::Closed(Ok(())) => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    for peer in peers {
        peer.join().unwrap();
    }
    assert_eq!((bench.driver.sockets(), bench.driver.leases_out()), (1, 0));
}

#[test]
fn a_large_gathered_batch_goes_out_in_order_through_a_small_buffer() {
    let options = SocketOptions { send_buffer_bytes: Some(64 << 10), ..SocketOptions::default() };
    let mut bench = Bench::with_options(small(), options);
    let (socket, mut peer) = bench.pair();
    let all = pattern(3 << 20);
    let mut pool = anyport_core::ChunkPool::new();
    let mut batch = SendBatch::of(&all[..100]);
    for piece in all[100..].chunks(20_011) {
        batch.append_shared(piece.into(), &mut pool);
    }
    bench.driver.submit(SEND, Op::Send { socket, batch });
    bench.assert_quiet();
    let len = all.len();
    let reader = thread::spawn(move || {
        let mut read = vec![0; len];
        peer.read_exact(&mut read).unwrap();
        read
    });
    let (batch, result) = bench.sent();
    assert_eq!((result, batch.remaining()), (Ok(()), 0));
    assert!(reader.join().unwrap() == all);
}

#[test]
fn a_cancelled_send_tells_how_much_was_taken() {
    let options = SocketOptions { send_buffer_bytes: Some(64 << 10), ..SocketOptions::default() };
    let mut bench = Bench::with_options(small(), options);
    let (socket, mut peer) = bench.pair();
    bench.send(socket, &pattern(16 << 20));
    bench.assert_quiet();
    bench.driver.cancel(socket, OpKind::Send);
    let (batch, result) = bench.sent();
    assert_eq!(result, Err(Fault::of(FaultKind::Cancelled)));
    bench.close(socket);
    let mut read = Vec::new();
    peer.read_to_end(&mut read).unwrap();
    assert!(batch.sent() > 0 && batch.remaining() > 0);
    assert!(read == pattern(batch.sent()));
}

#[test]
fn data_and_the_end_that_come_together_are_both_seen() {
    for receive_first in [true, false] {
        let mut bench = Bench::new(small());
        let (socket, mut peer) = bench.pair();
        if receive_first {
            bench.receive(socket);
        }
        peer.write_all(b"last words").unwrap();
        drop(peer);
        bench.await_system(socket, ENDED);
        if !receive_first {
            bench.assert_quiet();
            bench.receive(socket);
        }
        assert_eq!(bench.data(), b"last words");
        assert!(matches!(bench.received(), Received::EndOfStream));
        // Without a new edge.
        bench.receive(socket);
        assert!(matches!(bench.received(), Received::EndOfStream));
    }
}

#[test]
fn a_reset_is_a_fault_of_the_peer() {
    let mut bench = Bench::new(small());
    let (socket, peer) = bench.pair();
    bench.receive(socket);
    bench.send(socket, b"never read");
    assert_eq!(bench.sent().1, Ok(()));
    assert_eq!(peer.peek(&mut [0]).unwrap(), 1);
    // Closing with something unread resets.
    drop(peer);
    match bench.received() {
        Received::Failed(fault) => assert_eq!(fault.kind, FaultKind::PeerReset),
        other => panic!("{other:?}"),
    }
    bench.send(socket, b"too late");
    let (batch, result) = bench.sent();
    assert_eq!((batch.sent(), result.unwrap_err().kind), (0, FaultKind::PeerReset));
}

#[test]
fn an_edge_of_a_closed_socket_does_nothing_to_the_slots_next_owner() {
    let mut bench = Bench::new(DriverConfig { sockets_max: 2, ..small() });
    let (first, mut first_peer) = bench.pair();
    bench.receive(first);
    // The descriptor lives on in a duplicate, so that closing it does not take it out of epoll.
    let duplicate = bench.driver.sockets.get(first.0).unwrap().fd.try_clone().unwrap();
    bench.close(first);
    assert!(matches!(bench.received(), Received::Failed(fault) if fault.kind == FaultKind::Cancelled));
    assert!(matches!(bench.next().outcome, Outcome::Closed(Ok(()))));
    let (second, mut second_peer) = bench.pair();
    assert_eq!((first.0.index, second.0.generation), (second.0.index, first.0.generation + 1));
    first_peer.write_all(b"for the dead").unwrap();
    bench.receive(second);
    bench.assert_quiet();
    assert!(!bench.driver.sockets.get(second.0).unwrap().readable);
    second_peer.write_all(b"for the living").unwrap();
    assert_eq!(bench.data(), b"for the living");
    drop(duplicate);
    bench.receive(first);
    assert!(matches!(bench.received(), Received::Failed(fault) if fault.kind == FaultKind::InvalidSocket));
}

#[test]
fn an_operation_is_in_flight_until_its_end_was_delivered() {
    let mut bench = Bench::new(small());
    let (socket, _peer) = bench.pair();
    bench.send(socket, b"one");
    bench.send(socket, b"two");
    assert!(bench.driver.detach(socket).is_none());
    assert_eq!(bench.sent().1, Ok(()));
    assert_eq!(bench.sent().1, Err(Fault::of(FaultKind::InvalidSocket)));
    bench.send(socket, b"three");
    assert_eq!(bench.sent().1, Ok(()));
    bench.receive(socket);
    bench.driver.cancel(socket, OpKind::Receive);
    bench.receive(socket);
    for kind in [FaultKind::Cancelled, FaultKind::InvalidSocket] {
        assert!(matches!(bench.received(), Received::Failed(fault) if fault.kind == kind));
    }
}

#[test]
fn close_ends_what_is_in_flight_first_and_in_order_for_the_peer() {
    let mut bench = Bench::new(small());
    let (socket, mut peer) = bench.pair();
    bench.receive(socket);
    bench.send(socket, b"farewell");
    bench.close(socket);
    bench.send(socket, b"after the end");
    assert_eq!(bench.sent().1, Ok(()));
    assert!(matches!(bench.received(), Received::Failed(fault) if fault.kind == FaultKind::Cancelled));
    assert!(matches!(bench.next().outcome, Outcome::Closed(Ok(()))));
    assert_eq!(bench.sent().1, Err(Fault::of(FaultKind::InvalidSocket)));
    let mut read = Vec::new();
    peer.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"farewell");
    let listener = bench.listener;
    bench.close(listener);
    assert!(
        matches!(bench.next().outcome, Outcome::AcceptEnded(fault) if fault.kind == FaultKind::Cancelled)
    );
    assert!(matches!(bench.next().outcome, Outcome::Closed(Ok(()))));
    assert_eq!(bench.driver.sockets(), 0);
}

#[test]
fn what_a_cancelled_receive_did_not_deliver_stays() {
    let mut bench = Bench::new(small());
    let (socket, mut peer) = bench.pair();
    bench.receive(socket);
    bench.assert_quiet();
    peer.write_all(b"stays").unwrap();
    bench.await_system(socket, PollFlags::IN);
    bench.driver.cancel(socket, OpKind::Receive);
    assert!(matches!(bench.received(), Received::Failed(fault) if fault.kind == FaultKind::Cancelled));
    bench.assert_quiet();
    bench.receive(socket);
    assert_eq!(bench.data(), b"stays");
}

#[test]
fn a_full_table_is_reported_and_accepting_goes_on_when_a_socket_closes() {
    let mut bench = Bench::new(DriverConfig { sockets_max: 2, ..small() });
    let (first, _first_peer) = bench.pair();
    // Full, but nobody was turned away.
    bench.assert_quiet();
    let mut second_peer = TcpStream::connect(bench.address).unwrap();
    let mut reports = 0;
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        bench.wait(end.saturating_duration_since(Instant::now()));
        for completion in bench.inbox.drain(..) {
            assert!(matches!(completion.outcome,
                Outcome::AcceptFaulted(fault) if fault.kind == FaultKind::NoDescriptors));
            reports += 1;
        }
    }
    // At 0, 10, 30, 70, 150, 310 and 630 ms; a slow machine misses some.
    assert!((2..=7).contains(&reports), "{reports} reports");
    bench.close(first);
    assert!(matches!(bench.next().outcome, Outcome::Closed(Ok(()))));
    let closed = Instant::now();
    let second = bench.accepted();
    // The timer would have taken till 1,130 ms.
    assert!(closed.elapsed() < Duration::from_millis(200));
    bench.receive(second);
    second_peer.write_all(b"here").unwrap();
    assert_eq!(bench.data(), b"here");
}

#[test]
fn sockets_without_memory_go_on_in_the_order_in_which_they_ran_dry() {
    const SESSIONS: usize = 6;
    let memory = DriverConfig { receive_buffer_bytes: 256, receive_memory_bytes: 512, ..small() };
    let mut bench = Bench::new(memory);
    let mut pairs: Vec<_> = (0..SESSIONS).map(|_| bench.pair()).collect();
    for (number, (socket, peer)) in pairs.iter_mut().enumerate() {
        bench.driver.submit(Token(number as u64), Op::Receive { socket: *socket });
        peer.write_all(&[number as u8; 256]).unwrap();
        bench.await_system(*socket, PollFlags::IN);
        bench.wait(Duration::ZERO);
    }
    let mut order = Vec::new();
    while order.len() < SESSIONS {
        // Two at a time are all that there is memory for.
        assert!(bench.driver.leases_out() <= 2);
        let Completion { token, outcome } = bench.next();
        let Outcome::Received(Received::Data(lease)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(bench.driver.bytes(&lease), [token.0 as u8; 256]);
        order.push(token.0);
        bench.driver.recycle(lease);
    }
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    bench.assert_quiet();
}

#[test]
fn a_flood_does_not_keep_others_from_being_served() {
    let mut bench = Bench::new(DriverConfig { receive_memory_bytes: 8 << 20, ..small() });
    let (flooded, mut noisy_peer) = bench.pair();
    let (quiet, mut peer) = bench.pair();
    bench.driver.submit(Token(100), Op::Receive { socket: flooded });
    bench.receive(quiet);
    let flood = thread::spawn(move || {
        let bytes = vec![7; 1 << 20];
        while noisy_peer.write_all(&bytes).is_ok() {}
    });
    for _ in 0..200 {
        peer.write_all(b"ping").unwrap();
        let end = Instant::now() + PATIENCE;
        let mut answered = false;
        while !answered {
            assert!(Instant::now() < end);
            let Completion { token, outcome } = bench.next();
            let Outcome::Received(Received::Data(lease)) = outcome else { panic!("{outcome:?}") };
            answered = token == RECEIVE;
            bench.driver.recycle(lease);
        }
    }
    bench.close(flooded);
    flood.join().unwrap();
}

#[test]
fn a_caller_that_always_sends_still_receives() {
    let mut bench = Bench::new(small());
    let (busy, _busy_peer) = bench.pair();
    let (socket, mut peer) = bench.pair();
    bench.receive(socket);
    bench.assert_quiet();
    peer.write_all(b"me too").unwrap();
    bench.await_system(socket, PollFlags::IN);
    bench.send(busy, b"more");
    let mut waits = 0;
    loop {
        bench.wait(PATIENCE);
        waits += 1;
        assert!(waits <= 3, "the system was not asked");
        for Completion { token, outcome } in std::mem::take(&mut bench.inbox) {
            match outcome {
                Outcome::Sent(..) => bench.send(busy, b"more"),
                Outcome::Received(Received::Data(lease)) if token == RECEIVE => {
                    bench.driver.recycle(lease);
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn no_wake_is_lost_and_none_is_needed_twice() {
    const ROUNDS: u32 = 5_000;
    let mut driver = Readiness::new(small()).unwrap();
    let waker = driver.waker();
    let (ask, asked) = std::sync::mpsc::channel::<u32>();
    let posted = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let waking = thread::spawn({
        let posted = posted.clone();
        move || {
            for round in asked {
                posted.store(round, std::sync::atomic::Ordering::Relaxed);
                waker.wake();
            }
        }
    });
    let mut out = Vec::new();
    for round in 1..=ROUNDS {
        ask.send(round).unwrap();
        let end = Instant::now() + PATIENCE;
        while posted.load(std::sync::atomic::Ordering::Relaxed) != round {
            assert!(Instant::now() < end, "the wake of round {round} was lost");
            driver.wait(Some(PATIENCE), &mut out).unwrap();
        }
    }
    drop(ask);
    waking.join().unwrap();
    assert!(out.is_empty());
    // A wake may have come too late for the wait that it was meant for, and so end one more.
    driver.wait(Some(QUIET), &mut out).unwrap();
    let start = Instant::now();
    driver.wait(Some(QUIET), &mut out).unwrap();
    assert!(start.elapsed() >= QUIET);
    driver.waker().wake();
    driver.wait(None, &mut out).unwrap();
}

#[test]
fn a_socket_moves_with_what_it_has_not_read() {
    let mut bench = Bench::new(small());
    let mut other = Bench::new(small());
    let (socket, mut peer) = bench.pair();
    peer.write_all(b"on the way").unwrap();
    bench.await_system(socket, PollFlags::IN);
    bench.assert_quiet();
    let moved = bench.driver.detach(socket).unwrap();
    assert!(bench.driver.detach(socket).is_none());
    assert_eq!(bench.driver.sockets(), 1);
    let socket = other.driver.adopt(moved).unwrap();
    other.receive(socket);
    assert_eq!(other.data(), b"on the way");
    other.send(socket, b"and back");
    assert_eq!(other.sent().1, Ok(()));
    let mut read = [0; 8];
    peer.read_exact(&mut read).unwrap();
    drop(peer);
    assert!(matches!(other.received(), Received::EndOfStream));
    bench.assert_quiet();
}

#[test]
fn connects_and_says_why_not() {
    let mut bench = Bench::new(small());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let socket = bench.driver.open(&address.into(), &SocketOptions::default()).unwrap();
    bench.driver.submit(CONNECT, Op::Connect { socket });
    assert!(matches!(bench.next().outcome, Outcome::Connected(Ok(()))));
    let (mut peer, _) = listener.accept().unwrap();
    bench.receive(socket);
    peer.write_all(b"hello").unwrap();
    assert_eq!(bench.data(), b"hello");
    drop(listener);
    let socket = bench.driver.open(&address.into(), &SocketOptions::default()).unwrap();
    bench.driver.submit(CONNECT, Op::Connect { socket });
    assert!(matches!(bench.next().outcome,
        Outcome::Connected(Err(fault)) if fault.kind == FaultKind::Refused));
    assert_eq!(bench.driver.sockets(), 3);
}

#[test]
fn shutting_down_waits_for_the_send_before_it() {
    let options = SocketOptions { send_buffer_bytes: Some(64 << 10), ..SocketOptions::default() };
    let mut bench = Bench::with_options(small(), options);
    let (socket, mut peer) = bench.pair();
    bench.receive(socket);
    let all = pattern(4 << 20);
    bench.send(socket, &all);
    bench.driver.submit(SHUTDOWN, Op::Shutdown { socket });
    bench.assert_quiet();
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        peer.read_to_end(&mut read).unwrap();
        peer.write_all(b"got it").unwrap();
        read
    });
    assert_eq!(bench.sent().1, Ok(()));
    assert!(matches!(bench.next(), Completion { token: SHUTDOWN, outcome: Outcome::ShutDown(Ok(())) }));
    assert_eq!(bench.data(), b"got it");
    assert!(matches!(bench.received(), Received::EndOfStream));
    assert!(reader.join().unwrap() == all);
    bench.send(socket, b"too late");
    assert_eq!(bench.sent().1.unwrap_err().kind, FaultKind::PeerReset);
}

#[test]
fn one_wait_delivers_a_bounded_number_and_the_rest_follows() {
    let mut bench = Bench::new(small());
    let dead = bench.pair().0;
    bench.close(dead);
    assert!(matches!(bench.next().outcome, Outcome::Closed(Ok(()))));
    for _ in 0..=2 * COMPLETIONS_MAX {
        bench.receive(dead);
    }
    for count in [COMPLETIONS_MAX, COMPLETIONS_MAX, 1] {
        bench.wait(PATIENCE);
        assert_eq!(bench.inbox.drain(..).count(), count);
    }
    bench.assert_quiet();
}

#[test]
fn a_wait_that_has_received_much_leaves_the_rest_for_the_next_and_everybody_comes_round() {
    const EACH: usize = 24 << 10;
    let mut bench = Bench::new(small());
    let mut pairs: Vec<_> = (0..7).map(|_| bench.pair()).collect();
    let token = |number: usize| Token(100 + number as u64);
    for (number, (socket, peer)) in pairs.iter_mut().enumerate() {
        bench.driver.submit(token(number), Op::Receive { socket: *socket });
        // The last one is silent until the others are being served.
        if number < 6 {
            peer.write_all(&pattern(EACH)).unwrap();
        }
    }
    for (socket, _) in &pairs[..6] {
        bench.await_system(*socket, PollFlags::IN);
    }
    let (mut came, mut bytes, mut late) = (Vec::new(), [0; 7], false);
    let end = Instant::now() + PATIENCE;
    while bytes.iter().sum::<usize>() < 6 * EACH + 1 {
        assert!(Instant::now() < end, "{bytes:?}");
        bench.wait(PATIENCE);
        let mut of_wait = 0;
        for Completion { token, outcome } in bench.inbox.drain(..) {
            let Outcome::Received(Received::Data(lease)) = outcome else { panic!("{outcome:?}") };
            let number = token.0 as usize - 100;
            bytes[number] += lease.len();
            of_wait += lease.len();
            if !came.contains(&number) {
                came.push(number);
            }
            bench.driver.recycle(lease);
        }
        // The one that goes beyond is not cut.
        assert!(of_wait < RECEIVE_WAIT_BYTES + EACH, "{of_wait}");
        if !std::mem::replace(&mut late, true) {
            pairs[6].1.write_all(b"x").unwrap();
            bench.await_system(pairs[6].0, PollFlags::IN);
        }
    }
    assert_eq!(came.len(), 7);
    assert_eq!(came.last(), Some(&6), "who was ready before comes before: {came:?}");
}

#[test]
fn sizes_that_cannot_work_are_refused_and_odd_ones_do() {
    let refused = Readiness::new(DriverConfig { receive_buffer_bytes: 0, ..small() });
    assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::InvalidInput);
    let odd = DriverConfig {
        sockets_max: u32::MAX,
        receive_buffer_bytes: 7,
        receive_memory_bytes: 0,
        ..DriverConfig::DEFAULT
    };
    let mut bench = Bench::new(odd);
    let (socket, mut peer) = bench.pair();
    bench.receive(socket);
    peer.write_all(&pattern(100)).unwrap();
    assert_eq!(bench.data_in_all(100), pattern(100));
    let mut none = Readiness::new(DriverConfig { sockets_max: 0, ..small() }).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    assert!(none.listen(&any.into(), &ListenOptions::default()).is_err());
}
