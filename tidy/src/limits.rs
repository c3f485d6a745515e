//! Every limit has a row in `docs/limits.md`, with a test, and with a reason and a counter that exist, if it has them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Finding,
    lexer::tokens,
    tested::tests,
    tree::{SourceFile, TextFile},
};

/// Where the limits are declared.
pub const LIMITS: &str = "core/src/limits.rs";
/// Where they are explained.
pub const PAGE: &str = "docs/limits.md";
/// Where reasons and their labels are declared.
pub const REASONS: &str = "core/src/reason.rs";
/// Where the other counters are declared.
pub const COUNTERS: &str = "anyport/src/counters.rs";

/// Fields of `Limits` that are structs themselves.
const NESTED: [(&str, &str); 3] =
    [("send", "SendMarks"), ("rates", "Rates"), ("receive_rate_min", "ReceiveRate")];

/// Cells of a row.
const CELLS: usize = 6;

/// The public fields of `pub struct NAME {`, and their lines.
fn fields<'a>(source: &'a SourceFile, name: &str) -> Vec<(&'a str, usize)> {
    let head = format!("pub struct {name} {{");
    let lines = (1..).zip(source.text.lines()).skip_while(|(_, line)| *line != head).skip(1);
    let field = |line: &'a str| line.strip_prefix("    pub ")?.split_once(": ").map(|(name, _)| name);
    lines
        .take_while(|(_, line)| *line != "}")
        .filter_map(|(number, line)| Some((field(line)?, number)))
        .collect()
}

/// Every limit as the page calls it, and its line.
fn limits(source: &SourceFile) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for (name, line) in fields(source, "Limits") {
        match NESTED.iter().find(|(field, _)| *field == name) {
            Some((_, inner)) => {
                all.extend(
                    fields(source, inner).iter().map(|(field, line)| (format!("{name}.{field}"), *line)),
                );
            }
            None => {
                all.insert(name.to_owned(), line);
            }
        }
    }
    all
}

/// What stands between backticks, if that is all of the cell.
fn quoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

/// Limits without a row, and rows that name what does not exist.
pub fn incomplete(
    limits_file: &SourceFile,
    page: &TextFile,
    reasons_file: &SourceFile,
    counters_file: &SourceFile,
    all: &[SourceFile],
) -> Vec<Finding> {
    let mut missing = limits(limits_file);
    let mut findings = Vec::new();
    if missing.is_empty() {
        findings.push(Finding::new(&limits_file.path, 1, "the fields of `Limits` are not where they were"));
    }
    let (reasons, tests) = (reasons(reasons_file), tests(all));
    let counters: BTreeSet<_> = labels(reasons_file).into_iter().chain(counters(counters_file)).collect();
    for (number, line) in (1..).zip(page.text.lines()) {
        let Some(row) = line.strip_prefix("| `") else { continue };
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let mut wrong = |what: String| findings.push(Finding::new(&page.path, number, what));
        let name = row.split('`').next().unwrap_or_default();
        if missing.remove(name).is_none() {
            wrong(format!("`{name}` is no limit, or has two rows"));
        }
        let [_, _, effect, reason, counter, test] = cells[..] else {
            wrong(format!("the row of `{name}` has {} cells instead of {CELLS}", cells.len()));
            continue;
        };
        if effect.is_empty() {
            wrong(format!("the row of `{name}` does not say what happens"));
        }
        if !reason.is_empty() && !quoted(reason).is_some_and(|reason| reasons.contains(reason)) {
            wrong(format!("{reason} of `{name}` is no close reason"));
        }
        if !counter.is_empty() && !quoted(counter).is_some_and(|counter| counters.contains(counter)) {
            wrong(format!("{counter} of `{name}` is no counter, and no label of a close reason"));
        }
        if !quoted(test).is_some_and(|test| tests.contains(test)) {
            wrong(format!("{test} of `{name}` is no test: name one that is there"));
        }
    }
    for (name, line) in missing {
        let message = format!(
            "`{name}` has no row in {PAGE}: say what happens beyond it, why, what counts it, and its test"
        );
        findings.push(Finding::new(&limits_file.path, line, message));
    }
    findings
}

/// The variants of `CloseReason`.
fn reasons(file: &SourceFile) -> BTreeSet<&str> {
    let tokens = tokens(&file.layers.code);
    let body = tokens.windows(2).position(|pair| pair[0].text == "enum" && pair[1].text == "CloseReason");
    let body = tokens[body.map_or(tokens.len(), |at| at + 2)..].iter().map(|token| token.text);
    let mut before = "";
    let mut variants = BTreeSet::new();
    for text in body.take_while(|text| *text != "}") {
        if matches!(before, "{" | ",") {
            variants.insert(text);
        }
        before = text;
    }
    variants
}

/// The labels of the reasons: `Self::Reason => "label"`.
fn labels(file: &SourceFile) -> Vec<&str> {
    let lines = file.text.lines().zip(&file.layers.code);
    let arms = lines.filter(|(_, code)| code.contains("Self::") && code.contains("=> \""));
    arms.filter_map(|(line, _)| line.split('"').nth(1)).collect()
}

/// What the call `counters! { .. }` lists.
fn counters(file: &SourceFile) -> Vec<&str> {
    let tokens = tokens(&file.layers.code);
    let call = tokens.windows(3).position(|head| ["counters", "!", "{"] == [0, 1, 2].map(|at| head[at].text));
    let list = tokens[call.map_or(tokens.len(), |at| at + 3)..].iter().map(|token| token.text);
    list.take_while(|text| *text != "}").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &str = "pub struct SendMarks {\n    /// One.\n    pub low: usize,\n}\npub struct Limits {\n    \
                          pub idle: Option<Duration>,\n    pub send: SendMarks,\n}\n";

    const NAMED: &str = "enum Blame {\n    Peer,\n}\nenum CloseReason {\n    /// Silent for long.\n    IdleTimeout,\n    \
                         Kicked(u16),\n}\nfn name() {\n        Self::IdleTimeout => \"idle_timeout\",\n}";

    fn messages(page: &str) -> Vec<String> {
        let limits = SourceFile::new(LIMITS, FIELDS);
        let page = TextFile { path: PAGE.to_owned(), text: page.to_owned() };
        let reasons = SourceFile::new(REASONS, NAMED);
        let counters = SourceFile::new(
            COUNTERS,
            "//! quiet\ncounters! {\n    /// Of a hush.\n    hushed,\n}\nfn total() {}",
        );
        let tests = [SourceFile::new("a/tests/b.rs", "#[test]\nfn silence() {}\nfn speech() {}")];
        let found = incomplete(&limits, &page, &reasons, &counters, &tests);
        found.into_iter().map(|finding| finding.message).collect()
    }

    const LOW: &str = "| `send.low` | 1 | relieved | | `idle_timeout` | `silence` |\n";

    #[test]
    fn every_limit_needs_a_row() {
        let idle = "| `idle` | none | closed | `IdleTimeout` | `idle_timeout` | `silence` |\n";
        assert_eq!(messages(&format!("{idle}{LOW}")), [""; 0]);
        assert!(messages(LOW)[0].starts_with("`idle` has no row"));
        assert!(messages(idle)[0].starts_with("`send.low` has no row"));
        assert!(
            messages(&format!("{idle}{idle}{LOW}"))[0].starts_with("`idle` is no limit, or has two rows")
        );
    }

    #[test]
    fn what_nothing_counts_has_no_counter() {
        for counter in ["", "`hushed`", "`idle_timeout`"] {
            let row = format!("| `idle` | none | closed | `Kicked` | {counter} | `silence` |\n");
            assert_eq!(messages(&format!("{row}{LOW}")), [""; 0], "{counter}");
        }
    }

    #[test]
    fn a_row_names_what_exists() {
        for (row, wrong) in [
            ("| `idle` | none | | `IdleTimeout` | `idle_timeout` | `silence` |", "does not say what happens"),
            ("| `idle` | none | closed | `Idle` | `idle_timeout` | `silence` |", "is no close reason"),
            ("| `idle` | none | closed | `Silent` | `idle_timeout` | `silence` |", "is no close reason"),
            ("| `idle` | none | closed | `Peer` | `idle_timeout` | `silence` |", "is no close reason"),
            ("| `idle` | none | closed | `IdleTimeout` | `idle` | `silence` |", "is no counter"),
            ("| `idle` | none | closed | `IdleTimeout` | `quiet` | `silence` |", "is no counter"),
            ("| `idle` | none | closed | `IdleTimeout` | `total` | `silence` |", "is no counter"),
            ("| `idle` | none | closed | `IdleTimeout` | `IdleTimeout` | `silence` |", "is no counter"),
            ("| `idle` | none | closed | `IdleTimeout` | `idle_timeout` | `speech` |", "is no test"),
            ("| `idle` | none | closed | `IdleTimeout` | `silence` |", "has 5 cells instead of 6"),
        ] {
            let found = messages(&format!("{row}\n{LOW}"));
            assert!(found.len() == 1 && found[0].contains(wrong), "{found:?}");
        }
    }
}
