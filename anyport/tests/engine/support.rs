//! What the cases share: an engine on a free port, peers that give up instead of hanging, and events from the
//! handler to the test.

#![allow(clippy::missing_const_for_thread_local, reason = "it is const; clippy does not see that on Windows")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

use anyport::{
    CloseReason, Codec, Counters, DriverChoice, Engine, Handler, Limits, Placement, Remote, Running, Server,
};

/// Longer than anything here takes; a peer that waits this long has found a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    /// The engines that this thread starts have their handlers on logic threads.
    static IN_LOGIC: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Most shards that do the I/O of handlers on logic threads; one if the case counts on one order for all.
const SHARDS_BELOW_LOGIC: usize = 2;

/// Runs a case with its handlers on as many logic threads as it asks for shards: those of a [`Bed`], and who is [`placed`].
pub(crate) fn in_logic(case: impl FnOnce()) {
    /// The thread may run a case on the shards next.
    struct Back;

    impl Drop for Back {
        fn drop(&mut self) {
            IN_LOGIC.set(false);
        }
    }

    IN_LOGIC.set(true);
    let _back = Back;
    case();
}

/// Where the handlers of a service are that a case adds by itself: on the shards, or on as many logic `threads`.
pub(crate) fn placed(threads: usize) -> Placement {
    if IN_LOGIC.get() { Placement::Logic { threads } } else { Placement::Shard }
}

/// Runs a case once for each driver, in each placement.
macro_rules! on_every_driver {
    ($($(#[$only:meta])* $case:ident)*) => {
        #[cfg(target_os = "linux")]
        mod io_uring {
            $($(#[$only])* #[test] fn $case() { super::$case(anyport::DriverChoice::IoUring); })*
        }
        #[cfg(target_os = "linux")]
        mod io_uring_logic {
            $($(#[$only])* #[test] fn $case() {
                crate::support::in_logic(|| super::$case(anyport::DriverChoice::IoUring));
            })*
        }
        #[cfg(unix)]
        mod readiness {
            $($(#[$only])* #[test] fn $case() { super::$case(anyport::DriverChoice::Readiness); })*
        }
        #[cfg(unix)]
        mod readiness_logic {
            $($(#[$only])* #[test] fn $case() {
                crate::support::in_logic(|| super::$case(anyport::DriverChoice::Readiness));
            })*
        }
        #[cfg(windows)]
        mod iocp {
            $($(#[$only])* #[test] fn $case() { super::$case(anyport::DriverChoice::Iocp); })*
        }
        #[cfg(windows)]
        mod iocp_logic {
            $($(#[$only])* #[test] fn $case() {
                crate::support::in_logic(|| super::$case(anyport::DriverChoice::Iocp));
            })*
        }
    };
}

/// Runs a case once for each driver: one that has no handlers, or says itself where they are.
macro_rules! on_every_driver_once {
    ($($(#[$only:meta])* $case:ident)*) => {
        mod once {
            #[cfg(target_os = "linux")]
            mod io_uring {
                $($(#[$only])* #[test] fn $case() { super::super::$case(anyport::DriverChoice::IoUring); })*
            }
            #[cfg(unix)]
            mod readiness {
                $($(#[$only])* #[test] fn $case() { super::super::$case(anyport::DriverChoice::Readiness); })*
            }
            #[cfg(windows)]
            mod iocp {
                $($(#[$only])* #[test] fn $case() { super::super::$case(anyport::DriverChoice::Iocp); })*
            }
        }
    };
}

/// What a handler tells its test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    Open,
    Frame(u16, Vec<u8>),
    Close(CloseReason),
    Other(&'static str),
}

/// Where events come out.
pub(crate) struct Events(Receiver<Event>);

impl Events {
    pub(crate) fn new() -> (Sender<Event>, Self) {
        let (tell, told) = channel();
        (tell, Self(told))
    }

    /// The next event.
    pub(crate) fn next(&self) -> Event {
        match self.0.recv_timeout(PATIENCE) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => panic!("no event came"),
            Err(RecvTimeoutError::Disconnected) => panic!("the handlers are gone"),
        }
    }

    /// The reason of the next close, whatever comes before it.
    pub(crate) fn next_close(&self) -> CloseReason {
        loop {
            if let Event::Close(reason) = self.next() {
                return reason;
            }
        }
    }

    /// Everything that is still to come once the handlers are gone.
    pub(crate) fn rest(self) -> Vec<Event> {
        self.0.into_iter().collect()
    }
}

/// A folder of its own for each case, also where one case runs on all drivers at once; it goes with the case.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("anyport-case-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // Process ids come again, and one that was killed left its folders.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that nobody listens at, and that nobody is given meanwhile: it is bound. Whoever connects is refused.
pub(crate) struct Nobody(socket2::Socket);

impl Nobody {
    pub(crate) fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// From now on there is somebody.
    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(16).unwrap();
        self.0.into()
    }
}

/// Connecting there is refused.
pub(crate) fn assert_refused(address: SocketAddr) {
    let error = TcpStream::connect_timeout(&address, PATIENCE).expect_err("somebody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// An address of this machine that no other case listens at, with a port that is free: what listened there once, nobody
/// else gets. Where the machine has one address only, its port can be given away.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) + u64::from(std::process::id()) * 1_000;
    let [.., high, middle, low] = number.to_be_bytes();
    let many = cfg!(any(target_os = "linux", windows));
    let ip = if many { [127, high.max(1), middle, low.clamp(1, 254)] } else { [127, 0, 0, 1] };
    (ip, 0).into()
}

/// False, with a line, on a machine without IPv6.
pub(crate) fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        println!("skipped: this machine has no IPv6");
    }
    has
}

/// A running engine with one server, as service 0.
pub(crate) struct Bed<H: Handler> {
    pub(crate) running: Running,
    pub(crate) remote: Remote<H>,
}

impl<H: Handler> Bed<H> {
    pub(crate) fn start(
        driver: DriverChoice,
        shards: usize,
        codec: H::Codec,
        limits: Limits,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Self {
        let server = Server::bind(own_address().to_string(), codec).limits(limits).placement(placed(shards));
        let io_shards = if IN_LOGIC.get() { shards.min(SHARDS_BELOW_LOGIC) } else { shards };
        let mut engine = Engine::new().unwrap().shards(io_shards).unwrap().driver(driver);
        let remote = engine.add_server(server, make).unwrap();
        #[cfg(all(guard_pages, target_os = "linux"))]
        assert_eq!(anyport_guard::counts().unguarded, 0, "more allocations than can be guarded");
        Self { running: engine.start().unwrap(), remote }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address(0).unwrap()
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::connect(self.address())
    }

    /// Waits until the published counters satisfy `enough`: a shard publishes at the end of each turn.
    pub(crate) fn counters_when(&self, enough: impl Fn(&Counters) -> bool) -> Counters {
        let start = Instant::now();
        loop {
            let counters = self.running.counters(0);
            if enough(&counters) {
                return counters;
            }
            assert!(start.elapsed() < PATIENCE, "the counters stay at {counters:?}");
            std::thread::yield_now();
        }
    }
}

/// A blocking connection that fails instead of hanging.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.0.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes);
    }

    /// Reads one line, without its end. Lines of any length, byte by byte from a buffer of the test's own.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut buffer = vec![0; 65_536];
        loop {
            let count = self.0.peek(&mut buffer).unwrap();
            assert!(count > 0, "the stream ended in a line");
            let (taken, whole) = match buffer[..count].iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (count, false),
            };
            self.0.read_exact(&mut buffer[..taken]).unwrap();
            line.extend_from_slice(&buffer[..taken]);
            if whole {
                line.pop();
                return String::from_utf8(line).unwrap();
            }
        }
    }

    /// Reads until the peer's end, which may be a reset.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return got,
                Ok(count) => got.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return got,
                Err(error) => panic!("the session did not end: {error}"),
            }
        }
    }

    /// Ends with a reset instead of an end of stream.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// Bytes that differ at every position of a stream.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Echoes every frame, and tells the test what happens.
pub(crate) struct Echo<C> {
    pub(crate) tell: Sender<Event>,
    codec: std::marker::PhantomData<C>,
}

impl<C> Echo<C> {
    pub(crate) fn new(tell: Sender<Event>) -> Self {
        Self { tell, codec: std::marker::PhantomData }
    }
}

impl<C: Codec> Handler for Echo<C> {
    type State = ();
    type Codec = C;

    fn on_open(&mut self, _session: &mut anyport::Session<Self>) {
        let _ = self.tell.send(Event::Open);
    }

    fn on_frame(&mut self, session: &mut anyport::Session<Self>, frame: anyport::Frame) {
        session.send_frame(frame);
    }

    fn on_close(&mut self, _session: &mut anyport::Session<Self>, reason: CloseReason) {
        let _ = self.tell.send(Event::Close(reason));
    }
}

#[test]
fn a_thread_is_back_on_the_shards_after_a_case_in_logic() {
    in_logic(|| assert_eq!(placed(3), Placement::Logic { threads: 3 }));
    assert_eq!(placed(3), Placement::Shard);
    let failed = std::panic::catch_unwind(|| in_logic(|| panic!("as the test asked")));
    assert!(failed.is_err() && placed(3) == Placement::Shard);
}
