//! A few seeds in every run of the tests; `.ci/simulation` runs many.

use std::time::Duration;

use anyport_simulation::{
    Options, Plan, run,
    search::{Found, Search, search},
    shrink::{class, shrink},
};

/// What the digests of the first hundred seeds add up to. The same on every system and in every build; another one
/// if a seed comes to stand for something else, or if the engine makes other calls. Then put the new one here.
const DIGEST: u64 = 0xb3e7_c6c8_281e_81d6;

fn seeds(count: u64, steps: u64, canary: bool) -> Found {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let seeds =
        Search { first: 0, count, steps, time: None, threads, failures_max: 1, progress: false, canary };
    search(&seeds, || {})
}

#[test]
fn seeds_hold_and_are_the_same_everywhere() {
    let found = seeds(100, 1_000, false);
    assert_eq!(found.failures, [], "replay one: cargo run -p anyport-simulation -- --seed N --steps 1000");
    assert!(found.sessions > 500, "only {} sessions were opened", found.sessions);
    assert_eq!(found.digest, DIGEST, "the runs are others than they were, or than they are elsewhere");
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    let plan = Plan::of(4_711, 2_000);
    let (one, other) = (run(&plan, &Options::default()), run(&plan, &Options::default()));
    assert_eq!((one.digest, one.steps, one.elapsed), (other.digest, other.steps, other.elapsed));
    assert_ne!(one.digest, run(&Plan::of(4_712, 2_000), &Options::default()).digest);
}

#[test]
fn the_canary_is_found_and_made_small() {
    let found = seeds(2_000, 2_000, true);
    let (seed, failure) = found.failures.first().expect("a rule that is wrong is found to be broken");
    assert!(failure.contains("canary"), "{failure}");
    let shrunk = shrink(&Plan::of(*seed, 2_000), true, Duration::from_secs(20)).expect("it fails again");
    let events = shrunk.plan.events.len() + shrunk.faults.len();
    assert!(events <= 25, "{events} events and faults are left of seed {seed}");
    let again = Options { suppressed: shrunk.suppressed, canary: true, ..Options::default() };
    let failure = run(&shrunk.plan, &again).failure.expect("what is left fails");
    assert_eq!(class(&failure), class(&shrunk.outcome.failure.expect("and failed before")));
    assert!(!shrunk.outcome.story.is_empty(), "what happened is told");
}
