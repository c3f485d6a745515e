//! The files of the tree.

use std::{fs, io, path::Path};

use crate::lexer::{Layers, layers};

/// Folders that are not ours to check: what was built, what was measured, what git keeps.
const SKIPPED: [&str; 3] = ["target", "results", "node_modules"];

/// A text file, with its path from the root of the tree, `/` between the parts.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// From the root of the tree.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// A Rust source file, separated into code and comments.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// From the root of the tree.
    pub path: String,
    /// As it was read.
    pub text: String,
    /// Code and comments apart.
    pub layers: Layers,
}

impl SourceFile {
    /// A source file with this text.
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), layers: layers(text) }
    }

    /// The first line, from 1, that is part of a test; `None` if none is.
    pub fn first_test_line(&self) -> Option<usize> {
        if self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
        {
            return Some(1);
        }
        let is_test_module = |line: &String| line.trim_start().starts_with("#[cfg(test)]");
        self.layers.code.iter().position(is_test_module).map(|at| at + 1)
    }
}

/// Everything below `root` that ends with `.suffix`, sorted by path.
///
/// # Errors
/// If a folder or file cannot be read.
pub fn files(root: &Path, suffix: &str) -> io::Result<Vec<TextFile>> {
    let mut found = Vec::new();
    walk(root, "", suffix, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, suffix: &str, found: &mut Vec<TextFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type()?;
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
            walk(&entry.path(), &format!("{prefix}{name}/"), suffix, found)?;
        } else if kind.is_file() && name.rsplit_once('.').is_some_and(|(_, end)| end == suffix) {
            found.push(TextFile { path: format!("{prefix}{name}"), text: fs::read_to_string(entry.path())? });
        }
    }
    Ok(())
}

/// The Rust files of the tree.
///
/// # Errors
/// If a folder or file cannot be read.
pub fn sources(root: &Path) -> io::Result<Vec<SourceFile>> {
    Ok(files(root, "rs")?.iter().map(|file| SourceFile::new(&file.path, &file.text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_finds_this_file_and_nothing_that_was_built() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = sources(root).expect("the crate can be read");
        assert!(sources.iter().any(|file| file.path == "src/tree.rs"));
        assert!(sources.iter().all(|file| !file.path.contains("target/")));
    }

    #[test]
    fn tests_begin_at_their_module_or_fill_the_file() {
        let first = |path, text| SourceFile::new(path, text).first_test_line();
        assert_eq!(first("core/src/a.rs", "fn a() {}\n"), None);
        assert_eq!(first("core/src/a.rs", "fn a() {}\n\n#[cfg(test)]\nmod tests {}\n"), Some(3));
        assert_eq!(first("core/src/a.rs", "// #[cfg(test)]\nfn a() {}\n"), None);
        assert_eq!(first("core/tests/a.rs", "fn a() {}\n"), Some(1));
    }
}
