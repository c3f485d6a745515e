//! Sends that nobody waits for ([`SendBatch::is_lazy`]): sentence 8. What else is promised of sends holds for them, too.

use std::time::Duration;

use anyport_core::ChunkPool;
use anyport_driver::{FaultKind, Op, OpKind, SendBatch, SocketKey};

use crate::bed::{Bed, CLOSED, Seen, World, pattern};

/// Submits a lazy send of bytes in one piece.
fn send_lazily<W: World>(bed: &mut Bed<W>, socket: SocketKey, bytes: &[u8]) -> u64 {
    let mut batch = SendBatch::of(bytes);
    batch.set_lazy(true);
    bed.submit(Op::Send { socket, batch })
}

pub(crate) fn s08_a_lazy_send_is_told_by_the_end_of_the_next_wait<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    for round in 1..=100_usize {
        let send = send_lazily(&mut bed, socket, &[round as u8; 7]);
        bed.until("what was sent", |_| {
            client.pump();
            client.received.len() == round * 7
        });
        // Nothing but this ends a wait.
        client.feed(&[round as u8; 10]);
        bed.until("a message", |bed| {
            client.pump();
            bed.received(receive).len() == round * 10
        });
        // The system may take it after the message came.
        assert_eq!(bed.end(send), Seen::sent(7));
    }
    assert_eq!(bed.received(receive).len(), 1_000);
}

pub(crate) fn s08_a_time_out_tells_of_lazy_sends<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let pairs = bed.pairs(50);
    let sends: Vec<_> =
        pairs.iter().map(|(socket, _)| send_lazily(&mut bed, *socket, b"none waits")).collect();
    bed.until("all of them", |bed| sends.iter().all(|send| bed.end_of(*send) == Some(Seen::sent(10))));
}

pub(crate) fn s08_a_lazy_send_that_finds_no_room_goes_on_and_ends_a_wait<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, 8 << 20);
    let send = send_lazily(&mut bed, socket, &bytes);
    // The peer does not read yet: it cannot have ended, however often one looks.
    for _ in 0..3 {
        bed.wait(Some(Duration::ZERO));
    }
    assert_eq!(bed.end_of(send), None);
    bed.until("all bytes", |_| client.has_received(&bytes));
    assert_eq!(bed.end(send), Seen::sent(bytes.len()));
}

pub(crate) fn s08_a_lazy_send_of_many_pieces_arrives_in_order<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, 900_000);
    let mut batch = SendBatch::of(b"");
    for piece in bytes.chunks(3_000) {
        batch.append_shared(piece.into(), &mut ChunkPool::new());
    }
    batch.set_lazy(true);
    let send = bed.submit(Op::Send { socket, batch });
    bed.until("all pieces", |_| client.has_received(&bytes));
    assert_eq!(bed.end(send), Seen::sent(bytes.len()));
}

pub(crate) fn s08_a_lazy_send_to_who_has_gone_fails_at_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    let receive = bed.receive(socket);
    client.reset();
    bed.end(receive);
    let send = send_lazily(&mut bed, socket, b"into the void");
    assert!(matches!(bed.end(send), Seen::Sent { result: Err(_), .. }), "it was sent to nobody");
}

pub(crate) fn s10_a_close_joins_a_lazy_send<W: World>(seed: u64) {
    for size in [100, 8 << 20] {
        let mut bed = Bed::<W>::new(seed);
        let (socket, _client) = bed.pair();
        let send = send_lazily(&mut bed, socket, &pattern(seed, size));
        let close = bed.close(socket);
        assert_eq!(bed.end(close), CLOSED);
        assert!(bed.place_of_end(send) < bed.place_of_end(close), "the close came first");
    }
}

pub(crate) fn s06_a_lazy_send_can_be_cancelled<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, _client) = bed.pair();
    let send = send_lazily(&mut bed, socket, &pattern(seed, 8 << 20));
    bed.wait(Some(Duration::ZERO));
    bed.cancel(socket, OpKind::Send);
    let Seen::Sent { result: Err(kind), .. } = bed.end(send) else { panic!("nobody has read it") };
    assert_eq!(kind, FaultKind::Cancelled);
}

pub(crate) fn s01_a_driver_can_be_dropped_with_lazy_sends<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let pairs = bed.pairs(20);
    for (socket, _) in &pairs[..10] {
        send_lazily(&mut bed, *socket, &pattern(seed, 1 << 20));
    }
    bed.wait(Some(Duration::ZERO));
    // These the system has not heard of.
    for (socket, _) in &pairs[10..] {
        send_lazily(&mut bed, *socket, b"never sent, or sent");
    }
    bed.drop_driver();
}
