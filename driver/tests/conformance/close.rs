//! Closing: sentence 10.

use std::collections::BTreeSet;

use anyport_driver::{Driver, DriverConfig, FaultKind, ListenOptions, OpKind, SocketOptions};

use crate::bed::{Bed, CANCELLED, CLOSED, CONFIG, End, Peer, RESET, Seen, V4, World, pattern};

/// What a send that was cancelled by closing ends as.
fn is_cut(seen: Seen) -> bool {
    matches!(seen, Seen::Sent { of, sent, result: Err(FaultKind::Cancelled) } if sent < of)
}

pub(crate) fn s10_an_idle_socket_closes_and_the_peer_sees_the_end<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    assert_eq!(bed.driver().sockets(), 1);
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s10_close_joins_the_receive_in_flight<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    bed.settle();
    let close = bed.close(socket);
    assert_eq!((bed.end(close), bed.end(receive)), (CLOSED, CANCELLED));
    assert!(bed.place_of_end(receive) < bed.place_of_end(close));
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s10_close_joins_what_was_submitted_just_before<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, _client) = bed.pair();
    let receive = bed.receive(socket);
    let send = bed.send(socket, &pattern(seed, W::HUGE));
    let close = bed.close(socket);
    assert_eq!((bed.end(close), bed.end(receive)), (CLOSED, CANCELLED));
    assert!(is_cut(bed.end(send)));
    let last = bed.place_of_end(close);
    assert!(bed.place_of_end(receive) < last && bed.place_of_end(send) < last);
}

pub(crate) fn s10_close_joins_the_send_in_flight_and_its_count_is_true<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, W::HUGE);
    let send = bed.send(socket, &bytes);
    bed.settle();
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    assert!(bed.place_of_end(send) < bed.place_of_end(close));
    let Seen::Sent { sent, .. } = bed.end(send) else { unreachable!("checked by the bed") };
    assert!(is_cut(bed.end(send)) && sent > 0);
    bed.until("the end at the peer", |_| client.has_ended());
    assert!(bytes.starts_with(&client.received));
    assert_eq!((client.end, client.received.len()), (Some(End::EndOfStream), sent));
}

/// A send that finds room again between two looks of the kernel is, for that moment, where no cancel finds it.
pub(crate) fn s10_close_joins_sends_at_any_moment<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let socket = SocketOptions { send_buffer_bytes: Some(4 << 10), ..SocketOptions::default() };
    let door = bed.listen_with(V4, &ListenOptions { socket, ..ListenOptions::default() }).unwrap();
    let bytes = pattern(seed, 300_000);
    for round in 0..20 {
        let pairs: Vec<_> = (0..32).map(|_| bed.pair_at(door)).collect();
        let sends: Vec<_> = pairs.iter().map(|(socket, _)| bed.send(*socket, &bytes)).collect();
        if round % 2 == 0 {
            for (socket, _) in &pairs {
                bed.cancel(*socket, OpKind::Send);
            }
        }
        if round % 4 == 0 {
            bed.until("every send ends", |bed| sends.iter().all(|send| bed.end_of(*send).is_some()));
        }
        let closes: Vec<_> = pairs.iter().map(|(socket, _)| bed.close(*socket)).collect();
        bed.until("every close", |bed| closes.iter().all(|close| bed.end_of(*close) == Some(CLOSED)));
    }
    assert_eq!((bed.driver().sockets(), bed.operations_in_flight()), (1, 1));
}

pub(crate) fn s10_close_joins_both_directions<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, _client) = bed.pair();
    let receive = bed.receive(socket);
    let send = bed.send(socket, &pattern(seed, W::HUGE));
    bed.settle();
    let close = bed.close(socket);
    assert_eq!((bed.end(close), bed.end(receive)), (CLOSED, CANCELLED));
    assert!(is_cut(bed.end(send)));
    let last = bed.place_of_end(close);
    assert!(bed.place_of_end(receive) < last && bed.place_of_end(send) < last);
    assert_eq!(bed.driver().sockets(), 1);
}

pub(crate) fn s10_close_joins_a_shutdown<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let shutdown = bed.shutdown(socket);
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    let last = bed.place_of_end(close);
    assert!(bed.place_of_end(receive) < last && bed.place_of_end(shutdown) < last);
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s10_what_was_sent_before_close_arrives<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    for (at, (socket, mut client)) in bed.pairs(10).into_iter().enumerate() {
        let bytes = pattern(seed + at as u64, 50_000);
        let send = bed.send(socket, &bytes);
        bed.until("the send to be taken", |bed| {
            client.pull_at_most(1_000);
            bed.end_of(send).is_some()
        });
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
        bed.until("the end at the peer", |_| client.has_ended());
        assert!(client.received == bytes);
        assert_eq!(client.end, Some(End::EndOfStream));
    }
}

pub(crate) fn s10_close_after_the_peers_end<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    client.peer.shutdown_write();
    assert_eq!(bed.end(receive), Seen::EndOfStream);
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s10_close_after_the_peers_reset<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    client.reset();
    bed.settle();
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    assert_eq!(bed.driver().sockets(), 1);
}

pub(crate) fn s10_close_and_the_peers_reset_at_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    for (socket, client) in bed.pairs(50) {
        let receive = bed.receive(socket);
        let send = bed.send(socket, &[1; 100]);
        client.reset();
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
        assert!(matches!(bed.end(receive), CANCELLED | RESET | Seen::EndOfStream));
        assert!(bed.end_of(send).is_some());
    }
    assert_eq!(bed.driver().sockets(), 1);
}

pub(crate) fn s10_close_in_the_middle_of_a_stream<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 8 << 20);
    client.feed(&bytes);
    bed.until("some bytes", |bed| {
        client.push();
        bed.received(receive).len() > 100_000
    });
    let close = bed.close(socket);
    assert_eq!((bed.end(close), bed.end(receive)), (CLOSED, CANCELLED));
    assert!(bed.place_of_end(receive) < bed.place_of_end(close));
    assert!(bytes.starts_with(bed.received(receive)));
    bed.until("the end at the peer", |_| {
        client.push();
        client.has_ended()
    });
    assert_eq!(bed.driver().leases_out(), 0);
}

pub(crate) fn s10_nothing_comes_after_closed<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut closes = Vec::new();
    let mut pairs = bed.pairs(20);
    for (socket, client) in &mut pairs {
        client.feed(&[7; 5_000]);
        bed.receive(*socket);
        bed.send(*socket, &[8; 5_000]);
        closes.push(bed.close(*socket));
    }
    for close in closes {
        assert_eq!(bed.end(close), CLOSED);
    }
    let seen = bed.log.len();
    for (_, client) in &mut pairs {
        client.feed(&[9; 5_000]);
    }
    bed.settle();
    assert_eq!(bed.log.len(), seen, "nothing more, whatever the peers do");
    assert_eq!((bed.driver().sockets(), bed.driver().leases_out()), (1, 0));
}

pub(crate) fn s10_many_close_at_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut pairs = bed.pairs(200);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    bed.settle();
    let closes: Vec<_> = pairs.iter().map(|(socket, _)| bed.close(*socket)).collect();
    for (receive, close) in receives.iter().zip(&closes) {
        assert_eq!((bed.end(*close), bed.end(*receive)), (CLOSED, CANCELLED));
        assert!(bed.place_of_end(*receive) < bed.place_of_end(*close));
    }
    for (_, client) in &mut pairs {
        bed.until("the end at the peer", |_| client.has_ended());
        assert_eq!(client.end, Some(End::EndOfStream));
    }
    assert_eq!(bed.driver().sockets(), 1);
}

pub(crate) fn s10_a_listener_closes_without_ever_accepting<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (listener, _) = bed.listen_only(V4, &ListenOptions::default()).unwrap();
    let close = bed.close(listener);
    assert_eq!(bed.end(close), CLOSED);
    assert_eq!(bed.driver().sockets(), 0);
}

pub(crate) fn s10_slots_are_used_again_and_keys_are_not<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, DriverConfig { sockets_max: 3, ..CONFIG });
    let mut keys = BTreeSet::new();
    for round in 0..50 {
        let (socket, mut client) = bed.pair();
        assert!(keys.insert(format!("{socket:?}")), "a key came twice");
        let receive = bed.receive(socket);
        bed.receive_from(receive, &mut client, &[round]);
        let close = bed.close(socket);
        assert_eq!((bed.end(close), bed.end(receive)), (CLOSED, CANCELLED));
    }
}

pub(crate) fn s10_reconnecting_for_long_leaves_nothing_behind<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    for round in 0..300 {
        let (socket, mut client) = bed.pair();
        let receive = bed.receive(socket);
        client.feed(b"x");
        match round % 3 {
            0 => client.close(),
            1 => client.reset(),
            _ => client.peer.shutdown_write(),
        }
        let ended = bed.end(receive);
        assert!(matches!(ended, Seen::EndOfStream | RESET));
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
    }
    assert_eq!((bed.driver().sockets(), bed.driver().leases_out()), (1, 0));
}
