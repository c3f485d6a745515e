//! The result as tables.

use std::fmt::{self, Display, Formatter};

use super::{DISTURBED_SHARE, LATE_SHARE, PING_PONG_NEAR_NS, Report};
use crate::{
    measure::Outcome,
    process::{BARE_EPOLL, BARE_URING},
    stats::Spread,
};

/// Writes a report as Markdown.
pub struct Markdown<'a>(pub &'a Report);

impl Display for Markdown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        let machine = &report.machine;
        writeln!(
            f,
            "Machine: {} ({} CPUs), {}, TCP {}.",
            machine.cpu, machine.cpus, machine.kernel, machine.congestion_control
        )?;
        writeln!(
            f,
            "Versions: {}, tokio {}, io-uring {}, commit {}.",
            machine.rustc, machine.tokio, machine.io_uring, machine.commit
        )?;
        writeln!(
            f,
            "Method: servers on CPU {}, loader on CPU {}, {} rounds of {} ms for each server.",
            report.server_cpu,
            report.loader_cpu,
            report.effort.rounds,
            report.effort.slice.as_millis()
        )?;
        if report.timed().next().is_some() {
            for base in [BARE_URING, BARE_EPOLL] {
                if report.has(base) {
                    self.ratios(f, base)?;
                }
            }
            self.rates(f)?;
        }
        if self.0.timed().any(|outcome| outcome.workload.is_open()) {
            self.latencies(f)?;
        }
        if report.weighed().next().is_some() {
            self.memory(f)?;
        }
        self.notes(f)
    }
}

impl Markdown<'_> {
    fn ratios(&self, f: &mut Formatter<'_>, base: &str) -> fmt::Result {
        writeln!(
            f,
            "\nCPU time of the server per message (churn: per connection, fan-out: per delivery): {base} in µs, the others as ratio to \
             it; median (quartiles).\n"
        )?;
        self.table(f, self.0.timed(), |outcome, name| {
            if name == base {
                outcome.cpu_us(name).map(|spread| format!("{} µs", three_digits(spread.median)))
            } else {
                outcome.ratio(name, base).map(ratio)
            }
        })
    }

    fn rates(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nThroughput: messages (churn: connections, fan-out: deliveries, stream: MiB) per second, median \
             (share of the time for which the server was busy).\n"
        )?;
        self.table(f, self.0.timed(), |outcome, name| {
            let busy = outcome.busy(name)?.median * 100.0;
            outcome.rate(name).map(|spread| format!("{} ({busy:.0} %)", thousands(spread.median)))
        })
    }

    fn latencies(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nLatency of an open loop: p50 / p99 / p99.9 in µs, medians of the rounds.\n")?;
        self.table(f, self.0.timed().filter(|outcome| outcome.workload.is_open()), |outcome, name| {
            let latency = outcome.latency(name)?;
            let [p50, p99, p999] =
                [latency.p50_us, latency.p99_us, latency.p999_us].map(|spread| spread.median);
            Some(format!("{p50:.0} / {p99:.0} / {p999:.0}"))
        })
    }

    fn memory(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nProcess memory per idle session: growth of Rss (kernel memory is not in it), and what the server takes of \
             a CPU meanwhile.\n"
        )?;
        self.table(f, self.0.weighed(), |outcome, name| {
            outcome.session_bytes(name).map(|(rss, _)| {
                let idle_cpu = outcome.idle_cpu(name).unwrap_or(0.0) * 100.0;
                format!("{} B, {idle_cpu:.3} % of a CPU", thousands(rss))
            })
        })
    }

    /// One line for each outcome, one column for each server.
    fn table<'a>(
        &self,
        f: &mut Formatter<'_>,
        outcomes: impl Iterator<Item = &'a Outcome>,
        cell: impl Fn(&Outcome, &str) -> Option<String>,
    ) -> fmt::Result {
        write!(f, "| workload |")?;
        for server in &self.0.servers {
            write!(f, " {} |", server.name)?;
        }
        writeln!(f, "\n|---|{}", "---:|".repeat(self.0.servers.len()))?;
        for outcome in outcomes {
            write!(f, "| {} |", outcome.workload)?;
            for server in &self.0.servers {
                write!(f, " {} |", cell(outcome, server.name).unwrap_or_default())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    /// What the reader should know before trusting the figures.
    fn notes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let all = || self.0.outcomes.iter().flat_map(|outcome| outcome.ping_pong_ns.iter().copied());
        if let Some(spread) = Spread::of(all()) {
            let far = all().filter(|ns| *ns > PING_PONG_NEAR_NS).count();
            write!(
                f,
                "\nA cache line between the two CPUs and back: {:.0} ns (quartiles {:.0} to {:.0})",
                spread.median, spread.quartile_1, spread.quartile_3
            )?;
            match far {
                0 => writeln!(f, ".")?,
                _ => writeln!(
                    f,
                    "; above {PING_PONG_NEAR_NS} ns, which means far apart, in {far} of {} rounds.",
                    all().count()
                )?,
            }
        }
        let busiest = self.0.outcomes.iter().map(|outcome| outcome.load_average).fold(0.0, f64::max);
        writeln!(f, "Load average before a workload: at most {busiest:.2}.")?;
        for outcome in &self.0.outcomes {
            let Some((server, loader)) = outcome.waited().filter(|(a, b)| a.max(*b) > DISTURBED_SHARE) else {
                continue;
            };
            writeln!(
                f,
                "Disturbed by other processes: {}: the servers waited {:.0} % of the time for their CPU, the loader \
                 {:.0} %.",
                outcome.workload,
                server * 100.0,
                loader * 100.0
            )?;
        }
        for outcome in &self.0.outcomes {
            if let Some(offered) = outcome.offered {
                writeln!(f, "{}: {} messages a second were offered.", outcome.workload, thousands(offered))?;
            }
            for (server, _) in &outcome.columns {
                let late = outcome.late_share(server.name).filter(|share| *share > LATE_SHARE);
                if let Some(late) = late {
                    writeln!(
                        f,
                        "{}, {}: the loader itself sent {:.1} % of the messages late.",
                        outcome.workload,
                        server.name,
                        late * 100.0
                    )?;
                }
            }
            for (server, reason) in &outcome.left_out {
                writeln!(f, "{} is left out of {}: {reason}.", server.name, outcome.workload)?;
            }
        }
        for outcome in &self.0.outcomes {
            for (server, failure) in &outcome.failures {
                let failure = failure.trim_end().replace('\n', "\n  ");
                writeln!(f, "\n**Failed**: {}, {}: {failure}", server.name, outcome.workload)?;
            }
        }
        Ok(())
    }
}

fn ratio(spread: Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", spread.median, spread.quartile_1, spread.quartile_3)
}

/// As many decimals as make three digits.
pub fn three_digits(figure: f64) -> String {
    let decimals = match figure {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{figure:.decimals$}")
}

/// A whole number with commas.
fn thousands(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::from(if figure <= -0.5 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(-12.0), "-12");
        assert_eq!(thousands(-0.2), "0");
        assert_eq!([0.264, 3.951, 22.14, 178.2].map(three_digits), ["0.26", "3.95", "22.1", "178"]);
    }
}
