//! How much memory a process has resident, as its system tells it.

/// Bytes that are resident; `None` where nothing tells.
#[cfg(target_os = "linux")]
pub(crate) fn resident(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    kibibytes(line.trim().strip_suffix("kB")?)
}

/// Bytes that are resident; `None` where nothing tells.
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn resident(process: u32) -> Option<u64> {
    let output = std::process::Command::new("ps").args(["-o", "rss=", "-p", &process.to_string()]).output();
    kibibytes(&String::from_utf8(output.ok()?.stdout).ok()?)
}

/// Windows tells it by a call that needs unsafe code, which has no place in this program.
#[cfg(not(unix))]
pub(crate) fn resident(_process: u32) -> Option<u64> {
    None
}

#[cfg(unix)]
fn kibibytes(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn this_process_has_some_and_no_process_none() {
        assert!(super::resident(std::process::id()).is_some_and(|bytes| bytes > 64 << 10));
        assert_eq!(super::resident(u32::MAX), None);
    }
}
