//! Bytes and frames through the engine.

use std::{
    io::Read,
    sync::mpsc::{Sender, channel},
};

use anyport::{
    Client, CloseReason, DriverChoice, Engine, Frame, Handler, Limits, Lines, Raw, SendMarks, Sent, Session,
    SizeKind,
};

use crate::support::{Bed, Echo, Event, Events, PATIENCE, Peer, has_ipv6, pattern, placed};

on_every_driver! {
    echoes_every_byte_of_many_sessions
    echoes_lines_cut_anywhere
    echoes_kinds_and_sizes
    a_stream_of_eight_mebibytes_comes_back_whole
    what_was_sent_together_with_the_end_of_stream_is_answered
    one_gathered_send_for_a_turn
    a_client_service_talks_to_a_server_service
    sessions_over_ipv6
    a_slow_reader_pauses_itself_and_loses_nothing
    pause_and_resume_keep_every_frame
    shared_bytes_reach_every_session
}

fn echoes_every_byte_of_many_sessions(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 2, Raw, Limits::default(), move |_| Echo::<Raw>::new(tell.clone()));
    let mut peers: Vec<_> = (0..100).map(|_| bed.peer()).collect();
    let bytes = pattern(5_000);
    for round in 1..=3 {
        for (at, peer) in peers.iter_mut().enumerate() {
            peer.send(&bytes[at..at + 40 * round]);
        }
        for (at, peer) in peers.iter_mut().enumerate() {
            peer.expect(&bytes[at..at + 40 * round]);
        }
    }
    drop(peers);
    for _ in 0..100 {
        assert_eq!(events.next_close(), CloseReason::PeerClosed);
    }
    let counters = bed.counters_when(|counters| counters.sessions == 0);
    assert_eq!((counters.accepted, counters.closed_for(CloseReason::PeerClosed)), (100, 100));
    assert_eq!(counters.bytes_received, 100 * (40 + 80 + 120));
    assert_eq!(counters.bytes_received, counters.bytes_sent);
    bed.running.stop().unwrap();
}

fn echoes_lines_cut_anywhere(driver: DriverChoice) {
    let (tell, _events) = Events::new();
    let bed =
        Bed::start(driver, 1, Lines::new(64), Limits::default(), move |_| Echo::<Lines>::new(tell.clone()));
    let text = b"one\r\ntwo\n\nthree is longer than the others\n";
    for cut in 0..text.len() {
        let mut peer = bed.peer();
        peer.send(&text[..cut]);
        peer.send(&text[cut..]);
        peer.expect(b"one\ntwo\n\nthree is longer than the others\n");
    }
    bed.running.stop().unwrap();
}

fn echoes_kinds_and_sizes(driver: DriverChoice) {
    let (tell, _events) = Events::new();
    let codec = SizeKind::new(u16::MAX);
    let bed = Bed::start(driver, 1, codec, Limits::default(), move |_| Echo::<SizeKind>::new(tell.clone()));
    let mut peer = bed.peer();
    let mut wire = Vec::new();
    for size in [4, 5, 100, 4_096, 65_535_u16] {
        wire.extend_from_slice(&size.to_le_bytes());
        wire.extend_from_slice(&size.to_be_bytes());
        wire.extend_from_slice(&pattern(size as usize - 4));
    }
    peer.send(&wire);
    peer.expect(&wire);
    bed.running.stop().unwrap();
}

fn a_stream_of_eight_mebibytes_comes_back_whole(driver: DriverChoice) {
    let (tell, _events) = Events::new();
    let bed = Bed::start(driver, 1, Raw, Limits::default(), move |_| Echo::<Raw>::new(tell.clone()));
    let bytes = pattern(8 << 20);
    let mut peer = bed.peer();
    std::thread::scope(|scope| {
        let mut writer = Peer(peer.0.try_clone().unwrap());
        let bytes = &bytes;
        scope.spawn(move || {
            writer.send(bytes);
            writer.0.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(peer.rest() == *bytes, "the echo differs");
    });
    bed.running.stop().unwrap();
}

fn what_was_sent_together_with_the_end_of_stream_is_answered(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed =
        Bed::start(driver, 1, Lines::default(), Limits::default(), move |_| Echo::<Lines>::new(tell.clone()));
    let mut peer = bed.peer();
    peer.send(b"a request\nand half of one");
    peer.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(peer.rest(), b"a request\n");
    assert_eq!(events.next_close(), CloseReason::PeerClosed);
    bed.running.stop().unwrap();
}

/// Answers one frame with a thousand messages, and tells what is still queued when the first and the last have gone.
struct Chatty {
    tell: Sender<(u64, usize)>,
}

impl Handler for Chatty {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, session: &mut Session<Self>, _frame: Frame) {
        let body = Frame { kind: 0, body: b"0123456789" };
        for number in 0..1_000 {
            let sent = match number {
                0 | 999 => session.send_notify(body, number),
                _ => session.send_frame(body),
            };
            assert_eq!(sent, Sent::Queued);
        }
    }

    fn on_sent(&mut self, session: &mut Session<Self>, token: u64) {
        self.tell.send((token, session.queued_bytes())).unwrap();
    }
}

fn one_gathered_send_for_a_turn(driver: DriverChoice) {
    let (tell, told) = channel();
    let bed = Bed::start(driver, 1, Raw, Limits::default(), move |_| Chatty { tell: tell.clone() });
    let mut peer = bed.peer();
    peer.send(b"go");
    peer.expect(&b"0123456789".repeat(1_000));
    let counters = bed.counters_when(|counters| counters.bytes_sent == 10_000);
    assert_eq!(counters.frames_sent, 1_000);
    // One send is in flight at a time: when the first message had gone, all had, so they went with one.
    assert_eq!([0; 2].map(|_| told.recv_timeout(PATIENCE).unwrap()), [(0, 0), (999, 0)]);
    bed.running.stop().unwrap();
}

/// Says hello when it opens, and reports what comes back.
struct Caller {
    tell: Sender<Event>,
}

impl Handler for Caller {
    type State = ();
    type Codec = SizeKind;

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.send_kind(7, b"hello");
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.tell.send(Event::Frame(frame.kind, frame.to_vec())).unwrap();
        session.drain();
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        self.tell.send(Event::Close(reason)).unwrap();
    }
}

fn a_client_service_talks_to_a_server_service(driver: DriverChoice) {
    let (quiet, _quiet) = Events::new();
    let bed = Bed::start(driver, 1, SizeKind::default(), Limits::default(), move |_| {
        Echo::<SizeKind>::new(quiet.clone())
    });
    let (tell, events) = Events::new();
    let client =
        Client::to(bed.address().to_string(), SizeKind::default()).connections(5).placement(placed(2));
    let engine = Engine::new().unwrap().shards(2).unwrap().driver(driver);
    let engine = engine.connect(client, move |_| Caller { tell: tell.clone() }).unwrap();
    let running = engine.start().unwrap();
    let mut frames = 0;
    let mut closes = 0;
    while closes < 5 {
        match events.next() {
            Event::Frame(kind, body) => {
                assert_eq!((kind, &body[..]), (7, &b"hello"[..]));
                frames += 1;
            }
            Event::Close(reason) => {
                assert_eq!(reason, CloseReason::Drained);
                closes += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(frames, 5);
    running.stop().unwrap();
    bed.running.stop().unwrap();
}

fn sessions_over_ipv6(driver: DriverChoice) {
    if !has_ipv6() {
        return;
    }
    let (tell, _events) = Events::new();
    let engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
    let server = anyport::Server::bind("[::1]:0", Raw).placement(placed(1));
    let running = engine.serve(server, move |_| Echo::<Raw>::new(tell.clone())).unwrap().start().unwrap();
    let mut peer = Peer::connect(running.address(0).unwrap());
    peer.send(b"six");
    peer.expect(b"six");
    running.stop().unwrap();
}

fn a_slow_reader_pauses_itself_and_loses_nothing(driver: DriverChoice) {
    let send = SendMarks { high_water_bytes: 4_096, low_water_bytes: 1_024, queue_max_bytes: 1 << 20 };
    let limits = Limits { send, ..Limits::default() };
    let (tell, _events) = Events::new();
    let bed =
        Bed::start(driver, 1, SizeKind::default(), limits, move |_| Echo::<SizeKind>::new(tell.clone()));
    let mut frame = 1_000_u16.to_le_bytes().to_vec();
    frame.extend_from_slice(&pattern(998));
    let wire = frame.repeat(8_000);
    let mut peer = bed.peer();
    std::thread::scope(|scope| {
        let mut writer = Peer(peer.0.try_clone().unwrap());
        let wire = &wire;
        scope.spawn(move || {
            writer.send(wire);
            writer.0.shutdown(std::net::Shutdown::Write).unwrap();
        });
        // Reads little by little, so that the session is under pressure most of the time.
        let mut got = Vec::new();
        let mut buffer = [0; 3_000];
        loop {
            match peer.0.read(&mut buffer).unwrap() {
                0 => break,
                count => got.extend_from_slice(&buffer[..count]),
            }
        }
        assert!(got == *wire, "{} of {} bytes came back, or in another order", got.len(), wire.len());
    });
    bed.running.stop().unwrap();
}

/// Takes one frame at a time: pauses in each, and goes on when told from outside.
struct OneByOne {
    tell: Sender<Event>,
}

impl Handler for OneByOne {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.pause();
        self.tell.send(Event::Frame(0, frame.to_vec())).unwrap();
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        self.tell.send(Event::Close(reason)).unwrap();
    }
}

fn pause_and_resume_keep_every_frame(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed =
        Bed::start(driver, 1, Lines::default(), Limits::default(), move |_| OneByOne { tell: tell.clone() });
    let mut peer = bed.peer();
    let lines: Vec<_> = (0..50).map(|line| format!("line {line}\n")).collect();
    let text = lines.concat();
    peer.send(text.as_bytes());
    peer.0.shutdown(std::net::Shutdown::Write).unwrap();
    for line in 0..50 {
        assert_eq!(events.next(), Event::Frame(0, format!("line {line}").into_bytes()));
        let resumed = bed
            .remote
            .post_to_shard(0, |_, shard| {
                shard.for_each(|session| {
                    session.resume();
                });
            })
            .is_ok();
        assert!(resumed);
    }
    assert_eq!(events.next(), Event::Close(CloseReason::PeerClosed));
    bed.running.stop().unwrap();
}

fn shared_bytes_reach_every_session(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 1, Raw, Limits::default(), move |_| Echo::<Raw>::new(tell.clone()));
    let mut peers: Vec<_> = (0..20).map(|_| bed.peer()).collect();
    for _ in 0..20 {
        assert_eq!(events.next(), Event::Open);
    }
    let bytes: std::sync::Arc<[u8]> = pattern(100_000).into();
    bed.remote
        .post_to_shard(0, {
            let bytes = bytes.clone();
            move |_, shard| {
                shard.for_each(|session| {
                    session.send(b"first ");
                    session.send_shared(bytes.clone());
                    session.send(b" last");
                });
            }
        })
        .unwrap();
    for peer in &mut peers {
        peer.expect(b"first ");
        peer.expect(&bytes);
        peer.expect(b" last");
    }
    bed.running.stop().unwrap();
}
