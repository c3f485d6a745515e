//! The driver with peers on the same thread, and on others.

use std::io::{ErrorKind, Read, Write};

use anyport_core::ChunkPool;

use super::*;

const ACCEPT: Token = Token(1);
const RECEIVE: Token = Token(2);
const SEND: Token = Token(3);
const SHUTDOWN: Token = Token(4);
const CLOSE: Token = Token(5);

struct Bench {
    driver: Pipes,
    hub: PipeHub,
    listener: SocketKey,
    out: VecDeque<Completion>,
}

impl Bench {
    fn new(sockets_max: u32) -> Self {
        let hub = PipeHub::new();
        let config = DriverConfig {
            sockets_max,
            receive_memory_bytes: 8 << 10,
            receive_buffer_bytes: 4 << 10,
            ..DriverConfig::DEFAULT
        };
        let mut driver = Pipes::new(&hub, config);
        let any = Address::Unix("anywhere".into());
        let (listener, _) = driver.listen(&any, &ListenOptions::default()).unwrap();
        driver.submit(ACCEPT, Op::Accept { listener });
        Self { driver, hub, listener, out: VecDeque::new() }
    }

    fn poll(&mut self) {
        let mut out = Vec::new();
        self.driver.wait(Some(Duration::ZERO), &mut out).unwrap();
        self.out.extend(out);
    }

    /// What completes next, within a bounded number of waits.
    fn next(&mut self) -> (Token, Outcome) {
        for _ in 0..100 {
            if let Some(completion) = self.out.pop_front() {
                return (completion.token, completion.outcome);
            }
            self.poll();
        }
        panic!("nothing completed");
    }

    fn pair(&mut self) -> (SocketKey, PipePeer) {
        let mut peer = self.hub.connect().unwrap();
        peer.set_nonblocking(true);
        match self.next() {
            (ACCEPT, Outcome::Accepted(accepted)) => {
                assert_eq!(accepted.peer, PeerAddress::Unix);
                (accepted.socket, peer)
            }
            other => panic!("{other:?}"),
        }
    }

    fn data(&mut self) -> Vec<u8> {
        match self.next() {
            (RECEIVE, Outcome::Received(Received::Data(lease))) => {
                let bytes = self.driver.bytes(&lease).to_vec();
                self.driver.recycle(lease);
                bytes
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, socket: SocketKey, bytes: &[u8]) {
        let mut pool = ChunkPool::new();
        let mut batch = pool.take();
        batch.append(bytes.len(), &mut pool, |out| out.extend_from_slice(bytes));
        self.driver.submit(SEND, Op::Send { socket, batch });
    }
}

#[test]
fn bytes_go_both_ways_and_the_end_after_them() {
    let mut bench = Bench::new(8);
    let (socket, mut peer) = bench.pair();
    bench.driver.submit(RECEIVE, Op::Receive { socket });
    assert_eq!(peer.write(b"hello").unwrap(), 5);
    assert_eq!(bench.data(), b"hello");
    bench.send(socket, b"welcome");
    bench.driver.submit(SHUTDOWN, Op::Shutdown { socket });
    assert!(matches!(bench.next(), (SEND, Outcome::Sent(_, Ok(())))));
    assert!(matches!(bench.next(), (SHUTDOWN, Outcome::ShutDown(Ok(())))));
    let mut got = Vec::new();
    assert_eq!(peer.read_to_end(&mut got).unwrap(), 7);
    assert_eq!(got, b"welcome");
    peer.write_all(b"last").unwrap();
    peer.shutdown_write();
    assert_eq!(bench.data(), b"last");
    assert!(matches!(bench.next(), (RECEIVE, Outcome::Received(Received::EndOfStream))));
    bench.driver.submit(CLOSE, Op::Close { socket });
    assert!(matches!(bench.next(), (CLOSE, Outcome::Closed(Ok(())))));
    assert_eq!((bench.driver.sockets(), bench.driver.leases_out()), (1, 0));
}

#[test]
fn a_slow_reader_holds_the_send_back_and_gets_every_byte() {
    let mut bench = Bench::new(8);
    let (socket, mut peer) = bench.pair();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    bench.send(socket, &bytes);
    let (mut got, mut sent) = (Vec::new(), false);
    for _ in 0..10_000 {
        bench.poll();
        sent |= bench.out.pop_front().is_some_and(|done| matches!(done.outcome, Outcome::Sent(_, Ok(()))));
        let mut piece = [0; 5_000];
        match peer.read(&mut piece) {
            Ok(count) => got.extend_from_slice(&piece[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(!sent || got.len() + pipe::CAPACITY >= bytes.len(), "it ended before all was taken");
        if got.len() == bytes.len() {
            break;
        }
    }
    assert!(got == bytes && sent);
    // The other way, too.
    assert_eq!(peer.write(&bytes).unwrap(), pipe::CAPACITY);
    assert_eq!(peer.write(&bytes).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_send_behind_a_shutdown_of_the_same_turn_fails_and_sends_nothing() {
    let mut bench = Bench::new(8);
    let (socket, mut peer) = bench.pair();
    bench.driver.submit(SHUTDOWN, Op::Shutdown { socket });
    bench.send(socket, b"too late");
    let mut ends = [bench.next(), bench.next()];
    ends.sort_by_key(|(token, _)| token.0);
    let [(SEND, Outcome::Sent(batch, Err(RESET))), (SHUTDOWN, Outcome::ShutDown(Ok(())))] = &ends else {
        panic!("{ends:?}");
    };
    assert_eq!(batch.sent(), 0);
    assert_eq!(peer.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn who_leaves_something_unread_resets() {
    let mut bench = Bench::new(8);
    let (socket, peer) = bench.pair();
    bench.send(socket, b"never read");
    assert!(matches!(bench.next(), (SEND, Outcome::Sent(_, Ok(())))));
    bench.driver.submit(RECEIVE, Op::Receive { socket });
    drop(peer);
    assert!(matches!(bench.next(), (RECEIVE, Outcome::Received(Received::Failed(fault))) if fault == RESET));
    bench.send(socket, b"to nobody");
    assert!(matches!(bench.next(), (SEND, Outcome::Sent(_, Err(fault))) if fault == RESET));
    let (socket, mut peer) = bench.pair();
    peer.write_all(b"never read").unwrap();
    bench.driver.submit(CLOSE, Op::Close { socket });
    assert!(matches!(bench.next(), (CLOSE, Outcome::Closed(Ok(())))));
    assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn close_and_cancel_join_what_is_in_flight() {
    let mut bench = Bench::new(8);
    let (socket, mut peer) = bench.pair();
    bench.driver.submit(RECEIVE, Op::Receive { socket });
    bench.driver.cancel(socket, OpKind::Receive);
    // Until its end is out it is in flight.
    bench.driver.submit(Token(9), Op::Receive { socket });
    assert!(
        matches!(bench.next(), (RECEIVE, Outcome::Received(Received::Failed(fault))) if fault == CANCELLED)
    );
    assert!(
        matches!(bench.next(), (Token(9), Outcome::Received(Received::Failed(fault))) if fault == INVALID)
    );
    peer.write_all(b"stays").unwrap();
    bench.driver.submit(RECEIVE, Op::Receive { socket });
    assert_eq!(bench.data(), b"stays");
    bench.send(socket, &vec![7; 200_000]);
    bench.poll();
    bench.driver.submit(CLOSE, Op::Close { socket });
    let ends: Vec<_> = (0..3).map(|_| bench.next().0).collect();
    assert_eq!(ends, [RECEIVE, SEND, CLOSE]);
    bench.driver.submit(RECEIVE, Op::Receive { socket });
    assert!(
        matches!(bench.next(), (RECEIVE, Outcome::Received(Received::Failed(fault))) if fault == INVALID)
    );
}

#[test]
fn a_shortage_of_places_and_of_memory_passes() {
    let mut bench = Bench::new(3);
    let (first, mut one) = bench.pair();
    let (second, mut two) = bench.pair();
    let _third = bench.hub.connect().unwrap();
    assert!(matches!(bench.next(), (ACCEPT, Outcome::AcceptFaulted(_))));
    bench.poll();
    assert!(bench.out.is_empty(), "it is told once");
    for socket in [first, second] {
        bench.driver.submit(RECEIVE, Op::Receive { socket });
    }
    one.write_all(&vec![1; 60_000]).unwrap();
    two.write_all(&vec![2; 60_000]).unwrap();
    let (mut held, mut counts) = (Vec::new(), [0; 3]);
    for _ in 0..1_000 {
        bench.poll();
        while let Some(completion) = bench.out.pop_front() {
            let Outcome::Received(Received::Data(lease)) = completion.outcome else {
                panic!("{completion:?}")
            };
            counts[usize::from(bench.driver.bytes(&lease)[0])] += lease.len();
            held.push(lease);
        }
        held.drain(..).for_each(|lease| bench.driver.recycle(lease));
    }
    assert_eq!(counts, [0, 60_000, 60_000]);
    bench.driver.submit(CLOSE, Op::Close { socket: first });
    assert!(matches!(bench.next(), (RECEIVE, Outcome::Received(Received::Failed(_)))));
    assert!(matches!(bench.next(), (CLOSE, Outcome::Closed(Ok(())))));
    assert!(matches!(bench.next(), (ACCEPT, Outcome::Accepted(_))));
}

#[test]
fn a_closed_listener_and_a_dropped_driver_refuse() {
    let mut bench = Bench::new(8);
    let (_, mut peer) = bench.pair();
    let listener = bench.listener;
    let mut waiting = bench.hub.connect().unwrap();
    bench.driver.submit(CLOSE, Op::Close { socket: listener });
    assert!(matches!(bench.next(), (ACCEPT, Outcome::AcceptEnded(_))));
    assert!(matches!(bench.next(), (CLOSE, Outcome::Closed(Ok(())))));
    assert_eq!(bench.hub.connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let Bench { driver, hub, .. } = bench;
    drop(driver);
    assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(hub.connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn peers_on_other_threads_wake_a_driver_that_sleeps() {
    const PEERS: usize = 4;
    const ROUNDS: usize = 200;
    let mut bench = Bench::new(64);
    let peers: Vec<_> = (0..PEERS)
        .map(|_| {
            let hub = bench.hub.clone();
            std::thread::spawn(move || {
                let mut peer = hub.connect().unwrap();
                peer.set_timeout(Some(Duration::from_secs(20)));
                for round in 0..ROUNDS {
                    let line = [round as u8; 9];
                    peer.write_all(&line).unwrap();
                    let mut back = [0; 9];
                    peer.read_exact(&mut back).unwrap();
                    assert_eq!(back, line);
                }
            })
        })
        .collect();
    let (mut ended, mut out) = (0, Vec::new());
    let start = Instant::now();
    while ended < PEERS {
        assert!(start.elapsed() < Duration::from_mins(1), "{ended} of {PEERS} ended");
        bench.driver.wait(Some(Duration::from_secs(20)), &mut out).unwrap();
        for Completion { token, outcome } in out.drain(..) {
            match outcome {
                Outcome::Accepted(Accepted { socket, .. }) => {
                    let token = Token(u64::from(socket.0.index) << 32 | u64::from(socket.0.generation));
                    bench.driver.submit(token, Op::Receive { socket });
                }
                Outcome::Received(Received::Data(lease)) => {
                    let bytes = bench.driver.bytes(&lease).to_vec();
                    bench.driver.recycle(lease);
                    let key = SlabKey { index: (token.0 >> 32) as u32, generation: token.0 as u32 };
                    bench.send(SocketKey(key), &bytes);
                }
                Outcome::Received(Received::EndOfStream) => ended += 1,
                Outcome::Sent(_, result) => result.unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }
    for peer in peers {
        peer.join().unwrap();
    }
}
