//! Examples can run side by side: each has ports of its own.

use std::collections::BTreeMap;

use crate::{Finding, tree::SourceFile};

/// Where the examples are.
pub const EXAMPLES: &str = "examples/";

/// An example that names the port of another one because it talks to it.
pub struct Talks {
    /// Who talks.
    pub example: &'static str,
    /// To which port.
    pub port: u16,
}

/// Ports that two examples name in their code.
pub fn shared(files: &[SourceFile], except: &[Talks]) -> Vec<Finding> {
    let mut owners = BTreeMap::new();
    let mut findings = Vec::new();
    for file in files {
        let Some(example) = file.path.strip_prefix(EXAMPLES).and_then(|path| path.split(['/', '.']).next())
        else {
            continue;
        };
        for (number, line) in (1..).zip(file.text.lines()) {
            for port in ports(line) {
                let owner = *owners.entry(port).or_insert(example);
                let talks = except.iter().any(|talks| talks.example == example && talks.port == port);
                if owner != example && !talks {
                    let message = format!("port {port} is the example {owner}'s: take one that is free");
                    findings.push(Finding::new(&file.path, number, message));
                }
            }
        }
    }
    findings
}

/// Of the addresses that begin a string, but 0, which is any.
fn ports(line: &str) -> impl Iterator<Item = u16> {
    let addresses = line.split('"').skip(1).step_by(2);
    addresses.filter_map(|address| {
        let (host, port) = address.split_once(':')?;
        let is_address = host.split('.').count() == 4;
        port.parse().ok().filter(|&port| is_address && port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_examples_have_two_ports() {
        let file = |path: &str, port: u16| {
            SourceFile::new(path, &format!("//! nc x\nfn f() {{ at(\"0.0.0.0:{port}\") }}"))
        };
        let talks = [Talks { example: "b", port: 7000 }];
        let found = |files: &[SourceFile], talks: &[Talks]| shared(files, talks).len();
        assert_eq!(found(&[file("examples/a.rs", 7000), file("examples/b/main.rs", 7001)], &[]), 0);
        assert_eq!(found(&[file("examples/a.rs", 0), file("examples/b.rs", 0)], &[]), 0);
        assert_eq!(found(&[file("examples/b/main.rs", 7000), file("examples/b/tests.rs", 7000)], &[]), 0);
        assert_eq!(found(&[file("examples/a.rs", 7000), file("core/src/b.rs", 7000)], &[]), 0);
        assert_eq!(found(&[file("examples/a.rs", 7000), file("examples/b.rs", 7000)], &[]), 1);
        assert_eq!(found(&[file("examples/a.rs", 7000), file("examples/b.rs", 7000)], &talks), 0);
    }
}
