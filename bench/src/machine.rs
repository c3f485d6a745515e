//! On what was measured, and with which versions.

use std::{fs, path::Path, process::Command};

use crate::server::asio;

#[derive(Debug)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub kernel: String,
    /// TCP's congestion control, which is a part of each message's cost.
    pub congestion_control: String,
    pub rustc: &'static str,
    pub tokio: String,
    pub io_uring: String,
    /// Of the other engines compared, by name; an engine that is not on this machine is missing.
    pub peers: Vec<(&'static str, String)>,
    /// Of this project; with `-dirty` if files differ from it.
    pub commit: String,
}

impl Machine {
    pub fn look(root: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu_info = read("/proc/cpuinfo");
        let cpu = cpu_info
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
        let commit = Command::new("git")
            .args(["describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"])
            .current_dir(root)
            .output()
            .ok()
            .filter(|output| output.status.success())
            .and_then(|output| String::from_utf8(output.stdout).ok());
        Self {
            cpu: cpu.unwrap_or_else(|| "unknown CPU".into()),
            cpus: cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            rustc: env!("COMPARE_RUSTC"),
            tokio: locked_version("tokio"),
            io_uring: locked_version("io-uring"),
            peers: peers(),
            commit: commit.map_or_else(|| "unknown".into(), |text| text.trim().to_owned()),
        }
    }
}

fn peers() -> Vec<(&'static str, String)> {
    let crates = ["monoio", "compio", "net-io"].map(|name| (name, locked_version(name)));
    crates.into_iter().chain(asio::versions().map(|versions| ("Asio", versions))).collect()
}

/// The version of a package in the lock file that this program was built with; the last one, which is the newest, where
/// there are several.
fn locked_version(package: &str) -> String {
    let name = format!("name = \"{package}\"");
    let lines: Vec<&str> = include_str!("../Cargo.lock").lines().collect();
    let versions = lines.windows(2).filter(|pair| pair[0] == name);
    versions
        .filter_map(|pair| pair[1].strip_prefix("version = "))
        .next_back()
        .map_or_else(|| "unknown".into(), |version| version.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(locked_version("tokio").starts_with("1."));
        assert!(locked_version("io-uring").starts_with("0.7."));
        assert!(locked_version("monoio").starts_with("0.2."));
        assert_eq!(locked_version("no such package"), "unknown");
    }
}
