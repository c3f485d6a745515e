//! Connecting.

use std::{net::SocketAddr, time::Duration};

use anyport_driver::{
    Driver, DriverConfig, FaultKind, KeepAlive, ListenOptions, Op, SocketKey, SocketOptions,
};

use crate::bed::{Bed, CLOSED, CONFIG, Client, Door, PeerListener, Seen, V4, V6, World, pattern};

const CONNECTED: Seen = Seen::Connected(Ok(()));
const REFUSED: Seen = Seen::Connected(Err(FaultKind::Refused));
const GIVEN_UP: Seen = Seen::Connected(Err(FaultKind::Cancelled));
const INVALID: FaultKind = FaultKind::InvalidSocket;

/// A connected socket of the driver.
fn connected<W: World>(bed: &mut Bed<W>, address: SocketAddr) -> SocketKey {
    let (socket, connect) = bed.connect(address);
    assert_eq!(bed.end(connect), CONNECTED);
    socket
}

/// A listener that accepts nobody, as many connects to it as are answered, and one that waits for an answer.
fn unanswered<W: World>(bed: &mut Bed<W>) -> (SocketKey, u64) {
    let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
    let (_, address) = bed.listen_only(V4, &options).unwrap();
    for _ in 0..16 {
        let (socket, connect) = bed.connect(address);
        bed.settle();
        if bed.end_of(connect).is_none() {
            return (socket, connect);
        }
    }
    bed.fail("a backlog of one took sixteen")
}

/// A connection that the driver opened, and its peer.
fn pair_out<W: World>(bed: &mut Bed<W>, listener: &mut W::PeerListener) -> (SocketKey, Client<W>) {
    let socket = connected(bed, listener.local_address());
    let mut peer = None;
    bed.until("the peer's accept", |_| {
        peer = peer.take().or_else(|| listener.accept());
        peer.is_some()
    });
    (socket, Client::new(peer.expect("accepted")))
}

pub(crate) fn s02_connect_reaches_a_listener_and_both_talk<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut listener = bed.world.listen(V4);
    let (socket, mut client) = pair_out(&mut bed, &mut listener);
    let receive = bed.receive(socket);
    bed.receive_from(receive, &mut client, b"hello from the peer");
    bed.send_to(socket, &mut client, b"hello from the driver");
    assert_eq!(bed.driver().sockets(), 1);
}

pub(crate) fn s02_connect_works_over_v6<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = match bed.listen_with(V6, &ListenOptions::default()) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => return,
        door => door.unwrap(),
    };
    connected(&mut bed, door.address);
    bed.until("the accept", |bed| bed.accepted(door.accept).len() == 1);
}

pub(crate) fn s02_connect_to_nobody_is_refused_and_the_socket_can_only_be_closed<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (address, _nobody) = bed.world.nobody();
    for _ in 0..10 {
        let (socket, connect) = bed.connect(address);
        assert_eq!(bed.end(connect), REFUSED);
        let receive = bed.receive(socket);
        assert_eq!(bed.end(receive), Seen::ReceiveFailed(INVALID));
        let again = bed.submit(Op::Connect { socket });
        assert_eq!(bed.end(again), Seen::Connected(Err(INVALID)));
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
    }
    assert_eq!(bed.driver().sockets(), 0);
}

pub(crate) fn s11_a_socket_that_is_not_connected_refuses_to_move_bytes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let socket = bed.open(door.address, &SocketOptions::default()).unwrap();
    let (receive, send, shutdown) = (bed.receive(socket), bed.send(socket, b"no"), bed.shutdown(socket));
    assert_eq!(bed.end(receive), Seen::ReceiveFailed(INVALID));
    assert_eq!(bed.end(send), Seen::Sent { of: 2, sent: 0, result: Err(INVALID) });
    assert_eq!(bed.end(shutdown), Seen::ShutDown(Err(INVALID)));
    let accept = bed.submit(Op::Accept { listener: socket });
    assert_eq!(bed.end(accept), Seen::AcceptEnded(INVALID));
    // It is as it was.
    let connect = bed.submit(Op::Connect { socket });
    assert_eq!(bed.end(connect), CONNECTED);
    bed.until("the accept", |bed| bed.accepted(door.accept).len() == 1);
    let receive = bed.receive(socket);
    let far = bed.accepted(door.accept)[0].socket;
    bed.send(far, b"yes");
    bed.until("the bytes", |bed| bed.received(receive) == b"yes");
}

pub(crate) fn s11_only_a_fresh_socket_connects_and_only_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (accepted, _client) = bed.pair();
    let door = bed.door();
    let socket = connected(&mut bed, door.address);
    for key in [socket, accepted, door.key] {
        let connect = bed.submit(Op::Connect { socket: key });
        assert_eq!(bed.end(connect), Seen::Connected(Err(INVALID)));
    }
    let (pending, first) = unanswered(&mut bed);
    let second = bed.submit(Op::Connect { socket: pending });
    assert_eq!(bed.end(second), Seen::Connected(Err(INVALID)));
    assert_eq!(bed.end_of(first), None, "the first goes on");
}

pub(crate) fn s10_a_socket_that_never_connected_closes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let Door { address, .. } = bed.door();
    for _ in 0..100 {
        let socket = bed.open(address, &SocketOptions::default()).unwrap();
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
        let connect = bed.submit(Op::Connect { socket });
        assert_eq!(bed.end(connect), Seen::Connected(Err(INVALID)));
    }
    assert_eq!(bed.driver().sockets(), 1);
}

pub(crate) fn s10_close_gives_up_a_connect_that_nobody_answers<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, connect) = unanswered(&mut bed);
    let held = bed.driver().sockets();
    let close = bed.close(socket);
    assert_eq!((bed.end(close), bed.end(connect)), (CLOSED, GIVEN_UP));
    assert!(bed.place_of_end(connect) < bed.place_of_end(close), "closed comes last");
    assert_eq!(bed.driver().sockets(), held - 1);
}

pub(crate) fn s10_close_joins_a_connect_at_any_moment<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let address = bed.door().address;
    let (closed, _nobody) = bed.world.nobody();
    for round in 0..60 {
        let (socket, connect) = bed.connect(if round % 3 == 2 { closed } else { address });
        for _ in 0..round % 4 {
            bed.step();
        }
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
        let end = bed.end(connect);
        assert!([CONNECTED, REFUSED, GIVEN_UP].contains(&end), "{end:?}");
        assert!(bed.place_of_end(connect) < bed.place_of_end(close), "closed comes last");
    }
}

pub(crate) fn s02_connect_reaches_a_listener_of_the_same_driver<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let near = connected(&mut bed, door.address);
    bed.until("the accept", |bed| bed.accepted(door.accept).len() == 1);
    let far = bed.accepted(door.accept)[0].socket;
    assert_ne!(near, far);
    let bytes = pattern(seed, 100_000);
    let receives = [bed.receive(near), bed.receive(far)];
    let sends = [bed.send(near, &bytes), bed.send(far, &bytes)];
    for send in sends {
        assert_eq!(bed.end(send), Seen::sent(bytes.len()));
    }
    bed.until("all bytes", |bed| receives.iter().all(|token| bed.received(*token).len() == bytes.len()));
    assert!(receives.iter().all(|token| bed.received(*token) == bytes));
    assert_eq!(bed.driver().sockets(), 3);
}

pub(crate) fn s02_connect_reaches_a_listener_of_another_driver<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut other = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
    let door = other.door();
    let (near, token) = bed.connect(door.address);
    bed.until("both ends", |bed| {
        other.step();
        bed.end_of(token).is_some() && other.accepted(door.accept).len() == 1
    });
    assert_eq!(bed.end(token), CONNECTED);
    let receive = other.receive(other.accepted(door.accept)[0].socket);
    bed.send(near, b"across");
    bed.until("the bytes", |_| {
        other.step();
        other.received(receive) == b"across"
    });
}

pub(crate) fn s02_many_connect_at_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut listener = bed.world.listen(V4);
    let address = listener.local_address();
    let (closed, _nobody) = bed.world.nobody();
    let tokens: Vec<_> =
        (0..100).map(|at| bed.connect(if at % 5 == 4 { closed } else { address }).1).collect();
    let mut peers = Vec::new();
    bed.until("the end of every connect", |bed| {
        peers.extend(listener.accept());
        tokens.iter().all(|token| bed.end_of(*token).is_some())
    });
    for (at, token) in tokens.iter().enumerate() {
        assert_eq!(bed.end(*token), if at % 5 == 4 { REFUSED } else { CONNECTED });
    }
    bed.until("every peer", |_| {
        peers.extend(listener.accept());
        peers.len() == 80
    });
    assert_eq!(bed.driver().sockets(), 100);
}

pub(crate) fn s02_connect_at_the_cap_is_a_shortage_that_passes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, DriverConfig { sockets_max: 2, ..CONFIG });
    let mut listener = bed.world.listen(V4);
    let (first, _client) = pair_out(&mut bed, &mut listener);
    let _second = pair_out(&mut bed, &mut listener);
    let refused = bed.open(listener.local_address(), &SocketOptions::default());
    assert_eq!(refused.unwrap_err().kind, FaultKind::NoDescriptors);
    let close = bed.close(first);
    assert_eq!(bed.end(close), CLOSED);
    pair_out(&mut bed, &mut listener);
}

pub(crate) fn s02_connect_takes_options<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut listener = bed.world.listen(V4);
    let options = SocketOptions {
        no_delay: false,
        keep_alive: Some(KeepAlive::after(Duration::from_secs(5))),
        user_timeout: Some(Duration::from_secs(30)),
        type_of_service: Some(0x10),
        receive_buffer_bytes: Some(8 << 10),
        send_buffer_bytes: Some(8 << 10),
        ..SocketOptions::default()
    };
    let socket = bed.open(listener.local_address(), &options).unwrap();
    let connect = bed.submit(Op::Connect { socket });
    assert_eq!(bed.end(connect), CONNECTED);
    let mut peer = None;
    bed.until("the peer's accept", |_| {
        peer = peer.take().or_else(|| listener.accept());
        peer.is_some()
    });
    let mut client = Client::<W>::new(peer.expect("accepted"));
    let bytes = pattern(seed, 300_000);
    bed.send_to(socket, &mut client, &bytes);
    let receive = bed.receive(socket);
    bed.receive_from(receive, &mut client, &bytes);
}

pub(crate) fn s10_a_connected_socket_closes_in_order<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut listener = bed.world.listen(V4);
    let (socket, mut client) = pair_out(&mut bed, &mut listener);
    let receive = bed.receive(socket);
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    assert!(bed.place_of_end(receive) < bed.place_of_end(close));
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(crate::bed::End::EndOfStream));
}
