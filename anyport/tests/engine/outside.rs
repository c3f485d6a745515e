//! Reaching in from other threads, and the shards among themselves.

use std::{
    collections::HashSet,
    sync::mpsc::{Sender, channel},
    time::Duration,
};

use anyport::{
    Client, ConnectFailure, DriverChoice, Engine, Error, FaultKind, Frame, Handler, Limits, Raw, Reconnect,
    Server, Session, SessionId, Shard, Spread, TimerKey,
};

use crate::support::{Bed, Echo, Event, Events, Nobody, PATIENCE, Peer, placed};

on_every_driver! {
    jobs_reach_their_session_in_order
    a_stale_id_runs_nothing
    jobs_posted_before_the_start_run
    jobs_from_many_threads_are_all_run
    hand_over_spreads_evenly
    every_shard_gets_sessions_by_default
    reuse_port_is_had_or_refused_with_what_to_do
    timers_of_a_shard_fire_in_order
    a_connection_that_is_refused_is_told
    a_connect_that_nobody_answers_does_not_outlive_its_engine
}

/// Tells the ids of its sessions.
struct Known {
    tell: Sender<SessionId>,
}

impl Handler for Known {
    type State = u32;
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        self.tell.send(session.id()).unwrap();
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send_frame(frame);
    }
}

fn known(driver: DriverChoice, shards: usize) -> (Bed<Known>, std::sync::mpsc::Receiver<SessionId>) {
    let (tell, ids) = channel();
    let bed = Bed::start(driver, shards, Raw, Limits::default(), move |_| Known { tell: tell.clone() });
    (bed, ids)
}

fn jobs_reach_their_session_in_order(driver: DriverChoice) {
    let (bed, ids) = known(driver, 2);
    let mut peers = Vec::new();
    for _ in 0..8 {
        let peer = bed.peer();
        peers.push((peer, ids.recv_timeout(PATIENCE).unwrap()));
    }
    for round in 0..100_u8 {
        for (_, id) in &peers {
            assert!(
                bed.remote
                    .post(*id, move |_, session| {
                        *session.state() += 1;
                        session.send(&[round]);
                    })
                    .is_ok()
            );
        }
    }
    let all: Vec<u8> = (0..100).collect();
    for (peer, _) in &mut peers {
        peer.expect(&all);
    }
    bed.running.stop().unwrap();
}

fn a_stale_id_runs_nothing(driver: DriverChoice) {
    let (bed, ids) = known(driver, 1);
    let first = bed.peer();
    let old = ids.recv_timeout(PATIENCE).unwrap();
    drop(first);
    bed.counters_when(|counters| counters.sessions == 0 && counters.accepted == 1);
    let mut second = bed.peer();
    let new = ids.recv_timeout(PATIENCE).unwrap();
    assert_ne!(old, new);
    bed.remote
        .post(old, |_, session| {
            session.send(b"for the first");
        })
        .unwrap();
    bed.remote
        .post(new, |_, session| {
            session.send(b"for the second");
        })
        .unwrap();
    second.expect(b"for the second");
    bed.running.stop().unwrap();
    assert!(bed.remote.post(new, |_, _| unreachable!("the engine has ended")).is_err());
}

fn jobs_posted_before_the_start_run(driver: DriverChoice) {
    let (tell, _ids) = channel();
    let mut engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
    let server = Server::bind("127.0.0.1:0", Raw).placement(placed(1));
    let remote = engine.add_server(server, move |_| Known { tell: tell.clone() }).unwrap();
    let (done, told) = channel();
    assert!(remote.post_to_shard(0, move |_, shard| done.send(shard.index()).unwrap()).is_ok());
    assert!(remote.post_to_shard(1, |_, _| unreachable!("there is no such shard")).is_err());
    let running = engine.start().unwrap();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(0));
    running.stop().unwrap();
}

fn jobs_from_many_threads_are_all_run(driver: DriverChoice) {
    let (bed, _ids) = known(driver, 2);
    let (done, told) = channel();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (remote, done) = (bed.remote.clone(), done.clone());
            scope.spawn(move || {
                for job in 0..2_000_u32 {
                    let done = done.clone();
                    remote
                        .post_to_shard((job % 2) as usize, move |_, _| {
                            done.send(thread * 2_000 + job).unwrap();
                        })
                        .unwrap();
                }
            });
        }
    });
    drop(done);
    let run: HashSet<u32> = (0..8_000).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(run.len(), 8_000);
    bed.running.stop().unwrap();
}

fn hand_over_spreads_evenly(driver: DriverChoice) {
    let (tell, ids) = channel();
    let engine = Engine::new().unwrap().shards(3).unwrap().driver(driver).spread(Spread::HandOver);
    let engine = engine
        .serve(Server::bind("127.0.0.1:0", Raw).placement(placed(3)), move |_| Known { tell: tell.clone() })
        .unwrap();
    let running = engine.start().unwrap();
    let mut peers: Vec<_> = (0..12).map(|_| Peer::connect(running.address(0).unwrap())).collect();
    let mut each = [0; 3];
    for _ in 0..12 {
        each[ids.recv_timeout(PATIENCE).unwrap().shard() as usize] += 1;
    }
    assert_eq!(each, [4; 3]);
    for peer in &mut peers {
        peer.send(b"moved");
        peer.expect(b"moved");
    }
    drop(peers);
    running.stop().unwrap();
}

fn every_shard_gets_sessions_by_default(driver: DriverChoice) {
    let (bed, ids) = known(driver, 2);
    let shares_ports = bed.running.driver().0.shares_ports();
    let expected = if shares_ports { Spread::ReusePort } else { Spread::HandOver };
    assert_eq!(bed.running.spread(), expected);
    // The system may choose by a hash: with 64 connections, that all land on one shard has odds of 2 to the 63rd.
    let peers: Vec<_> = (0..64).map(|_| bed.peer()).collect();
    let shards: HashSet<u8> = (0..64).map(|_| ids.recv_timeout(PATIENCE).unwrap().shard()).collect();
    assert_eq!(shards.len(), 2);
    drop(peers);
    bed.running.stop().unwrap();
}

fn reuse_port_is_had_or_refused_with_what_to_do(driver: DriverChoice) {
    let (tell, ids) = channel();
    let engine = Engine::new().unwrap().shards(2).unwrap().driver(driver).spread(Spread::ReusePort);
    let engine = engine
        .serve(Server::bind("127.0.0.1:0", Raw).placement(placed(2)), move |_| Known { tell: tell.clone() })
        .unwrap();
    match engine.start() {
        Ok(running) => {
            assert!(running.driver().0.shares_ports() && running.spread() == Spread::ReusePort);
            let mut peer = Peer::connect(running.address(0).unwrap());
            ids.recv_timeout(PATIENCE).unwrap();
            peer.send(b"shared");
            peer.expect(b"shared");
            drop(peer);
            running.stop().unwrap();
        }
        Err(error) => {
            assert!(matches!(error, Error::Spread { driver } if !driver.shares_ports()), "{error}");
            assert!(error.to_string().contains("Spread::HandOver"), "{error}");
        }
    }
}

/// Sets timers out of order, and tells which fire.
struct Clocked {
    tell: Sender<u16>,
}

impl Handler for Clocked {
    type State = ();
    type Codec = Raw;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        for milliseconds in [40, 0, 20, 30, 10_u16] {
            shard.set_timer(TimerKey(milliseconds), Duration::from_millis(milliseconds.into()));
        }
    }

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}

    fn on_timer(&mut self, _shard: &mut Shard<Self>, timer: TimerKey) {
        self.tell.send(timer.0).unwrap();
    }
}

fn timers_of_a_shard_fire_in_order(driver: DriverChoice) {
    let (tell, told) = channel();
    let start = std::time::Instant::now();
    let bed = Bed::start(driver, 1, Raw, Limits::default(), move |_| Clocked { tell: tell.clone() });
    for expected in [0, 10, 20, 30, 40] {
        assert_eq!(told.recv_timeout(PATIENCE), Ok(expected));
        // Never early, by any clock.
        assert!(start.elapsed() >= Duration::from_millis(expected.into()));
    }
    bed.running.stop().unwrap();
}

/// Tells how connecting failed.
struct Unlucky {
    tell: Sender<ConnectFailure>,
}

impl Handler for Unlucky {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}

    fn on_connect_failed(&mut self, shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        assert!(shard.sessions() <= 3);
        self.tell.send(failure.clone()).unwrap();
        Reconnect::AsConfigured
    }
}

fn a_connection_that_is_refused_is_told(driver: DriverChoice) {
    let nobody = Nobody::new();
    let free = nobody.address();
    let (tell, told) = channel();
    let engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
    let client = Client::to(free.to_string(), Raw).connections(3).placement(placed(1));
    let running = engine.connect(client, move |_| Unlucky { tell: tell.clone() }).unwrap().start().unwrap();
    for _ in 0..3 {
        let failure = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!((failure.to, failure.fault.kind), (free.into(), FaultKind::Refused));
    }
    let stop = running.stopper();
    stop.drain();
    running.join().unwrap();
}

fn a_connect_that_nobody_answers_does_not_outlive_its_engine(driver: DriverChoice) {
    const CONNECTIONS: usize = 8;
    // A backlog of one, and nobody accepts: the system leaves most of the connects without an answer.
    let door = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    door.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    door.listen(1).unwrap();
    let address = door.local_addr().unwrap().as_socket().unwrap();
    let (tell, events) = Events::new();
    let mut engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
    let client = Client::to(address.to_string(), Raw).connections(CONNECTIONS).placement(placed(1));
    engine.add_client(client, move |_| Echo::<Raw>::new(tell.clone())).unwrap();
    let mut running = engine.start().unwrap();
    assert_eq!(events.next(), Event::Open);
    running.stopper().drain();
    let threads = (running.shards(), running.logic_threads());
    running.wait().unwrap();
    // It stays to be asked.
    assert!(threads.0 > 0 && threads == (running.shards(), running.logic_threads()));
    // Each has ended as one or the other: none was left to the system.
    let counters = running.counters(0);
    assert_eq!(counters.connected + counters.connect_failed, CONNECTIONS as u64, "{counters:?}");
}
