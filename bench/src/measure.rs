//! The method: all servers alive at once on one processor with all their connections open, the loader on the
//! other visiting them in turn. What drifts, drifts for all of them, and the ratios within a round hold.

use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Context, Error, Fault, Result},
    load::{Latencies, Load, Until},
    process::{Programs, Running, Server},
    stats::Spread,
    sys::{self, Memory, Scheduled},
    workload::{Rate, Workload},
};

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: u32,
    pub slice: Duration,
}

impl Effort {
    /// What one workload takes of it.
    pub fn of(self, workload: Workload) -> Self {
        let slices = |factor| Self { slice: self.slice * factor, ..self };
        match workload {
            // Both sides sleep and wake for each message, which varies most.
            Workload::Echo { connections: 1, .. } => Self { rounds: self.rounds * 2, ..slices(2) },
            // Each connection is to have about ten turns, so that the first and the last do not decide.
            Workload::Echo { connections, .. } => slices((connections / TURNS_CONNECTIONS).clamp(1, 10)),
            // The first and the last messages have one direction for themselves.
            Workload::Stream { .. } => slices(2),
            // The slowest of 1,000 messages is to be more than a handful of them.
            Workload::Open { .. } => slices(5),
            Workload::Churn { .. } | Workload::Fanout { .. } | Workload::Idle { .. } => self,
        }
    }
}

/// So many have some ten turns in a slice of the usual length.
const TURNS_CONNECTIONS: u32 = 2000;

/// One visit to one server.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub operations: u64,
    pub cpu_ns: u64,
    pub wall: Duration,
    /// Other processes had the processor while the server could have run, beyond what it takes to be put on it; 0 where
    /// its own threads had it.
    pub server_waited_ns: u64,
    /// The same for the loader.
    pub loader_waited_ns: u64,
    /// Processor time of the loader.
    pub loader_cpu_ns: u64,
    /// Of an open loop.
    pub latency: Option<Latencies>,
}

impl Slice {
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.wall.as_secs_f64()
    }
}

/// How long messages took, in µs, from the moment for which they were scheduled until all of their echo was there.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50_us: Spread,
    pub p99_us: Spread,
    pub p999_us: Spread,
}

/// One server under one workload.
#[derive(Debug)]
pub enum Figures {
    /// One slice for each round.
    Slices(Vec<Slice>),
    Memory {
        before: Memory,
        with_sessions: Memory,
        /// The share of a processor that the server took while its sessions were open and nobody said anything.
        idle_cpu: f64,
    },
}

/// All servers under one workload.
#[derive(Debug)]
pub struct Outcome {
    pub workload: Workload,
    /// What this workload took.
    pub effort: Effort,
    /// The servers that did not fail, in any order.
    pub columns: Vec<(Server, Figures)>,
    /// Servers that failed, and how.
    pub failures: Vec<(Server, String)>,
    /// Servers that cannot do what the workload asks on this machine, and why.
    pub left_out: Vec<(Server, String)>,
    /// Of an open loop: messages a second.
    pub offered: Option<f64>,
    /// One for each round: a cache line from processor to processor and back.
    pub ping_pong_ns: Vec<f64>,
    pub load_average: f64,
}

impl Outcome {
    fn fail(&mut self, server: &Server, error: &Error) {
        eprint!("\n  {} failed: {error}\n  ", server.name);
        self.failures.push((*server, error.to_string()));
    }

    /// What was measured, or none and a note of the failure.
    fn note<T>(&mut self, server: Server, result: Result<T>) -> Option<T> {
        result.inspect_err(|error| self.fail(&server, error)).ok()
    }

    fn slices(&self, name: &str) -> Option<&[Slice]> {
        self.columns.iter().find_map(|(server, figures)| match figures {
            Figures::Slices(slices) if server.name == name => Some(&slices[..]),
            _ => None,
        })
    }

    /// Of an open loop: how long messages took. The quartiles are those of the rounds.
    pub fn latency(&self, name: &str) -> Option<Latency> {
        let slices = self.slices(name)?;
        let over = |ns: fn(Latencies) -> u64| {
            Spread::of(slices.iter().filter_map(|slice| slice.latency).map(|all| ns(all) as f64 / 1000.0))
        };
        Some(Latency {
            p50_us: over(|all| all.p50_ns)?,
            p99_us: over(|all| all.p99_ns)?,
            p999_us: over(|all| all.p999_ns)?,
        })
    }

    /// Of an open loop: the share of all messages that the loader itself sent late. Their waiting is in the latency,
    /// but it is not the server's.
    pub fn late_share(&self, name: &str) -> Option<f64> {
        let slices = self.slices(name)?;
        let late: u64 = slices.iter().filter_map(|slice| slice.latency).map(|all| all.late).sum();
        let operations: u64 = slices.iter().map(|slice| slice.operations).sum();
        self.workload.is_open().then(|| late as f64 / operations as f64)
    }

    /// The share of a processor that a server takes while its sessions are open and nobody says anything.
    pub fn idle_cpu(&self, name: &str) -> Option<f64> {
        self.columns.iter().find_map(|(server, figures)| match figures {
            Figures::Memory { idle_cpu, .. } if server.name == name => Some(*idle_cpu),
            _ => None,
        })
    }

    /// Memory for each session: (Rss, Pss) in bytes.
    pub fn session_bytes(&self, name: &str) -> Option<(f64, f64)> {
        let sessions = f64::from(self.workload.connections());
        self.columns.iter().find_map(|(server, figures)| match figures {
            Figures::Memory { before, with_sessions, .. } if server.name == name => {
                let each = |after: u64, before: u64| (after as f64 - before as f64) / sessions;
                Some((
                    each(with_sessions.rss_bytes, before.rss_bytes),
                    each(with_sessions.pss_bytes, before.pss_bytes),
                ))
            }
            _ => None,
        })
    }
}

/// Measures one workload on servers started for it. A server that fails is left out from then on.
pub fn measure(
    workload: Workload,
    servers: &[Server],
    programs: &Programs,
    effort: Effort,
    loader_cpu: usize,
) -> Result<Outcome> {
    let load_average = load_average();
    let effort = effort.of(workload);
    let mut outcome = Outcome {
        workload,
        effort,
        columns: Vec::new(),
        failures: Vec::new(),
        left_out: Vec::new(),
        offered: None,
        ping_pong_ns: Vec::new(),
        load_average,
    };
    let descriptors_max = sys::raise_descriptor_limit().context("limit of descriptors")?;
    let servers = servers.iter().copied().filter(|server| server.plays(workload.role()));
    let (servers, small): (Vec<_>, Vec<_>) =
        servers.partition(|server| u64::from(workload.connections()) <= server.sessions_max(descriptors_max));
    outcome.left_out.extend(small.into_iter().map(|server| {
        let reason = if server.has_many_threads() {
            format!("it has a thread for each session, here at most {}", server.sessions_max(descriptors_max))
        } else {
            format!("a process may open only {descriptors_max} descriptors here (see `ulimit -n`)")
        };
        (server, reason)
    }));
    let servers = (0..).zip(servers);
    if let Workload::Idle { .. } = workload {
        for (index, server) in servers {
            eprint!(".");
            match measure_memory(workload, &server, index, programs) {
                Ok(figures) => outcome.columns.push((server, figures)),
                Err(error) => outcome.fail(&server, &error),
            }
        }
        return Ok(outcome);
    }
    let mut contestants = Vec::new();
    for (index, server) in servers {
        match Contestant::start(workload, server, index, programs) {
            Ok(contestant) => contestants.push(contestant),
            Err(error) => outcome.fail(&server, &error),
        }
    }
    if let Workload::Open { rate, .. } = workload {
        let rate = match rate {
            Rate::PerSecond(rate) => f64::from(rate),
            Rate::Percent(percent) => {
                saturated(&mut contestants, &mut outcome, effort) * f64::from(percent) / 100.0
            }
        };
        contestants.iter_mut().for_each(|contestant| contestant.load.offer(rate));
        outcome.offered = (!contestants.is_empty()).then_some(rate);
    }
    // Warms caches and allocators; not counted.
    contestants
        .retain_mut(|contestant| outcome.note(contestant.server, contestant.visit(effort.slice)).is_some());
    for _ in 0..effort.rounds {
        eprint!(".");
        if programs.server_cpu != loader_cpu {
            outcome.ping_pong_ns.push(ping_pong_ns(programs.server_cpu).context("ping-pong")?);
        }
        if !contestants.is_empty() {
            // No server always comes first, nor always in the same distance from a disturbance.
            contestants.rotate_left(1);
        }
        contestants.retain_mut(|contestant| {
            let slice = outcome.note(contestant.server, contestant.visit(effort.slice));
            slice.map(|slice| contestant.slices.push(slice)).is_some()
        });
    }
    outcome.columns = contestants
        .into_iter()
        .map(|contestant| (contestant.server, Figures::Slices(contestant.slices)))
        .collect();
    Ok(outcome)
}

/// Messages a second of the slowest server (not of one with a thread for each session, unless there is no other), each connection sending its next message when the one before is back.
fn saturated(contestants: &mut Vec<Contestant>, outcome: &mut Outcome, effort: Effort) -> f64 {
    let mut rates = vec![Vec::new(); contestants.len()];
    // The first round warms up.
    for round in 0..=SATURATING_ROUNDS {
        let mut place = 0;
        contestants.retain_mut(|contestant| {
            let Some(slice) = outcome.note(contestant.server, contestant.visit(effort.slice / 4)) else {
                rates.remove(place);
                return false;
            };
            if round > 0 {
                rates[place].push(slice.rate());
            }
            place += 1;
            true
        });
    }
    let measured = contestants.iter().zip(rates).filter_map(|(contestant, rates)| {
        Some((contestant.server.has_many_threads(), Spread::of(rates)?.median))
    });
    let measured: Vec<_> = measured.collect();
    // A server with a thread for each session is so much slower that its half is idleness for all others.
    let slowest = |many: bool| {
        measured.iter().filter(|(threads, _)| *threads == many).map(|(_, rate)| *rate).reduce(f64::min)
    };
    slowest(false).or(slowest(true)).unwrap_or(f64::INFINITY)
}

/// Enough for a median.
const SATURATING_ROUNDS: u32 = 5;

/// A server that runs, and the connections to it.
struct Contestant {
    server: Server,
    running: Running,
    load: Load,
    slices: Vec<Slice>,
}

impl Contestant {
    fn start(workload: Workload, server: Server, index: u16, programs: &Programs) -> Result<Self> {
        let mut running = Running::start(&server, workload, index, programs)?;
        let load = Load::open(running.address, workload);
        let load = blame(&mut running, load)?;
        Ok(Self { server, running, load, slices: Vec::new() })
    }

    fn visit(&mut self, slice: Duration) -> Result<Slice> {
        let scheduled = |running: &mut Running| -> Result<_> {
            let loader = Scheduled::of_this_thread().context("reading the loader's schedstat")?;
            match Scheduled::of_process(running.pid()) {
                Ok(server) => Ok((server, loader)),
                Err(source) => {
                    running.check_alive()?;
                    Err(Error::System { what: "reading the server's schedstat", source })
                }
            }
        };
        let (server_before, loader_before) = scheduled(&mut self.running)?;
        let visit = self.load.visit(Until::After(slice));
        let visit = blame(&mut self.running, visit)?;
        thread::sleep(SETTLE);
        let (server, loader) = scheduled(&mut self.running)?;
        let many = self.server.has_many_threads();
        let waited_ns = if many { 0 } else { server.disturbed_ns(server_before) };
        Ok(Slice {
            operations: visit.operations,
            cpu_ns: server.cpu_ns - server_before.cpu_ns,
            wall: visit.wall,
            server_waited_ns: waited_ns,
            loader_waited_ns: loader.disturbed_ns(loader_before),
            loader_cpu_ns: loader.cpu_ns - loader_before.cpu_ns,
            latency: visit.latency,
        })
    }
}

/// After the last byte the server still has to fall asleep, which is when the kernel books its time.
const SETTLE: Duration = Duration::from_micros(300);

/// A fault seen from outside: if the server died, its own last words say more.
pub fn blame<T>(server: &mut Running, result: std::result::Result<T, Fault>) -> Result<T> {
    result.or_else(|fault| {
        // Resets arrive a little before the process can be waited for.
        thread::sleep(Duration::from_millis(50));
        server.check_alive()?;
        Err(Error::Server { server: server.name.into(), fault })
    })
}

/// Lets the server finish what it allocates and frees after its last message.
const MEMORY_SETTLE: Duration = Duration::from_millis(300);

/// Until then a server does what it does once after it was last spoken to: on io_uring, anyport looks once at each socket that
/// falls quiet.
const SILENCE_BEGINS: Duration = Duration::from_secs(2);

/// How long a server is watched while nobody says anything: several turns of the timers that some have.
const SILENCE: Duration = Duration::from_secs(1);

fn measure_memory(workload: Workload, server: &Server, index: u16, programs: &Programs) -> Result<Figures> {
    let mut running = Running::start(server, workload, index, programs)?;
    let memory = |server: &Running| {
        thread::sleep(MEMORY_SETTLE);
        sys::process_memory(server.pid()).context("reading smaps_rollup")
    };
    let before = memory(&running)?;
    let load = Load::open(running.address, workload);
    let mut load = blame(&mut running, load)?;
    let visit = load.visit(Until::Once);
    blame(&mut running, visit)?;
    let with_sessions = memory(&running)?;
    let cpu =
        |server: &Running| Scheduled::of_process(server.pid()).context("reading the server's schedstat");
    thread::sleep(SILENCE_BEGINS);
    let (start, cpu_before) = (Instant::now(), cpu(&running)?);
    thread::sleep(SILENCE);
    let silent_ns = cpu(&running)?.cpu_ns - cpu_before.cpu_ns;
    let idle_cpu = silent_ns as f64 / start.elapsed().as_nanos() as f64;
    running.check_alive()?;
    Ok(Figures::Memory { before, with_sessions, idle_cpu })
}

/// The time one cache line takes to the server's processor and back: tells whether the host keeps the two
/// processors near each other.
fn ping_pong_ns(server_cpu: usize) -> std::io::Result<f64> {
    const BATCHES: u32 = 20;
    const ROUND_TRIPS: u32 = 200;
    let line = Arc::new(AtomicU32::new(0));
    let pinned = Arc::clone(&line);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        let result = sys::pin_to(server_cpu);
        let failed = result.is_err();
        // The receiver lives until it has received.
        let _ = ready.send(result);
        for turn in 0..if failed { 0 } else { BATCHES * ROUND_TRIPS } {
            while pinned.load(Ordering::Acquire) != 2 * turn + 1 {
                hint::spin_loop();
            }
            pinned.store(2 * turn + 2, Ordering::Release);
        }
    });
    is_ready.recv().map_err(|_| std::io::ErrorKind::BrokenPipe)??;
    let mut best = f64::INFINITY;
    for batch in 0..BATCHES {
        let start = Instant::now();
        for turn in batch * ROUND_TRIPS..(batch + 1) * ROUND_TRIPS {
            line.store(2 * turn + 1, Ordering::Release);
            while line.load(Ordering::Acquire) != 2 * turn + 2 {
                hint::spin_loop();
            }
        }
        // The best batch is the one that no other process cut into.
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUND_TRIPS));
    }
    let _ = other.join();
    Ok(best)
}

/// How busy the machine was over the last minute; 0 if unknown.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}
