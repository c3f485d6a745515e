//! The loader: one thread, one ring for each server it visits, every byte that comes back is compared.

mod churn;
mod client;
mod echo;
mod fanout;

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use crate::{error::Fault, workload::Workload};

/// Silence for this long ends a workload.
const SILENCE_MAX_S: u64 = 10;

/// What was done in one visit to a server, from the first operation until nothing was in flight any more.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// Messages echoed or delivered, or connections served by a churn.
    pub operations: u64,
    pub wall: Duration,
}

/// How long a visit begins new work; what is in flight then is always waited for.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    After(Duration),
    /// Every connection once.
    Once,
}

impl Until {
    fn deadline(self, start: Instant) -> Instant {
        match self {
            Self::After(duration) => start + duration,
            Self::Once => start,
        }
    }
}

/// The connections to one server. Dropping them closes them.
pub enum Load {
    Echo(echo::Echo),
    Churn(churn::Churn),
    Fanout(fanout::Fanout),
}

impl Load {
    /// Opens the connections of a workload; those of a churn come and go in `visit`.
    pub fn open(server: SocketAddrV4, workload: Workload) -> Result<Self, Fault> {
        match workload {
            Workload::Echo { connections, depth, size_bytes } => {
                echo::Echo::open(server, connections, depth, size_bytes).map(Self::Echo)
            }
            Workload::Idle { sessions } => echo::Echo::open(server, sessions, 1, 64).map(Self::Echo),
            Workload::Fanout { members, depth } => {
                fanout::Fanout::open(server, members, depth).map(Self::Fanout)
            }
            Workload::Churn { lanes } => churn::Churn::open(server, lanes).map(Self::Churn),
        }
    }

    /// Loads the server; returns when nothing is in flight.
    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        match self {
            Self::Echo(echo) => echo.visit(until),
            Self::Churn(churn) => churn.visit(until),
            Self::Fanout(fanout) => fanout.visit(until),
        }
    }
}

/// Notices that nothing has come for too long.
struct Patience {
    since: Instant,
}

impl Patience {
    fn new() -> Self {
        Self { since: Instant::now() }
    }

    /// `arrived`: something came since the last call. `outstanding` is for the message.
    fn check(&mut self, arrived: bool, outstanding: u64) -> Result<(), Fault> {
        if arrived {
            self.since = Instant::now();
        } else if self.since.elapsed().as_secs() >= SILENCE_MAX_S {
            return Err(Fault::Silent { waited_s: SILENCE_MAX_S, outstanding });
        }
        Ok(())
    }
}
