//! L4: an engine that is told to end ends, whoever says so and when, and no order is taken back. L7: the same while it
//! starts.

use anyport_driver::{
    Driver,
    model::{
        driver::{Connections, ModelDriver, Notice},
        explore,
        loom::thread,
        must_fail, spawn, weaken_each,
    },
};

use super::{Plan, World, mailbox::a_job_and_then, turn_until_the_end};
use crate::stop::{Phase, Stop};

/// Two threads that end a shard with a session, one in order and one at once.
fn drain_and_abort() {
    let mut world = World::new(1);
    let shard = spawn(world.shard(0, Plan { peers: (1, 0), ..Plan::default() }));
    let stop = world.stop.clone();
    let drain = thread::spawn(move || {
        stop.drain();
        assert!(stop.phase() >= Phase::Drain);
    });
    world.stop.abort();
    assert_eq!(world.stop.phase(), Phase::Abort);
    drain.join().unwrap();
    assert_eq!(world.stop.phase(), Phase::Abort, "an order was taken back");
    shard.join().unwrap();
    world.assert_all_over();
}

/// Two signals at once: the second aborts.
fn two_signals(signal: fn(&Stop)) {
    let mut world = World::new(1);
    let shard = spawn(world.shard(0, Plan::default()));
    let stop = world.stop.clone();
    let other = thread::spawn(move || signal(&stop));
    signal(&world.stop);
    other.join().unwrap();
    assert_eq!(world.stop.phase(), Phase::Abort, "a signal was taken for the first");
    shard.join().unwrap();
}

/// As `Stop::signal` was once.
fn signal_in_two_steps(stop: &Stop) {
    if stop.phase() == Phase::Run { stop.drain() } else { stop.abort() }
}

/// An order that meets a shard anywhere between its birth and its first sleep.
fn stop_during_start(end: fn(&Stop)) {
    let mut world = World::new(1);
    let stop = world.stop.clone();
    let other = thread::spawn(move || end(&stop));
    let shard = spawn(world.shard(0, Plan { peers: (1, 0), ..Plan::default() }));
    other.join().unwrap();
    shard.join().unwrap();
    world.assert_all_over();
}

/// The second shard does not start, and the engine gives up while someone drains it: the first one ends.
fn a_shard_that_does_not_start() {
    let mut world = World::new(2);
    let first = world.build(0, Plan::default());
    let stop = world.stop.clone();
    let drain = thread::spawn(move || stop.drain());
    let first = spawn(move || turn_until_the_end(first()));
    let failed = world.mailboxes[1].take();
    drop(failed);
    world.stop.abort();
    first.join().unwrap();
    drain.join().unwrap();
    assert!(world.remote().post_to_shard(1, |_, _| {}).is_err(), "nobody is there to run it");
}

/// What a shard does with its stop, and nothing else: it asks to be woken, looks at the order, and sleeps.
fn a_shard_that_registers(looks_first: bool) {
    let world = World::new(1);
    let stop = world.stop.clone();
    let shard = spawn(move || {
        let mut driver = ModelDriver::new(Notice::Always, &Connections::default(), 0, 0);
        let seen = looks_first.then(|| stop.phase());
        stop.register(driver.waker());
        let mut phase = seen.unwrap_or_else(|| stop.phase());
        while phase == Phase::Run {
            driver.wait(None, &mut Vec::new()).expect("a model's driver does not fail");
            phase = stop.phase();
        }
    });
    world.stop.drain();
    shard.join().unwrap();
}

#[test]
fn l4_an_engine_that_is_told_to_end_ends() {
    explore("L4 drain and abort", drain_and_abort);
    explore("L4 two signals", || two_signals(Stop::signal));
    explore("L4 a job before a signal runs", || a_job_and_then(Stop::signal));
    must_fail("L4 planted: a signal in two steps", "taken for the first", || {
        two_signals(signal_in_two_steps);
    });
}

#[test]
fn l4_needs_every_ordering_of_the_stop() {
    weaken_each(
        "src/stop.rs",
        &[
            ("L4 a job before a signal runs", || a_job_and_then(Stop::signal)),
            ("L1 a job before the end runs", || a_job_and_then(Stop::drain)),
        ],
    );
}

#[test]
fn l7_an_order_during_the_start_is_obeyed() {
    explore("L7 drain during start", || stop_during_start(Stop::drain));
    explore("L7 abort during start", || stop_during_start(Stop::abort));
    explore("L7 a shard that does not start", a_shard_that_does_not_start);
    explore("L7 a shard that registers", || a_shard_that_registers(false));
    must_fail("L7 planted: looks, then registers", "deadlock", || a_shard_that_registers(true));
}
