//! Defects of our own that the simulation found, each by its name. They stay found.

use std::time::Duration;

use anyport::{
    CloseReason, DriverConfig, Engine, Limits, Pressure, SendMarks,
    sim::{Behaviour, Held, SimEngine, SimNet, Step, each_seed},
};

use crate::bed::{Bed, SOON, TICK, Told};

/// `idle_timeout` was counted from the beginning of the tick in which bytes came, and was over up to 65 µs early.
#[test]
fn nobody_is_idle_early() {
    let limits = Limits { idle_timeout: Some(Duration::from_millis(20)), ..Limits::default() };
    each_seed(0..50, |seed| {
        let mut bed = Bed::with_limits(SimNet::new(seed), limits);
        let mut peer = bed.peer();
        // At any place of a tick.
        bed.engine.run_for(Duration::from_nanos(seed * 1_299_709 % 15_000_000));
        assert_eq!(bed.ask(&mut peer, "the last"), "the last\n");
        bed.engine.read_to_end(&mut peer, SOON);
        let heard = bed.diary.all(|(at, _, told)| matches!(told, Told::Frame(_)).then_some(*at));
        let closed = bed.diary.all(|(at, _, told)| matches!(told, Told::Close(..)).then_some(*at));
        assert_eq!(bed.diary.closes(), [CloseReason::IdleTimeout]);
        let idle = closed[0] - heard[0];
        // The close itself takes a few steps of the network.
        let most = Duration::from_millis(20) + 2 * TICK + Duration::from_millis(1);
        assert!(idle >= Duration::from_millis(20) && idle <= most, "closed after {idle:?}");
        bed.stop();
    });
}

/// Pressure that rose and was relieved in one turn was told as `High`, and nobody heard of its relief.
#[test]
fn pressure_that_is_told_is_relieved() {
    let send = SendMarks { high_water_bytes: 1_000, low_water_bytes: 900, queue_max_bytes: 1 << 20 };
    let limits = Limits { send, ..Limits::default() };
    let mut told_high = 0;
    each_seed(0..100, |seed| {
        let mut bed = Bed::with_limits(SimNet::new(seed), limits);
        let mut peer = bed.peer();
        for _ in 0..50 {
            peer.write(b"send 599\n");
            // What happens meanwhile is found together, in one turn.
            bed.net.advance(Duration::from_micros(bed.net.draw(300)));
            bed.engine.step();
            peer.read(&mut Vec::new());
        }
        let all = 50 * 600;
        let mut read = Vec::new();
        bed.engine.run_until(SOON, |engine| {
            peer.read(&mut read);
            engine.counters(0).bytes_sent == all
        });
        bed.engine.run_for(SOON);
        let told = bed.diary.all(|line| if let Told::Pressure(how) = line.2 { Some(how) } else { None });
        let pairs = [Pressure::High, Pressure::Relieved].into_iter().cycle();
        assert!(told.len().is_multiple_of(2) && told.iter().copied().eq(pairs.take(told.len())), "{told:?}");
        told_high += told.len() / 2;
        drop(peer);
        bed.stop();
    });
    assert!(told_high > 0 || std::env::var("ANYPORT_SEED").is_ok());
}

/// A peer that does not read, and a session with more to send than the network keeps.
fn loaded(seed: u64) -> (Bed, anyport::sim::SimPeer) {
    let small = Behaviour::default().with_socket_buffer_bytes(1_000..=1_000);
    let mut bed = Bed::new(SimNet::with_behaviour(seed, small));
    let mut peer = bed.peer();
    bed.engine.write(&mut peer, b"send 50000\n", SOON);
    bed.engine.run_for(SOON);
    assert_eq!(bed.engine.held().batches, 1);
    (bed, peer)
}

fn abort(bed: &mut Bed) {
    bed.engine.stopper().abort();
    assert!(bed.engine.run_until(SOON, SimEngine::is_finished));
    assert_eq!(bed.engine.held(), Held::default());
}

/// An abort of a running engine said `Drained` of sessions whose queues it dropped.
#[test]
fn an_abort_is_no_drain() {
    let (mut bed, _peer) = loaded(1);
    abort(&mut bed);
    assert_eq!(bed.diary.closes(), [CloseReason::Stopped]);
}

/// So did an abort in the middle of a drain.
#[test]
fn an_abort_cuts_a_drain_short_and_says_so() {
    let (mut bed, _peer) = loaded(2);
    bed.engine.stopper().drain();
    bed.engine.run_for(SOON);
    assert_eq!(bed.diary.closes(), []);
    abort(&mut bed);
    assert_eq!(bed.diary.closes(), [CloseReason::Stopped]);
    // Whoever has been sent everything, and only not ended its stream, was drained.
    let limits = Limits { linger: Duration::from_mins(1), ..Limits::default() };
    let mut bed = Bed::with_limits(SimNet::new(3), limits);
    let mut peer = bed.peer();
    bed.engine.write(&mut peer, b"send 10\n", SOON);
    bed.engine.stopper().drain();
    bed.engine.run_for(SOON);
    assert_eq!(bed.diary.closes(), []);
    abort(&mut bed);
    assert_eq!(bed.diary.closes(), [CloseReason::Drained]);
}

/// R40: what has arrived comes before what is due, in one turn.
#[test]
fn who_is_heard_in_the_turn_of_the_timer_is_not_idle() {
    let limits = Limits { idle_timeout: Some(Duration::from_secs(30)), ..Limits::default() };
    let mut heard = 0;
    each_seed(0..50, |seed| {
        let mut bed = Bed::with_limits(SimNet::new(seed), limits);
        let mut peer = bed.peer();
        bed.engine.run_for(Duration::from_millis(29_950));
        peer.write(b"I am here\n");
        // Too short for a stall.
        bed.net.advance(Duration::from_millis(90));
        // Input and timer are both due in this turn, unless the network hands the bytes over only later.
        assert_eq!(bed.engine.step(), Step::Turn(0));
        if bed.engine.counters(0).bytes_received > 0 {
            heard += 1;
            assert_eq!(bed.engine.read_line(&mut peer, SOON), "I am here\n");
            assert_eq!(bed.ask(&mut peer, "still"), "still\n");
        }
        drop(peer);
        bed.stop();
    });
    assert!(heard >= 25 || std::env::var("ANYPORT_SEED").is_ok(), "{heard} of 50");
}

/// R40: a machine that sleeps for an hour must not throw everyone out when it wakes. What one
/// turn cannot take has a second to be heard: receive buffers are few here.
#[test]
fn a_stall_makes_nobody_idle_who_had_written() {
    let limits = Limits { idle_timeout: Some(Duration::from_secs(30)), ..Limits::default() };
    let driver = DriverConfig {
        receive_memory_bytes: 2 << 12,
        receive_buffer_bytes: 1 << 12,
        ..DriverConfig::default()
    };
    each_seed(0..50, |seed| {
        let engine = Engine::new().unwrap().shards(1).unwrap().driver_config(driver);
        let mut bed = Bed::of(SimNet::new(seed), engine, limits);
        let silent = bed.peer();
        let mut writers: Vec<_> = (0..20).map(|_| bed.peer()).collect();
        bed.engine.run_for(Duration::from_secs(20));
        for writer in &mut writers {
            writer.write(b"I am here\n");
        }
        bed.net.advance(Duration::from_hours(1));
        for writer in &mut writers {
            assert_eq!(bed.engine.read_line(writer, SOON), "I am here\n");
        }
        // Who had written nothing is idle, and only that one.
        bed.engine.run_for(2 * SOON);
        assert_eq!(bed.diary.closes(), [CloseReason::IdleTimeout]);
        for writer in &mut writers {
            assert_eq!(bed.ask(writer, "still"), "still\n");
        }
        drop((silent, writers));
        bed.stop();
    });
}
