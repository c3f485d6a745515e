//! Cancelling: sentence 6.

use anyport_driver::{FaultKind, OpKind};

use crate::bed::{Bed, CANCELLED, Chance, Peer, RESET, Seen, World, pattern};

pub(crate) fn s06_an_idle_receive_is_cancelled<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    for round in 0..50 {
        let receive = bed.receive(socket);
        bed.cancel(socket, OpKind::Receive);
        assert_eq!(bed.end(receive), CANCELLED);
        assert_eq!(bed.count(receive, |_| true), 1, "round {round}");
    }
    let receive = bed.receive(socket);
    bed.receive_from(receive, &mut client, b"as new");
}

pub(crate) fn s06_a_receive_that_waits_is_cancelled<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, _client) = bed.pair();
    let receive = bed.receive(socket);
    bed.settle();
    bed.cancel(socket, OpKind::Receive);
    assert_eq!(bed.end(receive), CANCELLED);
}

pub(crate) fn s06_cancelling_twice_ends_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    bed.settle();
    bed.cancel(socket, OpKind::Receive);
    bed.cancel(socket, OpKind::Receive);
    assert_eq!(bed.end(receive), CANCELLED);
    // What is left of the second cancel does not hit the next operation.
    let receive = bed.receive(socket);
    bed.settle();
    assert_eq!(bed.end_of(receive), None);
    bed.receive_from(receive, &mut client, b"untouched");
}

pub(crate) fn s06_cancelling_nothing_has_no_completion<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let door = bed.door();
    let (socket, mut client) = bed.pair();
    let seen = bed.log.len();
    for kind in
        [OpKind::Accept, OpKind::Connect, OpKind::Receive, OpKind::Send, OpKind::Shutdown, OpKind::Close]
    {
        bed.cancel(socket, kind);
    }
    bed.cancel(door.key, OpKind::Receive);
    bed.cancel(door.key, OpKind::Send);
    bed.settle();
    assert_eq!(bed.log.len(), seen);
    let receive = bed.receive(socket);
    bed.receive_from(receive, &mut client, b"as ever");
    bed.send_to(socket, &mut client, b"as ever");
}

pub(crate) fn s06_cancelling_after_the_end_has_no_completion<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    client.peer.shutdown_write();
    assert_eq!(bed.end(receive), Seen::EndOfStream);
    bed.send_to(socket, &mut client, b"done");
    let seen = bed.log.len();
    bed.cancel(socket, OpKind::Receive);
    bed.cancel(socket, OpKind::Send);
    bed.settle();
    assert_eq!(bed.log.len(), seen);
}

pub(crate) fn s06_no_byte_is_lost_over_two_thousand_cancels<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, 1 << 20);
    let mut chance = Chance::new(seed);
    let mut fed = 0;
    let mut all = Vec::new();
    for _ in 0..2_000 {
        let receive = bed.receive(socket);
        // Writes before, between and after, so that the cancel meets data at every stage.
        for _ in 0..3 {
            if client.push() && fed < bytes.len() && chance.of(0..3) == 0 {
                let next = (fed + chance.of(1..400)).min(bytes.len());
                client.feed(&bytes[fed..next]);
                fed = next;
            }
            match chance.of(0..4) {
                0 => bed.wait(Some(std::time::Duration::ZERO)),
                1 => bed.cancel(socket, OpKind::Receive),
                _ => {}
            }
        }
        bed.cancel(socket, OpKind::Receive);
        assert_eq!(bed.end(receive), CANCELLED);
        all.extend_from_slice(bed.received(receive));
    }
    let last = bed.receive(socket);
    bed.until("the rest", |bed| {
        client.push();
        all.len() + bed.received(last).len() >= fed
    });
    all.extend_from_slice(bed.received(last));
    assert_eq!(all.len(), fed);
    assert!(bytes.starts_with(&all), "a byte was lost, repeated or moved");
}

pub(crate) fn s06_data_that_was_not_delivered_stays_for_the_next_receive<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, 2 << 20);
    client.feed(&bytes);
    let mut all = Vec::new();
    while all.len() < bytes.len() {
        let receive = bed.receive(socket);
        bed.until("some bytes", |bed| {
            client.push();
            !bed.received(receive).is_empty()
        });
        bed.cancel(socket, OpKind::Receive);
        assert_eq!(bed.end(receive), CANCELLED);
        all.extend_from_slice(bed.received(receive));
    }
    assert!(all == bytes);
}

pub(crate) fn s06_a_cancelled_receive_leaves_the_end_of_the_stream<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    for (socket, mut client) in bed.pairs(30) {
        let receive = bed.receive(socket);
        client.peer.shutdown_write();
        bed.cancel(socket, OpKind::Receive);
        if bed.end(receive) == CANCELLED {
            let receive = bed.receive(socket);
            assert_eq!(bed.end(receive), Seen::EndOfStream);
        } else {
            assert_eq!(bed.end(receive), Seen::EndOfStream);
        }
    }
}

pub(crate) fn s06_a_cancel_and_a_reset_at_once_end_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    for (socket, client) in bed.pairs(30) {
        let receive = bed.receive(socket);
        client.reset();
        bed.cancel(socket, OpKind::Receive);
        assert!(matches!(bed.end(receive), CANCELLED | RESET));
        assert_eq!(bed.count(receive, |_| true), 1);
    }
}

pub(crate) fn s06_a_send_that_was_taken_is_not_cancelled<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let mut expected = Vec::new();
    for round in 0..200u32 {
        let bytes = pattern(u64::from(round), 100);
        let send = bed.send(socket, &bytes);
        if round % 2 == 0 {
            bed.wait(Some(std::time::Duration::ZERO));
        }
        bed.cancel(socket, OpKind::Send);
        let Seen::Sent { sent, result, .. } = bed.end(send) else { unreachable!("checked by the bed") };
        assert!(result == Ok(()) || (result == Err(FaultKind::Cancelled) && sent < 100));
        expected.extend_from_slice(&bytes[..sent]);
    }
    bed.until("what was said to be sent", |_| client.has_received(&expected));
}

pub(crate) fn s06_cancelling_one_direction_leaves_the_other<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, W::HUGE);
    let send = bed.send(socket, &bytes);
    bed.settle();
    bed.cancel(socket, OpKind::Receive);
    assert_eq!(bed.end(receive), CANCELLED);
    assert_eq!(bed.end_of(send), None);
    let receive = bed.receive(socket);
    bed.cancel(socket, OpKind::Send);
    let Seen::Sent { sent, result: Err(FaultKind::Cancelled), .. } = bed.end(send) else {
        bed.fail("the send was not cancelled")
    };
    assert_eq!(bed.end_of(receive), None);
    bed.receive_from(receive, &mut client, b"still open");
    bed.until("what was sent", |_| {
        client.pull();
        client.received.len() >= sent
    });
    assert_eq!(client.received, bytes[..sent]);
}
