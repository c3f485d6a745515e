//! Tests that a document names are there: `` `path/file.rs` (`one_test`, `these_…`) ``.

use std::collections::BTreeSet;

use crate::{
    Finding,
    tree::{SourceFile, TextFile},
};

/// Files, and functions in them, that the document names and that are not there.
pub fn unknown(document: &TextFile, sources: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(document.text.lines()) {
        // Every second piece stands between backticks.
        let mut file: Option<&SourceFile> = None;
        for (place, piece) in line.split('`').enumerate() {
            if place % 2 == 0 {
                // Names in parentheses belong to the file before them.
                file = file.filter(|_| matches!(piece.trim(), "(" | ","));
                continue;
            }
            if let Some(file) = file
                && !piece.contains('/')
            {
                let is_there = match piece.strip_suffix('…') {
                    Some(beginning) => file.text.contains(&format!("fn {beginning}")),
                    None => ["(", "<"].iter().any(|end| file.text.contains(&format!("fn {piece}{end}"))),
                };
                if !is_there {
                    let message = format!("`{}` has no function `{piece}`", file.path);
                    findings.push(Finding::new(&document.path, number, message));
                }
                continue;
            }
            let is_path = piece.contains('/') && !piece.contains(' ') && !piece.contains("::");
            if !is_path {
                continue;
            }
            file = sources.iter().find(|source| source.path == piece);
            let folder = format!("{}/", piece.trim_end_matches('/'));
            if file.is_none() && !sources.iter().any(|source| source.path.starts_with(&folder)) {
                findings.push(Finding::new(&document.path, number, format!("there is no `{piece}`")));
            }
        }
    }
    findings
}

/// The page of the classes of bugs.
pub const CLASSES: &str = "docs/bug-classes.md";
/// Where bugs are planted, each with its class.
pub const PLANTED: &str = "core/src/planted.rs";

/// Classes of bugs that comments or planted bugs name, and that have no row in the page of classes.
pub fn classes_without_a_row(page: &TextFile, sources: &[SourceFile]) -> Vec<Finding> {
    let rows: BTreeSet<_> =
        page.text.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).collect();
    let mut findings = Vec::new();
    for file in sources {
        let lines = file.text.lines().zip(&file.layers.comments);
        for (number, (text, comment)) in (1..).zip(lines) {
            let line = if file.path == PLANTED { text } else { comment };
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            for class in words.filter(|word| is_class(word) && !rows.contains(word)) {
                let message = format!(
                    "class {class} has no row in {CLASSES}: say what excludes it, and which test shows it"
                );
                findings.push(Finding::new(&file.path, number, message));
            }
        }
    }
    findings
}

/// `R` and a number of one or two digits.
fn is_class(word: &str) -> bool {
    let number = word.strip_prefix('R').unwrap_or_default();
    (1..=2).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Vec<String> {
        let document = TextFile { path: "docs/rows.md".to_owned(), text: line.to_owned() };
        let sources = [SourceFile::new("a/tests/one.rs", "fn it_works() {}\nfn and_this() {}\n")];
        unknown(&document, &sources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_there_is_accepted() {
        let line =
            "| D1 | `Word` | `a/tests/one.rs` (`it_works`, `and_this`, `it_…`), `a/tests` | `other()` |";
        assert_eq!(found(line), Vec::<String>::new());
    }

    #[test]
    fn a_class_that_is_named_has_a_row() {
        let page = TextFile {
            path: CLASSES.to_owned(),
            text: "| R1 | freed |\n| | without a number |\n".to_owned(),
        };
        let found =
            |path: &str, text: &str| classes_without_a_row(&page, &[SourceFile::new(path, text)]).len();
        assert_eq!(found("a.rs", "// As in R1, R1b and AR2.\nlet r = \"R2\"; let R3 = 1;"), 0);
        assert_eq!(found("a.rs", "// As in R2.\n/// (R14)"), 2);
        assert_eq!(found(PLANTED, "    Lost: \"R1\",\n    Found: \"R2\","), 1);
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert!(found("`a/tests/one.rs` (`it_fails`)")[0].contains("has no function `it_fails`"));
        assert!(found("`a/tests/one.rs` (`is_…`)")[0].contains("has no function `is_…`"));
        assert!(found("`a/tests/two.rs` (`it_works`)")[0].contains("there is no `a/tests/two.rs`"));
        assert_eq!(found("`a/tests/one.rs` and `it_fails`"), Vec::<String>::new());
    }
}
