//! The world of the system: its drivers, and sockets of `std` as peers.

use std::{
    any::Any,
    io::{ErrorKind, Read, Write},
    marker::PhantomData,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    time::{Duration, Instant},
};

use anyport_driver::{Driver, DriverConfig};

use crate::bed::{End, Peer, PeerListener, V4, World};

/// The longest that one `until` of a case may take.
const TIME_MAX: Duration = Duration::from_secs(20);
/// The most that one look at a peer reads.
const READ_MAX: usize = 1 << 20;

/// A driver of the system, as the suite makes it.
pub(crate) trait System: Sized {
    type Driver: Driver;
    const NAME: &'static str;

    /// As [`World::module`].
    fn module() -> String {
        Self::NAME.to_owned()
    }
    fn open(config: DriverConfig) -> std::io::Result<Self::Driver>;
    /// As [`World::come_through`].
    fn come_through(_driver: &mut Self::Driver) {}
}

/// A world of real sockets.
pub(crate) struct OnSystem<S>(PhantomData<S>);

impl<S> Clone for OnSystem<S> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<S: System> World for OnSystem<S> {
    type Driver = S::Driver;
    type Peer = TcpStream;
    type PeerListener = TcpListener;
    const NAME: &'static str = S::NAME;
    const SEEDS: Range<u64> = 0..1;
    const HUGE: usize = 32 << 20;

    fn module() -> String {
        S::module()
    }

    fn new(_: u64) -> Self {
        Self(PhantomData)
    }

    fn driver(&self, config: DriverConfig) -> S::Driver {
        S::open(config).unwrap()
    }

    fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        // On the loopback this does not wait for the accept, only for the backlog.
        let stream = TcpStream::connect(address)?;
        Ok(prepared(stream))
    }

    /// Bound, and nobody listens: a port that is free may be another case's in a moment.
    fn nobody(&self) -> (SocketAddr, Box<dyn Any>) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&V4.into()).expect("a port");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        (address.expect("of IP"), Box::new(socket))
    }

    fn listen(&self, address: SocketAddr) -> TcpListener {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    fn pass_time(&self) {
        std::thread::yield_now();
    }

    fn come_through(driver: &mut S::Driver) {
        S::come_through(driver);
    }

    fn is_overdue(started: Instant, _: usize) -> bool {
        started.elapsed() > TIME_MAX
    }
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl Peer for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> usize {
        // A peer that can write no more writes nothing; how its stream ended shows when it reads.
        Write::write(self, bytes).unwrap_or(0)
    }

    fn read(&mut self, most: usize, into: &mut Vec<u8>) -> Option<End> {
        let before = into.len();
        let most = most.min(READ_MAX) as u64;
        match Read::take(self, most).read_to_end(into) {
            Ok(count) if count as u64 == most => None,
            Ok(_) => Some(End::EndOfStream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) if into.len() == before && is_reset(error.kind()) => Some(End::Reset),
            // The bytes first; the reset shows again.
            Err(error) if is_reset(error.kind()) => Some(End::Reset),
            Err(error) => panic!("a peer cannot read: {error}"),
        }
    }

    fn shutdown_write(&mut self) {
        // A peer whose connection is gone already has nothing to shut down.
        let _ = self.shutdown(Shutdown::Write);
    }

    fn close(self) {
        drop(self);
    }

    fn reset(self) {
        // Lingering for no time: closing throws away what is unsent and resets.
        socket2::SockRef::from(&self).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn local_address(&self) -> SocketAddr {
        self.local_addr().unwrap()
    }
}

fn is_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}

impl PeerListener for TcpListener {
    type Peer = TcpStream;

    fn accept(&mut self) -> Option<TcpStream> {
        match TcpListener::accept(self) {
            Ok((stream, _)) => Some(prepared(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("a peer cannot accept: {error}"),
        }
    }

    fn local_address(&self) -> SocketAddr {
        self.local_addr().unwrap()
    }
}

/// epoll or kqueue.
#[cfg(unix)]
pub(crate) struct OnReadiness;

#[cfg(unix)]
impl System for OnReadiness {
    type Driver = anyport_driver::readiness::Readiness;
    const NAME: &'static str = "readiness";

    fn open(config: DriverConfig) -> std::io::Result<Self::Driver> {
        Self::Driver::new(config)
    }
}

/// io_uring.
#[cfg(target_os = "linux")]
pub(crate) struct OnIoUring;

#[cfg(target_os = "linux")]
impl System for OnIoUring {
    type Driver = anyport_driver::io_uring::IoUring;
    const NAME: &'static str = "io_uring";

    fn open(config: DriverConfig) -> std::io::Result<Self::Driver> {
        Self::Driver::new(config)
    }
}

/// Windows' completion ports.
#[cfg(windows)]
pub(crate) struct OnIocp;

#[cfg(windows)]
impl System for OnIocp {
    type Driver = anyport_driver::iocp::Iocp;
    const NAME: &'static str = "iocp";

    fn open(config: DriverConfig) -> std::io::Result<Self::Driver> {
        Self::Driver::new(config)
    }
}
