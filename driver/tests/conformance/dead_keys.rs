//! Keys that name nothing: sentence 11.

use anyport_driver::{Driver, DriverConfig, FaultKind, Op, OpKind, SocketKey};

use crate::bed::{Bed, CLOSED, CONFIG, RESET, Seen, V4, World};

const INVALID: FaultKind = FaultKind::InvalidSocket;
const DONE: Seen = Seen::ShutDown(Ok(()));

/// Every operation on `socket` is refused.
fn refuses_all<W: World>(bed: &mut Bed<W>, socket: SocketKey) {
    let receive = bed.receive(socket);
    let send = bed.send(socket, b"bytes");
    let shutdown = bed.shutdown(socket);
    let accept = bed.submit(Op::Accept { listener: socket });
    let close = bed.close(socket);
    assert_eq!(bed.end(receive), Seen::ReceiveFailed(INVALID));
    assert_eq!(bed.end(send), Seen::Sent { of: 5, sent: 0, result: Err(INVALID) });
    assert_eq!(bed.end(shutdown), Seen::ShutDown(Err(INVALID)));
    assert_eq!(bed.end(accept), Seen::AcceptEnded(INVALID));
    assert_eq!(bed.end(close), Seen::Closed(Err(INVALID)));
    for kind in [OpKind::Accept, OpKind::Receive, OpKind::Send, OpKind::Close] {
        bed.cancel(socket, kind);
    }
    assert!(bed.driver().detach(socket).is_none());
}

pub(crate) fn s11_a_closed_key_refuses_every_operation<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, _client) = bed.pair();
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    refuses_all(&mut bed, socket);
}

pub(crate) fn s11_a_closed_listener_refuses_every_operation<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let close = bed.close(door.key);
    assert_eq!(bed.end(close), CLOSED);
    refuses_all(&mut bed, door.key);
}

pub(crate) fn s11_after_close_was_submitted_everything_is_refused<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let close = bed.close(socket);
    refuses_all(&mut bed, socket);
    assert_eq!(bed.end(close), CLOSED);
    assert!(bed.end_of(receive).is_some());
    bed.until("the end at the peer", |_| client.has_ended());
    assert!(client.received.is_empty(), "the refused send was sent");
}

/// Behind the relay the socket may be gone by then, long before the logic side hears of it.
pub(crate) fn s11_a_cancel_behind_a_close_that_is_over_does_nothing<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let close = bed.close(socket);
    // Waits for the other side, and collects nothing.
    for _ in 0..3 {
        bed.listen_at(V4);
    }
    for kind in [OpKind::Receive, OpKind::Send, OpKind::Close] {
        bed.cancel(socket, kind);
    }
    assert_eq!(bed.end(close), CLOSED);
    assert!(bed.end_of(receive).is_some());
    bed.until("the end at the peer", |_| client.has_ended());
}

pub(crate) fn s11_the_key_of_another_driver_may_not_crash<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut empty = Bed::<W>::on(bed.world.clone(), seed, DriverConfig { sockets_max: 1, ..CONFIG });
    let (socket, mut client) = bed.pair();
    refuses_all(&mut empty, socket);
    bed.send_to(socket, &mut client, b"unharmed");
}

pub(crate) fn s11_a_stale_key_does_not_reach_the_next_socket_of_its_slot<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, DriverConfig { sockets_max: 2, ..CONFIG });
    let mut stale = Vec::new();
    for _ in 0..5 {
        let (socket, _client) = bed.pair();
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
        stale.push(socket);
    }
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    for key in stale {
        assert_ne!(key, socket);
        refuses_all(&mut bed, key);
    }
    bed.settle();
    assert_eq!(bed.end_of(receive), None, "a stale cancel or close hit the new socket");
    bed.receive_from(receive, &mut client, b"mine");
    bed.send_to(socket, &mut client, b"yours");
}

pub(crate) fn s11_a_refusal_leaves_a_reset_socket_usable_to_close<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    let receive = bed.receive(socket);
    let second = bed.receive(socket);
    client.reset();
    assert_eq!((bed.end(receive), bed.end(second)), (RESET, Seen::ReceiveFailed(INVALID)));
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
}

pub(crate) fn s11_a_second_shutdown_is_refused_while_one_is_in_flight<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let (first, second) = (bed.shutdown(socket), bed.shutdown(socket));
    assert_eq!((bed.end(first), bed.end(second)), (DONE, Seen::ShutDown(Err(INVALID))));
    // One that comes after the first has ended changes nothing for the peer.
    let third = bed.shutdown(socket);
    assert_eq!(bed.end(third), DONE);
    bed.until("the end at the peer", |_| client.has_ended());
}
