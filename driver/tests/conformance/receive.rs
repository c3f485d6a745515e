//! Receiving: sentences 3 and 4, ends of streams, resets at every step.

use anyport_driver::{Driver, FaultKind, OpKind};

use crate::bed::{Bed, CANCELLED, CLOSED, CONFIG, Chance, Peer, RESET, Seen, World, pattern};

pub(crate) fn s04_bytes_one_by_one_arrive_in_order<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    for byte in 0..200 {
        bed.receive_from(receive, &mut client, &[byte]);
    }
    assert_eq!(bed.end_of(receive), None);
}

pub(crate) fn s04_writes_of_any_size_arrive_whole<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 500_000);
    let mut chance = Chance::new(seed);
    let mut at = 0;
    bed.until("all bytes", |bed| {
        if client.push() && at < bytes.len() {
            let next = (at + chance.of(1..9_000)).min(bytes.len());
            client.feed(&bytes[at..next]);
            at = next;
        }
        bed.received(receive).len() == bytes.len()
    });
    assert_eq!(bed.received(receive), bytes);
}

pub(crate) fn s04_megabytes_arrive_exact<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 8 << 20);
    bed.receive_from(receive, &mut client, &bytes);
    assert!(
        bed.count(receive, |seen| matches!(seen, Seen::Data(_))) >= bytes.len() / CONFIG.receive_buffer_bytes
    );
}

pub(crate) fn s04_data_from_before_the_receive_is_delivered<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    client.feed(b"early");
    bed.settle();
    let receive = bed.receive(socket);
    bed.until("the bytes", |bed| bed.received(receive) == b"early");
}

pub(crate) fn s04_sockets_do_not_mix<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut pairs = bed.pairs(50);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    let bytes: Vec<_> = (0..50).map(|at| pattern(seed + at, 20_000)).collect();
    for ((_, client), bytes) in pairs.iter_mut().zip(&bytes) {
        client.feed(bytes);
    }
    bed.until("all bytes", |bed| {
        for (_, client) in &mut pairs {
            client.pump();
        }
        receives.iter().all(|token| bed.received(*token).len() == 20_000)
    });
    for (token, bytes) in receives.iter().zip(&bytes) {
        assert_eq!(bed.received(*token), bytes);
    }
}

pub(crate) fn s04_both_directions_run_at_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let (there, back) = (pattern(seed, 2 << 20), pattern(seed + 1, 2 << 20));
    let receive = bed.receive(socket);
    let send = bed.send(socket, &back);
    client.feed(&there);
    bed.until("all bytes both ways", |bed| {
        client.pump();
        bed.received(receive).len() == there.len() && client.received.len() == back.len()
    });
    assert_eq!(bed.end(send), Seen::sent(back.len()));
    assert!(bed.received(receive) == there && client.received == back);
}

pub(crate) fn s03_the_end_of_the_stream_is_terminal<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    client.peer.shutdown_write();
    assert_eq!(bed.end(receive), Seen::EndOfStream);
    bed.settle();
    assert_eq!(bed.count(receive, |_| true), 1);
}

pub(crate) fn s03_data_and_the_end_together_come_in_this_order<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    for (socket, mut client) in bed.pairs(20) {
        client.feed(b"last words");
        client.peer.shutdown_write();
        let receive = bed.receive(socket);
        assert_eq!(bed.end(receive), Seen::EndOfStream);
        assert_eq!(bed.received(receive), b"last words");
    }
}

pub(crate) fn s03_a_receive_after_the_end_ends_again<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    client.peer.shutdown_write();
    for _ in 0..3 {
        let receive = bed.receive(socket);
        assert_eq!(bed.end(receive), Seen::EndOfStream);
    }
}

pub(crate) fn s03_large_data_before_the_end_is_all_delivered<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 1 << 20);
    client.feed(&bytes);
    bed.until("all written", |_| client.push());
    client.close();
    assert_eq!(bed.end(receive), Seen::EndOfStream);
    assert_eq!(bed.received(receive), bytes);
}

pub(crate) fn s03_a_half_closed_peer_can_still_be_sent_to<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    client.feed(b"question");
    client.peer.shutdown_write();
    assert_eq!(bed.end(receive), Seen::EndOfStream);
    let answer = pattern(seed, 1 << 20);
    bed.send_to(socket, &mut client, &answer);
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    bed.until("the end at the peer", |_| client.has_ended());
    assert_eq!(client.end, Some(crate::bed::End::EndOfStream));
}

pub(crate) fn s03_a_reset_ends_an_idle_receive<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    let receive = bed.receive(socket);
    bed.settle();
    client.reset();
    assert_eq!(bed.end(receive), RESET);
    bed.settle();
    assert_eq!(bed.count(receive, |_| true), 1);
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
}

pub(crate) fn s03_a_reset_before_the_receive_ends_it<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    client.reset();
    bed.settle();
    let receive = bed.receive(socket);
    assert_eq!(bed.end(receive), RESET);
}

pub(crate) fn s03_a_reset_after_unread_bytes_ends_the_receive<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, 10_000);
    client.feed(&bytes);
    bed.settle();
    client.reset();
    bed.settle();
    // Systems differ in whether the bytes can still be read.
    let receive = bed.receive(socket);
    assert_eq!(bed.end(receive), RESET);
    assert!(bytes.starts_with(bed.received(receive)));
}

pub(crate) fn s03_a_reset_in_the_middle_of_a_stream_ends_the_receive<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 4 << 20);
    client.feed(&bytes);
    bed.until("some bytes", |bed| {
        client.push();
        bed.received(receive).len() > 200_000
    });
    client.reset();
    assert_eq!(bed.end(receive), RESET);
    assert!(bytes.starts_with(bed.received(receive)));
}

pub(crate) fn s03_a_reset_after_our_shutdown_ends_the_receive<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let shutdown = bed.shutdown(socket);
    assert_eq!(bed.end(shutdown), Seen::ShutDown(Ok(())));
    bed.until("the end at the peer", |_| client.has_ended());
    client.reset();
    assert_eq!(bed.end(receive), RESET);
}

pub(crate) fn s03_a_reset_ends_receive_and_send_together<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    let receive = bed.receive(socket);
    let send = bed.send(socket, &pattern(seed, W::HUGE));
    bed.settle();
    client.reset();
    let Seen::Sent { result: Err(FaultKind::PeerReset), .. } = bed.end(send) else {
        bed.fail("a send to nobody went on")
    };
    // A system reports an error once: if the send took it, the receive sees only an end.
    assert!(matches!(bed.end(receive), RESET | Seen::EndOfStream));
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
}

pub(crate) fn s03_many_resets_at_once_end_every_receive<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let pairs = bed.pairs(100);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    let (sockets, clients): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    bed.settle();
    for client in clients {
        client.reset();
    }
    for receive in receives {
        assert_eq!(bed.end(receive), RESET);
    }
    for socket in sockets {
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
    }
    assert_eq!((bed.driver().sockets(), bed.driver().leases_out()), (1, 0));
}

pub(crate) fn s11_a_second_receive_is_refused_and_the_first_goes_on<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let first = bed.receive(socket);
    let second = bed.receive(socket);
    assert_eq!(bed.end(second), Seen::ReceiveFailed(FaultKind::InvalidSocket));
    bed.receive_from(first, &mut client, b"undisturbed");
    bed.cancel(socket, OpKind::Receive);
    assert_eq!(bed.end(first), CANCELLED);
}
