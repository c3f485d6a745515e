//! Tokens: sentence 2. The bed checks them in every case; here are the odd ones.

use anyport_driver::{Op, SendBatch};

use crate::bed::{Bed, CANCELLED, CLOSED, Seen, V4, World};

pub(crate) fn s02_any_token_comes_back<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let odd = [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 32, u64::from(u32::MAX), 0];
    for token in odd {
        let (socket, mut client) = bed.pair();
        bed.submit_as(token, Op::Send { socket, batch: SendBatch::of(b"token") });
        bed.until("the bytes at the peer", |_| client.has_received(b"token"));
        assert_eq!(bed.end(token), Seen::sent(5));
    }
}

pub(crate) fn s02_every_kind_of_operation_carries_its_token<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let listener = bed.world.listen(V4);
    let address = crate::bed::PeerListener::local_address(&listener);
    let base = u64::MAX - 100;
    let socket = bed.open(address, &anyport_driver::SocketOptions::default()).unwrap();
    bed.submit_as(base, Op::Connect { socket });
    assert_eq!(bed.end(base), Seen::Connected(Ok(())));
    bed.submit_as(base + 1, Op::Receive { socket });
    bed.submit_as(base + 2, Op::Send { socket, batch: SendBatch::of(b"x") });
    assert_eq!(bed.end(base + 2), Seen::sent(1));
    bed.submit_as(base + 3, Op::Shutdown { socket });
    assert_eq!(bed.end(base + 3), Seen::ShutDown(Ok(())));
    bed.submit_as(base + 4, Op::Close { socket });
    assert_eq!((bed.end(base + 4), bed.end(base + 1)), (CLOSED, CANCELLED));
}

pub(crate) fn s02_operations_of_one_turn_may_share_a_meaning_but_not_a_mix_up<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut pairs = bed.pairs(50);
    let mut sends = Vec::new();
    for (at, (socket, _)) in pairs.iter().enumerate() {
        bed.receive(*socket);
        sends.push(bed.send(*socket, &vec![at as u8; at + 1]));
    }
    for (at, send) in sends.into_iter().enumerate() {
        assert_eq!(bed.end(send), Seen::sent(at + 1));
        let client = &mut pairs[at].1;
        bed.until("its own bytes", |_| client.has_received(&vec![at as u8; at + 1]));
    }
}
