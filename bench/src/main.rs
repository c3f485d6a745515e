//! `compare`: echo servers side by side, processor time per message, as ratios to a bare io_uring loop.
//!
//! `README.md` says what is compared, how, and how to read the result. The map: `process` holds the table of
//! servers and runs them as children, `server/` are those that live in this program, `load/` asks them,
//! `measure` is the method, `report/` writes the result: tables, or a page with pictures (`--page`). `calls/` counts
//! system calls in place of time, `instructions/` instructions; `pool/` compares ways to have work done by another
//! thread.

#[cfg(not(target_os = "linux"))]
compile_error!("compare measures io_uring and epoll, which only Linux has");

mod calls;
mod error;
mod instructions;
mod load;
mod machine;
mod measure;
mod pool;
mod process;
mod progress;
mod report;
mod ring;
mod server;
mod stats;
mod sys;
mod timers;
mod workload;

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    calls::{Shape, counters::Tracepoints},
    error::{Context, Error, Result},
    machine::Machine,
    measure::Effort,
    process::{Programs, SERVERS, Server},
    progress::Progress,
    report::{
        json,
        markdown::Markdown,
        page, picture, readme,
        record::{Instructions, Line, Record},
    },
    workload::{Role, Workload},
};

/// Compares echo servers: processor time per message, as ratios to a bare io_uring loop.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Subcommand)]
enum Action {
    /// Runs one of the servers that live in this program, until it is killed.
    Server {
        kind: server::Kind,
        /// Where to listen.
        #[arg(long, value_name = "ADDRESS")]
        listen: SocketAddr,
        /// Of the buffer that a connection has for itself, in servers where it has one.
        #[arg(long, value_name = "BYTES", default_value_t = 4096)]
        buffer_bytes: u32,
    },
    /// Counts the system calls that a server makes for each message. Needs root, for the kernel's tracepoints.
    SystemCalls(SystemCalls),
    /// Counts the instructions that a server itself needs for each message, connection or delivery. Needs valgrind.
    Instructions(instructions::Arguments),
    /// Timers: a turn, setting and taking back, firing, beside a sorted map and tokio.
    Timers(timers::Timers),
    /// Compares what it costs to have work done by another thread: completion port, channels, tokio.
    Pool(pool::Pool),
}

#[derive(Args)]
struct SystemCalls {
    /// What to ask, may be repeated: echo[:CONNECTIONS[:DEPTH[:BYTES]]].
    #[arg(long, value_name = "WORKLOAD")]
    workload: Vec<Workload>,
    /// Only these servers, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    servers: Vec<String>,
    /// How often each server is counted.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each steady round lasts, in ms.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    slice_ms: u64,
    /// In each round of waves.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    waves: u32,
    /// Also counts this program of Windows, under Wine (the command `wine`): anyport.exe, or another that takes
    /// `serve echo --shards 1 --listen ADDRESS`.
    #[arg(long, value_name = "EXE")]
    wine: Option<PathBuf>,
    /// The program of this project; without it, it is built from the folder above.
    #[arg(long, value_name = "PATH", conflicts_with = "skip_anyport")]
    anyport: Option<PathBuf>,
    /// Leaves this project out, except for `--wine`.
    #[arg(long)]
    skip_anyport: bool,
    /// The processor of the servers.
    #[arg(long, value_name = "N", default_value_t = 0)]
    server_cpu: usize,
    /// The processor of the loader.
    #[arg(long, value_name = "N", default_value_t = 1)]
    loader_cpu: usize,
}

#[derive(Args)]
struct Compare {
    /// What to measure, may be repeated: echo[:CONNECTIONS[:DEPTH[:BYTES]]], stream[:CONNECTIONS], churn[:LANES],
    /// fanout[:MEMBERS[:DEPTH]], idle[:SESSIONS], open[:CONNECTIONS[:RATE]].
    #[arg(long, value_name = "WORKLOAD")]
    workload: Vec<Workload>,
    /// Only these servers, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    servers: Vec<String>,
    /// A smoke run: two workloads, few rounds.
    #[arg(long)]
    quick: bool,
    /// In place of the usual workloads: echo with 100 to 20,000 connections.
    #[arg(long, conflicts_with_all = ["workload", "quick"])]
    scale: bool,
    /// How often each server is visited [default: 15].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// How long each visit lasts, in ms [default: 100].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    slice_ms: Option<u64>,
    /// The program of this project; without it, it is built from the folder above.
    #[arg(long, value_name = "PATH", conflicts_with = "skip_anyport")]
    anyport: Option<PathBuf>,
    /// Added to anyport's command line, may be repeated.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    anyport_arg: Vec<String>,
    /// Leaves this project out.
    #[arg(long)]
    skip_anyport: bool,
    /// The processor of all servers.
    #[arg(long, value_name = "N", default_value_t = 0)]
    server_cpu: usize,
    /// The processor of the loader.
    #[arg(long, value_name = "N", default_value_t = 1)]
    loader_cpu: usize,
    /// The first port of the servers; without it, ports are chosen that nobody uses.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Also writes every figure to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draws the ratios.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measures everything there is, and writes benchmarks.md with pictures and figures into a folder [default: docs of this
    /// project]; also the short table in the README above that folder, if it has the marks for it.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true, default_missing_value = DOCS)]
    page: Option<PathBuf>,
    /// Measures nothing: reads an earlier run's JSON and writes it again.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// Where the page lies if the user does not say.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Action::Server { kind, listen, buffer_bytes }) => {
            server::run(kind, listen, buffer_bytes as usize).map(|()| true)
        }
        Some(Action::SystemCalls(arguments)) => count_calls(&arguments),
        Some(Action::Instructions(arguments)) => instructions::run(&arguments),
        Some(Action::Timers(arguments)) => timers::compare(&arguments).map(|()| true),
        Some(Action::Pool(arguments)) => pool::compare(&arguments).map(|()| true),
        None => compare(&arguments.compare),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, or reads what was measured, and reports; false if a server failed.
fn compare(arguments: &Compare) -> Result<bool> {
    let record = match &arguments.from {
        Some(file) => {
            let unfit = |error: &dyn std::fmt::Display| {
                Error::Usage(format!("{}: {error}; it must be what --json or --page wrote", file.display()))
            };
            let text = fs::read_to_string(file).map_err(|error| unfit(&error))?;
            json::read(&text).map_err(|error| unfit(&error))?
        }
        None => run(arguments)?,
    };
    write(arguments, &record)?;
    Ok(!record.failed())
}

/// Measures.
fn run(arguments: &Compare) -> Result<Record> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let everything = workload::everything();
    let workloads = match &arguments.workload[..] {
        [] if arguments.quick => &workload::QUICK[..],
        [] if arguments.scale => &workload::SCALE[..],
        [] if arguments.page.is_some() => &everything,
        [] => &workload::DEFAULT[..],
        chosen => chosen,
    };
    let mut servers = choose_servers(&arguments.servers, arguments.skip_anyport)?;
    // No column for a server that has nothing to do.
    servers.retain(|server| workloads.iter().any(|workload| server.plays(workload.role())));
    if servers.is_empty() {
        return Err(Error::Usage("none of these servers does what the workloads ask".into()));
    }
    check_descriptors(workloads, &servers)?;
    let mut programs = Programs {
        own: std::env::current_exe().context("path of this program")?,
        anyport: arguments.anyport.clone(),
        asio: None,
        anyport_arguments: arguments.anyport_arg.clone(),
        server_cpu: arguments.server_cpu,
        port_first: arguments.port,
    };
    let notes = build_asio(&mut servers, &mut programs)?;
    if programs.anyport.is_none() && servers.iter().any(Server::needs_anyport) {
        programs.anyport = Some(process::build_anyport(root)?);
    }
    sys::pin_to(arguments.loader_cpu).context("pinning the loader to its CPU")?;
    let (rounds, slice_ms) = if arguments.quick { (3, 50) } else { (15, 100) };
    let effort = Effort {
        rounds: arguments.rounds.unwrap_or(rounds),
        slice: Duration::from_millis(arguments.slice_ms.unwrap_or(slice_ms)),
    };
    let cpus = (arguments.server_cpu, arguments.loader_cpu);
    let mut record = Record::new(Machine::look(root), &servers, effort, cpus);
    record.notes.extend(notes);
    let weight = |workload: &Workload| servers.iter().filter(|server| server.plays(workload.role())).count();
    let mut progress = Progress::new(workloads.iter().map(weight).collect());
    for workload in workloads {
        eprint!("{} {workload} ", progress.next());
        let outcome = measure::measure(*workload, &servers, &programs, effort, arguments.loader_cpu)?;
        eprintln!(" {}", progress.left());
        record.workloads.push(Line::of(&outcome));
    }
    // A page of everything has the instructions as well.
    if arguments.page.is_some() && workloads.len() == everything.len() && programs.anyport.is_some() {
        eprintln!("instructions, under valgrind: a minute or two");
        match count_instructions(&programs) {
            Ok(table) => {
                record.instructions = Some(Instructions::of(&table));
                let failures = table.failures.iter();
                record.notes.extend(
                    failures.map(|(server, error)| format!("{server}, counting its instructions: {error}")),
                );
            }
            Err(error) => record.notes.push(format!("Instructions were not counted: {error}.")),
        }
    }
    Ok(record)
}

/// Last of all, since this thread moves to the processor of the servers.
fn count_instructions(programs: &Programs) -> Result<instructions::Table> {
    let (workloads, servers) = (&instructions::WORKLOADS, instructions::servers());
    instructions::count(workloads, &servers, programs, instructions::WAVES)
}

/// Counts and reports; false if a server failed.
fn count_calls(arguments: &SystemCalls) -> Result<bool> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut servers = choose_servers(&arguments.servers, arguments.skip_anyport)?;
    servers.retain(|server| server.plays(Role::Echo) && !server.has_many_threads());
    let workloads = if arguments.workload.is_empty() { &workload::COUNTED[..] } else { &arguments.workload };
    if let Some(workload) = workloads.iter().find(|workload| !matches!(workload, Workload::Echo { .. })) {
        return Err(Error::Usage(format!("{workload}: calls are counted for an echo only")));
    }
    check_descriptors(workloads, &servers)?;
    let tracepoints = Tracepoints::read()?;
    let mut programs = Programs {
        own: std::env::current_exe().context("path of this program")?,
        anyport: arguments.anyport.clone(),
        asio: None,
        anyport_arguments: Vec::new(),
        server_cpu: arguments.server_cpu,
        port_first: None,
    };
    build_asio(&mut servers, &mut programs)?;
    if programs.anyport.is_none() && servers.iter().any(Server::needs_anyport) {
        programs.anyport = Some(process::build_anyport(root)?);
    }
    sys::pin_to(arguments.loader_cpu).context("pinning the loader to its CPU")?;
    let effort = calls::Effort {
        rounds: arguments.rounds,
        slice: Duration::from_millis(arguments.slice_ms),
        waves: arguments.waves,
    };
    let mut lines = Vec::new();
    for shape in [Shape::Steady, Shape::Waves] {
        for workload in workloads {
            eprint!("{workload} ");
            let mut line = calls::count(*workload, shape, &servers, &programs, effort, &tracepoints);
            if let (Shape::Waves, Some(program)) = (shape, &arguments.wine) {
                line.add_under_wine("anyport iocp", program, effort, arguments.server_cpu);
            }
            eprintln!();
            lines.push(line);
        }
    }
    let report = calls::table::Report {
        machine: Machine::look(root),
        effort,
        server_cpu: arguments.server_cpu,
        loader_cpu: arguments.loader_cpu,
        lines,
    };
    write!(io::stdout(), "{report}").context("standard output")?;
    Ok(report.lines.iter().all(|line| line.failures.is_empty()))
}

/// Compiles Asio's server if it is one of these. Where that cannot be, the others are measured without it, and the note
/// that comes back says why.
fn build_asio(servers: &mut Vec<Server>, programs: &mut Programs) -> Result<Vec<String>> {
    if !servers.iter().any(Server::needs_asio) {
        return Ok(Vec::new());
    }
    match server::asio::build() {
        Ok(program) => {
            programs.asio = Some(program);
            Ok(Vec::new())
        }
        Err(error) => {
            servers.retain(|server| !server.needs_asio());
            let note = format!("Asio is left out: {error}");
            eprintln!("{note}");
            if servers.is_empty() { Err(error) } else { Ok(vec![note]) }
        }
    }
}

/// Refuses a workload that none of the servers can hold. The loader's own connections are in tables of its rings.
fn check_descriptors(workloads: &[Workload], servers: &[Server]) -> Result<()> {
    let descriptors_max = sys::raise_descriptor_limit().context("limit of descriptors")?;
    let holds = |workload: &Workload| {
        let mut asked = servers.iter().filter(|server| server.plays(workload.role()));
        asked.any(|server| u64::from(workload.connections()) <= server.sessions_max(descriptors_max))
    };
    match workloads.iter().find(|workload| !holds(workload)) {
        None => Ok(()),
        Some(workload) => Err(Error::Usage(format!(
            "{workload}: a process may open only {descriptors_max} descriptors here (`ulimit -n` raises that)"
        ))),
    }
}

fn choose_servers(names: &[String], skip_anyport: bool) -> Result<Vec<Server>> {
    let known = || SERVERS.map(|server| server.name).join(", ");
    for name in names {
        if !SERVERS.iter().any(|server| server.name == name) {
            return Err(Error::Usage(format!("no server `{name}`; there are: {}", known())));
        }
    }
    let chosen = SERVERS.into_iter().filter(|server| {
        let named =
            if names.is_empty() { !server.on_request } else { names.iter().any(|name| name == server.name) };
        named && !(skip_anyport && server.needs_anyport())
    });
    match chosen.collect::<Vec<_>>() {
        chosen if chosen.is_empty() => Err(Error::Usage("no server is left to measure".into())),
        chosen => Ok(chosen),
    }
}

fn write(arguments: &Compare, record: &Record) -> Result<()> {
    write!(io::stdout(), "{}", Markdown(record)).context("standard output")?;
    if let Some(file) = &arguments.json {
        let text = json::write(record).map_err(|error| Error::Usage(format!("writing JSON: {error}")))?;
        fs::write(file, text).context("writing the JSON file")?;
    }
    if let Some(file) = &arguments.svg {
        fs::write(file, picture::all(record, |_| true)).context("writing the SVG file")?;
    }
    if let Some(folder) = &arguments.page {
        page::write(record, folder)?;
        eprintln!("written: {}", folder.join(page::PAGE).display());
        refresh_readme(record, &folder.join("../README.md"))?;
    }
    Ok(())
}

/// The short table, where the README has a place for it.
fn refresh_readme(record: &Record, file: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(file) else {
        return Ok(());
    };
    let Some(text) = readme::replaced(&text, &readme::excerpt(record)) else {
        return Ok(());
    };
    fs::write(file, text).context("writing the README")?;
    eprintln!("written: the table in {}", file.display());
    Ok(())
}
