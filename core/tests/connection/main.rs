//! The connection machine against an oracle: in every order of events that a driver may produce.
//!
//! `PROPTEST_CASES` raises the number of random schedules.

mod world;

use std::collections::HashSet;

use anyport_core::{FaultKind, SendMarks};
use proptest::prelude::*;

use crate::world::{Step, World};

fn fault() -> impl Strategy<Value = FaultKind> {
    prop_oneof![
        Just(FaultKind::PeerReset),
        Just(FaultKind::TimedOut),
        Just(FaultKind::NoMemory),
        Just(FaultKind::InvalidSocket),
        Just(FaultKind::Other),
    ]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0_usize), 1..40_usize, 1..3_000_usize, 1..12_000_usize]
}

/// `rough` lets faults, ends and closes in; without it a schedule is mostly traffic.
fn step(rough: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => size().prop_map(Step::Send),
        6 => size().prop_map(Step::SendShared),
        6 => any::<bool>().prop_map(Step::Pause),
        4 => any::<bool>().prop_map(Step::Hold),
        30 => (1..4_usize).prop_map(Step::Poll),
        16 => Just(Step::Poll(usize::MAX)),
        8 => Just(Step::Received),
        8 => Just(Step::ReceiveCancelled),
        10 => size().prop_map(Step::Progress),
        14 => Just(Step::Sent),
        4 => Just(Step::Connected),
        4 => Just(Step::ShutDown),
        4 => Just(Step::Closed),
        rough => Just(Step::ConnectFailed),
        rough => Just(Step::Drain),
        rough => any::<u16>().prop_map(Step::Close),
        rough => Just(Step::EndOfStream),
        rough => Just(Step::EndOfStreamKept),
        rough => Just(Step::Delivered),
        rough => Just(Step::Deadline),
        rough => fault().prop_map(Step::ReceiveFailed),
        rough => (fault(), size()).prop_map(|(kind, taken)| Step::SendFailed(kind, taken)),
    ]
}

fn marks() -> impl Strategy<Value = SendMarks> {
    (1..20_000_usize).prop_flat_map(|queue_max_bytes| {
        (0..=queue_max_bytes).prop_flat_map(move |high_water_bytes| {
            (0..=high_water_bytes).prop_map(move |low_water_bytes| SendMarks {
                high_water_bytes,
                low_water_bytes,
                queue_max_bytes,
            })
        })
    })
}

fn run(connecting: bool, pausing: bool, marks: SendMarks, steps: &[Step], close: bool) {
    let mut world = World::new(connecting, pausing, marks);
    for &step in steps {
        world.step(step);
    }
    world.run_to_the_end(close);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_keeps_the_rules_and_ends(
        connecting: bool,
        pausing: bool,
        close: bool,
        marks in marks(),
        steps in prop_oneof![
            prop::collection::vec(step(1), 0..150),
            prop::collection::vec(step(6), 0..60),
        ],
    ) {
        run(connecting, pausing, marks, &steps, close);
    }
}

/// Every state that the steps below can lead to, whatever their number: a walk over all of them, breadth
/// first, that goes on from each state once.
fn walk(connecting: bool, pausing: bool, alphabet: &[Step]) -> usize {
    let marks = SendMarks { high_water_bytes: 2, low_water_bytes: 1, queue_max_bytes: 4 };
    let replay = |path: &[Step]| {
        let mut world = World::new(connecting, pausing, marks);
        for &step in path {
            world.step(step);
        }
        world
    };
    let mut seen = HashSet::from([replay(&[]).key()]);
    let mut layer: Vec<Vec<Step>> = vec![Vec::new()];
    while !layer.is_empty() {
        let mut next = Vec::new();
        for path in layer {
            for &step in alphabet {
                let mut world = replay(&path);
                if !world.step(step) || !seen.insert(world.key()) {
                    continue;
                }
                next.push(path.iter().copied().chain([step]).collect());
            }
            for close in [false, true] {
                replay(&path).run_to_the_end(close);
            }
        }
        layer = next;
    }
    seen.len()
}

const ALPHABET: [Step; 24] = [
    Step::Send(0),
    Step::Send(1),
    Step::Send(2),
    Step::SendShared(0),
    Step::SendShared(1),
    Step::Pause(true),
    Step::Pause(false),
    Step::Drain,
    Step::Close(1),
    Step::Connected,
    Step::ConnectFailed,
    Step::Received,
    Step::EndOfStream,
    Step::EndOfStreamKept,
    Step::Delivered,
    Step::ReceiveFailed(FaultKind::PeerReset),
    Step::ReceiveCancelled,
    Step::Progress(1),
    Step::Sent,
    Step::SendFailed(FaultKind::Other, 1),
    Step::ShutDown,
    Step::Deadline,
    Step::Closed,
    Step::Poll(1),
];

#[test]
fn every_reachable_state_keeps_the_rules_and_ends() {
    for (connecting, pausing) in [(false, true), (false, false), (true, true), (true, false)] {
        let states = walk(connecting, pausing, &ALPHABET);
        println!("connecting {connecting}, pausing {pausing}: {states} states");
        assert!(states > 1_000, "the walk stopped early: {states} states");
    }
}
