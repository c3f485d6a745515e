//! How many instructions does a server itself need for each operation, the kernel's not counted?
//!
//! A server runs under callgrind, valgrind's counter. Its figures hardly depend on what else the machine does, so that
//! they tell differences of a few instructions where time tells one of a hundred. The load comes in waves: all
//! connections send, and again only when all answers are there and the server sleeps. Server and loader share a
//! processor, and the server never takes it from the loader, so that a wave is there as a whole when the server wakes.
//! So many waves are counted, then twice as many: the difference is free of what happens once.

mod callgrind;
mod profile;
mod table;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;

pub use self::table::Table;
use self::{callgrind::Callgrind, profile::Profile};
use crate::{
    error::{Context, Error, Result},
    load::{Load, Until},
    machine::Machine,
    measure::blame,
    process::{self, BARE_EPOLL, BARE_URING, Programs, SERVERS, Server},
    server, sys,
    workload::{Role, Workload},
};

/// What `compare instructions` takes.
#[derive(Args)]
pub struct Arguments {
    /// What to count, may be repeated: echo[:CONNECTIONS[:DEPTH[:BYTES]]], churn[:LANES], fanout[:MEMBERS[:DEPTH]].
    #[arg(long, value_name = "WORKLOAD")]
    workload: Vec<Workload>,
    /// Only these servers, separated by commas [default: the bare loops, and this project with its drivers].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    servers: Vec<String>,
    /// How many waves are counted; then twice as many are.
    #[arg(long, default_value_t = WAVES, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    waves: u32,
    /// Also lists the functions, and the files, that need most of them.
    #[arg(long)]
    functions: bool,
    /// The program of this project; without it, it is built from the folder above.
    #[arg(long, value_name = "PATH")]
    anyport: Option<PathBuf>,
    /// The processor of servers and loader.
    #[arg(long, value_name = "N", default_value_t = 0)]
    cpu: usize,
}

/// Waves that are counted unless the user says otherwise.
pub const WAVES: u32 = 20;

/// The servers that are counted unless the user says otherwise.
const COUNTED: [&str; 4] = [BARE_URING, BARE_EPOLL, "anyport io-uring", "anyport readiness"];

/// What is counted unless the user says otherwise.
pub const WORKLOADS: [Workload; 6] = [
    Workload::Echo { connections: 1, depth: 1, size_bytes: 64 },
    Workload::Echo { connections: 64, depth: 1, size_bytes: 64 },
    Workload::Echo { connections: 64, depth: 16, size_bytes: 64 },
    Workload::Echo { connections: 64, depth: 1, size_bytes: 4096 },
    Workload::Fanout { members: 100, depth: 1 },
    Workload::Churn { lanes: 64 },
];

/// One server under one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    pub workload: Workload,
    pub server: &'static str,
    /// Instructions of the server for an operation.
    pub per_operation: f64,
    /// Of these, those of each function itself, without what it calls. What was inlined belongs to the function that it
    /// was inlined into.
    pub functions: BTreeMap<String, f64>,
    /// The same by the file whose lines they come from; here, what was inlined belongs to its own file.
    pub files: BTreeMap<String, f64>,
}

/// Counts what the command line asks for, and prints it; false if a server failed.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let workloads = if arguments.workload.is_empty() { &WORKLOADS[..] } else { &arguments.workload };
    let servers = choose(&arguments.servers)?;
    // Before anything is built.
    check(workloads)?;
    callgrind::version()?;
    let mut programs = Programs {
        own: std::env::current_exe().context("path of this program")?,
        anyport: arguments.anyport.clone(),
        asio: None,
        anyport_arguments: Vec::new(),
        server_cpu: arguments.cpu,
        port_first: None,
    };
    if programs.anyport.is_none() && servers.iter().any(Server::needs_anyport) {
        programs.anyport = Some(process::build_anyport(root)?);
    }
    if servers.iter().any(Server::needs_asio) {
        programs.asio = Some(server::asio::build()?);
    }
    let table = count(workloads, &servers, &programs, arguments.waves)?;
    let machine = Machine::look(root);
    println!("Machine: {}, {}, {}, commit {}.\n", machine.cpu, machine.kernel, machine.rustc, machine.commit);
    print!("{table}");
    if arguments.functions {
        print!("{}", table.by_place());
    }
    Ok(table.failures.is_empty())
}

fn choose(names: &[String]) -> Result<Vec<Server>> {
    if let Some(unknown) = names.iter().find(|name| !SERVERS.iter().any(|server| server.name == **name)) {
        let known = SERVERS.map(|server| server.name).join(", ");
        return Err(Error::Usage(format!("no server `{unknown}`; there are: {known}")));
    }
    if names.is_empty() {
        return Ok(servers());
    }
    Ok(SERVERS.into_iter().filter(|server| names.iter().any(|name| name == server.name)).collect())
}

/// The servers that are counted unless the user says otherwise.
pub fn servers() -> Vec<Server> {
    SERVERS.into_iter().filter(|server| COUNTED.contains(&server.name)).collect()
}

/// Counts every workload on every server that plays its part; servers and loader run on `programs.server_cpu`, where the
/// calling thread stays.
///
/// # Errors
/// If valgrind is missing, or a workload is none that waves can be made of. A server that fails is noted in the table.
pub fn count(workloads: &[Workload], servers: &[Server], programs: &Programs, waves: u32) -> Result<Table> {
    check(workloads)?;
    let mut table =
        Table { valgrind: callgrind::version()?, waves, counts: Vec::new(), failures: Vec::new() };
    sys::raise_descriptor_limit().context("limit of descriptors")?;
    sys::pin_to(programs.server_cpu).context("pinning the loader to its CPU")?;
    for server in servers {
        for role in [Role::Echo, Role::Fanout] {
            let mut asked = workloads.iter().filter(|workload| workload.role() == role);
            let largest = asked.clone().max_by_key(|workload| workload.buffer_bytes());
            let Some(largest) = largest.filter(|_| server.plays(role)) else {
                continue;
            };
            eprint!("{}{} ", server.name, if role == Role::Fanout { ", fan-out" } else { "" });
            // One server for all workloads: to start one under valgrind takes seconds.
            let started = Callgrind::start(server, *largest, programs);
            let counted = started.and_then(|mut callgrind| {
                asked.try_for_each(|workload| {
                    eprint!(".");
                    table.counts.push(count_one(*workload, server.name, &mut callgrind, waves)?);
                    Ok(())
                })
            });
            if let Err(error) = counted {
                eprint!("\n  failed: {error}");
                table.failures.push((server.name, error.to_string()));
            }
            eprintln!();
        }
    }
    Ok(table)
}

/// Refuses what cannot be counted.
fn check(workloads: &[Workload]) -> Result<()> {
    match workloads.iter().find(|workload| !comes_in_waves(**workload)) {
        Some(workload) => {
            let which = "instructions are counted for echo, fanout and churn only";
            Err(Error::Usage(format!("{workload}: {which}")))
        }
        None => Ok(()),
    }
}

fn comes_in_waves(workload: Workload) -> bool {
    matches!(workload, Workload::Echo { .. } | Workload::Fanout { .. } | Workload::Churn { .. })
}

fn count_one(
    workload: Workload,
    server: &'static str,
    callgrind: &mut Callgrind,
    waves: u32,
) -> Result<Count> {
    let load = Load::open(callgrind.running.address, workload);
    let mut load = blame(&mut callgrind.running, load)?;
    // Warms up; what was counted until then is not of interest.
    ask(callgrind, &mut load, waves.div_ceil(2))?;
    callgrind.dump()?;
    let once = ask(callgrind, &mut load, waves)?;
    let first = callgrind.dump()?;
    let twice = ask(callgrind, &mut load, 2 * waves)?;
    let second = callgrind.dump()?;
    drop(load);
    callgrind.await_sleep()?;
    let operations = (twice - once) as f64;
    let each = |second: &BTreeMap<String, u64>, first: &BTreeMap<String, u64>| {
        let by_name = second.iter().map(|(name, count)| {
            (name.clone(), (*count as f64 - first.get(name).copied().unwrap_or(0) as f64) / operations)
        });
        by_name.collect()
    };
    Ok(Count {
        workload,
        server,
        per_operation: (second.total() as f64 - first.total() as f64) / operations,
        functions: each(&second.functions, &first.functions),
        files: each(&second.files, &first.files),
    })
}

/// So many waves; gives the operations.
fn ask(callgrind: &mut Callgrind, load: &mut Load, waves: u32) -> Result<u64> {
    let mut operations = 0;
    for _ in 0..waves {
        let visit = load.visit(Until::Once);
        operations += blame(&mut callgrind.running, visit)?.operations;
        callgrind.await_sleep()?;
    }
    Ok(operations)
}
