//! Listening and accepting: sentence 7, and what `listen` promises.

use std::{collections::BTreeSet, io::ErrorKind, net::SocketAddr};

use anyport_driver::{
    Driver, DriverConfig, DriverKind, FaultKind, ListenOptions, Op, SocketOptions, options::PortSharing,
};

use crate::bed::{Bed, CANCELLED, CLOSED, CONFIG, Client, Door, Peer, RESET, Seen, V4, V6, World};

const FIRST: ListenOptions = shared(PortSharing::First);
const FURTHER: ListenOptions = shared(PortSharing::Further);

const fn shared(port: PortSharing) -> ListenOptions {
    let socket = SocketOptions {
        no_delay: true,
        keep_alive: None,
        user_timeout: None,
        reset_on_close: false,
        receive_buffer_bytes: None,
        send_buffer_bytes: None,
        type_of_service: None,
    };
    ListenOptions {
        socket,
        backlog: 128,
        port,
        reuse_address: true,
        ipv6_only: false,
        unix_mode: None,
        detachable: false,
    }
}

pub(crate) fn s07_accept_reports_who_connected<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let (_, client) = bed.pair();
    assert_eq!(bed.accepted(door.accept)[0].peer, client.peer.local_address());
}

pub(crate) fn s07_accept_takes_those_that_waited_before_it_was_armed<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (listener, address) = bed.listen_only(V4, &ListenOptions::default()).unwrap();
    let mut clients: Vec<_> = (0..100).map(|_| bed.client(address)).collect();
    let accept = bed.submit(Op::Accept { listener });
    bed.until("all accepted", |bed| bed.accepted(accept).len() == clients.len());
    assert_eq!(bed.driver().sockets(), 101);
    echo_all(&mut bed, accept, &mut clients);
}

pub(crate) fn s07_accept_stays_armed_over_many_rounds<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let mut clients = Vec::new();
    for round in 1..=20 {
        clients.extend((0..round).map(|_| bed.client(door.address)));
        bed.until("a round of accepts", |bed| bed.accepted(door.accept).len() == clients.len());
    }
    let keys: BTreeSet<_> = bed.accepted(door.accept).iter().map(|one| format!("{:?}", one.socket)).collect();
    assert_eq!(keys.len(), clients.len(), "each has a key of its own");
    assert_eq!(bed.end_of(door.accept), None);
}

/// Sends each accepted peer's address back to it.
fn echo_all<W: World>(bed: &mut Bed<W>, accept: u64, clients: &mut [Client<W>]) {
    let accepted = bed.accepted(accept).to_vec();
    for one in &accepted {
        bed.send(one.socket, one.peer.to_string().as_bytes());
    }
    for client in clients {
        let expected = client.peer.local_address().to_string();
        bed.until("an echo", |_| client.has_received(expected.as_bytes()));
    }
}

pub(crate) fn s07_accept_survives_peers_that_reset_in_the_backlog<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (listener, address) = bed.listen_only(V4, &ListenOptions::default()).unwrap();
    let mut live = Vec::new();
    for at in 0..40 {
        let client = bed.client(address);
        if at % 2 == 0 { client.reset() } else { live.push(client) }
    }
    let accept = bed.submit(Op::Accept { listener });
    let addresses: BTreeSet<SocketAddr> = live.iter().map(|client| client.peer.local_address()).collect();
    bed.until("the live ones accepted", |bed| {
        let peers = bed.accepted(accept).iter().filter(|one| addresses.contains(&one.peer.socket().unwrap()));
        peers.count() == live.len()
    });
    // Those that were reset may be accepted as well: then they end at once.
    for one in bed.accepted(accept).to_vec() {
        if !addresses.contains(&one.peer.socket().unwrap()) {
            let receive = bed.receive(one.socket);
            assert_eq!(bed.end(receive), RESET);
            let close = bed.close(one.socket);
            assert_eq!(bed.end(close), CLOSED);
        }
    }
    let (socket, mut late) = bed.pair_at(Door { key: listener, address, accept });
    bed.send_to(socket, &mut late, b"not deaf");
}

pub(crate) fn s07_accept_gives_what_a_peer_wrote_and_closed_in_the_backlog<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (listener, address) = bed.listen_only(V4, &ListenOptions::default()).unwrap();
    let mut client = bed.client(address);
    client.feed(b"bye");
    client.close();
    let accept = bed.submit(Op::Accept { listener });
    bed.until("the accept", |bed| bed.accepted(accept).len() == 1);
    let receive = bed.receive(bed.accepted(accept)[0].socket);
    assert_eq!(bed.end(receive), Seen::EndOfStream);
    assert_eq!(bed.received(receive), b"bye");
}

pub(crate) fn s07_accept_reports_the_cap_and_resumes_when_a_socket_closes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, DriverConfig { sockets_max: 4, ..CONFIG });
    let door = bed.door();
    let clients: Vec<_> = (0..9).map(|_| bed.client(door.address)).collect();
    bed.until("a shortage", |bed| bed.count(door.accept, |seen| matches!(seen, Seen::AcceptFaulted(_))) > 0);
    bed.until("a full driver", |bed| bed.accepted(door.accept).len() == 3);
    assert_eq!(bed.driver().sockets(), 4);
    for at in 0..clients.len() {
        bed.until("another one in", |bed| bed.accepted(door.accept).len() > at);
        assert!(bed.driver().sockets() <= 4);
        let socket = bed.accepted(door.accept)[at].socket;
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
    }
    assert_eq!(bed.accepted(door.accept).len(), clients.len());
    assert_eq!(bed.driver().sockets(), 1);
}

pub(crate) fn s07_a_shortage_is_named_and_not_repeated_without_end<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, DriverConfig { sockets_max: 2, ..CONFIG });
    let door = bed.door();
    let _clients: Vec<_> = (0..3).map(|_| bed.client(door.address)).collect();
    bed.until("the shortage", |bed| {
        bed.count(door.accept, |seen| seen == Seen::AcceptFaulted(FaultKind::NoDescriptors)) > 0
    });
    bed.settle();
    let faults = bed.count(door.accept, |seen| matches!(seen, Seen::AcceptFaulted(_)));
    assert!(faults <= 25, "{faults} faults of one shortage");
    assert_eq!(bed.end_of(door.accept), None);
}

pub(crate) fn s07_accept_ends_when_its_listener_closes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let close = bed.close(door.key);
    assert_eq!(bed.end(close), CLOSED);
    assert_eq!(bed.end(door.accept), Seen::AcceptEnded(FaultKind::Cancelled));
    assert!(bed.place_of_end(door.accept) < bed.place_of_end(close), "closed comes last");
    assert_eq!(bed.driver().sockets(), 0);
    assert!(bed.world.connect(door.address).is_err(), "nobody listens any more");
}

pub(crate) fn s07_accepted_sockets_outlive_their_listener<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let (socket, mut client) = bed.pair();
    let close = bed.close(door.key);
    assert_eq!(bed.end(close), CLOSED);
    let receive = bed.receive(socket);
    bed.receive_from(receive, &mut client, b"still here");
    bed.send_to(socket, &mut client, b"so am I");
}

pub(crate) fn s07_two_listeners_do_not_mix<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let doors = [bed.listen_at(V4), bed.listen_at(V4)];
    assert_ne!(doors[0].address, doors[1].address);
    let mut clients = [Vec::new(), Vec::new()];
    let held: Vec<_> = (0..30).map(|at| bed.client(doors[at % 2].address)).collect();
    for (at, client) in held.iter().enumerate() {
        clients[at % 2].push(client.peer.local_address());
    }
    for (door, clients) in doors.iter().zip(&clients) {
        bed.until("all accepted", |bed| bed.accepted(door.accept).len() == clients.len());
        let peers: BTreeSet<_> =
            bed.accepted(door.accept).iter().map(|one| one.peer.socket().unwrap()).collect();
        assert_eq!(peers, clients.iter().copied().collect());
    }
    let close = bed.close(doors[0].key);
    assert_eq!(bed.end(close), CLOSED);
    bed.pair_at(doors[1]);
}

pub(crate) fn s07_accept_works_over_v6<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = match bed.listen_with(V6, &ListenOptions::default()) {
        // A machine without IPv6.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return,
        door => door.unwrap(),
    };
    assert!(door.address.is_ipv6());
    let (socket, mut client) = bed.pair_at(door);
    assert_eq!(bed.accepted(door.accept)[0].peer, client.peer.local_address());
    bed.send_to(socket, &mut client, b"six");
}

pub(crate) fn s07_a_v6_wildcard_accepts_v4_too<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let all: SocketAddr = "[::]:0".parse().unwrap();
    let door = match bed.listen_with(all, &ListenOptions::default()) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return,
        door => door.unwrap(),
    };
    let at = SocketAddr::new(V4.ip(), door.address.port());
    let mut client = bed.client(at);
    bed.until("the accept", |bed| bed.accepted(door.accept).len() == 1);
    let accepted = bed.accepted(door.accept)[0];
    let local = client.peer.local_address();
    let peer = accepted.peer.socket().unwrap();
    assert_eq!((peer.ip().to_canonical(), peer.port()), (local.ip(), local.port()));
    bed.send_to(accepted.socket, &mut client, b"four");
}

pub(crate) fn listen_reports_the_port_that_was_chosen<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let doors: Vec<_> = (0..5).map(|_| bed.listen_at(V4)).collect();
    let ports: BTreeSet<_> = doors.iter().map(|door| door.address.port()).collect();
    assert!(ports.len() == 5 && !ports.contains(&0));
    for door in doors {
        assert_eq!(door.address.ip(), V4.ip());
        bed.pair_at(door);
    }
}

pub(crate) fn listen_fails_if_the_address_is_in_use<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let again = bed.listen_only(door.address, &ListenOptions::default());
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!(bed.driver().sockets(), 1);
    let close = bed.close(door.key);
    assert_eq!(bed.end(close), CLOSED);
    let door = bed.listen_at(door.address);
    bed.pair_at(door);
}

pub(crate) fn listen_fails_at_an_address_of_another_machine<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let nobodys: SocketAddr = "192.0.2.1:0".parse().unwrap();
    let listened = bed.listen_only(nobodys, &ListenOptions::default());
    assert_eq!(listened.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    assert_eq!(bed.driver().sockets(), 0);
}

pub(crate) fn listen_fails_at_the_cap<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, DriverConfig { sockets_max: 1, ..CONFIG });
    let door = bed.door();
    assert!(bed.listen_only(V4, &ListenOptions::default()).is_err());
    let close = bed.close(door.key);
    assert_eq!(bed.end(close), CLOSED);
    bed.listen_at(V4);
}

pub(crate) fn listen_first_fails_if_anyone_has_the_port<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    if !bed.driver().kind().shares_ports() {
        return;
    }
    let alone = bed.door();
    let on_alone = bed.listen_only(alone.address, &FIRST);
    assert_eq!(on_alone.unwrap_err().kind(), ErrorKind::AddrInUse);
    let first = bed.listen_with(V4, &FIRST).unwrap();
    let on_first = bed.listen_only(first.address, &FIRST);
    assert_eq!(on_first.unwrap_err().kind(), ErrorKind::AddrInUse);
    let mut other = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
    let elsewhere = other.listen_only(first.address, &FIRST);
    assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::AddrInUse);
}

pub(crate) fn listen_further_joins_the_first_and_both_accept<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    if !bed.driver().kind().shares_ports() {
        return;
    }
    let first = bed.listen_with(V4, &FIRST).unwrap();
    let mut other = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
    let further = other.listen_with(first.address, &FURTHER).unwrap();
    assert_eq!(further.address, first.address);
    // More than chance could put at one side: 2^-200.
    let clients: Vec<_> = (0..200).map(|_| bed.client(first.address)).collect();
    bed.until("all accepted by one or the other", |bed| {
        other.step();
        bed.accepted(first.accept).len() + other.accepted(further.accept).len() == clients.len()
    });
    assert!(!bed.accepted(first.accept).is_empty() && !other.accepted(further.accept).is_empty());
}

pub(crate) fn listen_further_fails_on_a_port_that_is_not_shared<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    if !bed.driver().kind().shares_ports() {
        return;
    }
    let alone = bed.door();
    assert_eq!(bed.listen_only(alone.address, &FURTHER).unwrap_err().kind(), ErrorKind::AddrInUse);
}

pub(crate) fn listen_says_so_where_ports_are_not_shared<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    // A relay says what the system's own driver could: on Windows, no. The simulator behind it can all the same.
    let kind = bed.driver().kind();
    let shares = kind.shares_ports() || (kind == DriverKind::Relay && W::NAME.starts_with("sim"));
    for options in [FIRST, FURTHER] {
        match bed.listen_only(V4, &options) {
            Ok(_) => assert!(shares),
            Err(error) => assert_eq!((error.kind(), shares), (ErrorKind::Unsupported, false)),
        }
    }
    assert_eq!(bed.driver().sockets(), if shares { 2 } else { 0 });
}

pub(crate) fn s10_connections_that_nobody_accepted_end_with_their_listener<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (listener, address) = bed.listen_only(V4, &ListenOptions::default()).unwrap();
    let mut clients: Vec<_> = (0..5).map(|_| bed.client(address)).collect();
    let close = bed.close(listener);
    assert_eq!(bed.end(close), CLOSED);
    for client in &mut clients {
        bed.until("the end at the peer", |_| client.has_ended());
    }
}

pub(crate) fn s11_a_second_accept_is_refused_and_the_first_goes_on<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let second = bed.submit(Op::Accept { listener: door.key });
    assert_eq!(bed.end(second), Seen::AcceptEnded(FaultKind::InvalidSocket));
    bed.pair();
}

pub(crate) fn s11_operations_of_the_wrong_kind_of_socket_are_refused<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let (socket, mut client) = bed.pair();
    let invalid = FaultKind::InvalidSocket;
    let accept = bed.submit(Op::Accept { listener: socket });
    assert_eq!(bed.end(accept), Seen::AcceptEnded(invalid));
    let receive = bed.receive(door.key);
    assert_eq!(bed.end(receive), Seen::ReceiveFailed(invalid));
    let send = bed.send(door.key, b"no");
    assert_eq!(bed.end(send), Seen::Sent { of: 2, sent: 0, result: Err(invalid) });
    let shutdown = bed.shutdown(door.key);
    assert_eq!(bed.end(shutdown), Seen::ShutDown(Err(invalid)));
    // Both are as they were.
    bed.send_to(socket, &mut client, b"yes");
    let receive = bed.receive(socket);
    let close = bed.close(socket);
    assert_eq!((bed.end(close), bed.end(receive)), (CLOSED, CANCELLED));
    bed.pair();
}
