//! How sessions and engines end.

use std::{sync::mpsc::Sender, time::Duration};

use anyport::{
    Client, CloseReason, DriverChoice, Engine, Error, Frame, Handler, Limits, Lines, Raw, Server, Session,
};

use crate::support::{Bed, Echo, Event, Events, Peer, assert_refused, pattern, placed};

on_every_driver! {
    a_reset_is_told_from_an_end
    a_kick_is_seen_by_the_peer_and_counted
    a_drain_sends_all_that_was_queued
    the_first_reason_stays
    stopping_drains_every_session
    a_peer_that_never_ends_is_closed_at_the_deadline
    abort_closes_at_once
    a_handler_can_stop_the_engine
    nothing_is_accepted_after_the_stop
    every_open_has_one_close
    dropping_a_running_engine_ends_it
}

fn a_reset_is_told_from_an_end(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 1, Raw, Limits::default(), move |_| Echo::<Raw>::new(tell.clone()));
    let mut peer = bed.peer();
    peer.send(b"x");
    peer.expect(b"x");
    peer.reset();
    assert_eq!(events.next_close(), CloseReason::PeerReset);
    let mut peer = bed.peer();
    peer.send(b"x");
    peer.expect(b"x");
    drop(peer);
    assert_eq!(events.next_close(), CloseReason::PeerClosed);
    bed.running.stop().unwrap();
}

/// Does to its session what the peer's line says.
struct Obedient {
    tell: Sender<Event>,
}

impl Handler for Obedient {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        match &*frame {
            b"kick" => {
                session.send(b"never sent");
                session.kick(404);
                session.drain();
                session.close(CloseReason::Kicked(1));
            }
            b"drain" => {
                for _ in 0..50 {
                    session.send(&[b'y'; 8_000]);
                }
                session.drain();
                assert!(!session.is_open());
            }
            b"drain then kick" => {
                session.drain();
                session.kick(2);
            }
            b"stop" => session.shard().stop_engine(),
            _ => {}
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        session.send(b"nothing can be sent any more");
        self.tell.send(Event::Close(reason)).unwrap();
    }
}

fn obedient(driver: DriverChoice, shards: usize, limits: Limits) -> (Bed<Obedient>, Events) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, shards, Lines::default(), limits, move |_| Obedient { tell: tell.clone() });
    (bed, events)
}

fn a_kick_is_seen_by_the_peer_and_counted(driver: DriverChoice) {
    let (bed, events) = obedient(driver, 1, Limits::default());
    let mut peer = bed.peer();
    peer.send(b"kick\nkick\n");
    assert_eq!(peer.rest(), b"");
    assert_eq!(events.next_close(), CloseReason::Kicked(404));
    let counters = bed.counters_when(|counters| counters.closed_total() == 1);
    assert_eq!(counters.closed_for(CloseReason::Kicked(0)), 1);
    bed.running.stop().unwrap();
    assert_eq!(events.rest(), []);
}

fn a_drain_sends_all_that_was_queued(driver: DriverChoice) {
    let (bed, events) = obedient(driver, 1, Limits::default());
    let mut peer = bed.peer();
    peer.send(b"drain\nwhat follows is not read\n");
    assert_eq!(peer.rest().len(), 50 * 8_001);
    drop(peer);
    assert_eq!(events.next_close(), CloseReason::Drained);
    bed.running.stop().unwrap();
}

fn the_first_reason_stays(driver: DriverChoice) {
    let (bed, events) = obedient(driver, 1, Limits::default());
    let mut peer = bed.peer();
    peer.send(b"drain then kick\n");
    assert_eq!(peer.rest(), b"");
    assert_eq!(events.next_close(), CloseReason::Drained);
    bed.running.stop().unwrap();
}

fn stopping_drains_every_session(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 2, Raw, Limits::default(), move |_| Echo::<Raw>::new(tell.clone()));
    let mut peers: Vec<_> = (0..40).map(|_| bed.peer()).collect();
    let bytes = pattern(3_000);
    for peer in &mut peers {
        peer.send(&bytes);
        peer.expect(&bytes);
    }
    let running = bed.running;
    let stopper = running.stopper();
    let ended = std::thread::spawn(move || {
        stopper.drain();
        running.join()
    });
    for mut peer in peers {
        assert_eq!(peer.rest(), b"");
    }
    ended.join().unwrap().unwrap();
    drop(bed.remote);
    let closes = events.rest().into_iter().filter(|event| *event == Event::Close(CloseReason::Drained));
    assert_eq!(closes.count(), 40);
}

fn a_peer_that_never_ends_is_closed_at_the_deadline(driver: DriverChoice) {
    let limits = Limits { drain_deadline: Duration::from_millis(200), ..Limits::default() };
    let (bed, events) = obedient(driver, 1, limits);
    // One gets all and stays; the other does not read what it is sent.
    let mut stays = bed.peer();
    stays.send(b"hello\n");
    let mut deaf = bed.peer();
    deaf.send(b"drain\n");
    bed.counters_when(|counters| counters.frames_received == 2);
    bed.running.stop().unwrap();
    let mut reasons: Vec<_> = events.rest();
    reasons.sort_by_key(|event| format!("{event:?}"));
    // What the deaf one was sent may fit the system's buffers; then only its end was missing.
    assert_eq!(reasons.len(), 2);
    assert_eq!(reasons.last(), Some(&Event::Close(CloseReason::Drained)));
    drop((stays, deaf));
}

fn abort_closes_at_once(driver: DriverChoice) {
    let (bed, events) = obedient(driver, 2, Limits::default());
    let mut peers: Vec<_> = (0..10).map(|_| bed.peer()).collect();
    bed.counters_when(|counters| counters.sessions == 10);
    bed.running.stopper().abort();
    bed.running.join().unwrap();
    assert_eq!(events.rest(), vec![Event::Close(CloseReason::Stopped); 10]);
    for peer in &mut peers {
        assert_eq!(peer.rest(), b"");
    }
}

fn a_handler_can_stop_the_engine(driver: DriverChoice) {
    let (bed, _events) = obedient(driver, 2, Limits::default());
    let mut peer = bed.peer();
    peer.send(b"stop\n");
    assert_eq!(peer.rest(), b"");
    drop(peer);
    bed.running.join().unwrap();
}

fn nothing_is_accepted_after_the_stop(driver: DriverChoice) {
    let (bed, _events) = obedient(driver, 2, Limits::default());
    let address = bed.address();
    bed.running.stop().unwrap();
    assert_refused(address);
    // The port is free for another engine at once.
    let (tell, _events) = Events::new();
    let engine = Engine::new().unwrap().shards(2).unwrap().driver(driver);
    let engine = engine.serve(Server::bind(address.to_string(), Raw).placement(placed(2)), move |_| {
        Echo::<Raw>::new(tell.clone())
    });
    let running = engine.unwrap().start().unwrap();
    let mut peer = Peer::connect(address);
    peer.send(b"again");
    peer.expect(b"again");
    running.stop().unwrap();
}

fn every_open_has_one_close(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 2, Raw, Limits::default(), move |_| Echo::<Raw>::new(tell.clone()));
    for round in 0..200 {
        let mut peer = bed.peer();
        match round % 4 {
            0 => drop(peer),
            1 => peer.reset(),
            2 => {
                peer.send(b"bytes that are not read");
                peer.reset();
            }
            _ => {
                peer.send(b"x");
                peer.expect(b"x");
            }
        }
    }
    bed.counters_when(|counters| counters.sessions == 0 && counters.accepted >= 200 - 50);
    bed.running.stop().unwrap();
    drop(bed.remote);
    let all = events.rest();
    let opens = all.iter().filter(|event| **event == Event::Open).count();
    let closes = all.iter().filter(|event| matches!(event, Event::Close(_))).count();
    assert_eq!((opens, closes), (all.len() / 2, all.len() / 2));
}

fn dropping_a_running_engine_ends_it(driver: DriverChoice) {
    let (bed, events) = obedient(driver, 2, Limits::default());
    let mut peer = bed.peer();
    bed.counters_when(|counters| counters.sessions == 1);
    drop(bed.running);
    assert_eq!(peer.rest(), b"");
    // An abort: nothing was drained.
    assert_eq!(events.next_close(), CloseReason::Stopped);
}

#[test]
fn an_engine_without_a_service_says_so() {
    let error = Engine::new().unwrap().start().unwrap_err();
    assert!(matches!(error, Error::NoServices));
    assert!(error.to_string().contains("serve"));
}

#[test]
fn what_cannot_be_an_address_or_a_limit_is_told() {
    let (tell, _events) = Events::new();
    let make = move |_| Echo::<Raw>::new(tell.clone());
    for address in ["nonsense", "127.0.0.1", "127.0.0.1:99999", ""] {
        let error = Engine::new().unwrap().serve(Server::bind(address, Raw), make.clone()).err().unwrap();
        assert!(error.to_string().contains("HOST:PORT"), "{error}");
    }
    let limits = Limits { sessions_max: 0, ..Limits::default() };
    let server = Server::bind("127.0.0.1:0", Raw).limits(limits);
    let error = Engine::new().unwrap().serve(server, make.clone()).err().unwrap();
    assert!(error.to_string().contains("sessions_max"), "{error}");
    let limits = Limits { sessions_max: 2, ..Limits::default() };
    let client = Client::to("127.0.0.1:1", Raw).connections(3).limits(limits);
    let error = Engine::new().unwrap().connect(client, make).err().unwrap();
    assert!(error.to_string().contains("below the client's connections"), "{error}");
    for shards in [0, 257] {
        let error = Engine::new().unwrap().shards(shards).err().unwrap();
        assert!(matches!(error, Error::Shards { .. }));
    }
}
