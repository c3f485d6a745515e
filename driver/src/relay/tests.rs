//! Both halves, on the simulator, where sleeping for ever is noticed.

use std::{
    io,
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

impl Pump for Shard {
    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn pump(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = timeout.map(|timeout| self.now() + timeout);
        for _ in 0..PATIENCE {
            self.turn()?;
            if self.waker.awake() || deadline.is_some_and(|deadline| deadline <= self.now()) {
                return Ok(());
            }
            self.net.advance(Duration::from_millis(1));
        }
        panic!("the relay sleeps for ever");
    }

    fn now(&self) -> Instant {
        self.io.now()
    }
}

/// A relay on one shard, with a listener.
struct Bench {
    relay: Relay,
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
        let mut relay = Relay::new(vec![seat], config, Box::new(shard));
        let any: Address = "127.0.0.1:0".parse().expect("an address");
        let (listener, bound) = relay.listen(&any, &ListenOptions::default()).expect("the address is free");
        relay.submit(ACCEPT, Op::Accept { listener });
        Self { relay, net, address: bound.ip().expect("of the net") }
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
    let config = DriverConfig { sockets_max: 8, receive_memory_bytes: BUFFER, receive_buffer_bytes: BUFFER };
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
