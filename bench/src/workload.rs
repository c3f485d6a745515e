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
    /// One echo of 64 bytes each, then silence: what does a session cost in memory?
    Idle { sessions: u32 },
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

/// What is measured unless the user says otherwise.
pub const DEFAULT: [Workload; 6] = [
    Workload::Echo { connections: 1, depth: 1, size_bytes: 64 },
    Workload::Echo { connections: 64, depth: 1, size_bytes: 64 },
    Workload::Echo { connections: 1000, depth: 1, size_bytes: 64 },
    Workload::Echo { connections: 64, depth: 16, size_bytes: 64 },
    Workload::Churn { lanes: 64 },
    Workload::Idle { sessions: 10_000 },
];

/// The smoke run.
pub const QUICK: [Workload; 2] = [
    Workload::Echo { connections: 64, depth: 1, size_bytes: 64 },
    Workload::Echo { connections: 64, depth: 16, size_bytes: 64 },
];

/// Where system calls are counted.
pub const COUNTED: [Workload; 4] = [DEFAULT[0], DEFAULT[1], DEFAULT[2], DEFAULT[3]];

/// What one connection may have in flight.
const BURST_MAX_BYTES: u32 = 1 << 20;

impl Workload {
    /// Connections that one server and the loader hold at a time.
    pub fn connections(self) -> u32 {
        match self {
            Self::Echo { connections: n, .. } | Self::Churn { lanes: n } | Self::Idle { sessions: n } => n,
            Self::Fanout { members, .. } => members + 1,
        }
    }

    /// What is counted.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Echo { .. } => "message",
            Self::Fanout { .. } => "delivery",
            Self::Churn { .. } | Self::Idle { .. } => "connection",
        }
    }

    /// Which servers are asked.
    pub fn role(self) -> Role {
        match self {
            Self::Fanout { .. } => Role::Fanout,
            Self::Echo { .. } | Self::Churn { .. } | Self::Idle { .. } => Role::Echo,
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let numbers: Vec<u32> = parts
            .map(|part| match part.parse() {
                Ok(0) | Err(_) => Err(format!("`{part}` is not a number above 0")),
                Ok(number) => Ok(number),
            })
            .collect::<Result<_, _>>()?;
        let workload = match (name, numbers[..].len()) {
            ("echo", 0..=3) => Self::Echo {
                connections: numbers.first().copied().unwrap_or(64),
                depth: numbers.get(1).copied().unwrap_or(1),
                size_bytes: numbers.get(2).copied().unwrap_or(64),
            },
            ("churn", 0..=1) => Self::Churn { lanes: numbers.first().copied().unwrap_or(64) },
            ("fanout", 0..=2) => Self::Fanout {
                members: numbers.first().copied().unwrap_or(1000),
                depth: numbers.get(1).copied().unwrap_or(1),
            },
            ("idle", 0..=1) => Self::Idle { sessions: numbers.first().copied().unwrap_or(10_000) },
            _ => {
                return Err(
                    "expected echo[:CONNECTIONS[:DEPTH[:BYTES]]], churn[:LANES], fanout[:MEMBERS[:DEPTH]] or \
                     idle[:SESSIONS]"
                        .into()
                );
            }
        };
        match workload {
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

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo { connections, depth, size_bytes } => {
                let (size, unit) =
                    if size_bytes % 1024 == 0 { (size_bytes / 1024, "KiB") } else { (*size_bytes, "B") };
                let s = if *connections == 1 { "" } else { "s" };
                write!(f, "echo {size} {unit}, depth {depth}, {connections} connection{s}")
            }
            Self::Churn { lanes } => write!(f, "churn (connect, echo 64 B, close), {lanes} at a time"),
            Self::Fanout { members, depth } => {
                write!(f, "fan-out {FANOUT_BYTES} B to {members} members, depth {depth}")
            }
            Self::Idle { sessions } => write!(f, "idle, {sessions} sessions"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        assert_eq!("echo:64:16".parse(), Ok(DEFAULT[3]));
        assert_eq!(
            "echo:8:1:4096".parse::<Workload>().map(|w| w.to_string()),
            Ok("echo 4 KiB, depth 1, 8 connections".into())
        );
        assert_eq!("churn".parse(), Ok(Workload::Churn { lanes: 64 }));
        assert_eq!("fanout:10:2".parse(), Ok(Workload::Fanout { members: 10, depth: 2 }));
        assert!("fanout:4001".parse::<Workload>().is_err());
        assert!("fanout:1:16385".parse::<Workload>().is_err());
        assert!("echo:0".parse::<Workload>().is_err());
        assert!("echo:1:1024:4096".parse::<Workload>().is_err());
        assert!("idle:1:1".parse::<Workload>().is_err());
    }
}
