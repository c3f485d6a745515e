//! At steady state a message costs no heap allocation: counted over a million echoes on every driver, and over messages
//! to a group; on the shards, and with handlers on a logic thread.

// With guard pages nothing is pooled.
#![cfg(not(guard_pages))]
#![cfg_attr(
    windows,
    allow(clippy::missing_const_for_thread_local, reason = "it is const; clippy does not see it on Windows")
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyport::{
    DriverChoice, Engine, Frame, Group, Handler, Message, MessageError, Overflow, Placement, Router, Server,
    Session, SizeKind, TimerKey,
};

/// Longer than anything here takes; a peer that waits this long has found a bug.
const PATIENCE: Duration = Duration::from_secs(20);

/// Timers that fired.
static FIRED: AtomicU64 = AtomicU64::new(0);

/// Allocations of the threads that asked to be counted.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    // A thread that is ending has no cell any more, and is not counted.
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about the layout is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `System` with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the memory came from `System` with this layout; the size is the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Echoes typed messages that a router finds the method for, and publishes, on a thread whose allocations count from the
/// first frame of `measure` on.
struct Echo {
    routes: &'static Router<Self>,
    echoed: u64,
    /// Looked up once: that costs an allocation.
    everyone: Option<Group>,
}

/// A body that is decoded and encoded again.
struct Payload<'a>(&'a [u8; BODY]);

impl Message for Payload<'_> {
    const KIND: u16 = 0;
    type Of<'a> = Payload<'a>;

    fn decode(body: &[u8]) -> Result<Payload<'_>, MessageError> {
        Ok(Payload(body.try_into()?))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}

/// The kind of the frame that switches counting on for the shard's thread.
const MEASURE: u16 = 1;
/// Joins the group, and is echoed.
const JOIN: u16 = 2;
/// Goes to everyone in the group.
const PUBLISH: u16 = 3;
/// Goes to everyone in the group, as the newest value of the sender's key.
const VALUE: u16 = 4;

impl Echo {
    fn payload(&mut self, session: &mut Session<Self>, Payload(body): Payload) {
        self.echoed += 1;
        // Moved with every message, as a time-out of the application's own is.
        session.set_timer(TimerKey(1), Duration::from_secs(30));
        session.send_message(&Payload(body));
    }

    fn other(&mut self, session: &mut Session<Self>, frame: Frame) {
        if frame.kind == MEASURE {
            COUNTED.set(true);
        }
        let everyone = self.everyone.get_or_insert_with(|| session.shard().group("everyone"));
        match frame.kind {
            PUBLISH => {
                session.shard().publish(everyone, frame);
            }
            VALUE => {
                let key = session.id().bits();
                session.shard().publish_with(everyone, frame, Overflow::Conflate { key });
            }
            kind => {
                if kind == JOIN {
                    session.join(everyone);
                }
                session.send_frame(frame);
            }
        }
    }
}

impl Handler for Echo {
    type State = ();
    type Codec = SizeKind;

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.set_repeating_timer(TimerKey(0), Duration::from_millis(1));
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.routes.dispatch(self, session, frame);
    }

    fn on_session_timer(&mut self, _session: &mut Session<Self>, _timer: TimerKey) {
        FIRED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Under Wine a million take minutes, and a fifth of them shows a cost for each as well.
const MESSAGES: usize = if cfg!(windows) { 200_000 } else { 1_000_000 };
/// A fifth shows it as well: the way to the logic thread and back is one more place, not another handler.
const MESSAGES_LOGIC: usize = 200_000;
const SESSIONS: usize = 8;
const DEPTH: usize = 16;
const BODY: usize = 61;

fn frame(kind: u16) -> Vec<u8> {
    let mut wire = (BODY as u16 + 4).to_le_bytes().to_vec();
    wire.extend_from_slice(&kind.to_le_bytes());
    wire.extend_from_slice(&[7; BODY]);
    wire
}

/// Sends `DEPTH` frames on each connection and reads them back, `rounds` times.
fn echo(peers: &mut [TcpStream], kind: u16, rounds: usize) {
    let burst = frame(kind).repeat(DEPTH);
    let mut back = vec![0; burst.len()];
    for _ in 0..rounds {
        for peer in &mut *peers {
            peer.write_all(&burst).unwrap();
        }
        for peer in &mut *peers {
            peer.read_exact(&mut back).unwrap();
            assert!(back == burst);
        }
    }
}

/// Every connection sends one frame, which comes to all of them, `rounds` times.
fn publish(peers: &mut [TcpStream], kind: u16, rounds: usize) {
    let frame = frame(kind);
    let wanted = frame.repeat(peers.len());
    let mut came = vec![0; wanted.len()];
    for _ in 0..rounds {
        for peer in &mut *peers {
            peer.write_all(&frame).unwrap();
        }
        for peer in &mut *peers {
            peer.read_exact(&mut came).unwrap();
            assert!(came == wanted);
        }
    }
}

#[cfg(target_os = "linux")]
const DRIVERS: [DriverChoice; 2] = [DriverChoice::IoUring, DriverChoice::Readiness];
#[cfg(all(unix, not(target_os = "linux")))]
const DRIVERS: [DriverChoice; 1] = [DriverChoice::Readiness];
#[cfg(windows)]
const DRIVERS: [DriverChoice; 1] = [DriverChoice::Iocp];

/// One test for all drivers: the counter is one for the process.
#[test]
fn a_million_echoes_allocate_nothing() {
    for driver in DRIVERS {
        echoes_allocate_nothing(driver, Placement::Shard, MESSAGES);
        echoes_allocate_nothing(driver, Placement::Logic { threads: 1 }, MESSAGES_LOGIC);
    }
}

fn echoes_allocate_nothing(driver: DriverChoice, placement: Placement, wanted: usize) {
    let routes = Router::new().on::<Payload>(Echo::payload).unknown(Echo::other).leak();
    let engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
    let server = || Server::bind("127.0.0.1:0", SizeKind::default());
    let make = move |_| Echo { routes, echoed: 0, everyone: None };
    // The second one switches counting on for the shard's own thread, which is another one than the handlers' on logic.
    let engine = engine.serve(server().placement(placement), make).unwrap().serve(server(), make).unwrap();
    let running = engine.start().unwrap();
    let connect = |service| {
        let peer = TcpStream::connect(running.address(service).unwrap()).unwrap();
        peer.set_nodelay(true).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.set_write_timeout(Some(PATIENCE)).unwrap();
        peer
    };
    let mut peers: Vec<_> = (0..SESSIONS).map(|_| connect(0)).collect();
    // Pools and queues find their sizes.
    echo(&mut peers, 0, 1_000);
    echo(&mut peers, MEASURE, 1);
    echo(&mut [connect(1)], MEASURE, 1);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    echo(&mut peers, 0, wanted / (SESSIONS * DEPTH));
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(FIRED.swap(0, Ordering::Relaxed) > 100, "timers fire meanwhile");
    let messages = running.counters(0).frames_received;
    assert!(messages >= wanted as u64, "{messages} messages");
    let case = format!("{driver:?}, {placement:?}");
    // A queue may still meet its greatest length once, of eight sessions each, and on each thread; a cost per message
    // would show as hundreds of thousands, one per timer as a hundred.
    assert!(allocations <= 64, "{case}: {allocations} allocations in {messages} messages");
    echo(&mut peers, JOIN, 1);
    for kind in [PUBLISH, VALUE] {
        publish(&mut peers, kind, 1_000);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        publish(&mut peers, kind, 3_000);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        // On logic threads two have pools and queues, and what they hold varies more.
        let most = if placement == Placement::Shard { 16 } else { 64 };
        assert!(allocations <= most, "{case}: {allocations} allocations in 24,000 messages to a group");
    }
    drop(peers);
    running.stop().unwrap();
}
