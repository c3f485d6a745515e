//! Connecting.

use anyport_driver::{Driver, DriverConfig, FaultKind, Op, SocketKey, SocketOptions};

use crate::bed::{Bed, CLOSED, CONFIG, Client, PeerListener, Seen, V4, V6, World, pattern};

fn connected<W: World>(bed: &mut Bed<W>, token: u64) -> SocketKey {
    match bed.end(token) {
        Seen::Connected(Ok(socket)) => socket,
        other => bed.fail(&format!("not connected: {other:?}")),
    }
}

/// A connection that the driver opened, and its peer.
fn pair_out<W: World>(bed: &mut Bed<W>, listener: &mut W::PeerListener) -> (SocketKey, Client<W>) {
    let token = bed.connect(listener.local_address());
    let socket = connected(bed, token);
    let mut peer = None;
    bed.until("the peer's accept", |_| {
        peer = peer.take().or_else(|| listener.accept());
        peer.is_some()
    });
    (socket, Client::new(peer.expect("accepted")))
}

/// An address where nobody listens.
fn closed_address<W: World>(bed: &Bed<W>) -> std::net::SocketAddr {
    bed.world.listen(V4).local_address()
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
    let door = match bed.listen_with(V6, &anyport_driver::ListenOptions::default()) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => return,
        door => door.unwrap(),
    };
    let token = bed.connect(door.address);
    connected(&mut bed, token);
    bed.until("the accept", |bed| bed.accepted(door.accept).len() == 1);
}

pub(crate) fn s02_connect_to_nobody_is_refused_and_holds_nothing<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let address = closed_address(&bed);
    for _ in 0..10 {
        let token = bed.connect(address);
        assert_eq!(bed.end(token), Seen::Connected(Err(FaultKind::Refused)));
    }
    assert_eq!(bed.driver().sockets(), 0);
}

pub(crate) fn s02_connect_reaches_a_listener_of_the_same_driver<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let token = bed.connect(door.address);
    let near = connected(&mut bed, token);
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
    let token = bed.connect(door.address);
    bed.until("both ends", |bed| {
        other.step();
        bed.end_of(token).is_some() && other.accepted(door.accept).len() == 1
    });
    let near = connected(&mut bed, token);
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
    let closed = closed_address(&bed);
    let tokens: Vec<_> = (0..100).map(|at| bed.connect(if at % 5 == 4 { closed } else { address })).collect();
    let mut peers = Vec::new();
    bed.until("the end of every connect", |bed| {
        peers.extend(listener.accept());
        tokens.iter().all(|token| bed.end_of(*token).is_some())
    });
    for (at, token) in tokens.iter().enumerate() {
        let refused = bed.end(*token) == Seen::Connected(Err(FaultKind::Refused));
        assert_eq!(refused, at % 5 == 4);
    }
    bed.until("every peer", |_| {
        peers.extend(listener.accept());
        peers.len() == 80
    });
    assert_eq!(bed.driver().sockets(), 80);
}

pub(crate) fn s02_connect_at_the_cap_is_a_shortage_that_passes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, DriverConfig { sockets_max: 2, ..CONFIG });
    let mut listener = bed.world.listen(V4);
    let (first, _client) = pair_out(&mut bed, &mut listener);
    let _second = pair_out(&mut bed, &mut listener);
    let token = bed.connect(listener.local_address());
    assert_eq!(bed.end(token), Seen::Connected(Err(FaultKind::NoDescriptors)));
    let close = bed.close(first);
    assert_eq!(bed.end(close), CLOSED);
    pair_out(&mut bed, &mut listener);
}

pub(crate) fn s02_connect_takes_options<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut listener = bed.world.listen(V4);
    let options = SocketOptions {
        no_delay: false,
        keep_alive: None,
        receive_buffer_bytes: Some(8 << 10),
        send_buffer_bytes: Some(8 << 10),
    };
    let token = bed.submit(Op::Connect { address: listener.local_address(), options });
    let socket = connected(&mut bed, token);
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
