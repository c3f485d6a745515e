//! The simulator: sockets in memory, virtual time, one seed.
//!
//! A [`SimNet`] is a small internet on one thread. Drivers ([`Sim`]) live on it, and test code outside them
//! plays the other side: [`SimPeer`], [`SimPeerListener`]. What may differ from run to run on a real machine is
//! drawn from the net's seed: sizes of partial transfers, delays, the order of completions of different
//! sockets, capacities of buffers. The same seed and the same calls give the same completions, on every system
//! ([`SimNet::digest`] tells).
//!
//! What goes wrong is drawn as well, as far as [`Faults`] allow it. Whatever they do, a driver keeps the contract.
//! Each end of a connection has a label, and its faults depend on the seed, the label and what happened on that end,
//! but not on other connections. So a fault that fired has a name ([`FaultId`]) and can be left out of the next run
//! ([`SimNet::suppress`]), and a connection can be left out without changing what befalls the others: a failure can be
//! made small. A fuzzer decides everything itself ([`SimNet::with_tape`]).
//!
//! A path of a Unix socket ([`Address::Unix`]) is a name in the network; no file is made for it.
//!
//! Time is virtual. It moves only inside [`Driver::wait`](crate::Driver::wait) and [`SimNet::advance`], from
//! event to event, and never while a completion is there to be delivered. A wait without a time-out returns at
//! once, with nothing, when nothing is left to happen. Drivers that share a net share its clock: a wait of one
//! moves the time of all, so whoever steps several keeps their time-outs short.
//!
//! | file | idea |
//! |---|---|
//! | `net` | connections, listeners, events: TCP as its users see it |
//! | `weather` | what faults do to connections, and how they heal |
//! | `driver`, `turns`, `buffers` | the contract on top: operations, turns of sockets, leases |
//! | `disk`, `files` | files in memory, and the operations on them |
//! | `peer` | the other side, for test code |
//! | `behaviour`, `faults` | what a net draws from: what is ordinary, and what goes wrong |
//! | `chance`, `random`, `counts` | how it is drawn; how often each fault fired |
//! | `events`, `digest` | what is going to happen; a hash of all that did |
//! | `queue`, `address` | bytes in a buffer, whose an address is |

#![forbid(unsafe_code)]

mod address;
mod behaviour;
mod buffers;
mod chance;
mod counts;
mod digest;
mod disk;
mod driver;
mod events;
mod faults;
mod files;
mod net;
mod peer;
mod queue;
mod random;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod tests;
mod turns;
mod weather;

use std::{
    cell::RefCell,
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, SlabKey};

pub use behaviour::Behaviour;
pub use counts::{FaultCounts, FaultSite};
pub use driver::Sim;
pub use faults::{FaultClass, FaultId, FaultIdError, Faults, Rate};
pub use peer::{SimPeer, SimPeerListener};

use crate::address::Address;
use crate::options::{DriverConfig, ListenOptions, SocketOptions};
use chance::nanos;
use net::{Net, Opening};

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
        Self { net: Rc::new(RefCell::new(Net::new(seed, None, behaviour))) }
    }

    /// A network in which `bytes` decide what chance decides elsewhere, faults too. Once they are used up, and
    /// wherever they are 0, the quietest thing happens: no fault, no delay, all of a transfer at once. Whatever they
    /// are, drivers keep the contract: for fuzzers.
    pub fn with_tape(bytes: Vec<u8>, behaviour: Behaviour) -> Self {
        Self { net: Rc::new(RefCell::new(Net::new(0, Some(bytes), behaviour))) }
    }

    /// The seed that replays this network.
    pub fn seed(&self) -> u64 {
        self.net.borrow().seed
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.net.borrow().now()
    }

    /// A number from 0 to `max`, both possible, from the network's own chance: for whoever steps it.
    pub fn draw(&self, max: u64) -> u64 {
        self.net.borrow_mut().draw(max)
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
        let connection = self.net.borrow_mut().next_connection();
        self.connect_labelled(connection, address)
    }

    /// As [`connect`](Self::connect), to a Unix socket.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_unix(&self, path: impl Into<PathBuf>) -> io::Result<SimPeer> {
        let place = self.net.borrow_mut().place_of(&Address::Unix(path.into()));
        self.connect(place)
    }

    /// As [`connect`](Self::connect), with a number for the connection that the caller chooses: what is drawn for its
    /// two ends depends on the seed and on that. They have the labels `2 * connection`, here, and
    /// `2 * connection + 1`, with whoever accepts. Numbers from 2^40 are the net's own. Connections with one number,
    /// one after the other, meet with the same.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    /// If `connection` is 2^40 or more.
    pub fn connect_as(&self, connection: u64, address: SocketAddr) -> io::Result<SimPeer> {
        assert!(connection < net::PEERS_FIRST, "connection {connection}: number connections below 2^40");
        self.connect_labelled(connection, address)
    }

    fn connect_labelled(&self, connection: u64, address: SocketAddr) -> io::Result<SimPeer> {
        let mut net = self.net.borrow_mut();
        let end = net.open(connection, address, &SocketOptions::default()).map_err(io_error)?;
        net.attempt(end);
        match net.end(end).opening {
            Opening::Done => Ok(SimPeer::new(self.net.clone(), end)),
            opening => {
                net.close(end);
                let full = Fault::of(FaultKind::TimedOut);
                Err(io_error(if let Opening::Failed(fault) = opening { fault } else { full }))
            }
        }
    }

    /// Listens outside every driver, for what drivers connect to.
    ///
    /// # Errors
    /// `AddrInUse` or `AddrNotAvailable`.
    pub fn listen(&self, address: SocketAddr) -> io::Result<SimPeerListener> {
        let listener =
            self.net.borrow_mut().listen(address, &ListenOptions::default(), false).map_err(io_error)?;
        Ok(SimPeerListener::new(self.net.clone(), listener))
    }

    /// As [`listen`](Self::listen), at a Unix socket.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_unix(&self, path: impl Into<PathBuf>) -> io::Result<SimPeerListener> {
        let place = self.net.borrow_mut().place_of(&Address::Unix(path.into()));
        self.listen(place)
    }

    // Time.

    /// Lets virtual time pass without any driver's wait. What becomes complete is delivered by later waits.
    pub fn advance(&self, by: Duration) {
        let mut net = self.net.borrow_mut();
        let end = net.later(nanos(by));
        net.run_due();
        while let Some(at) = net.next_event().filter(|at| *at <= end) {
            net.advance_to(at);
            net.run_due();
        }
        net.advance_to(end);
    }

    /// How long from now the next event is, zero if one is due; `None` if nothing is left to happen. What has
    /// happened and no driver has looked at yet is not in it ([`Sim::has_work`]).
    pub fn next_event_in(&self) -> Option<Duration> {
        let net = self.net.borrow();
        net.next_event().map(|at| Duration::from_nanos(at.saturating_sub(net.now)))
    }

    /// The virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.net.borrow().elapsed()
    }

    // Faults.

    /// Other faults from now on. What the ones before have begun goes on.
    pub fn set_faults(&self, faults: Faults) {
        self.net.borrow_mut().chance.set_faults(faults);
    }

    /// No fault fires from now on, and what lasts is over at once: clogs, silences, droughts. What is late already
    /// still comes, within the longest times of the faults. For the second phase of a test, in which everything must
    /// come to rest.
    pub fn calm(&self) {
        self.net.borrow_mut().calm();
    }

    /// Begins to remember which faults fire, or stops and forgets them. Off at first.
    pub fn record_faults(&self, on: bool) {
        self.net.borrow_mut().chance.record(on);
    }

    /// The faults that fired since [`record_faults`](Self::record_faults), in order.
    pub fn faults_fired(&self) -> Vec<FaultId> {
        self.net.borrow().chance.fired().to_vec()
    }

    /// These faults do not fire. What would have followed from them differs then, but not whether any other fires at
    /// its own opportunity.
    pub fn suppress(&self, faults: impl IntoIterator<Item = FaultId>) {
        self.net.borrow_mut().chance.suppress(faults);
    }

    /// How often each fault fired, and where.
    pub fn fault_counts(&self) -> FaultCounts {
        self.net.borrow().chance.counts().clone()
    }

    // Files.

    /// The bytes of a file, `None` if there is none of that name. Files of all drivers on this network are on one disk,
    /// and stay when drivers go.
    pub fn file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.net.borrow().disk.read(path.as_ref()).map(<[u8]>::to_vec)
    }

    /// What of a file a loss of power would leave for certain: what it had at the end of the last sync.
    pub fn file_synced(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.net.borrow().disk.synced(path.as_ref()).map(<[u8]>::to_vec)
    }

    /// The names of all files, in order.
    pub fn file_names(&self) -> Vec<PathBuf> {
        self.net.borrow().disk.names()
    }

    /// Room on the disk for so many bytes more; `None`, as at first, is without bound.
    pub fn set_disk_room(&self, bytes: Option<u64>) {
        self.net.borrow_mut().disk.room = bytes;
    }

    // What happened.

    /// Events that happened so far.
    pub fn steps(&self) -> u64 {
        self.net.borrow().steps
    }

    /// A hash of every event and of every completion that was delivered, with its time. The same seed and the same
    /// calls give the same one, on every system and in every build.
    pub fn digest(&self) -> u64 {
        self.net.borrow().digest.finish()
    }

    /// Submissions to any driver of this network that ended as [`FaultKind::InvalidSocket`]: a correct user of a
    /// driver makes none.
    pub fn invalid_submissions(&self) -> u64 {
        self.net.borrow().invalid_submissions
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
fn io_error(fault: Fault) -> io::Error {
    let class = match fault.kind {
        FaultKind::AddressInUse => io::ErrorKind::AddrInUse,
        FaultKind::AddressNotAvailable => io::ErrorKind::AddrNotAvailable,
        FaultKind::Refused => io::ErrorKind::ConnectionRefused,
        FaultKind::TimedOut => io::ErrorKind::TimedOut,
        FaultKind::NotPermitted => io::ErrorKind::PermissionDenied,
        FaultKind::NoMemory => io::ErrorKind::OutOfMemory,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(class, fault)
}
