//! Steps, time, and that a seed stands for a run.

use std::time::Duration;

use anyport::{
    Engine, Frame, Handler, Limits, Raw, Server, Session, Shard, Spread, TimerKey,
    sim::{Behaviour, Faults, SimNet, SimPeer, Step},
};

use crate::bed::{Bed, SOON, TICK, Told};

/// Steps within which a quiet engine comes to rest.
const STEPS_MAX: usize = 1_000;

fn rest(bed: &mut Bed) {
    assert!((0..STEPS_MAX).any(|_| bed.engine.step() == Step::Rest), "it does not come to rest");
}

#[test]
fn an_engine_without_anything_to_do_rests_and_its_clock_stands() {
    let mut bed = Bed::new(SimNet::new(1));
    assert_eq!(bed.engine.step(), Step::Turn(0), "the first turn looks for what was posted before it");
    rest(&mut bed);
    let elapsed = bed.net.elapsed();
    assert_eq!(bed.engine.step(), Step::Rest);
    assert_eq!(bed.net.elapsed(), elapsed);
    // Time passes if it is told to.
    bed.engine.run_for(Duration::from_hours(1));
    assert_eq!(bed.net.elapsed(), elapsed + Duration::from_hours(1));
    bed.stop();
}

#[test]
fn a_step_is_a_turn_or_moves_the_clock_never_both() {
    let mut bed = Bed::new(SimNet::new(2));
    let mut peer = bed.peer();
    peer.write(b"hello\n");
    let mut moved = 0;
    for _ in 0..STEPS_MAX {
        let before = (bed.net.elapsed(), bed.engine.counters(0).turns);
        let step = bed.engine.step();
        let after = (bed.net.elapsed(), bed.engine.counters(0).turns);
        match step {
            Step::Turn(shard) => assert_eq!((shard, after), (0, (before.0, before.1 + 1))),
            Step::Time(by) => assert_eq!(after, (before.0 + by, before.1)),
            Step::Rest => break,
        }
        moved += usize::from(matches!(step, Step::Time(_)));
    }
    assert!(moved > 0);
    assert_eq!(bed.engine.read_line(&mut peer, SOON), "hello\n");
    bed.stop();
}

#[test]
fn a_step_moves_the_clock_no_further_than_it_may() {
    let mut bed = Bed::new(SimNet::new(3));
    let mut peer = bed.peer();
    bed.engine.write(&mut peer, b"timer 1000\n", SOON);
    assert!(bed.engine.run_until(SOON, |engine| engine.counters(0).frames_received == 1));
    while let Step::Turn(_) = bed.engine.step_within(Duration::ZERO) {}
    let left = Duration::from_micros(10);
    let before = bed.net.elapsed();
    assert!(matches!(bed.engine.step_within(left), Step::Time(by) if by <= left));
    assert!(bed.net.elapsed() <= before + left);
    bed.stop();
}

#[test]
fn run_until_stops_at_the_condition_at_rest_or_when_its_time_is_over() {
    let mut bed = Bed::new(SimNet::new(4));
    let before = bed.net.elapsed();
    assert!(bed.engine.run_until(Duration::ZERO, |_| true));
    assert_eq!((bed.net.elapsed(), bed.engine.counters(0).turns), (before, 0), "nothing was done for it");
    // At rest there is nothing to wait for.
    assert!(!bed.engine.run_until(Duration::from_hours(1), |_| false));
    assert!(bed.net.elapsed() < Duration::from_hours(1));
    let mut peer = bed.peer();
    bed.engine.write(&mut peer, b"timer 1000\ntimer 2000\n", SOON);
    let diary = bed.diary.clone();
    let told = move || diary.all(|line| matches!(line.2, Told::Timer(_)).then_some(())).len();
    let before = bed.net.elapsed();
    assert!(!bed.engine.run_until(SOON / 2, |_| told() > 0));
    assert_eq!(bed.net.elapsed(), before + SOON / 2);
    assert!(bed.engine.run_until(SOON, |_| told() > 0));
    assert_eq!(told(), 1);
    bed.stop();
}

#[test]
fn what_is_due_at_the_last_moment_still_happens() {
    // When the timer comes is known from a run that is not cut short.
    let run = |within: Option<Duration>| {
        let mut bed = Bed::new(SimNet::new(5));
        let mut peer = bed.peer();
        bed.engine.write(&mut peer, b"timer 20\n", SOON);
        let (begin, diary) = (bed.net.now(), bed.diary.clone());
        let comes = || !diary.all(|line| matches!(line.2, Told::Timer(_)).then_some(())).is_empty();
        let came = bed.engine.run_until(within.unwrap_or(SOON), |_| comes());
        (came, bed.net.now() - begin)
    };
    let (came, after) = run(None);
    assert!(came);
    assert_eq!(run(Some(after)), (true, after));
    let short = after.saturating_sub(Duration::from_nanos(1));
    assert_eq!(run(Some(short)), (false, short));
}

#[test]
fn timers_are_exact_to_a_tick_in_virtual_time() {
    let mut bed = Bed::new(SimNet::new(6));
    let mut peer = bed.peer();
    for after in [0, 1, 7, 1_000, 60_000, 65_535] {
        bed.engine.write(&mut peer, format!("timer {after}\n").as_bytes(), SOON);
    }
    bed.engine.run_for(Duration::from_mins(2));
    let lines = bed.diary.lines().clone();
    let mut timers = 0;
    for (set_at, _, told) in &lines {
        let Told::Frame(line) = told else { continue };
        let after = str::from_utf8(line).unwrap().split_once(' ').unwrap().1.parse().unwrap();
        let is_it = |told: &Told| *told == Told::Timer(TimerKey(after));
        let came: Vec<_> = lines.iter().filter(|line| is_it(&line.2)).map(|line| line.0).collect();
        let due = *set_at + Duration::from_millis(after.into());
        assert!(came.len() == 1 && came[0] >= due, "a timer of {after} ms came too early, or not once");
        // Zero is the next turn, which may have to wait for something to happen.
        assert!(came[0] <= due + TICK, "a timer of {after} ms came {:?} too late", came[0] - due);
        timers += 1;
    }
    assert_eq!(timers, 6);
    bed.stop();
}

#[test]
fn reading_takes_what_was_asked_for_and_writing_what_fits() {
    let small = Behaviour::default().with_socket_buffer_bytes(100..=100);
    let mut bed = Bed::new(SimNet::with_behaviour(7, small));
    let mut peer = bed.peer();
    assert_eq!(bed.engine.write(&mut peer, b"one\ntwo\nthree", SOON), 13);
    assert_eq!(bed.engine.read_line(&mut peer, SOON), "one\n");
    assert_eq!(bed.engine.read_line(&mut peer, SOON), "two\n");
    assert_eq!(bed.engine.read_line(&mut peer, SOON), "", "half a line has no answer");
    assert_eq!(bed.engine.ask(&mut peer, b"!\n", b"!\n", SOON), b"three!\n");
    // Nobody reads the answers: what the buffers hold is taken, and no more.
    let mut deaf = bed.peer();
    let written = bed.engine.write(&mut deaf, &b"0123456789\n".repeat(100_000), SOON);
    assert!((100..1_100_000).contains(&written), "{written}");
    drop(deaf);
    peer.shutdown_write();
    assert_eq!(bed.engine.read_to_end(&mut peer, SOON), b"");
    assert!(peer.is_end_of_stream());
    bed.stop();
}

/// A busy run; gives what it came to.
fn busy(seed: u64, faults: Faults, spread: Spread) -> (u64, Duration, String) {
    let net = SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults));
    let mut bed = Bed::with(net.clone(), 3, spread, Limits::default());
    let mut peers: Vec<Option<SimPeer>> = (0..40).map(|_| net.connect(bed.address()).ok()).collect();
    let mut read = Vec::new();
    for round in 0..600 {
        let at = net.draw(39) as usize;
        let bytes = net.draw(1_000);
        match (net.draw(20), peers[at].take()) {
            (0, Some(peer)) => peer.reset(),
            (1, Some(peer)) => peer.close(),
            (2, Some(mut peer)) => {
                peer.shutdown_write();
                peers[at] = Some(peer);
            }
            (_, Some(mut peer)) => {
                peer.write(format!("send {bytes}\ntimer {bytes}\n").as_bytes());
                peer.read(&mut read);
                peers[at] = Some(peer);
            }
            (_, None) => peers[at] = net.connect(bed.address()).ok(),
        }
        for _ in 0..5 {
            bed.engine.step();
        }
        bed.engine.check().unwrap_or_else(|breach| panic!("seed {seed}, round {round}: {breach}"));
    }
    net.calm();
    let counters = format!("{:?}", bed.engine.counters(0));
    drop(peers);
    bed.stop();
    (net.digest(), net.elapsed(), counters)
}

#[test]
fn a_seed_stands_for_a_run_and_a_busy_one_breaks_no_rule() {
    for spread in [Spread::ReusePort, Spread::HandOver] {
        let one = busy(8, Faults::default(), spread);
        assert_eq!(busy(8, Faults::default(), spread), one);
        assert_ne!(busy(9, Faults::default(), spread).0, one.0);
    }
    // In bad weather, too. Not every one: in some nobody can listen.
    let weather =
        |seed| Faults::drawn(seed).with(anyport::sim::FaultClass::Listen, anyport::sim::Rate::NEVER);
    for seed in 10..30 {
        let one = busy(seed, weather(seed), Spread::Auto);
        assert_eq!(busy(seed, weather(seed), Spread::Auto), one, "seed {seed}");
    }
}

/// Its timer is due in the next turn, for ever.
struct Restless;

impl Handler for Restless {
    type State = ();
    type Codec = Raw;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        shard.set_timer(TimerKey(0), Duration::ZERO);
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, timer: TimerKey) {
        shard.set_timer(timer, Duration::ZERO);
    }

    fn on_frame(&mut self, _: &mut Session<Self>, _: Frame) {}
}

#[test]
fn time_passes_also_for_who_always_has_something_to_do() {
    let net = SimNet::new(3);
    let engine = Engine::new().unwrap().serve(Server::bind("10.0.0.1:7000", Raw), |_| Restless).unwrap();
    let mut engine = engine.simulate(&net).unwrap();
    engine.run_for(Duration::from_secs(1));
    assert_eq!(net.elapsed(), Duration::from_secs(1));
    assert!(engine.counters(0).turns > 1_000, "{:?}", engine.counters(0));
    engine.stop().unwrap();
}
