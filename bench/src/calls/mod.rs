//! How many system calls does a server make for each message, and which?
//!
//! On Linux the kernel counts them (`counters`), of a Windows program Wine logs them (`relay`). `docs/system-calls.md`
//! of the project has the result.

pub mod counters;
pub mod relay;
pub mod table;

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use self::{
    counters::{Counters, Counts, Tracepoints},
    relay::Relay,
};
use crate::{
    error::{Context, Result},
    load::{Load, Until},
    measure::blame,
    process::{Programs, Running, Server},
    sys::Scheduled,
    workload::Workload,
};

/// How the loader asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each connection sends again as soon as its answer is there: the server is never idle for want of work.
    Steady,
    /// All connections send at once, and again only when all answers are there and the server sleeps.
    Waves,
}

/// How much is counted.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: u32,
    /// Of a steady round.
    pub slice: Duration,
    /// In a round of waves.
    pub waves: u32,
}

/// One round.
#[derive(Clone, Debug)]
pub struct Round {
    pub messages: u64,
    pub counts: Counts,
    /// Processor time of the server for a message, in µs: in a visit just before that was not counted, and in the one
    /// that was. Tells what counting costs.
    pub cpu_us: Option<(f64, f64)>,
    /// The share of the time for which the server or the loader, whichever had to more, waited for its processor
    /// because other processes ran. What waits piles up: such a round has fewer calls for a message.
    pub disturbed: f64,
}

/// One server under one workload.
#[derive(Debug)]
pub struct Column {
    pub name: String,
    pub rounds: Vec<Round>,
}

/// All servers under one workload.
#[derive(Debug)]
pub struct Line {
    pub workload: Workload,
    pub shape: Shape,
    pub columns: Vec<Column>,
    pub failures: Vec<(String, String)>,
}

impl Column {
    /// Calls of one name for a message, over all rounds.
    pub fn calls(&self) -> BTreeMap<&str, f64> {
        let messages = self.messages() as f64;
        let mut calls = BTreeMap::new();
        for (name, count) in self.rounds.iter().flat_map(|round| &round.counts.by_name) {
            *calls.entry(name.as_str()).or_insert(0.0) += *count as f64 / messages;
        }
        calls
    }

    pub fn messages(&self) -> u64 {
        self.rounds.iter().map(|round| round.messages).sum()
    }

    /// All calls for a message, over all rounds.
    pub fn total(&self) -> f64 {
        self.rounds.iter().map(|round| round.counts.total).sum::<u64>() as f64 / self.messages() as f64
    }

    /// The least and the most of all calls for a message in one round.
    pub fn range(&self) -> (f64, f64) {
        let each = self.rounds.iter().map(|round| round.counts.total as f64 / round.messages as f64);
        each.fold((f64::INFINITY, 0.0), |(least, most), one| (least.min(one), most.max(one)))
    }
}

/// Lets the server fall asleep after its last message, so that its last wait is counted too.
const SETTLE: Duration = Duration::from_millis(2);

/// Counts on Linux: a server is started for each workload and shape, and its threads are counted.
pub fn count(
    workload: Workload,
    shape: Shape,
    servers: &[Server],
    programs: &Programs,
    effort: Effort,
    tracepoints: &Tracepoints,
) -> Line {
    let mut line = Line { workload, shape, columns: Vec::new(), failures: Vec::new() };
    for (index, server) in (0..).zip(servers) {
        eprint!(".");
        let counted = Running::start(server, workload, index, programs)
            .and_then(|mut running| count_one(workload, shape, &mut running, effort, tracepoints));
        line.note(server.name, counted);
    }
    line
}

impl Line {
    /// Adds a Windows program under Wine. Its log is slow, so that only waves can be counted.
    pub fn add_under_wine(&mut self, name: &str, program: &Path, effort: Effort, server_cpu: usize) {
        eprint!(".");
        let counted = Relay::start(program, server_cpu).and_then(|mut relay| {
            let mut load = relay.open(self.workload)?;
            // Warms up.
            relay.waves(&mut load, effort.waves.div_ceil(10))?;
            (0..effort.rounds).map(|_| relay.waves(&mut load, effort.waves)).collect()
        });
        self.note(name, counted);
    }

    fn note(&mut self, name: &str, counted: Result<Vec<Round>>) {
        match counted {
            Ok(rounds) => self.columns.push(Column { name: name.to_owned(), rounds }),
            Err(error) => {
                eprint!("\n  {name} failed: {error}\n  ");
                self.failures.push((name.to_owned(), error.to_string()));
            }
        }
    }
}

fn count_one(
    workload: Workload,
    shape: Shape,
    running: &mut Running,
    effort: Effort,
    tracepoints: &Tracepoints,
) -> Result<Vec<Round>> {
    let load = Load::open(running.address, workload);
    let mut load = blame(running, load)?;
    // Warms up, and tells which calls happen at all: only those are told apart later.
    let found =
        counted(running, tracepoints, tracepoints.names(), |running| ask(running, &mut load, shape, effort))?;
    let names: Vec<String> = found.counts.by_name.into_keys().collect();
    (0..effort.rounds)
        .map(|_| {
            let free = ask(running, &mut load, shape, effort)?;
            let round = counted(running, tracepoints, names.iter().map(String::as_str), |running| {
                ask(running, &mut load, shape, effort)
            })?;
            let cpu_us = Some((free.cpu_us(), round.asked.cpu_us()));
            Ok(Round {
                messages: round.asked.messages,
                counts: round.counts,
                cpu_us,
                disturbed: round.asked.disturbed,
            })
        })
        .collect()
}

/// What the loader did.
#[derive(Clone, Copy)]
struct Asked {
    messages: u64,
    /// Processor time of the server.
    cpu_ns: u64,
    disturbed: f64,
}

impl Asked {
    fn cpu_us(self) -> f64 {
        self.cpu_ns as f64 / 1000.0 / self.messages as f64
    }
}

struct Counted {
    asked: Asked,
    counts: Counts,
}

/// Counts what the server calls while it is asked. Before and after it sleeps, in a wait that began before.
fn counted<'a>(
    running: &mut Running,
    tracepoints: &Tracepoints,
    names: impl IntoIterator<Item = &'a str>,
    work: impl FnOnce(&mut Running) -> Result<Asked>,
) -> Result<Counted> {
    let counters = Counters::start(tracepoints, running.pid(), names)?;
    let asked = work(running)?;
    Ok(Counted { asked, counts: counters.read()? })
}

/// One round of load; returns when the server sleeps.
fn ask(running: &mut Running, load: &mut Load, shape: Shape, effort: Effort) -> Result<Asked> {
    let scheduled = |running: &Running| {
        let server = Scheduled::of_process(running.pid()).context("reading the server's schedstat")?;
        Ok((server, Scheduled::of_this_thread().context("reading the loader's schedstat")?))
    };
    let start = Instant::now();
    let (server_before, loader_before) = scheduled(running)?;
    let (visits, until) = match shape {
        Shape::Steady => (1, Until::After(effort.slice)),
        Shape::Waves => (effort.waves, Until::Once),
    };
    let mut messages = 0;
    for _ in 0..visits {
        let visit = load.visit(until);
        messages += blame(running, visit)?.operations;
        thread::sleep(SETTLE);
    }
    let (server, loader) = scheduled(running)?;
    let waited_ns = server.disturbed_ns(server_before).max(loader.disturbed_ns(loader_before));
    Ok(Asked {
        messages,
        cpu_ns: server.cpu_ns - server_before.cpu_ns,
        disturbed: waited_ns as f64 / start.elapsed().as_nanos() as f64,
    })
}
