//! What it costs to have work done by another thread: processor time of the whole process, as ratios.
//!
//! Two questions. **Posting**: a packet from one thread to another, nobody answers. **Offloading**: work to another
//! thread and its result back to where it was asked for, so many in flight. All contenders live in this process; those
//! that are not asked sleep. Rounds go through all of them in an order that rotates, and ratios are formed within a round.

mod job;
mod offload;
mod post;
mod replace;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use clap::Args;

use crate::{
    error::{Context, Result},
    machine::Machine,
    stats::Spread,
    sys,
};

#[derive(Args)]
pub struct Pool {
    /// How often each contender is asked.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// How much each does in a round.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    operations: u32,
}

/// One way to have work done.
pub trait Contender {
    fn name(&self) -> &'static str;
    /// Does so many operations, of which at most `in_flight` are not answered yet, and waits for the last.
    fn run(&mut self, operations: u32, in_flight: u32);
}

struct Question {
    name: &'static str,
    operation: &'static str,
    in_flight: [u32; 2],
    contenders: Vec<Box<dyn Contender>>,
}

/// Measures, and prints two tables.
pub fn compare(arguments: &Pool) -> Result<()> {
    let machine = Machine::look(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")));
    let mut page = format!(
        "Processor time of the process for an operation; median ratio within a round [quartiles], {} rounds of {} \
         operations. {}, {} processors, {}, {}, tokio {}, commit {}.\n",
        arguments.rounds,
        arguments.operations,
        machine.cpu,
        machine.cpus,
        machine.kernel,
        machine.rustc,
        machine.tokio,
        machine.commit
    );
    for mut question in [
        Question {
            name: "post",
            operation: "packet",
            in_flight: [1, 1_000],
            contenders: post::contenders()?,
        },
        Question {
            name: "offload",
            operation: "result",
            in_flight: [1, 64],
            contenders: offload::contenders()?,
        },
    ] {
        ask(&mut question, arguments, &mut page)?;
    }
    replaced(arguments, &mut page)?;
    write!(io::stdout(), "{page}").context("standard output")
}

fn replaced(arguments: &Pool, page: &mut String) -> Result<()> {
    let _ = write!(page, "\nUntil a thread that blocks is replaced:\n\n| it | ms |\n|---|---:|\n");
    for (name, says_so) in [("says so", true), ("says nothing", false)] {
        if let Some(spread) = replace::times(arguments.rounds.max(20) * 10, says_so)? {
            let Spread { quartile_1, median, quartile_3 } = spread;
            let _ = writeln!(page, "| {name} | {median:.2} [{quartile_1:.2}-{quartile_3:.2}] |");
        }
    }
    let (share, looks) = replace::watcher()?;
    let _ = writeln!(
        page,
        "\nWhile a thread computes and packets wait, the watcher looks {looks:.0} times a second and takes {:.2} % of a \
         processor.",
        share * 100.0
    );
    Ok(())
}

fn ask(question: &mut Question, arguments: &Pool, page: &mut String) -> Result<()> {
    let Question { name, operation, in_flight, contenders } = question;
    let columns = in_flight.map(|in_flight| measure(contenders, arguments, in_flight));
    let head = in_flight.map(|in_flight| format!("{in_flight} in flight"));
    let _ = write!(page, "\n| {name} | {} | {} |\n|---|---:|---:|\n", head[0], head[1]);
    for (at, contender) in contenders.iter().enumerate() {
        let cells = columns.each_ref().map(|rounds| cell(rounds, at, operation));
        let _ = writeln!(page, "| {} | {} | {} |", contender.name(), cells[0], cells[1]);
    }
    Ok(())
}

/// For each round, what each contender needed for an operation, in ns.
fn measure(contenders: &mut [Box<dyn Contender>], arguments: &Pool, in_flight: u32) -> Vec<Vec<f64>> {
    let count = contenders.len();
    let mut rounds = Vec::new();
    // One more, which warms up and is not counted.
    for round in 0..=arguments.rounds as usize {
        let mut figures = vec![0.0; count];
        for turn in 0..count {
            let at = (round + turn) % count;
            let before = sys::process_cpu_time();
            contenders[at].run(arguments.operations, in_flight);
            let spent = sys::process_cpu_time().saturating_sub(before);
            figures[at] = nanoseconds(spent) / f64::from(arguments.operations);
        }
        if round > 0 {
            rounds.push(figures);
        }
    }
    rounds
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// The first contender's figure, and the others' ratios to it.
fn cell(rounds: &[Vec<f64>], at: usize, operation: &str) -> String {
    let spread = |figure: &dyn Fn(&Vec<f64>) -> f64| Spread::of(rounds.iter().map(figure));
    let Some(spread) =
        (if at == 0 { spread(&|round| round[0]) } else { spread(&|round| round[at] / round[0]) })
    else {
        return "none".into();
    };
    let Spread { quartile_1, median, quartile_3 } = spread;
    if at == 0 {
        format!("{median:.0} ns a {operation} [{quartile_1:.0}-{quartile_3:.0}]")
    } else {
        format!("{median:.2} [{quartile_1:.2}-{quartile_3:.2}]")
    }
}
