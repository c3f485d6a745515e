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

use std::{fmt::Write as _, time::Duration};

use anyport::DriverChoice;

use crate::{
    handler::{SCRIPTS_AN_ENGINE, Setup},
    play::{Played, play},
    script::Script,
    shrink::shrink,
    simulated::Simulated,
    sockets::Sockets,
    trace::{parting, side_by_side},
    world::PATIENCE,
};

/// Scripts for each driver. Under Wine one takes about twenty times as long.
const SCRIPTS: u64 = if cfg!(windows) { 100 } else { 1000 };
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

fn simulated(script: &Script) -> Played {
    let mut world = Simulated::start(script.seed);
    let played = play(script, &mut world);
    world.stop();
    played
}

/// How what was seen differs from what must come of the script, if it does; and from the simulator's trace.
///
/// What must come is the same on every world. So two drivers of which neither differs from it have the same trace,
/// and it is enough to play a script once on each.
fn difference(name: &str, script: &Script, Played { seen, paper }: &Played) -> Option<String> {
    let mut text = side_by_side([name, "what must come"], seen, paper, parting(seen, paper)?);
    let simulator = simulated(script).seen;
    if let Some(parting) = parting(seen, &simulator) {
        let _ = write!(text, "\n{}", side_by_side([name, "simulator"], seen, &simulator, parting));
    }
    Some(text)
}

/// The report of a script that differs: how to play it again, the difference, the smallest script that shows one,
/// and its difference.
fn report(
    name: &str,
    test: &str,
    script: &Script,
    first: &str,
    play_anew: &dyn Fn(&Script) -> Played,
) -> String {
    let mut last = first.to_owned();
    let small = shrink(script, |candidate| {
        let found = difference(name, candidate, &play_anew(candidate));
        let differs = found.is_some();
        last = found.unwrap_or_else(|| std::mem::take(&mut last));
        differs
    });
    let seed = script.seed;
    let steps: Vec<_> = small.steps.iter().map(|step| format!("    {step:?}")).collect();
    let steps = steps.join("\n");
    format!(
        "the script of seed {seed} has another trace. Play it again:\n\n    \
         ANYPORT_SEED={seed} cargo test -p anyport --test traces {test}\n\n{first}\n\
         {} of its {} steps show a difference:\n\n{steps}\n\n{last}",
        small.steps.len(),
        script.steps.len(),
    )
}

/// Plays every script on a driver.
fn compare(driver: DriverChoice, test: &str) {
    let name = format!("{driver:?}");
    let anew = |script: &Script| {
        // An engine of its own: the one before may hold what a broken script left.
        let mut world = Sockets::start(driver, Setup::of(script.seed), SHRINKING_PATIENCE);
        play(script, &mut world)
    };
    let mut world = None;
    for seed in seeds(SCRIPTS) {
        let script = Script::draw(seed);
        let engine = world.get_or_insert_with(|| Sockets::start(driver, Setup::of(seed), PATIENCE));
        let played = play(&script, engine);
        if let Some(text) = difference(&name, &script, &played) {
            panic!("{}", report(&name, test, &script, &text, &anew));
        }
        if (seed + 1) % SCRIPTS_AN_ENGINE == 0
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
fn io_uring_has_the_same_trace() {
    compare(DriverChoice::IoUring, "io_uring_has_the_same_trace");
}

#[cfg(unix)]
#[test]
fn readiness_has_the_same_trace() {
    compare(DriverChoice::Readiness, "readiness_has_the_same_trace");
}

#[cfg(windows)]
#[test]
fn iocp_has_the_same_trace() {
    compare(DriverChoice::Iocp, "iocp_has_the_same_trace");
}

#[test]
fn the_simulator_has_the_same_trace() {
    for seed in seeds(SCRIPTS) {
        let script = Script::draw(seed);
        if let Some(text) = difference("simulator", &script, &simulated(&script)) {
            panic!("{}", report("simulator", "the_simulator_has_the_same_trace", &script, &text, &simulated));
        }
    }
}
