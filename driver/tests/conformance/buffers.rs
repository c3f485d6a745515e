//! Receive buffers: sentence 4. A receive holds none while no data is there; running out of them is no end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use anyport_driver::{Driver, DriverConfig, OpKind, SocketKey};

use crate::bed::{Bed, CANCELLED, CLOSED, CONFIG, Client, Peer, Seen, TWO_BUFFERS, World, pattern};

/// What only a receive that is forgotten takes.
const LONG: Duration = Duration::from_secs(20);

/// Holds every buffer of the driver: data of one socket, whose receive is then cancelled. Returns that socket.
fn run_dry<W: World>(bed: &mut Bed<W>) -> (SocketKey, Client<W>) {
    bed.holds = true;
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    client.feed(&pattern(bed.seed, 4 * bed.config.receive_memory_bytes));
    let mut quiet = 0;
    let mut held = 0;
    bed.until("no free buffer", |bed| {
        client.push();
        quiet = if bed.leases.len() > held { 0 } else { quiet + 1 };
        held = bed.leases.len();
        quiet > 25
    });
    assert!(held > 0);
    let bytes: usize = bed.leases.iter().map(|(_, lease)| lease.len()).sum();
    assert!(bytes <= bed.config.receive_memory_bytes, "{bytes} bytes leased, more than the memory for it");
    assert_eq!(bed.driver().leases_out(), held);
    bed.cancel(socket, OpKind::Receive);
    assert_eq!(bed.end(receive), CANCELLED);
    (socket, client)
}

pub(crate) fn s04_idle_receives_hold_no_buffer<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let idle = bed.pairs(50);
    for (socket, _) in &idle {
        bed.receive(*socket);
    }
    bed.settle();
    assert_eq!(bed.driver().leases_out(), 0);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    bed.receive_from(receive, &mut client, &pattern(seed, 100_000));
    assert_eq!(bed.driver().leases_out(), 0);
}

pub(crate) fn s04_two_buffers_serve_a_hundred_sockets<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let mut pairs = bed.pairs(100);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    for (at, (_, client)) in pairs.iter_mut().enumerate() {
        client.feed(&pattern(at as u64, 10_000));
    }
    bed.until("everything from everyone", |bed| {
        for (_, client) in &mut pairs {
            client.pump();
        }
        receives.iter().all(|token| bed.received(*token).len() == 10_000)
    });
    for (at, (_, client)) in pairs.iter_mut().enumerate() {
        assert_eq!(bed.received(receives[at]), pattern(at as u64, 10_000));
        client.peer.shutdown_write();
    }
    for receive in receives {
        assert_eq!(bed.end(receive), Seen::EndOfStream);
    }
}

pub(crate) fn s04_buffers_held_over_several_waits_serve_a_hundred_sockets<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    bed.holds = true;
    let mut pairs = bed.pairs(100);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    for (at, (_, client)) in pairs.iter_mut().enumerate() {
        client.feed(&pattern(at as u64, 1_000));
        client.peer.shutdown_write();
    }
    bed.until("the end of every stream", |bed| {
        bed.step();
        bed.recycle_all();
        receives.iter().all(|token| bed.end_of(*token) == Some(Seen::EndOfStream))
    });
    for (at, receive) in receives.iter().enumerate() {
        assert_eq!(bed.received(*receive), pattern(at as u64, 1_000));
    }
    assert_eq!(bed.driver().leases_out(), 0);
}

pub(crate) fn s04_the_end_of_a_stream_is_seen_after_running_dry<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let _hog = run_dry(&mut bed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    client.feed(b"and then the end");
    bed.settle();
    client.peer.shutdown_write();
    bed.settle();
    assert_eq!(bed.end_of(receive), None);
    assert!(bed.received(receive).is_empty());
    bed.holds = false;
    bed.recycle_all();
    assert_eq!(bed.end(receive), Seen::EndOfStream);
    assert_eq!(bed.received(receive), b"and then the end");
}

pub(crate) fn s04_a_reset_is_seen_after_running_dry<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let _hog = run_dry(&mut bed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    client.feed(b"gone");
    bed.settle();
    client.reset();
    bed.settle();
    bed.holds = false;
    bed.recycle_all();
    assert_eq!(bed.end(receive), crate::bed::RESET);
}

pub(crate) fn s04_sockets_go_on_in_the_order_in_which_they_ran_dry<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    // Armed while there are buffers: a system may call a receive dry that is armed when there are none.
    let mut pairs = bed.pairs(10);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    bed.settle();
    let _hog = run_dry(&mut bed);
    // Not in the order of the sockets, and one after the other.
    let order = [3, 1, 4, 9, 2, 6, 5, 8, 7, 0];
    for at in order {
        pairs[at].1.feed(b"x");
        bed.settle();
    }
    let before = bed.log.len();
    while let Some((_, lease)) = bed.leases.pop() {
        bed.driver().recycle(lease);
        bed.settle();
    }
    bed.holds = false;
    bed.until("a byte from each", |bed| receives.iter().all(|token| bed.received(*token) == b"x"));
    let came: Vec<_> = bed.log[before..].iter().map(|(token, _)| *token).collect();
    assert_eq!(came, order.map(|at| receives[at]));
}

pub(crate) fn s04_one_flooding_peer_does_not_starve_the_others<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let (socket, mut hog) = bed.pair();
    bed.receive(socket);
    let flood = pattern(seed, 1 << 20);
    let mut pairs = bed.pairs(10);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    for round in 1..=20 {
        for (_, client) in &mut pairs {
            client.feed(&[round]);
        }
        bed.until("a byte from each of the others", |bed| {
            if hog.push() {
                hog.feed(&flood);
            }
            receives.iter().all(|token| bed.received(*token).len() == round as usize)
        });
    }
}

pub(crate) fn s04_leases_keep_their_bytes_until_given_back_in_any_order<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    bed.holds = true;
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 50_000);
    for piece in bytes.chunks(5_000) {
        bed.receive_from(receive, &mut client, piece);
    }
    let (other, mut other_client) = bed.pair();
    let noise = bed.receive(other);
    bed.receive_from(noise, &mut other_client, &vec![0xff; 50_000]);
    let mut seen = Vec::new();
    let leases = std::mem::take(&mut bed.leases);
    assert_eq!(bed.driver().leases_out(), leases.len());
    for (_, lease) in leases.iter().filter(|(token, _)| *token == receive) {
        seen.extend_from_slice(bed.driver().bytes(lease));
    }
    assert_eq!(seen, bytes);
    // Every other one from the front, then the rest from the back.
    let (even, odd): (Vec<_>, Vec<_>) = leases.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    for (_, (_, lease)) in even.into_iter().chain(odd.into_iter().rev()) {
        bed.driver().recycle(lease);
    }
    assert_eq!(bed.driver().leases_out(), 0);
    bed.holds = false;
    bed.receive_from(receive, &mut client, &bytes);
}

pub(crate) fn s04_a_lease_outlives_its_socket<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    bed.holds = true;
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    bed.receive_from(receive, &mut client, b"kept");
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    let others = bed.pairs(3);
    for (socket, mut client) in others {
        let receive = bed.receive(socket);
        bed.receive_from(receive, &mut client, b"else");
    }
    let kept: Vec<_> = std::mem::take(&mut bed.leases);
    let bytes: Vec<u8> = kept
        .iter()
        .filter(|(token, _)| *token == receive)
        .flat_map(|(_, lease)| bed.driver().bytes(lease).to_vec())
        .collect();
    assert_eq!(bytes, b"kept");
    for (_, lease) in kept {
        bed.driver().recycle(lease);
    }
    assert_eq!(bed.driver().leases_out(), 0);
}

pub(crate) fn s04_large_buffers_carry_large_pieces<W: World>(seed: u64) {
    let config = DriverConfig { receive_memory_bytes: 4 << 20, receive_buffer_bytes: 256 << 10, ..CONFIG };
    let mut bed = Bed::<W>::with(seed, config);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 4 << 20);
    bed.receive_from(receive, &mut client, &bytes);
}

pub(crate) fn s04_huge_pages_or_none_carry_every_byte<W: World>(seed: u64) {
    let config = DriverConfig { huge_pages: true, receive_memory_bytes: 4 << 20, ..CONFIG };
    let mut bed = Bed::<W>::with(seed, config);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 4 << 20);
    bed.receive_from(receive, &mut client, &bytes);
}

pub(crate) fn s04_small_buffers_carry_small_pieces<W: World>(seed: u64) {
    let config = DriverConfig { receive_memory_bytes: 8 << 10, receive_buffer_bytes: 256, ..CONFIG };
    let mut bed = Bed::<W>::with(seed, config);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    let bytes = pattern(seed, 64 << 10);
    bed.receive_from(receive, &mut client, &bytes);
    assert!(bed.count(receive, |_| true) >= 256);
}

pub(crate) fn s06_a_receive_that_ran_dry_can_be_cancelled<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let _hog = run_dry(&mut bed);
    let (socket, mut client) = bed.pair();
    let receive = bed.receive(socket);
    client.feed(b"later");
    bed.settle();
    bed.cancel(socket, OpKind::Receive);
    assert_eq!(bed.end(receive), CANCELLED);
    bed.holds = false;
    bed.recycle_all();
    let receive = bed.receive(socket);
    bed.until("the bytes", |bed| bed.received(receive) == b"later");
}

pub(crate) fn s06_receives_that_ran_dry_and_were_cancelled_take_nobodys_turn<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let mut pairs = bed.pairs(10);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    bed.settle();
    let _hog = run_dry(&mut bed);
    for (_, client) in &mut pairs {
        client.feed(b"x");
        bed.settle();
    }
    let (last, given_up) = receives.split_last().expect("ten");
    for (at, receive) in given_up.iter().enumerate() {
        bed.cancel(pairs[at].0, OpKind::Receive);
        assert_eq!(bed.end(*receive), CANCELLED);
    }
    bed.holds = false;
    bed.recycle_all();
    // In one wait: short ones would find it after all.
    let start = bed.driver().now();
    while bed.received(*last).is_empty() {
        bed.wait(Some(LONG));
        assert!(bed.driver().now() - start < LONG, "it was forgotten");
    }
}

pub(crate) fn s04_quiet_sockets_that_found_no_buffer_keep_nobody_waiting<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let _hog = run_dry(&mut bed);
    let mut pairs = bed.pairs(20);
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| bed.receive(*socket)).collect();
    bed.settle();
    bed.holds = false;
    bed.recycle_all();
    // Only the last one has something to receive.
    pairs[19].1.feed(b"x");
    // In one wait: short ones would find it after all.
    let start = bed.driver().now();
    while bed.received(receives[19]).is_empty() {
        bed.wait(Some(LONG));
        assert!(bed.driver().now() - start < LONG, "it was forgotten");
    }
}

pub(crate) fn s10_a_socket_that_ran_dry_can_be_closed<W: World>(seed: u64) {
    let mut bed = Bed::<W>::with(seed, TWO_BUFFERS);
    let _hog = run_dry(&mut bed);
    let (socket, mut client) = bed.pair();
    let (next, mut next_client) = bed.pair();
    let (receive, behind) = (bed.receive(socket), bed.receive(next));
    client.feed(b"never read");
    bed.settle();
    next_client.feed(b"read");
    bed.settle();
    let close = bed.close(socket);
    assert_eq!(bed.end(close), CLOSED);
    assert_eq!(bed.end_of(receive), Some(CANCELLED));
    bed.holds = false;
    bed.recycle_all();
    bed.until("the bytes of the next in line", |bed| bed.received(behind) == b"read");
}

pub(crate) fn s04_a_lease_of_another_driver_is_refused<W: World>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let mut other = Bed::<W>::on(bed.world.clone(), seed, CONFIG);
    // Both have a lease out, so that the counts alone would not give it away.
    for bed in [&mut bed, &mut other] {
        bed.holds = true;
        let (socket, mut client) = bed.pair();
        let receive = bed.receive(socket);
        bed.receive_from(receive, &mut client, b"x");
    }
    let (_, lease) = bed.leases.pop().expect("a lease");
    let looked = catch_unwind(AssertUnwindSafe(|| other.driver().bytes(&lease).len()));
    assert!(looked.is_err(), "another driver showed the bytes of a lease");
    assert_eq!(bed.driver().bytes(&lease), b"x");
    let given = catch_unwind(AssertUnwindSafe(|| other.driver().recycle(lease)));
    assert!(given.is_err(), "another driver took a lease");
    assert_eq!((bed.driver().leases_out(), other.driver().leases_out()), (1, 1));
    other.recycle_all();
    assert_eq!(other.driver().leases_out(), 0);
}
