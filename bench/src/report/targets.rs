//! Our own bounds, and whether a run kept them. What is written here is what we promise ourselves; the figures beside it are
//! computed, never typed.

use super::{
    OURS, OURS_READINESS,
    figures::{duration_us, percent, thousands},
    record::{Line, Record},
    spec::label,
};
use crate::process::{BARE_EPOLL, BARE_URING};

/// One bound.
enum Rule {
    /// Processor time is at most so many times the cheapest base's.
    AtMost { server: &'static str, bases: &'static [&'static str], ratio: f64 },
    /// Processor time of this peer is at least so many times ours.
    Below { peer: &'static str, times: f64 },
    /// Less processor time than every other engine.
    BelowAll,
    /// The 99th percentile of the latency is not above any other engine's.
    TailBelowAll,
    /// A session needs at most so many bytes.
    Bytes(f64),
    /// Nothing to do costs at most this share of a processor.
    Idle(f64),
    /// From another workload to this one, cost grows at most so many times as much as the bare loop's.
    Growth { from: &'static str, ratio: f64 },
}

/// A heading, and bounds: on which workload, and which.
type Group = (&'static str, &'static [(&'static str, Rule)]);

const fn at_most(ratio: f64) -> Rule {
    Rule::AtMost { server: OURS, bases: &[BARE_URING], ratio }
}

const fn readiness() -> Rule {
    Rule::AtMost { server: OURS_READINESS, bases: &[BARE_EPOLL], ratio: 1.05 }
}

const GROUPS: [Group; 4] = [
    (
        "Beside the bare loops",
        &[
            ("echo:64", at_most(1.05)),
            ("echo:1000", at_most(1.05)),
            ("echo:10000", at_most(1.05)),
            ("echo:64:16", at_most(1.10)),
            ("echo:1000:16", at_most(1.10)),
            ("echo:64:1:4096", at_most(1.05)),
            ("stream:4", at_most(1.05)),
            ("open:1000:50000", Rule::AtMost { server: OURS, bases: &[BARE_URING, BARE_EPOLL], ratio: 1.05 }),
            ("churn:64", at_most(1.10)),
            ("fanout:1000", at_most(1.10)),
            ("fanout:1000:16", at_most(1.10)),
            ("echo:20000", Rule::Growth { from: "echo:100", ratio: 1.25 }),
        ],
    ),
    (
        "Beside the other engines",
        &[
            ("echo:1", Rule::BelowAll),
            ("echo:64", Rule::BelowAll),
            ("echo:1000", Rule::BelowAll),
            ("echo:10000", Rule::BelowAll),
            ("echo:64:16", Rule::BelowAll),
            ("echo:1000:16", Rule::BelowAll),
            ("echo:64:1:4096", Rule::BelowAll),
            ("stream:4", Rule::BelowAll),
            ("open:1000:50000", Rule::BelowAll),
            ("churn:64", Rule::BelowAll),
            ("fanout:1000", Rule::BelowAll),
            ("fanout:1000:16", Rule::BelowAll),
            ("fanout:1000", Rule::Below { peer: "tokio mpsc", times: 1.4 }),
            ("fanout:1000:16", Rule::Below { peer: "tokio mpsc gathered", times: 1.4 }),
            ("fanout:1000:16", Rule::Below { peer: "tokio broadcast", times: 15.0 }),
            ("open:1000:50%", Rule::TailBelowAll),
            ("open:1000:80%", Rule::TailBelowAll),
        ],
    ),
    ("At rest", &[("idle:10000", Rule::Bytes(512.0)), ("idle:10000", Rule::Idle(0.001))]),
    (
        "`anyport readiness` beside the bare epoll loop",
        &[
            ("echo:1", readiness()),
            ("echo:64", readiness()),
            ("echo:1000", readiness()),
            ("echo:10000", readiness()),
            ("echo:64:16", readiness()),
            ("echo:1000:16", readiness()),
            ("echo:64:1:4096", readiness()),
        ],
    ),
];

/// What became of a bound.
pub struct Verdict {
    pub workload: String,
    pub bound: String,
    /// None if this run does not tell.
    pub figure: Option<(String, bool)>,
}

/// All bounds under their headings.
pub fn verdicts(record: &Record) -> Vec<(&'static str, Vec<Verdict>)> {
    let verdict = |(workload, rule): &(&'static str, Rule)| {
        let line = record.line(workload);
        let unmeasured = Line { workload: (*workload).into(), ..Line::default() };
        Verdict {
            workload: label(line.unwrap_or(&unmeasured)),
            bound: rule.to_string(),
            figure: line.and_then(|line| rule.judge(record, line)),
        }
    };
    GROUPS.iter().map(|(heading, rules)| (*heading, rules.iter().map(verdict).collect())).collect()
}

/// How many bounds were kept, and how many could be judged.
pub fn kept(groups: &[(&str, Vec<Verdict>)]) -> (usize, usize) {
    let judged =
        || groups.iter().flat_map(|(_, verdicts)| verdicts).filter_map(|verdict| verdict.figure.as_ref());
    (judged().filter(|(_, met)| *met).count(), judged().count())
}

/// The other engine that comes nearest to ours in processor time, and its time as a ratio to ours.
pub fn nearest_peer<'a>(record: &'a Record, line: &Line) -> Option<(&'a str, f64)> {
    let ratios = record.peers().filter_map(|peer| Some((&*peer.name, line.ratio(&peer.name, OURS)?.median)));
    ratios.min_by(|a, b| a.1.total_cmp(&b.1))
}

impl Rule {
    /// The figure in words, and whether it keeps the bound; none if something was not measured.
    fn judge(&self, record: &Record, line: &Line) -> Option<(String, bool)> {
        match self {
            Self::AtMost { server, bases, ratio } => {
                let ratios = bases.iter().filter_map(|base| Some((base, line.ratio(server, base)?.median)));
                // The cheapest base is the one that we look dearest beside.
                let (base, figure) = ratios.max_by(|a, b| a.1.total_cmp(&b.1))?;
                let of = if bases.len() > 1 { format!(" of {base}") } else { String::new() };
                Some((format!("{figure:.3}{of}"), figure <= *ratio))
            }
            Self::Below { peer, times } => {
                let figure = line.ratio(peer, OURS)?.median;
                Some((format!("{figure:.2} times"), figure >= *times))
            }
            Self::BelowAll => {
                let (name, figure) = nearest_peer(record, line)?;
                Some((format!("nearest: {name}, {figure:.2} times ours"), figure > 1.0))
            }
            Self::TailBelowAll => {
                let p99 = |name: &str| Some(line.cell(name)?.latency?.p99());
                let ours = p99(OURS)?;
                let peers = record.peers().filter_map(|peer| Some((&peer.name, p99(&peer.name)?)));
                let (name, theirs) = peers.min_by(|a, b| a.1.total_cmp(&b.1))?;
                let times = theirs / ours;
                Some((
                    format!("{}; nearest: {name}, {times:.2} times ours", duration_us(ours)),
                    ours <= theirs,
                ))
            }
            Self::Bytes(bytes) => {
                let figure = line.cell(OURS)?.session_bytes?;
                Some((format!("{} B", thousands(figure)), figure <= *bytes))
            }
            Self::Idle(share) => {
                let figure = line.cell(OURS)?.idle_cpu?;
                Some((percent(figure), figure <= *share))
            }
            Self::Growth { from, ratio } => {
                let figure = growth(record.line(from)?, line, OURS)?;
                Some((format!("{figure:.3}"), figure <= *ratio))
            }
        }
    }
}

/// How many times as much as the bare io_uring loop's a server's cost grows from one workload to another. Formed from ratios
/// within rounds, so that what drifts between the two workloads is not in it.
pub fn growth(from: &Line, to: &Line, server: &str) -> Option<f64> {
    Some(to.ratio(server, BARE_URING)?.median / from.ratio(server, BARE_URING)?.median)
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost { bases, ratio, .. } if bases.len() > 1 => {
                write!(f, "at most {ratio:.2} of the cheaper bare loop")
            }
            Self::AtMost { bases, ratio, .. } => write!(f, "at most {ratio:.2} of {}", bases.join(", ")),
            Self::Below { peer, times } => write!(f, "{peer} costs at least {times} times ours"),
            Self::BelowAll => write!(f, "less than every other engine"),
            Self::TailBelowAll => write!(f, "p99 not above any other engine's"),
            Self::Bytes(bytes) => write!(f, "a session in at most {} B", thousands(*bytes)),
            Self::Idle(share) => write!(f, "at most {} % of a processor", share * 100.0),
            Self::Growth { from, ratio } => {
                let connections = from.trim_start_matches("echo:");
                write!(f, "growth from {connections} connections at most {ratio:.2} of the bare loop's")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn figure_of(groups: &[(&str, Vec<Verdict>)], workload: &str, bound: &str) -> Option<(String, bool)> {
        let all = groups.iter().flat_map(|(_, verdicts)| verdicts);
        let found =
            all.filter(|verdict| verdict.workload.contains(workload) && verdict.bound.contains(bound));
        found.map(|verdict| verdict.figure.clone()).next().expect("there is such a bound")
    }

    #[test]
    fn bounds_are_judged_by_the_figures() {
        let groups = verdicts(&sample::record());
        let (kept, judged) = kept(&groups);
        let all: usize = groups.iter().map(|(_, verdicts)| verdicts.len()).sum();
        assert_eq!(judged, all, "the sample has every figure");
        assert_eq!(kept, judged, "the sample keeps all of them");

        let (figure, met) = figure_of(&groups, "64 B, 64 connections", "every other engine").expect("judged");
        assert!(figure.contains("monoio, 1.0") && met, "{figure}");
        let (figure, met) = figure_of(&groups, "16 in flight", "tokio broadcast").expect("judged");
        assert!(figure.starts_with("23.") && met, "{figure}");
        let (figure, met) = figure_of(&groups, "open loop, 50,000/s", "cheaper bare loop").expect("judged");
        assert!(figure.ends_with("of bare-uring") && met, "{figure}");
        let (figure, met) = figure_of(&groups, "idle", "512 B").expect("judged");
        assert_eq!((&*figure, met), ("480 B", true));
        // 1.13 beside 1.11 is within the bound; made dearer, it is not.
        let mut record = sample::record();
        let cell = record.workloads[1].servers.iter_mut().find(|cell| cell.server == OURS_READINESS);
        cell.expect("it was measured").cpu_ns.iter_mut().for_each(|ns| *ns *= 2);
        let (_, met) =
            figure_of(&verdicts(&record), "64 B, 64 connections", "of bare-epoll").expect("judged");
        assert!(!met);
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let mut record = sample::record();
        record.workloads.clear();
        let groups = verdicts(&record);
        assert_eq!(kept(&groups), (0, 0));
        assert!(groups.iter().flat_map(|(_, verdicts)| verdicts).all(|verdict| verdict.figure.is_none()));
    }
}
