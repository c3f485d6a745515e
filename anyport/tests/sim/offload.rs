//! Work off the shard's thread, where there is one thread and no clock: done by whoever steps, at a time of the seed.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::ThreadId,
    time::{Duration, Instant},
};

use anyport::{
    CloseReason, Engine, Frame, Handler, Limits, Lines, OffloadError, PoolConfig, Server, Session,
    sim::{Behaviour, Faults, Held, SimEngine, SimNet, SimPeer, Step, each_seed},
};

use crate::bed::{ADDRESS, SOON};

/// What work takes at most: twice 8,192 µs.
const WORK_MAX: Duration = Duration::from_micros(2 << 13);

/// Offloads each line and answers with it; `panic` panics. Offloads once more when a session ends.
struct Clerk {
    diary: Diary,
}

#[derive(Clone, Default)]
struct Diary(Arc<Notes>);

/// What happened, and to how many.
#[derive(Default)]
struct Notes {
    results: Mutex<Vec<(Instant, String)>>,
    closes: Mutex<Vec<CloseReason>>,
    done_on: Mutex<HashSet<ThreadId>>,
    asked: AtomicUsize,
    /// Of those, with results that were still due when their session closed.
    abandoned: AtomicUsize,
    saved: AtomicUsize,
}

impl Diary {
    fn answers(&self) -> Vec<String> {
        self.0.results.lock().unwrap().iter().map(|(_, answer)| answer.clone()).collect()
    }

    fn closes(&self) -> Vec<CloseReason> {
        self.0.closes.lock().unwrap().clone()
    }

    fn saved(&self) -> usize {
        self.0.saved.load(Ordering::SeqCst)
    }
}

impl Handler for Clerk {
    /// Results that are due.
    type State = usize;
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let line = String::from_utf8_lossy(&frame).into_owned();
        let asked_at = session.shard().now();
        self.diary.0.asked.fetch_add(1, Ordering::SeqCst);
        *session.state() += 1;
        let diary = self.diary.clone();
        session.offload(
            move || {
                diary.0.done_on.lock().unwrap().insert(std::thread::current().id());
                assert!(line != "panic", "on purpose");
                line
            },
            move |clerk, session, result| {
                let now = session.shard().now();
                *session.state() -= 1;
                assert!(now > asked_at || result.is_err(), "work takes time");
                let answer = result.unwrap_or_else(|error| match error {
                    OffloadError::Panicked(words) => words,
                    error => format!("{error:?}"),
                });
                session.send(answer.as_bytes());
                clerk.diary.0.results.lock().unwrap().push((now, answer));
            },
        );
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        self.diary.0.closes.lock().unwrap().push(reason);
        self.diary.0.abandoned.fetch_add(*session.state(), Ordering::SeqCst);
        let diary = self.diary.clone();
        session.offload(
            move || diary.0.saved.fetch_add(1, Ordering::SeqCst),
            |_, _, _| unreachable!("the session has gone"),
        );
    }
}

fn office(net: &SimNet, pool: PoolConfig, limits: Limits) -> (SimEngine, Diary) {
    let diary = Diary::default();
    let told = diary.clone();
    let server = Server::bind(ADDRESS, Lines::default()).limits(limits);
    let engine = Engine::new().unwrap().shards(2).unwrap().pool(pool).unwrap();
    let engine = engine.serve(server, move |_| Clerk { diary: told.clone() }).unwrap();
    (engine.simulate(net).unwrap(), diary)
}

fn plain(net: &SimNet) -> (SimEngine, Diary) {
    office(net, PoolConfig::default(), Limits::default())
}

fn peer(engine: &mut SimEngine) -> SimPeer {
    let sessions = engine.counters(0).sessions;
    let peer = engine.net().connect(engine.address(0).unwrap()).unwrap();
    assert!(engine.run_until(SOON, |engine| engine.counters(0).sessions > sessions));
    peer
}

fn stop(mut engine: SimEngine) {
    engine.check().unwrap();
    engine.stop().unwrap();
    assert_eq!(engine.held(), Held::default());
}

#[test]
fn work_is_done_by_whoever_steps_and_takes_virtual_time() {
    each_seed(0..50, |seed| {
        let (mut engine, diary) = plain(&SimNet::new(seed));
        let mut peer = peer(&mut engine);
        let asked_at = engine.net().now();
        assert_eq!(engine.ask(&mut peer, b"hello\n", b"\n", SOON), b"hello\n");
        let (told_at, _) = diary.0.results.lock().unwrap()[0];
        assert!(told_at - asked_at < WORK_MAX + SOON);
        assert_eq!(*diary.0.done_on.lock().unwrap(), HashSet::from([std::thread::current().id()]));
        drop(peer);
        stop(engine);
        assert_eq!(diary.saved(), 1);
    });
}

/// Ten lines at once, and the order of the answers.
fn order_of_answers(seed: u64) -> (Vec<String>, u64) {
    let net = SimNet::new(seed);
    let (mut engine, diary) = plain(&net);
    let mut peer = peer(&mut engine);
    engine.write(&mut peer, b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n", SOON);
    assert!(engine.run_until(SOON, |_| diary.answers().len() == 10));
    drop(peer);
    stop(engine);
    (diary.answers(), net.digest())
}

#[test]
fn a_seed_gives_the_order_of_results_and_another_one_another_order() {
    let orders: HashSet<_> = (0..20).map(|seed| order_of_answers(seed).0).collect();
    assert!(orders.len() > 15, "{} orders", orders.len());
    for seed in 0..5 {
        assert_eq!(order_of_answers(seed), order_of_answers(seed), "seed {seed}");
    }
}

/// Two engines on equal networks, one with a pool of other sizes: nothing is drawn for what nobody uses.
#[test]
fn a_pool_that_nobody_uses_changes_no_run() {
    let run = |pool: PoolConfig| {
        let net = SimNet::with_behaviour(7, Behaviour::default().with_faults(Faults::drawn(7)));
        let mut engine = office(&net, pool, Limits::default()).0;
        let peers: Vec<_> = (0..5).filter_map(|_| net.connect(engine.address(0).unwrap()).ok()).collect();
        engine.run_for(SOON);
        let digest = net.digest();
        drop(peers);
        digest
    };
    let other = PoolConfig { concurrency: 1, threads: 1, queue_max: 1, ..PoolConfig::default() };
    assert_eq!(run(PoolConfig::default()), run(other));
}

#[test]
fn other_events_come_in_between() {
    let mut between = 0;
    each_seed(0..50, |seed| {
        let (mut engine, diary) = plain(&SimNet::new(seed));
        let (mut first, mut second) = (peer(&mut engine), peer(&mut engine));
        first.write(b"first\n");
        let asked = |diary: &Diary| diary.0.asked.load(Ordering::SeqCst);
        assert!(engine.run_until(SOON, |_| asked(&diary) == 1));
        second.write(b"second\n");
        assert!(engine.run_until(SOON, |_| diary.answers().len() == 2));
        between += usize::from(diary.answers() == ["second", "first"]);
        drop((first, second));
        stop(engine);
    });
    assert!((5..45).contains(&between) || std::env::var("ANYPORT_SEED").is_ok(), "{between} of 50");
}

#[test]
fn a_session_that_has_gone_is_not_told() {
    let mut gone = 0;
    each_seed(0..50, |seed| {
        let (mut engine, diary) = plain(&SimNet::new(seed));
        let mut peer = peer(&mut engine);
        peer.write(b"hello\n");
        assert!(engine.run_until(SOON, |_| diary.0.asked.load(Ordering::SeqCst) == 1));
        peer.reset();
        assert!(engine.run_until(SOON, |engine| engine.counters(0).sessions == 0));
        gone += usize::from(diary.answers().is_empty());
        engine.run_for(2 * WORK_MAX);
        assert!(diary.answers().len() <= 1);
        assert_eq!((engine.pool_counters().done, diary.saved()), (2, 1));
        stop(engine);
    });
    assert!(gone > 5 || std::env::var("ANYPORT_SEED").is_ok(), "{gone} of 50");
}

#[test]
fn a_panic_and_a_full_queue_are_told() {
    let pool = PoolConfig { concurrency: 1, threads: 1, queue_max: 2, ..PoolConfig::default() };
    let (mut engine, diary) = office(&SimNet::new(3), pool, Limits::default());
    let mut peer = peer(&mut engine);
    // One that is worked on, two that wait, and two too many, unless the network brings the last ones late.
    engine.write(&mut peer, b"panic\n1\n2\n3\n4\n", SOON);
    assert!(engine.run_until(SOON, |_| diary.answers().len() == 5));
    let (refused, done): (Vec<_>, Vec<_>) = diary.answers().into_iter().partition(|answer| answer == "Full");
    assert!(!refused.is_empty(), "{done:?}");
    assert_eq!(done[..3], ["on purpose", "1", "2"], "one thread does one thing after the other");
    let counters = engine.pool_counters();
    let told = (counters.done, counters.panicked, counters.refused, counters.queued);
    assert_eq!(told, (done.len() as u64, 1, refused.len() as u64, 0));
    drop(peer);
    stop(engine);
}

#[test]
fn a_drain_waits_for_results_until_its_deadline() {
    let deadline = Duration::from_millis(1);
    let limits = Limits { drain_deadline: deadline, ..Limits::default() };
    let (mut answered, mut cut) = (0, 0);
    each_seed(0..100, |seed| {
        let (mut engine, diary) = office(&SimNet::new(seed), PoolConfig::default(), limits);
        let mut peer = peer(&mut engine);
        peer.write(b"hello\n");
        assert!(engine.run_until(SOON, |_| diary.0.asked.load(Ordering::SeqCst) == 1));
        engine.stopper().drain();
        // It is not read from any more.
        peer.write(b"too late\n");
        let answer = engine.read_to_end(&mut peer, SOON);
        engine.check().unwrap();
        drop(peer);
        stop(engine);
        match diary.closes()[..] {
            [CloseReason::Drained] => {
                answered += 1;
                assert_eq!(answer, b"hello\n");
                assert_eq!(diary.answers(), ["hello"]);
            }
            [CloseReason::DrainDeadline] => {
                cut += 1;
                assert!(diary.answers().len() <= 1);
            }
            ref closes => panic!("closed for {closes:?}"),
        }
        assert_eq!(diary.saved(), 1);
    });
    let seen = answered > 10 && cut > 10;
    assert!(seen || std::env::var("ANYPORT_SEED").is_ok(), "{answered} answered, {cut} cut");
}

#[test]
fn the_deadline_of_a_drain_that_waited_for_a_result_counts_from_its_beginning() {
    let deadline = Duration::from_millis(12);
    let limits = Limits { drain_deadline: deadline, linger: Duration::from_hours(1), ..Limits::default() };
    each_seed(0..50, |seed| {
        let (mut engine, diary) = office(&SimNet::new(seed), PoolConfig::default(), limits);
        let mut peer = peer(&mut engine);
        peer.write(b"hello\n");
        assert!(engine.run_until(SOON, |_| diary.0.asked.load(Ordering::SeqCst) == 1));
        let began = engine.net().elapsed();
        engine.stopper().drain();
        // The peer neither reads nor leaves.
        assert!(engine.run_until(SOON, |_| !diary.closes().is_empty()));
        let took = engine.net().elapsed().saturating_sub(began);
        assert!(took <= deadline + Duration::from_millis(1), "{took:?}");
        drop(peer);
        stop(engine);
    });
}

/// Both are due in one turn: the session is told to drain, and is found idle behind that.
#[test]
fn who_drains_is_not_idle_and_keeps_his_deadline() {
    let ms = Duration::from_millis;
    let limits = Limits {
        idle_timeout: Some(ms(10)),
        drain_grace: ms(5),
        drain_deadline: ms(1),
        linger: Duration::from_hours(1),
        ..Limits::default()
    };
    each_seed(0..100, |seed| {
        let (mut engine, diary) = office(&SimNet::new(seed), PoolConfig::default(), limits);
        let mut peer = peer(&mut engine);
        peer.write(b"hello\n");
        assert!(engine.run_until(SOON, |_| diary.0.asked.load(Ordering::SeqCst) == 1));
        engine.stopper().drain();
        engine.step();
        engine.net().advance(ms(11));
        let began = engine.net().elapsed();
        // The peer neither reads nor leaves.
        assert!(engine.run_until(SOON, |_| !diary.closes().is_empty()));
        let took = engine.net().elapsed().saturating_sub(began);
        assert!(took <= ms(2), "{took:?}");
        drop(peer);
        stop(engine);
    });
}

#[test]
fn an_abort_drops_what_is_not_done() {
    let (mut engine, diary) = plain(&SimNet::new(4));
    let mut peer = peer(&mut engine);
    peer.write(b"hello\n");
    assert!(engine.run_until(SOON, |_| diary.0.asked.load(Ordering::SeqCst) == 1));
    engine.stopper().abort();
    while !engine.is_finished() {
        assert_ne!(engine.step(), Step::Rest);
    }
    let counters = engine.pool_counters();
    assert_eq!((counters.done + counters.cancelled, counters.queued + counters.running), (2, 0));
    assert!(counters.cancelled >= 1 && diary.saved() == 0, "{counters:?}");
}

#[test]
fn in_any_weather_each_result_is_told_once_and_nothing_is_left() {
    each_seed(0..150, |seed| {
        let weather = Behaviour::default().with_faults(Faults::drawn(seed));
        let net = SimNet::with_behaviour(seed, weather);
        let pool = PoolConfig { concurrency: 1, threads: 2, queue_max: 8, ..PoolConfig::default() };
        let diary = Diary::default();
        let told = diary.clone();
        let server = Server::bind(ADDRESS, Lines::default());
        let engine = Engine::new().unwrap().shards(2).unwrap().pool(pool).unwrap();
        let engine = engine.serve(server, move |_| Clerk { diary: told.clone() }).unwrap();
        // In bad weather even listening may fail.
        let Ok(mut engine) = engine.simulate(&net) else { return };
        let mut peers: Vec<_> = (0..6).filter_map(|_| net.connect(engine.address(0).unwrap()).ok()).collect();
        for round in 0..20 {
            for (number, peer) in peers.iter_mut().enumerate() {
                peer.write(format!("{round} of {number}\n").as_bytes());
            }
            engine.run_for(Duration::from_millis(3));
            engine.check().unwrap();
        }
        net.calm();
        engine.run_for(SOON);
        // By now all who are still there have been told, and those who are not were due so many.
        let abandoned = diary.0.abandoned.load(Ordering::SeqCst);
        let asked = diary.0.asked.load(Ordering::SeqCst);
        assert_eq!(diary.answers().len() + abandoned, asked, "a result was not told; {abandoned} abandoned");
        drop(peers);
        engine.run_for(SOON);
        stop(engine);
        let answers = diary.answers();
        let whole: Vec<_> = answers.into_iter().filter(|answer| answer != "Full").collect();
        let different: HashSet<_> = whole.iter().collect();
        assert_eq!(different.len(), whole.len(), "a result was told twice");
        assert!(diary.saved() <= diary.closes().len(), "work was done twice");
    });
}

/// Offloads so many times for each line, and counts what has come of how many.
#[derive(Clone, Default)]
struct Counted(Arc<Tally>);

#[derive(Default)]
struct Tally {
    asked: AtomicUsize,
    told: AtomicUsize,
    out_of_order: AtomicUsize,
}

/// What a session has offloaded, and of that the last one whose refusal was told.
#[derive(Default)]
struct Numbered {
    asked: usize,
    refused: usize,
}

const OF_A_LINE: usize = 64;

impl Handler for Counted {
    type State = Numbered;
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, _frame: Frame) {
        for _ in 0..OF_A_LINE {
            session.state().asked += 1;
            let number = session.state().asked;
            self.0.asked.fetch_add(1, Ordering::SeqCst);
            session.offload(
                || (),
                move |counted, session, result| {
                    counted.0.told.fetch_add(1, Ordering::SeqCst);
                    if result.is_err() {
                        let before = std::mem::replace(&mut session.state().refused, number);
                        counted.0.out_of_order.fetch_add(usize::from(before >= number), Ordering::SeqCst);
                    }
                },
            );
        }
    }
}

/// A shard hears of all that it was refused in one turn in the next one, or more of it would wait with each.
#[test]
fn refusals_do_not_pile_up_under_a_flood() {
    const LINES: usize = 2_000;
    let pool = PoolConfig { concurrency: 1, threads: 1, queue_max: 1, ..PoolConfig::default() };
    let counted = Counted::default();
    let told = counted.clone();
    let engine = Engine::new().unwrap().shards(1).unwrap().pool(pool).unwrap();
    let engine = engine.serve(Server::bind(ADDRESS, Lines::default()), move |_| told.clone()).unwrap();
    let mut engine = engine.simulate(&SimNet::new(8)).unwrap();
    let mut peers = [peer(&mut engine), peer(&mut engine)];
    for peer in &mut peers {
        assert_eq!(peer.write(&[b'\n'; LINES]), LINES);
    }
    let (mut before, mut of_a_turn, mut most) = (0, 0, 0);
    let in_time = engine.run_until(60 * SOON, |engine| {
        let (asked, told) = (counted.0.asked.load(Ordering::SeqCst), counted.0.told.load(Ordering::SeqCst));
        let counters = engine.pool_counters();
        of_a_turn = of_a_turn.max(asked - before);
        before = asked;
        // What has left the pool, or was refused by it, and the shard has not heard of.
        most = most.max(asked - told - counters.queued - counters.running);
        told == 2 * LINES * OF_A_LINE
    });
    assert!(in_time, "not everything was told");
    assert_eq!(
        counted.0.out_of_order.load(Ordering::SeqCst),
        0,
        "refusals are told in the order of the calls"
    );
    assert!(engine.pool_counters().refused > 100_000, "{:?}", engine.pool_counters());
    assert!(most <= of_a_turn + 2, "{most} wait, and a turn asked for {of_a_turn} at most");
    drop(peers);
    stop(engine);
}
