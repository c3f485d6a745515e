//! Clients that connect again, or when they are told to: in virtual time, and in bad weather.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyport::{
    Backoff, Client, CloseReason, ConnectError, ConnectFailure, Engine, FaultKind, Frame, Handler, Limits,
    Lines, Reconnect, Remote, Server, Session, Shard,
    sim::{Behaviour, FaultClass, Faults, Held, Rate, SimEngine, SimNet, SimPeer, each_seed},
};

use crate::bed::{ADDRESS, SOON};

const UPSTREAM: &str = "10.0.0.2:9000";
const OTHER: &str = "10.0.0.3:9000";
const SECOND: Duration = Duration::from_secs(1);

/// What happened to a client's connections: when, in virtual time, and what.
#[derive(Clone, PartialEq, Debug)]
enum Event {
    Opened { connection: usize, note: String },
    Closed { connection: usize, reason: CloseReason },
    Failed(ConnectFailure, String),
}

type Log = Arc<Mutex<Vec<(std::time::Instant, Event)>>>;

/// Writes down what it is told, and answers what it was given to answer.
struct Feed {
    log: Log,
    answer: Reconnect,
    after_close: Option<Reconnect>,
}

impl Feed {
    fn tell(&self, now: std::time::Instant, event: Event) {
        self.log.lock().unwrap().push((now, event));
    }
}

impl Handler for Feed {
    /// What a session was opened for.
    type State = String;
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let (now, note) = (session.shard().now(), session.state().clone());
        let connection = session.connection_index().expect("it is of a client");
        self.tell(now, Event::Opened { connection, note });
    }

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        let now = session.shard().now();
        let connection = session.connection_index().expect("it is of a client, still");
        if let Some(decision) = self.after_close {
            session.set_reconnect(decision);
        }
        self.tell(now, Event::Closed { connection, reason });
    }

    fn on_connect_failed(&mut self, shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        let note = shard.connecting_state(failure.connection).cloned().unwrap_or_default();
        self.tell(shard.now(), Event::Failed(failure.clone(), note));
        self.answer
    }
}

/// An engine with one such client.
struct Bed {
    net: SimNet,
    engine: SimEngine,
    remote: Remote<Feed>,
    log: Log,
}

impl Bed {
    fn new(net: SimNet, shards: usize, client: Client<Lines>) -> Self {
        Self::answering(net, shards, client, Reconnect::AsConfigured, None)
    }

    fn answering(
        net: SimNet,
        shards: usize,
        client: Client<Lines>,
        answer: Reconnect,
        after_close: Option<Reconnect>,
    ) -> Self {
        let log = Log::default();
        let mut engine = Engine::new().unwrap().shards(shards).unwrap();
        let told = Arc::clone(&log);
        let make = move |_| Feed { log: Arc::clone(&told), answer, after_close };
        let remote = engine.add_client(client, make).unwrap();
        let engine = engine.simulate(&net).unwrap();
        Self { net, engine, remote, log }
    }

    fn events(&self) -> Vec<Event> {
        self.log.lock().unwrap().iter().map(|(_, event)| event.clone()).collect()
    }

    fn failures(&self) -> Vec<ConnectFailure> {
        let of = |event| if let Event::Failed(failure, _) = event { Some(failure) } else { None };
        self.events().into_iter().filter_map(of).collect()
    }

    /// Runs until so many connections were opened, and gives their other ends.
    fn accept(&mut self, listener: &mut anyport::sim::SimPeerListener, count: usize) -> Vec<SimPeer> {
        let mut peers = Vec::new();
        let all = self.engine.run_until(60 * SECOND, |_| {
            peers.extend(listener.accept());
            peers.len() == count
        });
        assert!(all, "{} of {count} came", peers.len());
        peers
    }

    fn opened(&mut self, count: u64) {
        assert!(self.engine.run_until(60 * SECOND, |engine| engine.counters(0).connected == count));
        self.engine.check().unwrap();
    }

    fn end(mut self) {
        self.engine.stop().unwrap();
        assert_eq!(self.engine.held(), Held::default());
    }
}

fn feed(backoff: Backoff) -> Client<Lines> {
    Client::to(UPSTREAM, Lines::default()).reconnect(backoff)
}

#[test]
fn a_connection_that_ends_is_opened_again_under_the_same_number() {
    let net = SimNet::new(1);
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    let mut bed = Bed::new(net, 2, feed(Backoff::default()).connections(5));
    let mut peers = bed.accept(&mut upstream, 5);
    bed.opened(5);
    peers.remove(2).close();
    peers.remove(0).reset();
    let _back = bed.accept(&mut upstream, 2);
    bed.opened(7);
    let mut opened = BTreeMap::<usize, usize>::new();
    let mut closed = Vec::new();
    for event in bed.events() {
        match event {
            Event::Opened { connection, .. } => *opened.entry(connection).or_default() += 1,
            Event::Closed { connection, .. } => closed.push(connection),
            Event::Failed(failure, _) => panic!("{failure:?}"),
        }
    }
    assert_eq!(opened.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(closed.len(), 2);
    assert!(closed.iter().all(|connection| opened[connection] == 2), "{opened:?} {closed:?}");
    bed.end();
}

#[test]
fn the_waits_grow_and_end_with_the_budget() {
    let backoff = Backoff { budget: Some(6), ..Backoff::default() };
    let mut bed = Bed::new(SimNet::new(2), 1, feed(backoff));
    bed.engine.run_for(600 * SECOND);
    let failures = bed.failures();
    let attempts: Vec<_> = failures.iter().map(|failure| failure.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6]);
    assert!(failures.iter().all(|failure| failure.fault.kind == FaultKind::Refused));
    let mut last = backoff.first;
    for failure in &failures[..5] {
        let wait = failure.next.unwrap();
        assert!(wait >= backoff.first && wait <= last * 3, "{wait:?} after {last:?}");
        last = wait;
    }
    assert_eq!(failures[5].next, None);
    // The waits are what was told, no shorter, and longer only by what opening took.
    let times: Vec<_> = bed.log.lock().unwrap().iter().map(|(at, _)| *at).collect();
    for (pair, failure) in times.windows(2).zip(&failures) {
        let (waited, told) = (pair[1] - pair[0], failure.next.unwrap());
        assert!(waited >= told && waited < told + SECOND, "{waited:?}, and {told:?} was told");
    }
    bed.end();
}

#[test]
fn a_stable_connection_renews_the_budget_and_an_unstable_one_does_not() {
    for (lasts, ends) in [(20 * SECOND, false), (SECOND, true)] {
        let net = SimNet::new(3);
        let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
        let backoff = Backoff { budget: Some(2), ..Backoff::default() };
        let mut bed = Bed::new(net, 1, feed(backoff));
        for round in 0..5_u64 {
            let mut peer = None;
            bed.engine.run_until(60 * SECOND, |_| {
                peer = peer.take().or_else(|| upstream.accept());
                peer.is_some()
            });
            let Some(peer) = peer else {
                assert!(ends && round == 2, "given up after {round}");
                break;
            };
            assert!(!ends || round < 2);
            bed.opened(round + 1);
            bed.engine.run_for(lasts);
            peer.close();
        }
        bed.end();
    }
}

#[test]
fn the_end_of_a_stable_connection_is_no_attempt() {
    let net = SimNet::new(3);
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    let backoff = Backoff { budget: Some(1), ..Backoff::default() };
    let mut bed = Bed::new(net, 1, feed(backoff));
    for round in 1..4 {
        let peers = bed.accept(&mut upstream, 1);
        bed.opened(round);
        bed.engine.run_for(3_600 * SECOND);
        drop(peers);
    }
    let last = bed.accept(&mut upstream, 1);
    bed.opened(4);
    bed.engine.run_for(3_600 * SECOND);
    drop((last, upstream));
    bed.engine.run_for(600 * SECOND);
    let told: Vec<_> = bed.failures().iter().map(|failure| (failure.attempt, failure.next)).collect();
    assert_eq!(told, [(1, None)]);
    bed.end();
}

#[test]
fn attempts_are_counted_anew_after_a_connection_without_a_backoff() {
    let net = SimNet::new(3);
    let after = Reconnect::After(7 * SECOND);
    let client = Client::to(UPSTREAM, Lines::default());
    let mut bed = Bed::answering(net.clone(), 1, client, after, Some(after));
    for round in 1..4 {
        let failures = 2 * round;
        let all = bed.engine.run_until(60 * SECOND, |engine| engine.counters(0).connect_failed == failures);
        assert!(all, "round {round}");
        let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
        drop(bed.accept(&mut upstream, 1));
        bed.opened(round);
    }
    let attempts: Vec<_> = bed.failures().iter().map(|failure| failure.attempt).collect();
    assert_eq!(attempts, [1, 2, 1, 2, 1, 2]);
    bed.end();
}

#[test]
fn a_connect_that_nobody_answers_is_given_up() {
    let mut behaviour = Behaviour::default();
    behaviour.connect_attempts_max = 1_000_000;
    let net = SimNet::with_behaviour(4, behaviour);
    // Its backlog is full, and it never accepts.
    let mut wall = net.driver(anyport::DriverConfig::default());
    let options = anyport_driver::ListenOptions { backlog: 1, ..Default::default() };
    anyport_driver::Driver::listen(&mut wall, &UPSTREAM.parse().unwrap(), &options).unwrap();
    let _first = net.connect(UPSTREAM.parse().unwrap()).unwrap();
    let limits = Limits { connect_timeout: 3 * SECOND, ..Limits::default() };
    let mut bed = Bed::new(net, 1, Client::to(UPSTREAM, Lines::default()).limits(limits));
    let start = bed.net.elapsed();
    assert!(bed.engine.run_until(60 * SECOND, |engine| engine.counters(0).connect_failed == 1));
    let took = bed.net.elapsed().saturating_sub(start);
    assert!(took >= 3 * SECOND && took < 3 * SECOND + SOON, "{took:?}");
    let failures = bed.failures();
    assert_eq!((failures[0].fault.kind, failures[0].next), (FaultKind::TimedOut, None));
    bed.engine.run_for(SECOND);
    bed.engine.check().unwrap();
    assert_eq!(bed.engine.held(), Held::default());
    bed.end();
}

#[test]
fn several_addresses_are_tried_in_turn() {
    let net = SimNet::new(5);
    let mut other = net.listen(OTHER.parse().unwrap()).unwrap();
    let targets = [UPSTREAM, "10.0.0.4:1", OTHER];
    // Once each, without a wait.
    let mut bed = Bed::new(net.clone(), 1, Client::to_any(targets, Lines::default()));
    bed.opened(1);
    assert_eq!(
        bed.failures().iter().map(|failure| failure.next).collect::<Vec<_>>(),
        [Some(Duration::ZERO); 2]
    );
    drop(bed.accept(&mut other, 1));
    bed.end();
    drop(other);
    let mut bed = Bed::new(net, 1, Client::to_any(targets, Lines::default()));
    bed.engine.run_for(60 * SECOND);
    let tried: Vec<_> = bed.failures().iter().map(|failure| failure.to.to_string()).collect();
    assert_eq!(tried, targets);
    assert_eq!(bed.failures()[2].next, None);
    bed.end();
}

#[test]
fn the_handler_has_the_last_word() {
    let backoff = Backoff::default();
    let never = Bed::answering(SimNet::new(6), 1, feed(backoff), Reconnect::Never, None);
    let after = Reconnect::After(7 * SECOND);
    // Also without a backoff.
    let seven = Bed::answering(SimNet::new(6), 1, Client::to(UPSTREAM, Lines::default()), after, None);
    for (mut bed, expected) in [(never, 1), (seven, 9)] {
        bed.engine.run_for(60 * SECOND);
        assert_eq!(bed.failures().len(), expected);
        bed.end();
    }
    let net = SimNet::new(6);
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    let as_configured = Reconnect::AsConfigured;
    let mut bed = Bed::answering(net, 1, feed(backoff), as_configured, Some(Reconnect::Never));
    drop(bed.accept(&mut upstream, 1));
    bed.engine.run_for(600 * SECOND);
    assert!(upstream.accept().is_none(), "it was told never to come back");
    assert_eq!(bed.engine.counters(0).connected, 1);
    bed.end();
}

#[test]
fn who_waits_can_be_told_to_hurry() {
    let net = SimNet::new(7);
    let backoff = Backoff { first: 1_000 * SECOND, cap: 5_000 * SECOND, ..Backoff::default() };
    let mut bed = Bed::new(net.clone(), 2, feed(backoff).connections(4));
    assert!(bed.engine.run_until(SECOND, |engine| engine.counters(0).connect_failed == 4));
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    bed.engine.run_for(100 * SECOND);
    assert!(upstream.accept().is_none());
    let before = net.elapsed();
    bed.remote.reconnect_now().unwrap();
    let _peers = bed.accept(&mut upstream, 4);
    bed.opened(4);
    assert!(net.elapsed().saturating_sub(before) < SOON);
    bed.end();
}

#[test]
fn a_stop_ends_every_wait_and_nothing_connects_after_it() {
    let net = SimNet::new(8);
    let mut bed = Bed::new(net.clone(), 2, feed(Backoff::default()).connections(20));
    bed.engine.run_for(SECOND);
    let before = bed.engine.counters(0).connect_failed;
    assert!(before >= 20, "{before}");
    bed.engine.stop().unwrap();
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    bed.engine.run_for(1_000 * SECOND);
    assert!(upstream.accept().is_none());
    assert!(matches!(bed.remote.connect(), Err(ConnectError::NotManual { .. })));
    assert_eq!(bed.engine.held(), Held::default());
}

#[test]
fn a_manual_client_connects_when_it_is_told_to_and_as_often() {
    let net = SimNet::new(9);
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    let limits = Limits { sessions_max: 2, ..Limits::default() };
    let client = Client::to(UPSTREAM, Lines::default()).manual().limits(limits);
    let mut bed = Bed::new(net.clone(), 2, client);
    bed.engine.run_for(100 * SECOND);
    assert!(upstream.accept().is_none(), "nobody told it to");
    for round in 0..3 {
        bed.remote.connect().unwrap();
        bed.remote.connect_with(None, format!("round {round}")).unwrap();
        let error = bed.remote.connect().unwrap_err();
        assert!(matches!(error, ConnectError::AtCapacity { sessions_max: 2 }), "{error}");
        let peers = bed.accept(&mut upstream, 2);
        bed.opened(2 * round + 2);
        drop(peers);
        assert!(bed.engine.run_until(SECOND, |engine| engine.counters(0).sessions == 0));
        bed.engine.run_for(SECOND);
    }
    let notes = bed.events().into_iter().filter_map(|event| match event {
        Event::Opened { note, .. } if !note.is_empty() => Some(note),
        _ => None,
    });
    assert_eq!(notes.collect::<Vec<_>>(), ["round 0", "round 1", "round 2"]);
    // Where nobody listens, what it was for is told with the failure, and the place is free again.
    for _ in 0..5 {
        bed.remote.connect_with(Some(OTHER.parse().unwrap()), "lost".into()).unwrap();
        bed.engine.run_for(SECOND);
        let last = bed.events().pop().unwrap();
        assert!(matches!(&last, Event::Failed(failure, note) if note == "lost" && failure.next.is_none()));
    }
    bed.remote.connect_to("10.0.0.2:9000").unwrap();
    let _peer = bed.accept(&mut upstream, 1);
    let remote = bed.remote.clone();
    bed.engine.stop().unwrap();
    assert!(matches!(remote.connect(), Err(ConnectError::Ended)));
    bed.end();
}

/// The most connections that came within any 100 ms, and how many came at all.
fn storm(seed: u64, clients: usize, backoff: Backoff) -> (usize, usize) {
    let net = SimNet::new(seed);
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    let mut bed = Bed::new(net.clone(), 2, feed(backoff).connections(clients));
    let mut peers = bed.accept(&mut upstream, clients);
    bed.opened(clients as u64);
    // The server restarts: all are lost at once, and for a while nobody listens.
    drop(upstream);
    peers.clear();
    bed.engine.run_for(20 * SECOND);
    let mut upstream = net.listen(UPSTREAM.parse().unwrap()).unwrap();
    let mut came = Vec::new();
    bed.engine.run_until(300 * SECOND, |engine| {
        while let Some(peer) = upstream.accept() {
            peers.push(peer);
            came.push(engine.net().elapsed());
        }
        peers.len() == clients
    });
    let window = Duration::from_millis(100);
    let peak =
        came.iter().map(|from| came.iter().filter(|at| **at >= *from && **at < *from + window).count());
    let result = (peak.max().unwrap_or(0), came.len());
    bed.end();
    result
}

#[test]
fn a_thousand_clients_that_lose_their_server_do_not_come_back_at_once() {
    let (peak, came) = storm(10, 1_000, Backoff::default());
    assert_eq!(came, 1_000);
    // After 20 s their waits lie between 0.1 s and 30 s: one in twenty in any 100 ms would be many.
    assert!(peak < 50, "{peak} of 1000 within 100 ms");
}

#[test]
fn the_same_seed_gives_the_same_storm() {
    assert_eq!(storm(11, 50, Backoff::default()), storm(11, 50, Backoff::default()));
}

/// In bad weather everybody comes back in the end, and each has one connection.
#[test]
fn clients_come_back_in_any_weather() {
    each_seed(0..25, |seed| {
        let faults = [FaultClass::Reset, FaultClass::Connect, FaultClass::Open, FaultClass::Receive]
            .into_iter()
            .fold(Faults::default(), |faults, class| faults.with(class, Rate::per_million(100_000)));
        let net = SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults));
        let mut engine = Engine::new().unwrap().shards(2).unwrap();
        let log = Log::default();
        let (above, below) = (Arc::clone(&log), Log::default());
        let make = |log: Log| {
            move |_| Feed { log: Arc::clone(&log), answer: Reconnect::AsConfigured, after_close: None }
        };
        let client = Client::to(ADDRESS, Lines::default()).connections(8).reconnect(Backoff::default());
        engine.add_client(client, make(above)).unwrap();
        engine
            .add_server(Server::bind(ADDRESS, Lines::default()), move |_| Sink(Arc::clone(&below)))
            .unwrap();
        let Ok(mut engine) = engine.simulate(&net) else { return };
        engine.run_for(30 * SECOND);
        engine.check().unwrap();
        net.calm();
        let all = |engine: &SimEngine| engine.counters(0).sessions == 8 && engine.counters(1).sessions == 8;
        assert!(engine.run_until(120 * SECOND, all), "{:?}", engine.counters(0));
        engine.run_for(10 * SECOND);
        engine.check().unwrap();
        let mut open = BTreeMap::<usize, i32>::new();
        for (_, event) in log.lock().unwrap().iter() {
            match event {
                Event::Opened { connection, .. } => *open.entry(*connection).or_default() += 1,
                Event::Closed { connection, .. } => *open.entry(*connection).or_default() -= 1,
                Event::Failed(..) => {}
            }
            assert!(open.values().all(|open| (0..=1).contains(open)), "two at a time: {open:?}");
        }
        assert_eq!(open, (0..8).map(|connection| (connection, 1)).collect());
        engine.stop().unwrap();
        assert_eq!(engine.held(), Held::default());
    });
}

/// A server that says nothing.
struct Sink(Log);

impl Handler for Sink {
    type State = ();
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        assert_eq!(session.connection_index(), None, "it is of a server");
        session.set_reconnect(Reconnect::After(SECOND));
        assert!(self.0.lock().unwrap().is_empty());
    }

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}
}
