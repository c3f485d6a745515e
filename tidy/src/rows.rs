//! Tests that a document names are there: `` `path/file.rs` (`one_test`, `another`) ``.

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
                let is_there = ["(", "<"].iter().any(|end| file.text.contains(&format!("fn {piece}{end}")));
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
        let line = "| D1 | `Word` | `a/tests/one.rs` (`it_works`, `and_this`), `a/tests` | `other()` |";
        assert_eq!(found(line), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert!(found("`a/tests/one.rs` (`it_fails`)")[0].contains("has no function `it_fails`"));
        assert!(found("`a/tests/two.rs` (`it_works`)")[0].contains("there is no `a/tests/two.rs`"));
        assert_eq!(found("`a/tests/one.rs` and `it_fails`"), Vec::<String>::new());
    }
}
