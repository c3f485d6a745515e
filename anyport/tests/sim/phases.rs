//! The phases of a stop, in virtual time: told, grace, flush, and an end that comes whatever peers do.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyport::{
    CloseReason, Engine, Frame, Handler, Limits, Lines, SendMarks, Server, Session, Shard, Spread,
    sim::{Held, SimEngine, SimNet, SimPeer},
};

use crate::bed::{ADDRESS, SOON};

/// What happened, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// Says goodbye when it is told of the end; `fill N` queues N lines of a hundred bytes; `stop` stops the engine.
struct Polite {
    log: Log,
}

impl Handler for Polite {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let line = str::from_utf8(&frame).unwrap();
        match line.split_once(' ') {
            Some(("fill", lines)) => {
                for line in 0..lines.parse().unwrap() {
                    session.send(format!("{line:099}").as_bytes());
                }
            }
            _ if line == "stop" => session.shard().stop_engine_within(Duration::from_secs(3)),
            _ => {
                session.send(&frame);
            }
        }
    }

    fn on_drain(&mut self, shard: &mut Shard<Self>) {
        self.log.lock().unwrap().push(format!("drain {}", shard.index()));
    }

    fn on_session_drain(&mut self, session: &mut Session<Self>) {
        self.log.lock().unwrap().push("told".into());
        session.send(b"goodbye");
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        self.log.lock().unwrap().push(reason.name().into());
    }
}

fn engine(net: &SimNet, shards: usize, limits: Limits) -> (SimEngine, Log) {
    let log = Log::default();
    let told = Arc::clone(&log);
    let server = Server::bind(ADDRESS, Lines::default()).limits(limits);
    let engine = Engine::new().unwrap().shards(shards).unwrap().spread(Spread::HandOver);
    let engine = engine.serve(server, move |_| Polite { log: Arc::clone(&told) }).unwrap();
    (engine.simulate(net).unwrap(), log)
}

fn join(net: &SimNet, engine: &mut SimEngine) -> SimPeer {
    let mut peer = net.connect(engine.address(0).unwrap()).unwrap();
    assert_eq!(engine.ask(&mut peer, b"hello\n", b"\n", SOON), b"hello\n");
    peer
}

#[test]
fn sessions_are_told_go_on_for_their_grace_and_drain() {
    let net = SimNet::new(1);
    let limits = Limits { drain_grace: Duration::from_secs(5), ..Limits::default() };
    let (mut engine, log) = engine(&net, 2, limits);
    let (mut stays, mut leaves) = (join(&net, &mut engine), join(&net, &mut engine));
    let start = net.now();
    engine.stopper().drain();
    assert_eq!(engine.read_line(&mut stays, SOON), "goodbye\n");
    assert_eq!(engine.read_line(&mut leaves, SOON), "goodbye\n");
    // Nobody comes any more, and those who are there go on.
    assert!(net.connect(ADDRESS.parse().unwrap()).is_err());
    engine.run_for(Duration::from_secs(2));
    assert_eq!(engine.ask(&mut stays, b"still here\n", b"\n", SOON), b"still here\n");
    leaves.close();
    engine.run_for(Duration::from_secs(1));
    assert!(log.lock().unwrap().contains(&"peer_closed".to_owned()));
    assert_eq!(engine.read_to_end(&mut stays, Duration::from_secs(5)), b"");
    assert!(net.now() - start >= limits.drain_grace);
    drop(stays);
    assert!(engine.run_until(SOON, SimEngine::is_finished));
    let log = log.lock().unwrap();
    for (what, times) in [("drain 0", 1), ("drain 1", 1), ("told", 2), ("drained", 1), ("peer_closed", 1)] {
        assert_eq!(log.iter().filter(|line| *line == what).count(), times, "{what}: {log:?}");
    }
}

#[test]
fn without_grace_the_last_message_is_what_the_handler_says() {
    let net = SimNet::new(2);
    let (mut engine, log) = engine(&net, 1, Limits::default());
    let mut peer = join(&net, &mut engine);
    engine.stopper().drain();
    assert_eq!(engine.read_to_end(&mut peer, SOON), b"goodbye\n");
    drop(peer);
    engine.stop().unwrap();
    assert_eq!(*log.lock().unwrap(), ["drain 0", "told", "drained"]);
}

#[test]
fn an_engine_whose_sessions_have_gone_does_not_wait_for_the_grace() {
    let net = SimNet::new(3);
    let limits = Limits { drain_grace: Duration::from_hours(1), ..Limits::default() };
    let (mut engine, _log) = engine(&net, 2, limits);
    let peer = join(&net, &mut engine);
    engine.stopper().drain();
    peer.close();
    assert!(engine.run_until(SOON, SimEngine::is_finished));
}

#[test]
fn an_abort_ends_the_grace() {
    let net = SimNet::new(4);
    let limits = Limits { drain_grace: Duration::from_hours(1), ..Limits::default() };
    let (mut engine, log) = engine(&net, 2, limits);
    let _peer = join(&net, &mut engine);
    // As two signals do.
    engine.stopper().signal();
    engine.run_for(SOON);
    assert!(!engine.is_finished());
    engine.stopper().signal();
    assert!(engine.run_until(SOON, SimEngine::is_finished));
    assert_eq!(log.lock().unwrap().last().map(String::as_str), Some("stopped"));
}

#[test]
fn a_handler_stops_the_engine_and_the_hard_end_comes() {
    let net = SimNet::new(5);
    let limits = Limits { drain_grace: Duration::from_hours(1), ..Limits::default() };
    let (mut engine, _log) = engine(&net, 3, limits);
    let mut peers: Vec<_> = (0..6).map(|_| join(&net, &mut engine)).collect();
    let start = net.now();
    engine.write(&mut peers[0], b"stop\n", SOON);
    assert!(engine.run_until(SOON * 10, SimEngine::is_finished));
    let took = net.now() - start;
    assert!(took >= SOON * 3 && took < SOON * 4, "{took:?}");
    assert_eq!(engine.held(), Held::default());
}

#[test]
fn of_several_hard_ends_the_shortest_counts() {
    let net = SimNet::new(6);
    let limits = Limits { drain_grace: Duration::from_hours(1), ..Limits::default() };
    let (mut engine, _log) = engine(&net, 1, limits);
    let _peer = join(&net, &mut engine);
    let (start, stop) = (net.now(), engine.stopper());
    stop.drain();
    engine.run_for(SOON);
    stop.drain_within(SOON * 20);
    engine.run_for(SOON);
    stop.drain_within(SOON * 5);
    stop.drain_within(SOON * 30);
    assert!(engine.run_until(SOON * 60, SimEngine::is_finished));
    let took = net.now() - start;
    assert!(took >= SOON * 7 && took < SOON * 8, "{took:?}");
    // Saying it to one that has ended is nothing, and no time is too long.
    stop.drain_within(Duration::MAX);
}

/// A thousand who do not read and twenty who do: the end comes in time, and every byte that was accepted reaches whoever
/// reads.
#[test]
fn it_ends_in_time_beside_a_thousand_who_do_not_read() {
    const LINES: usize = 2_000;
    let net = SimNet::new(7);
    let send = SendMarks { queue_max_bytes: 4 << 20, ..SendMarks::default() };
    let limits = Limits { send, drain_deadline: Duration::from_mins(10), ..Limits::default() };
    let (mut engine, log) = engine(&net, 2, limits);
    let mut deaf: Vec<_> = (0..1_000).map(|_| net.connect(engine.address(0).unwrap()).unwrap()).collect();
    let mut readers: Vec<_> = (0..20).map(|_| (join(&net, &mut engine), Vec::new())).collect();
    let fill = format!("fill {LINES}\n");
    for peer in deaf.iter_mut().chain(readers.iter_mut().map(|(peer, _)| peer)) {
        engine.write(peer, fill.as_bytes(), SOON);
    }
    assert!(engine.run_until(SOON, |engine| engine.counters(0).frames_sent >= (1_020 * LINES) as u64));
    let start = net.now();
    engine.stopper().drain_within(SOON * 30);
    let ended = engine.run_until(SOON * 60, |engine| {
        for (peer, read) in &mut readers {
            peer.read(read);
            if peer.is_end_of_stream() {
                peer.shutdown_write();
            }
        }
        engine.is_finished()
    });
    let took = net.now() - start;
    assert!(ended && took >= SOON * 30 && took < SOON * 31, "{took:?}");
    for (peer, read) in &mut readers {
        peer.read(read);
        assert!(read.ends_with(b"goodbye\n"), "{} bytes", read.len());
        assert_eq!(read.len(), LINES * 100 + b"goodbye\n".len());
    }
    assert_eq!(engine.held(), Held::default());
    let log = log.lock().unwrap();
    let count = |what: &str| log.iter().filter(|line| *line == what).count();
    // Of some that do not read the network took all, and only their end was missing.
    let (drained, stopped) = (count("drained"), count("stopped"));
    assert_eq!((count("told"), drained + stopped), (1_020, 1_020));
    assert!(drained >= 20 && stopped > 0, "{drained} drained, {stopped} stopped");
}
