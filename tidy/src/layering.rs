//! Which crate may use which, read from the manifests.

use toml::{Table, Value};

use crate::{Finding, tree::TextFile};

/// A crate of ours and those of ours that it may use.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// Its package name.
    pub name: &'static str,
    /// Packages below it that it may depend on.
    pub may_use: &'static [&'static str],
}

/// One dependency of a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Dependency {
    /// The package, whatever the manifest calls it.
    package: String,
    /// The name under which it is written.
    key: String,
}

/// Every dependency of a manifest: ordinary, for tests, for builds, and those of one system.
fn dependencies(manifest: &Table, workspace: &Table) -> Vec<Dependency> {
    let mut found = Vec::new();
    collect(manifest, workspace, &mut found);
    if let Some(Value::Table(targets)) = manifest.get("target") {
        for target in targets.values().filter_map(Value::as_table) {
            collect(target, workspace, &mut found);
        }
    }
    found
}

fn collect(table: &Table, workspace: &Table, found: &mut Vec<Dependency>) {
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(Value::Table(entries)) = table.get(kind) else { continue };
        for (key, entry) in entries {
            let inherited = workspace.get(key).filter(|_| entry.get("workspace").is_some());
            let renamed = inherited.unwrap_or(entry).get("package").and_then(Value::as_str);
            found.push(Dependency { package: renamed.unwrap_or(key).to_owned(), key: key.clone() });
        }
    }
}

/// Arrows that do not lead downward, and crates that have no layer. `root` is the workspace's manifest.
pub fn wrong_arrows(root: &TextFile, manifests: &[TextFile], layers: &[Layer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(workspace) = parse(root, &mut findings) else { return findings };
    let shared = workspace.get("workspace").and_then(|table| table.get("dependencies"));
    let shared = shared.and_then(Value::as_table).cloned().unwrap_or_default();
    for manifest in manifests {
        let Some(table) = parse(manifest, &mut findings) else { continue };
        let name = table.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        let name = name.unwrap_or_default();
        let Some(layer) = layers.iter().find(|layer| layer.name == name) else {
            let message = format!("`{name}` has no layer: say in tidy/tests/tidy.rs which crates it may use");
            findings.push(Finding::new(&manifest.path, 1, message));
            continue;
        };
        for Dependency { package, key } in dependencies(&table, &shared) {
            let ours = layers.iter().any(|layer| layer.name == package);
            if ours && !layer.may_use.contains(&package.as_str()) {
                let line = line_of(&manifest.text, &key);
                let message = format!("`{name}` may not use `{package}`: arrows lead downward only");
                findings.push(Finding::new(&manifest.path, line, message));
            }
        }
    }
    findings
}

fn parse(manifest: &TextFile, findings: &mut Vec<Finding>) -> Option<Table> {
    match manifest.text.parse() {
        Ok(table) => Some(table),
        Err(error) => {
            findings.push(Finding::new(&manifest.path, 1, format!("not a manifest: {error}")));
            None
        }
    }
}

/// The line that begins with a key, or that heads its table.
fn line_of(text: &str, key: &str) -> usize {
    let names_key = |line: &str| {
        let header = line.strip_prefix('[').map(|rest| rest.trim_end_matches(']'));
        match header {
            Some(header) => header.ends_with(&format!("dependencies.{key}")),
            None => line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', '.'])),
        }
    };
    text.lines().position(|line| names_key(line.trim())).map_or(1, |at| at + 1)
}

/// Dependencies without a comment directly above that says why they are there. Our own need none.
pub fn unexplained(manifests: &[TextFile], layers: &[Layer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in manifests {
        let (mut in_dependencies, mut depth, mut above) = (false, 0_usize, "");
        for (number, line) in (1..).zip(manifest.text.lines().map(str::trim)) {
            let key = match line.strip_prefix('[') {
                Some(header) if depth == 0 => {
                    let header = header.split(']').next().unwrap_or_default();
                    in_dependencies = header.ends_with("dependencies");
                    header.rsplit_once("dependencies.").map(|(_, key)| key)
                }
                _ if depth == 0 && in_dependencies && !line.starts_with('#') => {
                    line.split(['=', '.']).next().map(str::trim).filter(|key| !key.is_empty())
                }
                _ => None,
            };
            if let Some(key) = key {
                let ours = layers.iter().any(|layer| layer.name == key);
                if !ours && !above.starts_with('#') {
                    let message = format!("`{key}` has no comment directly above that says what it is for");
                    findings.push(Finding::new(&manifest.path, number, message));
                }
            }
            if !line.starts_with('#') {
                let opened = line.matches(['[', '{']).count();
                let closed = line.matches([']', '}']).count();
                depth = (depth + opened).saturating_sub(closed);
            }
            above = line;
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [Layer; 3] = [
        Layer { name: "low", may_use: &[] },
        Layer { name: "mid", may_use: &["low"] },
        Layer { name: "top", may_use: &["mid"] },
    ];

    fn file(text: &str) -> TextFile {
        TextFile { path: "x/Cargo.toml".into(), text: text.into() }
    }

    fn arrows(manifest: &str) -> Vec<usize> {
        let root = file(
            "[workspace.dependencies]\nlow = { path = \"low\" }\nalias = { package = \"top\", path = \"t\" }\n",
        );
        wrong_arrows(&root, &[file(manifest)], &LAYERS).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn arrows_lead_downward() {
        assert!(
            arrows("[package]\nname = \"mid\"\n[dependencies]\nlow.workspace = true\nlog = \"1\"\n")
                .is_empty()
        );
        assert!(
            arrows("[package]\nname = \"top\"\n[dependencies]\nmid = { path = \"../mid\" }\n").is_empty()
        );
    }

    #[test]
    fn arrows_that_skip_a_layer_or_lead_upward_are_found_in_every_table() {
        let bad = [
            "[dependencies]\nlow.workspace = true",
            "[dev-dependencies]\nlow.workspace = true",
            "[build-dependencies]\nlow.workspace = true",
            "[target.'cfg(unix)'.dependencies]\nlow.workspace = true",
            "[dependencies.low]\npath = \"../low\"",
            "[dependencies]\nother = { package = \"low\", path = \"../low\" }",
            "[dependencies]\nalias.workspace = true",
        ];
        for dependency in bad {
            let line = if dependency.starts_with("[dependencies.") { 3 } else { 4 };
            assert_eq!(arrows(&format!("[package]\nname = \"top\"\n{dependency}\n")), [line], "{dependency}");
        }
        assert_eq!(arrows("[package]\nname = \"low\"\n[dependencies]\nmid = \"1\"\n"), [4]);
    }

    #[test]
    fn a_crate_without_a_layer_and_a_broken_manifest_are_found() {
        assert_eq!(arrows("[package]\nname = \"new\"\n"), [1]);
        assert_eq!(arrows("[package\n"), [1]);
    }

    fn unexplained_lines(text: &str) -> Vec<usize> {
        unexplained(&[file(text)], &LAYERS).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_dependency_says_why_it_is_there() {
        let good = "[package]\nname = \"top\"\n\n[dependencies]\nlow.workspace = true\n# For lines.\nlog = \"1\"\n\n\
                    # For more.\n[dependencies.mio]\nversion = \"1\"\n\n[features]\na = []\n";
        assert!(unexplained_lines(good).is_empty());
        assert!(
            unexplained_lines("[dependencies]\n# Why.\na = { version = \"1\", features = [\n  \"x\",\n] }\n")
                .is_empty()
        );
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        assert_eq!(unexplained_lines("[dependencies]\nlog = \"1\"\n"), [2]);
        assert_eq!(unexplained_lines("[dependencies]\n# Why.\nlog = \"1\"\nmio = \"1\"\n"), [4]);
        assert_eq!(unexplained_lines("[dependencies]\n# Why.\n\nlog = \"1\"\n"), [4]);
        assert_eq!(unexplained_lines("[target.'cfg(unix)'.dependencies]\nmio.version = \"1\"\n"), [2]);
        assert_eq!(unexplained_lines("[dependencies.mio]\nversion = \"1\"\n"), [1]);
        assert_eq!(unexplained_lines("[dev-dependencies]\na = [\n1]\nb = \"1\"\n"), [2, 4]);
    }
}
