//! The result as a Markdown page, as JSON and as a picture.

pub mod json;
pub mod markdown;
pub mod svg;

use crate::{
    machine::Machine,
    measure::{Effort, Outcome},
    process::Server,
    workload::Workload,
};

/// Everything that was measured.
#[derive(Debug)]
pub struct Report {
    pub machine: Machine,
    pub servers: Vec<Server>,
    pub effort: Effort,
    pub server_cpu: usize,
    pub loader_cpu: usize,
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// The workloads that were timed.
    fn timed(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| !matches!(outcome.workload, Workload::Idle { .. }))
    }

    /// The workloads that were weighed.
    fn weighed(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| matches!(outcome.workload, Workload::Idle { .. }))
    }

    fn has(&self, name: &str) -> bool {
        self.servers.iter().any(|server| server.name == name)
    }
}

/// Above this the host has moved the two processors apart, and loopback costs up to half as much again.
const PING_PONG_NEAR_NS: f64 = 150.0;

/// Waiting for a processor for more than this share of the time is worth a warning.
pub const DISTURBED_SHARE: f64 = 0.02;

/// If the loader sent more than this share of an open loop's messages late, their latency is not all the server's.
pub const LATE_SHARE: f64 = 0.001;
