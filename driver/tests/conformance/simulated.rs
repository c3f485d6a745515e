//! The world of the simulator.

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use anyport_driver::{
    DriverConfig,
    sim::{Sim, SimNet, SimPeer, SimPeerListener},
};

use crate::bed::{End, Peer, PeerListener, World};

/// Steps that a simulated case may take.
const STEPS_MAX: usize = 300_000;

/// The simulator.
#[derive(Clone)]
pub(crate) struct Simulated(SimNet);

impl World for Simulated {
    type Driver = Sim;
    type Peer = SimPeer;
    type PeerListener = SimPeerListener;
    const NAME: &'static str = "sim";
    const SEEDS: Range<u64> = 0..4;
    const HUGE: usize = 2 << 20;

    fn new(seed: u64) -> Self {
        Self(SimNet::new(seed))
    }

    fn driver(&self, config: DriverConfig) -> Sim {
        self.0.driver(config)
    }

    fn connect(&self, address: SocketAddr) -> std::io::Result<SimPeer> {
        self.0.connect(address)
    }

    fn listen(&self, address: SocketAddr) -> SimPeerListener {
        self.0.listen(address).unwrap()
    }

    fn pass_time(&self) {
        self.0.advance(Duration::from_millis(1));
    }

    fn is_overdue(_: Instant, steps: usize) -> bool {
        steps > STEPS_MAX
    }
}

impl Peer for SimPeer {
    fn write(&mut self, bytes: &[u8]) -> usize {
        Self::write(self, bytes)
    }

    fn read(&mut self, most: usize, into: &mut Vec<u8>) -> Option<End> {
        if self.read_at_most(most, into) > 0 {
            None
        } else if self.is_reset() {
            Some(End::Reset)
        } else {
            self.is_end_of_stream().then_some(End::EndOfStream)
        }
    }

    fn shutdown_write(&mut self) {
        Self::shutdown_write(self);
    }

    fn close(self) {
        Self::close(self);
    }

    fn reset(self) {
        Self::reset(self);
    }

    fn local_address(&self) -> SocketAddr {
        Self::local_address(self)
    }
}

impl PeerListener for SimPeerListener {
    type Peer = SimPeer;

    fn accept(&mut self) -> Option<SimPeer> {
        Self::accept(self)
    }

    fn local_address(&self) -> SocketAddr {
        Self::local_address(self)
    }
}
