//! Waits that look for a while before they sleep ([`DriverConfig::spin`]): sentences 8 and 9 hold for them, too.

use std::time::Duration;

use anyport_driver::{Driver, DriverConfig};

use crate::{
    bed::{Bed, CONFIG, Seen, World, pattern},
    wake::four_threads_wake,
};

const LOOKS: DriverConfig = DriverConfig { spin: DriverConfig::SPIN_MAX, ..CONFIG };

pub(crate) fn s08_a_wait_that_looks_first_takes_its_time_and_no_longer<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, LOOKS);
    let waker = bed.driver().waker();
    // Shorter than it may look, and longer.
    for time in [50, 999, 20_000].map(Duration::from_micros) {
        // Something has happened, or it would not look.
        waker.wake();
        bed.wait(None);
        let start = bed.driver().now();
        bed.wait(Some(time));
        assert!(bed.driver().now() - start >= time, "it returned too soon");
    }
    assert!(bed.log.is_empty());
}

pub(crate) fn s08_messages_one_at_a_time_arrive_while_it_looks<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, LOOKS);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    for round in 1..=100_usize {
        client.feed(&[round as u8; 10]);
        bed.until("a message", |bed| {
            client.pump();
            bed.received(receive).len() == round * 10
        });
        let send = bed.send(socket, &[round as u8; 7]);
        bed.until("the answer", |_| {
            client.pump();
            client.received.len() == round * 7
        });
        assert_eq!(bed.end(send), Seen::sent(7));
    }
}

pub(crate) fn s08_megabytes_both_ways_arrive_exact_while_it_looks<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, LOOKS);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let (there, back) = (pattern(seed, 2 << 20), pattern(seed + 1, 2 << 20));
    client.feed(&there);
    let send = bed.send(socket, &back);
    bed.until("all bytes both ways", |bed| {
        client.pump();
        bed.received(receive).len() == there.len() && client.received.len() == back.len()
    });
    assert!(bed.received(receive) == there && client.received == back);
    assert_eq!(bed.end(send), Seen::sent(back.len()));
}

pub(crate) fn s09_no_wake_is_lost_while_it_looks<W: World>(seed: u64) {
    four_threads_wake(Bed::<W>::with(seed, LOOKS));
}
