//! What peers may not do, on every driver: each limit costs the session that breaks it, with its reason, and no other. When,
//! to the tick, is shown in virtual time (`anyport/tests/sim/limits.rs`).

use std::time::Duration;

use anyport::{CloseReason, DriverChoice, Limits, Lines, OnExcess, Rates, Raw, ReceiveRate};

use crate::support::{Bed, Echo, Event, Events, Peer};

on_every_driver! {
    who_says_nothing_is_closed
    a_frame_that_does_not_end_is_closed
    a_frame_that_comes_too_slowly_is_closed
    a_flood_is_held_back_and_loses_nothing
    a_turn_takes_so_many_bytes
    a_rate_pauses_and_loses_nothing
    a_rate_closes_who_exceeds_it
    an_address_has_so_many_sessions
    a_network_has_so_many_sessions
    connections_come_no_faster_than_they_may
}

fn lines(driver: DriverChoice, limits: Limits) -> (Bed<Echo<Lines>>, Events) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 1, Lines::new(1 << 20), limits, move |_| Echo::<Lines>::new(tell.clone()));
    (bed, events)
}

/// A peer that has said something, and is answered.
fn honest(bed: &Bed<Echo<Lines>>) -> Peer {
    let mut peer = bed.peer();
    peer.send(b"hello\n");
    peer.expect(b"hello\n");
    peer
}

fn still_served(mut peer: Peer) {
    peer.send(b"still here\n");
    peer.expect(b"still here\n");
}

fn who_says_nothing_is_closed(driver: DriverChoice) {
    let handshake_timeout = Some(Duration::from_secs(1));
    let (bed, events) = lines(driver, Limits { handshake_timeout, ..Limits::default() });
    let honest = honest(&bed);
    let (mut silent, mut begins) = (bed.peer(), bed.peer());
    begins.send(b"never whole");
    assert_eq!((silent.rest(), begins.rest()), (Vec::new(), Vec::new()));
    for _ in 0..2 {
        assert_eq!(events.next_close(), CloseReason::HandshakeTimeout);
    }
    bed.counters_when(|counters| counters.closed_for(CloseReason::HandshakeTimeout) == 2);
    still_served(honest);
    bed.running.stop().unwrap();
}

fn a_frame_that_does_not_end_is_closed(driver: DriverChoice) {
    let frame_timeout = Some(Duration::from_millis(300));
    let (bed, events) = lines(driver, Limits { frame_timeout, ..Limits::default() });
    let (silent, mut cut) = (honest(&bed), honest(&bed));
    cut.send(b"whole\nhal");
    cut.expect(b"whole\n");
    assert_eq!(cut.rest(), b"");
    assert_eq!(events.next_close(), CloseReason::FrameTimeout);
    bed.counters_when(|counters| counters.closed_for(CloseReason::FrameTimeout) == 1);
    // Who is between two frames may be silent for as long as he likes.
    still_served(silent);
    bed.running.stop().unwrap();
}

fn a_frame_that_comes_too_slowly_is_closed(driver: DriverChoice) {
    let rate = ReceiveRate { bytes_per_second: 1_000_000, window: Duration::from_millis(200) };
    let (bed, events) = lines(driver, Limits { receive_rate_min: Some(rate), ..Limits::default() });
    let (silent, mut slow) = (honest(&bed), honest(&bed));
    slow.send(&[b'x'; 1_000]);
    assert_eq!(slow.rest(), b"");
    assert_eq!(events.next_close(), CloseReason::TooSlow);
    bed.counters_when(|counters| counters.closed_for(CloseReason::TooSlow) == 1);
    still_served(silent);
    bed.running.stop().unwrap();
}

/// Writes all of it from a thread of its own and reads it back.
fn all_comes_back(mut peer: Peer, wire: &[u8]) {
    let mut writer = Peer(peer.0.try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || writer.send(wire));
        peer.expect(wire);
    });
}

fn a_flood_is_held_back_and_loses_nothing(driver: DriverChoice) {
    let (bed, _events) = lines(driver, Limits { turn_frames_max: 8, ..Limits::default() });
    let other = honest(&bed);
    let wire: Vec<u8> = (0..20_000).flat_map(|at| format!("{at}\n\n").into_bytes()).collect();
    all_comes_back(bed.peer(), &wire);
    bed.counters_when(|counters| counters.held_back > 0);
    still_served(other);
    bed.running.stop().unwrap();
}

fn a_turn_takes_so_many_bytes(driver: DriverChoice) {
    let (bed, _events) = lines(driver, Limits { turn_bytes_max: 1_000, ..Limits::default() });
    let wire: Vec<u8> = (0..100).flat_map(|at| [vec![b'a' + at % 26; 5_000], vec![b'\n']].concat()).collect();
    all_comes_back(bed.peer(), &wire);
    bed.counters_when(|counters| counters.held_back > 0);
    bed.running.stop().unwrap();
}

fn rates(messages: Option<u32>, bytes: Option<u32>, on_excess: OnExcess) -> Limits {
    let burst = Duration::from_millis(100);
    let rates = Rates { messages_per_second: messages, bytes_per_second: bytes, burst, on_excess };
    Limits { rates, ..Limits::default() }
}

fn a_rate_pauses_and_loses_nothing(driver: DriverChoice) {
    let wire: Vec<u8> = (0..400).flat_map(|at| format!("{at:07}\n").into_bytes()).collect();
    for limits in
        [rates(Some(1_000), None, OnExcess::PauseReading), rates(None, Some(8_000), OnExcess::PauseReading)]
    {
        let (bed, _events) = lines(driver, limits);
        all_comes_back(bed.peer(), &wire);
        bed.counters_when(|counters| counters.rate_pauses > 0 && counters.closed_total() == 1);
        bed.running.stop().unwrap();
    }
}

fn a_rate_closes_who_exceeds_it(driver: DriverChoice) {
    let (bed, events) = lines(driver, rates(Some(10), None, OnExcess::Close));
    let other = honest(&bed);
    let mut greedy = bed.peer();
    greedy.send(&b"x\n".repeat(100));
    greedy.rest();
    assert_eq!(events.next_close(), CloseReason::RateExceeded);
    bed.counters_when(|counters| counters.closed_for(CloseReason::RateExceeded) == 1);
    drop(other);
    bed.running.stop().unwrap();
}

/// Three of four are let in; when one goes, another can come.
fn three_of_four(driver: DriverChoice, limits: Limits, reason: CloseReason) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 2, Raw, limits, move |_| Echo::<Raw>::new(tell.clone()));
    let mut peers: Vec<_> = (0..3).map(|_| bed.peer()).collect();
    for _ in 0..3 {
        assert_eq!(events.next(), Event::Open);
    }
    assert_eq!(bed.peer().rest(), b"");
    bed.counters_when(|counters| counters.closed_for(reason) == 1 && counters.sessions == 3);
    drop(peers.pop());
    assert_eq!(events.next(), Event::Close(CloseReason::PeerClosed));
    let mut late = bed.peer();
    late.send(b"late");
    late.expect(b"late");
    bed.running.stop().unwrap();
}

fn an_address_has_so_many_sessions(driver: DriverChoice) {
    let limits = Limits { sessions_per_address_max: Some(3), ..Limits::default() };
    three_of_four(driver, limits, CloseReason::TooManyFromAddress);
}

fn a_network_has_so_many_sessions(driver: DriverChoice) {
    let limits = Limits { sessions_per_prefix_max: Some(3), ..Limits::default() };
    three_of_four(driver, limits, CloseReason::TooManyFromPrefix);
}

fn connections_come_no_faster_than_they_may(driver: DriverChoice) {
    let limits = Limits { accepts_per_second: Some(1), accepts_burst: 3, ..Limits::default() };
    let (tell, _events) = Events::new();
    let bed = Bed::start(driver, 2, Raw, limits, move |_| Echo::<Raw>::new(tell.clone()));
    let peers: Vec<_> = (0..40).map(|_| bed.peer()).collect();
    let refused = |counters: &anyport::Counters| counters.closed_for(CloseReason::AcceptRate);
    // How many seconds it takes is not for a test to say.
    let counters = bed.counters_when(|counters| refused(counters) + counters.sessions == 40);
    assert!(counters.sessions >= 3 && refused(&counters) > 0, "{counters:?}");
    drop(peers);
    bed.running.stop().unwrap();
}
