//! What a service does not allow costs one session, is counted, and disturbs no other.

use std::{sync::mpsc::Sender, time::Duration};

use anyport::{
    CloseReason, DriverChoice, Engine, Error, Frame, Handler, Limits, Lines, Pressure, Raw, Refusal,
    SendMarks, Sent, Server, Session, SizeKind, Spread,
};

use crate::support::{Bed, Echo, Event, Events, pattern, placed};

on_every_driver! {
    one_session_too_many_is_closed_and_counted
    a_shard_that_is_busy_keeps_no_connections_beyond_the_limit
    silence_is_closed_and_speech_is_not
    times_without_end_do_not_overflow
    garbage_costs_its_own_session_only
    a_line_without_end_is_closed
    a_peer_that_does_not_read_is_closed
    a_frame_that_the_codec_cannot_carry_is_refused
    pressure_is_told_once_and_relieved_once
    a_panic_costs_its_own_session_only
    a_port_in_use_is_told
}

fn one_session_too_many_is_closed_and_counted(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let limits = Limits { sessions_max: 3, ..Limits::default() };
    let bed = Bed::start(driver, 2, Raw, limits, move |_| Echo::<Raw>::new(tell.clone()));
    let mut peers: Vec<_> = (0..3).map(|_| bed.peer()).collect();
    for _ in 0..3 {
        assert_eq!(events.next(), Event::Open);
    }
    assert_eq!(bed.peer().rest(), b"");
    // Each shard publishes at the end of its own turn.
    bed.counters_when(|counters| counters.closed_for(CloseReason::AtCapacity) == 1 && counters.sessions == 3);
    for peer in &mut peers {
        peer.send(b"still here");
        peer.expect(b"still here");
    }
    // A place that becomes free can be taken.
    drop(peers.pop());
    assert_eq!(events.next(), Event::Close(CloseReason::PeerClosed));
    let mut late = bed.peer();
    late.send(b"late");
    late.expect(b"late");
    bed.running.stop().unwrap();
}

fn a_shard_that_is_busy_keeps_no_connections_beyond_the_limit(driver: DriverChoice) {
    let (tell, _events) = Events::new();
    let limits = Limits { sessions_max: 4, ..Limits::default() };
    let mut engine = Engine::new().unwrap().shards(2).unwrap().driver(driver).spread(Spread::HandOver);
    let server = Server::bind("127.0.0.1:0", Raw).limits(limits);
    let remote = engine.add_server(server, move |_| Echo::<Raw>::new(tell.clone())).unwrap();
    let bed = Bed { running: engine.start().unwrap(), remote };
    let (free, is_free) = std::sync::mpsc::channel::<()>();
    bed.remote.post_to_shard(1, move |_, _| _ = is_free.recv()).unwrap();
    let mut peers: Vec<_> = (0..20).map(|_| bed.peer()).collect();
    // By the shard that accepts, while the other one cannot look at what it was handed.
    bed.counters_when(|counters| {
        counters.closed_for(CloseReason::AtCapacity) == 16 && counters.sessions == 2
    });
    for mut peer in peers.drain(4..) {
        assert_eq!(peer.rest(), b"");
    }
    drop(free);
    for peer in &mut peers {
        peer.send(b"let in");
        peer.expect(b"let in");
    }
    bed.counters_when(|counters| counters.sessions == 4 && counters.accepted == 20);
    drop(peers);
    bed.counters_when(|counters| counters.sessions == 0);
    // The places are free again.
    let mut late: Vec<_> = (0..4).map(|_| bed.peer()).collect();
    for peer in &mut late {
        peer.send(b"late");
        peer.expect(b"late");
    }
    drop(late);
    bed.running.stop().unwrap();
}

fn silence_is_closed_and_speech_is_not(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let limits = Limits { idle_timeout: Some(Duration::from_millis(300)), ..Limits::default() };
    let bed = Bed::start(driver, 1, Raw, limits, move |_| Echo::<Raw>::new(tell.clone()));
    let mut silent = bed.peer();
    let mut talker = bed.peer();
    let start = std::time::Instant::now();
    // Each round trip takes much less than the time-out; together they take longer.
    while start.elapsed() < Duration::from_millis(700) {
        talker.send(b"x");
        talker.expect(b"x");
    }
    assert_eq!(silent.rest(), b"");
    assert_eq!(events.next_close(), CloseReason::IdleTimeout);
    assert_eq!(talker.rest(), b"");
    assert_eq!(events.next_close(), CloseReason::IdleTimeout);
    bed.running.stop().unwrap();
}

fn times_without_end_do_not_overflow(driver: DriverChoice) {
    let (tell, _events) = Events::new();
    let idle_timeout = Some(Duration::MAX);
    let limits = Limits { idle_timeout, drain_deadline: Duration::MAX, ..Limits::default() };
    let bed = Bed::start(driver, 1, Raw, limits, move |_| Echo::<Raw>::new(tell.clone()));
    let mut peer = bed.peer();
    peer.send(b"x");
    peer.expect(b"x");
    drop(peer);
    bed.running.stop().unwrap();
}

fn garbage_costs_its_own_session_only(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 1, SizeKind::new(64), Limits::default(), move |_| {
        Echo::<SizeKind>::new(tell.clone())
    });
    let mut honest = bed.peer();
    for (bytes, reason) in [
        (&[3, 0, 1, 0][..], CloseReason::MalformedFrame),
        (&[0, 0, 0, 0], CloseReason::MalformedFrame),
        (&[65, 0, 1, 0], CloseReason::FrameTooLarge),
        (&[255, 255, 1, 0], CloseReason::FrameTooLarge),
    ] {
        let mut peer = bed.peer();
        peer.send(bytes);
        assert_eq!(peer.rest(), b"");
        assert_eq!(events.next_close(), reason);
    }
    honest.send(&[6, 0, 1, 0, b'h', b'i']);
    honest.expect(&[6, 0, 1, 0, b'h', b'i']);
    let counters = bed.counters_when(|counters| counters.closed_total() == 4);
    assert_eq!(counters.closed_for(CloseReason::FrameTooLarge), 2);
    bed.running.stop().unwrap();
}

fn a_line_without_end_is_closed(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed =
        Bed::start(driver, 1, Lines::new(100), Limits::default(), move |_| Echo::<Lines>::new(tell.clone()));
    let mut peer = bed.peer();
    for _ in 0..100 {
        peer.send(b"x");
    }
    peer.rest();
    assert_eq!(events.next_close(), CloseReason::FrameTooLarge);
    bed.running.stop().unwrap();
}

/// Sends without an end to whoever says something.
struct Fountain {
    tell: Sender<Event>,
}

impl Handler for Fountain {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, session: &mut Session<Self>, _frame: Frame) {
        let piece = pattern(10_000);
        for _ in 0..10_000 {
            if let Sent::Refused(refusal) = session.send(&piece) {
                assert_eq!(refusal, Refusal::QueueFull);
                assert_eq!(session.send(b"more"), Sent::Refused(Refusal::NotOpen));
                return;
            }
        }
        panic!("the queue has no limit");
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        self.tell.send(Event::Close(reason)).unwrap();
    }
}

fn a_peer_that_does_not_read_is_closed(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 1, Raw, Limits::default(), move |_| Fountain { tell: tell.clone() });
    let mut peer = bed.peer();
    peer.send(b"go");
    assert_eq!(events.next_close(), CloseReason::SendQueueFull);
    let counters = bed.counters_when(|counters| counters.closed_for(CloseReason::SendQueueFull) == 1);
    assert_eq!(counters.frames_refused, 2);
    bed.running.stop().unwrap();
}

/// Tries to send a frame above its codec's limit, then one within it.
struct TooLarge;

impl Handler for TooLarge {
    type State = ();
    type Codec = SizeKind;

    fn on_open(&mut self, session: &mut Session<Self>) {
        assert_eq!(session.send(&[0; 61]), Sent::Refused(Refusal::FrameTooLarge));
        assert_eq!(session.send(&[1; 2]), Sent::Queued);
    }

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}
}

fn a_frame_that_the_codec_cannot_carry_is_refused(driver: DriverChoice) {
    let bed = Bed::start(driver, 1, SizeKind::new(64), Limits::default(), |_| TooLarge);
    bed.peer().expect(&[6, 0, 0, 0, 1, 1]);
    bed.running.stop().unwrap();
}

/// Fills the queue above its high mark, within its maximum.
struct Filler {
    tell: Sender<Event>,
}

impl Handler for Filler {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, session: &mut Session<Self>, _frame: Frame) {
        for at in 0..3 {
            let sent = session.send(&[at; 400]);
            assert_eq!(sent, if at == 2 { Sent::High } else { Sent::Queued });
        }
    }

    fn on_pressure(&mut self, _session: &mut Session<Self>, pressure: Pressure) {
        let text = if pressure == Pressure::High { "high" } else { "relieved" };
        self.tell.send(Event::Other(text)).unwrap();
    }
}

fn pressure_is_told_once_and_relieved_once(driver: DriverChoice) {
    let send = SendMarks { high_water_bytes: 1_000, low_water_bytes: 500, queue_max_bytes: 2_000 };
    let (tell, events) = Events::new();
    let limits = Limits { send, ..Limits::default() };
    let bed = Bed::start(driver, 1, Raw, limits, move |_| Filler { tell: tell.clone() });
    let mut peer = bed.peer();
    peer.send(b"go");
    assert_eq!(events.next(), Event::Other("high"));
    assert_eq!(events.next(), Event::Other("relieved"));
    peer.expect(&[[0; 400], [1; 400], [2; 400]].concat());
    bed.running.stop().unwrap();
    assert_eq!(events.rest(), []);
}

/// Panics where the peer says so.
struct Fragile {
    tell: Sender<Event>,
}

impl Handler for Fragile {
    type State = bool;
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        match &*frame {
            b"panic" => panic!("as the test asked"),
            b"panic at the end" => {
                *session.state() = true;
                session.drain();
            }
            _ => {
                session.send_frame(frame);
            }
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        self.tell.send(Event::Close(reason)).unwrap();
        assert!(!*session.state(), "as the test asked");
    }
}

fn a_panic_costs_its_own_session_only(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed =
        Bed::start(driver, 1, Lines::default(), Limits::default(), move |_| Fragile { tell: tell.clone() });
    let mut honest = bed.peer();
    let mut victim = bed.peer();
    victim.send(b"panic\nnever seen\n");
    assert_eq!(victim.rest(), b"");
    assert_eq!(events.next_close(), CloseReason::HandlerPanicked);
    let mut victim = bed.peer();
    victim.send(b"panic at the end\n");
    assert_eq!(victim.rest(), b"");
    drop(victim);
    assert_eq!(events.next_close(), CloseReason::Drained);
    honest.send(b"hello\n");
    honest.expect(b"hello\n");
    let counters = bed.counters_when(|counters| counters.closed_total() == 2);
    assert_eq!((counters.sessions, counters.closed_for(CloseReason::HandlerPanicked)), (1, 1));
    bed.running.stop().unwrap();
}

fn a_port_in_use_is_told(driver: DriverChoice) {
    let (tell, _events) = Events::new();
    // Shards of one engine share the port; another engine must not slip in.
    let make = move |_| Echo::<Raw>::new(tell.clone());
    let bed = Bed::start(driver, 2, Raw, Limits::default(), make.clone());
    for shards in [1, 2] {
        let engine = Engine::new().unwrap().shards(shards).unwrap().driver(driver);
        let server = Server::bind(bed.address().to_string(), Raw).placement(placed(shards));
        let error = engine.serve(server, make.clone()).unwrap().start().unwrap_err();
        assert!(matches!(error, Error::Listen { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&bed.address().to_string()) && text.contains("choose another port"), "{text}");
    }
    bed.running.stop().unwrap();
}
