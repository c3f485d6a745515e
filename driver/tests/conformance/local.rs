//! The world of Unix sockets: a driver of the system whose addresses are paths.
//!
//! The cases speak of IP addresses. A driver in this world listens at a path for each, and its peers are Unix sockets
//! that connect there; so what is said of streams is shown over Unix sockets by the same cases.

use std::{
    cell::RefCell,
    io::{ErrorKind, Read, Write},
    marker::PhantomData,
    net::{Shutdown, SocketAddr},
    ops::Range,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use anyport_driver::{
    Address, Completion, Detached, Driver, DriverConfig, DriverKind, Fault, FileKey, FileOptions, Lease,
    ListenOptions, Op, OpKind, SocketKey, SocketOptions, Token, Waker,
};

use crate::{
    bed::{End, Peer, PeerListener, V4, World},
    system::{OnSystem, System},
};

/// A folder for the paths of one world, which goes with it, and how many there were.
struct Folder {
    path: PathBuf,
    paths: RefCell<u16>,
}

impl Folder {
    /// A new path, and the address that stands for it.
    fn next(&self) -> (PathBuf, SocketAddr) {
        *self.paths.borrow_mut() += 1;
        let address = SocketAddr::new(V4.ip(), *self.paths.borrow());
        (self.path_of(address), address)
    }

    fn path_of(&self, address: SocketAddr) -> PathBuf {
        self.path.join(address.port().to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A world of real Unix sockets.
pub(crate) struct OnUnix<S> {
    folder: Rc<Folder>,
    system: PhantomData<S>,
}

impl<S> Clone for OnUnix<S> {
    fn clone(&self) -> Self {
        Self { folder: Rc::clone(&self.folder), system: PhantomData }
    }
}

impl<S: System> World for OnUnix<S> {
    type Driver = AtPaths<S::Driver>;
    type Peer = UnixStream;
    type PeerListener = UnixPeers;
    const NAME: &'static str = S::NAME;
    const SEEDS: Range<u64> = 0..1;
    const HUGE: usize = OnSystem::<S>::HUGE;

    fn module() -> String {
        format!("{}_unix", S::module())
    }

    fn new(_: u64) -> Self {
        static WORLDS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = WORLDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("anyport-local-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self { folder: Rc::new(Folder { path, paths: RefCell::default() }), system: PhantomData }
    }

    fn driver(&self, config: DriverConfig) -> Self::Driver {
        AtPaths { driver: S::open(config).unwrap(), folder: Rc::clone(&self.folder) }
    }

    fn connect(&self, address: SocketAddr) -> std::io::Result<UnixStream> {
        Ok(prepared(UnixStream::connect(self.folder.path_of(address))?))
    }

    fn listen(&self, _: SocketAddr) -> UnixPeers {
        let (path, address) = self.folder.next();
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        UnixPeers { listener, address }
    }

    fn pass_time(&self) {
        std::thread::yield_now();
    }

    fn is_overdue(started: Instant, steps: usize) -> bool {
        OnSystem::<S>::is_overdue(started, steps)
    }
}

/// A driver that listens at and connects to paths, whatever address it is given.
pub(crate) struct AtPaths<D> {
    driver: D,
    folder: Rc<Folder>,
}

impl<D: Driver> Driver for AtPaths<D> {
    fn kind(&self) -> DriverKind {
        self.driver.kind()
    }

    fn listen(&mut self, _: &Address, options: &ListenOptions) -> std::io::Result<(SocketKey, Address)> {
        let (path, address) = self.folder.next();
        let (key, bound) = self.driver.listen(&Address::Unix(path.clone()), options)?;
        assert_eq!(bound, Address::Unix(path));
        Ok((key, address.into()))
    }

    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<SocketKey, Fault> {
        let path = self.folder.path_of(address.ip().expect("the cases speak of IP"));
        self.driver.open(&Address::Unix(path), options)
    }

    fn open_file(&mut self, path: &Path, options: &FileOptions) -> std::io::Result<(FileKey, u64)> {
        self.driver.open_file(path, options)
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.driver.submit(token, op);
    }

    fn cancel(&mut self, socket: SocketKey, kind: OpKind) {
        self.driver.cancel(socket, kind);
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> std::io::Result<()> {
        self.driver.wait(timeout, completions)
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.driver.bytes(lease)
    }

    fn recycle(&mut self, lease: Lease) {
        self.driver.recycle(lease);
    }

    fn waker(&self) -> Waker {
        self.driver.waker()
    }

    fn now(&self) -> Instant {
        self.driver.now()
    }

    fn detach(&mut self, socket: SocketKey) -> Option<Detached> {
        self.driver.detach(socket)
    }

    fn adopt(&mut self, detached: Detached) -> Option<SocketKey> {
        self.driver.adopt(detached)
    }

    fn sockets(&self) -> usize {
        self.driver.sockets()
    }

    fn files(&self) -> usize {
        self.driver.files()
    }

    fn leases_out(&self) -> usize {
        self.driver.leases_out()
    }
}

fn prepared(stream: UnixStream) -> UnixStream {
    stream.set_nonblocking(true).unwrap();
    stream
}

impl Peer for UnixStream {
    fn write(&mut self, bytes: &[u8]) -> usize {
        // A peer that can write no more writes nothing; how its stream ended shows when it reads.
        Write::write(self, bytes).unwrap_or(0)
    }

    fn read(&mut self, most: usize, into: &mut Vec<u8>) -> Option<End> {
        let before = into.len();
        // A stream of its own for each look: what fits, and no more.
        let most = most.min(1 << 20) as u64;
        match Read::take(self, most).read_to_end(into) {
            Ok(count) if count as u64 == most => None,
            Ok(_) => Some(End::EndOfStream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset && into.len() >= before => {
                Some(End::Reset)
            }
            Err(error) => panic!("a peer cannot read: {error}"),
        }
    }

    fn shutdown_write(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn close(self) {
        drop(self);
    }

    fn reset(self) {
        unreachable!("a Unix socket has no reset of its own: cases that need one do not run here")
    }

    fn local_address(&self) -> SocketAddr {
        unreachable!("who connects to a Unix socket has no address: cases that need one do not run here")
    }
}

/// A listener of a peer at a path.
pub(crate) struct UnixPeers {
    listener: UnixListener,
    address: SocketAddr,
}

impl PeerListener for UnixPeers {
    type Peer = UnixStream;

    fn accept(&mut self) -> Option<UnixStream> {
        match self.listener.accept() {
            Ok((stream, _)) => Some(prepared(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("a peer cannot accept: {error}"),
        }
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}
