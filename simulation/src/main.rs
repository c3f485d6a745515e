//! `simulate`: runs seeds, replays one, shrinks what fails.

#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use anyport_simulation::{
    Options, Outcome, Plan, run,
    search::{Found, Search, search},
    shrink::{Shrunk, shrink},
};
use clap::Parser;

/// Runs whole engines on the simulated network, under faults, against an oracle.
#[derive(Parser, Debug)]
#[command(name = "simulate", max_term_width = 100)]
struct Arguments {
    /// Replays this one seed, tells what happens, and shrinks it if it fails
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// How many seeds to run
    #[arg(long, value_name = "COUNT", default_value_t = 2_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// About how many steps each seed makes in bad weather
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    steps: u64,
    /// Goes on with further seeds for so many minutes, whatever `--seeds` says
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// Threads to run on [default: one for each processor]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// Failing seeds after which it stops
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    failures: usize,
    /// Seconds that shrinking may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    shrink: u64,
    /// Also keeps a rule that is wrong: it must be reported as broken
    #[arg(long)]
    canary: bool,
    /// Finds every planted bug instead; needs a build with `--cfg planted_bugs`
    #[arg(long)]
    planted: bool,
    /// Plants this bug first, by its name; needs a build with `--cfg planted_bugs`
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.planted {
        return anyport_simulation::planted::find_all(arguments.threads());
    }
    if let Some(name) = &arguments.plant
        && let Err(error) = anyport_simulation::planted::plant(name)
    {
        eprintln!("simulate: {error}");
        return ExitCode::from(2);
    }
    match arguments.seed {
        Some(seed) => replay(seed, &arguments),
        None => run_many(&arguments),
    }
}

impl Arguments {
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let minutes = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes.clamp(0.0, 1e6) * 60.0));
    let plan = Search {
        first: arguments.from,
        count: if minutes.is_some() { u64::MAX - arguments.from } else { arguments.seeds },
        steps: arguments.steps,
        time: minutes,
        threads: arguments.threads(),
        failures_max: arguments.failures.max(1),
        progress: true,
        canary: arguments.canary,
    };
    let plant = arguments.plant.clone();
    let found = search(&plan, || {
        if let Some(name) = &plant {
            anyport_simulation::planted::plant(name).expect("it was planted on the main thread as well");
        }
    });
    report(&found);
    for (seed, failure) in &found.failures {
        println!("\nseed {seed} fails: {failure}");
        println!("replay it: {}", command(*seed, arguments));
    }
    match found.failures.first() {
        None => ExitCode::SUCCESS,
        Some((seed, _)) => {
            println!("\nshrinking seed {seed} for {} s at most", arguments.shrink);
            if let Some(shrunk) = shrink(
                &Plan::of(*seed, arguments.steps),
                arguments.canary,
                Duration::from_secs(arguments.shrink),
            ) {
                show(&shrunk);
            }
            ExitCode::FAILURE
        }
    }
}

fn report(found: &Found) {
    println!("{}", found.faults);
    println!(
        "{} seeds, {:.1} million steps in {:.1} s ({:.2} million a second), {} sessions, {:.1} days of virtual time, \
         digest {:016x}: {}",
        found.seeds,
        found.millions(),
        found.took.as_secs_f64(),
        found.rate(),
        found.sessions,
        found.elapsed.as_secs_f64() / 86_400.0,
        found.digest,
        match found.failures.len() {
            0 => "no failure".to_owned(),
            1 => "1 failure".to_owned(),
            count => format!("{count} failures"),
        },
    );
}

fn command(seed: u64, arguments: &Arguments) -> String {
    let plant = arguments.plant.as_ref().map(|name| format!(" --plant {name}")).unwrap_or_default();
    format!("cargo run --release -p anyport-simulation -- --seed {seed} --steps {}{plant}", arguments.steps)
}

fn replay(seed: u64, arguments: &Arguments) -> ExitCode {
    let plan = Plan::of(seed, arguments.steps);
    println!("{}", plan.config);
    let outcome = run(&plan, &Options { tell: true, canary: arguments.canary, ..Options::default() });
    let Some(failure) = &outcome.failure else {
        tell(&outcome);
        println!(
            "seed {seed} holds: {} steps, {} sessions, digest {:016x}",
            outcome.steps, outcome.sessions, outcome.digest
        );
        return ExitCode::SUCCESS;
    };
    println!("seed {seed} fails: {failure}\nshrinking it for {} s at most", arguments.shrink);
    match shrink(&plan, arguments.canary, Duration::from_secs(arguments.shrink)) {
        Some(shrunk) => show(&shrunk),
        None => println!("it did not fail a second time: something outside the simulation takes part in it"),
    }
    ExitCode::FAILURE
}

fn show(shrunk: &Shrunk) {
    let Shrunk { plan, faults, outcome, runs, .. } = shrunk;
    println!("\nwhat is left after {runs} runs: {} events, {} faults", plan.events.len(), faults.len());
    println!("{}", plan.config);
    for event in &plan.events {
        println!("  event  {event}");
    }
    for fault in faults {
        println!("  fault  {fault}");
    }
    tell(outcome);
    println!("fails: {}", outcome.failure.as_deref().unwrap_or("not any more"));
}

fn tell(outcome: &Outcome) {
    for line in &outcome.story {
        println!("{line}");
    }
}
