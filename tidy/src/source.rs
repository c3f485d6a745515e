//! Rules for each source file by itself.

use crate::{Exempt, Finding, is_exempt, lexer::tokens, tree::SourceFile};

/// Most lines of a file.
pub const LINES_MAX: usize = 900;
/// Files above this are listed, so that one sees them coming.
pub const LINES_WATCHED: usize = 500;

/// Macros that mark something as not done.
const LEFT_OVERS: [(&str, &str); 3] = [
    ("todo", "finish it, or write down in an issue what is missing"),
    ("unimplemented", "finish it, or return an error that says what is not supported"),
    ("dbg", "take it out; `log` is for what should stay"),
];

/// Files of more than [`LINES_MAX`] lines.
pub fn too_long(files: &[SourceFile]) -> Vec<Finding> {
    let long = |file: &&SourceFile| file.text.lines().count() > LINES_MAX;
    let finding = |file: &SourceFile| {
        let lines = file.text.lines().count();
        let message = format!("{lines} lines, {LINES_MAX} at most: split it by what its parts are about");
        Finding::new(&file.path, LINES_MAX + 1, message)
    };
    files.iter().filter(long).map(finding).collect()
}

/// Files above [`LINES_WATCHED`] lines, longest first.
pub fn watched(files: &[SourceFile]) -> Vec<(usize, &str)> {
    let mut long: Vec<_> = files
        .iter()
        .map(|file| (file.text.lines().count(), file.path.as_str()))
        .filter(|(lines, _)| *lines > LINES_WATCHED)
        .collect();
    long.sort_by(|a, b| b.cmp(a));
    long
}

/// `todo!`, `unimplemented!` and `dbg!`.
pub fn left_overs(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for window in tokens(&file.layers.code).windows(3) {
            let called = window[1].text == "!" && matches!(window[2].text, "(" | "[" | "{");
            let left_over = LEFT_OVERS.iter().find(|(name, _)| called && window[0].text == *name);
            if let Some((name, instead)) = left_over {
                findings.push(Finding::new(&file.path, window[0].line, format!("`{name}!`: {instead}")));
            }
        }
    }
    findings
}

/// `#[ignore]` without a reason.
pub fn ignored_without_reason(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for window in tokens(&file.layers.code).windows(4) {
            let attribute = window[0].text == "[" && window[1].text == "ignore";
            if attribute && (window[2].text != "=" || !has_reason(file, window[3].line)) {
                let message = "a test is ignored without a reason: `#[ignore = \"why, and how to run it\"]`";
                findings.push(Finding::new(&file.path, window[1].line, message));
            }
        }
    }
    findings
}

/// True if something stands between the quotes of that line of the source.
fn has_reason(file: &SourceFile, line: usize) -> bool {
    let text = file.text.lines().nth(line - 1).unwrap_or_default();
    text.split('"').nth(1).is_some_and(|reason| !reason.trim().is_empty())
}

/// Crate roots, `src/lib.rs` and `src/main.rs`, that do not begin with their documentation.
pub fn undocumented_roots(files: &[SourceFile]) -> Vec<Finding> {
    let undocumented = |file: &&SourceFile| is_root(file) && !file.text.starts_with("//!");
    let message = "a crate begins with `//!` and says what it is for";
    files.iter().filter(undocumented).map(|file| Finding::new(&file.path, 1, message)).collect()
}

/// True for `src/lib.rs` and `src/main.rs` of a crate.
pub fn is_root(file: &SourceFile) -> bool {
    let in_source = file.path.strip_suffix("src/lib.rs").or_else(|| file.path.strip_suffix("src/main.rs"));
    in_source.is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
}

/// Crate roots that do not forbid unsafe code. Those in `except` deny it at least, so that each module that
/// needs it says so.
pub fn roots_that_allow_unsafe(files: &[SourceFile], except: &[Exempt]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| is_root(file)) {
        let wanted =
            if is_exempt(except, &file.path) { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        if !file.layers.code.iter().any(|line| line.trim() == wanted) {
            findings.push(Finding::new(&file.path, 1, format!("the crate must say `{wanted}`")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> [SourceFile; 1] {
        [SourceFile::new(path, text)]
    }

    #[test]
    fn a_file_may_have_its_most_lines_and_no_more() {
        let text = "x;\n".repeat(LINES_MAX);
        assert!(too_long(&file("a.rs", &text)).is_empty());
        assert_eq!(watched(&file("a.rs", &text)), [(LINES_MAX, "a.rs")]);
        assert_eq!(too_long(&file("a.rs", &format!("{text}x;\n"))).len(), 1);
        assert!(watched(&file("a.rs", &"x;\n".repeat(LINES_WATCHED))).is_empty());
    }

    #[test]
    fn left_overs_are_macros_and_not_words() {
        for bad in ["todo!()", "fn f() { unimplemented!(\"x\") }", "let y = dbg!(x);", "todo !()"] {
            assert_eq!(left_overs(&file("a.rs", bad)).len(), 1, "{bad}");
        }
        for good in ["// todo!()", "\"dbg!(x)\"", "todo(); let todo = 1; if todo != 2 {}", "my_dbg!(x)"] {
            assert!(left_overs(&file("a.rs", good)).is_empty(), "{good}");
        }
    }

    #[test]
    fn an_ignored_test_says_why() {
        for bad in ["#[ignore]\nfn f() {}", "#[ignore = \"\"]\nfn f() {}"] {
            assert_eq!(ignored_without_reason(&file("a.rs", bad)).len(), 1, "{bad}");
        }
        for good in ["#[ignore = \"an hour: run with --ignored\"]\nfn f() {}", "// #[ignore]\nfn f() {}"] {
            assert!(ignored_without_reason(&file("a.rs", good)).is_empty(), "{good}");
        }
    }

    #[test]
    fn roots_are_documented_and_forbid_unsafe_code() {
        let good = "//! A crate.\n\n#![forbid(unsafe_code)]\n";
        let denies = "//! A crate.\n#![deny(unsafe_code)]\n";
        let except = [Exempt { path: "driver/src/lib.rs", reason: "a sample" }];
        for path in ["core/src/lib.rs", "cli/src/main.rs", "src/lib.rs"] {
            assert!(undocumented_roots(&file(path, good)).is_empty());
            assert!(roots_that_allow_unsafe(&file(path, good), &except).is_empty());
            assert_eq!(undocumented_roots(&file(path, "// A crate.\n")).len(), 1);
            assert_eq!(roots_that_allow_unsafe(&file(path, denies), &except).len(), 1);
            assert_eq!(
                roots_that_allow_unsafe(&file(path, "// #![forbid(unsafe_code)]\n"), &except).len(),
                1
            );
        }
        assert!(roots_that_allow_unsafe(&file("driver/src/lib.rs", denies), &except).is_empty());
        assert_eq!(roots_that_allow_unsafe(&file("driver/src/lib.rs", "//! A crate.\n"), &except).len(), 1);
        assert!(undocumented_roots(&file("core/src/id.rs", "use x;\n")).is_empty());
    }
}
