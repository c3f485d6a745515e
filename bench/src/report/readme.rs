//! The short form for the project's README, between two marks that stand there.

use super::{
    OURS, OURS_READINESS,
    figures::{thousands, three_digits},
    markdown::disturbed,
    record::{Line, Record},
    spec::label,
    targets,
};
use crate::process::{BARE_EPOLL, BARE_URING};

const BEGIN: &str = "<!-- benchmarks:begin -->";
const END: &str = "<!-- benchmarks:end -->";

/// The workloads of the short table, as far as they were measured.
const SHOWN: [&str; 8] = [
    "echo:64",
    "echo:1000",
    "echo:10000",
    "echo:64:16",
    "echo:64:1:4096",
    "stream:4",
    "fanout:1000:16",
    "churn:64",
];

/// A table with the headline's picture.
pub fn excerpt(record: &Record) -> String {
    let mut text = String::from(
        "![Processor time the server spends on a message](docs/benchmarks/headline.svg)\n\n\
         | processor time for a message | bare io_uring | bare epoll | **anyport io-uring** | **anyport readiness** | nearest other engine |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for line in SHOWN.iter().filter_map(|workload| record.line(workload)) {
        text.push_str(&row(record, line));
    }
    text.push_str(&memory(record).unwrap_or_default());
    if let Some(share) = disturbed(record) {
        text.push_str(&format!("\n**Other processes ran during {share}: do not trust these figures.**\n"));
    }
    text.push_str(&format!(
        "\nRatios to the bare io_uring loop, medians of {} rounds, on {} ({} processors), {}, {}. All servers on one processor, the \
         loader on another. [All figures](docs/benchmarks.md): latency, throughput, memory, up to 20,000 connections, and our own \
         bounds, kept or not.\n",
        record.method.rounds, record.machine.cpu, record.machine.cpus, record.machine.kernel, record.date
    ));
    text
}

fn row(record: &Record, line: &Line) -> String {
    let ratio = |name: &str| {
        line.ratio(name, BARE_URING).map_or("–".to_owned(), |ratio| format!("{:.2}", ratio.median))
    };
    let bare = line.cpu_us(BARE_URING).map_or("–".into(), |us| format!("{} µs", three_digits(us.median)));
    let nearest = targets::nearest_peer(record, line)
        .map_or("–".into(), |(name, _)| format!("{}: {name}", ratio(name)));
    format!(
        "| {} | {bare} | {} | **{}** | **{}** | {nearest} |\n",
        label(line),
        ratio(BARE_EPOLL),
        ratio(OURS),
        ratio(OURS_READINESS)
    )
}

fn memory(record: &Record) -> Option<String> {
    let line = record.weighed().next()?;
    let bytes = |name: &str| line.cell(name).and_then(|cell| cell.session_bytes);
    let words = |name: &str| bytes(name).map_or("–".to_owned(), |bytes| format!("{} B", thousands(bytes)));
    let peers = record.peers().filter_map(|peer| Some((&peer.name, bytes(&peer.name)?)));
    let nearest = peers.min_by(|a, b| a.1.total_cmp(&b.1));
    let nearest = nearest.map_or("–".into(), |(name, bytes)| format!("{} B: {name}", thousands(bytes)));
    Some(format!(
        "| memory of an idle session | {} | {} | **{}** | **{}** | {nearest} |\n",
        words(BARE_URING),
        words(BARE_EPOLL),
        words(OURS),
        words(OURS_READINESS)
    ))
}

/// The text with what stands between the marks replaced; none if it lacks the marks.
pub fn replaced(text: &str, excerpt: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{excerpt}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_short_form_replaces_only_what_is_between_the_marks() {
        let readme = format!("one\n{BEGIN}\nold\n{END}\ntwo\n");
        let excerpt = excerpt(&sample::record());
        let replaced_once = replaced(&readme, &excerpt).expect("the marks are there");
        assert!(replaced_once.starts_with("one\n") && replaced_once.ends_with("two\n"));
        assert!(!replaced_once.contains("old"));
        assert_eq!(replaced(&replaced_once, &excerpt), Some(replaced_once));
        assert_eq!(replaced("no marks", &excerpt), None);
    }

    #[test]
    fn the_short_form_names_the_nearest_engine() {
        let excerpt = excerpt(&sample::record());
        assert_eq!(excerpt.matches("\n| ").count(), 1 + SHOWN.len() + 1, "{excerpt}");
        assert!(
            excerpt.contains(": monoio |") && excerpt.contains("| memory of an idle session |"),
            "{excerpt}"
        );
    }

    #[test]
    fn the_projects_readme_has_the_marks() {
        assert!(replaced(include_str!("../../../README.md"), "").is_some());
    }
}
