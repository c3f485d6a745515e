//! The worlds of the simulator: a quiet one, and some with faults that change when things happen but not what.
#![cfg_attr(windows, allow(dead_code, reason = "only the quiet weather is run there; see main.rs"))]

use std::{
    marker::PhantomData,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use anyport_driver::{
    DriverConfig,
    sim::{Behaviour, FaultClass, Faults, Rate, Sim, SimNet, SimPeer, SimPeerListener},
};

use crate::bed::{Chance, End, Peer, PeerListener, World};

/// Steps that a simulated case may take.
const STEPS_MAX: usize = 300_000;

/// A simulator in some weather.
pub(crate) struct Simulated<W> {
    pub(crate) net: SimNet,
    weather: PhantomData<W>,
}

impl<W> Clone for Simulated<W> {
    fn clone(&self) -> Self {
        Self { net: self.net.clone(), weather: PhantomData }
    }
}

/// What a simulated world is like.
pub(crate) trait Weather {
    const NAME: &'static str;
    const SEEDS: Range<u64> = 0..2;
    fn net(seed: u64) -> SimNet;
}

/// Nothing goes wrong.
pub(crate) struct Quiet;

/// Everything comes at once or late, in small batches, to drivers that are woken for nothing.
pub(crate) struct Restless;

/// Everything takes its time: directions clog, buffers are short, cancels and closes linger.
pub(crate) struct Sluggish;

/// Random bytes decide everything, until they are used up.
pub(crate) struct Taped;

impl Weather for Quiet {
    const NAME: &'static str = "sim";
    const SEEDS: Range<u64> = 0..4;

    fn net(seed: u64) -> SimNet {
        SimNet::new(seed)
    }
}

/// Faults of these classes, half of the time, that last for a moment: less than a case gives what is to settle.
fn passing(classes: &[FaultClass]) -> Faults {
    let faults = Faults::default().with_times_max(Duration::from_millis(2));
    classes.iter().fold(faults, |faults, class| faults.with(*class, Rate::per_million(500_000)))
}

impl Weather for Restless {
    const NAME: &'static str = "sim_restless";

    fn net(seed: u64) -> SimNet {
        let faults = passing(&[FaultClass::Instant, FaultClass::SpuriousTurn, FaultClass::SmallBatch])
            .with(FaultClass::Late, Rate::per_million(20_000));
        SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults))
    }
}

impl Weather for Sluggish {
    const NAME: &'static str = "sim_sluggish";

    fn net(seed: u64) -> SimNet {
        let faults = passing(&[FaultClass::CancelLate, FaultClass::SlowClose])
            .with(FaultClass::Drought, Rate::per_million(100_000))
            .with(FaultClass::Clog, Rate::per_million(20_000));
        SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults))
    }
}

impl Weather for Taped {
    const NAME: &'static str = "sim_taped";

    fn net(seed: u64) -> SimNet {
        let mut chance = Chance::new(seed);
        let bytes = (0..8_000).flat_map(|_| chance.next().to_le_bytes()).collect();
        let faults = passing(&[FaultClass::Late, FaultClass::CancelLate, FaultClass::SmallBatch]);
        SimNet::with_tape(bytes, Behaviour::default().with_faults(faults))
    }
}

impl<W: Weather> World for Simulated<W> {
    type Driver = Sim;
    type Peer = SimPeer;
    type PeerListener = SimPeerListener;
    const NAME: &'static str = W::NAME;
    const SEEDS: Range<u64> = W::SEEDS;
    const HUGE: usize = 2 << 20;

    fn new(seed: u64) -> Self {
        Self { net: W::net(seed), weather: PhantomData }
    }

    fn driver(&self, config: DriverConfig) -> Sim {
        self.net.driver(config)
    }

    fn connect(&self, address: SocketAddr) -> std::io::Result<SimPeer> {
        self.net.connect(address)
    }

    fn listen(&self, address: SocketAddr) -> SimPeerListener {
        self.net.listen(address).unwrap()
    }

    fn pass_time(&self) {
        self.net.advance(Duration::from_millis(1));
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
