//! Rules of this tree that a compiler does not check, each as a function from files to findings.
//!
//! `tests/tidy.rs` applies them to the tree; their own tests apply them to small bad samples, because a check
//! that cannot fail is no check.
//!
//! | module | rules |
//! |---|---|
//! | [`layering`] | which crate may use which; each dependency says why it is there |
//! | [`paths`] | names that a part of the tree may not use: clocks, sockets, descriptors |
//! | [`ports`] | each example listens on ports of its own |
//! | [`source`] | file length, left-overs, sleeping and ignored tests, crate docs |
//! | [`unsafety`] | where `unsafe` may stand, and what must stand above it |
//! | [`contract`] | each sentence of the driver's contract has a test |
//! | [`limits`] | each limit has a row in its page, with a test, and a reason and a counter if it has them |
//! | [`rows`] | tests that a document names are there; classes of bugs have a row |
//! | [`markdown`] | documents that must exist, links that must lead somewhere |
//!
//! What they stand on: [`lexer`] takes comments and strings out of code, [`tree`] reads the files, [`tested`] finds the
//! tests.

#![forbid(unsafe_code)]

pub mod contract;
pub mod layering;
pub mod lexer;
pub mod limits;
pub mod markdown;
pub mod paths;
pub mod ports;
pub mod rows;
pub mod source;
pub mod tested;
pub mod tree;
pub mod unsafety;

use std::fmt;

/// One broken rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The file, from the root of the tree.
    pub path: String,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Finding {
    /// A finding at a line of a file.
    pub fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// A file, or a folder if it ends with `/`, that a rule leaves out, and why.
#[derive(Clone, Copy, Debug)]
pub struct Exempt {
    /// From the root of the tree.
    pub path: &'static str,
    /// Why the rule does not hold there.
    pub reason: &'static str,
}

/// True if one of `exempt` covers `path`.
pub fn is_exempt(exempt: &[Exempt], path: &str) -> bool {
    exempt.iter().any(|entry| {
        if entry.path.ends_with('/') { path.starts_with(entry.path) } else { path == entry.path }
    })
}
