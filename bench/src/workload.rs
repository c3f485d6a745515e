//! What the loader asks of the servers, and how a user writes it.

use std::{fmt, str::FromStr};

/// One line of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Connections stay open, each with `depth` messages in flight.
    Echo { connections: u32, depth: u32, size_bytes: u32 },
    /// Connect, one echo of 64 bytes, close; so many at a time.
    Churn { lanes: u32 },
    /// One connection publishes messages of 64 bytes, `depth` of them in flight; all others are sent each of them.
    Fanout { members: u32, depth: u32 },
    /// One echo of 64 bytes each, then silence: what does a session cost in memory, and while nothing happens?
    Idle { sessions: u32 },
    /// Messages of 1 MiB are echoed, both directions of each connection full at once.
    Stream { connections: u32 },
    /// Messages of 64 bytes are sent when a schedule says so, whatever has come back until then.
    Open { connections: u32, rate: Rate },
}

/// How many messages the schedule of an open loop has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    PerSecond(u32),
    /// Of what the slowest server of the run does when it is saturated: with as many connections, each of which sends
    /// its next message when the one before it has come back.
    Percent(u32),
}

/// What a server does with what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends it back.
    Echo,
    /// Sends it to all other connections.
    Fanout,
}

/// As many as wait at a listener, with some room.
const MEMBERS_MAX: u32 = 4000;

/// Bytes of a message that is published.
pub const FANOUT_BYTES: u32 = 64;

/// Bytes of a message of a stream.
pub const STREAM_BYTES: u32 = 1 << 20;

/// Bytes of a message of an open loop.
pub const OPEN_BYTES: u32 = 64;

/// A schedule above this would be late before it began.
const PER_SECOND_MAX: u32 = 10_000_000;

/// Small messages, each connection with so many of them in flight.
const fn echo(connections: u32, depth: u32) -> Workload {
    Workload::Echo { connections, depth, size_bytes: 64 }
}

/// What is measured unless the user says otherwise.
pub const DEFAULT: [Workload; 15] = [
    echo(1, 1),
    echo(64, 1),
    echo(1000, 1),
    echo(10_000, 1),
    echo(64, 16),
    echo(1000, 16),
    Workload::Echo { connections: 64, depth: 1, size_bytes: 4096 },
    Workload::Stream { connections: 4 },
    Workload::Churn { lanes: 64 },
    Workload::Fanout { members: 1000, depth: 1 },
    Workload::Fanout { members: 1000, depth: 16 },
    Workload::Idle { sessions: 10_000 },
    Workload::Open { connections: 1000, rate: Rate::PerSecond(50_000) },
    Workload::Open { connections: 1000, rate: Rate::Percent(50) },
    Workload::Open { connections: 1000, rate: Rate::Percent(80) },
];

/// How the cost of a message grows with the number of connections.
pub const SCALE: [Workload; 6] =
    [echo(100, 1), echo(300, 1), echo(1000, 1), echo(3000, 1), echo(10_000, 1), echo(20_000, 1)];

/// The smoke run.
pub const QUICK: [Workload; 2] = [echo(64, 1), echo(64, 16)];

/// Where system calls are counted.
pub const COUNTED: [Workload; 4] = [echo(1, 1), echo(64, 1), echo(1000, 1), echo(64, 16)];

/// The shortest and the longest buffer that a server is told to have for a connection.
const BUFFER_MIN_BYTES: u32 = 4 * 1024;
const BUFFER_MAX_BYTES: u32 = 64 * 1024;

/// What one connection may have in flight.
const BURST_MAX_BYTES: u32 = 1 << 20;

/// What a page shows.
pub fn everything() -> Vec<Workload> {
    let mut all = DEFAULT.to_vec();
    all.extend(SCALE.iter().filter(|workload| !DEFAULT.contains(workload)));
    all
}

impl Workload {
    /// As it is written on the command line, in full.
    pub fn spec(self) -> String {
        match self {
            Self::Echo { connections, depth, size_bytes } => {
                format!("echo:{connections}:{depth}:{size_bytes}")
            }
            Self::Churn { lanes } => format!("churn:{lanes}"),
            Self::Fanout { members, depth } => format!("fanout:{members}:{depth}"),
            Self::Idle { sessions } => format!("idle:{sessions}"),
            Self::Stream { connections } => format!("stream:{connections}"),
            Self::Open { connections, rate: Rate::PerSecond(rate) } => format!("open:{connections}:{rate}"),
            Self::Open { connections, rate: Rate::Percent(percent) } => {
                format!("open:{connections}:{percent}%")
            }
        }
    }

    /// Connections that one server and the loader hold at a time.
    pub fn connections(self) -> u32 {
        match self {
            Self::Echo { connections: n, .. } | Self::Churn { lanes: n } | Self::Idle { sessions: n } => n,
            Self::Stream { connections: n } | Self::Open { connections: n, .. } => n,
            Self::Fanout { members, .. } => members + 1,
        }
    }

    /// What is counted.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Echo { .. } | Self::Open { .. } => "message",
            Self::Stream { .. } => "MiB",
            Self::Fanout { .. } => "delivery",
            Self::Churn { .. } | Self::Idle { .. } => "connection",
        }
    }

    /// Of the buffer that a server has for each connection, if it has one: what the connection may have in flight, but
    /// not less than small messages are given by most, nor more than a receive is worth.
    pub fn buffer_bytes(self) -> u32 {
        let in_flight = match self {
            Self::Echo { depth, size_bytes, .. } => depth * size_bytes,
            Self::Stream { .. } => STREAM_BYTES,
            Self::Fanout { depth, .. } => depth * FANOUT_BYTES,
            Self::Churn { .. } | Self::Idle { .. } | Self::Open { .. } => OPEN_BYTES,
        };
        in_flight.next_multiple_of(BUFFER_MIN_BYTES).min(BUFFER_MAX_BYTES)
    }

    /// Which servers are asked.
    pub fn role(self) -> Role {
        match self {
            Self::Fanout { .. } => Role::Fanout,
            _ => Role::Echo,
        }
    }

    /// True if it is the latency that is measured: what the loader waits for is not what it draws.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let parts: Vec<&str> = parts.collect();
        let number = |index: usize, default: u32| parts.get(index).map_or(Ok(default), |part| whole(part));
        let workload = match (name, parts.len()) {
            ("echo", 0..=3) => {
                Self::Echo { connections: number(0, 64)?, depth: number(1, 1)?, size_bytes: number(2, 64)? }
            }
            ("churn", 0..=1) => Self::Churn { lanes: number(0, 64)? },
            ("fanout", 0..=2) => Self::Fanout { members: number(0, 1000)?, depth: number(1, 1)? },
            ("idle", 0..=1) => Self::Idle { sessions: number(0, 10_000)? },
            ("stream", 0..=1) => Self::Stream { connections: number(0, 4)? },
            ("open", 0..=2) => Self::Open {
                connections: number(0, 1000)?,
                rate: parts.get(1).map_or(Ok(Rate::PerSecond(50_000)), |part| part.parse())?,
            },
            _ => {
                return Err(
                    "expected echo[:CONNECTIONS[:DEPTH[:BYTES]]], stream[:CONNECTIONS], churn[:LANES], \
                            fanout[:MEMBERS[:DEPTH]], idle[:SESSIONS] or open[:CONNECTIONS[:RATE]]"
                        .into(),
                );
            }
        };
        workload.checked()
    }
}

impl Workload {
    /// Refuses what the loader cannot do.
    fn checked(self) -> Result<Self, String> {
        match self {
            Self::Echo { depth, size_bytes, .. }
                if depth.checked_mul(size_bytes).is_none_or(|burst| burst > BURST_MAX_BYTES) =>
            {
                Err(format!("depth times bytes must not exceed {BURST_MAX_BYTES}"))
            }
            Self::Fanout { depth, .. } if depth > BURST_MAX_BYTES / FANOUT_BYTES => {
                Err(format!("depth times {FANOUT_BYTES} bytes must not exceed {BURST_MAX_BYTES}"))
            }
            // Members say nothing: one whom a full queue of the listener dropped would never be noticed.
            Self::Fanout { members, .. } if members > MEMBERS_MAX => {
                Err(format!("members must not exceed {MEMBERS_MAX}"))
            }
            workload => Ok(workload),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%') {
            Some(percent) => match whole(percent)? {
                percent @ 1..=100 => Ok(Self::Percent(percent)),
                percent => Err(format!("{percent} % is more than the slowest server can do")),
            },
            None => match whole(text)? {
                rate @ 1..=PER_SECOND_MAX => Ok(Self::PerSecond(rate)),
                rate => Err(format!("{rate} a second is more than {PER_SECOND_MAX}")),
            },
        }
    }
}

/// A number above 0.
fn whole(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a number above 0")),
        Ok(number) => Ok(number),
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo { connections, depth, size_bytes } => {
                let (size, unit) =
                    if size_bytes % 1024 == 0 { (size_bytes / 1024, "KiB") } else { (*size_bytes, "B") };
                write!(f, "echo {size} {unit}, depth {depth}, {}", Connections(*connections))
            }
            Self::Churn { lanes } => write!(f, "churn (connect, echo 64 B, close), {lanes} at a time"),
            Self::Fanout { members, depth } => {
                write!(f, "fan-out {FANOUT_BYTES} B to {members} members, depth {depth}")
            }
            Self::Idle { sessions } => write!(f, "idle, {sessions} sessions"),
            Self::Stream { connections } => {
                write!(f, "stream 1 MiB, both ways at once, {}", Connections(*connections))
            }
            Self::Open { connections, rate } => {
                write!(f, "open loop {OPEN_BYTES} B, {rate}, {}", Connections(*connections))
            }
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(rate) => write!(f, "{rate} a second"),
            Self::Percent(percent) => write!(f, "{percent} % of saturation"),
        }
    }
}

/// So many, in words.
struct Connections(u32);

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} connection{s}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        assert_eq!("echo:64:16".parse(), Ok(echo(64, 16)));
        assert_eq!(
            "echo:8:1:4096".parse::<Workload>().map(|w| w.to_string()),
            Ok("echo 4 KiB, depth 1, 8 connections".into())
        );
        assert_eq!("churn".parse(), Ok(Workload::Churn { lanes: 64 }));
        assert_eq!("fanout:10:2".parse(), Ok(Workload::Fanout { members: 10, depth: 2 }));
        for workload in everything() {
            assert_eq!(workload.spec().parse(), Ok(workload));
        }
        assert!("fanout:4001".parse::<Workload>().is_err());
        assert!("fanout:1:16385".parse::<Workload>().is_err());
        assert!("echo:0".parse::<Workload>().is_err());
        assert!("echo:1:1024:4096".parse::<Workload>().is_err());
        assert!("idle:1:1".parse::<Workload>().is_err());
    }

    #[test]
    fn streams_and_open_loops_are_written_and_read() {
        assert_eq!("stream".parse(), Ok(Workload::Stream { connections: 4 }));
        let open = |connections, rate| Ok(Workload::Open { connections, rate });
        assert_eq!("open".parse(), open(1000, Rate::PerSecond(50_000)));
        assert_eq!("open:10:7000".parse(), open(10, Rate::PerSecond(7000)));
        assert_eq!("open:10:80%".parse(), open(10, Rate::Percent(80)));
        assert_eq!(
            "open:1:80%".parse::<Workload>().map(|w| w.to_string()),
            Ok("open loop 64 B, 80 % of saturation, 1 connection".into())
        );
        for wrong in
            ["stream:0", "stream:1:1", "open:1:0", "open:1:101%", "open:1:%", "open:1:1:1", "echo:1:1%"]
        {
            assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
        }
    }
}
