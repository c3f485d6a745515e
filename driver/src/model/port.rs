//! L8: the completion port loses no packet, no wake-up and no thread, and close lets everybody go.
//!
//! The portable port is the real one, with its lock and its parked threads. A mistake is planted by leaving out what the
//! port does after it has decided.

use std::{sync::Arc, time::Duration};

use loom::thread::{self, JoinHandle};

use super::{explore, must_fail};
use crate::completion_port::{PortError, portable::Portable};

type Port = Arc<Portable<u32>>;

/// What is done wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// A packet is handed over, and nobody is woken for it.
    PostWakesNobody,
    /// A port is closed, and nobody is woken.
    CloseWakesNobody,
    /// Who gives up does not look whether it was handed something meanwhile.
    GivesUpBlindly,
    /// Who blocks does not say so, and is not found.
    BlocksInSecret,
    /// Who ends keeps its place.
    DiesInSecret,
}

fn port(queue_max: usize) -> Port {
    Arc::new(Portable::new(1, queue_max))
}

fn post(port: &Port, packet: u32, bug: Bug) {
    if bug == Bug::PostWakesNobody {
        let _ = port.lock().post(packet).expect("there is room");
    } else {
        port.try_post(packet, false).expect("there is room");
    }
}

fn close(port: &Port, bug: Bug) {
    if bug == Bug::CloseWakesNobody {
        let _ = port.lock().close();
    } else {
        port.close();
    }
}

fn start<R: 'static>(port: &Port, body: impl FnOnce(&Port) -> R + 'static) -> JoinHandle<R> {
    let port = Arc::clone(port);
    thread::spawn(move || body(&port))
}

/// Takes packets until the port is closed, blocks in each of them, and gives their sum.
fn take_all(port: &Port) -> u32 {
    let place = port.sit();
    let mut sum = 0;
    while let Ok(packet) = port.wait(place, None) {
        port.begin_block(place);
        sum += packet;
        port.end_block(place);
    }
    port.leave(place);
    sum
}

fn assert_idle(port: &Port) {
    let counters = port.counters();
    let busy = (counters.queued, counters.waiting, counters.running, counters.blocked);
    assert_eq!(busy, (0, 0, 0, 0), "{counters:?}");
}

/// Two that take, of which one may run; two packets, then the end.
fn packets_and_the_end(bug: Bug) {
    let port = port(4);
    let takers = [start(&port, take_all), start(&port, take_all)];
    post(&port, 1, bug);
    post(&port, 2, bug);
    close(&port, bug);
    assert_eq!(takers.map(|taker| taker.join().unwrap()).iter().sum::<u32>(), 3, "a packet was lost");
    assert_idle(&port);
}

/// One has a packet, and goes on only when another one has done the second.
fn who_blocks_is_replaced(bug: Bug) {
    let port = port(4);
    let first = port.sit();
    post(&port, 1, bug);
    assert_eq!(port.wait(first, None), Ok(1));
    let other = start(&port, |port| {
        let place = port.sit();
        assert_eq!(port.wait(place, None), Ok(2));
        port.leave(place);
    });
    post(&port, 2, bug);
    if bug != Bug::BlocksInSecret {
        port.begin_block(first);
    }
    other.join().unwrap();
    port.end_block(first);
    port.leave(first);
    assert_idle(&port);
}

/// One gives up at any moment, also while it is handed the packet: it has it, or the next one gets it.
fn giving_up_loses_nothing(bug: Bug) {
    let port = port(4);
    let impatient = start(&port, move |port| {
        let place = port.sit();
        let taken = if bug == Bug::GivesUpBlindly {
            let (entered, _) = port.lock().wait(place, true);
            thread::yield_now();
            port.lock().give_up(place);
            matches!(entered, crate::completion_port::schedule::Entered::Packet(_))
        } else {
            // Every clock has moved on by so much when it is looked at again.
            port.wait(place, Some(Duration::from_nanos(1))).is_ok()
        };
        port.leave(place);
        u32::from(taken)
    });
    post(&port, 1, bug);
    close(&port, bug);
    let place = port.sit();
    let rest = u32::from(port.wait(place, None).is_ok());
    port.leave(place);
    assert_eq!(impatient.join().unwrap() + rest, 1, "a packet was lost, or came twice");
    assert_idle(&port);
}

/// One ends with a packet, and another one waits for its place.
fn the_dead_give_up_their_place(bug: Bug) {
    let port = port(4);
    let first = port.sit();
    post(&port, 1, bug);
    assert_eq!(port.wait(first, None), Ok(1));
    let heir = start(&port, |port| {
        let place = port.sit();
        assert_eq!(port.wait(place, None), Ok(2));
        port.leave(place);
    });
    post(&port, 2, bug);
    if bug != Bug::DiesInSecret {
        port.leave(first);
    }
    heir.join().unwrap();
    assert_idle(&port);
}

/// One posts more than there is room for, another one takes it.
fn posters_wait_for_room() {
    let port = port(1);
    let poster = start(&port, |port| {
        for number in 1..=2 {
            let mut packet = number;
            while let Err(PortError::Full(full)) = port.try_post(packet, true) {
                packet = full;
                port.wait_for_room();
            }
        }
    });
    let place = port.sit();
    assert_eq!([port.wait(place, None), port.wait(place, None)], [Ok(1), Ok(2)]);
    port.leave(place);
    poster.join().unwrap();
    assert_idle(&port);
}

#[test]
fn l8_no_packet_and_no_wake_up_is_lost() {
    explore("L8 packets and the end", || packets_and_the_end(Bug::None));
    explore("L8 who blocks is replaced", || who_blocks_is_replaced(Bug::None));
    explore("L8 giving up loses nothing", || giving_up_loses_nothing(Bug::None));
    explore("L8 the dead give up their place", || the_dead_give_up_their_place(Bug::None));
    explore("L8 posters wait for room", posters_wait_for_room);
}

#[test]
fn l8_finds_what_loses_something() {
    for (name, expected, bug, model) in [
        (
            "L8 planted: a post that wakes nobody",
            "deadlock",
            Bug::PostWakesNobody,
            packets_and_the_end as fn(Bug),
        ),
        ("L8 planted: a close that wakes nobody", "deadlock", Bug::CloseWakesNobody, packets_and_the_end),
        ("L8 planted: a block that nobody hears of", "deadlock", Bug::BlocksInSecret, who_blocks_is_replaced),
        (
            "L8 planted: giving up without a look",
            "a packet was lost",
            Bug::GivesUpBlindly,
            giving_up_loses_nothing,
        ),
        (
            "L8 planted: a death that nobody hears of",
            "deadlock",
            Bug::DiesInSecret,
            the_dead_give_up_their_place,
        ),
    ] {
        must_fail(name, expected, move || model(bug));
    }
}
