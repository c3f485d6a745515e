//! Names that a part of the tree may not use.
//!
//! `use` declarations are taken apart, so that `use std::{fs, thread::sleep}` names `std::fs` and
//! `std::thread::sleep` as if they were written out.

use crate::{
    Exempt, Finding, is_exempt,
    lexer::{Token, tokens},
    tree::SourceFile,
};

/// Names that may not be used in a part of the tree.
#[derive(Clone, Copy, Debug)]
pub struct Ban {
    /// Parts of a path that follow one another, such as `std::thread`.
    pub path: &'static str,
    /// Beginnings of the paths of the files in which it is banned; empty for all.
    pub within: &'static [&'static str],
    /// Where it is allowed nevertheless.
    pub except: &'static [Exempt],
    /// Only in tests.
    pub tests_only: bool,
    /// Why, and what to do instead.
    pub instead: &'static str,
}

/// A path that a file names, with its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named<'a> {
    line: usize,
    parts: Vec<&'a str>,
}

/// Every path in the code, with `use` declarations written out.
pub fn named(code: &[String]) -> Vec<Named<'_>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at = use_tree(&tokens, at + 1, &[], &mut found);
        } else if is_name(tokens[at]) {
            let mut path = Named { line: tokens[at].line, parts: vec![tokens[at].text] };
            at += 1;
            while let [colons, next, ..] = &tokens[at..]
                && colons.text == "::"
                && is_name(*next)
            {
                path.parts.push(next.text);
                at += 2;
            }
            found.push(path);
        } else {
            at += 1;
        }
    }
    found
}

fn is_name(token: Token<'_>) -> bool {
    token.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// One branch of a `use` declaration, from `at`; returns where it ends.
fn use_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    before: &[&'a str],
    found: &mut Vec<Named<'a>>,
) -> usize {
    let mut parts = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    let next = use_tree(tokens, at, &parts, found);
                    at = next + usize::from(tokens.get(next).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            // The other name that it gets does not matter.
            "as" => at += 1,
            "::" | "*" | "self" => {}
            _ if is_name(*token) => parts.push(token.text),
            // Its end: a comma, a brace or a semicolon.
            _ => {
                found.push(Named { line: tokens[at - 1].line, parts });
                return at;
            }
        }
        at += 1;
    }
    at
}

/// Uses of banned names.
pub fn banned(files: &[SourceFile], bans: &[Ban]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let bans: Vec<_> = bans.iter().filter(|ban| covers(ban, &file.path)).collect();
        if bans.is_empty() {
            continue;
        }
        let first_test_line = file.first_test_line().unwrap_or(usize::MAX);
        for path in named(&file.layers.code) {
            for ban in &bans {
                let parts: Vec<_> = ban.path.split("::").collect();
                let uses = path.parts.windows(parts.len()).any(|window| window == parts);
                if uses && (!ban.tests_only || path.line >= first_test_line) {
                    let message = format!("`{}` may not be used here: {}", ban.path, ban.instead);
                    findings.push(Finding::new(&file.path, path.line, message));
                }
            }
        }
    }
    findings
}

fn covers(ban: &Ban, path: &str) -> bool {
    let within = ban.within.is_empty() || ban.within.iter().any(|beginning| path.starts_with(beginning));
    within && !is_exempt(ban.except, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let file = SourceFile::new("a.rs", text);
        named(&file.layers.code).into_iter().map(|path| path.parts.join("::")).collect()
    }

    #[test]
    fn use_declarations_are_written_out() {
        assert_eq!(names("use std::fs;"), ["std::fs"]);
        assert_eq!(
            names("use std::{fs::{self, File}, io, thread::sleep as nap};"),
            ["std::fs", "std::fs::File", "std::io", "std::thread::sleep"]
        );
        assert_eq!(names("pub use a::*;\nuse b::{c,\n d,};"), ["pub", "a", "b::c", "b::d"]);
        assert_eq!(
            names("let x = std::mem::take(&mut y::Z);"),
            ["let", "x", "std::mem::take", "mut", "y::Z"]
        );
    }

    const BANS: [Ban; 2] = [
        Ban {
            path: "std::thread",
            within: &["core/src/"],
            except: &[Exempt { path: "core/src/odd.rs", reason: "a sample" }],
            tests_only: false,
            instead: "core has no thread",
        },
        Ban {
            path: "thread::sleep",
            within: &[],
            except: &[],
            tests_only: true,
            instead: "wait for an event",
        },
    ];

    fn lines(path: &str, text: &str) -> Vec<usize> {
        banned(&[SourceFile::new(path, text)], &BANS).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_banned_name_is_found_however_it_is_imported() {
        assert_eq!(lines("core/src/a.rs", "fn f() {\n    std::thread::spawn(g);\n}"), [2]);
        assert_eq!(lines("core/src/a.rs", "use std::{\n    io,\n    thread,\n};"), [3]);
        assert_eq!(lines("core/src/a.rs", "use std::thread::{self, spawn};"), [1, 1]);
    }

    #[test]
    fn comments_strings_other_places_and_exempt_files_are_not_found() {
        assert!(
            lines("core/src/a.rs", "// std::thread\nlet x = \"std::thread\"; my_std::thread_pool();")
                .is_empty()
        );
        assert!(lines("core/src/odd.rs", "use std::thread;").is_empty());
        assert!(lines("cli/src/a.rs", "use std::thread;").is_empty());
    }

    #[test]
    fn a_ban_for_tests_leaves_the_rest_alone() {
        let sleep = "std::thread::sleep(PAUSE);";
        assert!(lines("cli/src/a.rs", sleep).is_empty());
        assert_eq!(lines("cli/src/a.rs", &format!("{sleep}\n#[cfg(test)]\nmod tests {{\n{sleep}\n}}")), [4]);
        assert_eq!(lines("cli/tests/a.rs", sleep), [1]);
        assert_eq!(lines("cli/tests/a.rs", "use std::thread::{sleep, spawn};"), [1]);
    }
}
