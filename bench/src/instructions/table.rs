//! The counts as Markdown.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use super::Count;
use crate::workload::Workload;

/// Everything that was counted.
#[derive(Debug)]
pub struct Table {
    /// Who counted.
    pub valgrind: String,
    pub waves: u32,
    pub counts: Vec<Count>,
    /// Servers that failed, and how.
    pub failures: Vec<(&'static str, String)>,
}

/// Places listed for each server and workload.
const PLACES: usize = 25;
/// Fewer instructions for an operation are not worth a line.
const PLACE_MIN: f64 = 0.5;

impl Table {
    fn workloads(&self) -> Vec<Workload> {
        let mut workloads = Vec::new();
        for count in &self.counts {
            if !workloads.contains(&count.workload) {
                workloads.push(count.workload);
            }
        }
        workloads
    }

    fn servers(&self) -> Vec<&'static str> {
        let mut servers = Vec::new();
        for count in &self.counts {
            if !servers.contains(&count.server) {
                servers.push(count.server);
            }
        }
        servers
    }

    /// What was counted of one server under one workload.
    pub fn count(&self, workload: Workload, server: &str) -> Option<&Count> {
        self.counts.iter().find(|count| count.workload == workload && count.server == server)
    }

    /// The same, place by place.
    pub fn by_place(&self) -> impl Display + '_ {
        ByPlace(self)
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let servers = self.servers();
        if !servers.is_empty() {
            writeln!(f, "Instructions of the server for an operation, the kernel's not counted.\n")?;
            writeln!(f, "| workload | an operation is a | {} |", servers.join(" | "))?;
            writeln!(f, "|---|---|{}", "---:|".repeat(servers.len()))?;
            for workload in self.workloads() {
                write!(f, "| {workload} | {} |", workload.operation())?;
                for server in &servers {
                    match self.count(workload, server) {
                        Some(count) => write!(f, " {} |", digits(count.per_operation))?,
                        None => write!(f, " |")?,
                    }
                }
                writeln!(f)?;
            }
            writeln!(
                f,
                "\nCounted by {}, as the difference of {} and {} waves.",
                self.valgrind,
                self.waves,
                2 * self.waves
            )?;
        }
        for (server, failure) in &self.failures {
            writeln!(f, "\n**Failed**: {server}: {}", failure.trim_end().replace('\n', "\n  "))?;
        }
        Ok(())
    }
}

struct ByPlace<'a>(&'a Table);

impl Display for ByPlace<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for count in &self.0.counts {
            writeln!(f, "\n## {}, {}: {}", count.server, count.workload, digits(count.per_operation))?;
            for (what, places) in [("function", &count.functions), ("file", &count.files)] {
                writeln!(f, "\n| instructions | {what} |\n|---:|---|")?;
                for (name, instructions) in most(places) {
                    writeln!(f, "| {} | `{name}` |", digits(instructions))?;
                }
            }
        }
        Ok(())
    }
}

/// The places that need most, the first one first.
fn most(places: &BTreeMap<String, f64>) -> Vec<(&str, f64)> {
    let mut places: Vec<_> = places.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    places.retain(|(_, count)| *count >= PLACE_MIN);
    places.sort_by(|a, b| b.1.total_cmp(&a.1));
    places.truncate(PLACES);
    places
}

/// As many digits as repeat from run to run.
fn digits(count: f64) -> String {
    if count < 99.5 { format!("{count:.1}") } else { format!("{count:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_workload_and_names_the_places_that_need_most() {
        let count = |connections, server, per_operation: f64| Count {
            workload: Workload::Echo { connections, depth: 1, size_bytes: 64 },
            server,
            per_operation,
            functions: [("small".to_owned(), 0.1), ("a".to_owned(), 1.0), ("b".to_owned(), 200.4)].into(),
            files: BTreeMap::new(),
        };
        let table = Table {
            valgrind: "valgrind-3".into(),
            waves: 5,
            counts: vec![count(1, "x", 54.43), count(64, "x", 50.0), count(64, "y", 1943.0)],
            failures: vec![("y", "died\nof it\n".into())],
        };
        let text = table.to_string();
        assert!(text.contains("| workload | an operation is a | x | y |\n|---|---|---:|---:|\n"), "{text}");
        assert!(text.contains("1 connection | message | 54.4 | |\n"), "{text}");
        assert!(text.contains("64 connections | message | 50.0 | 1943 |\n"), "{text}");
        assert!(text.contains("of 5 and 10 waves.") && text.contains("y: died\n  of it\n"), "{text}");
        assert_eq!(most(&table.counts[0].functions), [("b", 200.4), ("a", 1.0)]);
    }
}
