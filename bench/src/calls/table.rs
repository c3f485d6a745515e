//! The result as Markdown.

use std::fmt::{self, Display, Formatter};

use super::{Column, Effort, Line, Shape};
use crate::{machine::Machine, report::DISTURBED_SHARE, stats::Spread};

/// Everything that was counted.
#[derive(Debug)]
pub struct Report {
    pub machine: Machine,
    pub effort: Effort,
    pub server_cpu: usize,
    pub loader_cpu: usize,
    pub lines: Vec<Line>,
}

/// Calls rarer than this are not named, only summed.
const NAMED_MIN: f64 = 0.0005;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "Machine: {} ({} CPUs), {}, {}, commit {}.",
            machine.cpu, machine.cpus, machine.kernel, machine.rustc, machine.commit
        )?;
        writeln!(
            f,
            "Method: server on CPU {}, loader on CPU {}, {} rounds, each of {} ms or {} waves.",
            self.server_cpu,
            self.loader_cpu,
            self.effort.rounds,
            self.effort.slice.as_millis(),
            self.effort.waves
        )?;
        for (shape, title) in [
            (Shape::Steady, "Steady: each connection sends again as soon as its answer is there."),
            (Shape::Waves, "Waves: all connections send at once, and again when the server sleeps."),
        ] {
            self.table(f, shape, title)?;
        }
        self.notes(f)
    }
}

impl Report {
    fn table(&self, f: &mut Formatter<'_>, shape: Shape, title: &str) -> fmt::Result {
        let lines = || self.lines.iter().filter(|line| line.shape == shape);
        let mut names: Vec<&str> = Vec::new();
        for column in lines().flat_map(|line| &line.columns) {
            if !names.contains(&column.name.as_str()) {
                names.push(&column.name);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{title}\nSystem calls for a message.\n\n| workload | {} |", names.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(names.len()))?;
        for line in lines() {
            write!(f, "| {} |", line.workload)?;
            for name in &names {
                match line.columns.iter().find(|column| column.name == *name) {
                    Some(column) => write!(f, " {} |", cell(column))?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }

    /// What the reader should know before trusting the figures.
    fn notes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for line in &self.lines {
            for column in &line.columns {
                let (least, most) = column.range();
                let shape = if line.shape == Shape::Steady { "steady" } else { "waves" };
                write!(
                    f,
                    "- {}, {shape}, {}: {} messages; rounds {} to {}",
                    line.workload,
                    column.name,
                    column.messages(),
                    digits(least),
                    digits(most)
                )?;
                let costs = column.rounds.iter().filter_map(|round| round.cpu_us);
                if let Some(cost) = Spread::of(costs.map(|(free, counted)| counted / free)) {
                    write!(f, "; {:+.0} % processor time while counting", (cost.median - 1.0) * 100.0)?;
                }
                let disturbed = Spread::of(column.rounds.iter().map(|round| round.disturbed));
                if let Some(share) =
                    disturbed.map(|share| share.median).filter(|share| *share > DISTURBED_SHARE)
                {
                    write!(f, "; **disturbed** by other processes for {:.0} % of the time", share * 100.0)?;
                }
                writeln!(f, ".")?;
            }
            for (name, failure) in &line.failures {
                writeln!(
                    f,
                    "- **Failed**: {}, {name}: {}",
                    line.workload,
                    failure.trim_end().replace('\n', "\n  ")
                )?;
            }
        }
        Ok(())
    }
}

/// The sum, and the calls by name, the most frequent first. What is in the sum and has no name is `other`.
fn cell(column: &Column) -> String {
    let mut calls: Vec<(&str, f64)> = column.calls().into_iter().collect();
    calls.sort_by(|a, b| b.1.total_cmp(&a.1));
    let named = |(_, count): &&(&str, f64)| *count >= NAMED_MIN;
    let mut text = format!("**{}**", digits(column.total()));
    let other = ("other", column.total() - calls.iter().map(|(_, count)| count).sum::<f64>());
    calls.push(other);
    for (index, (name, count)) in calls.iter().filter(named).enumerate() {
        let separator = if index == 0 { ": " } else { ", " };
        text += &format!("{separator}{name} {}", digits(*count));
    }
    text
}

/// Two decimals, three below a tenth.
fn digits(figure: f64) -> String {
    let decimals = if figure < 0.0995 { 3 } else { 2 };
    format!("{figure:.decimals$}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::calls::{Round, counters::Counts};

    #[test]
    fn a_cell_has_the_sum_first_and_calls_without_a_name_last() {
        let by_name =
            BTreeMap::from([("epoll_wait".into(), 90), ("sendto".into(), 800), ("futex".into(), 0)]);
        let round =
            Round { messages: 1000, counts: Counts { by_name, total: 1100 }, cpu_us: None, disturbed: 0.0 };
        let column = Column { name: "a".into(), rounds: vec![round.clone(), round] };
        assert_eq!(cell(&column), "**1.10**: sendto 0.80, epoll_wait 0.090, other 0.21");
        assert_eq!(column.messages(), 2000);
    }
}
