//! Everything that was measured, as plain data that is written to JSON and read back.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::spec::Spec;
use crate::{
    instructions,
    machine::Machine,
    measure::{Effort, Figures, Outcome},
    process::{BARE_EPOLL, BARE_URING, Server},
    stats::Spread,
};

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Of the day on which it ended, UTC.
    pub date: String,
    pub machine: Place,
    /// Of the compiler, and of every engine that is not ours.
    pub versions: Vec<Version>,
    /// Of this project; with `-dirty` if files differ from it.
    pub commit: String,
    pub method: Method,
    pub servers: Vec<Column>,
    pub workloads: Vec<Line>,
    /// If they were counted.
    #[serde(default)]
    pub instructions: Option<Instructions>,
    /// What else a reader should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    pub cpu: String,
    pub cpus: usize,
    pub kernel: String,
    pub tcp_congestion_control: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    pub name: String,
    pub version: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Method {
    pub rounds: u32,
    pub slice_ms: u64,
    pub server_cpu: usize,
    pub loader_cpu: usize,
}

/// What servers execute in user space.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instructions {
    /// Who counted, with its version.
    pub counter: String,
    pub counts: Vec<Count>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Count {
    /// As on the command line.
    pub workload: String,
    pub server: String,
    pub per_operation: f64,
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A loop without sessions: the floor.
    Bare,
    Ours,
    Peer,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// In pictures.
    pub color: String,
    pub class: Class,
}

/// All servers under one workload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Line {
    /// As on the command line.
    pub workload: String,
    /// In words.
    pub name: String,
    /// What is counted.
    pub operation: String,
    /// What it took: some workloads take more than the usual rounds and slices.
    #[serde(default)]
    pub rounds: u32,
    #[serde(default)]
    pub slice_ms: u64,
    pub load_average: f64,
    /// One for each round: a cache line from processor to processor and back.
    #[serde(default)]
    pub ping_pong_ns: Vec<f64>,
    /// Of an open loop.
    #[serde(default)]
    pub offered_per_s: Option<f64>,
    pub servers: Vec<Cell>,
    #[serde(default)]
    pub failures: Vec<Missing>,
    #[serde(default)]
    pub left_out: Vec<Missing>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Missing {
    pub server: String,
    pub reason: String,
}

/// One server under one workload. The lists have one entry for each round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    pub server: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_ns: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wall_ns: Vec<u64>,
    /// Other processes had the processor while the server could have run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_waited_ns: Vec<u64>,
    /// The same for the loader.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loader_waited_ns: Vec<u64>,
    /// Processor time of the loader.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loader_cpu_ns: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Tail>,
    /// Of an open loop: the share of the messages that the loader itself sent late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_share: Option<f64>,
    /// Growth of Rss for each session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_bytes: Option<f64>,
    /// Share of a processor while all sessions are silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_cpu: Option<f64>,
}

/// Percentiles of the latency in µs, each with its spread over the rounds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tail {
    pub p50_us: Spread,
    pub p99_us: Spread,
    pub p999_us: Spread,
}

impl Tail {
    /// p50, p99 and p99.9, as they are shown and compared: the median of the rounds, and for the tails their lower quartile.
    /// When the host takes a processor away for milliseconds, that tells nothing of the server in whose visit it falls.
    pub fn figures_us(&self) -> [f64; 3] {
        [self.p50_us.median, self.p99_us.quartile_1, self.p999_us.quartile_1]
    }

    pub fn p99(&self) -> f64 {
        self.figures_us()[1]
    }
}

impl Record {
    pub fn new(machine: Machine, servers: &[Server], effort: Effort, cpus: (usize, usize)) -> Self {
        Self {
            date: today(),
            versions: versions(&machine),
            commit: machine.commit,
            machine: Place {
                cpu: machine.cpu,
                cpus: machine.cpus,
                kernel: machine.kernel,
                tcp_congestion_control: machine.congestion_control,
            },
            method: Method {
                rounds: effort.rounds,
                slice_ms: effort.slice.as_millis() as u64,
                server_cpu: cpus.0,
                loader_cpu: cpus.1,
            },
            servers: servers.iter().map(Column::of).collect(),
            workloads: Vec::new(),
            instructions: None,
            notes: Vec::new(),
        }
    }

    /// The workloads that were timed.
    pub fn timed(&self) -> impl Iterator<Item = &Line> {
        self.workloads.iter().filter(|line| !matches!(line.spec(), Spec::Idle { .. }))
    }

    /// The workloads that were weighed.
    pub fn weighed(&self) -> impl Iterator<Item = &Line> {
        self.workloads.iter().filter(|line| matches!(line.spec(), Spec::Idle { .. }))
    }

    pub fn has(&self, name: &str) -> bool {
        self.servers.iter().any(|server| server.name == name)
    }

    /// The line of a workload, as it is written on the command line.
    pub fn line(&self, workload: &str) -> Option<&Line> {
        let spec = Spec::read(workload);
        self.workloads.iter().find(|line| line.spec() == spec)
    }

    pub fn peers(&self) -> impl Iterator<Item = &Column> {
        self.servers.iter().filter(|server| server.class == Class::Peer)
    }

    pub fn failed(&self) -> bool {
        self.workloads.iter().any(|line| !line.failures.is_empty())
    }
}

impl Instructions {
    pub fn of(table: &instructions::Table) -> Self {
        let count = |count: &instructions::Count| Count {
            workload: count.workload.spec(),
            server: count.server.into(),
            per_operation: count.per_operation,
        };
        Self { counter: table.valgrind.clone(), counts: table.counts.iter().map(count).collect() }
    }
}

impl Column {
    fn of(server: &Server) -> Self {
        let class = match server.name {
            BARE_URING | BARE_EPOLL => Class::Bare,
            _ if server.needs_anyport() => Class::Ours,
            _ => Class::Peer,
        };
        Self { name: server.name.into(), color: server.color.into(), class }
    }
}

impl Line {
    pub fn of(outcome: &Outcome) -> Self {
        let missing = |servers: &[(Server, String)]| -> Vec<Missing> {
            let missing = |(server, reason): &(Server, String)| Missing {
                server: server.name.into(),
                reason: reason.trim_end().into(),
            };
            servers.iter().map(missing).collect()
        };
        Self {
            workload: outcome.workload.spec(),
            name: outcome.workload.to_string(),
            operation: outcome.workload.operation().into(),
            rounds: outcome.effort.rounds,
            slice_ms: outcome.effort.slice.as_millis() as u64,
            load_average: outcome.load_average,
            ping_pong_ns: outcome.ping_pong_ns.clone(),
            offered_per_s: outcome.offered,
            servers: outcome
                .columns
                .iter()
                .map(|(server, figures)| Cell::of(outcome, server, figures))
                .collect(),
            failures: missing(&outcome.failures),
            left_out: missing(&outcome.left_out),
        }
    }

    pub fn spec(&self) -> Spec {
        Spec::read(&self.workload)
    }

    pub fn cell(&self, name: &str) -> Option<&Cell> {
        self.servers.iter().find(|cell| cell.server == name)
    }

    /// Processor time in µs for each operation.
    pub fn cpu_us(&self, name: &str) -> Option<Spread> {
        Spread::of(self.cell(name)?.cpu_us())
    }

    /// Operations a second.
    pub fn rate(&self, name: &str) -> Option<Spread> {
        let cell = self.cell(name)?;
        let pairs = cell.operations.iter().zip(&cell.wall_ns);
        Spread::of(pairs.map(|(operations, wall)| *operations as f64 * 1e9 / *wall as f64))
    }

    /// Processor time as a ratio to another server's in the same round.
    pub fn ratio(&self, name: &str, base: &str) -> Option<Spread> {
        let pairs = self.cell(name)?.cpu_us().zip(self.cell(base)?.cpu_us());
        Spread::of(pairs.map(|(server, base)| server / base))
    }

    /// The share of the time for which the server's processor was busy with it.
    pub fn busy(&self, name: &str) -> Option<Spread> {
        let cell = self.cell(name)?;
        Spread::of(cell.cpu_ns.iter().zip(&cell.wall_ns).map(|(cpu, wall)| *cpu as f64 / *wall as f64))
    }

    /// The same of the loader's, while it visited this server. In an open loop it never sleeps.
    pub fn loader_busy(&self, name: &str) -> Option<Spread> {
        let cell = self.cell(name)?;
        Spread::of(cell.loader_cpu_ns.iter().zip(&cell.wall_ns).map(|(cpu, wall)| *cpu as f64 / *wall as f64))
    }

    pub fn has_latency(&self) -> bool {
        self.servers.iter().any(|cell| cell.latency.is_some())
    }

    /// Why a server has no figure here.
    pub fn missing(&self, name: &str) -> Option<&'static str> {
        let named = |list: &[Missing]| list.iter().any(|missing| missing.server == name);
        match () {
            () if named(&self.failures) => Some("failed"),
            () if named(&self.left_out) => Some("left out"),
            () => None,
        }
    }

    /// The shares of the time for which the servers and the loader had to wait for their processors.
    pub fn waited(&self) -> Option<(f64, f64)> {
        let sum = |list: fn(&Cell) -> &[u64]| self.servers.iter().flat_map(list).sum::<u64>() as f64;
        let wall = sum(|cell| &cell.wall_ns);
        (wall > 0.0)
            .then(|| (sum(|cell| &cell.server_waited_ns) / wall, sum(|cell| &cell.loader_waited_ns) / wall))
    }
}

impl Cell {
    fn of(outcome: &Outcome, server: &Server, figures: &Figures) -> Self {
        let slices = match figures {
            Figures::Slices(slices) => &slices[..],
            Figures::Memory { .. } => &[],
        };
        Self {
            server: server.name.into(),
            operations: slices.iter().map(|slice| slice.operations).collect(),
            cpu_ns: slices.iter().map(|slice| slice.cpu_ns).collect(),
            wall_ns: slices.iter().map(|slice| slice.wall.as_nanos() as u64).collect(),
            server_waited_ns: slices.iter().map(|slice| slice.server_waited_ns).collect(),
            loader_waited_ns: slices.iter().map(|slice| slice.loader_waited_ns).collect(),
            loader_cpu_ns: slices.iter().map(|slice| slice.loader_cpu_ns).collect(),
            latency: outcome.latency(server.name).map(|latency| Tail {
                p50_us: latency.p50_us,
                p99_us: latency.p99_us,
                p999_us: latency.p999_us,
            }),
            late_share: outcome.late_share(server.name),
            session_bytes: outcome.session_bytes(server.name).map(|(rss, _)| rss),
            idle_cpu: outcome.idle_cpu(server.name),
        }
    }

    fn cpu_us(&self) -> impl Iterator<Item = f64> {
        self.cpu_ns
            .iter()
            .zip(&self.operations)
            .map(|(cpu, operations)| *cpu as f64 / 1e3 / *operations as f64)
    }
}

fn versions(machine: &Machine) -> Vec<Version> {
    let version = |name: &str, version: &str| Version { name: name.into(), version: version.into() };
    // `rustc 1.95.0 (…)`: its second word.
    let rust = machine.rustc.split(' ').nth(1).unwrap_or(machine.rustc);
    let ours = [("Rust", rust), ("tokio", &machine.tokio), ("io-uring (crate)", &machine.io_uring)];
    let peers = machine.peers.iter().map(|(name, version)| (*name, version.as_str()));
    ours.into_iter().chain(peers).map(|(name, text)| version(name, text)).collect()
}

/// Year, month and day.
fn today() -> String {
    // A clock before 1970 gives 1970-01-01, which no one takes for the day of a measurement.
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// The date that is so many days after 1970-01-01. Years begin in March here, so that a leap day is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_453), (2025, 12, 31));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }

    #[test]
    fn ratios_are_formed_within_a_round() {
        let cell = |server: &str, cpu_ns: [u64; 3]| Cell {
            server: server.into(),
            operations: vec![10; 3],
            cpu_ns: cpu_ns.into(),
            wall_ns: vec![1000; 3],
            ..Cell::default()
        };
        let line =
            Line { servers: vec![cell("a", [100, 200, 400]), cell("b", [200, 400, 400])], ..Line::default() };
        assert_eq!(line.ratio("b", "a").map(|ratio| ratio.median), Some(2.0));
        assert_eq!(line.busy("a").map(|busy| busy.median), Some(0.2));
        assert_eq!(line.rate("a").map(|rate| rate.median), Some(1e7));
        assert_eq!(line.ratio("b", "none"), None);
    }
}
