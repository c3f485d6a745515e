//! Work off the shard's thread.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::ThreadId,
    time::Duration,
};

use anyport::{
    CloseReason, DriverChoice, Engine, Frame, Handler, Limits, Lines, OffloadError, PoolConfig, PoolCounters,
    Running, Server, Session, Shard, blocking,
};

use crate::support::{PATIENCE, Peer, placed};

on_every_driver! {
    results_come_back_to_their_session_on_its_own_thread
    a_session_goes_on_while_its_work_blocks
    results_come_as_they_are_ready
    a_session_that_has_gone_is_not_told
    a_panic_in_work_is_told_and_costs_nothing_else
    a_panic_with_the_result_costs_the_session
    too_much_work_is_refused
    a_shard_offloads_too
    who_blocks_in_the_pool_is_replaced
    a_drain_waits_for_results_and_the_answers_go_out
    a_drain_does_not_wait_longer_than_its_deadline
    a_hard_end_does_not_wait_for_work
    what_ends_a_session_may_still_be_saved
    an_engine_that_offloads_nothing_has_no_pool
}

on_every_driver_once! {
    a_pool_of_wrong_sizes_is_refused
}

/// What is done with a line.
type Work = Box<dyn FnOnce() -> String + Send>;

/// Hands every line to the pool, but for those that begin with `echo`, and answers with what came of it.
struct Clerk {
    work: Arc<dyn Fn(String) -> Work + Send + Sync>,
    tell: Sender<Told>,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Result(Result<String, OffloadError>),
    /// The threads of the event, and of the result.
    Threads(ThreadId, ThreadId),
    Close(CloseReason),
}

impl Handler for Clerk {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let line = String::from_utf8(frame.to_vec()).unwrap();
        if line.starts_with("echo") {
            session.send(line.as_bytes());
            return;
        }
        let asked_on = std::thread::current().id();
        session.offload((self.work)(line), move |clerk, session, result| {
            clerk.tell.send(Told::Threads(asked_on, std::thread::current().id())).unwrap();
            clerk.tell.send(Told::Result(result.clone())).unwrap();
            match result {
                Ok(answer) if answer == "panic" => panic!("with the result"),
                Ok(answer) => session.send(answer.as_bytes()),
                Err(error) => session.send(format!("{error:?}").as_bytes()),
            };
        });
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        let _ = self.tell.send(Told::Close(reason));
    }
}

struct Office {
    running: Running,
    told: Receiver<Told>,
}

impl Office {
    fn open(
        driver: DriverChoice,
        pool: PoolConfig,
        limits: Limits,
        work: impl Fn(String) -> Work + Send + Sync + 'static,
    ) -> Self {
        Self::open_on(2, driver, pool, limits, work)
    }

    fn open_on(
        shards: usize,
        driver: DriverChoice,
        pool: PoolConfig,
        limits: Limits,
        work: impl Fn(String) -> Work + Send + Sync + 'static,
    ) -> Self {
        let (tell, told) = channel();
        let engine = Engine::new().unwrap().shards(shards).unwrap().driver(driver).pool(pool).unwrap();
        let server = Server::bind("127.0.0.1:0", Lines::default()).limits(limits).placement(placed(shards));
        let work: Arc<dyn Fn(String) -> Work + Send + Sync> = Arc::new(work);
        let make = move |_| Clerk { work: Arc::clone(&work), tell: tell.clone() };
        Self { running: engine.serve(server, make).unwrap().start().unwrap(), told }
    }

    fn peer(&self) -> Peer {
        Peer::connect(self.running.address(0).unwrap())
    }

    /// The next result.
    fn next(&self) -> Result<String, OffloadError> {
        loop {
            match self.told.recv_timeout(PATIENCE).expect("nothing was told") {
                Told::Result(result) => return result,
                Told::Threads(asked, told) => assert_eq!(asked, told, "a result came to another thread"),
                Told::Close(reason) => panic!("a session closed: {reason}"),
            }
        }
    }

    fn next_close(&self) -> CloseReason {
        loop {
            if let Told::Close(reason) = self.told.recv_timeout(PATIENCE).expect("no session closed") {
                return reason;
            }
        }
    }

    fn counters_when(&self, enough: impl Fn(&PoolCounters) -> bool) -> PoolCounters {
        let start = std::time::Instant::now();
        loop {
            let counters = self.running.pool_counters();
            if enough(&counters) {
                return counters;
            }
            assert!(start.elapsed() < PATIENCE, "the counters stay at {counters:?}");
            std::thread::yield_now();
        }
    }
}

/// A door that work waits at, and its opener: each opening lets one through, dropping it lets all.
fn door() -> (Sender<()>, impl Fn() + Clone + Send + Sync + 'static) {
    let (open, opened) = channel();
    let opened = Arc::new(Mutex::new(opened));
    let pass = move || {
        let _ = opened.lock().unwrap().recv_timeout(PATIENCE);
    };
    (open, pass)
}

/// Lines that begin with `wait` wait at the door; every line is answered with itself.
fn waits(pass: impl Fn() + Clone + Send + Sync + 'static) -> impl Fn(String) -> Work + Send + Sync + 'static {
    move |line| {
        let pass = pass.clone();
        Box::new(move || {
            if line.starts_with("wait") {
                pass();
            }
            line
        })
    }
}

fn threads(count: usize) -> PoolConfig {
    PoolConfig { concurrency: count, threads: count, ..PoolConfig::default() }
}

fn results_come_back_to_their_session_on_its_own_thread(driver: DriverChoice) {
    let office = Office::open(driver, threads(3), Limits::default(), |line| {
        Box::new(move || {
            let thread = std::thread::current();
            assert!(thread.name().is_some_and(|name| name.starts_with("anyport-pool-")), "{thread:?}");
            format!("{line} done")
        })
    });
    let mut peers: Vec<_> = (0..8).map(|_| office.peer()).collect();
    for round in 0..20 {
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(format!("{number} in {round}\n").as_bytes());
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.expect(format!("{number} in {round} done\n").as_bytes());
        }
    }
    let answers: Vec<_> = (0..160).map(|_| office.next().unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.ends_with("done")));
    assert_eq!(office.counters_when(|counters| counters.done == 160).panicked, 0);
    drop(peers);
    office.running.stop().unwrap();
}

fn a_session_goes_on_while_its_work_blocks(driver: DriverChoice) {
    let (open, pass) = door();
    let office = Office::open(driver, threads(1), Limits::default(), waits(pass));
    let mut peer = office.peer();
    peer.send(b"wait\n");
    for _ in 0..10 {
        peer.send(b"echo meanwhile\n");
        peer.expect(b"echo meanwhile\n");
    }
    drop(open);
    peer.expect(b"wait\n");
    drop(peer);
    office.running.stop().unwrap();
}

fn results_come_as_they_are_ready(driver: DriverChoice) {
    let (open, pass) = door();
    let office = Office::open(driver, threads(2), Limits::default(), waits(pass));
    let mut peer = office.peer();
    peer.send(b"wait\nsecond\n");
    peer.expect(b"second\n");
    drop(open);
    peer.expect(b"wait\n");
    drop(peer);
    office.running.stop().unwrap();
}

fn a_session_that_has_gone_is_not_told(driver: DriverChoice) {
    let (open, pass) = door();
    let office = Office::open_on(1, driver, threads(1), Limits::default(), waits(pass));
    let mut first = office.peer();
    first.send(b"wait\n");
    office.counters_when(|counters| counters.running + counters.blocked == 1);
    drop(first);
    assert_eq!(office.next_close(), CloseReason::PeerClosed);
    let mut second = office.peer();
    // Behind it, in a pool of one thread and on the same shard: when this one is told, the first would have been.
    second.send(b"later\n");
    drop(open);
    second.expect(b"later\n");
    assert_eq!(office.next(), Ok("later".to_owned()));
    assert_eq!(office.running.pool_counters().panicked, 0);
    drop(second);
    office.running.stop().unwrap();
}

fn a_panic_in_work_is_told_and_costs_nothing_else(driver: DriverChoice) {
    let office = Office::open(driver, threads(1), Limits::default(), |line| {
        Box::new(move || if line == "panic" { panic!("no {line}, no gain") } else { line })
    });
    let mut peer = office.peer();
    peer.send(b"panic\nstill there\n");
    peer.expect(b"Panicked(\"no panic, no gain\")\nstill there\n");
    let counters = office.counters_when(|counters| counters.done == 2);
    assert_eq!(counters.panicked, 1);
    drop(peer);
    office.running.stop().unwrap();
}

fn a_panic_with_the_result_costs_the_session(driver: DriverChoice) {
    let office = Office::open(driver, threads(1), Limits::default(), |line| Box::new(move || line));
    let mut peer = office.peer();
    peer.send(b"panic\n");
    assert_eq!(office.next_close(), CloseReason::HandlerPanicked);
    assert_eq!(office.counters_when(|counters| counters.done == 1).panicked, 0);
    office.running.stop().unwrap();
}

fn too_much_work_is_refused(driver: DriverChoice) {
    let (open, pass) = door();
    let pool = PoolConfig { queue_max: 1, ..threads(1) };
    let office = Office::open(driver, pool, Limits::default(), waits(pass));
    let mut peer = office.peer();
    peer.send(b"wait\n");
    office.counters_when(|counters| counters.running + counters.blocked == 1);
    peer.send(b"queued\ntoo much\n");
    peer.expect(b"Full\n");
    assert_eq!(office.next(), Err(OffloadError::Full));
    drop(open);
    peer.expect(b"wait\nqueued\n");
    assert_eq!(office.running.pool_counters().refused, 1);
    drop(peer);
    office.running.stop().unwrap();
}

/// Loads what it needs before its first session.
struct Loads {
    tell: Sender<(usize, usize)>,
}

impl Handler for Loads {
    type State = ();
    type Codec = Lines;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        shard.offload(
            || 42,
            |loads, shard, result| {
                loads.tell.send((shard.index(), result.unwrap())).unwrap();
                shard.offload(
                    || panic!("a shard hears of it, too"),
                    |loads, shard, result: Result<(), _>| {
                        assert!(matches!(result, Err(OffloadError::Panicked(_))), "{result:?}");
                        loads.tell.send((shard.index(), 0)).unwrap();
                    },
                );
            },
        );
    }

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}
}

fn a_shard_offloads_too(driver: DriverChoice) {
    let (tell, told) = channel();
    let engine = Engine::new().unwrap().shards(2).unwrap().driver(driver);
    let server = Server::bind("127.0.0.1:0", Lines::default()).placement(placed(2));
    let running = engine.serve(server, move |_| Loads { tell: tell.clone() }).unwrap().start().unwrap();
    let mut all: Vec<_> = (0..4).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, [(0, 0), (0, 42), (1, 0), (1, 42)]);
    running.stop().unwrap();
}

fn who_blocks_in_the_pool_is_replaced(driver: DriverChoice) {
    let (open, pass) = door();
    // One may run, two are there. Where nobody is found asleep, work says that it blocks.
    let pool = PoolConfig { concurrency: 1, threads: 2, ..PoolConfig::default() };
    let office = Office::open(driver, pool, Limits::default(), move |line| {
        let pass = pass.clone();
        Box::new(move || {
            match &line[..] {
                "silent" if cfg!(any(target_os = "linux", windows)) => pass(),
                "silent" | "says so" => blocking(&pass),
                _ => {}
            }
            line
        })
    });
    let mut peer = office.peer();
    for blocks in ["says so", "silent"] {
        peer.send(format!("{blocks}\nnext\n").as_bytes());
        peer.expect(b"next\n");
        open.send(()).unwrap();
        peer.expect(format!("{blocks}\n").as_bytes());
    }
    drop(peer);
    office.running.stop().unwrap();
}

fn a_drain_waits_for_results_and_the_answers_go_out(driver: DriverChoice) {
    let (open, pass) = door();
    let office = Office::open(driver, threads(1), Limits::default(), waits(pass));
    let (mut waiting, mut idle) = (office.peer(), office.peer());
    idle.send(b"echo\n");
    idle.expect(b"echo\n");
    waiting.send(b"wait\nand this\n");
    office.counters_when(|counters| counters.queued == 1);
    office.running.stopper().drain();
    // Whoever waits for nothing is drained at once.
    assert_eq!(idle.rest(), b"");
    drop(idle);
    assert_eq!(office.next_close(), CloseReason::Drained);
    drop(open);
    assert_eq!(waiting.rest(), b"wait\nand this\n");
    drop(waiting);
    assert_eq!(office.next_close(), CloseReason::Drained);
    office.running.join().unwrap();
}

fn a_drain_does_not_wait_longer_than_its_deadline(driver: DriverChoice) {
    let (open, pass) = door();
    let limits = Limits { drain_deadline: Duration::from_millis(30), ..Limits::default() };
    let office = Office::open(driver, threads(1), limits, waits(pass));
    let mut peer = office.peer();
    peer.send(b"wait\n");
    office.counters_when(|counters| counters.running + counters.blocked == 1);
    office.running.stopper().drain();
    assert_eq!(office.next_close(), CloseReason::DrainDeadline);
    drop(open);
    let Office { mut running, told } = office;
    running.wait().unwrap();
    // It was done, and nobody told.
    assert_eq!(running.pool_counters().done, 1);
    assert!(told.try_recv().is_err());
}

fn a_hard_end_does_not_wait_for_work(driver: DriverChoice) {
    let (open, pass) = door();
    let pool = PoolConfig { stop_timeout: PATIENCE, ..threads(1) };
    let office = Office::open(driver, pool, Limits::default(), waits(pass));
    let mut peer = office.peer();
    peer.send(b"wait\nand this\n");
    office.counters_when(|counters| counters.queued == 1);
    let Office { mut running, told: _told } = office;
    running.stopper().drain_within(Duration::from_millis(10));
    running.wait().unwrap();
    // One is worked on still, the other was dropped.
    let counters = running.pool_counters();
    assert_eq!((counters.done, counters.cancelled), (0, 1));
    drop(open);
}

/// Saves its sessions when they end.
struct Saves {
    saved: Arc<AtomicUsize>,
}

impl Handler for Saves {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send(&frame);
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: CloseReason) {
        let saved = Arc::clone(&self.saved);
        session.offload(
            move || saved.fetch_add(1, Ordering::SeqCst),
            |_, _, _| unreachable!("the session has gone"),
        );
    }
}

fn what_ends_a_session_may_still_be_saved(driver: DriverChoice) {
    let saved = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&saved);
    let engine = Engine::new().unwrap().shards(2).unwrap().driver(driver);
    let server = Server::bind("127.0.0.1:0", Lines::default()).placement(placed(2));
    let engine = engine.serve(server, move |_| Saves { saved: Arc::clone(&count) }).unwrap();
    let running = engine.start().unwrap();
    let peers: Vec<_> = (0..10)
        .map(|_| {
            let mut peer = Peer::connect(running.address(0).unwrap());
            peer.send(b"hello\n");
            peer.expect(b"hello\n");
            peer
        })
        .collect();
    drop(peers);
    running.stop().unwrap();
    assert_eq!(saved.load(Ordering::SeqCst), 10);
}

fn an_engine_that_offloads_nothing_has_no_pool(driver: DriverChoice) {
    let engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
    let server = Server::bind("127.0.0.1:0", Lines::default()).placement(placed(1));
    let mut running = engine.serve(server, |_| Saves { saved: Arc::default() }).unwrap().start().unwrap();
    let mut peer = Peer::connect(running.address(0).unwrap());
    peer.send(b"hello\n");
    peer.expect(b"hello\n");
    assert_eq!(running.pool_counters(), PoolCounters::default());
    drop(peer);
    running.stopper().drain();
    running.wait().unwrap();
    // The first work starts it.
    assert_eq!(running.pool_counters().done, 1);
}

fn a_pool_of_wrong_sizes_is_refused(driver: DriverChoice) {
    for (wrong, names) in [
        (PoolConfig { concurrency: 3, threads: 2, ..PoolConfig::default() }, "threads"),
        (PoolConfig { queue_max: 0, ..PoolConfig::default() }, "queue_max"),
    ] {
        let refused = Engine::new().unwrap().driver(driver).pool(wrong).err().expect("it is wrong");
        assert!(refused.to_string().contains(names), "{refused}");
    }
}
