//! The simulator: sockets in memory, virtual time, one seed.
//!
//! A [`SimNet`] is a small internet on one thread. Drivers ([`Sim`]) live on it, and test code outside them
//! plays the other side: [`SimPeer`], [`SimPeerListener`]. What may differ from run to run on a real machine is
//! drawn from the net's seed: sizes of partial transfers, delays, the order of completions of different
//! sockets, capacities of buffers. The same seed and the same calls give the same completions.
//!
//! Time is virtual. It moves only inside [`Driver::wait`](crate::Driver::wait) and [`SimNet::advance`], from
//! event to event, and never while a completion is there to be delivered. A wait without a time-out returns at
//! once, with nothing, when nothing is left to happen. Drivers that share a net share its clock: a wait of one
//! moves the time of all, so whoever steps several keeps their time-outs short.
//!
//! | file | idea |
//! |---|---|
//! | `net` | connections, listeners, events: TCP as its users see it |
//! | `driver` | the contract on top: operations, leases, turns of sockets |
//! | `peer` | the other side, for test code |
//! | `behaviour` | what a net draws from |
//! | `random`, `queue`, `address` | chance, bytes in a buffer, whose an address is |

#![forbid(unsafe_code)]

mod address;
mod behaviour;
mod driver;
mod net;
mod peer;
mod queue;
mod random;

use std::{
    cell::RefCell,
    fmt, io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, SlabKey};

pub use behaviour::Behaviour;
pub use driver::Sim;
pub use peer::{SimPeer, SimPeerListener};

use crate::options::{DriverConfig, ListenOptions, SocketOptions};
use net::{Net, Opening, Owner};

/// A simulated network. Cheap to clone; every clone is the same network.
#[derive(Clone)]
pub struct SimNet {
    net: Rc<RefCell<Net>>,
}

impl SimNet {
    /// A quiet network.
    pub fn new(seed: u64) -> Self {
        Self::with_behaviour(seed, Behaviour::default())
    }

    /// A network that behaves as told.
    pub fn with_behaviour(seed: u64, behaviour: Behaviour) -> Self {
        Self { net: Rc::new(RefCell::new(Net::new(seed, behaviour))) }
    }

    /// The seed that replays this network.
    pub fn seed(&self) -> u64 {
        self.net.borrow().seed
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.net.borrow().now()
    }

    /// Virtual time since the network was made.
    pub fn elapsed(&self) -> Duration {
        self.net.borrow().elapsed()
    }

    /// How far the next event of the network is; zero if one is due.
    pub fn next_event_in(&self) -> Option<Duration> {
        let net = self.net.borrow();
        Some(net.next_event()?.saturating_sub(net.elapsed()))
    }

    /// A number from 0 to `max`, both possible, from the network's own chance: for whoever steps it.
    pub fn draw(&self, max: u64) -> u64 {
        self.net.borrow_mut().random.up_to(max)
    }

    /// Another driver on this network.
    pub fn driver(&self, config: DriverConfig) -> Sim {
        Sim::new(self.net.clone(), config)
    }

    /// Connects from outside to a listener on this network. As with a real system, the connection stands as
    /// soon as it is in the listener's backlog, accepted or not.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listens there, `TimedOut` if the backlog is full.
    pub fn connect(&self, address: SocketAddr) -> io::Result<SimPeer> {
        let mut net = self.net.borrow_mut();
        let end = net.open(address, &SocketOptions::default(), Owner::Outside).map_err(io_error)?;
        net.attempt(end);
        match net.end(end).opening {
            Opening::Done => Ok(SimPeer::new(self.net.clone(), end)),
            opening => {
                net.close(end);
                Err(io_error(if let Opening::Failed(kind) = opening { kind } else { FaultKind::TimedOut }))
            }
        }
    }

    /// Listens outside every driver, for what drivers connect to.
    ///
    /// # Errors
    /// `AddrInUse` or `AddrNotAvailable`.
    pub fn listen(&self, address: SocketAddr) -> io::Result<SimPeerListener> {
        let listener = self
            .net
            .borrow_mut()
            .listen(address, &ListenOptions::default(), Owner::Outside)
            .map_err(io_error)?;
        Ok(SimPeerListener::new(self.net.clone(), listener))
    }

    /// Lets virtual time pass without any driver's wait. What becomes complete is delivered by later waits.
    pub fn advance(&self, by: Duration) {
        let mut net = self.net.borrow_mut();
        let end = net.elapsed().saturating_add(by);
        net.run_due();
        while let Some(at) = net.next_event().filter(|at| *at <= end) {
            net.advance_to(at);
            net.run_due();
        }
        net.advance_to(end);
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let net = self.net.borrow();
        f.debug_struct("SimNet")
            .field("seed", &net.seed)
            .field("elapsed", &net.elapsed())
            .finish_non_exhaustive()
    }
}

/// One end of a simulated connection, between two drivers.
#[derive(Debug)]
pub(crate) struct SimEnd {
    net: u32,
    end: SlabKey,
    /// Once this is dropped, the net closes the end.
    alive: Arc<()>,
}

/// A failure in the terms of `std`.
fn io_error(kind: FaultKind) -> io::Error {
    let class = match kind {
        FaultKind::AddressInUse => io::ErrorKind::AddrInUse,
        FaultKind::AddressNotAvailable => io::ErrorKind::AddrNotAvailable,
        FaultKind::Refused => io::ErrorKind::ConnectionRefused,
        FaultKind::TimedOut => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(class, Fault::of(kind))
}
