//! Moving sockets between drivers: sentence 13.

use anyport_driver::{Driver, OpKind};

use crate::bed::{Bed, CANCELLED, CLOSED, CONFIG, End, Seen, World, pattern};

pub(crate) fn s13_an_accepted_socket_moves_and_goes_on<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut other = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
    let (socket, mut client) = bed.pair();
    let detached = bed.driver().detach(socket).expect("nothing was submitted on it");
    assert_eq!(bed.driver().sockets(), 1);
    let moved = other.driver().adopt(detached).expect("it is of the same kind");
    assert_eq!(other.driver().sockets(), 1);
    let receive = other.receive(moved);
    other.receive_from(receive, &mut client, &pattern(seed, 200_000));
    client.received.clear();
    other.send_to(moved, &mut client, &pattern(seed, 200_000));
    let close = other.close(moved);
    assert_eq!((other.end(close), other.end(receive)), (CLOSED, CANCELLED));
    other.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s13_unread_bytes_move_along<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut other = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
    let (socket, mut client) = bed.pair();
    client.feed(b"luggage");
    bed.settle();
    let detached = bed.driver().detach(socket).expect("nothing was submitted on it");
    let moved = other.driver().adopt(detached).expect("it is of the same kind");
    let receive = other.receive(moved);
    other.until("the luggage", |bed| bed.received(receive) == b"luggage");
}

pub(crate) fn s13_a_socket_that_was_used_stays<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let [(received, mut first), (sent, mut second), (shut, _third)] = [bed.pair(), bed.pair(), bed.pair()];
    let receive = bed.receive(received);
    assert!(bed.driver().detach(received).is_none(), "a receive is in flight");
    bed.settle();
    assert!(bed.driver().detach(received).is_none(), "a receive is waiting");
    bed.cancel(received, OpKind::Receive);
    assert_eq!(bed.end(receive), CANCELLED);
    assert!(bed.driver().detach(received).is_none(), "it has received, though nothing");
    bed.send_to(sent, &mut second, b"hello");
    assert!(bed.driver().detach(sent).is_none(), "it has sent");
    let shutdown = bed.shutdown(shut);
    assert_eq!(bed.end(shutdown), Seen::ShutDown(Ok(())));
    assert!(bed.driver().detach(shut).is_none(), "it was shut down");
    // They are as they were.
    bed.send_to(received, &mut first, b"still here");
}

pub(crate) fn s13_a_connected_socket_stays<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let connect = bed.connect(door.address);
    let Seen::Connected(Ok(socket)) = bed.end(connect) else { panic!("it did not connect") };
    assert!(bed.driver().detach(socket).is_none());
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
}

pub(crate) fn s13_the_old_key_is_dead<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let detached = bed.driver().detach(socket).expect("nothing was submitted on it");
    assert!(bed.driver().detach(socket).is_none());
    let close = bed.close(socket);
    assert!(matches!(bed.end(close), Seen::Closed(Err(_))));
    let back = bed.driver().adopt(detached).expect("its own driver takes it too");
    assert_ne!(back, socket);
    bed.send_to(back, &mut client, b"home again");
}

pub(crate) fn s13_listeners_and_dead_keys_do_not_move<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    assert!(bed.driver().detach(door.key).is_none());
    let (socket, _client) = bed.pair();
    let close = bed.close(socket);
    assert!(bed.driver().detach(socket).is_none(), "it is closing");
    assert_eq!(bed.end(close), CLOSED);
    assert!(bed.driver().detach(socket).is_none(), "it is closed");
}

pub(crate) fn s13_a_detached_socket_that_is_dropped_closes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let detached = bed.driver().detach(socket).expect("nothing was submitted on it");
    bed.settle();
    assert!(!client.has_ended());
    drop(detached);
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(End::EndOfStream));
}

pub(crate) fn s13_a_detached_socket_outlives_its_driver<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let detached = bed.driver().detach(socket).expect("nothing was submitted on it");
    bed.drop_driver();
    let mut other = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
    let moved = other.driver().adopt(detached).expect("it is of the same kind");
    other.send_to(moved, &mut client, b"orphan");
}

pub(crate) fn s13_sockets_wander_between_three_drivers<W: World>(seed: u64) {
    let mut first = Bed::<W>::new(seed);
    let pairs = first.pairs(10);
    let world = first.world.clone();
    let mut beds = [first, Bed::on(world.clone(), seed, CONFIG), Bed::on(world, seed, CONFIG)];
    for (at, (mut socket, mut client)) in pairs.into_iter().enumerate() {
        let mut home = 0;
        for _ in 0..6 {
            let detached = beds[home].driver().detach(socket).expect("nothing was submitted on it");
            home = (home + 1 + at % 2) % 3;
            socket = beds[home].driver().adopt(detached).expect("it is of the same kind");
        }
        beds[home].send_to(socket, &mut client, &pattern(at as u64, 1_000));
        assert!(beds[home].driver().detach(socket).is_none(), "it has settled");
    }
    assert_eq!(beds.iter_mut().map(|bed| bed.driver().sockets()).sum::<usize>(), 11);
}
