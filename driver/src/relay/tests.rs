//! Both halves, on the simulator, where sleeping for ever is noticed.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    Address, Completion, Driver, DriverConfig, ListenOptions, Op, Outcome, Received, SocketKey, Token, Waker,
    sim::{Sim, SimNet, SimPeer},
};

const ACCEPT: Token = Token(1);
const RECEIVE: Token = Token(2);
/// Milliseconds without news after which there will be none.
const PATIENCE: usize = 1_000;

/// The I/O shard, which the relay steps when it sleeps.
struct Shard {
    net: SimNet,
    io: Sim,
    end: RelayEnd,
    waker: Waker,
}

impl Shard {
    fn turn(&mut self) -> io::Result<()> {
        let mut completions = Vec::new();
        self.io.wait(Some(Duration::ZERO), &mut completions)?;
        for completion in completions {
            self.end.complete(&mut self.io, completion);
        }
        self.end.take_orders(&mut self.io);
        self.end.flush();
        Ok(())
    }
}

impl Pump for Rc<RefCell<Shard>> {
    fn waker(&self) -> Waker {
        self.borrow().waker.clone()
    }

    fn pump(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = timeout.map(|timeout| self.now() + timeout);
        for _ in 0..PATIENCE {
            let mut shard = self.borrow_mut();
            shard.turn()?;
            if shard.waker.awake() || deadline.is_some_and(|deadline| deadline <= shard.io.now()) {
                return Ok(());
            }
            shard.net.advance(Duration::from_millis(1));
        }
        panic!("the relay sleeps for ever");
    }

    fn now(&self) -> Instant {
        self.borrow().io.now()
    }
}

/// A relay on one shard, with a listener.
struct Bench {
    relay: Relay,
    shard: Rc<RefCell<Shard>>,
    net: SimNet,
    address: std::net::SocketAddr,
}

impl Bench {
    fn new(config: DriverConfig) -> Self {
        let net = SimNet::new(1);
        let io = net.driver(config);
        let (seat, end) = link();
        let end = RelayEnd::new(end, config, 0, io.waker());
        let shard = Shard { net: net.clone(), io, end, waker: Waker::new(|| Ok(())) };
        let shard = Rc::new(RefCell::new(shard));
        let mut relay = Relay::new(vec![seat], config, Box::new(Rc::clone(&shard)));
        let any: Address = "127.0.0.1:0".parse().expect("an address");
        let (listener, bound) = relay.listen(&any, &ListenOptions::default()).expect("the address is free");
        relay.submit(ACCEPT, Op::Accept { listener });
        Self { relay, shard, net, address: bound.ip().expect("of the net") }
    }

    /// A wait that only news ends.
    fn wait(&mut self) -> Vec<Completion> {
        let mut completions = Vec::new();
        self.relay.wait(None, &mut completions).expect("the simulator works");
        completions
    }

    /// A connection that receives.
    fn pair(&mut self) -> (SocketKey, SimPeer) {
        let peer = self.net.connect(self.address).expect("it listens");
        let completions = self.wait();
        let [Completion { token: ACCEPT, outcome: Outcome::Accepted(accepted) }] = completions[..] else {
            panic!("{completions:?}");
        };
        self.relay.submit(RECEIVE, Op::Receive { socket: accepted.socket });
        (accepted.socket, peer)
    }

    /// Takes what was received and gives the buffers back. Says how many bytes came.
    fn take(&mut self, completions: Vec<Completion>) -> usize {
        let mut bytes = 0;
        for completion in completions {
            match completion {
                Completion { token: RECEIVE, outcome: Outcome::Received(Received::Data(lease)) } => {
                    bytes += lease.len();
                    self.relay.recycle(lease);
                }
                other => panic!("{other:?}"),
            }
        }
        bytes
    }
}

#[test]
fn a_link_that_starves_while_the_relay_sleeps_gets_its_buffers_back() {
    const BUFFER: usize = 64 << 10;
    let config = DriverConfig {
        sockets_max: 8,
        receive_memory_bytes: BUFFER,
        receive_buffer_bytes: BUFFER,
        ..DriverConfig::DEFAULT
    };
    let mut bench = Bench::new(config);
    let (_, mut peer) = bench.pair();
    for round in 0..4 {
        // The handler answers nothing: no order takes the buffer along.
        assert_eq!(peer.write(&[round; 40]), 40);
        let mut received = 0;
        while received < 40 {
            let completions = bench.wait();
            received += bench.take(completions);
        }
    }
}

#[test]
fn however_many_peers_flood_a_thread_that_is_busy_what_is_kept_for_it_is_bounded() {
    const MEMORY: usize = 64 << 10;
    const PEERS: usize = 200;
    const BYTES: usize = 24 << 10;
    let config = DriverConfig {
        sockets_max: 1_000,
        receive_memory_bytes: MEMORY,
        receive_buffer_bytes: 4 << 10,
        ..DriverConfig::DEFAULT
    };
    let mut bench = Bench::new(config);
    let mut peers: Vec<_> = (0..PEERS).map(|_| (bench.pair().1, 0)).collect();
    // They receive before anything comes.
    bench.relay.wait(Some(Duration::from_millis(50)), &mut Vec::new()).expect("the simulator works");
    let write = |peers: &mut Vec<(SimPeer, usize)>| {
        for (peer, written) in peers {
            *written += peer.write(&vec![1; BYTES - *written]);
        }
    };
    // The thread is at something else: the shard has its turns, and nothing comes back.
    let mut most = 0;
    for _ in 0..500 {
        write(&mut peers);
        let mut shard = bench.shard.borrow_mut();
        shard.turn().expect("the simulator works");
        shard.net.advance(Duration::from_micros(100));
        most = most.max(shard.end.kept());
    }
    assert!(most > MEMORY, "there was more than could be handed over: {most}");
    // Twice the memory, what one wait gives, and what arrives while the cancels do.
    assert!(most <= 4 * MEMORY, "{most} bytes kept");
    // Nobody is forgotten, and no byte lost.
    let mut received = 0;
    while received < PEERS * BYTES {
        write(&mut peers);
        let completions = bench.wait();
        received += bench.take(completions);
    }
    assert_eq!(received, PEERS * BYTES);
    let shard = bench.shard.borrow();
    assert_eq!(shard.end.kept(), 0);
}
