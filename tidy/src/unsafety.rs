//! Where `unsafe` may stand, and what must stand above it.

use crate::{
    Exempt, Finding, is_exempt,
    lexer::{Token, tokens},
    tree::SourceFile,
};

/// How far above an `unsafe` its reason may stand, in lines.
pub const REASON_LINES: usize = 6;
/// Most blocks and implementations in the workspace.
pub const BLOCKS_MAX: usize = 120;

/// `unsafe` in code outside `allowed`.
pub fn misplaced(files: &[SourceFile], allowed: &[Exempt]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| !is_exempt(allowed, &file.path)) {
        for token in tokens(&file.layers.code).iter().filter(|token| token.text == "unsafe") {
            let message = "`unsafe` belongs into the drivers: use what they offer, or a safe crate";
            findings.push(Finding::new(&file.path, token.line, message));
        }
    }
    findings
}

/// The lines of `unsafe {` and `unsafe impl`.
pub fn blocks(file: &SourceFile) -> Vec<usize> {
    let tokens = tokens(&file.layers.code);
    let is_block = |pair: &&[Token<'_>]| pair[0].text == "unsafe" && matches!(pair[1].text, "{" | "impl");
    tokens.windows(2).filter(is_block).map(|pair| pair[0].line).collect()
}

/// Blocks and implementations without a reason above them.
pub fn unexplained(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for line in blocks(file) {
            let from = line.saturating_sub(REASON_LINES + 1);
            let explained = file.layers.comments[from..line].iter().any(|text| text.contains("SAFETY:"));
            if !explained {
                let message = format!(
                    "no `// SAFETY:` within {REASON_LINES} lines above: name the invariant and who keeps it"
                );
                findings.push(Finding::new(&file.path, line, message));
            }
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
    fn unsafe_is_found_in_code_only_and_only_outside_its_places() {
        let allowed = [Exempt { path: "driver/src/io_uring/", reason: "a sample" }];
        for bad in ["fn f() { unsafe { g() } }", "unsafe impl Send for X {}", "unsafe fn f() {}"] {
            assert_eq!(misplaced(&file("core/src/a.rs", bad), &allowed).len(), 1, "{bad}");
            assert!(misplaced(&file("driver/src/io_uring/a.rs", bad), &allowed).is_empty());
            assert_eq!(misplaced(&file("driver/src/io_uring.rs", bad), &allowed).len(), 1);
        }
        for good in ["// unsafe {", "\"unsafe {\"", "#![forbid(unsafe_code)]", "let unsafe_count = 1;"] {
            assert!(misplaced(&file("core/src/a.rs", good), &allowed).is_empty(), "{good}");
        }
    }

    #[test]
    fn a_block_has_its_reason_above_it() {
        let with =
            |between: usize| format!("// SAFETY: a sample\n{}unsafe {{ f() }}", "x;\n".repeat(between));
        assert!(unexplained(&file("a.rs", &with(0))).is_empty());
        assert!(unexplained(&file("a.rs", &with(REASON_LINES - 1))).is_empty());
        assert_eq!(unexplained(&file("a.rs", &with(REASON_LINES))).len(), 1);
        assert_eq!(unexplained(&file("a.rs", "f(\"SAFETY:\");\nunsafe impl Send for X {}")).len(), 1);
        assert_eq!(unexplained(&file("a.rs", "unsafe { f() }\n// SAFETY: too late")).len(), 1);
        assert!(unexplained(&file("a.rs", "/// # Safety\nunsafe fn f() {}")).is_empty());
    }

    #[test]
    fn blocks_and_implementations_are_counted() {
        let text = "unsafe { a() }\nunsafe\n{ b() }\nunsafe impl X for Y {}\nunsafe fn c() {}\n// unsafe {";
        assert_eq!(blocks(&SourceFile::new("a.rs", text)), [1, 2, 4]);
    }
}
