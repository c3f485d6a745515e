//! The relay as a driver under test, in front of every other one: with both halves on one thread, stepped in turn, and
//! with a thread for each.

use std::{
    any::Any,
    io,
    marker::PhantomData,
    net::SocketAddr,
    ops::Range,
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyport_driver::{
    Completion, Driver, DriverConfig, FileOptions, Waker,
    relay::{EndSeat, Parked, Pump, Relay, RelayEnd, link},
};

use crate::{bed::World, system::System};

/// Any: what is not asked for its prefix must not come.
const PREFIX: u32 = 0x0715_0000;

/// The I/O side: an end of the relay on a driver, and nothing else.
struct IoSide<D: Driver> {
    // In this order: the end first, as when a shard ends.
    end: RelayEnd,
    io: D,
    completions: Vec<Completion>,
}

impl<D: Driver> IoSide<D> {
    fn new(seat: EndSeat, io: D, config: DriverConfig) -> Self {
        Self { end: RelayEnd::new(seat, config, PREFIX, io.waker()), io, completions: Vec::new() }
    }

    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.end.take_orders(&mut self.io);
        self.end.flush();
        if self.end.is_finished() {
            return Ok(());
        }
        self.io.wait(timeout, &mut self.completions)?;
        for completion in self.completions.drain(..) {
            assert_eq!((completion.token.0 >> 32) as u32, PREFIX, "a token that nobody gave");
            self.end.complete(&mut self.io, completion);
        }
        self.end.take_orders(&mut self.io);
        self.end.flush();
        Ok(())
    }
}

/// Both halves on one thread: waiting for the other side is stepping it.
impl<D: Driver> Pump for IoSide<D> {
    fn waker(&self) -> Waker {
        self.io.waker()
    }

    fn pump(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.turn(timeout)
    }

    fn now(&self) -> Instant {
        self.io.now()
    }
}

/// The world of another driver, with the relay in front of it, on one thread.
pub(crate) struct Stepped<W>(pub(crate) W);

impl<W: World> Clone for Stepped<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: World<Driver: 'static>> World for Stepped<W> {
    type Driver = Relay;
    type Peer = W::Peer;
    type PeerListener = W::PeerListener;
    const NAME: &'static str = W::NAME;
    const SEEDS: Range<u64> = W::SEEDS;
    const HUGE: usize = W::HUGE;

    fn module() -> String {
        format!("relay_{}", W::module())
    }

    fn new(seed: u64) -> Self {
        Self(W::new(seed))
    }

    fn driver(&self, config: DriverConfig) -> Relay {
        let (seat, end) = link();
        let io = IoSide::new(end, self.0.driver(config), config);
        Relay::new(vec![seat], config, Box::new(io))
    }

    fn connect(&self, address: SocketAddr) -> io::Result<W::Peer> {
        self.0.connect(address)
    }

    fn nobody(&self) -> (SocketAddr, Box<dyn Any>) {
        self.0.nobody()
    }

    fn listen(&self, address: SocketAddr) -> W::PeerListener {
        self.0.listen(address)
    }

    fn pass_time(&self) {
        self.0.pass_time();
    }

    fn is_overdue(started: Instant, steps: usize) -> bool {
        W::is_overdue(started, steps)
    }
}

/// A driver of the system on a thread of its own, with the relay on the thread of the case.
pub(crate) struct Threaded<S>(PhantomData<S>);

/// What ends the thread: the relay has gone before this goes.
struct OtherThread {
    here: Parked,
    thread: Option<JoinHandle<()>>,
}

impl Pump for OtherThread {
    fn waker(&self) -> Waker {
        self.here.waker()
    }

    fn pump(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.here.pump(timeout)
    }

    fn now(&self) -> Instant {
        self.here.now()
    }
}

impl Drop for OtherThread {
    fn drop(&mut self) {
        let ended = self.thread.take().expect("joined once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the I/O side panicked");
    }
}

impl<S: System> System for Threaded<S> {
    type Driver = Relay;
    const NAME: &'static str = S::NAME;

    fn module() -> String {
        format!("relay_{}_threads", S::module())
    }

    fn open(config: DriverConfig) -> io::Result<Relay> {
        let (seat, end) = link();
        let thread = std::thread::spawn(move || {
            let io = S::open(config).expect("a driver can be had");
            let mut io = IoSide::new(end, io, config);
            while !io.end.is_finished() {
                io.turn(None).expect("the driver works");
            }
        });
        let pump = OtherThread { here: Parked::here(), thread: Some(thread) };
        Ok(Relay::new(vec![seat], config, Box::new(pump)))
    }

    /// A call that waits for the other side, which takes what was submitted before it first. This one fails, and so
    /// leaves nothing.
    fn come_through(relay: &mut Relay) {
        let nowhere = relay.open_file(Path::new(""), &FileOptions::default());
        assert!(nowhere.is_err(), "a file without a name was opened");
    }
}
