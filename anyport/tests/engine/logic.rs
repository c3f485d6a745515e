//! Handlers on logic threads over many shards: order, spreading, services side by side, and how they start and end.
//! That everything else is the same there is shown by the cases of the other files, which run in both placements.

use std::{
    sync::mpsc::{Sender, channel},
    thread,
};

use anyport::{
    Client, CloseReason, Codec, DriverChoice, Engine, Error, Frame, Handler, Limits, Lines, Placement, Raw,
    Running, Server, Session, SessionId, Shard, Spread, TimerKey,
};

use crate::support::{Echo, Event, Events, PATIENCE, Peer};

on_every_driver_once! {
    order_is_kept_with_four_shards_and_two_threads
    one_thread_has_the_sessions_of_all_shards
    connections_are_dealt_to_the_threads_in_turn
    one_that_does_not_keep_up_does_not_hold_up_the_others
    a_client_of_logic_threads_talks_to_a_server_of_shards
    an_address_in_use_is_an_error
    what_is_dropped_ends
}

fn engine(driver: DriverChoice, shards: usize) -> Engine {
    Engine::new().unwrap().shards(shards).unwrap().driver(driver)
}

fn server<C: Codec>(codec: C, threads: usize) -> Server<C> {
    Server::bind("127.0.0.1:0", codec).placement(Placement::Logic { threads })
}

fn address(running: &Running) -> std::net::SocketAddr {
    running.address(0).unwrap()
}

/// Answers each line with the number that it has in its session, and the line.
struct Numbers;

impl Handler for Numbers {
    type State = u64;
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let number = *session.state();
        *session.state() += 1;
        session.send(format!("{number} {}", str::from_utf8(&frame).unwrap()).as_bytes());
    }
}

fn order_is_kept_with_four_shards_and_two_threads(driver: DriverChoice) {
    // With guard pages each allocation is a system call.
    const LINES: u64 = if cfg!(guard_pages) { 300 } else { 3_000 };
    let engine = engine(driver, 4).serve(server(Lines::default(), 2), |_| Numbers).unwrap();
    let running = engine.start().unwrap();
    assert_eq!((running.shards(), running.logic_threads()), (4, 2));
    let address = address(&running);
    thread::scope(|scope| {
        for peer in 0..12_u64 {
            scope.spawn(move || {
                let mut peer_end = Peer::connect(address);
                let mut writer = Peer(peer_end.0.try_clone().unwrap());
                scope.spawn(move || {
                    // In parts of other sizes than lines have.
                    let lines = (0..LINES).flat_map(|line| format!("{peer} {line}\n").into_bytes());
                    for part in lines.collect::<Vec<_>>().chunks(701) {
                        writer.send(part);
                    }
                });
                let expected = (0..LINES).flat_map(|line| format!("{line} {peer} {line}\n").into_bytes());
                peer_end.expect(&expected.collect::<Vec<_>>());
            });
        }
    });
    assert_eq!(running.counters(0).frames_received, 12 * LINES);
    running.stop().unwrap();
}

/// Counts all sessions that it has seen, without a lock, and says how many.
struct Census {
    seen: usize,
    tell: Sender<(SessionId, usize)>,
}

impl Handler for Census {
    type State = ();
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        self.seen += 1;
        let sessions = session.shard().sessions();
        assert!(sessions <= self.seen);
        self.tell.send((session.id(), self.seen)).unwrap();
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send(&frame);
    }
}

fn census(driver: DriverChoice, spread: Spread, threads: usize, peers: usize) -> Vec<(SessionId, usize)> {
    let (tell, told) = channel();
    let engine = engine(driver, 3).spread(spread);
    let make = move |_| Census { seen: 0, tell: tell.clone() };
    let running = engine.serve(server(Raw, threads), make).unwrap().start().unwrap();
    let mut peers: Vec<_> = (0..peers).map(|_| Peer::connect(address(&running))).collect();
    let seen = peers.iter().map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    for peer in &mut peers {
        peer.send(b"counted");
        peer.expect(b"counted");
    }
    drop(peers);
    running.stop().unwrap();
    seen
}

fn one_thread_has_the_sessions_of_all_shards(driver: DriverChoice) {
    let seen = census(driver, Spread::Auto, 1, 48);
    // One handler has counted them all.
    assert!(seen.iter().map(|(_, number)| *number).eq(1..=48));
    assert!(seen.iter().all(|(id, _)| id.shard() == 0));
}

fn connections_are_dealt_to_the_threads_in_turn(driver: DriverChoice) {
    let seen = census(driver, Spread::HandOver, 2, 60);
    // Twenty on each shard, and each shard deals in turn.
    let first = seen.iter().filter(|(id, _)| id.shard() == 0).count();
    assert_eq!(first, 30);
}

/// One of its threads is told to wait in the middle of an event, until the test lets it go on.
struct Waits {
    gate: std::sync::Arc<std::sync::Mutex<()>>,
    tell: Sender<(SessionId, bool)>,
}

impl Handler for Waits {
    type State = u64;
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        self.tell.send((session.id(), false)).unwrap();
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        if *session.state() == 0 && frame.starts_with(b"wait") {
            self.tell.send((session.id(), true)).unwrap();
            drop(self.gate.lock().unwrap());
        }
        *session.state() += frame.len() as u64;
        if frame.starts_with(b"hello") {
            session.send(&frame);
        }
        if *session.state() == FLOOD as u64 {
            session.send(b"all of it");
        }
    }
}

/// More than a link lets through, and the system and the peer keep for one connection.
const FLOOD: usize = 64 << 20;

fn one_that_does_not_keep_up_does_not_hold_up_the_others(driver: DriverChoice) {
    let (tell, told) = channel();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(()));
    let closed = gate.lock().unwrap();
    let of_handler = gate.clone();
    let make = move |_| Waits { gate: of_handler.clone(), tell: tell.clone() };
    // One shard for both threads.
    let running = engine(driver, 1).serve(server(Raw, 2), make).unwrap().start().unwrap();
    let next = |waits| loop {
        let (id, is_waiting) = told.recv_timeout(PATIENCE).unwrap();
        if is_waiting == waits {
            return id;
        }
    };
    let mut slow = Peer::connect(address(&running));
    let slow_id = next(false);
    let mut quick = Peer::connect(address(&running));
    let quick_id = next(false);
    assert_ne!(slow_id.shard(), quick_id.shard(), "they are dealt in turn");
    let mut writer = Peer(slow.0.try_clone().unwrap());
    let flood = thread::spawn(move || {
        writer.send(b"wait");
        let rest = vec![0; FLOOD - 4];
        for part in rest.chunks(1 << 20) {
            writer.send(part);
        }
    });
    assert_eq!(next(true), slow_id);
    for _ in 0..200 {
        quick.send(b"hello");
        quick.expect(b"hello");
    }
    assert!(!flood.is_finished(), "all of a flood was taken that nobody handles");
    drop(closed);
    flood.join().unwrap();
    slow.expect(b"all of it");
    running.stop().unwrap();
}

/// Says hello, and tells the test what comes back.
struct Asks(Sender<Vec<u8>>);

impl Handler for Asks {
    type State = ();
    type Codec = Raw;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        shard.set_timer(TimerKey(1), std::time::Duration::ZERO);
    }

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.send(b"hello");
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.0.send(frame.to_vec()).unwrap();
        session.drain();
    }

    fn on_timer(&mut self, _: &mut Shard<Self>, _: TimerKey) {
        self.0.send(b"timer".to_vec()).unwrap();
    }
}

fn a_client_of_logic_threads_talks_to_a_server_of_shards(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let echo = engine(driver, 2)
        .serve(Server::bind("127.0.0.1:0", Raw), move |_| Echo::<Raw>::new(tell.clone()))
        .unwrap()
        .start()
        .unwrap();
    let (tell, told) = channel();
    let client = Client::to(address(&echo).to_string(), Raw).connections(6);
    // Beside a server on the shards themselves.
    let (other_tell, other_events) = Events::new();
    let asking = engine(driver, 2)
        .serve(Server::bind("127.0.0.1:0", Raw), move |_| Echo::<Raw>::new(other_tell.clone()))
        .unwrap()
        .connect(client.placement(Placement::Logic { threads: 2 }), move |_| Asks(tell.clone()))
        .unwrap()
        .start()
        .unwrap();
    let mut came: Vec<_> = (0..8).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    came.sort();
    assert_eq!(came[..6], vec![b"hello".to_vec(); 6]);
    assert_eq!(came[6..], vec![b"timer".to_vec(); 2]);
    let mut peer = Peer::connect(address(&asking));
    peer.send(b"and the other service");
    peer.expect(b"and the other service");
    for _ in 0..6 {
        assert_eq!(events.next_close(), CloseReason::PeerClosed);
    }
    drop(peer);
    assert_eq!(other_events.next_close(), CloseReason::PeerClosed);
    asking.stop().unwrap();
    echo.stop().unwrap();
}

fn an_address_in_use_is_an_error(driver: DriverChoice) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    for shards in [1, 3] {
        let server = Server::bind(at.to_string(), Raw).placement(Placement::Logic { threads: 2 });
        let (tell, events) = Events::new();
        let engine = engine(driver, shards).serve(server, move |_| Echo::<Raw>::new(tell.clone())).unwrap();
        let error = engine.start().unwrap_err();
        assert!(matches!(&error, Error::Listen { .. }), "{error}");
        assert!(events.rest().is_empty());
    }
}

fn what_is_dropped_ends(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let limits = Limits { drain_deadline: PATIENCE, ..Limits::default() };
    let server = server(Raw, 2).limits(limits);
    let engine = engine(driver, 2).serve(server, move |_| Echo::<Raw>::new(tell.clone())).unwrap();
    let running = engine.start().unwrap();
    let mut peers: Vec<_> = (0..6).map(|_| Peer::connect(address(&running))).collect();
    for peer in &mut peers {
        peer.send(b"here");
        peer.expect(b"here");
    }
    drop(running);
    for peer in &mut peers {
        assert_eq!(peer.rest(), b"");
    }
    let closes = events.rest().into_iter().filter(|event| *event == Event::Close(CloseReason::Stopped));
    assert_eq!(closes.count(), 6);
}

#[test]
fn threads_out_of_range_are_refused() {
    for threads in [0, 257] {
        let error =
            Engine::new().unwrap().serve(server(Lines::default(), threads), |_| Numbers).err().unwrap();
        assert!(matches!(error, Error::LogicThreads { .. }), "{error}");
    }
}
