//! Sending: sentence 5.

use std::sync::Arc;

use anyport_core::ChunkPool;
use anyport_driver::{Driver, FaultKind, Op, OpKind, SendBatch};

use crate::bed::{Bed, CLOSED, Chance, Client, End, Peer, Seen, World, pattern};

/// How many bytes of `bytes` a peer gets that reads to the end.
fn read_to_end<W: World>(bed: &mut Bed<W>, client: &mut Client<W>, bytes: &[u8]) -> usize {
    bed.until("the end at the peer", |_| client.has_ended());
    assert!(bytes.starts_with(&client.received), "other bytes than were sent");
    client.received.len()
}

pub(crate) fn s05_one_piece_arrives<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    bed.send_to(socket, &mut client, b"one piece");
    let batch = bed.batches.pop().expect("the batch came back");
    assert_eq!((batch.len(), batch.remaining()), (9, 0));
}

pub(crate) fn s05_one_byte_arrives<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    for byte in 0..100 {
        bed.send_to(socket, &mut client, &[byte]);
    }
}

pub(crate) fn s05_an_empty_batch_completes<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let empty = bed.send(socket, b"");
    assert_eq!(bed.end(empty), Seen::sent(0));
    let fresh = bed.submit(Op::Send { socket, batch: ChunkPool::new().take() });
    assert_eq!(bed.end(fresh), Seen::sent(0));
    bed.send_to(socket, &mut client, b"full");
}

pub(crate) fn s05_three_hundred_pieces_arrive_in_order<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let mut chance = Chance::new(seed);
    let mut batch = SendBatch::of(b"");
    let mut bytes = Vec::new();
    for at in 0..300 {
        let piece = pattern(at, chance.of(1..3_000));
        bytes.extend_from_slice(&piece);
        batch.append_shared(piece.into(), &mut ChunkPool::new());
    }
    let send = bed.submit(Op::Send { socket, batch });
    bed.until("all pieces", |_| client.has_received(&bytes));
    assert_eq!(bed.end(send), Seen::sent(bytes.len()));
}

pub(crate) fn s05_thousands_of_tiny_pieces_arrive_in_order<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, 5_000);
    let mut batch = SendBatch::of(b"");
    for byte in &bytes {
        batch.append_shared([*byte].into(), &mut ChunkPool::new());
    }
    let send = bed.submit(Op::Send { socket, batch });
    bed.until("all pieces", |_| client.has_received(&bytes));
    assert_eq!(bed.end(send), Seen::sent(bytes.len()));
}

pub(crate) fn s05_pooled_and_shared_pieces_mix<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let mut pool = ChunkPool::new();
    for round in 0..10 {
        let mut batch = pool.take();
        let mut bytes = Vec::new();
        for (at, size) in [10, 2_000, 70_000, 5, 1, 9_000].into_iter().enumerate() {
            let piece = pattern(seed + round * 10 + at as u64, size);
            bytes.extend_from_slice(&piece);
            if at % 2 == 0 {
                batch.append(size, &mut pool, |out| out.extend_from_slice(&piece));
            } else {
                batch.append_shared(piece.into(), &mut ChunkPool::new());
            }
        }
        client.received.clear();
        let send = bed.submit(Op::Send { socket, batch });
        bed.until("all pieces", |_| client.has_received(&bytes));
        assert_eq!(bed.end(send), Seen::sent(bytes.len()));
        pool.give(bed.batches.pop().expect("the batch came back"));
    }
    assert_eq!(pool.batches_out(), 0);
}

pub(crate) fn s05_one_shared_piece_goes_to_many<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut pairs = bed.pairs(30);
    let shared: Arc<[u8]> = pattern(seed, 100_000).into();
    let sends: Vec<_> = pairs
        .iter()
        .map(|(socket, _)| {
            let mut batch = SendBatch::of(b"");
            batch.append_shared(shared.clone(), &mut ChunkPool::new());
            bed.submit(Op::Send { socket: *socket, batch })
        })
        .collect();
    for (_, client) in &mut pairs {
        bed.until("the shared piece", |_| client.has_received(&shared));
    }
    for send in sends {
        assert_eq!(bed.end(send), Seen::sent(shared.len()));
    }
    bed.batches.clear();
    assert_eq!(Arc::strong_count(&shared), 1, "nobody holds the piece any more");
}

pub(crate) fn s05_64_mebibytes_reach_a_slow_reader_exact<W: World>(seed: u64) {
    // The size that the sentence is about once; enough to fill every buffer for the other seeds.
    let size = if seed == 0 { 64 << 20 } else { 4 << 20 };
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, size);
    let send = bed.send(socket, &bytes);
    let mut chance = Chance::new(seed);
    bed.until("all bytes", |_| {
        let most = chance.of(0..1 << 20);
        client.pull_at_most(most);
        client.received.len() == bytes.len()
    });
    assert!(client.received == bytes, "other bytes than were sent");
    assert_eq!(bed.end(send), Seen::sent(size));
}

pub(crate) fn s05_a_send_does_not_end_before_all_was_taken<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, W::HUGE);
    let send = bed.send(socket, &bytes);
    bed.settle();
    assert_eq!(bed.end_of(send), None, "nobody has read yet");
    bed.until("all bytes", |_| {
        client.pull();
        client.received.len() == bytes.len()
    });
    assert!(client.received == bytes);
    assert_eq!(bed.end(send), Seen::sent(bytes.len()));
}

pub(crate) fn s05_sends_one_after_the_other_keep_their_order<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, 1 << 20);
    let mut chance = Chance::new(seed);
    let mut at = 0;
    let mut send = None;
    bed.until("all bytes", |bed| {
        client.pull();
        if at < bytes.len() && send.is_none_or(|token| bed.end_of(token).is_some()) {
            let next = (at + chance.of(1..50_000)).min(bytes.len());
            send = Some(bed.send(socket, &bytes[at..next]));
            at = next;
        }
        client.received.len() == bytes.len()
    });
    assert!(client.received == bytes);
}

pub(crate) fn s05_a_hundred_sockets_send_at_once<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut pairs = bed.pairs(100);
    let all: Vec<_> = (0..100).map(|at| pattern(seed + at, 30_000)).collect();
    let sends: Vec<_> = pairs.iter().zip(&all).map(|((socket, _), bytes)| bed.send(*socket, bytes)).collect();
    for ((_, client), bytes) in pairs.iter_mut().zip(&all) {
        bed.until("its bytes", |_| client.has_received(bytes));
    }
    for send in sends {
        assert_eq!(bed.end(send), Seen::sent(30_000));
    }
}

pub(crate) fn s05_a_cancelled_send_tells_exactly_how_much_the_peer_gets<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let bytes = pattern(seed, W::HUGE);
    for (socket, mut client) in bed.pairs(3) {
        let send = bed.send(socket, &bytes);
        bed.settle();
        bed.cancel(socket, OpKind::Send);
        let Seen::Sent { sent, result: Err(FaultKind::Cancelled), .. } = bed.end(send) else {
            bed.fail("the send was not cancelled")
        };
        assert!(sent > 0 && sent < bytes.len());
        let shutdown = bed.shutdown(socket);
        assert_eq!(bed.end(shutdown), Seen::ShutDown(Ok(())));
        assert_eq!(read_to_end(&mut bed, &mut client, &bytes), sent);
        assert_eq!(client.end, Some(End::EndOfStream));
    }
}

pub(crate) fn s05_the_rest_of_a_cancelled_send_can_be_sent<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, W::HUGE);
    let send = bed.send(socket, &bytes);
    bed.settle();
    bed.cancel(socket, OpKind::Send);
    assert!(matches!(bed.end(send), Seen::Sent { result: Err(FaultKind::Cancelled), .. }));
    let batch = bed.batches.pop().expect("the batch came back");
    let send = bed.submit(Op::Send { socket, batch });
    bed.until("all bytes", |_| {
        client.pull();
        client.received.len() == bytes.len()
    });
    assert!(client.received == bytes);
    assert_eq!(bed.end(send), Seen::sent(bytes.len()));
}

pub(crate) fn s05_sends_to_a_peer_that_closed_end_as_reset<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    client.close();
    // The first may still be taken by our system; the peer's answer fails a later one.
    let mut last = None;
    bed.until("a failed send", |bed| match last.map(|token| bed.end_of(token)) {
        Some(None) => false,
        Some(Some(Seen::Sent { result: Err(fault), .. })) => {
            assert_eq!(fault, FaultKind::PeerReset);
            true
        }
        _ => {
            last = Some(bed.send(socket, b"anyone?"));
            false
        }
    });
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
}

pub(crate) fn s05_a_reset_fails_the_send_and_the_batch_comes_back<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    let send = bed.send(socket, &pattern(seed, W::HUGE));
    bed.settle();
    client.reset();
    let Seen::Sent { of, sent, result } = bed.end(send) else { unreachable!("checked by the bed") };
    assert_eq!((of, result), (W::HUGE, Err(FaultKind::PeerReset)));
    assert!(sent < of);
    assert_eq!(bed.batches.len(), 1);
}

pub(crate) fn s05_a_reset_in_the_middle_of_reading_fails_the_send<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, W::HUGE);
    let send = bed.send(socket, &bytes);
    bed.until("some bytes", |_| {
        client.pull_at_most(100_000);
        client.received.len() > 500_000
    });
    assert!(bytes.starts_with(&client.received));
    let read = client.received.len();
    client.reset();
    let Seen::Sent { sent, result: Err(FaultKind::PeerReset), .. } = bed.end(send) else {
        bed.fail("a send to nobody went on")
    };
    assert!(sent >= read, "the peer read {read} bytes of {sent} that were sent");
}

pub(crate) fn s05_a_send_after_a_reset_fails<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, client) = bed.pair();
    client.reset();
    bed.settle();
    let send = bed.send(socket, b"too late");
    assert_eq!(bed.end(send), Seen::Sent { of: 8, sent: 0, result: Err(FaultKind::PeerReset) });
}

pub(crate) fn s05_a_half_closed_peer_takes_a_large_send<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    client.peer.shutdown_write();
    bed.send_to(socket, &mut client, &pattern(seed, 3 << 20));
}

pub(crate) fn s11_a_second_send_is_refused_and_the_first_goes_on<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let (socket, mut client) = bed.pair();
    let bytes = pattern(seed, W::HUGE);
    let first = bed.send(socket, &bytes);
    let second = bed.send(socket, b"me too");
    let invalid = FaultKind::InvalidSocket;
    assert_eq!(bed.end(second), Seen::Sent { of: 6, sent: 0, result: Err(invalid) });
    assert_eq!(bed.batches.pop().expect("its batch came back").single(), Some(&b"me too"[..]));
    bed.until("all bytes of the first", |_| {
        client.pull();
        client.received.len() >= bytes.len()
    });
    assert!(client.received == bytes);
    assert_eq!(bed.end(first), Seen::sent(bytes.len()));
    assert_eq!(bed.driver().sockets(), 2);
}
