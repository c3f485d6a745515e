//! One trace, several kernels: random scripts of connects, writes, closes, resets and commands come to the same
//! trace for each session on every driver of this machine and on the simulator. docs/traces.md says more.
//!
//! `ANYPORT_TRACES=10000` plays more scripts; `ANYPORT_SEED=7` plays the one of that seed.

mod checker;
mod handler;
mod play;
mod script;
mod shrink;
mod simulated;
mod sockets;
mod trace;
mod world;

use std::time::Duration;

use anyport::DriverChoice;

use crate::{
    play::{Played, play},
    script::Script,
    shrink::shrink,
    simulated::Simulated,
    sockets::Sockets,
    trace::{SessionTrace, parting, side_by_side},
    world::PATIENCE,
};

/// Scripts for each driver. Under Wine a round trip takes a hundred times as long.
const SCRIPTS: u64 = if cfg!(windows) { 100 } else { 1000 };
/// Scripts that one engine plays before it is stopped: it must end in order, with nothing left.
const SCRIPTS_AN_ENGINE: u64 = 50;
/// While a script that differs is made smaller, what does not come is not waited for that long.
const SHRINKING_PATIENCE: Duration = Duration::from_secs(3);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, but is {text:?}")))
}

/// The seeds to play.
fn seeds(scripts: u64) -> std::ops::Range<u64> {
    match number("ANYPORT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ANYPORT_TRACES").unwrap_or(scripts),
    }
}

fn simulated(script: &Script, net_seed: u64) -> Played {
    let mut world = Simulated::start(net_seed);
    let played = play(script, &mut world);
    world.stop();
    played
}

/// How what was seen differs, if it does: from what must come of the script, and from the simulator's trace.
fn difference(name: &str, script: &Script, seen: &[SessionTrace]) -> Option<String> {
    let simulator = simulated(script, script.seed);
    let against = [("simulator", simulator.seen), ("what must come", simulator.paper)];
    let texts = against.iter().filter_map(|(other, traces)| {
        Some(side_by_side([name, other], seen, traces, parting(seen, traces)?))
    });
    let text = texts.collect::<Vec<_>>().join("\n");
    (!text.is_empty()).then_some(text)
}

/// The report of a script that differs: how to play it again, the difference, the smallest script that shows one,
/// and its difference.
fn report(name: &str, test: &str, script: &Script, first: &str, play_anew: &dyn Fn(&Script) -> Played) -> String {
    let differs = |script: &Script| difference(name, script, &play_anew(script).seen);
    let (mut steps, mut last) = (script.clone(), first.to_owned());
    steps = shrink(&steps, |candidate| {
        let found = differs(candidate);
        let still = found.is_some();
        last = found.unwrap_or_else(|| std::mem::take(&mut last));
        still
    });
    let seed = script.seed;
    let list: String = steps.steps.iter().map(|step| format!("    {step:?}\n")).collect();
    format!(
        "the script of seed {seed} has another trace. Play it again:\n\n    \
         ANYPORT_SEED={seed} cargo test -p anyport --test traces {test}\n\n{first}\n\
         {} of its {} steps show a difference:\n\n{list}\n{last}",
        steps.steps.len(),
        script.steps.len(),
    )
}

/// Plays every script on a driver and on the simulator.
fn agree(driver: DriverChoice, test: &str) {
    let name = format!("{driver:?}");
    let anew = |script: &Script| {
        // An engine of its own: the one before may hold what a broken script left.
        let mut world = Sockets::start(driver, SHRINKING_PATIENCE);
        play(script, &mut world)
    };
    let mut world = None;
    for seed in seeds(SCRIPTS) {
        let script = Script::draw(seed);
        let played = play(&script, world.get_or_insert_with(|| Sockets::start(driver, PATIENCE)));
        if let Some(text) = difference(&name, &script, &played.seen) {
            panic!("{}", report(&name, test, &script, &text, &anew));
        }
        if seed % SCRIPTS_AN_ENGINE == 0
            && let Some(world) = world.take()
        {
            world.stop();
        }
    }
    if let Some(world) = world {
        world.stop();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn io_uring_has_the_simulators_traces() {
    agree(DriverChoice::IoUring, "io_uring_has_the_simulators_traces");
}

#[cfg(unix)]
#[test]
fn readiness_has_the_simulators_traces() {
    agree(DriverChoice::Readiness, "readiness_has_the_simulators_traces");
}

#[cfg(windows)]
#[test]
fn iocp_has_the_simulators_traces() {
    agree(DriverChoice::Iocp, "iocp_has_the_simulators_traces");
}

#[test]
fn every_schedule_of_the_simulator_has_the_same_traces() {
    for seed in seeds(SCRIPTS) {
        let script = Script::draw(seed);
        let played = simulated(&script, !seed);
        if let Some(text) = difference("another schedule", &script, &played.seen) {
            let test = "every_schedule_of_the_simulator_has_the_same_traces";
            let anew = |script: &Script| simulated(script, !seed);
            panic!("{}", report("another schedule", test, &script, &text, &anew));
        }
    }
}
