//! The checker, checked: defects that are put in on purpose must be found.
//!
//! They are in the code of every build with `--cfg planted_bugs` and of no other, one of them active at a time
//! (`anyport_core::planted`). Whatever the simulation could not find would be missing from what it promises.

#[cfg(not(planted_bugs))]
use std::process::ExitCode;

/// Steps within which every planted bug must be found.
pub const STEPS_MAX: u64 = 40_000_000;
/// Steps that each seed is planned for in this search.
pub const STEPS_OF_SEED: u64 = 3_000;

#[cfg(not(planted_bugs))]
const NONE_HERE: &str = "nothing is planted in this build: run `.ci/simulation`, or build with \
                         RUSTFLAGS=\"--cfg planted_bugs\"";

/// Plants a bug by its name, on this thread.
///
/// # Errors
/// If there is none with that name, or this build has none at all.
#[cfg(not(planted_bugs))]
pub fn plant(_name: &str) -> Result<(), String> {
    Err(NONE_HERE.to_owned())
}

/// Finds every planted bug, and shows when and how in a table.
#[cfg(not(planted_bugs))]
pub fn find_all(_threads: usize) -> ExitCode {
    eprintln!("simulate: {NONE_HERE}");
    ExitCode::from(2)
}

#[cfg(planted_bugs)]
pub use here::{find_all, plant};

#[cfg(planted_bugs)]
mod here {
    use std::{
        process::ExitCode,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use anyport::planted::Bug;

    use super::{STEPS_MAX, STEPS_OF_SEED};
    use crate::{
        plan::Plan,
        world::{Options, run},
    };

    /// Plants a bug by its name, on this thread.
    ///
    /// # Errors
    /// If there is none with that name.
    pub fn plant(name: &str) -> Result<(), String> {
        let bug = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
        let Some(bug) = bug else {
            let names: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            return Err(format!("no planted bug is called `{name}`; there are {}", names.join(", ")));
        };
        anyport::planted::plant(Some(bug));
        Ok(())
    }

    /// When a planted bug was found.
    struct Found {
        seed: u64,
        seeds: u64,
        steps: u64,
        failure: String,
    }

    fn find(bug: Bug) -> Option<Found> {
        anyport::planted::plant(Some(bug));
        let mut steps = 0;
        let mut seeds = 0;
        let mut found = None;
        while steps < STEPS_MAX && found.is_none() {
            let seed = seeds;
            let outcome = run(&Plan::of(seed, STEPS_OF_SEED), &Options::default());
            seeds += 1;
            steps += outcome.steps;
            found = outcome.failure.map(|failure| Found { seed, seeds, steps, failure });
        }
        anyport::planted::plant(None);
        found
    }

    /// Finds every planted bug, and shows when and how in a table.
    pub fn find_all(threads: usize) -> ExitCode {
        let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let bugs: Vec<_> = Bug::ALL
            .iter()
            .copied()
            .filter(|bug| {
                !(bug.is_for_fuzzers_only() || bug.is_for_models_only() || bug.is_for_limits_only())
            })
            .collect();
        println!("{:<24} {:<5} {:>6} {:>10}  found by", "planted", "class", "seeds", "steps");
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    while let Some(&bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let Some(found) = find(bug) else {
                            println!("{:<24} {:<5} MISSED: {}", bug.name(), bug.class(), bug.about());
                            missed.lock().expect("no thread panics here").push(bug.name());
                            continue;
                        };
                        let Found { seed, seeds, steps, failure } = found;
                        let failure: String = failure.chars().take(100).collect();
                        println!(
                            "{:<24} {:<5} {seeds:>6} {steps:>10}  seed {seed}: {failure}",
                            bug.name(),
                            bug.class()
                        );
                    }
                });
            }
        });
        let missed = missed.into_inner().expect("no thread panics here");
        let count = bugs.len();
        println!("{} of {count} planted bugs found within {STEPS_MAX} steps each", count - missed.len());
        if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
