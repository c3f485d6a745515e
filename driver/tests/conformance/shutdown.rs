//! Shutting down: sentence 12.

use anyport_driver::FaultKind;

use crate::bed::{Bed, CLOSED, End, Peer, Seen, World, pattern};

const DONE: Seen = Seen::ShutDown(Ok(()));

pub(crate) fn s12_the_peer_sees_the_end_of_the_stream<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let shutdown = bed.shutdown(socket);
    assert_eq!(bed.end(shutdown), DONE);
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!((client.end, client.received.len()), (Some(End::EndOfStream), 0));
}

pub(crate) fn s12_receiving_goes_on<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let shutdown = bed.shutdown(socket);
    assert_eq!(bed.end(shutdown), DONE);
    bed.until("the end at the peer", |_| client.has_ended());
    bed.receive_from(receive, &mut client, &pattern(seed, 300_000));
    client.close();
    assert_eq!(bed.end(receive), Seen::EndOfStream);
}

pub(crate) fn s12_a_receive_can_start_after_shutdown<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let shutdown = bed.shutdown(socket);
    assert_eq!(bed.end(shutdown), DONE);
    let receive = bed.receive(socket);
    bed.receive_from(receive, &mut client, b"the answer");
}

pub(crate) fn s12_everything_sent_before_arrives_before_the_end<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    // As much as was taken while nobody read: it waits in the system.
    let bytes = pattern(seed, 100_000);
    let send = bed.send(socket, &bytes);
    bed.until("the send to be taken", |bed| {
        client.pull_at_most(1_000);
        bed.end_of(send).is_some()
    });
    let shutdown = bed.shutdown(socket);
    assert_eq!(bed.end(shutdown), DONE);
    bed.until("the end at the peer", |_| client.has_ended());
    assert!(client.received == bytes);
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s12_a_shutdown_comes_after_the_send_in_flight<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, W::HUGE / 2);
    let send = bed.send(socket, &bytes);
    let shutdown = bed.shutdown(socket);
    bed.until("the end at the peer", |_| client.has_ended());
    assert!(client.received == bytes, "{} of {} bytes", client.received.len(), bytes.len());
    assert_eq!((bed.end(send), bed.end(shutdown)), (Seen::sent(bytes.len()), DONE));
    assert!(bed.place_of_end(send) < bed.place_of_end(shutdown));
}

pub(crate) fn s12_a_send_after_shutdown_fails_and_sends_nothing<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let shutdown = bed.shutdown(socket);
    assert_eq!(bed.end(shutdown), DONE);
    let send = bed.send(socket, b"more");
    let Seen::Sent { sent: 0, result: Err(_), .. } = bed.end(send) else { bed.fail("it was sent") };
    bed.until("the end at the peer", |_| client.has_ended());
    assert!(client.received.is_empty());
}

pub(crate) fn s12_a_second_shutdown_completes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    for _ in 0..2 {
        let shutdown = bed.shutdown(socket);
        assert_eq!(bed.end(shutdown), DONE);
    }
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s12_both_sides_can_shut_down<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let shutdown = bed.shutdown(socket);
    client.peer.shutdown_write();
    assert_eq!((bed.end(shutdown), bed.end(receive)), (DONE, Seen::EndOfStream));
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s12_a_shutdown_after_a_reset_ends<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    client.reset();
    bed.settle();
    let shutdown = bed.shutdown(socket);
    assert!(matches!(bed.end(shutdown), DONE | Seen::ShutDown(Err(FaultKind::PeerReset))));
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
}
