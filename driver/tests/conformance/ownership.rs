//! Ownership: sentence 1. A driver can be dropped at any moment.

use anyport_driver::{Driver, Op, SocketOptions};

use crate::bed::{Bed, CONFIG, Seen, TWO_BUFFERS, V4, World, pattern};

pub(crate) fn s01_dropping_an_empty_driver<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    bed.drop_driver();
    for _ in 0..20 {
        let mut bed = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
        assert_eq!((bed.driver().sockets(), bed.driver().leases_out()), (0, 0));
    }
}

pub(crate) fn s01_dropping_with_everything_in_flight<W: World>(seed: u64) {
    for waits in 0..4 {
        let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
        bed.holds = true;
        let outside = bed.world.listen(V4);
        let mut pairs = bed.pairs(30);
        let large = pattern(seed, W::HUGE / 4);
        for (at, (socket, client)) in pairs.iter_mut().enumerate() {
            bed.receive(*socket);
            match at % 6 {
                0 => client.feed(&[1; 10_000]),
                1 => drop(bed.send(*socket, &large)),
                2 => drop(bed.shutdown(*socket)),
                3 => drop(bed.close(*socket)),
                4 => bed.cancel(*socket, anyport_driver::OpKind::Receive),
                _ => {
                    let address = crate::bed::PeerListener::local_address(&outside);
                    bed.connect(address);
                }
            }
        }
        for _ in 0..waits {
            bed.step();
        }
        bed.drop_driver();
        for (_, client) in &mut pairs {
            bed.until("the end at every peer", |_| {
                client.push();
                client.has_ended()
            });
        }
    }
}

pub(crate) fn s01_a_dropped_driver_frees_its_address<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let _pairs = bed.pairs(5);
    bed.drop_driver();
    let mut later = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
    let again = later.listen_with(door.address, &anyport_driver::ListenOptions::default());
    let again = again.expect("nobody listens there any more");
    let (socket, mut client) = later.pair_at(again);
    later.send_to(socket, &mut client, b"reopened");
}

pub(crate) fn s01_drivers_come_and_go_while_others_work<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    for round in 0..20 {
        let mut guest = Bed::<W>::on(bed.world.clone(), seed, TWO_BUFFERS);
        let mut pairs = guest.pairs(3);
        for (socket, client) in &mut pairs {
            let receive = guest.receive(*socket);
            guest.receive_from(receive, client, &pattern(round, 3_000));
            guest.send(*socket, &vec![2; 100_000]);
        }
        guest.drop_driver();
        bed.receive_from(receive, &mut client, &pattern(round, 3_000));
        client.received.clear();
        bed.send_to(socket, &mut client, &pattern(round, 3_000));
    }
}

pub(crate) fn s01_operations_in_any_order_are_safe<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let mut chance = crate::bed::Chance::new(seed);
    let pairs = bed.pairs(12);
    let (mut sockets, mut clients): (Vec<_>, Vec<_>) =
        pairs.into_iter().map(|(socket, client)| (socket, Some(client))).unzip();
    let outside = bed.world.listen(V4);
    for _ in 0..4 {
        let address = crate::bed::PeerListener::local_address(&outside);
        sockets.push(bed.open(address, &SocketOptions::default()).unwrap());
        clients.push(None);
    }
    let mut closes = Vec::new();
    for _ in 0..1_500 {
        let at = chance.of(0..sockets.len());
        let socket = sockets[at];
        match chance.of(0..15) {
            0..=2 => drop(bed.receive(socket)),
            3 | 4 => drop(bed.send(socket, &pattern(seed, 60_000))),
            5 => bed.cancel(socket, anyport_driver::OpKind::Receive),
            6 => bed.cancel(socket, anyport_driver::OpKind::Send),
            7 if chance.of(0..8) == 0 => drop(bed.shutdown(socket)),
            8 if chance.of(0..60) == 0 => closes.push(bed.close(socket)),
            9 if chance.of(0..60) == 0 => clients[at] = None,
            10 | 11 => {
                if let Some(client) = &mut clients[at] {
                    client.feed(&[3; 2_000]);
                }
            }
            12 => drop(bed.submit(Op::Connect { socket })),
            13 => clients.iter_mut().flatten().for_each(crate::bed::Client::pump),
            _ => bed.step(),
        }
    }
    closes.extend(sockets.iter().map(|socket| bed.close(*socket)));
    // The bed checks that every operation ends once, and in its kind.
    for close in closes {
        assert!(matches!(bed.end(close), Seen::Closed(_)));
    }
    bed.until("nothing in flight but the accept", |bed| bed.operations_in_flight() == 1);
    assert_eq!((bed.driver().sockets(), bed.driver().leases_out()), (1, 0));
}
