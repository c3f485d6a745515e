//! Which driver this machine offers, and why.

use std::fmt;

/// The drivers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum DriverKind {
    /// Linux io_uring.
    IoUring,
    /// epoll or kqueue.
    Readiness,
    /// The simulator.
    Sim,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io-uring",
            Self::Readiness => "readiness",
            Self::Sim => "sim",
        })
    }
}

/// What the user asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DriverChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// io_uring, or an error that says why not.
    IoUring,
    /// Readiness: epoll or kqueue.
    Readiness,
}
