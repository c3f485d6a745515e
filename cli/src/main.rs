//! The `anyport` program: try the engine, load it, talk to it, look at the machine.
//!
//! ```text
//! anyport serve echo     answer every frame with itself until Ctrl-C
//! anyport serve chat     names and rooms, in lines
//! anyport bench echo     load an echo server and check every byte that comes back
//! anyport bench idle     hold sessions that say nothing, and see what each costs
//! anyport connect ADDR   send lines and print what arrives, for a person or a script
//! anyport doctor         look at this machine and say what is in the way
//! ```
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done: drained, measured, nothing in the way |
//! | 1 | it failed while running; one line on standard error says what and what to do |
//! | 2 | the command line is wrong |
//!
//! Results go to standard output, everything else to standard error. A reader that goes away early
//! (`anyport doctor | head -1`) is no failure.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod connect;
mod doctor;
mod exit;
mod framing;
mod logger;
mod output;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use exit::Outcome;

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = logger::install(&args).and_then(|log| {
        let outcome = run(&args.command);
        // What the log file does not have is a failure only if all else went well.
        let closed = log.close();
        outcome.and(closed)
    });
    exit::report(outcome)
}

fn run(command: &Command) -> Outcome {
    match command {
        Command::Serve { service, .. } => serve::serve(service),
        Command::Bench { load } => bench::run(load),
        Command::Connect(options) => connect::run(options),
        Command::Doctor { json } => doctor::run(*json),
    }
}
