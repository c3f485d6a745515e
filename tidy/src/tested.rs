//! Which tests a tree has.

use std::collections::BTreeSet;

use crate::{
    lexer::{Token, tokens},
    tree::SourceFile,
};

/// The names of all tests: of functions under `#[test]`, and what is listed in the call of a macro that makes tests of its
/// list (`on_every_driver! { one another }`).
pub fn tests(files: &[SourceFile]) -> BTreeSet<&str> {
    let files: Vec<_> = files.iter().map(|file| tokens(&file.layers.code)).collect();
    let makers: BTreeSet<_> = files.iter().flat_map(|tokens| makers(tokens)).collect();
    files.iter().flat_map(|tokens| tests_in(tokens, &makers)).collect()
}

/// Macros of this file whose text has `#[test]`.
fn makers<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    let heads = tokens.windows(3).enumerate();
    let declared = heads.filter(|(_, head)| head[0].text == "macro_rules" && head[1].text == "!");
    let makes_tests = |at: &usize| group(&tokens[at + 3..]).windows(3).any(is_test_attribute);
    let declared = declared.map(|(at, head)| (at, head[2].text));
    declared.filter(|(at, _)| makes_tests(at)).map(|(_, name)| name).collect()
}

fn tests_in<'a>(tokens: &[Token<'a>], makers: &BTreeSet<&str>) -> Vec<&'a str> {
    let mut tests = Vec::new();
    for (at, window) in tokens.windows(3).enumerate() {
        if is_test_attribute(window) {
            let name = tokens[at..].windows(2).find(|pair| pair[0].text == "fn").map(|pair| pair[1].text);
            tests.extend(name);
        }
        if window[1].text == "!" && makers.contains(window[0].text) {
            tests.extend(listed(group(&tokens[at + 2..])));
        }
    }
    tests
}

/// The names in a list, without their attributes.
fn listed<'a>(list: &[Token<'a>]) -> Vec<&'a str> {
    let (mut names, mut rest) = (Vec::new(), list);
    while let [first, after @ ..] = rest {
        rest = if first.text == "#" { &after[group(after).len()..] } else { after };
        names.push(first.text);
    }
    names
}

fn is_test_attribute(window: &[Token]) -> bool {
    window[0].text == "[" && window[1].text == "test" && window[2].text == "]"
}

/// What begins with an opening bracket, up to that one's end.
fn group<'a, 't>(tokens: &'t [Token<'a>]) -> &'t [Token<'a>] {
    let mut depth = 0_usize;
    let end = tokens.iter().position(|token| {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    &tokens[..end.unwrap_or(tokens.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_what_is_marked_or_listed_and_not_every_function() {
        let macros = "macro_rules! on_each {\n($($case:ident)*) => { $(#[test] fn $case() { super::$case(1); })* };\n}\n\
                      macro_rules! plain {\n($($name:ident)*) => { $(fn $name() {})* };\n}";
        let cases = "on_each! { listed #[cfg(unix)] also_listed }\nplain! { made }\nfn listed(driver: u8) { helper() }\n\
                     fn helper() {}\n// #[test] fn spoken() {}\n\
                     #[test]\n#[cfg(unix)]\nfn marked() {}\nfn after() {}";
        let files = [SourceFile::new("a/tests/support.rs", macros), SourceFile::new("a/tests/b.rs", cases)];
        let tests = tests(&files);
        for test in ["listed", "also_listed", "marked"] {
            assert!(tests.contains(test), "{test}");
        }
        for other in ["helper", "made", "after", "spoken", "unix"] {
            assert!(!tests.contains(other), "{other}");
        }
    }
}
