//! Documents that must exist, and links between them.

use std::path::Path;

use crate::{Finding, tree::TextFile};

/// What a stranger looks for at the root.
pub const REQUIRED: [&str; 5] =
    ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// Required documents that are not there.
pub fn missing(root: &Path) -> Vec<Finding> {
    let is_missing = |name: &&&str| !root.join(name).is_file();
    REQUIRED.iter().filter(is_missing).map(|name| Finding::new(name, 1, "this document must exist")).collect()
}

/// Where the links of a document lead, with their lines. Code is skipped.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence = None;
    for (line, text) in (1..).zip(text.lines()) {
        let start = text.trim_start();
        let opens = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
        if fence.is_some() || opens.is_some() {
            match (fence, opens) {
                (None, _) => fence = opens,
                (Some(open), Some(mark)) if open == mark => fence = None,
                _ => {}
            }
            continue;
        }
        let text = without_code(text);
        for after in text.split("](").skip(1) {
            // `[text](target "title")`, and a picture inside a link ends at the first bracket.
            let target = after.split(')').next().unwrap_or_default();
            found.push((line, target.split_whitespace().next().unwrap_or_default().to_owned()));
        }
        let reference = text.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        if let Some((_, target)) = reference {
            found.push((line, target.split_whitespace().next().unwrap_or_default().to_owned()));
        }
    }
    found
}

/// The line without what stands between backticks.
fn without_code(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    // The last part of an odd number of backticks is text, not code.
    let is_text =
        |at: usize| at.is_multiple_of(2) || (parts.len().is_multiple_of(2) && at + 1 == parts.len());
    let keep = |(at, part): (usize, &&str)| if is_text(at) { (*part).to_owned() } else { "`".into() };
    parts.iter().enumerate().map(keep).collect()
}

/// Links to files of the tree that are not there.
pub fn broken_links(root: &Path, documents: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for document in documents {
        let folder = root.join(&document.path).parent().map(Path::to_owned).unwrap_or_default();
        for (line, target) in links(&document.text) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.contains("://") || file.starts_with("mailto:");
            // A link into the same document names no file.
            if elsewhere || (file.is_empty() && target.starts_with('#')) {
                continue;
            }
            let file = file.trim_start_matches('<').trim_end_matches('>');
            if file.is_empty() || file.starts_with('/') || !folder.join(file).exists() {
                let message = format!("the link to `{target}` leads nowhere: correct it or take it out");
                findings.push(Finding::new(&document.path, line, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_text_and_not_in_code() {
        let text = "See [a](docs/a.md) and [b](b.md#part \"B\").\n```\n[c](c.md)\n```\n`[d](d.md)` [e]\n\n[e]: e.md\n";
        let found = links(text);
        assert_eq!(found, [(1, "docs/a.md".into()), (1, "b.md#part".into()), (7, "e.md".into())]);
        assert_eq!(links("[![badge](badge.svg)](page.md)").len(), 2);
        assert_eq!(links("~~~\n```\n[a](a.md)\n~~~\n[b](b.md)"), [(5, "b.md".into())]);
    }

    #[test]
    fn links_that_lead_nowhere_are_broken() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let broken = |text: &str| {
            let document = TextFile { path: "src/sample.md".into(), text: text.into() };
            broken_links(root, &[document]).len()
        };
        for bad in ["[a](lost.md)", "[a](Cargo.toml)", "[a]()", "[a](/etc)", "[a](../lost/#part)"] {
            assert_eq!(broken(bad), 1, "{bad}");
        }
        for good in
            ["[a](lib.rs)", "[a](../Cargo.toml#x)", "[a](#part)", "[a](https://example.org/x)", "[a](..)"]
        {
            assert_eq!(broken(good), 0, "{good}");
        }
    }

    #[test]
    fn a_folder_without_documents_misses_them_all() {
        assert_eq!(missing(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).len(), REQUIRED.len());
    }
}
