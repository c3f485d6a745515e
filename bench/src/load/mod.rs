//! The loader: one thread, one ring for each server it visits, every byte that comes back is compared.

mod churn;
mod client;
mod echo;
mod fanout;
mod open;
mod schedule;
mod stream;

use std::{
    net::SocketAddrV4,
    ops::Range,
    time::{Duration, Instant},
};

use self::client::{Client, Event};
use crate::{error::Fault, workload::Workload};

/// Silence for this long ends a workload.
const SILENCE_MAX_S: u64 = 10;

/// What was done in one visit to a server, from the first operation until nothing was in flight any more.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// Messages echoed or delivered, or connections served by a churn.
    pub operations: u64,
    pub wall: Duration,
    /// Of an open loop.
    pub latency: Option<Latencies>,
}

/// How long the messages of one visit took, from the moment for which each was scheduled until all of its echo was
/// there.
#[derive(Clone, Copy, Debug)]
pub struct Latencies {
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    /// Messages that the loader itself gave to the kernel late (see `open`): its own fault, and in the latency.
    pub late: u64,
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
    Stream(stream::Stream),
    Open(open::Open),
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
            Workload::Stream { connections } => stream::Stream::open(server, connections).map(Self::Stream),
            Workload::Open { connections, .. } => open::Open::connected(server, connections).map(Self::Open),
        }
    }

    /// Of an open loop: messages a second from now on. Nothing for all others, which go as fast as they can.
    pub fn offer(&mut self, rate: f64) {
        if let Self::Open(open) = self {
            open.offer(rate);
        }
    }

    /// Loads the server; returns when nothing is in flight.
    pub fn visit(&mut self, until: Until) -> Result<Visit, Fault> {
        match self {
            Self::Echo(echo) => echo.visit(until),
            Self::Churn(churn) => churn.visit(until),
            Self::Fanout(fanout) => fanout.visit(until),
            Self::Stream(stream) => stream.visit(until),
            Self::Open(open) => open.visit(until),
        }
    }
}

/// More connects at once would overflow the backlog of some servers, and a dropped SYN costs a second.
const CONNECTING_MAX: u32 = 256;

/// Opens connections; nobody says anything yet.
fn connect(client: &mut Client, connections: Range<u32>) -> Result<(), Fault> {
    let (mut begun, mut done) = (connections.start, connections.start);
    let mut patience = Patience::new();
    let mut events = Vec::new();
    while done < connections.end {
        while begun < connections.end && begun - done < CONNECTING_MAX {
            client.open(begun)?;
            begun += 1;
        }
        client.wait(&mut events)?;
        patience.check(!events.is_empty(), u64::from(begun - done))?;
        for (connection, event) in events.drain(..) {
            match event {
                Event::Connected => done += 1,
                _ => return Err(Fault::Closed { connection }),
            }
        }
    }
    Ok(())
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
