//! Where a server's log goes.

use std::path::PathBuf;

use super::in_range;

/// For every kind of server, and so accepted behind its name.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct LogFileOptions {
    /// Appends the log to this file instead of standard error, at least as much as with -v
    #[arg(id = "log_file", long = "log-file", value_name = "PATH", global = true)]
    pub(crate) path: Option<PathBuf>,
    /// Begins a new log file before this one would become longer; the old one becomes PATH.1
    #[arg(long = "log-rotate-bytes", value_name = "BYTES", global = true, requires = "log_file")]
    #[arg(value_parser = in_range(1..=u64::MAX))]
    pub(crate) rotate_bytes: Option<u64>,
    /// Old log files to keep
    #[arg(long = "log-keep", value_name = "N", global = true, requires = "log_file")]
    #[arg(default_value = "5", value_parser = in_range(1..=10_000))]
    pub(crate) keep: u64,
}
