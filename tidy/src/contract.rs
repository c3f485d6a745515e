//! Each numbered sentence of a contract, the driver's and the completion port's, has a test that is named after it.

use std::collections::BTreeMap;

use crate::{Finding, lexer::tokens, tree::SourceFile};

/// Where the driver's contract is written.
pub const CONTRACT: &str = "driver/src/lib.rs";
/// Where its tests are.
pub const CONFORMANCE: &str = "driver/tests/conformance";
/// Where the completion port's promises are written.
pub const PORT: &str = "driver/src/completion_port/mod.rs";
/// Where their tests are.
pub const PORT_TESTS: &str = "driver/tests/completion_port";

/// The sentences, `//! 1. **Name.** ...`: number and line.
pub fn sentences(contract: &SourceFile) -> BTreeMap<u32, usize> {
    let number = |text: &str| {
        let (number, _) = text.strip_prefix("//! ")?.split_once(". ")?;
        number.parse().ok()
    };
    (1..).zip(contract.text.lines()).filter_map(|(line, text)| Some((number(text)?, line))).collect()
}

/// The sentence that a function `s7_...` is a test of.
fn sentence_of(name: &str) -> Option<u32> {
    name.strip_prefix('s')?.split_once('_')?.0.parse().ok()
}

/// Sentences without a test in `folder`, and tests of sentences that do not exist.
pub fn untested(contract: &SourceFile, folder: &str, tests: &[&SourceFile]) -> Vec<Finding> {
    let sentences = sentences(contract);
    let mut findings = Vec::new();
    if sentences.is_empty() {
        findings.push(Finding::new(&contract.path, 1, "the numbered sentences of the contract are gone"));
    }
    let mut untested = sentences.clone();
    for file in tests {
        for pair in tokens(&file.layers.code).windows(2).filter(|pair| pair[0].text == "fn") {
            let Some(number) = sentence_of(pair[1].text) else { continue };
            untested.remove(&number);
            if !sentences.contains_key(&number) {
                let message =
                    format!("`{}` is a test of a sentence that the contract does not have", pair[1].text);
                findings.push(Finding::new(&file.path, pair[1].line, message));
            }
        }
    }
    for (number, line) in untested {
        let message = format!("sentence {number} has no test: add `fn s{number}_...` to a file of {folder}");
        findings.push(Finding::new(&contract.path, line, message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT_TEXT: &str =
        "//! The contract.\n//!\n//! 1. **Ownership.** One\n//!    more.\n//! 2. **Submit.**\n";

    fn messages(tests: &str) -> Vec<(usize, bool)> {
        let contract = SourceFile::new(CONTRACT, CONTRACT_TEXT);
        let tests = SourceFile::new("driver/tests/conformance/a.rs", tests);
        let findings = untested(&contract, CONFORMANCE, &[&tests]);
        findings.iter().map(|finding| (finding.line, finding.path == CONTRACT)).collect()
    }

    #[test]
    fn every_sentence_needs_a_test_of_its_number() {
        assert!(messages("fn s1_a() {}\nfn s2_b() {}").is_empty());
        assert_eq!(messages("fn s1_a() {}"), [(5, true)]);
        assert_eq!(messages("fn s1_a() {}\n// fn s2_b() {}"), [(5, true)]);
        assert_eq!(messages("fn s1_a() {}\nfn s2() {}\nfn s_2() {}"), [(5, true)]);
        assert_eq!(messages(""), [(3, true), (5, true)]);
    }

    #[test]
    fn a_test_of_no_sentence_and_a_contract_without_sentences_are_found() {
        assert_eq!(messages("fn s1_a() {}\nfn s2_b() {}\nfn s12_c() {}"), [(3, false)]);
        let contract = SourceFile::new(CONTRACT, "//! Nothing.\n");
        assert_eq!(untested(&contract, CONFORMANCE, &[]).len(), 1);
    }
}
