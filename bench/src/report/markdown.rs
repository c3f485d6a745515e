//! The result of a plain run, as tables.

use std::fmt::{self, Display, Formatter};

use super::{
    DISTURBED_SHARE, LATE_SHARE, PING_PONG_NEAR_NS,
    figures::{duration_us, percent, ratio, thousands, three_digits},
    record::{Line, Record},
};
use crate::{
    process::{BARE_EPOLL, BARE_URING},
    stats::Spread,
};

/// Writes a record as Markdown.
pub struct Markdown<'a>(pub &'a Record);

impl Display for Markdown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(record) = self;
        writeln!(f, "{}", machine(record))?;
        writeln!(f, "Versions: {}, commit {}.", versions(record), record.commit)?;
        let method = &record.method;
        writeln!(
            f,
            "Method: servers on CPU {}, loader on CPU {}, {} rounds of {} ms for each server.",
            method.server_cpu, method.loader_cpu, method.rounds, method.slice_ms
        )?;
        if record.timed().next().is_some() {
            for base in [BARE_URING, BARE_EPOLL] {
                if record.has(base) {
                    self.ratios(f, base)?;
                }
            }
            self.rates(f)?;
        }
        self.latency(f)?;
        if record.weighed().next().is_some() {
            self.memory(f)?;
        }
        writeln!(f)?;
        for note in trust(record) {
            writeln!(f, "{note}")?;
        }
        for line in &record.workloads {
            if let Some(offered) = line.offered_per_s {
                writeln!(f, "{}: {} messages a second were offered.", line.name, thousands(offered))?;
            }
            for missing in &line.left_out {
                writeln!(f, "{} is left out of {}: {}.", missing.server, line.name, missing.reason)?;
            }
            for failure in &line.failures {
                let reason = failure.reason.replace('\n', "\n  ");
                writeln!(f, "\n**Failed**: {}, {}: {reason}", failure.server, line.name)?;
            }
        }
        Ok(())
    }
}

impl Markdown<'_> {
    fn ratios(&self, f: &mut Formatter<'_>, base: &str) -> fmt::Result {
        writeln!(
            f,
            "\nCPU time of the server per message (churn: per connection, fan-out: per delivery): {base} in µs, the others as ratio to \
             it; median (quartiles).\n"
        )?;
        self.table(f, self.0.timed(), |line, name| {
            if name == base {
                line.cpu_us(name).map(|spread| format!("{} µs", three_digits(spread.median)))
            } else {
                line.ratio(name, base).map(ratio)
            }
        })
    }

    fn rates(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nThroughput: messages (churn: connections, fan-out: deliveries) per second, median, and the share of the time for which \
             the server's processor was busy.\n"
        )?;
        self.table(f, self.0.timed(), |line, name| {
            let busy = line.busy(name).map(|busy| percent(busy.median)).unwrap_or_default();
            line.rate(name).map(|rate| format!("{} ({busy})", thousands(rate.median)))
        })
    }

    fn latency(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut lines = self.0.timed().filter(|line| line.has_latency()).peekable();
        if lines.peek().is_none() {
            return Ok(());
        }
        writeln!(
            f,
            "\nLatency from the moment when a message was due: p50 (median of the rounds), p99 and p99.9 (their lower quartile).\n"
        )?;
        self.table(f, lines, |line, name| {
            let tail = line.cell(name)?.latency?;
            let figures = tail.figures_us().map(duration_us);
            Some(figures.join(", "))
        })
    }

    fn memory(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nProcess memory per idle session: growth of Rss (kernel memory is not in it); and the share of a processor that the \
             server uses while nobody talks.\n"
        )?;
        self.table(f, self.0.weighed(), |line, name| {
            let cell = line.cell(name)?;
            let cpu = cell.idle_cpu.map(|share| format!(" ({})", percent(share))).unwrap_or_default();
            cell.session_bytes.map(|bytes| format!("{} B{cpu}", thousands(bytes)))
        })
    }

    /// One line for each workload, one column for each server.
    fn table<'a>(
        &self,
        f: &mut Formatter<'_>,
        lines: impl Iterator<Item = &'a Line>,
        cell: impl Fn(&Line, &str) -> Option<String>,
    ) -> fmt::Result {
        write!(f, "| workload |")?;
        for server in &self.0.servers {
            write!(f, " {} |", server.name)?;
        }
        writeln!(f, "\n|---|{}", "---:|".repeat(self.0.servers.len()))?;
        for line in lines {
            write!(f, "| {} |", line.name)?;
            for server in &self.0.servers {
                write!(f, " {} |", cell(line, &server.name).unwrap_or_default())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// On what it was measured.
pub fn machine(record: &Record) -> String {
    let machine = &record.machine;
    format!(
        "Machine: {} ({} CPUs), {}, TCP {}.",
        machine.cpu, machine.cpus, machine.kernel, machine.tcp_congestion_control
    )
}

pub fn versions(record: &Record) -> String {
    let versions = record.versions.iter().map(|version| format!("{} {}", version.name, version.version));
    versions.collect::<Vec<_>>().join(", ")
}

/// What the reader should know before trusting the figures, a sentence each.
pub fn trust(record: &Record) -> Vec<String> {
    let mut notes = Vec::new();
    let all = || record.workloads.iter().flat_map(|line| line.ping_pong_ns.iter().copied());
    if let Some(spread) = Spread::of(all()) {
        let far = all().filter(|ns| *ns > PING_PONG_NEAR_NS).count();
        let far = match far {
            0 => String::new(),
            _ => format!(
                "; above {PING_PONG_NEAR_NS} ns, which means far apart, in {far} of {} rounds",
                all().count()
            ),
        };
        notes.push(format!(
            "A cache line between the two CPUs and back: {:.0} ns (quartiles {:.0} to {:.0}){far}.",
            spread.median, spread.quartile_1, spread.quartile_3
        ));
    }
    let busiest = record.workloads.iter().map(|line| line.load_average).fold(0.0, f64::max);
    notes.push(format!("Load average before a workload: at most {busiest:.2}."));
    for line in &record.workloads {
        if let Some((server, loader)) = waited(line) {
            notes.push(format!(
                "Disturbed by other processes: {}: the servers waited {:.0} % of the time for their CPU, the loader {:.0} %.",
                line.name,
                server * 100.0,
                loader * 100.0
            ));
        }
    }
    for line in &record.workloads {
        let late = line.servers.iter().filter_map(|cell| cell.late_share).fold(0.0, f64::max);
        if late > LATE_SHARE {
            notes.push(format!(
                "{}: the loader itself sent up to {:.1} % of the messages late.",
                line.name,
                late * 100.0
            ));
        }
    }
    notes.extend(record.notes.iter().cloned());
    notes
}

/// How many workloads other processes cut into, in words; none if none.
pub fn disturbed(record: &Record) -> Option<String> {
    let all = record.timed().count();
    match record.timed().filter(|line| waited(line).is_some()).count() {
        0 => None,
        some if some == all => Some("all of this run".into()),
        some => Some(format!("{some} of the {all} workloads of this run")),
    }
}

/// The shares of the time for which servers and loader waited, if that is worth a warning.
fn waited(line: &Line) -> Option<(f64, f64)> {
    line.waited().filter(|(server, loader)| server.max(*loader) > DISTURBED_SHARE)
}
